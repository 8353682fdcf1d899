#ifndef COTERIE_OFFLOAD_ARENA_H
#define COTERIE_OFFLOAD_ARENA_H
/* Memory that devices read into: page-aligned, in huge pages where the system
 * gives them. A read into pages of 4 KiB is split, which halves its rate. */
#include <stddef.h>

#include <coterie/status.h>

typedef struct coterie_arena {
    unsigned char *data;
    size_t size;
    const char *pages; /* what it got, for reports */
} coterie_arena_t;

/* Exactly size bytes, or whole huge pages if these stay within `most`. */
coterie_status_t coterie_arena_create(size_t size, size_t most,
                                      coterie_arena_t *arena_p);

/* Accepts a zeroed one. */
void coterie_arena_destroy(coterie_arena_t *arena);

#endif
