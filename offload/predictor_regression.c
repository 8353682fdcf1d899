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

enum { LANES = 8 };

/* Rows of weights are read and written whole; this lets every compiler use the
 * vectors that the machine has. */
typedef float lanes_t __attribute__((vector_size(LANES * sizeof(float))));

static const float step_size = 0.02f;
static const size_t weights_most = 64u << 20; /* bytes: fewer sources instead */

typedef struct regression {
    coterie_part_t base;
    uint32_t lane_count; /* of a row of experts */
    uint32_t source_count;
    lanes_t *bias;   /* [layer, lane] */
    lanes_t *weight; /* [layer, source, expert of the source, lane] */
    lanes_t *sum;    /* [lane]: of the call that runs */
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
    float even = (float)shape->k / (float)shape->expert_count;
    size_t source_size;

    if (regression == NULL)
        return coterie_fail_memory(sizeof(*regression), "a predictor");
    regression->base.shape = *shape;
    regression->lane_count = (shape->expert_count + LANES - 1) / LANES;
    source_size = (size_t)shape->layer_count * shape->expert_count *
                  regression->lane_count * sizeof(lanes_t);
    regression->source_count = shape->source_count;
    while (regression->source_count > 1 &&
           regression->source_count * source_size > weights_most)
        regression->source_count--;
    if (!arrays_allocate(regression)) {
        regression_destroy(&regression->base);
        return coterie_fail_memory(regression->source_count * source_size,
                                   "a predictor's weights");
    }
    even = coterie_chance_odds(even);
    for (size_t i = 0; i < (size_t)shape->layer_count * regression->lane_count;
         i++)
        regression->bias[i] = (lanes_t){0} + even;
    *part_p = &regression->base;
    return COTERIE_OK;
}

static int arrays_allocate(regression_t *regression)
{
    const coterie_predictor_shape_t *shape = &regression->base.shape;
    size_t row = regression->lane_count * sizeof(lanes_t);
    size_t rows = (size_t)shape->layer_count * shape->expert_count *
                  regression->source_count;

    regression->bias = aligned_alloc(sizeof(lanes_t),
                                     shape->layer_count * row);
    regression->weight = aligned_alloc(sizeof(lanes_t), rows * row);
    regression->sum = aligned_alloc(sizeof(lanes_t), row);
    if (regression->bias == NULL || regression->weight == NULL ||
        regression->sum == NULL)
        return 0;
    memset(regression->weight, 0, rows * row);
    return 1;
}

static int regression_odds(const coterie_part_t *part,
                           const coterie_glimpse_t *glimpse, float *odds)
{
    const regression_t *regression = (const regression_t *)part;
    size_t row = regression->lane_count * sizeof(lanes_t);

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
    lanes_t *bias =
        regression->bias + glimpse->layer * regression->lane_count;
    float *step = (float *)regression->sum;

    memset(step, 0, regression->lane_count * sizeof(lanes_t));
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
    lanes_t *sum = regression->sum;

    for (uint32_t id = 0; id < regression->source_count * shape->k; id++) {
        uint32_t source = id / shape->k;
        const int16_t *set = glimpse->source[source];
        lanes_t *row;
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
