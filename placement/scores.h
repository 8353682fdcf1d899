#ifndef COTERIE_PLACEMENT_SCORES_H
#define COTERIE_PLACEMENT_SCORES_H
/* Next-layer scores are free parameters of the routing rule: learned, so that
 * the owner they choose sends least. */
#include <coterie/trace.h>

#include "placement/cover.h"
#include "placement/solve/search.h"

typedef struct coterie_scores_task {
    const coterie_trace_view_t *view;
    const coterie_cover_t *cover;
    const uint64_t *holders; /* [layer, expert] */
    uint32_t token_count;    /* learned from, in every round, at most */
    uint32_t rounds;
    coterie_search_t *search; /* asked at every token; NULL: not to be ended */
    const coterie_solution_t *solution;
} coterie_scores_task_t;

/* Fills next_score [layer, expert, rank]. The same for the same task, unless
 * the search is over before all is learned. */
coterie_status_t coterie_scores_learn(const coterie_scores_task_t *task,
                                      uint8_t *next_score);

#endif
