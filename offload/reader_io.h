#ifndef COTERIE_OFFLOAD_READER_IO_H
#define COTERIE_OFFLOAD_READER_IO_H
/* How bytes of a file get into memory. The reader thread alone calls a
 * backend, except for wake, and for submit, which one at a time calls. */
#include <stdbool.h>

#include "offload/arena.h"

/* A piece of a record, on its way: one or more of the chunks that have a
 * checksum each. */
typedef struct coterie_piece {
    uint64_t offset; /* in the file */
    void *data;
    uint32_t size;
    uint32_t tries;
    bool guess; /* nobody waited for it when it was cut */
    int64_t result; /* the backend's answer: bytes read, or -errno */
    struct coterie_read *read;   /* whose it is */
    struct coterie_piece *next; /* of whatever list it is on */
} coterie_piece_t;

typedef struct coterie_io_setup {
    int descriptor; /* borrowed until close */
    const coterie_arena_t *arena;
    size_t record_size; /* records lie at multiples of it in the arena */
    uint32_t depth;     /* most pieces on their way at a time */
} coterie_io_setup_t;

typedef struct coterie_io coterie_io_t;

/* A backend is one file that fills this table. No slot is NULL. */
typedef struct coterie_io_ops {
    const char *name;
    /* @return ERR_UNSUPPORTED if the system refuses this way of reading */
    coterie_status_t (*open)(const coterie_io_setup_t *setup,
                             coterie_io_t **io_p);
    /* Never blocks. False: the system takes no more this way, ever; the piece
     * is still the caller's. */
    bool (*submit)(coterie_io_t *io, coterie_piece_t *piece);
    /* A piece that is done. NULL: none is; if it blocks, once after a wake. */
    coterie_piece_t *(*wait)(coterie_io_t *io, bool block);
    /* From any thread. */
    void (*wake)(coterie_io_t *io);
    /* No piece is on its way. */
    void (*close)(coterie_io_t *io);
} coterie_io_ops_t;

/* The first member of every kind. */
struct coterie_io {
    const coterie_io_ops_t *ops;
};

#ifdef HAVE_LIBURING
extern const coterie_io_ops_t coterie_io_uring, coterie_io_sqpoll,
    coterie_io_iopoll;
#endif
extern const coterie_io_ops_t coterie_io_pool;

#endif
