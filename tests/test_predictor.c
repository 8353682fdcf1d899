#include "config.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include "offload/chance.h"
#include "offload/predictor.h"
#include "tests/planted.h"

enum { TOKENS = 2400, TRAINED = TOKENS / 2 };

/* By so much do recalls of 7200 choices scatter. */
static const double scatter = 0.01;

static coterie_score_result_t scored(planted_rule_t rule, uint32_t distance)
{
    const coterie_trace_view_t view = planted(rule, TOKENS);
    coterie_score_options_t options = COTERIE_SCORE_OPTIONS_INIT;
    coterie_score_result_t result = COTERIE_SCORE_RESULT_INIT;

    options.distance = distance;
    options.first_counted = TRAINED;
    cr_assert(eq(int, COTERIE_OK,
                 coterie_predictor_score(&view, &options, &result)),
              "%s", coterie_last_error());
    return result;
}

static double best_part(const coterie_score_result_t *result, double part)
{
    double best = 0;

    for (int i = 0; i < COTERIE_PREDICTION_STACK; i++)
        best = fmax(best, part > 1 ? result->score[i].recall_2k
                                   : result->score[i].recall_k);
    return best;
}

Test(predictor, follows_a_planted_affinity_one_and_two_layers_ahead)
{
    for (uint32_t distance = 1; distance <= 2; distance++) {
        coterie_score_result_t result = scored(PLANTED_FOLLOWING, distance);
        double reached =
            result.score[COTERIE_PREDICTION_BLEND].recall_k;

        cr_expect(reached > 0.75, "%u ahead: %f", distance, reached);
        cr_expect(result.score[COTERIE_PREDICTION_POPULARITY].recall_k < 0.3);
    }
}

Test(predictor, blend_is_as_good_as_its_best_part)
{
    static const planted_rule_t rules[] = {PLANTED_POPULAR, PLANTED_FOLLOWING,
                                           PLANTED_PHASES};

    for (int i = 0; i < 3; i++) {
        coterie_score_result_t result = scored(rules[i], 1);
        const coterie_score_t *blend =
            &result.score[COTERIE_PREDICTION_BLEND];

        cr_expect(blend->recall_k >= best_part(&result, 1) - scatter,
                  "rule %d: %f of %f", i, blend->recall_k,
                  best_part(&result, 1));
        cr_expect(blend->recall_2k >= best_part(&result, 2) - scatter,
                  "rule %d: %f of %f", i, blend->recall_2k,
                  best_part(&result, 2));
    }
}

Test(predictor, finds_nothing_where_there_is_nothing)
{
    coterie_score_result_t result = scored(PLANTED_RANDOM, 1);
    double even = (double)PLANTED_K / PLANTED_EXPERTS;

    for (int i = 0; i < COTERIE_PREDICTIONS; i++)
        if (result.score[i].sets > 0)
            cr_expect(fabs(result.score[i].recall_k - even) < 0.03, "%d: %f",
                      i, result.score[i].recall_k);
}

Test(predictor, chances_are_as_often_right_as_they_say)
{
    coterie_score_result_t result = scored(PLANTED_FOLLOWING, 1);

    cr_expect(result.calibration_error < 0.02, "%f",
              result.calibration_error);
}

Test(predictor, counts_only_sets_whose_prediction_was_due_in_the_token)
{
    coterie_score_result_t near = scored(PLANTED_RANDOM, 1),
                           far = scored(PLANTED_RANDOM, PLANTED_LAYERS);
    uint64_t held = TOKENS - TRAINED;

    cr_expect(eq(u64, near.tokens, held));
    cr_expect(eq(u64, near.score[COTERIE_PREDICTION_BLEND].sets,
                 held * (PLANTED_LAYERS - 1)));
    cr_expect(eq(u64, far.score[COTERIE_PREDICTION_BLEND].sets,
                 held * PLANTED_LAYERS));
    cr_expect(eq(u64, near.score[COTERIE_PREDICTION_ROUTER].sets, 0));
}

Test(predictor, frozen_forgets_what_it_is_not_told)
{
    const coterie_trace_view_t view = planted(PLANTED_PHASES, TOKENS);
    coterie_score_options_t options = COTERIE_SCORE_OPTIONS_INIT;
    coterie_score_result_t learning = COTERIE_SCORE_RESULT_INIT,
                           frozen = COTERIE_SCORE_RESULT_INIT;

    options.first_counted = 60; /* a phase and a half */
    coterie_predictor_score(&view, &options, &learning);
    options.frozen = 1;
    coterie_predictor_score(&view, &options, &frozen);
    cr_expect(frozen.score[COTERIE_PREDICTION_BLEND].recall_k <
              learning.score[COTERIE_PREDICTION_BLEND].recall_k - 0.05);
}

