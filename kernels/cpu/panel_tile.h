/* Tiles of panels, written once. Includes of this file have defined vec_t (16
 * floats) and its functions, raw_t (64 bytes: a vector of weights, or 16 sums
 * of int8 products) and its functions, TARGET and INLINE. PANEL makes one tile;
 * panel_tables.h says which ones there are. */

#if !defined(PANEL_PAIR) /* no bf16 words here */
#define PANEL_PAIR(weight, dtype, unit) raw_load(weight)
#define PANEL_DOT_PAIR(sum, raw, word) (sum)
#endif
#if !defined(PANEL_DOT) /* no int8 words */
#define PANEL_DOT(sum, raw, word) (sum)
#endif

enum { FEW_ROWS = 2 };

typedef struct panel_state {
    vec_t total[PANEL_ROWS][COTERIE_PANELS_MAX]; /* of a block */
    vec_t sum[PANEL_ROWS][COTERIE_PANELS_MAX];   /* of a span */
    /* The same, of int8; in two halves where rows are few, so that one need not
     * wait for the other. Whole numbers have one sum in any order. */
    raw_t dot[2][PANEL_ROWS][COTERIE_PANELS_MAX];
} panel_state_t;

/* Constants wherever they are inlined, so that the state lives in registers. */
typedef struct panel_shape {
    int rows, panels;
    coterie_dtype_t dtype;
    coterie_panel_words_t words;
    int elements; /* of a vector, for one output */
    int units;    /* words of x that they meet */
    int span;     /* elements that share a scale, or 0 */
} panel_shape_t;

INLINE panel_shape_t panel_shape(int rows, int panels, coterie_dtype_t dtype,
                                 coterie_panel_words_t words);
INLINE void panel_body(const coterie_panel_tile_t *tile, panel_shape_t shape);
INLINE void panel_spans(const coterie_panel_tile_t *tile, panel_shape_t shape,
                        panel_state_t *state);
INLINE void panel_clear(const coterie_panel_tile_t *tile, panel_shape_t shape,
                        size_t span, panel_state_t *state);
INLINE void panel_step(const coterie_panel_tile_t *tile, panel_shape_t shape,
                       size_t step, panel_state_t *state);
INLINE void panel_unit(const coterie_panel_tile_t *tile, panel_shape_t shape,
                       size_t step, int i, panel_state_t *state);
INLINE void panel_fold(const coterie_panel_tile_t *tile, panel_shape_t shape,
                       size_t span, panel_state_t *state);
INLINE vec_t panel_dots(const panel_state_t *state, panel_shape_t shape,
                        int row, int panel);
INLINE void panel_finish(const coterie_panel_tile_t *tile,
                         panel_shape_t shape, panel_state_t *state);
INLINE vec_t panel_element(const char *weight, coterie_dtype_t dtype, int e);
INLINE raw_t panel_bytes(const char *weight, coterie_dtype_t dtype, int unit);
INLINE vec_t panel_scale(const char *scale, coterie_dtype_t dtype, size_t span,
                         int minimum);
INLINE const char *panel_span(const coterie_panel_tile_t *tile,
                              panel_shape_t shape, size_t span, int kind,
                              int row);
INLINE size_t panel_x_rows(const coterie_panel_tile_t *tile,
                           panel_shape_t shape);

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
    return shape;
}

INLINE void panel_body(const coterie_panel_tile_t *tile, panel_shape_t shape)
{
    panel_state_t state;

    UNROLL_ALL for (int r = 0; r < shape.rows; r++)
        UNROLL_ALL for (int p = 0; p < shape.panels; p++)
            state.total[r][p] = state.sum[r][p] = vec_set(0);
    if (shape.span > 0)
        panel_spans(tile, shape, &state);
    else
        for (uint32_t step = 0; step < tile->steps; step++)
            panel_step(tile, shape, step, &state);
    panel_finish(tile, shape, &state);
}

