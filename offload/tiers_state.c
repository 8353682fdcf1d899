#include "config.h"

#include <assert.h>
#include <stdlib.h>

#include "offload/tiers_state.h"

#define TO(state) (1u << COTERIE_ITEM_##state)

/* By state: those that may follow. */
static const unsigned followers[COTERIE_ITEM_STATE_COUNT] = {
    [COTERIE_ITEM_ABSENT] = TO(QUEUED) | TO(ARRIVING),
    [COTERIE_ITEM_QUEUED] = TO(ARRIVING) | TO(ABSENT),
    [COTERIE_ITEM_ARRIVING] = TO(RESIDENT) | TO(FAILED) | TO(ABSENT),
    [COTERIE_ITEM_RESIDENT] = TO(IN_USE) | TO(ABSENT),
    [COTERIE_ITEM_IN_USE] = TO(RESIDENT),
    [COTERIE_ITEM_FAILED] = TO(ABSENT)};

typedef struct heat {
    uint64_t uses;
    uint32_t item;
} heat_t;

static int hottest_first(const void *left, const void *right);
static uint32_t queue_pop(coterie_tiers_t *tiers);
static uint32_t slot_get(coterie_tiers_t *tiers);
static void evict(coterie_tiers_t *tiers, uint32_t item);
static void slot_free(coterie_tiers_t *tiers, uint32_t ordinal);
static void read_start(coterie_tiers_t *tiers, coterie_item_t *item,
                       uint32_t slot, coterie_urgency_t urgency);
static void guess_begin(coterie_tiers_t *tiers, uint32_t item);
static void guess_end(coterie_tiers_t *tiers, uint32_t item);

void coterie_item_move(coterie_item_t *item, coterie_item_state_t to)
{
    assert(followers[item->state] & 1u << to);
    item->state = to;
    assert((to == COTERIE_ITEM_IN_USE) == (item->leases > 0));
    assert((to == COTERIE_ITEM_ARRIVING || to == COTERIE_ITEM_RESIDENT ||
            to == COTERIE_ITEM_IN_USE) == (item->slot != COTERIE_ITEM_NONE));
}

coterie_layer_counts_t *coterie_item_counts(coterie_tiers_t *tiers,
                                            uint32_t item)
{
    return coterie_timeline_now(&tiers->timeline,
                                tiers->items[item].read.layer);
}

void coterie_item_queue(coterie_tiers_t *tiers, uint32_t item)
{
    coterie_item_move(&tiers->items[item], COTERIE_ITEM_QUEUED);
    tiers->items[item].queue_next = COTERIE_ITEM_NONE;
    if (tiers->queue_first == COTERIE_ITEM_NONE)
        tiers->queue_first = item;
    else
        tiers->items[tiers->queue_last].queue_next = item;
    tiers->queue_last = item;
}

/* First come, first served: whoever came first needs nothing that came later,
 * so that somebody always goes on. */
void coterie_slots_serve(coterie_tiers_t *tiers)
{
    while (tiers->queue_first != COTERIE_ITEM_NONE) {
        coterie_item_t *item = &tiers->items[tiers->queue_first];
        uint32_t slot;

        if (item->wanted == 0) { /* given up meanwhile */
            queue_pop(tiers);
            coterie_item_move(item, COTERIE_ITEM_ABSENT);
            continue;
        }
        slot = slot_get(tiers);
        if (slot == COTERIE_ITEM_NONE)
            return;
        coterie_item_counts(tiers, queue_pop(tiers))->demand_reads++;
        read_start(tiers, item, slot, COTERIE_URGENCY_DEMAND);
    }
}

/* Guesses never fill more than half of the slots: what is known to be used
 * often is worth at least as much. */
