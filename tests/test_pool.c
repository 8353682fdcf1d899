#include "config.h"

#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include <coterie/coterie.h>

#include "kernels/pool.h"
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

#if defined(HAVE_HWLOC)
/* hwloc then tells of a machine whose first two processors are each a node;
 * what it binds to them is not bound, but threads are where they are. */
static void two_nodes_pose(void)
{
    setenv("HWLOC_SYNTHETIC", "numa:2 core:1 pu:1", 1);
}

static coterie_machine_t *machine_of_two_nodes(void)
{
    coterie_machine_t *machine = NULL;

    two_nodes_pose();
    cr_assert(eq(int, COTERIE_OK, coterie_machine_create(&machine)));
    cr_assert(eq(u32, 2, coterie_machine_nodes(machine)));
    return machine;
}

Test(pool, over_numa_nodes_gives_the_bits_of_one_thread)
{
    layer_t layer = layer_make(ROWS);

    layer_run(NULL, &layer, layer.want);
    two_nodes_pose();
    for (uint32_t threads = 1; threads <= 4; threads++) {
        coterie_pool_t *pool = pool_of(threads);

        cr_assert(eq(u32, 2, coterie_pool_nodes(pool)));
        for (int e = 0; e < EXPERTS; e++)
            coterie_pool_place(pool, &layer.shape, &layer.experts[e]);
        for (int again = 0; again < 10; again++)
            expect_same(pool, &layer);
        coterie_pool_destroy(pool);
    }
    layer_free(&layer);
}

Test(pool, knows_the_node_that_a_thread_is_on)
{
    coterie_machine_t *machine = machine_of_two_nodes();

    for (uint32_t node = 0; node < 2; node++) {
        cpu_set_t one;

        CPU_ZERO(&one);
        CPU_SET(node, &one);
        if (sched_setaffinity(0, sizeof(one), &one) != 0)
            cr_skip_test("this process may not use two processors");
        cr_expect(eq(u32, node, coterie_machine_node_here(machine)));
    }
    coterie_machine_destroy(machine);
}

Test(pool, keeps_threads_on_cores_of_their_own)
{
    coterie_machine_t *machine = NULL;
    cpu_set_t all, taken, here, both;

    CPU_ZERO(&taken);
    sched_getaffinity(0, sizeof(all), &all);
    cr_assert(eq(int, COTERIE_OK, coterie_machine_create(&machine)));
    for (uint32_t i = 0; i < coterie_machine_cores(machine); i++) {
        coterie_machine_pin(machine, i);
        sched_getaffinity(0, sizeof(here), &here);
        CPU_AND(&both, &here, &taken);
        cr_expect(eq(int, CPU_COUNT(&both), 0), "core %u is taken", i);
        CPU_OR(&taken, &taken, &here);
        CPU_AND(&both, &here, &all);
        cr_expect(gt(int, CPU_COUNT(&both), 0));
    }
    coterie_machine_destroy(machine);
}
#endif

Test(pool, leaves_its_caller_where_it_was)
{
    layer_t layer = layer_make(9);
    coterie_pool_t *pool = pool_of(3);
    cpu_set_t before, after;

    layer_run(NULL, &layer, layer.want);
    CPU_ZERO(&before);
    CPU_ZERO(&after);
    sched_getaffinity(0, sizeof(before), &before);
    expect_same(pool, &layer);
    sched_getaffinity(0, sizeof(after), &after);
    cr_expect(zero(int, memcmp(&before, &after, sizeof(before))));
    coterie_pool_destroy(pool);
    layer_free(&layer);
}
