#include "config.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "placement/solve/chain.h"
#include "placement/solve/master.h"
#include "placement/solve/solver.h"

/* Set partitioning by column generation. A column is what one rank holds
 * through all layers; ranks of one capacity are one class, which removes their
 * symmetry. Columns are priced exactly, as best chains of subsets. Any prices
 * give a bound (Lagrange); those that gave the best one steady the next
 * (Wentges, 1997). Through every subset the best chain's value is known, so
 * subsets that no placement better than the present one can use are dropped
 * for good, and pricing gets faster as the bound rises. */

enum { CLASSES_MAX = 2, ASCENTS = 40 };

static const double SUMS_PER_SECOND = 5e8; /* of the chain's inner loop */
static const double PRICINGS = 100;        /* that a proof takes, about */
static const double STEADY = 0.9;          /* share of the best prices */
static const double STRIDE = 4;            /* of the ascent's first step */
static const double STRIDE_LESS = 0.9;     /* after a step that was no gain */

typedef struct columns {
    const coterie_problem_t *problem;
    coterie_search_t *search;
    coterie_solution_t *solution;
    coterie_master_t master;
    coterie_chain_t chain[CLASSES_MAX];
    uint32_t class_count, class_size[CLASSES_MAX], class_first[CLASSES_MAX];
    double weight;       /* cost = weight - kept */
    double *price;       /* [layer * expert]: tried now */
    double *best_price;  /* [layer * expert]: gave the best bound */
    double best[CLASSES_MAX]; /* best column's worth at `price` */
    double limit;        /* most that can be kept, at `price` */
    double *row_best;    /* [layer * expert] scratch of one class */
    uint32_t *row_at;    /* [layer * expert]: the subset that gives it */
    double best_limit;   /* the least so far, at `best_price` */
    uint32_t *masks;     /* [layer] */
    uint32_t *chosen;    /* [rank] */
} columns_t;

typedef struct filter {
    const columns_t *columns;
    uint32_t class;
} filter_t;

static int columns_applies(const coterie_problem_t *problem, double seconds);
static coterie_status_t columns_solve(const coterie_problem_t *problem,
                                      coterie_search_t *search,
                                      coterie_solution_t *solution);
static coterie_status_t columns_open(columns_t *c);
static coterie_status_t class_open(columns_t *c, uint32_t class);
static void columns_close(columns_t *c);
static int load_allows(const void *arg, uint32_t layer, uint32_t subset);
static coterie_status_t add_solution(columns_t *c);
static coterie_status_t ascend(columns_t *c);
static void price_by_solution(columns_t *c);
static coterie_status_t generate(columns_t *c);
static void price_set(columns_t *c, double steady);
static void price_columns(columns_t *c);
static coterie_status_t add_columns(columns_t *c, uint32_t class,
                                    uint32_t *added_p);
static void best_by_row(columns_t *c, uint32_t class);
static double column_kept(const columns_t *c, const uint32_t *masks);
static double column_price(const columns_t *c, const uint32_t *masks,
                           const double *price);
static void drop_subsets(columns_t *c);
static int may_better(const void *arg, uint32_t layer, uint32_t subset);
static coterie_status_t choose_columns(columns_t *c);
static void offer_choice(columns_t *c, int *optimal_p);

const coterie_solver_t coterie_solver_columns = {
    "column generation", columns_applies, columns_solve};

static int columns_applies(const coterie_problem_t *problem, double seconds)
{
    uint32_t most = problem->capacity[0];
    double subsets;

    if (problem->rank_count < 2 || problem->node_count != 1 ||
        problem->expert_count > 32 ||
        most > problem->capacity[problem->rank_count - 1] + 1)
        return 0;
    subsets = coterie_chain_choices(problem->expert_count, most);
    return 2 * problem->layer_count * subsets * subsets * PRICINGS <
           seconds * SUMS_PER_SECOND;
}

static coterie_status_t columns_solve(const coterie_problem_t *problem,
                                      coterie_search_t *search,
                                      coterie_solution_t *solution)
{
    columns_t c = {.problem = problem, .search = search, .solution = solution};
    coterie_status_t status = columns_open(&c);

    if (status == COTERIE_OK)
        status = add_solution(&c);
    if (status == COTERIE_OK)
        status = ascend(&c);
    if (status == COTERIE_OK)
        status = generate(&c);
    if (status == COTERIE_OK && !coterie_solution_optimal(problem, solution))
        status = choose_columns(&c);
    columns_close(&c);
    return status;
}

