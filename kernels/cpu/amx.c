/* Tiles of panels on AMX: a tile of weights is 16 vectors of a panel, or 8, as
 * they lie; one of x is 64 bytes of up to 16 rows' words. A tile has up to 32
 * rows and 2 panels: 4 registers of sums, 2 of weights, 2 of x. Includes of
 * this file may have defined the operations on tiles; tests do, for processors
 * without them. */
#include "config.h"

#include <string.h>

#include "kernels/cpu/cpu.h"

#if defined(__x86_64__)
#include <immintrin.h>

#if !defined(TILE_DOT_BF16)
#define AMX_TARGET "amx-tile,amx-bf16,amx-int8,"
#define TILES_SET _tile_loadconfig
#define TILES_END _tile_release
#define TILE_ZERO _tile_zero
#define TILE_LOAD _tile_loadd
#define TILE_STORE _tile_stored
#define TILE_DOT_BF16 _tile_dpbf16ps
#define TILE_DOT_BYTES _tile_dpbsud
#define AMX_TABLE(words) coterie_table_amx_##words
#endif

#define TARGET __attribute__((target( \
    AMX_TARGET "avx512f,avx512bw,avx512vl,avx512dq,fma")))
#include "kernels/cpu/vec512.h"

#include "kernels/cpu/panel_read.h"

enum {
    HALF = 16, /* rows of a register */
    PANELS = 2,
    ROWS = 2 * HALF,
    BF16_UNITS = 16, /* vectors of weights of a tile */
    BYTES_UNITS = COTERIE_PANEL_GROUP / 4,
    OUTPUTS = COTERIE_PANEL_OUTPUTS
};

/* What LDTILECFG reads. */
typedef struct tiles_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_size[16];
    uint8_t rows[16];
} tiles_config_t;

/* Sums of a tile, as they leave it: f32, or int32. */
typedef struct sums {
    _Alignas(64) char of[PANELS][ROWS][COTERIE_PANEL_VECTOR];
} sums_t;

INLINE void tiles_set(uint32_t rows, uint8_t units);
INLINE void sums_store(uint32_t rows, sums_t *sums);
INLINE void dots_add(const coterie_panel_tile_t *tile, size_t group, int p,
                     coterie_dtype_t dtype, const sums_t *dots, sums_t *to);
INLINE void span_add(const coterie_panel_tile_t *tile, size_t span, int p,
                     const sums_t *from, sums_t *to);
INLINE void sums_finish(const coterie_panel_tile_t *tile, int panels,
                        const vec_t *scale, const sums_t *sums);

/* Registers 0 to 3: sums of [half of the rows][panel]; 4 and 5: x; 6 and 7:
 * weights. */
INLINE void tiles_set(uint32_t rows, uint8_t units)
{
    tiles_config_t config = {.palette = 1};
    const uint8_t first = (uint8_t)(rows < HALF ? rows : HALF);
    const uint8_t second = (uint8_t)(rows > HALF ? rows - HALF : 1);

    for (int i = 0; i < 8; i++) {
        config.row_size[i] = COTERIE_PANEL_VECTOR;
        config.rows[i] = i >= 6 ? units : i == 4 || i < 2 ? first : second;
    }
    config.row_size[4] = config.row_size[5] = units * 4;
    TILES_SET(&config);
}

/* One tile of weights of each panel, at `weight`, with so much of x. A second
 * panel and a second half of the rows only where there are such. */
#define TILES_DOT(DOT, at_x, stride, weight, second, rows, panels)      \
    do {                                                                \
        TILE_LOAD(4, at_x, stride);                                     \
        TILE_LOAD(6, weight, COTERIE_PANEL_VECTOR);                     \
        DOT(0, 4, 6);                                                   \
        if ((panels) > 1) {                                             \
            TILE_LOAD(7, second, COTERIE_PANEL_VECTOR);                 \
            DOT(1, 4, 7);                                               \
        }                                                               \
        if ((rows) > HALF) {                                            \
            TILE_LOAD(5, (at_x) + HALF * (stride), stride);             \
            DOT(2, 5, 6);                                               \
            if ((panels) > 1)                                           \
                DOT(3, 5, 7);                                           \
        }                                                               \
    } while (0)

#define SUMS_ZERO()   \
    do {              \
        TILE_ZERO(0); \
        TILE_ZERO(1); \
        TILE_ZERO(2); \
        TILE_ZERO(3); \
    } while (0)

INLINE void sums_store(uint32_t rows, sums_t *sums)
{
    TILE_STORE(0, sums->of[0], COTERIE_PANEL_VECTOR);
    TILE_STORE(1, sums->of[1], COTERIE_PANEL_VECTOR);
    if (rows > HALF) {
        TILE_STORE(2, sums->of[0][HALF], COTERIE_PANEL_VECTOR);
        TILE_STORE(3, sums->of[1][HALF], COTERIE_PANEL_VECTOR);
    }
}

