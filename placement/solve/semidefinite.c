#include "config.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "placement/solve/gram.h"
#include "placement/solve/matching.h"
#include "placement/solve/parallel.h"

/* A bound from the semidefinite relaxation, for problems without nodes. Any
 * forces give one: what entries then weigh is bounded by matchings, layer by
 * layer and seam by seam, and what windows could still gain by their greatest
 * eigenvalue, which Cholesky's decomposition bounds, times their trace. So
 * steps may be rough, and in single precision; the bound is not. */

enum {
    STEPS_LEAST = 15, /* fewer say less than matchings */
    BOUND_EVERY = 20, /* steps */
    STIFFEN_EVERY = 10,
    STIFFEN_LAST = 200, /* after which squares' weight stays */
    IDLE_MOST = 8 /* bounds in a row that are hardly better: steps waver */
};

static const double SIZE_MOST = 96e6;      /* bytes */
static const double CELL_SECONDS = 0.6e-9; /* a step, for size^3 of a window */
static const double UNEVEN = 3, STIFFEN = 1.5;
static const double STALLED = 2e-4; /* of the gap, between two bounds */
static const double STALLED_PROOF = 1e-5;
static const double ROUNDING = 1e-7; /* of all weight: f32, generously */
static const double VALUE_STEP = 4; /* from one guess at an eigenvalue on */
static const double FAR = 1e6;

static int semidefinite_applies(const coterie_problem_t *problem,
                                double seconds);
static coterie_status_t semidefinite_solve(const coterie_problem_t *problem,
                                           coterie_search_t *search,
                                           coterie_solution_t *solution);
static coterie_status_t prices_tell(const coterie_gram_t *g);
static double price_of(const coterie_gram_t *g, uint32_t layer, uint32_t e);
static int steps_take(coterie_gram_t *gram, uint32_t from);
static void bound_prove(coterie_gram_t *gram);
static void seam_keeps(void *arg, uint32_t thread, uint32_t seam);
static double force_sum(const coterie_gram_t *g, uint32_t seam);
static double window_gain(const coterie_gram_t *g, uint32_t thread,
                          uint32_t seam);
static double square_fill(const coterie_gram_t *g, double *square,
                          uint32_t seam, double value);
static void layer_keeps(void *arg, uint32_t thread, uint32_t layer);
static double inner_weight(const coterie_gram_t *g, uint32_t layer, uint32_t e,
                           uint32_t f);

const coterie_solver_t coterie_solver_semidefinite = {
    "semidefinite windows", 0, semidefinite_applies, semidefinite_solve};

static int semidefinite_applies(const coterie_problem_t *problem,
                                double seconds)
{
    int alike;
    double side = 2.0 * problem->rank_count *
                  coterie_problem_capacity(problem, &alike);

    return alike && problem->node_count == 1 && problem->layer_count > 1 &&
           problem->rank_count > 1 &&
           coterie_gram_size(problem) < SIZE_MOST &&
           STEPS_LEAST * problem->layer_count * side * side * side *
                   CELL_SECONDS < seconds;
}

static coterie_status_t semidefinite_solve(const coterie_problem_t *problem,
                                           coterie_search_t *search,
                                           coterie_solution_t *solution)
{
    coterie_gram_t gram = {.problem = problem, .search = search,
                           .solution = solution};
    coterie_status_t status = coterie_gram_open(&gram);
    double stalled = search->proof ? STALLED_PROOF : STALLED;
    uint32_t idle = 0;

    for (uint32_t steps = 0; status == COTERIE_OK; steps += BOUND_EVERY) {
        double before = solution->bound;
        int over = steps_take(&gram, steps);
        double gap = solution->cost - before;
        bound_prove(&gram);
        if (solution->bound - before < gap * stalled)
            idle++;
        else
            idle = 0;
        if (over || coterie_solution_optimal(problem, solution) ||
            (steps > 0 && idle >= IDLE_MOST))
            break;
    }
    if (status == COTERIE_OK && !search->stopped)
        status = prices_tell(&gram);
    coterie_gram_close(&gram);
    return status;
}

