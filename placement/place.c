#include "config.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "placement/capacity.h"
#include "placement/placement.h"
#include "placement/placing.h"
#include "placement/sample.h"

/* Of the time limit, where the rest is for copies and replicas: if a proof is
 * wanted or near, and if not. */
static const double PROOF_SHARE = 0.75, PAIRS_SHARE = 0.25;

static coterie_status_t trace_split(coterie_placing_t *p,
                                    const coterie_trace_t *trace);
static coterie_status_t problem_open(coterie_placing_t *p);
static void loads_limit(coterie_placing_t *p);
static void search_open(coterie_placing_t *p, int reports);
static double report_seconds(const coterie_placing_t *p);
static double proof_share(const coterie_placing_t *p);
static coterie_status_t experts_place(coterie_placing_t *p);
static void placing_close(coterie_placing_t *p);

coterie_status_t coterie_place(const coterie_trace_t *trace,
                               const coterie_place_options_t *options,
                               coterie_placement_t **placement_p,
                               coterie_place_report_t *report)
{
    coterie_placing_t p = {.train = NULL};
    coterie_placement_t *placement = NULL;
    coterie_place_report_t filled = COTERIE_PLACE_REPORT_INIT;
    coterie_trace_view_t view;
    coterie_status_t status;

    if (trace == NULL || options == NULL || placement_p == NULL)
        return coterie_fail(COTERIE_ERR_INVALID,
                            "place: no trace, options or place for a result");
    p.search.started = coterie_search_now();
    coterie_trace_view(trace, &view);
    status = coterie_placing_options(options, view.expert_count, &p.options);
    if (status == COTERIE_OK)
        status = trace_split(&p, trace);
    if (status == COTERIE_OK)
        status = problem_open(&p);
    if (status == COTERIE_OK) {
        search_open(&p, report != NULL);
        status = experts_place(&p);
    }
    if (status == COTERIE_OK)
        status = coterie_placing_make(&p, &placement);
    if (status == COTERIE_OK && report != NULL) {
        coterie_search_over(&p.search, &p.solution); /* told so meanwhile? */
        status = coterie_placing_report(&p, placement, &filled);
    }
    if (status == COTERIE_OK) {
        coterie_placing_hand(&filled, report);
        *placement_p = placement;
        placement = NULL;
    }
    coterie_placement_destroy(placement);
    placing_close(&p);
    return status;
}

/* By sequences, since tokens of one are alike; a lone sequence by tokens. What
 * is too short to split is both trained on and reported on. */
static coterie_status_t trace_split(coterie_placing_t *p,
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
                   : coterie_sample_slice(&view, 0, train, &p->train);
    if (status != COTERIE_OK)
        return status;
    coterie_trace_view(p->train, &p->view);
    if (train == units) {
        p->held = p->train;
        return COTERIE_OK;
    }
    return whole ? coterie_trace_slice(trace, train, units - train, &p->held)
                 : coterie_sample_slice(&view, train, units - train, &p->held);
}

