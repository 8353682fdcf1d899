#ifndef COTERIE_KERNELS_CUDA_KERNELS_H
#define COTERIE_KERNELS_CUDA_KERNELS_H
/* Kernels for a GPU, as plain C calls that only launch: nothing waits, nothing
 * is allocated, and no count is read on the host, so that a CUDA graph may
 * capture any sequence of them. All pointers are the device's, aligned to 16
 * bytes. Each returns the launch's cudaError_t, 0 if it went well. tests/ has
 * the same sources built for the CPU, and fills a second table with them. */
#include <coterie/ffn.h>
#include <coterie/kernels.h>

#include "kernels/cuda/dispatch.h"

enum {
    COTERIE_GPU_EXPERTS_MAX = 1024, /* of one layer on one device */
    COTERIE_GPU_CHUNK = 256,        /* pairs that one block sorts */
    COTERIE_GPU_TILE_MAX = 64,      /* pairs that one block computes */
    COTERIE_GPU_TILE_WIDE = 128,    /* the same, with wgmma */
    COTERIE_GPU_PIECE = 64,         /* inner elements that lie together */
    COTERIE_GPU_BLOCKS_EACH = 2     /* blocks that fill one processor */
};

/* Some pairs of one expert, as many as one block computes. */
typedef struct coterie_gpu_tile {
    uint32_t expert, first, count;
} coterie_gpu_tile_t;

/* The pairs of [rows, k] choices, grouped by expert. Sorting reads ids only
 * and writes the rest; experts are computed from tiles, their count and pair,
 * and combined by place. */
typedef struct coterie_gpu_pairs {
    uint32_t rows, k, expert_count;
    uint32_t tile;        /* pairs of a tile at most: 8, 16, 32, 64 or wide */
    const int32_t *ids;   /* [rows, k]; -1 = none */
    uint32_t *first;      /* [expert_count + 1]: where an expert's begin */
    uint32_t *pair;       /* [rows k]: row k + j, ascending for one expert */
    int32_t *place;       /* [rows, k]: where a pair is in `pair`; -1 = none */
    coterie_gpu_tile_t *tiles; /* [coterie_gpu_tiles] */
    uint32_t *tile_count; /* [1] */
    uint32_t *counts;     /* [coterie_gpu_chunks, expert_count] scratch */
} coterie_gpu_pairs_t;

/* Experts' gated FFN. Weights are in panels (doc/kernels.md), and products are
 * of bf16 with sums in f32, whose order does not depend on other rows. */
typedef struct coterie_gpu_ffn {
    coterie_ffn_shape_t shape;
    const coterie_expert_weights_t *experts; /* [expert_count] */
    const coterie_gpu_pairs_t *pairs;        /* sorted; on the host */
    const uint16_t *x;                       /* [rows, hidden] bf16 */
    uint16_t *inner; /* [coterie_gpu_inner] bf16, scratch: [rows k, ffn], or
                      * with wide tiles [ffn / PIECE][rows k][PIECE] */
    float *out;                              /* [rows k, hidden], by place */
    uint32_t blocks;                         /* that fill the device */
} coterie_gpu_ffn_t;

/* y[row] = base[row] + sum over j, in order, of weight[row, j] times the row
 * of out at place[row, j]. */
typedef struct coterie_gpu_combine {
    uint32_t rows, k, hidden;
    const int32_t *place; /* [rows, k]; -1 = none */
    const float *weight;  /* [rows, k] */
    const float *out;     /* [.., hidden] */
    const float *base;    /* [rows, hidden], or NULL: zero; may be y */
    float *y;             /* [rows, hidden] */
} coterie_gpu_combine_t;

/* Logits [rows, expert_count] to ids and weights [rows, k], as
 * coterie_router_topk does it; a row that it would refuse gets ids of -1. */
typedef struct coterie_gpu_router {
    coterie_router_options_t options; /* bias: the device's */
    uint32_t rows;
    const float *logits;
    int32_t *ids;
    float *weights;
} coterie_gpu_router_t;

/* Rows to where their pairs are: out[place[row, j]] = x[row]. Each is read
 * once. What pads a row of out becomes zero. */
typedef struct coterie_gpu_permute {
    uint32_t rows, k;
    uint32_t hidden, stride; /* elements: of a row of x, a multiple of 4, and
                              * of out, no less, of 8 */
    const int32_t *place;    /* [rows, k]; -1 = none */
    const uint16_t *x;       /* [rows, hidden] bf16 */
    uint16_t *out;           /* [.., stride] */
} coterie_gpu_permute_t;

/* A matrix of bf16 from panels to rows, padded with zeros, as libraries want
 * it. */
typedef struct coterie_gpu_unpack {
    uint32_t out, in, stride; /* stride: no less than in, a multiple of 8 */
    const void *panels;
    uint16_t *matrix; /* [out, stride] */
} coterie_gpu_unpack_t;

