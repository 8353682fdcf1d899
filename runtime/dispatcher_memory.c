#include "config.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "runtime/dispatcher.h"

/* Goes over what is to lie in one block of memory: first without one, which
 * tells its size, then to hand the pieces out. */
typedef struct carving {
    unsigned char *block;
    size_t used;
} carving_t;

/* The placement's tables, as they are written. */
typedef struct tables {
    uint32_t *first, *slot_first;
    uint16_t *holder_slot, *holder_rank;
    uint8_t *next_score, *active;
    float *norm;
    coterie_gpu_rank_t *ranks;
} tables_t;

static void *carve(carving_t *c, size_t count, size_t size);
static coterie_status_t block_open(coterie_dispatcher_t *d, size_t size,
                                   void **block);
static tables_t tables_carve(const coterie_dispatcher_t *d, carving_t *c);
static void tables_point(coterie_dispatcher_t *d, const tables_t *t);
static void tables_fill(const coterie_dispatcher_t *d, const tables_t *t);
static void holders_fill(const coterie_dispatcher_t *d,
                         const coterie_placement_options_t *p,
                         const tables_t *t);
static coterie_status_t ranks_open(coterie_dispatcher_t *d);
static coterie_status_t windows_open(coterie_dispatcher_t *d, char **reach);
static coterie_status_t rank_open(coterie_dispatcher_t *d, uint32_t i,
                                  char *const *reach);
static void rank_carve(coterie_dispatcher_t *d, uint32_t i, carving_t *c);
static void messages_carve(coterie_dispatcher_t *d, uint32_t i, carving_t *c);
static void pairs_carve(coterie_dispatcher_t *d, uint32_t i, carving_t *c);
static coterie_status_t addresses_write(coterie_dispatcher_t *d, uint32_t i,
                                        char *const *reach);
static size_t inbox_offset(const coterie_dispatcher_t *d,
                           coterie_gpu_parcel_t parcel);
static size_t inbox_size(const coterie_dispatcher_t *d,
                         coterie_gpu_parcel_t parcel);
static coterie_gpu_parcel_t place_of(coterie_gpu_parcel_t parcel);

coterie_status_t coterie_dispatcher_memory_create(coterie_dispatcher_t *d)
{
    const size_t count = (size_t)d->driven_count * d->rank_count;
    coterie_status_t status;

    d->reach = calloc(count, sizeof(*d->reach));
    if (d->reach == NULL)
        return coterie_fail_memory(count * sizeof(*d->reach), "a dispatcher");
    status = windows_open(d, d->reach);
    return status == COTERIE_OK ? ranks_open(d) : status;
}

static coterie_status_t ranks_open(coterie_dispatcher_t *d)
{
    carving_t measure = {0};
    coterie_status_t status;

    tables_carve(d, &measure);
    status = block_open(d, measure.used, &d->tables);
    if (status == COTERIE_OK) {
        const tables_t there = tables_carve(d, &(carving_t){d->tables, 0});

        tables_point(d, &there);
    }
    for (uint32_t i = 0; status == COTERIE_OK && i < d->driven_count; i++)
        status = rank_open(d, i, d->reach + (size_t)i * d->rank_count);
    return status == COTERIE_OK ? coterie_dispatcher_tables_write(d) : status;
}

coterie_status_t coterie_dispatcher_memory_renew(coterie_dispatcher_t *d)
{
    const coterie_device_ops_t *ops = d->device->ops;
    coterie_gpu_counts_t *counts = calloc(d->driven_count, sizeof(*counts));
    coterie_status_t status =
        counts != NULL ? COTERIE_OK
                       : coterie_fail_memory(sizeof(*counts), "a dispatcher");

    for (uint32_t i = 0; status == COTERIE_OK && i < d->driven_count; i++)
        status = ops->copy(d->device, COTERIE_STREAM_COMPUTE, &counts[i],
                           d->ranks[i].counts, sizeof(*counts));
    if (status == COTERIE_OK)
        status = ops->wait(d->device, COTERIE_STREAM_COMPUTE);
    if (status == COTERIE_OK) {
        coterie_dispatcher_memory_destroy(d);
        memset(d->ranks, 0, d->driven_count * sizeof(*d->ranks));
        status = ranks_open(d);
    }
    for (uint32_t i = 0; status == COTERIE_OK && i < d->driven_count; i++)
        status = ops->copy(d->device, COTERIE_STREAM_COMPUTE,
                           d->ranks[i].counts, &counts[i], sizeof(*counts));
    if (status == COTERIE_OK)
        status = ops->wait(d->device, COTERIE_STREAM_COMPUTE);
    free(counts);
    return status;
}

