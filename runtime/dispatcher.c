#include "config.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/options.h"
#include "runtime/dispatcher.h"

_Static_assert(sizeof(coterie_gpu_counts_t) ==
                   sizeof(coterie_device_counts_t),
               "kernels count in the public order");

enum { EPOCH_BITS = 24 }; /* of a sequence number: messages of an epoch */

static coterie_status_t inner_open(coterie_dispatcher_t *dispatcher,
                                   coterie_driven_t *driven,
                                   const coterie_ffn_shape_t *shape);
static coterie_status_t options_check(const coterie_dispatcher_options_t *o);
static void terms_fill(coterie_dispatcher_t *d);
static coterie_status_t bank_fits(const coterie_dispatcher_t *d,
                                  uint32_t rank, const coterie_bank_t *bank);
static coterie_status_t driven_find(const coterie_dispatcher_t *d,
                                    uint32_t rank, uint32_t *i_p);
static coterie_status_t epoch_begin(coterie_dispatcher_t *d, uint32_t i);
static coterie_status_t verdict(const coterie_dispatcher_t *d, uint32_t rank,
                                const coterie_device_counts_t *counts);

coterie_status_t coterie_dispatcher_create(
    const coterie_dispatcher_options_t *options,
    coterie_dispatcher_t **dispatcher_p)
{
    coterie_dispatcher_t *d = calloc(1, sizeof(*d));
    coterie_status_t status;

    if (d == NULL)
        return coterie_fail_memory(sizeof(*d), "a dispatcher");
    status = coterie_options_read(options, &d->options, sizeof(d->options),
                                  "dispatcher");
    if (status == COTERIE_OK)
        status = options_check(&d->options);
    if (status != COTERIE_OK)
        goto out;
    d->fabric = d->options.fabric;
    d->device = d->fabric->device;
    d->rank_count = d->fabric->rank_count;
    d->driven_count = d->fabric->count;
    terms_fill(d);
    d->active = malloc(d->rank_count);
    d->ranks = calloc(d->driven_count, sizeof(*d->ranks));
    d->driven = calloc(d->driven_count, sizeof(*d->driven));
    if (d->active == NULL || d->ranks == NULL || d->driven == NULL) {
        status = coterie_fail_memory(
            d->driven_count * (sizeof(*d->ranks) + sizeof(*d->driven)),
            "a dispatcher");
        goto out;
    }
    memset(d->active, 1, d->rank_count);
    status = coterie_dispatcher_memory_create(d);
    if (status != COTERIE_OK)
        goto out;
    *dispatcher_p = d;
    d = NULL;
out:
    coterie_dispatcher_destroy(d);
    return status;
}

coterie_status_t coterie_dispatcher_register(coterie_dispatcher_t *dispatcher,
                                             uint32_t rank,
                                             const coterie_bank_t *bank)
{
    uint32_t i = 0;
    coterie_status_t status = driven_find(dispatcher, rank, &i);

    if (status == COTERIE_OK)
        status = bank_fits(dispatcher, rank, bank);
    if (status == COTERIE_OK)
        status = inner_open(dispatcher, &dispatcher->driven[i], &bank->shape);
    if (status == COTERIE_OK)
        dispatcher->driven[i].bank = bank;
    return status;
}

coterie_status_t coterie_dispatcher_set_active(
    coterie_dispatcher_t *dispatcher, const uint8_t *active)
{
    coterie_dispatcher_t *d = dispatcher;
    coterie_status_t status = COTERIE_OK;

    /* Whoever is lost may be why this gives up. */
    (void)d->fabric->ops->drain(d->fabric, d->options.deadline_ms);
    for (uint32_t i = 0; status == COTERIE_OK && i < d->driven_count; i++)
        if (d->driven_count == 1 && !active[d->ranks[i].rank])
            status = coterie_fail(COTERIE_ERR_INVALID,
                                  "dispatcher: rank %u leaves itself out",
                                  d->ranks[i].rank);
    if (status == COTERIE_OK)
        status = d->fabric->ops->exclude(d->fabric, active);
    if (status != COTERIE_OK)
        return status;
    for (uint32_t r = 0; r < d->rank_count; r++)
        d->active[r] = active[r] != 0;
    d->epoch++;
    status = coterie_dispatcher_tables_write(d);
    for (uint32_t i = 0; status == COTERIE_OK && i < d->driven_count; i++)
        status = epoch_begin(d, i);
    return status;
}

