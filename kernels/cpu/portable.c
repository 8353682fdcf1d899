#include "config.h"

#include <math.h>
#include <string.h>

#include "kernels/cpu/cpu.h"

/* Four vectors of four, which compilers turn into whatever the processor has.
 * No fused multiply-add: where it is no instruction, it is a slow call. */
#define TARGET
#define VEC INLINE
#define OPS coterie_cpu_portable
#define TILE_ROWS 2
#define TILE_OUTPUTS 1
#define TILES(dtype) TILE(dtype, 1, 1) TILE(dtype, 2, 1)
#define TILE_KINDS(dtype) {KIND(dtype, 1, 1), KIND(dtype, 2, 1)}
#define TILE_KINDS_STREAM TILE_KINDS
#define EACH_PART UNROLL for (int i = 0; i < 4; i++)

typedef float four_t __attribute__((vector_size(16)));
typedef uint32_t bits_t __attribute__((vector_size(16)));
typedef int32_t whole_t __attribute__((vector_size(16)));

typedef struct vec {
    four_t part[4];
} vec_t;

typedef struct raw {
    bits_t part[4];
} raw_t;

VEC vec_t vec_set(float value)
{
    vec_t v;
    EACH_PART v.part[i] = (four_t){value, value, value, value};
    return v;
}

VEC vec_t vec_set_from(const char *word)
{
    float value;
    memcpy(&value, word, sizeof(value));
    return vec_set(value);
}

VEC vec_t vec_load(const void *from)
{
    vec_t v;
    memcpy(&v, from, sizeof(v));
    return v;
}

VEC void vec_store(float *to, vec_t v)
{
    memcpy(to, &v, sizeof(v));
}

VEC float float_of(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof(value));
    return value;
}

/* Exponent and mantissa move to their places in an f32 as if the exponent had
 * no bias, and one multiplication mends that, denormals included. Only for
 * infinity and NaN the largest exponent remains the largest. */
static float from_f16(uint16_t half)
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
    float values[COTERIE_LANES];
    memcpy(bits, from, sizeof(bits));
    for (int i = 0; i < COTERIE_LANES; i++)
        values[i] = from_f16(bits[i]);
    return vec_load(values);
}

VEC vec_t vec_load_bf16(const void *from)
{
    uint16_t narrow[COTERIE_LANES];
    uint32_t wide[COTERIE_LANES];
    memcpy(narrow, from, sizeof(narrow));
    for (int i = 0; i < COTERIE_LANES; i++)
        wide[i] = (uint32_t)narrow[i] << 16;
    return vec_load(wide);
}

VEC four_t choose(bits_t mask, four_t yes, four_t no)
{
    return (four_t)((mask & (bits_t)yes) | (~mask & (bits_t)no));
}

#define VEC_BINARY(name, expression)           \
    VEC vec_t name(vec_t a, vec_t b)           \
    {                                          \
        vec_t v;                               \
        EACH_PART v.part[i] = (expression);    \
        return v;                              \
    }
VEC_BINARY(vec_add, a.part[i] + b.part[i])
VEC_BINARY(vec_mul, a.part[i] * b.part[i])
VEC_BINARY(vec_div, a.part[i] / b.part[i])
VEC_BINARY(vec_min,
           choose((bits_t)(a.part[i] < b.part[i]), a.part[i], b.part[i]))
VEC_BINARY(vec_max,
           choose((bits_t)(a.part[i] > b.part[i]), a.part[i], b.part[i]))

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

/* 2^(n - 1) for whole n from -125 to 128; anything for NaN. Once 2^23 is added
 * to n + 126, it is the lowest bits of the sum. */
VEC vec_t vec_half_pow2(vec_t n)
{
    const vec_t biased = vec_add(n, vec_set(0x1p23f + 126));
    vec_t v;
    EACH_PART v.part[i] = (four_t)((bits_t)biased.part[i] << 23);
    return v;
}

