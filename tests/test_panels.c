#include "config.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <criterion/parameterized.h>

#include "kernels/cpu/cpu.h"
#include "tests/kernels_data.h"
#include "tests/panel_data.h"

static coterie_panel_method_t method_of(const matrix_t *matrix,
                                        coterie_compute_t compute)
{
    return coterie_panel_method(coterie_cpu_panels(), matrix->dtype, compute);
}

static void multiply(const matrix_t *matrix, coterie_compute_t compute,
                     uint32_t rows, const float *x, float *y)
{
    const coterie_panel_method_t method = method_of(matrix, compute);
    matrix_multiply(matrix, &method, rows, x, y);
}

static void expect_product(const matrix_t *matrix, coterie_compute_t compute,
                           uint32_t rows, const float *x)
{
    const coterie_panel_method_t method = method_of(matrix, compute);
    expect_matrix_product(matrix, &method, rows, x);
}

ParameterizedTestParameters(panels, agree_with_double_precision)
{
    return panel_variants_make();
}

ParameterizedTest(panel_variant_t *v, panels, agree_with_double_precision)
{
    uint64_t seed = 1;
    use_panel_isa(v->isa);
    for (int round = 0; round < 40; round++) {
        const coterie_compute_t compute = (coterie_compute_t)(round % 3);
        const uint32_t rows = 1 + below(&seed, round % 4 ? 9 : 40);
        const uint32_t out = 1 + below(&seed, 150);
        const uint32_t in = inner_of(v->dtype, 1 + below(&seed, 300));
        matrix_t matrix;
        float *x;
        if (!compute_exists(v->dtype, compute))
            continue;
        matrix = matrix_make(&seed, v->dtype, out, in, 0);
        x = random_floats(&seed, (size_t)rows * in);
        expect_product(&matrix, compute, rows, x);
        free(x);
        matrix_free(&matrix);
    }
}

ParameterizedTestParameters(panels, cross_blocks_of_the_inner_dimension)
{
    return panel_variants_make();
}

ParameterizedTest(panel_variant_t *v, panels,
                  cross_blocks_of_the_inner_dimension)
{
    static const uint32_t lengths[] = {511, 512, 2080, 4097};
    uint64_t seed = 2;
    use_panel_isa(v->isa);
    for (int i = 0; i < 12; i++) {
        const coterie_compute_t compute = (coterie_compute_t)(i % 3);
        const uint32_t in = inner_of(v->dtype, lengths[i / 3]);
        const uint32_t rows = i % 2 ? 2 : 15;
        matrix_t matrix;
        float *x;
        if (!compute_exists(v->dtype, compute))
            continue;
        matrix = matrix_make(&seed, v->dtype, 70, in, 0);
        x = random_floats(&seed, (size_t)rows * in);
        expect_product(&matrix, compute, rows, x);
        free(x);
        matrix_free(&matrix);
    }
}

ParameterizedTestParameters(panels, give_a_row_the_same_bits_in_any_batch)
{
    return panel_variants_make();
}

ParameterizedTest(panel_variant_t *v, panels,
                  give_a_row_the_same_bits_in_any_batch)
{
    enum { OUT = 150, STRIDE = 160, ROWS = 41 };
    const uint32_t in = inner_of(v->dtype, 700);
    uint64_t seed = 3;
    matrix_t matrix;
    float *x, *all, one[STRIDE];
    use_panel_isa(v->isa);
    matrix = matrix_make(&seed, v->dtype, OUT, in, 0);
    x = random_floats(&seed, (size_t)ROWS * in);
    all = malloc(ROWS * STRIDE * sizeof(*all));
    for (int c = 0; c < 3; c++)
        for (uint32_t rows = 2; rows <= ROWS; rows++) {
            if (!compute_exists(v->dtype, (coterie_compute_t)c))
                continue;
            multiply(&matrix, (coterie_compute_t)c, rows, x, all);
            for (uint32_t r = 0; r < rows; r += 1 + rows / 3) {
                multiply(&matrix, (coterie_compute_t)c, 1,
                         x + (size_t)r * in, one);
                cr_expect(zero(int, memcmp(one, all + r * STRIDE,
                                           OUT * sizeof(*one))));
            }
        }
    free(all);
    free(x);
    matrix_free(&matrix);
}

/* Where minimums or bytes are involved, what is infinite may become no number
 * at all: products are taken apart. */
static void expect_special(const matrix_t *matrix, coterie_compute_t compute,
                           double got, double want)
{
    if (compute != COTERIE_COMPUTE_INT8 &&
        matrix->dtype != COTERIE_DTYPE_INT4_ZERO) {
        expect_close(got, want, fabs(want) * 1e-5 + 1e-3);
        return;
    }
    cr_expect(isfinite(got) == isfinite(want), "%g, not %g", got, want);
}

ParameterizedTestParameters(panels, treat_special_values_as_the_reference)
{
    return panel_variants_make();
}

