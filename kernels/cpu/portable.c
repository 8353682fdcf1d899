#include "config.h"

#include <math.h>
#include <string.h>

#include "kernels/cpu/cpu.h"

/* Plain loops of 16, which compilers turn into whatever the processor has. No
 * fused multiply-add: where it is no instruction, it is a slow call. */
#define TARGET
#define VEC static inline __attribute__((always_inline))
#define OPS coterie_cpu_portable
#define ISA_NAME "portable"
#define TILE_ROWS 3
#define TILE_OUTPUTS 1
#define TILES(dtype) TILE(dtype, 1, 1) TILE(dtype, 2, 1) TILE(dtype, 3, 1)
#define TILE_KINDS(dtype) \
    {KIND(dtype, 1, 1), KIND(dtype, 2, 1), KIND(dtype, 3, 1)}
#define EACH_LANE for (int i = 0; i < COTERIE_LANES; i++)

typedef struct vec {
    float lane[COTERIE_LANES];
} vec_t;

VEC vec_t vec_set(float value)
{
    vec_t v;
    EACH_LANE v.lane[i] = value;
    return v;
}

VEC vec_t vec_load(const void *from)
{
    vec_t v;
    memcpy(&v, from, sizeof(v));
    return v;
}

VEC vec_t vec_load_part(const void *from, size_t count)
{
    vec_t v = vec_set(0);
    memcpy(&v, from, count * sizeof(v.lane[0]));
    return v;
}

VEC void vec_store(float *to, vec_t v)
{
    memcpy(to, &v, sizeof(v));
}

VEC void vec_store_part(float *to, vec_t v, size_t count)
{
    memcpy(to, &v, count * sizeof(v.lane[0]));
}

VEC float float_of(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof(value));
    return value;
}

/* Exponent and mantissa move to their places in an f32 as if the exponent had
 * no bias, and one multiplication mends that, denormals included; what then is
 * 2^16 or more was infinity or NaN. */
VEC float from_f16(uint16_t half)
{
    const uint32_t sign = (uint32_t)(half & 0x8000u) << 16;
    const uint32_t rest = (uint32_t)(half & 0x7fffu) << 13;
    if (rest >= 0x7c00u << 13)
        return float_of(sign | 0x7f800000u | rest);
    return float_of(sign | rest) * 0x1p112f;
}

VEC vec_t vec_load_f16(const void *from)
{
    uint16_t bits[COTERIE_LANES];
    vec_t v;
    memcpy(bits, from, sizeof(bits));
    EACH_LANE v.lane[i] = from_f16(bits[i]);
    return v;
}

VEC vec_t vec_load_bf16(const void *from)
{
    uint16_t narrow[COTERIE_LANES];
    uint32_t wide[COTERIE_LANES];
    memcpy(narrow, from, sizeof(narrow));
    EACH_LANE wide[i] = (uint32_t)narrow[i] << 16;
    return vec_load(wide);
}

#define VEC_BINARY(name, expression)           \
    VEC vec_t name(vec_t a, vec_t b)           \
    {                                          \
        vec_t v;                               \
        EACH_LANE v.lane[i] = (expression);    \
        return v;                              \
    }
VEC_BINARY(vec_add, a.lane[i] + b.lane[i])
VEC_BINARY(vec_mul, a.lane[i] * b.lane[i])
VEC_BINARY(vec_div, a.lane[i] / b.lane[i])
VEC_BINARY(vec_min, a.lane[i] < b.lane[i] ? a.lane[i] : b.lane[i])
VEC_BINARY(vec_max, a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i])

VEC vec_t vec_fma(vec_t a, vec_t b, vec_t c)
{
    return vec_add(vec_mul(a, b), c);
}

/* To nearest even, for |v| < 2^22: adding 1.5 * 2^23 leaves no bits behind
 * the point. */
VEC vec_t vec_round(vec_t v)
{
    return vec_add(vec_add(v, vec_set(0x1.8p23f)), vec_set(-0x1.8p23f));
}

/* 2^(n - 1) for whole n from -125 to 128; anything for NaN. */
VEC vec_t vec_half_pow2(vec_t n)
{
    uint32_t bits[COTERIE_LANES];
    EACH_LANE bits[i] = (uint32_t)((n.lane[i] == n.lane[i]
                                        ? (int32_t)n.lane[i]
                                        : 0) + 126) << 23;
    return vec_load(bits);
}

/* The 16 lanes, halved four times. */
VEC float vec_sum(vec_t v)
{
    for (int half = COTERIE_LANES / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++)
            v.lane[i] += v.lane[i + half];
    return v.lane[0];
}

VEC void vec_sums(const vec_t *v, int count, float *sums)
{
    for (int i = 0; i < count; i++)
        sums[i] = vec_sum(v[i]);
}

#include "kernels/cpu/tile.h"
