#ifndef COTERIE_PLACEMENT_SOLVE_RELABEL_H
#define COTERIE_PLACEMENT_SOLVE_RELABEL_H
/* Renames ranks from a layer on. */
#include "placement/solve/problem.h"

typedef struct coterie_relabel {
    const coterie_problem_t *problem;
    float *kept;      /* [rank, rank of the next layer]: weight across */
    float *block;     /* [rank of a node, rank of a node] */
    float *node_kept; /* [node, node of the next layer] */
    uint32_t *match, *node_match, *name;
    uint32_t *inner; /* [node, node, rank of a node] */
} coterie_relabel_t;

coterie_status_t coterie_relabel_open(coterie_relabel_t *relabel,
                                      const coterie_problem_t *problem);

/* At every seam, renames the ranks of all layers after it as keeps most across
 * the seam while what shares a rank or a node goes on sharing it: nothing else
 * changes, so every seam is at its best on its own. */
coterie_status_t coterie_relabel_seams(coterie_relabel_t *relabel,
                                       uint16_t *rank_of);

/* Accepts a zeroed relabel. */
void coterie_relabel_close(coterie_relabel_t *relabel);

#endif