void coterie_dispatcher_memory_destroy(coterie_dispatcher_t *d)
{
    const coterie_device_ops_t *ops = d->device->ops;

    for (uint32_t i = 0; d->driven != NULL && i < d->driven_count; i++) {
        ops->release(d->device, d->driven[i].inner);
        ops->release(d->device, d->driven[i].memory);
        d->driven[i].inner = NULL;
        d->driven[i].memory = NULL;
        d->driven[i].bank = NULL;
    }
    ops->release(d->device, d->tables);
    d->tables = NULL;
}

coterie_status_t coterie_dispatcher_tables_write(coterie_dispatcher_t *d)
{
    carving_t measure = {0};
    unsigned char *block;
    tables_t here;
    coterie_status_t status;

    tables_carve(d, &measure);
    block = calloc(1, measure.used);
    if (block == NULL)
        return coterie_fail_memory(measure.used, "a dispatcher's tables");
    here = tables_carve(d, &(carving_t){block, 0});
    tables_fill(d, &here);
    status = d->device->ops->copy(d->device, COTERIE_STREAM_COMPUTE, d->tables,
                                  block, measure.used);
    if (status == COTERIE_OK)
        status = d->device->ops->wait(d->device, COTERIE_STREAM_COMPUTE);
    free(block);
    return status;
}

static void *carve(carving_t *c, size_t count, size_t size)
{
    const size_t at = c->used;

    c->used += (count * size + COTERIE_GPU_ALIGN - 1) / COTERIE_GPU_ALIGN *
               COTERIE_GPU_ALIGN;
    return c->block != NULL ? c->block + at : NULL;
}

static coterie_status_t block_open(coterie_dispatcher_t *d, size_t size,
                                   void **block)
{
    const coterie_device_ops_t *ops = d->device->ops;
    coterie_status_t status = ops->allocate(d->device, size, block);

    if (status == COTERIE_OK)
        status =
            ops->fill(d->device, COTERIE_STREAM_COMPUTE, *block, 0, size);
    return status;
}

static tables_t tables_carve(const coterie_dispatcher_t *d, carving_t *c)
{
    coterie_placement_options_t p;
    size_t experts, slots;
    tables_t t;

    coterie_placement_view(d->options.placement, &p);
    experts = (size_t)p.layer_count * p.expert_count;
    slots = (size_t)p.layer_count * p.slot_count;
    t.first = carve(c, experts + 1, sizeof(*t.first));
    t.holder_slot = carve(c, slots, sizeof(*t.holder_slot));
    t.holder_rank = carve(c, slots, sizeof(*t.holder_rank));
    t.next_score = carve(c, experts * p.rank_count, sizeof(*t.next_score));
    t.slot_first = carve(c, p.rank_count + 1, sizeof(*t.slot_first));
    t.active = carve(c, p.rank_count, sizeof(*t.active));
    t.norm = d->options.norm == NULL
                 ? NULL
                 : carve(c, (size_t)p.layer_count * d->options.hidden,
                         sizeof(*t.norm));
    t.ranks = carve(c, d->driven_count, sizeof(*t.ranks));
    return t;
}

static void tables_point(coterie_dispatcher_t *d, const tables_t *t)
{
    coterie_placement_options_t p;

    coterie_placement_view(d->options.placement, &p);
    d->terms.tables = (coterie_route_tables_t){
        p.expert_count, p.rank_count,   p.rank_count / p.node_count,
        t->first,       t->holder_slot, t->holder_rank,
        t->next_score};
    d->terms.slot_first = t->slot_first;
    d->terms.ranks = t->ranks;
    d->active_there = t->active;
    d->norm = t->norm;
}

