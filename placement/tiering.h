#ifndef COTERIE_PLACEMENT_TIERING_H
#define COTERIE_PLACEMENT_TIERING_H
/* What a tiering is inside, for its two files: one decides, one writes. */
#include <coterie/tiering.h>

enum {
    COTERIE_TIER_DISK = 0,
    COTERIE_TIER_HOST,
    COTERIE_TIER_DEVICE,
    COTERIE_TIER_COUNT
};

struct coterie_tiering {
    coterie_tiering_options_t options;
    uint32_t layer_count, expert_count, rank_count, slot_count;
    uint16_t *slot_rank;  /* [slot] */
    int16_t *slot_expert; /* [layer, slot] */
    uint64_t *uses;       /* [layer, slot], on the training tokens */
    uint8_t *tier;        /* [layer, slot] */
};

coterie_status_t coterie_tiering_allocate(
    const coterie_placement_t *placement,
    const coterie_tiering_options_t *options, coterie_tiering_t **tiering_p);

#endif
