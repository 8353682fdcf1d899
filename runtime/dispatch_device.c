/* All modes among all ranks by a dispatcher: rows go up to this rank's device,
 * are dispatched and computed there among all ranks, and come back. Attention
 * and routers are the engine's, on the host. */
#include "config.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "runtime/dispatcher.h"
#include "runtime/session.h"

/* A rank's rows, in the device's memory and on the host; and their order. */
struct coterie_lift {
    coterie_dispatcher_t *dispatcher;
    coterie_device_t *device;
    coterie_device_rows_t in, out; /* there */
    float *hidden, *normed;        /* here: [max_rows, hidden] */
    uint64_t *key;                 /* here: [max_rows] */
    uint32_t *holders;             /* here: [max_rows]; of what came */
    int32_t *predicted;            /* there: [max_rows, predicted_k] */
    uint32_t *order;               /* [max_rows]: of what came, by key */
    coterie_device_counts_t counted;
    void *there, *here;
};

static coterie_status_t terms_check(const coterie_session_t *s);
static coterie_status_t arrays_open(coterie_lift_t *lift,
                                    const coterie_session_t *s);
static coterie_status_t go_up(coterie_session_t *s, const coterie_rows_t *in);
static coterie_status_t residuals_make(coterie_session_t *s,
                                       const coterie_rows_t *in);
static coterie_status_t forward_up(coterie_session_t *s,
                                   const coterie_rows_t *in);
static coterie_status_t copy(const coterie_lift_t *lift, const void *to,
                             const void *from, size_t size);
static coterie_status_t wait(const coterie_lift_t *lift);
static coterie_status_t layer_queue(coterie_session_t *s);
static coterie_status_t sums_queue(coterie_session_t *s,
                                   const coterie_layer_call_t *call);
static coterie_status_t shared_add(coterie_session_t *s);
static coterie_status_t come_down(coterie_session_t *s, coterie_rows_t *out);
static coterie_status_t rows_place(coterie_session_t *s, uint32_t held,
                                   coterie_rows_t *out);
static coterie_status_t count(coterie_session_t *s);

coterie_status_t coterie_lift_create(coterie_session_t *s)
{
    coterie_lift_t *lift;
    coterie_status_t status = terms_check(s);

    if (status != COTERIE_OK)
        return status;
    lift = calloc(1, sizeof(*lift));
    if (lift == NULL)
        return coterie_fail_memory(sizeof(*lift), "a session's device");
    lift->dispatcher = s->options.dispatcher;
    lift->device = lift->dispatcher->device;
    s->lift = lift;
    status = arrays_open(lift, s);
    if (status == COTERIE_OK)
        status = coterie_dispatcher_check(lift->dispatcher, s->rank,
                                          &lift->counted);
    return status;
}

void coterie_lift_destroy(coterie_lift_t *lift)
{
    if (lift == NULL)
        return;
    lift->device->ops->release(lift->device, lift->there);
    lift->device->ops->host_release(lift->device, lift->here);
    free(lift->order);
    free(lift);
}

bool coterie_lift_serves(const coterie_session_t *s)
{
    if (s->lift == NULL || s->mode == COTERIE_MODE_TWO_PHASE)
        return s->lift != NULL;
    if (s->options.group != COTERIE_GROUP_ALL)
        return false;
    return s->mode == COTERIE_MODE_OWNER
               ? s->lift->dispatcher->norm != NULL
               : s->lift->dispatcher->options.forward != 0;
}

coterie_status_t coterie_exchange_device(coterie_session_t *s,
                                         const coterie_rows_t *in,
                                         coterie_rows_t *out)
{
    coterie_status_t status = go_up(s, in);

    if (status == COTERIE_OK)
        status = layer_queue(s);
    if (status == COTERIE_OK)
        status = come_down(s, out);
    if (status == COTERIE_OK)
        status = count(s);
    return status;
}

void coterie_lift_abort(const coterie_lift_t *lift)
{
    if (lift != NULL)
        lift->dispatcher->fabric->ops->abort(lift->dispatcher->fabric);
}

