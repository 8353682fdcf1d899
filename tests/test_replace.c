#include "config.h"

#include <stdlib.h>
#include <string.h>

#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include <coterie/replace.h>

#include "tests/command.h"
#include "tests/trace_files.h"

TestSuite(replace, .init = files_make, .fini = files_remove);

enum { LAYERS = 3, EXPERTS = 8, RANKS = 4, TOKENS = 800, SEQUENCES = 40 };

/* Tokens keep to one of four topics; a topic's experts lie on different ranks
 * where experts are in order. */
static coterie_trace_t *topics(void)
{
    static int16_t experts[TOKENS * LAYERS * 2];
    uint64_t start[SEQUENCES + 1];
    coterie_trace_view_t view = {.token_count = TOKENS,
                                 .sequence_count = SEQUENCES,
                                 .layer_count = LAYERS,
                                 .expert_count = EXPERTS,
                                 .k = 2,
                                 .experts = experts,
                                 .seq_start = start};
    coterie_trace_t *trace = NULL;

    for (int s = 0; s <= SEQUENCES; s++)
        start[s] = (uint64_t)s * TOKENS / SEQUENCES;
    for (int i = 0; i < TOKENS * LAYERS; i++) {
        int topic = i / LAYERS * 7 / 3 % 4, swapped = i * 37 / 5 % 10 == 0;
        experts[2 * i] = (int16_t)((topic + swapped) % 4);
        experts[2 * i + 1] = (int16_t)(4 + (topic + i % LAYERS) % 4);
    }
    cr_assert(eq(int, COTERIE_OK, coterie_trace_create(&view, &trace)), "%s",
              coterie_last_error());
    return trace;
}

static coterie_placement_t *in_order(uint32_t spare)
{
    static int16_t slots[LAYERS * (EXPERTS + RANKS)];
    coterie_placement_options_t options = COTERIE_PLACEMENT_OPTIONS_INIT;
    coterie_placement_t *placement = NULL;

    options.layer_count = LAYERS;
    options.expert_count = EXPERTS;
    options.rank_count = RANKS;
    options.slot_count = EXPERTS + RANKS * spare;
    for (uint32_t i = 0; i < LAYERS * options.slot_count; i++) {
        uint32_t slot = i % options.slot_count, share = 2 + spare;
        slots[i] = slot % share < 2
                       ? (int16_t)(slot / share * 2 + slot % share)
                       : -1;
    }
    options.slot_expert = slots;
    cr_assert(eq(int, COTERIE_OK,
                 coterie_placement_create(&options, &placement)),
              "%s", coterie_last_error());
    return placement;
}

static coterie_replace_report_t replace(const coterie_placement_t *old,
                                        uint64_t moves_most,
                                        coterie_placement_t **placement_p,
                                        coterie_move_t **moves_p)
{
    coterie_replace_report_t report = COTERIE_REPLACE_REPORT_INIT;
    coterie_replace_options_t options = COTERIE_REPLACE_OPTIONS_INIT;
    coterie_trace_t *trace = topics();

    options.is_limited = 1;
    options.moves_most = moves_most;
    options.time_limit_s = 5;
    cr_assert(eq(int, COTERIE_OK,
                 coterie_replace(old, trace, &options, placement_p, moves_p,
                                 &report)),
              "%s", coterie_last_error());
    coterie_trace_destroy(trace);
    return report;
}

static int holds(const coterie_placement_t *placement, uint32_t layer,
                 uint32_t expert, uint32_t rank)
{
    coterie_placement_options_t view;

    coterie_placement_view(placement, &view);
    for (uint32_t s = 0; s < view.slot_count; s++)
        if (view.slot_rank[s] == rank &&
            view.slot_expert[layer * view.slot_count + s] == (int)expert)
            return 1;
    return 0;
}

Test(replace, moves_nothing_without_a_budget)
{
    coterie_placement_t *old = in_order(0), *placement = NULL;
    coterie_placement_options_t before, after;
    coterie_move_t *moves = NULL;
    coterie_replace_report_t report = replace(old, 0, &placement, &moves);

    coterie_placement_view(old, &before);
    coterie_placement_view(placement, &after);
    cr_expect(zero(u64, report.moves));
    cr_expect(eq(dbl, report.held_copies, report.held_copies_before));
    cr_expect(zero(memcmp(before.slot_expert, after.slot_expert,
                          LAYERS * EXPERTS * sizeof(int16_t))));
    free(moves);
    coterie_placement_destroy(placement);
    coterie_placement_destroy(old);
}

Test(replace, is_never_worse_with_a_larger_budget)
{
    coterie_placement_t *old = in_order(0);
    double before = 1e9;

    for (uint64_t most = 0; most <= LAYERS * EXPERTS; most += 3) {
        coterie_placement_t *placement = NULL;
        coterie_move_t *moves = NULL;
        coterie_replace_report_t report =
            replace(old, most, &placement, &moves);
        cr_expect(le(u64, report.moves, most));
        cr_expect(le(dbl, report.train_copies, before));
        before = report.train_copies;
        free(moves);
        coterie_placement_destroy(placement);
    }
    coterie_placement_destroy(old);
}

