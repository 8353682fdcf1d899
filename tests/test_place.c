#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <coterie/coterie.h>
#include <coterie/place.h>

#include "placement/affinity.h"
#include "placement/solve/solver.h"

enum {
    LAYERS = 3,
    EXPERTS = 6,
    ITEMS = LAYERS * EXPERTS,
    SMALL = 60,
    MANY = 2500
};

/* A problem small enough to try everything. */
typedef struct small {
    coterie_problem_t problem;
    uint32_t capacity[EXPERTS];
    float seam[LAYERS * EXPERTS * EXPERTS], pair[LAYERS * EXPERTS * EXPERTS];
    uint64_t load[ITEMS], load_max[LAYERS];
    uint16_t rank_of[ITEMS];
    coterie_search_t search;
    coterie_solution_t solution;
} small_t;

static void small_draw(small_t *s, uint64_t seed, uint32_t experts,
                       uint32_t ranks, uint32_t nodes)
{
    uint32_t layers = ranks == 2 ? 3 : 2;

    memset(s, 0, sizeof(*s));
    s->search.random = seed;
    s->search.started = coterie_search_now();
    s->search.thread_count = 1;
    s->search.planned = 10;
    s->search.deadline = s->search.started + s->search.planned;
    s->search.limit = s->search.deadline;
    s->search.unit = 1;
    s->problem = (coterie_problem_t){
        .layer_count = layers, .expert_count = experts, .rank_count = ranks,
        .node_count = nodes, .network_cost = nodes > 1 ? 4 : 1,
        .capacity = s->capacity, .seam = s->seam, .load = s->load,
        .pair = seed % 2 ? s->pair : NULL,
        .load_max = seed % 5 < 2 ? s->load_max : NULL};
    for (uint32_t r = 0; r < ranks; r++)
        s->capacity[r] = experts / ranks + (r < experts % ranks);
    if (seed % 4 == 3 && experts > ranks) { /* of other sizes */
        s->capacity[0]++;
        s->capacity[ranks - 1]--;
    }
    for (uint32_t i = 0; i < layers * experts * experts; i++) {
        uint32_t row = i / experts, e = row % experts, f = i % experts;
        s->seam[i] = coterie_search_below(&s->search, 100);
        if (f > e)
            s->pair[i] = s->pair[(row - e + f) * experts + e] =
                coterie_search_below(&s->search, 50);
    }
    for (uint32_t i = 0; i < layers * experts; i++)
        s->load[i] = 50 + coterie_search_below(&s->search, 100);
    coterie_problem_measure(&s->problem);
    s->solution = (coterie_solution_t){.rank_of = s->rank_of, .by = "start",
                                       .bound_by = "none"};
}

static void small_start(small_t *s)
{
    int raised;

    cr_assert(eq(int, COTERIE_OK,
                 coterie_solve_start(&s->problem,
                                     s->problem.load_max ? 1.1 : 0,
                                     &s->search, s->rank_of, &raised)));
    s->solution.cost = coterie_problem_cost(&s->problem, s->rank_of);
}

static void small_solve(small_t *s)
{
    small_start(s);
    cr_assert(eq(int, COTERIE_OK,
                 coterie_solve(&s->problem, &s->search, &s->solution)));
}

/* The objective by its definition, shared with no solver: INFINITY for what
 * breaks a limit. */
