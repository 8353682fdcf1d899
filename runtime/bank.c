#include "config.h"

#include <stdlib.h>

#include "base/error.h"
#include "runtime/session.h"

static coterie_sight_t sight_of(const coterie_session_t *s,
                                const coterie_rows_t *rows);
static void guess_all(const coterie_bank_t *bank, uint32_t layer,
                      const int32_t *experts, size_t count);
static coterie_status_t bank_begin(const coterie_placement_options_t *view,
                                   uint32_t rank, coterie_bank_t **bank_p);
static coterie_status_t format_check(coterie_bank_t *bank);
static coterie_status_t allocate(coterie_bank_t *bank);
static coterie_status_t load(coterie_bank_t *bank,
                             const coterie_model_t *model,
                             const coterie_placement_options_t *view);
static const void *place_of(const unsigned char *record, uint64_t offset);
static coterie_status_t serve(coterie_bank_t *bank,
                              const coterie_placement_options_t *view);
static int32_t expert_of(const coterie_bank_t *bank,
                         const coterie_placement_options_t *view,
                         uint32_t layer, uint32_t slot);
static uint32_t first_slot(const coterie_placement_options_t *view,
                           uint32_t rank);

coterie_status_t coterie_bank_create(const coterie_model_t *model,
                                     const coterie_placement_t *placement,
                                     uint32_t rank, coterie_bank_t **bank_p)
{
    coterie_placement_options_t view;
    coterie_model_config_t config = {.size = sizeof(config)};
    coterie_bank_t *bank = NULL;
    coterie_status_t status;

    coterie_placement_view(placement, &view);
    coterie_model_config(model, &config);
    status = coterie_placement_check(placement, config.moe_layers,
                                     config.experts, view.rank_count);
    if (status == COTERIE_OK)
        status = bank_begin(&view, rank, &bank);
    if (status != COTERIE_OK)
        return status;
    coterie_model_expert_format(model, &bank->format);
    status = format_check(bank);
    if (status == COTERIE_OK)
        status = allocate(bank);
    if (status == COTERIE_OK)
        status = load(bank, model, &view);
    if (status == COTERIE_OK)
        *bank_p = bank;
    else
        coterie_bank_destroy(bank);
    return status;
}

coterie_status_t coterie_bank_create_tiered(
    coterie_tiers_t *tiers, const coterie_placement_t *placement,
    uint32_t rank, coterie_bank_t **bank_p)
{
    coterie_placement_options_t view;
    uint32_t layers, experts;
    coterie_bank_t *bank = NULL;
    coterie_expert_format_t format;
    coterie_status_t status;

    coterie_tiers_shape(tiers, &layers, &experts, &format);
    coterie_placement_view(placement, &view);
    status = coterie_placement_check(placement, layers, experts,
                                     view.rank_count);
    if (status == COTERIE_OK)
        status = bank_begin(&view, rank, &bank);
    if (status != COTERIE_OK)
        return status;
    bank->format = format;
    bank->tiers = tiers;
    status = format_check(bank);
    if (status == COTERIE_OK)
        status = serve(bank, &view);
    if (status == COTERIE_OK && coterie_tiers_have_host(tiers))
        status = coterie_bank_speeds(bank);
    if (status == COTERIE_OK)
        *bank_p = bank;
    else
        coterie_bank_destroy(bank);
    return status;
}

coterie_status_t coterie_bank_set_compute(coterie_bank_t *bank,
                                          uint32_t compute)
{
    coterie_ffn_shape_t shape = bank->shape;
    coterie_status_t status;

    shape.compute = compute;
    status = coterie_ffn_supported(&shape);
    if (status == COTERIE_OK)
        bank->shape = shape;
    return status;
}

void coterie_bank_set_pool(coterie_bank_t *bank, coterie_pool_t *pool)
{
    const size_t slots = (size_t)bank->slot_count * bank->layer_count;

    bank->pool = pool;
    for (size_t i = 0; bank->tiers == NULL && i < slots; i++)
        coterie_pool_place(pool, &bank->shape, &bank->experts[i]);
}

void coterie_bank_destroy(coterie_bank_t *bank)
{
    if (bank == NULL)
        return;
    coterie_bank_device_destroy(bank->device);
    coterie_bank_cache_destroy(bank->cache);
    free(bank->experts);
    coterie_arena_destroy(&bank->arena);
    free(bank->items);
    free(bank);
}

size_t coterie_bank_scratch(const coterie_bank_t *bank)
{
    return bank->tiers != NULL && bank->cache == NULL
               ? coterie_bank_tiers_scratch(bank)
               : coterie_pool_scratch(bank->pool, &bank->shape);
}

