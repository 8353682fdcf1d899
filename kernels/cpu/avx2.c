#include "config.h"

#include <math.h>
#include <string.h>

#include "kernels/cpu/cpu.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define TARGET __attribute__((target("avx2,fma,f16c")))
#define VEC INLINE
#define OPS coterie_cpu_avx2
/* 12 registers of sums: a vector is a pair here. */
#define TILE_ROWS 3
#define TILE_OUTPUTS 2
#define TILES(dtype)                                                      \
    TILE(dtype, 1, 1)                                                     \
    TILE(dtype, 1, 2) TILE(dtype, 2, 2) TILE(dtype, 3, 2)
#define TILE_KINDS(dtype) \
    {KIND(dtype, 1, 2), KIND(dtype, 2, 2), KIND(dtype, 3, 2)}
#define TILE_KINDS_STREAM(dtype) \
    {KIND(dtype, 1, 1), KIND(dtype, 2, 2), KIND(dtype, 3, 2)}
typedef struct vec {
    __m256 low, high;
} vec_t;

typedef struct raw {
    __m256i low, high;
} raw_t;

VEC vec_t vec_set(float value)
{
    return (vec_t){_mm256_set1_ps(value), _mm256_set1_ps(value)};
}

VEC vec_t vec_set_from(const char *word)
{
    float value;
    memcpy(&value, word, sizeof(value));
    return vec_set(value);
}

VEC vec_t vec_load(const void *from)
{
    const float *values = from;
    return (vec_t){_mm256_loadu_ps(values), _mm256_loadu_ps(values + 8)};
}

VEC void vec_store(float *to, vec_t v)
{
    _mm256_storeu_ps(to, v.low);
    _mm256_storeu_ps(to + 8, v.high);
}

VEC vec_t vec_load_f16(const void *from)
{
    const __m128i *halves = from;
    return (vec_t){_mm256_cvtph_ps(_mm_loadu_si128(halves)),
                   _mm256_cvtph_ps(_mm_loadu_si128(halves + 1))};
}

VEC __m256 from_bf16(const __m128i *from)
{
    const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(from));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}

VEC vec_t vec_load_bf16(const void *from)
{
    const __m128i *halves = from;
    return (vec_t){from_bf16(halves), from_bf16(halves + 1)};
}

#define VEC_BINARY(name, operation)                                   \
    VEC vec_t name(vec_t a, vec_t b)                                  \
    {                                                                 \
        return (vec_t){operation(a.low, b.low),                       \
                       operation(a.high, b.high)};                    \
    }
VEC_BINARY(vec_add, _mm256_add_ps)
VEC_BINARY(vec_mul, _mm256_mul_ps)
VEC_BINARY(vec_div, _mm256_div_ps)
VEC_BINARY(vec_min, _mm256_min_ps)
VEC_BINARY(vec_max, _mm256_max_ps)

VEC vec_t vec_fma(vec_t a, vec_t b, vec_t c)
{
    return (vec_t){_mm256_fmadd_ps(a.low, b.low, c.low),
                   _mm256_fmadd_ps(a.high, b.high, c.high)};
}

VEC vec_t vec_round(vec_t v)
{
    enum { NEAREST = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC };
    return (vec_t){_mm256_round_ps(v.low, NEAREST),
                   _mm256_round_ps(v.high, NEAREST)};
}

VEC __m256 half_pow2(__m256 n)
{
    const __m256i biased =
        _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(126));
    return _mm256_castsi256_ps(_mm256_slli_epi32(biased, 23));
}

/* 2^(n - 1) for whole n from -125 to 128. */
VEC vec_t vec_half_pow2(vec_t n)
{
    return (vec_t){half_pow2(n.low), half_pow2(n.high)};
}

/* The 16 lanes, halved four times. */
VEC float vec_sum(vec_t v)
{
    const __m256 a = _mm256_add_ps(v.low, v.high);
    const __m128 b =
        _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    const __m128 c = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)));
}

VEC void vec_sums(const vec_t *v, int count, float *sums)
{
    for (int i = 0; i < count; i++)
        sums[i] = vec_sum(v[i]);
}

VEC raw_t raw_load(const void *from)
{
    const __m256i *halves = from;
    return (raw_t){_mm256_loadu_si256(halves),
                   _mm256_loadu_si256(halves + 1)};
}

VEC raw_t raw_set(int value)
{
    return (raw_t){_mm256_set1_epi32(value), _mm256_set1_epi32(value)};
}

VEC raw_t raw_set_from(const char *word)
{
    int value;
    memcpy(&value, word, sizeof(value));
    return raw_set(value);
}

#define RAW_WITH(name, operation, type)                              \
    VEC raw_t name(raw_t raw, type with)                             \
    {                                                                \
        return (raw_t){operation(raw.low, with),                     \
                       operation(raw.high, with)};                   \
    }
