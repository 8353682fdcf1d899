#include "config.h"

#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "base/error.h"
#include "placement/formats.h"
#include "placement/placement.h"

static const char format_name[] = "coterie-placement";
static const char map_name[] = "physical_to_logical_map";

static coterie_status_t object_read(coterie_draft_t *draft, const json_t *root);
static coterie_status_t own_read(coterie_draft_t *draft, const json_t *root);
static coterie_status_t count_read(const coterie_draft_t *draft,
                                   const json_t *root, const char *name,
                                   uint32_t *count_p);
static coterie_status_t slot_rank_read(coterie_draft_t *draft,
                                       const json_t *array);
static coterie_status_t scores_read(coterie_draft_t *draft,
                                    const json_t *layers);
static coterie_status_t map_read(coterie_draft_t *draft, const json_t *layers);
static coterie_status_t row_read(coterie_draft_t *draft, const json_t *row,
                                 size_t layer, size_t first_slot);
static coterie_status_t ascend_read(coterie_draft_t *draft, const json_t *root);
static coterie_status_t devices_read(coterie_draft_t *draft,
                                     const json_t *devices, size_t layer);
static const json_t *device_experts(const json_t *devices, size_t device);
static json_t *own_make(const coterie_placement_t *placement);
static json_t *scores_make(const coterie_placement_t *placement);
static json_t *map_make(const coterie_placement_t *placement);
static json_t *row_make(const int16_t *experts, uint32_t count);
static json_t *ascend_make(const coterie_placement_t *placement);
static json_t *devices_make(const coterie_placement_t *placement,
                            uint32_t layer);

coterie_status_t coterie_json_placement_read(coterie_draft_t *draft,
                                             const char *text, size_t size)
{
    json_error_t error;
    json_t *root = json_loadb(text, size, JSON_REJECT_DUPLICATES, &error);
    coterie_status_t status;

    if (root == NULL)
        return coterie_fail(COTERIE_ERR_FORMAT, "%s: line %d, column %d: %s",
                            draft->path, error.line, error.column, error.text);
    if (json_is_array(root))
        status = map_read(draft, root);
    else
        status = object_read(draft, root);
    json_decref(root);
    return status;
}

coterie_status_t coterie_json_placement_write(
    const coterie_placement_t *placement, coterie_placement_format_t format,
    FILE *stream)
{
    json_t *root;
    int failed;

    if (format == COTERIE_FORMAT_COTERIE)
        root = own_make(placement);
    else if (format == COTERIE_FORMAT_ASCEND)
        root = ascend_make(placement);
    else if (format == COTERIE_FORMAT_VLLM)
        root = map_make(placement);
    else if (format == COTERIE_FORMAT_EPLB)
        root = coterie_eplb_make(placement, map_make(placement));
    else
        root = json_pack("{s:o}", map_name, map_make(placement));
    failed = root == NULL || json_dumpf(root, stream, JSON_COMPACT) != 0;
    json_decref(root);
    fputc('\n', stream);
    if (failed)
        return coterie_fail_memory((size_t)placement->layer_count *
                                       placement->slot_count * sizeof(json_t),
                                   "a placement as JSON");
    return COTERIE_OK;
}

static coterie_status_t object_read(coterie_draft_t *draft, const json_t *root)
{
    if (json_object_get(root, "format") != NULL)
        return own_read(draft, root);
    if (json_object_get(root, map_name) != NULL) {
        coterie_status_t status =
            map_read(draft, json_object_get(root, map_name));
        return status == COTERIE_OK ? coterie_eplb_check(draft, root)
                                    : status;
    }
    if (json_object_get(root, "layer_list") != NULL)
        return ascend_read(draft, root);
    return coterie_fail(COTERIE_ERR_FORMAT,
                        "%s: no placement: JSON with none of the keys format, "
                        "%s, layer_list",
                        draft->path, map_name);
}

