#ifndef COTERIE_KERNELS_CPU_PANEL_H
#define COTERIE_KERNELS_CPU_PANEL_H
/* Products of rows with matrices in panels (coterie/ffn.h). An instruction set
 * provides tiles; the loops around them are written once, in panel_product.c.
 *
 * A row's bits: an output is a sum over blocks of the inner dimension, in
 * order (COTERIE_BLOCK_... elements). Inside a block it is one chain of fused
 * multiply-adds, or one for each group of elements that has a scale, and a
 * chain of those. No tile changes that, so rows do not depend on their
 * neighbours. */
#include <stdbool.h>

#include <coterie/ffn.h>

enum {
    COTERIE_PANEL_VECTOR = 64, /* bytes */
    COTERIE_PANELS_MAX = 4,    /* of a tile */
    COTERIE_BLOCK_FLOATS = 512,
    COTERIE_BLOCK_BYTES = 2048, /* where x is int8 */
    COTERIE_SPAN = 128,         /* elements of x */
    COTERIE_SPAN_WORDS = 1 + COTERIE_SPAN / COTERIE_PANEL_GROUP
};

/* Rows as tiles read them. What a vector of weights meets at a time, its
 * units, are words of 4 bytes: an f32, two bf16 or four int8 of a row, which is
 * filled up with zeros to whole spans. Behind them are words for each span: the
 * scale of int8 x, and what the sum of each 32 elements contributes, or in the
 * first of these that of all of them (panel_pack.c). */
typedef enum coterie_panel_words {
    COTERIE_WORDS_F32,
    COTERIE_WORDS_BF16,
    COTERIE_WORDS_INT8
} coterie_panel_words_t;

/* A few rows times a few panels, over one block of the inner dimension. */
typedef struct coterie_panel_tile {
    const char *x;       /* words of the first row, from the block's first on */
    const char *x_spans; /* likewise */
    size_t x_stride;     /* bytes from row to row, of both */
    uint32_t rows;
    const char *weight;  /* of the first panel, from the block's first on */
    size_t panel_stride; /* bytes */
    const char *scale[COTERIE_PANELS_MAX]; /* of each panel, if apart from it */
    uint32_t steps;       /* vectors of weights of a panel */
    const char *ahead;    /* what will be read later, and how fast to ask for */
    size_t ahead_step;    /* it: bytes a vector, */
    size_t ahead_stride;  /* and from panel to panel; */
    bool ahead_near;      /* for the first-level cache */
    bool add;             /* to y, instead of setting it */
    float *y;
    size_t y_stride; /* elements */
} coterie_panel_tile_t;

typedef void (*coterie_panel_fn)(const coterie_panel_tile_t *tile);

/* Tiles for a dtype: by rows - 1, each with the panels that suit it; and one of
 * one row and one panel, for what is left over. */
typedef struct coterie_panel_kind {
    uint32_t panels;
    coterie_panel_fn run;
} coterie_panel_kind_t;

typedef struct coterie_panel_tiles {
    uint32_t rows; /* of the largest; 0 = there are none */
    const coterie_panel_kind_t *kind;
    coterie_panel_fn single;
} coterie_panel_tiles_t;

/* By dtype - 1. */
typedef coterie_panel_tiles_t
    coterie_panel_table_t[COTERIE_DTYPE_MXFP4];

/* The tiles and words for weights of a dtype and a compute mode. */
typedef struct coterie_panel_method coterie_panel_method_t;

/* Makes words of a span of x, and those of the span: the scale of int8 x, and
 * the sums of x, or what takes the shift of int8 weights off. */
typedef void (*coterie_panel_span_fn)(const coterie_panel_method_t *method,
                                      const float *x, char *words,
                                      float *span);

struct coterie_panel_method {
    coterie_dtype_t dtype;
    coterie_compute_t compute;
    coterie_panel_words_t words;
    const coterie_panel_tiles_t *tiles;
    coterie_panel_span_fn span;
};

/* By words; where bf16 words have no tiles, their values go as f32. */
typedef struct coterie_cpu_panels {
    const coterie_panel_table_t *table[3];
    const coterie_panel_table_t *better[3]; /* NULL, or for some dtypes */
    coterie_panel_span_fn span[3];
} coterie_cpu_panels_t;

coterie_panel_method_t coterie_panel_method(const coterie_cpu_panels_t *panels,
                                            coterie_dtype_t dtype,
                                            coterie_compute_t compute);

/* Bytes of a row's words, and of all of it. */
size_t coterie_panel_words_size(const coterie_panel_method_t *method,
                                uint32_t in);
size_t coterie_panel_row_size(const coterie_panel_method_t *method,
                              uint32_t in);

