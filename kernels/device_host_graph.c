/* What a graph is to the processor: a list of calls, kept instead of made while
 * a capture lasts, and made by every replay. */
#include "config.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "kernels/device_host.h"

typedef struct call call_t;
struct call {
    int (*replay)(const coterie_gpu_kernels_t *kernels, const call_t *call);
    union {
        coterie_gpu_pairs_t sort;
        coterie_gpu_ffn_t ffn;
        coterie_gpu_combine_t combine;
        coterie_gpu_router_t router;
        coterie_gpu_dispatch_t send, arrive, give_back, finish;
        coterie_gpu_permute_t permute;
        coterie_gpu_unpack_t unpack;
        coterie_gpu_between_t activate, deliver;
        struct {
            const void *from;
            void *to;
            size_t size;
            int byte;
        } memory;
    } with;
    coterie_gpu_pairs_t pairs; /* ffn's */
};

/* A device's stream while it is captured. */
typedef struct graph {
    const coterie_gpu_kernels_t *kernels; /* that make the calls */
    call_t *calls;
    size_t count, capacity;
} graph_t;

static int call_add(graph_t *graph, const call_t *call);

/* A kernel with one argument: what keeps it, and what makes it. */
#define KEPT(name, type)                                         \
    static int replay_##name(const coterie_gpu_kernels_t *kernels, \
                             const call_t *call)                 \
    {                                                            \
        return kernels->name(NULL, &call->with.name);            \
    }                                                            \
    static int keep_##name(void *stream, const type *with)       \
    {                                                            \
        return call_add(stream, &(call_t){.replay = replay_##name, \
                                          .with.name = *with});  \
    }
KEPT(sort, coterie_gpu_pairs_t)
KEPT(combine, coterie_gpu_combine_t)
KEPT(router, coterie_gpu_router_t)
KEPT(send, coterie_gpu_dispatch_t)
KEPT(arrive, coterie_gpu_dispatch_t)
KEPT(give_back, coterie_gpu_dispatch_t)
KEPT(finish, coterie_gpu_dispatch_t)
KEPT(permute, coterie_gpu_permute_t)
KEPT(unpack, coterie_gpu_unpack_t)
KEPT(activate, coterie_gpu_between_t)
KEPT(deliver, coterie_gpu_between_t)
#undef KEPT

/* Its pairs are the caller's, and only now sure to be there. */
static int replay_ffn(const coterie_gpu_kernels_t *kernels,
                      const call_t *call)
{
    coterie_gpu_ffn_t ffn = call->with.ffn;

    ffn.pairs = &call->pairs;
    return kernels->ffn(NULL, &ffn);
}

static int keep_ffn(void *stream, const coterie_gpu_ffn_t *ffn)
{
    return call_add(stream, &(call_t){.replay = replay_ffn,
                                      .with.ffn = *ffn,
                                      .pairs = *ffn->pairs});
}

static int replay_narrow(const coterie_gpu_kernels_t *kernels,
                         const call_t *call)
{
    return kernels->narrow(NULL, call->with.memory.size,
                           call->with.memory.from, call->with.memory.to);
}

static int keep_narrow(void *stream, size_t count, const float *x, uint16_t *y)
{
    return call_add(stream, &(call_t){.replay = replay_narrow,
                                      .with.memory = {x, y, count, 0}});
}

static int replay_copy(const coterie_gpu_kernels_t *kernels,
                       const call_t *call)
{
    (void)kernels;
    memmove(call->with.memory.to, call->with.memory.from,
            call->with.memory.size);
    return 0;
}

static int replay_fill(const coterie_gpu_kernels_t *kernels,
                       const call_t *call)
{
    (void)kernels;
    memset(call->with.memory.to, call->with.memory.byte,
           call->with.memory.size);
    return 0;
}

static const coterie_gpu_kernels_t keeping_kernels = {
    .narrow = keep_narrow,
    .sort = keep_sort,
    .ffn = keep_ffn,
    .combine = keep_combine,
    .router = keep_router,
    .send = keep_send,
    .arrive = keep_arrive,
    .give_back = keep_give_back,
    .finish = keep_finish,
    .permute = keep_permute,
    .unpack = keep_unpack,
    .activate = keep_activate,
    .deliver = keep_deliver};

coterie_status_t coterie_host_capture_begin(coterie_device_t *d)
{
    graph_t *graph;

    if (d->stream[COTERIE_STREAM_COMPUTE] != NULL)
        return coterie_fail(COTERIE_ERR_INVALID,
                            "host: a capture has begun already");
    graph = calloc(1, sizeof(*graph));
    if (graph == NULL)
        return coterie_fail_memory(sizeof(*graph), "a graph");
    graph->kernels = d->kernels;
    d->kernels = &keeping_kernels;
    d->stream[COTERIE_STREAM_COMPUTE] = graph;
    return COTERIE_OK;
}

coterie_status_t coterie_host_capture_end(coterie_device_t *d, void **graph_p)
{
    graph_t *graph = d->stream[COTERIE_STREAM_COMPUTE];

    if (graph == NULL)
        return coterie_fail(COTERIE_ERR_INVALID,
                            "host: no capture has begun");
    d->kernels = graph->kernels;
    d->stream[COTERIE_STREAM_COMPUTE] = NULL;
    *graph_p = graph;
    return COTERIE_OK;
}

coterie_status_t coterie_host_replay(coterie_device_t *d, void *graph)
{
    const graph_t *g = graph;
    int error = 0;

    for (size_t i = 0; error == 0 && i < g->count; i++)
        error = g->calls[i].replay(g->kernels, &g->calls[i]);
    return d->ops->launched(d, "a graph", error);
}

void coterie_host_graph_release(coterie_device_t *d, void *graph)
{
    graph_t *g = graph;

    (void)d;
    if (g == NULL)
        return;
    free(g->calls);
    free(g);
}

int coterie_host_keep_copy(void *stream, void *to, const void *from,
                           size_t size)
{
    return call_add(stream, &(call_t){.replay = replay_copy,
                                      .with.memory = {from, to, size, 0}});
}

int coterie_host_keep_fill(void *stream, void *to, int byte, size_t size)
{
    return call_add(stream, &(call_t){.replay = replay_fill,
                                      .with.memory = {NULL, to, size, byte}});
}

/* @return the bytes that there were not */
static int call_add(graph_t *graph, const call_t *call)
{
    if (graph->count == graph->capacity) {
        const size_t capacity = 2 * graph->capacity + 16;
        call_t *calls = realloc(graph->calls, capacity * sizeof(*calls));

        if (calls == NULL)
            return (int)sizeof(*call);
        graph->calls = calls;
        graph->capacity = capacity;
    }
    graph->calls[graph->count++] = *call;
    return 0;
}
