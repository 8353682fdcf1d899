#include "config.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/options.h"
#include "offload/chance.h"
#include "offload/predictor.h"

enum { PROGRESS_TOKENS = 256 };

/* Where a set lies in the trace. */
typedef struct place {
    uint64_t token;
    uint32_t layer;
} place_t;

typedef struct scorer {
    const coterie_trace_view_t *view;
    coterie_score_options_t options;
    coterie_predictor_t *predictor;
    coterie_history_t *history;
    float *chosen; /* [expert]: 1 or 0, of the set being scored */
    coterie_score_result_t result; /* sums, until the end */
} scorer_t;

static coterie_status_t options_check(const coterie_trace_view_t *view,
                                      coterie_score_options_t *options);
static void sequence_score(scorer_t *scorer, uint64_t first, uint64_t end);
static void set_play(scorer_t *scorer, place_t place, int counts);
static void set_score(scorer_t *scorer, const int16_t *ids);
static void voice_score(const scorer_t *scorer, const int16_t *ids,
                        const float *chance, coterie_score_t *score);
static void calibration_note(scorer_t *scorer, const float *chance);
static uint32_t rank_of(const float *chance, uint32_t count, uint32_t expert);
static void result_finish(coterie_score_result_t *result);

coterie_status_t coterie_predictor_score(
    const coterie_trace_view_t *trace, const coterie_score_options_t *options,
    coterie_score_result_t *result)
{
    scorer_t scorer = {.view = trace, .result = COTERIE_SCORE_RESULT_INIT};
    coterie_predictor_shape_t shape = {.layer_count = trace->layer_count,
                                       .expert_count = trace->expert_count,
                                       .k = trace->k};
    coterie_status_t status =
        coterie_options_read(options, &scorer.options, sizeof(scorer.options),
                             "coterie_predictor_score");

    if (status == COTERIE_OK)
        status = options_check(trace, &scorer.options);
    if (status != COTERIE_OK)
        return status;
    shape.distance = scorer.options.distance;
    status = coterie_predictor_create(&shape, &scorer.predictor);
    if (status == COTERIE_OK)
        status = coterie_history_create(
            trace->k, coterie_predictor_reach(scorer.predictor),
            &scorer.history);
    if (status != COTERIE_OK)
        goto out;
    scorer.chosen = calloc(trace->expert_count, sizeof(float));
    if (scorer.chosen == NULL) {
        status = coterie_fail_memory(trace->expert_count * sizeof(float),
                                     "scoring");
        goto out;
    }
    for (uint64_t s = 0; s < trace->sequence_count; s++)
        sequence_score(&scorer, trace->seq_start[s], trace->seq_start[s + 1]);
    result_finish(&scorer.result);
    if (result->size < scorer.result.size)
        scorer.result.size = result->size; /* an older caller's is shorter */
    memcpy(result, &scorer.result, scorer.result.size);
out:
    free(scorer.chosen);
    coterie_history_destroy(scorer.history);
    coterie_predictor_destroy(scorer.predictor);
    return status;
}

static coterie_status_t options_check(const coterie_trace_view_t *view,
                                      coterie_score_options_t *options)
{
    if (options->distance == 0)
        options->distance = 1;
    if (options->distance > view->layer_count)
        return coterie_fail(COTERIE_ERR_INVALID,
                            "%u layers ahead: the trace has %u layers",
                            options->distance, view->layer_count);
    if (options->first_counted >= view->token_count)
        return coterie_fail(COTERIE_ERR_INVALID,
                            "no token is left to score: all %llu train",
                            (unsigned long long)view->token_count);
    return COTERIE_OK;
}

static void sequence_score(scorer_t *scorer, uint64_t first, uint64_t end)
{
    const coterie_score_options_t *options = &scorer->options;

    coterie_history_restart(scorer->history);
    for (uint64_t token = first; token < end; token++) {
        int counted = token >= options->first_counted;
        scorer->result.tokens += counted;
        for (uint32_t l = 0; l < scorer->view->layer_count; l++) {
            int due = options->distance == scorer->view->layer_count
                          ? token > first
                          : l >= options->distance;
            set_play(scorer, (place_t){token, l}, counted && due);
        }
        if (options->progress != NULL && token % PROGRESS_TOKENS == 0)
            options->progress(options->progress_arg, token,
                              scorer->view->token_count);
    }
}

