#include "config.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

#include "base/element.h"
#include "base/error.h"
#include "experts/band.h"

/* Encodes one row, or one group of it, to codes of one byte, and its scale.
 * Returns false if the scale does not fit. */
typedef bool (*encode_fn)(const float *x, uint32_t count, uint8_t *codes,
                          void *scale);
typedef void (*decode_fn)(const uint8_t *codes, uint32_t count,
                          const void *scale, float *x);

static bool wide_encode(coterie_band_t *band, const float *values);
static void wide_decode(const coterie_band_t *band, float *values);
static bool row_encode(const float *x, uint32_t count, uint8_t *codes,
                       void *scale);
static void row_decode(const uint8_t *codes, uint32_t count,
                       const void *scale, float *x);
static bool group_encode(const float *x, uint32_t count, uint8_t *codes,
                         void *scale);
static void group_decode(const uint8_t *codes, uint32_t count,
                         const void *scale, float *x);
static bool nibbles_encode(const float *x, uint32_t count, uint8_t *codes,
                           void *scale);
static void nibbles_decode(const uint8_t *codes, uint32_t count,
                           const void *scale, float *x);
static bool zero_encode(const float *x, uint32_t count, uint8_t *codes,
                        void *scale);
static void zero_decode(const uint8_t *codes, uint32_t count,
                        const void *scale, float *x);
static bool power_encode(const float *x, uint32_t count, uint8_t *codes,
                         void *scale);
static void power_decode(const uint8_t *codes, uint32_t count,
                         const void *scale, float *x);
static void blocks_encode(coterie_band_t *band, const float *values);
static void blocks_decode(const coterie_band_t *band, float *values);
static float largest_of(const float *x, uint32_t count);
static inline float larger(float a, float b);
static inline float lesser(float a, float b);
static inline int rounded(float x);
static float inverse_of(float scale);
static bool all_finite(const float *x, uint64_t count);

/* By dtype: what has a scale for each row or group of a row. */
static const struct kind {
    uint32_t element, group, scale; /* bytes, elements (0: a row), bytes */
    encode_fn encode;
    decode_fn decode;
} kinds[] = {
    [COTERIE_DTYPE_F32] = {4, 0, 0, NULL, NULL},
    [COTERIE_DTYPE_F16] = {2, 0, 0, NULL, NULL},
    [COTERIE_DTYPE_BF16] = {2, 0, 0, NULL, NULL},
    [COTERIE_DTYPE_INT8] = {1, 0, 4, row_encode, row_decode},
    [COTERIE_DTYPE_INT8_GROUP] = {1, COTERIE_PANEL_GROUP, 2, group_encode,
                                  group_decode},
    [COTERIE_DTYPE_INT4] = {1, COTERIE_PANEL_GROUP, 2, nibbles_encode,
                            nibbles_decode},
    [COTERIE_DTYPE_INT4_ZERO] = {1, COTERIE_PANEL_GROUP, 4, zero_encode,
                                 zero_decode},
    [COTERIE_DTYPE_FP8] = {1, 0, 4, NULL, NULL},
    [COTERIE_DTYPE_MXFP4] = {1, COTERIE_PANEL_GROUP, 1, power_encode,
                             power_decode},
};

uint32_t coterie_band_element(uint32_t dtype)
{
    return kinds[dtype].element;
}

uint64_t coterie_band_scales(uint32_t dtype, uint32_t rows, uint32_t in)
{
    const struct kind *kind = &kinds[dtype];
    uint64_t scales = rows;

    if (dtype == COTERIE_DTYPE_FP8)
        scales = ((uint64_t)in + COTERIE_FP8_BLOCK - 1) / COTERIE_FP8_BLOCK;
    else if (kind->group != 0)
        scales *= in / kind->group;
    return scales * kind->scale;
}

coterie_status_t coterie_band_create(uint32_t dtype, uint32_t in,
                                     coterie_band_t *band_p)
{
    uint64_t elements =
        (uint64_t)COTERIE_BAND_ROWS * in * coterie_band_element(dtype);
    uint64_t scales = coterie_band_scales(dtype, COTERIE_BAND_ROWS, in);
    coterie_band_t band = {dtype, 0, in, malloc(elements), malloc(scales + 1)};

    if (band.elements == NULL || band.scales == NULL) {
        coterie_band_clear(&band);
        return coterie_fail_memory(elements + scales, "rows of an expert");
    }
    *band_p = band;
    return COTERIE_OK;
}

void coterie_band_clear(coterie_band_t *band)
{
    free(band->elements);
    free(band->scales);
    *band = (coterie_band_t){0};
}

