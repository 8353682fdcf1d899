#ifndef COTERIE_TOOLS_CARVE_H
#define COTERIE_TOOLS_CARVE_H
/* Many arrays from one allocation: the same calls once without a block, to
 * learn its size, and once with it. */
#include <stddef.h>

typedef struct carve {
    char *block; /* NULL: only measure */
    size_t used;
} carve_t;

enum { CARVE_ALIGNMENT = 64 };

static inline void *carve(carve_t *c, size_t count, size_t size)
{
    void *array = c->block != NULL ? c->block + c->used : NULL;

    c->used += (count * size + CARVE_ALIGNMENT - 1) / CARVE_ALIGNMENT *
               CARVE_ALIGNMENT;
    return array;
}

#endif