static double evaluate(const small_t *s, const uint16_t *rank_of)
{
    const coterie_problem_t *p = &s->problem;
    uint32_t layers = p->layer_count, experts = p->expert_count;
    uint32_t size = p->rank_count / p->node_count;
    double cost = 0;

    for (uint32_t r = 0; r < layers * p->rank_count; r++) {
        const uint16_t *row = rank_of + r / p->rank_count * experts;
        uint64_t load = 0, held = 0;
        for (uint32_t e = 0; e < experts; e++)
            if (row[e] == r % p->rank_count) {
                load += s->load[row - rank_of + e];
                held++;
            }
        if (held != s->capacity[r % p->rank_count] ||
            (p->load_max && load > s->load_max[r / p->rank_count]))
            return INFINITY;
    }
    for (uint32_t i = 0; i < layers * experts * experts; i++) {
        uint32_t item = i / experts, l = item / experts, f = i % experts;
        uint32_t from = rank_of[item], within = rank_of[l * experts + f];
        double link = from / size == within / size ? 1 : p->network_cost;
        if (p->pair && f > item % experts && from != within)
            cost += s->pair[i] * link;
        if (l + 1 == layers || from == rank_of[(l + 1) * experts + f])
            continue;
        within = rank_of[(l + 1) * experts + f];
        cost += s->seam[i] *
                (from / size == within / size ? 1 : p->network_cost);
    }
    return cost;
}

/* Over every legal placement, expert by expert. */
static double least_cost(const small_t *s, uint16_t *rank_of, uint32_t at)
{
    uint32_t experts = s->problem.expert_count;
    double least = INFINITY;

    if (at == s->problem.layer_count * experts)
        return evaluate(s, rank_of);
    for (uint32_t r = 0; r < s->problem.rank_count; r++) {
        uint32_t held = 0;
        for (uint32_t i = at / experts * experts; i < at; i++)
            held += rank_of[i] == r;
        if (held == s->capacity[r])
            continue;
        rank_of[at] = r;
        least = fmin(least, least_cost(s, rank_of, at + 1));
    }
    return least;
}

/* Tokens of two topics that keep to their halves of the experts, or, with
 * no_topics, choose alike whatever came before. */
static coterie_trace_t *trace_draw(uint32_t layers, uint32_t experts,
                                   uint32_t tokens, int no_topics)
{
    coterie_search_t random = {.random = 7};
    coterie_trace_view_t view = {.token_count = tokens, .sequence_count = 20,
                                 .layer_count = layers,
                                 .expert_count = experts, .k = 2};
    int16_t *set = calloc((size_t)tokens * layers * 2, sizeof(*set));
    uint64_t start[21];
    coterie_trace_t *trace = NULL;

    for (uint32_t s = 0; s <= 20; s++)
        start[s] = (uint64_t)tokens * s / 20;
    view.experts = set;
    view.seq_start = start;
    for (uint32_t i = 0; i < tokens * layers; i++, set += 2) {
        uint32_t topic = no_topics ? 0 : i / layers % 2;
        uint32_t step = no_topics ? 1 : 2;
        set[0] = topic + step * coterie_search_below(&random, experts / step);
        do
            set[1] = topic +
                     step * coterie_search_below(&random, experts / step);
        while (set[1] == set[0]);
    }
    cr_assert(eq(int, COTERIE_OK, coterie_trace_create(&view, &trace)));
    free((void *)view.experts);
    return trace;
}

static coterie_place_options_t options_for(uint32_t ranks)
{
    coterie_place_options_t options = COTERIE_PLACE_OPTIONS_INIT;

    options.rank_count = ranks;
    options.time_limit_s = 10;
    return options;
}

static coterie_placement_t *place(const coterie_trace_t *trace,
                                  const coterie_place_options_t *options,
                                  coterie_place_report_t *report)
{
    coterie_placement_t *placement = NULL;

    *report = (coterie_place_report_t)COTERIE_PLACE_REPORT_INIT;
    cr_assert(eq(int, COTERIE_OK,
                 coterie_place(trace, options, &placement, report)),
              "%s", coterie_last_error());
    return placement;
}

static int stop_at_once(void *arg, const coterie_place_progress_t *progress)
{
    (void)progress;
    ++*(int *)arg;
    return 1;
}

