#include "config.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "offload/tiers_state.h"

static coterie_status_t guest_take(coterie_tiers_t *tiers,
                                   coterie_items_t items, uint32_t *at_p,
                                   const void **record_p);
static void guest_describe(coterie_tiers_t *tiers, char *text, size_t size);
static void banks_count(coterie_tiers_t *tiers, uint32_t count);
static void lease_end(coterie_tiers_t *tiers, uint32_t ordinal,
                      uint32_t rows);
static void use(coterie_tiers_t *tiers, uint32_t item);
static void want_one(coterie_tiers_t *tiers, uint32_t item);
static bool take_one(coterie_tiers_t *tiers, coterie_items_t items,
                     uint32_t *at_p);

void coterie_tiers_shape(const coterie_tiers_t *tiers, uint32_t *layers_p,
                         uint32_t *experts_p, coterie_expert_format_t *format)
{
    *layers_p = tiers->layer_count;
    *experts_p = tiers->expert_count;
    *format = tiers->format;
}

void *coterie_tiers_memory(const coterie_tiers_t *tiers, uint32_t which,
                           size_t *size_p)
{
    const coterie_arena_t *arena = which == 0 ? &tiers->arena : &tiers->host;

    *size_p = arena->size;
    return arena->data;
}

bool coterie_tiers_have_host(const coterie_tiers_t *tiers)
{
    return tiers->fast_count < tiers->slot_count;
}

void coterie_tiers_speeds(coterie_tiers_t *tiers,
                          const coterie_speeds_t *speeds)
{
    if (tiers->guest != NULL) {
        coterie_guest_speeds(tiers->guest, speeds);
        return;
    }
    pthread_mutex_lock(&tiers->mutex);
    tiers->speeds = *speeds;
    pthread_mutex_unlock(&tiers->mutex);
}

coterie_status_t coterie_tiers_serve(coterie_tiers_t *tiers,
                                     coterie_items_t items)
{
    if (tiers->guest != NULL)
        return coterie_guest_serve(tiers->guest, items);
    pthread_mutex_lock(&tiers->mutex);
    for (uint32_t i = 0; i < items.count; i++)
        if (items.items[i] != COTERIE_ITEM_NONE)
            tiers->items[items.items[i]].banks++;
    banks_count(tiers, tiers->bank_count + 1);
    pthread_mutex_unlock(&tiers->mutex);
    return COTERIE_OK;
}

void coterie_tiers_leave(coterie_tiers_t *tiers, coterie_items_t items)
{
    assert(tiers->guest == NULL);
    pthread_mutex_lock(&tiers->mutex);
    for (uint32_t i = 0; i < items.count; i++)
        tiers->items[items.items[i]].banks--;
    banks_count(tiers, tiers->bank_count - 1);
    pthread_mutex_unlock(&tiers->mutex);
}

void coterie_tiers_route(coterie_tiers_t *tiers, coterie_items_t chosen,
                         coterie_items_t refuted)
{
    if (tiers->guest != NULL) {
        coterie_guest_route(tiers->guest, chosen, refuted);
        return;
    }
    pthread_mutex_lock(&tiers->mutex);
    if (!tiers->preloaded) { /* now that all banks are known */
        tiers->preloaded = true;
        coterie_items_preload(tiers);
    }
    for (uint32_t i = 0; i < refuted.count; i++) {
        const coterie_item_t *item = &tiers->items[refuted.items[i]];

        if (item->guessed && item->banks == 1)
            coterie_item_refute(tiers, refuted.items[i]);
    }
    for (uint32_t i = 0; i < chosen.count; i++)
        use(tiers, chosen.items[i]);
    pthread_mutex_unlock(&tiers->mutex);
}

void coterie_tiers_guess(coterie_tiers_t *tiers, coterie_items_t items)
{
    bool more = true;

    if (tiers->guest != NULL) {
        coterie_guest_items(tiers->guest, COTERIE_CALL_GUESS, items);
        return;
    }
    pthread_mutex_lock(&tiers->mutex);
    for (uint32_t i = 0; i < items.count && more; i++)
        more = coterie_item_guess(tiers, items.items[i]);
    pthread_mutex_unlock(&tiers->mutex);
}

