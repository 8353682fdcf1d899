#include "config.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "placement/solve/matching.h"
#include "placement/solve/solver.h"

/* One expert a rank and layer: nothing is kept inside a layer, and seams do
 * not depend on each other, since a layer's ranks may be renumbered freely.
 * An assignment per seam is therefore the best placement. */

static int assignment_applies(const coterie_problem_t *problem,
                              double seconds);
static coterie_status_t assignment_solve(const coterie_problem_t *problem,
                                         coterie_search_t *search,
                                         coterie_solution_t *solution);

const coterie_solver_t coterie_solver_assignment = {
    "assignment", 1, assignment_applies, assignment_solve};

static int assignment_applies(const coterie_problem_t *problem, double seconds)
{
    int alike;

    (void)seconds;
    return problem->node_count == 1 &&
           problem->rank_count == problem->expert_count &&
           coterie_problem_capacity(problem, &alike) == 1;
}

static coterie_status_t assignment_solve(const coterie_problem_t *problem,
                                         coterie_search_t *search,
                                         coterie_solution_t *solution)
{
    uint32_t e = problem->expert_count;
    size_t items = (size_t)problem->layer_count * e;
    uint16_t *rank_of = calloc(items, sizeof(*rank_of));
    uint32_t *match = calloc(e, sizeof(*match));
    coterie_status_t status = COTERIE_OK;

    if (rank_of == NULL || match == NULL)
        status = coterie_fail_memory(items * sizeof(*rank_of), "a placement");
    for (uint32_t i = 0; status == COTERIE_OK && i < e; i++)
        rank_of[i] = i;
    for (uint32_t l = 0; status == COTERIE_OK && l + 1 < problem->layer_count;
         l++) {
        status = coterie_match(coterie_problem_seam(problem, l), e, match);
        for (uint32_t i = 0; status == COTERIE_OK && i < e; i++)
            rank_of[(l + 1) * (size_t)e + match[i]] =
                rank_of[l * (size_t)e + i];
    }
    if (status == COTERIE_OK && !coterie_search_over(search, solution)) {
        coterie_solution_offer(problem, solution, rank_of,
                               coterie_solver_assignment.name);
        coterie_solution_prove(solution, solution->cost,
                               coterie_solver_assignment.name);
    }
    free(match);
    free(rank_of);
    return status;
}
