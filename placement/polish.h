#ifndef COTERIE_PLACEMENT_POLISH_H
#define COTERIE_PLACEMENT_POLISH_H
/* From pairs of experts to copies: what dispatch counts is not a sum over
 * pairs, since two experts on one rank spare one copy and three spare two. */
#include <coterie/place.h>

#include "placement/solve/search.h"

enum { COTERIE_POLISH_RANKS_MAX = 64 }; /* a token's ranks are one word */

/* Swaps experts as long as that lowers an estimate of the copies of `mode`,
 * token by token, on a sample of the trace. Keeps every load limit.
 *
 * @param solution  for progress only
 * @param rank_of   [layer, expert], legal; changed in place */
coterie_status_t coterie_polish(const coterie_trace_view_t *view,
                                const coterie_problem_t *problem,
                                coterie_mode_t mode,
                                coterie_search_t *search,
                                const coterie_solution_t *solution,
                                uint16_t *rank_of);

#endif
