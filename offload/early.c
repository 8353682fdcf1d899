#include "config.h"

#include <assert.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include <coterie/early.h>

#include "base/error.h"
#include "base/options.h"

/* Of what is wrong for a row, how much its learning takes away. Larger ones
 * follow a text's turns, smaller ones average over several texts. */
static const float rate = 0.4f;

/* Sums that experts' functions are of: 128 gain nothing. */
enum { SKETCH = 32 };
static const uint32_t hash = 2654435761u; /* whose top bit is a sign */
static const size_t given_most = 128u << 20; /* bytes: fewer sums instead */

struct coterie_early {
    uint32_t layer_count, expert_count, hidden, max_rows, k, width;
    float *weights; /* [layer, hidden + 1, expert] */
    float *given;   /* [layer, expert chosen before, width + 1, expert] */
    /* Rows asked about, until they come; at most one layer's. */
    uint32_t layer, count;
    int32_t *sequence, *position; /* [max_rows] */
    float *features;              /* [max_rows, hidden + 1] */
    float *sketch;                /* [max_rows, width + 1] */
    int32_t *chosen;              /* [max_rows, k]; -1: none */
    float *shares;                /* [max_rows, k] */
    float *scores;                /* [max_rows, expert]: the router's */
    float *sums;                  /* [expert] */
};

static coterie_status_t options_check(const coterie_early_options_t *o);
static bool arrays_create(coterie_early_t *early);
static void features_fill(coterie_early_t *early, uint32_t row,
                          const float *normed);
static void chosen_fill(coterie_early_t *early, uint32_t row,
                        const coterie_early_rows_t *rows);
static int order(const coterie_early_t *early, uint32_t asked,
                 const coterie_early_rows_t *rows, uint32_t row);
static void row_learn(coterie_early_t *early, uint32_t asked,
                      const float *scores);
static void correction(coterie_early_t *early, uint32_t asked);
static void sums_add(coterie_early_t *early, const float *features,
                     uint32_t count, float share, const float *weights);
static void weights_add(const coterie_early_t *early, const float *features,
                        uint32_t count, float share, float *weights);
static float *weights_of(const coterie_early_t *early);
static float *given_of(const coterie_early_t *early, int32_t chosen);

