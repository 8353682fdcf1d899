#include "config.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <coterie/simulate.h>

#include "base/error.h"
#include "base/options.h"
#include "placement/affinity.h"
#include "placement/placement.h"
#include "placement/replicas.h"
#include "placement/solve/solver.h"

/* One call of coterie_place. */
typedef struct placing {
    coterie_place_options_t options;
    coterie_trace_t *train, *held; /* ours; held may be train */
    coterie_trace_view_t view;     /* of train */
    coterie_pair_costs_t costs;
    coterie_problem_t problem;
    uint32_t *capacity;
    coterie_search_t search;
    coterie_solution_t solution;
    uint16_t *in_order; /* [layer, expert] */
    int cap_raised;
} placing_t;

typedef struct slots {
    uint32_t count;  /* a layer */
    uint16_t *rank;  /* [count] */
    int16_t *expert; /* [layer, count]; -1 = empty */
} slots_t;

static coterie_status_t options_check(const coterie_place_options_t *in,
                                      const coterie_trace_view_t *trace,
                                      coterie_place_options_t *out);
static coterie_status_t limits_check(const coterie_place_options_t *options,
                                     const coterie_trace_view_t *trace);
static void options_default(coterie_place_options_t *options);
static coterie_status_t trace_split(placing_t *p,
                                    const coterie_trace_t *trace);
static coterie_status_t tokens_slice(const coterie_trace_view_t *view,
                                     uint64_t first, uint64_t count,
                                     coterie_trace_t **trace_p);
static coterie_status_t problem_open(placing_t *p);
static void search_open(placing_t *p);
static coterie_status_t experts_place(placing_t *p);
static coterie_status_t placement_make(placing_t *p,
                                       coterie_placement_t **placement_p);
static coterie_status_t single_make(const placing_t *p,
                                    const uint16_t *rank_of,
                                    coterie_placement_t **placement_p);
static coterie_status_t slots_open(const placing_t *p, const uint16_t *rank_of,
                                   uint32_t spare, slots_t *slots);
static void slots_close(slots_t *slots);
static coterie_status_t slots_create(const placing_t *p, const slots_t *slots,
                                     coterie_placement_t **placement_p);
static coterie_status_t report_fill(const placing_t *p,
                                    const coterie_placement_t *placement,
                                    coterie_place_report_t *report);
static void report_train(const placing_t *p, coterie_place_report_t *report);
static coterie_status_t report_held(const placing_t *p,
                                    const coterie_placement_t *placement,
                                    coterie_place_report_t *report);
static coterie_status_t copies_simulate(const placing_t *p,
                                        const coterie_placement_t *placement,
                                        coterie_mode_t mode, double *copies_p);
static double fullest_load(const placing_t *p, const uint16_t *rank_of);
static void placing_close(placing_t *p);

coterie_status_t coterie_place(const coterie_trace_t *trace,
                               const coterie_place_options_t *options,
                               coterie_placement_t **placement_p,
                               coterie_place_report_t *report)
{
    placing_t p = {.train = NULL};
    coterie_placement_t *placement = NULL;
    coterie_place_report_t filled = COTERIE_PLACE_REPORT_INIT;
    coterie_trace_view_t view;
    coterie_status_t status;

    if (trace == NULL || options == NULL || placement_p == NULL)
        return coterie_fail(COTERIE_ERR_INVALID,
                            "place: no trace, options or place for a result");
    p.search.started = coterie_search_now();
    coterie_trace_view(trace, &view);
    status = options_check(options, &view, &p.options);
    if (status == COTERIE_OK)
        status = trace_split(&p, trace);
    if (status == COTERIE_OK)
        status = problem_open(&p);
    if (status == COTERIE_OK)
        status = experts_place(&p);
    if (status == COTERIE_OK)
        status = placement_make(&p, &placement);
    if (status == COTERIE_OK && report != NULL)
        status = report_fill(&p, placement, &filled);
    if (status == COTERIE_OK) {
        if (report != NULL) { /* an older caller's struct is shorter */
            filled.size = report->size;
            memcpy(report, &filled,
                   report->size < sizeof(filled) ? report->size
                                                 : sizeof(filled));
        }
        *placement_p = placement;
        placement = NULL;
    }
    coterie_placement_destroy(placement);
    placing_close(&p);
    return status;
}

