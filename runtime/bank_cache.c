/* A bank in tiers some of whose experts are in a device's memory as well. What
 * is there is computed there. What is not comes from the tiers, and is copied
 * while others are computed; or it is computed here, as long as that has cost
 * less than the copy would: then no choice costs more than twice the best. */
#include "config.h"

#include <assert.h>
#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "runtime/bank_cache.h"
#include "runtime/session.h"

enum { HERE = 0, ROUNDS = 3 };
#define NOWHERE COTERIE_ITEM_NONE

/* A part of a layer's experts, as many as the device has room for. */
typedef struct wave {
    const coterie_bank_t *bank;
    coterie_bank_cache_t *cache;
    uint32_t layer, begin, end; /* slots */
    const coterie_expert_rows_t *rows;
    const float *x;
    coterie_call_groups_t groups;
    coterie_items_t items; /* that are not there, */
    uint32_t leased; /* experts on their way over */
    uint32_t here;   /* rows that are to be computed here, in all waves */
    void *scratch;
} wave_t;

static coterie_status_t cache_fill(coterie_bank_cache_t *c,
                                   const coterie_bank_t *bank);
static coterie_status_t buffers_open(coterie_bank_cache_t *c,
                                     const coterie_bank_t *bank);
static void tiers_pin(coterie_bank_cache_t *c, const coterie_bank_t *bank);
static coterie_status_t copy_measure(coterie_bank_cache_t *c,
                                     const coterie_bank_t *bank);
static uint32_t wave_end(const wave_t *w);
static coterie_status_t wave_run(wave_t *w);
static coterie_status_t wave_plan(wave_t *w);
static coterie_status_t missing_plan(wave_t *w, uint32_t slot);
static bool stays_here(wave_t *w, uint32_t slot);
static void table_write(const wave_t *w, uint32_t slot);
static coterie_status_t wave_take(wave_t *w);
static coterie_status_t expert_copy(wave_t *w, uint32_t i,
                                    const void *record);
static coterie_status_t expert_compute(wave_t *w, uint32_t i,
                                       const void *record);
static coterie_status_t leases_end(wave_t *w);
static void wave_leave(wave_t *w);
static uint32_t pairs_of(const wave_t *w, uint32_t slot);
static uint32_t at_of(const wave_t *w, uint32_t slot);

coterie_status_t coterie_bank_move_tiered(coterie_bank_t *bank,
                                          coterie_device_t *device,
                                          uint32_t max_rows, uint32_t k,
                                          uint64_t budget)
{
    const uint64_t record = bank->format.record_size;
    const uint64_t all = (uint64_t)bank->slot_count * bank->layer_count;
    const uint64_t rooms = budget / record < all ? budget / record : all;
    coterie_status_t status = coterie_device_call_shape(device, &bank->shape);
    coterie_bank_cache_t *c;

    assert(bank->tiers != NULL && bank->cache == NULL);
    if (status == COTERIE_OK && rooms == 0 && all > 0)
        status = coterie_fail(COTERIE_ERR_INVALID,
                              "rank %u: %llu bytes of its device's memory; "
                              "one expert takes %llu",
                              bank->rank, (unsigned long long)budget,
                              (unsigned long long)record);
    if (status != COTERIE_OK || all == 0)
        return status;
    c = calloc(1, sizeof(*c));
    if (c == NULL)
        return coterie_fail_memory(sizeof(*c), "a bank's device");
    c->room_count = (uint32_t)rooms;
    c->record_size = record;
    c->tiers = bank->tiers;
    c->call = (coterie_device_call_t){.device = device,
                                      .shape = bank->shape,
                                      .max_rows = max_rows,
                                      .k = k,
                                      .experts = bank->slot_count,
                                      .table = bank->slot_count};
    status = cache_fill(c, bank);
    if (status == COTERIE_OK)
        bank->cache = c;
    else
        coterie_bank_cache_destroy(c);
    return status;
}

