#include "config.h"

#include <math.h>

#include "base/error.h"
#include "base/options.h"
#include "kernels/cpu/cpu.h"

enum { EXPERTS_MAX = 4096 }; /* scores of one row are kept on the stack */
_Static_assert(sizeof(coterie_router_options_t) == 48, "ABI, no padding");

/* One row's experts while it is being routed. */
typedef struct row {
    const coterie_router_options_t *options;
    float score[EXPERTS_MAX];  /* what weights are made of */
    float choice[EXPERTS_MAX]; /* with bias: what decides */
    float group[EXPERTS_MAX];
} row_t;

static coterie_status_t options_check(const coterie_router_options_t *options);
static coterie_status_t groups_check(const coterie_router_options_t *options);
static coterie_status_t logits_check(const coterie_router_options_t *options,
                                     uint32_t n, const float *logits);
static void row_score(row_t *row, const float *logits);
static void score_softmax(uint32_t count, const float *logits, float *score);
static void score_sigmoid(uint32_t count, const float *logits, float *score);
static void row_choose(row_t *row, int32_t *ids);
static void groups_score(row_t *row, uint32_t size);
static int group_may_be_chosen(const row_t *row, uint32_t group);
static uint32_t insert(const row_t *row, uint32_t expert, int32_t *ids,
                       uint32_t chosen);
static void row_weigh(const row_t *row, const int32_t *ids, float *weights);

coterie_status_t coterie_router_topk(const coterie_router_options_t *options,
                                     uint32_t n, const float *logits,
                                     int32_t *topk_ids, float *topk_weights)
{
    coterie_router_options_t opts;
    row_t row;
    coterie_status_t status;

    status = coterie_options_read(options, &opts, sizeof(opts), "router");
    if (status == COTERIE_OK)
        status = options_check(&opts);
    if (status == COTERIE_OK)
        status = logits_check(&opts, n, logits);
    if (status != COTERIE_OK)
        return status;
    row.options = &opts;
    for (size_t i = 0; i < n; i++) {
        row_score(&row, logits + i * opts.expert_count);
        row_choose(&row, topk_ids + i * opts.k);
        row_weigh(&row, topk_ids + i * opts.k, topk_weights + i * opts.k);
    }
    return COTERIE_OK;
}

static coterie_status_t options_check(const coterie_router_options_t *options)
{
    const uint32_t count = options->expert_count;

    if (count == 0 || count > EXPERTS_MAX)
        return coterie_fail(COTERIE_ERR_INVALID,
                            "router: expert_count is %u; 1 to %d will do",
                            count, EXPERTS_MAX);
    if (options->k == 0 || options->k > COTERIE_K_MAX || options->k > count)
        return coterie_fail(COTERIE_ERR_INVALID,
                            "router: k is %u; 1 to %d, and at most the %u "
                            "experts, will do",
                            options->k, COTERIE_K_MAX, count);
    if (options->scoring > COTERIE_SCORING_SIGMOID)
        return coterie_fail(COTERIE_ERR_UNSUPPORTED,
                            "router: scoring is %u; 0 (softmax) and 1 "
                            "(sigmoid) are known",
                            options->scoring);
    if (options->norm_topk > 1 || !isfinite(options->scale))
        return coterie_fail(COTERIE_ERR_INVALID,
                            "router: norm_topk must be 0 or 1, and scale "
                            "finite");
    for (uint32_t e = 0; options->bias != NULL && e < count; e++)
        if (!isfinite(options->bias[e]))
            return coterie_fail(COTERIE_ERR_INVALID,
                                "router: the bias of expert %u is not finite",
                                e);
    return groups_check(options);
}

static coterie_status_t groups_check(const coterie_router_options_t *options)
{
    const uint32_t count = options->expert_count;
    const uint32_t groups = options->group_count;

    if (groups <= 1)
        return COTERIE_OK;
    if (count % groups != 0)
        return coterie_fail(COTERIE_ERR_INVALID,
                            "router: %u experts are not %u equal groups",
                            count, groups);
    if (options->group_topk == 0 || options->group_topk > groups)
        return coterie_fail(COTERIE_ERR_INVALID,
                            "router: group_topk is %u; 1 to %u will do",
                            options->group_topk, groups);
    if (options->group_topk * (count / groups) < options->k)
        return coterie_fail(COTERIE_ERR_INVALID,
                            "router: %u groups of %u experts have no %u to "
                            "choose from",
                            options->group_topk, count / groups, options->k);
    return COTERIE_OK;
}

/* What is not a number has no order, and more than one +infinity no softmax:
 * a model that gets here with them is broken, and must not go on quietly. */