/* The last span may be a part of one. */
INLINE void panel_spans(const coterie_panel_tile_t *tile, panel_shape_t shape,
                        panel_state_t *state)
{
    const uint32_t steps = (uint32_t)(shape.span / shape.elements);
    const uint32_t spans = tile->steps / steps;

    for (uint32_t span = 0; span < spans; span++) {
        panel_clear(tile, shape, span, state);
        if (shape.words == COTERIE_WORDS_F32)
            for (uint32_t s = 0; s < steps; s++)
                panel_step(tile, shape, span * steps + s, state);
        else
            UNROLL for (uint32_t s = 0; s < steps; s++)
                panel_step(tile, shape, span * steps + s, state);
        panel_fold(tile, shape, span, state);
    }
    if (spans * steps == tile->steps)
        return;
    panel_clear(tile, shape, spans, state);
    for (uint32_t step = spans * steps; step < tile->steps; step++)
        panel_step(tile, shape, step, state);
    panel_fold(tile, shape, spans, state);
}

/* Weights of int8 products are unsigned, x is signed: what the shift adds to a
 * span's products is taken off from the start. */
INLINE void panel_clear(const coterie_panel_tile_t *tile, panel_shape_t shape,
                        size_t span, panel_state_t *state)
{
    UNROLL_ALL for (int r = 0; r < shape.rows; r++)
        UNROLL_ALL for (int p = 0; p < shape.panels; p++)
            if (shape.words != COTERIE_WORDS_INT8)
                state->sum[r][p] = vec_set(0);
            else if (shape.dtype == COTERIE_DTYPE_INT4_ZERO)
                state->dot[0][r][p] = state->dot[1][r][p] = raw_set(0);
            else {
                state->dot[0][r][p] =
                    raw_set_from(panel_span(tile, shape, span, 1, r));
                state->dot[1][r][p] = raw_set(0);
            }
}

/* One vector of weights of each panel. */
INLINE void panel_step(const coterie_panel_tile_t *tile, panel_shape_t shape,
                       size_t step, panel_state_t *state)
{
    /* A single stream is for the processor to foresee. */
    if (shape.panels > 1 && tile->ahead != NULL)
        UNROLL_ALL for (int p = 0; p < shape.panels; p++)
            __builtin_prefetch(tile->ahead + step * tile->ahead_step +
                                   (size_t)p * tile->panel_stride,
                               0, 2);
    UNROLL_ALL for (int i = 0; i < shape.units; i++)
        panel_unit(tile, shape, step, i, state);
}

/* What meets the i-th words of the rows. */
INLINE void panel_unit(const coterie_panel_tile_t *tile, panel_shape_t shape,
                       size_t step, int i, panel_state_t *state)
{
    /* Of two elements in a bf16 word the second comes first. */
    const int u = shape.words == COTERIE_WORDS_F32
                      ? coterie_panel_order(shape.elements, i ^ 1)
                      : i;
    const int half =
        shape.rows <= FEW_ROWS ? (shape.units > 1 ? i : (int)step) & 1 : 0;
    const char *x =
        tile->x + (step * (size_t)shape.units + (size_t)u) *
                      panel_x_rows(tile, shape) * 4;
    vec_t w[COTERIE_PANELS_MAX];
    raw_t raw[COTERIE_PANELS_MAX];

    UNROLL_ALL for (int p = 0; p < shape.panels; p++) {
        const char *at = tile->weight + step * COTERIE_PANEL_VECTOR +
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
            vec_t *const sum = &state->sum[r][p];
            raw_t *const dot = &state->dot[half][r][p];
            if (shape.words == COTERIE_WORDS_F32)
                *sum = vec_fma(vec_set_from(x + r * 4), w[p], *sum);
            else if (shape.words == COTERIE_WORDS_BF16)
                *sum = PANEL_DOT_PAIR(*sum, raw[p], x + r * 4);
            else
                *dot = PANEL_DOT(*dot, raw[p], x + r * 4);
        }
}