/* Puts rows into words: one after the other, so that any number of them may be
 * done at a time. */
void coterie_panel_pack(const coterie_panel_method_t *method, uint32_t rows,
                        uint32_t in, const float *const *x, char *to);

/* Rows times some panels of a matrix. */
typedef struct coterie_panel_product {
    const coterie_panel_method_t *method;
    uint32_t rows, in;
    uint32_t first, panels;
    const char *weight, *scale; /* of the whole matrix */
    const char *next; /* weights that will be read afterwards, or NULL */
    const char *x;    /* from coterie_panel_pack */
    float *y;         /* [rows, panels * 16] */
    size_t y_stride;  /* elements */
} coterie_panel_product_t;

void coterie_panel_multiply(const coterie_panel_product_t *product);

/* Elements of one output in a vector of weights. */
static inline uint32_t coterie_panel_elements(coterie_dtype_t dtype)
{
    switch (dtype) {
    case COTERIE_DTYPE_F32:
        return 1;
    case COTERIE_DTYPE_F16:
    case COTERIE_DTYPE_BF16:
        return 2;
    case COTERIE_DTYPE_INT8:
    case COTERIE_DTYPE_INT8_GROUP:
    case COTERIE_DTYPE_FP8:
        return 4;
    default:
        return 8;
    }
}

/* Groups whose scales fill the vector that precedes their weights: a bundle; 0
 * if there are no such vectors. */
static inline uint32_t coterie_panel_bundle(coterie_dtype_t dtype)
{
    switch (dtype) {
    case COTERIE_DTYPE_INT8_GROUP:
    case COTERIE_DTYPE_INT4:
        return 2;
    case COTERIE_DTYPE_INT4_ZERO:
        return 1;
    case COTERIE_DTYPE_MXFP4:
        return 4;
    default:
        return 0;
    }
}

/* Vectors of weights in a bundle, if there are bundles. */
static inline uint32_t coterie_panel_bundle_steps(coterie_dtype_t dtype)
{
    return coterie_panel_bundle(dtype) * COTERIE_PANEL_GROUP /
           coterie_panel_elements(dtype);
}

/* Which of a panel's vectors the weights of a step are, */
static inline size_t coterie_panel_vector(coterie_dtype_t dtype, size_t step)
{
    const uint32_t steps = coterie_panel_bundle_steps(dtype);
    return steps > 0 ? step + step / steps + 1 : step;
}

/* how many take so many steps, */
static inline size_t coterie_panel_vectors(coterie_dtype_t dtype, size_t steps)
{
    return steps > 0 ? coterie_panel_vector(dtype, steps - 1) + 1 : 0;
}

/* and the bytes before a group's scales. */
static inline size_t coterie_panel_scale_at(coterie_dtype_t dtype,
                                            size_t group)
{
    const uint32_t bundle = coterie_panel_bundle(dtype);
    const size_t vector =
        group / bundle * (coterie_panel_bundle_steps(dtype) + 1);

    return vector * COTERIE_PANEL_VECTOR +
           group % bundle * (COTERIE_PANEL_VECTOR / bundle);
}

static inline int coterie_panel_word_elements(coterie_panel_words_t words)
{
    return 1 << words;
}

/* Elements that share a scale, of weights, or else of int8 x; 0 if a block
 * does. */
static inline uint32_t coterie_panel_span(coterie_panel_words_t words,
                                          coterie_dtype_t dtype)
{
    switch (dtype) {
    case COTERIE_DTYPE_INT8_GROUP:
    case COTERIE_DTYPE_INT4:
    case COTERIE_DTYPE_INT4_ZERO:
    case COTERIE_DTYPE_MXFP4:
        return COTERIE_PANEL_GROUP;
    case COTERIE_DTYPE_FP8:
        return COTERIE_FP8_BLOCK;
    default:
        return words == COTERIE_WORDS_INT8 ? COTERIE_SPAN : 0;
    }
}

/* What is added to weights of int8 products to make them unsigned. */
static inline int32_t coterie_panel_shift(coterie_dtype_t dtype)
{
    switch (dtype) {
    case COTERIE_DTYPE_INT4:
        return 8;
    case COTERIE_DTYPE_MXFP4:
        return 12;
    case COTERIE_DTYPE_INT4_ZERO:
        return 0;
    default:
        return 128;
    }
}

/* Which of a vector's elements is the i-th that bf16 words hold: the even ones
 * come first, because that is how bytes and half bytes widen. */
static inline int coterie_panel_order(int elements, int i)
{
    if (elements <= 2)
        return elements == 1 ? 0 : i;
    return i < elements / 2 ? 2 * i : 2 * i - elements + 1;
}

#endif
