#include "config.h"

#include <string.h>

#include "kernels/cpu/cpu.h"

#if defined(__x86_64__)
#define TARGET __attribute__((target( \
    "avx512f,avx512bw,avx512vl,avx512dq,fma,avx512vnni,avx512vbmi," \
    "avx512bf16")))

#include "kernels/cpu/vec512.h"

/* The bf16 of a magnitude of 7 bits, apart in high and low bytes. */
typedef struct halves {
    uint8_t high[128], low[128];
} halves_t;

#define MAGNITUDES_4(f, i) f(i), f(i + 1), f(i + 2), f(i + 3)
#define MAGNITUDES_16(f, i)                                   \
    MAGNITUDES_4(f, i), MAGNITUDES_4(f, i + 4),               \
        MAGNITUDES_4(f, i + 8), MAGNITUDES_4(f, i + 12)
#define MAGNITUDES(f)                                         \
    MAGNITUDES_16(f, 0), MAGNITUDES_16(f, 16),                \
        MAGNITUDES_16(f, 32), MAGNITUDES_16(f, 48),           \
        MAGNITUDES_16(f, 64), MAGNITUDES_16(f, 80),           \
        MAGNITUDES_16(f, 96), MAGNITUDES_16(f, 112)

/* A whole number: its highest bit gives the exponent and leaves. */
#define TOP(i) \
    ((i) >= 64 ? 6 : (i) >= 32 ? 5 : (i) >= 16 ? 4 : (i) >= 8 ? 3 \
     : (i) >= 4 ? 2 : (i) >= 2 ? 1 : 0)
#define WHOLE(i) \
    ((i) == 0 ? 0 : (127 + TOP(i)) << 7 | ((i) << (7 - TOP(i)) & 127))
#define WHOLE_HIGH(i) WHOLE(i) >> 8
#define WHOLE_LOW(i) WHOLE(i) & 255
/* e4m3fn: a denormal is a whole number of 2^-9. */
#define E4M3(i) \
    ((i) == 127 ? 0x7fc0 : (i) >= 8 ? (120 << 7) + ((i) << 4) \
     : (i) == 0 ? 0 : WHOLE(i) - (9 << 7))
#define E4M3_HIGH(i) E4M3(i) >> 8
#define E4M3_LOW(i) E4M3(i) & 255

static const halves_t whole_halves = {{MAGNITUDES(WHOLE_HIGH)},
                                      {MAGNITUDES(WHOLE_LOW)}};
static const halves_t e4m3_halves = {{MAGNITUDES(E4M3_HIGH)},
                                     {MAGNITUDES(E4M3_LOW)}};

/* Bytes by the 7 lowest bits of others. */
VEC raw_t look_up(const uint8_t *table, raw_t index)
{
    return _mm512_permutex2var_epi8(raw_load(table), index,
                                    raw_load(table + 64));
}

/* Bytes 0 and 2 of each word, or 1 and 3, as bf16. Magnitudes are looked up,
 * signs are kept. */
VEC raw_t pair_of_bytes(raw_t raw, int odd, const halves_t *halves,
                        raw_t magnitude)
{
    const raw_t high =
        _mm512_ternarylogic_epi32(raw, raw_set((int)0x80808080),
                                  look_up(halves->high, magnitude), 0xea);
    const raw_t low = look_up(halves->low, magnitude);

    if (odd)
        return _mm512_ternarylogic_epi32(
            high, raw_set((int)0xff00ff00), _mm512_srli_epi16(low, 8), 0xea);
    return _mm512_ternarylogic_epi32(low, raw_set(0x00ff00ff),
                                     _mm512_slli_epi16(high, 8), 0xea);
}

