#include "config.h"

#include <assert.h>

#include "base/route.h"

/* The slots of one expert and their ranks, both ascending. */
typedef struct holders {
    const uint16_t *slot, *rank;
    uint32_t count;
} holders_t;

/* What one call works on. */
typedef struct routing {
    const coterie_route_tables_t *tables;
    coterie_route_t *route;
    uint32_t owner, node; /* the owner's node, or COTERIE_NONE */
    uint32_t left;        /* bit i: expert i of the token has no rank yet */
    uint32_t replicated;  /* bit i: it could have more than one */
    holders_t holders[COTERIE_K_MAX];
} routing_t;

static void routing_begin(routing_t *routing, uint32_t layer,
                          const int32_t *experts, uint32_t k);
static holders_t holders_of(const coterie_route_tables_t *tables,
                            uint32_t layer, uint32_t expert);
static void rank_serve(routing_t *routing, uint32_t rank);
static void rank_insert(coterie_route_t *route, uint32_t rank);
static uint32_t best_rank(const routing_t *routing);
static uint32_t next_rank(const routing_t *routing, uint32_t *at,
                          uint32_t *count_p);
static uint32_t next_owner(const routing_t *routing, uint32_t layer,
                           const int32_t *experts, uint32_t k);
static uint32_t lowest_bit(uint32_t bits);

void coterie_route_by(const coterie_route_tables_t *tables, uint32_t layer,
                      const int32_t *experts, uint32_t k, uint32_t owner,
                      coterie_route_t *route)
{
    routing_t routing;

    assert(k <= COTERIE_K_MAX);
    assert(owner == COTERIE_NONE || owner < tables->rank_count);
    routing.tables = tables;
    routing.route = route;
    routing.owner = owner;
    routing.node =
        owner == COTERIE_NONE ? COTERIE_NONE : owner / tables->node_ranks;
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
        routing->holders[i] =
            holders_of(routing->tables, layer, (uint32_t)experts[i]);
        if (routing->holders[i].count == 0)
            continue;
        routing->left |= 1u << i;
        if (routing->holders[i].count > 1)
            routing->replicated |= 1u << i;
    }
}

static holders_t holders_of(const coterie_route_tables_t *tables,
                            uint32_t layer, uint32_t expert)
{
    const size_t i = (size_t)layer * tables->expert_count + expert;
    const uint32_t first = tables->first[i];

    assert(expert < tables->expert_count);
    return (holders_t){tables->holder_slot + first,
                       tables->holder_rank + first,
                       tables->first[i + 1] - first};
}

/* Gives a rank all that it holds of what is left. */
static void rank_serve(routing_t *routing, uint32_t rank)
{
    coterie_route_t *route = routing->route;
    uint32_t before = routing->left;

    for (uint32_t bits = before; bits != 0; bits &= bits - 1) {
        uint32_t i = lowest_bit(bits), j = 0;
        const holders_t *holders = &routing->holders[i];
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
        uint32_t near = rank / routing->tables->node_ranks == routing->node;
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
        const holders_t *holders = &routing->holders[i];
        if (at[i] < holders->count && holders->rank[at[i]] < lowest)
            lowest = holders->rank[at[i]];
    }
    for (uint32_t bits = routing->left; bits != 0; bits &= bits - 1) {
        uint32_t i = lowest_bit(bits);
        const holders_t *holders = &routing->holders[i];
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
    const coterie_route_tables_t *tables = routing->tables;
    const coterie_route_t *route = routing->route;
    const uint8_t *scores =
        tables->next_score +
        (size_t)layer * tables->expert_count * tables->rank_count;
    uint32_t best = routing->owner, best_key = 0;

    for (uint32_t i = 0; i < route->rank_count; i++) {
        uint32_t rank = route->rank[i], score = 0, key;
        for (uint32_t j = 0; j < k; j++)
            if (experts[j] >= 0)
                score +=
                    scores[(size_t)experts[j] * tables->rank_count + rank];
        key = score << 2 | (uint32_t)(rank == routing->owner) << 1 |
              (rank / tables->node_ranks == routing->node);
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