Test(place, is_proved_best_and_is_where_ranks_are_alike_and_no_nodes)
{
    for (uint32_t seed = 0; seed < SMALL; seed++)
        for (uint32_t ranks = 2; ranks <= 4; ranks++) {
            small_t s;
            uint16_t trial[ITEMS];
            double least;
            int alike;
            small_draw(&s, seed, 4 + seed % 3, ranks,
                       ranks == 4 && seed % 2 ? 2 : 1);
            small_solve(&s);
            least = least_cost(&s, trial, 0);
            cr_expect(coterie_problem_legal(&s.problem, s.rank_of));
            cr_expect(le(dbl, s.solution.bound, least + s.problem.tolerance));
            cr_expect(ge(dbl, s.solution.cost, least - s.problem.tolerance));
            coterie_problem_capacity(&s.problem, &alike);
            if (s.problem.node_count == 1 && alike)
                cr_expect(coterie_solution_optimal(&s.problem, &s.solution),
                          "seed %u, %u ranks: %g > %g", seed, ranks,
                          s.solution.cost, s.solution.bound);
            if (coterie_solution_optimal(&s.problem, &s.solution))
                cr_expect(le(dbl, s.solution.cost,
                             least + s.problem.tolerance));
            free(s.solution.price);
        }
}

Test(place, keeps_bound_below_exact_below_cost_whichever_the_solver)
{
    static const coterie_solver_t *const solvers[] = {
        &coterie_solver_matching, &coterie_solver_semidefinite,
        &coterie_solver_columns, &coterie_solver_subsets,
        &coterie_solver_nodes, &coterie_solver_anneal};
    enum { SOLVERS = sizeof(solvers) / sizeof(solvers[0]) };

    for (uint32_t seed = 0; seed < MANY; seed++) {
        uint32_t ranks = 2 + seed % 3, nodes = ranks == 4 && seed % 4 ? 2 : 1;
        uint16_t trial[ITEMS];
        double least = 0;
        for (uint32_t i = 0; i < SOLVERS; i++) {
            small_t s;
            small_draw(&s, seed, 3 + seed / 7 % 3, ranks, nodes);
            if (i == SOLVERS - 1) /* few sweeps will do */
                s.search.planned = 0.002;
            small_start(&s);
            least = i == 0 ? least_cost(&s, trial, 0) : least;
            if (solvers[i]->applies(&s.problem, 10))
                cr_assert(eq(int, COTERIE_OK,
                             solvers[i]->solve(&s.problem, &s.search,
                                               &s.solution)));
            cr_expect(le(dbl, s.solution.bound, least + s.problem.tolerance),
                      "seed %u, %s: %g > %g", seed, solvers[i]->name,
                      s.solution.bound, least);
            cr_expect(ge(dbl, s.solution.cost, least - s.problem.tolerance));
            cr_expect(epsilon_eq(dbl, s.solution.cost,
                                 evaluate(&s, s.rank_of),
                                 s.problem.tolerance));
            if (coterie_solution_optimal(&s.problem, &s.solution))
                cr_expect(le(dbl, s.solution.cost,
                             least + s.problem.tolerance));
            free(s.solution.price);
        }
    }
}

Test(place, matches_one_expert_a_rank_exactly)
{
    for (uint32_t seed = 0; seed < SMALL; seed++) {
        small_t s;
        uint16_t trial[ITEMS];
        /* 4 or 5 experts, and as many ranks */
        small_draw(&s, 3 * seed + seed % 2, 4 + seed % 2, 4 + seed % 2, 1);
        small_solve(&s);
        cr_expect(epsilon_eq(dbl, s.solution.cost, least_cost(&s, trial, 0),
                             s.problem.tolerance));
        cr_expect(eq(str, (char *)s.solution.bound_by, "assignment"));
        free(s.solution.price);
    }
}

