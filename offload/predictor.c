/* The blend. A stack first adds up the parts' odds with weights of its own for
 * each layer, learned by gradient steps: parts that know different things add
 * up. Then parts and stack are averaged, each weighing as much as its past
 * forecasts were worth (Bayes' rule; old ones fade): what is best on this
 * trace wins, so the blend loses next to nothing where the stack misleads. */
#include "config.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "offload/chance.h"
#include "offload/predictor.h"

enum {
    PARTS = COTERIE_PREDICTION_STACK,
    VOICES = PARTS + 1,   /* those that are averaged: parts and stack */
    LAYERS_BACK = 4,      /* sources in the same token, and */
    TOKENS_BACK = 2,      /* in the same layer of tokens before */
    ALWAYS = 3            /* parts that need no clue */
};

_Static_assert(LAYERS_BACK + TOKENS_BACK <= COTERIE_SOURCES_MAX, "sources");
_Static_assert((int)COTERIE_PREDICTION_BLEND == (int)VOICES, "it comes last");

static const float stack_step = 0.02f;
static const double memory = 0.999; /* of a layer's past losses */

static const coterie_part_ops_t *const parts[PARTS] = {
    [COTERIE_PREDICTION_POPULARITY] = &coterie_part_popularity,
    [COTERIE_PREDICTION_AFFINITY] = &coterie_part_affinity,
    [COTERIE_PREDICTION_REGRESSION] = &coterie_part_regression,
    [COTERIE_PREDICTION_ROUTER] = &coterie_part_router,
    [COTERIE_PREDICTION_TOKEN] = &coterie_part_token};

/* What the blend knows of one layer's voices. */
typedef struct mixture {
    float weight[PARTS], steepness[PARTS]; /* of the stack */
    double loss[VOICES];                   /* natural logarithm */
} mixture_t;

struct coterie_predictor {
    coterie_predictor_shape_t shape;
    uint32_t offset[COTERIE_SOURCES_MAX]; /* of sources, ascending */
    coterie_part_t *part[PARTS];
    mixture_t *mixture;  /* [layer] */
    coterie_glimpse_t glimpse; /* of the latest call, as all below */
    int speaks[VOICES];
    uint32_t lane_count;
    coterie_lanes_t *odds[VOICES]; /* [lane], as the next two */
    coterie_lanes_t *chance[VOICES + 1];
    coterie_lanes_t *chosen;
    coterie_lanes_t *memory; /* of these three */
};

static coterie_status_t shape_check(const coterie_predictor_shape_t *shape);
static void sources_choose(coterie_predictor_t *predictor);
static void source_add(coterie_predictor_t *predictor, uint32_t offset);
static coterie_status_t arrays_allocate(coterie_predictor_t *predictor);
static void glimpse_take(coterie_predictor_t *predictor,
                         const coterie_history_t *history, uint64_t place);
static void voices_hear(coterie_predictor_t *predictor);
static void stack_odds(coterie_predictor_t *predictor,
                       const mixture_t *mixture);
static void voices_average(coterie_predictor_t *predictor,
                           const mixture_t *mixture);
static void stack_learn(coterie_predictor_t *predictor, mixture_t *mixture);

coterie_status_t coterie_predictor_create(
    const coterie_predictor_shape_t *shape, coterie_predictor_t **predictor_p)
{
    coterie_predictor_t *predictor = NULL;
    coterie_status_t status = shape_check(shape);

    if (status != COTERIE_OK)
        return status;
    predictor = calloc(1, sizeof(*predictor));
    if (predictor == NULL)
        return coterie_fail_memory(sizeof(*predictor), "a predictor");
    predictor->shape = *shape;
    sources_choose(predictor);
    status = arrays_allocate(predictor);
    for (int i = 0; i < PARTS && status == COTERIE_OK; i++)
        status = parts[i]->create(&predictor->shape, &predictor->part[i]);
    if (status != COTERIE_OK) {
        coterie_predictor_destroy(predictor);
        return status;
    }
    *predictor_p = predictor;
    return COTERIE_OK;
}

uint32_t coterie_predictor_reach(const coterie_predictor_t *predictor)
{
    return predictor->offset[predictor->shape.source_count - 1] + 1;
}

