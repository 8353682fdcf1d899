#include "config.h"

#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/error.h"
#include "base/options.h"
#include "experts/model.h"
#include "experts/store.h"
#include "offload/budget.h"
#include "offload/tiers_state.h"

static coterie_status_t tiers_size(coterie_tiers_t *tiers,
                                   const coterie_model_t *model,
                                   const coterie_tiers_options_t *options);
static coterie_status_t tiers_fill(coterie_tiers_t *tiers,
                                   const coterie_model_t *model,
                                   const coterie_tiers_options_t *options);
static void items_describe(coterie_tiers_t *tiers,
                           const coterie_model_t *model, const uint64_t *hot);
static coterie_status_t readers_create(coterie_tiers_t *tiers,
                                       const coterie_model_t *model,
                                       const coterie_reader_options_t *how);
static void read_done(void *arg, coterie_read_t *read);
static void use(coterie_tiers_t *tiers, uint32_t item);
static void want_one(coterie_tiers_t *tiers, uint32_t item);
static bool take_one(coterie_tiers_t *tiers, coterie_items_t items,
                     uint32_t *at_p);

coterie_status_t coterie_tiers_create(const coterie_model_t *model,
                                      const coterie_tiers_options_t *options,
                                      coterie_tiers_t **tiers_p)
{
    return coterie_tiers_create_with(model, options, NULL, tiers_p);
}

coterie_status_t coterie_tiers_create_with(
    const coterie_model_t *model, const coterie_tiers_options_t *options,
    const coterie_io_ops_t *io, coterie_tiers_t **tiers_p)
{
    coterie_tiers_options_t opts;
    coterie_reader_options_t reading = {.done = read_done, .io = io};
    coterie_tiers_t *tiers;
    coterie_status_t status;

    if (model == NULL || options == NULL || tiers_p == NULL)
        return coterie_fail(COTERIE_ERR_INVALID,
                            "coterie_tiers_create: an argument is NULL");
    status = coterie_options_read(options, &opts, sizeof(opts), "tiers");
    if (status != COTERIE_OK)
        return status;
    if (opts.polling > COTERIE_POLLING_COMPLETE)
        return coterie_fail(COTERIE_ERR_INVALID, "tiers: there is no polling "
                            "%u", opts.polling);
    if (coterie_store_file(model->source, 0) == NULL)
        return coterie_fail(COTERIE_ERR_UNSUPPORTED,
                            "%s: only an expert store can be served with a "
                            "budget; make one with `coterie pack`",
                            model->source->path);
    tiers = calloc(1, sizeof(*tiers));
    if (tiers == NULL)
        return coterie_fail_memory(sizeof(*tiers), "tiers");
    pthread_mutex_init(&tiers->mutex, NULL);
    pthread_cond_init(&tiers->changed, NULL);
    status = tiers_size(tiers, model, &opts);
    if (status == COTERIE_OK)
        status = tiers_fill(tiers, model, &opts);
    reading.arena = &tiers->arena;
    reading.record_size = tiers->format.record_size;
    reading.arg = tiers;
    reading.polling = (coterie_polling_t)opts.polling;
    if (status == COTERIE_OK)
        status = readers_create(tiers, model, &reading);
    if (status == COTERIE_OK)
        status = coterie_watch_create(tiers, model, opts.hot, &tiers->watch);
    if (status == COTERIE_OK)
        *tiers_p = tiers;
    else
        coterie_tiers_destroy(tiers);
    return status;
}

void coterie_tiers_shape(const coterie_tiers_t *tiers, uint32_t *layers_p,
                         uint32_t *experts_p, coterie_expert_format_t *format)
{
    *layers_p = tiers->layer_count;
    *experts_p = tiers->expert_count;
    *format = tiers->format;
}

bool coterie_tiers_have_host(const coterie_tiers_t *tiers)
{
    return tiers->fast_count < tiers->slot_count;
}

void coterie_tiers_speeds(coterie_tiers_t *tiers,
                          const coterie_speeds_t *speeds)
{
    pthread_mutex_lock(&tiers->mutex);
    tiers->speeds = *speeds;
    pthread_mutex_unlock(&tiers->mutex);
}

void coterie_tiers_serve(coterie_tiers_t *tiers, uint32_t item)
{
    pthread_mutex_lock(&tiers->mutex);
    tiers->items[item].banks++;
    pthread_mutex_unlock(&tiers->mutex);
}

