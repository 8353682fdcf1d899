#include "config.h"

#include <inttypes.h>
#include <string.h>

#include "base/error.h"
#include "placement/capacity.h"
#include "placement/placement.h"

static coterie_status_t rooms_find(const coterie_place_options_t *options,
                                   uint32_t layer_count, uint32_t expert_count,
                                   uint32_t *room);
static uint32_t most_room(const uint32_t *capacity, const uint32_t *room,
                          uint32_t rank_count);
static coterie_status_t spare_take(const coterie_place_options_t *options,
                                   uint32_t expert_count,
                                   const uint32_t *capacity, uint32_t *room);

coterie_status_t coterie_capacity_share(const coterie_place_options_t *options,
                                        uint32_t layer_count,
                                        uint32_t expert_count,
                                        uint32_t *capacity, uint32_t *room)
{
    coterie_status_t status =
        rooms_find(options, layer_count, expert_count, room);

    if (status != COTERIE_OK)
        return status;
    memset(capacity, 0, options->rank_count * sizeof(*capacity));
    for (uint32_t e = 0; e < expert_count; e++)
        capacity[most_room(capacity, room, options->rank_count)]++;
    return spare_take(options, expert_count, capacity, room);
}

/* What fits on each rank, at most all experts of a layer. A rank holds as many
 * of every layer, so memory for half an expert a layer is of no use. */
static coterie_status_t rooms_find(const coterie_place_options_t *options,
                                   uint32_t layer_count, uint32_t expert_count,
                                   uint32_t *room)
{
    uint64_t all = 0;

    if (options->memory != NULL && options->expert_bytes == 0)
        return coterie_fail(COTERIE_ERR_INVALID,
                            "place: ranks' memory says nothing without the "
                            "bytes of an expert");
    for (uint32_t r = 0; r < options->rank_count; r++) {
        room[r] = expert_count;
        if (options->slots != NULL && options->slots[r] < room[r])
            room[r] = options->slots[r];
        if (options->memory != NULL) {
            uint64_t fits =
                options->memory[r] / options->expert_bytes / layer_count;
            room[r] = fits < room[r] ? (uint32_t)fits : room[r];
        }
        all += room[r];
    }
    if (all < expert_count)
        return coterie_fail(COTERIE_ERR_INFEASIBLE,
                            "place: %u experts a layer, and ranks have slots "
                            "or memory for %" PRIu64 "; %" PRIu64 " bytes an "
                            "expert, %u layers",
                            expert_count, all, options->expert_bytes,
                            layer_count);
    return COTERIE_OK;
}

/* The rank with fewest experts of those that have room; the lowest of them. */
static uint32_t most_room(const uint32_t *capacity, const uint32_t *room,
                          uint32_t rank_count)
{
    uint32_t best = rank_count;

    for (uint32_t r = 0; r < rank_count; r++)
        if (capacity[r] < room[r] &&
            (best == rank_count || capacity[r] < capacity[best]))
            best = r;
    return best;
}

static coterie_status_t spare_take(const coterie_place_options_t *options,
                                   uint32_t expert_count,
                                   const uint32_t *capacity, uint32_t *room)
{
    uint64_t all = 0;

    for (uint32_t r = 0; r < options->rank_count; r++) {
        if (room[r] - capacity[r] > options->spare)
            room[r] = capacity[r] + options->spare;
        all += room[r];
    }
    if (options->spare > 0 && all == expert_count)
        return coterie_fail(COTERIE_ERR_INFEASIBLE,
                            "place: %u spare slots a rank, but no rank has "
                            "room for more than its share of %u experts",
                            options->spare, expert_count);
    if (all > COTERIE_SLOTS_MAX)
        return coterie_fail(COTERIE_ERR_INFEASIBLE,
                            "place: %" PRIu64 " slots a layer; at most %d",
                            all, COTERIE_SLOTS_MAX);
    return COTERIE_OK;
}