static coterie_status_t own_read(coterie_draft_t *draft, const json_t *root)
{
    const char *format = json_string_value(json_object_get(root, "format"));
    const json_t *scores = json_object_get(root, "next_score");
    uint32_t version, layers;
    coterie_status_t status;

    if (format == NULL || strcmp(format, format_name) != 0)
        return coterie_fail(
            COTERIE_ERR_FORMAT, "%s: format is %s; a placement's is %s",
            draft->path, format == NULL ? "no text" : format, format_name);
    status = count_read(draft, root, "version", &version);
    if (status == COTERIE_OK && version != 1)
        return coterie_fail(COTERIE_ERR_UNSUPPORTED,
                            "%s: version %u; this library reads 1", draft->path,
                            version);
    if (status == COTERIE_OK)
        status = count_read(draft, root, "layer_count", &layers);
    if (status == COTERIE_OK)
        status = count_read(draft, root, "expert_count", &draft->expert_count);
    if (status == COTERIE_OK)
        status = count_read(draft, root, "rank_count", &draft->rank_count);
    if (status == COTERIE_OK)
        status = count_read(draft, root, "node_count", &draft->node_count);
    if (status == COTERIE_OK)
        status = map_read(draft, json_object_get(root, map_name));
    if (status == COTERIE_OK && layers != draft->layer_count)
        return coterie_fail(COTERIE_ERR_FORMAT,
                            "%s: layer_count is %u; %s has %u layers",
                            draft->path, layers, map_name, draft->layer_count);
    if (status == COTERIE_OK)
        status = slot_rank_read(draft, json_object_get(root, "slot_rank"));
    if (status == COTERIE_OK && scores != NULL)
        status = scores_read(draft, scores);
    return status;
}

static coterie_status_t count_read(const coterie_draft_t *draft,
                                   const json_t *root, const char *name,
                                   uint32_t *count_p)
{
    const json_t *value = json_object_get(root, name);
    json_int_t count = json_integer_value(value);

    /* No count of a placement needs more than 16 bits. */
    if (!json_is_integer(value) || count < 1 || count > COTERIE_SLOTS_MAX)
        return coterie_fail(COTERIE_ERR_FORMAT,
                            "%s: %s must be a number from 1 to %d", draft->path,
                            name, COTERIE_SLOTS_MAX);
    *count_p = (uint32_t)count;
    return COTERIE_OK;
}

static coterie_status_t slot_rank_read(coterie_draft_t *draft,
                                       const json_t *array)
{
    if (json_array_size(array) != draft->slot_count)
        return coterie_fail(COTERIE_ERR_FORMAT,
                            "%s: slot_rank must be a list of %u ranks, one for "
                            "each slot",
                            draft->path, draft->slot_count);
    draft->slot_rank = calloc(draft->slot_count, sizeof(uint16_t));
    if (draft->slot_rank == NULL)
        return coterie_fail_memory(draft->slot_count * sizeof(uint16_t),
                                   draft->path);
    for (size_t i = 0; i < draft->slot_count; i++) {
        const json_t *value = json_array_get(array, i);
        json_int_t rank = json_integer_value(value);
        if (!json_is_integer(value) || rank < 0 || rank >= draft->rank_count)
            return coterie_fail(COTERIE_ERR_FORMAT,
                                "%s: slot_rank[%zu] must be a rank, 0 to %u",
                                draft->path, i, draft->rank_count - 1);
        draft->slot_rank[i] = (uint16_t)rank;
    }
    return COTERIE_OK;
}

