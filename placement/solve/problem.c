#include "config.h"

#include <assert.h>
#include <string.h>

#include "placement/solve/problem.h"

static double block_cost(const coterie_problem_t *problem, const float *weight,
                         const uint16_t *from, const uint16_t *to);
static double block_weight(const float *weight, uint32_t count);
static int layer_legal(const coterie_problem_t *problem, uint32_t layer,
                       const uint16_t *rank_of);
static double slots_apart(const coterie_problem_t *problem);

double coterie_problem_link(const coterie_problem_t *problem, uint32_t a,
                            uint32_t b)
{
    if (a == b)
        return 0;
    if (problem->node_count == 1) /* saves two divisions, of very many */
        return 1;
    return coterie_problem_node(problem, a) == coterie_problem_node(problem, b)
               ? 1
               : problem->network_cost;
}

uint32_t coterie_problem_capacity(const coterie_problem_t *problem, int *alike)
{
    const uint32_t *capacity = problem->capacity;
    uint32_t most = capacity[0];

    *alike = 1;
    for (uint32_t r = 1; r < problem->rank_count; r++) {
        *alike &= capacity[r] <= capacity[r - 1] &&
                  capacity[r] + 1 >= capacity[0];
        most = capacity[r] > most ? capacity[r] : most;
    }
    return most;
}

double coterie_problem_cost(const coterie_problem_t *problem,
                            const uint16_t *rank_of)
{
    uint32_t experts = problem->expert_count;
    double cost = 0;

    for (uint32_t l = 0; l < problem->layer_count; l++) {
        const uint16_t *here = rank_of + (size_t)l * experts;
        if (problem->pair != NULL) /* both triangles, so twice */
            cost += block_cost(problem, coterie_problem_pair(problem, l), here,
                               here) / 2;
        if (l + 1 < problem->layer_count)
            cost += block_cost(problem, coterie_problem_seam(problem, l), here,
                               here + experts);
    }
    return cost;
}

double coterie_problem_seam_weight(const coterie_problem_t *problem)
{
    double weight = 0;

    for (uint32_t l = 0; l + 1 < problem->layer_count; l++)
        weight += block_weight(coterie_problem_seam(problem, l),
                               problem->expert_count);
    return weight;
}

double coterie_problem_pair_weight(const coterie_problem_t *problem)
{
    double weight = 0;

    for (uint32_t l = 0; problem->pair && l < problem->layer_count; l++)
        weight += block_weight(coterie_problem_pair(problem, l),
                               problem->expert_count) / 2;
    return weight;
}

void coterie_problem_measure(coterie_problem_t *problem)
{
    problem->tolerance = 1e-9 * problem->network_cost *
                         (coterie_problem_seam_weight(problem) +
                          coterie_problem_pair_weight(problem));
}

double coterie_problem_random_cost(const coterie_problem_t *problem)
{
    double slots = problem->expert_count, apart = slots_apart(problem);
    double cost = coterie_problem_seam_weight(problem) * apart /
                  (slots * slots);

    if (slots > 1)
        cost += coterie_problem_pair_weight(problem) * apart /
                (slots * (slots - 1));
    return cost;
}

int coterie_problem_legal(const coterie_problem_t *problem,
                          const uint16_t *rank_of)
{
    for (uint32_t l = 0; l < problem->layer_count; l++)
        if (!layer_legal(problem, l,
                         rank_of + (size_t)l * problem->expert_count))
            return 0;
    return 1;
}

void coterie_solution_offer(const coterie_problem_t *problem,
                            coterie_solution_t *solution,
                            const uint16_t *candidate, const char *by)
{
    size_t count = (size_t)problem->layer_count * problem->expert_count;
    double cost = coterie_problem_cost(problem, candidate);

    assert(coterie_problem_legal(problem, candidate));
    if (cost + problem->tolerance >= solution->cost)
        return;
    memcpy(solution->rank_of, candidate, count * sizeof(*candidate));
    solution->cost = cost;
    solution->by = by;
}

void coterie_solution_prove(coterie_solution_t *solution, double bound,
                            const char *by)
{
    if (bound > solution->cost)
        bound = solution->cost;
    if (bound <= solution->bound)
        return;
    solution->bound = bound;
    solution->bound_by = by;
}

int coterie_solution_optimal(const coterie_problem_t *problem,
                             const coterie_solution_t *solution)
{
    return solution->cost - solution->bound <=
           problem->tolerance;
}

static double block_cost(const coterie_problem_t *problem, const float *weight,
                         const uint16_t *from, const uint16_t *to)
{
    uint32_t experts = problem->expert_count;
    double cost = 0;

    for (uint32_t e = 0; e < experts; e++, weight += experts)
        for (uint32_t f = 0; f < experts; f++)
            if (from[e] != to[f])
                cost += weight[f] *
                        coterie_problem_link(problem, from[e], to[f]);
    return cost;
}

static double block_weight(const float *weight, uint32_t count)
{
    double sum = 0;

    for (size_t i = 0; i < (size_t)count * count; i++)
        sum += weight[i];
    return sum;
}

static int layer_legal(const coterie_problem_t *problem, uint32_t layer,
                       const uint16_t *rank_of)
{
    const uint64_t *load =
        problem->load + (size_t)layer * problem->expert_count;

    for (uint32_t r = 0; r < problem->rank_count; r++) {
        uint32_t held = 0;
        uint64_t sum = 0;
        for (uint32_t e = 0; e < problem->expert_count; e++)
            if (rank_of[e] == r) {
                held++;
                sum += load[e];
            }
        if (held != problem->capacity[r] ||
            (problem->load_max != NULL && sum > problem->load_max[layer]))
            return 0;
    }
    return 1;
}

/* Link costs summed over all ordered pairs of slots; a pair inside a layer
 * never shares a slot, which changes nothing, for that link is free. */
static double slots_apart(const coterie_problem_t *problem)
{
    double sum = 0;

    for (uint32_t a = 0; a < problem->rank_count; a++)
        for (uint32_t b = 0; b < problem->rank_count; b++)
            sum += coterie_problem_link(problem, a, b) *
                   problem->capacity[a] * problem->capacity[b];
    return sum;
}