void coterie_tiers_want(coterie_tiers_t *tiers, coterie_items_t items)
{
    if (tiers->guest != NULL) {
        coterie_guest_items(tiers->guest, COTERIE_CALL_WANT, items);
        return;
    }
    pthread_mutex_lock(&tiers->mutex);
    for (uint32_t i = 0; i < items.count; i++)
        want_one(tiers, items.items[i]);
    coterie_slots_serve(tiers);
    pthread_mutex_unlock(&tiers->mutex);
}

coterie_status_t coterie_tiers_take(coterie_tiers_t *tiers,
                                    coterie_items_t items, uint32_t *at_p,
                                    const void **record_p)
{
    coterie_status_t status = COTERIE_OK;
    uint64_t start = 0;
    coterie_item_t *item;
    uint32_t at;

    if (tiers->guest != NULL)
        return guest_take(tiers, items, at_p, record_p);
    pthread_mutex_lock(&tiers->mutex);
    while (!take_one(tiers, items, &at)) {
        if (start == 0)
            start = coterie_tiers_now();
        pthread_cond_wait(&tiers->changed, &tiers->mutex);
    }
    if (start != 0)
        coterie_item_counts(tiers, items.items[at])->stall_ns +=
            coterie_tiers_now() - start;
    item = &tiers->items[items.items[at]];
    if (item->state == COTERIE_ITEM_FAILED) {
        status = coterie_reader_explain(item->read.reader, &item->read);
    } else {
        item->wanted--;
        if (item->leases++ == 0)
            coterie_item_move(item, COTERIE_ITEM_IN_USE);
        items.items[at] = COTERIE_ITEM_NONE;
        *at_p = at;
        *record_p = item->read.data;
    }
    pthread_mutex_unlock(&tiers->mutex);
    return status;
}

bool coterie_tiers_ready(coterie_tiers_t *tiers, coterie_items_t items)
{
    uint32_t at;
    bool ready;

    if (tiers->guest != NULL)
        return false;
    pthread_mutex_lock(&tiers->mutex);
    ready = take_one(tiers, items, &at);
    pthread_mutex_unlock(&tiers->mutex);
    return ready;
}

bool coterie_tiers_more(coterie_tiers_t *tiers, coterie_items_t items)
{
    uint32_t at;
    bool more;

    if (tiers->guest != NULL)
        return false;
    pthread_mutex_lock(&tiers->mutex);
    more = tiers->queue_first == COTERIE_ITEM_NONE &&
           take_one(tiers, items, &at);
    pthread_mutex_unlock(&tiers->mutex);
    return more;
}

void coterie_tiers_release(coterie_tiers_t *tiers, uint32_t ordinal,
                           uint32_t rows)
{
    if (tiers->guest != NULL) {
        coterie_guest_release(tiers->guest, ordinal, rows);
        return;
    }
    pthread_mutex_lock(&tiers->mutex);
    lease_end(tiers, ordinal, rows);
    pthread_mutex_unlock(&tiers->mutex);
}

void coterie_tiers_chances(coterie_tiers_t *tiers, coterie_items_t items,
                           float *chance)
{
    memset(chance, 0, items.count * sizeof(*chance));
    if (tiers->guest != NULL)
        return;
    pthread_mutex_lock(&tiers->mutex);
    for (uint32_t i = 0; i < items.count; i++)
        if (items.items[i] != COTERIE_ITEM_NONE)
            chance[i] = tiers->items[items.items[i]].chance;
    pthread_mutex_unlock(&tiers->mutex);
}

/* A guess that a device's copy was made from has been of use. */
bool coterie_tiers_borrow(coterie_tiers_t *tiers, uint32_t ordinal,
                          const void **record_p)
{
    coterie_item_t *item = &tiers->items[ordinal];
    bool there;

    if (tiers->guest != NULL)
        return false;
    pthread_mutex_lock(&tiers->mutex);
    there = tiers->borrowed < tiers->slot_count / 2 &&
            (item->state == COTERIE_ITEM_RESIDENT ||
             item->state == COTERIE_ITEM_IN_USE);
    if (there) {
        tiers->borrowed++;
        if (item->state == COTERIE_ITEM_RESIDENT && item->wanted == 0)
            coterie_item_withdraw(tiers, ordinal);
        if (item->guessed)
            coterie_item_guess_used(tiers, ordinal);
        if (item->leases++ == 0)
            coterie_item_move(item, COTERIE_ITEM_IN_USE);
        *record_p = item->read.data;
    }
    pthread_mutex_unlock(&tiers->mutex);
    return there;
}

