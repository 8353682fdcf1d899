#ifndef COTERIE_OFFLOAD_MEMORY_H
#define COTERIE_OFFLOAD_MEMORY_H
/* A kind of memory that a tier of experts is in. */
#include "offload/arena.h"

/* A kind is one line in memory.c that fills this table. No slot is NULL. */
typedef struct coterie_memory_ops {
    const char *name;
    /* @param most  bytes that it may take, if it only comes in larger pages */
    coterie_status_t (*create)(size_t size, size_t most,
                               coterie_arena_t *arena_p);
    /* From any tier's memory into this one. */
    void (*fill)(void *to, const void *from, size_t size);
    void (*destroy)(coterie_arena_t *arena);
} coterie_memory_ops_t;

/* What a processor computes from fastest: huge pages, which the reader may
 * register. */
extern const coterie_memory_ops_t coterie_memory_fast;

/* The same for several processes. */
extern const coterie_memory_ops_t coterie_memory_shared;

/* Plain memory, in pages of whatever size the system gives. */
extern const coterie_memory_ops_t coterie_memory_host;

#endif
