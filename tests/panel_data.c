#include "config.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include "tests/kernels_data.h"
#include "tests/panel_data.h"

static const char *const isas[] = {"portable",    "avx2",        "avx512",
                                   "avx512-vnni", "avx512-bf16", "avx512-amx",
                                   NULL};

enum { ISAS = sizeof(isas) / sizeof(isas[0]) - 1 };

static panel_variant_t variants[ISAS * COTERIE_DTYPE_MXFP4];

struct criterion_test_params panel_variants_make(void)
{
    const size_t count = sizeof(variants) / sizeof(variants[0]);
    for (size_t i = 0; i < count; i++)
        variants[i] = (panel_variant_t){
            (int)(i / COTERIE_DTYPE_MXFP4),
            (coterie_dtype_t)(i % COTERIE_DTYPE_MXFP4 + 1)};
    return cr_make_param_array(panel_variant_t, variants, count);
}

const char *panel_isa_name(int isa)
{
    return isas[isa];
}

void use_panel_isa(int isa)
{
    setenv("COTERIE_ISA", isas[isa], 1);
    if (strcmp(coterie_kernels_isa(), isas[isa]) != 0)
        cr_skip_test("%s is not on this processor", isas[isa]);
}

int compute_exists(coterie_dtype_t dtype, coterie_compute_t compute)
{
    const coterie_ffn_shape_t shape = {
        .hidden = 32, .ffn = 32, .dtype = dtype, .compute = compute};
    return coterie_ffn_supported(&shape) == COTERIE_OK;
}

static int has_groups(coterie_dtype_t dtype)
{
    return dtype == COTERIE_DTYPE_INT8_GROUP || dtype == COTERIE_DTYPE_INT4 ||
           dtype == COTERIE_DTYPE_INT4_ZERO || dtype == COTERIE_DTYPE_MXFP4;
}

uint32_t inner_of(coterie_dtype_t dtype, uint32_t in)
{
    return has_groups(dtype) ? (in + 31) / 32 * 32 : in;
}

static double value_of_f16(uint16_t half)
{
    const int exponent = half >> 10 & 31, mantissa = half & 1023;
    const double sign = half & 0x8000 ? -1 : 1;
    if (exponent == 31)
        return mantissa == 0 ? sign * INFINITY : NAN;
    return exponent == 0 ? sign * ldexp(mantissa, -24)
                         : sign * ldexp(1024 + mantissa, exponent - 25);
}

static double value_of_e4m3(uint8_t code)
{
    const int exponent = code >> 3 & 15, mantissa = code & 7;
    const double sign = code & 0x80 ? -1 : 1;
    if ((code & 127) == 127)
        return NAN;
    return exponent == 0 ? sign * ldexp(mantissa, -9)
                         : sign * ldexp(8 + mantissa, exponent - 10);
}

static double value_of_e2m1(uint8_t code)
{
    static const double halves[] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};
    return code & 8 ? -halves[code & 7] : halves[code & 7];
}

static double float_value(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof(value));
    return value;
}

/* A random element's bits, at its place; returns what they mean. */
static double element_make(uint64_t *seed, coterie_dtype_t dtype, int special,
                           void *at)
{
    static const uint32_t odd[] = {0, 1, 0x7f800000, 0xff800000, 0x7fc00000};
    float value = (float)next_random(seed) * 0x1p-30f - 1;
    uint8_t code = (uint8_t)next_random(seed);
    uint32_t bits;
    uint16_t narrow;
    memcpy(&bits, &value, sizeof(bits));
    if (special && below(seed, 40) == 0)
        bits = odd[below(seed, 5)];
    switch (dtype) {
    case COTERIE_DTYPE_F32:
        memcpy(at, &bits, sizeof(bits));
        return float_value(bits);
    case COTERIE_DTYPE_F16: /* exponents -15 (denormal) to 0, or any */
        narrow = (uint16_t)((next_random(seed) & 0x83ff) |
                            below(seed, special ? 32 : 16) << 10);
        memcpy(at, &narrow, sizeof(narrow));
        return value_of_f16(narrow);
    case COTERIE_DTYPE_BF16:
        narrow = (uint16_t)(bits >> 16);
        memcpy(at, &narrow, sizeof(narrow));
        return float_value((uint32_t)narrow << 16);
    case COTERIE_DTYPE_INT8:
    case COTERIE_DTYPE_INT8_GROUP:
        *(signed char *)at = (signed char)(below(seed, 255)) - 127;
        return *(signed char *)at;
    case COTERIE_DTYPE_FP8:
        if ((code & 127) == 127 && !special)
            code = 0;
        *(uint8_t *)at = code;
        return value_of_e4m3(code);
    default:
        *(uint8_t *)at = code &= 15;
        return dtype == COTERIE_DTYPE_INT4 ? code - 8
               : dtype == COTERIE_DTYPE_INT4_ZERO ? code
                                                  : value_of_e2m1(code);
    }
}