static coterie_status_t columns_open(columns_t *c)
{
    const coterie_problem_t *p = c->problem;
    size_t items = (size_t)p->layer_count * p->expert_count;
    coterie_status_t status = COTERIE_OK;

    for (uint32_t r = 0; r < p->rank_count; r++) {
        if (r == 0 || p->capacity[r] != p->capacity[r - 1])
            c->class_first[c->class_count++] = r;
        c->class_size[c->class_count - 1]++;
    }
    c->weight = coterie_problem_seam_weight(p) +
                coterie_problem_pair_weight(p);
    c->best_limit = INFINITY;
    c->price = calloc(items, sizeof(*c->price));
    c->best_price = calloc(items, sizeof(*c->best_price));
    c->row_best = calloc(items, sizeof(*c->row_best));
    c->row_at = calloc(items, sizeof(*c->row_at));
    c->masks = calloc(p->layer_count, sizeof(*c->masks));
    c->chosen = calloc(p->rank_count, sizeof(*c->chosen));
    if (!c->price || !c->best_price || !c->row_best || !c->row_at ||
        !c->masks || !c->chosen)
        return coterie_fail_memory(items * 28, "prices");
    for (uint32_t i = 0; status == COTERIE_OK && i < c->class_count; i++)
        status = class_open(c, i);
    if (status == COTERIE_OK)
        status = coterie_master_open(&c->master, p, c->class_size,
                                     c->class_count);
    return status;
}

static coterie_status_t class_open(columns_t *c, uint32_t class)
{
    const coterie_problem_t *p = c->problem;
    size_t cells = (size_t)p->expert_count * p->expert_count;
    coterie_chain_t *chain = &c->chain[class];
    coterie_status_t status;

    status = coterie_chain_open(chain, p->layer_count, p->expert_count,
                                p->capacity[c->class_first[class]]);
    if (status != COTERIE_OK)
        return status;
    for (size_t i = 0; i < (p->layer_count - 1) * cells; i++)
        chain->seam[i] = p->seam[i];
    for (size_t i = 0; p->pair && i < p->layer_count * cells; i++)
        chain->pair[i] = p->pair[i];
    coterie_chain_refresh(chain);
    if (p->load_max != NULL)
        coterie_chain_filter(chain, load_allows,
                             &(filter_t){.columns = c, .class = class});
    return COTERIE_OK;
}

static void columns_close(columns_t *c)
{
    for (uint32_t i = 0; i < c->class_count; i++)
        coterie_chain_close(&c->chain[i]);
    coterie_master_close(&c->master);
    free(c->price);
    free(c->best_price);
    free(c->row_best);
    free(c->row_at);
    free(c->masks);
    free(c->chosen);
}

static int load_allows(const void *arg, uint32_t layer, uint32_t subset)
{
    const filter_t *filter = arg;
    const coterie_problem_t *p = filter->columns->problem;
    const uint64_t *load = p->load + (size_t)layer * p->expert_count;
    uint32_t mask =
        filter->columns->chain[filter->class].layers[layer].mask[subset];
    uint64_t sum = 0;

    for (; mask != 0; mask &= mask - 1)
        sum += load[__builtin_ctz(mask)];
    return sum <= p->load_max[layer];
}

/* The present solution's columns: the master is feasible from the start. */
static coterie_status_t add_solution(columns_t *c)
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
                                    column_kept(c, c->masks));
    }
    return status;
}

/* Good prices without the master, which at first knows nothing: from those at
 * which the present solution's columns are worth nothing, every expert's price
 * moves by its share of the best column that holds it. */
