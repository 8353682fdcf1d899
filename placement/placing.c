#include "config.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <coterie/simulate.h>

#include "base/error.h"
#include "placement/measure.h"
#include "placement/placing.h"
#include "placement/refine.h"
#include "placement/replicas.h"
#include "placement/sample.h"
#include "placement/scores.h"

enum { LEARN_ROUNDS = 4 }; /* of scores; one, where time is up */

/* Of the time limit, for scores and for what copies are compared by; and what
 * either may take where somebody waits or time is up, in seconds. */
static const double LEARN_SHARE = 0.1, COPIES_SHARE = 0.05, HASTE = 0.15;

/* Every rank that a token visits is tried as its next owner. */
static const double LEARN_PASSES = 3;

/* At first, where a placement by pairs is the start. */
static const double HEAT = 0.1;

static coterie_status_t slots_open(const coterie_placing_t *p,
                                   const uint32_t *room,
                                   const uint16_t *rank_of,
                                   coterie_slots_t *slots);
static coterie_status_t slots_score(coterie_placing_t *p,
                                    coterie_slots_t *slots);
static coterie_status_t slots_learn(coterie_placing_t *p,
                                    coterie_slots_t *slots);
static int refine_applies(const coterie_placing_t *p);
static coterie_status_t slots_refine(coterie_placing_t *p,
                                     coterie_slots_t *slots);
static coterie_status_t slots_replicate(coterie_placing_t *p,
                                        coterie_slots_t *slots);
static coterie_status_t caps_keep(const coterie_placing_t *p,
                                  coterie_slots_t *slots,
                                  const coterie_slots_t *single);
static coterie_status_t slots_measure(const coterie_placing_t *p,
                                      const coterie_slots_t *slots,
                                      uint64_t *load);
static uint64_t load_most(const coterie_placing_t *p, const uint64_t *load,
                          uint32_t layer);
static coterie_status_t copies_compare(coterie_placing_t *p,
                                       const coterie_slots_t *refined,
                                       const coterie_slots_t *slots);
static coterie_status_t copies_train(const coterie_placing_t *p,
                                     const coterie_trace_t *trace,
                                     const coterie_slots_t *slots,
                                     double *copies_p);

coterie_status_t coterie_placing_single(const coterie_placing_t *p,
                                        const uint16_t *rank_of,
                                        coterie_placement_t **placement_p)
{
    coterie_slots_t slots;
    coterie_status_t status = slots_open(p, p->capacity, rank_of, &slots);

    if (status == COTERIE_OK)
        status = coterie_slots_create(&slots, placement_p);
    coterie_slots_close(&slots);
    return status;
}

coterie_status_t coterie_placing_make(coterie_placing_t *p,
                                      coterie_placement_t **placement_p)
{
    coterie_slots_t slots;
    coterie_status_t status =
        slots_open(p, p->room, p->solution.rank_of, &slots);

    if (status == COTERIE_OK)
        status = slots_score(p, &slots);
    if (status == COTERIE_OK && refine_applies(p))
        status = slots_refine(p, &slots);
    else if (status == COTERIE_OK && p->options.spare > 0)
        status = slots_replicate(p, &slots);
    p->search.cut |= p->search.stopped != COTERIE_STOPPED_NOT;
    if (status == COTERIE_OK)
        status = coterie_slots_create(&slots, placement_p);
    coterie_slots_close(&slots);
    return status;
}

coterie_status_t coterie_placing_copies(const coterie_trace_t *trace,
                                        const coterie_placement_t *placement,
                                        coterie_mode_t mode,
                                        double network_cost, double *copies_p)
{
    coterie_simulate_options_t options = COTERIE_SIMULATE_OPTIONS_INIT;
    coterie_counts_t counts[2];
    const coterie_counts_t *phase;
    coterie_trace_view_t view;
    coterie_status_t status;

    coterie_trace_view(trace, &view);
    options.mode = mode;
    options.hidden = 1; /* copies are counted, whatever their size */
    options.prediction = 2;
    status = coterie_simulate(trace, placement, &options, counts);
    if (status != COTERIE_OK)
        return status;
    phase = &counts[counts[COTERIE_PHASE_DECODE].tokens > 0
                        ? COTERIE_PHASE_DECODE
                        : COTERIE_PHASE_PREFILL];
    if (phase->tokens > 0)
        *copies_p = (coterie_counts_copies(phase) +
                     (network_cost - 1) * phase->copies_network) /
                    phase->tokens / view.layer_count;
    return COTERIE_OK;
}

