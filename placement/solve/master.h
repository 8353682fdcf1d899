#ifndef COTERIE_PLACEMENT_SOLVE_MASTER_H
#define COTERIE_PLACEMENT_SOLVE_MASTER_H
/* The master programme of column generation, in GLPK: choose columns, each
 * what one rank holds through all layers, so that every expert is held once
 * and every class of ranks gets its number of columns. GLPK ends the process
 * on errors of its own; here they end the search only. Its time limits are
 * overshot, so it runs a few iterations at a time. */
#include "placement/solve/search.h"

typedef struct glp_prob glp_prob;

typedef struct coterie_column {
    double share;   /* that the last relaxation took of it */
    uint32_t class; /* of ranks of one capacity */
    uint32_t at;    /* of masks [layer_count], in the master's array */
} coterie_column_t;

typedef struct coterie_master {
    glp_prob *lp;
    uint32_t layer_count, expert_count, class_count;
    const uint32_t *class_size; /* ranks in each class */
    double scale;               /* GLPK sees values of about 1 */
    coterie_column_t *columns;
    uint32_t *masks; /* [column, layer] */
    uint32_t column_count, column_room;
    double *dual; /* [layer * expert + class], of the last solve */
    int *rows;
    double *ones;
    int failed; /* GLPK gave up: use what is there, ask no more */
} coterie_master_t;

coterie_status_t coterie_master_open(coterie_master_t *master,
                                     const coterie_problem_t *problem,
                                     const uint32_t *class_size,
                                     uint32_t class_count);

coterie_status_t coterie_master_add(coterie_master_t *master,
                                    const uint32_t *masks, uint32_t class,
                                    double value);

/* Gives a column another value. */
void coterie_master_revalue(coterie_master_t *master, uint32_t column,
                            double value);

/* Solves the linear relaxation over the columns so far; fills dual
 * and shares.
 * @return 0, or not: it failed, or the search is over */
int coterie_master_solve(coterie_master_t *master, coterie_search_t *search,
                         const coterie_solution_t *solution);

/* Chooses whole columns, the best that a share of the time left finds.
 * @return 0 and chosen [all ranks], or not: there is none */
int coterie_master_choose(coterie_master_t *master, coterie_search_t *search,
                          const coterie_solution_t *solution,
                          uint32_t *chosen);

/* Accepts a zeroed master. */
void coterie_master_close(coterie_master_t *master);

#endif