coterie_status_t coterie_early_create(const coterie_early_options_t *options,
                                      coterie_early_t **early_p)
{
    coterie_early_options_t o;
    coterie_early_t *early;
    coterie_status_t status;

    if (options == NULL || early_p == NULL)
        return coterie_fail(COTERIE_ERR_INVALID,
                            "coterie_early_create: an argument is NULL");
    status = coterie_options_read(options, &o, sizeof(o), "early router");
    if (status != COTERIE_OK)
        return status;
    status = options_check(&o);
    if (status != COTERIE_OK)
        return status;
    early = calloc(1, sizeof(*early));
    if (early == NULL)
        return coterie_fail_memory(sizeof(*early), "an early router");
    early->layer_count = o.layer_count;
    early->expert_count = o.expert_count;
    early->hidden = o.hidden;
    early->max_rows = o.max_rows;
    early->k = (uint32_t)o.k;
    if (!arrays_create(early)) {
        coterie_early_destroy(early);
        return coterie_fail_memory((size_t)o.layer_count * o.hidden *
                                       o.expert_count * sizeof(float),
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
    assert(rows->layer < early->layer_count);
    early->layer = rows->layer;
    early->count = rows->count;
    memcpy(early->scores, scores,
           (size_t)rows->count * experts * sizeof(float));
    for (uint32_t i = 0; i < rows->count; i++) {
        float *score = scores + (size_t)i * experts;

        features_fill(early, i, normed + (size_t)i * hidden);
        chosen_fill(early, i, rows);
        correction(early, i);
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
    free(early->given);
    free(early->sequence);
    free(early->position);
    free(early->features);
    free(early->sketch);
    free(early->chosen);
    free(early->shares);
    free(early->scores);
    free(early->sums);
    free(early);
}

static coterie_status_t options_check(const coterie_early_options_t *o)
{
    if (o->layer_count == 0 || o->expert_count == 0 || o->hidden == 0 ||
        o->max_rows == 0)
        return coterie_fail(COTERIE_ERR_INVALID,
                            "early router: %u layers, %u experts, hidden %u, "
                            "%u rows; none may be 0",
                            o->layer_count, o->expert_count, o->hidden,
                            o->max_rows);
    if (o->k > o->expert_count)
        return coterie_fail(COTERIE_ERR_INVALID,
                            "early router: rows choose %llu of %u experts",
                            (unsigned long long)o->k, o->expert_count);
    return COTERIE_OK;
}

static bool arrays_create(coterie_early_t *early)
{
    const size_t rows = early->max_rows, experts = early->expert_count;
    const size_t sets = early->layer_count * experts;
    const double sums = (double)(given_most / sizeof(float)) /
                        ((double)sets * (double)experts);
    size_t wide = (size_t)early->hidden + 1, few;

    if (sums < 2) /* of one element and the constant */
        early->k = 0;
    if (early->k > 0)
        early->width = sums > SKETCH ? SKETCH : (uint32_t)sums - 1;
    few = (size_t)early->width + 1;
    early->weights = calloc(early->layer_count * wide, experts * sizeof(float));
    early->given = calloc(early->k > 0 ? sets * few : 1,
                          experts * sizeof(float));
    early->sequence = calloc(rows, sizeof(int32_t));
    early->position = calloc(rows, sizeof(int32_t));
    early->features = calloc(rows, wide * sizeof(float));
    early->sketch = calloc(rows, few * sizeof(float));
    early->chosen = calloc(rows * early->k + 1, sizeof(int32_t));
    early->shares = calloc(rows * early->k + 1, sizeof(float));
    early->scores = calloc(rows, experts * sizeof(float));
    early->sums = calloc(experts, sizeof(float));
    return early->weights != NULL && early->given != NULL &&
           early->sequence != NULL && early->position != NULL &&
           early->features != NULL && early->sketch != NULL &&
           early->chosen != NULL && early->shares != NULL &&
           early->scores != NULL && early->sums != NULL;
}

/* Of mean square 1, and a constant one behind them; and their sketch, whose
 * square is as large, with a constant that stands out as much. */
static void features_fill(coterie_early_t *early, uint32_t row,
                          const float *normed)
{
    const uint32_t hidden = early->hidden, width = early->width;
    float *features = early->features + row * ((size_t)hidden + 1);
    float *sketch = early->sketch + row * ((size_t)width + 1);
    float square = 0, scale;

    for (uint32_t h = 0; h < hidden; h++)
        square += normed[h] * normed[h];
    scale = square > 0 && isfinite(square)
                ? 1 / sqrtf(square / (float)hidden)
                : 0;
    for (uint32_t h = 0; h < hidden; h++)
        features[h] = scale > 0 ? normed[h] * scale : 0;
    features[hidden] = 1;
    if (early->k == 0)
        return;
    memset(sketch, 0, width * sizeof(*sketch));
    for (uint32_t h = 0; h < hidden; h++)
        sketch[h % width] += h * hash >> 31 ? -features[h] : features[h];
    sketch[width] = sqrtf((float)hidden / (float)width);
}

/* Shares of a row have squares that add up to 1. */
static void chosen_fill(coterie_early_t *early, uint32_t row,
                        const coterie_early_rows_t *rows)
{
    const size_t k = early->k, first = row * k;
    float square = 0;

    for (size_t i = 0; i < k; i++) {
        bool known = rows->experts != NULL && rows->weights != NULL &&
                     rows->experts[first + i] >= 0 &&
                     (uint32_t)rows->experts[first + i] <
                         early->expert_count &&
                     isfinite(rows->weights[first + i]);

        early->chosen[first + i] = known ? rows->experts[first + i] : -1;
        early->shares[first + i] = known ? rows->weights[first + i] : 0;
        square += early->shares[first + i] * early->shares[first + i];
    }
    for (size_t i = 0; i < k && square > 0; i++)
        early->shares[first + i] /= sqrtf(square);
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
    const float *sketch = early->sketch + asked * ((size_t)early->width + 1);
    const float *guess = early->scores + (size_t)asked * experts;
    const size_t first = (size_t)asked * early->k;
    float step = rate / (float)(hidden + 1); /* features' square */

    if (early->k > 0 && early->chosen[first] >= 0)
        step /= 2; /* the sketch's is as large */
    correction(early, asked);
    for (uint32_t e = 0; e < experts; e++) {
        float error = scores[e] - guess[e] - early->sums[e];

        early->sums[e] = isfinite(error) ? step * error : 0;
    }
    weights_add(early, features, hidden + 1, 1, weights_of(early));
    for (size_t i = first; i < first + early->k; i++)
        if (early->chosen[i] >= 0)
            weights_add(early, sketch, early->width + 1, early->shares[i],
                        given_of(early, early->chosen[i]));
}

/* What the scores lack, by all that was learned, into the sums. */
static void correction(coterie_early_t *early, uint32_t asked)
{
    const size_t wide = (size_t)early->hidden + 1;
    const size_t few = (size_t)early->width + 1;
    const size_t first = (size_t)asked * early->k;

    memset(early->sums, 0, early->expert_count * sizeof(*early->sums));
    sums_add(early, early->features + asked * wide, (uint32_t)wide, 1,
             weights_of(early));
    for (size_t i = first; i < first + early->k; i++)
        if (early->chosen[i] >= 0)
            sums_add(early, early->sketch + asked * few, (uint32_t)few,
                     early->shares[i], given_of(early, early->chosen[i]));
}

static void sums_add(coterie_early_t *early, const float *features,
                     uint32_t count, float share, const float *weights)
{
    const uint32_t experts = early->expert_count;

    for (uint32_t h = 0; h < count; h++)
        for (uint32_t e = 0; e < experts; e++)
            early->sums[e] +=
                share * features[h] * weights[(size_t)h * experts + e];
}

static void weights_add(const coterie_early_t *early, const float *features,
                        uint32_t count, float share, float *weights)
{
    const uint32_t experts = early->expert_count;

    for (uint32_t h = 0; h < count; h++)
        for (uint32_t e = 0; e < experts; e++)
            weights[(size_t)h * experts + e] +=
                share * features[h] * early->sums[e];
}

static float *weights_of(const coterie_early_t *early)
{
    return early->weights + (size_t)early->layer *
                                ((size_t)early->hidden + 1) *
                                early->expert_count;
}

static float *given_of(const coterie_early_t *early, int32_t chosen)
{
    const size_t experts = early->expert_count;

    return early->given + (early->layer * experts + (size_t)chosen) *
                              ((size_t)early->width + 1) * experts;
}