coterie_status_t coterie_bank_compute(const coterie_bank_t *bank,
                                      uint32_t layer,
                                      const coterie_expert_rows_t *rows,
                                      const float *x, float *sums,
                                      void *scratch)
{
    if (bank->device != NULL)
        return coterie_bank_device_compute(bank, layer, rows, x, sums);
    if (bank->cache != NULL)
        return coterie_bank_cache_compute(bank, layer, rows, x, sums, scratch);
    if (bank->tiers != NULL)
        return coterie_bank_tiers_compute(bank, layer, rows, x, sums, scratch);
    coterie_bank_ffn(
        bank, (coterie_ffn_call_t){
                  .experts = bank->experts + (size_t)layer * bank->slot_count,
                  .rows = rows,
                  .x = x,
                  .sums = sums,
                  .scratch = scratch});
    return COTERIE_OK;
}

void coterie_bank_ffn(const coterie_bank_t *bank, coterie_ffn_call_t call)
{
    call.shape = &bank->shape;
    coterie_pool_ffn(bank->pool, &call);
}

coterie_status_t coterie_bank_check(const coterie_bank_t *bank,
                                    const coterie_session_t *s)
{
    if (bank->rank != s->rank || bank->slot_count != s->slot_count ||
        bank->layer_count != s->layer_count ||
        bank->expert_count != s->expert_count ||
        bank->shape.hidden != s->options.hidden)
        return coterie_fail(COTERIE_ERR_MISMATCH,
                            "rank %u: its bank is rank %u's, of %u layers, %u "
                            "experts and hidden %u; the session has %u, %u and "
                            "%u",
                            s->rank, bank->rank, bank->layer_count,
                            bank->expert_count, bank->shape.hidden,
                            s->layer_count, s->expert_count,
                            s->options.hidden);
    return COTERIE_OK;
}

void coterie_bank_watch(const coterie_session_t *s, const coterie_rows_t *in)
{
    const coterie_bank_t *bank = s->options.bank;
    coterie_sight_t rows = sight_of(s, in);

    if (bank == NULL || bank->tiers == NULL || in->count == 0)
        return;
    rows.k = s->options.k;
    rows.hint_count = s->options.predicted_k;
    rows.experts = in->topk_ids;
    rows.hints = in->predicted;
    if (s->phase == COTERIE_PHASE_PREFILL && in->predicted != NULL &&
        s->layer + 1 < s->layer_count)
        guess_all(bank, s->layer + 1, in->predicted,
                  (size_t)in->count * s->options.predicted_k);
    coterie_tiers_watch(bank->tiers, &rows);
}

void coterie_bank_feed(const coterie_session_t *s, const coterie_rows_t *rows)
{
    const coterie_bank_t *bank = s->options.bank;
    coterie_sight_t fed = sight_of(s, rows);

    if (bank != NULL && bank->tiers != NULL &&
        s->phase == COTERIE_PHASE_DECODE && rows->count > 0)
        coterie_tiers_feed(bank->tiers, &fed, rows->token);
}

static coterie_sight_t sight_of(const coterie_session_t *s,
                                const coterie_rows_t *rows)
{
    return (coterie_sight_t){.turn = s->counts[COTERIE_PHASE_PREFILL].steps +
                                     s->counts[COTERIE_PHASE_DECODE].steps,
                             .layer = s->layer,
                             .count = rows->count,
                             .sequence = rows->sequence,
                             .position = rows->position};
}

/* A prompt's tokens need most of what any of them is likely to need. */
static void guess_all(const coterie_bank_t *bank, uint32_t layer,
                      const int32_t *experts, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        uint32_t item = layer * bank->expert_count + (uint32_t)experts[i];

        if (experts[i] >= 0)
            coterie_tiers_guess(bank->tiers, (coterie_items_t){&item, 1});
    }
}

coterie_expert_weights_t coterie_bank_weights(
    const coterie_expert_format_t *format, const unsigned char *record)
{
    const coterie_expert_format_t *f = format;

    return (coterie_expert_weights_t){
        .gate = record + f->gate_offset,
        .up = record + f->up_offset,
        .down = record + f->down_offset,
        .gate_scale = place_of(record, f->gate_scale_offset),
        .up_scale = place_of(record, f->up_scale_offset),
        .down_scale = place_of(record, f->down_scale_offset),
        .gate_bias = place_of(record, f->gate_bias_offset),
        .up_bias = place_of(record, f->up_bias_offset),
        .down_bias = place_of(record, f->down_bias_offset)};
}