/* Four bits of each half word, from 4 * unit on. */
VEC raw_t pair_of_nibbles(raw_t raw, int unit, coterie_dtype_t dtype)
{
    static const uint16_t tables[3][16] = {
        {0xc100, 0xc0e0, 0xc0c0, 0xc0a0, 0xc080, 0xc040, 0xc000, 0xbf80, 0,
         0x3f80, 0x4000, 0x4040, 0x4080, 0x40a0, 0x40c0, 0x40e0},
        {0, 0x3f80, 0x4000, 0x4040, 0x4080, 0x40a0, 0x40c0, 0x40e0, 0x4100,
         0x4110, 0x4120, 0x4130, 0x4140, 0x4150, 0x4160, 0x4170},
        {0, 0x3f00, 0x3f80, 0x3fc0, 0x4000, 0x4040, 0x4080, 0x40c0, 0x8000,
         0xbf00, 0xbf80, 0xbfc0, 0xc000, 0xc040, 0xc080, 0xc0c0}};
    const uint16_t *table = dtype == COTERIE_DTYPE_INT4 ? tables[0]
                            : dtype == COTERIE_DTYPE_INT4_ZERO ? tables[1]
                                                               : tables[2];
    /* Indices have five bits: the table stands there twice. */
    const raw_t twice = _mm512_broadcast_i64x4(
        _mm256_loadu_si256((const void *)table));

    if (unit > 0)
        raw = _mm512_srli_epi16(raw, 4 * (unsigned)unit);
    return _mm512_permutexvar_epi16(raw, twice);
}

VEC raw_t raw_pair(const char *weight, coterie_dtype_t dtype, int unit)
{
    const raw_t raw = raw_load(weight);

    switch (dtype) {
    case COTERIE_DTYPE_BF16:
        return raw;
    case COTERIE_DTYPE_INT8:
    case COTERIE_DTYPE_INT8_GROUP:
        return pair_of_bytes(raw, unit, &whole_halves,
                             _mm512_abs_epi8(raw));
    case COTERIE_DTYPE_FP8:
        return pair_of_bytes(raw, unit, &e4m3_halves, raw);
    default:
        return pair_of_nibbles(raw, unit, dtype);
    }
}

/* As two fused multiply-adds, first of the second elements. Denormals count as
 * zero. */
VEC vec_t vec_dot_pair(vec_t sum, raw_t pair, const char *word)
{
    __asm__("vdpbf16ps %2, %1, %0"
            : "+v"(sum)
            : "v"(pair), "v"(raw_set_from(word)));
    return sum;
}

#define PANEL_PAIR raw_pair
#define PANEL_DOT_PAIR vec_dot_pair
#define TABLE_BF16 coterie_table_avx512_bf16_bf16
#include "kernels/cpu/panel_tables.h"

#define TWO(i, of) (i), (i) + (of)
#define ORDER_4(i) TWO(i, 2), TWO((i) + 1, 2)
#define ORDER_8(i) TWO(i, 2), TWO((i) + 4, 2), TWO((i) + 1, 2), TWO((i) + 5, 2)

/* To bf16, in the order in which vectors of weights hold their elements. */
TARGET void coterie_span_avx512_bf16_bf16(
    const coterie_panel_method_t *method, const float *x, char *words,
    float *span)
{
    static const uint16_t order[3][COTERIE_PANEL_GROUP] = {
        {0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13, 14, 15,
         16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31},
        {ORDER_4(0), ORDER_4(4), ORDER_4(8), ORDER_4(12), ORDER_4(16),
         ORDER_4(20), ORDER_4(24), ORDER_4(28)},
        {ORDER_8(0), ORDER_8(8), ORDER_8(16), ORDER_8(24)}};
    const uint32_t elements = coterie_panel_elements(method->dtype);
    const raw_t places = raw_load(order[elements / 4]);
    vec_t v[VECTORS];

    UNROLL for (int i = 0; i < VECTORS; i++)
        v[i] = vec_load(x + i * COTERIE_LANES);
    UNROLL for (int i = 0; i < VECTORS; i += 2) {
        const raw_t narrow = (raw_t)_mm512_cvtne2ps_pbh(v[i + 1], v[i]);
        _mm512_storeu_si512(words + i * COTERIE_LANES * 2,
                            _mm512_permutexvar_epi16(places, narrow));
    }
    span[0] = 0;
    if (method->dtype != COTERIE_DTYPE_INT4_ZERO)
        return;
    UNROLL for (int i = 0; i < VECTORS; i++)
        v[i] = vec_round_bf16(v[i]);
    span_sums(v, span + 1);
}
#endif
