/* Products of a library: how cuBLAS is told of them, by a table of its calls
 * that multiplies columns; and banks whose shapes need them. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include <coterie/coterie.h>

#include "base/element.h"
#include "kernels/cublas.h"
#include "runtime/bank.h"
#include "runtime/device_call.h"
#include "tests/draw.h"
#include "tests/models.h"

enum { GROUPS = 300, EACH = 2, OUT = 5, IN = 8, STRIDE = 8, ROWS_MAX = 4 };

static uint16_t a[GROUPS * EACH][OUT * IN], x[GROUPS][ROWS_MAX * IN];
static uint16_t y[GROUPS * EACH][ROWS_MAX * STRIDE];
static const void *a_at[GROUPS * EACH], *x_at[GROUPS * EACH];
static void *y_at[GROUPS * EACH];
static uint32_t rows[GROUPS];
static int calls_made, fail_from = 1 << 30, handle;

/* c[m, n] = a^T b, all by columns, as cuBLAS has it. */
static void columns_multiply(int m, int n, int k, const uint16_t *p,
                             int p_stride, const uint16_t *q, int q_stride,
                             uint16_t *c, int c_stride)
{
    for (int column = 0; column < n; column++)
        for (int row = 0; row < m; row++) {
            float sum = 0;

            for (int i = 0; i < k; i++)
                sum += coterie_bf16_value(p[row * p_stride + i]) *
                       coterie_bf16_value(q[column * q_stride + i]);
            c[column * c_stride + row] = coterie_bf16_of(sum);
        }
}

static int fake_batched(void *h, int op_a, int op_b, int m, int n, int k,
                        const void *alpha, const void *const *p, int p_type,
                        int p_stride, const void *const *q, int q_type,
                        int q_stride, const void *beta, void *const *c,
                        int c_type, int c_stride, int count, int compute,
                        int algorithm)
{
    cr_expect(eq(ptr, h, &handle));
    cr_expect(eq(int, op_a, 1));
    cr_expect(eq(int, op_b, 0));
    cr_expect(eq(flt, *(const float *)alpha, 1));
    cr_expect(eq(flt, *(const float *)beta, 0));
    cr_expect(all(eq(int, p_type, 14), eq(int, q_type, 14),
                  eq(int, c_type, 14)));
    cr_expect(all(eq(int, compute, 68), eq(int, algorithm, -1)));
    if (calls_made++ >= fail_from)
        return 13;
    for (int i = 0; i < count; i++)
        columns_multiply(m, n, k, p[i], p_stride, q[i], q_stride, c[i],
                         c_stride);
    return 0;
}

static int fake_grouped(void *h, const int *op_a, const int *op_b,
                        const int *m, const int *n, const int *k,
                        const void *alpha, const void *const *p, int p_type,
                        const int *p_stride, const void *const *q, int q_type,
                        const int *q_stride, const void *beta, void *const *c,
                        int c_type, const int *c_stride, int group_count,
                        const int *group_size, int compute)
{
    const int before = calls_made;
    int error = 0;

    for (int g = 0; error == 0 && g < group_count; g++) {
        error = fake_batched(h, op_a[g], op_b[g], m[g], n[g], k[g],
                             (const float *)alpha + g, p, p_type, p_stride[g],
                             q, q_type, q_stride[g], (const float *)beta + g,
                             c, c_type, c_stride[g], group_size[g], compute,
                             -1);
        p += group_size[g];
        q += group_size[g];
        c += group_size[g];
    }
    calls_made = before + 1;
    return error;
}

static const coterie_cublas_calls_t with_groups = {.grouped = fake_grouped,
                                                   .batched = fake_batched};
static const coterie_cublas_calls_t without = {.batched = fake_batched};

static coterie_products_t products_draw(void)
{
    for (uint32_t g = 0; g < GROUPS; g++) {
        rows[g] = 1 + draw(ROWS_MAX);
        for (uint32_t i = 0; i < ROWS_MAX * IN; i++)
            x[g][i] = coterie_bf16_of((float)draw(17) - 8);
        for (uint32_t i = 0; i < EACH; i++) {
            const uint32_t at = g * EACH + i;

            for (uint32_t j = 0; j < OUT * IN; j++)
                a[at][j] = coterie_bf16_of((float)draw(17) - 8);
            a_at[at] = a[at];
            x_at[at] = x[g];
            y_at[at] = y[at];
        }
    }
    memset(y, 0xff, sizeof(y));
    return (coterie_products_t){GROUPS, EACH, OUT,  IN,  STRIDE,
                                rows,   a_at, x_at, y_at};
}