coterie_status_t coterie_dispatcher_set_placement(
    coterie_dispatcher_t *dispatcher, const coterie_placement_t *placement)
{
    coterie_dispatcher_t *d = dispatcher;
    coterie_dispatcher_options_t options = d->options;
    coterie_placement_options_t view;
    coterie_status_t status;

    coterie_placement_view(d->options.placement, &view);
    options.placement = placement;
    status = options_check(&options);
    if (status == COTERIE_OK)
        status = coterie_placement_check(placement, view.layer_count,
                                         view.expert_count, view.rank_count);
    if (status == COTERIE_OK)
        status = d->fabric->ops->drain(d->fabric, d->options.deadline_ms);
    if (status != COTERIE_OK)
        return status;
    d->options.placement = placement;
    status = coterie_dispatcher_memory_renew(d);
    if (status == COTERIE_OK)
        d->epoch++;
    for (uint32_t i = 0; status == COTERIE_OK && i < d->driven_count; i++)
        status = epoch_begin(d, i);
    return status;
}

void coterie_dispatcher_work(const coterie_dispatcher_t *dispatcher,
                             uint32_t rank, coterie_mode_t mode,
                             coterie_device_work_t *work)
{
    const coterie_dispatcher_t *d = dispatcher;
    const uint32_t i = rank - d->fabric->first;
    const coterie_gpu_rank_t *r = &d->ranks[i];
    const coterie_gpu_pairs_t *pairs = &d->driven[i].pairs;

    *work = (coterie_device_work_t){
        .size = sizeof(*work),
        .slots = r->slots,
        .pairs = (uint32_t)coterie_dispatcher_pairs(d),
        .first = pairs->first,
        .pair = pairs->pair,
        .x = coterie_dispatcher_x(d, i, mode),
        .out = (float *)r->out,
        .base = mode == COTERIE_MODE_OWNER ? r->base : NULL,
        .base_count = r->held_count};
}

coterie_status_t coterie_dispatcher_check(coterie_dispatcher_t *dispatcher,
                                          uint32_t rank,
                                          coterie_device_counts_t *counts)
{
    coterie_device_t *device = dispatcher->device;
    coterie_device_counts_t got;
    uint32_t i = 0;
    coterie_status_t status = driven_find(dispatcher, rank, &i);

    if (status == COTERIE_OK)
        status = dispatcher->fabric->ops->check(dispatcher->fabric);
    if (status == COTERIE_OK)
        status = dispatcher->fabric->ops->drain(
            dispatcher->fabric, dispatcher->options.deadline_ms);
    if (status == COTERIE_OK)
        status = device->ops->copy(device, COTERIE_STREAM_COMPUTE, &got,
                                   dispatcher->ranks[i].counts, sizeof(got));
    if (status == COTERIE_OK)
        status = device->ops->wait(device, COTERIE_STREAM_COMPUTE);
    if (status != COTERIE_OK)
        return status;
    if (counts != NULL)
        *counts = got;
    return verdict(dispatcher, rank, &got);
}

void coterie_dispatcher_destroy(coterie_dispatcher_t *dispatcher)
{
    if (dispatcher == NULL)
        return;
    if (dispatcher->device != NULL) {
        (void)dispatcher->fabric->ops->drain(dispatcher->fabric,
                                             dispatcher->options.deadline_ms);
        coterie_dispatcher_memory_destroy(dispatcher);
    }
    free(dispatcher->driven);
    free(dispatcher->ranks);
    free(dispatcher->active);
    free(dispatcher->reach);
    free(dispatcher);
}

