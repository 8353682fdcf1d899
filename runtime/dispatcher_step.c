/* The step path: checks what the host can see, and queues kernels. */
#include "config.h"

#include <string.h>

#include "base/error.h"
#include "runtime/dispatcher.h"

typedef int (*launch_fn)(void *stream, const coterie_gpu_dispatch_t *d);

static coterie_gpu_parcel_t parcel_returned(const coterie_layer_call_t *call);
static coterie_status_t call_check(const coterie_dispatcher_t *d,
                                   const coterie_layer_call_t *call);
static coterie_status_t mode_check(const coterie_dispatcher_t *d,
                                   const coterie_layer_call_t *call);
static coterie_status_t rows_check(const coterie_dispatcher_t *d,
                                   const coterie_layer_call_t *call,
                                   uint32_t i);
static coterie_status_t launch(const coterie_dispatcher_t *d,
                               const coterie_layer_call_t *call,
                               launch_fn kernel, const char *name);
static void launch_fill(const coterie_dispatcher_t *d,
                        const coterie_layer_call_t *call, uint32_t from,
                        coterie_gpu_dispatch_t *terms);
static coterie_gpu_rows_t rows_of(const coterie_device_rows_t *rows);
static coterie_status_t swap(const coterie_dispatcher_t *d,
                             const coterie_layer_call_t *call,
                             coterie_gpu_parcel_t parcel);
static coterie_status_t meet(const coterie_dispatcher_t *d,
                             const coterie_layer_call_t *call);

coterie_status_t coterie_dispatcher_send(coterie_dispatcher_t *dispatcher,
                                         const coterie_layer_call_t *call)
{
    coterie_status_t status = call_check(dispatcher, call);

    if (status == COTERIE_OK)
        status = launch(dispatcher, call, dispatcher->device->kernels->send,
                        "send");
    if (status == COTERIE_OK && call->mode != COTERIE_MODE_FORWARD)
        status = swap(dispatcher, call, COTERIE_GPU_DISPATCH);
    return status;
}

coterie_status_t coterie_dispatcher_arrive(coterie_dispatcher_t *dispatcher,
                                           const coterie_layer_call_t *call)
{
    coterie_device_t *device = dispatcher->device;
    void *stream = device->stream[COTERIE_STREAM_COMPUTE];
    coterie_status_t status = call_check(dispatcher, call);
    int error = 0;

    if (status == COTERIE_OK &&
        (call->mode != COTERIE_MODE_FORWARD || call->late))
        status = meet(dispatcher, call);
    if (status == COTERIE_OK)
        status = launch(dispatcher, call, device->kernels->arrive, "arrive");
    for (uint32_t i = 0;
         status == COTERIE_OK && error == 0 && i < call->count; i++)
        error = device->kernels->sort(
            stream, &dispatcher->driven[call->first + i -
                                        dispatcher->fabric->first]
                         .pairs);
    if (status == COTERIE_OK)
        status = device->ops->launched(device, "sort", error);
    return status;
}

coterie_status_t coterie_dispatcher_compute(coterie_dispatcher_t *dispatcher,
                                            const coterie_layer_call_t *call)
{
    const coterie_dispatcher_t *d = dispatcher;
    coterie_status_t status = call_check(d, call);

    for (uint32_t i = 0; status == COTERIE_OK && i < call->count; i++) {
        const uint32_t at = call->first + i - d->fabric->first;
        const coterie_driven_t *driven = &d->driven[at];
        const coterie_gpu_rank_t *rank = &d->ranks[at];
        coterie_gpu_ffn_t ffn;

        if (driven->bank == NULL)
            return coterie_fail(COTERIE_ERR_INVALID,
                                "dispatcher: rank %u has no bank",
                                rank->rank);
        ffn = (coterie_gpu_ffn_t){
            driven->bank->shape,
            coterie_bank_device_experts(driven->bank, call->layer),
            &driven->pairs,
            coterie_dispatcher_x(d, at, call->mode),
            driven->inner,
            (float *)rank->out,
            d->device->blocks};
        d->device->ops->range_begin(d->device, "experts");
        status = d->device->ops->launched(
            d->device, "experts",
            d->device->kernels->ffn(
                d->device->stream[COTERIE_STREAM_COMPUTE], &ffn));
        d->device->ops->range_end(d->device);
    }
    return status;
}

