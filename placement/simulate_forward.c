#include "config.h"

#include "placement/placement.h"
#include "placement/simulate.h"

static void token_forward(coterie_simulation_t *sim, uint32_t layer,
                          uint64_t token, coterie_ranks_t *here);
static void ranks_attend(coterie_simulation_t *sim,
                         const coterie_ranks_t *here);
static void sums_send(coterie_simulation_t *sim, coterie_row_t row,
                      uint32_t from, const coterie_ranks_t *to);
static bool ranks_have(const coterie_ranks_t *ranks, uint32_t rank);
static uint32_t carrier(const coterie_route_t *route,
                        const coterie_ranks_t *here);
static void next_ranks(const coterie_simulation_t *sim, uint32_t layer,
                       uint64_t token, uint32_t carrying,
                       coterie_ranks_t *next);
static void predicted_route(const coterie_simulation_t *sim, uint32_t layer,
                            uint64_t token, coterie_route_t *route);
static void token_across(coterie_simulation_t *sim, uint32_t layer,
                         const coterie_step_token_t *token);

void coterie_simulate_forward(coterie_simulation_t *sim, uint32_t layer,
                              const coterie_step_token_t *tokens, size_t count)
{
    uint64_t peers = sim->rank_count - 1;

    sim->tally->alltoalls += peers > 0;
    sim->tally->parcels += sim->rank_count * peers;
    for (size_t i = 0; i < count; i++) {
        if (layer == 0)
            sim->here[i].whole = true;
        token_forward(sim, layer, tokens[i].token, &sim->here[i]);
    }
}

void coterie_simulate_across(coterie_simulation_t *sim, uint32_t layer,
                             const coterie_step_token_t *tokens, size_t count)
{
    uint64_t within = sim->node_ranks - 1, across = sim->node_count - 1;

    sim->tally->node_alltoalls += within > 0 ? 2 : 0; /* and its return */
    sim->tally->alltoalls += across > 0;
    sim->tally->parcels += sim->rank_count * (within + across);
    for (size_t i = 0; i < count; i++)
        token_across(sim, layer, &tokens[i]);
}

/* Turns R(l), the ranks that hold the token, into R(l + 1). */
static void token_forward(coterie_simulation_t *sim, uint32_t layer,
                          uint64_t token, coterie_ranks_t *here)
{
    coterie_route_t route;
    coterie_ranks_t next;
    uint32_t carrying;

    coterie_simulation_route(sim, token, layer, COTERIE_NONE, &route);
    coterie_simulation_compute(sim, &route);
    ranks_attend(sim, here);
    carrying = carrier(&route, here);
    next_ranks(sim, layer, token, carrying, &next);
    sums_send(sim, COTERIE_ROW_FORWARD, carrying, &next);
    for (uint32_t i = 0; i < route.rank_count; i++) {
        uint32_t rank = route.rank[i];
        if (rank == carrying)
            continue;
        if (ranks_have(here, rank)) {
            sums_send(sim, COTERIE_ROW_FORWARD, rank, &next);
        } else { /* nobody foresaw it */
            coterie_simulation_send(sim, COTERIE_ROW_MISSED, carrying, rank);
            sums_send(sim, COTERIE_ROW_MISSED_SUM, rank, &next);
        }
    }
    if (!here->whole)
        coterie_simulation_kv(sim, layer, sim->group_size - here->count);
    *here = next;
}

static void ranks_attend(coterie_simulation_t *sim,
                         const coterie_ranks_t *here)
{
    if (here->whole)
        coterie_simulation_attend(sim, COTERIE_NONE);
    for (uint32_t i = 0; !here->whole && i < here->count; i++)
        coterie_simulation_attend(sim, here->rank[i]);
}

static void sums_send(coterie_simulation_t *sim, coterie_row_t row,
                      uint32_t from, const coterie_ranks_t *to)
{
    if (to->whole) {
        coterie_simulation_broadcast(sim, row, from);
        return;
    }
    for (uint32_t i = 0; i < to->count; i++)
        if (to->rank[i] != from)
            coterie_simulation_send(sim, row, from, to->rank[i]);
}

static bool ranks_have(const coterie_ranks_t *ranks, uint32_t rank)
{
    for (uint32_t i = 0; !ranks->whole && i < ranks->count; i++)
        if (ranks->rank[i] == rank)
            return true;
    return ranks->whole;
}

/* The rank whose row brings the residual: one that holds the token already. */
static uint32_t carrier(const coterie_route_t *route,
                        const coterie_ranks_t *here)
{
    for (uint32_t i = 0; i < route->rank_count; i++)
        if (ranks_have(here, route->rank[i]))
            return route->rank[i];
    return here->whole ? 0 : here->rank[0];
}

static void next_ranks(const coterie_simulation_t *sim, uint32_t layer,
                       uint64_t token, uint32_t carrying, coterie_ranks_t *next)
{
    coterie_route_t route;

    next->whole =
        layer + 1 == sim->trace.layer_count || sim->options.prediction == 0;
    next->count = 0;
    if (next->whole)
        return;
    if (sim->options.prediction == 1)
        predicted_route(sim, layer, token, &route);
    else
        coterie_simulation_route(sim, token, layer + 1, COTERIE_NONE, &route);
    for (uint32_t i = 0; i < route.rank_count; i++)
        next->rank[next->count++] = route.rank[i];
    if (next->count == 0)
        next->rank[next->count++] = (uint16_t)carrying;
}

static void predicted_route(const coterie_simulation_t *sim, uint32_t layer,
                            uint64_t token, coterie_route_t *route)
{
    const coterie_trace_view_t *trace = &sim->trace;
    const int16_t *ids =
        trace->predicted +
        (token * trace->layer_count + layer) * trace->predicted_k;
    int32_t experts[COTERIE_K_MAX];

    for (uint32_t i = 0; i < trace->predicted_k; i++)
        experts[i] = ids[i];
    coterie_route(sim->placement, layer + 1, experts, trace->predicted_k,
                  COTERIE_NONE, route);
}

/* Nodes as if they were ranks: in each, the rank at home's place acts for it,
 * and every node holds every token. */
static void token_across(coterie_simulation_t *sim, uint32_t layer,
                         const coterie_step_token_t *token)
{
    uint32_t place =
        coterie_simulation_home(sim, token->sequence) % sim->node_ranks;
    uint32_t sent = COTERIE_NONE;
    coterie_route_t route;

    coterie_simulation_route(sim, token->token, layer, COTERIE_NONE, &route);
    coterie_simulation_compute(sim, &route);
    for (uint32_t n = 0; n < sim->node_count; n++)
        coterie_simulation_attend(sim, n * sim->node_ranks + place);
    if (route.rank_count == 0) /* the residual travels all the same */
        route.rank[route.rank_count++] = (uint16_t)place;
    for (uint32_t i = 0; i < route.rank_count; i++) {
        uint32_t node = route.rank[i] / sim->node_ranks;
        uint32_t acting = node * sim->node_ranks + place;
        if (route.rank[i] != acting) {
            coterie_simulation_send(sim, COTERIE_ROW_NODE_DISPATCH, acting,
                                    route.rank[i]);
            coterie_simulation_send(sim, COTERIE_ROW_NODE_RETURN, route.rank[i],
                                    acting);
        }
        if (node == sent)
            continue; /* D ascends: a node's ranks come together */
        sent = node;
        for (uint32_t n = 0; n < sim->node_count; n++)
            if (n != node)
                coterie_simulation_send(sim, COTERIE_ROW_FORWARD, acting,
                                        n * sim->node_ranks + place);
    }
}