Test(place, separates_topics_and_says_what_it_is_worth)
{
    coterie_trace_t *trace = trace_draw(4, 8, 400, 0);
    coterie_place_options_t options = options_for(2);
    coterie_place_report_t report;
    coterie_placement_t *placement = place(trace, &options, &report);

    cr_expect(eq(int, report.proved, 1));
    cr_expect(zero(dbl, report.cost)); /* each topic has a rank of its own */
    cr_expect(gt(dbl, report.cost_in_order, 1));
    cr_expect(zero(dbl, report.held_cost));
    cr_expect(zero(dbl, report.gap));
    cr_expect(gt(dbl, report.held_copies_in_order, report.held_copies[0]));
    /* only the way from home, once a token and sequence */
    cr_expect(lt(dbl, report.held_copies[1], 0.3));
    coterie_placement_destroy(placement);
    coterie_trace_destroy(trace);
}

Test(place, gains_nothing_held_out_where_there_is_no_affinity)
{
    coterie_trace_t *trace = trace_draw(4, 8, 8000, 1);
    coterie_place_options_t options = options_for(4);
    coterie_place_report_t report;
    coterie_placement_t *placement = place(trace, &options, &report);

    cr_expect(epsilon_eq(dbl, report.held_cost / report.held_cost_in_order, 1,
                         0.01));
    coterie_placement_destroy(placement);
    coterie_trace_destroy(trace);
}

Test(place, keeps_the_load_cap)
{
    coterie_trace_t *trace = trace_draw(4, 8, 400, 0);
    coterie_place_options_t options = options_for(4);
    coterie_place_report_t report;
    coterie_placement_t *placement;

    options.load_cap = 1.05;
    placement = place(trace, &options, &report);
    cr_expect(le(dbl, report.load, report.load_cap + 1e-9));
    cr_expect(ge(dbl, report.load_cap, 1));
    coterie_placement_destroy(placement);
    coterie_trace_destroy(trace);
}

Test(place, raises_a_cap_that_cannot_be_met_and_says_so)
{
    int16_t set[40 * 2];
    uint64_t start[] = {0, 20, 40};
    coterie_trace_view_t view = {.token_count = 40, .sequence_count = 2,
                                 .layer_count = 1, .expert_count = 4, .k = 2,
                                 .experts = set, .seq_start = start};
    coterie_place_options_t options = options_for(2);
    coterie_place_report_t report;
    coterie_placement_t *placement;
    coterie_trace_t *trace;

    for (int i = 0; i < 40; i++) { /* expert 0 has half of all load */
        set[2 * i] = 0;
        set[2 * i + 1] = 1 + i % 3;
    }
    cr_assert(eq(int, COTERIE_OK, coterie_trace_create(&view, &trace)));
    options.load_cap = 1.1;
    placement = place(trace, &options, &report);
    cr_expect(eq(int, report.cap_raised, 1));
    cr_expect(gt(dbl, report.load_cap, 1.1));
    cr_expect(epsilon_eq(dbl, report.load, report.load_cap, 1e-9));
    cr_expect(eq(dbl, report.load_cap, (20 + 6) / 20.0));
    coterie_placement_destroy(placement);
    coterie_trace_destroy(trace);
}

Test(place, adds_replicas_that_spare_copies)
{
    coterie_trace_t *trace = trace_draw(4, 8, 2000, 1);
    coterie_place_options_t options = options_for(4);
    coterie_place_report_t without, with;
    coterie_placement_t *placement = place(trace, &options, &without);
    coterie_placement_options_t view;

    coterie_placement_destroy(placement);
    options.spare = 2;
    placement = place(trace, &options, &with);
    coterie_placement_view(placement, &view);
    cr_expect(eq(u32, view.slot_count, 8 + 4 * 2));
    cr_expect(lt(dbl, with.held_copies[1], without.held_copies[1]));
    coterie_placement_destroy(placement);
    coterie_trace_destroy(trace);
}

Test(place, refuses_more_spare_slots_than_experts)
{
    coterie_trace_t *trace = trace_draw(2, 8, 200, 1);
    coterie_place_options_t options = options_for(4);
    coterie_placement_t *placement = NULL;

    options.spare = 7;
    cr_expect(eq(int, COTERIE_ERR_INFEASIBLE,
                 coterie_place(trace, &options, &placement, NULL)));
    cr_expect(zero(ptr, placement));
    coterie_trace_destroy(trace);
}

