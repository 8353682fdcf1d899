#include "config.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/options.h"
#include "placement/placement.h"

_Static_assert(sizeof(coterie_placement_options_t) ==
                   sizeof(size_t) + 6 * sizeof(uint32_t) + 3 * sizeof(void *),
               "ABI, no padding");

static coterie_status_t counts_check(const coterie_placement_options_t *opts);
static coterie_status_t slots_check(const coterie_placement_options_t *opts);
static coterie_status_t placement_allocate(
    const coterie_placement_options_t *opts, coterie_placement_t **placement_p);
static coterie_status_t slot_rank_fill(coterie_placement_t *placement,
                                       const uint16_t *slot_rank);
static coterie_status_t slot_expert_fill(coterie_placement_t *placement,
                                         const int16_t *slot_expert);
static coterie_status_t holders_build(coterie_placement_t *placement,
                                      uint32_t layer);
static coterie_status_t holders_check(const coterie_placement_t *placement,
                                      uint32_t layer);

coterie_status_t coterie_placement_create(
    const coterie_placement_options_t *options,
    coterie_placement_t **placement_p)
{
    coterie_placement_options_t opts;
    coterie_placement_t *placement = NULL;
    coterie_status_t status;

    status = coterie_options_read(options, &opts, sizeof(opts), "placement");
    if (status == COTERIE_OK)
        status = counts_check(&opts);
    if (status == COTERIE_OK && opts.slot_count == 0)
        opts.slot_count = opts.expert_count;
    if (status == COTERIE_OK)
        status = slots_check(&opts);
    if (status == COTERIE_OK)
        status = placement_allocate(&opts, &placement);
    if (status == COTERIE_OK)
        status = slot_rank_fill(placement, opts.slot_rank);
    if (status == COTERIE_OK)
        status = slot_expert_fill(placement, opts.slot_expert);
    for (uint32_t l = 0; status == COTERIE_OK && l < opts.layer_count; l++)
        status = holders_build(placement, l);
    if (status == COTERIE_OK) {
        *placement_p = placement;
        placement = NULL; /* it is the caller's now */
    }
    coterie_placement_destroy(placement);
    return status;
}

void coterie_placement_view(const coterie_placement_t *placement,
                            coterie_placement_options_t *view)
{
    *view = (coterie_placement_options_t){
        .size = sizeof(*view),
        .layer_count = placement->layer_count,
        .expert_count = placement->expert_count,
        .rank_count = placement->rank_count,
        .node_count = placement->node_count,
        .slot_count = placement->slot_count,
        .slot_rank = placement->slot_rank,
        .slot_expert = placement->slot_expert,
        .next_score = placement->next_score,
    };
}

coterie_status_t coterie_placement_check(const coterie_placement_t *placement,
                                         uint32_t layer_count,
                                         uint32_t expert_count,
                                         uint32_t rank_count)
{
    const struct {
        const char *what;
        uint32_t has, wanted;
    } rows[] = {
        {"MoE layers", placement->layer_count, layer_count},
        {"experts a layer", placement->expert_count, expert_count},
        {"ranks", placement->rank_count, rank_count},
    };

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        if (rows[i].has != rows[i].wanted)
            return coterie_fail(COTERIE_ERR_MISMATCH,
                                "the placement is for %u %s; here are %u",
                                rows[i].has, rows[i].what, rows[i].wanted);
    return COTERIE_OK;
}

void coterie_placement_destroy(coterie_placement_t *placement)
{
    if (placement == NULL)
        return;
    free(placement->slot_rank);
    free(placement->slot_expert);
    free(placement->next_score);
    free(placement->first);
    free(placement->holder_slot);
    free(placement->holder_rank);
    free(placement);
}

static coterie_status_t counts_check(const coterie_placement_options_t *opts)
{
    const struct {
        const char *what;
        uint32_t count, min, max;
    } rows[] = {
        {"layer_count", opts->layer_count, 1, COTERIE_LAYERS_MAX},
        {"expert_count", opts->expert_count, 1, COTERIE_EXPERTS_MAX},
        {"rank_count", opts->rank_count, 1, COTERIE_RANKS_MAX},
        {"slot_count", opts->slot_count, 0, COTERIE_SLOTS_MAX},
        {"reserved", opts->reserved, 0, 0},
    };

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        if (rows[i].count < rows[i].min || rows[i].count > rows[i].max)
            return coterie_fail(
                COTERIE_ERR_INVALID, "placement: %s is %u; it must be %u to %u",
                rows[i].what, rows[i].count, rows[i].min, rows[i].max);
    if (opts->node_count != 0 && opts->rank_count % opts->node_count != 0)
        return coterie_fail(COTERIE_ERR_INVALID,
                            "placement: %u nodes do not divide %u ranks",
                            opts->node_count, opts->rank_count);
    return COTERIE_OK;
}

static coterie_status_t slots_check(const coterie_placement_options_t *opts)
{
    if (opts->slot_count < opts->expert_count)
        return coterie_fail(COTERIE_ERR_INVALID,
                            "placement: %u slots cannot hold %u experts",
                            opts->slot_count, opts->expert_count);
    if (opts->slot_expert == NULL && opts->slot_count != opts->expert_count)
        return coterie_fail(COTERIE_ERR_INVALID,
                            "placement: %u slots for %u experts: slot_expert "
                            "must say who gets a replica",
                            opts->slot_count, opts->expert_count);
    return COTERIE_OK;
}