static coterie_status_t terms_check(const coterie_session_t *s)
{
    const coterie_dispatcher_options_t *o = &s->options.dispatcher->options;
    const coterie_fabric_t *fabric = o->fabric;

    if (o->placement != s->options.placement ||
        o->hidden != s->options.hidden ||
        o->k != s->options.k || o->max_rows < s->options.max_rows ||
        o->wire != s->options.wire || o->element != COTERIE_WIRE_F32 ||
        (o->forward && o->predicted_k != s->options.predicted_k) ||
        s->rank < fabric->first || s->rank >= fabric->first + fabric->count)
        return coterie_fail(COTERIE_ERR_MISMATCH,
                            "session: its dispatcher must have its placement, "
                            "hidden, k, predicted_k and wire, at least its "
                            "max_rows, f32 elements, and drive rank %u",
                            s->rank);
    return COTERIE_OK;
}

static coterie_status_t arrays_open(coterie_lift_t *lift,
                                    const coterie_session_t *s)
{
    const coterie_device_ops_t *ops = lift->device->ops;
    const size_t rows = s->options.max_rows, k = s->options.k;
    const size_t values = rows * s->options.hidden * sizeof(float);
    const size_t pairs = rows * k * 4, keys = rows * sizeof(uint64_t);
    const size_t ahead = rows * s->options.predicted_k * 4, names = rows * 4;
    const size_t head = COTERIE_GPU_ALIGN;
    unsigned char *at;
    coterie_status_t status =
        ops->allocate(lift->device,
                      2 * head + 3 * values + 2 * pairs + 2 * keys + ahead +
                          4 * names,
                      &lift->there);

    if (status == COTERIE_OK)
        status = ops->host_allocate(lift->device, 2 * values + keys + names,
                                    &lift->here);
    lift->order = malloc(rows * sizeof(*lift->order));
    if (status == COTERIE_OK && lift->order == NULL)
        status = coterie_fail_memory(rows * sizeof(*lift->order),
                                     "a session's device");
    if (status != COTERIE_OK)
        return status;
    lift->hidden = lift->here;
    lift->normed = (void *)((unsigned char *)lift->here + values);
    lift->key = (void *)((unsigned char *)lift->here + 2 * values);
    lift->holders = (void *)((unsigned char *)lift->key + keys);
    at = lift->there; /* widest first, so that all are aligned */
    lift->in = lift->out = (coterie_device_rows_t){
        .size = sizeof(lift->in), .capacity = s->options.max_rows};
    lift->in.count = (void *)at;
    lift->out.count = (void *)(at + head);
    at += 2 * head;
    lift->in.hidden = at;
    lift->in.normed = at + values;
    lift->out.hidden = at + 2 * values;
    at += 3 * values;
    lift->in.key = (void *)at;
    lift->out.key = (void *)(at + keys);
    at += 2 * keys;
    lift->in.topk_ids = (void *)at;
    lift->in.topk_weights = (void *)(at + pairs);
    at += 2 * pairs;
    lift->in.seat = (void *)at;
    lift->out.seat = (void *)(at + names);
    lift->in.holders = (void *)(at + 2 * names);
    lift->out.holders = (void *)(at + 3 * names);
    lift->predicted = (void *)(at + 4 * names);
    return COTERIE_OK;
}

static coterie_status_t go_up(coterie_session_t *s, const coterie_rows_t *in)
{
    coterie_lift_t *lift = s->lift;
    const size_t values = coterie_row(s, in->count) * sizeof(float);
    const size_t pairs = (size_t)in->count * s->options.k;
    coterie_status_t status = residuals_make(s, in);

    for (uint32_t i = 0; i < in->count; i++)
        lift->key[i] = coterie_row_key(in->sequence[i], in->position[i]);
    if (status == COTERIE_OK)
        status = copy(lift, lift->in.count, &in->count, sizeof(in->count));
    if (status == COTERIE_OK)
        status = copy(lift, lift->in.hidden, lift->hidden, values);
    if (status == COTERIE_OK)
        status = copy(lift, lift->in.normed, in->normed, values);
    if (status == COTERIE_OK)
        status = copy(lift, lift->in.key, lift->key,
                      in->count * sizeof(*lift->key));
    if (status == COTERIE_OK)
        status = copy(lift, lift->in.topk_ids, in->topk_ids,
                      pairs * sizeof(*in->topk_ids));
    if (status == COTERIE_OK)
        status = copy(lift, lift->in.topk_weights, in->topk_weights,
                      pairs * sizeof(*in->topk_weights));
    if (status == COTERIE_OK && s->mode == COTERIE_MODE_FORWARD)
        status = forward_up(s, in);
    return status;
}

/* Residuals have their shared experts before they go: in two-phase all of
 * them, in forward those that this rank adds; in owner they get them where
 * they go. */
