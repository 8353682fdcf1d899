#include "config.h"

#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "base/error.h"
#include "base/file.h"
#include "placement/tiering.h"

enum { FILE_LIMIT = 1 << 30 };

static const char format_name[] = "coterie-tiers";

static json_t *root_build(const coterie_tiering_t *tiering);
static json_t *ranks_build(const coterie_tiering_t *tiering);
static json_t *layers_build(const coterie_tiering_t *tiering, uint32_t tier,
                            uint32_t rank);
static json_t *uses_build(const coterie_tiering_t *tiering);
static coterie_status_t root_read(const char *path, const json_t *root,
                                  const uint32_t shape[2], uint64_t *count);
static int uses_read(const json_t *uses, const uint32_t shape[2],
                     uint64_t *count);

coterie_status_t coterie_tiering_write(const coterie_tiering_t *tiering,
                                       const char *path, int force)
{
    coterie_output_t output = {0};
    json_t *root = root_build(tiering);
    char *text = root == NULL ? NULL : json_dumps(root, JSON_COMPACT);
    coterie_status_t status;

    if (text == NULL)
        status = coterie_fail(COTERIE_ERR_NO_MEMORY, "%s: out of memory", path);
    else
        status = coterie_output_open(path, force, &output);
    if (status == COTERIE_OK)
        status = coterie_output_write(&output, text, strlen(text));
    if (status == COTERIE_OK)
        status = coterie_output_commit(&output);
    else
        coterie_output_abandon(&output);
    free(text);
    json_decref(root);
    return status;
}

coterie_status_t coterie_tiering_read(const char *path, uint32_t layer_count,
                                      uint32_t expert_count, uint64_t *count)
{
    uint32_t shape[2] = {layer_count, expert_count};
    json_error_t error;
    json_t *root;
    void *text;
    size_t size;
    coterie_status_t status = coterie_file_read(path, FILE_LIMIT, &text, &size);

    if (status != COTERIE_OK)
        return status;
    root = json_loadb(text, size, JSON_REJECT_DUPLICATES, &error);
    if (root == NULL)
        status = coterie_fail(COTERIE_ERR_FORMAT,
                              "%s: line %d, column %d: %s", path, error.line,
                              error.column, error.text);
    else
        status = root_read(path, root, shape, count);
    json_decref(root);
    free(text);
    return status;
}

static json_t *root_build(const coterie_tiering_t *tiering)
{
    return json_pack("{s:s, s:i, s:i, s:i, s:I, s:o*, s:o*, s:o*}", "format",
                     format_name, "version", 1, "layers",
                     (int)tiering->layer_count, "experts",
                     (int)tiering->expert_count, "expert_bytes",
                     (json_int_t)tiering->options.expert_bytes, "gpu_experts",
                     layers_build(tiering, COTERIE_TIER_DEVICE,
                                  COTERIE_NONE),
                     "ranks", ranks_build(tiering), "uses",
                     uses_build(tiering));
}

static json_t *ranks_build(const coterie_tiering_t *tiering)
{
    json_t *ranks = json_array();

    for (uint32_t r = 0; r < tiering->rank_count; r++)
        json_array_append_new(
            ranks,
            json_pack("{s:o, s:o}", "device",
                      layers_build(tiering, COTERIE_TIER_DEVICE, r), "host",
                      layers_build(tiering, COTERIE_TIER_HOST, r)));
    return ranks;
}

/* By layer, what one rank, or COTERIE_NONE for all, has in a tier. */
static json_t *layers_build(const coterie_tiering_t *tiering, uint32_t tier,
                            uint32_t rank)
{
    json_t *layers = json_array();

    for (uint32_t l = 0; l < tiering->layer_count; l++) {
        json_t *experts = json_array();
        const int16_t *slots =
            tiering->slot_expert + (size_t)l * tiering->slot_count;
        for (uint32_t e = 0; e < tiering->expert_count; e++) {
            int found = 0;
            for (uint32_t s = 0; !found && s < tiering->slot_count; s++)
                found = slots[s] == (int32_t)e &&
                        tiering->tier[(size_t)l * tiering->slot_count + s] ==
                            tier &&
                        (rank == COTERIE_NONE || tiering->slot_rank[s] == rank);
            if (found)
                json_array_append_new(experts, json_integer(e));
        }
        json_array_append_new(layers, experts);
    }
    return layers;
}

/* By layer and expert; 0 for what is on disk everywhere. */
static json_t *uses_build(const coterie_tiering_t *tiering)
{
    json_t *layers = json_array();

    for (uint32_t l = 0; l < tiering->layer_count; l++) {
        json_t *experts = json_array();
        for (uint32_t e = 0; e < tiering->expert_count; e++) {
            json_int_t uses = 0;
            for (uint32_t s = 0; s < tiering->slot_count; s++) {
                size_t i = (size_t)l * tiering->slot_count + s;
                if (tiering->slot_expert[i] == (int32_t)e &&
                    tiering->tier[i] != COTERIE_TIER_DISK)
                    uses += (json_int_t)tiering->uses[i];
            }
            json_array_append_new(experts, json_integer(uses));
        }
        json_array_append_new(layers, experts);
    }
    return layers;
}

static coterie_status_t root_read(const char *path, const json_t *root,
                                  const uint32_t shape[2], uint64_t *count)
{
    const char *format =
        json_string_value(json_object_get(root, "format"));
    json_int_t version =
        json_integer_value(json_object_get(root, "version"));
    json_int_t layers = json_integer_value(json_object_get(root, "layers"));
    json_int_t experts = json_integer_value(json_object_get(root, "experts"));

    if (format == NULL || strcmp(format, format_name) != 0 || version != 1)
        return coterie_fail(COTERIE_ERR_FORMAT,
                            "%s: not a file of tiers, version 1, as 'coterie "
                            "place --tiers' writes it",
                            path);
    if (layers != shape[0] || experts != shape[1])
        return coterie_fail(COTERIE_ERR_MISMATCH,
                            "%s: made for %lld layers of %lld experts, not %u "
                            "of %u",
                            path, (long long)layers, (long long)experts,
                            shape[0], shape[1]);
    if (!uses_read(json_object_get(root, "uses"), shape, count))
        return coterie_fail(COTERIE_ERR_FORMAT,
                            "%s: \"uses\" must be %u lists of %u counts", path,
                            shape[0], shape[1]);
    return COTERIE_OK;
}

/* Nothing is written unless all can be. */
static int uses_read(const json_t *uses, const uint32_t shape[2],
                     uint64_t *count)
{
    if (json_array_size(uses) != shape[0])
        return 0;
    for (int writing = 0; writing < 2; writing++)
        for (uint32_t l = 0; l < shape[0]; l++) {
            const json_t *layer = json_array_get(uses, l);
            if (json_array_size(layer) != shape[1])
                return 0;
            for (uint32_t e = 0; e < shape[1]; e++) {
                const json_t *item = json_array_get(layer, e);
                json_int_t value = json_integer_value(item);
                if (!json_is_integer(item) || value < 0)
                    return 0;
                if (writing)
                    count[(size_t)l * shape[1] + e] = (uint64_t)value;
            }
        }
    return 1;
}