static coterie_status_t scores_read(coterie_draft_t *draft,
                                    const json_t *layers)
{
    size_t experts = draft->expert_count, ranks = draft->rank_count;
    size_t count = draft->layer_count * experts * ranks;

    draft->next_score = calloc(count, 1);
    if (draft->next_score == NULL)
        return coterie_fail_memory(count, draft->path);
    for (size_t i = 0; i < count; i++) {
        size_t l = i / ranks / experts, e = i / ranks % experts, r = i % ranks;
        const json_t *layer = json_array_get(layers, l);
        const json_t *expert = json_array_get(layer, e);
        const json_t *value = json_array_get(expert, r);
        json_int_t score = json_integer_value(value);
        if (json_array_size(layers) != draft->layer_count ||
            json_array_size(layer) != experts ||
            json_array_size(expert) != ranks || !json_is_integer(value) ||
            score < 0 || score > UINT8_MAX)
            return coterie_fail(COTERIE_ERR_FORMAT,
                                "%s: next_score[%zu][%zu][%zu]: must be %u "
                                "layers of %zu experts of %zu ranks, each 0 to "
                                "%d",
                                draft->path, l, e, r, draft->layer_count,
                                experts, ranks, UINT8_MAX);
        draft->next_score[i] = (uint8_t)score;
    }
    return COTERIE_OK;
}

/* [layer][slot] */
static coterie_status_t map_read(coterie_draft_t *draft, const json_t *layers)
{
    size_t slots = json_array_size(json_array_get(layers, 0));
    coterie_status_t status;

    if (slots == 0)
        return coterie_fail(COTERIE_ERR_FORMAT,
                            "%s: no list of layers, each a list of the experts "
                            "in its slots",
                            draft->path);
    status = coterie_draft_slots(draft, json_array_size(layers), slots);
    for (size_t l = 0; status == COTERIE_OK && l < draft->layer_count; l++) {
        const json_t *row = json_array_get(layers, l);
        if (json_array_size(row) != slots)
            return coterie_fail(COTERIE_ERR_FORMAT,
                                "%s: layer %zu has %zu slots; layer 0 has %zu",
                                draft->path, l, json_array_size(row), slots);
        status = row_read(draft, row, l, 0);
    }
    return status;
}

static coterie_status_t row_read(coterie_draft_t *draft, const json_t *row,
                                 size_t layer, size_t first_slot)
{
    coterie_status_t status = COTERIE_OK;

    for (size_t i = 0; status == COTERIE_OK && i < json_array_size(row); i++) {
        const json_t *value = json_array_get(row, i);
        if (!json_is_integer(value))
            return coterie_fail(COTERIE_ERR_FORMAT,
                                "%s: layer %zu, slot %zu: not a whole number",
                                draft->path, layer, first_slot + i);
        status = coterie_draft_expert(draft, layer, first_slot + i,
                                      json_integer_value(value));
    }
    return status;
}

/* Layers and devices come in order; their ids, which not all files have, say
 * nothing else. */
static coterie_status_t ascend_read(coterie_draft_t *draft, const json_t *root)
{
    const json_t *layers = json_object_get(root, "layer_list");
    const json_t *first =
        json_object_get(json_array_get(layers, 0), "device_list");
    size_t ranks = json_array_size(first);
    size_t share = json_array_size(device_experts(first, 0));
    json_int_t layer_count =
        json_integer_value(json_object_get(root, "moe_layer_count"));
    coterie_status_t status;

    if (layer_count < 1 || json_array_size(layers) != (size_t)layer_count ||
        ranks == 0 || ranks > COTERIE_RANKS_MAX)
        return coterie_fail(COTERIE_ERR_FORMAT,
                            "%s: layer_list must have moe_layer_count layers, "
                            "each with a device_list of at most %d",
                            draft->path, COTERIE_RANKS_MAX);
    draft->rank_count = (uint32_t)ranks;
    status = coterie_draft_slots(draft, json_array_size(layers), ranks * share);
    for (size_t l = 0; status == COTERIE_OK && l < draft->layer_count; l++)
        status = devices_read(
            draft, json_object_get(json_array_get(layers, l), "device_list"),
            l);
    return status;
}