Test(place, stops_when_told_with_a_legal_placement)
{
    coterie_trace_t *trace = trace_draw(8, 16, 2000, 1);
    coterie_place_options_t options = options_for(4);
    coterie_place_report_t report;
    coterie_placement_t *placement;
    int calls = 0;

    options.progress = stop_at_once;
    options.progress_arg = &calls;
    placement = place(trace, &options, &report);
    cr_expect(eq(int, calls, 1));
    cr_expect(eq(u64, report.held_tokens, 1000)); /* few are all routed */
    cr_expect(eq(int, report.proved, 0));
    cr_expect(ge(dbl, report.cost, report.bound));
    coterie_placement_destroy(placement);
    coterie_trace_destroy(trace);
}

/* What is done after a search is work as well: somebody waits for it. */
Test(place, routes_few_tokens_where_somebody_waits_or_time_is_short)
{
    coterie_trace_t *trace = trace_draw(8, 16, 120000, 1);
    coterie_place_options_t options = options_for(4);
    coterie_place_report_t report;
    int calls = 0;

    options.progress = stop_at_once;
    options.progress_arg = &calls;
    options.time_limit_s = 100;
    coterie_placement_destroy(place(trace, &options, &report));
    cr_expect(lt(u64, report.held_tokens, 40000));
    cr_expect(gt(dbl, report.held_copies[1], 0));
    options.progress = NULL;
    options.time_limit_s = 0.2;
    coterie_placement_destroy(place(trace, &options, &report));
    cr_expect(lt(u64, report.held_tokens, 10000));
    coterie_trace_destroy(trace);
}

/* Without any, owners would be chosen blindly. */
Test(place, learns_scores_though_its_time_is_up)
{
    coterie_trace_t *trace = trace_draw(8, 16, 2000, 1);
    coterie_place_options_t options = options_for(4);
    coterie_place_report_t report;
    coterie_placement_options_t view;
    coterie_placement_t *placement;
    size_t scored = 0;

    options.time_limit_s = 1e-6;
    placement = place(trace, &options, &report);
    coterie_placement_view(placement, &view);
    for (size_t i = 0; i < 8 * 16 * 4; i++)
        scored += view.next_score[i] > 0;
    cr_expect(gt(sz, scored, 0));
    coterie_placement_destroy(placement);
    coterie_trace_destroy(trace);
}

Test(place, keeps_to_its_time)
{
    coterie_trace_t *trace = trace_draw(8, 16, 2000, 1);
    coterie_place_options_t options = options_for(4);
    coterie_place_report_t report;

    options.time_limit_s = 0.2;
    coterie_placement_destroy(place(trace, &options, &report));
    cr_expect(lt(dbl, report.elapsed_s, 2));
    coterie_trace_destroy(trace);
}

Test(place, gives_the_same_placement_for_the_same_seed)
{
    coterie_trace_t *trace = trace_draw(4, 8, 400, 1);
    coterie_place_options_t options = options_for(4);
    coterie_place_report_t report;
    coterie_placement_t *first, *second;
    coterie_placement_options_t a, b;
    uint32_t cut;

    options.load_cap = 1.2;
    options.spare = 1;
    options.time_limit_s = 1;
    first = place(trace, &options, &report);
    cut = report.cut;
    second = place(trace, &options, &report);
    cut |= report.cut; /* by a machine too slow for so little */
    coterie_placement_view(first, &a);
    coterie_placement_view(second, &b);
    if (!cut)
        cr_expect(zero(int, memcmp(a.slot_expert, b.slot_expert,
                                   sizeof(*a.slot_expert) * 4 *
                                       a.slot_count)));
    coterie_placement_destroy(first);
    coterie_placement_destroy(second);
    coterie_trace_destroy(trace);
}