bool coterie_item_guess(coterie_tiers_t *tiers, uint32_t item)
{
    const coterie_item_t *guess = &tiers->items[item];

    if (guess->state != COTERIE_ITEM_ABSENT || guess->banks == 0)
        return true;
    while (tiers->guess_count > 0 &&
           tiers->guess_count >= tiers->slot_count / 2 &&
           tiers->items[tiers->guess_first].read.layer != guess->read.layer)
        coterie_item_refute(tiers, tiers->guess_first);
    return coterie_item_read_ahead(tiers, item);
}

bool coterie_item_read_ahead(coterie_tiers_t *tiers, uint32_t item)
{
    uint32_t slot;

    if (tiers->queue_first != COTERIE_ITEM_NONE ||
        tiers->guess_count >= tiers->slot_count / 2)
        return false;
    slot = slot_get(tiers);
    if (slot == COTERIE_ITEM_NONE)
        return false;
    guess_begin(tiers, item);
    read_start(tiers, &tiers->items[item], slot, COTERIE_URGENCY_GUESS);
    return true;
}

void coterie_items_preload(coterie_tiers_t *tiers)
{
    heat_t *heat = malloc(tiers->item_count * sizeof(*heat));
    uint32_t count = 0;

    if (heat == NULL) /* it only saves time */
        return;
    for (uint32_t i = 0; i < tiers->item_count; i++) {
        const coterie_item_t *item = &tiers->items[i];

        if (item->hot > 0 && item->banks > 0 &&
            item->state == COTERIE_ITEM_ABSENT)
            heat[count++] = (heat_t){item->hot, i};
    }
    qsort(heat, count, sizeof(*heat), hottest_first);
    for (uint32_t i = 0; i < count && tiers->free_count > 0; i++) {
        coterie_item_counts(tiers, heat[i].item)->preloads++;
        read_start(tiers, &tiers->items[heat[i].item], slot_get(tiers),
                   COTERIE_URGENCY_GUESS);
    }
    free(heat);
}

void coterie_item_guess_used(coterie_tiers_t *tiers, uint32_t item)
{
    guess_end(tiers, item);
    coterie_item_counts(tiers, item)->guesses_used++;
}

void coterie_item_refute(coterie_tiers_t *tiers, uint32_t item)
{
    coterie_item_t *guess = &tiers->items[item];

    guess_end(tiers, item);
    coterie_item_counts(tiers, item)->guesses_wasted++;
    if (guess->state != COTERIE_ITEM_ARRIVING ||
        !coterie_reader_drop(guess->read.reader, &guess->read))
        return; /* what is there or cannot be stopped may still be of use */
    coterie_pace_read_ends(tiers);
    coterie_item_counts(tiers, item)->store_bytes += guess->read.bytes;
    slot_free(tiers, item);
    coterie_item_move(guess, COTERIE_ITEM_ABSENT);
}

void coterie_item_arrived(coterie_tiers_t *tiers, uint32_t ordinal)
{
    coterie_item_t *item = &tiers->items[ordinal];

    assert(item->state == COTERIE_ITEM_ARRIVING);
    coterie_item_counts(tiers, ordinal)->store_bytes += item->read.bytes;
    if (item->read.status == COTERIE_OK) {
        coterie_item_move(item, COTERIE_ITEM_RESIDENT);
        if (item->wanted == 0)
            coterie_item_offer(tiers, ordinal);
    } else if (item->read.status == COTERIE_ERR_INTERRUPTED &&
               item->wanted > 0) {
        /* Dropped as a guess, and then wanted after all. */
        coterie_reader_start(item->read.reader, &item->read,
                             COTERIE_URGENCY_DEMAND);
        return;
    } else {
        slot_free(tiers, ordinal);
        coterie_item_move(item, item->wanted > 0 ? COTERIE_ITEM_FAILED
                                                 : COTERIE_ITEM_ABSENT);
    }
    coterie_pace_read_ends(tiers);
    coterie_slots_serve(tiers);
    coterie_plan_go_on(tiers);
}

