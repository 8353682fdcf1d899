#include "config.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "placement/solve/columns.h"

/* Set partitioning by column generation. A column is what one rank holds
 * through all layers; ranks of one capacity are one class, which removes their
 * symmetry. Columns are priced exactly, as best chains of subsets. Any prices
 * give a bound (Lagrange); those that gave the best one steady the next
 * (Wentges, 1997). Through every subset the best chain's value is known, so
 * subsets that no placement better than the present one can use are dropped
 * for good, and pricing gets faster as the bound rises. */

enum { ASCENTS = 10, STEPS = 4000, STEPS_BLIND = 40 };

static const double SUMS_PER_SECOND = 5e8; /* of the chain's inner loop */
static const double PRICINGS = 20;         /* all subsets, that a proof takes */
static const double STEADY = 0.9;          /* share of the best prices */
static const double STRIDE = 4;            /* of the ascent's first step */
static const double STRIDE_LESS = 0.9;     /* after a step that was no gain */
static const double KEEP = 0.8;            /* of a step's direction, next */
static const double STEP_FIRST = 0.25;     /* of the length that is meant, */
static const double STEP_LEAST = 0.001;    /* and in the end */
static const double STEP_GAIN = 1e-3;      /* of the gap: less is none */

static int columns_applies(const coterie_problem_t *problem, double seconds);
static coterie_status_t columns_solve(const coterie_problem_t *problem,
                                      coterie_search_t *search,
                                      coterie_solution_t *solution);
static coterie_status_t add_solution(coterie_columns_t *c);
static coterie_status_t ascend(coterie_columns_t *c);
static coterie_status_t step_down(coterie_columns_t *c);
static void direction_set(coterie_columns_t *c, uint32_t layer,
                          double *direction);
static void price_by_solution(coterie_columns_t *c);
static void price_set(coterie_columns_t *c, double steady);
static coterie_status_t choose_columns(coterie_columns_t *c);

const coterie_solver_t coterie_solver_columns = {
    "column generation", 1, columns_applies, columns_solve};

coterie_status_t coterie_columns_generate(coterie_columns_t *c)
{
    double steady = STEADY;

    while (coterie_master_solve(&c->master, c->search, c->solution) == 0) {
        coterie_status_t status;
        uint32_t added;
        price_set(c, steady);
        coterie_columns_price(c);
        if (coterie_columns_done(c))
            return COTERIE_OK;
        status = coterie_columns_add(c, &added);
        if (status != COTERIE_OK || (added == 0 && steady == 0))
            return status;
        coterie_columns_drop(c);
        /* where steadied prices find nothing, the true ones may */
        steady = added == 0 ? 0 : STEADY;
    }
    return COTERIE_OK;
}

coterie_status_t coterie_columns_offer(coterie_columns_t *c)
{
    const coterie_problem_t *p = c->problem;
    size_t items = (size_t)p->layer_count * p->expert_count;
    uint32_t next[COTERIE_CLASSES_MAX];
    uint16_t *rank_of = calloc(items, sizeof(*rank_of));

    if (rank_of == NULL)
        return coterie_fail_memory(items * sizeof(*rank_of), "a placement");
    memcpy(next, c->class_first, sizeof(next));
    for (uint32_t i = 0; i < p->rank_count; i++) {
        const coterie_column_t *column = &c->master.columns[c->chosen[i]];
        const uint32_t *masks = c->master.masks + column->at;
        uint32_t rank = next[column->class]++;
        for (uint32_t k = 0; k < items; k++)
            if (masks[k / p->expert_count] >> k % p->expert_count & 1)
                rank_of[k] = rank;
    }
    coterie_solution_offer(p, c->solution, rank_of,
                           coterie_solver_columns.name);
    free(rank_of);
    return COTERIE_OK;
}