void coterie_tiers_give_back(coterie_tiers_t *tiers, uint32_t ordinal)
{
    pthread_mutex_lock(&tiers->mutex);
    tiers->borrowed--;
    lease_end(tiers, ordinal, 0);
    pthread_mutex_unlock(&tiers->mutex);
}

void coterie_tiers_abandon(coterie_tiers_t *tiers, coterie_items_t items)
{
    if (tiers->guest != NULL) {
        coterie_guest_items(tiers->guest, COTERIE_CALL_ABANDON, items);
        return;
    }
    pthread_mutex_lock(&tiers->mutex);
    for (uint32_t i = 0; i < items.count; i++) {
        coterie_item_t *item;

        if (items.items[i] == COTERIE_ITEM_NONE)
            continue;
        item = &tiers->items[items.items[i]];
        if (--item->wanted > 0)
            continue;
        if (item->state == COTERIE_ITEM_FAILED)
            coterie_item_move(item, COTERIE_ITEM_ABSENT);
        else if (item->state == COTERIE_ITEM_RESIDENT)
            coterie_item_offer(tiers, items.items[i]);
    }
    coterie_slots_serve(tiers);
    pthread_mutex_unlock(&tiers->mutex);
}

void coterie_tiers_counts(coterie_tiers_t *tiers,
                          coterie_tiers_counts_t *counts)
{
    coterie_layer_counts_t sum;

    if (tiers->guest != NULL) {
        coterie_guest_ask(tiers->guest, COTERIE_CALL_COUNTS, counts,
                          sizeof(*counts));
        counts->size = sizeof(*counts);
        counts->processes = 0;
        return;
    }
    pthread_mutex_lock(&tiers->mutex);
    sum = coterie_timeline_sum(&tiers->timeline);
    *counts = (coterie_tiers_counts_t){
        .size = sizeof(*counts),
        .budget = tiers->budget,
        .host_budget = tiers->host_budget,
        .computed_in_host = tiers->computed_in_host,
        .moved_to_fast = tiers->moved_to_fast,
        .resident = (uint64_t)(tiers->slot_count - tiers->free_count) *
                    tiers->format.record_size,
        .resident_most = tiers->resident_most,
        .uses = sum.uses,
        .hits = sum.hits,
        .preloads = sum.preloads,
        .demand_reads = sum.demand_reads,
        .guess_reads = sum.guess_reads,
        .guesses_used = sum.guesses_used,
        .guesses_wasted = sum.guesses_wasted,
        .stall_ns = sum.stall_ns,
        .processes = 1};
    if (tiers->keeper != NULL)
        counts->processes += coterie_keeper_guests(tiers->keeper);
    pthread_mutex_unlock(&tiers->mutex);
    for (uint32_t i = 0; i < tiers->reader_count; i++) {
        uint64_t bytes, retries;

        coterie_reader_counts(tiers->readers[i], &bytes, &retries);
        counts->bytes += bytes;
        counts->retries += retries;
    }
}

void coterie_tiers_timeline(coterie_tiers_t *tiers,
                            coterie_layer_counts_t *counts, uint32_t *rounds_p)
{
    size_t entries = (size_t)COTERIE_TIMELINE_SPANS * tiers->layer_count;

    if (tiers->guest != NULL) {
        *rounds_p = coterie_guest_ask(tiers->guest, COTERIE_CALL_TIMELINE,
                                      counts, entries * sizeof(*counts));
        return;
    }
    pthread_mutex_lock(&tiers->mutex);
    memcpy(counts, tiers->timeline.counts, entries * sizeof(*counts));
    *rounds_p = tiers->timeline.rounds;
    pthread_mutex_unlock(&tiers->mutex);
}

void coterie_tiers_hot(coterie_tiers_t *tiers, uint64_t *count)
{
    if (tiers->guest != NULL) {
        coterie_guest_ask(tiers->guest, COTERIE_CALL_HOT, count,
                          tiers->item_count * sizeof(*count));
        return;
    }
    pthread_mutex_lock(&tiers->mutex);
    for (uint32_t i = 0; i < tiers->item_count; i++)
        count[i] = tiers->items[i].hot + tiers->items[i].uses;
    pthread_mutex_unlock(&tiers->mutex);
}