/* Of one rank's experts x, 1 or 0, windows bound what is kept together: by
 * terms that are linear in x, if x less 1 / ranks is what they are not positive
 * about. These are the experts' prices. */
static coterie_status_t prices_tell(const coterie_gram_t *g)
{
    const coterie_problem_t *p = g->problem;
    size_t items = (size_t)p->layer_count * p->expert_count;
    double *price = g->solution->price;

    if (price == NULL)
        price = malloc(items * sizeof(*price));
    if (price == NULL)
        return coterie_fail_memory(items * sizeof(*price), "prices");
    for (size_t i = 0; i < items; i++)
        price[i] = g->unit * price_of(g, i / p->expert_count,
                                      i % p->expert_count);
    g->solution->price = price;
    return COTERIE_OK;
}

static double price_of(const coterie_gram_t *g, uint32_t layer, uint32_t e)
{
    size_t item = (size_t)layer * g->experts + e;
    double tolls = g->toll[item], sum = 0;

    for (uint32_t half = 0; half < 2; half++) {
        const float *row;
        if (half > layer || layer - half + 1 >= g->problem->layer_count)
            continue;
        row = coterie_gram_row(g, g->force, layer - half, half, 0, e);
        for (uint32_t f = 0; f < 2 * g->experts; f++)
            sum += row[f];
        tolls += half ? g->toll_column[item - g->experts] : g->toll_row[item];
    }
    return inner_weight(g, layer, e, e) +
           g->stiff * (tolls + 2 * sum / g->problem->rank_count);
}

static int steps_take(coterie_gram_t *gram, uint32_t from)
{
    for (uint32_t i = from + 1; i <= from + BOUND_EVERY; i++) {
        coterie_gram_rest_t rest;
        double ratio;
        if (coterie_gram_step(gram, &rest) != 0)
            return -1;
        if (i % STIFFEN_EVERY != 0 || i > STIFFEN_LAST)
            continue;
        ratio = sqrt(rest.apart / fmax(rest.moved, DBL_MIN));
        if (ratio > UNEVEN)
            coterie_gram_stiffen(gram, STIFFEN);
        else if (ratio < 1 / UNEVEN)
            coterie_gram_stiffen(gram, 1 / STIFFEN);
    }
    return 0;
}

static void bound_prove(coterie_gram_t *gram)
{
    const coterie_problem_t *p = gram->problem;
    double weight = coterie_problem_seam_weight(p) +
                    coterie_problem_pair_weight(p);
    double kept = ROUNDING * weight / gram->unit;

    if (coterie_parallel(&gram->parallel, p->layer_count - 1, seam_keeps,
                         gram) != 0 ||
        coterie_parallel(&gram->parallel, p->layer_count, layer_keeps,
                         gram) != 0)
        return;
    for (uint32_t i = 0; i < 2 * p->layer_count - 1; i++)
        kept += gram->kept[i];
    coterie_solution_prove(gram->solution, weight - kept * gram->unit,
                           coterie_solver_semidefinite.name);
}

/* What the seam's own entries keep, the mean that windows are less of, and
 * what the window may gain. */
static void seam_keeps(void *arg, uint32_t thread, uint32_t seam)
{
    coterie_gram_t *g = arg;
    uint32_t e = g->experts;
    const float *load = g->load + (size_t)seam * e, *next = load + e;
    const float *toll_row = g->toll_row + (size_t)seam * e;
    const float *toll_column = g->toll_column + (size_t)seam * e;
    float *weight = g->desks[thread].weight;
    double kept = force_sum(g, seam) / g->problem->rank_count +
                  window_gain(g, thread, seam);

    for (uint32_t i = 0; i < e; i++) {
        const float *force = coterie_gram_row(g, g->force, seam, 0, 1, i);
        for (uint32_t j = 0; j < e; j++)
            weight[(size_t)i * e + j] =
                coterie_gram_weight(g, seam, 1, i, j) -
                g->stiff * (force[j] +
                            coterie_gram_row(g, g->force, seam, 1, 0, j)[i] +
                            toll_row[i] * next[j] + toll_column[j] * load[i]);
        kept += toll_row[i] + toll_column[i];
    }
    g->kept[seam] = kept * g->stiff +
                    coterie_match_limit(weight, e, g->capacity,
                                        g->desks[thread].work);
}

