#include "config.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "runtime/device_call.h"
#include "runtime/session.h"

/* A bank whose experts are all in a device's memory. */
struct coterie_bank_device {
    coterie_device_call_t call;
    coterie_expert_weights_t *experts; /* there: [layer, slot] */
    coterie_expert_weights_t *table;   /* the same, here */
    unsigned char *arena;              /* there: their records */
    uint32_t *slots;                   /* [slot_count]: 0, 1, 2.. */
};

static coterie_status_t experts_move(coterie_bank_device_t *d,
                                     const coterie_bank_t *bank);
static void weights_move(coterie_expert_weights_t *weights,
                         const unsigned char *from, unsigned char *to);

coterie_status_t coterie_bank_move(coterie_bank_t *bank,
                                   coterie_device_t *device,
                                   uint32_t max_rows, uint32_t k)
{
    coterie_bank_device_t *d;
    coterie_status_t status = coterie_device_call_shape(device, &bank->shape);

    if (bank->tiers != NULL)
        status = coterie_fail(COTERIE_ERR_UNSUPPORTED,
                              "bank: experts in tiers cannot be moved to a "
                              "device; create it without a budget");
    if (status != COTERIE_OK)
        return status;
    d = calloc(1, sizeof(*d));
    if (d == NULL)
        return coterie_fail_memory(sizeof(*d), "a bank's device");
    d->call = (coterie_device_call_t){.device = device,
                                      .shape = bank->shape,
                                      .max_rows = max_rows,
                                      .k = k,
                                      .experts = bank->slot_count};
    d->slots = calloc(bank->slot_count + 1, sizeof(*d->slots));
    for (uint32_t i = 0; d->slots != NULL && i < bank->slot_count; i++)
        d->slots[i] = i;
    status = d->slots != NULL
                 ? coterie_device_call_open(&d->call)
                 : coterie_fail_memory(bank->slot_count, "a bank's device");
    if (status == COTERIE_OK)
        status = experts_move(d, bank);
    if (status != COTERIE_OK) {
        coterie_bank_device_destroy(d);
        return status;
    }
    coterie_arena_destroy(&bank->arena);
    bank->arena = (coterie_arena_t){0};
    bank->device = d;
    return COTERIE_OK;
}

coterie_status_t coterie_bank_device_compute(const coterie_bank_t *bank,
                                             uint32_t layer,
                                             const coterie_expert_rows_t *rows,
                                             const float *x, float *sums)
{
    coterie_bank_device_t *d = bank->device;
    const uint32_t first[] = {0, bank->slot_count};
    const coterie_call_groups_t all = {1, first, d->slots};
    coterie_status_t status = coterie_device_call_check(&d->call, rows);

    if (status != COTERIE_OK || rows->row_count == 0)
        return status;
    status = coterie_device_call_begin(&d->call, rows, x, &all);
    if (status == COTERIE_OK)
        status = coterie_device_call_ffn(
            &d->call, 0, coterie_bank_device_experts(bank, layer),
            d->table + (size_t)layer * bank->slot_count);
    if (status == COTERIE_OK)
        status = coterie_device_call_add(&d->call, true);
    if (status == COTERIE_OK)
        status = coterie_device_call_finish(&d->call, sums);
    return status;
}

const coterie_expert_weights_t *coterie_bank_device_experts(
    const coterie_bank_t *bank, uint32_t layer)
{
    return bank->device->experts + (size_t)layer * bank->slot_count;
}

void coterie_bank_device_destroy(coterie_bank_device_t *d)
{
    coterie_device_t *device;

    if (d == NULL)
        return;
    device = d->call.device;
    device->ops->release(device, d->experts);
    device->ops->release(device, d->arena);
    coterie_device_call_close(&d->call);
    free(d->slots);
    free(d->table);
    free(d);
}

/* Records go over as they lie; the places in them move along. */
static coterie_status_t experts_move(coterie_bank_device_t *d,
                                     const coterie_bank_t *bank)
{
    coterie_device_t *device = d->call.device;
    const coterie_device_ops_t *ops = device->ops;
    const size_t slots = (size_t)bank->slot_count * bank->layer_count;
    const size_t size = slots * bank->format.record_size;
    const size_t table_size = slots * sizeof(*d->experts);
    void *memory = NULL;
    coterie_status_t status = COTERIE_OK;

    d->table = malloc(table_size + 1);
    if (d->table == NULL)
        return coterie_fail_memory(table_size, "a bank's device");
    status = ops->allocate(device, size, &memory);
    d->arena = memory;
    if (status == COTERIE_OK)
        status = ops->allocate(device, table_size, &memory);
    if (status == COTERIE_OK)
        d->experts = memory;
    for (size_t i = 0; status == COTERIE_OK && i < slots; i++) {
        d->table[i] = bank->experts[i];
        weights_move(&d->table[i], bank->arena.data, d->arena);
    }
    if (status == COTERIE_OK)
        status = ops->copy(device, COTERIE_STREAM_COMPUTE, d->arena,
                           bank->arena.data, size);
    if (status == COTERIE_OK)
        status = ops->copy(device, COTERIE_STREAM_COMPUTE, d->experts,
                           d->table, table_size);
    if (status == COTERIE_OK)
        status = ops->wait(device, COTERIE_STREAM_COMPUTE);
    return status;
}

static void weights_move(coterie_expert_weights_t *weights,
                         const unsigned char *from, unsigned char *to)
{
    const void **all[] = {
        &weights->gate,       &weights->up,       &weights->down,
        &weights->gate_scale, &weights->up_scale, &weights->down_scale,
        (const void **)&weights->gate_bias, (const void **)&weights->up_bias,
        (const void **)&weights->down_bias};

    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
        if (*all[i] != NULL)
            *all[i] = to + ((const unsigned char *)*all[i] - from);
}
