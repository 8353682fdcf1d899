/* Tiles of panels: written once, compiled once for each instruction set. After
 * vec_t and its functions, includes of this file have defined raw_t (the 64
 * bytes of a vector of weights, as 16 words), raw_load, raw_shift_left,
 * raw_shift_right, raw_and, raw_floats (the words as floats), raw_f16 (those of
 * the low halves), and how many rows and panels tiles have: PANEL_ROWS,
 * PANEL_COLUMNS (at most), and PANEL_TILES(dtype) with its PANEL_KINDS. */

INLINE void panel_body(const coterie_panel_tile_t *tile, int rows, int panels,
                       coterie_dtype_t dtype);
INLINE void panel_step(const coterie_panel_tile_t *tile, uint32_t step,
                       int rows, int panels, coterie_dtype_t dtype,
                       vec_t sum[][PANEL_COLUMNS]);
INLINE void panel_decode(const char *weight, coterie_dtype_t dtype,
                         vec_t *element);
INLINE void panel_finish(const coterie_panel_tile_t *tile, int rows,
                         int panels, vec_t sum[][PANEL_COLUMNS]);

#define PANEL(dtype, rows, panels)                                        \
    TARGET static void panel_##dtype##_##rows##x##panels(                 \
        const coterie_panel_tile_t *tile)                                 \
    {                                                                     \
        panel_body(tile, rows, panels, COTERIE_DTYPE_##dtype);            \
    }
#define PANEL_KIND(dtype, rows, panels)                                   \
    {panels, panel_##dtype##_##rows##x##panels,                           \
     panel_##dtype##_##rows##x1}

PANEL_TILES(F32)
PANEL_TILES(F16)
PANEL_TILES(BF16)

/* rows, panels and dtype are constants wherever this is inlined, so that the
 * sums live in registers. */
INLINE void panel_body(const coterie_panel_tile_t *tile, int rows, int panels,
                       coterie_dtype_t dtype)
{
    const uint32_t ends[2] = {tile->turn, tile->steps};
    vec_t sum[PANEL_ROWS][PANEL_COLUMNS];
    uint32_t step = 0;

    UNROLL_ALL for (int r = 0; r < rows; r++)
        UNROLL_ALL for (int p = 0; p < panels; p++)
            sum[r][p] = vec_set(0);
    for (int part = 0; part < 2; part++) {
        const char *ahead = tile->ahead[part];
        for (; step < ends[part]; step++) {
            UNROLL_ALL for (int p = 0; p < panels; p++)
                __builtin_prefetch(ahead + (size_t)p * tile->panel_stride, 0,
                                   2);
            ahead += tile->ahead_step;
            panel_step(tile, step, rows, panels, dtype, sum);
        }
    }
    panel_finish(tile, rows, panels, sum);
}

/* One vector of weights of each panel. */
INLINE void panel_step(const coterie_panel_tile_t *tile, uint32_t step,
                       int rows, int panels, coterie_dtype_t dtype,
                       vec_t sum[][PANEL_COLUMNS])
{
    enum { ELEMENTS_MAX = 2 };
    const int elements = dtype == COTERIE_DTYPE_F32 ? 1 : 2;
    const float *x = (const float *)tile->x + (size_t)step * elements * rows;
    vec_t w[PANEL_COLUMNS][ELEMENTS_MAX];

    UNROLL_ALL for (int p = 0; p < panels; p++)
        panel_decode(tile->weight + p * tile->panel_stride +
                         (size_t)step * COTERIE_PANEL_VECTOR,
                     dtype, w[p]);
    UNROLL_ALL for (int e = 0; e < elements; e++)
        UNROLL_ALL for (int r = 0; r < rows; r++) {
            const vec_t xs = vec_set(x[e * rows + r]);
            UNROLL_ALL for (int p = 0; p < panels; p++)
                sum[r][p] = vec_fma(xs, w[p][e], sum[r][p]);
        }
}

INLINE void panel_decode(const char *weight, coterie_dtype_t dtype,
                         vec_t *element)
{
    const raw_t raw = raw_load(weight);

    if (dtype == COTERIE_DTYPE_F32) {
        element[0] = raw_floats(raw);
    } else if (dtype == COTERIE_DTYPE_BF16) {
        element[0] = raw_floats(raw_shift_left(raw, 16));
        element[1] = raw_floats(raw_and(raw, 0xffff0000));
    } else {
        element[0] = raw_f16(raw_and(raw, 0xffff));
        element[1] = raw_f16(raw_shift_right(raw, 16));
    }
}

INLINE void panel_finish(const coterie_panel_tile_t *tile, int rows,
                         int panels, vec_t sum[][PANEL_COLUMNS])
{
    UNROLL_ALL for (int r = 0; r < rows; r++)
        UNROLL_ALL for (int p = 0; p < panels; p++) {
            float *y = tile->y + (size_t)r * tile->y_stride +
                       (size_t)p * COTERIE_LANES;
            vec_store(y, tile->add ? vec_add(vec_load(y), sum[r][p])
                                   : sum[r][p]);
        }
}
