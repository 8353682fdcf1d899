#ifndef COTERIE_BENCH_OFFLOAD_FILES_H
#define COTERIE_BENCH_OFFLOAD_FILES_H
/* The files of a store, for those who go round the reader: mapped, and what
 * their drives give. */
#include <stdbool.h>

#include <coterie/model.h>

#include "bench/storage_raw.h"
#include "experts/store.h"
#include "offload/arena.h"

typedef struct offload_file {
    const char *path;
    int descriptor;
    uint64_t size;
    const unsigned char *mapped;
    bool apart;         /* on a drive that none before it is on */
    storage_ring_t how; /* the fastest way to read it */
} offload_file_t;

typedef struct offload_files {
    uint32_t count;
    offload_file_t file[1 + COTERIE_STRIPES_MAX];
} offload_files_t;

/* The store's own first. They leave the page cache. */
coterie_status_t offload_files_open(const coterie_model_t *model,
                                    offload_files_t *files);

/* Tries block sizes and depths on every drive. */
void offload_files_sweep(offload_files_t *files, coterie_arena_t *arena);

/* GB/s of direct reads that way, of all drives together. */
double offload_files_measure(const offload_files_t *files);

void offload_files_close(offload_files_t *files);

#endif
