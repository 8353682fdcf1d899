#include "config.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include "tests/simulations.h"

typedef struct shape {
    uint32_t layers, experts, k;
} shape_t;

/* A trace of decoded tokens without steps. */
static coterie_trace_view_t decoded(const int16_t *experts,
                                    const uint64_t *seq_start,
                                    uint64_t sequences, shape_t shape)
{
    return (coterie_trace_view_t){.token_count = seq_start[sequences],
                                  .sequence_count = sequences,
                                  .layer_count = shape.layers,
                                  .expert_count = shape.experts,
                                  .k = shape.k,
                                  .experts = experts,
                                  .seq_start = seq_start};
}

/* Simulates and destroys the placement. */
static void simulated(const coterie_trace_view_t *view,
                      coterie_placement_t *placement,
                      const coterie_simulate_options_t *options,
                      coterie_counts_t counts[2])
{
    coterie_trace_t *trace = NULL;
    coterie_status_t status = coterie_trace_create(view, &trace);

    cr_assert(eq(int, COTERIE_OK, status), "%s", coterie_last_error());
    status = coterie_simulate(trace, placement, options, counts);
    cr_assert(eq(int, COTERIE_OK, status), "%s", coterie_last_error());
    coterie_trace_destroy(trace);
    coterie_placement_destroy(placement);
}

Test(simulate, two_phase_sends_to_the_ranks_of_the_experts_and_back)
{
    /* Ranks hold {0, 1} and {2, 3}. Layer 0: sequence 0, at rank 0, needs
     * rank 1: a row there and one back. All else is at home, or nowhere. Two
     * exchanges of two messages, one with a row; one return. */
    const int16_t experts[] = {0, 2, 0, 1, 2, 3, -1, -1};
    const uint64_t seq_start[] = {0, 1, 2};
    const coterie_trace_view_t view =
        decoded(experts, seq_start, 2, (shape_t){2, 4, 2});
    const coterie_simulate_options_t options =
        simulation_options(COTERIE_MODE_TWO_PHASE, COTERIE_GROUP_ALL);
    const coterie_counts_t none = {0};
    const coterie_counts_t wanted = {
        .steps = 1,
        .tokens = 2,
        .alltoalls = 2,
        .returns = 2,
        .kv_gathers = 1,
        .copies_dispatch = 1,
        .copies_return = 1,
        .copies_kv = 4, /* two tokens, two layers, one peer */
        .payload_bytes = 2 * 4 * HIDDEN,
        .wire_bytes = DISPATCH + SUM + 5 * HEADER,
        .kv_bytes = 2 * HEADER + 4 * KV_ROW,
        .messages = 2,
        .empty_messages = 3,
    };
    coterie_counts_t counts[2];

    simulated(&view, simulation_placed(2, 4, 2, 1), &options, counts);
    simulation_expect(&counts[COTERIE_PHASE_DECODE], &wanted);
    simulation_expect(&counts[COTERIE_PHASE_PREFILL], &none);
    cr_expect(eq(u64, coterie_counts_copies(&counts[1]), 2));
}

Test(simulate, rows_between_the_same_ranks_share_a_message)
{
    /* Sequences 0 and 2 are both born on rank 0 and both need rank 1. */
    const int16_t experts[] = {2, 3, 2, 3, 3, 2};
    const uint64_t seq_start[] = {0, 1, 2, 3};
    const coterie_trace_view_t view =
        decoded(experts, seq_start, 3, (shape_t){1, 4, 2});
    const coterie_simulate_options_t options =
        simulation_options(COTERIE_MODE_TWO_PHASE, COTERIE_GROUP_NONE);
    coterie_counts_t counts[2];

    simulated(&view, simulation_placed(1, 4, 2, 1), &options, counts);
    cr_expect(eq(u64, counts[1].copies_dispatch, 2));
    cr_expect(eq(u64, counts[1].messages, 2)); /* one there, one back */
    cr_expect(eq(u64, counts[1].empty_messages, 1));
    cr_expect(zero(u64, counts[1].kv_gathers));
    cr_expect(zero(u64, counts[1].kv_bytes));
}