static coterie_status_t devices_read(coterie_draft_t *draft,
                                     const json_t *devices, size_t layer)
{
    size_t share = draft->slot_count / draft->rank_count;
    coterie_status_t status = COTERIE_OK;

    if (json_array_size(devices) != draft->rank_count)
        return coterie_fail(
            COTERIE_ERR_FORMAT, "%s: layer %zu has %zu devices; layer 0 has %u",
            draft->path, layer, json_array_size(devices), draft->rank_count);
    for (size_t d = 0; status == COTERIE_OK && d < draft->rank_count; d++) {
        const json_t *experts = device_experts(devices, d);
        if (json_array_size(experts) != share)
            return coterie_fail(COTERIE_ERR_FORMAT,
                                "%s: layer %zu, device %zu: %zu experts; the "
                                "first has %zu",
                                draft->path, layer, d, json_array_size(experts),
                                share);
        status = row_read(draft, experts, layer, d * share);
    }
    return status;
}

static const json_t *device_experts(const json_t *devices, size_t device)
{
    return json_object_get(json_array_get(devices, device), "device_expert");
}

static json_t *own_make(const coterie_placement_t *placement)
{
    json_t *slot_rank = json_array();
    json_t *scores = scores_make(placement);

    for (uint32_t s = 0; s < placement->slot_count; s++)
        json_array_append_new(slot_rank, json_integer(placement->slot_rank[s]));
    /* o* leaves the key out where there are no scores. */
    return json_pack("{s:s, s:i, s:I, s:I, s:I, s:I, s:o, s:o, s:o*}", "format",
                     format_name, "version", 1, "layer_count",
                     (json_int_t)placement->layer_count, "expert_count",
                     (json_int_t)placement->expert_count, "rank_count",
                     (json_int_t)placement->rank_count, "node_count",
                     (json_int_t)placement->node_count, "slot_rank", slot_rank,
                     map_name, map_make(placement), "next_score", scores);
}

/* NULL where all are zero. */
static json_t *scores_make(const coterie_placement_t *placement)
{
    size_t rows = (size_t)placement->layer_count * placement->expert_count;
    size_t count = rows * placement->rank_count;
    const uint8_t *score = placement->next_score;
    json_t *layers = json_array();
    json_t *layer = NULL, *expert = NULL;

    if (score[0] == 0 && memcmp(score, score + 1, count - 1) == 0) {
        json_decref(layers);
        return NULL;
    }
    for (size_t i = 0; i < count; i++) {
        if (i % (count / placement->layer_count) == 0) {
            layer = json_array();
            json_array_append_new(layers, layer);
        }
        if (i % placement->rank_count == 0) {
            expert = json_array();
            json_array_append_new(layer, expert);
        }
        json_array_append_new(expert, json_integer(score[i]));
    }
    return layers;
}

static json_t *map_make(const coterie_placement_t *placement)
{
    json_t *layers = json_array();

    for (uint32_t l = 0; l < placement->layer_count; l++)
        json_array_append_new(
            layers,
            row_make(placement->slot_expert + (size_t)l * placement->slot_count,
                     placement->slot_count));
    return layers;
}

static json_t *row_make(const int16_t *experts, uint32_t count)
{
    json_t *row = json_array();

    for (uint32_t i = 0; i < count; i++)
        json_array_append_new(row, json_integer(experts[i]));
    return row;
}

static json_t *ascend_make(const coterie_placement_t *placement)
{
    json_t *layers = json_array();

    for (uint32_t l = 0; l < placement->layer_count; l++)
        json_array_append_new(
            layers, json_pack("{s:I, s:I, s:o}", "layer_id", (json_int_t)l,
                              "device_count", (json_int_t)placement->rank_count,
                              "device_list", devices_make(placement, l)));
    return json_pack("{s:I, s:o}", "moe_layer_count",
                     (json_int_t)placement->layer_count, "layer_list", layers);
}

static json_t *devices_make(const coterie_placement_t *placement,
                            uint32_t layer)
{
    uint32_t share = placement->slot_count / placement->rank_count;
    const int16_t *experts =
        placement->slot_expert + (size_t)layer * placement->slot_count;
    json_t *devices = json_array();

    for (uint32_t r = 0; r < placement->rank_count; r++)
        json_array_append_new(devices,
                              json_pack("{s:I, s:o}", "device_id",
                                        (json_int_t)r, "device_expert",
                                        row_make(experts + r * share, share)));
    return devices;
}