void coterie_predictor_predict(coterie_predictor_t *predictor,
                               const coterie_history_t *history,
                               const coterie_clue_t *clue)
{
    glimpse_take(predictor, history,
                 coterie_history_count(history) + predictor->shape.distance -
                     1);
    predictor->glimpse.clue = *clue;
    voices_hear(predictor);
}

void coterie_predictor_review(coterie_predictor_t *predictor,
                              const coterie_history_t *history,
                              const coterie_clue_t *clue)
{
    glimpse_take(predictor, history, coterie_history_count(history) - 1);
    predictor->glimpse.clue = *clue;
    voices_hear(predictor);
}

void coterie_predictor_learn(coterie_predictor_t *predictor,
                             const int16_t *chosen)
{
    mixture_t *mixture = &predictor->mixture[predictor->glimpse.layer];
    float *truth = (float *)predictor->chosen;
    uint32_t experts = predictor->shape.expert_count;

    memset(truth, 0, experts * sizeof(*truth));
    for (uint32_t i = 0; i < predictor->shape.k; i++)
        if (chosen[i] >= 0)
            truth[chosen[i]] = 1;
    stack_learn(predictor, mixture);
    for (int i = 0; i < VOICES; i++) {
        /* Who was silent is taken to agree with the blend. */
        int voice = predictor->speaks[i] ? i : (int)VOICES;
        mixture->loss[i] =
            memory * mixture->loss[i] +
            coterie_chance_loss((const float *)predictor->chance[voice],
                                truth, experts);
    }
    for (int i = 0; i < PARTS; i++)
        parts[i]->learn(predictor->part[i], &predictor->glimpse,
                        (const float *)predictor->chance[i], truth);
}

const float *coterie_predictor_chance(const coterie_predictor_t *predictor,
                                      coterie_prediction_t part)
{
    if (part != COTERIE_PREDICTION_BLEND && !predictor->speaks[part])
        return NULL;
    return (const float *)predictor->chance[part];
}

void coterie_predictor_destroy(coterie_predictor_t *predictor)
{
    if (predictor == NULL)
        return;
    for (int i = 0; i < PARTS; i++)
        if (predictor->part[i] != NULL)
            parts[i]->destroy(predictor->part[i]);
    free(predictor->memory);
    free(predictor->mixture);
    free(predictor);
}

static coterie_status_t shape_check(const coterie_predictor_shape_t *shape)
{
    if (shape->k == 0 || shape->k > COTERIE_K_MAX ||
        shape->expert_count < shape->k || shape->layer_count == 0)
        return coterie_fail(COTERIE_ERR_INVALID,
                            "predictor: %u layers of %u experts, %u a token",
                            shape->layer_count, shape->expert_count,
                            shape->k);
    if (shape->distance == 0 || shape->distance > shape->layer_count)
        return coterie_fail(COTERIE_ERR_INVALID,
                            "predictor: %u layers ahead; 1 to %u are possible",
                            shape->distance, shape->layer_count);
    return COTERIE_OK;
}

/* Ascending: first the layers just before, then a token's length back. A
 * prediction for the next token begins with that layer itself. */
static void sources_choose(coterie_predictor_t *predictor)
{
    uint32_t distance = predictor->shape.distance;
    uint32_t layers = predictor->shape.layer_count;

    predictor->shape.source_count = 0;
    for (uint32_t i = 0; i < LAYERS_BACK; i++)
        source_add(predictor, distance + i);
    for (uint32_t i = 1; i <= TOKENS_BACK; i++)
        source_add(predictor, i * layers);
}

/* Those that are there already, or too late to be known, are left out. */
static void source_add(coterie_predictor_t *predictor, uint32_t offset)
{
    uint32_t count = predictor->shape.source_count;

    if (count > 0 && offset <= predictor->offset[count - 1])
        return;
    predictor->offset[count] = offset;
    predictor->shape.source_count = count + 1;
}