Test(simulate, owner_moves_with_the_token_from_layer_to_layer_and_on)
{
    /* Token 0: layer 0 needs rank 1 only: 0 -> 1, which owns it now. Layer 1
     * needs both: 1 -> 0 and the sum back, the owner stays. Token 1 starts at
     * rank 1: layer 0 is there; layer 1 needs rank 0 only: 1 -> 0. */
    const int16_t experts[] = {2, 3, 0, 2, 2, 3, 0, 1};
    const uint64_t seq_start[] = {0, 2};
    const coterie_trace_view_t view =
        decoded(experts, seq_start, 1, (shape_t){2, 4, 2});
    const coterie_simulate_options_t options =
        simulation_options(COTERIE_MODE_OWNER, COTERIE_GROUP_ALL);
    const coterie_counts_t wanted = {
        .steps = 2,
        .tokens = 2,
        .alltoalls = 4,
        .returns = 4,
        .kv_gathers = 2,
        .copies_dispatch = 3,
        .copies_return = 1,
        .copies_kv = 4,
        .payload_bytes = 4 * 4 * HIDDEN,
        .wire_bytes = 3 * DISPATCH + SUM + 9 * HEADER,
        .kv_bytes = 4 * HEADER + 16 + 4 * KV_ROW, /* one token goes on */
        .messages = 4,
        .empty_messages = 5,
    };
    coterie_counts_t counts[2];

    simulated(&view, simulation_placed(2, 4, 2, 1), &options, counts);
    simulation_expect(&counts[1], &wanted);
}

Test(simulate, owner_follows_the_scores_of_the_placement)
{
    /* Both ranks serve; rank 1 scores higher for the next layer, so the owner
     * moves: one row there, which carries the token, and rank 0's sum. */
    const int16_t experts[] = {0, 1};
    const uint64_t seq_start[] = {0, 1};
    const coterie_trace_view_t view =
        decoded(experts, seq_start, 1, (shape_t){1, 2, 2});
    const uint8_t scores[] = {1, 2, 0, 0};
    const coterie_simulate_options_t options =
        simulation_options(COTERIE_MODE_OWNER, COTERIE_GROUP_ALL);
    coterie_placement_options_t place = COTERIE_PLACEMENT_OPTIONS_INIT;
    coterie_placement_t *placement = NULL;
    coterie_counts_t counts[2];

    place.layer_count = 1;
    place.expert_count = place.rank_count = 2;
    place.next_score = scores;
    cr_assert(
        eq(int, COTERIE_OK, coterie_placement_create(&place, &placement)));
    simulated(&view, placement, &options, counts);
    cr_expect(eq(u64, counts[1].copies_dispatch, 1));
    cr_expect(eq(u64, counts[1].copies_return, 1));
}

Test(simulate, owner_in_a_node_leaves_it_for_no_expert)
{
    /* Nodes {0, 1} and {2, 3}, an expert each. Layer 0 needs rank 2: the token
     * may not move there, so its sum returns. Layer 1 needs rank 1: it may. */
    const int16_t experts[] = {2, 1};
    const uint64_t seq_start[] = {0, 1};
    const coterie_trace_view_t view =
        decoded(experts, seq_start, 1, (shape_t){2, 4, 1});
    const coterie_simulate_options_t options =
        simulation_options(COTERIE_MODE_OWNER, COTERIE_GROUP_NODE);
    coterie_counts_t counts[2];

    simulated(&view, simulation_placed(2, 4, 4, 2), &options, counts);
    cr_expect(eq(u64, counts[1].returns, 2));
    cr_expect(eq(u64, counts[1].copies_dispatch, 2));
    cr_expect(eq(u64, counts[1].copies_return, 1));
    cr_expect(eq(u64, counts[1].copies_network, 2));
    cr_expect(eq(u64, counts[1].messages, 3));
    cr_expect(eq(u64, counts[1].empty_messages, 2 * 12 - 2));
    cr_expect(eq(u64, counts[1].copies_kv, 2));
    cr_expect(eq(u64, counts[1].kv_bytes, 4 * HEADER + 2 * KV_ROW));
}

Test(simulate, owner_of_one_expert_a_token_needs_no_return)
{
    const int16_t experts[] = {1, 0, 1, 1};
    const uint64_t seq_start[] = {0, 2};
    const coterie_trace_view_t view =
        decoded(experts, seq_start, 1, (shape_t){2, 2, 1});
    const coterie_simulate_options_t options =
        simulation_options(COTERIE_MODE_OWNER, COTERIE_GROUP_ALL);
    coterie_counts_t counts[2];

    simulated(&view, simulation_placed(2, 2, 2, 1), &options, counts);
    cr_expect(eq(u64, counts[1].alltoalls, 4));
    cr_expect(zero(u64, counts[1].returns));
    cr_expect(zero(u64, counts[1].copies_return));
    cr_expect(eq(u64, counts[1].copies_dispatch, 3)); /* 0, 1, 0, 1, 1 */
}