void coterie_tiers_route(coterie_tiers_t *tiers, coterie_items_t chosen,
                         coterie_items_t refuted)
{
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

    pthread_mutex_lock(&tiers->mutex);
    for (uint32_t i = 0; i < items.count && more; i++)
        more = coterie_item_guess(tiers, items.items[i]);
    pthread_mutex_unlock(&tiers->mutex);
}

void coterie_tiers_want(coterie_tiers_t *tiers, coterie_items_t items)
{
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

void coterie_tiers_release(coterie_tiers_t *tiers, uint32_t ordinal,
                           uint32_t rows)
{
    coterie_item_t *item = &tiers->items[ordinal];

    pthread_mutex_lock(&tiers->mutex);
    assert(item->state == COTERIE_ITEM_IN_USE);
    if (--item->leases == 0) {
        coterie_item_move(item, COTERIE_ITEM_RESIDENT);
        if (item->wanted == 0) {
            coterie_item_offer(tiers, ordinal);
            coterie_item_choose(tiers, ordinal, rows);
        }
        coterie_slots_serve(tiers);
        coterie_plan_go_on(tiers);
    }
    pthread_mutex_unlock(&tiers->mutex);
}

void coterie_tiers_abandon(coterie_tiers_t *tiers, coterie_items_t items)
{
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
        .stall_ns = sum.stall_ns};
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

    pthread_mutex_lock(&tiers->mutex);
    memcpy(counts, tiers->timeline.counts, entries * sizeof(*counts));
    *rounds_p = tiers->timeline.rounds;
    pthread_mutex_unlock(&tiers->mutex);
}

void coterie_tiers_hot(coterie_tiers_t *tiers, uint64_t *count)
{
    pthread_mutex_lock(&tiers->mutex);
    for (uint32_t i = 0; i < tiers->item_count; i++)
        count[i] = tiers->items[i].hot + tiers->items[i].uses;
    pthread_mutex_unlock(&tiers->mutex);
}

void coterie_tiers_describe(coterie_tiers_t *tiers, char *text, size_t size)
{
    size_t length;

    coterie_reader_describe(tiers->readers[0], text, size);
    length = strlen(text);
    if (tiers->reader_count > 1)
        snprintf(text + length, size - length, ", %u files",
                 tiers->reader_count);
}

void coterie_tiers_destroy(coterie_tiers_t *tiers)
{
    if (tiers == NULL)
        return;
    coterie_watch_destroy(tiers->watch);   /* first: it starts reads */
    for (uint32_t i = 0; i < tiers->reader_count; i++)
        coterie_reader_stop(tiers->readers[i]); /* one may start another's */
    for (uint32_t i = 0; i < tiers->reader_count; i++)
        coterie_reader_destroy(tiers->readers[i]);
    free(tiers->plan);
    coterie_policy_destroy(tiers->policy);
    coterie_memory_destroy(tiers);
    pthread_cond_destroy(&tiers->changed);
    pthread_mutex_destroy(&tiers->mutex);
    coterie_timeline_destroy(&tiers->timeline);
    free(tiers->items);
    free(tiers->free_slots);
    free(tiers);
}

static coterie_status_t tiers_size(coterie_tiers_t *tiers,
                                   const coterie_model_t *model,
                                   const coterie_tiers_options_t *options)
{
    coterie_model_config_t config = {.size = sizeof(config)};
    uint64_t items, budget, record, slots, host;
    coterie_container_t container;
    coterie_status_t status;

    coterie_model_config(model, &config);
    coterie_model_expert_format(model, &tiers->format);
    record = tiers->format.record_size;
    items = (uint64_t)config.moe_layers * config.experts;
    if (items >= COTERIE_ITEM_NONE / 2)
        return coterie_fail(COTERIE_ERR_UNSUPPORTED,
                            "tiers: %" PRIu64 " experts are too many", items);
    coterie_container_read("", &container);
    status = coterie_budget_bytes(options, &container, items * record,
                                  model->source->path, &budget);
    if (status != COTERIE_OK)
        return status;
    slots = budget / record < items ? budget / record : items;
    if (!(options->host_percent >= 0 && options->host_percent <= 100) ||
        (options->host_budget > 0 && options->host_percent > 0))
        return coterie_fail(COTERIE_ERR_INVALID,
                            "tiers: host memory must be given either in bytes "
                            "or as 0 to 100 percent");
    host = options->host_budget > 0
               ? options->host_budget
               : (uint64_t)((double)(items * record) / 100 *
                            options->host_percent);
    if (slots == 0)
        return coterie_fail(COTERIE_ERR_INVALID,
                            "%s: a budget of %" PRIu64
                            " bytes; one expert takes %" PRIu64,
                            model->source->path, budget, record);
    tiers->layer_count = config.moe_layers;
    tiers->expert_count = config.experts;
    tiers->item_count = (uint32_t)items;
    tiers->fast_count = (uint32_t)slots;
    slots += host / record < items - slots ? host / record : items - slots;
    tiers->slot_count = (uint32_t)slots;
    tiers->budget = budget;
    tiers->host_budget = host;
    return COTERIE_OK;
}