coterie_status_t coterie_band_encode(coterie_band_t *band, const float *values)
{
    const struct kind *kind = &kinds[band->dtype];
    uint32_t group = kind->group != 0 ? kind->group : band->in;
    uint64_t groups = (uint64_t)band->rows * (band->in / group);
    bool fits = true;

    if (kind->scale == 0)
        return wide_encode(band, values) ? COTERIE_OK
                                         : COTERIE_ERR_UNSUPPORTED;
    if (!all_finite(values, (uint64_t)band->rows * band->in))
        return COTERIE_ERR_UNSUPPORTED;
    if (kind->encode == NULL)
        blocks_encode(band, values);
    for (uint64_t i = 0; kind->encode != NULL && i < groups && fits; i++)
        fits = kind->encode(values + i * group, group,
                            (uint8_t *)band->elements + i * group,
                            (char *)band->scales + i * kind->scale);
    return fits ? COTERIE_OK : COTERIE_ERR_UNSUPPORTED;
}

void coterie_band_decode(const coterie_band_t *band, float *values)
{
    const struct kind *kind = &kinds[band->dtype];
    uint32_t group = kind->group != 0 ? kind->group : band->in;
    uint64_t groups = (uint64_t)band->rows * (band->in / group);

    if (kind->scale == 0)
        wide_decode(band, values);
    else if (kind->decode == NULL)
        blocks_decode(band, values);
    for (uint64_t i = 0; kind->decode != NULL && i < groups; i++)
        kind->decode((const uint8_t *)band->elements + i * group, group,
                     (const char *)band->scales + i * kind->scale,
                     values + i * group);
}

/* What was finite must stay so; infinities have a code here. */
static bool wide_encode(coterie_band_t *band, const float *values)
{
    uint64_t count = (uint64_t)band->rows * band->in;
    uint16_t *narrow = band->elements;

    if (band->dtype == COTERIE_DTYPE_F32) {
        memcpy(band->elements, values, count * sizeof(*values));
        return true;
    }
    for (uint64_t i = 0; i < count; i++) {
        bool half = band->dtype == COTERIE_DTYPE_F16;
        float back;
        narrow[i] =
            half ? coterie_f16_of(values[i]) : coterie_bf16_of(values[i]);
        back = half ? coterie_f16_value(narrow[i])
                    : coterie_bf16_value(narrow[i]);
        if (isinf(back) && !isinf(values[i]))
            return false;
    }
    return true;
}

static void wide_decode(const coterie_band_t *band, float *values)
{
    uint64_t count = (uint64_t)band->rows * band->in;
    const uint16_t *narrow = band->elements;

    if (band->dtype == COTERIE_DTYPE_F32)
        memcpy(values, band->elements, count * sizeof(*values));
    else if (band->dtype == COTERIE_DTYPE_F16)
        for (uint64_t i = 0; i < count; i++)
            values[i] = coterie_f16_value(narrow[i]);
    else
        for (uint64_t i = 0; i < count; i++)
            values[i] = coterie_bf16_value(narrow[i]);
}

static bool row_encode(const float *x, uint32_t count, uint8_t *codes,
                       void *scale)
{
    float step = largest_of(x, count) / 127, inverse = inverse_of(step);

    memcpy(scale, &step, sizeof(step));
    for (uint32_t i = 0; i < count; i++)
        codes[i] = (uint8_t)rounded(x[i] * inverse);
    return true;
}

static void row_decode(const uint8_t *codes, uint32_t count,
                       const void *scale, float *x)
{
    float step;

    memcpy(&step, scale, sizeof(step));
    for (uint32_t i = 0; i < count; i++)
        x[i] = step * (float)(int8_t)codes[i];
}

/* Codes come from the scale before it is rounded to f16, as gguf has it. */
static bool group_encode(const float *x, uint32_t count, uint8_t *codes,
                         void *scale)
{
    float step;
    uint16_t half;

    row_encode(x, count, codes, &step);
    half = coterie_f16_of(step);
    memcpy(scale, &half, sizeof(half));
    return isfinite(coterie_f16_value(half));
}

static void group_decode(const uint8_t *codes, uint32_t count,
                         const void *scale, float *x)
{
    uint16_t half;
    float step;

    memcpy(&half, scale, sizeof(half));
    step = coterie_f16_value(half);
    row_decode(codes, count, &step, x);
}

/* The element largest by magnitude becomes -8, which alone has that magnitude;
 * so the scale has the other sign. */
static bool nibbles_encode(const float *x, uint32_t count, uint8_t *codes,
                           void *scale)
{
    float extreme = 0, step, inverse;
    uint16_t half;

    for (uint32_t i = 0; i < count; i++)
        if (fabsf(x[i]) > fabsf(extreme))
            extreme = x[i];
    step = extreme / -8;
    inverse = inverse_of(step);
    half = coterie_f16_of(step);
    memcpy(scale, &half, sizeof(half));
    for (uint32_t i = 0; i < count; i++)
        codes[i] = (uint8_t)lesser(x[i] * inverse + 8.5f, 15);
    return isfinite(coterie_f16_value(half));
}