Test(simulate, forward_to_the_whole_group_needs_one_exchange_a_layer)
{
    /* Layer 0: rank 1 has both experts and sends to rank 0. Layer 1 has none:
     * rank 0 brings the residual to rank 1. */
    const int16_t experts[] = {2, 3, -1, -1};
    const uint64_t seq_start[] = {0, 1};
    const coterie_trace_view_t view =
        decoded(experts, seq_start, 1, (shape_t){2, 4, 2});
    const coterie_simulate_options_t options =
        simulation_options(COTERIE_MODE_FORWARD, COTERIE_GROUP_ALL);
    const coterie_counts_t wanted = {
        .steps = 1,
        .tokens = 1,
        .alltoalls = 2,
        .kv_gathers = 1,
        .copies_forward = 2,
        .payload_bytes = 2 * 4 * HIDDEN,
        .wire_bytes = 2 * SUM + 4 * HEADER,
        .kv_bytes = 2 * HEADER, /* all ranks computed, and sampled */
        .messages = 2,
        .empty_messages = 2,
    };
    coterie_counts_t counts[2];

    simulated(&view, simulation_placed(2, 4, 2, 1), &options, counts);
    simulation_expect(&counts[1], &wanted);
}

/* Four ranks of one expert; layers need {0, 1}, {2, 3}, {2}. */
static const int16_t foreseen_experts[] = {0, 1, 2, 3, 2, -1};
static const int16_t foreseen_predicted[] = {1, 2, -1, -1, 0, 0};
static const uint64_t foreseen_start[] = {0, 1};
static const coterie_trace_view_t foreseen = {.token_count = 1,
                                              .sequence_count = 1,
                                              .layer_count = 3,
                                              .expert_count = 4,
                                              .k = 2,
                                              .predicted_k = 2,
                                              .experts = foreseen_experts,
                                              .predicted = foreseen_predicted,
                                              .seq_start = foreseen_start};

Test(simulate, forward_sends_a_token_after_a_prediction_that_missed)
{
    /* Layer 0: {0, 1} send to the foreseen {1, 2}: 0 -> 1, 0 -> 2, 1 -> 2.
     * Layer 1: rank 2 has it and carries; 3 was missed: 2 -> 3 in the
     * exchange. Nothing is foreseen, so only the carrier goes on: 3 -> 2 in a
     * fix-up. Layer 2: rank 2 sends to all others. */
    const coterie_counts_t wanted = {
        .steps = 1,
        .tokens = 1,
        .alltoalls = 3,
        .kv_gathers = 1,
        .fixup_sends = 1,
        .copies_forward = 3 + 1 + 3,
        .copies_fixup = 1,
        .copies_kv = 0 + 2 + 3, /* ranks that computed: 4, 2, 1 */
        .payload_bytes = 8 * 4 * HIDDEN,
        .wire_bytes = 7 * SUM + DISPATCH + (8 + 29) * HEADER,
        .kv_bytes = 12 * HEADER + 5 * KV_ROW,
        .messages = 3 + 2 + 3,
        .empty_messages = 9 + 11 + 9,
    };
    coterie_simulate_options_t options =
        simulation_options(COTERIE_MODE_FORWARD, COTERIE_GROUP_ALL);
    coterie_counts_t counts[2];

    options.prediction = 1;
    simulated(&foreseen, simulation_placed(3, 4, 4, 1), &options, counts);
    simulation_expect(&counts[1], &wanted);
}

Test(simulate, forward_with_predictions_always_right_mends_nothing)
{
    /* {0, 1} -> {2, 3}: 4; {2, 3} -> {2}: 1; {2} -> all: 3. */
    coterie_simulate_options_t options =
        simulation_options(COTERIE_MODE_FORWARD, COTERIE_GROUP_ALL);
    coterie_counts_t counts[2];

    options.prediction = 2;
    simulated(&foreseen, simulation_placed(3, 4, 4, 1), &options, counts);
    cr_expect(eq(u64, counts[1].copies_forward, 8));
    cr_expect(zero(u64, counts[1].copies_fixup));
    cr_expect(zero(u64, counts[1].fixup_sends));
    cr_expect(eq(u64, counts[1].messages, 8));
    cr_expect(eq(u64, counts[1].copies_kv, 0 + 2 + 3));
}

