#include "config.h"

#include <stdlib.h>
#include <string.h>

#include "tools/cache.h"
#include "tools/command.h"

static bool place_of(const cache_t *cache, uint32_t layer, int32_t sequence,
                     int32_t position, uint64_t *place_p);

coterie_status_t cache_create(cache_t *cache)
{
    uint64_t rows = cache->layers * cache->start[cache->sequences];

    cache->data = malloc(rows * cache->width * sizeof(*cache->data));
    cache->present = calloc(rows, 1);
    if (cache->data != NULL && cache->present != NULL)
        return COTERIE_OK;
    cache_destroy(cache);
    return failure(COTERIE_ERR_NO_MEMORY,
                   "no memory for %llu rows of keys and values",
                   (unsigned long long)rows);
}

coterie_status_t cache_put(cache_t *cache, uint32_t layer, int32_t sequence,
                           int32_t position, const void *row)
{
    uint64_t place;

    if (!place_of(cache, layer, sequence, position, &place))
        return failure(COTERIE_ERR_INVALID,
                       "no room for keys and values of layer %u, sequence "
                       "%d, position %d",
                       layer, sequence, position);
    memcpy(cache->data + place * cache->width, row,
           cache->width * sizeof(*cache->data));
    cache->present[place] = 1;
    return COTERIE_OK;
}

coterie_status_t cache_rows(const cache_t *cache, uint32_t layer,
                            int32_t sequence, int32_t position,
                            const float **rows_p)
{
    uint64_t first, missing, length = (uint64_t)position + 1;
    const void *gap;

    if (!place_of(cache, layer, sequence, 0, &first) ||
        !place_of(cache, layer, sequence, position, &missing))
        return failure(COTERIE_ERR_INVALID, "no sequence %d, position %d",
                       sequence, position);
    gap = memchr(cache->present + first, 0, length);
    if (gap != NULL) {
        missing = (uint64_t)((const uint8_t *)gap - cache->present) - first;
        return failure(COTERIE_ERR_NOT_FOUND,
                       "keys and values of layer %u, sequence %d, position "
                       "%llu never came to this rank",
                       layer, sequence, (unsigned long long)missing);
    }
    *rows_p = cache->data + first * cache->width;
    return COTERIE_OK;
}

void cache_destroy(cache_t *cache)
{
    free(cache->data);
    free(cache->present);
    cache->data = NULL;
    cache->present = NULL;
}

static bool place_of(const cache_t *cache, uint32_t layer, int32_t sequence,
                     int32_t position, uint64_t *place_p)
{
    uint64_t row;

    if (layer >= cache->layers || sequence < 0 || position < 0 ||
        (uint32_t)sequence >= cache->sequences)
        return false;
    row = cache->start[sequence] + (uint64_t)position;
    if (row >= cache->start[sequence + 1])
        return false;
    *place_p = layer * cache->start[cache->sequences] + row;
    return true;
}
