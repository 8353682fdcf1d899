#include "config.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "placement/solve/columns.h"

typedef struct filter {
    const coterie_columns_t *columns;
    uint32_t class;
} filter_t;

static coterie_status_t class_open(coterie_columns_t *c, uint32_t class);
static int load_allows(const void *arg, uint32_t layer, uint32_t subset);
static int may_better(const void *arg, uint32_t layer, uint32_t subset);
static coterie_status_t class_add(coterie_columns_t *c, uint32_t class,
                                  uint32_t *added_p);
static double column_price(const coterie_columns_t *c, const uint32_t *masks,
                           const double *price);

coterie_status_t coterie_columns_open(coterie_columns_t *c)
{
    const coterie_problem_t *p = c->problem;
    size_t items = (size_t)p->layer_count * p->expert_count;
    coterie_status_t status;

    for (uint32_t r = 0; r < p->rank_count; r++) {
        if (r == 0 || p->capacity[r] != p->capacity[r - 1])
            c->class_first[c->class_count++] = r;
        c->class_size[c->class_count - 1]++;
    }
    c->weight = coterie_problem_seam_weight(p) +
                coterie_problem_pair_weight(p);
    c->best_limit = INFINITY;
    c->penalty = calloc(items, sizeof(*c->penalty));
    c->price = calloc(items, sizeof(*c->price));
    c->best_price = calloc(items, sizeof(*c->best_price));
    c->row_best = calloc(items, sizeof(*c->row_best));
    c->row_at = calloc(items, sizeof(*c->row_at));
    c->masks = calloc(p->layer_count, sizeof(*c->masks));
    c->chosen = calloc(p->rank_count, sizeof(*c->chosen));
    if (!c->penalty || !c->price || !c->best_price || !c->row_best ||
        !c->row_at ||
        !c->masks || !c->chosen)
        return coterie_fail_memory(items * 36, "prices");
    status = coterie_columns_refill(c);
    if (status == COTERIE_OK)
        status = coterie_master_open(&c->master, p, c->class_size,
                                     c->class_count);
    return status;
}

void coterie_columns_close(coterie_columns_t *c)
{
    for (uint32_t i = 0; i < c->class_count; i++)
        coterie_chain_close(&c->chain[i]);
    coterie_master_close(&c->master);
    free(c->penalty);
    free(c->price);
    free(c->best_price);
    free(c->row_best);
    free(c->row_at);
    free(c->masks);
    free(c->chosen);
}

coterie_status_t coterie_columns_refill(coterie_columns_t *c)
{
    coterie_status_t status = COTERIE_OK;

    for (uint32_t i = 0; status == COTERIE_OK && i < c->class_count; i++) {
        coterie_chain_close(&c->chain[i]);
        status = class_open(c, i);
    }
    return status;
}

/* Finds the best columns at `price`, and so a bound: each class's ranks can
 * be worth no more than its best column each, on top of the prices. */
void coterie_columns_price(coterie_columns_t *c)
{
    size_t items = (size_t)c->problem->layer_count * c->problem->expert_count;

    c->limit = 0;
    for (size_t i = 0; i < items; i++)
        c->limit += c->price[i];
    for (uint32_t class = 0; class < c->class_count; class++) {
        for (size_t i = 0; i < items; i++)
            c->chain[class].item[i] = c->penalty[i] - c->price[i];
        c->best[class] = coterie_chain_solve(&c->chain[class], 1);
        c->limit += c->class_size[class] * c->best[class];
    }
    if (c->search->stopped || c->limit >= c->best_limit)
        return;
    c->best_limit = c->limit;
    memcpy(c->best_price, c->price, items * sizeof(*c->price));
    if (!c->branching)
        coterie_solution_prove(c->solution, c->weight - c->limit,
                               coterie_solver_columns.name);
}

/* A subset stays if a placement that uses it may keep more than the present
 * one: the limit, with the best column through it in one rank's place. */
void coterie_columns_drop(coterie_columns_t *c)
{
    if (c->search->stopped)
        return; /* and what is behind subsets was left undone */
    for (uint32_t class = 0; class < c->class_count; class++)
        coterie_chain_filter(&c->chain[class], may_better,
                             &(filter_t){.columns = c, .class = class});
}

void coterie_columns_by_row(coterie_columns_t *c, uint32_t class)
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

coterie_status_t coterie_columns_add(coterie_columns_t *c, uint32_t *added_p)
{
    coterie_status_t status = COTERIE_OK;

    *added_p = 0;
    for (uint32_t i = 0; status == COTERIE_OK && i < c->class_count; i++)
        status = class_add(c, i, added_p);
    return status;
}

double coterie_columns_value(const coterie_columns_t *c, uint32_t class,
                             const uint32_t *masks)
{
    const coterie_chain_t *chain = &c->chain[class];
    uint32_t experts = c->problem->expert_count;
    double value = 0;

    for (uint32_t l = 0; l < c->problem->layer_count; l++)
        for (uint32_t m = masks[l]; m != 0; m &= m - 1) {
            size_t row = (size_t)l * experts + __builtin_ctz(m);
            uint32_t next = l + 1 < c->problem->layer_count ? masks[l + 1] : 0;
            value += c->penalty[row];
            for (; next != 0; next &= next - 1)
                value += chain->seam[row * experts + __builtin_ctz(next)];
            for (next = m & (m - 1); next != 0; next &= next - 1)
                value += chain->pair[row * experts + __builtin_ctz(next)];
        }
    return value;
}

int coterie_columns_done(const coterie_columns_t *c)
{
    return c->best_limit <=
           c->weight - c->solution->cost + c->problem->tolerance;
}

static coterie_status_t class_open(coterie_columns_t *c, uint32_t class)
{
    const coterie_problem_t *p = c->problem;
    size_t cells = (size_t)p->expert_count * p->expert_count;
    coterie_chain_t *chain = &c->chain[class];
    coterie_status_t status;

    status = coterie_chain_open(chain, p->layer_count, p->expert_count,
                                p->capacity[c->class_first[class]]);
    if (status != COTERIE_OK)
        return status;
    chain->search = c->search;
    chain->solution = c->solution;
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

static int may_better(const void *arg, uint32_t layer, uint32_t subset)
{
    const filter_t *filter = arg;
    const coterie_columns_t *c = filter->columns;
    const coterie_chain_t *chain = &c->chain[filter->class];
    const coterie_subsets_t *s = &chain->layers[layer];
    double through = s->ahead[subset] + s->behind[subset] -
                     coterie_chain_value(chain, layer, subset);

    return c->limit - c->best[filter->class] + through >
           c->weight - c->solution->cost + c->problem->tolerance;
}

/* For every expert, the best column that holds it, where that one betters the
 * relaxation at its own prices. */
static coterie_status_t class_add(coterie_columns_t *c, uint32_t class,
                                  uint32_t *added_p)
{
    const coterie_problem_t *p = c->problem;
    size_t items = (size_t)p->layer_count * p->expert_count;
    double bar = c->master.dual[items + class] + c->problem->tolerance;

    coterie_columns_by_row(c, class);
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
        kept = coterie_columns_value(c, class, c->masks);
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

static double column_price(const coterie_columns_t *c, const uint32_t *masks,
                           const double *price)
{
    double sum = 0;

    for (uint32_t l = 0; l < c->problem->layer_count; l++)
        for (uint32_t m = masks[l]; m != 0; m &= m - 1)
            sum += price[l * c->problem->expert_count + __builtin_ctz(m)];
    return sum;
}
