/* Written once, compiled once for each instruction set: includes of this file
 * have defined vec_t (16 floats) and the vec_ functions on it, TARGET (what
 * lets a function use the instructions), OPS (the table's name), TILE_ROWS and
 * TILE_OUTPUTS (of the largest tile), and the lists of what tiles there are:
 * TILES, TILE_KINDS and TILE_KINDS_STREAM (dtype). Where the
 * processor has masks, MASKED_PARTS says that the vec_..._part functions are
 * defined as well. */

#if defined(__FAST_MATH__)
#error "-ffast-math reorders sums: a row's bits would depend on its batch"
#endif

INLINE void tile_body(const coterie_tile_t *tile, int rows, int outputs,
                      coterie_dtype_t dtype);
INLINE void tile_finish(const coterie_tile_t *tile, int rows, int outputs,
                        vec_t sum[][TILE_OUTPUTS]);
INLINE vec_t vec_load_weight(const void *weight, coterie_dtype_t dtype);
INLINE vec_t vec_load_weight_part(const void *weight, coterie_dtype_t dtype,
                                  size_t count);
INLINE vec_t vec_exp(vec_t x);

#if !defined(MASKED_PARTS)
INLINE vec_t vec_load_part(const void *from, size_t count)
{
    float whole[COTERIE_LANES] = {0};
    memcpy(whole, from, count * sizeof(whole[0]));
    return vec_load(whole);
}

INLINE void vec_store_part(float *to, vec_t v, size_t count)
{
    float whole[COTERIE_LANES];
    vec_store(whole, v);
    memcpy(to, whole, count * sizeof(whole[0]));
}

INLINE vec_t vec_load_f16_part(const void *from, size_t count)
{
    uint16_t whole[COTERIE_LANES] = {0};
    memcpy(whole, from, count * sizeof(whole[0]));
    return vec_load_f16(whole);
}

INLINE vec_t vec_load_bf16_part(const void *from, size_t count)
{
    uint16_t whole[COTERIE_LANES] = {0};
    memcpy(whole, from, count * sizeof(whole[0]));
    return vec_load_bf16(whole);
}
#endif

