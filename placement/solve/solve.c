#include "config.h"

#include "placement/solve/solver.h"

typedef struct solvers {
    const coterie_solver_t *const *list;
    size_t count;
} solvers_t;

/* In order: what is best at once, or a good start. */
static const coterie_solver_t *const finders[] = {&coterie_solver_assignment,
                                                  &coterie_solver_anneal};

/* In order: a bound for any problem; then what proves the start best, or
 * betters it, on problems of its kind; what is left between cost and bound;
 * and problems made of two of these. */
static const coterie_solver_t *const provers[] = {
    &coterie_solver_matching, &coterie_solver_subsets,
    &coterie_solver_semidefinite, &coterie_solver_columns,
    &coterie_solver_nodes};

#define SOLVERS(list) \
    (solvers_t){list, sizeof(list) / sizeof((list)[0])}

static coterie_status_t solve(const coterie_problem_t *problem,
                              coterie_search_t *search,
                              coterie_solution_t *solution,
                              solvers_t solvers);
static int might_find(const coterie_problem_t *problem,
                      const coterie_search_t *search, solvers_t solvers,
                      size_t from);

coterie_status_t coterie_solve(const coterie_problem_t *problem,
                               coterie_search_t *search,
                               coterie_solution_t *solution)
{
    coterie_status_t status =
        solve(problem, search, solution, SOLVERS(finders));

    if (status == COTERIE_OK)
        status = coterie_solve_bound(problem, search, solution);
    return status;
}

coterie_status_t coterie_solve_bound(const coterie_problem_t *problem,
                                     coterie_search_t *search,
                                     coterie_solution_t *solution)
{
    return solve(problem, search, solution, SOLVERS(provers));
}

int coterie_solve_may_prove(const coterie_problem_t *problem, double seconds)
{
    coterie_problem_t flat = *problem;

    flat.node_count = 1; /* as parts of a problem with nodes are */
    return coterie_solver_subsets.applies(&flat, seconds) ||
           coterie_solver_columns.applies(&flat, seconds) ||
           coterie_solver_semidefinite.applies(&flat, seconds);
}

static coterie_status_t solve(const coterie_problem_t *problem,
                              coterie_search_t *search,
                              coterie_solution_t *solution, solvers_t solvers)
{
    coterie_status_t status = COTERIE_OK;

    for (size_t i = 0; i < solvers.count && status == COTERIE_OK; i++) {
        if (search->stopped || coterie_solution_optimal(problem, solution))
            break;
        if (!solvers.list[i]->applies(problem, search->planned))
            continue;
        search->solver = solvers.list[i]->name;
        status = solvers.list[i]->solve(problem, search, solution);
        search->cut |= search->stopped &&
                       might_find(problem, search, solvers, i);
    }
    return status;
}

/* Would this solver, or one after it, better a placement? */
static int might_find(const coterie_problem_t *problem,
                      const coterie_search_t *search, solvers_t solvers,
                      size_t from)
{
    for (size_t i = from; i < solvers.count; i++)
        if (solvers.list[i]->finds &&
            solvers.list[i]->applies(problem, search->planned))
            return 1;
    return 0;
}
