#include "config.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "placement/placing.h"

static void report_train(const coterie_placing_t *p,
                         coterie_place_report_t *report);
static coterie_status_t report_held(const coterie_placing_t *p,
                                    const coterie_placement_t *placement,
                                    coterie_place_report_t *report);
static double cap_in_force(const coterie_placing_t *p);
static double fullest_load(const coterie_placing_t *p,
                           const uint16_t *rank_of);

coterie_status_t coterie_placing_report(const coterie_placing_t *p,
                                        const coterie_placement_t *placement,
                                        coterie_place_report_t *report)
{
    coterie_status_t status;

    report_train(p, report);
    status = report_held(p, placement, report);
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
    report->cap_raised = p->cap_raised;
    report->load_cap =
        p->cap_raised ? cap_in_force(p) : p->options.load_cap;
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
    report->load = fullest_load(p, p->polished ? p->polished : s->rank_of);
    report->polished = p->polished != NULL;
    report->train_copies = p->train_copies;
    report->train_copies_polished = p->train_copies_polished;
}

static coterie_status_t report_held(const coterie_placing_t *p,
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
    status = coterie_placing_single(p, p->in_order, &in_order);
    if (status == COTERIE_OK)
        status = coterie_placing_copies(p->held, in_order,
                                        COTERIE_MODE_TWO_PHASE, 1,
                                        &report->held_copies_in_order);
    for (int i = 0; status == COTERIE_OK && i < 3; i++)
        status = coterie_placing_copies(p->held, placement, modes[i], 1,
                                        &report->held_copies[i]);
    coterie_placement_destroy(in_order);
    return status;
}

/* The highest of any layer, over the mean. */
static double cap_in_force(const coterie_placing_t *p)
{
    uint32_t experts = p->view.expert_count;
    double cap = 0;

    for (uint32_t l = 0; l < p->view.layer_count; l++) {
        uint64_t sum = 0;
        for (uint32_t e = 0; e < experts; e++)
            sum += p->problem.load[(size_t)l * experts + e];
        if (sum > 0)
            cap = fmax(cap, (double)p->problem.load_max[l] *
                                p->options.rank_count / sum);
    }
    return cap;
}

static double fullest_load(const coterie_placing_t *p, const uint16_t *rank_of)
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
