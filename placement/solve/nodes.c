#include "config.h"

#include <stdlib.h>

#include "base/error.h"
#include "placement/solve/solver.h"

/* A bound where ranks lie in nodes. What is apart costs 1 if the ranks differ
 * and network_cost - 1 more if the nodes do: two problems without nodes, one
 * of ranks and one of whole nodes, neither of which this placement can solve
 * better than its own best one. */

typedef struct outer {
    const coterie_problem_t *problem;
    coterie_search_t *search;
    const coterie_solution_t *solution;
} outer_t;

static int nodes_applies(const coterie_problem_t *problem, double seconds);
static coterie_status_t nodes_solve(const coterie_problem_t *problem,
                                    coterie_search_t *search,
                                    coterie_solution_t *solution);
static coterie_status_t flat_bound(const coterie_problem_t *flat,
                                   const outer_t *outer, double deadline,
                                   double *bound_p);
static int ask_outer(void *arg, const coterie_place_progress_t *progress);

const coterie_solver_t coterie_solver_nodes = {
    "nodes apart from ranks", 0, nodes_applies, nodes_solve};

static int nodes_applies(const coterie_problem_t *problem, double seconds)
{
    (void)seconds;
    return problem->node_count > 1 && problem->rank_count > 1;
}

static coterie_status_t nodes_solve(const coterie_problem_t *problem,
                                    coterie_search_t *search,
                                    coterie_solution_t *solution)
{
    uint32_t nodes = problem->node_count, layers = problem->layer_count;
    uint32_t size = problem->rank_count / nodes;
    coterie_problem_t ranks = *problem, whole = *problem;
    outer_t outer = {problem, search, solution};
    uint32_t *capacity = calloc(nodes, sizeof(*capacity));
    uint64_t *load_max = calloc(layers, sizeof(*load_max));
    double within = 0, between = 0;
    coterie_status_t status = COTERIE_OK;

    if (capacity == NULL || load_max == NULL) {
        status = coterie_fail_memory(layers * sizeof(*load_max), "nodes");
        goto out;
    }
    for (uint32_t r = 0; r < problem->rank_count; r++)
        capacity[r / size] += problem->capacity[r];
    for (uint32_t l = 0; problem->load_max && l < layers; l++)
        load_max[l] = size * problem->load_max[l];
    ranks.node_count = whole.node_count = 1;
    ranks.network_cost = whole.network_cost = 1;
    whole.rank_count = nodes;
    whole.capacity = capacity;
    whole.load_max = problem->load_max ? load_max : NULL;
    status = flat_bound(&whole, &outer,
                        (coterie_search_now() + search->deadline) / 2,
                        &between);
    if (status == COTERIE_OK)
        status = flat_bound(&ranks, &outer, search->deadline, &within);
    if (status == COTERIE_OK)
        coterie_solution_prove(
            solution, within + (problem->network_cost - 1) * between,
            coterie_solver_nodes.name);
out:
    free(capacity);
    free(load_max);
    return status;
}

/* The present placement, read as one of the flat problem, is a start. */
static coterie_status_t flat_bound(const coterie_problem_t *flat,
                                   const outer_t *outer, double deadline,
                                   double *bound_p)
{
    size_t items = (size_t)flat->layer_count * flat->expert_count;
    coterie_search_t search = *outer->search;
    coterie_solution_t solution = {.bound_by = "none"};
    uint32_t ranks = outer->problem->rank_count;
    coterie_status_t status;

    solution.rank_of = calloc(items, sizeof(*solution.rank_of));
    if (solution.rank_of == NULL)
        return coterie_fail_memory(items * sizeof(*solution.rank_of),
                                   "a placement");
    for (size_t i = 0; i < items; i++)
        solution.rank_of[i] =
            outer->solution->rank_of[i] / (ranks / flat->rank_count);
    solution.cost = coterie_problem_cost(flat, solution.rank_of);
    search.deadline = deadline;
    search.planned /= 2;
    search.progress = ask_outer;
    search.progress_arg = (void *)outer;
    status = coterie_solve_bound(flat, &search, &solution);
    *bound_p = solution.bound;
    free(solution.rank_of);
    free(solution.price);
    return status;
}

static int ask_outer(void *arg, const coterie_place_progress_t *progress)
{
    const outer_t *outer = arg;

    (void)progress;
    return coterie_search_over(outer->search, outer->solution);
}