#define TILE(dtype, rows, outputs)                                        \
    TARGET static void tile_##dtype##_##rows##x##outputs(                 \
        const coterie_tile_t *tile)                                       \
    {                                                                     \
        tile_body(tile, rows, outputs, COTERIE_DTYPE_##dtype);            \
    }
#define KIND(dtype, rows, outputs) \
    {outputs, tile_##dtype##_##rows##x##outputs}

TILES(F32)
TILES(F16)
TILES(BF16)

#include "kernels/cpu/activation.h"

TARGET static void add_scaled(size_t count, float scale, const float *x,
                              float *y)
{
    const vec_t factor = vec_set(scale);
    size_t i = 0;
    for (; i + COTERIE_LANES <= count; i += COTERIE_LANES)
        vec_store(y + i, vec_fma(factor, vec_load(x + i), vec_load(y + i)));
    if (i < count)
        vec_store_part(y + i,
                       vec_fma(factor, vec_load_part(x + i, count - i),
                               vec_load_part(y + i, count - i)),
                       count - i);
}

TARGET static void rms_norm(size_t width, float eps, const float *x,
                            const float *weight, float *y)
{
    const size_t whole = width - width % COTERIE_LANES, rest = width - whole;
    vec_t sum = vec_set(0), scale;
    for (size_t i = 0; i < whole; i += COTERIE_LANES)
        sum = vec_fma(vec_load(x + i), vec_load(x + i), sum);
    if (rest > 0) {
        const vec_t last = vec_load_part(x + whole, rest);
        sum = vec_fma(last, last, sum);
    }
    scale = vec_set(1.0f / sqrtf(vec_sum(sum) / (float)width + eps));
    for (size_t i = 0; i < whole; i += COTERIE_LANES)
        vec_store(y + i, vec_mul(vec_load(weight + i),
                                 vec_mul(vec_load(x + i), scale)));
    if (rest > 0)
        vec_store_part(
            y + whole,
            vec_mul(vec_load_part(weight + whole, rest),
                    vec_mul(vec_load_part(x + whole, rest), scale)),
            rest);
}

const coterie_cpu_ops_t OPS = {
    .rows = TILE_ROWS,
    .tile = {TILE_KINDS(F32), TILE_KINDS(F16), TILE_KINDS(BF16)},
    .tile_stream = {TILE_KINDS_STREAM(F32), TILE_KINDS_STREAM(F16),
                    TILE_KINDS_STREAM(BF16)},
    .tile_single = {tile_F32_1x1, tile_F16_1x1, tile_BF16_1x1},
    .activate = {activate_SWIGLU, activate_GEGLU, activate_RELU,
                 activate_SWIGLU_CLAMPED},
    .add_scaled = add_scaled,
    .rms_norm = rms_norm,
};

/* rows, outputs and dtype are constants wherever this is inlined, so that the
 * sums live in registers. */
INLINE void tile_body(const coterie_tile_t *tile, int rows, int outputs,
                      coterie_dtype_t dtype)
{
    const size_t size = dtype == COTERIE_DTYPE_F32 ? 4 : 2;
    const size_t whole = tile->count - tile->count % COTERIE_LANES;
    const size_t stride = tile->weight_stride;
    const char *ahead = tile->ahead;
    vec_t sum[TILE_ROWS][TILE_OUTPUTS], w[TILE_OUTPUTS];

    UNROLL for (int r = 0; r < rows; r++)
        UNROLL for (int o = 0; o < outputs; o++)
            sum[r][o] = vec_set(0);
    for (size_t k = 0; k < whole; k += COTERIE_LANES) {
        UNROLL for (int o = 0; o < outputs; o++) {
            w[o] = vec_load_weight(
                tile->weight + (size_t)o * stride + k * size, dtype);
            __builtin_prefetch(ahead + (size_t)o * stride, 0, 2);
        }
        ahead += tile->ahead_step;
        UNROLL for (int r = 0; r < rows; r++)
            UNROLL for (int o = 0; o < outputs; o++)
                sum[r][o] = vec_fma(vec_load(tile->x[r] + k), w[o], sum[r][o]);
    }
    if (whole < tile->count) {
        const size_t rest = tile->count - whole;
        UNROLL for (int o = 0; o < outputs; o++)
            w[o] = vec_load_weight_part(
                tile->weight + (size_t)o * stride + whole * size, dtype, rest);
        UNROLL for (int r = 0; r < rows; r++) {
            const vec_t x = vec_load_part(tile->x[r] + whole, rest);
            UNROLL for (int o = 0; o < outputs; o++)
                sum[r][o] = vec_fma(x, w[o], sum[r][o]);
        }
    }
    tile_finish(tile, rows, outputs, sum);
}

INLINE void tile_finish(const coterie_tile_t *tile, int rows, int outputs,
                        vec_t sum[][TILE_OUTPUTS])
{
    UNROLL for (int r = 0; r < rows; r++) {
        float *const y = tile->y + (size_t)r * tile->y_stride;
        float part[TILE_OUTPUTS];
        vec_sums(sum[r], outputs, part);
        UNROLL for (int o = 0; o < outputs; o++)
            y[o] = tile->add ? y[o] + part[o] : part[o];
    }
}

INLINE vec_t vec_load_weight(const void *weight, coterie_dtype_t dtype)
{
    if (dtype == COTERIE_DTYPE_F32)
        return vec_load(weight);
    return dtype == COTERIE_DTYPE_F16 ? vec_load_f16(weight)
                                      : vec_load_bf16(weight);
}

INLINE vec_t vec_load_weight_part(const void *weight, coterie_dtype_t dtype,
                                  size_t count)
{
    if (dtype == COTERIE_DTYPE_F32)
        return vec_load_part(weight, count);
    return dtype == COTERIE_DTYPE_F16 ? vec_load_f16_part(weight, count)
                                      : vec_load_bf16_part(weight, count);
}

/* 2^n times a polynomial on [-ln 2 / 2, ln 2 / 2], within 2 units in the last
 * place; infinite from 89 on, never below exp(-86). ln 2 is split in two so
 * that n times its first part is exact. NaN stays NaN: vec_min and vec_max
 * return their second argument then. */
INLINE vec_t vec_exp(vec_t x)
{
    const vec_t in = vec_max(vec_set(-86), vec_min(vec_set(89), x));
    const vec_t n = vec_round(vec_mul(in, vec_set(1.44269504f)));
    const vec_t r = vec_fma(n, vec_set(-1.42860682e-6f),
                            vec_fma(n, vec_set(-0.693145752f), in));
    vec_t p = vec_set(1.98412698e-4f);
    p = vec_fma(p, r, vec_set(1.38888889e-3f));
    p = vec_fma(p, r, vec_set(8.33333333e-3f));
    p = vec_fma(p, r, vec_set(4.16666667e-2f));
    p = vec_fma(p, r, vec_set(1.66666667e-1f));
    p = vec_fma(p, r, vec_set(0.5f));
    p = vec_fma(p, r, vec_set(1));
    p = vec_fma(p, r, vec_set(1));
    return vec_mul(vec_mul(p, vec_set(2)), vec_half_pow2(n));
}
