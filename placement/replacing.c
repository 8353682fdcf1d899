#include "config.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "placement/affinity.h"
#include "placement/placement.h"
#include "placement/replacing.h"
#include "placement/trail.h"

/* Without replicas, points on two trails of swaps: one greedy by gain for each
 * move, one to the free choice. With replicas, the free choice's layers, one
 * more at a time: a layer's replicas hang together. */

enum { POINTS_EACH_DOUBLING = 4 };

/* One rank's slots of a layer, as they were, and what they are to hold. */
typedef struct rank_slots {
    const int16_t *before;
    const uint8_t *wanted; /* [expert] */
    uint32_t count;
    int16_t expert_count;
} rank_slots_t;

static coterie_status_t free_align(coterie_replacing_t *r, uint16_t *rank_as);
static void overlap_count(const coterie_replacing_t *r, uint32_t *overlap);
static int ranks_swap(const coterie_replacing_t *r, const uint32_t *overlap,
                      uint16_t *rank_as, uint32_t size);
static coterie_status_t target_slots(const coterie_replacing_t *r,
                                     const uint16_t *rank_as,
                                     int16_t *slots);
static void rank_fill(const rank_slots_t *rank, int16_t *slots);
static int was_held(const rank_slots_t *rank, int16_t expert);
static uint64_t layer_differences(const coterie_replacing_t *r,
                                  const int16_t *slots, uint32_t layer);
static coterie_status_t layers_walk(coterie_replacing_t *r,
                                    const int16_t *target);
static coterie_status_t trails_walk(coterie_replacing_t *r,
                                    const int16_t *target);
static coterie_status_t trail_take(coterie_replacing_t *r,
                                   const coterie_trail_t *trail);
static void experts_swap(int16_t *slots, size_t count, int16_t a, int16_t b);
static coterie_status_t problem_open(const coterie_replacing_t *r,
                                     coterie_problem_t *problem);
static void problem_close(coterie_problem_t *problem);
static void limits_set(const coterie_replacing_t *r,
                       coterie_problem_t *problem);
static void ranks_read(const coterie_replacing_t *r, const int16_t *slots,
                       uint16_t *rank_of);
static coterie_status_t candidate_add(coterie_replacing_t *r,
                                      const int16_t *slots);
static size_t slot_total(const coterie_replacing_t *r);

coterie_status_t coterie_replacing_candidates(coterie_replacing_t *r)
{
    const coterie_placement_t *old = r->old;
    int16_t *target = NULL;
    uint16_t *rank_as = calloc(old->rank_count, sizeof(*rank_as));
    coterie_status_t status =
        rank_as == NULL ? coterie_fail_memory(old->rank_count * 2, "ranks")
                        : COTERIE_OK;

    if (status == COTERIE_OK && r->free_choice != NULL) {
        target = malloc(slot_total(r) * sizeof(*target));
        status = target == NULL
                     ? coterie_fail_memory(slot_total(r) * 2, "slots")
                     : free_align(r, rank_as);
        if (status == COTERIE_OK)
            status = target_slots(r, rank_as, target);
    }
    if (status == COTERIE_OK && old->slot_count == old->expert_count)
        status = trails_walk(r, target);
    else if (status == COTERIE_OK && target != NULL)
        status = layers_walk(r, target);
    for (uint32_t l = 0; status == COTERIE_OK && target != NULL &&
                         l < old->layer_count; l++)
        r->moves_all += layer_differences(r, target, l);
    free(rank_as);
    free(target);
    return status;
}

/* Ranks are alike, so the free choice's may be renamed to resemble the old
 * placement's: two of a node, or two whole nodes, as long as that helps. */
static coterie_status_t free_align(coterie_replacing_t *r, uint16_t *rank_as)
{
    uint32_t ranks = r->old->rank_count, nodes = r->old->node_count;
    uint32_t *overlap = calloc((size_t)ranks * ranks, sizeof(*overlap));
    int better = 1;

    if (overlap == NULL)
        return coterie_fail_memory((size_t)ranks * ranks * 4, "ranks");
    overlap_count(r, overlap);
    for (uint32_t i = 0; i < ranks; i++)
        rank_as[i] = (uint16_t)i;
    while (better) {
        better = ranks_swap(r, overlap, rank_as, 1);
        if (nodes > 1)
            better |= ranks_swap(r, overlap, rank_as, ranks / nodes);
    }
    free(overlap);
    return COTERIE_OK;
}

