#ifndef COTERIE_PLACEMENT_SOLVE_CHAIN_H
#define COTERIE_PLACEMENT_SOLVE_CHAIN_H
/* The best chain of subsets, one of each layer's experts, by dynamic
 * programming: what one rank would hold, were experts worth so much each and
 * so much together. Exact; O(layers x subsets^2). */
#include "placement/solve/search.h"

enum {
    COTERIE_HALF_SIZES = 17, /* of 16 experts, from none on */
    COTERIE_CHAIN_LANES = 8  /* that sums of halves are read in */
};

/* Subsets of one half of the experts, each made from an earlier one by adding
 * an expert: sums over all of them cost one addition each. */
typedef struct coterie_halves {
    uint32_t count;
    uint32_t *mask;     /* [count], within the half */
    uint32_t *parent;   /* [count], earlier */
    uint8_t *added;     /* [count], expert, counted through both halves */
    /* [i]: the first of i experts; after the last, one past all */
    uint32_t start[COTERIE_HALF_SIZES + 1];
} coterie_halves_t;

/* A layer's subsets that are allowed. */
typedef struct coterie_subsets {
    uint32_t count;
    uint32_t *mask;      /* [count] */
    uint32_t *low, *high; /* [count], index among the halves */
    uint32_t *at;        /* [count], in tables of all subsets */
    double *within;      /* [count]: value of pairs inside */
    double *ahead;       /* [count]: best chain from layer 0 up to here */
    double *behind;      /* [count]: best chain after here, to the end */
} coterie_subsets_t;

typedef struct coterie_chain {
    uint32_t layer_count, expert_count, size; /* of every subset */
    coterie_halves_t low, high;
    coterie_subsets_t *layers;
    double *item;      /* [layer, expert] */
    double *pair;      /* [layer, expert, expert] symmetric; NULL: none */
    double *seam;      /* [layer - 1, expert, expert of the next] */
    double *seam_back; /* the same, transposed */
    double *row, *low_sum, *high_sum, *all; /* scratch */
    /* Asked while solving, which ends early once the search is over; NULL:
     * nobody is. The caller sets them. */
    coterie_search_t *search;
    const coterie_solution_t *solution;
} coterie_chain_t;

/* How many subsets of `size` out of `count`, at most `limit`. */
double coterie_chain_choices(uint32_t count, uint32_t size);

/* All subsets of `size`, all values zero; needs expert_count <= 32. The caller
 * fills item, pair and seam. */
coterie_status_t coterie_chain_open(coterie_chain_t *chain,
                                    uint32_t layer_count,
                                    uint32_t expert_count, uint32_t size);

/* Drops subsets for which keep says 0. */
void coterie_chain_filter(coterie_chain_t *chain,
                          int (*keep)(const void *arg, uint32_t layer,
                                      uint32_t subset),
                          const void *arg);

/* After pair or seam changed: recomputes what is derived from them. */
void coterie_chain_refresh(coterie_chain_t *chain);

/* Value of the best chain; fills `ahead` and, if asked, `behind`. -INFINITY
 * if a layer has no subset; INFINITY if the search is over. */
double coterie_chain_solve(coterie_chain_t *chain, int both_ways);

/* Worth of an item list in a subset of a layer. */
double coterie_chain_value(const coterie_chain_t *chain, uint32_t layer,
                           uint32_t subset);

/* The best chain through a subset of a layer, as masks [layer]. Needs `ahead`
 * and, unless layer is the last, `behind`. */
void coterie_chain_through(const coterie_chain_t *chain, uint32_t layer,
                           uint32_t subset, uint32_t *masks);

/* What tables of all subsets take. */
size_t coterie_chain_cells(const coterie_chain_t *chain);

/* Lists all subsets. */
void coterie_chain_subsets(const coterie_chain_t *chain,
                           coterie_subsets_t *subsets);

/* What each expert of the next layer is worth beside this subset, of a layer
 * before `seam`. @param row  [expert] */
void coterie_chain_row(const coterie_chain_t *chain, const double *seam,
                       uint32_t mask, double *row);

/* best[t] = max over subsets s of `from` of value[s] + what s and t share;
 * best is -INFINITY to begin with. Early, if the search is over. */
void coterie_chain_relax(coterie_chain_t *chain, const double *seam,
                         const coterie_subsets_t *from, const double *value,
                         coterie_subsets_t *to, double *best);

/* Accepts a zeroed chain. */
void coterie_chain_close(coterie_chain_t *chain);

#endif
