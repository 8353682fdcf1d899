#ifndef COTERIE_PLACEMENT_SPREAD_H
#define COTERIE_PLACEMENT_SPREAD_H
/* One layer's experts and replicas over ranks by loads alone. An expert's load
 * counts as spread evenly over its replicas. */
#include "placement/solve/search.h"

typedef struct coterie_spread {
    uint32_t expert_count, rank_count;
    const double *load;      /* [expert] */
    const uint32_t *room;    /* [rank]: slots; enough for every expert */
    uint32_t replica_count;  /* to add, at most */
    coterie_search_t *search;
} coterie_spread_t;

/* Spreads so that the fullest rank has as little as can be found.
 *
 * @param expert  [slot], rank by rank; -1 = empty
 * @param most_p  what the fullest rank has */
coterie_status_t coterie_spread(const coterie_spread_t *task, int16_t *expert,
                                double *most_p);

/* The fewest replicas with which no rank is found to have more than `limit`;
 * UINT32_MAX if as many as fit do not do it.
 *
 * @param task  its replica_count does not matter */
coterie_status_t coterie_spread_least(const coterie_spread_t *task,
                                      double limit, uint32_t *replicas_p);

#endif