/* [free choice's rank, old rank]: experts that both hold. */
static void overlap_count(const coterie_replacing_t *r, uint32_t *overlap)
{
    for (uint32_t l = 0; l < r->view.layer_count; l++)
        for (uint32_t e = 0; e < r->view.expert_count; e++) {
            coterie_holders_t now =
                coterie_placement_holders(r->free_choice, l, e);
            coterie_holders_t before =
                coterie_placement_holders(r->old, l, e);
            for (uint32_t i = 0; i < now.count; i++)
                for (uint32_t j = 0; j < before.count; j++)
                    overlap[(size_t)now.rank[i] * r->old->rank_count +
                            before.rank[j]]++;
        }
}

/* Swaps the names of two blocks of `size` ranks: of one node if that is 1.
 * Only ranks with as many slots have the same experts to hold. */
static int ranks_swap(const coterie_replacing_t *r, const uint32_t *overlap,
                      uint16_t *rank_as, uint32_t size)
{
    uint32_t ranks = r->old->rank_count, within = r->old->node_ranks;
    uint32_t even = r->old->slot_count % ranks == 0;
    int better = 0;

    for (uint32_t a = 0; a + size <= ranks; a += size)
        for (uint32_t b = a + size; b + size <= ranks; b += size) {
            int64_t gain = 0;
            if (!even || (size == 1 && rank_as[a] / within !=
                                           rank_as[b] / within))
                continue;
            for (uint32_t i = 0; i < size; i++) {
                const uint32_t *of_a = overlap + (size_t)(a + i) * ranks;
                const uint32_t *of_b = overlap + (size_t)(b + i) * ranks;
                gain += (int64_t)of_a[rank_as[b + i]] + of_b[rank_as[a + i]] -
                        of_a[rank_as[a + i]] - of_b[rank_as[b + i]];
            }
            if (gain <= 0)
                continue;
            better = 1;
            for (uint32_t i = 0; i < size; i++) {
                uint16_t name = rank_as[a + i];
                rank_as[a + i] = rank_as[b + i];
                rank_as[b + i] = name;
            }
        }
    return better;
}

/* What stays on a rank stays in its slot. */
static coterie_status_t target_slots(const coterie_replacing_t *r,
                                     const uint16_t *rank_as, int16_t *slots)
{
    const coterie_placement_t *old = r->old;
    size_t experts = old->expert_count;
    uint8_t *wanted = calloc(old->rank_count * experts, 1);

    if (wanted == NULL)
        return coterie_fail_memory(old->rank_count * experts, "slots");
    for (uint32_t l = 0; l < old->layer_count; l++) {
        size_t at = (size_t)l * old->slot_count;
        memset(wanted, 0, old->rank_count * experts);
        for (uint32_t s = 0; s < old->slot_count; s++) {
            int expert = r->free_choice->slot_expert[at + s];
            uint32_t rank = rank_as[r->free_choice->slot_rank[s]];
            if (expert >= 0)
                wanted[rank * experts + (size_t)expert] = 1;
        }
        for (uint32_t s = 0, end; s < old->slot_count; s = end) {
            uint32_t rank = old->slot_rank[s];
            for (end = s; end < old->slot_count &&
                          old->slot_rank[end] == rank;)
                end++;
            rank_fill(&(rank_slots_t){old->slot_expert + at + s,
                                      wanted + rank * experts, end - s,
                                      (int16_t)experts},
                      slots + at + s);
        }
    }
    free(wanted);
    return COTERIE_OK;
}

static void rank_fill(const rank_slots_t *rank, int16_t *slots)
{
    int16_t next = 0;

    for (uint32_t i = 0; i < rank->count; i++)
        slots[i] = rank->before[i] >= 0 && rank->wanted[rank->before[i]]
                       ? rank->before[i]
                       : -1;
    for (uint32_t i = 0; i < rank->count; i++) {
        if (slots[i] >= 0)
            continue;
        while (next < rank->expert_count &&
               (!rank->wanted[next] || was_held(rank, next)))
            next++;
        if (next < rank->expert_count)
            slots[i] = next++;
    }
}