/* What goes between a library's products, for pairs of some experts, whose
 * rows are by place: inner = activation(gate, up), padded with zeros; and out =
 * y, both with the experts' biases. */
typedef struct coterie_gpu_between {
    coterie_ffn_shape_t shape;
    uint32_t ffn_stride, hidden_stride; /* multiples of 8 */
    const coterie_expert_weights_t *experts; /* for their biases */
    const coterie_gpu_tile_t *tiles;         /* [tile_count] of any size */
    uint32_t tile_count;
    const uint16_t *gate, *up; /* [.., ffn_stride] bf16; gate NULL: has none */
    uint16_t *inner;           /* the same; may be up */
    const uint16_t *y;         /* [.., hidden_stride] bf16 */
    float *out;                /* [.., hidden] */
} coterie_gpu_between_t;

#ifdef __cplusplus
extern "C" {
#endif

int coterie_gpu_narrow(void *stream, size_t count, const float *x,
                       uint16_t *y);
int coterie_gpu_sort(void *stream, const coterie_gpu_pairs_t *pairs);
int coterie_gpu_ffn(void *stream, const coterie_gpu_ffn_t *ffn);
int coterie_gpu_combine(void *stream, const coterie_gpu_combine_t *combine);
int coterie_gpu_router(void *stream, const coterie_gpu_router_t *router);
int coterie_gpu_permute(void *stream, const coterie_gpu_permute_t *permute);
int coterie_gpu_unpack(void *stream, const coterie_gpu_unpack_t *unpack);
int coterie_gpu_activate(void *stream, const coterie_gpu_between_t *between);
int coterie_gpu_deliver(void *stream, const coterie_gpu_between_t *between);

/* Whether the present device has a kernel for wide tiles, of bf16. */
int coterie_gpu_wide(void);

#ifdef __cplusplus
}
#endif

/* The same for any device. */
typedef struct coterie_gpu_kernels {
    int (*narrow)(void *stream, size_t count, const float *x, uint16_t *y);
    int (*sort)(void *stream, const coterie_gpu_pairs_t *pairs);
    int (*ffn)(void *stream, const coterie_gpu_ffn_t *ffn);
    int (*combine)(void *stream, const coterie_gpu_combine_t *combine);
    int (*router)(void *stream, const coterie_gpu_router_t *router);
    int (*send)(void *stream, const coterie_gpu_dispatch_t *d);
    int (*arrive)(void *stream, const coterie_gpu_dispatch_t *d);
    int (*give_back)(void *stream, const coterie_gpu_dispatch_t *d);
    int (*finish)(void *stream, const coterie_gpu_dispatch_t *d);
    int (*permute)(void *stream, const coterie_gpu_permute_t *permute);
    int (*unpack)(void *stream, const coterie_gpu_unpack_t *unpack);
    int (*activate)(void *stream, const coterie_gpu_between_t *between);
    int (*deliver)(void *stream, const coterie_gpu_between_t *between);
} coterie_gpu_kernels_t;

/* Pairs of a tile, so that `rows` rows of one expert are few tiles. */
static inline uint32_t coterie_gpu_tile(uint32_t rows)
{
    uint32_t tile = 8;

    while (tile < rows && tile < COTERIE_GPU_TILE_MAX)
        tile *= 2;
    return tile;
}

/* Pairs of each tile but the last of an expert with `count` of them: evenly
 * many, by eights. */
COTERIE_GPU_BOTH uint32_t coterie_gpu_tile_step(uint32_t count, uint32_t tile)
{
    const uint32_t tiles = (count + tile - 1) / tile;

    return tiles > 1 ? (count + 8 * tiles - 1) / (8 * tiles) * 8 : tile;
}

/* Elements of `inner`. */
static inline size_t coterie_gpu_inner(const coterie_ffn_shape_t *shape,
                                       const coterie_gpu_pairs_t *pairs)
{
    const size_t unit = 2 * COTERIE_GPU_PIECE;
    const size_t ffn = pairs->tile == COTERIE_GPU_TILE_WIDE
                           ? (shape->ffn + unit - 1) / unit * unit
                           : shape->ffn;

    return (size_t)pairs->rows * pairs->k * ffn;
}

/* Most tiles that the pairs can need. */
static inline uint32_t coterie_gpu_tiles(const coterie_gpu_pairs_t *pairs)
{
    const uint32_t count = pairs->rows * pairs->k;
    const uint32_t experts =
        count < pairs->expert_count ? count : pairs->expert_count;

    return experts + count / pairs->tile;
}

static inline uint32_t coterie_gpu_chunks(const coterie_gpu_pairs_t *pairs)
{
    return (pairs->rows * pairs->k + COTERIE_GPU_CHUNK - 1) /
           COTERIE_GPU_CHUNK;
}

#endif