coterie_status_t coterie_bank_cache_compute(const coterie_bank_t *bank,
                                            uint32_t layer,
                                            const coterie_expert_rows_t *rows,
                                            const float *x, float *sums,
                                            void *scratch)
{
    coterie_bank_cache_t *c = bank->cache;
    wave_t w = {.bank = bank,
                .cache = c,
                .layer = layer,
                .rows = rows,
                .x = x,
                .scratch = scratch};
    coterie_device_t *d = c->call.device;
    coterie_status_t status = coterie_device_call_check(&c->call, rows);

    if (status != COTERIE_OK || rows->row_count == 0)
        return status;
    c->here = 0;
    /* Copies that were begun ahead come before anything that needs them. */
    if (c->lent_count > 0)
        status = d->ops->order(d, COTERIE_STREAM_COPY, COTERIE_STREAM_COMPUTE);
    coterie_bank_tiers_route(bank, layer, rows, c->items, c->order);
    while (w.begin < bank->slot_count && status == COTERIE_OK) {
        w.end = wave_end(&w);
        status = wave_run(&w);
        w.begin = w.end;
    }
    if (status == COTERIE_OK)
        status = coterie_bank_ahead_begin(bank, layer);
    if (status == COTERIE_OK)
        return coterie_device_call_finish(&c->call, sums);
    /* The next call begins with everything at rest. */
    d->ops->wait(d, COTERIE_STREAM_COMPUTE);
    return status;
}

void coterie_bank_device_counts(const coterie_bank_t *bank,
                                coterie_bank_counts_t *counts)
{
    *counts = bank->cache != NULL ? bank->cache->counts
                                  : (coterie_bank_counts_t){0};
    counts->size = sizeof(*counts);
}

/* There is one: a wave never wants more than there are. */
coterie_status_t coterie_bank_cache_room(coterie_bank_cache_t *c,
                                         uint32_t *room_p)
{
    coterie_device_t *d = c->call.device;
    uint32_t victim, room;
    coterie_status_t status;

    if (c->free_count == 0) {
        victim = coterie_policy_victim(c->policy);
        assert(victim != COTERIE_POLICY_NONE);
        coterie_policy_withdraw(c->policy, victim);
        *room_p = c->room[victim];
        c->room[victim] = NOWHERE;
        c->counts.ahead_wasted += c->ahead[victim];
        c->ahead[victim] = false;
        return COTERIE_OK;
    }
    room = c->free_rooms[c->free_count - 1];
    status = d->ops->arena_grow(d, &c->arena, (room + 1) * c->record_size);
    if (status != COTERIE_OK)
        return status;
    c->free_count--;
    *room_p = room;
    return COTERIE_OK;
}

void coterie_bank_cache_destroy(coterie_bank_cache_t *c)
{
    coterie_device_t *d;

    if (c == NULL)
        return;
    d = c->call.device;
    coterie_bank_ahead_end(c);
    for (uint32_t i = 0; i < COTERIE_TIERS_MEMORIES; i++)
        if (c->pinned[i] != NULL)
            d->ops->unpin(d, c->pinned[i]);
    d->ops->arena_release(d, &c->arena);
    d->ops->host_release(d, c->outputs);
    coterie_device_call_close(&c->call);
    coterie_policy_destroy(c->policy);
    free(c->room);
    free(c->owed_ns);
    free(c->free_rooms);
    free(c->items);
    free(c->slots);
    free(c->kind);
    free(c->order);
    free(c->first);
    free(c->leases);
    free(c->lent);
    free(c->chance);
    free(c->ahead);
    free(c->inputs);
    free(c);
}

static coterie_status_t cache_fill(coterie_bank_cache_t *c,
                                   const coterie_bank_t *bank)
{
    coterie_device_t *d = c->call.device;
    const uint32_t all = bank->slot_count * bank->layer_count;
    coterie_status_t status = coterie_device_call_open(&c->call);

    if (status == COTERIE_OK)
        status = buffers_open(c, bank);
    if (status != COTERIE_OK)
        return status;
    for (uint32_t i = 0; i < all; i++)
        c->room[i] = NOWHERE;
    for (uint32_t i = c->room_count; i-- > 0;) /* the first ones first */
        c->free_rooms[c->free_count++] = i;
    for (uint32_t i = 0; i < COTERIE_HERE_ROWS; i++) {
        c->ordinals[i] = i;
        c->ones[i] = 1;
    }
    status = coterie_policy_create(COTERIE_POLICY_LRU, all, &c->policy);
    if (status == COTERIE_OK)
        status = d->ops->arena_reserve(
            d, c->room_count * bank->format.record_size, &c->arena);
    if (status == COTERIE_OK)
        status = coterie_bank_speeds_measure(bank, &c->speeds);
    if (status == COTERIE_OK)
        status = copy_measure(c, bank);
    if (status == COTERIE_OK)
        tiers_pin(c, bank);
    return status;
}

