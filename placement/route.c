#include "config.h"

#include <assert.h>

#include "base/route.h"
#include "placement/placement.h"

void coterie_route(const coterie_placement_t *placement, uint32_t layer,
                   const int32_t *experts, uint32_t k, uint32_t owner,
                   coterie_route_t *route)
{
    const coterie_route_tables_t tables = {
        placement->expert_count, placement->rank_count,
        placement->node_ranks,   placement->first,
        placement->holder_slot,  placement->holder_rank,
        placement->next_score};

    assert(layer < placement->layer_count);
    coterie_route_by(&tables, layer, experts, k, owner, route);
}
