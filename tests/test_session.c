#include <stdio.h>
#include <string.h>

#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include "tests/session_world.h"

static world_config_t base(uint32_t ranks, coterie_mode_t mode);
static void every_rank_count(world_config_t config);
static void expect_right(const world_config_t *config, world_result_t *result);
static void expect_simulated(const world_config_t *config,
                             const world_result_t *result);
static void expect_counts(const coterie_counts_t *simulated,
                          const coterie_counts_t *counted, const char *phase);
static uint64_t bits_of(world_config_t config);

Test(session, two_phase_gives_the_serial_rows_on_any_number_of_ranks)
{
    every_rank_count(base(1, COTERIE_MODE_TWO_PHASE));
}

Test(session, owner_gives_the_serial_rows_on_any_number_of_ranks)
{
    every_rank_count(base(1, COTERIE_MODE_OWNER));
}

Test(session, forward_gives_the_serial_rows_on_any_number_of_ranks)
{
    every_rank_count(base(1, COTERIE_MODE_FORWARD));
}

Test(session, replicas_serve_in_every_mode)
{
    for (uint32_t mode = COTERIE_MODE_TWO_PHASE; mode <= COTERIE_MODE_FORWARD;
         mode++) {
        world_config_t config = base(1, (coterie_mode_t)mode);

        config.replicas = 1;
        config.experts = 16;
        every_rank_count(config);
    }
}

Test(session, ranks_without_experts_and_few_sequences_are_fine)
{
    for (uint32_t mode = COTERIE_MODE_TWO_PHASE; mode <= COTERIE_MODE_FORWARD;
         mode++) {
        world_config_t config = base(4, (coterie_mode_t)mode);
        world_result_t result;

        config.idle = 2;
        config.sequences = 1;
        expect_right(&config, &result);
    }
}

Test(session, one_expert_a_token_needs_no_return_in_owner_mode)
{
    world_config_t config = base(4, COTERIE_MODE_OWNER);
    world_result_t result;

    config.k = 1;
    expect_right(&config, &result);
    cr_expect(zero(u64, result.counts[COTERIE_PHASE_DECODE].returns));
    cr_expect(zero(u64, result.counts[COTERIE_PHASE_DECODE].copies_return));
}

Test(session, forward_mends_what_was_predicted_wrongly)
{
    for (uint32_t right = 1; right <= 10; right += 3) {
        world_config_t config = base(1, COTERIE_MODE_FORWARD);

        config.predicted = right;
        every_rank_count(config);
        config.replicas = 2;
        every_rank_count(config);
    }
}

Test(session, forward_to_the_whole_group_is_one_exchange_a_layer)
{
    world_config_t config = base(4, COTERIE_MODE_FORWARD);
    const coterie_counts_t *counts;
    world_result_t result;

    expect_right(&config, &result);
    counts = &result.counts[COTERIE_PHASE_DECODE];
    cr_expect(eq(u64, counts->alltoalls, counts->steps * config.layers));
    cr_expect(zero(u64, counts->returns));
    cr_expect(zero(u64, counts->fixup_sends));
}

Test(session, forward_between_nodes_gives_the_serial_rows)
{
    static const uint32_t shapes[][2] = {{2, 2}, {4, 2}, {6, 3}, {8, 2},
                                         {4, 1}};

    for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++) {
        world_config_t config = base(shapes[i][0], COTERIE_MODE_FORWARD);
        world_result_t result;

        config.nodes = shapes[i][1];
        config.group = COTERIE_GROUP_ACROSS;
        config.replicas = (uint32_t)i % 2;
        expect_right(&config, &result);
    }
}

Test(session, owner_stays_in_the_home_node_where_the_group_is_a_node)
{
    world_config_t config = base(8, COTERIE_MODE_OWNER);
    world_result_t result;

    config.nodes = 2;
    config.group = COTERIE_GROUP_NODE;
    expect_right(&config, &result);
    config.k = 1;
    expect_right(&config, &result);
}