static coterie_status_t buffers_open(coterie_bank_cache_t *c,
                                     const coterie_bank_t *bank)
{
    const size_t slots = bank->slot_count, all = slots * bank->layer_count;
    const size_t rows = COTERIE_HERE_ROWS * (size_t)bank->shape.hidden;
    const struct {
        size_t size;
        void *to;
    } arrays[] = {{all * sizeof(*c->room), &c->room},
                  {all * sizeof(*c->owed_ns), &c->owed_ns},
                  {c->room_count * sizeof(*c->free_rooms), &c->free_rooms},
                  {slots * sizeof(*c->items), &c->items},
                  {slots * sizeof(*c->slots), &c->slots},
                  {slots * sizeof(*c->kind), &c->kind},
                  {slots * sizeof(*c->order), &c->order},
                  {(slots + 2) * sizeof(*c->first), &c->first},
                  {slots * sizeof(*c->leases), &c->leases},
                  {slots * sizeof(*c->lent), &c->lent},
                  {slots * sizeof(*c->chance), &c->chance},
                  {all * sizeof(*c->ahead), &c->ahead},
                  {rows * sizeof(*c->inputs), &c->inputs}};
    void *memory;
    coterie_status_t status;

    for (size_t i = 0; i < sizeof(arrays) / sizeof(arrays[0]); i++) {
        memory = calloc(1, arrays[i].size);
        if (memory == NULL)
            return coterie_fail_memory(arrays[i].size, "a bank's device");
        memcpy(arrays[i].to, &memory, sizeof(memory));
    }
    status = c->call.device->ops->host_allocate(
        c->call.device, rows * sizeof(*c->outputs), &memory);
    if (status == COTERIE_OK)
        c->outputs = memory;
    return status;
}

/* The device then copies from the tiers' memory by itself. Another rank of this
 * process may have done it. */
static void tiers_pin(coterie_bank_cache_t *c, const coterie_bank_t *bank)
{
    static atomic_flag said = ATOMIC_FLAG_INIT;
    coterie_device_t *d = c->call.device;

    for (uint32_t i = 0; i < COTERIE_TIERS_MEMORIES; i++) {
        size_t size;
        void *data = coterie_tiers_memory(bank->tiers, i, &size);
        coterie_status_t status;

        if (data == NULL)
            continue;
        status = d->ops->pin(d, data, size);
        if (status == COTERIE_OK)
            c->pinned[i] = data;
        else if (status != COTERIE_ERR_EXISTS &&
                 !atomic_flag_test_and_set(&said))
            fprintf(stderr, "coterie: %s; copies to the GPU are slower\n",
                    coterie_last_error());
    }
}

/* The best of some rounds, into the first room. */
static coterie_status_t copy_measure(coterie_bank_cache_t *c,
                                     const coterie_bank_t *bank)
{
    coterie_device_t *d = c->call.device;
    const size_t size = bank->format.record_size;
    void *record = NULL;
    coterie_status_t status = d->ops->arena_grow(d, &c->arena, size);

    if (status == COTERIE_OK)
        status = d->ops->host_allocate(d, size, &record);
    if (status != COTERIE_OK)
        return status;
    memset(record, 0, size);
    c->speeds.copy_ns = INFINITY;
    for (int i = 0; status == COTERIE_OK && i < ROUNDS; i++) {
        const uint64_t start = coterie_now_ns();

        status =
            d->ops->copy(d, COTERIE_STREAM_COPY, c->arena.data, record, size);
        if (status == COTERIE_OK)
            status = d->ops->wait(d, COTERIE_STREAM_COPY);
        c->speeds.copy_ns =
            fmin(c->speeds.copy_ns, (double)(coterie_now_ns() - start));
    }
    d->ops->host_release(d, record);
    return status;
}

static uint32_t wave_end(const wave_t *w)
{
    uint32_t end = w->begin, used = 0;

    while (end < w->bank->slot_count) {
        used += pairs_of(w, end) > 0;
        if (used > w->cache->room_count)
            break;
        end++;
    }
    return end;
}