static coterie_status_t problem_open(coterie_placing_t *p)
{
    coterie_problem_t *problem = &p->problem;
    uint32_t ranks = p->options.rank_count, experts = p->view.expert_count;
    size_t layers = p->view.layer_count, items = layers * experts;
    coterie_status_t status;

    p->costs = coterie_pair_costs(p->options.objective, p->options.mode, ranks,
                                  p->view.k);
    problem->layer_count = p->view.layer_count;
    problem->expert_count = experts;
    problem->rank_count = ranks;
    problem->node_count = p->options.node_count;
    problem->network_cost = p->options.network_cost;
    problem->capacity = p->capacity = calloc(ranks, sizeof(*p->capacity));
    p->room = calloc(ranks, sizeof(*p->room));
    problem->seam = calloc(items * experts, sizeof(*problem->seam));
    problem->load = calloc(items, sizeof(*problem->load));
    if (p->costs.pair > 0)
        problem->pair = calloc(items * experts, sizeof(*problem->pair));
    if (p->options.load_cap > 0) {
        problem->load_max = calloc(layers, sizeof(*problem->load_max));
        p->load_asked = calloc(layers, sizeof(*p->load_asked));
    }
    p->solution.rank_of = calloc(items, sizeof(*p->solution.rank_of));
    p->in_order = calloc(items, sizeof(*p->in_order));
    if (!p->capacity || !p->room || !problem->seam || !problem->load ||
        (p->costs.pair > 0 && !problem->pair) ||
        (p->options.load_cap > 0 && (!problem->load_max || !p->load_asked)) ||
        !p->solution.rank_of || !p->in_order)
        return coterie_fail_memory(items * experts * sizeof(float),
                                   "counts of pairs of experts");
    status = coterie_capacity_share(&p->options, p->view.layer_count, experts,
                                    p->capacity, p->room);
    if (status != COTERIE_OK)
        return status;
    coterie_affinity_count(&p->view, p->costs, problem);
    coterie_problem_measure(problem);
    loads_limit(p);
    return COTERIE_OK;
}

/* What each layer's cap comes to. */
static void loads_limit(coterie_placing_t *p)
{
    size_t experts = p->view.expert_count;

    for (size_t l = 0; p->load_asked != NULL && l < p->view.layer_count; l++) {
        uint64_t sum = 0;
        for (size_t i = l * experts; i < (l + 1) * experts; i++)
            sum += p->problem.load[i];
        p->load_asked[l] =
            (uint64_t)(p->options.load_cap * sum / p->options.rank_count);
    }
}

static void search_open(coterie_placing_t *p, int reports)
{
    p->seconds = p->options.time_limit_s - (reports ? report_seconds(p) : 0);
    p->search.planned = proof_share(p) * p->seconds;
    p->search.deadline = p->search.started + p->search.planned;
    p->search.limit = p->search.started + p->options.time_limit_s;
    p->search.unit = p->view.token_count;
    p->search.progress = p->options.progress;
    p->search.progress_arg = p->options.progress_arg;
    p->search.random = p->options.seed;
    p->search.thread_count = p->options.threads;
    p->search.proof = p->options.proof;
    p->search.solver = "balancing loads";
}

/* What is left to it. */
static double report_seconds(const coterie_placing_t *p)
{
    coterie_trace_view_t held;

    coterie_trace_view(p->held, &held);
    return fmin(COTERIE_REPORT_SHARE * p->options.time_limit_s,
                COTERIE_REPORT_PASSES * coterie_sample_seconds(&held));
}

static double proof_share(const coterie_placing_t *p)
{
    double seconds;

    if (p->options.objective == COTERIE_OBJECTIVE_CROSSING)
        return p->options.spare == 0 ? 1 : PROOF_SHARE;
    seconds = PROOF_SHARE * p->seconds;
    return p->options.proof ||
                   coterie_solver_subsets.applies(&p->problem, seconds) ||
                   coterie_solver_columns.applies(&p->problem, seconds)
               ? PROOF_SHARE
               : PAIRS_SHARE;
}

static coterie_status_t experts_place(coterie_placing_t *p)
{
    coterie_status_t status;
    int raised;

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
    status = coterie_solve(&p->problem, &p->search, &p->solution);
    p->search.planned = p->seconds - p->search.planned;
    p->search.deadline = p->search.started + p->seconds;
    if (p->search.stopped == COTERIE_STOPPED_LATE)
        p->search.stopped = COTERIE_STOPPED_NOT;
    return status;
}

static void placing_close(coterie_placing_t *p)
{
    if (p->held != p->train)
        coterie_trace_destroy(p->held);
    coterie_trace_destroy(p->train);
    free(p->capacity);
    free(p->room);
    free(p->load_asked);
    free(p->problem.seam);
    free(p->problem.pair);
    free(p->problem.load);
    free(p->problem.load_max);
    free(p->solution.rank_of);
    free(p->solution.price);
    free(p->in_order);
}