static coterie_status_t options_check(const coterie_place_options_t *in,
                                      const coterie_trace_view_t *trace,
                                      coterie_place_options_t *out)
{
    coterie_status_t status = coterie_options_read(in, out, sizeof(*out),
                                                   "place options");

    if (status != COTERIE_OK)
        return status;
    options_default(out);
    if (out->rank_count == 0 || out->rank_count > COTERIE_RANKS_MAX)
        return coterie_fail(COTERIE_ERR_INVALID,
                            "place: %u ranks; 1 to %d would do",
                            out->rank_count, COTERIE_RANKS_MAX);
    if (out->rank_count % out->node_count != 0)
        return coterie_fail(COTERIE_ERR_INVALID,
                            "place: %u ranks do not fill %u nodes evenly",
                            out->rank_count, out->node_count);
    if (out->objective > COTERIE_OBJECTIVE_CROSSING)
        return coterie_fail(COTERIE_ERR_INVALID,
                            "place: there is no objective %u", out->objective);
    if (out->mode > COTERIE_MODE_FORWARD)
        return coterie_fail(COTERIE_ERR_INVALID, "place: there is no mode %u",
                            out->mode);
    return limits_check(out, trace);
}

static coterie_status_t limits_check(const coterie_place_options_t *options,
                                     const coterie_trace_view_t *trace)
{
    uint32_t ranks = options->rank_count, experts = trace->expert_count;
    uint64_t most = (experts + ranks - 1) / ranks + (uint64_t)options->spare;

    if (options->load_cap != 0 && !(options->load_cap >= 1))
        return coterie_fail(COTERIE_ERR_INVALID,
                            "place: load cap %g; the fullest rank has at "
                            "least the mean, so 1 or more would do",
                            options->load_cap);
    if (!(options->time_limit_s > 0) || !(options->network_cost >= 1))
        return coterie_fail(COTERIE_ERR_INVALID,
                            "place: time limit %g, network cost %g; the first "
                            "must be positive, the second 1 or more",
                            options->time_limit_s, options->network_cost);
    if (!(options->train_share > 0 && options->train_share <= 1))
        return coterie_fail(COTERIE_ERR_INVALID,
                            "place: training share %g; above 0, up to 1 "
                            "would do", options->train_share);
    if (options->spare > 0 && most > experts)
        return coterie_fail(COTERIE_ERR_INFEASIBLE,
                            "place: %u spare slots a rank; %u experts on %u "
                            "ranks leave each no more than %u to replicate",
                            options->spare, experts, ranks,
                            experts - (experts + ranks - 1) / ranks);
    if (experts + (uint64_t)ranks * options->spare > COTERIE_SLOTS_MAX)
        return coterie_fail(COTERIE_ERR_INFEASIBLE,
                            "place: %llu slots a layer; at most %d",
                            experts + (unsigned long long)ranks *
                                          options->spare, COTERIE_SLOTS_MAX);
    return COTERIE_OK;
}

static void options_default(coterie_place_options_t *options)
{
    if (options->node_count == 0)
        options->node_count = 1;
    if (options->mode == COTERIE_MODE_AUTO)
        options->mode = COTERIE_MODE_OWNER;
    if (options->time_limit_s == 0)
        options->time_limit_s = 60;
    if (options->network_cost == 0)
        options->network_cost = 8;
    if (options->train_share == 0)
        options->train_share = 0.5;
    if (options->node_count == 1)
        options->network_cost = 1; /* there is no network to cross */
}

/* By sequences, since tokens of one are alike; a lone sequence by tokens. What
 * is too short to split is both trained on and reported on. */
static coterie_status_t trace_split(placing_t *p,
                                    const coterie_trace_t *trace)
{
    coterie_trace_view_t view;
    coterie_status_t status;
    uint64_t units, train;
    int whole;

    coterie_trace_view(trace, &view);
    whole = view.sequence_count > 1;
    units = whole ? view.sequence_count : view.token_count;
    train = ceil(p->options.train_share * units);
    if (train == units && p->options.train_share < 1 && units > 1)
        train--;
    status = whole ? coterie_trace_slice(trace, 0, train, &p->train)
                   : tokens_slice(&view, 0, train, &p->train);
    if (status != COTERIE_OK)
        return status;
    coterie_trace_view(p->train, &p->view);
    if (train == units) {
        p->held = p->train;
        return COTERIE_OK;
    }
    return whole ? coterie_trace_slice(trace, train, units - train, &p->held)
                 : tokens_slice(&view, train, units - train, &p->held);
}

static coterie_status_t tokens_slice(const coterie_trace_view_t *view,
                                     uint64_t first, uint64_t count,
                                     coterie_trace_t **trace_p)
{
    coterie_trace_view_t part = *view;
    uint64_t start[2] = {0, count};
    size_t row = (size_t)view->layer_count;

    part.token_count = count;
    part.sequence_count = 1;
    part.seq_start = start;
    part.experts += first * row * view->k;
    if (part.weights != NULL)
        part.weights += first * row * view->k;
    if (part.predicted != NULL)
        part.predicted += first * row * view->predicted_k;
    if (part.step != NULL)
        part.step += first;
    if (part.phase != NULL)
        part.phase += first;
    return coterie_trace_create(&part, trace_p);
}

