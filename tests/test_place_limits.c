#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdlib.h>
#include <string.h>

#include <coterie/coterie.h>
#include <coterie/place.h>

#include "placement/measure.h"
#include "placement/solve/search.h"
#include "tests/trace_files.h"

/* Caps, capacities, loads alone, tiers, and what is said of affinity. */

enum { LAYERS = 3, EXPERTS = 12, K = 3, TOKENS = 900, SEQUENCES = 30 };

/* Tokens of three topics that prefer a third of the experts each, unless
 * `affinity` is 0: then experts are more or less popular, and that is all. */
static coterie_trace_t *trace_draw(uint64_t seed, int affinity)
{
    coterie_search_t random = {.random = seed};
    int16_t *sets = calloc(TOKENS * LAYERS * K, sizeof(*sets));
    uint64_t start[SEQUENCES + 1];
    coterie_trace_view_t view = {
        .token_count = TOKENS, .sequence_count = SEQUENCES,
        .layer_count = LAYERS, .expert_count = EXPERTS, .k = K,
        .experts = sets, .seq_start = start};
    coterie_trace_t *trace = NULL;

    for (uint32_t s = 0; s <= SEQUENCES; s++)
        start[s] = (uint64_t)TOKENS * s / SEQUENCES;
    for (uint32_t i = 0; i < TOKENS * LAYERS; i++)
        for (uint32_t j = 0; j < K; j++) {
            int16_t *set = sets + i * K, any;
            do {
                uint32_t a = coterie_search_below(&random, EXPERTS);
                uint32_t b = coterie_search_below(&random, EXPERTS);
                any = (int16_t)(a < b ? a : b);
                if (affinity && coterie_search_below(&random, 10) > 0)
                    any = (int16_t)(i / LAYERS % 3 + a / 3 * 3);
            } while ((j > 0 && any == set[0]) || (j > 1 && any == set[1]));
            set[j] = any;
        }
    cr_assert(eq(int, COTERIE_OK, coterie_trace_create(&view, &trace)));
    free(sets);
    return trace;
}

static coterie_place_options_t options_for(uint32_t ranks)
{
    coterie_place_options_t options = COTERIE_PLACE_OPTIONS_INIT;

    options.rank_count = ranks;
    options.time_limit_s = 0.5;
    return options;
}

/* The first half of the sequences, which is what was optimised on. */
static double load_of(const coterie_trace_t *trace,
                      const coterie_placement_t *placement)
{
    uint64_t load[LAYERS * EXPERTS];
    coterie_placement_options_t view;
    coterie_trace_view_t train;
    coterie_trace_t *half = NULL;
    double fullest;

    cr_assert(eq(int, COTERIE_OK,
                 coterie_trace_slice(trace, 0, SEQUENCES / 2, &half)));
    coterie_trace_view(half, &train);
    coterie_placement_view(placement, &view);
    coterie_measure(&train, placement, COTERIE_MODE_OWNER, load);
    fullest = coterie_measure_fullest(load, LAYERS, view.rank_count);
    coterie_trace_destroy(half);
    return fullest;
}

static coterie_loads_t *loads_create(const double *load, uint64_t windows,
                                     uint32_t experts)
{
    coterie_loads_view_t view = {.window_count = windows, .layer_count = 1,
                                 .expert_count = experts, .load = load};
    coterie_loads_t *loads = NULL;

    cr_assert(eq(int, COTERIE_OK, coterie_loads_create(&view, &loads)));
    return loads;
}

Test(place_limits, keeps_caps_once_replicas_serve)
{
    for (uint64_t seed = 1; seed <= 6; seed++) {
        coterie_trace_t *trace = trace_draw(seed, 1);
        coterie_place_options_t options = options_for(seed % 2 ? 3 : 4);
        coterie_place_report_t report = COTERIE_PLACE_REPORT_INIT;
        coterie_placement_t *placement = NULL;
        double load;

        options.spare = (uint32_t)(seed % 3);
        options.load_cap = 1.15;
        cr_assert(eq(int, COTERIE_OK,
                     coterie_place(trace, &options, &placement, &report)));
        load = load_of(trace, placement);
        cr_expect(epsilon_eq(dbl, load, report.load, 1e-12));
        cr_expect(report.cap_raised || load <= options.load_cap);
        cr_expect(le(dbl, load, report.load_cap));
        coterie_placement_destroy(placement);
        coterie_trace_destroy(trace);
    }
}