static coterie_status_t wave_run(wave_t *w)
{
    coterie_bank_cache_t *c = w->cache;
    const coterie_device_ops_t *ops = c->call.device->ops;
    const bool first = w->begin == 0;
    const coterie_expert_rows_t part = {
        w->end - w->begin, w->rows->row_count, w->rows->first + w->begin,
        w->rows->row, w->rows->weight};
    coterie_status_t status = COTERIE_OK, ended;

    /* Rooms and what goes over may be in use until the wave before is done. */
    if (!first)
        status = ops->wait(c->call.device, COTERIE_STREAM_COMPUTE);
    if (status == COTERIE_OK)
        status = wave_plan(w);
    if (status != COTERIE_OK)
        goto out;
    coterie_tiers_want(w->bank->tiers, w->items);
    status = coterie_device_call_begin(&c->call, &part, first ? w->x : NULL,
                                       &w->groups);
    if (status == COTERIE_OK && c->first[1] > 0)
        status = coterie_device_call_ffn(&c->call, 0, NULL, NULL);
    if (status == COTERIE_OK)
        status = wave_take(w);
    if (status == COTERIE_OK)
        status = coterie_device_call_add(&c->call, first);
    else
        coterie_tiers_abandon(w->bank->tiers, w->items);
    ended = leases_end(w);
    if (status == COTERIE_OK)
        status = ended;
out:
    wave_leave(w);
    return status;
}

/* Those that are there make the first group; others one each. */
static coterie_status_t wave_plan(wave_t *w)
{
    coterie_bank_cache_t *c = w->cache;
    coterie_status_t status = COTERIE_OK;
    uint32_t there = 0;

    w->items = (coterie_items_t){c->items, 0};
    for (uint32_t slot = w->begin; slot < w->end; slot++) {
        const uint32_t at = at_of(w, slot);

        if (pairs_of(w, slot) == 0)
            continue;
        c->counts.uses++;
        coterie_policy_used(c->policy, at);
        if (c->room[at] == NOWHERE)
            continue;
        coterie_policy_withdraw(c->policy, at);
        c->counts.hits++;
        c->counts.ahead_used += c->ahead[at];
        c->ahead[at] = false;
        c->order[there++] = slot - w->begin;
        table_write(w, slot);
    }
    c->first[0] = 0;
    c->first[1] = there;
    w->groups = (coterie_call_groups_t){1, c->first, c->order};
    for (uint32_t slot = w->begin; slot < w->end && status == COTERIE_OK;
         slot++)
        if (pairs_of(w, slot) > 0 && c->room[at_of(w, slot)] == NOWHERE)
            status = missing_plan(w, slot);
    return status;
}

static coterie_status_t missing_plan(wave_t *w, uint32_t slot)
{
    coterie_bank_cache_t *c = w->cache;
    const uint32_t i = w->items.count, at = at_of(w, slot);
    coterie_status_t status;

    c->kind[i] = HERE;
    if (!stays_here(w, slot)) {
        const uint32_t group = w->groups.count;

        status = coterie_bank_cache_room(c, &c->room[at]);
        if (status != COTERIE_OK)
            return status;
        c->owed_ns[at] = 0;
        c->kind[i] = group;
        c->order[c->first[group]] = slot - w->begin;
        c->first[group + 1] = c->first[group] + 1;
        w->groups.count++;
        table_write(w, slot);
    }
    c->slots[i] = slot;
    c->items[i] = w->bank->items[at];
    w->items.count++;
    return COTERIE_OK;
}

/* However slow its memory, no row is computed faster than the arithmetic. */
static bool stays_here(wave_t *w, uint32_t slot)
{
    coterie_bank_cache_t *c = w->cache;
    const uint32_t rows = pairs_of(w, slot), at = at_of(w, slot);
    const double ns = fmax(c->speeds.host_ns, c->speeds.row_ns * rows);

    if (w->here + rows > COTERIE_HERE_ROWS ||
        c->owed_ns[at] + ns > c->speeds.copy_ns)
        return false;
    c->owed_ns[at] += ns;
    w->here += rows;
    return true;
}

static void table_write(const wave_t *w, uint32_t slot)
{
    const coterie_bank_cache_t *c = w->cache;
    const char *record =
        c->arena.data + c->room[at_of(w, slot)] * c->record_size;

    coterie_device_call_table(&c->call)[slot - w->begin] =
        coterie_bank_weights(&w->bank->format, (const void *)record);
}