RAW_WITH(raw_shift_left, _mm256_slli_epi32, int)
RAW_WITH(raw_shift_right, _mm256_srli_epi32, int)
RAW_WITH(raw_shift_signed, _mm256_srai_epi32, int)

#define RAW_BINARY(name, operation)                                  \
    VEC raw_t name(raw_t a, raw_t b)                                 \
    {                                                                \
        return (raw_t){operation(a.low, b.low),                      \
                       operation(a.high, b.high)};                   \
    }
RAW_BINARY(raw_and_raw, _mm256_and_si256)
RAW_BINARY(raw_or_raw, _mm256_or_si256)
RAW_BINARY(raw_add, _mm256_add_epi32)
RAW_BINARY(raw_equal, _mm256_cmpeq_epi32)
RAW_BINARY(raw_greater, _mm256_cmpgt_epi32)
RAW_BINARY(raw_bytes_from, _mm256_shuffle_epi8)

VEC raw_t raw_and(raw_t raw, uint32_t mask)
{
    return raw_and_raw(raw, raw_set((int)mask));
}

VEC raw_t raw_xor(raw_t raw, uint32_t mask)
{
    const __m256i all = _mm256_set1_epi32((int)mask);
    return (raw_t){_mm256_xor_si256(raw.low, all),
                   _mm256_xor_si256(raw.high, all)};
}

VEC vec_t raw_to_floats(raw_t raw)
{
    return (vec_t){_mm256_cvtepi32_ps(raw.low),
                   _mm256_cvtepi32_ps(raw.high)};
}

VEC vec_t raw_floats(raw_t raw)
{
    return (vec_t){_mm256_castsi256_ps(raw.low),
                   _mm256_castsi256_ps(raw.high)};
}

VEC __m256 low_halves_f16(__m256i words)
{
    const __m256i packed =
        _mm256_permute4x64_epi64(_mm256_packus_epi32(words, words), 0x08);
    return _mm256_cvtph_ps(_mm256_castsi256_si128(packed));
}

/* The lower or the upper half of each word. */
VEC vec_t raw_f16(raw_t raw, int upper)
{
    const raw_t half =
        upper ? raw_shift_right(raw, 16) : raw_and(raw, 0xffff);
    return (vec_t){low_halves_f16(half.low), low_halves_f16(half.high)};
}

/* Four bits of each word, from `bit` on. */
VEC vec_t raw_nibble(raw_t raw, int bit, coterie_dtype_t dtype)
{
    const __m256 halves = _mm256_setr_ps(0, 0.5f, 1, 1.5f, 2, 3, 4, 6);
    const raw_t code = raw_shift_right(raw, bit);
    vec_t value;

    if (dtype != COTERIE_DTYPE_MXFP4) {
        value = raw_to_floats(raw_and(code, 15));
        return dtype == COTERIE_DTYPE_INT4 ? vec_add(value, vec_set(-8))
                                           : value;
    }
    value = (vec_t){_mm256_permutevar8x32_ps(halves, code.low),
                    _mm256_permutevar8x32_ps(halves, code.high)};
    const raw_t sign = raw_and(raw_shift_left(code, 28), 0x80000000);
    return (vec_t){
        _mm256_or_ps(value.low, _mm256_castsi256_ps(sign.low)),
        _mm256_or_ps(value.high, _mm256_castsi256_ps(sign.high))};
}

/* Twice the value of each half byte, plus 12. */
VEC raw_t raw_mxfp4_bytes(raw_t halves)
{
    const __m256i table = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4,
                      0));
    return raw_bytes_from((raw_t){table, table}, halves);
}

VEC raw_t vec_bits(vec_t v)
{
    return (raw_t){_mm256_castps_si256(v.low), _mm256_castps_si256(v.high)};
}

/* Of the highest byte of each word, e4m3fn. Exponent and mantissa move to their
 * places in an f32 and the bias is added; denormals are given the leading 1
 * that they lack, which is then subtracted. */
VEC vec_t raw_fp8(raw_t raw)
{
    const raw_t magnitude = raw_and(raw, 0x7f000000);
    const raw_t small = raw_greater(raw_set(0x08000000), magnitude);
    const raw_t nan = raw_equal(magnitude, raw_set(0x7f000000));
    raw_t bits = raw_add(raw_shift_right(magnitude, 4),
                             raw_set(120 << 23));
    vec_t value;
    bits = raw_add(bits, raw_and(small, 1 << 23));
    bits = raw_or_raw(bits, raw_and(nan, 0x7fc00000));
    value = vec_add(raw_floats(bits),
                    raw_floats(raw_and(small, 0xbc800000))); /* -2^-6 */
    return raw_floats(
        raw_or_raw(vec_bits(value), raw_and(raw, 0x80000000)));
}

