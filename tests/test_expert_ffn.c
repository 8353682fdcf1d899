#include "config.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <criterion/parameterized.h>

#include <coterie/coterie.h>

#include "tests/kernels_data.h"

/* Experts, some without rows, and rows in the layout the kernel takes. */
typedef struct moe_case {
    coterie_ffn_shape_t shape;
    coterie_expert_rows_t rows;
    uint32_t *first, *row;
    float *weight, *x;
    weights_t *matrices; /* gate, up, down of each */
    char *panels;        /* the same, from an odd address on */
    coterie_expert_weights_t *experts;
} moe_case_t;

static void moe_rows_make(moe_case_t *c, uint64_t *seed)
{
    const uint32_t experts = c->rows.expert_count, rows = c->rows.row_count;
    uint32_t count = 0;
    c->first = malloc((experts + 1) * sizeof(uint32_t));
    c->row = malloc(((size_t)experts * rows + 1) * sizeof(uint32_t));
    c->weight = random_floats(seed, (size_t)experts * rows);
    for (uint32_t e = 0; e < experts; e++) {
        const uint32_t share = below(seed, 4); /* none, ..., all */
        c->first[e] = count;
        for (uint32_t row = 0; row < rows; row++)
            if (below(seed, 3) < share)
                c->row[count++] = row;
    }
    c->first[experts] = count;
    c->rows.first = c->first;
    c->rows.row = c->row;
    c->rows.weight = c->weight;
}

static const void *panels_make(coterie_dtype_t dtype, uint32_t out,
                               uint32_t in, const weights_t *weights,
                               char **at)
{
    char *to = *at;
    coterie_panels_pack(dtype, out, in, weights->data, NULL, to);
    *at = to + coterie_panels_size(dtype, out, in);
    return to;
}

static void moe_panels_make(moe_case_t *c)
{
    const uint32_t hidden = c->shape.hidden, ffn = c->shape.ffn;
    const coterie_dtype_t dtype = c->shape.dtype;
    char *at = c->panels =
        malloc(c->rows.expert_count *
                   (2 * coterie_panels_size(dtype, ffn, hidden) +
                    coterie_panels_size(dtype, hidden, ffn)) +
               1);
    at++;
    for (uint32_t e = 0; e < c->rows.expert_count; e++) {
        const weights_t *matrix = &c->matrices[3 * e];
        coterie_expert_weights_t *expert = &c->experts[e];
        *expert = (coterie_expert_weights_t){0};
        expert->gate = panels_make(dtype, ffn, hidden, &matrix[0], &at);
        expert->up = panels_make(dtype, ffn, hidden, &matrix[1], &at);
        expert->down = panels_make(dtype, hidden, ffn, &matrix[2], &at);
    }
}

static moe_case_t moe_make(uint64_t *seed, coterie_ffn_shape_t shape,
                           uint32_t rows, uint32_t experts)
{
    moe_case_t c = {.shape = shape,
                    .rows = {.expert_count = experts, .row_count = rows}};
    const size_t size = (size_t)shape.hidden * shape.ffn;
    moe_rows_make(&c, seed);
    c.x = random_floats(seed, (size_t)rows * shape.hidden);
    c.matrices = malloc(3 * experts * sizeof(*c.matrices));
    c.experts = malloc(experts * sizeof(*c.experts));
    for (uint32_t i = 0; i < 3 * experts; i++)
        c.matrices[i] = weights_make(seed, shape.dtype, size);
    moe_panels_make(&c);
    return c;
}

static void moe_free(moe_case_t *c)
{
    for (uint32_t i = 0; i < 3 * c->rows.expert_count; i++)
        weights_free(&c->matrices[i]);
    free(c->matrices);
    free(c->panels);
    free(c->experts);
    free(c->first);
    free(c->row);
    free(c->weight);
    free(c->x);
}

static void moe_run(const moe_case_t *c, float *sums)
{
    void *scratch = malloc(coterie_expert_ffn_scratch(&c->shape));
    coterie_expert_ffn(&c->shape, c->experts, &c->rows, c->x, sums, scratch);
    free(scratch);
}

static double dot(uint32_t count, const float *x, const double *weight)
{
    double sum = 0;
    for (uint32_t k = 0; k < count; k++)
        sum += x[k] * weight[k];
    return sum;
}