/* The 16 lanes, halved four times. */
VEC float vec_sum(vec_t v)
{
    const four_t four =
        (v.part[0] + v.part[2]) + (v.part[1] + v.part[3]);
    return (four[0] + four[2]) + (four[1] + four[3]);
}

VEC void vec_sums(const vec_t *v, int count, float *sums)
{
    for (int i = 0; i < count; i++)
        sums[i] = vec_sum(v[i]);
}

VEC raw_t raw_set(int value)
{
    const uint32_t bits = (uint32_t)value;
    raw_t raw;
    EACH_PART raw.part[i] = (bits_t){bits, bits, bits, bits};
    return raw;
}

VEC raw_t raw_set_from(const char *word)
{
    int value;
    memcpy(&value, word, sizeof(value));
    return raw_set(value);
}

VEC raw_t raw_load(const void *from)
{
    raw_t raw;
    memcpy(&raw, from, sizeof(raw));
    return raw;
}

#define RAW_UNARY(name, type, expression)     \
    VEC raw_t name(raw_t raw, type with)      \
    {                                         \
        raw_t to;                             \
        EACH_PART to.part[i] = (expression);  \
        return to;                            \
    }
RAW_UNARY(raw_shift_left, int, raw.part[i] << with)
RAW_UNARY(raw_shift_right, int, raw.part[i] >> with)
RAW_UNARY(raw_shift_signed, int, (bits_t)((whole_t)raw.part[i] >> with))
RAW_UNARY(raw_and, uint32_t, raw.part[i] & with)
RAW_UNARY(raw_xor, uint32_t, raw.part[i] ^ with)

VEC vec_t raw_floats(raw_t raw)
{
    return vec_load(&raw);
}

/* The lower or the upper half of each word. */
VEC vec_t raw_f16(raw_t raw, int upper)
{
    uint32_t words[COTERIE_LANES];
    uint16_t halves[COTERIE_LANES];
    memcpy(words, &raw, sizeof(words));
    for (int i = 0; i < COTERIE_LANES; i++)
        halves[i] = (uint16_t)(upper ? words[i] >> 16 : words[i]);
    return vec_load_f16(halves);
}

VEC raw_t raw_add(raw_t a, raw_t b)
{
    EACH_PART a.part[i] += b.part[i];
    return a;
}

VEC vec_t raw_to_floats(raw_t raw)
{
    vec_t v;
    EACH_PART v.part[i] =
        __builtin_convertvector((whole_t)raw.part[i], four_t);
    return v;
}

static const float e2m1[16] = {0,     0.5f,  1,  1.5f,  2,  3,  4,  6,
                               -0.0f, -0.5f, -1, -1.5f, -2, -3, -4, -6};

VEC vec_t mxfp4_nibble(raw_t raw, int bit)
{
    uint32_t words[COTERIE_LANES];
    float values[COTERIE_LANES];
    memcpy(words, &raw, sizeof(words));
    for (int i = 0; i < COTERIE_LANES; i++)
        values[i] = e2m1[words[i] >> bit & 15];
    return vec_load(values);
}

/* Four bits of each word, from `bit` on. */
VEC vec_t raw_nibble(raw_t raw, int bit, coterie_dtype_t dtype)
{
    vec_t value;
    if (dtype == COTERIE_DTYPE_MXFP4)
        return mxfp4_nibble(raw, bit);
    value = raw_to_floats(raw_and(raw_shift_right(raw, bit), 15));
    return dtype == COTERIE_DTYPE_INT4 ? vec_add(value, vec_set(-8)) : value;
}

/* Twice the value of each half byte, plus 12. */
VEC raw_t raw_mxfp4_bytes(raw_t halves)
{
    uint8_t bytes[COTERIE_PANEL_VECTOR];
    memcpy(bytes, &halves, sizeof(bytes));
    for (int i = 0; i < COTERIE_PANEL_VECTOR; i++)
        bytes[i] = (uint8_t)(12 + 2 * e2m1[bytes[i]]);
    return raw_load(bytes);
}