static void nibbles_decode(const uint8_t *codes, uint32_t count,
                           const void *scale, float *x)
{
    uint16_t half;
    float step;

    memcpy(&half, scale, sizeof(half));
    step = coterie_f16_value(half);
    for (uint32_t i = 0; i < count; i++)
        x[i] = step * (float)(codes[i] - 8);
}

static bool zero_encode(const float *x, uint32_t count, uint8_t *codes,
                        void *scale)
{
    float least = x[0], most = x[0], step, inverse;
    uint16_t halves[2];

    for (uint32_t i = 1; i < count; i++) {
        least = lesser(least, x[i]);
        most = larger(most, x[i]);
    }
    step = (most - least) / 15;
    inverse = inverse_of(step);
    halves[0] = coterie_f16_of(step);
    halves[1] = coterie_f16_of(least);
    memcpy(scale, halves, sizeof(halves));
    for (uint32_t i = 0; i < count; i++)
        codes[i] = (uint8_t)lesser((x[i] - least) * inverse + 0.5f, 15);
    return isfinite(coterie_f16_value(halves[0])) &&
           isfinite(coterie_f16_value(halves[1]));
}

static void zero_decode(const uint8_t *codes, uint32_t count,
                        const void *scale, float *x)
{
    uint16_t halves[2];
    float step, least;

    memcpy(halves, scale, sizeof(halves));
    step = coterie_f16_value(halves[0]);
    least = coterie_f16_value(halves[1]);
    for (uint32_t i = 0; i < count; i++)
        x[i] = step * (float)codes[i] + least;
}

/* The power of two brings the largest element's own to that of 4, the largest
 * of e2m1. */
static bool power_encode(const float *x, uint32_t count, uint8_t *codes,
                         void *scale)
{
    enum { LARGEST_EXPONENT = 2 };
    int code = (int)(coterie_bits_of(largest_of(x, count)) >> 23) -
               LARGEST_EXPONENT;
    float inverse;

    if (code < 0)
        code = 0;
    *(uint8_t *)scale = (uint8_t)code;
    inverse = coterie_power_of_two(127 - code);
    for (uint32_t i = 0; i < count; i++)
        codes[i] = coterie_e2m1_of(x[i] * inverse);
    return true;
}

static void power_decode(const uint8_t *codes, uint32_t count,
                         const void *scale, float *x)
{
    float step = coterie_e8m0_value(*(const uint8_t *)scale);

    for (uint32_t i = 0; i < count; i++)
        x[i] = step * coterie_e2m1_value(codes[i]);
}

/* Blocks may be ragged at both ends. */
static void blocks_encode(coterie_band_t *band, const float *values)
{
    const float most = 448;
    uint8_t *codes = band->elements;
    float *scales = band->scales;

    for (uint32_t begin = 0; begin < band->in; begin += COTERIE_FP8_BLOCK) {
        uint32_t left = band->in - begin;
        uint32_t width = left < COTERIE_FP8_BLOCK ? left : COTERIE_FP8_BLOCK;
        float largest = 0, step;
        for (uint32_t r = 0; r < band->rows; r++)
            largest =
                larger(largest, largest_of(values + (size_t)r * band->in +
                                               begin,
                                           width));
        scales[begin / COTERIE_FP8_BLOCK] = step = largest / most;
        for (uint32_t r = 0; r < band->rows; r++)
            for (uint32_t i = begin; i < begin + width; i++) {
                size_t at = (size_t)r * band->in + i;
                codes[at] =
                    coterie_e4m3_of(step > 0 ? values[at] / step : 0);
            }
    }
}

static void blocks_decode(const coterie_band_t *band, float *values)
{
    const uint8_t *codes = band->elements;
    const float *scales = band->scales;

    for (uint32_t r = 0; r < band->rows; r++)
        for (uint32_t i = 0; i < band->in; i++) {
            size_t at = (size_t)r * band->in + i;
            values[at] =
                coterie_e4m3_value(codes[at]) * scales[i / COTERIE_FP8_BLOCK];
        }
}

static float largest_of(const float *x, uint32_t count)
{
    float largest = 0;

    for (uint32_t i = 0; i < count; i++)
        largest = larger(largest, fabsf(x[i]));
    return largest;
}

/* Of finite numbers: one instruction, where fmaxf is a call. */
static inline float larger(float a, float b)
{
    return a > b ? a : b;
}

static inline float lesser(float a, float b)
{
    return a < b ? a : b;
}

/* roundf, which is a call, too: halves go away from zero. */
static inline int rounded(float x)
{
    int whole = (int)x;
    float rest = x - (float)whole;

    return whole + (rest >= 0.5f) - (rest <= -0.5f);
}

/* A step too small to have an inverse is one that f16 has as zero: so are its
 * elements. */
static float inverse_of(float scale)
{
    float inverse = scale == 0 ? 0 : 1 / scale;

    return isinf(inverse) ? 0 : inverse;
}

static bool all_finite(const float *x, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++)
        if (!isfinite(x[i]))
            return false;
    return true;
}
