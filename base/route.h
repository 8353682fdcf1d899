#ifndef COTERIE_BASE_ROUTE_H
#define COTERIE_BASE_ROUTE_H
/* The routing rule (coterie_route in coterie/placement.h says what it is), by
 * tables that any room may hold; kernels/cuda/route.cuh is the same for GPUs.
 */
#include <stddef.h>

#include <coterie/placement.h>

/* Expert e of layer l is held by entries [first[i], first[i + 1]) of the
 * holders, i = l * expert_count + e: slots and their ranks, both ascending. One
 * that nobody holds is no choice. */
typedef struct coterie_route_tables {
    uint32_t expert_count, rank_count;
    uint32_t node_ranks; /* ranks in each node */
    const uint32_t *first;
    const uint16_t *holder_slot, *holder_rank;
    const uint8_t *next_score; /* [layers, expert_count, rank_count] */
} coterie_route_tables_t;

void coterie_route_by(const coterie_route_tables_t *tables, uint32_t layer,
                      const int32_t *experts, uint32_t k, uint32_t owner,
                      coterie_route_t *route);

#endif