/* A router that lists the coming set first, but for the last layer. */
Test(predictor, blend_trusts_a_router_that_is_right)
{
    coterie_trace_view_t view = planted(PLANTED_RANDOM, TOKENS);
    coterie_score_options_t options = COTERIE_SCORE_OPTIONS_INIT;
    coterie_score_result_t result = COTERIE_SCORE_RESULT_INIT;
    size_t ids = (size_t)TOKENS * PLANTED_LAYERS * PLANTED_K;
    int16_t *predicted = malloc(ids * sizeof(*predicted));

    memcpy(predicted, view.experts + PLANTED_K,
           (ids - PLANTED_K) * sizeof(*predicted));
    memset(predicted + ids - PLANTED_K, 0xff,
           PLANTED_K * sizeof(*predicted));
    view.predicted = predicted;
    view.predicted_k = PLANTED_K;
    options.first_counted = TRAINED;
    cr_assert(eq(int, COTERIE_OK,
                 coterie_predictor_score(&view, &options, &result)));
    cr_expect(result.score[COTERIE_PREDICTION_ROUTER].recall_k > 0.999);
    cr_expect(result.score[COTERIE_PREDICTION_BLEND].recall_k > 0.999);
    free(predicted);
}

Test(predictor, gives_the_same_chances_before_and_after_the_fact)
{
    const coterie_predictor_shape_t shape = {.layer_count = PLANTED_LAYERS,
                                             .expert_count = PLANTED_EXPERTS,
                                             .k = PLANTED_K,
                                             .distance = 2};
    const coterie_trace_view_t view = planted(PLANTED_FOLLOWING, 100);
    const coterie_clue_t none = COTERIE_CLUE_NONE;
    float before[2][PLANTED_EXPERTS];
    coterie_predictor_t *predictor = NULL;
    coterie_history_t *history = NULL;

    cr_assert(eq(int, COTERIE_OK,
                 coterie_predictor_create(&shape, &predictor)));
    cr_assert(eq(int, COTERIE_OK,
                 coterie_history_create(PLANTED_K,
                                        coterie_predictor_reach(predictor),
                                        &history)));
    for (unsigned set = 0; set < 100 * PLANTED_LAYERS; set++) {
        const int16_t *ids = view.experts + set * PLANTED_K;
        coterie_history_push(history, ids);
        coterie_predictor_review(predictor, history, &none);
        if (set >= 2)
            cr_assert(zero(int, memcmp(before[set % 2],
                                       coterie_predictor_chance(
                                           predictor,
                                           COTERIE_PREDICTION_BLEND),
                                       sizeof(before[0]))),
                      "set %u", set);
        coterie_predictor_learn(predictor, ids);
        coterie_predictor_predict(predictor, history, &none);
        memcpy(before[set % 2],
               coterie_predictor_chance(predictor, COTERIE_PREDICTION_BLEND),
               sizeof(before[0]));
    }
    coterie_history_destroy(history);
    coterie_predictor_destroy(predictor);
}

Test(predictor, accepts_tokens_without_experts)
{
    static int16_t none[40 * 2 * 2];
    const uint64_t seq_start[] = {0, 20, 20, 40};
    const coterie_trace_view_t view = {.token_count = 40,
                                       .sequence_count = 3,
                                       .layer_count = 2,
                                       .expert_count = 3,
                                       .k = 2,
                                       .experts = none,
                                       .seq_start = seq_start};
    const coterie_score_options_t options = COTERIE_SCORE_OPTIONS_INIT;
    coterie_score_result_t result = COTERIE_SCORE_RESULT_INIT;

    memset(none, 0xff, sizeof(none));
    cr_assert(eq(int, COTERIE_OK,
                 coterie_predictor_score(&view, &options, &result)));
    cr_expect(zero(dbl, result.score[COTERIE_PREDICTION_BLEND].recall_k));
    cr_expect(eq(u64, result.score[COTERIE_PREDICTION_BLEND].uses, 0));
}

Test(predictor, refuses_what_cannot_be_scored)
{
    const coterie_trace_view_t view = planted(PLANTED_RANDOM, 10);
    coterie_score_options_t options = COTERIE_SCORE_OPTIONS_INIT;
    coterie_score_result_t result = COTERIE_SCORE_RESULT_INIT;

    options.distance = PLANTED_LAYERS + 1;
    cr_expect(eq(int, COTERIE_ERR_INVALID,
                 coterie_predictor_score(&view, &options, &result)));
    options.distance = 1;
    options.first_counted = 10;
    cr_expect(eq(int, COTERIE_ERR_INVALID,
                 coterie_predictor_score(&view, &options, &result)));
    cr_expect(eq(u64, result.tokens, 0)); /* untouched */
}

Test(chance, odds_and_chances_are_inverse_and_exact_enough)
{
    for (float chance = 0.0002f; chance < 0.9998f; chance += 0.0007f) {
        coterie_lanes_t odds =
            coterie_lanes_odds((coterie_lanes_t){0} + chance);
        float wanted = logf(chance / (1 - chance));

        cr_assert(fabsf(odds[0] - wanted) < 2e-5f, "%f: %f", chance,
                  odds[0]);
        cr_assert(fabsf(coterie_lanes_chance(odds)[3] - chance) < 2e-5f, "%f",
                  chance);
    }
}

Test(chance, nothing_is_certain)
{
    const float odds[] = {-1e30f, -88, 88, 1e30f};

    for (int i = 0; i < 4; i++) {
        float chance =
            coterie_lanes_chance((coterie_lanes_t){0} + odds[i])[0];
        cr_expect(chance > 0 && chance < 1, "%f: %f", odds[i], chance);
        cr_expect(eq(int, chance > 0.5f, odds[i] > 0));
    }
}