/* A bank without its experts. */
static coterie_status_t bank_begin(const coterie_placement_options_t *view,
                                   uint32_t rank, coterie_bank_t **bank_p)
{
    coterie_bank_t *bank;

    if (rank >= view->rank_count)
        return coterie_fail(COTERIE_ERR_INVALID,
                            "bank: rank %u; the placement is for %u ranks",
                            rank, view->rank_count);
    bank = calloc(1, sizeof(*bank));
    if (bank == NULL)
        return coterie_fail_memory(sizeof(*bank), "a bank");
    bank->rank = rank;
    bank->layer_count = view->layer_count;
    bank->expert_count = view->expert_count;
    bank->slot_count = first_slot(view, rank + 1) - first_slot(view, rank);
    *bank_p = bank;
    return COTERIE_OK;
}

static coterie_status_t format_check(coterie_bank_t *bank)
{
    const coterie_expert_format_t *format = &bank->format;

    if (format->layout != COTERIE_LAYOUT_PANELS)
        return coterie_fail(COTERIE_ERR_UNSUPPORTED,
                            "bank: experts are in layout %u and the kernels "
                            "need %d; repack the model with `coterie pack`",
                            format->layout, COTERIE_LAYOUT_PANELS);
    bank->shape = (coterie_ffn_shape_t){.hidden = format->hidden,
                                        .ffn = format->ffn,
                                        .dtype = format->dtype,
                                        .activation = format->activation,
                                        .alpha = format->alpha,
                                        .limit = format->limit};
    return coterie_ffn_supported(&bank->shape);
}

static coterie_status_t allocate(coterie_bank_t *bank)
{
    size_t slots = (size_t)bank->slot_count * bank->layer_count, size;

    /* An idle rank has an arena too: one record that is never used. */
    if (__builtin_mul_overflow(slots > 0 ? slots : 1,
                               bank->format.record_size, &size))
        size = SIZE_MAX;
    bank->experts = calloc(slots > 0 ? slots : 1, sizeof(*bank->experts));
    if (bank->experts == NULL || size == SIZE_MAX)
        return coterie_fail_memory(size, "a rank's experts");
    return coterie_arena_create(size, size, &bank->arena);
}

static coterie_status_t load(coterie_bank_t *bank,
                             const coterie_model_t *model,
                             const coterie_placement_options_t *view)
{
    unsigned char *record = bank->arena.data;

    for (uint32_t layer = 0; layer < bank->layer_count; layer++) {
        for (uint32_t slot = 0; slot < bank->slot_count; slot++) {
            int32_t expert = expert_of(bank, view, layer, slot);
            coterie_status_t status;

            if (expert < 0)
                continue;
            status = coterie_model_expert(model, layer, (uint32_t)expert,
                                          record);
            if (status != COTERIE_OK)
                return status;
            bank->experts[(size_t)layer * bank->slot_count + slot] =
                coterie_bank_weights(&bank->format, record);
            record += bank->format.record_size;
        }
    }
    return COTERIE_OK;
}

/* Scales and biases may be missing; no record begins with them. */
static const void *place_of(const unsigned char *record, uint64_t offset)
{
    return offset == 0 ? NULL : record + offset;
}

static coterie_status_t serve(coterie_bank_t *bank,
                              const coterie_placement_options_t *view)
{
    size_t slots = (size_t)bank->slot_count * bank->layer_count;
    uint32_t *item;

    item = bank->items = calloc(slots > 0 ? slots : 1, sizeof(*item));
    if (item == NULL)
        return coterie_fail_memory(slots * sizeof(*item), "a rank's experts");
    for (uint32_t layer = 0; layer < bank->layer_count; layer++) {
        for (uint32_t slot = 0; slot < bank->slot_count; slot++, item++) {
            int32_t expert = expert_of(bank, view, layer, slot);

            *item = COTERIE_ITEM_NONE;
            if (expert < 0)
                continue;
            *item = layer * bank->expert_count + (uint32_t)expert;
        }
    }
    return coterie_tiers_serve(
        bank->tiers, (coterie_items_t){bank->items, (uint32_t)slots});
}

static int32_t expert_of(const coterie_bank_t *bank,
                         const coterie_placement_options_t *view,
                         uint32_t layer, uint32_t slot)
{
    return view->slot_expert[(size_t)layer * view->slot_count +
                             first_slot(view, bank->rank) + slot];
}

static uint32_t first_slot(const coterie_placement_options_t *view,
                           uint32_t rank)
{
    uint32_t slot = 0;

    while (slot < view->slot_count && view->slot_rank[slot] < rank)
        slot++;
    return slot;
}