Test(session, without_a_group_tokens_stay_at_home_and_nothing_is_gathered)
{
    world_config_t config = base(4, COTERIE_MODE_OWNER);
    world_result_t result;

    config.group = COTERIE_GROUP_NONE;
    expect_right(&config, &result);
    cr_expect(zero(u64, result.counts[COTERIE_PHASE_DECODE].kv_bytes));
    cr_expect(gt(u64, result.steps_by_mode[COTERIE_MODE_TWO_PHASE], 0));
}

Test(session, layers_after_the_last_experts_have_their_kv_gathered_too)
{
    for (uint32_t mode = COTERIE_MODE_TWO_PHASE; mode <= COTERIE_MODE_FORWARD;
         mode++) {
        world_config_t config = base(4, mode);
        world_result_t result;

        config.kv_after_last = true;
        config.predicted = 7;
        expect_right(&config, &result);
    }
}

Test(session, forward_refuses_kv_after_the_last_experts_unless_told_of_it)
{
    world_config_t config = base(4, COTERIE_MODE_FORWARD);
    uint32_t refused = 0;
    world_result_t result;

    config.kv_after_last = config.kv_undeclared = true;
    world_run(&config, &result);
    for (uint32_t r = 0; r < config.ranks; r++) {
        /* The first says it to its caller; the others may only hear of it. */
        bool told = result.status[r] == COTERIE_ERR_INVALID &&
                    strstr(result.error[r], "kv_after_last") != NULL;

        refused += told;
        cr_expect(told || result.status[r] == COTERIE_ERR_PEER);
    }
    cr_expect(gt(u32, refused, 0));
}

Test(session, auto_changes_modes_and_stays_right)
{
    world_config_t config = base(4, COTERIE_MODE_AUTO);
    world_result_t result;

    config.tokens = 40;
    expect_right(&config, &result);
    for (uint32_t mode = COTERIE_MODE_TWO_PHASE; mode <= COTERIE_MODE_FORWARD;
         mode++)
        cr_expect(gt(u64, result.steps_by_mode[mode], 2));
    config.group = COTERIE_GROUP_ACROSS;
    config.nodes = 2;
    expect_right(&config, &result);
    cr_expect(zero(u64, result.steps_by_mode[COTERIE_MODE_OWNER]));
    cr_expect(gt(u64, result.steps_by_mode[COTERIE_MODE_FORWARD], 2));
}

Test(session, every_mode_gives_the_same_bits)
{
    world_config_t config = base(4, COTERIE_MODE_TWO_PHASE);
    uint64_t bits = bits_of(config);

    config.mode = COTERIE_MODE_OWNER;
    cr_expect(eq(u64, bits, bits_of(config)));
    config.mode = COTERIE_MODE_FORWARD;
    cr_expect(eq(u64, bits, bits_of(config)));
}

Test(session, a_rank_that_fails_stops_the_others)
{
    for (uint32_t mode = COTERIE_MODE_TWO_PHASE; mode <= COTERIE_MODE_FORWARD;
         mode++) {
        world_config_t config = base(4, (coterie_mode_t)mode);
        world_result_t result;

        config.failing_rank = 2;
        config.failing_layer = 1;
        world_run(&config, &result);
        for (uint32_t r = 0; r < config.ranks; r++)
            cr_expect(eq(int, result.status[r],
                         r == 2 ? COTERIE_ERR_IO : COTERIE_ERR_PEER));
    }
}

Test(session, ranks_that_route_a_row_differently_find_out)
{
    world_config_t config = base(4, COTERIE_MODE_FORWARD);
    world_result_t result;
    uint32_t found = 0;

    config.lying_rank = 1;
    world_run(&config, &result);
    for (uint32_t r = 0; r < config.ranks; r++) {
        found += result.status[r] == COTERIE_ERR_MISMATCH;
        cr_expect(result.status[r] == COTERIE_ERR_MISMATCH ||
                      result.status[r] == COTERIE_ERR_PEER,
                  "rank %u: %s", r, result.error[r]);
    }
    cr_expect(gt(u32, found, 0));
}