/* f16 or e8m0, of groups of 32, each followed by its minimum if it has one;
 * what elements mean is scaled. Malloc'd. */
static void *group_scales_make(uint64_t *seed, matrix_t *matrix, int special)
{
    const size_t count = matrix->out * (size_t)(matrix->in / 32);
    const int is_e8m0 = matrix->dtype == COTERIE_DTYPE_MXFP4;
    const size_t kinds = matrix->dtype == COTERIE_DTYPE_INT4_ZERO ? 2 : 1;
    uint16_t *halves = malloc((2 * count + 1) * sizeof(*halves));
    uint8_t *bytes = malloc(count + 1);
    for (size_t i = 0; i < kinds * count; i++)
        halves[i] = (uint16_t)(0x2000 + below(seed, 0x800)) |
                    (kinds == 2 && i % 4 == 3 ? 0x8000 : 0);
    for (size_t i = 0; i < count; i++) {
        const int odd = special && below(seed, 40) == 0;
        bytes[i] = odd ? (i % 2 ? 255 : 0) : (uint8_t)(118 + below(seed, 5));
    }
    for (size_t i = 0; i < (size_t)matrix->out * matrix->in; i++) {
        const size_t at = i / 32;
        matrix->value[i] *= !is_e8m0 ? value_of_f16(halves[kinds * at])
                            : bytes[at] == 255 ? NAN
                                               : ldexp(1, bytes[at] - 127);
        if (kinds == 2)
            matrix->value[i] += value_of_f16(halves[2 * at + 1]);
    }
    free(is_e8m0 ? (void *)halves : (void *)bytes);
    return is_e8m0 ? (void *)bytes : (void *)halves;
}

static void panels_fill(uint64_t *seed, matrix_t *matrix, int special,
                        void *panels)
{
    const uint32_t step = coterie_panels_step(matrix->dtype);
    const size_t element = step < 4 ? 4 / step : 1;
    const size_t count = (size_t)matrix->out * matrix->in;
    char *codes = malloc(count * element + 1);
    void *scales = NULL;
    for (size_t i = 0; i < count; i++)
        matrix->value[i] = element_make(seed, matrix->dtype, special,
                                        codes + i * element);
    if (has_groups(matrix->dtype))
        scales = group_scales_make(seed, matrix, special);
    coterie_panels_pack(matrix->dtype, matrix->out, matrix->in, codes, scales,
                        panels);
    free(codes);
    free(scales);
}

/* f32 scales, as they are stored: one a row, or one for 128 x 128. */
static void float_scales_make(uint64_t *seed, matrix_t *matrix, char *scales)
{
    const int block = matrix->dtype == COTERIE_DTYPE_FP8 ? 128 : 0;
    const size_t blocks = block ? (matrix->in + 127u) / 128 : 1;
    const size_t rows = block ? (matrix->out + 127u) / 128 : matrix->out;
    for (size_t i = 0; i < rows * blocks; i++) {
        const float scale = (float)(1 + below(seed, 1000)) * 0x1p-16f;
        memcpy(scales + i * sizeof(scale), &scale, sizeof(scale));
    }
    for (size_t o = 0; o < matrix->out; o++)
        for (size_t k = 0; k < matrix->in; k++) {
            const size_t at = block ? o / 128 * blocks + k / 128 : o;
            float scale;
            memcpy(&scale, scales + at * sizeof(scale), sizeof(scale));
            matrix->value[o * matrix->in + k] *= (double)scale;
        }
}

