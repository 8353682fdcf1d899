#ifndef COTERIE_PLACEMENT_SOLVE_MATCHING_H
#define COTERIE_PLACEMENT_SOLVE_MATCHING_H
/* Matchings between two layers' experts. */
#include <coterie/status.h>

/* The heaviest perfect matching of weight[count, count]: row i with column
 * match[i]. Shortest augmenting paths (Jonker and Volgenant, 1987). */
coterie_status_t coterie_match(const float *weight, uint32_t count,
                               uint32_t *match);

/* At least the weight of the heaviest choice of cells with at most `degree`
 * in a row and in a column, and close to it. Uses work[3 * count]. */
double coterie_match_limit(const float *weight, uint32_t count,
                           uint32_t degree, double *work);

#endif