static int was_held(const rank_slots_t *rank, int16_t expert)
{
    for (uint32_t i = 0; i < rank->count; i++)
        if (rank->before[i] == expert)
            return 1;
    return 0;
}

static uint64_t layer_differences(const coterie_replacing_t *r,
                                  const int16_t *slots, uint32_t layer)
{
    size_t at = (size_t)layer * r->old->slot_count;
    uint64_t count = 0;

    for (uint32_t s = 0; s < r->old->slot_count; s++) {
        int expert = slots[at + s];
        coterie_holders_t had;
        int held = 0;
        if (expert < 0)
            continue;
        had = coterie_placement_holders(r->old, layer, (uint32_t)expert);
        for (uint32_t i = 0; i < had.count; i++)
            held |= had.rank[i] == r->old->slot_rank[s];
        count += !held;
    }
    return count;
}

/* The layers that take the fewest moves come first. */
static coterie_status_t layers_walk(coterie_replacing_t *r,
                                    const int16_t *target)
{
    const coterie_placement_t *old = r->old;
    size_t slots = old->slot_count;
    int16_t *now = malloc(slot_total(r) * sizeof(*now));
    coterie_status_t status = COTERIE_OK;

    if (now == NULL)
        return coterie_fail_memory(slot_total(r) * sizeof(*now), "slots");
    memcpy(now, old->slot_expert, slot_total(r) * sizeof(*now));
    while (status == COTERIE_OK) {
        uint32_t best = old->layer_count;
        uint64_t fewest = UINT64_MAX;
        for (uint32_t l = 0; l < old->layer_count; l++) {
            uint64_t moves = layer_differences(r, target, l);
            int done = memcmp(now + l * slots, target + l * slots,
                              slots * sizeof(*now)) == 0;
            if (!done && moves < fewest) {
                fewest = moves;
                best = l;
            }
        }
        if (best == old->layer_count)
            break;
        memcpy(now + best * slots, target + best * slots,
               slots * sizeof(*now));
        status = candidate_add(r, now);
    }
    free(now);
    return status;
}

static coterie_status_t trails_walk(coterie_replacing_t *r,
                                    const int16_t *target)
{
    size_t items = (size_t)r->view.layer_count * r->view.expert_count;
    coterie_trail_t trail = {.search = &r->search};
    coterie_problem_t problem = {.layer_count = r->view.layer_count};
    uint16_t *begin = calloc(items, sizeof(*begin));
    uint16_t *end = calloc(items, sizeof(*end));
    coterie_status_t status = problem_open(r, &problem);

    if (status == COTERIE_OK && (begin == NULL || end == NULL))
        status = coterie_fail_memory(items * sizeof(*begin), "ranks");
    if (status != COTERIE_OK)
        goto out;
    trail.problem = &problem;
    trail.begin = begin;
    ranks_read(r, r->old->slot_expert, begin);
    status = coterie_trail_walk(&trail);
    if (status == COTERIE_OK)
        status = trail_take(r, &trail);
    if (status != COTERIE_OK || target == NULL)
        goto out;
    ranks_read(r, target, end);
    trail.target = end;
    trail.count = 0;
    status = coterie_trail_walk(&trail);
    if (status == COTERIE_OK)
        status = trail_take(r, &trail);
    if (status == COTERIE_OK) /* also if time ended the trail before it */
        status = candidate_add(r, target);
out:
    free(trail.swaps);
    free(begin);
    free(end);
    problem_close(&problem);
    return status;
}

/* Some points of a trail, nearer to each other where there are few moves. */
static coterie_status_t trail_take(coterie_replacing_t *r,
                                   const coterie_trail_t *trail)
{
    size_t slots = r->old->slot_count, before = 0;
    uint64_t most = 0, step = 1;
    int16_t *now = malloc(slot_total(r) * sizeof(*now));
    coterie_status_t status = COTERIE_OK;

    if (now == NULL)
        return coterie_fail_memory(slot_total(r) * sizeof(*now), "slots");
    for (size_t i = 0; i < trail->count; i++)
        if (trail->swaps[i].moves > most)
            most = trail->swaps[i].moves;
    for (uint64_t m = 1; status == COTERIE_OK && m < most + step; m += step) {
        size_t point = coterie_trail_point(trail, m < most ? m : most);
        step = 1 + m / POINTS_EACH_DOUBLING;
        if (point == before)
            continue;
        before = point;
        memcpy(now, r->old->slot_expert, slot_total(r) * sizeof(*now));
        for (size_t i = 0; i < point; i++) {
            const coterie_swap_t *swap = &trail->swaps[i];
            int16_t *layer = now + swap->layer * slots;
            experts_swap(layer, slots, (int16_t)swap->a, (int16_t)swap->b);
        }
        status = candidate_add(r, now);
    }
    free(now);
    return status;
}

