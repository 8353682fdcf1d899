#ifndef COTERIE_PLACEMENT_SOLVE_ROTATION_H
#define COTERIE_PLACEMENT_SOLVE_ROTATION_H
/* Beyond swaps: one expert of each of several ranks goes on to the next one's.
 * A layer between fixed neighbours is a transportation problem, and at its
 * best when no cycle of ranks saves anything. */
#include "placement/solve/layer.h"

typedef struct coterie_rotation {
    uint32_t rank_count;
    float *gain;      /* [from, to]: saved by the expert that goes best */
    uint16_t *mover;  /* [from, to]: that expert */
    double *reach;    /* [rank]: most saved on a walk that ends there */
    uint16_t *before; /* [rank]: on that walk; rank_count: it begins there */
    uint16_t *cycle;  /* [rank] */
} coterie_rotation_t;

coterie_status_t coterie_rotation_open(coterie_rotation_t *rotation,
                                       uint32_t rank_count);

/* Makes rotations until none saves anything, in a layer whose experts are
 * worth the same whatever its others do: without pairs. None takes a rank
 * over the load limit, and with one some that would save may be missed. */
void coterie_rotation_descend(coterie_rotation_t *rotation,
                              coterie_layer_t *layer);

/* Accepts a zeroed rotation. */
void coterie_rotation_close(coterie_rotation_t *rotation);

#endif