Test(session, a_rank_that_never_comes_is_waited_for_until_the_deadline)
{
    world_config_t config = base(3, COTERIE_MODE_TWO_PHASE);
    world_result_t result;
    uint32_t late = 0;

    config.silent_rank = 1;
    config.deadline_ms = 100;
    world_run(&config, &result);
    for (uint32_t r = 0; r < config.ranks; r++)
        late += result.status[r] == COTERIE_ERR_TIMEOUT;
    cr_expect(gt(u32, late, 0));
}

Test(session, more_rows_than_agreed_are_refused_by_number)
{
    world_config_t config = base(2, COTERIE_MODE_TWO_PHASE);
    world_result_t result;

    config.max_rows = 10;
    world_run(&config, &result);
    cr_expect(eq(int, result.status[0], COTERIE_ERR_CAPACITY));
    cr_expect(strstr(result.error[0], "10") != NULL);
}

Test(session, ranks_that_disagree_about_options_are_told)
{
    world_config_t config = base(3, COTERIE_MODE_OWNER);
    world_result_t result;

    config.odd_rank = 1; /* has another max_rows */
    world_run(&config, &result);
    for (uint32_t r = 0; r < config.ranks; r++)
        cr_expect(eq(int, result.status[r], COTERIE_ERR_MISMATCH));
}

Test(session, narrow_rows_are_counted_as_simulated_and_alike_everywhere)
{
    for (uint32_t wire = COTERIE_WIRE_BF16; wire <= COTERIE_WIRE_INT8; wire++)
        for (uint32_t mode = COTERIE_MODE_TWO_PHASE;
             mode <= COTERIE_MODE_FORWARD; mode++) {
            world_config_t config = base(1, mode);

            config.wire = wire;
            config.fractions = true;
            config.hidden = 131; /* odd, and two groups of int8 */
            every_rank_count(config);
            config.replicas = 1;
            config.predicted = 6;
            every_rank_count(config);
        }
}

Test(session, narrow_rows_travel_between_nodes_too)
{
    world_config_t config = base(6, COTERIE_MODE_FORWARD);
    world_result_t result;

    config.wire = COTERIE_WIRE_INT8;
    config.fractions = true;
    config.nodes = 3;
    config.group = COTERIE_GROUP_ACROSS;
    expect_right(&config, &result);
}

Test(session, an_unknown_wire_is_refused)
{
    world_config_t config = base(2, COTERIE_MODE_OWNER);
    world_result_t result;

    config.wire = COTERIE_WIRE_INT8 + 1;
    world_run(&config, &result);
    cr_expect(eq(int, result.status[0], COTERIE_ERR_INVALID));
    cr_expect(strstr(result.error[0], "wire 3") != NULL);
}

Test(session, modes_that_a_group_cannot_serve_are_refused)
{
    world_config_t config = base(4, COTERIE_MODE_FORWARD);
    world_result_t result;

    config.nodes = 2;
    config.group = COTERIE_GROUP_NODE;
    world_run(&config, &result);
    for (uint32_t r = 0; r < config.ranks; r++)
        cr_expect(eq(int, result.status[r], COTERIE_ERR_INVALID));
    config.mode = COTERIE_MODE_OWNER;
    config.group = COTERIE_GROUP_ACROSS;
    world_run(&config, &result);
    cr_expect(eq(int, result.status[0], COTERIE_ERR_INVALID));
}