uint32_t coterie_slot_spare(coterie_tiers_t *tiers)
{
    uint32_t victim = coterie_policy_victim(tiers->policy);

    if (tiers->free_count == 0 && victim != COTERIE_POLICY_NONE &&
        tiers->items[victim].slot >= tiers->fast_count)
        evict(tiers, victim);
    if (tiers->free_count == 0 ||
        tiers->free_slots[tiers->free_count - 1] < tiers->fast_count)
        return COTERIE_ITEM_NONE;
    return tiers->free_slots[--tiers->free_count];
}

static int hottest_first(const void *left, const void *right)
{
    const heat_t *a = left, *b = right;

    if (a->uses != b->uses)
        return a->uses < b->uses ? 1 : -1;
    return (a->item > b->item) - (a->item < b->item);
}

static uint32_t queue_pop(coterie_tiers_t *tiers)
{
    uint32_t item = tiers->queue_first;

    tiers->queue_first = tiers->items[item].queue_next;
    return item;
}

/* A free one, or that of whatever the policy gives away. */
static uint32_t slot_get(coterie_tiers_t *tiers)
{
    if (tiers->free_count == 0) {
        uint32_t victim = coterie_policy_victim(tiers->policy);

        if (victim == COTERIE_POLICY_NONE)
            return COTERIE_ITEM_NONE;
        evict(tiers, victim);
    }
    return tiers->free_slots[--tiers->free_count];
}

static void evict(coterie_tiers_t *tiers, uint32_t item)
{
    coterie_item_t *victim = &tiers->items[item];

    assert(victim->wanted == 0 && victim->state == COTERIE_ITEM_RESIDENT);
    coterie_item_withdraw(tiers, item);
    slot_free(tiers, item);
    coterie_item_move(victim, COTERIE_ITEM_ABSENT);
}

static void slot_free(coterie_tiers_t *tiers, uint32_t ordinal)
{
    coterie_item_t *item = &tiers->items[ordinal];

    tiers->free_slots[tiers->free_count++] = item->slot;
    item->slot = COTERIE_ITEM_NONE;
    if (item->guessed) {
        guess_end(tiers, ordinal);
        coterie_item_counts(tiers, ordinal)->guesses_wasted++;
    }
}

static void read_start(coterie_tiers_t *tiers, coterie_item_t *item,
                       uint32_t slot, coterie_urgency_t urgency)
{
    uint64_t taken;

    item->slot = slot;
    item->read.data = coterie_slot_data(tiers, slot);
    coterie_item_move(item, COTERIE_ITEM_ARRIVING);
    coterie_pace_read_begins(tiers);
    taken = (uint64_t)(tiers->slot_count - tiers->free_count) *
            tiers->format.record_size;
    if (taken > tiers->resident_most)
        tiers->resident_most = taken;
    coterie_reader_start(item->read.reader, &item->read, urgency);
}

static void guess_begin(coterie_tiers_t *tiers, uint32_t item)
{
    coterie_item_t *guess = &tiers->items[item];

    guess->guessed = true;
    guess->guess_previous = tiers->guess_last;
    guess->guess_next = COTERIE_ITEM_NONE;
    if (tiers->guess_last != COTERIE_ITEM_NONE)
        tiers->items[tiers->guess_last].guess_next = item;
    else
        tiers->guess_first = item;
    tiers->guess_last = item;
    tiers->guess_count++;
    coterie_item_counts(tiers, item)->guess_reads++;
}

static void guess_end(coterie_tiers_t *tiers, uint32_t item)
{
    coterie_item_t *guess = &tiers->items[item];

    assert(guess->guessed);
    if (guess->guess_previous != COTERIE_ITEM_NONE)
        tiers->items[guess->guess_previous].guess_next = guess->guess_next;
    else
        tiers->guess_first = guess->guess_next;
    if (guess->guess_next != COTERIE_ITEM_NONE)
        tiers->items[guess->guess_next].guess_previous = guess->guess_previous;
    else
        tiers->guess_last = guess->guess_previous;
    guess->guessed = false;
    tiers->guess_count--;
}