static coterie_status_t tiers_fill(coterie_tiers_t *tiers,
                                   const coterie_model_t *model,
                                   const coterie_tiers_options_t *options)
{
    uint32_t slots = tiers->slot_count;
    coterie_status_t status;

    tiers->items = calloc(tiers->item_count, sizeof(*tiers->items));
    tiers->free_slots = calloc(slots, sizeof(*tiers->free_slots));
    tiers->plan = calloc(tiers->item_count, sizeof(*tiers->plan));
    if (tiers->items == NULL || tiers->free_slots == NULL ||
        tiers->plan == NULL)
        return coterie_fail_memory(tiers->item_count * sizeof(*tiers->items),
                                   "the states of experts");
    items_describe(tiers, model, options->hot);
    while (tiers->free_count < slots) {
        tiers->free_slots[tiers->free_count] = slots - 1 - tiers->free_count;
        tiers->free_count++;
    }
    coterie_pace_begin(&tiers->pace);
    tiers->queue_first = COTERIE_ITEM_NONE;
    tiers->guess_first = tiers->guess_last = COTERIE_ITEM_NONE;
    status = coterie_timeline_create(tiers->layer_count, &tiers->timeline);
    if (status == COTERIE_OK)
        status = coterie_policy_create((coterie_policy_kind_t)options->policy,
                                       tiers->item_count, &tiers->policy);
    if (status == COTERIE_OK)
        status = coterie_memory_create(
            tiers, (coterie_policy_kind_t)options->policy);
    return status;
}

static void items_describe(coterie_tiers_t *tiers,
                           const coterie_model_t *model, const uint64_t *hot)
{
    for (uint32_t i = 0; i < tiers->item_count; i++) {
        uint32_t layer = i / tiers->expert_count;
        uint32_t expert = i % tiers->expert_count;
        coterie_extent_t extent =
            coterie_store_extent(model->source, layer, expert);

        tiers->items[i].slot = COTERIE_ITEM_NONE;
        tiers->items[i].hot = hot != NULL ? hot[i] / 2 : 0; /* it is older */
        tiers->items[i].read = (coterie_read_t){.layer = layer,
                                                .expert = expert,
                                                .offset = extent.offset,
                                                .size = extent.size,
                                                .hashes = extent.hashes};
    }
}

/* One for each of the store's files, which are on drives of their own. */
static coterie_status_t readers_create(coterie_tiers_t *tiers,
                                       const coterie_model_t *model,
                                       const coterie_reader_options_t *how)
{
    coterie_reader_options_t options = *how;
    coterie_status_t status = COTERIE_OK;
    uint32_t count = 0;

    while (status == COTERIE_OK &&
           (options.file = coterie_store_file(model->source, count)) != NULL) {
        status = coterie_reader_create(&options, &tiers->readers[count]);
        count += status == COTERIE_OK;
    }
    tiers->reader_count = count;
    for (uint32_t i = 0; i < tiers->item_count && status == COTERIE_OK; i++) {
        coterie_extent_t extent =
            coterie_store_extent(model->source, i / tiers->expert_count,
                                 i % tiers->expert_count);

        tiers->items[i].read.reader = tiers->readers[extent.file];
    }
    return status;
}

/* On the reader's thread. */
static void read_done(void *arg, coterie_read_t *read)
{
    coterie_tiers_t *tiers = arg;

    pthread_mutex_lock(&tiers->mutex);
    coterie_item_arrived(tiers,
                         read->layer * tiers->expert_count + read->expert);
    pthread_cond_broadcast(&tiers->changed);
    pthread_mutex_unlock(&tiers->mutex);
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
