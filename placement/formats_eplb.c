#include "config.h"

#include <string.h>

#include <jansson.h>

#include "base/error.h"
#include "placement/formats.h"
#include "placement/placement.h"

static const char slots_name[] = "logical_to_physical_map";
static const char counts_name[] = "logical_replica_count";

static const json_t *cell(const json_t *map, size_t layer, size_t expert);
static size_t held(const coterie_draft_t *draft, size_t layer, size_t expert);
static int slots_agree(const coterie_draft_t *draft, const json_t *slots,
                       size_t layer, size_t expert);
static uint32_t most_replicas(const coterie_placement_t *placement);

coterie_status_t coterie_eplb_check(const coterie_draft_t *draft,
                                    const json_t *root)
{
    const json_t *slots = json_object_get(root, slots_name);
    const json_t *counts = json_object_get(root, counts_name);
    size_t experts = json_array_size(
        json_array_get(slots != NULL ? slots : counts, 0));

    if (slots == NULL && counts == NULL)
        return COTERIE_OK;
    for (size_t i = 0; i < draft->layer_count * experts; i++) {
        size_t l = i / experts, e = i % experts;
        const json_t *count = cell(counts, l, e);
        if (slots != NULL && !slots_agree(draft, cell(slots, l, e), l, e))
            return coterie_fail(COTERIE_ERR_FORMAT,
                                "%s: layer %zu, expert %zu: %s is not what "
                                "physical_to_logical_map says",
                                draft->path, l, e, slots_name);
        if (counts != NULL &&
            (!json_is_integer(count) || json_integer_value(count) < 0 ||
             (size_t)json_integer_value(count) != held(draft, l, e)))
            return coterie_fail(COTERIE_ERR_FORMAT,
                                "%s: layer %zu, expert %zu: %s is not what "
                                "physical_to_logical_map says",
                                draft->path, l, e, counts_name);
    }
    return COTERIE_OK;
}

json_t *coterie_eplb_make(const coterie_placement_t *placement,
                          json_t *physical)
{
    uint32_t most = most_replicas(placement);
    json_t *slots = json_array(), *counts = json_array();

    for (uint32_t l = 0; l < placement->layer_count; l++) {
        json_t *layer_slots = json_array(), *layer_counts = json_array();
        for (uint32_t e = 0; e < placement->expert_count; e++) {
            coterie_holders_t holders =
                coterie_placement_holders(placement, l, e);
            json_t *list = json_array();
            for (uint32_t i = 0; i < most; i++)
                json_array_append_new(
                    list, json_integer(i < holders.count ? holders.slot[i]
                                                         : -1));
            json_array_append_new(layer_slots, list);
            json_array_append_new(layer_counts, json_integer(holders.count));
        }
        json_array_append_new(slots, layer_slots);
        json_array_append_new(counts, layer_counts);
    }
    return json_pack("{s:o, s:o, s:o}", "physical_to_logical_map", physical,
                     slots_name, slots, counts_name, counts);
}

static const json_t *cell(const json_t *map, size_t layer, size_t expert)
{
    return json_array_get(json_array_get(map, layer), expert);
}

static size_t held(const coterie_draft_t *draft, size_t layer, size_t expert)
{
    const int16_t *row = draft->slot_expert + layer * draft->slot_count;
    size_t count = 0;

    for (uint32_t s = 0; s < draft->slot_count; s++)
        count += row[s] >= 0 && (size_t)row[s] == expert;
    return count;
}

/* Every slot that is listed holds the expert, and there are as many; -1 fills
 * up. */
static int slots_agree(const coterie_draft_t *draft, const json_t *slots,
                       size_t layer, size_t expert)
{
    const int16_t *row = draft->slot_expert + layer * draft->slot_count;
    size_t listed = 0;

    for (size_t i = 0; i < json_array_size(slots); i++) {
        json_int_t slot = json_integer_value(json_array_get(slots, i));
        if (slot == -1)
            continue;
        if (slot < 0 || slot >= draft->slot_count ||
            row[slot] != (int16_t)expert)
            return 0;
        listed++;
    }
    return listed == held(draft, layer, expert);
}

static uint32_t most_replicas(const coterie_placement_t *placement)
{
    uint32_t most = 0;

    for (uint32_t l = 0; l < placement->layer_count; l++)
        for (uint32_t e = 0; e < placement->expert_count; e++) {
            uint32_t count =
                coterie_placement_holders(placement, l, e).count;
            if (count > most)
                most = count;
        }
    return most;
}
