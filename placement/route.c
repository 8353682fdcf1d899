#include "config.h"

#include <assert.h>

#include "placement/placement.h"

/* What one call of coterie_route works on. */
typedef struct routing {
    const coterie_placement_t *placement;
    coterie_route_t *route;
    uint32_t owner, node; /* the owner's node, or COTERIE_NONE */
    uint32_t left;        /* bit i: expert i of the token has no rank yet */
    uint32_t replicated;  /* bit i: it could have more than one */
    coterie_holders_t holders[COTERIE_K_MAX];
} routing_t;

static void routing_begin(routing_t *routing, uint32_t layer,
                          const int32_t *experts, uint32_t k);
static void rank_serve(routing_t *routing, uint32_t rank);
static void rank_insert(coterie_route_t *route, uint32_t rank);
static uint32_t best_rank(const routing_t *routing);
static uint32_t next_rank(const routing_t *routing, uint32_t *at,
                          uint32_t *count_p);
static uint32_t next_owner(const routing_t *routing, uint32_t layer,
                           const int32_t *experts, uint32_t k);
static uint32_t lowest_bit(uint32_t bits);

void coterie_route(const coterie_placement_t *placement, uint32_t layer,
                   const int32_t *experts, uint32_t k, uint32_t owner,
                   coterie_route_t *route)
{
    routing_t routing;

    assert(layer < placement->layer_count && k <= COTERIE_K_MAX);
    assert(owner == COTERIE_NONE || owner < placement->rank_count);
    routing.placement = placement;
    routing.route = route;
    routing.owner = owner;
    routing.node =
        owner == COTERIE_NONE ? COTERIE_NONE : owner / placement->node_ranks;
    routing_begin(&routing, layer, experts, k);

    if (owner != COTERIE_NONE)
        rank_serve(&routing, owner);
    while ((routing.left & routing.replicated) != 0)
        rank_serve(&routing, best_rank(&routing));
    /* Nothing is left to choose: the order no longer matters. */
    while (routing.left != 0)
        rank_serve(&routing, routing.holders[lowest_bit(routing.left)].rank[0]);
    route->next_owner = (uint16_t)next_owner(&routing, layer, experts, k);
}

static void routing_begin(routing_t *routing, uint32_t layer,
                          const int32_t *experts, uint32_t k)
{
    coterie_route_t *route = routing->route;

    routing->left = routing->replicated = 0;
    route->rank_count = 0;
    for (uint32_t i = 0; i < k; i++) {
        route->serving[i] = route->slot[i] = COTERIE_NONE;
        if (experts[i] < 0)
            continue;
        assert((uint32_t)experts[i] < routing->placement->expert_count);
        routing->holders[i] = coterie_placement_holders(
            routing->placement, layer, (uint32_t)experts[i]);
        routing->left |= 1u << i;
        if (routing->holders[i].count > 1)
            routing->replicated |= 1u << i;
    }
}

/* Gives a rank all that it holds of what is left. */
static void rank_serve(routing_t *routing, uint32_t rank)
{
    coterie_route_t *route = routing->route;
    uint32_t before = routing->left;

    for (uint32_t bits = before; bits != 0; bits &= bits - 1) {
        uint32_t i = lowest_bit(bits), j = 0;
        const coterie_holders_t *holders = &routing->holders[i];
        while (j < holders->count && holders->rank[j] < rank)
            j++;
        if (j == holders->count || holders->rank[j] != rank)
            continue;
        route->serving[i] = (uint16_t)rank;
        route->slot[i] = holders->slot[j];
        routing->left &= ~(1u << i);
    }
    if (routing->left != before)
        rank_insert(route, rank);
}

static void rank_insert(coterie_route_t *route, uint32_t rank)
{
    uint32_t at = route->rank_count++;

    for (; at > 0 && route->rank[at - 1] > rank; at--)
        route->rank[at] = route->rank[at - 1];
    route->rank[at] = (uint16_t)rank;
}

/* Merges the ascending lists of holders, so that each rank comes up once, the
 * lowest first, with the number of experts that it holds. */
static uint32_t best_rank(const routing_t *routing)
{
    uint32_t at[COTERIE_K_MAX] = {0};
    uint32_t best = COTERIE_NONE, best_key = 0, rank, count;

    while ((rank = next_rank(routing, at, &count)) != COTERIE_NONE) {
        uint32_t near = rank / routing->placement->node_ranks == routing->node;
        uint32_t key = count << 1 | near;
        if (key > best_key) {
            best = rank;
            best_key = key;
        }
    }
    return best;
}

static uint32_t next_rank(const routing_t *routing, uint32_t *at,
                          uint32_t *count_p)
{
    uint32_t lowest = COTERIE_NONE, count = 0;

    for (uint32_t bits = routing->left; bits != 0; bits &= bits - 1) {
        uint32_t i = lowest_bit(bits);
        const coterie_holders_t *holders = &routing->holders[i];
        if (at[i] < holders->count && holders->rank[at[i]] < lowest)
            lowest = holders->rank[at[i]];
    }
    for (uint32_t bits = routing->left; bits != 0; bits &= bits - 1) {
        uint32_t i = lowest_bit(bits);
        const coterie_holders_t *holders = &routing->holders[i];
        if (at[i] < holders->count && holders->rank[at[i]] == lowest) {
            at[i]++;
            count++;
        }
    }
    *count_p = count;
    return lowest;
}

static uint32_t next_owner(const routing_t *routing, uint32_t layer,
                           const int32_t *experts, uint32_t k)
{
    const coterie_placement_t *placement = routing->placement;
    const coterie_route_t *route = routing->route;
    const uint8_t *scores =
        placement->next_score +
        (size_t)layer * placement->expert_count * placement->rank_count;
    uint32_t best = routing->owner, best_key = 0;

    for (uint32_t i = 0; i < route->rank_count; i++) {
        uint32_t rank = route->rank[i], score = 0, key;
        for (uint32_t j = 0; j < k; j++)
            if (experts[j] >= 0)
                score +=
                    scores[(size_t)experts[j] * placement->rank_count + rank];
        key = score << 2 | (uint32_t)(rank == routing->owner) << 1 |
              (rank / placement->node_ranks == routing->node);
        if (i == 0 || key > best_key) {
            best = rank;
            best_key = key;
        }
    }
    return best;
}

static uint32_t lowest_bit(uint32_t bits)
{
    return (uint32_t)__builtin_ctz(bits);
}