/* Whoever waits for the tiers must not hold what others wait for. */
static coterie_status_t wave_take(wave_t *w)
{
    coterie_tiers_t *tiers = w->bank->tiers;
    coterie_status_t status = COTERIE_OK;

    for (uint32_t left = w->items.count; left > 0 && status == COTERIE_OK;
         left--) {
        const void *record;
        uint32_t i;

        if (w->leased > 0 && !coterie_tiers_ready(tiers, w->items))
            status = leases_end(w);
        if (status == COTERIE_OK)
            status = coterie_tiers_take(tiers, w->items, &i, &record);
        if (status != COTERIE_OK)
            break;
        status = w->cache->kind[i] == HERE ? expert_compute(w, i, record)
                                           : expert_copy(w, i, record);
    }
    return status;
}

static coterie_status_t expert_copy(wave_t *w, uint32_t i, const void *record)
{
    coterie_bank_cache_t *c = w->cache;
    coterie_device_t *d = c->call.device;
    const uint32_t slot = c->slots[i], at = at_of(w, slot);
    coterie_status_t status = d->ops->copy(
        d, COTERIE_STREAM_COPY, c->arena.data + c->room[at] * c->record_size,
        record, c->record_size);

    c->leases[w->leased++] = slot;
    if (status == COTERIE_OK)
        status = d->ops->order(d, COTERIE_STREAM_COPY, COTERIE_STREAM_COMPUTE);
    if (status == COTERIE_OK)
        status = coterie_device_call_ffn(&c->call, c->kind[i], NULL, NULL);
    if (status != COTERIE_OK)
        return status;
    c->kind[i] = HERE; /* what is left would be forgotten */
    c->counts.copies++;
    c->counts.bytes += c->record_size;
    return COTERIE_OK;
}

static coterie_status_t expert_compute(wave_t *w, uint32_t i,
                                       const void *record)
{
    coterie_bank_cache_t *c = w->cache;
    const size_t hidden = w->bank->shape.hidden;
    const uint32_t slot = c->slots[i], rows = pairs_of(w, slot);
    const uint32_t first = w->rows->first[slot], one[] = {0, rows};
    const coterie_expert_weights_t expert =
        coterie_bank_weights(&w->bank->format, record);
    const coterie_expert_rows_t alone = {1, rows, one, c->ordinals, c->ones};
    float *outputs = c->outputs + c->here * hidden;

    for (uint32_t j = 0; j < rows; j++)
        memcpy(c->inputs + j * hidden,
               w->x + w->rows->row[first + j] * hidden,
               hidden * sizeof(*w->x));
    memset(outputs, 0, rows * hidden * sizeof(*outputs));
    c->call.device->ops->range_begin(c->call.device, "expert here");
    coterie_bank_ffn(w->bank,
                     (coterie_ffn_call_t){NULL, &expert, &alone, c->inputs,
                                          outputs, w->scratch});
    c->call.device->ops->range_end(c->call.device);
    coterie_tiers_release(w->bank->tiers, w->bank->items[at_of(w, slot)],
                          rows);
    c->here += rows;
    c->counts.computed_here++;
    return coterie_device_call_put(
        &c->call, first - w->rows->first[w->begin], rows, outputs);
}

/* When they are over, the tiers may give their memory to others. */
static coterie_status_t leases_end(wave_t *w)
{
    coterie_bank_cache_t *c = w->cache;
    coterie_status_t status = coterie_bank_ahead_end(c);

    if (w->leased > 0)
        status = c->call.device->ops->wait(c->call.device,
                                           COTERIE_STREAM_COPY);
    while (w->leased > 0) {
        const uint32_t slot = c->leases[--w->leased];

        coterie_tiers_release(w->bank->tiers, w->bank->items[at_of(w, slot)],
                              pairs_of(w, slot));
    }
    return status;
}

/* What is there may leave again; what did not come, after a failure, gives up
 * its room. */
static void wave_leave(wave_t *w)
{
    coterie_bank_cache_t *c = w->cache;

    for (uint32_t i = 0; i < w->items.count; i++) {
        const uint32_t at = at_of(w, c->slots[i]);

        if (c->kind[i] == HERE)
            continue;
        c->free_rooms[c->free_count++] = c->room[at];
        c->room[at] = NOWHERE;
    }
    for (uint32_t slot = w->begin; slot < w->end; slot++)
        if (pairs_of(w, slot) > 0 && c->room[at_of(w, slot)] != NOWHERE)
            coterie_policy_offer(c->policy, at_of(w, slot));
}

static uint32_t pairs_of(const wave_t *w, uint32_t slot)
{
    return w->rows->first[slot + 1] - w->rows->first[slot];
}

static uint32_t at_of(const wave_t *w, uint32_t slot)
{
    return w->layer * w->bank->slot_count + slot;
}
