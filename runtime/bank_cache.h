#ifndef COTERIE_RUNTIME_BANK_CACHE_H
#define COTERIE_RUNTIME_BANK_CACHE_H
/* Inside a bank in tiers that has some of its experts on a device. An expert
 * of the bank is layer * slot_count + slot. */
#include <stdbool.h>

#include "offload/policy.h"
#include "runtime/bank.h"
#include "runtime/device_call.h"

enum { COTERIE_HERE_ROWS = 256 }; /* of one layer, computed by the processor */

struct coterie_bank_cache {
    coterie_device_call_t call;
    coterie_device_arena_t arena; /* there: rooms for one record each */
    size_t record_size;
    uint32_t room_count;
    uint32_t *room;       /* [layer, slot]: where an expert is, or NONE */
    double *owed_ns;      /* [layer, slot]: that computing it here has cost */
    uint32_t *free_rooms; /* [room_count], the first free_count are */
    uint32_t free_count;
    coterie_policy_t *policy; /* of what is there and not in use */
    coterie_tiers_t *tiers;   /* the bank's */
    coterie_speeds_t speeds;
    void *pinned[COTERIE_TIERS_MEMORIES]; /* of the tiers, by this bank */
    coterie_bank_counts_t counts;

    /* Of the present wave, [slot_count]. */
    uint32_t *items, *slots; /* that the tiers shall bring */
    uint32_t *kind;          /* and each one's group; 0: computed here */
    uint32_t *order, *first; /* of groups */
    uint32_t *leases;        /* slots that are on their way over */
    /* Of the next layer, copied ahead: what is lent by the tiers until it is
     * over, and [layer, slot] whether an expert came so and was not used. */
    uint32_t *lent; /* [slot_count] items, */
    uint32_t lent_count;
    float *chance; /* [slot_count] */
    bool *ahead;
    /* Computing here: [HERE_ROWS, hidden], the second pinned. */
    float *inputs, *outputs;
    uint32_t here; /* rows in outputs */
    uint32_t ordinals[COTERIE_HERE_ROWS]; /* 0, 1, 2.. */
    float ones[COTERIE_HERE_ROWS];
};

/* A room: a free one, or of what was used least recently. */
coterie_status_t coterie_bank_cache_room(coterie_bank_cache_t *c,
                                         uint32_t *room_p);

/* bank_ahead.c: queues copies of what the layer after `layer` is likely to
 * need, from the tiers' memory. */
coterie_status_t coterie_bank_ahead_begin(const coterie_bank_t *bank,
                                          uint32_t layer);
/* Waits for them. */
coterie_status_t coterie_bank_ahead_end(coterie_bank_cache_t *c);

#endif
