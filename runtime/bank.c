#include "config.h"

#include <stdlib.h>

#include "base/error.h"
#include "runtime/session.h"

enum { RECORD_ALIGN = 4096 };

struct coterie_bank {
    uint32_t rank, layer_count, expert_count;
    uint32_t slot_count; /* this rank's, of each layer */
    coterie_ffn_shape_t shape;
    coterie_expert_weights_t *experts; /* [layer, slot] */
    unsigned char *arena;              /* their records */
};

static coterie_status_t allocate(coterie_bank_t *bank,
                                 const coterie_placement_options_t *view,
                                 const coterie_expert_format_t *format);
static coterie_status_t load(coterie_bank_t *bank, const coterie_model_t *model,
                             const coterie_placement_options_t *view,
                             const coterie_expert_format_t *format);
static uint32_t first_slot(const coterie_placement_options_t *view,
                           uint32_t rank);

coterie_status_t coterie_bank_create(const coterie_model_t *model,
                                     const coterie_placement_t *placement,
                                     uint32_t rank, coterie_bank_t **bank_p)
{
    coterie_placement_options_t view;
    coterie_expert_format_t format = {.size = sizeof(format)};
    coterie_model_config_t config = {.size = sizeof(config)};
    coterie_bank_t *bank;
    coterie_status_t status;

    coterie_placement_view(placement, &view);
    coterie_model_config(model, &config);
    coterie_model_expert_format(model, &format);
    status = coterie_placement_check(placement, config.moe_layers,
                                     config.experts, view.rank_count);
    if (status != COTERIE_OK)
        return status;
    if (rank >= view.rank_count)
        return coterie_fail(COTERIE_ERR_INVALID,
                            "bank: rank %u; the placement is for %u ranks",
                            rank, view.rank_count);
    if (format.layout != COTERIE_LAYOUT_ROWS)
        return coterie_fail(COTERIE_ERR_UNSUPPORTED,
                            "bank: experts are in layout %u and the kernels "
                            "need %d; repack the model with `coterie pack`",
                            format.layout, COTERIE_LAYOUT_ROWS);
    bank = calloc(1, sizeof(*bank));
    if (bank == NULL)
        return coterie_fail_memory(sizeof(*bank), "a bank");
    bank->rank = rank;
    status = allocate(bank, &view, &format);
    if (status == COTERIE_OK)
        status = load(bank, model, &view, &format);
    if (status == COTERIE_OK)
        *bank_p = bank;
    else
        coterie_bank_destroy(bank);
    return status;
}

void coterie_bank_destroy(coterie_bank_t *bank)
{
    if (bank == NULL)
        return;
    free(bank->experts);
    free(bank->arena);
    free(bank);
}

size_t coterie_bank_scratch(const coterie_bank_t *bank)
{
    return coterie_expert_ffn_scratch(&bank->shape);
}

void coterie_bank_compute(const coterie_bank_t *bank, uint32_t layer,
                          const coterie_expert_rows_t *rows, const float *x,
                          float *sums, void *scratch)
{
    coterie_expert_ffn(&bank->shape,
                       bank->experts + (size_t)layer * bank->slot_count, rows,
                       x, sums, scratch);
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

static coterie_status_t allocate(coterie_bank_t *bank,
                                 const coterie_placement_options_t *view,
                                 const coterie_expert_format_t *format)
{
    size_t slots, size;

    bank->layer_count = view->layer_count;
    bank->expert_count = view->expert_count;
    bank->slot_count =
        first_slot(view, bank->rank + 1) - first_slot(view, bank->rank);
    bank->shape = (coterie_ffn_shape_t){format->hidden, format->ffn,
                                        format->dtype, 0};
    slots = (size_t)bank->slot_count * bank->layer_count;
    /* An idle rank has an arena too: one record that is never used. */
    if (__builtin_mul_overflow(slots > 0 ? slots : 1, format->record_size,
                               &size))
        size = SIZE_MAX;
    bank->experts = calloc(slots > 0 ? slots : 1, sizeof(*bank->experts));
    bank->arena =
        size == SIZE_MAX ? NULL : aligned_alloc(RECORD_ALIGN, size);
    if (bank->experts == NULL || bank->arena == NULL)
        return coterie_fail_memory(size, "a rank's experts");
    return COTERIE_OK;
}

static coterie_status_t load(coterie_bank_t *bank, const coterie_model_t *model,
                             const coterie_placement_options_t *view,
                             const coterie_expert_format_t *format)
{
    uint32_t first = first_slot(view, bank->rank);
    unsigned char *record = bank->arena;

    for (uint32_t layer = 0; layer < bank->layer_count; layer++) {
        for (uint32_t slot = 0; slot < bank->slot_count; slot++) {
            int expert = view->slot_expert[(size_t)layer * view->slot_count +
                                           first + slot];
            coterie_status_t status;

            if (expert < 0)
                continue;
            status = coterie_model_expert(model, layer, (uint32_t)expert,
                                          record);
            if (status != COTERIE_OK)
                return status;
            bank->experts[(size_t)layer * bank->slot_count + slot] =
                (coterie_expert_weights_t){record + format->gate_offset,
                                           record + format->up_offset,
                                           record + format->down_offset};
            record += format->record_size;
        }
    }
    return COTERIE_OK;
}

static uint32_t first_slot(const coterie_placement_options_t *view,
                           uint32_t rank)
{
    uint32_t slot = 0;

    while (slot < view->slot_count && view->slot_rank[slot] < rank)
        slot++;
    return slot;
}
