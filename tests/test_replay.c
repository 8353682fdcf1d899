#include "config.h"

#include <stdio.h>
#include <string.h>

#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include <coterie/offload.h>

#include "tests/command.h"
#include "tests/planted.h"
#include "tests/trace_files.h"

enum { ITEMS = PLANTED_LAYERS * PLANTED_EXPERTS, TOKENS = 800 };

TestSuite(replay, .init = files_make, .fini = files_remove);

static coterie_replay_result_t replayed(const coterie_trace_view_t *view,
                                        coterie_replay_options_t options)
{
    coterie_replay_result_t result = COTERIE_REPLAY_RESULT_INIT;

    cr_assert(eq(int, COTERIE_OK,
                 coterie_cache_replay(view, &options, &result)),
              "%s", coterie_last_error());
    return result;
}

static coterie_replay_options_t with_slots(coterie_policy_kind_t policy,
                                           uint32_t slots)
{
    coterie_replay_options_t options = COTERIE_REPLAY_OPTIONS_INIT;

    options.policy = policy;
    options.slots = slots;
    return options;
}

Test(replay, counts_what_a_hand_counts)
{
    /* One layer. Two slots: 0 1 2 miss, 0 misses under LRU (1 and 2 stay) but
     * not under Belady's rule, 2 hits. */
    const int16_t experts[] = {0, 1, 2, 0, 2};
    const uint64_t seq_start[] = {0, 5};
    const coterie_trace_view_t view = {.token_count = 5,
                                       .sequence_count = 1,
                                       .layer_count = 1,
                                       .expert_count = 3,
                                       .k = 1,
                                       .experts = experts,
                                       .seq_start = seq_start};
    coterie_replay_result_t result =
        replayed(&view, with_slots(COTERIE_POLICY_LRU, 2));

    cr_expect(eq(u64, result.uses, 5));
    cr_expect(eq(u64, result.hits, 1));
    cr_expect(eq(u64, result.misses, 4));
    cr_expect(eq(u64, result.optimal_hits, 2));
    cr_expect(eq(u64, result.tokens, 5));
}

Test(replay, a_bigger_budget_never_needs_more_reads)
{
    for (int rule = PLANTED_RANDOM; rule <= PLANTED_PHASES; rule++)
        for (int policy = COTERIE_POLICY_LRU; policy <= COTERIE_POLICY_COST;
             policy++) {
            const coterie_trace_view_t view =
                planted((planted_rule_t)rule, TOKENS / 4);
            uint64_t misses = UINT64_MAX, optimal = 0;
            for (uint32_t slots = 1; slots <= ITEMS; slots++) {
                coterie_replay_result_t result = replayed(
                    &view, with_slots((coterie_policy_kind_t)policy, slots));
                cr_assert(result.misses <= misses, "%d %d %u", rule, policy,
                          slots);
                cr_assert(result.optimal_hits >= optimal);
                misses = result.misses;
                optimal = result.optimal_hits;
            }
        }
}

Test(replay, streams_share_what_they_both_need)
{
    coterie_trace_view_t view = planted(PLANTED_PHASES, TOKENS);
    const uint64_t halves[] = {0, TOKENS / 2, TOKENS};
    coterie_replay_options_t options = with_slots(COTERIE_POLICY_COST, 8);
    coterie_replay_result_t one, two;

    view.sequence_count = 2;
    view.seq_start = halves;
    one = replayed(&view, options);
    options.streams = 2;
    two = replayed(&view, options);
    cr_expect(eq(u64, one.tokens, TOKENS));
    cr_expect(eq(u64, two.tokens, TOKENS));
    cr_expect(two.uses < one.uses);
}

Test(replay, no_policy_beats_the_optimum)
{
    for (int policy = COTERIE_POLICY_LRU; policy <= COTERIE_POLICY_COST;
         policy++) {
        const coterie_trace_view_t view = planted(PLANTED_PHASES, TOKENS);
        coterie_replay_result_t result = replayed(
            &view, with_slots((coterie_policy_kind_t)policy, ITEMS / 4));
        cr_expect(result.hits <= result.optimal_hits, "%d", policy);
    }
}