/* Powers of two by their biased exponents: 0 is 2^-127 and 255 not a number. */
VEC vec_t vec_load_e8m0(const char *from)
{
    const __m128i *bytes = (const void *)from;
    const __m128i all = _mm_loadu_si128(bytes);
    const raw_t wide = {_mm256_cvtepu8_epi32(all),
                        _mm256_cvtepu8_epi32(_mm_srli_si128(all, 8))};
    const raw_t odd = raw_or_raw(raw_equal(wide, raw_set(0)),
                                 raw_equal(wide, raw_set(255)));
    return raw_floats(
        raw_or_raw(raw_shift_left(wide, 23), raw_and(odd, 1 << 22)));
}

VEC vec_t vec_magnitude(vec_t v)
{
    const __m256 sign = _mm256_set1_ps(-0.0f);
    return (vec_t){_mm256_andnot_ps(sign, v.low),
                   _mm256_andnot_ps(sign, v.high)};
}

VEC float vec_largest(vec_t v)
{
    const __m256 all = _mm256_max_ps(v.low, v.high);
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(all),
                                   _mm256_extractf128_ps(all, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

/* Whole numbers from -127 to 127. */
VEC void vec_store_bytes(char *to, vec_t v)
{
    const __m256i halves = _mm256_permute4x64_epi64(
        _mm256_packs_epi32(_mm256_cvtps_epi32(v.low),
                           _mm256_cvtps_epi32(v.high)),
        0xd8);
    _mm_storeu_si128((void *)to,
                     _mm_packs_epi16(_mm256_castsi256_si128(halves),
                                     _mm256_extracti128_si256(halves, 1)));
}

VEC __m256 round_bf16(__m256 x)
{
    const __m256i bits = _mm256_castps_si256(x);
    const __m256i odd =
        _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i near = _mm256_add_epi32(
        bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    const __m256 rounded = _mm256_castsi256_ps(
        _mm256_and_si256(near, _mm256_set1_epi32((int)0xffff0000)));
    return _mm256_blendv_ps(rounded, x, _mm256_cmp_ps(x, x, _CMP_UNORD_Q));
}

VEC vec_t vec_round_bf16(vec_t v)
{
    return (vec_t){round_bf16(v.low), round_bf16(v.high)};
}

VEC __m256i dot_half(__m256i sum, __m256i weights, __m256i x)
{
    const __m256i even = _mm256_madd_epi16(
        _mm256_and_si256(weights, _mm256_set1_epi16(255)),
        _mm256_srai_epi16(_mm256_slli_epi16(x, 8), 8));
    const __m256i odd = _mm256_madd_epi16(_mm256_srli_epi16(weights, 8),
                                          _mm256_srai_epi16(x, 8));
    return _mm256_add_epi32(sum, _mm256_add_epi32(even, odd));
}

/* Products of bytes in pairs of 16 bits, even ones and odd ones apart. */
VEC raw_t raw_dot(raw_t sum, raw_t weights, const char *word)
{
    const raw_t x = raw_set_from(word);
    return (raw_t){dot_half(sum.low, weights.low, x.low),
                   dot_half(sum.high, weights.high, x.high)};
}

#include "kernels/cpu/tile.h"

/* 12 registers of sums, two of weights and the present x. */
#define PANEL_ROWS 6
#define WIDE(words, dtype, few)                                           \
    PANEL(words, dtype, 1, 1)                                             \
    PANEL(words, dtype, 1, 2) PANEL(words, dtype, 2, 2)                   \
    PANEL(words, dtype, 3, 1) PANEL(words, dtype, 4, 1)                   \
    PANEL(words, dtype, 5, 1) PANEL(words, dtype, 6, 1)                   \
    PANEL_KINDS(words, dtype, PANEL_KIND(words, dtype, 1, 2),             \
                PANEL_KIND(words, dtype, 2, 2),                           \
                PANEL_KIND(words, dtype, 3, 1),                           \
                PANEL_KIND(words, dtype, 4, 1),                           \
                PANEL_KIND(words, dtype, 5, 1),                           \
                PANEL_KIND(words, dtype, 6, 1))
/* Twice as many sums. */
#define SPANNED(words, dtype, few)                                        \
    PANEL(words, dtype, 1, 1) PANEL(words, dtype, 1, 2)                   \
    PANEL(words, dtype, 2, 1) PANEL(words, dtype, 3, 1)                   \
    PANEL_KINDS(words, dtype, PANEL_KIND(words, dtype, 1, 2),             \
                PANEL_KIND(words, dtype, 2, 1),                           \
                PANEL_KIND(words, dtype, 3, 1))
#define TABLE_F32 coterie_table_avx2_f32
#define PANEL_DOT raw_dot
#define TABLE_INT8 coterie_table_avx2_int8
#define SPAN_F32 coterie_span_avx2_f32
#define SPAN_INT8 coterie_span_avx2_int8
#include "kernels/cpu/panel_tables.h"
#endif
