#ifndef COTERIE_KERNELS_CPU_H
#define COTERIE_KERNELS_CPU_H
/* What an instruction set provides. Loops over rows, outputs and blocks of the
 * inner dimension are written once, on top of these, in product.c.
 *
 * A row's bits: an output is a sum over blocks of COTERIE_INNER_BLOCK, in
 * order; inside a block lane i adds the products i, i + 16, i + 32, ... in
 * order, and the 16 lanes are added in one fixed tree. That holds for every
 * tile size, so rows do not depend on their neighbours; and AVX2 keeps 16
 * lanes as AVX-512 does, so that unlike processors route one token alike. */
#include <stdbool.h>

#include <coterie/ffn.h>
#include <coterie/kernels.h>

#include "base/dtype.h"

enum {
    COTERIE_LANES = 16,
    COTERIE_TILE_ROWS_MAX = 6,   /* rows of the largest tile */
    COTERIE_INNER_BLOCK = 1024,  /* of a tile's rows, fits the nearest cache */
    COTERIE_ROW_BLOCK = 96,      /* rows that share one reading of a weight */
    COTERIE_OUTPUT_BLOCK = 64,   /* outputs that share a tile of rows there */
    COTERIE_PANEL_VECTOR = 64,   /* bytes */
    COTERIE_PANEL_ROWS_MAX = 12, /* rows of the largest tile of panels */
    COTERIE_PANEL_BLOCK = 512    /* words of a row that are summed apart */
};

/* In front of a loop of constant length that is to vanish: arrays indexed in it
 * become registers. Sanitizers check every index of what is left, which takes
 * a compiler minutes. */
#if defined(COTERIE_SANITIZED)
#define UNROLL
#define UNROLL_ALL
#elif defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#define UNROLL_ALL UNROLL
#else
#define UNROLL _Pragma("GCC unroll 8")
#define UNROLL_ALL _Pragma("GCC unroll 16")
#endif

/* A few rows times a few weight rows, over one block of the inner dimension. */
typedef struct coterie_tile {
    const float *const *x; /* the rows, from the block's first element on */
    const char *weight;    /* first of the weight rows, likewise */
    size_t weight_stride;  /* bytes */
    size_t count;          /* elements of the block */
    const char *ahead;     /* what will be read later, with the same stride, */
    size_t ahead_step;     /* and how fast to ask for it: bytes per 16 */
    int add;               /* to y, instead of setting it */
    float *y;
    size_t y_stride; /* elements */
} coterie_tile_t;

typedef void (*coterie_tile_fn)(const coterie_tile_t *tile);

/* Tiles of some number of rows, and the outputs that suit it. */
typedef struct coterie_tile_kind {
    uint32_t outputs;
    coterie_tile_fn run;
} coterie_tile_kind_t;

/* A few rows times a few panels, over one block of the inner dimension. */
typedef struct coterie_panel_tile {
    const void *x;       /* words of 4 bytes, [step][element][row] */
    const char *weight;  /* of the first panel, from the block's first step on */
    size_t panel_stride; /* bytes */
    uint32_t steps;      /* vectors of a panel */
    uint32_t turn;       /* the step from which ahead[1] is asked for */
    const char *ahead[2]; /* what will be read later, with the same stride, */
    size_t ahead_step;    /* and how fast to ask for it: bytes a step */
    bool add;             /* to y, instead of setting it */
    float *y;
    size_t y_stride; /* elements */
} coterie_panel_tile_t;

typedef void (*coterie_panel_fn)(const coterie_panel_tile_t *tile);

/* Tiles of some number of rows: with the panels that suit it, and with one. */
typedef struct coterie_panel_kind {
    uint32_t panels;
    coterie_panel_fn run, single;
} coterie_panel_kind_t;

typedef struct coterie_cpu_ops {
    const char *name;
    uint32_t panel_rows; /* of the largest tile of panels */
    /* By dtype - 1 and rows - 1. */
    coterie_panel_kind_t panel[3][COTERIE_PANEL_ROWS_MAX];
    uint32_t rows; /* of the largest tile */
    /* By dtype - 1 and rows - 1: with all the outputs that fit, and with few
     * of them if rows are few, so that weights are one or two streams. */
    coterie_tile_kind_t tile[3][COTERIE_TILE_ROWS_MAX];
    coterie_tile_kind_t tile_stream[3][COTERIE_TILE_ROWS_MAX];
    coterie_tile_fn tile_single[3]; /* one row, one output: what is left over */
    /* up[i] = silu(gate[i]) * up[i] */
    void (*silu_mul)(size_t count, const float *gate, float *up);
    /* y[i] += scale * x[i] */
    void (*add_scaled)(size_t count, float scale, const float *x, float *y);
    void (*rms_norm)(size_t width, float eps, const float *x,
                     const float *weight, float *y);
} coterie_cpu_ops_t;

extern const coterie_cpu_ops_t coterie_cpu_portable;
#if defined(__x86_64__)
extern const coterie_cpu_ops_t coterie_cpu_avx2;
extern const coterie_cpu_ops_t coterie_cpu_avx512;
#endif

/* The one in use. */
const coterie_cpu_ops_t *coterie_cpu_ops(void);

/* At most COTERIE_ROW_BLOCK rows times a matrix. */
typedef struct coterie_product {
    uint32_t rows, in, out;
    coterie_dtype_t dtype;
    const float *const *x;
    const void *weight;   /* [out] rows */
    size_t weight_stride; /* bytes */
    const void *next;     /* weights that will be read afterwards, or NULL */
    float *y;             /* [rows, out] */
    size_t y_stride;      /* elements */
} coterie_product_t;

void coterie_cpu_product(const coterie_cpu_ops_t *ops,
                         const coterie_product_t *product);

/* Rows times panels. */
typedef struct coterie_panel_product {
    uint32_t rows, in;
    uint32_t panels;
    coterie_dtype_t dtype;
    const float *x;      /* from coterie_panel_pack_x */
    const char *weight;
    const char *next;    /* weights that will be read afterwards, or NULL */
    float *y;            /* [rows, panels * 16] */
    size_t y_stride;     /* elements */
} coterie_panel_product_t;

void coterie_panel_product(const coterie_cpu_ops_t *ops,
                           const coterie_panel_product_t *product);

/* Words that a row takes in packed form. */
size_t coterie_panel_words(coterie_dtype_t dtype, uint32_t in);

/* Tile by tile and, within one, element by element: then a tile reads it in
 * one stream. */
void coterie_panel_pack_x(const coterie_cpu_ops_t *ops,
                          const coterie_panel_product_t *product,
                          const float *const *rows, float *to);

#endif
