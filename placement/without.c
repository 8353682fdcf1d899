/* Where experts go whose ranks were lost. */
#include "config.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "placement/placement.h"

/* The new placement as it grows: every rank has room for all experts, and the
 * slots that none of its layers needs are left out at the end. */
typedef struct draft {
    coterie_placement_options_t old;
    const uint8_t *active;
    int16_t *held;   /* [layer, rank, expert_count]: -1 after the last */
    uint32_t *count; /* [layer, rank]: of them */
} draft_t;

static coterie_status_t draft_open(draft_t *d);
static void draft_close(draft_t *d);
static int16_t *held_of(const draft_t *d, uint32_t layer, uint32_t rank);
static void survivors_keep(draft_t *d, uint32_t layer, uint8_t *is_held);
static void orphans_place(draft_t *d, uint32_t layer, const uint8_t *is_held);
static coterie_status_t draft_end(const draft_t *d,
                                  coterie_placement_t **placement_p);

coterie_status_t coterie_placement_without(
    const coterie_placement_t *placement, const uint8_t *active,
    coterie_placement_t **placement_p)
{
    draft_t d = {.active = active};
    uint8_t *is_held = NULL;
    coterie_status_t status;

    coterie_placement_view(placement, &d.old);
    if (memchr(active, 1, d.old.rank_count) == NULL)
        return coterie_fail(COTERIE_ERR_INVALID,
                            "placement: none of %u ranks is active (1)",
                            d.old.rank_count);
    status = draft_open(&d);
    if (status == COTERIE_OK) {
        is_held = malloc(d.old.expert_count);
        if (is_held == NULL)
            status = coterie_fail_memory(d.old.expert_count, "a placement");
    }
    for (uint32_t l = 0; status == COTERIE_OK && l < d.old.layer_count; l++) {
        survivors_keep(&d, l, is_held);
        orphans_place(&d, l, is_held);
    }
    if (status == COTERIE_OK)
        status = draft_end(&d, placement_p);
    free(is_held);
    draft_close(&d);
    return status;
}

static coterie_status_t draft_open(draft_t *d)
{
    const size_t lists = (size_t)d->old.layer_count * d->old.rank_count;
    const size_t size = lists * d->old.expert_count * sizeof(*d->held);

    d->held = malloc(size);
    d->count = calloc(lists, sizeof(*d->count));
    if (d->held == NULL || d->count == NULL)
        return coterie_fail_memory(size, "a placement"); /* closed anyway */
    memset(d->held, 0xff, size);
    return COTERIE_OK;
}

static void draft_close(draft_t *d)
{
    free(d->held);
    free(d->count);
}

static int16_t *held_of(const draft_t *d, uint32_t layer, uint32_t rank)
{
    return d->held + ((size_t)layer * d->old.rank_count + rank) *
                         d->old.expert_count;
}

static void survivors_keep(draft_t *d, uint32_t layer, uint8_t *is_held)
{
    const int16_t *from =
        d->old.slot_expert + (size_t)layer * d->old.slot_count;

    memset(is_held, 0, d->old.expert_count);
    for (uint32_t s = 0; s < d->old.slot_count; s++) {
        const uint32_t rank = d->old.slot_rank[s];
        uint32_t *count = &d->count[layer * d->old.rank_count + rank];

        if (from[s] < 0 || d->active[rank] == 0)
            continue;
        held_of(d, layer, rank)[(*count)++] = from[s];
        is_held[from[s]] = 1;
    }
}

/* To whoever holds fewest, the lowest rank of these. */
static void orphans_place(draft_t *d, uint32_t layer, const uint8_t *is_held)
{
    uint32_t *count = d->count + (size_t)layer * d->old.rank_count;

    for (uint32_t e = 0; e < d->old.expert_count; e++) {
        uint32_t best = d->old.rank_count;

        if (is_held[e])
            continue;
        for (uint32_t r = 0; r < d->old.rank_count; r++)
            if (d->active[r] != 0 &&
                (best == d->old.rank_count || count[r] < count[best]))
                best = r;
        held_of(d, layer, best)[count[best]++] = (int16_t)e;
    }
}

static coterie_status_t draft_end(const draft_t *d,
                                  coterie_placement_t **placement_p)
{
    const size_t most = (size_t)d->old.rank_count * d->old.expert_count;
    coterie_placement_options_t made = d->old;
    uint16_t *slot_rank = malloc(most * sizeof(*slot_rank));
    int16_t *slot_expert =
        malloc(most * d->old.layer_count * sizeof(*slot_expert));
    coterie_status_t status = COTERIE_OK;

    if (slot_rank == NULL || slot_expert == NULL)
        status = coterie_fail_memory(most * sizeof(*slot_rank), "a placement");
    made.size = sizeof(made);
    made.slot_count = 0;
    for (uint32_t r = 0; status == COTERIE_OK && r < d->old.rank_count; r++) {
        uint32_t slots = 0;

        for (uint32_t l = 0; l < d->old.layer_count; l++)
            if (d->count[l * d->old.rank_count + r] > slots)
                slots = d->count[l * d->old.rank_count + r];
        while (slots-- > 0)
            slot_rank[made.slot_count++] = (uint16_t)r;
    }
    for (uint32_t l = 0; status == COTERIE_OK && l < d->old.layer_count; l++)
        for (uint32_t s = 0, i = 0; s < made.slot_count; s++) {
            i = s > 0 && slot_rank[s] == slot_rank[s - 1] ? i + 1 : 0;
            slot_expert[(size_t)l * made.slot_count + s] =
                held_of(d, l, slot_rank[s])[i];
        }
    made.slot_rank = slot_rank;
    made.slot_expert = slot_expert;
    if (status == COTERIE_OK)
        status = coterie_placement_create(&made, placement_p);
    free(slot_expert);
    free(slot_rank);
    return status;
}