coterie_status_t coterie_dispatcher_return(coterie_dispatcher_t *dispatcher,
                                           const coterie_layer_call_t *call)
{
    coterie_status_t status = call_check(dispatcher, call);

    if (status == COTERIE_OK)
        status = launch(dispatcher, call,
                        dispatcher->device->kernels->give_back, "return");
    if (status == COTERIE_OK)
        status = swap(dispatcher, call, parcel_returned(call));
    if (status == COTERIE_OK && call->mode == COTERIE_MODE_FORWARD &&
        dispatcher->terms.mends && !call->late)
        status = swap(dispatcher, call, COTERIE_GPU_LATE);
    return status;
}

coterie_status_t coterie_dispatcher_finish(coterie_dispatcher_t *dispatcher,
                                           const coterie_layer_call_t *call)
{
    coterie_status_t status = call_check(dispatcher, call);

    if (status == COTERIE_OK)
        status = meet(dispatcher, call);
    if (status == COTERIE_OK)
        status = launch(dispatcher, call, dispatcher->device->kernels->finish,
                        "finish");
    return status;
}

static coterie_gpu_parcel_t parcel_returned(const coterie_layer_call_t *call)
{
    if (call->mode != COTERIE_MODE_FORWARD)
        return COTERIE_GPU_RETURN;
    return call->late ? COTERIE_GPU_FIXUP : COTERIE_GPU_FORWARD;
}

static coterie_status_t call_check(const coterie_dispatcher_t *d,
                                   const coterie_layer_call_t *call)
{
    const uint32_t first = d->fabric->first;
    coterie_status_t status = COTERIE_OK;

    if (call->size < sizeof(*call) || call->layer >= d->layer_count ||
        call->count == 0 || call->first < first ||
        call->first - first + call->count > d->driven_count)
        return coterie_fail(COTERIE_ERR_INVALID,
                            "dispatcher: layer %u of ranks %u to %u; it has "
                            "%u layers and ranks %u to %u",
                            call->layer, call->first,
                            call->first + call->count - 1, d->layer_count,
                            first, first + d->driven_count - 1);
    status = mode_check(d, call);
    for (uint32_t i = 0; status == COTERIE_OK && i < call->count; i++)
        status = rows_check(d, call, i);
    return status;
}

static coterie_status_t mode_check(const coterie_dispatcher_t *d,
                                   const coterie_layer_call_t *call)
{
    if (call->mode == COTERIE_MODE_AUTO || call->mode > COTERIE_MODE_FORWARD)
        return coterie_fail(COTERIE_ERR_INVALID,
                            "dispatcher: mode %u; a layer is two-phase, owner "
                            "or forward",
                            call->mode);
    if (call->mode == COTERIE_MODE_OWNER && d->options.norm == NULL)
        return coterie_fail(COTERIE_ERR_INVALID,
                            "dispatcher: owner needs options.norm, for rows "
                            "that move");
    if (call->mode == COTERIE_MODE_FORWARD && !d->options.forward)
        return coterie_fail(COTERIE_ERR_INVALID,
                            "dispatcher: forward needs options.forward, for "
                            "room");
    if (call->late &&
        (call->mode != COTERIE_MODE_FORWARD || !d->terms.mends))
        return coterie_fail(COTERIE_ERR_INVALID,
                            "dispatcher: rows are late only in forward with "
                            "options.predicted_k");
    return COTERIE_OK;
}

static coterie_status_t rows_check(const coterie_dispatcher_t *d,
                                   const coterie_layer_call_t *call,
                                   uint32_t i)
{
    const coterie_device_rows_t *in = &call->in[i], *out = &call->out[i];

    if (in->size < sizeof(*in) || out->size < sizeof(*out) ||
        in->count == NULL || in->hidden == NULL || in->normed == NULL ||
        in->topk_ids == NULL || in->topk_weights == NULL ||
        out->count == NULL || out->hidden == NULL)
        return coterie_fail(COTERIE_ERR_INVALID,
                            "dispatcher: rank %u: an array of in or out is "
                            "missing, or their size",
                            call->first + i);
    if (in->capacity > d->options.max_rows)
        return coterie_fail(COTERIE_ERR_CAPACITY,
                            "dispatcher: rank %u: %u rows; max_rows is %u",
                            call->first + i, in->capacity,
                            d->options.max_rows);
    return COTERIE_OK;
}