Test(simulate, forward_across_nodes_treats_nodes_as_ranks)
{
    /* Nodes {0, 1} and {2, 3}; home 0, so 0 and 2 act for their nodes. Layer 0
     * needs 1 and 2: 0 -> 1 and back, then 0 -> 2 and 2 -> 0. Layer 1 needs
     * none: 0 -> 2. Each layer: four messages in nodes, four between. */
    const int16_t experts[] = {1, 2, -1, -1};
    const uint64_t seq_start[] = {0, 1};
    const coterie_trace_view_t view =
        decoded(experts, seq_start, 1, (shape_t){2, 4, 2});
    const coterie_simulate_options_t options =
        simulation_options(COTERIE_MODE_FORWARD, COTERIE_GROUP_ACROSS);
    const coterie_counts_t wanted = {
        .steps = 1,
        .tokens = 1,
        .alltoalls = 2,
        .node_alltoalls = 4,
        .kv_gathers = 1,
        .copies_dispatch = 1,
        .copies_return = 1,
        .copies_forward = 3,
        .copies_network = 3,
        .payload_bytes = 5 * 4 * HIDDEN,
        .wire_bytes = DISPATCH + 4 * SUM + 17 * HEADER,
        .kv_bytes = 4 * HEADER,
        .messages = 5,
        .empty_messages = 16 - 4,
    };
    coterie_counts_t counts[2];

    simulated(&view, simulation_placed(2, 4, 4, 2), &options, counts);
    simulation_expect(&counts[1], &wanted);
}

Test(simulate, prefill_is_two_phase_and_its_cache_is_gathered_once)
{
    /* A prompt of two tokens on rank 0, needing rank 1 at its only layer, and
     * one decoded token. The prompt's K/V and its last token go to rank 1. */
    const int16_t experts[] = {2, 3, 2, 3, 2, 3};
    const uint64_t seq_start[] = {0, 3};
    const uint32_t step[] = {0, 0, 1};
    const uint8_t phase[] = {0, 0, 1};
    const coterie_trace_view_t view = {.token_count = 3,
                                       .sequence_count = 1,
                                       .layer_count = 1,
                                       .expert_count = 4,
                                       .k = 2,
                                       .experts = experts,
                                       .seq_start = seq_start,
                                       .step = step,
                                       .phase = phase};
    const coterie_simulate_options_t options =
        simulation_options(COTERIE_MODE_FORWARD, COTERIE_GROUP_ALL);
    const coterie_counts_t prefill = {
        .steps = 1,
        .tokens = 2,
        .alltoalls = 1,
        .returns = 1,
        .kv_gathers = 1,
        .copies_dispatch = 2,
        .copies_return = 2,
        .copies_kv = 2,
        .payload_bytes = 4 * 4 * HIDDEN,
        .wire_bytes = 2 * DISPATCH + 2 * SUM + 3 * HEADER,
        .kv_bytes = 2 * HEADER + 16 + 2 * KV_ROW,
        .messages = 2,
        .empty_messages = 1,
    };
    coterie_counts_t counts[2];

    simulated(&view, simulation_placed(1, 4, 2, 1), &options, counts);
    simulation_expect(&counts[COTERIE_PHASE_PREFILL], &prefill);
    cr_expect(eq(u64, counts[1].steps, 1));
    cr_expect(eq(u64, counts[1].copies_forward, 1));
    cr_expect(eq(u64, counts[1].kv_bytes, 2 * HEADER));
}

Test(simulate, one_rank_sends_nothing_in_any_mode)
{
    const int16_t experts[] = {0, 2, 0, 1};
    const uint64_t seq_start[] = {0, 2};
    const coterie_trace_view_t view =
        decoded(experts, seq_start, 1, (shape_t){1, 4, 2});
    const coterie_counts_t wanted = {.steps = 2, .tokens = 2};

    for (int mode = COTERIE_MODE_TWO_PHASE; mode <= COTERIE_MODE_FORWARD;
         mode++) {
        coterie_simulate_options_t options =
            simulation_options((coterie_mode_t)mode, COTERIE_GROUP_ALL);
        coterie_counts_t counts[2];
        simulated(&view, simulation_placed(1, 4, 1, 1), &options, counts);
        simulation_expect(&counts[1], &wanted);
    }
}

Test(simulate, ranks_without_experts_still_have_sequences)
{
    /* Experts on ranks 0 and 1 of four; sequence 3 is born on rank 3. */
    const int16_t experts[] = {0, -1, 0, -1, 0, -1, 0, 1};
    const uint64_t seq_start[] = {0, 1, 2, 3, 4};
    const coterie_trace_view_t view =
        decoded(experts, seq_start, 4, (shape_t){1, 2, 2});
    const coterie_simulate_options_t options =
        simulation_options(COTERIE_MODE_TWO_PHASE, COTERIE_GROUP_ALL);
    coterie_counts_t counts[2];

    simulated(&view, simulation_placed(1, 2, 4, 1), &options, counts);
    cr_expect(eq(u64, counts[1].copies_dispatch, 0 + 1 + 1 + 2));
    cr_expect(eq(u64, counts[1].copies_return, 4));
}
