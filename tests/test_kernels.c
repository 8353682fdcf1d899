#include "config.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <criterion/parameterized.h>

#include <coterie/coterie.h>

/* Every test runs in a process of its own, so each may choose the instruction
 * set anew. One that this processor lacks is skipped, and said so. */
static const char *const isas[] = {"portable", "avx2", "avx512"};
static const coterie_dtype_t dtypes[] = {
    COTERIE_DTYPE_F32, COTERIE_DTYPE_F16, COTERIE_DTYPE_BF16};

typedef struct variant {
    int isa;
    coterie_dtype_t dtype;
} variant_t;

static variant_t variants[9];

static struct criterion_test_params variants_make(void)
{
    for (int i = 0; i < 9; i++)
        variants[i] = (variant_t){i / 3, dtypes[i % 3]};
    return cr_make_param_array(variant_t, variants, 9);
}

static void use_isa(int isa)
{
    setenv("COTERIE_ISA", isas[isa], 1);
    if (strcmp(coterie_kernels_isa(), isas[isa]) != 0)
        cr_skip_test("%s is not on this processor", isas[isa]);
}

static uint32_t next_random(uint64_t *seed)
{
    *seed = *seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*seed >> 33);
}

static uint32_t below(uint64_t *seed, uint32_t limit)
{
    return next_random(seed) % limit;
}

/* In [-1, 1). */
static float random_float(uint64_t *seed)
{
    return (float)next_random(seed) * 0x1p-30f - 1;
}

static float *random_floats(uint64_t *seed, size_t count)
{
    float *values = malloc((count + 1) * sizeof(*values));
    cr_assert(ne(ptr, values, NULL));
    for (size_t i = 0; i < count; i++)
        values[i] = random_float(seed);
    return values;
}

/* Weights of any dtype and, beside them, what they mean. The first byte is
 * left out so that no weight is aligned. */
typedef struct weights {
    unsigned char *bytes;
    const void *data;
    double *value;
} weights_t;

static float float_of(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof(value));
    return value;
}

/* From the definition of the format, not as the kernels do it. */
static double value_of_f16(uint16_t half)
{
    const int exponent = half >> 10 & 31, mantissa = half & 1023;
    const double sign = half & 0x8000 ? -1 : 1;
    if (exponent == 31)
        return mantissa == 0 ? sign * INFINITY : NAN;
    if (exponent == 0)
        return sign * ldexp(mantissa, -24);
    return sign * ldexp(1024 + mantissa, exponent - 25);
}

static size_t dtype_size(coterie_dtype_t dtype)
{
    return dtype == COTERIE_DTYPE_F32 ? 4 : 2;
}

static void weights_set(weights_t *weights, coterie_dtype_t dtype, size_t at,
                        uint32_t bits)
{
    const uint16_t narrow = (uint16_t)bits;
    if (dtype == COTERIE_DTYPE_F32) {
        memcpy(weights->bytes + 1 + at * 4, &bits, 4);
        weights->value[at] = float_of(bits);
        return;
    }
    memcpy(weights->bytes + 1 + at * 2, &narrow, 2);
    weights->value[at] = dtype == COTERIE_DTYPE_F16
                             ? value_of_f16(narrow)
                             : float_of((uint32_t)narrow << 16);
}

static weights_t weights_make(uint64_t *seed, coterie_dtype_t dtype,
                              size_t count)
{
    weights_t weights = {malloc(count * dtype_size(dtype) + 1), NULL,
                         malloc((count + 1) * sizeof(double))};
    cr_assert(weights.bytes != NULL && weights.value != NULL);
    weights.data = weights.bytes + 1;
    for (size_t i = 0; i < count; i++) {
        const float value = random_float(seed);
        uint32_t bits;
        memcpy(&bits, &value, sizeof(bits));
        if (dtype == COTERIE_DTYPE_BF16)
            bits >>= 16;
        if (dtype == COTERIE_DTYPE_F16) /* exponents -15 (denormal) to 0 */
            bits = (next_random(seed) & 0x83ff) | below(seed, 16) << 10;
        weights_set(&weights, dtype, i, bits);
    }
    return weights;
}

static void weights_free(weights_t *weights)
{
    free(weights->bytes);
    free(weights->value);
}

/* An f32 sum of n products rounds at most n times however it is ordered; with
 * 16 lanes a few times its depth is what to expect: 2^-23 each. */
static double tolerance(uint32_t length, double magnitude)
{
    return 0x1p-23 * (8 + length / 16.0) * magnitude + 1e-37;
}

static void expect_close(double got, double want, double limit)
{
    if (isnan(want)) {
        cr_expect(isnan(got));
        return;
    }
    if (isinf(want)) {
        cr_expect(eq(dbl, got, want));
        return;
    }
    cr_expect(fabs(got - want) <= limit, "%.9g, not %.9g within %.3g", got,
              want, limit);
}

typedef struct linear_case {
    uint32_t n, in, out;
    coterie_dtype_t dtype;
} linear_case_t;