static coterie_status_t residuals_make(coterie_session_t *s,
                                       const coterie_rows_t *in)
{
    const bool forward = s->mode == COTERIE_MODE_FORWARD;
    coterie_status_t status = COTERIE_OK;
    uint32_t i = 0;

    if (in->count > 0)
        memcpy(s->lift->hidden, in->hidden,
               coterie_row(s, in->count) * sizeof(float));
    if (s->engine.shared == NULL || s->mode == COTERIE_MODE_OWNER)
        return COTERIE_OK;
    while (i < in->count && status == COTERIE_OK) {
        const uint32_t first = i;

        while (i < in->count &&
               (!forward || coterie_forward_carries(s, in, i)))
            i++;
        if (i > first)
            status = s->engine.shared(s->engine.engine, s->layer, i - first,
                                      in->normed + coterie_row(s, first),
                                      s->lift->hidden + coterie_row(s, first));
        else
            i++;
    }
    return status;
}

/* What the layer before said of them is there already. */
static coterie_status_t forward_up(coterie_session_t *s,
                                   const coterie_rows_t *in)
{
    coterie_lift_t *lift = s->lift;
    uint32_t *const seat = lift->in.seat, *const holders = lift->in.holders;

    lift->in.seat = lift->out.seat;
    lift->in.holders = lift->out.holders;
    lift->out.seat = seat;
    lift->out.holders = holders;
    lift->in.predicted = in->predicted != NULL ? lift->predicted : NULL;
    return copy(lift, lift->in.predicted, in->predicted,
                in->predicted == NULL ? 0
                                      : (size_t)in->count *
                                            s->options.predicted_k *
                                            sizeof(*in->predicted));
}

static coterie_status_t copy(const coterie_lift_t *lift, const void *to,
                             const void *from, size_t size)
{
    return size == 0 ? COTERIE_OK
                     : lift->device->ops->copy(lift->device,
                                               COTERIE_STREAM_COMPUTE,
                                               (void *)(uintptr_t)to, from,
                                               size);
}

static coterie_status_t wait(const coterie_lift_t *lift)
{
    return lift->device->ops->wait(lift->device, COTERIE_STREAM_COMPUTE);
}

static coterie_status_t layer_queue(coterie_session_t *s)
{
    coterie_lift_t *lift = s->lift;
    coterie_device_rows_t in = lift->in;
    coterie_layer_call_t call = {.size = sizeof(call),
                                 .layer = s->layer,
                                 .mode = s->mode,
                                 .first = s->rank,
                                 .count = 1,
                                 .in = &in,
                                 .out = &lift->out};
    const uint64_t start = coterie_now_ns();
    coterie_status_t status;

    if (s->layer == 0) /* a step begins */
        in.seat = in.holders = NULL;
    status = coterie_dispatcher_send(lift->dispatcher, &call);
    if (status == COTERIE_OK)
        status = sums_queue(s, &call);
    call.late = s->mode == COTERIE_MODE_FORWARD && s->options.predicted_k > 0;
    if (status == COTERIE_OK && call.late)
        status = sums_queue(s, &call);
    call.late = 0;
    if (status == COTERIE_OK)
        status = coterie_dispatcher_finish(lift->dispatcher, &call);
    if (status == COTERIE_OK)
        status = wait(lift);
    s->times.experts_ns += coterie_now_ns() - start;
    return status;
}

static coterie_status_t sums_queue(coterie_session_t *s,
                                   const coterie_layer_call_t *call)
{
    coterie_dispatcher_t *dispatcher = s->lift->dispatcher;
    coterie_status_t status = coterie_dispatcher_arrive(dispatcher, call);

    if (status == COTERIE_OK && s->mode == COTERIE_MODE_OWNER &&
        s->engine.shared != NULL)
        status = shared_add(s);
    if (status == COTERIE_OK)
        status = coterie_dispatcher_compute(dispatcher, call);
    if (status == COTERIE_OK)
        status = coterie_dispatcher_return(dispatcher, call);
    return status;
}

