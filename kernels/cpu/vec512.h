/* Sixteen floats, or 64 bytes, in one register. Includes of this file have
 * defined TARGET. */
#include <immintrin.h>

#define VEC INLINE

#if defined(__GNUC__)
#define PANEL_HOLD(raw) __asm__("" : "+v"(raw))
#endif

typedef __m512 vec_t;
typedef __m512i raw_t;

VEC vec_t vec_set(float value)
{
    return _mm512_set1_ps(value);
}

VEC vec_t vec_set_from(const char *word)
{
    float value;
    memcpy(&value, word, sizeof(value));
    return _mm512_set1_ps(value);
}

VEC vec_t vec_load(const void *from)
{
    return _mm512_loadu_ps(from);
}

VEC __mmask16 first_lanes(size_t count)
{
    return (__mmask16)((1u << count) - 1);
}

VEC vec_t vec_load_part(const void *from, size_t count)
{
    return _mm512_maskz_loadu_ps(first_lanes(count), from);
}

VEC void vec_store(float *to, vec_t v)
{
    _mm512_storeu_ps(to, v);
}

VEC void vec_store_part(float *to, vec_t v, size_t count)
{
    _mm512_mask_storeu_ps(to, first_lanes(count), v);
}

VEC vec_t vec_load_f16(const void *from)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256(from));
}

VEC vec_t vec_load_f16_part(const void *from, size_t count)
{
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(first_lanes(count), from));
}

VEC vec_t from_bf16(__m256i narrow)
{
    const __m512i wide = _mm512_cvtepu16_epi32(narrow);
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}

VEC vec_t vec_load_bf16(const void *from)
{
    return from_bf16(_mm256_loadu_si256(from));
}

VEC vec_t vec_load_bf16_part(const void *from, size_t count)
{
    return from_bf16(_mm256_maskz_loadu_epi16(first_lanes(count), from));
}

VEC vec_t vec_add(vec_t a, vec_t b)
{
    return _mm512_add_ps(a, b);
}

VEC vec_t vec_mul(vec_t a, vec_t b)
{
    return _mm512_mul_ps(a, b);
}

VEC vec_t vec_div(vec_t a, vec_t b)
{
    return _mm512_div_ps(a, b);
}

VEC vec_t vec_fma(vec_t a, vec_t b, vec_t c)
{
    return _mm512_fmadd_ps(a, b, c);
}

VEC vec_t vec_min(vec_t a, vec_t b)
{
    return _mm512_min_ps(a, b);
}

VEC vec_t vec_max(vec_t a, vec_t b)
{
    return _mm512_max_ps(a, b);
}

VEC vec_t vec_round(vec_t v)
{
    return _mm512_roundscale_ps(v, _MM_FROUND_TO_NEAREST_INT);
}

/* 2^(n - 1) for whole n from -125 to 128. */
VEC vec_t vec_half_pow2(vec_t n)
{
    const __m512i biased =
        _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(126));
    return _mm512_castsi512_ps(_mm512_slli_epi32(biased, 23));
}

/* The 16 lanes, halved four times. */
VEC float vec_sum(vec_t v)
{
    const __m256 a = _mm256_add_ps(_mm512_castps512_ps256(v),
                                   _mm512_extractf32x8_ps(v, 1));
    const __m128 b =
        _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    const __m128 c = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)));
}

/* vec_sum of four at once: it adds the same pairs. */
VEC void vec_sum_four(const vec_t *v, float *sums)
{
    const vec_t ab = vec_add(_mm512_shuffle_f32x4(v[0], v[1], 0x44),
                             _mm512_shuffle_f32x4(v[0], v[1], 0xee));
    const vec_t cd = vec_add(_mm512_shuffle_f32x4(v[2], v[3], 0x44),
                             _mm512_shuffle_f32x4(v[2], v[3], 0xee));
    const vec_t four = vec_add(_mm512_shuffle_f32x4(ab, cd, 0x88),
                               _mm512_shuffle_f32x4(ab, cd, 0xdd));
    const vec_t two = vec_add(four, _mm512_permute_ps(four, 0x4e));
    const vec_t one = vec_add(two, _mm512_permute_ps(two, 0xb1));
    _mm_storeu_ps(sums, _mm512_castps512_ps128(
                            _mm512_maskz_compress_ps(0x1111, one)));
}

