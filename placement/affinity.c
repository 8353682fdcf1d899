#include "config.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "placement/affinity.h"
#include "placement/placement.h"

/* Two sets of experts and where each layer's experts are. */
typedef struct sets {
    uint32_t k;
    const int16_t *set;
    const uint16_t *rank_of;
    const int16_t *other;
    const uint16_t *other_rank_of;
} sets_t;

/* How often each rank follows each expert. */
typedef struct following {
    const coterie_trace_view_t *view;
    const coterie_placement_t *placement;
    uint32_t *count; /* [layer, expert, rank] */
    uint32_t *total; /* [layer, expert] */
    uint16_t *next;  /* ranks needed next, each once */
    uint8_t *seen;   /* [rank] */
} following_t;

static const int16_t *chosen(const coterie_trace_view_t *view, uint64_t token,
                             uint32_t layer);
static void count_within(const int16_t *set, uint32_t k, uint32_t experts,
                         float *pair);
static void count_between(const int16_t *set, const int16_t *next, uint32_t k,
                          uint32_t experts, float *seam);
static void scale_tables(coterie_pair_costs_t costs,
                         coterie_problem_t *problem);
static double sets_apart(const coterie_problem_t *links, const sets_t *sets);
static void count_next(following_t *f, uint64_t token, uint32_t layer);
static void scale_scores(const following_t *f, uint32_t layer,
                         uint8_t *next_score);

coterie_pair_costs_t coterie_pair_costs(coterie_objective_t objective,
                                        coterie_mode_t mode,
                                        uint32_t rank_count, uint32_t k)
{
    double ranks = rank_count, pairs = k * (k - 1) / 2.0;
    /* Ranks that a random set of k touches; what each kept pair takes off
     * them; and what a kept pair from layer to layer adds to the chance that a
     * rank is needed again. All as for a random placement. */
    double touched = ranks * (1 - pow(1 - 1 / ranks, k));
    double merged = k > 1 ? (k - touched) * ranks / pairs : 0;
    double again = touched / ((double)k * k);

    if (objective == COTERIE_OBJECTIVE_CROSSING)
        return (coterie_pair_costs_t){0, 1};
    if (mode == COTERIE_MODE_TWO_PHASE)
        return (coterie_pair_costs_t){2 * (1 - 1 / ranks) * merged, 0};
    if (mode == COTERIE_MODE_FORWARD)
        return (coterie_pair_costs_t){2 * touched * merged, touched * again};
    return (coterie_pair_costs_t){2 * merged, again};
}

void coterie_affinity_count(const coterie_trace_view_t *view,
                            coterie_pair_costs_t costs,
                            coterie_problem_t *problem)
{
    uint32_t layers = view->layer_count, experts = view->expert_count;
    size_t cells = (size_t)experts * experts;

    /* Layer by layer, whose tables then stay in the cache. */
    for (uint32_t l = 0; l < layers; l++)
        for (uint64_t t = 0; t < view->token_count; t++) {
            const int16_t *set = chosen(view, t, l);
            for (uint32_t i = 0; i < view->k; i++)
                if (set[i] >= 0)
                    problem->load[(size_t)l * experts + set[i]]++;
            if (problem->pair != NULL)
                count_within(set, view->k, experts,
                             problem->pair + l * cells);
            if (l + 1 < layers)
                count_between(set, set + view->k, view->k, experts,
                              problem->seam + l * cells);
        }
    scale_tables(costs, problem);
}

double coterie_affinity_cost(const coterie_trace_view_t *view,
                             coterie_pair_costs_t costs,
                             const coterie_problem_t *links,
                             const uint16_t *rank_of)
{
    uint32_t layers = view->layer_count, experts = view->expert_count;
    double cost = 0;

    for (uint64_t t = 0; t < view->token_count; t++)
        for (uint32_t l = 0; l < layers; l++) {
            sets_t sets = {view->k, chosen(view, t, l),
                           rank_of + (size_t)l * experts, NULL, NULL};
            sets.other = sets.set;
            sets.other_rank_of = sets.rank_of;
            cost += costs.pair * sets_apart(links, &sets) / 2;
            if (l + 1 == layers)
                continue;
            sets.other += view->k;
            sets.other_rank_of += experts;
            cost += costs.seam * sets_apart(links, &sets);
        }
    return cost;
}