static coterie_status_t placement_allocate(
    const coterie_placement_options_t *opts, coterie_placement_t **placement_p)
{
    size_t experts = (size_t)opts->layer_count * opts->expert_count;
    size_t slots = (size_t)opts->layer_count * opts->slot_count;
    size_t scores = experts * opts->rank_count;
    coterie_placement_t *placement = calloc(1, sizeof(*placement));

    if (placement == NULL)
        return coterie_fail_memory(sizeof(*placement), "a placement");
    placement->layer_count = opts->layer_count;
    placement->expert_count = opts->expert_count;
    placement->rank_count = opts->rank_count;
    placement->node_count = opts->node_count == 0 ? 1 : opts->node_count;
    placement->node_ranks = placement->rank_count / placement->node_count;
    placement->slot_count = opts->slot_count;
    placement->slot_rank = calloc(opts->slot_count, sizeof(uint16_t));
    placement->slot_expert = calloc(slots, sizeof(int16_t));
    placement->next_score = calloc(scores, 1);
    placement->first = calloc(experts + 1, sizeof(uint32_t));
    placement->holder_slot = calloc(slots, sizeof(uint16_t));
    placement->holder_rank = calloc(slots, sizeof(uint16_t));
    if (placement->slot_rank == NULL || placement->slot_expert == NULL ||
        placement->next_score == NULL || placement->first == NULL ||
        placement->holder_slot == NULL || placement->holder_rank == NULL) {
        coterie_placement_destroy(placement);
        return coterie_fail_memory(scores + experts * 4 + slots * 6,
                                   "a placement");
    }
    if (opts->next_score != NULL)
        memcpy(placement->next_score, opts->next_score, scores);
    *placement_p = placement;
    return COTERIE_OK;
}

static coterie_status_t slot_rank_fill(coterie_placement_t *placement,
                                       const uint16_t *slot_rank)
{
    uint32_t share = placement->slot_count / placement->rank_count;
    uint32_t longer = placement->slot_count % placement->rank_count;
    uint32_t slot = 0;

    for (uint32_t r = 0; slot_rank == NULL && r < placement->rank_count; r++)
        for (uint32_t i = 0; i < share + (r < longer); i++)
            placement->slot_rank[slot++] = (uint16_t)r;
    for (; slot < placement->slot_count; slot++) {
        if (slot_rank[slot] >= placement->rank_count)
            return coterie_fail(COTERIE_ERR_INVALID,
                                "placement: slot %u is on rank %u; there are "
                                "ranks 0 to %u",
                                slot, slot_rank[slot],
                                placement->rank_count - 1);
        if (slot > 0 && slot_rank[slot] < slot_rank[slot - 1])
            return coterie_fail(COTERIE_ERR_INVALID,
                                "placement: slot %u is on rank %u, after rank "
                                "%u; slot_rank must ascend",
                                slot, slot_rank[slot], slot_rank[slot - 1]);
        placement->slot_rank[slot] = slot_rank[slot];
    }
    return COTERIE_OK;
}

static coterie_status_t slot_expert_fill(coterie_placement_t *placement,
                                         const int16_t *slot_expert)
{
    size_t count = (size_t)placement->layer_count * placement->slot_count;

    for (size_t i = 0; i < count; i++) {
        uint32_t slot = (uint32_t)(i % placement->slot_count);
        int expert = slot_expert == NULL ? (int)slot : slot_expert[i];
        if (expert < -1 || expert >= (int)placement->expert_count)
            return coterie_fail(COTERIE_ERR_INVALID,
                                "placement: layer %u, slot %u: expert %d; "
                                "there are experts 0 to %u, and -1 for none",
                                (uint32_t)(i / placement->slot_count), slot,
                                expert, placement->expert_count - 1);
        placement->slot_expert[i] = (int16_t)expert;
    }
    return COTERIE_OK;
}

/* A counting sort of the layer's slots by expert. Layers must come in order:
 * each starts where the one before ended. */
static coterie_status_t holders_build(coterie_placement_t *placement,
                                      uint32_t layer)
{
    const int16_t *slots =
        placement->slot_expert + (size_t)layer * placement->slot_count;
    uint32_t *first =
        placement->first + (size_t)layer * placement->expert_count;
    uint32_t end = first[0];

    for (uint32_t s = 0; s < placement->slot_count; s++)
        if (slots[s] >= 0)
            first[slots[s] + 1]++;
    /* A count becomes its expert's start; placing then moves it to its end. */
    for (uint32_t e = 0; e < placement->expert_count; e++) {
        uint32_t count = first[e + 1];
        first[e + 1] = end;
        end += count;
    }
    for (uint32_t s = 0; s < placement->slot_count; s++)
        if (slots[s] >= 0) {
            uint32_t at = first[slots[s] + 1]++;
            placement->holder_slot[at] = (uint16_t)s;
            placement->holder_rank[at] = placement->slot_rank[s];
        }
    return holders_check(placement, layer);
}

static coterie_status_t holders_check(const coterie_placement_t *placement,
                                      uint32_t layer)
{
    for (uint32_t e = 0; e < placement->expert_count; e++) {
        coterie_holders_t holders =
            coterie_placement_holders(placement, layer, e);
        if (holders.count == 0)
            return coterie_fail(COTERIE_ERR_INVALID,
                                "placement: layer %u: expert %u has no slot; "
                                "every expert needs one",
                                layer, e);
        for (uint32_t i = 1; i < holders.count; i++)
            if (holders.rank[i] == holders.rank[i - 1])
                return coterie_fail(
                    COTERIE_ERR_INVALID,
                    "placement: layer %u, slots %u and %u: expert %u twice on "
                    "rank %u; replicas go to different ranks",
                    layer, holders.slot[i - 1], holders.slot[i], e,
                    holders.rank[i]);
    }
    return COTERIE_OK;
}
