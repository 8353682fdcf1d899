#include "config.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "placement/slots.h"

coterie_status_t coterie_slots_open(coterie_slots_t *slots,
                                    const uint32_t *capacity)
{
    size_t layers = slots->layer_count, at = 0;
    size_t scores = layers * slots->expert_count * slots->rank_count;

    slots->count = 0;
    for (uint32_t r = 0; r < slots->rank_count; r++)
        slots->count += capacity[r];
    slots->rank = calloc(slots->count, sizeof(*slots->rank));
    slots->first = calloc(slots->rank_count + 1, sizeof(*slots->first));
    slots->expert = malloc(layers * slots->count * sizeof(*slots->expert));
    slots->next_score = calloc(scores, sizeof(*slots->next_score));
    if (!slots->rank || !slots->first || !slots->expert || !slots->next_score)
        return coterie_fail_memory(layers * slots->count *
                                       sizeof(*slots->expert) + scores,
                                   "slots");
    for (uint32_t r = 0; r < slots->rank_count; r++) {
        for (uint32_t i = 0; i < capacity[r]; i++)
            slots->rank[at++] = (uint16_t)r;
        slots->first[r + 1] = (uint32_t)at;
    }
    memset(slots->expert, 0xff, layers * slots->count * sizeof(*slots->expert));
    return COTERIE_OK;
}

void coterie_slots_close(coterie_slots_t *slots)
{
    free(slots->rank);
    free(slots->first);
    free(slots->expert);
    free(slots->next_score);
}

void coterie_slots_fill(coterie_slots_t *slots, const uint16_t *rank_of)
{
    memset(slots->expert, 0xff,
           (size_t)slots->layer_count * slots->count * sizeof(*slots->expert));
    for (uint32_t l = 0; l < slots->layer_count; l++)
        for (uint32_t e = 0; e < slots->expert_count; e++) {
            int16_t *expert = slots->expert + (size_t)l * slots->count;
            uint32_t rank = rank_of[(size_t)l * slots->expert_count + e];
            uint32_t at = slots->first[rank];
            while (expert[at] >= 0)
                at++;
            assert(at < slots->first[rank + 1]);
            expert[at] = (int16_t)e;
        }
}

void coterie_slots_holders(const coterie_slots_t *slots, uint64_t *holders)
{
    for (uint32_t l = 0; l < slots->layer_count; l++)
        for (uint32_t s = 0; s < slots->count; s++) {
            int16_t expert = slots->expert[(size_t)l * slots->count + s];
            if (expert >= 0)
                holders[(size_t)l * slots->expert_count + expert] |=
                    UINT64_C(1) << slots->rank[s];
        }
}

coterie_status_t coterie_slots_create(const coterie_slots_t *slots,
                                      coterie_placement_t **placement_p)
{
    coterie_placement_options_t options = COTERIE_PLACEMENT_OPTIONS_INIT;

    options.layer_count = slots->layer_count;
    options.expert_count = slots->expert_count;
    options.rank_count = slots->rank_count;
    options.node_count = slots->node_count;
    options.slot_count = slots->count;
    options.slot_rank = slots->rank;
    options.slot_expert = slots->expert;
    options.next_score = slots->next_score;
    return coterie_placement_create(&options, placement_p);
}
