#include "config.h"

#include <inttypes.h>
#include <stdlib.h>

#include "base/error.h"
#include "base/options.h"
#include "experts/model.h"
#include "experts/store.h"
#include "offload/budget.h"
#include "offload/tiers_state.h"

static coterie_status_t tiers_begin(const coterie_model_t *model,
                                    coterie_tiers_t **tiers_p);
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
    status = tiers_begin(model, &tiers);
    if (status != COTERIE_OK)
        return status;
    tiers->shared = opts.shared != 0;
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

coterie_status_t coterie_tiers_share(coterie_tiers_t *tiers, char *name)
{
    if (tiers == NULL || name == NULL || !tiers->shared ||
        tiers->keeper != NULL || tiers->guest != NULL)
        return coterie_fail(COTERIE_ERR_INVALID,
                            "tiers: only what was created to be shared can "
                            "be, once");
    return coterie_keeper_create(tiers, name, &tiers->keeper);
}

coterie_status_t coterie_tiers_join(const coterie_model_t *model,
                                    const char *name,
                                    coterie_tiers_t **tiers_p)
{
    coterie_tiers_t *tiers;
    coterie_status_t status;

    if (model == NULL || name == NULL || tiers_p == NULL)
        return coterie_fail(COTERIE_ERR_INVALID,
                            "coterie_tiers_join: an argument is NULL");
    status = tiers_begin(model, &tiers);
    if (status != COTERIE_OK)
        return status;
    status = coterie_guest_create(name, tiers);
    if (status == COTERIE_OK)
        *tiers_p = tiers;
    else
        coterie_tiers_destroy(tiers);
    return status;
}

void coterie_tiers_destroy(coterie_tiers_t *tiers)
{
    if (tiers == NULL)
        return;
    coterie_guest_destroy(tiers->guest);
    coterie_keeper_destroy(tiers->keeper); /* while there are reads to take */
    coterie_watch_destroy(tiers->watch);   /* before readers: it starts reads */
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

/* With the shape of a store's experts, and nothing else. */
static coterie_status_t tiers_begin(const coterie_model_t *model,
                                    coterie_tiers_t **tiers_p)
{
    coterie_model_config_t config = {.size = sizeof(config)};
    coterie_tiers_t *tiers;
    uint64_t items;

    if (coterie_store_file(model->source, 0) == NULL)
        return coterie_fail(COTERIE_ERR_UNSUPPORTED,
                            "%s: only an expert store can be served with a "
                            "budget; make one with `coterie pack`",
                            model->source->path);
    coterie_model_config(model, &config);
    items = (uint64_t)config.moe_layers * config.experts;
    if (items >= COTERIE_ITEM_NONE / 2)
        return coterie_fail(COTERIE_ERR_UNSUPPORTED,
                            "tiers: %" PRIu64 " experts are too many", items);
    tiers = calloc(1, sizeof(*tiers));
    if (tiers == NULL)
        return coterie_fail_memory(sizeof(*tiers), "tiers");
    pthread_mutex_init(&tiers->mutex, NULL);
    pthread_cond_init(&tiers->changed, NULL);
    coterie_model_expert_format(model, &tiers->format);
    tiers->layer_count = config.moe_layers;
    tiers->expert_count = config.experts;
    tiers->item_count = (uint32_t)items;
    tiers->identity = coterie_share_identity(
        model->source, tiers->layer_count, tiers->expert_count);
    *tiers_p = tiers;
    return COTERIE_OK;
}

static coterie_status_t tiers_size(coterie_tiers_t *tiers,
                                   const coterie_model_t *model,
                                   const coterie_tiers_options_t *options)
{
    uint64_t items = tiers->item_count, record = tiers->format.record_size;
    coterie_budget_t budget;
    uint64_t slots;
    coterie_container_t container;
    coterie_status_t status;

    coterie_container_read("", &container);
    status = coterie_budget_read(options, &container, items * record,
                                 model->source->path, &budget);
    if (status != COTERIE_OK)
        return status;
    slots = budget.fast / record < items ? budget.fast / record : items;
    if (slots == 0)
        return coterie_fail(COTERIE_ERR_INVALID,
                            "%s: a budget of %" PRIu64
                            " bytes; one expert takes %" PRIu64,
                            model->source->path, budget.fast, record);
    tiers->fast_count = (uint32_t)slots;
    slots += budget.host / record < items - slots ? budget.host / record
                                                  : items - slots;
    tiers->slot_count = (uint32_t)slots;
    tiers->budget = budget.fast;
    tiers->host_budget = budget.host;
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
