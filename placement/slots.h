#ifndef COTERIE_PLACEMENT_SLOTS_H
#define COTERIE_PLACEMENT_SLOTS_H
/* Which expert is in which slot, while that is being decided. */
#include <coterie/placement.h>

typedef struct coterie_slots {
    uint32_t layer_count, expert_count, rank_count, node_count;
    uint32_t count;       /* of a layer */
    uint16_t *rank;       /* [count], ascending */
    uint32_t *first;      /* [rank + 1]: its slots */
    int16_t *expert;      /* [layer, count]; -1 = empty */
    uint8_t *next_score;  /* [layer, expert, rank] */
} coterie_slots_t;

/* Empty slots. @param capacity  [rank]: slots of each */
coterie_status_t coterie_slots_open(coterie_slots_t *slots,
                                    const uint32_t *capacity);
void coterie_slots_close(coterie_slots_t *slots);

/* Puts every expert on its one rank, which must have room; the rest stay
 * empty. @param rank_of  [layer, expert] */
void coterie_slots_fill(coterie_slots_t *slots, const uint16_t *rank_of);

/* Adds the ranks of at most 64 that hold each expert. @param holders  [layer,
 * expert], zero to begin with */
void coterie_slots_holders(const coterie_slots_t *slots, uint64_t *holders);

coterie_status_t coterie_slots_create(const coterie_slots_t *slots,
                                      coterie_placement_t **placement_p);

#endif
