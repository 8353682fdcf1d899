#include "config.h"

#include <stdlib.h>
#include <string.h>

#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include <coterie/simulate.h>

/* With k = 2 and hidden = 8 a dispatch row is 16 + 2 * 8 + 32 = 64 bytes and a
 * sum row 16 + 8 + 32 = 56; a K/V row of 4 bytes travels as 20. */
enum { HIDDEN = 8, DISPATCH = 64, SUM = 56, HEADER = 16, KV = 4, KV_ROW = 20 };

static coterie_placement_t *placed(uint32_t layers, uint32_t experts,
                                   uint32_t ranks, uint32_t nodes)
{
    coterie_placement_options_t options = COTERIE_PLACEMENT_OPTIONS_INIT;
    coterie_placement_t *placement = NULL;

    options.layer_count = layers;
    options.expert_count = experts;
    options.rank_count = ranks;
    options.node_count = nodes;
    cr_assert(
        eq(int, COTERIE_OK, coterie_placement_create(&options, &placement)));
    return placement;
}

static coterie_simulate_options_t by(coterie_mode_t mode, coterie_group_t group)
{
    coterie_simulate_options_t options = COTERIE_SIMULATE_OPTIONS_INIT;

    options.mode = mode;
    options.group = group;
    options.hidden = HIDDEN;
    options.kv_row_size = KV;
    return options;
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

static void expect_counts(const coterie_counts_t *has,
                          const coterie_counts_t *wanted)
{
    static const char *const names[] = {
        "steps",          "tokens",         "alltoalls",    "returns",
        "node_alltoalls", "kv_gathers",     "fixup_sends",  "copies_dispatch",
        "copies_return",  "copies_forward", "copies_fixup", "copies_network",
        "copies_kv",      "payload_bytes",  "wire_bytes",   "kv_bytes",
        "messages",       "empty_messages",
    };
    uint64_t a[sizeof(*has) / 8], b[sizeof(*has) / 8];

    memcpy(a, has, sizeof(a));
    memcpy(b, wanted, sizeof(b));
    for (size_t i = 0; i < sizeof(a) / sizeof(*a); i++)
        cr_expect(eq(u64, a[i], b[i]), "%s", names[i]);
}

Test(simulate, two_phase_sends_to_the_ranks_of_the_experts_and_back)
{
    /* Ranks hold {0, 1} and {2, 3}. Layer 0: sequence 0, at rank 0, needs
     * rank 1: a row there and one back. All else is at home, or nowhere. Two
     * exchanges of two messages, one with a row; one return. */
    const int16_t experts[] = {0, 2, 0, 1, 2, 3, -1, -1};
    const uint64_t seq_start[] = {0, 1, 2};
    const coterie_trace_view_t view = {.token_count = 2,
                                       .sequence_count = 2,
                                       .layer_count = 2,
                                       .expert_count = 4,
                                       .k = 2,
                                       .experts = experts,
                                       .seq_start = seq_start};
    const coterie_simulate_options_t options =
        by(COTERIE_MODE_TWO_PHASE, COTERIE_GROUP_ALL);
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

    simulated(&view, placed(2, 4, 2, 1), &options, counts);
    expect_counts(&counts[COTERIE_PHASE_DECODE], &wanted);
    expect_counts(&counts[COTERIE_PHASE_PREFILL], &none);
    cr_expect(eq(u64, coterie_counts_copies(&counts[1]), 2));
}

Test(simulate, rows_between_the_same_ranks_share_a_message)
{
    /* Sequences 0 and 2 are both born on rank 0 and both need rank 1. */
    const int16_t experts[] = {2, 3, 2, 3, 3, 2};
    const uint64_t seq_start[] = {0, 1, 2, 3};
    const coterie_trace_view_t view = {.token_count = 3,
                                       .sequence_count = 3,
                                       .layer_count = 1,
                                       .expert_count = 4,
                                       .k = 2,
                                       .experts = experts,
                                       .seq_start = seq_start};
    const coterie_simulate_options_t options =
        by(COTERIE_MODE_TWO_PHASE, COTERIE_GROUP_NONE);
    coterie_counts_t counts[2];

    simulated(&view, placed(1, 4, 2, 1), &options, counts);
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
    const coterie_trace_view_t view = {.token_count = 2,
                                       .sequence_count = 1,
                                       .layer_count = 2,
                                       .expert_count = 4,
                                       .k = 2,
                                       .experts = experts,
                                       .seq_start = seq_start};
    const coterie_simulate_options_t options =
        by(COTERIE_MODE_OWNER, COTERIE_GROUP_ALL);
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

    simulated(&view, placed(2, 4, 2, 1), &options, counts);
    expect_counts(&counts[1], &wanted);
}

Test(simulate, owner_follows_the_scores_of_the_placement)
{
    /* Both ranks serve; rank 1 scores higher for the next layer, so the owner
     * moves: one row there, which carries the token, and rank 0's sum. */
    const int16_t experts[] = {0, 1};
    const uint64_t seq_start[] = {0, 1};
    const coterie_trace_view_t view = {.token_count = 1,
                                       .sequence_count = 1,
                                       .layer_count = 1,
                                       .expert_count = 2,
                                       .k = 2,
                                       .experts = experts,
                                       .seq_start = seq_start};
    const uint8_t scores[] = {1, 2, 0, 0};
    const coterie_simulate_options_t options =
        by(COTERIE_MODE_OWNER, COTERIE_GROUP_ALL);
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
    const coterie_trace_view_t view = {.token_count = 1,
                                       .sequence_count = 1,
                                       .layer_count = 2,
                                       .expert_count = 4,
                                       .k = 1,
                                       .experts = experts,
                                       .seq_start = seq_start};
    const coterie_simulate_options_t options =
        by(COTERIE_MODE_OWNER, COTERIE_GROUP_NODE);
    coterie_counts_t counts[2];

    simulated(&view, placed(2, 4, 4, 2), &options, counts);
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
    const coterie_trace_view_t view = {.token_count = 2,
                                       .sequence_count = 1,
                                       .layer_count = 2,
                                       .expert_count = 2,
                                       .k = 1,
                                       .experts = experts,
                                       .seq_start = seq_start};
    const coterie_simulate_options_t options =
        by(COTERIE_MODE_OWNER, COTERIE_GROUP_ALL);
    coterie_counts_t counts[2];

    simulated(&view, placed(2, 2, 2, 1), &options, counts);
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
    const coterie_trace_view_t view = {.token_count = 1,
                                       .sequence_count = 1,
                                       .layer_count = 2,
                                       .expert_count = 4,
                                       .k = 2,
                                       .experts = experts,
                                       .seq_start = seq_start};
    const coterie_simulate_options_t options =
        by(COTERIE_MODE_FORWARD, COTERIE_GROUP_ALL);
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

    simulated(&view, placed(2, 4, 2, 1), &options, counts);
    expect_counts(&counts[1], &wanted);
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
        by(COTERIE_MODE_FORWARD, COTERIE_GROUP_ALL);
    coterie_counts_t counts[2];

    options.prediction = 1;
    simulated(&foreseen, placed(3, 4, 4, 1), &options, counts);
    expect_counts(&counts[1], &wanted);
}

Test(simulate, forward_with_predictions_always_right_mends_nothing)
{
    /* {0, 1} -> {2, 3}: 4; {2, 3} -> {2}: 1; {2} -> all: 3. */
    coterie_simulate_options_t options =
        by(COTERIE_MODE_FORWARD, COTERIE_GROUP_ALL);
    coterie_counts_t counts[2];

    options.prediction = 2;
    simulated(&foreseen, placed(3, 4, 4, 1), &options, counts);
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
    const coterie_trace_view_t view = {.token_count = 1,
                                       .sequence_count = 1,
                                       .layer_count = 2,
                                       .expert_count = 4,
                                       .k = 2,
                                       .experts = experts,
                                       .seq_start = seq_start};
    const coterie_simulate_options_t options =
        by(COTERIE_MODE_FORWARD, COTERIE_GROUP_ACROSS);
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

    simulated(&view, placed(2, 4, 4, 2), &options, counts);
    expect_counts(&counts[1], &wanted);
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
        by(COTERIE_MODE_FORWARD, COTERIE_GROUP_ALL);
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

    simulated(&view, placed(1, 4, 2, 1), &options, counts);
    expect_counts(&counts[COTERIE_PHASE_PREFILL], &prefill);
    cr_expect(eq(u64, counts[1].steps, 1));
    cr_expect(eq(u64, counts[1].copies_forward, 1));
    cr_expect(eq(u64, counts[1].kv_bytes, 2 * HEADER));
}

Test(simulate, one_rank_sends_nothing_in_any_mode)
{
    const int16_t experts[] = {0, 2, 0, 1};
    const uint64_t seq_start[] = {0, 2};
    const coterie_trace_view_t view = {.token_count = 2,
                                       .sequence_count = 1,
                                       .layer_count = 1,
                                       .expert_count = 4,
                                       .k = 2,
                                       .experts = experts,
                                       .seq_start = seq_start};
    const coterie_counts_t wanted = {.steps = 2, .tokens = 2};

    for (int mode = COTERIE_MODE_TWO_PHASE; mode <= COTERIE_MODE_FORWARD;
         mode++) {
        coterie_simulate_options_t options =
            by((coterie_mode_t)mode, COTERIE_GROUP_ALL);
        coterie_counts_t counts[2];
        simulated(&view, placed(1, 4, 1, 1), &options, counts);
        expect_counts(&counts[1], &wanted);
    }
}

Test(simulate, ranks_without_experts_still_have_sequences)
{
    /* Experts on ranks 0 and 1 of four; sequence 3 is born on rank 3. */
    const int16_t experts[] = {0, -1, 0, -1, 0, -1, 0, 1};
    const uint64_t seq_start[] = {0, 1, 2, 3, 4};
    const coterie_trace_view_t view = {.token_count = 4,
                                       .sequence_count = 4,
                                       .layer_count = 1,
                                       .expert_count = 2,
                                       .k = 2,
                                       .experts = experts,
                                       .seq_start = seq_start};
    const coterie_simulate_options_t options =
        by(COTERIE_MODE_TWO_PHASE, COTERIE_GROUP_ALL);
    coterie_counts_t counts[2];

    simulated(&view, placed(1, 2, 4, 1), &options, counts);
    cr_expect(eq(u64, counts[1].copies_dispatch, 0 + 1 + 1 + 2));
    cr_expect(eq(u64, counts[1].copies_return, 4));
}

/* Random traces, against the formulas of the three modes written out. */
enum { R = 8, N = 4, E = 16, SLOTS = 24, L = 5, K = 4, TOKENS = 60 };

typedef struct random_case {
    int16_t experts[TOKENS * L * K];
    uint64_t seq_start[8];
    coterie_trace_view_t view;
    coterie_trace_t *trace;
    coterie_placement_t *placement;
} random_case_t;

static uint32_t draw(uint32_t below)
{
    static uint64_t state = 0x2545f4914f6cdd1d;

    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (uint32_t)((state >> 20) % below);
}

static void random_placement(random_case_t *c, uint32_t nodes)
{
    int16_t slots[L * SLOTS];
    uint8_t scores[L * E * R];
    coterie_placement_options_t options = COTERIE_PLACEMENT_OPTIONS_INIT;

    /* Rank r holds experts 2r and 2r + 1, and a replica of a later one. */
    for (int i = 0; i < L * SLOTS; i++) {
        int rank = i % SLOTS / 3, own = rank * 2 + i % 3;
        slots[i] = (int16_t)(i % 3 < 2 ? own : (own + (int)draw(E - 2)) % E);
    }
    for (size_t i = 0; i < sizeof(scores); i++)
        scores[i] = (uint8_t)draw(5);
    options.layer_count = L;
    options.expert_count = E;
    options.rank_count = R;
    options.node_count = nodes;
    options.slot_count = SLOTS;
    options.slot_expert = slots;
    options.next_score = scores;
    cr_assert(
        eq(int, COTERIE_OK, coterie_placement_create(&options, &c->placement)),
        "%s", coterie_last_error());
}

static void random_case_make(random_case_t *c, uint32_t sequences,
                             uint32_t nodes)
{
    for (int i = 0; i < TOKENS * L; i++)
        for (int j = 0; j < K; j++)
            c->experts[i * K + j] =
                (int16_t)(draw(9) == 0 ? -1 : (int)draw(E / K) * K + j);
    for (uint32_t s = 0; s <= sequences; s++)
        c->seq_start[s] = (uint64_t)s * TOKENS / sequences;
    c->view = (coterie_trace_view_t){.token_count = TOKENS,
                                     .sequence_count = sequences,
                                     .layer_count = L,
                                     .expert_count = E,
                                     .k = K,
                                     .experts = c->experts,
                                     .seq_start = c->seq_start};
    cr_assert(eq(int, COTERIE_OK, coterie_trace_create(&c->view, &c->trace)));
    random_placement(c, nodes);
}

static void random_case_free(random_case_t *c)
{
    coterie_trace_destroy(c->trace);
    coterie_placement_destroy(c->placement);
}

static void route_at(const random_case_t *c, uint64_t token, uint32_t layer,
                     uint32_t owner, coterie_route_t *route)
{
    int32_t ids[K];

    for (int i = 0; i < K; i++)
        ids[i] = c->experts[(token * L + layer) * K + (uint64_t)i];
    coterie_route(c->placement, layer, ids, K, owner, route);
}

/* |D without rank| */
static uint64_t others(const coterie_route_t *route, uint32_t rank)
{
    uint64_t count = route->rank_count;

    for (int i = 0; i < route->rank_count; i++)
        count -= route->rank[i] == rank;
    return count;
}

static void count_by_formula(const random_case_t *c, uint64_t *two_phase,
                             uint64_t *owner_copies, uint64_t *whole)
{
    coterie_route_t route;

    *two_phase = *owner_copies = *whole = 0;
    for (uint64_t s = 0; s < c->view.sequence_count; s++) {
        uint32_t owner = s % R;
        for (uint64_t t = c->seq_start[s]; t < c->seq_start[s + 1]; t++)
            for (uint32_t l = 0; l < L; l++) {
                route_at(c, t, l, s % R, &route);
                *two_phase += 2 * others(&route, s % R);
                route_at(c, t, l, owner, &route);
                *owner_copies +=
                    others(&route, owner) + others(&route, route.next_owner);
                owner = route.next_owner;
                route_at(c, t, l, COTERIE_NONE, &route);
                *whole +=
                    (R - 1) * (route.rank_count == 0 ? 1u : route.rank_count);
            }
    }
}

static void counted(const random_case_t *c, coterie_mode_t mode,
                    coterie_group_t group, coterie_counts_t *decode)
{
    const coterie_simulate_options_t options = by(mode, group);
    coterie_counts_t counts[2];

    cr_assert(eq(int, COTERIE_OK,
                 coterie_simulate(c->trace, c->placement, &options, counts)),
              "%s", coterie_last_error());
    *decode = counts[COTERIE_PHASE_DECODE];
}

Test(simulate, copies_follow_the_formula_of_each_mode)
{
    for (int round = 0; round < 20; round++) {
        random_case_t c;
        uint64_t two_phase, owner, whole;
        coterie_counts_t counts;
        random_case_make(&c, 1 + draw(7), 1);
        count_by_formula(&c, &two_phase, &owner, &whole);
        counted(&c, COTERIE_MODE_TWO_PHASE, COTERIE_GROUP_ALL, &counts);
        cr_expect(eq(u64, coterie_counts_copies(&counts), two_phase));
        counted(&c, COTERIE_MODE_OWNER, COTERIE_GROUP_ALL, &counts);
        cr_expect(eq(u64, coterie_counts_copies(&counts), owner));
        counted(&c, COTERIE_MODE_FORWARD, COTERIE_GROUP_ALL, &counts);
        cr_expect(eq(u64, coterie_counts_copies(&counts), whole));
        random_case_free(&c);
    }
}

Test(simulate, forward_always_right_sends_each_sum_to_the_next_ranks)
{
    random_case_t c;
    coterie_simulate_options_t options =
        by(COTERIE_MODE_FORWARD, COTERIE_GROUP_ALL);
    coterie_counts_t counts[2];
    uint64_t copies = 0;

    /* Every token has an expert at every layer, so that R(l) = D(l). */
    random_case_make(&c, 3, 1);
    coterie_trace_destroy(c.trace);
    for (int i = 0; i < TOKENS * L; i++)
        c.experts[i * K] = 0;
    cr_assert(eq(int, COTERIE_OK, coterie_trace_create(&c.view, &c.trace)));
    for (uint64_t t = 0; t < TOKENS; t++)
        for (uint32_t l = 0; l < L; l++) {
            coterie_route_t now, next;
            route_at(&c, t, l, COTERIE_NONE, &now);
            route_at(&c, t, (l + 1) % L, COTERIE_NONE, &next);
            for (int i = 0; i < now.rank_count; i++)
                copies += l + 1 < L ? others(&next, now.rank[i]) : R - 1;
        }
    options.prediction = 2;
    cr_assert(eq(int, COTERIE_OK,
                 coterie_simulate(c.trace, c.placement, &options, counts)));
    cr_expect(eq(u64, counts[1].copies_forward, copies));
    cr_expect(zero(u64, counts[1].copies_fixup));
    random_case_free(&c);
}

Test(simulate, a_single_sequence_has_no_message_of_two_rows)
{
    random_case_t c;
    coterie_counts_t counts;

    random_case_make(&c, 1, 2);
    for (int mode = COTERIE_MODE_TWO_PHASE; mode <= COTERIE_MODE_FORWARD;
         mode++) {
        counted(&c, (coterie_mode_t)mode, COTERIE_GROUP_ALL, &counts);
        cr_expect(eq(u64, counts.messages, coterie_counts_copies(&counts)));
    }
    counted(&c, COTERIE_MODE_FORWARD, COTERIE_GROUP_ACROSS, &counts);
    cr_expect(eq(u64, counts.messages, coterie_counts_copies(&counts)));
    random_case_free(&c);
}

Test(simulate, nodes_of_one_rank_are_forwarded_across_as_ranks_are)
{
    random_case_t c;
    coterie_counts_t flat, across;

    random_case_make(&c, 7, R);
    counted(&c, COTERIE_MODE_FORWARD, COTERIE_GROUP_ALL, &flat);
    counted(&c, COTERIE_MODE_FORWARD, COTERIE_GROUP_ACROSS, &across);
    expect_counts(&across, &flat);
    random_case_free(&c);
}

Test(simulate, one_node_is_a_group_of_all)
{
    random_case_t c;
    coterie_counts_t all, node;

    random_case_make(&c, 7, 1);
    counted(&c, COTERIE_MODE_OWNER, COTERIE_GROUP_ALL, &all);
    counted(&c, COTERIE_MODE_OWNER, COTERIE_GROUP_NODE, &node);
    expect_counts(&node, &all);
    random_case_free(&c);
}

Test(simulate, without_a_group_every_mode_is_two_phase)
{
    random_case_t c;
    coterie_counts_t two_phase, other;

    random_case_make(&c, 7, N);
    counted(&c, COTERIE_MODE_TWO_PHASE, COTERIE_GROUP_NONE, &two_phase);
    cr_expect(zero(u64, two_phase.kv_gathers));
    counted(&c, COTERIE_MODE_OWNER, COTERIE_GROUP_NONE, &other);
    expect_counts(&other, &two_phase);
    counted(&c, COTERIE_MODE_FORWARD, COTERIE_GROUP_NONE, &other);
    expect_counts(&other, &two_phase);
    random_case_free(&c);
}

static void expect_refused(const random_case_t *c,
                           const coterie_simulate_options_t *options,
                           coterie_status_t wanted)
{
    coterie_counts_t counts[2] = {{.steps = 77}, {.steps = 77}};

    cr_expect(eq(int, wanted,
                 coterie_simulate(c->trace, c->placement, options, counts)));
    cr_expect(eq(u64, counts[0].steps, 77)); /* untouched on failure */
    cr_expect(eq(u64, counts[1].steps, 77));
}

Test(simulate, refuses_what_no_session_does)
{
    random_case_t c;
    coterie_simulate_options_t options;

    random_case_make(&c, 2, 2);
    options = by(COTERIE_MODE_AUTO, COTERIE_GROUP_ALL);
    expect_refused(&c, &options, COTERIE_ERR_INVALID);
    options = by(COTERIE_MODE_OWNER, COTERIE_GROUP_ACROSS);
    expect_refused(&c, &options, COTERIE_ERR_UNSUPPORTED);
    options = by(COTERIE_MODE_FORWARD, COTERIE_GROUP_NODE);
    expect_refused(&c, &options, COTERIE_ERR_UNSUPPORTED);
    options = by(COTERIE_MODE_FORWARD, COTERIE_GROUP_ALL);
    options.prediction = 3;
    expect_refused(&c, &options, COTERIE_ERR_INVALID);
    options.prediction = 1;
    expect_refused(&c, &options, COTERIE_ERR_NOT_FOUND);
    random_case_free(&c);
}

Test(simulate, refuses_a_trace_of_another_model)
{
    random_case_t c;
    const coterie_simulate_options_t options =
        by(COTERIE_MODE_OWNER, COTERIE_GROUP_ALL);

    random_case_make(&c, 2, 2);
    coterie_placement_destroy(c.placement);
    c.placement = placed(L + 1, E, R, 1);
    expect_refused(&c, &options, COTERIE_ERR_MISMATCH);
    random_case_free(&c);
}

Test(simulate, refuses_two_decoded_tokens_of_a_sequence_in_one_step)
{
    random_case_t c;
    uint32_t step[TOKENS];
    const coterie_simulate_options_t options =
        by(COTERIE_MODE_TWO_PHASE, COTERIE_GROUP_ALL);

    random_case_make(&c, 1, 1);
    coterie_trace_destroy(c.trace);
    for (uint32_t t = 0; t < TOKENS; t++)
        step[t] = t / 2;
    c.view.step = step;
    cr_assert(eq(int, COTERIE_OK, coterie_trace_create(&c.view, &c.trace)));
    expect_refused(&c, &options, COTERIE_ERR_INVALID);
    random_case_free(&c);
}