/* To the rows that are here next, which this rank has only now. */
static coterie_status_t shared_add(coterie_session_t *s)
{
    coterie_lift_t *lift = s->lift;
    coterie_device_work_t work;
    uint32_t held = 0;
    coterie_status_t status;

    coterie_dispatcher_work(lift->dispatcher, s->rank, s->mode, &work);
    status = copy(lift, &held, work.base_count, sizeof(held));
    if (status == COTERIE_OK)
        status = wait(lift);
    if (held > s->options.max_rows)
        held = s->options.max_rows; /* which is said once it is over */
    if (status == COTERIE_OK)
        status = copy(lift, lift->hidden, work.base,
                      coterie_row(s, held) * sizeof(float));
    if (status == COTERIE_OK)
        status = wait(lift);
    if (status == COTERIE_OK && held > 0)
        status = s->engine.norm(s->engine.engine, s->layer, held, lift->hidden,
                                lift->normed);
    if (status == COTERIE_OK && held > 0)
        status = s->engine.shared(s->engine.engine, s->layer, held,
                                  lift->normed, lift->hidden);
    if (status == COTERIE_OK)
        status = copy(lift, work.base, lift->hidden,
                      coterie_row(s, held) * sizeof(float));
    return status;
}

static coterie_status_t come_down(coterie_session_t *s, coterie_rows_t *out)
{
    coterie_lift_t *lift = s->lift;
    uint32_t held = 0;
    coterie_status_t status =
        copy(lift, &held, lift->out.count, sizeof(held));

    if (status == COTERIE_OK)
        status = wait(lift);
    if (status == COTERIE_OK)
        status = copy(lift, lift->hidden, lift->out.hidden,
                      coterie_row(s, held) * sizeof(float));
    if (status == COTERIE_OK)
        status = copy(lift, lift->key, lift->out.key,
                      held * sizeof(*lift->key));
    if (status == COTERIE_OK && s->mode == COTERIE_MODE_FORWARD)
        status = copy(lift, lift->holders, lift->out.holders,
                      held * sizeof(*lift->holders));
    if (status == COTERIE_OK)
        status = wait(lift);
    if (status == COTERIE_OK)
        status = rows_place(s, held, out);
    return status;
}

/* Rows come by the rank that had them; a session keeps them by key. Each
 * rank's are in order, so that this is nearly one. */
static coterie_status_t rows_place(coterie_session_t *s, uint32_t held,
                                   coterie_rows_t *out)
{
    const coterie_lift_t *lift = s->lift;
    coterie_status_t status = COTERIE_OK;

    for (uint32_t i = 0; i < held; i++) {
        uint32_t at = i;

        for (; at > 0 && lift->key[lift->order[at - 1]] > lift->key[i]; at--)
            lift->order[at] = lift->order[at - 1];
        lift->order[at] = i;
    }
    for (uint32_t i = 0; status == COTERIE_OK && i < held; i++) {
        const uint64_t key = lift->key[lift->order[i]];
        coterie_held_t *row;

        status = coterie_held_add(s, (int32_t)(key >> 32), (int32_t)key, &row);
        if (status == COTERIE_OK && s->mode == COTERIE_MODE_FORWARD)
            row->next = lift->holders[lift->order[i]];
    }
    if (status == COTERIE_OK)
        status = coterie_rows_out(s, out);
    for (uint32_t i = 0; status == COTERIE_OK && i < held; i++)
        memcpy(out->hidden + coterie_row(s, i),
               lift->hidden + coterie_row(s, lift->order[i]),
               coterie_row(s, 1) * sizeof(float));
    return status;
}

/* What the device counted since the layer before. */
static coterie_status_t count(coterie_session_t *s)
{
    coterie_lift_t *lift = s->lift;
    coterie_counts_t *counts = &s->counts[s->phase];
    const coterie_device_counts_t then = lift->counted;
    coterie_device_counts_t *now = &lift->counted;
    coterie_status_t status =
        coterie_dispatcher_check(lift->dispatcher, s->rank, now);

    if (status != COTERIE_OK)
        return status;
    counts->copies_dispatch += now->copies_dispatch - then.copies_dispatch;
    counts->copies_return += now->copies_return - then.copies_return;
    counts->copies_forward += now->copies_forward - then.copies_forward;
    counts->copies_fixup += now->copies_fixup - then.copies_fixup;
    counts->fixup_sends += now->fixup_messages - then.fixup_messages;
    counts->copies_network += now->copies_network - then.copies_network;
    counts->payload_bytes += now->payload_bytes - then.payload_bytes;
    counts->wire_bytes += now->wire_bytes - then.wire_bytes;
    counts->messages += now->messages - then.messages;
    counts->empty_messages += now->empty_messages - then.empty_messages;
    if (s->mode != COTERIE_MODE_FORWARD)
        coterie_count_exchange(s, &s->all);
    else if (s->rank_count > 1)
        counts->alltoalls++;
    return COTERIE_OK;
}