static coterie_status_t ascend(columns_t *c)
{
    const coterie_problem_t *p = c->problem;
    size_t items = (size_t)p->layer_count * p->expert_count;
    double stride = STRIDE * p->rank_count / items;
    coterie_status_t status = COTERIE_OK;
    uint32_t added = 0;

    price_by_solution(c);
    for (uint32_t i = 0; i < ASCENTS; i++) {
        double before = c->best_limit;
        price_columns(c);
        drop_subsets(c);
        if (coterie_search_over(c->search, c->solution) ||
            coterie_solution_optimal(p, c->solution))
            return COTERIE_OK;
        if (c->limit >= before)
            stride *= STRIDE_LESS;
        best_by_row(c, 0);
        for (size_t k = 0; k < items; k++)
            if (c->row_best[k] > -INFINITY)
                c->price[k] += stride * c->row_best[k];
    }
    memcpy(c->master.dual, c->best_price, items * sizeof(*c->best_price));
    price_set(c, 1);
    price_columns(c);
    for (uint32_t k = 0; status == COTERIE_OK && k < c->class_count; k++)
        status = add_columns(c, k, &added);
    return status;
}

static void price_by_solution(columns_t *c)
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

/* Until no column betters the relaxation, or the search is over. */
static coterie_status_t generate(columns_t *c)
{
    double steady = STEADY;

    while (coterie_master_solve(&c->master, c->search, c->solution) == 0) {
        uint32_t added = 0;
        for (;;) {
            price_set(c, steady);
            price_columns(c);
            if (coterie_solution_optimal(c->problem, c->solution))
                return COTERIE_OK;
            for (uint32_t class = 0; class < c->class_count; class++) {
                coterie_status_t status = add_columns(c, class, &added);
                if (status != COTERIE_OK)
                    return status;
            }
            drop_subsets(c);
            if (added > 0 || steady == 0 || c->search->stopped)
                break;
            steady = 0; /* steadied prices found nothing; the true ones may */
        }
        if (added == 0)
            return COTERIE_OK;
        steady = STEADY;
    }
    return COTERIE_OK;
}

static void price_set(columns_t *c, double steady)
{
    size_t items = (size_t)c->problem->layer_count * c->problem->expert_count;

    if (c->best_limit == INFINITY)
        steady = 0;
    for (size_t i = 0; i < items; i++)
        c->price[i] = steady * c->best_price[i] +
                      (1 - steady) * c->master.dual[i];
}

/* Finds the best columns at `price`, and so a bound: each class's ranks can
 * be worth no more than its best column each, on top of the prices. */
static void price_columns(columns_t *c)
{
    size_t items = (size_t)c->problem->layer_count * c->problem->expert_count;

    c->limit = 0;
    for (size_t i = 0; i < items; i++)
        c->limit += c->price[i];
    for (uint32_t class = 0; class < c->class_count; class++) {
        for (size_t i = 0; i < items; i++)
            c->chain[class].item[i] = -c->price[i];
        c->best[class] = coterie_chain_solve(&c->chain[class], 1);
        c->limit += c->class_size[class] * c->best[class];
    }
    if (c->limit >= c->best_limit)
        return;
    c->best_limit = c->limit;
    memcpy(c->best_price, c->price, items * sizeof(*c->price));
    coterie_solution_prove(c->solution, c->weight - c->limit,
                           coterie_solver_columns.name);
}

/* For every expert, the best column that holds it, where that one betters the
 * relaxation at its own prices. */
static coterie_status_t add_columns(columns_t *c, uint32_t class,
                                    uint32_t *added_p)
{
    const coterie_problem_t *p = c->problem;
    size_t items = (size_t)p->layer_count * p->expert_count;
    double bar = c->master.dual[items + class] + c->problem->tolerance;

    best_by_row(c, class);
    for (size_t i = 0; i < items; i++) {
        double worth = c->row_best[i], kept;
        if (worth == -INFINITY)
            continue;
        coterie_chain_through(&c->chain[class], i / p->expert_count,
                              c->row_at[i], c->masks);
        /* the same column is the best of many experts: once is enough */
        for (size_t f = 0; f < items; f++)
            if (c->masks[f / p->expert_count] >> f % p->expert_count & 1 &&
                c->row_best[f] <= worth + c->problem->tolerance)
                c->row_best[f] = -INFINITY;
        kept = column_kept(c, c->masks);
        if (kept - column_price(c, c->masks, c->master.dual) > bar) {
            coterie_status_t status =
                coterie_master_add(&c->master, c->masks, class, kept);
            if (status != COTERIE_OK)
                return status;
            ++*added_p;
        }
    }
    return COTERIE_OK;
}

