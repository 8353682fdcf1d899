/* A logistic regression on all sources at once: the sequence's last layers and
 * the same layer of its last tokens. Each expert of a source has one weight for
 * each expert of the layer. It learns from its own errors by plain gradient
 * steps, so it keeps following what a sequence is about. Unlike affinity it
 * does not count twice what two sources both say. */
#include "config.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "offload/chance.h"
#include "offload/predictor.h"

static const float step_size = 0.02f;
static const size_t weights_most = 64u << 20; /* bytes: fewer sources instead */

typedef struct regression {
    coterie_part_t base;
    uint32_t lane_count; /* of a row of experts */
    uint32_t source_count;
    coterie_lanes_t *bias;   /* [layer, lane] */
    coterie_lanes_t *weight; /* [layer, source, expert of the source, lane] */
    coterie_lanes_t *sum;    /* [lane]: of the call that runs */
} regression_t;

static coterie_status_t regression_create(
    const coterie_predictor_shape_t *shape, coterie_part_t **part_p);
static int arrays_allocate(regression_t *regression);
static int regression_odds(const coterie_part_t *part,
                           const coterie_glimpse_t *glimpse, float *odds);
static void regression_learn(coterie_part_t *part,
                             const coterie_glimpse_t *glimpse,
                             const float *chance, const float *chosen);
static void regression_destroy(coterie_part_t *part);
static void rows_visit(const regression_t *regression,
                       const coterie_glimpse_t *glimpse, int learning);

const coterie_part_ops_t coterie_part_regression = {
    regression_create, regression_odds, regression_learn, regression_destroy};

static coterie_status_t regression_create(
    const coterie_predictor_shape_t *shape, coterie_part_t **part_p)
{
    regression_t *regression = calloc(1, sizeof(*regression));
    coterie_lanes_t even = (coterie_lanes_t){0} +
                           (float)shape->k / (float)shape->expert_count;
    size_t source_size;

    if (regression == NULL)
        return coterie_fail_memory(sizeof(*regression), "a predictor");
    regression->base.shape = *shape;
    regression->lane_count = coterie_lane_count(shape->expert_count);
    source_size = (size_t)shape->layer_count * shape->expert_count *
                  regression->lane_count * sizeof(coterie_lanes_t);
    regression->source_count = shape->source_count;
    while (regression->source_count > 1 &&
           regression->source_count * source_size > weights_most)
        regression->source_count--;
    if (!arrays_allocate(regression)) {
        regression_destroy(&regression->base);
        return coterie_fail_memory(regression->source_count * source_size,
                                   "a predictor's weights");
    }
    for (size_t i = 0; i < (size_t)shape->layer_count * regression->lane_count;
         i++)
        regression->bias[i] = coterie_lanes_odds(even);
    *part_p = &regression->base;
    return COTERIE_OK;
}

static int arrays_allocate(regression_t *regression)
{
    const coterie_predictor_shape_t *shape = &regression->base.shape;
    size_t lanes = (size_t)shape->layer_count * regression->lane_count;

    regression->bias = coterie_lanes_allocate(lanes);
    regression->weight = coterie_lanes_allocate(
        lanes * regression->source_count * shape->expert_count);
    regression->sum = coterie_lanes_allocate(regression->lane_count);
    return regression->bias != NULL && regression->weight != NULL &&
           regression->sum != NULL;
}

static int regression_odds(const coterie_part_t *part,
                           const coterie_glimpse_t *glimpse, float *odds)
{
    const regression_t *regression = (const regression_t *)part;
    size_t row = regression->lane_count * sizeof(coterie_lanes_t);

    memcpy(regression->sum,
           regression->bias + glimpse->layer * regression->lane_count, row);
    rows_visit(regression, glimpse, 0);
    memcpy(odds, regression->sum, part->shape.expert_count * sizeof(*odds));
    return 1;
}

static void regression_learn(coterie_part_t *part,
                             const coterie_glimpse_t *glimpse,
                             const float *chance, const float *chosen)
{
    regression_t *regression = (regression_t *)part;
    coterie_lanes_t *bias =
        regression->bias + glimpse->layer * regression->lane_count;
    float *step = (float *)regression->sum;

    memset(step, 0, regression->lane_count * sizeof(coterie_lanes_t));
    for (uint32_t e = 0; e < part->shape.expert_count; e++)
        step[e] = step_size * (chosen[e] - chance[e]);
    for (uint32_t i = 0; i < regression->lane_count; i++)
        bias[i] += regression->sum[i];
    rows_visit(regression, glimpse, 1);
}

static void regression_destroy(coterie_part_t *part)
{
    regression_t *regression = (regression_t *)part;

    free(regression->sum);
    free(regression->weight);
    free(regression->bias);
    free(regression);
}

/* Adds the rows of all experts in the sources to the sum or, learning, the sum
 * to each of the rows. */
static void rows_visit(const regression_t *regression,
                       const coterie_glimpse_t *glimpse, int learning)
{
    const coterie_predictor_shape_t *shape = &regression->base.shape;
    uint32_t lanes = regression->lane_count;
    coterie_lanes_t *sum = regression->sum;

    for (uint32_t id = 0; id < regression->source_count * shape->k; id++) {
        uint32_t source = id / shape->k;
        const int16_t *set = glimpse->source[source];
        coterie_lanes_t *row;
        if (set == NULL || set[id % shape->k] < 0)
            continue;
        row = regression->weight +
              (((size_t)glimpse->layer * regression->source_count + source) *
                   shape->expert_count +
               (size_t)set[id % shape->k]) *
                  lanes;
        for (uint32_t i = 0; i < lanes && learning; i++)
            row[i] += sum[i];
        for (uint32_t i = 0; i < lanes && !learning; i++)
            sum[i] += row[i];
    }
}
