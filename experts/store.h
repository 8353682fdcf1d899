#ifndef COTERIE_EXPERTS_STORE_H
#define COTERIE_EXPERTS_STORE_H
/* What the writer and the reader of an expert store agree on; the format is
 * told in doc/formats.md. */
#include <stddef.h>

#include "experts/datafile.h"
#include "experts/source.h"

#define COTERIE_STORE_MAGIC "COTERIES"
#define COTERIE_STRIPE_MAGIC "COTERIEP"

enum {
    COTERIE_STORE_VERSION = 1,
    COTERIE_STORE_BLOCK = 4096,    /* everything begins at a multiple */
    COTERIE_STORE_CHUNK = 1 << 20, /* of a record or tensor, one checksum */
    COTERIE_STORE_HASH_TEXT = 17,  /* 16 hexadecimal digits */
    COTERIE_STRIPES_MAX = 15       /* files beside a store's own */
};

/* At the beginning of the file; zeros fill its block. Little-endian. */
typedef struct coterie_store_head {
    char magic[8];
    uint32_t version;
    uint32_t reserved; /* zero; in a stripe, its number */
    uint64_t index_offset, index_size, index_hash; /* a stripe's: its size,
                                                      0, its store's */
    uint64_t head_hash; /* of the bytes before it */
} coterie_store_head_t;

_Static_assert(offsetof(coterie_store_head_t, head_hash) == 40,
               "the file's format has no padding");

/* XXH3-64, with the default seed. */
uint64_t coterie_store_hash(const void *data, uint64_t size);

uint64_t coterie_store_head_hash(const coterie_store_head_t *head);

/* How many chunks size bytes are cut into. */
uint64_t coterie_store_chunks(uint64_t size);

/* Where an expert's record lies in its file, and the checksums of its chunks.
 * They are the store's. */
typedef struct coterie_extent {
    uint32_t file; /* 0: the store's own; else a stripe */
    uint64_t offset, size;
    const uint64_t *hashes; /* [coterie_store_chunks(size)] */
} coterie_extent_t;

/* A file of a source that is a store, for those who read records their own
 * way; NULL if it is none, or has no such file. */
const coterie_datafile_t *coterie_store_file(const coterie_source_t *source,
                                             uint32_t file);

/* An expert that the store has, which is bound. */
coterie_extent_t coterie_store_extent(const coterie_source_t *source,
                                      uint32_t moe_layer, uint32_t expert);

#endif
