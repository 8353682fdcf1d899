#ifndef COTERIE_PLACEMENT_AFFINITY_H
#define COTERIE_PLACEMENT_AFFINITY_H
/* What a trace says of experts used together, and what that is worth. */
#include <coterie/place.h>

#include "placement/solve/problem.h"

/* What a separated pair of experts costs, in copies: in one layer, and from a
 * layer to the next. */
typedef struct coterie_pair_costs {
    double pair, seam;
} coterie_pair_costs_t;

/* Derived from the formulas of each mode; see doc/placement.md. */
coterie_pair_costs_t coterie_pair_costs(coterie_objective_t objective,
                                        coterie_mode_t mode,
                                        uint32_t rank_count, uint32_t k);

/* Adds a trace's pairs, times their costs, and loads to a problem's tables,
 * which are zero to begin with. */
void coterie_affinity_count(const coterie_trace_view_t *view,
                            coterie_pair_costs_t costs,
                            coterie_problem_t *problem);

/* The objective, token by token, apart from any table. */
double coterie_affinity_cost(const coterie_trace_view_t *view,
                             coterie_pair_costs_t costs,
                             const coterie_problem_t *links,
                             const uint16_t *rank_of);

/* Fills next_score [layer, expert, rank]: how often a rank is needed next
 * (after the last layer: by the sequence's next token) when an expert is
 * chosen, as shares of the layer's largest. */
coterie_status_t coterie_affinity_scores(const coterie_trace_view_t *view,
                                         const coterie_placement_t *placement,
                                         uint8_t *next_score);

#endif
