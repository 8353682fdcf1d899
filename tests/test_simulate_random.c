#include "config.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include "tests/draw.h"
#include "tests/simulations.h"

/* Random traces, against the formulas of the three modes written out. */
enum { R = 8, N = 4, E = 16, SLOTS = 24, L = 5, K = 4, TOKENS = 60 };

typedef struct random_case {
    int16_t experts[TOKENS * L * K];
    uint64_t seq_start[8];
    coterie_trace_view_t view;
    coterie_trace_t *trace;
    coterie_placement_t *placement;
} random_case_t;

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
    const coterie_simulate_options_t options = simulation_options(mode, group);
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
        simulation_options(COTERIE_MODE_FORWARD, COTERIE_GROUP_ALL);
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
    simulation_expect(&across, &flat);
    random_case_free(&c);
}

Test(simulate, one_node_is_a_group_of_all)
{
    random_case_t c;
    coterie_counts_t all, node;

    random_case_make(&c, 7, 1);
    counted(&c, COTERIE_MODE_OWNER, COTERIE_GROUP_ALL, &all);
    counted(&c, COTERIE_MODE_OWNER, COTERIE_GROUP_NODE, &node);
    simulation_expect(&node, &all);
    random_case_free(&c);
}

Test(simulate, a_node_of_one_rank_gathers_nothing)
{
    random_case_t c;
    coterie_counts_t counts;

    random_case_make(&c, 7, R);
    counted(&c, COTERIE_MODE_OWNER, COTERIE_GROUP_NODE, &counts);
    cr_expect(zero(u64, counts.kv_gathers));
    cr_expect(zero(u64, counts.kv_bytes));
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
    simulation_expect(&other, &two_phase);
    counted(&c, COTERIE_MODE_FORWARD, COTERIE_GROUP_NONE, &other);
    simulation_expect(&other, &two_phase);
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
    options = simulation_options(COTERIE_MODE_AUTO, COTERIE_GROUP_ALL);
    expect_refused(&c, &options, COTERIE_ERR_INVALID);
    options = simulation_options(COTERIE_MODE_OWNER, COTERIE_GROUP_ACROSS);
    expect_refused(&c, &options, COTERIE_ERR_UNSUPPORTED);
    options = simulation_options(COTERIE_MODE_FORWARD, COTERIE_GROUP_NODE);
    expect_refused(&c, &options, COTERIE_ERR_UNSUPPORTED);
    options = simulation_options(COTERIE_MODE_FORWARD, COTERIE_GROUP_ALL);
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
        simulation_options(COTERIE_MODE_OWNER, COTERIE_GROUP_ALL);

    random_case_make(&c, 2, 2);
    coterie_placement_destroy(c.placement);
    c.placement = simulation_placed(L + 1, E, R, 1);
    expect_refused(&c, &options, COTERIE_ERR_MISMATCH);
    random_case_free(&c);
}

Test(simulate, refuses_two_decoded_tokens_of_a_sequence_in_one_step)
{
    random_case_t c;
    uint32_t step[TOKENS];
    const coterie_simulate_options_t options =
        simulation_options(COTERIE_MODE_TWO_PHASE, COTERIE_GROUP_ALL);

    random_case_make(&c, 1, 1);
    coterie_trace_destroy(c.trace);
    for (uint32_t t = 0; t < TOKENS; t++)
        step[t] = t / 2;
    c.view.step = step;
    cr_assert(eq(int, COTERIE_OK, coterie_trace_create(&c.view, &c.trace)));
    expect_refused(&c, &options, COTERIE_ERR_INVALID);
    random_case_free(&c);
}