/* A toll that a copy between nodes outweighs would leave layers over the cap,
 * which then lose their replicas. */
Test(place_limits, gains_by_replicas_under_a_cap_where_a_network_is_dear)
{
    for (uint64_t seed = 1; seed <= 3; seed++) {
        coterie_trace_t *trace = trace_draw(seed, 1);
        coterie_place_options_t options = options_for(4);
        coterie_place_report_t report = COTERIE_PLACE_REPORT_INIT;
        coterie_placement_t *placement = NULL;

        options.time_limit_s = 2; /* a busy machine shall not cut it short */
        options.node_count = 2;
        options.network_cost = 64;
        options.spare = 1;
        options.load_cap = 1.15;
        cr_assert(eq(int, COTERIE_OK,
                     coterie_place(trace, &options, &placement, &report)));
        cr_expect(eq(u32, report.polished, 1));
        cr_expect(lt(dbl, report.train_copies_polished,
                     0.9 * report.train_copies));
        cr_expect(report.cap_raised ||
                  load_of(trace, placement) <= options.load_cap);
        coterie_placement_destroy(placement);
        coterie_trace_destroy(trace);
    }
}

Test(place_limits, respects_slots_and_memory_of_unequal_ranks)
{
    static const uint32_t slots[3] = {2, 8, 4};
    static const uint64_t memory[3] = {100000, 6 * LAYERS * 1000, 100000};
    coterie_trace_t *trace = trace_draw(3, 1);
    coterie_place_options_t options = options_for(3);
    coterie_placement_t *placement = NULL;
    coterie_placement_options_t view;
    uint32_t held[3] = {0};

    options.slots = slots;
    options.memory = memory;
    options.expert_bytes = 1000;
    options.spare = 1;
    cr_assert(eq(int, COTERIE_ERR_INFEASIBLE,
                 coterie_place(trace, &options, &placement, NULL)));
    cr_assert(zero(ptr, placement));
    options.spare = 0;
    cr_assert(eq(int, COTERIE_OK,
                 coterie_place(trace, &options, &placement, NULL)));
    coterie_placement_view(placement, &view);
    for (uint32_t s = 0; s < view.slot_count; s++)
        held[view.slot_rank[s]]++;
    cr_expect(eq(u32, held[0], 2));
    cr_expect(eq(u32, held[1], 6));
    cr_expect(eq(u32, held[2], 4));
    coterie_placement_destroy(placement);
    coterie_trace_destroy(trace);
}

Test(place_limits, refuses_what_does_not_fit)
{
    static const uint32_t slots[2] = {5, 6};
    coterie_trace_t *trace = trace_draw(3, 1);
    coterie_place_options_t options = options_for(2);
    coterie_placement_t *placement = NULL;

    options.slots = slots;
    cr_expect(eq(int, COTERIE_ERR_INFEASIBLE,
                 coterie_place(trace, &options, &placement, NULL)));
    cr_expect(ne(ptr, strstr(coterie_last_error(), "12 experts"), NULL));
    cr_expect(zero(ptr, placement));
    coterie_trace_destroy(trace);
}

Test(place_limits, tells_affinity_from_popularity)
{
    for (int affinity = 0; affinity < 2; affinity++) {
        coterie_trace_t *trace = trace_draw(11, affinity);
        coterie_place_options_t options = options_for(3);
        coterie_place_report_t report = COTERIE_PLACE_REPORT_INIT;
        coterie_placement_t *placement = NULL;

        cr_assert(eq(int, COTERIE_OK,
                     coterie_place(trace, &options, &placement, &report)));
        cr_expect(eq(u32, report.affinity,
                     affinity ? COTERIE_AFFINITY_HELD
                              : COTERIE_AFFINITY_NONE));
        coterie_placement_destroy(placement);
        coterie_trace_destroy(trace);
    }
}

Test(place_limits, says_how_many_replicas_cure_a_cap)
{
    static const double load[4] = {90, 10, 10, 10};
    coterie_loads_t *loads = loads_create(load, 1, 4);
    coterie_place_options_t options = options_for(2);
    coterie_place_report_t report = COTERIE_PLACE_REPORT_INIT;
    coterie_placement_t *placement = NULL;

    options.load_cap = 1.1; /* 66 a rank, but one expert has 90 */
    cr_assert(eq(int, COTERIE_OK,
                 coterie_place_loads(loads, &options, &placement, &report)));
    cr_expect(eq(u32, report.cap_raised, 1));
    cr_expect(epsilon_eq(dbl, report.load, 100 / 60., 1e-12));
    cr_expect(eq(u32, report.cure_spare, 1));
    cr_expect(eq(u32, report.cure_replicas, 1));
    coterie_placement_destroy(placement);
    options.spare = report.cure_spare;
    cr_assert(eq(int, COTERIE_OK,
                 coterie_place_loads(loads, &options, &placement, &report)));
    cr_expect(eq(u32, report.cap_raised, 0));
    coterie_placement_destroy(placement);
    coterie_loads_destroy(loads);
}