/* Adds a span to the block's sums, with its scales. */
INLINE void panel_fold(const coterie_panel_tile_t *tile, panel_shape_t shape,
                       size_t span, panel_state_t *state)
{
    vec_t scale[COTERIE_PANELS_MAX], minimum[COTERIE_PANELS_MAX];

    UNROLL_ALL for (int p = 0; p < shape.panels; p++) {
        if (shape.dtype != COTERIE_DTYPE_INT8)
            scale[p] = panel_scale(tile->scale[p], shape.dtype, span, 0);
        if (shape.dtype == COTERIE_DTYPE_MXFP4 &&
            shape.words == COTERIE_WORDS_INT8)
            scale[p] = vec_mul(scale[p], vec_set(0.5f)); /* bytes: doubled */
        if (shape.dtype == COTERIE_DTYPE_INT4_ZERO)
            minimum[p] = panel_scale(tile->scale[p], shape.dtype, span, 1);
    }
    UNROLL_ALL for (int r = 0; r < shape.rows; r++)
        UNROLL_ALL for (int p = 0; p < shape.panels; p++) {
            vec_t *const total = &state->total[r][p];
            const int is_int8 = shape.words == COTERIE_WORDS_INT8;
            const vec_t sum = is_int8 ? panel_dots(state, shape, r, p)
                                      : state->sum[r][p];
            vec_t factor;
            if (is_int8)
                factor = vec_set_from(panel_span(tile, shape, span, 0, r));
            if (shape.dtype != COTERIE_DTYPE_INT8)
                factor = is_int8 ? vec_mul(factor, scale[p]) : scale[p];
            *total = vec_fma(sum, factor, *total);
            if (shape.dtype == COTERIE_DTYPE_INT4_ZERO)
                *total = vec_fma(
                    vec_set_from(panel_span(tile, shape, span, 1, r)),
                    minimum[p], *total);
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
            vec_t sum =
                shape.span > 0 ? state->total[r][p] : state->sum[r][p];
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
        return raw_f16(e == 0 ? raw_and(raw, 0xffff)
                              : raw_shift_right(raw, 16));
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

/* Four elements of each output as unsigned bytes: shifted by 128, 8, 0 or,
 * doubled, by 12. */
INLINE raw_t panel_bytes(const char *weight, coterie_dtype_t dtype, int unit)
{
    const raw_t raw = raw_load(weight);
    raw_t half;

    if (coterie_panel_elements(dtype) == 4)
        return raw_xor(raw, 0x80808080);
    half = raw_and(unit == 0 ? raw : raw_shift_right(raw, 4), 0x0f0f0f0f);
    return dtype == COTERIE_DTYPE_MXFP4 ? raw_mxfp4_bytes(half) : half;
}

INLINE vec_t panel_scale(const char *scale, coterie_dtype_t dtype, size_t span,
                         int minimum)
{
    switch (dtype) {
    case COTERIE_DTYPE_FP8:
        return vec_set_from(scale + span * sizeof(float));
    case COTERIE_DTYPE_MXFP4:
        return vec_load_e8m0(scale + span * COTERIE_PANEL_OUTPUTS);
    case COTERIE_DTYPE_INT4_ZERO:
        return vec_load_f16(scale + (2 * span + (size_t)minimum) * 32);
    default:
        return vec_load_f16(scale + span * 32);
    }
}

INLINE const char *panel_span(const coterie_panel_tile_t *tile,
                              panel_shape_t shape, size_t span, int kind,
                              int row)
{
    return tile->x_spans + ((2 * span + (size_t)kind) *
                                panel_x_rows(tile, shape) +
                            (size_t)row) * 4;
}

/* The smallest tile also takes single rows of others. */
INLINE size_t panel_x_rows(const coterie_panel_tile_t *tile,
                           panel_shape_t shape)
{
    return shape.rows == 1 && shape.panels == 1 ? tile->x_rows
                                                : (size_t)shape.rows;
}