Test(replay, cost_beats_lru_and_degrades_gently)
{
    const coterie_trace_view_t view = planted(PLANTED_POPULAR, TOKENS);
    uint32_t cycle = PLANTED_LAYERS * PLANTED_K;

    for (uint32_t slots = cycle / 2; slots <= ITEMS / 2; slots *= 2) {
        coterie_replay_result_t lru = replayed(
            &view, with_slots(COTERIE_POLICY_LRU, slots));
        coterie_replay_result_t cost = replayed(
            &view, with_slots(COTERIE_POLICY_COST, slots));
        cr_expect(cost.hits > lru.hits, "%u slots", slots);
        if (slots < cycle) {
            cr_expect(eq(u64, lru.hits, 0));
            cr_expect(cost.hits > cost.uses / 20);
        }
    }
}

Test(replay, counts_only_the_held_out_tokens)
{
    const coterie_trace_view_t view = planted(PLANTED_POPULAR, TOKENS);
    coterie_replay_options_t options = with_slots(COTERIE_POLICY_LFU, ITEMS);
    coterie_replay_result_t result;

    options.first_counted = TOKENS - 100;
    result = replayed(&view, options);
    cr_expect(eq(u64, result.tokens, 100));
    cr_expect(eq(u64, result.uses, 100 * PLANTED_LAYERS * PLANTED_K));
}

Test(replay, hot_counts_fill_the_next_run_s_cache)
{
    for (int policy = COTERIE_POLICY_LRU; policy <= COTERIE_POLICY_COST;
         policy++) {
        uint64_t hot[ITEMS] = {0};
        const coterie_trace_view_t view = planted(PLANTED_POPULAR, TOKENS / 8);
        coterie_replay_options_t options =
            with_slots((coterie_policy_kind_t)policy, ITEMS / 4);
        coterie_replay_result_t cold, warm;

        options.hot = hot;
        cold = replayed(&view, options);
        warm = replayed(&view, options);
        cr_expect(eq(u64, cold.preloaded, 0));
        cr_expect(eq(u64, warm.preloaded, ITEMS / 4));
        cr_expect(warm.misses < cold.misses, "%d", policy);
    }
}

Test(replay, hot_counts_halve_and_add_up)
{
    const coterie_trace_view_t view = planted(PLANTED_POPULAR, 50);
    coterie_replay_options_t options = with_slots(COTERIE_POLICY_LRU, 4);
    uint64_t once[ITEMS] = {0}, twice[ITEMS];

    options.hot = once;
    replayed(&view, options);
    memcpy(twice, once, sizeof(twice));
    options.hot = twice;
    replayed(&view, options);
    for (int i = 0; i < ITEMS; i++)
        cr_expect(eq(u64, twice[i], once[i] / 2 + once[i]));
}

Test(replay, refuses_a_budget_without_room)
{
    const coterie_trace_view_t view = planted(PLANTED_RANDOM, 10);
    coterie_replay_options_t options = with_slots(COTERIE_POLICY_LRU, 0);
    coterie_replay_result_t result = COTERIE_REPLAY_RESULT_INIT;

    cr_expect(eq(int, COTERIE_ERR_INVALID,
                 coterie_cache_replay(&view, &options, &result)));
    options.slots = 4;
    options.policy = 9;
    cr_expect(eq(int, COTERIE_ERR_INVALID,
                 coterie_cache_replay(&view, &options, &result)));
    options.policy = COTERIE_POLICY_LRU;
    options.first_counted = 10;
    cr_expect(eq(int, COTERIE_ERR_INVALID,
                 coterie_cache_replay(&view, &options, &result)));
    cr_expect(eq(u64, result.uses, 0)); /* untouched */
}

Test(replay, hot_files_keep_their_counts)
{
    const uint64_t kept[] = {3, 0, 1ull << 40, 7, 8, 9};
    uint64_t read[6] = {0};

    cr_assert(eq(int, COTERIE_OK,
                 coterie_hot_write(file_path("hot"), 2, 3, kept)));
    cr_assert(eq(int, COTERIE_OK,
                 coterie_hot_read(file_path("hot"), 2, 3, read)));
    cr_expect(zero(int, memcmp(kept, read, sizeof(kept))));
    cr_expect(eq(int, files_count(), 1));
}

