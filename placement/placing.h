#ifndef COTERIE_PLACEMENT_PLACING_H
#define COTERIE_PLACEMENT_PLACING_H
/* One call of coterie_place, in several files: place.c decides, placing.c makes
 * placements of what was decided, report.c says how good they are, control.c
 * whether affinity has to do with it. place_loads.c does without a trace. */
#include "placement/affinity.h"
#include "placement/slots.h"
#include "placement/solve/solver.h"

/* Of the time limit: what reports may take, where that is too short for all
 * held tokens, and how often these are routed. */
#define COTERIE_REPORT_SHARE 0.15
#define COTERIE_REPORT_PASSES 8.0

typedef struct placing {
    coterie_place_options_t options;
    coterie_trace_t *train, *held; /* ours; held may be train */
    coterie_trace_view_t view;     /* of train */
    coterie_pair_costs_t costs;
    coterie_problem_t problem;
    uint32_t *capacity;   /* [rank]: of experts once each */
    uint32_t *room;       /* [rank]: with replicas */
    uint64_t *load_asked; /* [layer]: what load_cap lets a rank serve */
    double seconds; /* of the time limit, to search in */
    coterie_search_t search;
    coterie_solution_t solution;
    uint16_t *in_order; /* [layer, expert] */
    int polished; /* what is returned moves fewer copies than the solution */
    double train_copies, train_copies_polished;
    int cap_raised;
} coterie_placing_t;

/* A caller's options, checked, with defaults filled in. */
coterie_status_t coterie_placing_options(const coterie_place_options_t *in,
                                         uint32_t expert_count,
                                         coterie_place_options_t *out);

/* Gives the caller, who may be older or want none, a report. */
void coterie_placing_hand(const coterie_place_report_t *filled,
                          coterie_place_report_t *report);

/* How many tokens there is time to route so many times each, in a share of
 * the time limit; few, where somebody waits. */
uint64_t coterie_placing_afford(const coterie_placing_t *p, double share,
                                double passes);

/* Without replicas or scores. */
coterie_status_t coterie_placing_single(const coterie_placing_t *p,
                                        const uint16_t *rank_of,
                                        coterie_placement_t **placement_p);

/* The solution, bettered by what dispatch really sends on the training part if
 * that is the objective, with replicas where the options say so. */
coterie_status_t coterie_placing_make(coterie_placing_t *p,
                                      coterie_placement_t **placement_p);

/* Copies per token and layer; those of decode, unless there is none. Between
 * nodes they count `network_cost` times. */
coterie_status_t coterie_placing_copies(const coterie_trace_t *trace,
                                        const coterie_placement_t *placement,
                                        coterie_mode_t mode,
                                        double network_cost, double *copies_p);

/* Fills the report's affinity fields. */
coterie_status_t coterie_placing_control(const coterie_placing_t *p,
                                         const coterie_placement_t *placement,
                                         coterie_place_report_t *report);

coterie_status_t coterie_placing_report(const coterie_placing_t *p,
                                        const coterie_placement_t *placement,
                                        coterie_place_report_t *report);

#endif
