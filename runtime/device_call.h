#ifndef COTERIE_RUNTIME_DEVICE_CALL_H
#define COTERIE_RUNTIME_DEVICE_CALL_H
/* A layer's rows computed on a device for a bank: what that needs goes over in
 * one copy, and the sums come back in another. In between, experts are launched
 * in groups, whichever is ready; their outputs are added in one order. */
#include <stdbool.h>

#include "kernels/grouped.h"

typedef enum coterie_call_piece {
    COTERIE_CALL_EXPERTS,     /* [table]: where their weights are, there */
    COTERIE_CALL_TILES,       /* [max_rows k] */
    COTERIE_CALL_TILE_COUNTS, /* [experts]: of each group */
    COTERIE_CALL_PAIR,        /* [max_rows k]: a pair's row, by place */
    COTERIE_CALL_PLACE,  /* [max_rows, k]: where pairs are; -1 = none */
    COTERIE_CALL_WEIGHT, /* [max_rows, k] f32 */
    COTERIE_CALL_X,      /* [max_rows, hidden] f32; as much as is used */
    COTERIE_CALL_PIECES
} coterie_call_piece_t;

typedef struct coterie_device_call {
    coterie_device_t *device;
    coterie_ffn_shape_t shape;
    uint32_t max_rows, k;
    uint32_t experts; /* at most, */
    uint32_t table;   /* and as many whose weights are told with each call */

    size_t offset[COTERIE_CALL_PIECES + 1]; /* the same on both sides */
    unsigned char *here, *there;
    uint16_t *narrow, *inner; /* there */
    float *out, *y;           /* there */
    float *y_here;
    uint32_t *tile_first; /* [experts]: of each group */
    coterie_grouped_t *grouped; /* shapes that need it; else NULL */
    uint32_t row_count, pair_count, tile; /* of the present call */
} coterie_device_call_t;

/* Which experts are launched together: groups of them, one after the other. */
typedef struct coterie_call_groups {
    uint32_t count;
    const uint32_t *first;  /* [count + 1] */
    const uint32_t *expert; /* by group */
} coterie_call_groups_t;

/* Whether a device computes such experts.
 * @return ERR_UNSUPPORTED and what would do */
coterie_status_t coterie_device_call_shape(coterie_device_t *device,
                                           const coterie_ffn_shape_t *shape);

/* The first members are set; fills the others. */
coterie_status_t coterie_device_call_open(coterie_device_call_t *call);
void coterie_device_call_close(coterie_device_call_t *call);

/* @return ERR_CAPACITY */
coterie_status_t coterie_device_call_check(const coterie_device_call_t *call,
                                           const coterie_expert_rows_t *rows);

/* Queues that rows go over; rows->first may begin anywhere, for a part of a
 * layer's experts.
 * @param x  NULL: as in the call before */
coterie_status_t coterie_device_call_begin(coterie_device_call_t *call,
                                           const coterie_expert_rows_t *rows,
                                           const float *x,
                                           const coterie_call_groups_t *groups);

/* Where to write the table, before begin. */
coterie_expert_weights_t *coterie_device_call_table(
    const coterie_device_call_t *call);

/* Queues a group's experts.
 * @param experts  there, and the same here; NULL: the call's table */
coterie_status_t coterie_device_call_ffn(
    const coterie_device_call_t *call, uint32_t group,
    const coterie_expert_weights_t *experts,
    const coterie_expert_weights_t *experts_here);

/* Queues that outputs come from here instead: `count` rows from `place` on,
 * pinned, untouched until finish. */
coterie_status_t coterie_device_call_put(const coterie_device_call_t *call,
                                         uint32_t place, uint32_t count,
                                         const float *outputs);

/* Queues adding up all outputs, onto what earlier parts came to unless this is
 * the first. */
coterie_status_t coterie_device_call_add(const coterie_device_call_t *call,
                                         bool first);

/* Waits, and adds the sums to those here. */
coterie_status_t coterie_device_call_finish(const coterie_device_call_t *call,
                                            float *sums);

#endif
