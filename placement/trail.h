#ifndef COTERIE_PLACEMENT_TRAIL_H
#define COTERIE_PLACEMENT_TRAIL_H
/* Trails of swaps that lead away from a placement without replicas, by the
 * pairwise objective: towards lower cost, the most for each move first, or
 * towards a target. */
#include "placement/solve/search.h"

/* Two experts of a layer change places. */
typedef struct coterie_swap {
    uint32_t layer;
    uint16_t a, b;
    uint64_t moves; /* experts away from where they began, afterwards */
    double cost;    /* afterwards */
} coterie_swap_t;

typedef struct coterie_trail {
    const coterie_problem_t *problem;
    coterie_search_t *search;
    const uint16_t *begin;  /* [layer, expert]: ranks */
    const uint16_t *target; /* the same; NULL: wherever it costs less */
    coterie_swap_t *swaps;
    size_t count, room;
} coterie_trail_t;

/* Walks until nothing is left to gain, the target is reached, or the search
 * is over. The caller frees swaps. */
coterie_status_t coterie_trail_walk(coterie_trail_t *trail);

/* The best point within so many moves: how many swaps lead there. */
size_t coterie_trail_point(const coterie_trail_t *trail, uint64_t moves);

#endif