static void best_by_row(columns_t *c, uint32_t class)
{
    uint32_t experts = c->problem->expert_count;

    for (uint32_t l = 0; l < c->problem->layer_count; l++) {
        const coterie_subsets_t *s = &c->chain[class].layers[l];
        double *best = c->row_best + (size_t)l * experts;
        uint32_t *at = c->row_at + (size_t)l * experts;
        for (uint32_t e = 0; e < experts; e++)
            best[e] = -INFINITY;
        for (uint32_t i = 0; i < s->count; i++) {
            double through = s->ahead[i] + s->behind[i] -
                             coterie_chain_value(&c->chain[class], l, i);
            for (uint32_t m = s->mask[i]; m != 0; m &= m - 1)
                if (through > best[__builtin_ctz(m)]) {
                    best[__builtin_ctz(m)] = through;
                    at[__builtin_ctz(m)] = i;
                }
        }
    }
}

static double column_kept(const columns_t *c, const uint32_t *masks)
{
    const coterie_problem_t *p = c->problem;
    uint32_t experts = p->expert_count;
    double kept = 0;

    for (uint32_t l = 0; l < p->layer_count; l++)
        for (uint32_t m = masks[l]; m != 0; m &= m - 1) {
            size_t row = (size_t)__builtin_ctz(m) * experts;
            uint32_t next = l + 1 < p->layer_count ? masks[l + 1] : 0;
            for (; next != 0; next &= next - 1)
                kept += coterie_problem_seam(p, l)[row + __builtin_ctz(next)];
            for (next = p->pair ? m & (m - 1) : 0; next; next &= next - 1)
                kept += coterie_problem_pair(p, l)[row + __builtin_ctz(next)];
        }
    return kept;
}

static double column_price(const columns_t *c, const uint32_t *masks,
                           const double *price)
{
    double sum = 0;

    for (uint32_t l = 0; l < c->problem->layer_count; l++)
        for (uint32_t m = masks[l]; m != 0; m &= m - 1)
            sum += price[l * c->problem->expert_count + __builtin_ctz(m)];
    return sum;
}

/* A subset stays if a placement that uses it may keep more than the present
 * one: the limit, with the best column through it in one rank's place. */
static void drop_subsets(columns_t *c)
{
    for (uint32_t class = 0; class < c->class_count; class++)
        coterie_chain_filter(&c->chain[class], may_better,
                             &(filter_t){.columns = c, .class = class});
}

static int may_better(const void *arg, uint32_t layer, uint32_t subset)
{
    const filter_t *filter = arg;
    const columns_t *c = filter->columns;
    const coterie_chain_t *chain = &c->chain[filter->class];
    const coterie_subsets_t *s = &chain->layers[layer];
    double through = s->ahead[subset] + s->behind[subset] -
                     coterie_chain_value(chain, layer, subset);

    return c->limit - c->best[filter->class] + through >
           c->weight - c->solution->cost + c->problem->tolerance;
}

/* Whole columns: first of those there are; then, if some better placement may
 * need others, of all that could be part of one. */
static coterie_status_t choose_columns(columns_t *c)
{
    int optimal;

    offer_choice(c, &optimal);
    return COTERIE_OK;
}

static void offer_choice(columns_t *c, int *optimal_p)
{
    const coterie_problem_t *p = c->problem;
    uint32_t next[CLASSES_MAX];
    uint16_t *rank_of;

    if (coterie_master_choose(&c->master, c->search, c->solution,
                              c->weight - c->solution->cost, c->chosen,
                              optimal_p) != 0)
        return;
    rank_of = calloc((size_t)p->layer_count * p->expert_count,
                     sizeof(*rank_of));
    if (rank_of == NULL)
        return;
    memcpy(next, c->class_first, sizeof(next));
    for (uint32_t i = 0; i < p->rank_count; i++) {
        const coterie_column_t *column = &c->master.columns[c->chosen[i]];
        const uint32_t *masks = c->master.masks + column->at;
        uint32_t rank = next[column->class]++;
        for (uint32_t k = 0; k < p->layer_count * p->expert_count; k++)
            if (masks[k / p->expert_count] >> k % p->expert_count & 1)
                rank_of[k] = rank;
    }
    coterie_solution_offer(p, c->solution, rank_of,
                           coterie_solver_columns.name);
    free(rank_of);
}