uint64_t coterie_placing_afford(const coterie_placing_t *p, double share,
                                double passes)
{
    double seconds = share * p->options.time_limit_s;

    if (p->search.stopped == COTERIE_STOPPED_TOLD)
        seconds = fmin(seconds, HASTE);
    return coterie_sample_afford(&p->view, seconds, passes);
}

static coterie_status_t slots_open(const coterie_placing_t *p,
                                   const uint32_t *room,
                                   const uint16_t *rank_of,
                                   coterie_slots_t *slots)
{
    coterie_status_t status;

    *slots = (coterie_slots_t){.layer_count = p->view.layer_count,
                               .expert_count = p->view.expert_count,
                               .rank_count = p->options.rank_count,
                               .node_count = p->options.node_count};
    status = coterie_slots_open(slots, room);
    if (status == COTERIE_OK)
        coterie_slots_fill(slots, rank_of);
    return status;
}

/* What is learned fits words; more ranks are scored by how often each is
 * needed next. A search that has used up its time leaves a little to learn. */
static coterie_status_t slots_score(coterie_placing_t *p,
                                    coterie_slots_t *slots)
{
    coterie_placement_t *unscored = NULL;
    coterie_status_t status;

    if (slots->rank_count <= COTERIE_COVER_RANKS_MAX)
        return slots_learn(p, slots);
    status = coterie_slots_create(slots, &unscored);
    if (status == COTERIE_OK)
        status = coterie_affinity_scores(&p->view, unscored,
                                         slots->next_score);
    coterie_placement_destroy(unscored);
    return status;
}

static coterie_status_t slots_learn(coterie_placing_t *p,
                                    coterie_slots_t *slots)
{
    size_t items = (size_t)slots->layer_count * slots->expert_count;
    int hurried = coterie_search_over(&p->search, &p->solution);
    uint32_t rounds = hurried ? 1 : LEARN_ROUNDS;
    double seconds = LEARN_SHARE * p->options.time_limit_s;
    coterie_cover_t cover = {.k = p->view.k};
    uint64_t *holders = calloc(items, sizeof(*holders));
    coterie_scores_task_t task = {
        .view = &p->view, .cover = &cover, .holders = holders,
        .token_count = (uint32_t)coterie_sample_afford(
            &p->view, hurried ? fmin(seconds, HASTE) : seconds,
            rounds * LEARN_PASSES),
        .rounds = rounds, .search = hurried ? NULL : &p->search,
        .solution = &p->solution};
    coterie_status_t status;

    if (holders == NULL)
        return coterie_fail_memory(items * sizeof(*holders), "slots");
    coterie_cover_init(&cover, slots->rank_count, slots->node_count,
                       p->options.network_cost);
    coterie_slots_holders(slots, holders);
    status = coterie_scores_learn(&task, slots->next_score);
    free(holders);
    return status;
}

/* Pairs say all where a token has one expert a layer, and one place for it. */
static int refine_applies(const coterie_placing_t *p)
{
    return p->options.objective == COTERIE_OBJECTIVE_DISPATCH &&
           (p->view.k > 1 || p->options.spare > 0) &&
           p->options.rank_count > 1 &&
           p->options.rank_count <= COTERIE_COVER_RANKS_MAX &&
           !p->search.stopped;
}

static coterie_status_t slots_refine(coterie_placing_t *p,
                                     coterie_slots_t *slots)
{
    coterie_slots_t refined;
    coterie_refine_t task = {
        .view = &p->view, .mode = p->options.mode,
        .network_cost = p->options.network_cost, .load = p->problem.load,
        .load_max = p->options.spare > 0 ? p->load_asked : p->problem.load_max,
        .heat = HEAT, .search = &p->search, .solution = &p->solution};
    coterie_status_t status =
        slots_open(p, p->room, p->solution.rank_of, &refined);

    p->search.solver = "copies";
    p->search.random = p->options.seed; /* whatever a proof has drawn */
    if (status == COTERIE_OK)
        status = coterie_refine(&task, &refined);
    if (status == COTERIE_OK)
        status = caps_keep(p, &refined, slots);
    if (status == COTERIE_OK)
        status = copies_compare(p, &refined, slots);
    if (status == COTERIE_OK && p->train_copies_polished < p->train_copies) {
        coterie_slots_t solved = *slots;
        *slots = refined;
        refined = solved;
        p->polished = 1;
    }
    coterie_slots_close(&refined);
    return status;
}

