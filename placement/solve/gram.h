#ifndef COTERIE_PLACEMENT_SOLVE_GRAM_H
#define COTERIE_PLACEMENT_SOLVE_GRAM_H
/* The semidefinite relaxation, in two files: semidefinite.c drives it and
 * turns forces into a bound, gram.c takes the steps that find them.
 *
 * A placement's Gram matrix has a 1 where two experts share a rank. Of two
 * layers next to each other it is a window
 *     inner(layer)    outer
 *     outer^T         inner(layer + 1)
 * whose entries are not negative, whose diagonal is 1, whose rows add up to a
 * rank's capacity in each half and which, less 1 / ranks everywhere, is
 * positive semidefinite; rows times loads are within the limit. What windows
 * that agree on the layers they share can keep at most is a bound. */
#include "placement/solve/eigen.h"
#include "placement/solve/parallel.h"
#include "placement/solve/solver.h"

/* How far a step's entries and windows are apart, and how far windows moved;
 * sums of squares. */
typedef struct coterie_gram_rest {
    double apart, moved;
} coterie_gram_rest_t;

/* One thread's scratch. */
typedef struct coterie_gram_desk {
    coterie_eigen_t eigen;
    float *target, *positive; /* [2 experts, stride] */
    float *weight;            /* [experts, experts]: where target was */
    double *square;           /* [2 experts, 2 experts] */
    double *work;             /* [3 experts] */
} coterie_gram_desk_t;

typedef struct coterie_gram {
    const coterie_problem_t *problem;
    coterie_search_t *search;
    coterie_solution_t *solution;
    /* Ranks that take fewer than the largest are filled up with experts that
     * nobody uses. */
    uint32_t experts, capacity, stride;
    double unit;  /* of weight: the mean cell's */
    double stiff; /* what squares of differences weigh */
    float *inner;  /* [layer, experts, experts] */
    float *window; /* [seam, 2 experts, stride]: semidefinite */
    float *force;  /* the same: multipliers of entries = window + 1 / ranks */
    float *load;   /* [layer, experts]: as shares of the limit */
    float *toll;   /* [layer, experts]: multipliers of inner x load <= 1 */
    float *toll_row, *toll_column; /* [seam, experts]: of outer's */
    coterie_gram_rest_t *rest;     /* [seam] */
    double *kept;                  /* [seam + layer]: a bound's parts */
    coterie_parallel_t parallel;
    coterie_gram_desk_t *desks; /* [thread] */
} coterie_gram_t;

/* What opening takes, in bytes. */
double coterie_gram_size(const coterie_problem_t *problem);

/* Set problem, search and solution first. */
coterie_status_t coterie_gram_open(coterie_gram_t *gram);
void coterie_gram_close(coterie_gram_t *gram);

/* Weight, in units; 0 where nobody is. `next`: across the seam after layer,
 * else inside it. */
double coterie_gram_weight(const coterie_gram_t *gram, uint32_t layer,
                           int next, uint32_t e, uint32_t f);

/* One step. @return 0, or not: the search is over */
int coterie_gram_step(coterie_gram_t *gram, coterie_gram_rest_t *rest_p);

/* Makes squares weigh `factor` times as much. */
void coterie_gram_stiffen(coterie_gram_t *gram, double factor);

/* Row e of the block (down, right) of a seam's window or force. */
static inline float *coterie_gram_row(const coterie_gram_t *gram,
                                      float *window, uint32_t seam,
                                      uint32_t down, uint32_t right,
                                      uint32_t e)
{
    size_t row = (2 * (size_t)seam + down) * gram->experts + e;

    return window + row * gram->stride + right * gram->experts;
}

/* Takes off every block's rows and columns their means. */
void coterie_gram_center(const coterie_gram_t *gram, float *matrix);

#endif
