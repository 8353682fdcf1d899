#include "config.h"

#include <math.h>
#include <stdlib.h>

#include "base/error.h"
#include "placement/solve/chain.h"
#include "placement/solve/solver.h"

/* Two ranks, exactly: a layer's state is the set on rank 0, and what both
 * ranks keep together is a function of neighbouring states alone:
 *   kept(S, T) + kept(not S, not T)
 *     = 2 w(S, T) - w(S, all) - w(all, T) + w(all, all),
 * so the best chain of sets under doubled weights is the best placement. */

typedef struct halving {
    const coterie_problem_t *problem;
    const coterie_chain_t *chain;
} halving_t;

static const double SUMS_PER_SECOND = 5e8; /* seam_relax's pace, low guess */

static int subsets_applies(const coterie_problem_t *problem, double seconds);
static coterie_status_t subsets_solve(const coterie_problem_t *problem,
                                      coterie_search_t *search,
                                      coterie_solution_t *solution);
static void chain_fill(const coterie_problem_t *problem,
                       coterie_chain_t *chain);
static int load_allows(const void *arg, uint32_t layer, uint32_t subset);
static coterie_status_t offer_best(const coterie_problem_t *problem,
                                   const coterie_chain_t *chain,
                                   coterie_solution_t *solution);

const coterie_solver_t coterie_solver_subsets = {
    "subset dynamic programme", 1, subsets_applies, subsets_solve};

static int subsets_applies(const coterie_problem_t *problem, double seconds)
{
    double states;

    if (problem->rank_count != 2 || problem->node_count != 1 ||
        problem->expert_count > 32)
        return 0;
    states = coterie_chain_choices(problem->expert_count,
                                   problem->capacity[0]);
    return problem->layer_count * states * states <
           seconds * SUMS_PER_SECOND;
}

static coterie_status_t subsets_solve(const coterie_problem_t *problem,
                                      coterie_search_t *search,
                                      coterie_solution_t *solution)
{
    coterie_chain_t chain;
    halving_t halving = {problem, &chain};
    coterie_status_t status;

    status = coterie_chain_open(&chain, problem->layer_count,
                                problem->expert_count, problem->capacity[0]);
    if (status != COTERIE_OK)
        return status;
    chain_fill(problem, &chain);
    if (problem->load_max != NULL)
        coterie_chain_filter(&chain, load_allows, &halving);
    coterie_chain_refresh(&chain);
    chain.search = search;
    chain.solution = solution;
    if (coterie_chain_solve(&chain, 0) < INFINITY)
        status = offer_best(problem, &chain, solution);
    if (status == COTERIE_OK && !search->stopped)
        coterie_solution_prove(solution, solution->cost,
                               coterie_solver_subsets.name);
    coterie_chain_close(&chain);
    return status;
}

static void chain_fill(const coterie_problem_t *problem,
                       coterie_chain_t *chain)
{
    uint32_t e = problem->expert_count;

    for (uint32_t l = 0; l + 1 < problem->layer_count; l++)
        for (uint32_t i = 0; i < e * e; i++) {
            double weight = coterie_problem_seam(problem, l)[i];
            chain->seam[(size_t)l * e * e + i] = 2 * weight;
            chain->item[l * e + i / e] -= weight;
            chain->item[(l + 1) * e + i % e] -= weight;
        }
    for (uint32_t l = 0; problem->pair && l < problem->layer_count; l++)
        for (uint32_t i = 0; i < e * e; i++) {
            double weight = coterie_problem_pair(problem, l)[i];
            chain->pair[(size_t)l * e * e + i] = 2 * weight;
            chain->item[l * e + i / e] -= weight;
        }
}

static int load_allows(const void *arg, uint32_t layer, uint32_t subset)
{
    const halving_t *halving = arg;
    uint32_t experts = halving->problem->expert_count;
    const uint64_t *load = halving->problem->load + (size_t)layer * experts;
    uint32_t mask = halving->chain->layers[layer].mask[subset];
    uint64_t sum[2] = {0, 0}, max = halving->problem->load_max[layer];

    for (uint32_t e = 0; e < experts; e++)
        sum[mask >> e & 1] += load[e];
    return sum[0] <= max && sum[1] <= max;
}

static coterie_status_t offer_best(const coterie_problem_t *problem,
                                   const coterie_chain_t *chain,
                                   coterie_solution_t *solution)
{
    uint32_t experts = problem->expert_count, best = 0;
    uint32_t last = problem->layer_count - 1;
    const double *ahead = chain->layers[last].ahead;
    uint32_t *masks = calloc(problem->layer_count, sizeof(*masks));
    uint16_t *rank_of = calloc((size_t)problem->layer_count * experts,
                               sizeof(*rank_of));
    coterie_status_t status = COTERIE_OK;

    if (masks == NULL || rank_of == NULL) {
        status = coterie_fail_memory((size_t)problem->layer_count * experts,
                                     "a placement");
        goto out;
    }
    for (uint32_t i = 1; i < chain->layers[last].count; i++)
        if (ahead[i] > ahead[best])
            best = i;
    coterie_chain_through(chain, last, best, masks);
    for (uint32_t i = 0; i < problem->layer_count * experts; i++)
        rank_of[i] = !(masks[i / experts] >> i % experts & 1);
    coterie_solution_offer(problem, solution, rank_of,
                           coterie_solver_subsets.name);
out:
    free(masks);
    free(rank_of);
    return status;
}