static coterie_status_t options_check(const coterie_dispatcher_options_t *o)
{
    coterie_placement_options_t p;

    if (o->fabric == NULL || o->placement == NULL)
        return coterie_fail(COTERIE_ERR_INVALID,
                            "dispatcher: fabric and placement are required");
    coterie_placement_view(o->placement, &p);
    if (p.rank_count != o->fabric->rank_count)
        return coterie_fail(COTERIE_ERR_MISMATCH,
                            "dispatcher: the placement is for %u ranks; the "
                            "fabric has %u",
                            p.rank_count, o->fabric->rank_count);
    if (o->hidden == 0 || o->hidden % 16 != 0 || o->k == 0 ||
        o->k > COTERIE_K_MAX || o->max_rows == 0 ||
        o->capacity > o->max_rows)
        return coterie_fail(COTERIE_ERR_INVALID,
                            "dispatcher: hidden %u, k %u, max_rows %u, "
                            "capacity %u; hidden must be a multiple of 16, k "
                            "1 to %d, max_rows not 0, capacity no more",
                            o->hidden, o->k, o->max_rows, o->capacity,
                            COTERIE_K_MAX);
    if (o->wire > COTERIE_WIRE_BF16 || o->element > COTERIE_WIRE_BF16)
        return coterie_fail(COTERIE_ERR_UNSUPPORTED,
                            "dispatcher: rows are f32 or bf16 on a device and "
                            "between devices, not %u and %u",
                            o->element, o->wire);
    if (o->predicted_k > COTERIE_K_MAX ||
        (o->predicted_k > 0 &&
         (!o->forward || p.rank_count > COTERIE_GPU_SET_BITS)))
        return coterie_fail(COTERIE_ERR_UNSUPPORTED,
                            "dispatcher: predicted_k %u with %u ranks%s; it is "
                            "for forward among %d ranks at most, up to %d",
                            o->predicted_k, p.rank_count,
                            o->forward ? "" : " without forward",
                            COTERIE_GPU_SET_BITS, COTERIE_K_MAX);
    for (uint32_t s = 0, here = 0; s < p.slot_count; s++) {
        here = s > 0 && p.slot_rank[s] == p.slot_rank[s - 1] ? here + 1 : 1;
        if (here > COTERIE_GPU_EXPERTS_MAX)
            return coterie_fail(COTERIE_ERR_UNSUPPORTED,
                                "dispatcher: rank %u has more than %d experts "
                                "of a layer, a device's most",
                                p.slot_rank[s], COTERIE_GPU_EXPERTS_MAX);
    }
    return COTERIE_OK;
}

static void terms_fill(coterie_dispatcher_t *d)
{
    coterie_dispatcher_options_t *o = &d->options;
    coterie_placement_options_t p;

    coterie_placement_view(o->placement, &p);
    d->layer_count = p.layer_count;
    if (o->capacity == 0)
        o->capacity = o->max_rows;
    if (o->arrivals == 0 || o->arrivals > p.rank_count * o->capacity)
        o->arrivals = p.rank_count * o->capacity;
    if (o->deadline_ms == 0)
        o->deadline_ms = 60000;
    d->terms = (coterie_gpu_dispatch_t){
        .tables = {.rank_count = p.rank_count},
        .hidden = o->hidden,
        .k = o->k,
        .max_rows = o->max_rows,
        .capacity = o->capacity,
        .arrivals = o->arrivals,
        .mends = o->predicted_k > 0,
        .wire = o->wire,
        .element = o->element,
        .norm_epsilon = o->norm_epsilon,
        .deadline_ns = (uint64_t)o->deadline_ms * 1000000};
    coterie_gpu_lay_out(&d->terms);
}

static coterie_status_t bank_fits(const coterie_dispatcher_t *d,
                                  uint32_t rank, const coterie_bank_t *bank)
{
    if (bank == NULL || bank->device == NULL)
        return coterie_fail(COTERIE_ERR_INVALID,
                            "dispatcher: rank %u: its bank was not moved to a "
                            "device",
                            rank);
    if (bank->shape.ffn % 16 != 0)
        return coterie_fail(COTERIE_ERR_UNSUPPORTED,
                            "dispatcher: experts of ffn %u, no multiple of 16, "
                            "need counts on the host; rows go through it",
                            bank->shape.ffn);
    if (bank->rank != rank || bank->layer_count != d->layer_count ||
        bank->slot_count != d->ranks[rank - d->fabric->first].slots ||
        bank->shape.hidden != d->options.hidden)
        return coterie_fail(COTERIE_ERR_MISMATCH,
                            "dispatcher: rank %u: its bank is rank %u's, of "
                            "%u layers of %u slots and hidden %u",
                            rank, bank->rank, bank->layer_count,
                            bank->slot_count, bank->shape.hidden);
    return COTERIE_OK;
}

