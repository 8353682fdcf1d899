#include "config.h"

#include <stdlib.h>
#include <string.h>

#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include "kernels/cpu/cpu.h"
#include "tests/kernels_data.h"
#include "tests/panel_data.h"

#if defined(__x86_64__)
#include "tests/emulated/amx.h"

/* With the tiles of AMX, which a processor without it emulates. */
static coterie_cpu_panels_t panels_of_amx(void)
{
    coterie_cpu_panels_t panels = *coterie_cpu_panels();
    if (panels.table[COTERIE_WORDS_BF16] == NULL)
        cr_skip_test("this processor lacks AVX-512 with BF16");
    panels.better[COTERIE_WORDS_BF16] = &emulated_amx_bf16;
    panels.better[COTERIE_WORDS_INT8] = &emulated_amx_int8;
    return panels;
}

static int has_tiles(const coterie_panel_method_t *method)
{
    return method->tiles->rows == 32;
}

Test(amx, agrees_with_double_precision)
{
    static const uint32_t lengths[] = {1, 31, 64, 97, 288, 700, 2100};
    const coterie_cpu_panels_t panels = panels_of_amx();
    uint64_t seed = 11;
    for (int d = 1; d <= COTERIE_DTYPE_MXFP4; d++)
        for (int i = 0; i < 14; i++) {
            const coterie_dtype_t dtype = (coterie_dtype_t)d;
            const coterie_compute_t compute =
                i % 2 ? COTERIE_COMPUTE_INT8 : COTERIE_COMPUTE_BF16;
            const coterie_panel_method_t method =
                coterie_panel_method(&panels, dtype, compute);
            const uint32_t in = inner_of(dtype, lengths[i / 2]);
            const uint32_t rows = 1 + below(&seed, 70);
            matrix_t matrix;
            float *x;
            if (!compute_exists(dtype, compute) || !has_tiles(&method))
                continue;
            matrix = matrix_make(&seed, dtype, 1 + below(&seed, 100), in, 0);
            x = random_floats(&seed, (size_t)rows * in);
            expect_matrix_product(&matrix, &method, rows, x);
            free(x);
            matrix_free(&matrix);
        }
}

/* The same with 1 to 70 rows, and with those of `other`, if given. */
static void expect_same_bits(coterie_dtype_t dtype,
                             const coterie_panel_method_t *method,
                             const coterie_panel_method_t *other)
{
    enum { OUT = 75, STRIDE = 80, ROWS = 70 };
    const uint32_t in = inner_of(dtype, 700);
    static float all[ROWS * STRIDE], one[STRIDE];
    uint64_t seed = 12;
    matrix_t matrix = matrix_make(&seed, dtype, OUT, in, 0);
    float *x = random_floats(&seed, (size_t)ROWS * in);
    for (uint32_t rows = 1; rows <= ROWS; rows += 1 + rows / 3) {
        matrix_multiply(&matrix, method, rows, x, all);
        for (uint32_t r = 0; r < rows; r++) {
            matrix_multiply(&matrix, other, 1, x + (size_t)r * in, one);
            cr_expect(zero(int, memcmp(one, all + r * STRIDE,
                                       OUT * sizeof(*one))),
                      "dtype %d, row %u of %u", (int)dtype, r, rows);
        }
    }
    free(x);
    matrix_free(&matrix);
}

Test(amx, gives_a_row_the_same_bits_in_any_batch)
{
    const coterie_cpu_panels_t panels = panels_of_amx();
    const coterie_panel_method_t method = coterie_panel_method(
        &panels, COTERIE_DTYPE_BF16, COTERIE_COMPUTE_BF16);
    cr_assert(has_tiles(&method));
    expect_same_bits(COTERIE_DTYPE_BF16, &method, &method);
}

Test(amx, gives_int8_products_the_bits_of_other_instruction_sets)
{
    const coterie_cpu_panels_t panels = panels_of_amx();
    for (int d = 1; d <= COTERIE_DTYPE_MXFP4; d++) {
        const coterie_dtype_t dtype = (coterie_dtype_t)d;
        coterie_panel_method_t method, other;
        if (!compute_exists(dtype, COTERIE_COMPUTE_INT8))
            continue;
        method = coterie_panel_method(&panels, dtype, COTERIE_COMPUTE_INT8);
        other = coterie_panel_method(coterie_cpu_panels(), dtype,
                                     COTERIE_COMPUTE_INT8);
        cr_assert(has_tiles(&method));
        expect_same_bits(dtype, &method, &other);
    }
}
#endif
