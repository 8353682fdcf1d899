#include "config.h"

#include <math.h>
#include <string.h>

#include "kernels/cpu/cpu.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,fma")))
#define VEC TARGET static inline __attribute__((always_inline))
#define OPS coterie_cpu_avx512
#define ISA_NAME "avx512"
#define MASKED_PARTS
/* 24 sums, 4 weights and the present x: 29 of 32 registers. */
#define TILE_ROWS 6
#define TILE_OUTPUTS 4
#define TILES(dtype)                                                      \
    TILE(dtype, 1, 1) TILE(dtype, 2, 2)                                   \
    TILE(dtype, 1, 4) TILE(dtype, 2, 4) TILE(dtype, 3, 4)                 \
    TILE(dtype, 4, 4) TILE(dtype, 5, 4) TILE(dtype, 6, 4)
#define TILE_KINDS(dtype)                                                 \
    {KIND(dtype, 1, 4), KIND(dtype, 2, 4), KIND(dtype, 3, 4),             \
     KIND(dtype, 4, 4), KIND(dtype, 5, 4), KIND(dtype, 6, 4)}
#define TILE_KINDS_STREAM(dtype)                                          \
    {KIND(dtype, 1, 1), KIND(dtype, 2, 2), KIND(dtype, 3, 4),             \
     KIND(dtype, 4, 4), KIND(dtype, 5, 4), KIND(dtype, 6, 4)}
#define PANEL_ROWS 12
#define PANEL_COLUMNS 4
#define PANEL_TILES(dtype)                                                \
    PANEL(dtype, 1, 1) PANEL(dtype, 2, 1) PANEL(dtype, 3, 1)              \
    PANEL(dtype, 4, 1) PANEL(dtype, 5, 1) PANEL(dtype, 6, 1)              \
    PANEL(dtype, 7, 1) PANEL(dtype, 8, 1) PANEL(dtype, 9, 1)              \
    PANEL(dtype, 10, 1) PANEL(dtype, 11, 1) PANEL(dtype, 12, 1)           \
    PANEL(dtype, 1, 4) PANEL(dtype, 2, 4) PANEL(dtype, 3, 4)              \
    PANEL(dtype, 4, 4) PANEL(dtype, 5, 4) PANEL(dtype, 6, 4)              \
    PANEL(dtype, 7, 3) PANEL(dtype, 8, 3) PANEL(dtype, 9, 2)              \
    PANEL(dtype, 10, 2) PANEL(dtype, 11, 2) PANEL(dtype, 12, 2)
#define PANEL_KINDS(dtype)                                                \
    {PANEL_KIND(dtype, 1, 4), PANEL_KIND(dtype, 2, 4),                    \
     PANEL_KIND(dtype, 3, 4), PANEL_KIND(dtype, 4, 4),                    \
     PANEL_KIND(dtype, 5, 4), PANEL_KIND(dtype, 6, 4),                    \
     PANEL_KIND(dtype, 7, 3), PANEL_KIND(dtype, 8, 3),                    \
     PANEL_KIND(dtype, 9, 2), PANEL_KIND(dtype, 10, 2),                   \
     PANEL_KIND(dtype, 11, 2), PANEL_KIND(dtype, 12, 2)}

typedef __m512 vec_t;
typedef __m512i raw_t;

VEC vec_t vec_set(float value)
{
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

VEC raw_t raw_shift_left(raw_t raw, unsigned bits)
{
    return _mm512_slli_epi32(raw, bits);
}

VEC raw_t raw_shift_right(raw_t raw, unsigned bits)
{
    return _mm512_srli_epi32(raw, bits);
}

VEC raw_t raw_and(raw_t raw, uint32_t mask)
{
    return _mm512_and_si512(raw, _mm512_set1_epi32((int)mask));
}

VEC vec_t raw_floats(raw_t raw)
{
    return _mm512_castsi512_ps(raw);
}

VEC vec_t raw_f16(raw_t raw)
{
    return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(raw));
}

#include "kernels/cpu/tile.h"
#endif