static void experts_swap(int16_t *slots, size_t count, int16_t a, int16_t b)
{
    for (size_t s = 0; s < count; s++)
        if (slots[s] == a || slots[s] == b)
            slots[s] = slots[s] == a ? b : a;
}

static coterie_status_t problem_open(const coterie_replacing_t *r,
                                     coterie_problem_t *p)
{
    uint32_t experts = r->view.expert_count;
    size_t items = (size_t)r->view.layer_count * experts;
    coterie_pair_costs_t costs =
        coterie_pair_costs(COTERIE_OBJECTIVE_DISPATCH,
                           (coterie_mode_t)r->options.mode,
                           r->old->rank_count, r->view.k);

    p->expert_count = experts;
    p->rank_count = r->old->rank_count;
    p->node_count = r->old->node_count;
    p->network_cost = p->node_count > 1 ? r->options.network_cost : 1;
    p->seam = calloc(items * experts, sizeof(*p->seam));
    p->load = calloc(items, sizeof(*p->load));
    if (costs.pair > 0)
        p->pair = calloc(items * experts, sizeof(*p->pair));
    if (r->options.load_cap > 0)
        p->load_max = calloc(p->layer_count, sizeof(*p->load_max));
    if (!p->seam || !p->load || (costs.pair > 0 && !p->pair) ||
        (r->options.load_cap > 0 && !p->load_max))
        return coterie_fail_memory(items * experts * sizeof(*p->seam),
                                   "counts of pairs of experts");
    coterie_affinity_count(&r->view, costs, p);
    coterie_problem_measure(p);
    limits_set(r, p);
    return COTERIE_OK;
}

static void problem_close(coterie_problem_t *p)
{
    free(p->seam);
    free(p->pair);
    free(p->load);
    free(p->load_max);
}

static void limits_set(const coterie_replacing_t *r, coterie_problem_t *p)
{
    for (uint32_t l = 0; p->load_max != NULL && l < p->layer_count; l++) {
        uint64_t sum = 0;
        for (uint32_t e = 0; e < p->expert_count; e++)
            sum += p->load[(size_t)l * p->expert_count + e];
        p->load_max[l] = (uint64_t)(r->options.load_cap * (double)sum /
                                    p->rank_count);
    }
}

static void ranks_read(const coterie_replacing_t *r, const int16_t *slots,
                       uint16_t *rank_of)
{
    for (size_t i = 0; i < slot_total(r); i++)
        rank_of[i / r->old->slot_count * r->view.expert_count +
                (size_t)slots[i]] =
            r->old->slot_rank[i % r->old->slot_count];
}

static coterie_status_t candidate_add(coterie_replacing_t *r,
                                      const int16_t *slots)
{
    coterie_candidate_t *added;

    if (r->count == r->room) {
        size_t room = r->room == 0 ? 64 : 2 * r->room;
        coterie_candidate_t *all =
            realloc(r->candidates, room * sizeof(*all));
        if (all == NULL)
            return coterie_fail_memory(room * sizeof(*all), "placements");
        r->candidates = all;
        r->room = room;
    }
    added = &r->candidates[r->count];
    added->moves = 0;
    added->slots = malloc(slot_total(r) * sizeof(*slots));
    if (added->slots == NULL)
        return coterie_fail_memory(slot_total(r) * sizeof(*slots),
                                   "placements");
    memcpy(added->slots, slots, slot_total(r) * sizeof(*slots));
    for (uint32_t l = 0; l < r->view.layer_count; l++)
        added->moves += layer_differences(r, slots, l);
    r->count++;
    return COTERIE_OK;
}

static size_t slot_total(const coterie_replacing_t *r)
{
    return (size_t)r->old->layer_count * r->old->slot_count;
}
