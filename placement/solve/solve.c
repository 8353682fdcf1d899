#include "config.h"

#include "placement/solve/solver.h"

/* In order: what is best at once, or a good start; a bound for any problem;
 * then what proves the start best, or betters it, on problems of its kind. */
static const coterie_solver_t *const solvers[] = {
    &coterie_solver_assignment, &coterie_solver_anneal,
    &coterie_solver_matching,   &coterie_solver_subsets,
    &coterie_solver_columns,    &coterie_solver_nodes,
};

coterie_status_t coterie_solve(const coterie_problem_t *problem,
                               coterie_search_t *search,
                               coterie_solution_t *solution)
{
    coterie_status_t status = COTERIE_OK;

    for (size_t i = 0; i < sizeof(solvers) / sizeof(solvers[0]); i++) {
        if (status != COTERIE_OK || search->stopped ||
            coterie_solution_optimal(problem, solution))
            break;
        if (!solvers[i]->applies(problem, coterie_search_left(search)))
            continue;
        search->solver = solvers[i]->name;
        status = solvers[i]->solve(problem, search, solution);
    }
    return status;
}