static coterie_status_t problem_open(placing_t *p)
{
    coterie_problem_t *problem = &p->problem;
    uint32_t ranks = p->options.rank_count, experts = p->view.expert_count;
    size_t layers = p->view.layer_count, items = layers * experts;

    p->costs = coterie_pair_costs(p->options.objective, p->options.mode, ranks,
                                  p->view.k);
    problem->layer_count = p->view.layer_count;
    problem->expert_count = experts;
    problem->rank_count = ranks;
    problem->node_count = p->options.node_count;
    problem->network_cost = p->options.network_cost;
    problem->capacity = p->capacity = calloc(ranks, sizeof(*p->capacity));
    problem->seam = calloc(items * experts, sizeof(*problem->seam));
    problem->load = calloc(items, sizeof(*problem->load));
    if (p->costs.pair > 0)
        problem->pair = calloc(items * experts, sizeof(*problem->pair));
    if (p->options.load_cap > 0)
        problem->load_max = calloc(layers, sizeof(*problem->load_max));
    p->solution.rank_of = calloc(items, sizeof(*p->solution.rank_of));
    p->in_order = calloc(items, sizeof(*p->in_order));
    if (!p->capacity || !problem->seam || !problem->load ||
        (p->costs.pair > 0 && !problem->pair) ||
        (p->options.load_cap > 0 && !problem->load_max) ||
        !p->solution.rank_of || !p->in_order)
        return coterie_fail_memory(items * experts * sizeof(float),
                                   "counts of pairs of experts");
    for (uint32_t r = 0; r < ranks; r++)
        p->capacity[r] = experts / ranks + (r < experts % ranks);
    coterie_affinity_count(&p->view, p->costs, problem);
    coterie_problem_measure(problem);
    return COTERIE_OK;
}

static void search_open(placing_t *p)
{
    p->search.deadline = p->search.started + p->options.time_limit_s;
    p->search.unit = p->view.token_count;
    p->search.progress = p->options.progress;
    p->search.progress_arg = p->options.progress_arg;
    p->search.random = p->options.seed;
    p->search.solver = "balancing loads";
}

static coterie_status_t experts_place(placing_t *p)
{
    coterie_status_t status;
    int raised;

    search_open(p);
    status = coterie_solve_start(&p->problem, 0, &p->search, p->in_order,
                                 &raised);
    if (status == COTERIE_OK)
        status = coterie_solve_start(&p->problem, p->options.load_cap,
                                     &p->search, p->solution.rank_of,
                                     &p->cap_raised);
    if (status != COTERIE_OK)
        return status;
    p->solution.cost = coterie_problem_cost(&p->problem, p->solution.rank_of);
    p->solution.by = p->options.load_cap > 0 ? "balanced loads" : "in order";
    p->solution.bound_by = "none";
    return coterie_solve(&p->problem, &p->search, &p->solution);
}

