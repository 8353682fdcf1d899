#include "config.h"

#include <math.h>
#include <string.h>

#include "kernels/cpu/cpu.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define TARGET __attribute__((target("avx2,fma,f16c")))
#define VEC TARGET static inline __attribute__((always_inline))
#define OPS coterie_cpu_avx2
#define ISA_NAME "avx2"
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
/* Likewise 12, with two registers of weights and the present x. */
#define PANEL_ROWS 6
#define PANEL_COLUMNS 2
#define PANEL_TILES(dtype)                                                \
    PANEL(dtype, 1, 1) PANEL(dtype, 2, 1) PANEL(dtype, 3, 1)              \
    PANEL(dtype, 4, 1) PANEL(dtype, 5, 1) PANEL(dtype, 6, 1)              \
    PANEL(dtype, 1, 2) PANEL(dtype, 2, 2)
#define PANEL_KINDS(dtype)                                                \
    {PANEL_KIND(dtype, 1, 2), PANEL_KIND(dtype, 2, 2),                    \
     PANEL_KIND(dtype, 3, 1), PANEL_KIND(dtype, 4, 1),                    \
     PANEL_KIND(dtype, 5, 1), PANEL_KIND(dtype, 6, 1)}

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

VEC raw_t raw_shift_left(raw_t raw, int bits)
{
    return (raw_t){_mm256_slli_epi32(raw.low, bits),
                   _mm256_slli_epi32(raw.high, bits)};
}

VEC raw_t raw_shift_right(raw_t raw, int bits)
{
    return (raw_t){_mm256_srli_epi32(raw.low, bits),
                   _mm256_srli_epi32(raw.high, bits)};
}

VEC raw_t raw_and(raw_t raw, uint32_t mask)
{
    const __m256i all = _mm256_set1_epi32((int)mask);
    return (raw_t){_mm256_and_si256(raw.low, all),
                   _mm256_and_si256(raw.high, all)};
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

VEC vec_t raw_f16(raw_t raw)
{
    return (vec_t){low_halves_f16(raw.low), low_halves_f16(raw.high)};
}

#include "kernels/cpu/tile.h"
#endif
