#ifndef COTERIE_PLACEMENT_PLACING_H
#define COTERIE_PLACEMENT_PLACING_H
/* One call of coterie_place, in three files: place.c decides, placing.c makes
 * placements of what was decided, report.c says how good they are. */
#include "placement/affinity.h"
#include "placement/solve/solver.h"

typedef struct placing {
    coterie_place_options_t options;
    coterie_trace_t *train, *held; /* ours; held may be train */
    coterie_trace_view_t view;     /* of train */
    coterie_pair_costs_t costs;
    coterie_problem_t problem;
    uint32_t *capacity;
    coterie_search_t search;
    coterie_solution_t solution;
    uint16_t *in_order; /* [layer, expert] */
    uint16_t *polished; /* [layer, expert]: moves fewer copies, or NULL */
    double train_copies, train_copies_polished;
    int cap_raised;
} coterie_placing_t;

/* Without replicas. */
coterie_status_t coterie_placing_single(const coterie_placing_t *p,
                                        const uint16_t *rank_of,
                                        coterie_placement_t **placement_p);

/* Betters the solution by what dispatch really sends on the training part, if
 * the objective is dispatch; sets polished if that worked. */
coterie_status_t coterie_placing_polish(coterie_placing_t *p);

/* The best placement found, with replicas where the options say so. */
coterie_status_t coterie_placing_make(coterie_placing_t *p,
                                      coterie_placement_t **placement_p);

/* Copies per token and layer; those of decode, unless there is none. Between
 * nodes they count `network_cost` times. */
coterie_status_t coterie_placing_copies(const coterie_trace_t *trace,
                                        const coterie_placement_t *placement,
                                        coterie_mode_t mode,
                                        double network_cost, double *copies_p);

coterie_status_t coterie_placing_report(const coterie_placing_t *p,
                                        const coterie_placement_t *placement,
                                        coterie_place_report_t *report);

#endif
