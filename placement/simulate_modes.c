#include "config.h"

#include "placement/meter.h"
#include "placement/placement.h"
#include "placement/simulate.h"

static const coterie_lane_t lane_of[COTERIE_ROW_COUNT] = {
    [COTERIE_ROW_DISPATCH] = COTERIE_LANE_ALLTOALL,
    [COTERIE_ROW_MOVE] = COTERIE_LANE_ALLTOALL,
    [COTERIE_ROW_RETURN] = COTERIE_LANE_RETURN,
    [COTERIE_ROW_NODE_DISPATCH] = COTERIE_LANE_NODE_ALLTOALL,
    [COTERIE_ROW_NODE_RETURN] = COTERIE_LANE_NODE_RETURN,
    [COTERIE_ROW_FORWARD] = COTERIE_LANE_ALLTOALL,
    [COTERIE_ROW_MISSED] = COTERIE_LANE_ALLTOALL,
    [COTERIE_ROW_MISSED_SUM] = COTERIE_LANE_FIXUP,
};

static uint64_t *lanes_used(coterie_simulation_t *sim, uint32_t from,
                            uint32_t to);
static void exchange_count(coterie_simulation_t *sim, bool returns);
static bool may_move(const coterie_simulation_t *sim, uint64_t sequence,
                     uint32_t rank);

coterie_lane_t coterie_simulation_lane(coterie_row_t row)
{
    return lane_of[row];
}

void coterie_simulation_attend(coterie_simulation_t *sim, uint32_t rank)
{
    if (sim->meter != NULL)
        coterie_meter_attend(sim->meter, rank);
}

void coterie_simulation_compute(coterie_simulation_t *sim,
                                const coterie_route_t *route)
{
    if (sim->meter != NULL)
        coterie_meter_compute(sim->meter, route);
}

void coterie_simulation_route(const coterie_simulation_t *sim, uint64_t token,
                              uint32_t layer, uint32_t owner,
                              coterie_route_t *route)
{
    const coterie_trace_view_t *trace = &sim->trace;
    const int16_t *ids =
        trace->experts + (token * trace->layer_count + layer) * trace->k;
    int32_t experts[COTERIE_K_MAX];

    for (uint32_t i = 0; i < trace->k; i++)
        experts[i] = ids[i];
    coterie_route(sim->placement, layer, experts, trace->k, owner, route);
}

void coterie_simulation_send(coterie_simulation_t *sim, coterie_row_t row,
                             uint32_t from, uint32_t to)
{
    uint64_t bit = 1u << lane_of[row];
    uint64_t *used = lanes_used(sim, from, to);
    bool first = ((*used | *lanes_used(sim, from, from)) & bit) == 0;

    sim->tally->rows[row]++;
    sim->tally->network += from / sim->node_ranks != to / sim->node_ranks;
    sim->tally->messages[lane_of[row]] += first;
    *used |= bit;
    if (sim->meter != NULL)
        coterie_meter_send(sim->meter, row, from, to, first);
}

/* The pair (from, from), which no row uses, stands for all of from's pairs:
 * a whole group would otherwise cost a look at each. */
void coterie_simulation_broadcast(coterie_simulation_t *sim, coterie_row_t row,
                                  uint32_t from)
{
    uint64_t bit = 1u << lane_of[row];
    uint64_t *used = lanes_used(sim, from, from);

    sim->tally->rows[row] += sim->rank_count - 1;
    sim->tally->network += sim->rank_count - sim->node_ranks;
    if (sim->meter != NULL)
        coterie_meter_broadcast(sim->meter, row, from, (*used & bit) == 0);
    if ((*used & bit) == 0)
        sim->tally->messages[lane_of[row]] += sim->rank_count - 1;
    *used |= bit;
}

void coterie_simulate_two_phase(coterie_simulation_t *sim, uint32_t layer,
                                const coterie_step_token_t *tokens,
                                size_t count)
{
    exchange_count(sim, true);
    for (size_t i = 0; i < count; i++) {
        uint32_t home = coterie_simulation_home(sim, tokens[i].sequence);
        coterie_route_t route;
        coterie_simulation_route(sim, tokens[i].token, layer, home, &route);
        coterie_simulation_attend(sim, home);
        coterie_simulation_compute(sim, &route);
        for (uint32_t j = 0; j < route.rank_count; j++)
            if (route.rank[j] != home) {
                coterie_simulation_send(sim, COTERIE_ROW_DISPATCH, home,
                                        route.rank[j]);
                coterie_simulation_send(sim, COTERIE_ROW_RETURN, route.rank[j],
                                        home);
            }
    }
    coterie_simulation_kv(sim, layer, count * (sim->group_size - 1));
}

void coterie_simulate_owner(coterie_simulation_t *sim, uint32_t layer,
                            const coterie_step_token_t *tokens, size_t count)
{
    /* A single expert's rank owns the token next, so that nothing returns,
     * unless the group forbids it to move there. */
    exchange_count(sim, sim->trace.k > 1 ||
                            sim->options.group == COTERIE_GROUP_NODE);
    for (size_t i = 0; i < count; i++) {
        uint16_t *owner = &sim->owner[tokens[i].sequence];
        coterie_route_t route;
        uint32_t next = *owner;
        coterie_simulation_route(sim, tokens[i].token, layer, *owner, &route);
        coterie_simulation_attend(sim, *owner);
        coterie_simulation_compute(sim, &route);
        if (may_move(sim, tokens[i].sequence, route.next_owner))
            next = route.next_owner;
        for (uint32_t j = 0; j < route.rank_count; j++) {
            if (route.rank[j] != *owner)
                coterie_simulation_send(sim,
                                        route.rank[j] == next
                                            ? COTERIE_ROW_MOVE
                                            : COTERIE_ROW_DISPATCH,
                                        *owner, route.rank[j]);
            if (route.rank[j] != next)
                coterie_simulation_send(sim, COTERIE_ROW_RETURN, route.rank[j],
                                        next);
        }
        *owner = (uint16_t)next;
    }
    coterie_simulation_kv(sim, layer, count * (sim->group_size - 1));
}

static uint64_t *lanes_used(coterie_simulation_t *sim, uint32_t from,
                            uint32_t to)
{
    uint64_t *mark = &sim->mark[(size_t)from * sim->rank_count + to];

    if (*mark >> COTERIE_LANE_COUNT != sim->generation)
        *mark = sim->generation << COTERIE_LANE_COUNT;
    return mark;
}

/* Messages go to every peer in the exchange; returns flow where both ends
 * know that they do. */
static void exchange_count(coterie_simulation_t *sim, bool returns)
{
    if (sim->rank_count == 1)
        return;
    sim->tally->alltoalls++;
    sim->tally->parcels += (uint64_t)sim->rank_count * (sim->rank_count - 1);
    sim->tally->returns += returns;
}

static bool may_move(const coterie_simulation_t *sim, uint64_t sequence,
                     uint32_t rank)
{
    uint32_t home = coterie_simulation_home(sim, sequence);

    return sim->options.group != COTERIE_GROUP_NODE ||
           rank / sim->node_ranks == home / sim->node_ranks;
}