Test(replace, lists_the_moves_that_lead_to_the_new_placement)
{
    coterie_placement_t *old = in_order(0), *placement = NULL;
    coterie_move_t *moves = NULL;
    coterie_replace_report_t report = replace(old, 8, &placement, &moves);
    uint64_t changed = 0;

    cr_expect(gt(u64, report.moves, 0));
    for (uint64_t i = 0; i < report.moves; i++) {
        const coterie_move_t *m = &moves[i];
        cr_expect(holds(old, m->layer, m->expert, m->from));
        cr_expect(not(holds(old, m->layer, m->expert, m->to)));
        cr_expect(holds(placement, m->layer, m->expert, m->to));
    }
    for (uint32_t l = 0; l < LAYERS; l++)
        for (uint32_t e = 0; e < EXPERTS; e++)
            for (uint32_t r = 0; r < RANKS; r++)
                changed += holds(placement, l, e, r) && !holds(old, l, e, r);
    cr_expect(eq(u64, changed, report.moves));
    free(moves);
    coterie_placement_destroy(placement);
    coterie_placement_destroy(old);
}

Test(replace, without_a_limit_is_as_good_as_placing)
{
    coterie_placement_t *old = in_order(0), *placement = NULL;
    coterie_replace_report_t report =
        replace(old, UINT64_MAX, &placement, NULL);

    cr_expect(le(dbl, report.held_copies, 1.01 * report.held_copies_all));
    cr_expect(lt(dbl, report.held_copies, 0.8 * report.held_copies_before));
    coterie_placement_destroy(placement);
    coterie_placement_destroy(old);
}

Test(replace, fills_spare_slots_within_its_budget)
{
    coterie_placement_t *old = in_order(1), *placement = NULL;
    coterie_placement_options_t view;
    coterie_replace_report_t report = replace(old, 12, &placement, NULL);

    coterie_placement_view(placement, &view);
    cr_expect(eq(u32, view.slot_count, EXPERTS + RANKS));
    cr_expect(le(u64, report.moves, 12));
    cr_expect(lt(dbl, report.train_copies, report.train_copies_before));
    coterie_placement_destroy(placement);
    coterie_placement_destroy(old);
}

Test(replace, refuses_a_trace_of_something_else)
{
    coterie_replace_options_t options = COTERIE_REPLACE_OPTIONS_INIT;
    coterie_placement_options_t other = COTERIE_PLACEMENT_OPTIONS_INIT;
    coterie_placement_t *old = NULL, *placement = NULL;
    coterie_trace_t *trace = topics();

    other.layer_count = LAYERS + 1;
    other.expert_count = EXPERTS;
    other.rank_count = RANKS;
    cr_assert(eq(int, COTERIE_OK, coterie_placement_create(&other, &old)));
    cr_expect(eq(int, COTERIE_ERR_MISMATCH,
                 coterie_replace(old, trace, &options, &placement, NULL,
                                 NULL)));
    coterie_placement_destroy(old);
    old = in_order(0);
    options.train_share = 2;
    cr_expect(eq(int, COTERIE_ERR_INVALID,
                 coterie_replace(old, trace, &options, &placement, NULL,
                                 NULL)));
    cr_expect(zero(ptr, placement));
    coterie_placement_destroy(old);
    coterie_trace_destroy(trace);
}

Test(replace, as_a_command_keeps_to_its_bytes)
{
    coterie_placement_t *old = in_order(0);
    coterie_trace_t *trace = topics();
    json_t *report;

    cr_assert(eq(int, COTERIE_OK,
                 coterie_placement_write(old, file_path("old.json"),
                                         COTERIE_FORMAT_COTERIE, 0)));
    cr_assert(eq(int, COTERIE_OK,
                 coterie_trace_write(trace, file_path("trace.npz"), 0)));
    report = command_json("replace '%s' '%s' -o '%s' --budget-bytes 6e6 "
                          "--expert-bytes 1e6 --time-limit 5 --json",
                          file_path("old.json"), file_path("trace.npz"),
                          file_path("new.json"));
    cr_expect(le(dbl, json_number_value(json_object_get(report, "bytes")),
                 6e6));
    cr_expect(eq(sz, json_array_size(json_object_get(report, "moves")),
                 (size_t)json_integer_value(
                     json_object_get(report, "move_count"))));
    json_decref(report);
    expect_refused(1, "needs --expert-bytes",
                   "replace '%s' '%s' -o '%s' --budget-bytes 5",
                   file_path("old.json"), file_path("trace.npz"),
                   file_path("no.json"));
    expect_refused(2, "not both",
                   "replace '%s' '%s' -o '%s' --budget-bytes 5 --moves 1",
                   file_path("old.json"), file_path("trace.npz"),
                   file_path("no.json"));
    expect_refused(1, "--moves takes a number",
                   "replace '%s' '%s' -o '%s' --moves many",
                   file_path("old.json"), file_path("trace.npz"),
                   file_path("no.json"));
    coterie_placement_destroy(old);
    coterie_trace_destroy(trace);
}
