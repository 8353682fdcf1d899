#ifndef COTERIE_OFFLOAD_TIERS_STATE_H
#define COTERIE_OFFLOAD_TIERS_STATE_H
/* Inside tiers: the states of items, and the slots of the arena. All calls are
 * made with the mutex held. */
#include <pthread.h>
#include <time.h>

#include "experts/store.h"
#include "offload/foresight.h"
#include "offload/memory.h"
#include "offload/reader.h"
#include "offload/share.h"
#include "offload/tiers.h"
#include "offload/timeline.h"

typedef struct coterie_watch coterie_watch_t;

typedef enum coterie_item_state {
    COTERIE_ITEM_ABSENT,
    COTERIE_ITEM_QUEUED,   /* wanted, and waits for a slot */
    COTERIE_ITEM_ARRIVING, /* the reader has it */
    COTERIE_ITEM_RESIDENT,
    COTERIE_ITEM_IN_USE, /* leased */
    COTERIE_ITEM_FAILED, /* until those who wanted it know */
    COTERIE_ITEM_STATE_COUNT
} coterie_item_state_t;

typedef struct coterie_item {
    coterie_read_t read;
    coterie_item_state_t state;
    uint32_t slot;   /* or COTERIE_ITEM_NONE */
    uint32_t wanted; /* by how many banks, that have not taken it yet */
    uint32_t leases;
    uint32_t banks; /* that serve it */
    uint32_t queue_next;
    uint64_t hot, uses; /* how often it was chosen, before us and since */
    float chance;       /* that it is needed when its layer comes next */
    bool guessed; /* read on a guess that is neither used nor refuted; if so, */
    uint32_t guess_previous, guess_next; /* its place among such */
} coterie_item_t;

/* How busy the drive is. */
typedef struct coterie_pace {
    double busy; /* share of time in which reads are under way */
    uint64_t since, busy_since, busy_ns; /* of which that comes */
} coterie_pace_t;

/* An expert that may be worth reading ahead. */
typedef struct coterie_candidate {
    uint32_t item;
    float chance;
} coterie_candidate_t;

/* A guest of another process's tiers has their shape and maps their memory;
 * all the rest is with the keeper. */
struct coterie_tiers {
    coterie_guest_t *guest;   /* or NULL */
    coterie_keeper_t *keeper; /* NULL: these are not shared */
    bool shared;              /* others may join, */
    uint64_t identity;        /* who have the same: coterie_share_identity */
    coterie_expert_format_t format;
    uint32_t layer_count, expert_count, item_count;
    uint32_t slot_count, fast_count; /* the first are in the fast tier */
    coterie_arena_t arena, host;
    coterie_reader_t *readers[1 + COTERIE_STRIPES_MAX]; /* by file */
    uint32_t reader_count, bank_count;
    pthread_mutex_t mutex;  /* guards what follows */
    pthread_cond_t changed; /* an item arrived or failed */
    coterie_policy_t *policy;
    coterie_policy_t *fast_policy; /* of that tier; NULL: there is no other */
    coterie_speeds_t speeds;
    uint64_t computed_in_host, moved_to_fast;
    coterie_item_t *items;
    uint32_t *free_slots; /* [slot_count], the first free_count are */
    uint32_t free_count;
    uint32_t queue_first, queue_last; /* QUEUED items; some given up since */
    uint32_t guess_first, guess_last; /* guessed items, by age */
    uint32_t guess_count;
    uint32_t arriving; /* reads that are not done */
    uint32_t borrowed; /* leases of items that nobody wanted */
    coterie_pace_t pace;
    coterie_candidate_t *plan; /* reads to come, the most urgent first */
    uint32_t plan_count, plan_next;
    uint32_t layer_last;
    bool preloaded; /* what was hot was asked for */
    uint64_t budget, host_budget, resident_most; /* bytes */
    coterie_timeline_t timeline;
    coterie_watch_t *watch; /* has a mutex of its own */
};

/* Every change of a state, asserted to be one that there is. */
void coterie_item_move(coterie_item_t *item, coterie_item_state_t to);

/* Where to count what happens to an item now. */
coterie_layer_counts_t *coterie_item_counts(coterie_tiers_t *tiers,
                                            uint32_t item);

/* An ABSENT item begins to be wanted. */
void coterie_item_queue(coterie_tiers_t *tiers, uint32_t item);

/* Gives slots to what waits for them, as long as there are any. */
void coterie_slots_serve(coterie_tiers_t *tiers);

/* Reads an ABSENT item on a guess, unless slots are needed otherwise. Guesses
 * for other layers that nobody refuted may have to make room.
 * @return whether another guess may be worth trying */
bool coterie_item_guess(coterie_tiers_t *tiers, uint32_t item);

/* Reads an ABSENT item on a guess that is worth it, into a slot that is free
 * or the policy's victim's.
 * @return false if there is no slot */
bool coterie_item_read_ahead(coterie_tiers_t *tiers, uint32_t item);

/* Fills free slots with what was hot in earlier runs. */
void coterie_items_preload(coterie_tiers_t *tiers);

/* A guessed item is wanted. */
void coterie_item_guess_used(coterie_tiers_t *tiers, uint32_t item);

/* A guessed item is not: what is left of its read is dropped. */
void coterie_item_refute(coterie_tiers_t *tiers, uint32_t item);

/* What a finished read makes of its item. */
void coterie_item_arrived(coterie_tiers_t *tiers, uint32_t item);

/* tiers_memory.c */
coterie_status_t coterie_memory_create(coterie_tiers_t *tiers,
                                       coterie_policy_kind_t policy);
void coterie_memory_destroy(coterie_tiers_t *tiers);
void *coterie_slot_data(const coterie_tiers_t *tiers, uint32_t slot);

/* As coterie_policy_*, for all policies. */
void coterie_item_offer(coterie_tiers_t *tiers, uint32_t item);
void coterie_item_withdraw(coterie_tiers_t *tiers, uint32_t item);
void coterie_item_used(coterie_tiers_t *tiers, uint32_t item);

/* After a use of so many rows: whether a candidate in host memory shall move to
 * the fast tier. */
void coterie_item_choose(coterie_tiers_t *tiers, uint32_t item, uint32_t rows);

/* A slot of host memory that is free or the policy's victim's; or NONE. */
uint32_t coterie_slot_spare(coterie_tiers_t *tiers);

/* tiers_plan.c */
void coterie_pace_begin(coterie_pace_t *pace);
void coterie_pace_read_begins(coterie_tiers_t *tiers);
void coterie_pace_read_ends(coterie_tiers_t *tiers);

/* Plans anew, from what is foreseen after a layer. */
void coterie_plan_make(coterie_tiers_t *tiers,
                       const coterie_foresight_t *foresight);

/* Begins planned reads, as long as few are under way. */
void coterie_plan_go_on(coterie_tiers_t *tiers);

/* tiers_watch.c: a thread that foresees while ranks compute.
 * @param hot  as in coterie_tiers_options_t */
coterie_status_t coterie_watch_create(coterie_tiers_t *tiers,
                                      const coterie_model_t *model,
                                      const uint64_t *hot,
                                      coterie_watch_t **watch_p);

/* Accepts NULL. The reader must still be there. */
void coterie_watch_destroy(coterie_watch_t *watch);

static inline uint64_t coterie_tiers_now(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

#endif
