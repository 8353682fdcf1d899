/* Popularity and affinity, from counts kept as running means: how often each
 * expert of a layer is chosen, and how often once some expert of the source was.
 * Affinity is naive Bayes: the odds of an expert are its own, times the factor
 * by which each expert of the nearest source changes them. */
#include "config.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "offload/chance.h"
#include "offload/predictor.h"

/* Row e < expert_count is about sets that follow expert e, the last row of a
 * layer about all its sets. Popularity has the last row alone. */
typedef struct counts {
    coterie_part_t base;
    uint32_t row_count;
    float *seen;   /* [layer, row]: observations, as far as they count */
    float *mean;   /* [layer, row, expert] */
    float *factor; /* logarithms of odds; of rows but the last, changes */
} counts_t;

static coterie_status_t popularity_create(
    const coterie_predictor_shape_t *shape, coterie_part_t **part_p);
static coterie_status_t affinity_create(const coterie_predictor_shape_t *shape,
                                        coterie_part_t **part_p);
static coterie_status_t counts_create(const coterie_predictor_shape_t *shape,
                                      uint32_t row_count,
                                      coterie_part_t **part_p);
static void counts_begin(counts_t *counts);
static int popularity_odds(const coterie_part_t *part,
                           const coterie_glimpse_t *glimpse, float *odds);
static int affinity_odds(const coterie_part_t *part,
                         const coterie_glimpse_t *glimpse, float *odds);
static void counts_learn(coterie_part_t *part,
                         const coterie_glimpse_t *glimpse, const float *chance,
                         const float *chosen);
static void counts_destroy(coterie_part_t *part);
static size_t row_of(const counts_t *counts, uint32_t layer, uint32_t row);
static void row_learn(counts_t *counts, size_t row, const float *chosen);

const coterie_part_ops_t coterie_part_popularity = {
    popularity_create, popularity_odds, counts_learn, counts_destroy};
const coterie_part_ops_t coterie_part_affinity = {
    affinity_create, affinity_odds, counts_learn, counts_destroy};

static coterie_status_t popularity_create(
    const coterie_predictor_shape_t *shape, coterie_part_t **part_p)
{
    return counts_create(shape, 1, part_p);
}

static coterie_status_t affinity_create(const coterie_predictor_shape_t *shape,
                                        coterie_part_t **part_p)
{
    return counts_create(shape, shape->expert_count + 1, part_p);
}

static coterie_status_t counts_create(const coterie_predictor_shape_t *shape,
                                      uint32_t row_count,
                                      coterie_part_t **part_p)
{
    size_t rows = (size_t)shape->layer_count * row_count;
    size_t size = rows * shape->expert_count * sizeof(float);
    counts_t *counts = calloc(1, sizeof(*counts));

    if (counts == NULL)
        return coterie_fail_memory(sizeof(*counts), "a predictor");
    counts->base.shape = *shape;
    counts->row_count = row_count;
    counts->seen = calloc(rows, sizeof(float));
    counts->mean = malloc(size);
    counts->factor = calloc(rows, shape->expert_count * sizeof(float));
    if (counts->seen == NULL || counts->mean == NULL ||
        counts->factor == NULL) {
        counts_destroy(&counts->base);
        return coterie_fail_memory(size, "a predictor's counts");
    }
    counts_begin(counts);
    *part_p = &counts->base;
    return COTERIE_OK;
}

/* Every choice is as likely as any other. */
static void counts_begin(counts_t *counts)
{
    const coterie_predictor_shape_t *shape = &counts->base.shape;
    float even = (float)shape->k / (float)shape->expert_count;
    size_t count = (size_t)shape->layer_count * counts->row_count *
                   shape->expert_count;

    for (size_t i = 0; i < count; i++)
        counts->mean[i] = even;
    for (uint32_t layer = 0; layer < shape->layer_count; layer++) {
        size_t row = row_of(counts, layer, counts->row_count - 1);
        for (uint32_t e = 0; e < shape->expert_count; e++)
            counts->factor[row * shape->expert_count + e] = coterie_chance_odds(even);
    }
}

static int popularity_odds(const coterie_part_t *part,
                           const coterie_glimpse_t *glimpse, float *odds)
{
    const counts_t *counts = (const counts_t *)part;
    size_t row = row_of(counts, glimpse->layer, counts->row_count - 1);

    memcpy(odds, counts->factor + row * part->shape.expert_count,
           part->shape.expert_count * sizeof(*odds));
    return 1;
}

static int affinity_odds(const coterie_part_t *part,
                         const coterie_glimpse_t *glimpse, float *odds)
{
    const counts_t *counts = (const counts_t *)part;
    const int16_t *source = glimpse->source[0];

    if (source == NULL)
        return 0;
    popularity_odds(part, glimpse, odds);
    for (uint32_t i = 0; i < part->shape.k; i++) {
        size_t row;
        if (source[i] < 0)
            continue;
        row = row_of(counts, glimpse->layer, (uint32_t)source[i]);
        for (uint32_t e = 0; e < part->shape.expert_count; e++)
            odds[e] += counts->factor[row * part->shape.expert_count + e];
    }
    return 1;
}

static void counts_learn(coterie_part_t *part,
                         const coterie_glimpse_t *glimpse, const float *chance,
                         const float *chosen)
{
    counts_t *counts = (counts_t *)part;
    const int16_t *source = glimpse->source[0];
    uint32_t experts = part->shape.expert_count, last = counts->row_count - 1;
    size_t all = row_of(counts, glimpse->layer, last);

    (void)chance;
    row_learn(counts, all, chosen);
    for (uint32_t e = 0; e < experts; e++)
        counts->factor[all * experts + e] =
            coterie_chance_odds(counts->mean[all * experts + e]);
    for (uint32_t i = 0; i < part->shape.k; i++) {
        size_t row;
        if (last == 0 || source == NULL || source[i] < 0)
            continue;
        row = row_of(counts, glimpse->layer, (uint32_t)source[i]);
        if (counts->seen[row] == 0) /* until it is known: like all others */
            memcpy(counts->mean + row * experts, counts->mean + all * experts,
                   experts * sizeof(float));
        row_learn(counts, row, chosen);
        for (uint32_t e = 0; e < experts; e++)
            counts->factor[row * experts + e] =
                coterie_chance_odds(counts->mean[row * experts + e]) -
                counts->factor[all * experts + e];
    }
}

static void counts_destroy(coterie_part_t *part)
{
    counts_t *counts = (counts_t *)part;

    free(counts->factor);
    free(counts->mean);
    free(counts->seen);
    free(counts);
}

static size_t row_of(const counts_t *counts, uint32_t layer, uint32_t row)
{
    return (size_t)layer * counts->row_count + row;
}

static void row_learn(counts_t *counts, size_t row, const float *chosen)
{
    uint32_t experts = counts->base.shape.expert_count;
    float *mean = counts->mean + row * experts;
    float step = coterie_chance_step(&counts->seen[row]);

    for (uint32_t e = 0; e < experts; e++)
        mean[e] += step * (chosen[e] - mean[e]);
}