static void expect_right(void)
{
    for (uint32_t at = 0; at < GROUPS * EACH; at++)
        for (uint32_t r = 0; r < ROWS_MAX; r++)
            for (uint32_t o = 0; o < STRIDE; o++) {
                float sum = 0;

                for (uint32_t i = 0; i < IN; i++)
                    sum += coterie_bf16_value(a[at][(o % OUT) * IN + i]) *
                           coterie_bf16_value(x[at / EACH][r * IN + i]);
                cr_assert(eq(int, y[at][r * STRIDE + o],
                             r < rows[at / EACH] && o < OUT
                                 ? coterie_bf16_of(sum)
                                 : 0xffff));
            }
}

Test(grouped, tells_cublas_of_rows_in_terms_of_columns)
{
    const coterie_products_t p = products_draw();

    cr_expect(eq(int, 0, coterie_cublas_products(&with_groups, &handle, &p)));
    cr_expect(eq(int, calls_made, 2)); /* of 256 groups at most */
    expect_right();
}

Test(grouped, does_without_groups_where_cublas_is_old)
{
    const coterie_products_t p = products_draw();

    cr_expect(eq(int, 0, coterie_cublas_products(&without, &handle, &p)));
    cr_expect(eq(int, calls_made, GROUPS));
    expect_right();
}

Test(grouped, stops_at_what_cublas_refuses)
{
    const coterie_products_t p = products_draw();

    fail_from = 3;
    cr_expect(eq(int, 13, coterie_cublas_products(&without, &handle, &p)));
    cr_expect(eq(int, calls_made, 4));
    calls_made = 0;
    cr_expect(eq(int, 13, coterie_cublas_products(&with_groups, &handle, &p)));
    cr_expect(eq(int, calls_made, 1));
}

Test(grouped, the_host_multiplies_alike)
{
    const coterie_products_t p = products_draw();
    coterie_device_t *device = NULL;

    cr_assert(eq(int, COTERIE_OK, coterie_device_open("host", &device)));
    cr_expect(eq(int, COTERIE_OK, device->ops->products(device, &p)));
    expect_right();
    coterie_device_close(device);
}

enum { BANK_EXPERTS = 4, BANK_ROWS = 9, HIDDEN = 40, FFN = 44 };

/* A directory and a store of a model whose experts are 40 by 44. */
static void odd_model_write(char folder[PATH_SIZE], char store_in[PATH_SIZE],
                            char store[PATH_SIZE])
{
    json_t *config = config_load("mixtral");
    char path[PATH_SIZE];
    uint64_t header;
    size_t size;
    char *file;

    json_object_set_new(config, "hidden_size", json_integer(HIDDEN));
    json_object_set_new(config, "intermediate_size", json_integer(FFN));
    folder_make(folder);
    model_write(folder, config, COTERIE_DTYPE_BF16);
    path_in(folder, "model.safetensors", path);
    file = file_load(path, &size);
    memcpy(&header, file, sizeof(header));
    for (size_t at = sizeof(header) + header; at + 2 <= size; at += 2) {
        const uint16_t value =
            coterie_bf16_of(((float)draw(1 << 16) / (1 << 15) - 1) / 4);

        memcpy(file + at, &value, sizeof(value));
    }
    file_save(path, file, size);
    free(file);
    store_pack(folder, store_in, store);
}

/* Sums of layer 1, of rows with two experts each; some experts have none. */
static void sums_compute(const coterie_bank_t *bank, float *sums)
{
    const uint32_t first[] = {0, 9, 9, 13, 18};
    const uint32_t row[] = {0, 1, 2, 3, 4, 5, 6, 7, 8,
                            1, 3, 5, 7, 0, 2, 4, 6, 8};
    float weight[18], input[BANK_ROWS * HIDDEN];
    void *scratch = malloc(coterie_bank_scratch(bank));

    for (uint32_t i = 0; i < 18; i++)
        weight[i] = 0.25f + 0.125f * (float)i;
    for (uint32_t i = 0; i < BANK_ROWS * HIDDEN; i++)
        input[i] = (float)(i * 37 % 101) / 50 - 1;
    memset(sums, 0, BANK_ROWS * HIDDEN * sizeof(*sums));
    cr_assert(eq(int, COTERIE_OK,
                 coterie_bank_compute(
                     bank, 1,
                     &(coterie_expert_rows_t){BANK_EXPERTS, BANK_ROWS, first,
                                              row, weight},
                     input, sums, scratch)),
              "%s", coterie_last_error());
    free(scratch);
}

