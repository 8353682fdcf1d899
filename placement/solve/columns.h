#ifndef COTERIE_PLACEMENT_SOLVE_COLUMNS_H
#define COTERIE_PLACEMENT_SOLVE_COLUMNS_H
/* Column generation in three files: columns.c drives it, pricing.c finds
 * columns and bounds, branch.c closes what gap is left. */
#include "placement/solve/chain.h"
#include "placement/solve/master.h"
#include "placement/solve/solver.h"

enum { COTERIE_CLASSES_MAX = 2 };

typedef struct coterie_columns {
    const coterie_problem_t *problem;
    coterie_search_t *search;
    coterie_solution_t *solution;
    coterie_master_t master;
    /* Ranks of one capacity are a class, and interchangeable. */
    uint32_t class_count;
    uint32_t class_size[COTERIE_CLASSES_MAX], class_first[COTERIE_CLASSES_MAX];
    coterie_chain_t chain[COTERIE_CLASSES_MAX];
    double weight; /* cost = weight - kept */
    int branching; /* limits hold for a part of all placements only */
    double *price;      /* [layer * expert]: tried now */
    double *best_price; /* [layer * expert]: gave the best limit */
    double *penalty;    /* [layer * expert]: of branching */
    double limit;       /* most that can be kept, at `price` */
    double best_limit;  /* the least so far, at `best_price` */
    double best[COTERIE_CLASSES_MAX]; /* best column's worth at `price` */
    double *row_best; /* [layer * expert]: best column of a class through it */
    uint32_t *row_at; /* [layer * expert]: by this subset */
    uint32_t *masks;  /* [layer]: a column at hand */
    uint32_t *chosen; /* [rank] */
} coterie_columns_t;

coterie_status_t coterie_columns_open(coterie_columns_t *c);
void coterie_columns_close(coterie_columns_t *c);

/* All subsets that the load limit allows, with the problem's own values. */
coterie_status_t coterie_columns_refill(coterie_columns_t *c);

/* Finds the best columns at `price`, and so a limit. */
void coterie_columns_price(coterie_columns_t *c);

/* After pricing: drops subsets that no better placement can use. */
void coterie_columns_drop(coterie_columns_t *c);

/* After pricing: fills row_best and row_at. */
void coterie_columns_by_row(coterie_columns_t *c, uint32_t class);

/* After pricing: adds to the master what betters its relaxation. */
coterie_status_t coterie_columns_add(coterie_columns_t *c, uint32_t *added_p);

/* What a column keeps, less the penalties of branching. */
double coterie_columns_value(const coterie_columns_t *c, uint32_t class,
                             const uint32_t *masks);

/* Nothing better than the present solution is left within the limit. */
int coterie_columns_done(const coterie_columns_t *c);

/* Solves the relaxation: until no column betters it, or the search is over. */
coterie_status_t coterie_columns_generate(coterie_columns_t *c);

/* Offers the placement that the chosen columns make. */
coterie_status_t coterie_columns_offer(coterie_columns_t *c);

/* From a solved relaxation to a proof. */
coterie_status_t coterie_columns_branch(coterie_columns_t *c);

#endif
