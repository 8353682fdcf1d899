/* The two tiers of memory. Slots are numbered through both, the fast ones
 * first, and one policy orders all experts: what leaves memory does not depend
 * on where it is. An expert in host memory is computed where it lies, which
 * never needs a copy; one that is used often enough to be worth a copy is moved
 * to the fast tier between two uses. */
#include "config.h"

#include <assert.h>
#include <math.h>

#include "offload/tiers_state.h"

enum { COPIES = 2 }; /* to move one in and another one out */

static void slots_swap(coterie_tiers_t *tiers, uint32_t item, uint32_t other);
static void item_place(coterie_tiers_t *tiers, uint32_t item, uint32_t slot);
static double gain_ns(const coterie_speeds_t *speeds, uint32_t rows);

coterie_status_t coterie_memory_create(coterie_tiers_t *tiers,
                                       coterie_policy_kind_t policy)
{
    size_t record = tiers->format.record_size;
    uint32_t host = tiers->slot_count - tiers->fast_count;
    const coterie_memory_ops_t *fast = &coterie_memory_fast,
                               *plain = &coterie_memory_host;
    coterie_status_t status;

    if (tiers->shared)
        fast = plain = &coterie_memory_shared;
    status = fast->create(tiers->fast_count * record, tiers->budget,
                          &tiers->arena);
    if (status == COTERIE_OK && host > 0)
        status = plain->create(host * record, host * record, &tiers->host);
    if (status == COTERIE_OK && host > 0)
        status = coterie_policy_create(policy, tiers->item_count,
                                       &tiers->fast_policy);
    return status;
}

void coterie_memory_destroy(coterie_tiers_t *tiers)
{
    coterie_policy_destroy(tiers->fast_policy);
    coterie_memory_host.destroy(&tiers->host);
    coterie_memory_fast.destroy(&tiers->arena);
}

void *coterie_slot_data(const coterie_tiers_t *tiers, uint32_t slot)
{
    size_t record = tiers->format.record_size;

    return slot < tiers->fast_count
               ? tiers->arena.data + slot * record
               : tiers->host.data + (slot - tiers->fast_count) * record;
}

void coterie_item_offer(coterie_tiers_t *tiers, uint32_t item)
{
    coterie_policy_offer(tiers->policy, item);
    if (tiers->fast_policy != NULL &&
        tiers->items[item].slot < tiers->fast_count)
        coterie_policy_offer(tiers->fast_policy, item);
}

void coterie_item_withdraw(coterie_tiers_t *tiers, uint32_t item)
{
    coterie_policy_withdraw(tiers->policy, item);
    if (tiers->fast_policy != NULL &&
        tiers->items[item].slot < tiers->fast_count)
        coterie_policy_withdraw(tiers->fast_policy, item);
}

void coterie_item_used(coterie_tiers_t *tiers, uint32_t item)
{
    coterie_policy_used(tiers->policy, item);
    if (tiers->fast_policy != NULL)
        coterie_policy_used(tiers->fast_policy, item);
}

/* With a chance p at every turn there are 1 / (1 - p) uses to come in a row.
 * Who leaves the fast tier for it loses what it had there. */
void coterie_item_choose(coterie_tiers_t *tiers, uint32_t item, uint32_t rows)
{
    const coterie_speeds_t *speeds = &tiers->speeds;
    double copy = speeds->copy_ns * COPIES, uses, other_uses;
    uint32_t other;

    if (tiers->fast_policy == NULL ||
        tiers->items[item].slot < tiers->fast_count)
        return;
    tiers->computed_in_host++;
    other = coterie_policy_victim(tiers->fast_policy);
    if (other == COTERIE_POLICY_NONE || speeds->copy_ns <= 0)
        return;
    uses = 1 / fmax(1 - (double)tiers->items[item].chance, 1e-3);
    other_uses = 1 / fmax(1 - (double)tiers->items[other].chance, 1e-3);
    if ((uses - other_uses) * gain_ns(speeds, rows) <= copy)
        return;
    slots_swap(tiers, item, other);
    tiers->moved_to_fast++;
}

/* Both are resident and nobody uses them. The room for a moment is that of the
 * expert that would leave memory next, if there is none. */
static void slots_swap(coterie_tiers_t *tiers, uint32_t item, uint32_t other)
{
    uint32_t fast = tiers->items[other].slot, host = tiers->items[item].slot;
    uint32_t spare;

    coterie_item_withdraw(tiers, item);
    coterie_item_withdraw(tiers, other);
    spare = coterie_slot_spare(tiers);
    if (spare == COTERIE_ITEM_NONE) {
        coterie_item_offer(tiers, item);
        coterie_item_offer(tiers, other);
        return;
    }
    item_place(tiers, other, spare);
    item_place(tiers, item, fast);
    coterie_item_offer(tiers, item);
    coterie_item_offer(tiers, other);
    tiers->free_slots[tiers->free_count++] = host;
}

static void item_place(coterie_tiers_t *tiers, uint32_t item, uint32_t slot)
{
    coterie_item_t *moved = &tiers->items[item];
    const coterie_memory_ops_t *memory = slot < tiers->fast_count
                                             ? &coterie_memory_fast
                                             : &coterie_memory_host;

    assert(moved->state == COTERIE_ITEM_RESIDENT);
    memory->fill(coterie_slot_data(tiers, slot), moved->read.data,
                 tiers->format.record_size);
    moved->slot = slot;
    moved->read.data = coterie_slot_data(tiers, slot);
}

/* How much faster so many rows are in the fast tier. However slow its memory,
 * no tier is faster than the arithmetic. */
static double gain_ns(const coterie_speeds_t *speeds, uint32_t rows)
{
    double arithmetic = speeds->row_ns * rows;

    return fmax(speeds->host_ns, arithmetic) -
           fmax(speeds->fast_ns, arithmetic);
}
