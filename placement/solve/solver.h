#ifndef COTERIE_PLACEMENT_SOLVE_SOLVER_H
#define COTERIE_PLACEMENT_SOLVE_SOLVER_H
/* Solvers behind one small interface. */
#include "placement/solve/search.h"

typedef struct coterie_solver {
    const char *name;
    int finds; /* better placements, not only bounds */
    /* Worth starting on a problem of this size, with so many seconds? */
    int (*applies)(const coterie_problem_t *problem, double seconds);
    /* Betters the solution or its bound, or leaves both. Returns early, with
     * OK, once the search is over; fails only for want of memory. */
    coterie_status_t (*solve)(const coterie_problem_t *problem,
                              coterie_search_t *search,
                              coterie_solution_t *solution);
} coterie_solver_t;

extern const coterie_solver_t coterie_solver_anneal;     /* any size */
extern const coterie_solver_t coterie_solver_assignment; /* 1 a rank, exact */
extern const coterie_solver_t coterie_solver_subsets;    /* 2 ranks, exact */
extern const coterie_solver_t coterie_solver_columns;    /* few a rank, exact */
extern const coterie_solver_t coterie_solver_matching;   /* any size, bound */
extern const coterie_solver_t coterie_solver_semidefinite; /* bound */
extern const coterie_solver_t coterie_solver_nodes;      /* nodes, bound */

/* A legal start: sets problem->load_max, where `cap` (over the mean load) is
 * positive, to what is asked or, where that cannot be met, to the least that
 * was found, and spreads experts accordingly; without a cap, in order.
 * Outputs whether a limit was raised. */
coterie_status_t coterie_solve_start(coterie_problem_t *problem, double cap,
                                     coterie_search_t *search,
                                     uint16_t *rank_of, int *raised_p);

/* Runs the solvers that apply, one after the other, until the solution is
 * proved best or the search is over. */
coterie_status_t coterie_solve(const coterie_problem_t *problem,
                               coterie_search_t *search,
                               coterie_solution_t *solution);

/* Only those that say how good the solution is. */
coterie_status_t coterie_solve_bound(const coterie_problem_t *problem,
                                     coterie_search_t *search,
                                     coterie_solution_t *solution);

/* Would more than the weakest bound come of so many seconds? */
int coterie_solve_may_prove(const coterie_problem_t *problem, double seconds);

#endif
