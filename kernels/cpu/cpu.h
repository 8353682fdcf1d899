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
#include <coterie/kernels.h>

#include "base/dtype.h"
#include "kernels/cpu/panel.h"

enum {
    COTERIE_LANES = 16,
    COTERIE_TILE_ROWS_MAX = 6,   /* rows of the largest tile */
    COTERIE_INNER_BLOCK = 1024,  /* of a tile's rows, fits the nearest cache */
    COTERIE_ROW_BLOCK = 96,      /* rows that share one reading of a weight */
    COTERIE_OUTPUT_BLOCK = 64    /* outputs that share a tile of rows there */
};

#define INLINE TARGET static inline __attribute__((always_inline))

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

/* Has the compiler forget how an address came about, so that it keeps it in a
 * register instead of computing others from it. */
#if defined(__GNUC__)
#define OPAQUE(pointer) __asm__("" : "+r"(pointer))
#else
#define OPAQUE(pointer) ((void)0)
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

/* up = activation(gate, up), or activation(up) where gate is NULL; biases are
 * added first, where they are given. */
typedef struct coterie_activate {
    size_t count;
    const float *gate, *gate_bias;
    float *up;
    const float *up_bias;
    float alpha, limit;
} coterie_activate_t;

typedef void (*coterie_activate_fn)(const coterie_activate_t *at);

typedef struct coterie_cpu_ops {
    uint32_t rows; /* of the largest tile */
    /* By dtype - 1 and rows - 1: with all the outputs that fit, and with few
     * of them if rows are few, so that weights are one or two streams. */
    coterie_tile_kind_t tile[3][COTERIE_TILE_ROWS_MAX];
    coterie_tile_kind_t tile_stream[3][COTERIE_TILE_ROWS_MAX];
    coterie_tile_fn tile_single[3]; /* one row, one output: what is left over */
    coterie_activate_fn activate[4]; /* by coterie_activation_t */
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

/* What an instruction set has for x in some words. */
#define COTERIE_PANELS_DECLARE(isa, words)                             \
    extern const coterie_panel_table_t coterie_table_##isa##_##words;  \
    void coterie_span_##isa##_##words(                                 \
        const coterie_panel_method_t *method, const float *x,          \
        char *to, float *span);

COTERIE_PANELS_DECLARE(portable, f32)
COTERIE_PANELS_DECLARE(portable, int8)
#if defined(__x86_64__)
COTERIE_PANELS_DECLARE(avx2, f32)
COTERIE_PANELS_DECLARE(avx2, int8)
COTERIE_PANELS_DECLARE(avx512, f32)
COTERIE_PANELS_DECLARE(avx512, int8)
COTERIE_PANELS_DECLARE(avx512_vnni, int8)
COTERIE_PANELS_DECLARE(avx512_bf16, bf16)
COTERIE_PANELS_DECLARE(amx, bf16)
COTERIE_PANELS_DECLARE(amx, int8)
#endif

/* Those in use. */
const coterie_cpu_ops_t *coterie_cpu_ops(void);
const coterie_cpu_panels_t *coterie_cpu_panels(void);

/* Bytes of the largest cache of a core; 0 if the processor does not tell. */
size_t coterie_cpu_last_cache(void);

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

#endif