/* Vectors that do not fill a tile are copied beside others of zeros. x has
 * zeros there as well, to whole spans. */
INLINE void bf16_run(const coterie_panel_tile_t *tile, int panels)
{
    const size_t whole = tile->steps / BF16_UNITS * BF16_UNITS;
    const size_t rest = (tile->steps - whole) * COTERIE_PANEL_VECTOR;
    _Alignas(64) char last[PANELS][BF16_UNITS * COTERIE_PANEL_VECTOR];
    const char *second = tile->weight + tile->panel_stride;
    sums_t sums;

    tiles_set(tile->rows, BF16_UNITS);
    SUMS_ZERO();
    for (size_t step = 0; step < whole; step += BF16_UNITS)
        TILES_DOT(TILE_DOT_BF16, tile->x + step * 4, tile->x_stride,
                  tile->weight + step * COTERIE_PANEL_VECTOR,
                  second + step * COTERIE_PANEL_VECTOR, tile->rows, panels);
    if (rest > 0) {
        memset(last, 0, sizeof(last));
        for (int p = 0; p < panels; p++)
            memcpy(last[p],
                   tile->weight + (size_t)p * tile->panel_stride +
                       whole * COTERIE_PANEL_VECTOR, rest);
        TILES_DOT(TILE_DOT_BF16, tile->x + whole * 4, tile->x_stride, last[0],
                  last[1], tile->rows, panels);
    }
    sums_store(tile->rows, &sums);
    TILES_END();
    sums_finish(tile, panels, NULL, &sums);
}

/* The steps of 32 elements, as unsigned bytes. */
INLINE void group_decode(const coterie_panel_tile_t *tile, int p, size_t group,
                         coterie_dtype_t dtype, char *to)
{
    const size_t elements = coterie_panel_elements(dtype);
    const size_t steps = COTERIE_PANEL_GROUP / elements;
    const char *from =
        tile->weight + (size_t)p * tile->panel_stride +
        coterie_panel_vector(dtype, group * steps) * COTERIE_PANEL_VECTOR;

    memset(to, 0, BYTES_UNITS * COTERIE_PANEL_VECTOR);
    for (size_t s = 0; s < steps && group * steps + s < tile->steps; s++)
        for (size_t i = 0; i < elements / 4; i++, to += COTERIE_PANEL_VECTOR)
            _mm512_storeu_si512(
                to, panel_bytes(from + s * COTERIE_PANEL_VECTOR, dtype,
                                (int)i));
}

/* The sums of 32 elements, or of a span if a row of weights has one scale. */
INLINE void bytes_group(const coterie_panel_tile_t *tile, int panels,
                        size_t group, size_t groups, coterie_dtype_t dtype,
                        sums_t *dots)
{
    _Alignas(64) char weights[PANELS][BYTES_UNITS * COTERIE_PANEL_VECTOR];

    SUMS_ZERO();
    for (size_t g = group; g < group + groups; g++) {
        for (int p = 0; p < panels; p++)
            group_decode(tile, p, g, dtype, weights[p]);
        TILES_DOT(TILE_DOT_BYTES, tile->x + g * COTERIE_PANEL_GROUP,
                  tile->x_stride, weights[0], weights[1], tile->rows, panels);
    }
    sums_store(tile->rows, dots);
}

/* The same steps as those of panel_tile.h, so the same bits. */
INLINE void bytes_run(const coterie_panel_tile_t *tile, int panels,
                      coterie_dtype_t dtype)
{
    const size_t all = ((size_t)tile->steps * coterie_panel_elements(dtype) +
                        COTERIE_PANEL_GROUP - 1) / COTERIE_PANEL_GROUP;
    const size_t span = COTERIE_SPAN / COTERIE_PANEL_GROUP;
    const size_t at_once = dtype == COTERIE_DTYPE_INT8 ? span : 1;
    sums_t dots, part, total;
    vec_t scale[PANELS];

    memset(&total, 0, sizeof(total));
    tiles_set(tile->rows, BYTES_UNITS);
    for (size_t first = 0; first < all; first += span) {
        memset(&part, 0, sizeof(part));
        for (size_t g = first; g < first + span && g < all; g += at_once) {
            const size_t left = all - g;
            bytes_group(tile, panels, g, left < at_once ? left : at_once,
                        dtype, &dots);
            for (int p = 0; p < panels; p++)
                dots_add(tile, g, p, dtype, &dots, &part);
        }
        for (int p = 0; p < panels; p++)
            span_add(tile, first / span, p, &part, &total);
    }
    TILES_END();
    for (int p = 0; p < panels && dtype == COTERIE_DTYPE_INT8; p++)
        scale[p] = vec_load(tile->scale[p]);
    sums_finish(tile, panels, dtype == COTERIE_DTYPE_INT8 ? scale : NULL,
                &total);
}

