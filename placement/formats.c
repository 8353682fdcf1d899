#include "config.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/error.h"
#include "base/file.h"
#include "placement/formats.h"
#include "placement/placement.h"

enum { FILE_LIMIT = 1 << 28 };

/* For messages; by coterie_placement_format_t. */
static const char *const names[] = {
    "Coterie's JSON",           "SGLang's JSON",       "vLLM's list",
    "vllm-ascend's expert map", "TensorRT-LLM's YAML", "ExFlow's CSV",
    "EPLB's maps",
};

static coterie_status_t draft_read(coterie_draft_t *draft, const char *text,
                                   size_t size);
static coterie_status_t draft_ranks(coterie_draft_t *draft,
                                    uint32_t rank_count);
static uint32_t highest_expert(const coterie_draft_t *draft);
static coterie_status_t draft_finish(const coterie_draft_t *draft,
                                     coterie_placement_t **placement_p);
static coterie_status_t slots_expressible(const coterie_placement_t *placement,
                                          const char *name);
static coterie_status_t csv_expressible(const coterie_placement_t *placement);
static coterie_status_t text_make(const coterie_placement_t *placement,
                                  coterie_placement_format_t format,
                                  char **text_p, size_t *size_p);

coterie_status_t coterie_placement_read(const char *path, uint32_t rank_count,
                                        coterie_placement_t **placement_p)
{
    coterie_draft_t draft = {.path = path};
    void *text = NULL;
    size_t size;
    coterie_status_t status;

    status = coterie_file_read(path, FILE_LIMIT, &text, &size);
    if (status != COTERIE_OK)
        return status;
    status = draft_read(&draft, text, size);
    if (status == COTERIE_OK)
        status = draft_ranks(&draft, rank_count);
    if (status == COTERIE_OK)
        status = draft_finish(&draft, placement_p);
    free(draft.slot_rank);
    free(draft.slot_expert);
    free(draft.next_score);
    free(text);
    return status;
}

coterie_status_t coterie_placement_write(const coterie_placement_t *placement,
                                         const char *path,
                                         coterie_placement_format_t format,
                                         int force)
{
    coterie_output_t output = {0};
    coterie_status_t status = COTERIE_OK;
    char *text = NULL;
    size_t size = 0;

    if ((unsigned)format >= sizeof(names) / sizeof(names[0]))
        return coterie_fail(COTERIE_ERR_INVALID,
                            "%s: placement format %d is unknown", path,
                            (int)format);
    if (format != COTERIE_FORMAT_COTERIE)
        status = slots_expressible(placement, names[format]);
    if (status == COTERIE_OK && format == COTERIE_FORMAT_EXFLOW)
        status = csv_expressible(placement);
    if (status == COTERIE_OK)
        status = text_make(placement, format, &text, &size);
    if (status == COTERIE_OK)
        status = coterie_output_open(path, force, &output);
    if (status == COTERIE_OK)
        status = coterie_output_write(&output, text, size);
    if (status == COTERIE_OK)
        status = coterie_output_commit(&output);
    else
        coterie_output_abandon(&output);
    free(text);
    return status;
}

coterie_status_t coterie_draft_slots(coterie_draft_t *draft, size_t layer_count,
                                     size_t slot_count)
{
    if (layer_count == 0 || layer_count > COTERIE_LAYERS_MAX ||
        slot_count == 0 || slot_count > COTERIE_SLOTS_MAX)
        return coterie_fail(COTERIE_ERR_FORMAT,
                            "%s: %zu layers of %zu slots; at least 1 and at "
                            "most %d and %d make sense",
                            draft->path, layer_count, slot_count,
                            COTERIE_LAYERS_MAX, COTERIE_SLOTS_MAX);
    draft->layer_count = (uint32_t)layer_count;
    draft->slot_count = (uint32_t)slot_count;
    draft->slot_expert = calloc(layer_count * slot_count, sizeof(int16_t));
    if (draft->slot_expert == NULL)
        return coterie_fail_memory(layer_count * slot_count * sizeof(int16_t),
                                   draft->path);
    return COTERIE_OK;
}

coterie_status_t coterie_draft_expert(coterie_draft_t *draft, size_t layer,
                                      size_t slot, long long expert)
{
    if (expert < -1 || expert >= COTERIE_EXPERTS_MAX)
        return coterie_fail(COTERIE_ERR_FORMAT,
                            "%s: layer %zu, slot %zu: %lld is no expert; 0 to "
                            "%d, or -1 for none",
                            draft->path, layer, slot, expert,
                            COTERIE_EXPERTS_MAX - 1);
    draft->slot_expert[layer * draft->slot_count + slot] = (int16_t)expert;
    return COTERIE_OK;
}

static coterie_status_t draft_read(coterie_draft_t *draft, const char *text,
                                   size_t size)
{
    const char *start = text;

    while (isspace((unsigned char)*start))
        start++;
    if (*start == '{' || *start == '[')
        return coterie_json_placement_read(draft, text, size);
    if (strncasecmp(start, "expert,", 7) == 0)
        return coterie_csv_placement_read(draft, text, size);
    return coterie_yaml_placement_read(draft, text, size);
}

