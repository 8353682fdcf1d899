#ifndef COTERIE_KERNELS_CPU_EXPERT_H
#define COTERIE_KERNELS_CPU_EXPERT_H
/* One expert's FFN on a few rows, in four stages: rows into words, gate and up
 * with the activation, what that gave into words, down with the sums. expert.c
 * runs them one after the other, expert_pool.c by several threads, which cut
 * them where they like: it changes no bit. */
#include "kernels/cpu/cpu.h"

enum { COTERIE_CUT_PANELS = 12 }; /* whose outputs exist at a time, at most */

/* Rows of one expert, at most COTERIE_ROW_BLOCK, and where their intermediate
 * values are: the only ones that exist at a time. */
typedef struct coterie_block {
    const coterie_cpu_ops_t *ops;
    coterie_panel_method_t method;
    const coterie_ffn_shape_t *shape;
    const coterie_expert_weights_t *expert;
    uint32_t cut;    /* panels at a time */
    uint32_t stride; /* cuts from one that a thread computes to its next */
    /* What the thread reads after the last cuts of up and of down, if known. */
    const void *after_up, *after_down;
    uint32_t rows;
    const float *from[COTERIE_ROW_BLOCK];
    float *sums[COTERIE_ROW_BLOCK];
    const float *weight;
    char *x;       /* rows in words */
    float *inner;  /* [rows, inner stride]: what the activation gives */
    char *packed;  /* the same in words; may be where x was */
    float *narrow; /* [rows, cut * 16] */
} coterie_block_t;

/* Of all blocks of a shape, without rows and memory. */
void coterie_block_begin(coterie_block_t *block,
                         const coterie_ffn_shape_t *shape);
/* Bytes of each kind of memory, of a block of COTERIE_ROW_BLOCK rows. */
size_t coterie_block_x_size(const coterie_block_t *block);
size_t coterie_block_inner_size(const coterie_block_t *block);
size_t coterie_block_packed_size(const coterie_block_t *block);
size_t coterie_block_narrow_size(const coterie_block_t *block);

/* Blocks that an expert's `count` rows are cut into, and one of them. */
uint32_t coterie_block_count(uint32_t count);
void coterie_block_set(coterie_block_t *block, const coterie_ffn_call_t *call,
                       uint32_t expert, uint32_t ordinal);

/* Cuts of gate and up, and of down. */
uint32_t coterie_block_inner_cuts(const coterie_block_t *block);
uint32_t coterie_block_outer_cuts(const coterie_block_t *block);

/* The stages; the second and the last of one cut, the others of one of so many
 * parts of the rows. */
void coterie_block_pack(const coterie_block_t *block, uint32_t part,
                        uint32_t parts);
void coterie_block_gate_up(const coterie_block_t *block, uint32_t cut);
void coterie_block_pack_inner(const coterie_block_t *block, uint32_t part,
                              uint32_t parts);
void coterie_block_down(const coterie_block_t *block, uint32_t cut);

/* What of an expert is read first, as after_down. */
const void *coterie_block_first(const coterie_expert_weights_t *expert);

#endif
