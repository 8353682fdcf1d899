#include "config.h"

#include <math.h>
#include <string.h>

#include "kernels/cpu/panel.h"

enum { GROUP = COTERIE_PANEL_GROUP };

/* A row's part of a tile: where its words and spans go, and how far apart. */
typedef struct target {
    const coterie_panel_method_t *method;
    char *to, *spans;
    size_t stride; /* bytes */
} target_t;

static size_t groups_of(uint32_t in);
static bool has_spans(const coterie_panel_method_t *method);
static void row_pack(const target_t *target, const float *x, uint32_t in);
static void group_words(const coterie_panel_method_t *method, const float *x,
                        uint32_t *words, float span[2]);
static bool is_rounded(const coterie_panel_method_t *method);
static void words_f32(const coterie_panel_method_t *method, const float *x,
                      uint32_t *words);
static void words_bf16(const coterie_panel_method_t *method, const float *x,
                       uint32_t *words);
static void words_int8(const coterie_panel_method_t *method, const float *x,
                       uint32_t *words, float span[2]);
static int32_t shift_of(coterie_dtype_t dtype);
static uint32_t bf16_of(float x);
static float float_of(uint32_t bits);

size_t coterie_panel_row_size(const coterie_panel_method_t *method,
                              uint32_t in)
{
    const size_t words = GROUP / coterie_panel_word_elements(method->words);
    return groups_of(in) * (words + (has_spans(method) ? 2 : 0)) *
           sizeof(uint32_t);
}

void coterie_panel_pack_tile(const coterie_panel_method_t *method,
                             uint32_t rows, uint32_t in,
                             const float *const *x, char *to)
{
    const size_t words = GROUP / coterie_panel_word_elements(method->words);
    target_t target = {.method = method, .stride = rows * sizeof(uint32_t)};

    for (uint32_t row = 0; row < rows; row++) {
        target.to = to + row * sizeof(uint32_t);
        target.spans = target.to + groups_of(in) * words * target.stride;
        row_pack(&target, x[row], in);
    }
}

static size_t groups_of(uint32_t in)
{
    return ((size_t)in + GROUP - 1) / GROUP;
}

static bool has_spans(const coterie_panel_method_t *method)
{
    return method->words == COTERIE_WORDS_INT8 ||
           method->dtype == COTERIE_DTYPE_INT4_ZERO;
}

static void row_pack(const target_t *target, const float *x, uint32_t in)
{
    const coterie_panel_method_t *method = target->method;
    const int count = GROUP / coterie_panel_word_elements(method->words);
    const bool spans = has_spans(method);
    char *to = target->to, *span_to = target->spans;

    for (uint32_t k = 0; k < in; k += GROUP) {
        float last[GROUP] = {0}, span[2];
        const float *group = x + k;
        uint32_t words[GROUP];
        if (in - k < GROUP)
            group = memcpy(last, group, (in - k) * sizeof(*group));
        group_words(method, group, words, span);
        for (int i = 0; i < count; i++, to += target->stride)
            memcpy(to, &words[i], sizeof(words[i]));
        for (int i = 0; spans && i < 2; i++, span_to += target->stride)
            memcpy(span_to, &span[i], sizeof(span[i]));
    }
}

static void group_words(const coterie_panel_method_t *method, const float *x,
                        uint32_t *words, float span[2])
{
    if (method->words == COTERIE_WORDS_INT8) {
        words_int8(method, x, words, span);
        return;
    }
    if (method->words == COTERIE_WORDS_BF16)
        words_bf16(method, x, words);
    else
        words_f32(method, x, words);
    span[0] = span[1] = 0;
    for (int i = 0; i < GROUP; i++)
        span[1] += is_rounded(method) ? float_of(bf16_of(x[i]) << 16) : x[i];
}

static bool is_rounded(const coterie_panel_method_t *method)
{
    return method->compute == COTERIE_COMPUTE_BF16;
}

static void words_f32(const coterie_panel_method_t *method, const float *x,
                      uint32_t *words)
{
    memcpy(words, x, GROUP * sizeof(*words));
    for (int i = 0; is_rounded(method) && i < GROUP; i++)
        words[i] = bf16_of(x[i]) << 16;
}

static void words_bf16(const coterie_panel_method_t *method, const float *x,
                       uint32_t *words)
{
    const int elements = (int)coterie_panel_elements(method->dtype);

    for (int i = 0; i < GROUP / 2; i++) {
        const int vector = 2 * i / elements * elements, at = 2 * i % elements;
        words[i] =
            bf16_of(x[vector + coterie_panel_order(elements, at)]) |
            bf16_of(x[vector + coterie_panel_order(elements, at + 1)]) << 16;
    }
}

/* What is not finite makes the scale so, and every product of the group: not a
 * number. */
static void words_int8(const coterie_panel_method_t *method, const float *x,
                       uint32_t *words, float span[2])
{
    float largest = 0, inverse;
    signed char bytes[GROUP];
    int32_t sum = 0;

    for (int i = 0; i < GROUP; i++)
        largest = fabsf(x[i]) <= largest || isnan(largest) ? largest
                                                           : fabsf(x[i]);
    inverse = isfinite(largest) && largest > 0 ? 127 / largest : 0;
    for (int i = 0; i < GROUP; i++) {
        bytes[i] = (signed char)(inverse > 0 ? rintf(x[i] * inverse) : 0);
        sum += bytes[i];
    }
    memcpy(words, bytes, sizeof(bytes));
    span[0] = largest / 127;
    span[1] = (float)sum * span[0];
    sum *= -shift_of(method->dtype);
    if (method->dtype != COTERIE_DTYPE_INT4_ZERO)
        memcpy(&span[1], &sum, sizeof(sum));
}

/* What panel_tile.h adds to weights to make them unsigned. */
static int32_t shift_of(coterie_dtype_t dtype)
{
    switch (dtype) {
    case COTERIE_DTYPE_INT4:
        return 8;
    case COTERIE_DTYPE_MXFP4:
        return 12;
    case COTERIE_DTYPE_INT4_ZERO:
        return 0;
    default:
        return 128;
    }
}

/* To nearest even; NaN stays one. */
static uint32_t bf16_of(float x)
{
    uint32_t bits;

    memcpy(&bits, &x, sizeof(bits));
    if (x != x)
        return bits >> 16 | 64;
    return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

static float float_of(uint32_t bits)
{
    float value;

    memcpy(&value, &bits, sizeof(value));
    return value;
}