Test(place, takes_traces_with_next_to_nothing_in_them)
{
    static const int16_t none[] = {-1, -1}, lone[] = {0, -1};
    static const uint64_t start[] = {0, 1};
    coterie_trace_view_t view = {.token_count = 1, .sequence_count = 1,
                                 .layer_count = 1, .expert_count = 1, .k = 2,
                                 .experts = lone, .seq_start = start};

    for (int i = 0; i < 4; i++) {
        coterie_place_options_t options = options_for(1 + i);
        coterie_place_report_t report;
        coterie_trace_t *trace;
        view.expert_count = 1 + i / 2;
        view.experts = i % 2 ? none : lone;
        options.load_cap = 1.1;
        cr_assert(eq(int, COTERIE_OK, coterie_trace_create(&view, &trace)));
        coterie_placement_destroy(place(trace, &options, &report));
        cr_expect(eq(int, report.proved, 1));
        cr_expect(zero(dbl, report.cost));
        coterie_trace_destroy(trace);
    }
}

Test(place, counts_tokens_as_its_tables_do)
{
    coterie_trace_t *trace = trace_draw(3, 6, 100, 1);
    coterie_trace_view_t view;
    coterie_pair_costs_t costs = {0.75, 0.5};
    small_t s;

    coterie_trace_view(trace, &view);
    small_draw(&s, 2, EXPERTS, 2, 1);
    s.problem.pair = s.pair;
    memset(s.seam, 0, sizeof(s.seam));
    memset(s.pair, 0, sizeof(s.pair));
    coterie_affinity_count(&view, costs, &s.problem);
    for (int i = 0; i < ITEMS; i++)
        s.rank_of[i] = i * 7 / 3 % 2;
    cr_expect(epsilon_eq(dbl, coterie_problem_cost(&s.problem, s.rank_of),
                         coterie_affinity_cost(&view, costs, &s.problem,
                                               s.rank_of), 1e-9));
    coterie_trace_destroy(trace);
}

Test(place, estimates_dispatch_exactly_at_top_1_and_within_pairs_at_top_2)
{
    coterie_pair_costs_t one = coterie_pair_costs(
        COTERIE_OBJECTIVE_DISPATCH, COTERIE_MODE_OWNER, 8, 1);
    coterie_pair_costs_t two = coterie_pair_costs(
        COTERIE_OBJECTIVE_DISPATCH, COTERIE_MODE_OWNER, 8, 2);
    coterie_pair_costs_t home = coterie_pair_costs(
        COTERIE_OBJECTIVE_DISPATCH, COTERIE_MODE_TWO_PHASE, 8, 2);

    cr_expect(epsilon_eq(dbl, one.seam, 1, 1e-12));
    cr_expect(epsilon_eq(dbl, two.pair, 2, 1e-12));
    cr_expect(epsilon_eq(dbl, home.pair, 2 * 7 / 8.0, 1e-12));
    cr_expect(zero(dbl, home.seam));
}

Test(place, refuses_options_out_of_range)
{
    coterie_trace_t *trace = trace_draw(2, 8, 200, 1);
    coterie_placement_t *placement = NULL;
    coterie_place_options_t bad[8];

    for (int i = 0; i < 8; i++)
        bad[i] = options_for(2);
    bad[0].rank_count = 0;
    bad[1].rank_count = 5000;
    bad[2].node_count = 3;
    bad[3].objective = 2;
    bad[4].mode = 4;
    bad[5].load_cap = 0.5;
    bad[6].time_limit_s = -1;
    bad[7].train_share = NAN;
    for (int i = 0; i < 8; i++) {
        cr_expect(eq(int, COTERIE_ERR_INVALID,
                     coterie_place(trace, &bad[i], &placement, NULL)),
                  "case %d", i);
        cr_expect(zero(ptr, placement));
    }
    coterie_trace_destroy(trace);
}
