#include <string.h>

#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include <coterie/cost.h>

#include "tests/simulations.h"

/* One token of sequence 0 (home: rank 0), one layer, experts 0 and 3 of four
 * on four ranks in two nodes: one row stays, one crosses the network. */
static const int16_t pair_of_experts[] = {0, 3};

static coterie_trace_t *trace_of(const int16_t *experts, uint32_t layers,
                                 uint64_t sequences)
{
    uint64_t start[65];
    coterie_trace_view_t view = {.token_count = sequences,
                                 .sequence_count = sequences,
                                 .layer_count = layers,
                                 .expert_count = 4,
                                 .k = 2,
                                 .experts = experts,
                                 .seq_start = start};
    coterie_trace_t *trace = NULL;

    for (uint64_t s = 0; s <= sequences; s++)
        start[s] = s;
    cr_assert(eq(int, COTERIE_OK, coterie_trace_create(&view, &trace)), "%s",
              coterie_last_error());
    return trace;
}

static coterie_topology_options_t cluster(uint32_t ranks, uint32_t nodes)
{
    coterie_topology_options_t options = COTERIE_TOPOLOGY_OPTIONS_INIT;

    options.rank_count = ranks;
    options.node_count = nodes;
    return options;
}

static coterie_cost_t predict(const int16_t *experts, uint64_t sequences,
                              const coterie_topology_options_t *has,
                              coterie_mode_t mode)
{
    coterie_simulate_options_t options =
        simulation_options(mode, COTERIE_GROUP_ALL);
    coterie_cost_t costs[2] = {COTERIE_COST_INIT, COTERIE_COST_INIT};
    coterie_placement_t *placed =
        simulation_placed(1, 4, has->rank_count, has->node_count);
    coterie_trace_t *trace = trace_of(experts, 1, sequences);
    coterie_topology_t *topology = NULL;

    cr_assert(
        eq(int, COTERIE_OK, coterie_topology_create(has, &topology)));
    options.kv_row_size = 0;
    cr_assert(eq(int, COTERIE_OK,
                 coterie_cost_predict(trace, placed, topology, &options,
                                      costs)),
              "%s", coterie_last_error());
    coterie_topology_destroy(topology);
    coterie_placement_destroy(placed);
    coterie_trace_destroy(trace);
    return costs[COTERIE_PHASE_DECODE];
}

Test(cost, of_links_is_latency_and_the_busiest_ranks_bytes)
{
    coterie_topology_options_t has = cluster(4, 2);
    coterie_cost_t cost;

    has.node.latency_us = 1;
    has.network.latency_us = 10;
    has.network.bandwidth_gbs = 1e-3; /* a byte takes 1 us */
    cost = predict(pair_of_experts, 1, &has, COTERIE_MODE_TWO_PHASE);
    /* Rank 0 sends a row and headers to both ranks of the other node; a sum
     * comes back with a header. Messages inside nodes are over by then. */
    cr_expect(ieee_ulp_eq(dbl, cost.exchange_us,
                          10 + DISPATCH + 2 * HEADER + 10 + SUM + HEADER, 4));
    cr_expect(eq(dbl, cost.work_us, 0));
    cr_expect(eq(dbl, cost.step_us, cost.layer_us));
    cr_expect(eq(dbl, cost.rows_most, 1));
    cr_expect(eq(dbl, cost.rows_mean, 0.5));
    cr_expect(eq(dbl, cost.ranks_idle, 2));
}

Test(cost, of_work_is_the_slowest_ranks_stage_by_stage)
{
    /* Tokens of ranks 0 to 3; experts 0 and 1, or 0 and 3. */
    const int16_t experts[] = {0, 1, 0, 3, 0, 3, 0, 3};
    coterie_topology_options_t has = cluster(4, 1);
    coterie_cost_t cost;

    has.token_us = 3;
    has.expert_us = 20;
    has.row_us = 5;
    has.layer_us = 1;
    cost = predict(experts, 4, &has, COTERIE_MODE_TWO_PHASE);
    cr_expect(ieee_ulp_eq(dbl, cost.work_us, 1 + 3 + 20 + 4 * 5, 4));
    has.processors = 2; /* 4 tokens; 3 experts and 8 rows, by two at a time */
    cost = predict(experts, 4, &has, COTERIE_MODE_TWO_PHASE);
    cr_expect(
        ieee_ulp_eq(dbl, cost.work_us, (4 + 12) / 2. + (60 + 40) / 2., 4));
}

Test(cost, of_messages_is_paid_by_both_ends)
{
    coterie_topology_options_t has = cluster(2, 1);
    coterie_cost_t cost;

    has.node.message_us = 7;
    cost = predict(pair_of_experts, 1, &has, COTERIE_MODE_TWO_PHASE);
    /* Sent and got at once by both ranks; then a sum by one, to the other. */
    cr_expect(ieee_ulp_eq(dbl, cost.work_us, 7 + 14 + 7, 4));
    cost = predict(pair_of_experts, 1, &has, COTERIE_MODE_FORWARD);
    cr_expect(ieee_ulp_eq(dbl, cost.work_us, 7 + 7, 4));
    cr_expect(eq(dbl, cost.exchange_us, 0));
}

Test(cost, of_4096_ranks_is_predicted)
{
    int16_t experts[128];
    coterie_topology_options_t has = cluster(4096, 512);
    coterie_cost_t cost;

    for (int i = 0; i < 128; i++)
        experts[i] = i % 2 == 0 ? 0 : 1 + i / 2 % 3;
    has.network.latency_us = 10;
    has.network.bandwidth_gbs = 50;
    for (int mode = COTERIE_MODE_TWO_PHASE; mode <= COTERIE_MODE_FORWARD;
         mode++) {
        cost = predict(experts, 64, &has, (coterie_mode_t)mode);
        cr_expect(gt(dbl, cost.exchange_us, 10));
        cr_expect(eq(dbl, cost.rows_most, 64));
        cr_expect(eq(dbl, cost.ranks_idle, 4092));
    }
}

Test(cost, needs_a_topology_of_the_placements_ranks)
{
    coterie_topology_options_t has = cluster(8, 1);
    coterie_simulate_options_t options =
        simulation_options(COTERIE_MODE_OWNER, COTERIE_GROUP_ALL);
    coterie_cost_t costs[2] = {COTERIE_COST_INIT, COTERIE_COST_INIT};
    coterie_placement_t *placed = simulation_placed(1, 4, 4, 1);
    coterie_trace_t *trace = trace_of(pair_of_experts, 1, 1);
    coterie_topology_t *topology = NULL;

    cr_assert(
        eq(int, COTERIE_OK, coterie_topology_create(&has, &topology)));
    cr_expect(eq(int, COTERIE_ERR_MISMATCH,
                 coterie_cost_predict(trace, placed, topology, &options,
                                      costs)));
    cr_expect(zero(u64, costs[1].steps));
    coterie_topology_destroy(topology);
    coterie_placement_destroy(placed);
    coterie_trace_destroy(trace);
}