coterie_status_t coterie_affinity_scores(const coterie_trace_view_t *view,
                                         const coterie_placement_t *placement,
                                         uint8_t *next_score)
{
    uint32_t layers = view->layer_count;
    size_t items = (size_t)layers * view->expert_count;
    following_t f = {.view = view, .placement = placement};
    coterie_status_t status = COTERIE_OK;

    f.count = calloc(items * placement->rank_count, sizeof(*f.count));
    f.total = calloc(items, sizeof(*f.total));
    f.next = calloc(placement->rank_count, sizeof(*f.next));
    f.seen = calloc(placement->rank_count, sizeof(*f.seen));
    if (!f.count || !f.total || !f.next || !f.seen) {
        status = coterie_fail_memory(
            items * placement->rank_count * sizeof(*f.count),
            "next-layer scores");
        goto out;
    }
    for (uint64_t s = 0; s < view->sequence_count; s++)
        for (uint64_t t = view->seq_start[s]; t < view->seq_start[s + 1]; t++)
            for (uint32_t l = 0; l < layers; l++)
                if (l + 1 < layers || t + 1 < view->seq_start[s + 1])
                    count_next(&f, t, l);
    for (uint32_t l = 0; l < layers; l++)
        scale_scores(&f, l, next_score);
out:
    free(f.count);
    free(f.total);
    free(f.next);
    free(f.seen);
    return status;
}

static const int16_t *chosen(const coterie_trace_view_t *view, uint64_t token,
                             uint32_t layer)
{
    return view->experts + (token * view->layer_count + layer) * view->k;
}

static void count_within(const int16_t *set, uint32_t k, uint32_t experts,
                         float *pair)
{
    for (uint32_t i = 0; i < k; i++)
        for (uint32_t j = 0; set[i] >= 0 && j < k; j++)
            if (set[j] >= 0 && set[j] != set[i])
                pair[(size_t)set[i] * experts + set[j]] += 1;
}

static void count_between(const int16_t *set, const int16_t *next, uint32_t k,
                          uint32_t experts, float *seam)
{
    for (uint32_t i = 0; i < k; i++)
        for (uint32_t j = 0; set[i] >= 0 && j < k; j++)
            if (next[j] >= 0)
                seam[(size_t)set[i] * experts + next[j]] += 1;
}

/* Once, after counting: counts up to 2^24 are whole in f32, and no rounding
 * adds up. */
static void scale_tables(coterie_pair_costs_t costs,
                         coterie_problem_t *problem)
{
    size_t cells = (size_t)problem->expert_count * problem->expert_count;

    for (size_t i = 0; i < (problem->layer_count - 1) * cells; i++)
        problem->seam[i] *= (float)costs.seam;
    for (size_t i = 0; problem->pair && i < problem->layer_count * cells; i++)
        problem->pair[i] *= (float)costs.pair;
}

/* Link costs of all pairs from one set to the other. */
static double sets_apart(const coterie_problem_t *links, const sets_t *sets)
{
    double cost = 0;

    for (uint32_t i = 0; i < sets->k; i++)
        for (uint32_t j = 0; sets->set[i] >= 0 && j < sets->k; j++)
            if (sets->other[j] >= 0)
                cost += coterie_problem_link(
                    links, sets->rank_of[sets->set[i]],
                    sets->other_rank_of[sets->other[j]]);
    return cost;
}

/* The ranks that hold what comes after this layer, credited to each of the
 * experts chosen in it. */
static void count_next(following_t *f, uint64_t token, uint32_t layer)
{
    const coterie_trace_view_t *view = f->view;
    uint32_t layers = view->layer_count, ranks = f->placement->rank_count;
    const int16_t *set = chosen(view, token, layer);
    uint32_t next_layer = (layer + 1) % layers, next_count = 0;

    for (uint32_t i = 0; i < view->k; i++) {
        coterie_holders_t holders;
        if (set[view->k + i] < 0) /* layers, and then tokens, are adjacent */
            continue;
        holders = coterie_placement_holders(f->placement, next_layer,
                                            set[view->k + i]);
        for (uint32_t h = 0; h < holders.count; h++)
            if (!f->seen[holders.rank[h]]) {
                f->seen[holders.rank[h]] = 1;
                f->next[next_count++] = holders.rank[h];
            }
    }
    for (uint32_t i = 0; i < view->k; i++) {
        size_t item = (size_t)layer * view->expert_count + set[i];
        if (set[i] < 0)
            continue;
        f->total[item]++;
        for (uint32_t n = 0; n < next_count; n++)
            f->count[item * ranks + f->next[n]]++;
    }
    for (uint32_t n = 0; n < next_count; n++)
        f->seen[f->next[n]] = 0;
}

static void scale_scores(const following_t *f, uint32_t layer,
                         uint8_t *next_score)
{
    uint32_t experts = f->view->expert_count, ranks = f->placement->rank_count;
    size_t first = (size_t)layer * experts;
    double most = 0;

    for (size_t i = first; i < first + experts; i++)
        for (uint32_t r = 0; r < ranks; r++)
            if (f->count[i * ranks + r] > most * f->total[i])
                most = (double)f->count[i * ranks + r] / f->total[i];
    for (size_t i = first; i < first + experts; i++)
        for (uint32_t r = 0; r < ranks; r++)
            next_score[i * ranks + r] =
                f->count[i * ranks + r] == 0
                    ? 0
                    : lround(f->count[i * ranks + r] / (most * f->total[i]) *
                             UINT8_MAX);
}