/* Takes the shift off products and adds them with the scales of weights. */
INLINE void dots_add(const coterie_panel_tile_t *tile, size_t group, int p,
                     coterie_dtype_t dtype, const sums_t *dots, sums_t *to)
{
    vec_t scale = vec_set(1), minimum = vec_set(0);

    if (dtype != COTERIE_DTYPE_INT8)
        scale = panel_scale(tile, p, dtype, group);
    if (dtype == COTERIE_DTYPE_MXFP4)
        scale = vec_mul(scale, vec_set(0.5f));
    if (dtype == COTERIE_DTYPE_INT4_ZERO)
        minimum = panel_minimum(tile, p, dtype, group);
    for (uint32_t r = 0; r < tile->rows; r++) {
        const char *word = panel_group_word(tile, (int)r, group);
        float *part = (float *)(void *)to->of[p][r];
        raw_t dot = raw_load(dots->of[p][r]);
        vec_t sum;
        if (dtype != COTERIE_DTYPE_INT4_ZERO)
            dot = raw_add(dot, raw_set_from(word));
        sum = raw_to_floats(dot);
        if (dtype != COTERIE_DTYPE_INT8)
            sum = vec_fma(sum, scale, vec_load(part));
        if (dtype == COTERIE_DTYPE_INT4_ZERO)
            sum = vec_fma(vec_set_from(word), minimum, sum);
        vec_store(part, sum);
    }
}

/* Adds a span, with the scale of x. */
INLINE void span_add(const coterie_panel_tile_t *tile, size_t span, int p,
                     const sums_t *from, sums_t *to)
{
    for (uint32_t r = 0; r < tile->rows; r++) {
        float *total = (float *)(void *)to->of[p][r];
        const vec_t factor =
            vec_set_from(panel_span_word(tile, (int)r, span, 0));
        vec_store(total, vec_fma(vec_load(from->of[p][r]), factor,
                                 vec_load(total)));
    }
}

INLINE void sums_finish(const coterie_panel_tile_t *tile, int panels,
                        const vec_t *scale, const sums_t *sums)
{
    for (uint32_t r = 0; r < tile->rows; r++)
        for (int p = 0; p < panels; p++) {
            float *y = tile->y + r * tile->y_stride + (size_t)p * OUTPUTS;
            vec_t sum = vec_load(sums->of[p][r]);
            if (scale != NULL)
                sum = vec_mul(sum, scale[p]);
            vec_store(y, tile->add ? vec_add(vec_load(y), sum) : sum);
        }
}

/* `single` is for one row of others: of these there may be many. */
#define BYTES(dtype)                                                     \
    TARGET static void run_##dtype(const coterie_panel_tile_t *tile)     \
    {                                                                    \
        bytes_run(tile, PANELS, COTERIE_DTYPE_##dtype);                  \
    }                                                                    \
    TARGET static void single_##dtype(const coterie_panel_tile_t *tile)  \
    {                                                                    \
        coterie_panel_tile_t one = *tile;                                \
        one.rows = 1;                                                    \
        bytes_run(&one, 1, COTERIE_DTYPE_##dtype);                       \
    }                                                                    \
    KINDS(dtype)
#define FOUR_KINDS(dtype) \
    {PANELS, run_##dtype}, {PANELS, run_##dtype}, {PANELS, run_##dtype}, \
        {PANELS, run_##dtype}
#define KINDS(dtype)                                                     \
    static const coterie_panel_kind_t kinds_##dtype[ROWS] = {            \
        FOUR_KINDS(dtype), FOUR_KINDS(dtype), FOUR_KINDS(dtype),         \
        FOUR_KINDS(dtype), FOUR_KINDS(dtype), FOUR_KINDS(dtype),         \
        FOUR_KINDS(dtype), FOUR_KINDS(dtype)};
#define ENTRY(dtype) \
    [COTERIE_DTYPE_##dtype - 1] = {ROWS, kinds_##dtype, single_##dtype}

TARGET static void run_BF16(const coterie_panel_tile_t *tile)
{
    bf16_run(tile, PANELS);
}

TARGET static void single_BF16(const coterie_panel_tile_t *tile)
{
    coterie_panel_tile_t one = *tile;
    one.rows = 1;
    bf16_run(&one, 1);
}

KINDS(BF16)
BYTES(INT8)
BYTES(INT8_GROUP)
BYTES(INT4)
BYTES(INT4_ZERO)
BYTES(MXFP4)

const coterie_panel_table_t AMX_TABLE(bf16) = {ENTRY(BF16)};
const coterie_panel_table_t AMX_TABLE(int8) = {
    ENTRY(INT8), ENTRY(INT8_GROUP), ENTRY(INT4), ENTRY(INT4_ZERO),
    ENTRY(MXFP4)};
#endif