static void expect_near(const float *got, const float *want)
{
    float most = 0;

    for (uint32_t i = 0; i < BANK_ROWS * HIDDEN; i++)
        most = fmaxf(most, fabsf(want[i]));
    cr_assert(gt(flt, most, 0));
    for (uint32_t i = 0; i < BANK_ROWS * HIDDEN; i++)
        cr_assert(le(flt, fabsf(got[i] - want[i]), 0.02f * most));
}

Test(grouped, banks_of_odd_shapes_are_computed_by_the_library)
{
    char folder[PATH_SIZE], store_in[PATH_SIZE], store[PATH_SIZE];
    coterie_placement_options_t one = COTERIE_PLACEMENT_OPTIONS_INIT;
    coterie_tiers_options_t options = COTERIE_TIERS_OPTIONS_INIT;
    coterie_placement_t *placement = NULL;
    coterie_model_t *model = NULL;
    coterie_device_t *device = NULL;
    coterie_tiers_t *tiers = NULL;
    coterie_bank_t *here = NULL, *there = NULL, *some = NULL;
    float want[BANK_ROWS * HIDDEN], got[BANK_ROWS * HIDDEN];

    odd_model_write(folder, store_in, store);
    one.layer_count = 3;
    one.expert_count = BANK_EXPERTS;
    one.rank_count = 1;
    options.budget_percent = 100;
    cr_assert(eq(int, COTERIE_OK, coterie_model_open(store, &model)));
    cr_assert(eq(int, COTERIE_OK,
                 coterie_placement_create(&one, &placement)));
    cr_assert(eq(int, COTERIE_OK, coterie_device_open("host", &device)));
    cr_assert(eq(int, COTERIE_OK,
                 coterie_bank_create(model, placement, 0, &here)));
    sums_compute(here, want);
    cr_assert(eq(int, COTERIE_OK,
                 coterie_bank_create(model, placement, 0, &there)));
    cr_assert(eq(int, COTERIE_OK,
                 coterie_bank_move(there, device, BANK_ROWS, 2)),
              "%s", coterie_last_error());
    sums_compute(there, got);
    expect_near(got, want);
    cr_assert(eq(int, COTERIE_OK,
                 coterie_tiers_create(model, &options, &tiers)));
    cr_assert(eq(int, COTERIE_OK,
                 coterie_bank_create_tiered(tiers, placement, 0, &some)));
    cr_assert(eq(int, COTERIE_OK,
                 coterie_bank_move_tiered(some, device, BANK_ROWS, 2,
                                          1 << 14)));
    for (int i = 0; i < 2; i++) {
        sums_compute(some, got);
        expect_near(got, want);
    }
    coterie_bank_destroy(here);
    coterie_bank_destroy(there);
    coterie_bank_destroy(some);
    coterie_tiers_destroy(tiers);
    coterie_device_close(device);
    coterie_placement_destroy(placement);
    coterie_model_close(model);
    folder_remove(folder);
    folder_remove(store_in);
}

static coterie_status_t no_library(coterie_device_t *d,
                                   const coterie_products_t *p)
{
    (void)d, (void)p;
    return COTERIE_ERR_UNSUPPORTED;
}

Test(grouped, says_which_shapes_a_device_computes)
{
    const coterie_ffn_shape_t usual = {.hidden = 48,
                                       .ffn = 64,
                                       .dtype = COTERIE_DTYPE_INT8};
    coterie_ffn_shape_t shape = usual;
    coterie_device_t *device = NULL;
    coterie_device_ops_t ops;

    cr_assert(eq(int, COTERIE_OK, coterie_device_open("host", &device)));
    ops = *device->ops;
    ops.products = no_library;
    cr_expect(eq(int, COTERIE_OK, coterie_device_call_shape(device, &shape)));
    shape.ffn = 50;
    cr_expect(eq(int, COTERIE_ERR_UNSUPPORTED,
                 coterie_device_call_shape(device, &shape)));
    shape.dtype = COTERIE_DTYPE_BF16;
    cr_expect(eq(int, COTERIE_OK, coterie_device_call_shape(device, &shape)));
    shape.hidden = 42;
    cr_expect(eq(int, COTERIE_ERR_UNSUPPORTED,
                 coterie_device_call_shape(device, &shape)));
    cr_expect(ne(ptr, strstr(coterie_last_error(), "42"), NULL));
    shape.hidden = 44;
    device->ops = &ops;
    cr_expect(eq(int, COTERIE_ERR_UNSUPPORTED,
                 coterie_device_call_shape(device, &shape)));
    shape = usual;
    cr_expect(eq(int, COTERIE_OK, coterie_device_call_shape(device, &shape)));
    coterie_device_close(device);
}
