/* Experts by the token that comes in: how often each was chosen for it. A
 * vocabulary times all experts would be larger than many a model, so tokens
 * share a table of rows, and the one seen more often keeps its row. */
#include "config.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "offload/chance.h"
#include "offload/predictor.h"

static const float mean_last = 4096;
static const size_t table_most = 32u << 20; /* bytes */

enum { ROWS_LEAST = 64, ROWS_MOST = 1 << 16 };

_Static_assert(_Alignof(max_align_t) >= sizeof(coterie_lanes_t), "of malloc");

typedef struct token_row {
    uint32_t owner; /* its token and one; 0: nobody's yet */
    float seen;
    float worth; /* seen, less what others in its place would have been */
} token_row_t;

typedef struct tokens {
    coterie_part_t base;
    uint32_t lane_count, row_count;
    token_row_t *rows;     /* [layer, row] */
    coterie_lanes_t *mean; /* [layer, row, lane] */
    float *all;            /* [layer, expert]: of every token */
    float *all_seen;       /* [layer] */
} tokens_t;

static coterie_status_t tokens_create(const coterie_predictor_shape_t *shape,
                                      coterie_part_t **part_p);
static int arrays_allocate(tokens_t *tokens);
static int tokens_odds(const coterie_part_t *part,
                       const coterie_glimpse_t *glimpse, float *odds);
static void tokens_learn(coterie_part_t *part,
                         const coterie_glimpse_t *glimpse, const float *chance,
                         const float *chosen);
static void tokens_destroy(coterie_part_t *part);
static size_t row_of(const tokens_t *tokens,
                     const coterie_glimpse_t *glimpse);
static void row_take(tokens_t *tokens, const coterie_glimpse_t *glimpse,
                     size_t row);
static void mean_learn(float *mean, float step, const float *chosen,
                       uint32_t count);

const coterie_part_ops_t coterie_part_token = {tokens_create, tokens_odds,
                                               tokens_learn, tokens_destroy};

static coterie_status_t tokens_create(const coterie_predictor_shape_t *shape,
                                      coterie_part_t **part_p)
{
    tokens_t *tokens = calloc(1, sizeof(*tokens));
    uint32_t lanes = coterie_lane_count(shape->expert_count);
    size_t row_size =
        (size_t)shape->layer_count * lanes * sizeof(coterie_lanes_t);

    if (tokens == NULL)
        return coterie_fail_memory(sizeof(*tokens), "a predictor");
    tokens->base.shape = *shape;
    tokens->lane_count = lanes;
    tokens->row_count = ROWS_MOST;
    while (tokens->row_count > ROWS_LEAST &&
           tokens->row_count * row_size > table_most)
        tokens->row_count /= 2;
    if (!arrays_allocate(tokens)) {
        tokens_destroy(&tokens->base);
        return coterie_fail_memory(tokens->row_count * row_size,
                                   "a predictor's tokens");
    }
    *part_p = &tokens->base;
    return COTERIE_OK;
}

static int arrays_allocate(tokens_t *tokens)
{
    const coterie_predictor_shape_t *shape = &tokens->base.shape;
    size_t rows = (size_t)shape->layer_count * tokens->row_count;
    size_t all = (size_t)shape->layer_count * shape->expert_count;

    tokens->rows = calloc(rows, sizeof(*tokens->rows));
    /* Not touched before they are used, so that they cost nothing till then;
     * malloc aligns to a vector of lanes. */
    tokens->mean = calloc(rows * tokens->lane_count, sizeof(coterie_lanes_t));
    tokens->all = calloc(all, sizeof(float));
    tokens->all_seen = calloc(shape->layer_count, sizeof(float));
    if (tokens->rows == NULL || tokens->mean == NULL || tokens->all == NULL ||
        tokens->all_seen == NULL)
        return 0;
    for (size_t i = 0; i < all; i++)
        tokens->all[i] = (float)shape->k / (float)shape->expert_count;
    return 1;
}

static int tokens_odds(const coterie_part_t *part,
                       const coterie_glimpse_t *glimpse, float *odds)
{
    const tokens_t *tokens = (const tokens_t *)part;
    size_t row = row_of(tokens, glimpse);
    const coterie_lanes_t *mean = tokens->mean + row * tokens->lane_count;
    uint32_t experts = part->shape.expert_count;

    if (glimpse->clue.token < 0 ||
        tokens->rows[row].owner != (uint32_t)glimpse->clue.token + 1)
        return 0;
    for (uint32_t i = 0; i < tokens->lane_count; i++) {
        coterie_lanes_t lane = coterie_lanes_odds(mean[i]);
        uint32_t left = experts - i * COTERIE_LANES;
        memcpy(odds + i * COTERIE_LANES, &lane,
               (left < COTERIE_LANES ? left : COTERIE_LANES) * sizeof(*odds));
    }
    return 1;
}

static void tokens_learn(coterie_part_t *part,
                         const coterie_glimpse_t *glimpse, const float *chance,
                         const float *chosen)
{
    tokens_t *tokens = (tokens_t *)part;
    uint32_t experts = part->shape.expert_count;
    size_t row = row_of(tokens, glimpse);
    token_row_t *own = &tokens->rows[row];
    bool mine;

    (void)chance;
    if (glimpse->clue.token < 0)
        return;
    mean_learn(tokens->all + (size_t)glimpse->layer * experts,
               coterie_chance_step(&tokens->all_seen[glimpse->layer],
                                   mean_last),
               chosen, experts);
    mine = own->owner == (uint32_t)glimpse->clue.token + 1;
    if (!mine && --own->worth > 0)
        return;
    if (!mine)
        row_take(tokens, glimpse, row);
    own->worth++;
    mean_learn((float *)(tokens->mean + row * tokens->lane_count),
               coterie_chance_step(&own->seen, mean_last), chosen, experts);
}

static void tokens_destroy(coterie_part_t *part)
{
    tokens_t *tokens = (tokens_t *)part;

    free(tokens->rows);
    free(tokens->mean);
    free(tokens->all);
    free(tokens->all_seen);
    free(tokens);
}

static size_t row_of(const tokens_t *tokens,
                     const coterie_glimpse_t *glimpse)
{
    return (size_t)glimpse->layer * tokens->row_count +
           (uint32_t)glimpse->clue.token % tokens->row_count;
}

/* A token of which nothing is known is like all others. */
static void row_take(tokens_t *tokens, const coterie_glimpse_t *glimpse,
                     size_t row)
{
    uint32_t experts = tokens->base.shape.expert_count;

    tokens->rows[row] = (token_row_t){(uint32_t)glimpse->clue.token + 1, 0, 0};
    memcpy(tokens->mean + row * tokens->lane_count,
           tokens->all + (size_t)glimpse->layer * experts,
           experts * sizeof(float));
}

static void mean_learn(float *mean, float step, const float *chosen,
                       uint32_t count)
{
    for (uint32_t e = 0; e < count; e++)
        mean[e] += step * (chosen[e] - mean[e]);
}
