#include "config.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "placement/solve/matching.h"
#include "placement/solve/solver.h"

/* A bound for problems of any size. On one rank, an expert has no more than a
 * rank's capacity of partners in the next layer, and one fewer in its own: so
 * no seam keeps more than its heaviest choice of that many partners for each,
 * and no layer more than half of such a choice. */

enum { SWEEPS = 20 };

typedef struct augment {
    const float *weight;
    uint32_t count;
    double *row_price, *column_price, *reach; /* [count + 1], 1-based */
    uint32_t *row_of, *before;                /* [count + 1]; 0: none */
    uint8_t *done;
} augment_t;

static int matching_applies(const coterie_problem_t *problem, double seconds);
static coterie_status_t matching_solve(const coterie_problem_t *problem,
                                       coterie_search_t *search,
                                       coterie_solution_t *solution);
static double least_apart(const float *weight, uint32_t count,
                          uint32_t degree, double *work);
static void augment_row(augment_t *a, uint32_t row);
static uint32_t nearest_column(augment_t *a, uint32_t column);
static void prices_meet(const float *weight, uint32_t count, int transposed,
                        uint32_t degree, double *work);
static double nth_largest(double *values, uint32_t count, uint32_t n);

const coterie_solver_t coterie_solver_matching = {
    "matchings", 0, matching_applies, matching_solve};

coterie_status_t coterie_match(const float *weight, uint32_t count,
                               uint32_t *match)
{
    augment_t a = {.weight = weight, .count = count};
    size_t n = (size_t)count + 1;
    double *prices = calloc(3 * n, sizeof(*prices));
    uint32_t *links = calloc(2 * n, sizeof(*links));
    coterie_status_t status = COTERIE_OK;

    a.done = calloc(n, sizeof(*a.done));
    if (prices == NULL || links == NULL || a.done == NULL) {
        status = coterie_fail_memory(n * 33, "a matching");
        goto out;
    }
    a.row_price = prices;
    a.column_price = prices + n;
    a.reach = prices + 2 * n;
    a.row_of = links;
    a.before = links + n;
    for (uint32_t row = 1; row <= count; row++)
        augment_row(&a, row);
    for (uint32_t column = 1; column <= count; column++)
        match[a.row_of[column] - 1] = column - 1;
out:
    free(prices);
    free(links);
    free(a.done);
    return status;
}

double coterie_match_limit(const float *weight, uint32_t count,
                           uint32_t degree, double *work)
{
    double *row = work, *column = work + count, best = INFINITY;

    if (degree == 0)
        return 0;
    memset(work, 0, 2 * count * sizeof(*work));
    for (uint32_t sweep = 0; sweep < SWEEPS; sweep++) {
        double limit = 0;
        prices_meet(weight, count, 0, degree, work);
        prices_meet(weight, count, 1, degree, work);
        for (uint32_t i = 0; i < count; i++)
            limit += degree * (row[i] + column[i]);
        for (size_t i = 0; i < (size_t)count * count; i++)
            limit += fmax(0, weight[i] - row[i / count] - column[i % count]);
        best = fmin(best, limit);
    }
    return best;
}

static int matching_applies(const coterie_problem_t *problem, double seconds)
{
    (void)seconds;
    return problem->rank_count > 1;
}

static coterie_status_t matching_solve(const coterie_problem_t *problem,
                                       coterie_search_t *search,
                                       coterie_solution_t *solution)
{
    int alike;
    uint32_t e = problem->expert_count;
    uint32_t degree = coterie_problem_capacity(problem, &alike);
    double bound = 0;
    double *work = malloc(3 * (size_t)e * sizeof(*work));

    if (work == NULL)
        return coterie_fail_memory(3 * (size_t)e * sizeof(*work), "a bound");
    for (uint32_t l = 0; l < problem->layer_count; l++) {
        if (coterie_search_over(search, solution))
            break;
        if (l + 1 < problem->layer_count)
            bound += least_apart(coterie_problem_seam(problem, l), e, degree,
                                 work);
        if (problem->pair != NULL)
            bound += least_apart(coterie_problem_pair(problem, l), e,
                                 degree - 1, work) / 2;
    }
    free(work);
    /* seams that there was no time for may cost nothing */
    coterie_solution_prove(solution, bound, coterie_solver_matching.name);
    return COTERIE_OK;
}

static double least_apart(const float *weight, uint32_t count,
                          uint32_t degree, double *work)
{
    double sum = 0;

    for (size_t i = 0; i < (size_t)count * count; i++)
        sum += weight[i];
    return sum - coterie_match_limit(weight, count, degree, work);
}

/* Finds the cheapest way to give the row a column, moving others. */
static void augment_row(augment_t *a, uint32_t row)
{
    uint32_t column = 0;

    a->row_of[0] = row;
    for (uint32_t i = 0; i <= a->count; i++) {
        a->reach[i] = INFINITY;
        a->done[i] = 0;
    }
    do
        column = nearest_column(a, column);
    while (a->row_of[column] != 0);
    while (column != 0) {
        a->row_of[column] = a->row_of[a->before[column]];
        column = a->before[column];
    }
}

/* Scans the row matched to a column, and moves prices on to the next one. */
static uint32_t nearest_column(augment_t *a, uint32_t column)
{
    uint32_t row = a->row_of[column], nearest = 0;
    const float *weight = a->weight + (size_t)(row - 1) * a->count;
    double least = INFINITY;

    a->done[column] = 1;
    for (uint32_t j = 1; j <= a->count; j++) {
        double cost;
        if (a->done[j])
            continue;
        cost = -weight[j - 1] - a->row_price[row] - a->column_price[j];
        if (cost < a->reach[j]) {
            a->reach[j] = cost;
            a->before[j] = column;
        }
        if (a->reach[j] < least) {
            least = a->reach[j];
            nearest = j;
        }
    }
    for (uint32_t j = 0; j <= a->count; j++)
        if (a->done[j]) {
            a->row_price[a->row_of[j]] += least;
            a->column_price[j] -= least;
        } else {
            a->reach[j] -= least;
        }
    return nearest;
}

/* Sets one side's prices to what is best against the other's: at such a price
 * an expert wants no more than its degree of partners. */
static void prices_meet(const float *weight, uint32_t count, int transposed,
                        uint32_t degree, double *work)
{
    double *mine = transposed ? work + count : work;
    const double *other = transposed ? work : work + count;
    double *margin = work + 2 * (size_t)count;

    for (uint32_t i = 0; i < count; i++) {
        for (uint32_t j = 0; j < count; j++) {
            size_t cell = transposed ? (size_t)j * count + i
                                     : (size_t)i * count + j;
            margin[j] = weight[cell] - other[j];
        }
        /* between the last partner wanted and the first not: halfway keeps
         * both sides moving */
        mine[i] = nth_largest(margin, count, degree);
        if (degree < count)
            mine[i] = (mine[i] + nth_largest(margin, count, degree + 1)) / 2;
        mine[i] = fmax(0, mine[i]);
    }
}

static double nth_largest(double *values, uint32_t count, uint32_t n)
{
    uint32_t first = 0, last = count - 1, at = n - 1;

    while (first < last) {
        double pivot = values[first + (last - first) / 2];
        uint32_t i = first, j = last;
        while (i <= j) {
            while (values[i] > pivot)
                i++;
            while (values[j] < pivot)
                j--;
            if (i <= j) {
                double swapped = values[i];
                values[i++] = values[j];
                values[j] = swapped;
                if (j-- == 0)
                    break;
            }
        }
        if (at <= j && j < count)
            last = j;
        else if (at >= i)
            first = i;
        else
            break;
    }
    return values[at];
}