matrix_t matrix_make(uint64_t *seed, coterie_dtype_t dtype, uint32_t out,
                     uint32_t in, int special)
{
    const size_t size = coterie_panels_size(dtype, out, in);
    const size_t scales_size = coterie_panels_scales_size(dtype, out, in);
    matrix_t matrix = {.dtype = dtype, .out = out, .in = in};
    char *scales;
    matrix.memory = calloc(1, size + scales_size + 1);
    matrix.value = malloc(((size_t)out * in + 1) * sizeof(*matrix.value));
    cr_assert(matrix.memory != NULL && matrix.value != NULL);
    matrix.panels = matrix.memory + 1;
    scales = matrix.memory + 1 + size;
    panels_fill(seed, &matrix, special, matrix.memory + 1);
    if (scales_size == 0)
        return matrix;
    matrix.scales = scales;
    float_scales_make(seed, &matrix, scales);
    return matrix;
}

void matrix_free(matrix_t *matrix)
{
    free(matrix->memory);
    free(matrix->value);
}

static void group_round(uint32_t count, const float *x, double *rounded)
{
    float largest = 0;
    for (uint32_t i = 0; i < count; i++)
        largest = fmaxf(largest, fabsf(x[i])); /* passes over NaN */
    for (uint32_t i = 0; i < count; i++)
        largest = isnan(x[i]) ? x[i] : largest;
    for (uint32_t i = 0; i < count; i++) {
        const float code =
            largest >= 1e-30f ? rintf(x[i] * (127 / largest)) : 0;
        rounded[i] =
            isfinite(largest) ? (double)code * (largest / 127) : NAN;
    }
}

void row_round(coterie_compute_t compute, uint32_t in, const float *x,
               double *rounded)
{
    for (uint32_t k = 0; k < in; k++) {
        uint32_t bits;
        memcpy(&bits, &x[k], sizeof(bits));
        bits += 0x7fff + (bits >> 16 & 1);
        rounded[k] = compute == COTERIE_COMPUTE_BF16 && isfinite(x[k])
                         ? float_value(bits & 0xffff0000)
                         : x[k];
    }
    for (uint32_t k = 0; compute == COTERIE_COMPUTE_INT8 && k < in; k += 128)
        group_round(in - k < 128 ? in - k : 128, x + k, rounded + k);
}

void matrix_multiply(const matrix_t *matrix,
                     const coterie_panel_method_t *method, uint32_t rows,
                     const float *x, float *y)
{
    const uint32_t panels = (matrix->out + 15) / 16;
    const float **row = malloc((rows + 1) * sizeof(*row));
    char *words = malloc(rows * coterie_panel_row_size(method, matrix->in));
    for (uint32_t r = 0; r < rows; r++)
        row[r] = x + (size_t)r * matrix->in;
    coterie_panel_pack(method, rows, matrix->in, row, words);
    coterie_panel_multiply(&(coterie_panel_product_t){
        .method = method,
        .rows = rows,
        .in = matrix->in,
        .panels = panels,
        .weight = matrix->panels,
        .scale = matrix->scales,
        .x = words,
        .y = y,
        .y_stride = (size_t)panels * 16,
    });
    free(words);
    free(row);
}

void expect_matrix_product(const matrix_t *matrix,
                           const coterie_panel_method_t *method, uint32_t rows,
                           const float *x)
{
    const size_t stride = ((size_t)matrix->out + 15) / 16 * 16;
    /* What is added to weights of this kind, and taken off again. */
    const double shift = matrix->dtype == COTERIE_DTYPE_INT4_ZERO ? 0.1 : 0;
    float *y = malloc(rows * stride * sizeof(*y));
    double *rounded = malloc((matrix->in + 1) * sizeof(*rounded));
    matrix_multiply(matrix, method, rows, x, y);
    for (uint32_t r = 0; r < rows; r++) {
        row_round(method->compute, matrix->in, x + (size_t)r * matrix->in,
                  rounded);
        for (uint32_t o = 0; o < matrix->out; o++) {
            const double *value = matrix->value + (size_t)o * matrix->in;
            double want = 0, magnitude = 0;
            for (uint32_t k = 0; k < matrix->in; k++) {
                const double term = rounded[k] * value[k];
                want += term;
                if (isfinite(term))
                    magnitude += fabs(term) + shift * fabs(rounded[k]);
            }
            expect_close(y[r * stride + o], want,
                         tolerance(matrix->in, magnitude));
        }
    }
    free(rounded);
    free(y);
}
