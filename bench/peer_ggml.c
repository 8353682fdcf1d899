/* llama.cpp's experts, as its graphs compute them, in a module of its own: two
 * versions of ggml have the same names. With PEER_IK it is ik_llama.cpp, whose
 * types are laid out for its kernels beforehand and whose graphs fuse gate and
 * up; in llama.cpp a buffer does that, for the types that have one. */
#include <stdlib.h>
#include <string.h>

#include <ggml-alloc.h>
#include <ggml-backend.h>
#include <ggml.h>
#if !defined(PEER_IK)
#include <ggml-cpu.h>
#endif

#include "bench/peer.h"

typedef struct handle {
    peer_work_t work;
    struct ggml_context *context;
    struct ggml_cgraph *graph;
    struct ggml_cplan plan;
    struct ggml_tensor *matrices[3]; /* gate, up, down */
    struct ggml_tensor *x, *ids, *scores;
    ggml_backend_buffer_t buffer; /* of repacked weights, or NULL */
} handle_t;

typedef struct type_name {
    const char *dtype;
    enum ggml_type type;
} type_name_t;

static const type_name_t types[] = {
    {"f32", GGML_TYPE_F32},
    {"f16", GGML_TYPE_F16},
#if defined(PEER_IK)
    {"bf16", GGML_TYPE_BF16_R16},
    {"int8-group", GGML_TYPE_Q8_0_R8},
    {"int4", GGML_TYPE_Q4_0_R8},
    {"int4-zero", GGML_TYPE_Q4_1},
#else
    {"bf16", GGML_TYPE_BF16},
    {"int8-group", GGML_TYPE_Q8_0},
    {"int4", GGML_TYPE_Q4_0},
    {"int4-zero", GGML_TYPE_Q4_1},
#endif
    {"mxfp4", GGML_TYPE_MXFP4},
};

static void *ggml_open(const peer_work_t *work);
static int type_find(const char *dtype, enum ggml_type *type);
static void weights_make(handle_t *handle, enum ggml_type type);
#if !defined(PEER_IK)
static void weights_repack(handle_t *handle);
#endif
static void graph_make(handle_t *handle);
static struct ggml_tensor *inner_make(handle_t *handle);
static void ggml_prepare(void *arg);
static double ggml_run(void *arg);
static void ggml_end(void *arg);

__attribute__((visibility("default"))) const peer_t *coterie_bench_peer(void)
{
#if defined(PEER_IK)
    static const char name[] = "ik_llama.cpp";
#else
    static const char name[] = "llama.cpp";
#endif
    static const peer_t peer = {name, ggml_open, ggml_prepare, ggml_run,
                                ggml_end};

    return &peer;
}

static void *ggml_open(const peer_work_t *work)
{
    const size_t rows = (size_t)work->tokens * work->k;
    const struct ggml_init_params params = {
        .mem_size = ((size_t)64 << 20) +
                    sizeof(float) * rows * (4 * work->ffn + 8 * work->hidden),
    };
    enum ggml_type type;
    handle_t *handle;

    if (!type_find(work->dtype, &type))
        return NULL;
    handle = calloc(1, sizeof(*handle));
    handle->work = *work;
    handle->context = ggml_init(params);
    weights_make(handle, type);
    graph_make(handle);
#if defined(PEER_IK)
    handle->plan = ggml_graph_plan(handle->graph, (int)work->threads);
#else
    handle->plan = ggml_graph_plan(handle->graph, (int)work->threads, NULL);
#endif
    handle->plan.work_data = malloc(handle->plan.work_size + 1);
    return handle;
}

static int type_find(const char *dtype, enum ggml_type *type)
{
    for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++)
        if (strcmp(types[i].dtype, dtype) == 0) {
            *type = types[i].type;
            return 1;
        }
    return 0;
}

static void weights_make(handle_t *handle, enum ggml_type type)
{
    const peer_work_t *work = &handle->work;
    const int64_t hidden = work->hidden, ffn = work->ffn;
    char *at = work->weights;

    ggml_set_no_alloc(handle->context, true);
    for (int m = 0; m < 3; m++) {
        handle->matrices[m] = ggml_new_tensor_3d(
            handle->context, type, m < 2 ? hidden : ffn, m < 2 ? ffn : hidden,
            work->experts);
        handle->matrices[m]->data = at;
        at += ggml_nbytes(handle->matrices[m]);
    }
    ggml_set_no_alloc(handle->context, false);
#if !defined(PEER_IK)
    weights_repack(handle);
#endif
}