static void expect_linear(linear_case_t c, const float *x,
                          const weights_t *weights, const float *bias)
{
    float *y = malloc(((size_t)c.n * c.out + 1) * sizeof(*y));
    coterie_linear(c.n, c.in, c.out, x, weights->data, c.dtype, bias, y);
    for (size_t row = 0; row < c.n; row++)
        for (size_t o = 0; o < c.out; o++) {
            double want = bias != NULL ? bias[o] : 0, magnitude = 1e-300;
            for (size_t k = 0; k < c.in; k++) {
                const double term = (double)x[row * c.in + k] *
                                    weights->value[o * c.in + k];
                want += term;
                magnitude += isfinite(term) ? fabs(term) : 0;
            }
            magnitude += bias != NULL ? fabs(bias[o]) : 0;
            expect_close(y[row * c.out + o], want,
                         tolerance(c.in, magnitude));
        }
    free(y);
}

ParameterizedTestParameters(linear, agrees_with_double_precision)
{
    return variants_make();
}

ParameterizedTest(variant_t *v, linear, agrees_with_double_precision)
{
    uint64_t seed = 1;
    use_isa(v->isa);
    for (int round = 0; round < 40; round++) {
        const linear_case_t c = {below(&seed, 60), below(&seed, 100),
                                 below(&seed, 80), v->dtype};
        float *x = random_floats(&seed, (size_t)c.n * c.in);
        float *bias = random_floats(&seed, c.out);
        weights_t weights =
            weights_make(&seed, c.dtype, (size_t)c.in * c.out);
        expect_linear(c, x, &weights, round % 2 ? bias : NULL);
        weights_free(&weights);
        free(bias);
        free(x);
    }
}

ParameterizedTestParameters(linear, crosses_blocks_of_the_inner_dimension)
{
    return variants_make();
}

ParameterizedTest(variant_t *v, linear, crosses_blocks_of_the_inner_dimension)
{
    static const uint32_t lengths[] = {2047, 2048, 2049, 4096, 5003};
    uint64_t seed = 2;
    use_isa(v->isa);
    for (int i = 0; i < 5; i++) {
        const linear_case_t c = {7, lengths[i], 5, v->dtype};
        float *x = random_floats(&seed, (size_t)c.n * c.in);
        weights_t weights =
            weights_make(&seed, c.dtype, (size_t)c.in * c.out);
        expect_linear(c, x, &weights, NULL);
        weights_free(&weights);
        free(x);
    }
}

ParameterizedTestParameters(linear, treats_special_values_as_the_reference)
{
    return variants_make();
}

ParameterizedTest(variant_t *v, linear, treats_special_values_as_the_reference)
{
    static const uint32_t special[3][4] = {
        {0x7f800000, 0xff800000, 0x7fc00000, 1}, /* inf, -inf, NaN, least */
        {0x7c00, 0xfc00, 0x7e00, 1},
        {0x7f80, 0xff80, 0x7fc0, 1}};
    uint64_t seed = 3;
    use_isa(v->isa);
    for (int i = 0; i < 4; i++)
        for (uint32_t in = 16; in < 40; in += 7) {
            const linear_case_t c = {5, in, 9, v->dtype};
            float *x = random_floats(&seed, (size_t)c.n * c.in);
            weights_t weights =
                weights_make(&seed, c.dtype, (size_t)c.in * c.out);
            weights_set(&weights, c.dtype, in - 1, special[v->dtype - 1][i]);
            weights_set(&weights, c.dtype, 3, special[v->dtype - 1][i]);
            x[in + 2] = i % 2 ? INFINITY : 0x1p-149f;
            expect_linear(c, x, &weights, NULL);
            weights_free(&weights);
            free(x);
        }
}

ParameterizedTestParameters(linear, gives_a_row_the_same_bits_in_any_batch)
{
    return variants_make();
}

ParameterizedTest(variant_t *v, linear, gives_a_row_the_same_bits_in_any_batch)
{
    uint64_t seed = 4;
    use_isa(v->isa);
    for (int round = 0; round < 12; round++) {
        const uint32_t n = 1 + below(&seed, 110), out = 1 + below(&seed, 70);
        const uint32_t in = round == 0 ? 4500 : below(&seed, 300);
        float *x = random_floats(&seed, (size_t)n * in);
        float *all = malloc(n * out * sizeof(float));
        float *one = malloc(out * sizeof(float));
        weights_t weights = weights_make(&seed, v->dtype, (size_t)in * out);
        coterie_linear(n, in, out, x, weights.data, v->dtype, NULL, all);
        for (uint32_t row = 0; row < n; row++) {
            coterie_linear(1, in, out, x + (size_t)row * in, weights.data,
                           v->dtype, NULL, one);
            cr_expect(zero(int, memcmp(one, all + (size_t)row * out,
                                       out * sizeof(float))));
        }
        weights_free(&weights);
        free(one);
        free(all);
        free(x);
    }
}