Test(replay, hot_files_that_do_not_fit_change_nothing)
{
    static const struct {
        const char *text;
        coterie_status_t status;
    } bad[] = {
        {"", COTERIE_ERR_FORMAT},
        {"{\"format\": \"coterie-hot\", \"version\": 1, \"counts\": [[1,",
         COTERIE_ERR_FORMAT},
        {"{\"format\": \"else\", \"version\": 1}", COTERIE_ERR_FORMAT},
        {"{\"format\": \"coterie-hot\", \"version\": 2}",
         COTERIE_ERR_UNSUPPORTED},
        {"{\"format\": \"coterie-hot\", \"version\": 1}",
         COTERIE_ERR_MISMATCH},
        {"{\"format\": \"coterie-hot\", \"version\": 1, \"counts\": [[1]]}",
         COTERIE_ERR_MISMATCH},
        {"{\"format\": \"coterie-hot\", \"version\": 1, "
         "\"counts\": [[1, -2]]}",
         COTERIE_ERR_FORMAT},
    };
    uint64_t count[2] = {5, 6};

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        text_put("hot", bad[i].text);
        cr_expect(eq(int, bad[i].status,
                     coterie_hot_read(file_path("hot"), 1, 2, count)),
                  "%s", bad[i].text);
    }
    cr_expect(eq(int, COTERIE_ERR_NOT_FOUND,
                 coterie_hot_read(file_path("none"), 1, 2, count)));
    cr_expect(eq(u64, count[0], 5));
    cr_expect(eq(u64, count[1], 6));
}

Test(replay, the_command_reports_hits_beside_the_optimum)
{
    json_t *report;

    planted_put("t.npy", PLANTED_POPULAR, 200);
    report = command_json("cache '%s' --budget 25%% --policy cost "
                          "--record-size 1000 --hot '%s' --json",
                          file_path("t.npy"), file_path("hot"));
    cr_expect(eq(int, (int)json_integer_value(json_object_get(
                          report, "slots")), ITEMS / 4));
    cr_expect(eq(dbl, json_number_value(json_object_get(report,
                                                        "demand_bytes")),
                 1000 * json_number_value(json_object_get(report,
                                                          "misses"))));
    cr_expect(json_number_value(json_object_get(report, "hit_rate")) <
              json_number_value(json_object_get(report,
                                                "optimal_hit_rate")));
    json_decref(report);
    report = command_json("cache '%s' --budget 4 --hot '%s' --json",
                          file_path("t.npy"), file_path("hot"));
    cr_expect(eq(int, (int)json_integer_value(json_object_get(
                          report, "preloaded")), 4));
    json_decref(report);
}

Test(replay, the_command_scores_predictors)
{
    json_t *report, *ahead;

    planted_put("t.npy", PLANTED_FOLLOWING, 600);
    report = command_json("predict '%s' --train 0.4 --json",
                          file_path("t.npy"));
    ahead = json_object_get(report, "ahead");
    cr_expect(eq(sz, json_array_size(ahead), 2));
    cr_expect(eq(int, (int)json_integer_value(json_object_get(
                          json_array_get(ahead, 1), "lead_layers")), 2));
    cr_expect(eq(int, (int)json_integer_value(json_object_get(
                          json_array_get(ahead, 0), "tokens")), 360));
    json_decref(report);
}

Test(replay, the_commands_refuse_what_makes_no_sense)
{
    planted_put("t.npy", PLANTED_RANDOM, 20);
    expect_refused(2, "--policy", "cache '%s' --budget 9 --policy fifo",
                   file_path("t.npy"));
    expect_refused(2, "--budget", "cache '%s'", file_path("t.npy"));
    expect_refused(2, "too small", "cache '%s' --budget 0.5%%",
                   file_path("t.npy"));
    expect_refused(2, "100%", "cache '%s' --budget 101%%",
                   file_path("t.npy"));
    expect_refused(2, "--budget", "cache '%s' --budget much",
                   file_path("t.npy"));
    expect_refused(2, "unit", "cache '%s' --budget 8X --record-size 9",
                   file_path("t.npy"));
    expect_refused(2, "--record-size", "cache '%s' --budget 8G",
                   file_path("t.npy"));
    expect_refused(2, "--train", "predict '%s' --train 1",
                   file_path("t.npy"));
    expect_refused(1, "layers", "predict '%s' --ahead 5",
                   file_path("t.npy"));
    expect_refused(1, "none.npy", "predict '%s'", file_path("none.npy"));
    text_put("hot", "{}");
    expect_refused(1, "hot", "cache '%s' --budget 9 --hot '%s'",
                   file_path("t.npy"), file_path("hot"));
}
