#include "config.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include <coterie/wire.h>

#include "base/element.h"
#include "base/wire.h"
#include "kernels/cpu/cpu.h"

#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF /* every instruction set gives the same bits */
#elif defined(__FAST_MATH__)
#error "-ffast-math may fuse: bits would depend on the instruction set"
#endif

enum {
    SUM_BLOCK = 1024, /* of a sum: stays in the nearest cache */
    STAGED = 512,     /* elements on their way past the caches: likewise */
    LINE = 64
};

/* Loops over a stretch of a row, whatever its length and alignment. */
typedef struct wire_ops {
    void (*copy_past)(size_t size, const char *from, char *to);
    void (*pack_bf16)(size_t count, const float *from, uint16_t *to);
    void (*unpack_bf16)(size_t count, const uint16_t *from, float *to);
    uint32_t (*largest)(size_t count, const float *from);
    void (*pack_int8)(size_t count, const float *from, float inverse,
                      int8_t *to);
    void (*unpack_int8)(size_t count, const int8_t *from, float scale,
                        float *to);
    void (*add)(size_t count, float weight, const float *from, float *to);
    void (*add_bf16)(size_t count, float weight, const uint16_t *from,
                     float *to);
} wire_ops_t;

/* Rows of one kind, on their way in either direction. */
typedef struct passage {
    const wire_ops_t *ops;
    coterie_wire_t wire;
    uint32_t width;
    size_t element; /* bytes of one in a message */
    int unpacks;
    int past; /* the caches, when written */
} passage_t;

/* Elements of a row. */
typedef struct stretch {
    uint32_t first, count;
} stretch_t;

static passage_t passage_of(const coterie_wire_rows_t *rows, int unpacks);
static const wire_ops_t *ops_choose(void);
static size_t row_at(const coterie_wire_rows_t *rows, uint32_t i);
static void row_pack(const passage_t *passage, const float *x,
                     const float *next, char *to);
static void row_unpack(const passage_t *passage, const char *from,
                       const char *next, float *x);
static int piece_next(const passage_t *passage, stretch_t *at);
static size_t piece_write(const passage_t *passage, const stretch_t *at,
                          char *piece, size_t held, char *to);
static void group_pack(const passage_t *passage, uint32_t count,
                       const float *x, float *scale, char *to);
static void group_unpack(const passage_t *passage, uint32_t count,
                         const char *from, const float *scale, float *x);
static size_t scales_size(const passage_t *passage);
static void ask_for(const void *next, size_t size, size_t at, size_t count);
static void stores_order(const passage_t *passage);
static void part_add(const wire_ops_t *ops, const coterie_wire_part_t *part,
                     int begin, stretch_t at, float *sum);
static uint32_t least(uint32_t a, uint32_t b);

#define SET_IF_NAN_BY_MASK(v, a, b)                             \
    (((a) & ~(words)((v) != (v))) | ((b) & (words)((v) != (v))))

#define TARGET
#define LANES 4
#define NAME(function) portable_##function
#define STREAM(to, v) memcpy(to, &(v), sizeof(v))
#define SET_IF_NAN SET_IF_NAN_BY_MASK
#define LARGER(a, b) \
    (((a) & (words)((a) > (b))) | ((b) & ~(words)((a) > (b))))
#define NARROW_16(v) __builtin_convertvector(v, halves)
#define STORE_BYTES(to, v)                                             \
    for (size_t i4 = 0; i4 < 4; i4++) {                                \
        const bytes narrow = __builtin_convertvector((v)[i4], bytes);  \
        memcpy((to) + i4 * LANES, &narrow, LANES);                     \
    }
#define WIDEN_8(from) \
    ((ints){(from)[0], (from)[1], (from)[2], (from)[3]})
#include "kernels/cpu/wire_rows.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define TARGET __attribute__((target("avx2,fma")))
#define LANES 8
#define NAME(function) avx2_##function
#define STREAM(to, v) _mm256_stream_si256((__m256i *)(to), (__m256i)(v))
#define SET_IF_NAN SET_IF_NAN_BY_MASK
#define LARGER(a, b) ((words)_mm256_max_epu32((__m256i)(a), (__m256i)(b)))
#define NARROW_16(v) __builtin_convertvector(v, halves)
#define STORE_BYTES(to, v)                                           \
    _mm256_storeu_si256(                                             \
        (__m256i *)(to),                                             \
        _mm256_permutevar8x32_epi32(                                 \
            _mm256_packs_epi16(                                      \
                _mm256_packs_epi32((__m256i)(v)[0], (__m256i)(v)[1]), \
                _mm256_packs_epi32((__m256i)(v)[2], (__m256i)(v)[3])), \
            _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7)))
