#ifndef COTERIE_OFFLOAD_ARENA_H
#define COTERIE_OFFLOAD_ARENA_H
/* Memory that devices read into: page-aligned, in huge pages where the system
 * gives them. A read into pages of 4 KiB is split, which halves its rate. */
#include <stdbool.h>
#include <stddef.h>

#include <coterie/status.h>

typedef struct coterie_arena {
    unsigned char *data;
    size_t size;
    const char *pages; /* what it got, for reports */
    bool shared;
    int descriptor; /* of a shared one: other processes map it by this */
} coterie_arena_t;

/* Exactly size bytes, or whole huge pages if these stay within `most`. */
coterie_status_t coterie_arena_create(size_t size, size_t most,
                                      coterie_arena_t *arena_p);

/* The same in memory that other processes can map. It has no name, so nothing
 * is left of it whoever dies, and no limit of a file system applies.
 * @return ERR_UNSUPPORTED if the system has no such memory */
coterie_status_t coterie_arena_create_shared(size_t size, size_t most,
                                             coterie_arena_t *arena_p);

/* Another process's shared arena, which takes over the descriptor, also on
 * failure. */
coterie_status_t coterie_arena_map(int descriptor, size_t size,
                                   coterie_arena_t *arena_p);

/* What the kernel is told about transparent huge pages, such as "madvise", for
 * a process's own memory or for shared memory; "" if it knows none. */
void coterie_pages_setting(bool shared, char *text, size_t size);

/* Accepts a zeroed one. */
void coterie_arena_destroy(coterie_arena_t *arena);

#endif
