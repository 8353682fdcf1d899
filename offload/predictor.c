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
    TOKENS_BACK = 2       /* in the same layer of tokens before */
};

_Static_assert(LAYERS_BACK + TOKENS_BACK <= COTERIE_SOURCES_MAX, "sources");
_Static_assert((int)COTERIE_PREDICTION_BLEND == (int)VOICES, "the blend comes last");

static const float stack_step = 0.02f;
static const double memory = 0.999; /* of a layer's past losses */

static const coterie_part_ops_t *const parts[PARTS] = {
    [COTERIE_PREDICTION_POPULARITY] = &coterie_part_popularity,
    [COTERIE_PREDICTION_AFFINITY] = &coterie_part_affinity,
    [COTERIE_PREDICTION_REGRESSION] = &coterie_part_regression,
    [COTERIE_PREDICTION_ROUTER] = &coterie_part_router};

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
    float *odds[VOICES]; /* [expert], as the next two */
    float *chance[VOICES + 1];
    float *chosen;
    float *memory; /* of these three */
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
static double loss_of(const coterie_predictor_t *predictor,
                      const float *chance);

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
                               const int16_t *hint, uint32_t hint_count)
{
    glimpse_take(predictor, history,
                 coterie_history_count(history) + predictor->shape.distance -
                     1);
    predictor->glimpse.hint = hint;
    predictor->glimpse.hint_count = hint_count;
    voices_hear(predictor);
}

void coterie_predictor_review(coterie_predictor_t *predictor,
                              const coterie_history_t *history,
                              const int16_t *hint, uint32_t hint_count)
{
    glimpse_take(predictor, history, coterie_history_count(history) - 1);
    predictor->glimpse.hint = hint;
    predictor->glimpse.hint_count = hint_count;
    voices_hear(predictor);
}

void coterie_predictor_learn(coterie_predictor_t *predictor,
                             const int16_t *chosen)
{
    mixture_t *mixture = &predictor->mixture[predictor->glimpse.layer];

    memset(predictor->chosen, 0,
           predictor->shape.expert_count * sizeof(float));
    for (uint32_t i = 0; i < predictor->shape.k; i++)
        if (chosen[i] >= 0)
            predictor->chosen[chosen[i]] = 1;
    stack_learn(predictor, mixture);
    /* Who was silent is taken to agree with the blend. */
    for (int i = 0; i < VOICES; i++)
        mixture->loss[i] =
            memory * mixture->loss[i] +
            loss_of(predictor, predictor->chance[predictor->speaks[i]
                                                     ? i
                                                     : (int)VOICES]);
    for (int i = 0; i < PARTS; i++)
        parts[i]->learn(predictor->part[i], &predictor->glimpse,
                        predictor->chance[i], predictor->chosen);
}

const float *coterie_predictor_chance(const coterie_predictor_t *predictor,
                                      coterie_prediction_t part)
{
    if (part != COTERIE_PREDICTION_BLEND && !predictor->speaks[part])
        return NULL;
    return predictor->chance[part];
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
    size_t count = (2 * VOICES + 2) * (size_t)shape->expert_count;
    float *next = calloc(count, sizeof(*next));

    predictor->memory = next;
    predictor->mixture = calloc(shape->layer_count, sizeof(mixture_t));
    if (next == NULL || predictor->mixture == NULL)
        return coterie_fail_memory(count * sizeof(*next), "a predictor");
    for (int i = 0; i < VOICES; i++, next += shape->expert_count)
        predictor->odds[i] = next;
    for (int i = 0; i <= VOICES; i++, next += shape->expert_count)
        predictor->chance[i] = next;
    predictor->chosen = next;
    for (uint32_t layer = 0; layer < shape->layer_count; layer++)
        for (int i = 0; i < PARTS; i++)
            predictor->mixture[layer].weight[i] = 1.0f / (PARTS - 1);
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
    uint32_t experts = predictor->shape.expert_count;

    for (int i = 0; i < PARTS; i++)
        predictor->speaks[i] =
            parts[i]->odds(predictor->part[i], glimpse, predictor->odds[i]);
    stack_odds(predictor, mixture);
    for (int i = 0; i < VOICES; i++)
        for (uint32_t e = 0; e < experts && predictor->speaks[i]; e++)
            predictor->chance[i][e] = coterie_chance_of(predictor->odds[i][e]);
    voices_average(predictor, mixture);
}

static void stack_odds(coterie_predictor_t *predictor,
                       const mixture_t *mixture)
{
    float *sum = predictor->odds[COTERIE_PREDICTION_STACK];
    uint32_t experts = predictor->shape.expert_count;

    memset(sum, 0, experts * sizeof(*sum));
    for (int i = 0; i < PARTS; i++)
        for (uint32_t e = 0; e < experts && predictor->speaks[i]; e++)
            sum[e] += mixture->weight[i] * predictor->odds[i][e];
    predictor->speaks[COTERIE_PREDICTION_STACK] = 1;
}

static void voices_average(coterie_predictor_t *predictor,
                           const mixture_t *mixture)
{
    float *blend = predictor->chance[COTERIE_PREDICTION_BLEND];
    uint32_t experts = predictor->shape.expert_count;
    double least = INFINITY, total = 0, trust[VOICES];

    for (int i = 0; i < VOICES; i++)
        if (predictor->speaks[i])
            least = fmin(least, mixture->loss[i]);
    for (int i = 0; i < VOICES; i++) {
        trust[i] =
            predictor->speaks[i] ? exp(least - mixture->loss[i]) : 0;
        total += trust[i];
    }
    memset(blend, 0, experts * sizeof(*blend));
    for (int i = 0; i < VOICES; i++) {
        float share = (float)(trust[i] / total);
        for (uint32_t e = 0; e < experts && share > 0; e++)
            blend[e] += share * predictor->chance[i][e];
    }
}

/* Gradient steps of the logarithmic loss, shorter where it has been steep. */
static void stack_learn(coterie_predictor_t *predictor, mixture_t *mixture)
{
    const float *chance = predictor->chance[COTERIE_PREDICTION_STACK];
    const float *chosen = predictor->chosen;

    for (int i = 0; i < PARTS; i++) {
        float slope = 0;
        if (!predictor->speaks[i])
            continue;
        for (uint32_t e = 0; e < predictor->shape.expert_count; e++)
            slope += (chance[e] - chosen[e]) * predictor->odds[i][e];
        mixture->steepness[i] =
            (float)memory * mixture->steepness[i] + slope * slope;
        mixture->weight[i] -=
            stack_step * slope / sqrtf(1 + mixture->steepness[i]);
    }
}

static double loss_of(const coterie_predictor_t *predictor,
                      const float *chance)
{
    enum { RUN = 32 }; /* products of so many chances stay in range */
    const float *chosen = predictor->chosen;
    double loss = 0, product = 1;

    for (uint32_t e = 0; e < predictor->shape.expert_count; e++) {
        product *= chosen[e] > 0 ? chance[e] : 1 - chance[e];
        if (e % RUN == RUN - 1) {
            loss -= log(product);
            product = 1;
        }
    }
    return loss - log(product);
}
