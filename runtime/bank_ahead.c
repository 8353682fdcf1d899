/* Experts that go to a device before they are needed: those of the next layer
 * that are likely, and in the tiers' memory. Their copies run while this
 * layer's experts are computed, and while the engine does what comes in
 * between. */
#include "config.h"

#include "runtime/bank_cache.h"

static uint32_t likeliest(const coterie_bank_cache_t *c, uint32_t first,
                          uint32_t count);
static bool is_worth(const coterie_bank_cache_t *c,
                     const coterie_bank_t *bank, uint32_t layer,
                     float chance);
static coterie_status_t expert_send(coterie_bank_cache_t *c, uint32_t at,
                                    uint32_t item, const void *record);

coterie_status_t coterie_bank_ahead_begin(const coterie_bank_t *bank,
                                          uint32_t layer)
{
    coterie_bank_cache_t *c = bank->cache;
    const uint32_t slots = bank->slot_count;
    const uint32_t first = (layer + 1) % bank->layer_count * slots;
    coterie_status_t status = coterie_bank_ahead_end(c);

    coterie_tiers_chances(
        c->tiers, (coterie_items_t){bank->items + first, slots}, c->chance);
    while (status == COTERIE_OK && c->lent_count < c->room_count / 2) {
        const uint32_t slot = likeliest(c, first, slots);
        const void *record;

        if (!is_worth(c, bank, layer, c->chance[slot]))
            break;
        c->chance[slot] = 0;
        if (coterie_tiers_borrow(c->tiers, bank->items[first + slot],
                                 &record))
            status = expert_send(c, first + slot, bank->items[first + slot],
                                 record);
    }
    return status;
}

coterie_status_t coterie_bank_ahead_end(coterie_bank_cache_t *c)
{
    coterie_device_t *d = c->call.device;
    coterie_status_t status = COTERIE_OK;

    if (c->lent_count > 0)
        status = d->ops->wait(d, COTERIE_STREAM_COPY);
    while (c->lent_count > 0)
        coterie_tiers_give_back(c->tiers, c->lent[--c->lent_count]);
    return status;
}

/* A slot of the layer whose experts begin at `first`. */
static uint32_t likeliest(const coterie_bank_cache_t *c, uint32_t first,
                          uint32_t count)
{
    uint32_t best = 0;

    for (uint32_t slot = 0; slot < count; slot++) {
        if (c->room[first + slot] != COTERIE_ITEM_NONE)
            c->chance[slot] = 0; /* is there */
        if (c->chance[slot] > c->chance[best])
            best = slot;
    }
    return best;
}

/* A right guess spares a copy that somebody waits for. A wrong one is a copy in
 * vain; and what leaves for it is missed if it was likely itself. This layer's
 * experts may be in use still. */
static bool is_worth(const coterie_bank_cache_t *c,
                     const coterie_bank_t *bank, uint32_t layer, float chance)
{
    float loss = 0;
    uint32_t victim;

    if (c->free_count == 0) {
        victim = coterie_policy_victim(c->policy);
        if (victim == COTERIE_POLICY_NONE ||
            victim / bank->slot_count == layer)
            return false;
        coterie_tiers_chances(
            c->tiers, (coterie_items_t){bank->items + victim, 1}, &loss);
    }
    return chance > 1 - chance + loss;
}

static coterie_status_t expert_send(coterie_bank_cache_t *c, uint32_t at,
                                    uint32_t item, const void *record)
{
    coterie_device_t *d = c->call.device;
    uint32_t room;
    coterie_status_t status;

    c->lent[c->lent_count++] = item;
    status = coterie_bank_cache_room(c, &room);
    if (status != COTERIE_OK)
        return status;
    d->ops->range_begin(d, "expert ahead");
    status = d->ops->copy(d, COTERIE_STREAM_COPY,
                          c->arena.data + room * c->record_size, record,
                          c->record_size);
    d->ops->range_end(d);
    if (status != COTERIE_OK) {
        c->free_rooms[c->free_count++] = room;
        return status;
    }
    c->room[at] = room;
    coterie_policy_used(c->policy, at); /* or it would be the next to leave */
    coterie_policy_offer(c->policy, at);
    c->ahead[at] = true;
    c->counts.ahead_copies++;
    c->counts.bytes += c->record_size;
    return COTERIE_OK;
}
