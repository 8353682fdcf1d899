/* The next layer's router, applied early by the engine to what the token is
 * now: a list of experts, the likeliest first. How often each rank of that list
 * came true, and how often an expert beyond it, turns it into chances. */
#include "config.h"

#include <stdlib.h>

#include "base/error.h"
#include "offload/chance.h"
#include "offload/predictor.h"

static const float mean_last = 4096;

enum { RANKS = COTERIE_K_MAX + 1 }; /* the last: experts not listed */

typedef struct rank_mean {
    float seen, mean;
} rank_mean_t;

typedef struct router {
    coterie_part_t base;
    rank_mean_t ranks[]; /* [layer, RANKS] */
} router_t;

static coterie_status_t router_create(const coterie_predictor_shape_t *shape,
                                      coterie_part_t **part_p);
static int router_odds(const coterie_part_t *part,
                       const coterie_glimpse_t *glimpse, float *odds);
static void router_learn(coterie_part_t *part,
                         const coterie_glimpse_t *glimpse, const float *chance,
                         const float *chosen);
static void router_destroy(coterie_part_t *part);
static uint32_t listed(const coterie_glimpse_t *glimpse);
static float odds_of(float chance);
static void rank_learn(rank_mean_t *rank, float truth);

const coterie_part_ops_t coterie_part_router = {router_create, router_odds,
                                                router_learn, router_destroy};

static coterie_status_t router_create(const coterie_predictor_shape_t *shape,
                                      coterie_part_t **part_p)
{
    size_t count = (size_t)shape->layer_count * RANKS;
    router_t *router = malloc(sizeof(*router) + count * sizeof(rank_mean_t));

    if (router == NULL)
        return coterie_fail_memory(count * sizeof(rank_mean_t),
                                   "a predictor");
    router->base.shape = *shape;
    for (size_t i = 0; i < count; i++)
        router->ranks[i] = (rank_mean_t){
            0, (float)shape->k / (float)shape->expert_count};
    *part_p = &router->base;
    return COTERIE_OK;
}

static int router_odds(const coterie_part_t *part,
                       const coterie_glimpse_t *glimpse, float *odds)
{
    const router_t *router = (const router_t *)part;
    const rank_mean_t *ranks = router->ranks + glimpse->layer * RANKS;
    uint32_t count = listed(glimpse);
    float other = odds_of(ranks[RANKS - 1].mean);

    if (count == 0)
        return 0;
    for (uint32_t e = 0; e < part->shape.expert_count; e++)
        odds[e] = other;
    for (uint32_t i = 0; i < count; i++)
        odds[glimpse->clue.hint[i]] = odds_of(ranks[i].mean);
    return 1;
}

static void router_learn(coterie_part_t *part,
                         const coterie_glimpse_t *glimpse, const float *chance,
                         const float *chosen)
{
    router_t *router = (router_t *)part;
    rank_mean_t *ranks = router->ranks + glimpse->layer * RANKS;
    uint32_t count = listed(glimpse), experts = part->shape.expert_count;
    float others = 0;

    (void)chance;
    if (count == 0)
        return;
    for (uint32_t e = 0; e < experts; e++)
        others += chosen[e];
    for (uint32_t i = 0; i < count; i++) {
        others -= chosen[glimpse->clue.hint[i]];
        rank_learn(&ranks[i], chosen[glimpse->clue.hint[i]]);
    }
    if (count < experts)
        rank_learn(&ranks[RANKS - 1], others / (float)(experts - count));
}

static void router_destroy(coterie_part_t *part)
{
    free(part);
}

/* Lists end where they hold no expert; what is beyond counts as not listed. */
static uint32_t listed(const coterie_glimpse_t *glimpse)
{
    uint32_t count = 0;

    while (count < glimpse->clue.hint_count && count < COTERIE_K_MAX &&
           glimpse->clue.hint[count] >= 0)
        count++;
    return count;
}

static float odds_of(float chance)
{
    return coterie_lanes_odds((coterie_lanes_t){0} + chance)[0];
}

static void rank_learn(rank_mean_t *rank, float truth)
{
    rank->mean += coterie_chance_step(&rank->seen, mean_last) *
                  (truth - rank->mean);
}