static coterie_status_t arrays_allocate(coterie_predictor_t *predictor)
{
    const coterie_predictor_shape_t *shape = &predictor->shape;
    uint32_t lanes = coterie_lane_count(shape->expert_count);
    size_t count = (2 * VOICES + 2) * (size_t)lanes;
    coterie_lanes_t *next = coterie_lanes_allocate(count);

    predictor->lane_count = lanes;
    predictor->memory = next;
    predictor->mixture = calloc(shape->layer_count, sizeof(mixture_t));
    if (next == NULL || predictor->mixture == NULL)
        return coterie_fail_memory(count * sizeof(*next), "a predictor");
    for (int i = 0; i < VOICES; i++, next += lanes)
        predictor->odds[i] = next;
    for (int i = 0; i <= VOICES; i++, next += lanes)
        predictor->chance[i] = next;
    predictor->chosen = next;
    for (uint32_t layer = 0; layer < shape->layer_count; layer++)
        for (int i = 0; i < PARTS; i++)
            predictor->mixture[layer].weight[i] = 1.0f / ALWAYS;
    return COTERIE_OK;
}

static void glimpse_take(coterie_predictor_t *predictor,
                         const coterie_history_t *history, uint64_t place)
{
    coterie_glimpse_t *glimpse = &predictor->glimpse;

    glimpse->layer = (uint32_t)(place % predictor->shape.layer_count);
    for (uint32_t i = 0; i < predictor->shape.source_count; i++)
        glimpse->source[i] = coterie_history_at(
            history, (int64_t)place - predictor->offset[i]);
}

static void voices_hear(coterie_predictor_t *predictor)
{
    const coterie_glimpse_t *glimpse = &predictor->glimpse;
    const mixture_t *mixture = &predictor->mixture[glimpse->layer];

    for (int i = 0; i < PARTS; i++)
        predictor->speaks[i] =
            parts[i]->odds(predictor->part[i], glimpse,
                           (float *)predictor->odds[i]);
    stack_odds(predictor, mixture);
    for (int i = 0; i < VOICES; i++)
        for (uint32_t j = 0; j < predictor->lane_count; j++)
            predictor->chance[i][j] =
                coterie_lanes_chance(predictor->odds[i][j]);
    voices_average(predictor, mixture);
}

static void stack_odds(coterie_predictor_t *predictor,
                       const mixture_t *mixture)
{
    coterie_lanes_t *sum = predictor->odds[COTERIE_PREDICTION_STACK];

    memset(sum, 0, predictor->lane_count * sizeof(*sum));
    for (int i = 0; i < PARTS; i++)
        for (uint32_t j = 0; j < predictor->lane_count; j++)
            if (predictor->speaks[i])
                sum[j] += mixture->weight[i] * predictor->odds[i][j];
    predictor->speaks[COTERIE_PREDICTION_STACK] = 1;
}

static void voices_average(coterie_predictor_t *predictor,
                           const mixture_t *mixture)
{
    coterie_lanes_t *blend = predictor->chance[COTERIE_PREDICTION_BLEND];
    double least = INFINITY, total = 0, trust[VOICES];

    for (int i = 0; i < VOICES; i++)
        if (predictor->speaks[i])
            least = fmin(least, mixture->loss[i]);
    for (int i = 0; i < VOICES; i++) {
        trust[i] =
            predictor->speaks[i] ? exp(least - mixture->loss[i]) : 0;
        total += trust[i];
    }
    memset(blend, 0, predictor->lane_count * sizeof(*blend));
    for (int i = 0; i < VOICES; i++) {
        float share = (float)(trust[i] / total);
        for (uint32_t j = 0; j < predictor->lane_count && share > 0; j++)
            blend[j] += share * predictor->chance[i][j];
    }
    for (uint32_t j = 0; j < predictor->lane_count; j++)
        blend[j] = coterie_lanes_possible(blend[j]);
}

/* Gradient steps of the logarithmic loss, shorter where it has been steep. */
static void stack_learn(coterie_predictor_t *predictor, mixture_t *mixture)
{
    const coterie_lanes_t *chance =
        predictor->chance[COTERIE_PREDICTION_STACK];

    for (int i = 0; i < PARTS; i++) {
        coterie_lanes_t slopes = {0};
        float slope = 0;
        if (!predictor->speaks[i])
            continue;
        for (uint32_t j = 0; j < predictor->lane_count; j++)
            slopes += (chance[j] - predictor->chosen[j]) *
                      predictor->odds[i][j];
        for (int j = 0; j < COTERIE_LANES; j++)
            slope += slopes[j];
        mixture->steepness[i] =
            (float)memory * mixture->steepness[i] + slope * slope;
        mixture->weight[i] -=
            stack_step * slope / sqrtf(1 + mixture->steepness[i]);
    }
}
