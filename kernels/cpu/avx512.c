#include "config.h"

#include <math.h>
#include <string.h>

#include "kernels/cpu/cpu.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,fma")))
#define OPS coterie_cpu_avx512
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
#include "kernels/cpu/vec512.h"

#include "kernels/cpu/tile.h"

/* Products of bytes in pairs of 16 bits, even ones and odd ones apart. */
VEC raw_t raw_dot(raw_t sum, raw_t weights, const char *word)
{
    const raw_t x = raw_set_from(word);
    const raw_t even = _mm512_madd_epi16(
        raw_and(weights, 0x00ff00ff),
        _mm512_srai_epi16(_mm512_slli_epi16(x, 8), 8));
    const raw_t odd = _mm512_madd_epi16(_mm512_srli_epi16(weights, 8),
                                        _mm512_srai_epi16(x, 8));
    return _mm512_add_epi32(sum, _mm512_add_epi32(even, odd));
}

#define TABLE_F32 coterie_table_avx512_f32
#define PANEL_DOT raw_dot
#define TABLE_INT8 coterie_table_avx512_int8
#define SPAN_F32 coterie_span_avx512_f32
#define SPAN_INT8 coterie_span_avx512_int8
#include "kernels/cpu/panel_tables.h"
#endif