static void tables_fill(const coterie_dispatcher_t *d, const tables_t *t)
{
    coterie_placement_options_t p;

    coterie_placement_view(d->options.placement, &p);
    holders_fill(d, &p, t);
    memcpy(t->next_score, p.next_score,
           (size_t)p.layer_count * p.expert_count * p.rank_count);
    for (uint32_t s = 0; s < p.slot_count; s++)
        t->slot_first[p.slot_rank[s] + 1]++;
    for (uint32_t r = 0; r < p.rank_count; r++)
        t->slot_first[r + 1] += t->slot_first[r];
    memcpy(t->active, d->active, p.rank_count);
    if (d->options.norm != NULL)
        memcpy(t->norm, d->options.norm,
               (size_t)p.layer_count * d->options.hidden * sizeof(*t->norm));
    memcpy(t->ranks, d->ranks, d->driven_count * sizeof(*t->ranks));
}

/* Slots ascend, and so do their ranks: a stable counting sort by expert. */
static void holders_fill(const coterie_dispatcher_t *d,
                         const coterie_placement_options_t *p,
                         const tables_t *t)
{
    const uint32_t experts = p->expert_count;
    uint32_t end = 0;

    for (uint32_t l = 0; l < p->layer_count; l++) {
        const int16_t *held = p->slot_expert + (size_t)l * p->slot_count;
        uint32_t *first = t->first + (size_t)l * experts;

        for (uint32_t e = 0; e < experts; e++) {
            first[e] = end;
            for (uint32_t s = 0; s < p->slot_count; s++) {
                if (held[s] != (int32_t)e || !d->active[p->slot_rank[s]])
                    continue;
                t->holder_slot[end] = (uint16_t)s;
                t->holder_rank[end++] = p->slot_rank[s];
            }
        }
        first[experts] = end;
    }
}

static coterie_status_t windows_open(coterie_dispatcher_t *d, char **reach)
{
    char **window = calloc(d->driven_count, sizeof(*window));
    coterie_status_t status;

    if (window == NULL)
        return coterie_fail_memory(d->driven_count * sizeof(*window),
                                   "a dispatcher");
    status = d->fabric->ops->open_windows(
        d->fabric, inbox_offset(d, COTERIE_GPU_PARCELS), window, reach);
    for (uint32_t i = 0; status == COTERIE_OK && i < d->driven_count; i++)
        d->driven[i].window = window[i];
    for (size_t i = 0; i < (size_t)d->driven_count * d->rank_count; i++)
        d->swaps = d->swaps || (status == COTERIE_OK && reach[i] == NULL);
    free(window);
    return status;
}

static coterie_status_t rank_open(coterie_dispatcher_t *d, uint32_t i,
                                  char *const *reach)
{
    coterie_gpu_rank_t *rank = &d->ranks[i];
    coterie_driven_t *driven = &d->driven[i];
    carving_t measure = {0};
    coterie_status_t status;

    rank->rank = d->fabric->first + i;
    rank_carve(d, i, &measure);
    status = block_open(d, measure.used, &driven->memory);
    if (status != COTERIE_OK)
        return status;
    rank_carve(d, i, &(carving_t){driven->memory, 0});
    rank->active = d->active_there;
    rank->flags = (const uint32_t *)driven->window;
    for (int p = 0; p < COTERIE_GPU_PARCELS; p++)
        rank->inbox[p] =
            driven->window + inbox_offset(d, (coterie_gpu_parcel_t)p);
    rank->inbox[COTERIE_GPU_FIXUP] = rank->inbox[COTERIE_GPU_RETURN];
    if (rank->x == NULL)
        rank->x = (uint16_t *)rank->inbox[COTERIE_GPU_DISPATCH];
    return addresses_write(d, i, reach);
}

