#include "config.h"

#include <assert.h>
#include <math.h>
#include <string.h>
#include <unistd.h>

#include <coterie/wire.h>

#include "base/element.h"
#include "base/wire.h"
#include "kernels/cpu/cpu.h"

#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF /* every instruction set gives the same bits */
#elif defined(__FAST_MATH__)
#error "-ffast-math may fuse: bits would depend on the instruction set"
#endif

enum { SUM_BLOCK = 1024 }; /* of a sum: stays in the nearest cache */

/* Loops over one row, whatever its length and alignment. */
typedef struct wire_ops {
    void (*copy_past)(size_t count, const float *from, float *to);
    void (*pack_bf16)(size_t count, const float *from, uint16_t *to,
                      int stream);
    void (*unpack_bf16)(size_t count, const uint16_t *from, float *to,
                        int stream);
    uint32_t (*largest)(size_t count, const float *from);
    void (*pack_int8)(size_t count, const float *from, float inverse,
                      int8_t *to);
    void (*unpack_int8)(size_t count, const int8_t *from, float scale,
                        float *to);
    void (*add)(size_t count, float weight, const float *from, float *to);
    void (*add_bf16)(size_t count, float weight, const uint16_t *from,
                     float *to);
} wire_ops_t;

/* Elements of a row. */
typedef struct stretch {
    uint32_t first, count;
} stretch_t;

static const wire_ops_t *ops_choose(void);
static int past_caches(const coterie_wire_rows_t *rows);
static void stores_order(int stream);
static void row_pack(const wire_ops_t *ops, const coterie_wire_rows_t *rows,
                     const float *x, void *to, int stream);
static void row_unpack(const wire_ops_t *ops, const coterie_wire_rows_t *rows,
                       const void *from, float *x, int stream);
static void groups_pack(const wire_ops_t *ops, uint32_t width, const float *x,
                        void *to);
static void groups_unpack(const wire_ops_t *ops, uint32_t width,
                          const void *from, float *x);
static void part_add(const wire_ops_t *ops, const coterie_wire_part_t *part,
                     int begin, stretch_t at, float *sum);

#define SET_IF_NAN_BY_MASK(v, a, b)                             \
    (((a) & ~(words)((v) != (v))) | ((b) & (words)((v) != (v))))

#define TARGET
#define LANES 4
#define NAME(function) portable_##function
#define STREAM_F32(to, v) memcpy(to, (floats[]){v}, sizeof(floats))
#define STREAM_U16(to, v) memcpy(to, (halves[]){v}, sizeof(halves))
#define SET_IF_NAN SET_IF_NAN_BY_MASK
#define NARROW_16(v) __builtin_convertvector(v, halves)
#define NARROW_8(v) __builtin_convertvector(v, bytes)
#define WIDEN_8(from) \
    ((ints){(from)[0], (from)[1], (from)[2], (from)[3]})
#include "kernels/cpu/wire_rows.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define TARGET __attribute__((target("avx2,fma")))
#define LANES 8
#define NAME(function) avx2_##function
#define STREAM_F32(to, v) _mm256_stream_ps(to, (__m256)(v))
#define STREAM_U16(to, v) _mm_stream_si128((__m128i *)(to), (__m128i)(v))
#define SET_IF_NAN SET_IF_NAN_BY_MASK
#define NARROW_16(v) __builtin_convertvector(v, halves)
#define NARROW_8(v) \
    __builtin_convertvector(__builtin_convertvector(v, halves), bytes)
#define WIDEN_8(from) \
    ((ints)_mm256_cvtepi8_epi32(_mm_loadl_epi64((const void *)(from))))
#include "kernels/cpu/wire_rows.h"

#define TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,fma")))
#define LANES 16
#define NAME(function) avx512_##function
#define STREAM_F32(to, v) _mm512_stream_ps(to, (__m512)(v))
#define STREAM_U16(to, v) _mm256_stream_si256((__m256i *)(to), (__m256i)(v))
#define SET_IF_NAN(v, a, b)                                        \
    ((words)_mm512_mask_mov_epi32(                                 \
        (__m512i)(a), _mm512_cmpunord_ps_mask((__m512)(v), (__m512)(v)), \
        (__m512i)(b)))
#define NARROW_16(v) ((halves)_mm512_cvtepi32_epi16((__m512i)(v)))
#define NARROW_8(v) ((bytes)_mm512_cvtepi32_epi8((__m512i)(v)))
#define WIDEN_8(from) \
    ((ints)_mm512_cvtepi8_epi32(_mm_loadu_si128((const void *)(from))))
#include "kernels/cpu/wire_rows.h"
#endif

size_t coterie_wire_size(coterie_wire_t wire, uint32_t width)
{
    return coterie_wire_values_size(wire, width);
}

void coterie_wire_pack(const coterie_wire_rows_t *rows, const float *x,
                       void *message)
{
    const wire_ops_t *ops = ops_choose();
    const int stream = past_caches(rows);

    for (uint32_t i = 0; i < rows->count; i++) {
        const size_t row = rows->row != NULL ? rows->row[i] : i;

        row_pack(ops, rows, x + row * rows->width,
                 (char *)message + i * rows->stride, stream);
    }
    stores_order(stream);
}