/* One pair's part of the sums, and the sum of its terms' magnitudes. */
static void moe_pair_reference(const moe_case_t *c, uint32_t expert,
                               uint32_t pair, double *sums, double *magnitude)
{
    const uint32_t hidden = c->shape.hidden, ffn = c->shape.ffn;
    const weights_t *matrix = &c->matrices[3 * expert];
    const float *x = c->x + (size_t)c->row[pair] * hidden;
    for (uint32_t f = 0; f < ffn; f++) {
        const double gate = dot(hidden, x, matrix[0].value + f * hidden);
        const double up = dot(hidden, x, matrix[1].value + f * hidden);
        const double inner = gate / (1 + exp(-gate)) * up * c->weight[pair];
        for (uint32_t h = 0; h < hidden; h++) {
            const double term = inner * matrix[2].value[h * ffn + f];
            sums[h] += term;
            magnitude[h] += fabs(term) + fabs(matrix[2].value[h * ffn + f]);
        }
    }
}

static void expect_moe(const moe_case_t *c, const float *before,
                       const float *sums)
{
    const size_t hidden = c->shape.hidden;
    const size_t count = c->rows.row_count * hidden;
    double *want = malloc((count + 1) * sizeof(*want));
    double *magnitude = malloc((count + 1) * sizeof(*magnitude));
    for (size_t i = 0; i < count; i++)
        want[i] = magnitude[i] = before[i];
    for (uint32_t e = 0; e < c->rows.expert_count; e++)
        for (uint32_t p = c->first[e]; p < c->first[e + 1]; p++)
            moe_pair_reference(c, e, p, want + c->row[p] * hidden,
                               magnitude + c->row[p] * hidden);
    for (size_t i = 0; i < count; i++)
        expect_close(sums[i], want[i],
                     tolerance(c->shape.hidden + c->shape.ffn,
                               2 + fabs(magnitude[i])));
    free(magnitude);
    free(want);
}

ParameterizedTestParameters(expert_ffn, agrees_with_double_precision)
{
    return variants_make();
}

ParameterizedTest(variant_t *v, expert_ffn, agrees_with_double_precision)
{
    uint64_t seed = 6;
    use_isa(v->isa);
    for (int round = 0; round < 20; round++) {
        const coterie_ffn_shape_t shape = {.hidden = 1 + below(&seed, 90),
                                           .ffn = 1 + below(&seed, 150),
                                           .dtype = v->dtype};
        moe_case_t c =
            moe_make(&seed, shape, below(&seed, 60), below(&seed, 6));
        const size_t count = (size_t)c.rows.row_count * shape.hidden;
        float *before = random_floats(&seed, count);
        float *sums = malloc((count + 1) * sizeof(*sums));
        memcpy(sums, before, count * sizeof(*sums));
        moe_run(&c, sums);
        expect_moe(&c, before, sums);
        free(sums);
        free(before);
        moe_free(&c);
    }
}

/* The batch of one row: the same pairs, in the same order. */
static moe_case_t moe_only_row(const moe_case_t *c, uint32_t row)
{
    const uint32_t experts = c->rows.expert_count;
    moe_case_t one = *c;
    uint32_t count = 0;
    one.first = malloc((experts + 1) * sizeof(uint32_t));
    one.row = calloc(experts + 1, sizeof(uint32_t));
    one.weight = malloc((experts + 1) * sizeof(float));
    for (uint32_t e = 0; e < experts; e++) {
        one.first[e] = count;
        for (uint32_t p = c->first[e]; p < c->first[e + 1]; p++)
            if (c->row[p] == row)
                one.weight[count++] = c->weight[p];
    }
    one.first[experts] = count;
    one.x = c->x + (size_t)row * c->shape.hidden;
    one.rows = (coterie_expert_rows_t){experts, 1, one.first, one.row,
                                       one.weight};
    return one;
}

ParameterizedTestParameters(expert_ffn, gives_a_row_the_same_bits_in_any_batch)
{
    return variants_make();
}

ParameterizedTest(variant_t *v, expert_ffn,
                  gives_a_row_the_same_bits_in_any_batch)
{
    const coterie_ffn_shape_t shape = {
        .hidden = 70, .ffn = 83, .dtype = v->dtype};
    uint64_t seed = 7;
    use_isa(v->isa);
    for (uint32_t rows = 1; rows < 130; rows += 1 + rows / 2) {
        moe_case_t c = moe_make(&seed, shape, rows, 5);
        float *sums = calloc((size_t)rows * shape.hidden, sizeof(*sums));
        moe_run(&c, sums);
        for (uint32_t row = 0; row < rows; row++) {
            moe_case_t one = moe_only_row(&c, row);
            float alone[70] = {0};
            moe_run(&one, alone);
            cr_expect(zero(int, memcmp(alone, sums + row * shape.hidden,
                                       sizeof(alone))));
            free(one.first);
            free(one.row);
            free(one.weight);
        }
        free(sums);
        moe_free(&c);
    }
}