static double force_sum(const coterie_gram_t *g, uint32_t seam)
{
    double sum = 0;

    for (uint32_t i = 0; i < 2 * g->experts; i++) {
        const float *row = coterie_gram_row(g, g->force, seam, 0, 0, i);
        for (uint32_t j = 0; j < 2 * g->experts; j++)
            sum += row[j];
    }
    return sum;
}

/* After a step hardly anything, since force was left with what is negative. */
static double window_gain(const coterie_gram_t *g, uint32_t thread,
                          uint32_t seam)
{
    uint32_t side = 2 * g->experts;
    double *square = g->desks[thread].square;
    double trace = side * (1 - 1.0 / g->problem->rank_count);
    double largest = square_fill(g, square, seam, 0);

    for (double value = FLT_EPSILON * largest;; value *= VALUE_STEP) {
        square_fill(g, square, seam, value);
        if (largest == 0 || coterie_eigen_is_positive(square, side))
            return value * trace;
    }
}

/* value x identity - force, and far more along what windows cannot have: sums
 * of rows. Returns the largest entry of force. */
static double square_fill(const coterie_gram_t *g, double *square,
                          uint32_t seam, double value)
{
    uint32_t e = g->experts, side = 2 * e;
    double largest = 0;

    for (uint32_t i = 0; i < side; i++) {
        const float *row = coterie_gram_row(g, g->force, seam, 0, 0, i);
        for (uint32_t j = 0; j <= i; j++) {
            double force = row[j];
            force += coterie_gram_row(g, g->force, seam, 0, 0, j)[i];
            largest = fmax(largest, fabs(force / 2));
            square[(size_t)i * side + j] = (i == j ? value : 0) - force / 2;
        }
    }
    for (size_t i = 0; i < (size_t)side * side; i++)
        if (i / side / e == i % side / e)
            square[i] += FAR * largest;
    return largest;
}

/* A layer's entries weigh what its two windows leave them. */
static void layer_keeps(void *arg, uint32_t thread, uint32_t layer)
{
    coterie_gram_t *g = arg;
    uint32_t e = g->experts;
    const float *toll = g->toll + (size_t)layer * e;
    float *weight = g->desks[thread].weight;
    double kept = 0;

    for (uint32_t i = 0; i < e; i++) {
        for (uint32_t j = 0; j < e; j++)
            weight[(size_t)i * e + j] = inner_weight(g, layer, i, j);
        kept += weight[(size_t)i * e + i] + g->stiff * toll[i];
        weight[(size_t)i * e + i] = 0; /* an expert is with itself */
    }
    g->kept[g->problem->layer_count - 1 + layer] =
        kept + coterie_match_limit(weight, e, g->capacity - 1,
                                   g->desks[thread].work);
}

static double inner_weight(const coterie_gram_t *g, uint32_t layer, uint32_t e,
                           uint32_t f)
{
    size_t first = (size_t)layer * g->experts;
    const float *load = g->load + first, *toll = g->toll + first;
    double force = (toll[e] * load[f] + toll[f] * load[e]) / 2;

    if (layer > 0)
        force += coterie_gram_row(g, g->force, layer - 1, 1, 1, e)[f];
    if (layer + 1 < g->problem->layer_count)
        force += coterie_gram_row(g, g->force, layer, 0, 0, e)[f];
    return coterie_gram_weight(g, layer, 0, e, f) / 2 - g->stiff * force;
}
