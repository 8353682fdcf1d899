/* Popularity and affinity, from counts kept as running means: how often each
 * expert of a layer is chosen, and how often after each expert of the source.
 * Affinity is naive Bayes: the odds of an expert are its own, times the factor
 * by which each expert of the nearest source changes them. */
#include "config.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "offload/chance.h"
#include "offload/predictor.h"

static const float mean_last = 4096;

/* Row e < expert_count is about sets that follow expert e, the last row of a
 * layer about all its sets. Popularity has the last row alone. */
typedef struct counts {
    coterie_part_t base;
    uint32_t row_count, lane_count; /* rows of a layer, lanes of a row */
    float *seen; /* [layer, row]: observations, as far as they count */
    coterie_lanes_t *mean;   /* [layer, row, lane] */
    coterie_lanes_t *factor; /* logarithms of odds; of rows but the last,
                                what they add */
    coterie_lanes_t *sum;    /* [lane]: of the call that runs */
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
static void follower_learn(counts_t *counts, uint32_t layer, uint32_t expert,
                           const float *chosen);
static void row_learn(counts_t *counts, size_t row, float memory,
                      const float *chosen);

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
    uint32_t lanes = coterie_lane_count(shape->expert_count);
    size_t rows = (size_t)shape->layer_count * row_count;
    counts_t *counts = calloc(1, sizeof(*counts));

    if (counts == NULL)
        return coterie_fail_memory(sizeof(*counts), "a predictor");
    counts->base.shape = *shape;
    counts->row_count = row_count;
    counts->lane_count = lanes;
    counts->seen = calloc(rows, sizeof(float));
    counts->mean = coterie_lanes_allocate(rows * lanes);
    counts->factor = coterie_lanes_allocate(rows * lanes);
    counts->sum = coterie_lanes_allocate(lanes);
    if (counts->seen == NULL || counts->mean == NULL ||
        counts->factor == NULL || counts->sum == NULL) {
        counts_destroy(&counts->base);
        return coterie_fail_memory(rows * lanes * sizeof(coterie_lanes_t),
                                   "a predictor's counts");
    }
    counts_begin(counts);
    *part_p = &counts->base;
    return COTERIE_OK;
}

/* Every choice is as likely as any other. */
static void counts_begin(counts_t *counts)
{
    const coterie_predictor_shape_t *shape = &counts->base.shape;
    coterie_lanes_t even =
        (coterie_lanes_t){0} +
        (float)shape->k / (float)shape->expert_count;

    for (uint32_t layer = 0; layer < shape->layer_count; layer++) {
        size_t first = row_of(counts, layer, counts->row_count - 1);
        for (uint32_t i = 0; i < counts->lane_count; i++) {
            counts->mean[first + i] = even;
            counts->factor[first + i] = coterie_lanes_odds(even);
        }
    }
}

static int popularity_odds(const coterie_part_t *part,
                           const coterie_glimpse_t *glimpse, float *odds)
{
    const counts_t *counts = (const counts_t *)part;
    size_t row = row_of(counts, glimpse->layer, counts->row_count - 1);

    memcpy(odds, counts->factor + row,
           part->shape.expert_count * sizeof(*odds));
    return 1;
}

static int affinity_odds(const coterie_part_t *part,
                         const coterie_glimpse_t *glimpse, float *odds)
{
    const counts_t *counts = (const counts_t *)part;
    const int16_t *source = glimpse->source[0];
    size_t all = row_of(counts, glimpse->layer, counts->row_count - 1);

    if (source == NULL)
        return 0;
    memcpy(counts->sum, counts->factor + all,
           counts->lane_count * sizeof(coterie_lanes_t));
    for (uint32_t id = 0; id < part->shape.k; id++) {
        size_t row;
        if (source[id] < 0)
            continue;
        row = row_of(counts, glimpse->layer, (uint32_t)source[id]);
        for (uint32_t i = 0; i < counts->lane_count; i++)
            counts->sum[i] += counts->factor[row + i];
    }
    memcpy(odds, counts->sum, part->shape.expert_count * sizeof(*odds));
    return 1;
}

static void counts_learn(coterie_part_t *part,
                         const coterie_glimpse_t *glimpse, const float *chance,
                         const float *chosen)
{
    counts_t *counts = (counts_t *)part;
    const int16_t *source = glimpse->source[0];
    uint32_t last = counts->row_count - 1;
    /* As many tokens pass while an expert is chosen mean_last times. */
    float memory = last == 0 ? mean_last
                             : mean_last * (float)part->shape.expert_count /
                                   (float)part->shape.k;

    (void)chance;
    row_learn(counts, row_of(counts, glimpse->layer, last), memory, chosen);
    for (uint32_t i = 0; i < part->shape.k && last > 0 && source != NULL; i++)
        if (source[i] >= 0)
            follower_learn(counts, glimpse->layer, (uint32_t)source[i],
                           chosen);
}

static void counts_destroy(coterie_part_t *part)
{
    counts_t *counts = (counts_t *)part;

    free(counts->sum);
    free(counts->factor);
    free(counts->mean);
    free(counts->seen);
    free(counts);
}

static size_t row_of(const counts_t *counts, uint32_t layer, uint32_t row)
{
    return ((size_t)layer * counts->row_count + row) * counts->lane_count;
}

/* What an expert's row adds is by how much its odds differ from all sets'.
 * Until something is known of it, it is like all others. */
static void follower_learn(counts_t *counts, uint32_t layer, uint32_t expert,
                           const float *chosen)
{
    size_t row = row_of(counts, layer, expert);
    size_t all = row_of(counts, layer, counts->row_count - 1);

    if (counts->seen[row / counts->lane_count] == 0)
        memcpy(counts->mean + row, counts->mean + all,
               counts->lane_count * sizeof(coterie_lanes_t));
    row_learn(counts, row, mean_last, chosen);
    for (uint32_t i = 0; i < counts->lane_count; i++)
        counts->factor[row + i] -= counts->factor[all + i];
}

static void row_learn(counts_t *counts, size_t row, float memory,
                      const float *chosen)
{
    float *mean = (float *)(counts->mean + row);
    float step =
        coterie_chance_step(&counts->seen[row / counts->lane_count], memory);

    for (uint32_t e = 0; e < counts->base.shape.expert_count; e++)
        mean[e] += step * (chosen[e] - mean[e]);
    for (uint32_t i = 0; i < counts->lane_count; i++)
        counts->factor[row + i] = coterie_lanes_odds(counts->mean[row + i]);
}