/* Wide tiles are fewer, so there is room for them. */
static coterie_status_t inner_open(coterie_dispatcher_t *dispatcher,
                                   coterie_driven_t *driven,
                                   const coterie_ffn_shape_t *shape)
{
    coterie_device_t *device = dispatcher->device;
    coterie_gpu_pairs_t pairs = driven->pairs;
    void *inner = NULL;
    coterie_status_t status;

    if (coterie_device_tile(device, shape, driven->share, 1, 1) ==
        COTERIE_GPU_TILE_WIDE)
        pairs.tile = COTERIE_GPU_TILE_WIDE;
    status = device->ops->allocate(
        device, coterie_gpu_inner(shape, &pairs) * sizeof(*driven->inner),
        &inner);
    if (status != COTERIE_OK)
        return status;
    device->ops->release(device, driven->inner);
    driven->inner = inner;
    driven->pairs.tile = pairs.tile;
    return COTERIE_OK;
}

static coterie_status_t driven_find(const coterie_dispatcher_t *d,
                                    uint32_t rank, uint32_t *i_p)
{
    const uint32_t i = rank - d->fabric->first;

    if (rank < d->fabric->first || i >= d->driven_count)
        return coterie_fail(COTERIE_ERR_INVALID,
                            "dispatcher: rank %u is driven elsewhere; here "
                            "are %u to %u",
                            rank, d->fabric->first,
                            d->fabric->first + d->driven_count - 1);
    *i_p = i;
    return COTERIE_OK;
}

/* Sequence numbers go on where they are the same for all, however far each of
 * the ranks had come: past those of the epoch before, or, after more messages
 * than that has numbers, far behind them, where no flag is of before. */
static coterie_status_t epoch_begin(coterie_dispatcher_t *d, uint32_t i)
{
    const coterie_device_ops_t *ops = d->device->ops;
    const coterie_gpu_rank_t *rank = &d->ranks[i];
    static const coterie_gpu_counts_t none;
    uint32_t sequence[COTERIE_GPU_PARCELS];
    coterie_status_t status;

    for (int p = 0; p < COTERIE_GPU_PARCELS; p++)
        sequence[p] = d->epoch << EPOCH_BITS;
    status = ops->copy(d->device, COTERIE_STREAM_COMPUTE, rank->sequence,
                       sequence, sizeof(sequence));
    if (status == COTERIE_OK) /* and what follows: all that check judges */
        status = ops->copy(
            d->device, COTERIE_STREAM_COMPUTE, &rank->counts->disagreed,
            &none.disagreed,
            sizeof(none) - offsetof(coterie_gpu_counts_t, disagreed));
    if (status == COTERIE_OK)
        status = ops->wait(d->device, COTERIE_STREAM_COMPUTE);
    return status;
}

static coterie_status_t verdict(const coterie_dispatcher_t *d, uint32_t rank,
                                const coterie_device_counts_t *counts)
{
    if (counts->late != 0)
        return coterie_fail(COTERIE_ERR_TIMEOUT,
                            "rank %u: rank %u did not answer within %u ms",
                            rank, counts->late - 1, d->options.deadline_ms);
    if (counts->overflows != 0)
        return coterie_fail(COTERIE_ERR_CAPACITY,
                            "rank %u: rows too many (%u): there is room for "
                            "%u from one rank to another, %u from all, %u that "
                            "stay",
                            rank, counts->overflows, d->options.capacity,
                            d->options.arrivals, d->options.max_rows);
    if (counts->disagreed != 0)
        return coterie_fail(COTERIE_ERR_MISMATCH,
                            "rank %u: ranks differ about a row (%llu times): "
                            "they computed different bits or rows",
                            rank, (unsigned long long)counts->disagreed);
    return COTERIE_OK;
}
