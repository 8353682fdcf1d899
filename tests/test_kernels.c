#include "config.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <criterion/parameterized.h>

#include <coterie/coterie.h>

#include "tests/kernels_data.h"

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
        const uint32_t in = round < 2 ? 4500 - 3500 * (uint32_t)round
                                      : below(&seed, 300);
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

ParameterizedTestParameters(linear, of_nothing_is_the_bias)
{
    return variants_make();
}

ParameterizedTest(variant_t *v, linear, of_nothing_is_the_bias)
{
    const float bias[3] = {1, 2, 3};
    float y[9] = {7, 7, 7, 7, 7, 7, 7, 7, 7};
    use_isa(v->isa);
    coterie_linear(0, 4, 3, NULL, bias, v->dtype, bias, y);
    cr_expect(eq(flt, y[0], 7));
    coterie_linear(2, 0, 3, y, bias, v->dtype, bias, y);
    cr_expect(y[0] == 1 && y[2] == 3 && y[3] == 1 && y[5] == 3);
    cr_expect(eq(flt, y[6], 7));
    coterie_linear(3, 0, 3, y, bias, v->dtype, NULL, y);
    cr_expect(y[0] == 0 && y[8] == 0);
}

ParameterizedTestParameters(rms_norm, agrees_with_double_precision)
{
    return variants_make();
}

ParameterizedTest(variant_t *v, rms_norm, agrees_with_double_precision)
{
    uint64_t seed = 5;
    use_isa(v->isa);
    for (uint32_t width = 1; width < 70; width++) {
        float *x = random_floats(&seed, width);
        float *weight = random_floats(&seed, width);
        float *want = malloc(width * sizeof(*want));
        double square = 0;
        for (uint32_t i = 0; i < width; i++)
            square += (double)x[i] * x[i];
        for (uint32_t i = 0; i < width; i++)
            want[i] = (float)(x[i] / sqrt(square / width + 1e-5) * weight[i]);
        coterie_rms_norm(1, width, 1e-5f, x, weight, x); /* in place */
        for (uint32_t i = 0; i < width; i++)
            expect_close(x[i], want[i], fabs(want[i]) * 0x1p-20);
        free(want);
        free(weight);
        free(x);
    }
}

Test(rms_norm, takes_no_rows_and_keeps_rows_apart)
{
    const float x[6] = {3, -4, 0, 1, 1, 1}, weight[3] = {1, 2, 1};
    float y[6] = {7, 7, 7, 7, 7, 7};
    coterie_rms_norm(0, 3, 0, x, weight, y);
    cr_expect(eq(flt, y[0], 7));
    coterie_rms_norm(2, 3, 0, x, weight, y);
    expect_close(y[1], -8 / sqrt(25.0 / 3), 1e-6);
    expect_close(y[4], 2, 1e-6);
}

Test(isa, is_the_one_asked_for_where_the_processor_has_it)
{
    cr_expect(have_isa(0)); /* everywhere */
}

Test(isa, that_is_unknown_is_refused_aloud_once_and_the_best_is_used)
{
    char *text = NULL;
    size_t size = 0;
    FILE *const terminal = stderr;
    stderr = open_memstream(&text, &size);
    setenv("COTERIE_ISA", "sse9", 1);
    cr_expect(ne(str, (char *)coterie_kernels_isa(), "sse9"));
    coterie_kernels_isa();
    fclose(stderr);
    stderr = terminal;
    cr_assert(ne(ptr, strstr(text, "COTERIE_ISA=sse9"), NULL));
    cr_expect(zero(ptr, strstr(strstr(text, "sse9") + 1, "sse9")));
    free(text);
}