Test(expert_ffn, does_not_touch_experts_without_rows)
{
    const coterie_ffn_shape_t shape = {
        .hidden = 8, .ffn = 8, .dtype = COTERIE_DTYPE_F32};
    const coterie_expert_weights_t experts[3] = {{0}};
    const uint32_t first[4] = {0};
    const coterie_expert_rows_t rows = {3, 1, first, NULL, NULL};
    float x[8] = {1}, sums[8] = {2};
    void *scratch = malloc(coterie_expert_ffn_scratch(&shape));
    coterie_expert_ffn(&shape, experts, &rows, x, sums, scratch);
    cr_expect(eq(flt, sums[0], 2));
    free(scratch);
}

ParameterizedTestParameters(expert_ffn, saturates_as_the_reference_does)
{
    return variants_make();
}

ParameterizedTest(variant_t *v, expert_ffn, saturates_as_the_reference_does)
{
    static const float gates[] = {-INFINITY, -1e30f, -100, -88.5f, 0,
                                  1e-42f,    88.5f,  1e30f, INFINITY, NAN};
    const coterie_ffn_shape_t shape = {
        .hidden = 1, .ffn = 1, .dtype = COTERIE_DTYPE_F32};
    const float one = 1;
    float ones[COTERIE_PANEL_OUTPUTS] = {1}, gate[COTERIE_PANEL_OUTPUTS] = {0};
    const uint32_t first[2] = {0, 1}, row = 0;
    const coterie_expert_rows_t rows = {1, 1, first, &row, &one};
    void *scratch = malloc(coterie_expert_ffn_scratch(&shape));
    use_isa(v->isa);
    for (size_t i = 0; i < sizeof(gates) / sizeof(gates[0]); i++) {
        const coterie_expert_weights_t expert = {
            .gate = gate, .up = ones, .down = ones};
        const double want = gates[i] / (1 + exp(-(double)gates[i]));
        float sum = 0;
        gate[0] = gates[i];
        coterie_expert_ffn(&shape, &expert, &rows, &one, &sum, scratch);
        expect_close(sum, want,
                     fabs(gates[i]) < 1e6 ? 1e-6 * fabs(gates[i]) : 1e24);
    }
    free(scratch);
}

/* The bits of some results with one instruction set, computed in a process of
 * its own; 0 if the processor lacks it. */
static uint64_t digest_of_isa(int isa)
{
    const coterie_ffn_shape_t shape = {
        .hidden = 75, .ffn = 2100, .dtype = COTERIE_DTYPE_BF16};
    uint64_t seed = 8, digest = 0;
    moe_case_t c = moe_make(&seed, shape, 9, 3);
    float sums[9 * 75] = {0};
    const int available = have_isa(isa);
    moe_run(&c, sums);
    coterie_rms_norm(9, 75, 1e-6f, sums, c.x, sums);
    for (size_t i = 0; available && i < 9 * 75; i++) {
        uint32_t bits;
        memcpy(&bits, &sums[i], sizeof(bits));
        digest = digest * 1099511628211u + bits;
    }
    moe_free(&c);
    return digest;
}

static uint64_t digest_apart(int isa)
{
    uint64_t digest = 0;
    int ends[2];
    cr_assert(zero(int, pipe(ends)));
    if (fork() == 0) {
        digest = digest_of_isa(isa);
        _exit(write(ends[1], &digest, sizeof(digest)) != sizeof(digest));
    }
    cr_assert(eq(int, (int)read(ends[0], &digest, sizeof(digest)),
                 (int)sizeof(digest)));
    wait(NULL);
    return digest;
}

Test(expert_ffn, gives_the_same_bits_with_avx2_and_avx512)
{
    const uint64_t avx2 = digest_apart(1), avx512 = digest_apart(2);
    if (avx2 == 0 || avx512 == 0)
        cr_skip_test("this processor lacks one of them");
    cr_expect(eq(u64, avx2, avx512));
}