VEC void vec_sums(const vec_t *v, int count, float *sums)
{
    if (count == 4)
        vec_sum_four(v, sums);
    else
        for (int i = 0; i < count; i++)
            sums[i] = vec_sum(v[i]);
}

VEC raw_t raw_load(const void *from)
{
    return _mm512_loadu_si512(from);
}

VEC raw_t raw_set(int value)
{
    return _mm512_set1_epi32(value);
}

VEC raw_t raw_set_from(const char *word)
{
    int value;
    memcpy(&value, word, sizeof(value));
    return _mm512_set1_epi32(value);
}

VEC raw_t raw_shift_left(raw_t raw, int bits)
{
    return _mm512_slli_epi32(raw, (unsigned)bits);
}

VEC raw_t raw_shift_right(raw_t raw, int bits)
{
    return _mm512_srli_epi32(raw, (unsigned)bits);
}

VEC raw_t raw_shift_signed(raw_t raw, int bits)
{
    return _mm512_srai_epi32(raw, (unsigned)bits);
}

VEC raw_t raw_and(raw_t raw, uint32_t mask)
{
    return _mm512_and_si512(raw, _mm512_set1_epi32((int)mask));
}

VEC raw_t raw_xor(raw_t raw, uint32_t mask)
{
    return _mm512_xor_si512(raw, raw_set((int)mask));
}

VEC raw_t raw_add(raw_t a, raw_t b)
{
    return _mm512_add_epi32(a, b);
}

VEC vec_t raw_to_floats(raw_t raw)
{
    return _mm512_cvtepi32_ps(raw);
}

VEC vec_t raw_floats(raw_t raw)
{
    return _mm512_castsi512_ps(raw);
}

/* The lower or the upper half of each word: one permutation serves both. */
VEC vec_t raw_f16(raw_t raw, int upper)
{
    const raw_t apart = _mm512_permutexvar_epi16(
        raw_load((const uint16_t[32]){
            0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30,
            1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31}),
        raw);
    return _mm512_cvtph_ps(upper ? _mm512_extracti64x4_epi64(apart, 1)
                                 : _mm512_castsi512_si256(apart));
}

/* Four bits of each word, from `bit` on; what is above them does not count. */
VEC vec_t raw_nibble(raw_t raw, int bit, coterie_dtype_t dtype)
{
    const vec_t table =
        dtype == COTERIE_DTYPE_INT4
            ? _mm512_setr_ps(-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5,
                             6, 7)
        : dtype == COTERIE_DTYPE_INT4_ZERO
            ? _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14,
                             15)
            : _mm512_setr_ps(0, 0.5f, 1, 1.5f, 2, 3, 4, 6, -0.0f, -0.5f, -1,
                             -1.5f, -2, -3, -4, -6);
    return _mm512_permutexvar_ps(bit > 0 ? raw_shift_right(raw, bit) : raw,
                                 table);
}

/* Twice the value of each half byte, plus 12. */
VEC raw_t raw_mxfp4_bytes(raw_t halves)
{
    const __m128i table = _mm_setr_epi8(12, 13, 14, 15, 16, 18, 20, 24, 12, 11,
                                        10, 9, 8, 6, 4, 0);
    return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(table), halves);
}

/* Of the highest byte of each word, e4m3fn. Exponent and mantissa move to their
 * places in an f32 and the bias is added; denormals are given the leading 1
 * that they lack, which is then subtracted. */
VEC vec_t raw_fp8(raw_t raw)
{
    const raw_t magnitude = raw_and(raw, 0x7f000000);
    const __mmask16 small =
        _mm512_cmplt_epu32_mask(magnitude, raw_set(0x08000000));
    const __mmask16 nan =
        _mm512_cmpeq_epi32_mask(magnitude, raw_set(0x7f000000));
    raw_t bits = _mm512_add_epi32(raw_shift_right(magnitude, 4),
                                  raw_set(120 << 23));
    vec_t value;
    bits = _mm512_mask_add_epi32(bits, small, bits, raw_set(1 << 23));
    bits = _mm512_mask_or_epi32(bits, nan, bits, raw_set(0x7fc00000));
    value = raw_floats(bits);
    value = _mm512_mask_sub_ps(value, small, value, vec_set(0x1p-6f));
    return raw_floats(_mm512_or_si512(_mm512_castps_si512(value),
                                      raw_and(raw, 0x80000000)));
}

