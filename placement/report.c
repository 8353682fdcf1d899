#include "config.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "placement/cure.h"
#include "placement/measure.h"
#include "placement/placing.h"
#include "placement/sample.h"

static void report_train(const coterie_placing_t *p,
                         coterie_place_report_t *report);
static coterie_status_t report_loads(const coterie_placing_t *p,
                                     const coterie_placement_t *placement,
                                     const coterie_trace_t *sample,
                                     coterie_place_report_t *report);
static int caps_kept(const coterie_placing_t *p, const uint64_t *load);
static coterie_status_t report_cure(const coterie_placing_t *p,
                                    coterie_place_report_t *report);
static coterie_status_t report_held(const coterie_placing_t *p,
                                    const coterie_placement_t *placement,
                                    const coterie_trace_t *sample,
                                    coterie_place_report_t *report);

coterie_status_t coterie_placing_report(const coterie_placing_t *p,
                                        const coterie_placement_t *placement,
                                        coterie_place_report_t *report)
{
    coterie_trace_t *sample = NULL;
    coterie_status_t status;

    report_train(p, report);
    status = coterie_sample_take(
        p->held,
        coterie_placing_afford(p, COTERIE_REPORT_SHARE, COTERIE_REPORT_PASSES),
        &sample);
    if (status == COTERIE_OK)
        status = report_loads(p, placement, sample, report);
    if (status == COTERIE_OK)
        status = report_held(p, placement, sample, report);
    if (sample != p->held)
        coterie_trace_destroy(sample);
    if (status == COTERIE_OK && p->search.stopped != COTERIE_STOPPED_TOLD)
        status = coterie_placing_control(p, placement, report);
    if (status == COTERIE_OK && report->cap_raised)
        status = report_cure(p, report);
    report->cut = (uint32_t)p->search.cut;
    report->seed = p->options.seed;
    report->elapsed_s = coterie_search_now() - p->search.started;
    return status;
}

static void report_train(const coterie_placing_t *p,
                         coterie_place_report_t *report)
{
    const coterie_solution_t *s = &p->solution;
    double tokens = p->view.token_count, spread;

    if (strcmp(s->by, s->bound_by) == 0)
        snprintf(report->solver, sizeof(report->solver), "%s", s->by);
    else
        snprintf(report->solver, sizeof(report->solver), "%s; bound: %s",
                 s->by, s->bound_by);
    report->proved = coterie_solution_optimal(&p->problem, s);
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
    report->polished = p->polished;
    report->train_copies = p->train_copies;
    report->train_copies_polished = p->train_copies_polished;
}

/* What ranks serve once tokens are routed. */
static coterie_status_t report_loads(const coterie_placing_t *p,
                                     const coterie_placement_t *placement,
                                     const coterie_trace_t *sample,
                                     coterie_place_report_t *report)
{
    uint32_t layers = p->view.layer_count, ranks = p->options.rank_count;
    size_t cells = (size_t)layers * ranks;
    uint64_t *load = calloc(cells, sizeof(*load));
    coterie_placement_t *in_order = NULL;
    coterie_trace_view_t held;
    coterie_status_t status;

    if (load == NULL)
        return coterie_fail_memory(cells * sizeof(*load), "measured loads");
    coterie_trace_view(sample, &held);
    status = coterie_placing_single(p, p->in_order, &in_order);
    if (status == COTERIE_OK) {
        coterie_mode_t mode = p->options.mode;
        coterie_measure(&p->view, in_order, mode, load);
        report->load_in_order = coterie_measure_fullest(load, layers, ranks);
        coterie_measure(&held, in_order, mode, load);
        report->held_load_in_order =
            coterie_measure_fullest(load, layers, ranks);
        coterie_measure(&held, placement, mode, load);
        report->held_load = coterie_measure_fullest(load, layers, ranks);
        coterie_measure(&p->view, placement, mode, load);
        report->load = coterie_measure_fullest(load, layers, ranks);
        report->cap_raised = !caps_kept(p, load);
        report->load_cap =
            report->cap_raised ? report->load : p->options.load_cap;
    }
    coterie_placement_destroy(in_order);
    free(load);
    return status;
}

static coterie_status_t report_cure(const coterie_placing_t *p,
                                    coterie_place_report_t *report)
{
    size_t items = (size_t)p->view.layer_count * p->view.expert_count;
    double *load = calloc(items, sizeof(*load));
    coterie_cure_t cure = {
        .layer_count = p->view.layer_count,
        .expert_count = p->view.expert_count,
        .rank_count = p->options.rank_count, .capacity = p->capacity,
        .spare = p->options.spare, .load = load,
        .load_cap = p->options.load_cap};
    coterie_status_t status;

    if (load == NULL)
        return coterie_fail_memory(items * sizeof(*load), "loads");
    for (size_t i = 0; i < items; i++)
        load[i] = (double)p->problem.load[i];
    status = coterie_cure_find(&cure, &report->cure_spare,
                               &report->cure_replicas);
    free(load);
    return status;
}

static int caps_kept(const coterie_placing_t *p, const uint64_t *load)
{
    size_t ranks = p->options.rank_count, cells = p->view.layer_count * ranks;

    for (size_t i = 0; p->load_asked != NULL && i < cells; i++)
        if (load[i] > p->load_asked[i / ranks])
            return 0;
    return 1;
}

static coterie_status_t report_held(const coterie_placing_t *p,
                                    const coterie_placement_t *placement,
                                    const coterie_trace_t *sample,
                                    coterie_place_report_t *report)
{
    static const coterie_mode_t modes[3] = {
        COTERIE_MODE_TWO_PHASE, COTERIE_MODE_OWNER, COTERIE_MODE_FORWARD};
    coterie_placement_t *in_order = NULL;
    coterie_trace_view_t held;
    coterie_status_t status;

    coterie_trace_view(sample, &held);
    report->held_tokens = held.token_count;
    report->held_cost_in_order =
        coterie_affinity_cost(&held, p->costs, &p->problem, p->in_order) /
        held.token_count;
    report->held_cost = coterie_affinity_cost(&held, p->costs, &p->problem,
                                              p->solution.rank_of) /
                        held.token_count;
    status = coterie_placing_single(p, p->in_order, &in_order);
    if (status == COTERIE_OK)
        status = coterie_placing_copies(sample, in_order,
                                        COTERIE_MODE_TWO_PHASE, 1,
                                        &report->held_copies_in_order);
    for (int i = 0; status == COTERIE_OK && i < 3; i++)
        status = coterie_placing_copies(sample, placement, modes[i], 1,
                                        &report->held_copies[i]);
    coterie_placement_destroy(in_order);
    return status;
}

