/* oneDNN's matrix products of experts, flattered: every chosen expert gets the
 * same number of rows, gathered and in its type already, weights are in the
 * layout it prefers, and there is no activation. */
#include <dnnl.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "bench/peer.h"

/* rows times [in, out]. */
typedef struct product {
    int64_t rows, in, out;
    dnnl_primitive_t primitive;
    dnnl_memory_t from, weights, to;
    size_t weights_size;
} product_t;

typedef struct handle {
    peer_work_t work;
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    dnnl_data_type_t from, weights, to;
    product_t wide, narrow; /* gate and up; down */
    unsigned char *chosen;  /* [experts] */
    uint32_t distinct;
} handle_t;

static void *onednn_open(const peer_work_t *work);
static int types_find(handle_t *handle);
static void onednn_prepare(void *arg);
static void product_make(const handle_t *handle, product_t *product);
static dnnl_memory_desc_t matrix_of(int64_t rows, int64_t columns,
                                    dnnl_data_type_t type,
                                    dnnl_format_tag_t tag);
static void product_free(product_t *product);
static double onednn_run(void *arg);
static void product_run(const handle_t *handle, const product_t *product,
                        char *weights);
static void onednn_close(void *arg);

__attribute__((visibility("default"))) const peer_t *coterie_bench_peer(void)
{
    static const peer_t peer = {"onednn", onednn_open, onednn_prepare,
                                onednn_run, onednn_close};

    return &peer;
}

static void *onednn_open(const peer_work_t *work)
{
    handle_t *handle = calloc(1, sizeof(*handle));

    handle->work = *work;
    if (!types_find(handle) ||
        dnnl_engine_create(&handle->engine, dnnl_cpu, 0) != dnnl_success) {
        free(handle);
        return NULL;
    }
    dnnl_stream_create(&handle->stream, handle->engine,
                       dnnl_stream_default_flags);
    handle->chosen = malloc(work->experts);
    return handle;
}

static int types_find(handle_t *handle)
{
    const char *dtype = handle->work.dtype;

    handle->from = handle->weights = handle->to = dnnl_f32;
    if (strcmp(dtype, "bf16") == 0)
        handle->from = handle->weights = handle->to = dnnl_bf16;
    else if (strncmp(dtype, "int8", 4) == 0) {
        handle->from = dnnl_u8;
        handle->weights = dnnl_s8;
    } else if (strcmp(dtype, "f32") != 0)
        return 0;
    return 1;
}

static void onednn_prepare(void *arg)
{
    handle_t *handle = arg;
    const peer_work_t *work = &handle->work;
    const uint32_t pairs = work->tokens * work->k;
    int64_t rows;

    memset(handle->chosen, 0, work->experts);
    for (uint32_t i = 0; i < pairs; i++)
        handle->chosen[work->ids[i]] = 1;
    handle->distinct = 0;
    for (uint32_t e = 0; e < work->experts; e++)
        handle->distinct += handle->chosen[e];
    rows = (pairs + handle->distinct - 1) / handle->distinct;
    omp_set_num_threads((int)work->threads);
    if (handle->wide.rows == rows)
        return;
    product_free(&handle->wide);
    product_free(&handle->narrow);
    handle->wide = (product_t){.rows = rows, .in = work->hidden,
                               .out = work->ffn};
    handle->narrow = (product_t){.rows = rows, .in = work->ffn,
                                 .out = work->hidden};
    product_make(handle, &handle->wide);
    product_make(handle, &handle->narrow);
}

static void product_make(const handle_t *handle, product_t *product)
{
    const dnnl_memory_desc_t from = matrix_of(product->rows, product->in,
                                              handle->from, dnnl_ab);
    const dnnl_memory_desc_t weights = matrix_of(
        product->in, product->out, handle->weights, dnnl_format_tag_any);
    const dnnl_memory_desc_t to = matrix_of(product->rows, product->out,
                                            handle->to, dnnl_ab);
    const dnnl_memory_desc_t *packed;
    dnnl_primitive_desc_t about;
    dnnl_matmul_desc_t matmul;

    dnnl_matmul_desc_init(&matmul, &from, &weights, NULL, &to);
    dnnl_primitive_desc_create(&about, &matmul, NULL, handle->engine, NULL);
    packed = dnnl_primitive_desc_query_md(about, dnnl_query_weights_md, 0);
    product->weights_size = dnnl_memory_desc_get_size(packed);
    dnnl_memory_create(&product->from, &from, handle->engine,
                       DNNL_MEMORY_ALLOCATE);
    dnnl_memory_create(&product->weights, packed, handle->engine,
                       DNNL_MEMORY_NONE);
    dnnl_memory_create(&product->to, &to, handle->engine,
                       DNNL_MEMORY_ALLOCATE);
    dnnl_primitive_create(&product->primitive, about);
    dnnl_primitive_desc_destroy(about);
}

static dnnl_memory_desc_t matrix_of(int64_t rows, int64_t columns,
                                    dnnl_data_type_t type,
                                    dnnl_format_tag_t tag)
{
    const dnnl_dims_t dims = {rows, columns};
    dnnl_memory_desc_t about;

    dnnl_memory_desc_init_by_tag(&about, 2, dims, type, tag);
    return about;
}

static void product_free(product_t *product)
{
    if (product->rows == 0)
        return;
    dnnl_primitive_destroy(product->primitive);
    dnnl_memory_destroy(product->from);
    dnnl_memory_destroy(product->weights);
    dnnl_memory_destroy(product->to);
}

static double onednn_run(void *arg)
{
    handle_t *handle = arg;
    const peer_work_t *work = &handle->work;
    const size_t wide = handle->wide.weights_size;
    const size_t size = 2 * wide + handle->narrow.weights_size;

    for (uint32_t e = 0; e < work->experts; e++) {
        char *weights = work->weights + e * size;

        if (!handle->chosen[e] || (e + 1) * size > work->weights_size)
            continue;
        product_run(handle, &handle->wide, weights);
        product_run(handle, &handle->wide, weights + wide);
        product_run(handle, &handle->narrow, weights + 2 * wide);
    }
    dnnl_stream_wait(handle->stream);
    return 6.0 * handle->distinct * (double)handle->wide.rows * work->hidden *
           work->ffn;
}

static void product_run(const handle_t *handle, const product_t *product,
                        char *weights)
{
    const dnnl_exec_arg_t args[] = {{DNNL_ARG_SRC, product->from},
                                    {DNNL_ARG_WEIGHTS, product->weights},
                                    {DNNL_ARG_DST, product->to}};

    dnnl_memory_set_data_handle(product->weights, weights);
    dnnl_primitive_execute(product->primitive, handle->stream, 3, args);
}

static void onednn_close(void *arg)
{
    handle_t *handle = arg;

    product_free(&handle->wide);
    product_free(&handle->narrow);
    dnnl_stream_destroy(handle->stream);
    dnnl_engine_destroy(handle->engine);
    free(handle->chosen);
    free(handle);
}