static world_config_t base(uint32_t ranks, coterie_mode_t mode)
{
    return (world_config_t){.ranks = ranks,
                            .layers = 3,
                            .experts = 12,
                            .k = 3,
                            .mode = mode,
                            .sequences = 11,
                            .prompt = 5,
                            .tokens = 6,
                            .kv_row_size = 7,
                            .shared = true,
                            .hidden = 20,
                            .max_rows = 64,
                            .deadline_ms = 20000};
}

static void every_rank_count(world_config_t config)
{
    static const uint32_t ranks[] = {1, 2, 3, 4, 8};

    for (size_t i = 0; i < sizeof(ranks) / sizeof(ranks[0]); i++) {
        world_result_t result;

        config.ranks = ranks[i];
        expect_right(&config, &result);
    }
}

/* Rows as in the serial run, K/V where it belongs, counts as simulated. */
static void expect_right(const world_config_t *config, world_result_t *result)
{
    world_run(config, result);
    for (uint32_t r = 0; r < config->ranks; r++)
        cr_assert(eq(int, COTERIE_OK, result->status[r]),
                  "%u ranks, mode %u, rank %u: %s", config->ranks,
                  config->mode, r, result->error[r]);
    cr_expect(gt(u64, result->rows_checked, 0));
    cr_expect(zero(u64, result->rows_wrong), "%u ranks, mode %u",
              config->ranks, config->mode);
    cr_expect(zero(u64, result->kv_wrong), "%u ranks, mode %u", config->ranks,
              config->mode);
    if (config->mode != COTERIE_MODE_AUTO)
        expect_simulated(config, result);
    coterie_trace_destroy(result->trace);
}

static void expect_simulated(const world_config_t *config,
                             const world_result_t *result)
{
    coterie_placement_t *placement = world_placement(config);
    coterie_simulate_options_t options = COTERIE_SIMULATE_OPTIONS_INIT;
    const uint32_t kv_layers[] = {1, 1, 1, config->kv_after_last};
    coterie_counts_t counts[2];

    cr_assert(eq(u32, config->layers, 3));
    options.kv_layers = kv_layers;
    options.mode = config->mode;
    options.group = config->group;
    options.hidden = config->hidden;
    options.kv_row_size = config->kv_row_size;
    options.wire = config->wire;
    options.prediction = config->predicted > 0;
    cr_assert(eq(int, COTERIE_OK, coterie_simulate(result->trace, placement,
                                                   &options, counts)),
              "%s", coterie_last_error());
    expect_counts(&counts[0], &result->counts[0], "prefill");
    expect_counts(&counts[1], &result->counts[1], "decode");
    coterie_placement_destroy(placement);
}

static void expect_counts(const coterie_counts_t *simulated,
                          const coterie_counts_t *counted, const char *phase)
{
#define EXPECT_SAME(field)                                       \
    cr_expect(eq(u64, counted->field, simulated->field), "%s %s", phase, \
              #field)
    EXPECT_SAME(steps);
    EXPECT_SAME(tokens);
    EXPECT_SAME(alltoalls);
    EXPECT_SAME(returns);
    EXPECT_SAME(node_alltoalls);
    EXPECT_SAME(kv_gathers);
    EXPECT_SAME(fixup_sends);
    EXPECT_SAME(copies_dispatch);
    EXPECT_SAME(copies_return);
    EXPECT_SAME(copies_forward);
    EXPECT_SAME(copies_fixup);
    EXPECT_SAME(copies_network);
    EXPECT_SAME(copies_kv);
    EXPECT_SAME(payload_bytes);
    EXPECT_SAME(wire_bytes);
    EXPECT_SAME(kv_bytes);
    EXPECT_SAME(messages);
    EXPECT_SAME(empty_messages);
#undef EXPECT_SAME
}

/* Of a run whose sums round. */
static uint64_t bits_of(world_config_t config)
{
    world_result_t result;

    config.fractions = true;
    world_run(&config, &result);
    cr_assert(eq(int, COTERIE_OK, result.status[0]));
    coterie_trace_destroy(result.trace);
    return result.bits;
}
