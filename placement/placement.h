#ifndef COTERIE_PLACEMENT_PLACEMENT_H
#define COTERIE_PLACEMENT_PLACEMENT_H
/* What a placement is inside, for the files of this room. */
#include <stddef.h>

#include <coterie/placement.h>

/* Beyond these, a count is nonsense; within them no product of counts
 * overflows 64 bits. */
enum {
    COTERIE_LAYERS_MAX = 4096,
    COTERIE_EXPERTS_MAX = 32767, /* ids are int16, in files and in memory */
    COTERIE_RANKS_MAX = 4096,
    COTERIE_SLOTS_MAX = 65535 /* the last number is COTERIE_NONE */
};

struct coterie_placement {
    uint32_t layer_count, expert_count, rank_count, node_count, slot_count;
    uint32_t node_ranks; /* ranks in each node */
    uint16_t *slot_rank;
    int16_t *slot_expert;
    uint8_t *next_score;
    /* The inverse of slot_expert, so that routing need not search: expert e of
     * layer l is held by entries [first[i], first[i + 1]) of the two arrays
     * below, i = l * expert_count + e. */
    uint32_t *first;
    uint16_t *holder_slot, *holder_rank;
};

/* The slots of one expert and their ranks, both ascending; never none. */
typedef struct coterie_holders {
    const uint16_t *slot, *rank;
    uint32_t count;
} coterie_holders_t;

static inline coterie_holders_t coterie_placement_holders(
    const coterie_placement_t *placement, uint32_t layer, uint32_t expert)
{
    size_t i = (size_t)layer * placement->expert_count + expert;
    uint32_t first = placement->first[i];

    return (coterie_holders_t){placement->holder_slot + first,
                               placement->holder_rank + first,
                               placement->first[i + 1] - first};
}

#endif
