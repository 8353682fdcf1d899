#ifndef COTERIE_PLACEMENT_SOLVE_LAYER_H
#define COTERIE_PLACEMENT_SOLVE_LAYER_H
/* One layer at a time, its neighbours staying as they are. What an expert is
 * then worth on a rank depends on nothing else in the layer (but for pairs), so
 * a swap is judged and made in O(1). */
#include "placement/solve/search.h"

typedef struct coterie_layer {
    const coterie_problem_t *problem;
    uint32_t index;
    uint16_t *rank_of;   /* [expert] of this layer */
    const float *pair;   /* of this layer, or NULL */
    const uint64_t *load;
    uint64_t load_max;   /* UINT64_MAX: no limit */
    uint64_t *rank_load; /* [rank] */
    float *pull;         /* [expert, rank]: saved by having it there */
    float *by_rank;      /* [rank, expert]: scratch */
    uint16_t *members;   /* [expert]: of another layer, rank by rank */
    uint32_t *first;     /* [rank + 1]: into members */
    float *chance;       /* of losses: -log of evenly spread chances */
    double toll;         /* for a unit of load over the limit */
    uint64_t random;
} coterie_layer_t;

/* Two experts that change ranks. */
typedef struct coterie_swap {
    uint32_t a, b;
} coterie_swap_t;

coterie_status_t coterie_layer_open(coterie_layer_t *layer,
                                    const coterie_problem_t *problem);

/* Turns to a layer of rank_of [layer, expert], which swaps change. */
void coterie_layer_enter(coterie_layer_t *layer, uint16_t *rank_of,
                         uint32_t index);

/* What a swap saves, less tolls; 0 if both are on one rank. */
double coterie_layer_gain(const coterie_layer_t *layer, coterie_swap_t swap);

/* By how much a swap raises the load over the limit. */
double coterie_layer_excess(const coterie_layer_t *layer, coterie_swap_t swap);

void coterie_layer_swap(coterie_layer_t *layer, coterie_swap_t swap);

/* Is a rank over the limit? */
int coterie_layer_over(const coterie_layer_t *layer);

/* Proposes `count` swaps at a heat (Metropolis et al., 1953). */
void coterie_layer_anneal(coterie_layer_t *layer, uint64_t count, double heat);

/* Makes swaps, the best at hand, until none saves anything. */
void coterie_layer_descend(coterie_layer_t *layer);

/* What rounding can make of a change that saves nothing: two that undo each
 * other must not both seem to save something. */
double coterie_layer_noise(const coterie_layer_t *layer);

/* Accepts a zeroed layer. */
void coterie_layer_close(coterie_layer_t *layer);

#endif
