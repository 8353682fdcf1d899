#include "config.h"

#include <math.h>
#include <stdlib.h>

#include "base/error.h"
#include "placement/scores.h"

/* Every choice of an owner is a draw by softmax of summed scores, and has a
 * price for each rank: what goes back to it now, and out from it at the next
 * layer. Scores follow the gradient of the expected price, choice by choice;
 * afterwards only their order within a layer matters. */

static const float RATE = 0.5f; /* in the first round; then a half, a third */

typedef struct learning {
    const coterie_scores_task_t *task;
    float *score; /* [layer, expert, rank] */
    float rate;
} learning_t;

/* The ranks that may own a token next. */
typedef struct candidates {
    uint32_t count;
    uint32_t rank[COTERIE_K_MAX];
    float score[COTERIE_K_MAX], price[COTERIE_K_MAX];
} candidates_t;

static void sequence_learn(learning_t *g, uint64_t sequence, uint64_t stride);
static int learning_over(const learning_t *g);
static uint32_t choice_learn(learning_t *g, const int16_t *set, uint32_t layer,
                             uint32_t owner);
static void candidates_price(const learning_t *g, const int16_t *set,
                             uint32_t layer, uint64_t ranks,
                             candidates_t *among);
static void candidates_follow(learning_t *g, const int16_t *set, float *scores,
                              candidates_t *among);
static void layer_scale(const learning_t *g, uint32_t layer,
                        uint8_t *next_score);

coterie_status_t coterie_scores_learn(const coterie_scores_task_t *task,
                                      uint8_t *next_score)
{
    const coterie_trace_view_t *view = task->view;
    uint64_t stride = (view->token_count - 1) / task->token_count + 1;
    size_t cells = (size_t)view->layer_count * view->expert_count *
                   task->cover->rank_count;
    learning_t g = {.task = task, .score = calloc(cells, sizeof(*g.score))};

    if (g.score == NULL)
        return coterie_fail_memory(cells * sizeof(*g.score),
                                   "next-layer scores");
    for (uint32_t round = 0; round < task->rounds; round++) {
        g.rate = RATE / ((float)task->cover->network_cost * (round + 1));
        for (uint64_t s = 0; s < view->sequence_count; s++)
            sequence_learn(&g, s, stride);
    }
    for (uint32_t l = 0; l < view->layer_count; l++)
        layer_scale(&g, l, next_score);
    free(g.score);
    return COTERIE_OK;
}

/* A layer's sets lie behind each other, and so do tokens'. */
static void sequence_learn(learning_t *g, uint64_t sequence, uint64_t stride)
{
    const coterie_trace_view_t *view = g->task->view;
    uint64_t end = view->seq_start[sequence + 1];
    uint64_t first = view->seq_start[sequence];
    uint32_t owner = sequence % g->task->cover->rank_count;

    for (uint64_t t = (first + stride - 1) / stride * stride;
         t < end && !learning_over(g); t += stride)
        for (uint32_t l = 0; l < view->layer_count; l++)
            if (l + 1 < view->layer_count || t + 1 < end)
                owner = choice_learn(
                    g, view->experts + (t * view->layer_count + l) * view->k, l,
                    owner);
}

static int learning_over(const learning_t *g)
{
    return g->task->search != NULL &&
           coterie_search_over(g->task->search, g->task->solution);
}

/* @return who owns the token next, as far as is known now */
static uint32_t choice_learn(learning_t *g, const int16_t *set, uint32_t layer,
                             uint32_t owner)
{
    const coterie_cover_t *cover = g->task->cover;
    size_t row = (size_t)layer * g->task->view->expert_count;
    candidates_t among = {.count = 0};
    coterie_covered_t covered;
    uint32_t best = 0;

    coterie_cover_route(cover, g->task->holders + row, set, owner, &covered);
    if (covered.ranks == 0)
        return owner;
    if ((covered.ranks & (covered.ranks - 1)) == 0)
        return (uint32_t)__builtin_ctzll(covered.ranks);
    candidates_price(g, set, layer, covered.ranks, &among);
    for (uint32_t i = 1; i < among.count; i++)
        if (among.score[i] > among.score[best])
            best = i;
    owner = among.rank[best];
    candidates_follow(g, set, g->score + row * cover->rank_count, &among);
    return owner;
}

static void candidates_price(const learning_t *g, const int16_t *set,
                             uint32_t layer, uint64_t ranks,
                             candidates_t *among)
{
    const coterie_cover_t *cover = g->task->cover;
    uint32_t layers = g->task->view->layer_count;
    uint32_t experts = g->task->view->expert_count;
    const uint64_t *next_holders =
        g->task->holders + (size_t)((layer + 1) % layers) * experts;
    const float *scores =
        g->score + (size_t)layer * experts * cover->rank_count;

    for (uint64_t bits = ranks; bits != 0; bits &= bits - 1) {
        uint32_t rank = (uint32_t)__builtin_ctzll(bits), n = among->count++;
        coterie_covered_t next;
        coterie_cover_route(cover, next_holders, set + cover->k, rank, &next);
        among->rank[n] = rank;
        among->price[n] = (float)(coterie_cover_reach(cover, rank, ranks) +
                                  coterie_cover_reach(cover, rank, next.ranks));
        among->score[n] = 0;
        for (uint32_t i = 0; i < cover->k; i++)
            if (set[i] >= 0)
                among->score[n] +=
                    scores[(size_t)set[i] * cover->rank_count + rank];
    }
}

static void candidates_follow(learning_t *g, const int16_t *set, float *scores,
                              candidates_t *among)
{
    const coterie_cover_t *cover = g->task->cover;
    float most = among->score[0], sum = 0, price = 0;

    for (uint32_t n = 1; n < among->count; n++)
        most = fmaxf(most, among->score[n]);
    for (uint32_t n = 0; n < among->count; n++)
        sum += among->score[n] = expf(among->score[n] - most);
    for (uint32_t n = 0; n < among->count; n++)
        price += (among->score[n] /= sum) * among->price[n];
    for (uint32_t n = 0; n < among->count; n++) {
        float step = g->rate * among->score[n] * (price - among->price[n]);
        for (uint32_t i = 0; i < cover->k; i++)
            if (set[i] >= 0)
                scores[(size_t)set[i] * cover->rank_count + among->rank[n]] +=
                    step;
    }
}

/* What an expert gives to all ranks alike moves no choice: its least score
 * becomes 0. */
static void layer_scale(const learning_t *g, uint32_t layer,
                        uint8_t *next_score)
{
    uint32_t experts = g->task->view->expert_count;
    uint32_t ranks = g->task->cover->rank_count;
    size_t row = (size_t)layer * experts * ranks;
    float *score = g->score + row, most = 0;

    for (uint32_t e = 0; e < experts; e++) {
        float least = INFINITY;
        for (uint32_t r = 0; r < ranks; r++)
            least = fminf(least, score[e * ranks + r]);
        for (uint32_t r = 0; r < ranks; r++)
            most = fmaxf(most, score[e * ranks + r] -= least);
    }
    for (size_t i = 0; i < (size_t)experts * ranks; i++)
        next_score[row + i] =
            most > 0 ? (uint8_t)lroundf(score[i] / most * UINT8_MAX) : 0;
}