void coterie_tiers_describe(coterie_tiers_t *tiers, char *text, size_t size)
{
    size_t length;

    if (tiers->guest != NULL) {
        guest_describe(tiers, text, size);
        return;
    }
    coterie_reader_describe(tiers->readers[0], text, size);
    length = strlen(text);
    if (tiers->reader_count > 1)
        snprintf(text + length, size - length, ", %u files",
                 tiers->reader_count);
}

static coterie_status_t guest_take(coterie_tiers_t *tiers,
                                   coterie_items_t items, uint32_t *at_p,
                                   const void **record_p)
{
    uint32_t slot;
    coterie_status_t status =
        coterie_guest_take(tiers->guest, items, at_p, &slot);

    if (status == COTERIE_OK)
        *record_p = coterie_slot_data(tiers, slot);
    return status;
}

static void guest_describe(coterie_tiers_t *tiers, char *text, size_t size)
{
    char told[COTERIE_SHARE_TEXT];

    coterie_guest_ask(tiers->guest, COTERIE_CALL_DESCRIBE, told,
                      sizeof(told));
    snprintf(text, size, "%s", told);
}

static void banks_count(coterie_tiers_t *tiers, uint32_t count)
{
    tiers->bank_count = count;
    for (uint32_t i = 0; i < tiers->reader_count; i++)
        coterie_reader_waiters(tiers->readers[i], count);
}

/* After a use of so many rows, or none. */
static void lease_end(coterie_tiers_t *tiers, uint32_t ordinal, uint32_t rows)
{
    coterie_item_t *item = &tiers->items[ordinal];

    assert(item->state == COTERIE_ITEM_IN_USE);
    if (--item->leases > 0)
        return;
    coterie_item_move(item, COTERIE_ITEM_RESIDENT);
    if (item->wanted == 0) {
        coterie_item_offer(tiers, ordinal);
        if (rows > 0)
            coterie_item_choose(tiers, ordinal, rows);
    }
    coterie_slots_serve(tiers);
    coterie_plan_go_on(tiers);
}

static void use(coterie_tiers_t *tiers, uint32_t ordinal)
{
    coterie_item_t *item = &tiers->items[ordinal];
    uint32_t layer = ordinal / tiers->expert_count;

    if (layer < tiers->layer_last)
        coterie_timeline_round(&tiers->timeline);
    tiers->layer_last = layer;
    item->uses++;
    coterie_item_used(tiers, ordinal);
}

static void want_one(coterie_tiers_t *tiers, uint32_t ordinal)
{
    coterie_item_t *item = &tiers->items[ordinal];
    bool there = item->state == COTERIE_ITEM_RESIDENT ||
                 item->state == COTERIE_ITEM_IN_USE;
    coterie_layer_counts_t *counts = coterie_item_counts(tiers, ordinal);

    counts->uses++;
    counts->hits += there;
    counts->memory_bytes += there ? item->read.size : 0;
    if (item->state == COTERIE_ITEM_RESIDENT && item->wanted == 0)
        coterie_item_withdraw(tiers, ordinal);
    item->wanted++;
    if (item->guessed)
        coterie_item_guess_used(tiers, ordinal);
    if (item->state == COTERIE_ITEM_ARRIVING)
        coterie_reader_promote(item->read.reader, &item->read);
    else if (item->state == COTERIE_ITEM_ABSENT)
        coterie_item_queue(tiers, ordinal);
}

/* Whether one of items is there, or failed. */
static bool take_one(coterie_tiers_t *tiers, coterie_items_t items,
                     uint32_t *at_p)
{
    for (uint32_t i = 0; i < items.count; i++) {
        coterie_item_state_t state;

        if (items.items[i] == COTERIE_ITEM_NONE)
            continue;
        state = tiers->items[items.items[i]].state;
        if (state != COTERIE_ITEM_RESIDENT && state != COTERIE_ITEM_IN_USE &&
            state != COTERIE_ITEM_FAILED)
            continue;
        *at_p = i;
        return true;
    }
    return false;
}