/* e4m3fn in the highest byte of a word. Exponent and mantissa move to their
 * places in an f32, and one multiplication mends the bias. */
static float from_fp8(uint32_t word)
{
    const uint32_t rest = word & 0x7f000000u;
    if (rest == 0x7f000000u)
        return NAN;
    return float_of((word & 0x80000000u) | rest >> 4) * 0x1p120f;
}

VEC vec_t raw_fp8(raw_t raw)
{
    uint32_t words[COTERIE_LANES];
    float values[COTERIE_LANES];
    memcpy(words, &raw, sizeof(words));
    for (int i = 0; i < COTERIE_LANES; i++)
        values[i] = from_fp8(words[i]);
    return vec_load(values);
}

/* Powers of two by their biased exponents: 0 is 2^-127 and 255 not a number. */
VEC vec_t vec_load_e8m0(const char *from)
{
    const uint8_t *bytes = (const uint8_t *)from;
    uint32_t words[COTERIE_LANES];
    for (int i = 0; i < COTERIE_LANES; i++)
        words[i] = (uint32_t)bytes[i] << 23 |
                   (uint32_t)(bytes[i] == 0 || bytes[i] == 255) << 22;
    return vec_load(words);
}

VEC vec_t vec_magnitude(vec_t v)
{
    EACH_PART v.part[i] = (four_t)((bits_t)v.part[i] & 0x7fffffff);
    return v;
}

VEC float vec_largest(vec_t v)
{
    float largest = 0;
    for (int i = 0; i < COTERIE_LANES; i++)
        largest = v.part[i / 4][i % 4] > largest ? v.part[i / 4][i % 4]
                                                 : largest;
    return largest;
}

/* Whole numbers from -127 to 127. */
VEC void vec_store_bytes(char *to, vec_t v)
{
    for (int i = 0; i < COTERIE_LANES; i++) {
        const signed char byte = (signed char)v.part[i / 4][i % 4];
        memcpy(to + i, &byte, 1);
    }
}

VEC vec_t vec_round_bf16(vec_t v)
{
    for (int i = 0; i < COTERIE_LANES; i++) {
        const float x = v.part[i / 4][i % 4];
        uint32_t bits;
        memcpy(&bits, &x, sizeof(bits));
        bits = x == x ? bits + 0x7fff + (bits >> 16 & 1) : bits | 1 << 22;
        v.part[i / 4][i % 4] = float_of(bits & 0xffff0000);
    }
    return v;
}

VEC raw_t raw_dot(raw_t sum, raw_t weights, const char *word)
{
    uint8_t bytes[COTERIE_PANEL_VECTOR];
    int32_t sums[COTERIE_LANES];
    const signed char *x = (const signed char *)word;
    memcpy(bytes, &weights, sizeof(bytes));
    memcpy(sums, &sum, sizeof(sums));
    for (int i = 0; i < COTERIE_PANEL_VECTOR; i++)
        sums[i / 4] += bytes[i] * x[i % 4];
    return raw_load(sums);
}

#include "kernels/cpu/tile.h"

#define PANEL_ROWS 2
#define WIDE(words, dtype, few)                                     \
    PANEL(words, dtype, 1, 1) PANEL(words, dtype, 2, 1)             \
    PANEL_KINDS(words, dtype, PANEL_KIND(words, dtype, 1, 1),       \
                PANEL_KIND(words, dtype, 2, 1))
#define SPANNED WIDE
#define TABLE_F32 coterie_table_portable_f32
#define PANEL_DOT raw_dot
#define TABLE_INT8 coterie_table_portable_int8
#define SPAN_F32 coterie_span_portable_f32
#define SPAN_INT8 coterie_span_portable_int8
#include "kernels/cpu/panel_tables.h"