/* Powers of two by their biased exponents: 0 is 2^-127 and 255 not a number. */
VEC vec_t vec_load_e8m0(const char *from)
{
    const raw_t bytes =
        _mm512_cvtepu8_epi32(_mm_loadu_si128((const void *)from));
    const raw_t bits =
        _mm512_max_epu32(raw_shift_left(bytes, 23), raw_set(1 << 22));
    const __mmask16 nan = _mm512_cmpeq_epi32_mask(bytes, raw_set(255));
    return raw_floats(_mm512_mask_or_epi32(bits, nan, bits, raw_set(1 << 22)));
}

VEC vec_t vec_magnitude(vec_t v)
{
    return _mm512_abs_ps(v);
}

VEC float vec_largest(vec_t v)
{
    return _mm512_reduce_max_ps(v);
}

/* Whole numbers from -127 to 127. */
VEC void vec_store_bytes(char *to, vec_t v)
{
    _mm_storeu_si128((void *)to,
                     _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(v)));
}

VEC vec_t vec_round_bf16(vec_t v)
{
    const raw_t bits = _mm512_castps_si512(v);
    const raw_t odd = raw_and(raw_shift_right(bits, 16), 1);
    const raw_t near =
        _mm512_add_epi32(bits, _mm512_add_epi32(odd, raw_set(0x7fff)));
    return _mm512_mask_mov_ps(raw_floats(raw_and(near, 0xffff0000)),
                              _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q), v);
}

/* With few rows memory decides. `few` panels with one or two of them: 1 where
 * products leave time enough, for that is one stream, which the processor
 * follows best; 4 where chains of sums would take too long. With many rows, 24
 * sums, 2 weights and the present x make the most of the registers. */
#define PANEL_ROWS 12
#define WIDE(words, dtype, few)                                           \
    PANEL(words, dtype, 1, 1) PANEL_FEW_##few(words, dtype)               \
    PANEL(words, dtype, 3, 4) PANEL(words, dtype, 4, 4)                   \
    PANEL(words, dtype, 5, 4) PANEL(words, dtype, 6, 2)                   \
    PANEL(words, dtype, 7, 2) PANEL(words, dtype, 8, 2)                   \
    PANEL(words, dtype, 9, 2) PANEL(words, dtype, 10, 2)                  \
    PANEL(words, dtype, 11, 2) PANEL(words, dtype, 12, 2)                 \
    PANEL_KINDS(words, dtype, PANEL_KIND(words, dtype, 1, few),           \
                PANEL_KIND(words, dtype, 2, few),                         \
                PANEL_KIND(words, dtype, 3, 4),                           \
                PANEL_KIND(words, dtype, 4, 4),                           \
                PANEL_KIND(words, dtype, 5, 4),                           \
                PANEL_KIND(words, dtype, 6, 2),                           \
                PANEL_KIND(words, dtype, 7, 2),                           \
                PANEL_KIND(words, dtype, 8, 2),                           \
                PANEL_KIND(words, dtype, 9, 2),                           \
                PANEL_KIND(words, dtype, 10, 2),                          \
                PANEL_KIND(words, dtype, 11, 2),                          \
                PANEL_KIND(words, dtype, 12, 2))
/* Twice as many sums. */
#define SPANNED(words, dtype, few)                                        \
    PANEL(words, dtype, 1, 1) PANEL_FEW_##few(words, dtype)               \
    PANEL(words, dtype, 3, 2) PANEL(words, dtype, 4, 2)                   \
    PANEL(words, dtype, 5, 2) PANEL(words, dtype, 6, 2)                   \
    PANEL_KINDS(words, dtype, PANEL_KIND(words, dtype, 1, few),           \
                PANEL_KIND(words, dtype, 2, few),                         \
                PANEL_KIND(words, dtype, 3, 2),                           \
                PANEL_KIND(words, dtype, 4, 2),                           \
                PANEL_KIND(words, dtype, 5, 2),                           \
                PANEL_KIND(words, dtype, 6, 2))
#define PANEL_FEW_1(words, dtype) PANEL(words, dtype, 2, 1)
#define PANEL_FEW_4(words, dtype) \
    PANEL(words, dtype, 1, 4) PANEL(words, dtype, 2, 4)