static void rank_carve(coterie_dispatcher_t *d, uint32_t i, carving_t *c)
{
    const coterie_dispatcher_options_t *o = &d->options;
    coterie_gpu_rank_t *r = &d->ranks[i];
    const size_t rows = o->max_rows;

    messages_carve(d, i, c);
    r->routes = carve(c, rows, sizeof(*r->routes));
    r->number = carve(c, rows, sizeof(*r->number));
    r->next = carve(c, rows, sizeof(*r->next));
    r->held_count = carve(c, 1, sizeof(*r->held_count));
    r->held_from = carve(c, rows, sizeof(*r->held_from));
    r->held_key = carve(c, rows, sizeof(*r->held_key));
    r->held_parts = carve(c, rows * o->k, sizeof(*r->held_parts));
    r->held_carrier = carve(c, rows, sizeof(*r->held_carrier));
    r->held_late = carve(c, rows, sizeof(*r->held_late));
    r->held_next = carve(c, rows, sizeof(*r->held_next));
    r->seats = carve(c, rows, sizeof(*r->seats));
    r->expected = carve(c, d->rank_count, sizeof(*r->expected));
    r->normed = carve(c, o->hidden, sizeof(*r->normed));
    if (o->norm != NULL)
        r->base = carve(c, rows * o->hidden, sizeof(*r->base));
    if (o->norm != NULL || o->forward || o->wire != COTERIE_WIRE_BF16)
        r->x = carve(c, coterie_dispatcher_rows(d) * o->hidden,
                     sizeof(*r->x));
    pairs_carve(d, i, c);
}

static void messages_carve(coterie_dispatcher_t *d, uint32_t i, carving_t *c)
{
    coterie_gpu_rank_t *r = &d->ranks[i];
    const uint32_t ranks = d->rank_count;

    for (int p = 0; p < COTERIE_GPU_PARCELS; p++) {
        r->to[p] = carve(c, ranks, sizeof(*r->to[p]));
        if (d->swaps)
            d->driven[i].outbox[p] =
                carve(c, 1, inbox_size(d, (coterie_gpu_parcel_t)p));
    }
    d->driven[i].outbox[COTERIE_GPU_FIXUP] =
        d->driven[i].outbox[COTERIE_GPU_RETURN];
    r->flag = carve(c, ranks, sizeof(*r->flag));
    r->sent = carve(c, COTERIE_GPU_PARCELS * ranks, sizeof(*r->sent));
    r->owned = carve(c, ranks, sizeof(*r->owned));
    r->sequence = carve(c, COTERIE_GPU_PARCELS, sizeof(*r->sequence));
    r->done = carve(c, COTERIE_GPU_PARCELS, sizeof(*r->done));
    r->counts = carve(c, 1, sizeof(*r->counts));
}

static void pairs_carve(coterie_dispatcher_t *d, uint32_t i, carving_t *c)
{
    const coterie_dispatcher_options_t *o = &d->options;
    const size_t rows = coterie_dispatcher_rows(d);
    const size_t pairs = coterie_dispatcher_pairs(d);
    coterie_gpu_rank_t *r = &d->ranks[i];
    coterie_gpu_pairs_t *p = &d->driven[i].pairs;
    coterie_placement_options_t view;
    uint32_t share;

    coterie_placement_view(o->placement, &view);
    r->slots = 0;
    for (uint32_t s = 0; s < view.slot_count; s++)
        r->slots += view.slot_rank[s] == r->rank;
    /* A tile is to hold an expert's share twice. */
    share = d->driven[i].share = (uint32_t)(pairs / view.expert_count);
    r->ids = carve(c, rows * o->k, sizeof(*r->ids));
    r->weights = carve(c, rows * o->k, sizeof(*r->weights));
    r->place = carve(c, rows * o->k, sizeof(*r->place));
    r->out = carve(c, pairs * o->hidden, sizeof(*r->out));
    *p = (coterie_gpu_pairs_t){.rows = (uint32_t)rows,
                               .k = o->k,
                               .expert_count = r->slots,
                               .tile = coterie_gpu_tile(2 * share),
                               .ids = r->ids,
                               .place = r->place};
    p->first = carve(c, r->slots + 1, sizeof(*p->first));
    p->pair = carve(c, pairs, sizeof(*p->pair));
    p->tiles = carve(c, coterie_gpu_tiles(p), sizeof(*p->tiles));
    p->tile_count = carve(c, 1, sizeof(*p->tile_count));
    p->counts = carve(c, (size_t)coterie_gpu_chunks(p) * r->slots,
                      sizeof(*p->counts));
}