/* With replicas where the options say so. */
static coterie_status_t placement_make(placing_t *p,
                                       coterie_placement_t **placement_p)
{
    coterie_replicas_t task = {.view = &p->view, .problem = &p->problem,
                               .mode = p->options.mode, .search = &p->search,
                               .solution = &p->solution};
    coterie_placement_t *single = NULL;
    slots_t slots = {.count = 0};
    coterie_status_t status = single_make(p, p->solution.rank_of, &single);

    if (status != COTERIE_OK || p->options.spare == 0) {
        *placement_p = single;
        return status;
    }
    p->search.solver = "replicas";
    status = slots_open(p, p->solution.rank_of, p->options.spare, &slots);
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

static coterie_status_t single_make(const placing_t *p,
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

/* Every rank's experts in order, then its spare slots, empty. */
static coterie_status_t slots_open(const placing_t *p, const uint16_t *rank_of,
                                   uint32_t spare, slots_t *slots)
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
static coterie_status_t slots_create(const placing_t *p, const slots_t *slots,
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

static coterie_status_t report_fill(const placing_t *p,
                                    const coterie_placement_t *placement,
                                    coterie_place_report_t *report)
{
    coterie_status_t status;

    report_train(p, report);
    status = report_held(p, placement, report);
    report->elapsed_s = coterie_search_now() - p->search.started;
    return status;
}

static void report_train(const placing_t *p, coterie_place_report_t *report)
{
    const coterie_solution_t *s = &p->solution;
    double tokens = p->view.token_count, spread;

    if (strcmp(s->by, s->bound_by) == 0)
        snprintf(report->solver, sizeof(report->solver), "%s", s->by);
    else
        snprintf(report->solver, sizeof(report->solver), "%s; bound: %s",
                 s->by, s->bound_by);
    report->proved = coterie_solution_optimal(&p->problem, s);
    report->cap_raised = p->cap_raised;
    for (uint32_t l = 0; p->problem.load_max && l < p->view.layer_count; l++) {
        uint64_t sum = 0;
        for (uint32_t e = 0; e < p->view.expert_count; e++)
            sum += p->problem.load[(size_t)l * p->view.expert_count + e];
        if (sum > 0)
            report->load_cap =
                fmax(report->load_cap, (double)p->problem.load_max[l] *
                                           p->options.rank_count / sum);
    }
    if (!report->cap_raised)
        report->load_cap = p->options.load_cap;
    report->cost_in_order =
        coterie_problem_cost(&p->problem, p->in_order) / tokens;
    report->cost_random = coterie_problem_random_cost(&p->problem) / tokens;
    report->cost = s->cost / tokens;
    report->bound = (report->proved ? s->cost : s->bound) / tokens;
    if (s->cost > 0)
        report->gap = (report->cost - report->bound) / report->cost;
    spread = report->cost_random - report->bound;
    if (spread > 0)
        report->kappa = (report->cost_random - report->cost) / spread;
    report->load_in_order = fullest_load(p, p->in_order);
    report->load = fullest_load(p, s->rank_of);
}

static coterie_status_t report_held(const placing_t *p,
                                    const coterie_placement_t *placement,
                                    coterie_place_report_t *report)
{
    static const coterie_mode_t modes[3] = {
        COTERIE_MODE_TWO_PHASE, COTERIE_MODE_OWNER, COTERIE_MODE_FORWARD};
    coterie_placement_t *in_order = NULL;
    coterie_trace_view_t held;
    coterie_status_t status;

    coterie_trace_view(p->held, &held);
    report->held_cost_in_order =
        coterie_affinity_cost(&held, p->costs, &p->problem, p->in_order) /
        held.token_count;
    report->held_cost = coterie_affinity_cost(&held, p->costs, &p->problem,
                                              p->solution.rank_of) /
                        held.token_count;
    status = single_make(p, p->in_order, &in_order);
    if (status == COTERIE_OK)
        status = copies_simulate(p, in_order, COTERIE_MODE_TWO_PHASE,
                                 &report->held_copies_in_order);
    for (int i = 0; status == COTERIE_OK && i < 3; i++)
        status = copies_simulate(p, placement, modes[i],
                                 &report->held_copies[i]);
    coterie_placement_destroy(in_order);
    return status;
}

/* Copies per token and layer; those of decode, unless there is none. */
static coterie_status_t copies_simulate(const placing_t *p,
                                        const coterie_placement_t *placement,
                                        coterie_mode_t mode, double *copies_p)
{
    coterie_simulate_options_t options = COTERIE_SIMULATE_OPTIONS_INIT;
    coterie_counts_t counts[2];
    const coterie_counts_t *phase;
    coterie_status_t status;

    options.mode = mode;
    options.hidden = 1; /* copies are counted, whatever their size */
    options.prediction = 2;
    status = coterie_simulate(p->held, placement, &options, counts);
    if (status != COTERIE_OK)
        return status;
    phase = &counts[counts[COTERIE_PHASE_DECODE].tokens > 0
                        ? COTERIE_PHASE_DECODE
                        : COTERIE_PHASE_PREFILL];
    if (phase->tokens > 0)
        *copies_p = (double)coterie_counts_copies(phase) / phase->tokens /
                    p->view.layer_count;
    return COTERIE_OK;
}

static double fullest_load(const placing_t *p, const uint16_t *rank_of)
{
    uint32_t experts = p->view.expert_count, ranks = p->options.rank_count;
    double worst = 0;

    for (uint32_t l = 0; l < p->view.layer_count; l++) {
        uint64_t sum = 0, most = 0;
        for (uint32_t r = 0; r < ranks; r++) {
            uint64_t load = 0;
            for (size_t i = (size_t)l * experts; i < (l + 1) * (size_t)experts;
                 i++)
                load += rank_of[i] == r ? p->problem.load[i] : 0;
            sum += load;
            most = load > most ? load : most;
        }
        if (sum > 0)
            worst = fmax(worst, (double)most * ranks / sum);
    }
    return worst;
}

static void placing_close(placing_t *p)
{
    if (p->held != p->train)
        coterie_trace_destroy(p->held);
    coterie_trace_destroy(p->train);
    free(p->capacity);
    free(p->problem.seam);
    free(p->problem.pair);
    free(p->problem.load);
    free(p->problem.load_max);
    free(p->solution.rank_of);
    free(p->in_order);
}