static coterie_status_t logits_check(const coterie_router_options_t *options,
                                     uint32_t n, const float *logits)
{
    for (uint32_t i = 0; i < n; i++) {
        const float *row = logits + (size_t)i * options->expert_count;
        float highest = -INFINITY;
        for (uint32_t e = 0; e < options->expert_count; e++) {
            if (!(row[e] < INFINITY))
                return coterie_fail(COTERIE_ERR_INVALID,
                                    "router: the logit of row %u, expert %u "
                                    "is %g; finite ones are needed",
                                    i, e, (double)row[e]);
            highest = row[e] > highest ? row[e] : highest;
        }
        if (highest == -INFINITY)
            return coterie_fail(COTERIE_ERR_INVALID,
                                "router: row %u has no finite logit", i);
    }
    return COTERIE_OK;
}

static void row_score(row_t *row, const float *logits)
{
    const coterie_router_options_t *options = row->options;

    if (options->scoring == COTERIE_SCORING_SOFTMAX)
        score_softmax(options->expert_count, logits, row->score);
    else
        score_sigmoid(options->expert_count, logits, row->score);
    for (uint32_t e = 0; e < options->expert_count; e++)
        row->choice[e] =
            row->score[e] + (options->bias != NULL ? options->bias[e] : 0);
}

static void score_softmax(uint32_t count, const float *logits, float *score)
{
    float highest = logits[0], sum = 0;

    for (uint32_t e = 1; e < count; e++)
        highest = logits[e] > highest ? logits[e] : highest;
    for (uint32_t e = 0; e < count; e++) {
        score[e] = expf(logits[e] - highest);
        sum += score[e];
    }
    for (uint32_t e = 0; e < count; e++)
        score[e] /= sum;
}

static void score_sigmoid(uint32_t count, const float *logits, float *score)
{
    for (uint32_t e = 0; e < count; e++)
        score[e] = 1.0f / (1.0f + expf(-logits[e]));
}

static void row_choose(row_t *row, int32_t *ids)
{
    const coterie_router_options_t *options = row->options;
    const uint32_t groups = options->group_count > 1 ? options->group_count : 1;
    const uint32_t size = options->expert_count / groups;
    uint32_t chosen = 0;

    if (groups > 1)
        groups_score(row, size);
    for (uint32_t g = 0; g < groups; g++)
        if (groups == 1 || group_may_be_chosen(row, g))
            for (uint32_t e = g * size; e < (g + 1) * size; e++)
                chosen = insert(row, e, ids, chosen);
}

/* DeepSeek-V2 (softmax) takes a group's best score, DeepSeek-V3 (sigmoid) the
 * sum of its best two. */
static void groups_score(row_t *row, uint32_t size)
{
    const coterie_router_options_t *options = row->options;

    for (uint32_t g = 0; g < options->group_count; g++) {
        const float *choice = row->choice + (size_t)g * size;
        float first = -INFINITY, second = -INFINITY;
        for (uint32_t e = 0; e < size; e++) {
            const float lower = choice[e] < first ? choice[e] : first;
            first = choice[e] > first ? choice[e] : first;
            second = lower > second ? lower : second;
        }
        row->group[g] = first;
        if (options->scoring == COTERIE_SCORING_SIGMOID && size > 1)
            row->group[g] += second;
    }
}

/* Whether fewer than group_topk groups come before it. */
static int group_may_be_chosen(const row_t *row, uint32_t group)
{
    const float mine = row->group[group];
    uint32_t before = 0;

    for (uint32_t g = 0; g < row->options->group_count; g++)
        if (row->group[g] > mine || (row->group[g] == mine && g < group))
            before++;
    return before < row->options->group_topk;
}

/* Puts expert among the best k so far, of which there are `chosen`; returns how
 * many there are then. Experts come in ascending order and pass only strictly
 * lower ones, so that a tie keeps the lower id first. */
static uint32_t insert(const row_t *row, uint32_t expert, int32_t *ids,
                       uint32_t chosen)
{
    const uint32_t k = row->options->k;
    uint32_t place = chosen;

    while (place > 0 && row->choice[expert] > row->choice[ids[place - 1]])
        place--;
    if (place == k)
        return chosen;
    if (chosen < k)
        chosen++;
    for (uint32_t i = chosen - 1; i > place; i--)
        ids[i] = ids[i - 1];
    ids[place] = (int32_t)expert;
    return chosen;
}

/* The bias has no part in the weights. The smallest addend, DeepSeek-V3's own,
 * only matters where all k scores are zero. */
static void row_weigh(const row_t *row, const int32_t *ids, float *weights)
{
    const coterie_router_options_t *options = row->options;
    const float scale = options->scale != 0 ? options->scale : 1;
    float sum = 0;

    for (uint32_t i = 0; i < options->k; i++)
        sum += row->score[ids[i]];
    for (uint32_t i = 0; i < options->k; i++) {
        weights[i] = row->score[ids[i]];
        if (options->norm_topk)
            weights[i] /= sum + 1e-20f;
        weights[i] *= scale;
    }
}
