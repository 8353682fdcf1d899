/* Tiles of panels, written once. Includes of this file have defined vec_t (16
 * floats) and its functions, raw_t (64 bytes: a vector of weights, or 16 sums
 * of int8 products) and its functions, TARGET and INLINE. PANEL makes one tile;
 * panel_tables.h says which ones there are. */

#include "kernels/cpu/panel_read.h"

#if !defined(PANEL_PAIR) /* no bf16 words here */
#define PANEL_PAIR(weight, dtype, unit) raw_load(weight)
#define PANEL_DOT_PAIR(sum, raw, word) (sum)
#endif
#if !defined(PANEL_DOT) /* no int8 words */
#define PANEL_DOT(sum, raw, word) (sum)
#endif
/* Has the compiler keep a sum in a register of its own. */
#if !defined(PANEL_HOLD)
#define PANEL_HOLD(raw) ((void)0)
#endif

enum {
    FEW_ROWS = 2,
    UNITS_AT_ONCE = 4, /* of a loop's turn */
    ROWS_NEAR = 3, /* that one address and a stride reach */
    PLACES = (PANEL_ROWS + ROWS_NEAR - 1) / ROWS_NEAR
};

typedef struct panel_state {
    /* Of a block: in registers, or far, in memory that the compiler believes it
     * does not know, lest it move sums there that are needed at every step. */
    vec_t total[PANEL_ROWS][COTERIE_PANELS_MAX];
    float *far;
    vec_t sum[PANEL_ROWS][COTERIE_PANELS_MAX]; /* of a span */
    /* Of int8 products; in two halves where rows are few, so that one need not
     * wait for the other. Whole numbers have one sum in any order. */
    raw_t dot[2][PANEL_ROWS][COTERIE_PANELS_MAX];
    const char *x[PLACES]; /* of the next step, of every third row */
    size_t x_stride;
} panel_state_t;

/* Constants wherever they are inlined, so that the state lives in registers. */
typedef struct panel_shape {
    int rows, panels;
    coterie_dtype_t dtype;
    coterie_panel_words_t words;
    int elements; /* of a vector, for one output */
    int units;    /* words of x that they meet */
    int span;     /* elements that share a scale, or 0 */
    int is_far;   /* totals are */
} panel_shape_t;

INLINE panel_shape_t panel_shape(int rows, int panels, coterie_dtype_t dtype,
                                 coterie_panel_words_t words);
INLINE void panel_body(const coterie_panel_tile_t *tile, panel_shape_t shape);
INLINE void panel_begin(const coterie_panel_tile_t *tile, panel_shape_t shape,
                        panel_state_t *state);
INLINE void panel_spans(const coterie_panel_tile_t *tile, panel_shape_t shape,
                        panel_state_t *state);
INLINE void panel_byte_spans(const coterie_panel_tile_t *tile,
                             panel_shape_t shape, panel_state_t *state);
INLINE void panel_steps(const coterie_panel_tile_t *tile, panel_shape_t shape,
                        size_t vector, size_t steps, panel_state_t *state);
INLINE void panel_sums_clear(panel_shape_t shape, panel_state_t *state);
INLINE vec_t panel_total(const panel_state_t *state, panel_shape_t shape,
                         int row, int panel);
INLINE void panel_total_set(panel_state_t *state, panel_shape_t shape, int row,
                            int panel, vec_t v);
INLINE void panel_dots_clear(const coterie_panel_tile_t *tile,
                             panel_shape_t shape, size_t group,
                             panel_state_t *state);
INLINE void panel_ask(const coterie_panel_tile_t *tile, panel_shape_t shape,
                      size_t vector);
INLINE void panel_step(const coterie_panel_tile_t *tile, panel_shape_t shape,
                       size_t vector, int half, panel_state_t *state);
INLINE void panel_unit(const coterie_panel_tile_t *tile, panel_shape_t shape,
                       size_t vector, int i, int half, panel_state_t *state);