static int columns_applies(const coterie_problem_t *problem, double seconds)
{
    int alike;
    uint32_t most = coterie_problem_capacity(problem, &alike);
    double subsets;

    if (problem->rank_count < 2 || problem->node_count != 1 ||
        problem->expert_count > 32 || !alike)
        return 0;
    subsets = coterie_chain_choices(problem->expert_count, most);
    return 2 * problem->layer_count * subsets * subsets * PRICINGS <
           seconds * SUMS_PER_SECOND;
}

static coterie_status_t columns_solve(const coterie_problem_t *problem,
                                      coterie_search_t *search,
                                      coterie_solution_t *solution)
{
    coterie_columns_t c = {.problem = problem, .search = search,
                           .solution = solution};
    coterie_status_t status = coterie_columns_open(&c);

    if (status == COTERIE_OK)
        status = add_solution(&c);
    if (status == COTERIE_OK)
        status = ascend(&c);
    if (status == COTERIE_OK && !coterie_columns_done(&c))
        status = coterie_columns_generate(&c);
    if (status == COTERIE_OK && !coterie_columns_done(&c))
        status = choose_columns(&c);
    if (status == COTERIE_OK && !coterie_columns_done(&c))
        status = coterie_columns_branch(&c);
    coterie_columns_close(&c);
    return status;
}

/* The present solution's columns: the master is feasible from the start. */
static coterie_status_t add_solution(coterie_columns_t *c)
{
    const coterie_problem_t *p = c->problem;
    coterie_status_t status = COTERIE_OK;

    for (uint32_t r = 0; status == COTERIE_OK && r < p->rank_count; r++) {
        uint32_t class = c->class_count - 1;
        while (c->class_first[class] > r)
            class--;
        memset(c->masks, 0, p->layer_count * sizeof(*c->masks));
        for (uint32_t i = 0; i < p->layer_count * p->expert_count; i++)
            if (c->solution->rank_of[i] == r)
                c->masks[i / p->expert_count] |= 1u << i % p->expert_count;
        status = coterie_master_add(&c->master, c->masks, class,
                                    coterie_columns_value(c, class, c->masks));
    }
    return status;
}

/* Good prices without the master, which at first knows nothing: from those of
 * a bound that is known or, without one, those at which the present solution's
 * columns are worth nothing, every expert's price moves by its share of the
 * best column that holds it. */
static coterie_status_t ascend(coterie_columns_t *c)
{
    const coterie_problem_t *p = c->problem;
    size_t items = (size_t)p->layer_count * p->expert_count;
    double stride = STRIDE * p->rank_count / items;
    coterie_status_t status;
    uint32_t added;

    if (c->solution->price != NULL)
        memcpy(c->price, c->solution->price, items * sizeof(*c->price));
    else
        price_by_solution(c);
    for (uint32_t i = 0; i < ASCENTS; i++) {
        double before = c->best_limit;
        coterie_columns_price(c);
        coterie_columns_drop(c);
        if (coterie_search_over(c->search, c->solution) ||
            coterie_columns_done(c))
            return COTERIE_OK;
        if (c->limit >= before)
            stride *= STRIDE_LESS;
        coterie_columns_by_row(c, 0); /* one class leads the others */
        for (size_t k = 0; k < items; k++)
            if (c->row_best[k] > -INFINITY)
                c->price[k] += stride * c->row_best[k];
    }
    status = step_down(c);
    if (status != COTERIE_OK || coterie_columns_done(c))
        return status;
    memcpy(c->master.dual, c->best_price, items * sizeof(*c->best_price));
    price_set(c, 1);
    coterie_columns_price(c);
    return coterie_columns_add(c, &added);
}

/* Then by subgradients (Polyak, 1969), towards the present cost: were that the
 * best, and no gap left between it and the bound, steps of this length would
 * lead there. A step follows the best columns through a layer's experts, one
 * layer after the other, not the one best column only, and what it followed
 * before. */
