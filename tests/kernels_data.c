#include "config.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include <coterie/coterie.h>

#include "tests/kernels_data.h"

static const char *const isas[] = {"portable", "avx2", "avx512"};
static const coterie_dtype_t dtypes[] = {
    COTERIE_DTYPE_F32, COTERIE_DTYPE_F16, COTERIE_DTYPE_BF16};

static variant_t variants[9];

struct criterion_test_params variants_make(void)
{
    for (int i = 0; i < 9; i++)
        variants[i] = (variant_t){i / 3, dtypes[i % 3]};
    return cr_make_param_array(variant_t, variants, 9);
}

int have_isa(int isa)
{
    setenv("COTERIE_ISA", isas[isa], 1);
    return strcmp(coterie_kernels_isa(), isas[isa]) == 0;
}

void use_isa(int isa)
{
    if (!have_isa(isa))
        cr_skip_test("%s is not on this processor", isas[isa]);
}

uint32_t next_random(uint64_t *seed)
{
    *seed = *seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*seed >> 33);
}

uint32_t below(uint64_t *seed, uint32_t limit)
{
    return next_random(seed) % limit;
}

/* In [-1, 1). */
static float random_float(uint64_t *seed)
{
    return (float)next_random(seed) * 0x1p-30f - 1;
}

float *random_floats(uint64_t *seed, size_t count)
{
    float *values = malloc((count + 1) * sizeof(*values));
    cr_assert(ne(ptr, values, NULL));
    for (size_t i = 0; i < count; i++)
        values[i] = random_float(seed);
    return values;
}

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

void weights_set(weights_t *weights, coterie_dtype_t dtype, size_t at,
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

weights_t weights_make(uint64_t *seed, coterie_dtype_t dtype,
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

void weights_free(weights_t *weights)
{
    free(weights->bytes);
    free(weights->value);
}

double tolerance(uint32_t length, double magnitude)
{
    return 0x1p-23 * (8 + length / 16.0) * magnitude + 1e-37;
}

void expect_close(double got, double want, double limit)
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
