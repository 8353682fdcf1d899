#include "config.h"

#include <assert.h>
#include <math.h>
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
    uint64_t clock; /* layers passed */
    float *absent;  /* [expert]: chance that no sequence needs it next */
    float *rate;    /* [layer, expert]: needs per turn */
    uint8_t *used;  /* [expert]: by this step */
};

static void sequence_note(coterie_forecast_t *forecast,
                          const coterie_history_t *history);
static void layer_expect(coterie_forecast_t *forecast, uint32_t layer,
                         coterie_policy_t *policy);

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
    forecast->absent = malloc(expert_count * sizeof(float));
    forecast->rate = malloc(items * sizeof(float));
    forecast->used = calloc(expert_count, 1);
    status = coterie_predictor_create(&shape, &forecast->predictor);
    if (status == COTERIE_OK &&
        (forecast->absent == NULL || forecast->rate == NULL ||
         forecast->used == NULL))
        status = coterie_fail_memory(items * sizeof(float), "a forecast");
    if (status != COTERIE_OK) {
        coterie_forecast_destroy(forecast);
        return status;
    }
    for (size_t i = 0; i < items; i++)
        forecast->rate[i] = (float)k / (float)expert_count;
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

void coterie_forecast_note(coterie_forecast_t *forecast,
                           const coterie_history_t *const *histories,
                           uint32_t count, coterie_policy_t *policy)
{
    uint32_t layer = (uint32_t)((coterie_history_count(histories[0]) - 1) %
                                forecast->layer_count);

    assert(count > 0);
    memset(forecast->used, 0, forecast->expert_count);
    for (uint32_t e = 0; e < forecast->expert_count; e++)
        forecast->absent[e] = 1;
    for (uint32_t i = 0; i < count; i++)
        sequence_note(forecast, histories[i]);
    layer_expect(forecast, layer, policy);
    forecast->clock++;
}

void coterie_forecast_destroy(coterie_forecast_t *forecast)
{
    if (forecast == NULL)
        return;
    coterie_predictor_destroy(forecast->predictor);
    free(forecast->used);
    free(forecast->rate);
    free(forecast->absent);
    free(forecast);
}

static void sequence_note(coterie_forecast_t *forecast,
                          const coterie_history_t *history)
{
    const int16_t *ids = coterie_history_at(
        history, (int64_t)coterie_history_count(history) - 1);
    const float *chance;

    coterie_predictor_review(forecast->predictor, history, NULL, 0);
    coterie_predictor_learn(forecast->predictor, ids);
    coterie_predictor_predict(forecast->predictor, history, NULL, 0);
    chance = coterie_predictor_chance(forecast->predictor,
                                      COTERIE_PREDICTION_BLEND);
    for (uint32_t e = 0; e < forecast->expert_count; e++)
        forecast->absent[e] *= 1 - chance[e];
    for (uint32_t i = 0; i < forecast->k; i++)
        if (ids[i] >= 0)
            forecast->used[ids[i]] = 1;
}

/* Needed at the next turn, or else as many turns later as its rate says, half
 * of it the forecast's: rates of late alone scatter where nothing shifts. */
static void layer_expect(coterie_forecast_t *forecast, uint32_t layer,
                         coterie_policy_t *policy)
{
    uint32_t first = layer * forecast->expert_count;

    for (uint32_t e = 0; e < forecast->expert_count; e++) {
        float *rate = &forecast->rate[first + e];
        double turns;
        float chance = 1 - forecast->absent[e], later;
        *rate += rate_step * (forecast->used[e] - *rate);
        later = (*rate + chance) / 2 + rate_least;
        turns = 1 + (1 - chance) / (double)later;
        coterie_policy_expect(policy, first + e,
                              (double)forecast->clock +
                                  forecast->layer_count * turns);
    }
}