#if !defined(PEER_IK)
/* Into the CPU's own buffer, if it takes this type: what a loaded model has. */
static void weights_repack(handle_t *handle)
{
    ggml_backend_dev_t device =
        ggml_backend_reg_dev_get(ggml_backend_cpu_reg(), 0);
    ggml_backend_dev_get_extra_bufts_t extras =
        (ggml_backend_dev_get_extra_bufts_t)ggml_backend_reg_get_proc_address(
            ggml_backend_cpu_reg(), "ggml_backend_dev_get_extra_bufts");
    ggml_backend_buffer_type_t *kinds =
        extras != NULL ? extras(device) : NULL;
    const enum ggml_type type = handle->matrices[0]->type;
    char *base;

    if (kinds == NULL || kinds[0] == NULL || !ggml_is_quantized(type))
        return;
    handle->buffer = ggml_backend_buft_alloc_buffer(
        kinds[0], 3 * (ggml_nbytes(handle->matrices[0]) + 4096));
    base = ggml_backend_buffer_get_base(handle->buffer);
    for (int m = 0; m < 3; m++) {
        struct ggml_tensor *matrix = handle->matrices[m];
        const void *from = matrix->data;
        matrix->data = NULL;
        ggml_backend_tensor_alloc(handle->buffer, matrix, base);
        if (matrix->extra == NULL) { /* it does not take this type */
            matrix->buffer = NULL;
            matrix->data = (void *)from;
            break;
        }
        ggml_backend_tensor_set(matrix, from, 0, ggml_nbytes(matrix));
        base += (ggml_nbytes(matrix) + 4095) / 4096 * 4096;
    }
}
#endif

static void graph_make(handle_t *handle)
{
    struct ggml_context *c = handle->context;
    const peer_work_t *work = &handle->work;
    struct ggml_tensor *out, *sum = NULL;

    handle->x = ggml_new_tensor_3d(c, GGML_TYPE_F32, work->hidden, 1,
                                   work->tokens);
    handle->ids =
        ggml_new_tensor_2d(c, GGML_TYPE_I32, work->k, work->tokens);
    handle->scores = ggml_new_tensor_3d(c, GGML_TYPE_F32, 1, work->k,
                                        work->tokens);
    memcpy(handle->x->data, work->x, ggml_nbytes(handle->x));
    memcpy(handle->scores->data, work->scores, ggml_nbytes(handle->scores));
    out = ggml_mul_mat_id(c, handle->matrices[2], inner_make(handle),
                          handle->ids);
    out = ggml_mul(c, out, handle->scores);
    for (uint32_t i = 0; i < work->k; i++) {
        struct ggml_tensor *view =
            ggml_view_2d(c, out, work->hidden, work->tokens, out->nb[2],
                         i * out->nb[1]);
        sum = sum == NULL ? view : ggml_add(c, sum, view);
    }
    handle->graph = ggml_new_graph(c);
    ggml_build_forward_expand(handle->graph, sum);
}

static struct ggml_tensor *inner_make(handle_t *handle)
{
    struct ggml_context *c = handle->context;
#if defined(PEER_IK)
    return ggml_moe_up_gate(c, handle->matrices[1], handle->matrices[0],
                            handle->x, handle->ids, GGML_UNARY_OP_SILU);
#else
    struct ggml_tensor *up =
        ggml_mul_mat_id(c, handle->matrices[1], handle->x, handle->ids);
    struct ggml_tensor *gate =
        ggml_mul_mat_id(c, handle->matrices[0], handle->x, handle->ids);
    return ggml_swiglu_split(c, gate, up);
#endif
}

static void ggml_prepare(void *arg)
{
    handle_t *handle = arg;

    memcpy(handle->ids->data, handle->work.ids, ggml_nbytes(handle->ids));
}

static double ggml_run(void *arg)
{
    handle_t *handle = arg;
    const peer_work_t *work = &handle->work;

    ggml_graph_compute(handle->graph, &handle->plan);
    return 6.0 * work->tokens * work->k * work->hidden * work->ffn;
}

static void ggml_end(void *arg)
{
    handle_t *handle = arg;

    if (handle->buffer != NULL)
        ggml_backend_buffer_free(handle->buffer);
    free(handle->plan.work_data);
    ggml_free(handle->context);
    free(handle);
}