/* Settles what the file may have left open. */
static coterie_status_t draft_ranks(coterie_draft_t *draft, uint32_t rank_count)
{
    if (draft->rank_count == 0 && rank_count == 0)
        return coterie_fail(COTERIE_ERR_INVALID,
                            "%s: does not say how many ranks it is for; the "
                            "caller must (--ranks)",
                            draft->path);
    if (draft->rank_count == 0)
        draft->rank_count = rank_count;
    if (rank_count != 0 && rank_count != draft->rank_count)
        return coterie_fail(COTERIE_ERR_MISMATCH,
                            "%s: is for %u ranks; here are %u", draft->path,
                            draft->rank_count, rank_count);
    if (draft->slot_rank == NULL && draft->slot_count % draft->rank_count != 0)
        return coterie_fail(COTERIE_ERR_MISMATCH,
                            "%s: %u slots a layer cannot be shared equally by "
                            "%u ranks",
                            draft->path, draft->slot_count, draft->rank_count);
    if (draft->expert_count == 0)
        draft->expert_count = highest_expert(draft) + 1;
    return COTERIE_OK;
}

/* Every expert has a slot, so the highest id tells how many there are. */
static uint32_t highest_expert(const coterie_draft_t *draft)
{
    size_t count = (size_t)draft->layer_count * draft->slot_count;
    int highest = 0;

    for (size_t i = 0; i < count; i++)
        if (draft->slot_expert[i] > highest)
            highest = draft->slot_expert[i];
    return (uint32_t)highest;
}

static coterie_status_t draft_finish(const coterie_draft_t *draft,
                                     coterie_placement_t **placement_p)
{
    const coterie_placement_options_t options = {
        .size = sizeof(options),
        .layer_count = draft->layer_count,
        .expert_count = draft->expert_count,
        .rank_count = draft->rank_count,
        .node_count = draft->node_count,
        .slot_count = draft->slot_count,
        .slot_rank = draft->slot_rank,
        .slot_expert = draft->slot_expert,
        .next_score = draft->next_score,
    };
    coterie_status_t status = coterie_placement_create(&options, placement_p);

    if (status == COTERIE_ERR_INVALID)
        return coterie_fail(COTERIE_ERR_FORMAT, "%s: %s", draft->path,
                            coterie_last_error());
    return status;
}

/* Every other format has slots only by their order: as many on each rank, and
 * an expert in each. */
static coterie_status_t slots_expressible(const coterie_placement_t *placement,
                                          const char *name)
{
    uint32_t share = placement->slot_count / placement->rank_count;
    size_t count = (size_t)placement->layer_count * placement->slot_count;

    for (uint32_t s = 0; s < placement->slot_count; s++)
        if (placement->slot_count % placement->rank_count != 0 ||
            placement->slot_rank[s] != s / share)
            return coterie_fail(COTERIE_ERR_UNSUPPORTED,
                                "%s cannot say that ranks differ in slots; "
                                "Coterie's JSON can",
                                name);
    for (size_t i = 0; i < count; i++)
        if (placement->slot_expert[i] < 0)
            return coterie_fail(COTERIE_ERR_UNSUPPORTED,
                                "%s cannot say that layer %zu, slot %zu is "
                                "empty; Coterie's JSON can",
                                name, i / placement->slot_count,
                                i % placement->slot_count);
    return COTERIE_OK;
}

static coterie_status_t csv_expressible(const coterie_placement_t *placement)
{
    size_t count = (size_t)placement->layer_count * placement->expert_count;
    uint32_t experts;

    if (placement->slot_count != placement->expert_count)
        return coterie_fail(COTERIE_ERR_UNSUPPORTED,
                            "ExFlow's CSV cannot say that an expert has two "
                            "slots; Coterie's JSON can");
    /* Without replicas, the holders are one for each expert, in order. */
    experts = coterie_csv_expert_count(placement->holder_rank, count,
                                       placement->rank_count);
    if (experts != placement->expert_count)
        return coterie_fail(COTERIE_ERR_UNSUPPORTED,
                            "ExFlow's CSV does not say how many experts a "
                            "layer has; this one would read as %u, not %u",
                            experts, placement->expert_count);
    return COTERIE_OK;
}

static coterie_status_t text_make(const coterie_placement_t *placement,
                                  coterie_placement_format_t format,
                                  char **text_p, size_t *size_p)
{
    coterie_status_t status = COTERIE_OK;
    FILE *stream = open_memstream(text_p, size_p);

    if (stream == NULL)
        return coterie_fail_memory(0, names[format]);
    if (format == COTERIE_FORMAT_TENSORRT)
        coterie_yaml_placement_write(placement, stream);
    else if (format == COTERIE_FORMAT_EXFLOW)
        coterie_csv_placement_write(placement, stream);
    else
        status = coterie_json_placement_write(placement, format, stream);
    if (fflush(stream) != 0 && status == COTERIE_OK)
        status = coterie_fail_memory(*size_p, names[format]);
    fclose(stream);
    return status;
}