INLINE void panel_fold(const coterie_panel_tile_t *tile, panel_shape_t shape,
                       size_t group, panel_state_t *state);
INLINE void panel_fold_bytes(const coterie_panel_tile_t *tile,
                             panel_shape_t shape, size_t span,
                             panel_state_t *state);
INLINE vec_t panel_dots(const panel_state_t *state, panel_shape_t shape,
                        int row, int panel);
INLINE void panel_finish(const coterie_panel_tile_t *tile,
                         panel_shape_t shape, panel_state_t *state);
INLINE vec_t panel_element(const char *weight, coterie_dtype_t dtype, int e);

#define PANEL(words, dtype, rows, panels)                                 \
    TARGET static void panel_##words##_##dtype##_##rows##x##panels(       \
        const coterie_panel_tile_t *tile)                                 \
    {                                                                     \
        panel_body(tile, panel_shape(rows, panels, COTERIE_DTYPE_##dtype, \
                                     COTERIE_WORDS_##words));             \
    }

INLINE panel_shape_t panel_shape(int rows, int panels, coterie_dtype_t dtype,
                                 coterie_panel_words_t words)
{
    panel_shape_t shape = {.rows = rows,
                           .panels = panels,
                           .dtype = dtype,
                           .words = words};

    shape.elements = (int)coterie_panel_elements(dtype);
    shape.units = shape.elements / coterie_panel_word_elements(words);
    shape.span = (int)coterie_panel_span(words, dtype);
    shape.is_far = rows > FEW_ROWS && words == COTERIE_WORDS_INT8 &&
                   dtype != COTERIE_DTYPE_INT8;
    return shape;
}

INLINE void panel_body(const coterie_panel_tile_t *tile, panel_shape_t shape)
{
    panel_state_t state;
    _Alignas(64) float far[PANEL_ROWS * COTERIE_PANELS_MAX * COTERIE_LANES];

    state.far = far;
    OPAQUE(state.far);
    panel_begin(tile, shape, &state);
    if (shape.words == COTERIE_WORDS_INT8)
        panel_byte_spans(tile, shape, &state);
    else if (shape.span > 0)
        panel_spans(tile, shape, &state);
    else
        for (uint32_t step = 0; step < tile->steps; step++)
            panel_step(tile, shape, step, 0, &state);
    panel_finish(tile, shape, &state);
}

INLINE void panel_begin(const coterie_panel_tile_t *tile, panel_shape_t shape,
                        panel_state_t *state)
{
    UNROLL_ALL for (int r = 0; r < shape.rows; r++)
        UNROLL_ALL for (int p = 0; p < shape.panels; p++)
            panel_total_set(state, shape, r, p, vec_set(0));
    panel_sums_clear(shape, state);
    state->x_stride = tile->x_stride;
    UNROLL for (int i = 0; i < PLACES; i++) {
        state->x[i] = tile->x + (size_t)(i * ROWS_NEAR) * tile->x_stride;
        OPAQUE(state->x[i]);
    }
}

/* Of weights; the last span may be a part of one. */
INLINE void panel_spans(const coterie_panel_tile_t *tile, panel_shape_t shape,
                        panel_state_t *state)
{
    const size_t steps = (size_t)(shape.span / shape.elements);
    size_t span = 0, step = 0;

    for (; step + steps <= tile->steps; span++, step += steps) {
        panel_sums_clear(shape, state);
        panel_steps(tile, shape, coterie_panel_vector(shape.dtype, step),
                    steps, state);
        panel_fold(tile, shape, span, state);
    }
    if (step == tile->steps)
        return;
    panel_sums_clear(shape, state);
    panel_steps(tile, shape, coterie_panel_vector(shape.dtype, step),
                tile->steps - step, state);
    panel_fold(tile, shape, span, state);
}

/* Of int8 x, each of which has one or four spans of weights. The last ones may
 * be parts. */
INLINE void panel_byte_spans(const coterie_panel_tile_t *tile,
                             panel_shape_t shape, panel_state_t *state)
{
    const size_t steps = (size_t)(shape.span / shape.elements);
    const size_t groups = (size_t)(COTERIE_SPAN / shape.span);
    size_t span = 0, step = 0, group = 0;

    for (; step < tile->steps; span++) {
        panel_sums_clear(shape, state);
        do {
            const size_t vector = coterie_panel_vector(shape.dtype, step);
            panel_dots_clear(tile, shape, group, state);
            if (step + steps <= tile->steps)
                panel_steps(tile, shape, vector, steps, state);
            else
                panel_steps(tile, shape, vector, tile->steps - step, state);
            panel_fold(tile, shape, group++, state);
            step += steps;
        } while (group % groups != 0 && step < tile->steps);
        panel_fold_bytes(tile, shape, span, state);
    }
}

INLINE void panel_steps(const coterie_panel_tile_t *tile, panel_shape_t shape,
                        size_t vector, size_t steps, panel_state_t *state)
{
    const size_t at_once = shape.words == COTERIE_WORDS_F32
                               ? 1
                           : shape.rows <= FEW_ROWS
                               ? UNITS_AT_ONCE
                               : (size_t)(UNITS_AT_ONCE / shape.units);
    const size_t end = vector + steps, whole = end - steps % at_once;

    /* Not a loop: compilers unroll those after arrays became registers. */
    for (; vector < whole; vector += at_once) {
        panel_step(tile, shape, vector, 0, state);
        if (at_once > 1)
            panel_step(tile, shape, vector + 1, 1, state);
        if (at_once > 2) {
            panel_step(tile, shape, vector + 2, 0, state);
            panel_step(tile, shape, vector + 3, 1, state);
        }
    }
    while (vector < end)
        panel_step(tile, shape, vector++, 0, state);
}

INLINE void panel_sums_clear(panel_shape_t shape, panel_state_t *state)
{
    UNROLL_ALL for (int r = 0; r < shape.rows; r++)
        UNROLL_ALL for (int p = 0; p < shape.panels; p++)
            state->sum[r][p] = vec_set(0);
}

INLINE vec_t panel_total(const panel_state_t *state, panel_shape_t shape,
                         int row, int panel)
{
    const size_t at = (size_t)(row * shape.panels + panel) * COTERIE_LANES;
    return shape.is_far ? vec_load(state->far + at) : state->total[row][panel];
}

INLINE void panel_total_set(panel_state_t *state, panel_shape_t shape, int row,
                            int panel, vec_t v)
{
    const size_t at = (size_t)(row * shape.panels + panel) * COTERIE_LANES;
    if (shape.is_far)
        vec_store(state->far + at, v);
    else
        state->total[row][panel] = v;
}

/* Weights of int8 products are unsigned, x is signed: what the shift adds to a
 * group's products is taken off from the start. */
INLINE void panel_dots_clear(const coterie_panel_tile_t *tile,
                             panel_shape_t shape, size_t group,
                             panel_state_t *state)
{
    UNROLL_ALL for (int r = 0; r < shape.rows; r++)
        UNROLL_ALL for (int p = 0; p < shape.panels; p++) {
            state->dot[0][r][p] = state->dot[1][r][p] = raw_set(0);
            if (shape.dtype == COTERIE_DTYPE_INT8)
                state->dot[0][r][p] =
                    raw_set_from(panel_span_word(tile, r, group, 1));
            else if (shape.dtype != COTERIE_DTYPE_INT4_ZERO)
                state->dot[0][r][p] =
                    raw_set_from(panel_group_word(tile, r, group));
            if (shape.rows > FEW_ROWS)
                PANEL_HOLD(state->dot[0][r][p]);
        }
}

/* As much as a vector of each panel. A single stream is for the processor to
 * foresee. Only few lines may be under way to the first-level cache, more to
 * the second: where memory decides, that. */
INLINE void panel_ask(const coterie_panel_tile_t *tile, panel_shape_t shape,
                      size_t vector)
{
    const char *at = tile->ahead;

    if (shape.panels == 1 || at == NULL)
        return;
    at += vector * tile->ahead_step;
    UNROLL_ALL for (int p = 0; p < shape.panels; p++)
        if (tile->ahead_near)
            __builtin_prefetch(at + (size_t)p * tile->ahead_stride, 0, 3);
        else
            __builtin_prefetch(at + (size_t)p * tile->ahead_stride, 0, 2);
}

/* One vector of weights of each panel; sums of bytes go into a half. */
INLINE void panel_step(const coterie_panel_tile_t *tile, panel_shape_t shape,
                       size_t vector, int half, panel_state_t *state)
{
    panel_ask(tile, shape, vector);
    UNROLL_ALL for (int i = 0; i < shape.units; i++)
        panel_unit(tile, shape, vector, i, shape.units > 1 ? i % 2 : half,
                   state);
    UNROLL for (int i = 0; i * ROWS_NEAR < shape.rows; i++)
        state->x[i] += shape.units * 4;
}

/* What meets the i-th words of the rows. */
INLINE void panel_unit(const coterie_panel_tile_t *tile, panel_shape_t shape,
                       size_t vector, int i, int half, panel_state_t *state)
{
    /* Of two elements in a bf16 word the second comes first. */
    const int u = shape.words == COTERIE_WORDS_F32
                      ? coterie_panel_order(shape.elements, i ^ 1)
                      : i;
    vec_t w[COTERIE_PANELS_MAX];
    raw_t raw[COTERIE_PANELS_MAX];

    UNROLL_ALL for (int p = 0; p < shape.panels; p++) {
        const char *at = tile->weight + vector * COTERIE_PANEL_VECTOR +
                         (size_t)p * tile->panel_stride;
        if (shape.words == COTERIE_WORDS_F32)
            w[p] = panel_element(at, shape.dtype, u);
        else if (shape.words == COTERIE_WORDS_BF16)
            raw[p] = PANEL_PAIR(at, shape.dtype, u);
        else
            raw[p] = panel_bytes(at, shape.dtype, u);
    }
    UNROLL_ALL for (int r = 0; r < shape.rows; r++)
        UNROLL_ALL for (int p = 0; p < shape.panels; p++) {
            const char *x = state->x[r / ROWS_NEAR] +
                            (size_t)(r % ROWS_NEAR) * state->x_stride + u * 4;
            vec_t *const sum = &state->sum[r][p];
            raw_t *const dot =
                &state->dot[shape.rows <= FEW_ROWS ? half : 0][r][p];
            if (shape.words == COTERIE_WORDS_F32)
                *sum = vec_fma(vec_set_from(x), w[p], *sum);
            else if (shape.words == COTERIE_WORDS_BF16)
                *sum = PANEL_DOT_PAIR(*sum, raw[p], x);
            else
                *dot = PANEL_DOT(*dot, raw[p], x);
        }
}

/* Adds a span of weights, with its scales: to the block's sums or, of int8
 * products, to those of the span of x. */
INLINE void panel_fold(const coterie_panel_tile_t *tile, panel_shape_t shape,
                       size_t group, panel_state_t *state)
{
    const int is_int8 = shape.words == COTERIE_WORDS_INT8;
    vec_t scale[COTERIE_PANELS_MAX], minimum[COTERIE_PANELS_MAX];

    if (shape.dtype == COTERIE_DTYPE_INT8 && is_int8)
        return;
    if (coterie_panel_bundle(shape.dtype) > 0)
        panel_ask(tile, shape,
                  coterie_panel_scale_at(shape.dtype, group) /
                      COTERIE_PANEL_VECTOR);
    UNROLL_ALL for (int p = 0; p < shape.panels; p++) {
        scale[p] = panel_scale(tile, p, shape.dtype, group);
        if (shape.dtype == COTERIE_DTYPE_MXFP4 && is_int8)
            scale[p] = vec_mul(scale[p], vec_set(0.5f)); /* bytes: doubled */
        if (shape.dtype == COTERIE_DTYPE_INT4_ZERO)
            minimum[p] = panel_minimum(tile, p, shape.dtype, group);
    }
    UNROLL_ALL for (int r = 0; r < shape.rows; r++)
        UNROLL_ALL for (int p = 0; p < shape.panels; p++) {
            vec_t *const to =
                is_int8 ? &state->sum[r][p] : &state->total[r][p];
            const vec_t sum = is_int8 ? panel_dots(state, shape, r, p)
                                      : state->sum[r][p];
            *to = vec_fma(sum, scale[p], *to);
            if (shape.dtype == COTERIE_DTYPE_INT4_ZERO)
                *to = vec_fma(vec_set_from(panel_group_word(tile, r, group)),
                              minimum[p], *to);
        }
}

/* Adds a span of int8 x to the block's sums, with its scale. */
INLINE void panel_fold_bytes(const coterie_panel_tile_t *tile,
                             panel_shape_t shape, size_t span,
                             panel_state_t *state)
{
    OPAQUE(state->far);
    UNROLL_ALL for (int r = 0; r < shape.rows; r++)
        UNROLL_ALL for (int p = 0; p < shape.panels; p++) {
            const vec_t sum = shape.dtype == COTERIE_DTYPE_INT8
                                  ? panel_dots(state, shape, r, p)
                                  : state->sum[r][p];
            const vec_t scale = vec_set_from(panel_span_word(tile, r, span, 0));
            panel_total_set(state, shape, r, p,
                            vec_fma(sum, scale,
                                    panel_total(state, shape, r, p)));
        }
}

INLINE vec_t panel_dots(const panel_state_t *state, panel_shape_t shape,
                        int row, int panel)
{
    const raw_t sum = state->dot[0][row][panel];
    return raw_to_floats(shape.rows <= FEW_ROWS
                             ? raw_add(sum, state->dot[1][row][panel])
                             : sum);
}

INLINE void panel_finish(const coterie_panel_tile_t *tile,
                         panel_shape_t shape, panel_state_t *state)
{
    UNROLL_ALL for (int r = 0; r < shape.rows; r++)
        UNROLL_ALL for (int p = 0; p < shape.panels; p++) {
            vec_t sum = shape.span > 0 ? panel_total(state, shape, r, p)
                                       : state->sum[r][p];
            float *y = tile->y + (size_t)r * tile->y_stride +
                       (size_t)p * COTERIE_LANES;
            if (shape.dtype == COTERIE_DTYPE_INT8)
                sum = vec_mul(sum, vec_load(tile->scale[p]));
            vec_store(y, tile->add ? vec_add(vec_load(y), sum) : sum);
        }
}

/* Element e of each output, without its scale. */
INLINE vec_t panel_element(const char *weight, coterie_dtype_t dtype, int e)
{
    const raw_t raw = raw_load(weight);

    switch (dtype) {
    case COTERIE_DTYPE_F32:
        return raw_floats(raw);
    case COTERIE_DTYPE_F16:
        return raw_f16(raw, e);
    case COTERIE_DTYPE_BF16:
        return raw_floats(e == 0 ? raw_shift_left(raw, 16)
                                 : raw_and(raw, 0xffff0000));
    case COTERIE_DTYPE_INT8:
    case COTERIE_DTYPE_INT8_GROUP:
        return raw_to_floats(
            raw_shift_signed(raw_shift_left(raw, 24 - 8 * e), 24));
    case COTERIE_DTYPE_FP8:
        return raw_fp8(raw_shift_left(raw, 24 - 8 * e));
    default:
        return raw_nibble(raw, e % 4 * 8 + e / 4 * 4, dtype);
    }
}
