#include "config.h"

#include <assert.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "offload/forecast.h"

/* Half of what an expert's rate remembers is of its latest 16 turns; a rate
 * never gets so low that its expert could not come back. */
static const float rate_step = 0.0424f, rate_least = 1e-3f;

struct coterie_forecast {
    coterie_predictor_t *predictor; /* a whole token ahead */
    uint32_t layer_count, expert_count, k;
    uint64_t *turn;  /* [layer]: the caller's number of the present turn, */
    uint64_t *turns; /* and how many there have been */
    float *absent;   /* [item]: chance that no sequence needs it next */
    float *rate;     /* [item]: needs per turn, before the present one */
    uint8_t *used;   /* [item]: in the present turn */
};

static void turn_begin(coterie_forecast_t *forecast, uint32_t layer,
                       uint64_t turn);
static void sequence_note(coterie_forecast_t *forecast, uint32_t layer,
                          const coterie_history_t *history);
static float rate_now(const coterie_forecast_t *forecast, size_t item);

coterie_status_t coterie_forecast_create(uint32_t layer_count,
                                         uint32_t expert_count, uint32_t k,
                                         coterie_forecast_t **forecast_p)
{
    const coterie_predictor_shape_t shape = {.layer_count = layer_count,
                                             .expert_count = expert_count,
                                             .k = k,
                                             .distance = layer_count};
    size_t items = (size_t)layer_count * expert_count;
    coterie_forecast_t *forecast = calloc(1, sizeof(*forecast));
    coterie_status_t status;

    if (forecast == NULL)
        return coterie_fail_memory(sizeof(*forecast), "a forecast");
    forecast->layer_count = layer_count;
    forecast->expert_count = expert_count;
    forecast->k = k;
    forecast->turn = calloc(layer_count, sizeof(*forecast->turn));
    forecast->turns = calloc(layer_count, sizeof(*forecast->turns));
    forecast->absent = malloc(items * sizeof(float));
    forecast->rate = malloc(items * sizeof(float));
    forecast->used = calloc(items, 1);
    status = coterie_predictor_create(&shape, &forecast->predictor);
    if (status == COTERIE_OK &&
        (forecast->turn == NULL || forecast->turns == NULL ||
         forecast->absent == NULL || forecast->rate == NULL ||
         forecast->used == NULL))
        status = coterie_fail_memory(items * sizeof(float), "a forecast");
    if (status != COTERIE_OK) {
        coterie_forecast_destroy(forecast);
        return status;
    }
    for (size_t i = 0; i < items; i++) {
        forecast->rate[i] = (float)k / (float)expert_count;
        forecast->absent[i] = 1 - forecast->rate[i];
    }
    *forecast_p = forecast;
    return COTERIE_OK;
}

uint32_t coterie_forecast_reach(const coterie_forecast_t *forecast)
{
    return coterie_predictor_reach(forecast->predictor);
}

void coterie_forecast_seed(coterie_forecast_t *forecast,
                           const uint64_t *count, coterie_policy_t *policy)
{
    for (uint32_t layer = 0; layer < forecast->layer_count; layer++) {
        size_t first = (size_t)layer * forecast->expert_count;
        double total = 0;
        for (uint32_t e = 0; e < forecast->expert_count; e++)
            total += (double)count[first + e];
        for (uint32_t e = 0; e < forecast->expert_count && total > 0; e++) {
            float rate = (float)((double)count[first + e] / total) *
                         (float)forecast->k;
            forecast->rate[first + e] = rate;
            coterie_policy_expect(policy, (uint32_t)first + e,
                                  layer + forecast->layer_count /
                                              (rate + rate_least));
        }
    }
}

void coterie_forecast_note(coterie_forecast_t *forecast, uint64_t turn,
                           const coterie_history_t *const *histories,
                           uint32_t count)
{
    uint32_t layer = (uint32_t)((coterie_history_count(histories[0]) - 1) %
                                forecast->layer_count);

    assert(count > 0);
    if (forecast->turns[layer] == 0 || forecast->turn[layer] != turn)
        turn_begin(forecast, layer, turn);
    for (uint32_t i = 0; i < count; i++)
        sequence_note(forecast, layer, histories[i]);
}

const float *coterie_forecast_absent(const coterie_forecast_t *forecast,
                                     uint32_t layer)
{
    return forecast->absent + (size_t)layer * forecast->expert_count;
}

/* Needed at the next turn, or else as many turns later as its rate says, half
 * of it the forecast's: rates of late alone scatter where nothing shifts. */
void coterie_forecast_expect(const coterie_forecast_t *forecast,
                             uint32_t layer, const float *absent,
                             coterie_policy_t *policy)
{
    size_t first = (size_t)layer * forecast->expert_count;
    double clock =
        (double)forecast->turns[layer] * forecast->layer_count + layer;

    for (uint32_t e = 0; e < forecast->expert_count; e++) {
        float chance = 1 - absent[e];
        float later = (rate_now(forecast, first + e) + chance) / 2 +
                      rate_least;
        double turns = 1 + (1 - chance) / (double)later;

        coterie_policy_expect(policy, (uint32_t)first + e,
                              clock + forecast->layer_count * turns);
    }
}

void coterie_forecast_destroy(coterie_forecast_t *forecast)
{
    if (forecast == NULL)
        return;
    coterie_predictor_destroy(forecast->predictor);
    free(forecast->turn);
    free(forecast->turns);
    free(forecast->used);
    free(forecast->rate);
    free(forecast->absent);
    free(forecast);
}

/* What the turn before used is complete now. */
static void turn_begin(coterie_forecast_t *forecast, uint32_t layer,
                       uint64_t turn)
{
    size_t first = (size_t)layer * forecast->expert_count;
    bool any = forecast->turns[layer]++ > 0;

    forecast->turn[layer] = turn;
    for (size_t item = first; item < first + forecast->expert_count; item++) {
        if (any)
            forecast->rate[item] = rate_now(forecast, item);
        forecast->absent[item] = 1;
        forecast->used[item] = 0;
    }
}

static void sequence_note(coterie_forecast_t *forecast, uint32_t layer,
                          const coterie_history_t *history)
{
    const coterie_clue_t none = COTERIE_CLUE_NONE;
    const int16_t *ids = coterie_history_at(
        history, (int64_t)coterie_history_count(history) - 1);
    size_t first = (size_t)layer * forecast->expert_count;
    const float *chance;

    coterie_predictor_review(forecast->predictor, history, &none);
    coterie_predictor_learn(forecast->predictor, ids);
    coterie_predictor_predict(forecast->predictor, history, &none);
    chance = coterie_predictor_chance(forecast->predictor,
                                      COTERIE_PREDICTION_BLEND);
    for (uint32_t e = 0; e < forecast->expert_count; e++)
        forecast->absent[first + e] *= 1 - chance[e];
    for (uint32_t i = 0; i < forecast->k; i++)
        if (ids[i] >= 0)
            forecast->used[first + (size_t)ids[i]] = 1;
}

/* With the present turn, as far as it is known. */
static float rate_now(const coterie_forecast_t *forecast, size_t item)
{
    return forecast->rate[item] +
           rate_step * (forecast->used[item] - forecast->rate[item]);
}