void coterie_wire_unpack(const coterie_wire_rows_t *rows, const void *message,
                         float *x)
{
    const wire_ops_t *ops = ops_choose();
    const int stream = past_caches(rows);

    for (uint32_t i = 0; i < rows->count; i++) {
        const size_t row = rows->row != NULL ? rows->row[i] : i;

        row_unpack(ops, rows, (const char *)message + i * rows->stride,
                   x + row * rows->width, stream);
    }
    stores_order(stream);
}

void coterie_wire_sum(uint32_t width, uint32_t count,
                      const coterie_wire_part_t *parts, float *sum)
{
    const wire_ops_t *ops = ops_choose();

    for (uint32_t first = 0; first < width; first += SUM_BLOCK) {
        const uint32_t left = width - first;
        const stretch_t at = {first, left < SUM_BLOCK ? left : SUM_BLOCK};

        if (count == 0)
            memset(sum + first, 0, at.count * sizeof(*sum));
        for (uint32_t i = 0; i < count; i++)
            part_add(ops, &parts[i], i == 0, at, sum + first);
    }
}

static const wire_ops_t *ops_choose(void)
{
#if defined(__x86_64__)
    const char *isa = coterie_kernels_isa();

    if (strncmp(isa, "avx512", 6) == 0)
        return &avx512_ops;
    if (strncmp(isa, "avx2", 4) == 0)
        return &avx2_ops;
#endif
    return &portable_ops;
}

/* What is larger than the last cache is not there when it is read again, and
 * to write around it saves reading it first. */
static int past_caches(const coterie_wire_rows_t *rows)
{
#if defined(_SC_LEVEL3_CACHE_SIZE)
    const long cache = sysconf(_SC_LEVEL3_CACHE_SIZE);

    return cache > 0 && rows->count * rows->stride > (size_t)cache;
#else
    (void)rows;
    return 0;
#endif
}

/* Stores past the caches may become visible after later ones. */
static void stores_order(int stream)
{
#if defined(__x86_64__)
    if (stream)
        _mm_sfence();
#else
    (void)stream;
#endif
}

static void row_pack(const wire_ops_t *ops, const coterie_wire_rows_t *rows,
                     const float *x, void *to, int stream)
{
    const uint32_t width = rows->width;

    if (rows->wire == COTERIE_WIRE_INT8)
        groups_pack(ops, width, x, to);
    else if (rows->wire == COTERIE_WIRE_BF16)
        ops->pack_bf16(width, x, to, stream);
    else if (stream)
        ops->copy_past(width, x, to);
    else
        memcpy(to, x, width * sizeof(*x));
}

static void row_unpack(const wire_ops_t *ops, const coterie_wire_rows_t *rows,
                       const void *from, float *x, int stream)
{
    const uint32_t width = rows->width;

    if (rows->wire == COTERIE_WIRE_INT8)
        groups_unpack(ops, width, from, x);
    else if (rows->wire == COTERIE_WIRE_BF16)
        ops->unpack_bf16(width, from, x, stream);
    else if (stream)
        ops->copy_past(width, from, x);
    else
        memcpy(x, from, width * sizeof(*x));
}

/* Magnitudes whose inverse might be infinite become zero. */
static void groups_pack(const wire_ops_t *ops, uint32_t width, const float *x,
                        void *to)
{
    float *scale = to;
    int8_t *values = (int8_t *)to + coterie_wire_scales_size(width);

    for (uint32_t first = 0; first < width; first += COTERIE_WIRE_GROUP) {
        const uint32_t left = width - first;
        const uint32_t count =
            left < COTERIE_WIRE_GROUP ? left : COTERIE_WIRE_GROUP;
        const float most = coterie_float_of(ops->largest(count, x + first));
        const int tiny = most < 1e-30f;

        *scale++ = tiny ? 0 : isfinite(most) ? most / 127 : NAN;
        ops->pack_int8(count, x + first, tiny ? 0 : 127 / most,
                       values + first);
    }
}

static void groups_unpack(const wire_ops_t *ops, uint32_t width,
                          const void *from, float *x)
{
    const float *scale = from;
    const int8_t *values =
        (const int8_t *)from + coterie_wire_scales_size(width);

    for (uint32_t first = 0; first < width; first += COTERIE_WIRE_GROUP) {
        const uint32_t left = width - first;
        const uint32_t count =
            left < COTERIE_WIRE_GROUP ? left : COTERIE_WIRE_GROUP;

        ops->unpack_int8(count, values + first, *scale++, x + first);
    }
}

/* Adds a stretch of a part to the same of sum, or begins it. */
static void part_add(const wire_ops_t *ops, const coterie_wire_part_t *part,
                     int begin, stretch_t at, float *sum)
{
    const float *floats = (const float *)part->values + at.first;
    const uint16_t *halves = (const uint16_t *)part->values + at.first;
    const int bf16 = part->wire == COTERIE_WIRE_BF16;

    assert(bf16 || part->wire == COTERIE_WIRE_F32);
    if (begin && floats == sum)
        return;
    if (begin && part->weight != 1) {
        memset(sum, 0, at.count * sizeof(*sum));
        begin = 0;
    }
    if (begin && bf16)
        ops->unpack_bf16(at.count, halves, sum, 0);
    else if (begin)
        memcpy(sum, floats, at.count * sizeof(*sum));
    else if (bf16)
        ops->add_bf16(at.count, part->weight, halves, sum);
    else
        ops->add(at.count, part->weight, floats, sum);
}