static coterie_status_t launch(const coterie_dispatcher_t *d,
                               const coterie_layer_call_t *call,
                               launch_fn kernel, const char *name)
{
    const coterie_device_ops_t *ops = d->device->ops;
    void *stream = d->device->stream[COTERIE_STREAM_COMPUTE];
    int error = 0;

    ops->range_begin(d->device, name);
    for (uint32_t from = 0; error == 0 && from < call->count;
         from += COTERIE_GPU_DRIVEN_MAX) {
        coterie_gpu_dispatch_t terms = d->terms;

        launch_fill(d, call, from, &terms);
        error = kernel(stream, &terms);
    }
    ops->range_end(d->device);
    return ops->launched(d->device, name, error);
}

static void launch_fill(const coterie_dispatcher_t *d,
                        const coterie_layer_call_t *call, uint32_t from,
                        coterie_gpu_dispatch_t *terms)
{
    const uint32_t left = call->count - from;
    const uint32_t blocks = d->device->blocks * 4;

    terms->first = call->first - d->fabric->first + from;
    terms->count =
        left < COTERIE_GPU_DRIVEN_MAX ? left : COTERIE_GPU_DRIVEN_MAX;
    terms->layer = call->layer;
    terms->owner = call->mode == COTERIE_MODE_OWNER;
    terms->forward = call->mode == COTERIE_MODE_FORWARD;
    terms->late = call->late;
    if (call->layer + 1 < d->layer_count)
        terms->predicted_k = d->options.predicted_k;
    terms->in_place = coterie_dispatcher_in_place(d, call->mode);
    terms->blocks = blocks > terms->count ? blocks / terms->count : 1;
    if (terms->owner)
        terms->norm = d->norm + (size_t)call->layer * d->options.hidden;
    for (uint32_t i = 0; i < terms->count; i++) {
        terms->in[i] = rows_of(&call->in[from + i]);
        terms->out[i] = rows_of(&call->out[from + i]);
    }
}

static coterie_gpu_rows_t rows_of(const coterie_device_rows_t *rows)
{
    return (coterie_gpu_rows_t){
        rows->capacity, rows->count,        rows->key,
        rows->hidden,   rows->normed,       rows->topk_ids,
        rows->topk_weights, rows->seat, rows->holders, rows->predicted};
}

static coterie_status_t swap(const coterie_dispatcher_t *d,
                             const coterie_layer_call_t *call,
                             coterie_gpu_parcel_t parcel)
{
    const uint32_t at = call->first - d->fabric->first;
    char *out[COTERIE_GPU_DRIVEN_MAX], *in[COTERIE_GPU_DRIVEN_MAX];
    coterie_status_t status = COTERIE_OK;

    for (uint32_t from = 0;
         d->swaps && status == COTERIE_OK && from < call->count;
         from += COTERIE_GPU_DRIVEN_MAX) {
        coterie_fabric_swap_t s = {
            .first = call->first + from,
            .size = coterie_gpu_slot_size(&d->terms, parcel),
            .out = out,
            .in = in,
            .active = d->active};

        for (; s.count < COTERIE_GPU_DRIVEN_MAX && from + s.count < call->count;
             s.count++) {
            out[s.count] = d->driven[at + from + s.count].outbox[parcel];
            in[s.count] = d->ranks[at + from + s.count].inbox[parcel];
        }
        d->device->ops->range_begin(d->device, "swap");
        status = d->fabric->ops->swap(d->fabric, &s);
        d->device->ops->range_end(d->device);
    }
    return status;
}

static coterie_status_t meet(const coterie_dispatcher_t *d,
                             const coterie_layer_call_t *call)
{
    return d->fabric->ops->meet(d->fabric, call->first, call->count,
                                d->options.deadline_ms);
}