#define WIDEN_8(from) \
    ((ints)_mm256_cvtepi8_epi32(_mm_loadl_epi64((const void *)(from))))
#include "kernels/cpu/wire_rows.h"

#define TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,fma")))
#define LANES 16
#define NAME(function) avx512_##function
#define STREAM(to, v) _mm512_stream_si512((void *)(to), (__m512i)(v))
#define SET_IF_NAN(v, a, b)                                        \
    ((words)_mm512_mask_mov_epi32(                                 \
        (__m512i)(a), _mm512_cmpunord_ps_mask((__m512)(v), (__m512)(v)), \
        (__m512i)(b)))
#define LARGER(a, b) ((words)_mm512_max_epu32((__m512i)(a), (__m512i)(b)))
#define NARROW_16(v) ((halves)_mm512_cvtepi32_epi16((__m512i)(v)))
#define STORE_BYTES(to, v)                                               \
    _mm512_storeu_si512(                                                 \
        to, _mm512_permutexvar_epi32(                                    \
                _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, \
                                  7, 11, 15),                            \
                _mm512_packs_epi16(                                      \
                    _mm512_packs_epi32((__m512i)(v)[0], (__m512i)(v)[1]), \
                    _mm512_packs_epi32((__m512i)(v)[2], (__m512i)(v)[3]))))
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
    const passage_t passage = passage_of(rows, 0);

    for (uint32_t i = 0; i < rows->count; i++)
        row_pack(&passage, x + row_at(rows, i), x + row_at(rows, i + 1),
                 (char *)message + i * rows->stride);
    stores_order(&passage);
}