/* Where this rank's kernels write to each other: its slot in the window there,
 * or in the outbox. The own one is always at hand. */
static coterie_status_t addresses_write(coterie_dispatcher_t *d, uint32_t i,
                                        char *const *reach)
{
    const coterie_device_ops_t *ops = d->device->ops;
    const coterie_gpu_rank_t *rank = &d->ranks[i];
    const uint32_t ranks = d->rank_count;
    const size_t size = ranks * sizeof(void *);
    void **address = calloc(ranks, sizeof(*address));
    coterie_status_t status = COTERIE_OK;

    if (address == NULL)
        return coterie_fail_memory(size, "a dispatcher");
    for (int p = 0; status == COTERIE_OK && p < COTERIE_GPU_PARCELS; p++) {
        const coterie_gpu_parcel_t parcel = (coterie_gpu_parcel_t)p;
        const size_t slot = coterie_gpu_slot_size(&d->terms, parcel);

        for (uint32_t to = 0; to < ranks; to++)
            address[to] = reach[to] != NULL
                              ? reach[to] + inbox_offset(d, place_of(parcel)) +
                                    rank->rank * slot
                              : d->driven[i].outbox[p] + to * slot;
        status = ops->copy(d->device, COTERIE_STREAM_COMPUTE, rank->to[p],
                           address, size);
        if (status == COTERIE_OK)
            status = ops->wait(d->device, COTERIE_STREAM_COMPUTE);
    }
    for (uint32_t to = 0; to < ranks; to++)
        address[to] = reach[to] != NULL
                          ? (uint32_t *)reach[to] + rank->rank
                          : NULL;
    if (status == COTERIE_OK)
        status = ops->copy(d->device, COTERIE_STREAM_COMPUTE, rank->flag,
                           address, size);
    if (status == COTERIE_OK)
        status = ops->wait(d->device, COTERIE_STREAM_COMPUTE);
    free(address);
    return status;
}

/* A window is flags, then the inboxes; COTERIE_GPU_PARCELS: its size. */
static size_t inbox_offset(const coterie_dispatcher_t *d,
                           coterie_gpu_parcel_t parcel)
{
    size_t at = COTERIE_GPU_PARCELS * d->rank_count * sizeof(uint32_t);

    at = (at + COTERIE_GPU_ALIGN - 1) / COTERIE_GPU_ALIGN * COTERIE_GPU_ALIGN;
    for (int p = 0; p < (int)parcel; p++)
        at += (inbox_size(d, (coterie_gpu_parcel_t)p) + COTERIE_GPU_ALIGN -
               1) /
              COTERIE_GPU_ALIGN * COTERIE_GPU_ALIGN;
    return at;
}

/* Those of forward take turns, and fix-ups come where returns do. */
static size_t inbox_size(const coterie_dispatcher_t *d,
                         coterie_gpu_parcel_t parcel)
{
    const size_t size =
        d->rank_count * coterie_gpu_slot_size(&d->terms, parcel);

    if (parcel == COTERIE_GPU_FORWARD)
        return d->options.forward ? 2 * size : 0;
    if (parcel == COTERIE_GPU_LATE)
        return d->terms.mends ? 2 * size : 0;
    return parcel == COTERIE_GPU_FIXUP ? 0 : size;
}

static coterie_gpu_parcel_t place_of(coterie_gpu_parcel_t parcel)
{
    return parcel == COTERIE_GPU_FIXUP ? COTERIE_GPU_RETURN : parcel;
}
