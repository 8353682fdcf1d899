#include "config.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <coterie/early.h>

#include "base/error.h"
#include "base/options.h"

/* Of what is wrong for a row, how much its learning takes away. Larger ones
 * follow a text's turns, smaller ones average over several texts. */
static const float rate = 0.06f;

struct coterie_early {
    uint32_t layer_count, expert_count, hidden, max_rows;
    float *weights; /* [layer, hidden + 1, expert] */
    /* Rows asked about, until they come; at most one layer's. */
    uint32_t layer, count;
    int32_t *sequence, *position; /* [max_rows] */
    float *features;              /* [max_rows, hidden + 1] */
    float *scores;                /* [max_rows, expert]: the router's */
    float *sums;                  /* [expert] */
};

static void features_fill(uint32_t hidden, const float *normed,
                          float *features);
static int order(const coterie_early_t *early, uint32_t asked,
                 const coterie_early_rows_t *rows, uint32_t row);
static void row_learn(coterie_early_t *early, uint32_t asked,
                      const float *scores);
static void correction(coterie_early_t *early, uint32_t layer,
                       const float *features);
static float *weights_of(const coterie_early_t *early, uint32_t layer);

coterie_status_t coterie_early_create(const coterie_early_options_t *options,
                                      coterie_early_t **early_p)
{
    coterie_early_options_t o;
    coterie_early_t *early;
    size_t rows, wide;
    coterie_status_t status;

    if (options == NULL || early_p == NULL)
        return coterie_fail(COTERIE_ERR_INVALID,
                            "coterie_early_create: an argument is NULL");
    status = coterie_options_read(options, &o, sizeof(o), "early router");
    if (status != COTERIE_OK)
        return status;
    if (o.layer_count == 0 || o.expert_count == 0 || o.hidden == 0 ||
        o.max_rows == 0)
        return coterie_fail(COTERIE_ERR_INVALID,
                            "early router: %u layers, %u experts, hidden %u, "
                            "%u rows; none may be 0",
                            o.layer_count, o.expert_count, o.hidden,
                            o.max_rows);
    rows = o.max_rows;
    wide = (size_t)o.hidden + 1;
    early = calloc(1, sizeof(*early));
    if (early == NULL)
        return coterie_fail_memory(sizeof(*early), "an early router");
    early->layer_count = o.layer_count;
    early->expert_count = o.expert_count;
    early->hidden = o.hidden;
    early->max_rows = o.max_rows;
    early->weights =
        calloc(o.layer_count * wide, o.expert_count * sizeof(float));
    early->sequence = calloc(rows, sizeof(int32_t));
    early->position = calloc(rows, sizeof(int32_t));
    early->features = calloc(rows, wide * sizeof(float));
    early->scores = calloc(rows, o.expert_count * sizeof(float));
    early->sums = calloc(o.expert_count, sizeof(float));
    if (early->weights == NULL || early->sequence == NULL ||
        early->position == NULL || early->features == NULL ||
        early->scores == NULL || early->sums == NULL) {
        coterie_early_destroy(early);
        return coterie_fail_memory(o.layer_count * wide * o.expert_count *
                                       sizeof(float),
                                   "an early router");
    }
    *early_p = early;
    return COTERIE_OK;
}

void coterie_early_correct(coterie_early_t *early,
                           const coterie_early_rows_t *rows,
                           const float *normed, float *scores)
{
    const uint32_t hidden = early->hidden, experts = early->expert_count;

    assert(rows->count <= early->max_rows);
    early->layer = rows->layer;
    early->count = rows->count;
    memcpy(early->scores, scores,
           (size_t)rows->count * experts * sizeof(float));
    for (uint32_t i = 0; i < rows->count; i++) {
        float *features = early->features + i * ((size_t)hidden + 1);
        float *score = scores + (size_t)i * experts;

        features_fill(hidden, normed + (size_t)i * hidden, features);
        correction(early, rows->layer, features);
        for (uint32_t e = 0; e < experts; e++)
            if (isfinite(early->sums[e]))
                score[e] += early->sums[e];
        early->sequence[i] = rows->sequence[i];
        early->position[i] = rows->position[i];
    }
}

void coterie_early_learn(coterie_early_t *early,
                         const coterie_early_rows_t *rows, const float *scores)
{
    uint32_t asked = 0, row = 0;

    while (early->layer == rows->layer && asked < early->count &&
           row < rows->count) {
        int compared = order(early, asked, rows, row);

        if (compared == 0)
            row_learn(early, asked,
                      scores + (size_t)row * early->expert_count);
        asked += compared <= 0;
        row += compared >= 0;
    }
    early->count = 0;
}

void coterie_early_destroy(coterie_early_t *early)
{
    if (early == NULL)
        return;
    free(early->weights);
    free(early->sequence);
    free(early->position);
    free(early->features);
    free(early->scores);
    free(early->sums);
    free(early);
}

/* Of mean square 1, and a constant one behind them. */
static void features_fill(uint32_t hidden, const float *normed,
                          float *features)
{
    float square = 0, scale;

    for (uint32_t h = 0; h < hidden; h++)
        square += normed[h] * normed[h];
    scale = square > 0 ? 1 / sqrtf(square / (float)hidden) : 0;
    for (uint32_t h = 0; h < hidden; h++)
        features[h] = normed[h] * scale;
    features[hidden] = 1;
}

/* Of one that was asked about and one that came: which is earlier. */
static int order(const coterie_early_t *early, uint32_t asked,
                 const coterie_early_rows_t *rows, uint32_t row)
{
    if (early->sequence[asked] != rows->sequence[row])
        return early->sequence[asked] < rows->sequence[row] ? -1 : 1;
    return (early->position[asked] > rows->position[row]) -
           (early->position[asked] < rows->position[row]);
}

/* A step along the error's gradient, as long as takes `rate` of it away. The
 * error is what is left after the rows before: many learn from one step. */
static void row_learn(coterie_early_t *early, uint32_t asked,
                      const float *scores)
{
    const uint32_t hidden = early->hidden, experts = early->expert_count;
    const float *features = early->features + asked * ((size_t)hidden + 1);
    const float *guess = early->scores + (size_t)asked * experts;
    const float step = rate / (float)(hidden + 1); /* features' square */
    float *weights = weights_of(early, early->layer);

    correction(early, early->layer, features);
    for (uint32_t e = 0; e < experts; e++) {
        float error = scores[e] - guess[e] - early->sums[e];

        early->sums[e] = isfinite(error) ? step * error : 0;
    }
    for (uint32_t h = 0; h <= hidden; h++)
        for (uint32_t e = 0; e < experts; e++)
            weights[(size_t)h * experts + e] += features[h] * early->sums[e];
}

/* What the scores lack, by all that was learned, into the sums. */
static void correction(coterie_early_t *early, uint32_t layer,
                       const float *features)
{
    const uint32_t hidden = early->hidden, experts = early->expert_count;
    const float *weights = weights_of(early, layer);

    memset(early->sums, 0, experts * sizeof(*early->sums));
    for (uint32_t h = 0; h <= hidden; h++)
        for (uint32_t e = 0; e < experts; e++)
            early->sums[e] += features[h] * weights[(size_t)h * experts + e];
}

static float *weights_of(const coterie_early_t *early, uint32_t layer)
{
    assert(layer < early->layer_count);
    return early->weights + (size_t)layer * ((size_t)early->hidden + 1) *
                                early->expert_count;
}