static coterie_status_t slots_replicate(coterie_placing_t *p,
                                        coterie_slots_t *slots)
{
    coterie_replicas_t task = {.view = &p->view, .problem = &p->problem,
                               .slot_rank = slots->rank,
                               .slot_count = slots->count,
                               .mode = p->options.mode, .search = &p->search,
                               .solution = &p->solution};
    coterie_placement_t *single = NULL;
    coterie_slots_t bare;
    coterie_status_t status =
        slots_open(p, p->room, p->solution.rank_of, &bare);

    p->search.solver = "replicas";
    if (status == COTERIE_OK)
        status = coterie_slots_create(slots, &single);
    task.single = single;
    if (status == COTERIE_OK)
        status = coterie_replicas_choose(&task, slots->expert);
    if (status == COTERIE_OK)
        status = slots_score(p, slots);
    if (status == COTERIE_OK)
        status = caps_keep(p, slots, &bare);
    coterie_placement_destroy(single);
    coterie_slots_close(&bare);
    return status;
}

/* Layers in which a rank serves more than is asked, and more than without
 * replicas, lose these. What a layer does without them depends on no other. */
static coterie_status_t caps_keep(const coterie_placing_t *p,
                                  coterie_slots_t *slots,
                                  const coterie_slots_t *single)
{
    size_t cells = (size_t)slots->layer_count * slots->rank_count;
    uint64_t *load = calloc(2 * cells, sizeof(*load));
    coterie_status_t status = COTERIE_OK;
    uint32_t over = p->options.load_cap > 0;

    if (load == NULL)
        return coterie_fail_memory(2 * cells * sizeof(*load), "measured loads");
    if (over)
        status = slots_measure(p, single, load + cells);
    while (over > 0 && status == COTERIE_OK) {
        status = slots_measure(p, slots, load);
        over = 0;
        for (uint32_t l = 0; status == COTERIE_OK && l < slots->layer_count;
             l++) {
            size_t row = (size_t)l * slots->count;
            uint64_t most = load_most(p, load, l);
            if (most <= p->load_asked[l] ||
                most <= load_most(p, load + cells, l))
                continue;
            memcpy(slots->expert + row, single->expert + row,
                   slots->count * sizeof(*slots->expert));
            over++;
        }
    }
    free(load);
    return status;
}

static coterie_status_t slots_measure(const coterie_placing_t *p,
                                      const coterie_slots_t *slots,
                                      uint64_t *load)
{
    coterie_placement_t *placement = NULL;
    coterie_status_t status = coterie_slots_create(slots, &placement);

    if (status == COTERIE_OK)
        coterie_measure(&p->view, placement, p->options.mode, load);
    coterie_placement_destroy(placement);
    return status;
}

static uint64_t load_most(const coterie_placing_t *p, const uint64_t *load,
                          uint32_t layer)
{
    uint32_t ranks = p->options.rank_count;
    uint64_t most = 0;

    for (uint32_t r = 0; r < ranks; r++)
        if (load[(size_t)layer * ranks + r] > most)
            most = load[(size_t)layer * ranks + r];
    return most;
}

static coterie_status_t copies_compare(coterie_placing_t *p,
                                       const coterie_slots_t *refined,
                                       const coterie_slots_t *slots)
{
    coterie_trace_t *sample = NULL;
    coterie_status_t status = coterie_sample_take(
        p->train, coterie_placing_afford(p, COPIES_SHARE, 2), &sample);

    if (status == COTERIE_OK)
        status = copies_train(p, sample, slots, &p->train_copies);
    if (status == COTERIE_OK)
        status = copies_train(p, sample, refined, &p->train_copies_polished);
    if (sample != p->train)
        coterie_trace_destroy(sample);
    return status;
}

static coterie_status_t copies_train(const coterie_placing_t *p,
                                     const coterie_trace_t *trace,
                                     const coterie_slots_t *slots,
                                     double *copies_p)
{
    coterie_placement_t *placement = NULL;
    coterie_status_t status = coterie_slots_create(slots, &placement);

    if (status == COTERIE_OK)
        status = coterie_placing_copies(trace, placement, p->options.mode,
                                        p->options.network_cost, copies_p);
    coterie_placement_destroy(placement);
    return status;
}