/* Every expert once at least, none twice on a rank, however loads fall. */
Test(place_limits, spreads_any_loads_legally)
{
    for (uint64_t seed = 1; seed <= 40; seed++) {
        coterie_search_t random = {.random = seed};
        uint32_t experts = 4 + coterie_search_below(&random, 20);
        coterie_place_options_t options =
            options_for(2 + coterie_search_below(&random, 3));
        coterie_place_report_t report = COTERIE_PLACE_REPORT_INIT;
        coterie_placement_t *placement = NULL;
        coterie_loads_t *loads;
        double load[24];

        for (uint32_t e = 0; e < experts; e++)
            load[e] = seed % 7 == 0 ? 0 : coterie_search_below(&random, 100);
        loads = loads_create(load, 1, experts);
        options.spare = coterie_search_below(&random, 2);
        cr_assert(eq(int, COTERIE_OK,
                     coterie_place_loads(loads, &options, &placement,
                                         &report)));
        cr_expect(le(dbl, report.load, report.load_in_order + 1e-9));
        coterie_placement_destroy(placement);
        coterie_loads_destroy(loads);
    }
}

Test(place_limits, refuses_loads_that_are_none)
{
    static const double load[4] = {1, 2, -1, 4};
    coterie_loads_view_t view = {.window_count = 1, .layer_count = 1,
                                 .expert_count = 4, .load = load};
    coterie_loads_t *loads = NULL;

    cr_expect(eq(int, COTERIE_ERR_INVALID,
                 coterie_loads_create(&view, &loads)));
    view.expert_count = 0;
    cr_expect(eq(int, COTERIE_ERR_INVALID,
                 coterie_loads_create(&view, &loads)));
    cr_expect(zero(ptr, loads));
}

Test(place_limits, keeps_the_hottest_nearest, .init = files_make,
     .fini = files_remove)
{
    const char *path = file_path("tiers.json");
    coterie_trace_t *trace = trace_draw(5, 0);
    coterie_place_options_t options = options_for(1);
    coterie_tiering_options_t tiers = COTERIE_TIERING_OPTIONS_INIT;
    coterie_tiering_report_t report = COTERIE_TIERING_REPORT_INIT;
    coterie_tiering_t *tiering = NULL;
    coterie_placement_t *placement = NULL;
    uint64_t count[LAYERS * EXPERTS];

    cr_assert(eq(int, COTERIE_OK,
                 coterie_place(trace, &options, &placement, NULL)));
    tiers.expert_bytes = 10;
    tiers.device_bytes = 60;
    tiers.host_bytes = 100;
    cr_assert(eq(int, COTERIE_OK,
                 coterie_tiering_create(trace, placement, &tiers, &tiering,
                                        &report)));
    cr_expect(gt(dbl, report.device_share, 6. / (LAYERS * EXPERTS)));
    cr_expect(lt(dbl, report.token_us, report.token_us_in_order));
    cr_assert(eq(int, COTERIE_OK, coterie_tiering_write(tiering, path, 1)));
    cr_assert(eq(int, COTERIE_OK,
                 coterie_tiering_read(path, LAYERS, EXPERTS, count)));
    for (uint32_t i = 0, kept = 0; i <= LAYERS * EXPERTS; i++) {
        if (i == LAYERS * EXPERTS)
            cr_expect(eq(u32, kept, 16));
        else
            kept += count[i] > 0;
    }
    cr_expect(eq(int, COTERIE_ERR_MISMATCH,
                 coterie_tiering_read(path, LAYERS, EXPERTS + 1, count)));
    tiers.expert_bytes = 0;
    cr_expect(eq(int, COTERIE_ERR_INVALID,
                 coterie_tiering_create(trace, placement, &tiers, &tiering,
                                        NULL)));
    coterie_tiering_destroy(tiering);
    coterie_placement_destroy(placement);
    coterie_trace_destroy(trace);
}