static coterie_status_t step_down(coterie_columns_t *c)
{
    const coterie_problem_t *p = c->problem;
    size_t items = (size_t)p->layer_count * p->expert_count;
    double target = c->weight - c->solution->cost, length = STEP_FIRST;
    double *direction = calloc(items, sizeof(*direction));
    uint32_t idle = 0;

    if (direction == NULL)
        return coterie_fail_memory(items * sizeof(*direction), "a direction");
    memcpy(c->price, c->best_price, items * sizeof(*c->price));
    for (uint32_t i = 0; i < STEPS && length > STEP_LEAST; i++) {
        double before = c->best_limit, square = 0;
        coterie_columns_price(c);
        coterie_columns_drop(c);
        if (coterie_search_over(c->search, c->solution) ||
            coterie_columns_done(c))
            break;
        idle = c->best_limit < before - STEP_GAIN * (before - target)
                   ? 0 : idle + 1;
        if (idle == STEPS_BLIND) {
            length /= 2;
            idle = 0;
            memcpy(c->price, c->best_price, items * sizeof(*c->price));
            memset(direction, 0, items * sizeof(*direction));
            coterie_columns_price(c);
        }
        direction_set(c, i % p->layer_count, direction);
        for (size_t k = 0; k < items; k++)
            square += direction[k] * direction[k];
        for (size_t k = 0; square > 0 && k < items; k++)
            c->price[k] -= length * (c->limit - target) / square *
                           direction[k];
    }
    free(direction);
    return COTERIE_OK;
}

/* How much too little is asked for every expert: 1 less the ranks that would
 * hold it. */
static void direction_set(coterie_columns_t *c, uint32_t layer,
                          double *direction)
{
    const coterie_problem_t *p = c->problem;
    uint32_t e = p->expert_count;
    size_t items = (size_t)p->layer_count * e;

    for (size_t k = 0; k < items; k++)
        direction[k] = KEEP * direction[k] + (1 - KEEP);
    for (uint32_t class = 0; class < c->class_count; class++) {
        coterie_columns_by_row(c, class);
        for (uint32_t f = 0; f < e; f++) {
            double share = (1 - KEEP) * c->class_size[class] / e;
            if (c->row_best[layer * e + f] == -INFINITY)
                continue;
            coterie_chain_through(&c->chain[class], layer,
                                  c->row_at[layer * e + f], c->masks);
            for (size_t k = 0; k < items; k++)
                if (c->masks[k / e] >> k % e & 1)
                    direction[k] -= share;
        }
    }
}

static void price_by_solution(coterie_columns_t *c)
{
    const coterie_problem_t *p = c->problem;
    const uint16_t *rank_of = c->solution->rank_of;
    uint32_t e = p->expert_count;
    size_t cells = (size_t)e * e;

    for (size_t i = 0; i < (p->layer_count - 1) * cells; i++) {
        size_t from = i / e, to = i / cells * e + e + i % e;
        if (rank_of[from] != rank_of[to])
            continue;
        c->price[from] += p->seam[i] / 2;
        c->price[to] += p->seam[i] / 2;
    }
    for (size_t i = 0; p->pair && i < p->layer_count * cells; i++)
        if (rank_of[i / e] == rank_of[i / cells * e + i % e])
            c->price[i / e] += p->pair[i] / 2;
}

static void price_set(coterie_columns_t *c, double steady)
{
    size_t items = (size_t)c->problem->layer_count * c->problem->expert_count;

    if (c->best_limit == INFINITY)
        steady = 0;
    for (size_t i = 0; i < items; i++)
        c->price[i] = steady * c->best_price[i] +
                      (1 - steady) * c->master.dual[i];
}

/* The best whole columns of those there are: often the best placement, and
 * anyway a better one to measure branches against. */
static coterie_status_t choose_columns(coterie_columns_t *c)
{
    if (coterie_master_choose(&c->master, c->search, c->solution,
                              c->chosen) != 0)
        return COTERIE_OK;
    return coterie_columns_offer(c);
}