static void set_play(scorer_t *scorer, place_t place, int counts)
{
    const coterie_trace_view_t *view = scorer->view;
    size_t set = place.token * view->layer_count + place.layer;
    const int16_t *ids = view->experts + set * view->k;
    coterie_clue_t clue = COTERIE_CLUE_NONE;

    /* A trace has the router's guess of the next layer, of the same token. */
    if (view->predicted != NULL && scorer->options.distance == 1 &&
        place.layer > 0) {
        clue.hint = view->predicted + (set - 1) * view->predicted_k;
        clue.hint_count = view->predicted_k;
    }
    /* A whole token ahead, it has not come in yet. */
    if (view->token != NULL && scorer->options.distance <= place.layer)
        clue.token = view->token[place.token];
    coterie_history_push(scorer->history, ids);
    coterie_predictor_review(scorer->predictor, scorer->history, &clue);
    if (counts)
        set_score(scorer, ids);
    if (!scorer->options.frozen ||
        place.token < scorer->options.first_counted)
        coterie_predictor_learn(scorer->predictor, ids);
}

static void set_score(scorer_t *scorer, const int16_t *ids)
{
    const coterie_trace_view_t *view = scorer->view;

    for (uint32_t i = 0; i < view->k; i++)
        if (ids[i] >= 0)
            scorer->chosen[ids[i]] = 1;
    for (int i = 0; i < COTERIE_PREDICTIONS; i++) {
        const float *chance = coterie_predictor_chance(
            scorer->predictor, (coterie_prediction_t)i);
        if (chance != NULL)
            voice_score(scorer, ids, chance, &scorer->result.score[i]);
        if (i == COTERIE_PREDICTION_BLEND)
            calibration_note(scorer, chance);
    }
    for (uint32_t i = 0; i < view->k; i++)
        if (ids[i] >= 0)
            scorer->chosen[ids[i]] = 0;
}

static void voice_score(const scorer_t *scorer, const int16_t *ids,
                        const float *chance, coterie_score_t *score)
{
    uint32_t k = scorer->view->k, experts = scorer->view->expert_count;

    score->sets++;
    for (uint32_t i = 0; i < k; i++) {
        uint32_t rank;
        if (ids[i] < 0)
            continue;
        score->uses++;
        rank = rank_of(chance, experts, (uint32_t)ids[i]);
        score->recall_k += rank < k;
        score->recall_2k += rank < 2 * k;
    }
    score->log_loss += coterie_chance_loss(chance, scorer->chosen, experts);
}

static void calibration_note(scorer_t *scorer, const float *chance)
{
    for (uint32_t e = 0; e < scorer->view->expert_count; e++) {
        int bin = (int)(chance[e] * COTERIE_CALIBRATION_BINS);
        coterie_calibration_t *c = &scorer->result.calibration[bin];
        c->count++;
        c->chance += chance[e];
        c->frequency += scorer->chosen[e];
    }
}

/* Equal chances go by number. */
static uint32_t rank_of(const float *chance, uint32_t count, uint32_t expert)
{
    uint32_t rank = 0;

    for (uint32_t e = 0; e < count; e++)
        rank += chance[e] > chance[expert] ||
                (chance[e] == chance[expert] && e < expert);
    return rank;
}

static void result_finish(coterie_score_result_t *result)
{
    double distance = 0, count = 0;

    for (int i = 0; i < COTERIE_PREDICTIONS; i++) {
        coterie_score_t *score = &result->score[i];
        score->recall_k /= fmax((double)score->uses, 1);
        score->recall_2k /= fmax((double)score->uses, 1);
        score->log_loss /= fmax((double)score->sets, 1);
    }
    for (int i = 0; i < COTERIE_CALIBRATION_BINS; i++) {
        coterie_calibration_t *c = &result->calibration[i];
        distance += fabs(c->chance - c->frequency);
        count += (double)c->count;
        c->chance /= fmax((double)c->count, 1);
        c->frequency /= fmax((double)c->count, 1);
    }
    result->calibration_error = distance / fmax(count, 1);
}
