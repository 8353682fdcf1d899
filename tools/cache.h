#ifndef COTERIE_TOOLS_CACHE_H
#define COTERIE_TOOLS_CACHE_H
/* One rank's keys and values, by layer, sequence and position. It knows what
 * it has: a row that never came is an error, not a wrong result. */
#include <coterie/coterie.h>

typedef struct cache {
    uint32_t layers, sequences;
    uint32_t width;        /* elements of a row's K and V */
    const uint64_t *start; /* [sequences + 1]: rows of each; borrowed */
    float *data;           /* [layers, start[sequences], width] */
    uint8_t *present;      /* [layers, start[sequences]] */
} cache_t;

/* Shape comes in `cache`; the rest is filled. */
coterie_status_t cache_create(cache_t *cache);

/* @return ERR_INVALID if there is no such place */
coterie_status_t cache_put(cache_t *cache, uint32_t layer, int32_t sequence,
                           int32_t position, const void *row);

/* Rows of one sequence from position 0.
 * @return ERR_NOT_FOUND unless all up to and with `position` are there */
coterie_status_t cache_rows(const cache_t *cache, uint32_t layer,
                            int32_t sequence, int32_t position,
                            const float **rows_p);

void cache_destroy(cache_t *cache);

#endif