void coterie_wire_unpack(const coterie_wire_rows_t *rows, const void *message,
                         float *x)
{
    const passage_t passage = passage_of(rows, 1);

    for (uint32_t i = 0; i < rows->count; i++) {
        const char *from = (const char *)message + i * rows->stride;

        row_unpack(&passage, from,
                   i + 1 < rows->count ? from + rows->stride : from,
                   x + row_at(rows, i));
    }
    stores_order(&passage);
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

/* What is larger than the last cache is not there when it is read again, and
 * to write around it saves reading it first. */
static passage_t passage_of(const coterie_wire_rows_t *rows, int unpacks)
{
    static const size_t elements[] = {
        [COTERIE_WIRE_F32] = 4, [COTERIE_WIRE_BF16] = 2,
        [COTERIE_WIRE_INT8] = 1};
    const size_t cache = coterie_cpu_last_cache();
    const size_t written =
        rows->count * (unpacks ? rows->width * sizeof(float) : rows->stride);

    return (passage_t){.ops = ops_choose(),
                       .wire = (coterie_wire_t)rows->wire,
                       .width = rows->width,
                       .element = elements[rows->wire],
                       .unpacks = unpacks,
                       .past = cache > 0 && written > cache};
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

/* Where the i-th row begins in the tensor; after the last it is the last. */
static size_t row_at(const coterie_wire_rows_t *rows, uint32_t i)
{
    const uint32_t at = i < rows->count ? i : rows->count - 1;

    return (size_t)(rows->row != NULL ? rows->row[at] : at) * rows->width;
}

static void row_pack(const passage_t *passage, const float *x,
                     const float *next, char *to)
{
    const size_t element = passage->element;
    _Alignas(LINE) char staged[LINE + STAGED * sizeof(float)];
    float *scale = (float *)to;
    size_t held = 0;
    stretch_t at = {0, 0};

    to += scales_size(passage);
    while (piece_next(passage, &at)) {
        char *start = to + at.first * element;
        char *piece = passage->past ? staged + LINE : start;

        for (uint32_t i = 0; i < at.count; i += COTERIE_WIRE_GROUP) {
            const uint32_t count = least(at.count - i, COTERIE_WIRE_GROUP);

            ask_for(next, passage->width * sizeof(*x),
                    (at.first + i) * sizeof(*x), count * sizeof(*x));
            group_pack(passage, count, x + at.first + i, scale++,
                       piece + i * element);
        }
        if (passage->past)
            held = piece_write(passage, &at, piece, held, start);
    }
}

static void row_unpack(const passage_t *passage, const char *from,
                       const char *next, float *x)
{
    const size_t element = passage->element;
    _Alignas(LINE) char staged[LINE + STAGED * sizeof(float)];
    const float *scale = (const float *)from;
    size_t held = 0;
    stretch_t at = {0, 0};

    from += scales_size(passage);
    while (piece_next(passage, &at)) {
        float *start = x + at.first;
        float *piece = passage->past ? (float *)(staged + LINE) : start;

        for (uint32_t i = 0; i < at.count; i += COTERIE_WIRE_GROUP) {
            const uint32_t count = least(at.count - i, COTERIE_WIRE_GROUP);

            ask_for(next, passage->width * element,
                    (at.first + i) * element, count * element);
            group_unpack(passage, count, from + (at.first + i) * element,
                         scale++, piece + i);
        }
        if (passage->past)
            held = piece_write(passage, &at, (char *)piece, held,
                               (char *)start);
    }
}

static int piece_next(const passage_t *passage, stretch_t *at)
{
    at->first += at->count;
    at->count = least(passage->width - at->first, STAGED);
    return at->count > 0;
}

/* Writes whole lines, and what is left of them at a row's ends: `held` bytes in
 * front of the piece are still to be written, as are as many as it returns. */
static size_t piece_write(const passage_t *passage, const stretch_t *at,
                          char *piece, size_t held, char *to)
{
    const size_t element = passage->unpacks ? sizeof(float) : passage->element;
    const size_t size = at->count * element;
    const size_t past = ((uintptr_t)to + size) % LINE;
    size_t left = 0;

    if (at->first + at->count < passage->width && past < held + size)
        left = past;
    passage->ops->copy_past(held + size - left, piece - held, to - held);
    memcpy(piece - left, piece + size - left, left);
    return left;
}

/* Magnitudes whose inverse might be infinite become zero. */
static void group_pack(const passage_t *passage, uint32_t count,
                       const float *x, float *scale, char *to)
{
    const wire_ops_t *ops = passage->ops;
    float most;

    if (passage->wire == COTERIE_WIRE_F32) {
        memcpy(to, x, count * sizeof(*x));
        return;
    }
    if (passage->wire == COTERIE_WIRE_BF16) {
        ops->pack_bf16(count, x, (uint16_t *)to);
        return;
    }
    most = coterie_float_of(ops->largest(count, x));
    *scale = most < 1e-30f ? 0 : isfinite(most) ? most / 127 : NAN;
    if (*scale > 0)
        ops->pack_int8(count, x, 127 / most, (int8_t *)to);
    else
        memset(to, 0, count);
}

static void group_unpack(const passage_t *passage, uint32_t count,
                         const char *from, const float *scale, float *x)
{
    if (passage->wire == COTERIE_WIRE_F32)
        memcpy(x, from, count * sizeof(*x));
    else if (passage->wire == COTERIE_WIRE_BF16)
        passage->ops->unpack_bf16(count, (const uint16_t *)from, x);
    else
        passage->ops->unpack_int8(count, (const int8_t *)from, *scale, x);
}

static size_t scales_size(const passage_t *passage)
{
    return passage->wire == COTERIE_WIRE_INT8
               ? coterie_wire_scales_size(passage->width)
               : 0;
}

/* While a row is converted, the next one, which may be anywhere: as large a
 * share of it, in four streams, since a processor follows several of them at
 * once but asks for the pages of each only in turn. */
static void ask_for(const void *next, size_t size, size_t at, size_t count)
{
    enum { STREAMS = 4, TO_SECOND_LEVEL = 2 };
    const char *from = (const char *)next + at / STREAMS;

    for (size_t i = 0; i < count / STREAMS; i += LINE)
        for (size_t stream = 0; stream < STREAMS; stream++)
            __builtin_prefetch(from + stream * (size / STREAMS) + i, 0,
                               TO_SECOND_LEVEL);
}

/* Stores past the caches may become visible after later ones. */
static void stores_order(const passage_t *passage)
{
#if defined(__x86_64__)
    if (passage->past)
        _mm_sfence();
#else
    (void)passage;
#endif
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
        ops->unpack_bf16(at.count, halves, sum);
    else if (begin)
        memcpy(sum, floats, at.count * sizeof(*sum));
    else if (bf16)
        ops->add_bf16(at.count, part->weight, halves, sum);
    else
        ops->add(at.count, part->weight, floats, sum);
}

static uint32_t least(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}
