#include "config.h"

#include <stdlib.h>
#include <string.h>

#include <coterie/simulate.h>

#include "base/error.h"
#include "placement/placing.h"
#include "placement/polish.h"
#include "placement/replicas.h"

typedef struct slots {
    uint32_t count;  /* a layer */
    uint16_t *rank;  /* [count] */
    int16_t *expert; /* [layer, count]; -1 = empty */
} slots_t;

static int polish_applies(const coterie_placing_t *p);
static coterie_status_t copies_train(const coterie_placing_t *p,
                                     const uint16_t *rank_of,
                                     double *copies_p);
static coterie_status_t slots_open(const coterie_placing_t *p,
                                   const uint16_t *rank_of, uint32_t spare,
                                   slots_t *slots);
static void slots_close(slots_t *slots);
static coterie_status_t slots_create(const coterie_placing_t *p,
                                     const slots_t *slots,
                                     coterie_placement_t **placement_p);

coterie_status_t coterie_placing_single(const coterie_placing_t *p,
                                        const uint16_t *rank_of,
                                        coterie_placement_t **placement_p)
{
    slots_t slots;
    coterie_status_t status = slots_open(p, rank_of, 0, &slots);

    if (status == COTERIE_OK)
        status = slots_create(p, &slots, placement_p);
    slots_close(&slots);
    return status;
}

coterie_status_t coterie_placing_polish(coterie_placing_t *p)
{
    const uint16_t *best = p->solution.rank_of;
    size_t items = (size_t)p->view.layer_count * p->view.expert_count;
    uint16_t *rank_of;
    coterie_status_t status;

    if (!polish_applies(p))
        return COTERIE_OK;
    rank_of = malloc(items * sizeof(*rank_of));
    if (rank_of == NULL)
        return coterie_fail_memory(items * sizeof(*rank_of), "a placement");
    memcpy(rank_of, best, items * sizeof(*rank_of));
    p->search.solver = "copies";
    status = coterie_polish(&p->view, &p->problem, p->options.mode, &p->search,
                            &p->solution, rank_of);
    if (status == COTERIE_OK)
        status = copies_train(p, best, &p->train_copies);
    if (status == COTERIE_OK)
        status = copies_train(p, rank_of, &p->train_copies_polished);
    if (status == COTERIE_OK && p->train_copies_polished < p->train_copies) {
        p->polished = rank_of;
        rank_of = NULL;
    }
    free(rank_of);
    return status;
}

coterie_status_t coterie_placing_make(coterie_placing_t *p,
                                      coterie_placement_t **placement_p)
{
    coterie_replicas_t task = {.view = &p->view, .problem = &p->problem,
                               .mode = p->options.mode, .search = &p->search,
                               .solution = &p->solution};
    coterie_placement_t *single = NULL;
    slots_t slots = {.count = 0};
    const uint16_t *rank_of =
        p->polished != NULL ? p->polished : p->solution.rank_of;
    coterie_status_t status = coterie_placing_single(p, rank_of, &single);

    if (status != COTERIE_OK || p->options.spare == 0) {
        *placement_p = single;
        return status;
    }
    p->search.solver = "replicas";
    status = slots_open(p, rank_of, p->options.spare, &slots);
    task.single = single;
    task.slot_rank = slots.rank;
    task.slot_count = slots.count;
    if (status == COTERIE_OK)
        status = coterie_replicas_choose(&task, slots.expert);
    if (status == COTERIE_OK)
        status = slots_create(p, &slots, placement_p);
    slots_close(&slots);
    coterie_placement_destroy(single);
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

/* Pairs say all where a token has one expert a layer. */
static int polish_applies(const coterie_placing_t *p)
{
    return p->options.objective == COTERIE_OBJECTIVE_DISPATCH &&
           p->view.k > 1 && p->options.rank_count > 1 &&
           p->options.rank_count <= COTERIE_POLISH_RANKS_MAX &&
           p->options.rank_count <= p->view.expert_count &&
           !p->search.stopped;
}

static coterie_status_t copies_train(const coterie_placing_t *p,
                                     const uint16_t *rank_of, double *copies_p)
{
    coterie_placement_t *placement = NULL;
    coterie_status_t status = coterie_placing_single(p, rank_of, &placement);

    if (status == COTERIE_OK)
        status = coterie_placing_copies(p->train, placement, p->options.mode,
                                        p->options.network_cost, copies_p);
    coterie_placement_destroy(placement);
    return status;
}

/* Every rank's experts in order, then its spare slots, empty. */
static coterie_status_t slots_open(const coterie_placing_t *p,
                                   const uint16_t *rank_of, uint32_t spare,
                                   slots_t *slots)
{
    uint32_t layers = p->view.layer_count, experts = p->view.expert_count;
    size_t at = 0;

    slots->count = experts + p->options.rank_count * spare;
    slots->rank = calloc(slots->count, sizeof(*slots->rank));
    slots->expert = malloc((size_t)layers * slots->count *
                           sizeof(*slots->expert));
    if (slots->rank == NULL || slots->expert == NULL)
        return coterie_fail_memory((size_t)layers * slots->count *
                                       sizeof(*slots->expert), "slots");
    for (uint32_t l = 0; l < layers; l++)
        for (uint32_t r = 0; r < p->options.rank_count; r++) {
            for (uint32_t e = 0; e < experts; e++)
                if (rank_of[(size_t)l * experts + e] == r)
                    slots->expert[at++] = e;
            for (uint32_t i = 0; i < spare; i++)
                slots->expert[at++] = -1;
        }
    at = 0;
    for (uint32_t r = 0; r < p->options.rank_count; r++)
        for (uint32_t i = 0; i < p->capacity[r] + spare; i++)
            slots->rank[at++] = r;
    return COTERIE_OK;
}

static void slots_close(slots_t *slots)
{
    free(slots->rank);
    free(slots->expert);
}

/* Scores depend on where experts are, so the placement is made twice. */
static coterie_status_t slots_create(const coterie_placing_t *p,
                                     const slots_t *slots,
                                     coterie_placement_t **placement_p)
{
    coterie_placement_options_t options = COTERIE_PLACEMENT_OPTIONS_INIT;
    size_t scores = (size_t)p->view.layer_count * p->view.expert_count *
                    p->options.rank_count;
    uint8_t *next_score = calloc(scores, 1);
    coterie_placement_t *unscored = NULL;
    coterie_status_t status;

    if (next_score == NULL)
        return coterie_fail_memory(scores, "next-layer scores");
    options.layer_count = p->view.layer_count;
    options.expert_count = p->view.expert_count;
    options.rank_count = p->options.rank_count;
    options.node_count = p->options.node_count;
    options.slot_count = slots->count;
    options.slot_rank = slots->rank;
    options.slot_expert = slots->expert;
    status = coterie_placement_create(&options, &unscored);
    if (status == COTERIE_OK)
        status = coterie_affinity_scores(&p->view, unscored, next_score);
    options.next_score = next_score;
    if (status == COTERIE_OK)
        status = coterie_placement_create(&options, placement_p);
    coterie_placement_destroy(unscored);
    free(next_score);
    return status;
}