ParameterizedTest(panel_variant_t *v, panels,
                  treat_special_values_as_the_reference)
{
    static const float odd[] = {0, 0x1p-140f, -0.0f, INFINITY, -INFINITY, NAN};
    const uint32_t in = inner_of(v->dtype, 40);
    double *rounded = malloc(in * sizeof(*rounded));
    uint64_t seed = 4;
    use_panel_isa(v->isa);
    for (int round = 0; round < 36; round++) {
        const coterie_compute_t compute = (coterie_compute_t)(round % 3);
        matrix_t matrix;
        float *x, y[32];
        if (!compute_exists(v->dtype, compute))
            continue;
        matrix = matrix_make(&seed, v->dtype, 21, in, 1);
        x = random_floats(&seed, in);
        x[below(&seed, in)] = odd[round / 6];
        multiply(&matrix, compute, 1, x, y);
        row_round(compute, in, x, rounded);
        for (uint32_t o = 0; o < matrix.out; o++) {
            double want = 0;
            for (uint32_t k = 0; k < in; k++)
                want += rounded[k] * matrix.value[o * in + k];
            if (!(fabs(want) > 1e35 && isfinite(want)))
                expect_special(&matrix, compute, y[o], want);
        }
        free(x);
        matrix_free(&matrix);
    }
    free(rounded);
}

static int is_amx(int isa)
{
    return strcmp(panel_isa_name(isa), "avx512-amx") == 0;
}

/* The bits of some products with one instruction set, computed in a process of
 * its own; 0 if the processor lacks it. */
static uint64_t digest_of_isa(int isa, coterie_dtype_t dtype,
                              coterie_compute_t compute)
{
    enum { ROWS = 9, OUT = 75, STRIDE = 80 };
    const uint32_t in = inner_of(dtype, 1100);
    static float y[ROWS * STRIDE];
    uint64_t seed = 5, digest = 0;
    matrix_t matrix = matrix_make(&seed, dtype, OUT, in, 0);
    float *x = random_floats(&seed, (size_t)ROWS * in);
    setenv("COTERIE_ISA", panel_isa_name(isa), 1);
    if (strcmp(coterie_kernels_isa(), panel_isa_name(isa)) != 0)
        return 0;
    multiply(&matrix, compute, ROWS, x, y);
    for (size_t i = 0; i < ROWS * STRIDE; i++) {
        uint32_t bits;
        memcpy(&bits, &y[i], sizeof(bits));
        digest = digest * 1099511628211u + (i % STRIDE < OUT ? bits : 0);
    }
    free(x);
    matrix_free(&matrix);
    return digest;
}

static uint64_t digest_apart(int isa, coterie_dtype_t dtype,
                             coterie_compute_t compute)
{
    uint64_t digest = 0;
    int ends[2];
    cr_assert(zero(int, pipe(ends)));
    if (fork() == 0) {
        digest = digest_of_isa(isa, dtype, compute);
        _exit(write(ends[1], &digest, sizeof(digest)) != sizeof(digest));
    }
    close(ends[1]); /* or one that died would be waited for */
    cr_assert(eq(int, (int)read(ends[0], &digest, sizeof(digest)),
                 (int)sizeof(digest)));
    close(ends[0]);
    wait(NULL);
    return digest;
}

Test(panels, have_the_same_bits_on_all_instruction_sets_that_fuse)
{
    for (int d = COTERIE_DTYPE_F32; d <= COTERIE_DTYPE_MXFP4; d++)
        for (int c = 0; c < 3; c++) {
            const coterie_dtype_t dtype = (coterie_dtype_t)d;
            const coterie_compute_t compute = (coterie_compute_t)c;
            uint64_t first;
            if (!compute_exists(dtype, compute))
                continue;
            first = digest_apart(1, dtype, compute);
            for (int isa = 2; first != 0 && panel_isa_name(isa); isa++) {
                if (compute == COTERIE_COMPUTE_BF16 &&
                    dtype == COTERIE_DTYPE_BF16 && is_amx(isa))
                    continue; /* has an order of its own */
                const uint64_t digest = digest_apart(isa, dtype, compute);
                cr_expect(digest == 0 || digest == first,
                          "%s, dtype %d, compute %d", panel_isa_name(isa), d,
                          c);
            }
        }
}

Test(panels, refuse_what_no_kernel_computes)
{
    coterie_ffn_shape_t shape = {.hidden = 32, .ffn = 32};
    cr_expect(eq(int, coterie_ffn_supported(&shape),
                 COTERIE_ERR_UNSUPPORTED)); /* no dtype */
    shape.dtype = COTERIE_DTYPE_FP8;
    cr_expect(eq(int, coterie_ffn_supported(&shape), COTERIE_OK));
    shape.compute = COTERIE_COMPUTE_INT8;
    cr_expect(eq(int, coterie_ffn_supported(&shape),
                 COTERIE_ERR_UNSUPPORTED));
    cr_expect(ne(ptr, strstr(coterie_last_error(), "int8 and fp8"), NULL));
    shape.dtype = COTERIE_DTYPE_INT4;
    cr_expect(eq(int, coterie_ffn_supported(&shape), COTERIE_OK));
    shape.ffn = 33;
    cr_expect(eq(int, coterie_ffn_supported(&shape),
                 COTERIE_ERR_UNSUPPORTED));
    cr_expect(ne(ptr, strstr(coterie_last_error(), "multiples of 32"), NULL));
}
