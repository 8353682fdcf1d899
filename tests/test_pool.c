#include "config.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include <coterie/coterie.h>

#include "tests/kernels_data.h"

enum { HIDDEN = 160, FFN = 230, EXPERTS = 7, ROWS = 150, CALLERS = 5 };

/* A layer with an expert that everyone chooses, some without rows, and what
 * one thread makes of it. */
typedef struct layer {
    coterie_ffn_shape_t shape;
    coterie_expert_rows_t rows;
    coterie_expert_weights_t experts[EXPERTS];
    uint32_t first[EXPERTS + 1], row[EXPERTS * ROWS];
    float *weights, *x, *want, weight[EXPERTS * ROWS];
} layer_t;

static layer_t layer_make(uint32_t row_count)
{
    layer_t layer = {.shape = {.hidden = HIDDEN, .ffn = FFN,
                               .dtype = COTERIE_DTYPE_F32}};
    const size_t size =
        coterie_panels_size(COTERIE_DTYPE_F32, FFN, HIDDEN) / 4;
    const size_t down =
        coterie_panels_size(COTERIE_DTYPE_F32, HIDDEN, FFN) / 4;
    uint64_t seed = 5;
    uint32_t count = 0;

    layer.weights = random_floats(&seed, EXPERTS * (2 * size + down));
    layer.x = random_floats(&seed, (size_t)row_count * HIDDEN);
    layer.want = calloc((size_t)row_count * HIDDEN, sizeof(float));
    for (uint32_t e = 0; e < EXPERTS; e++) {
        const float *w = layer.weights + e * (2 * size + down);
        layer.experts[e] = (coterie_expert_weights_t){
            .gate = w, .up = w + size, .down = w + 2 * size};
        layer.first[e] = count;
        for (uint32_t row = 0; row < row_count; row++)
            if (e == 2 || (e % 3 != 0 && below(&seed, 4) == 0)) {
                layer.weight[count] = 0.1f * (float)(e + 1);
                layer.row[count++] = row;
            }
    }
    layer.first[EXPERTS] = count;
    layer.rows.expert_count = EXPERTS;
    layer.rows.row_count = row_count;
    return layer;
}

static void layer_free(layer_t *layer)
{
    free(layer->weights);
    free(layer->x);
    free(layer->want);
}

static void layer_run(coterie_pool_t *pool, const layer_t *layer, float *sums)
{
    coterie_expert_rows_t rows = layer->rows;
    coterie_ffn_call_t call = {&layer->shape, layer->experts, &rows, layer->x,
                               sums, NULL};

    rows.first = layer->first;
    rows.row = layer->row;
    rows.weight = layer->weight;
    call.scratch = malloc(coterie_pool_scratch(pool, &layer->shape));
    coterie_pool_ffn(pool, &call);
    free(call.scratch);
}

static coterie_pool_t *pool_of(uint32_t threads)
{
    coterie_pool_options_t options = COTERIE_POOL_OPTIONS_INIT;
    coterie_pool_t *pool = NULL;

    options.threads = threads;
    cr_assert(eq(int, COTERIE_OK, coterie_pool_create(&options, &pool)));
    return pool;
}

static void expect_same(coterie_pool_t *pool, const layer_t *layer)
{
    const size_t size = layer->rows.row_count * HIDDEN * sizeof(float);
    float *sums = calloc(1, size + 1);

    layer_run(pool, layer, sums);
    cr_expect(zero(int, memcmp(sums, layer->want, size)));
    free(sums);
}

Test(pool, any_number_of_threads_gives_the_bits_of_one)
{
    static const uint32_t rows[] = {0, 1, 2, 9, ROWS};

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        layer_t layer = layer_make(rows[i]);

        layer_run(NULL, &layer, layer.want);
        for (uint32_t threads = 1; threads <= 5; threads++) {
            coterie_pool_t *pool = pool_of(threads);

            cr_expect(eq(u32, threads, coterie_pool_threads(pool)));
            for (int again = 0; again < 10; again++)
                expect_same(pool, &layer);
            coterie_pool_destroy(pool);
        }
        layer_free(&layer);
    }
}

typedef struct caller {
    coterie_pool_t *pool;
    const layer_t *layer;
} caller_t;

static void *caller_main(void *arg)
{
    const caller_t *caller = arg;

    for (int i = 0; i < 20; i++)
        expect_same(caller->pool, caller->layer);
    return NULL;
}

Test(pool, serves_several_callers_at_once)
{
    layer_t layer = layer_make(20);
    pthread_t threads[CALLERS];
    caller_t caller = {NULL, &layer};

    layer_run(NULL, &layer, layer.want);
    for (uint32_t size = 1; size <= 3; size++) {
        caller.pool = pool_of(size);
        for (int i = 0; i < CALLERS; i++)
            pthread_create(&threads[i], NULL, caller_main, &caller);
        for (int i = 0; i < CALLERS; i++)
            pthread_join(threads[i], NULL);
        coterie_pool_destroy(caller.pool);
    }
    layer_free(&layer);
}

Test(pool, by_default_has_a_thread_for_each_core)
{
    coterie_pool_t *pool = pool_of(0);

    cr_expect(gt(u32, coterie_pool_threads(pool), 0));
    coterie_pool_destroy(pool);
    coterie_pool_destroy(NULL);
}

Test(pool, refuses_more_threads_than_any_machine_has)
{
    coterie_pool_options_t options = COTERIE_POOL_OPTIONS_INIT;
    coterie_pool_t *pool = NULL;

    options.threads = 1025;
    cr_expect(eq(int, COTERIE_ERR_INVALID,
                 coterie_pool_create(&options, &pool)));
    cr_expect(zero(ptr, pool));
    cr_expect(strstr(coterie_last_error(), "1025") != NULL);
}
