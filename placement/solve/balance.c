#include "config.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "placement/solve/solver.h"

/* A legal start: experts in order or, under a load cap, heaviest first onto
 * the lightest rank (Graham, 1969), then swaps off the fullest rank. */

enum { TRIES = 200 }; /* swaps get stuck; a shuffled start may not */

typedef struct balance {
    const coterie_problem_t *problem;
    coterie_search_t *search;
    const uint64_t *load; /* of the layer */
    uint16_t *rank_of;    /* of the layer, the best so far */
    uint16_t *trial;
    uint64_t *rank_load;
    uint32_t *order, *room;
} balance_t;

static coterie_status_t balance_open(balance_t *b);
static void balance_close(balance_t *b);
static uint64_t layer_limit(const balance_t *b, double cap);
static uint64_t layer_balance(balance_t *b, uint64_t limit);
static void order_by_load(balance_t *b, uint32_t shuffles);
static void fill_lightest(balance_t *b);
static int swap_fullest(balance_t *b);
static uint32_t fullest(const balance_t *b);
static void in_order(const coterie_problem_t *problem, uint16_t *rank_of);

coterie_status_t coterie_solve_start(coterie_problem_t *problem, double cap,
                                     coterie_search_t *search,
                                     uint16_t *rank_of, int *raised_p)
{
    balance_t b = {.problem = problem, .search = search};
    coterie_status_t status = COTERIE_OK;

    *raised_p = 0;
    in_order(problem, rank_of);
    if (cap <= 0)
        return COTERIE_OK;
    status = balance_open(&b);
    for (uint32_t l = 0; status == COTERIE_OK && l < problem->layer_count;
         l++) {
        uint64_t limit, least;
        b.load = problem->load + (size_t)l * problem->expert_count;
        b.rank_of = rank_of + (size_t)l * problem->expert_count;
        limit = layer_limit(&b, cap);
        least = layer_balance(&b, limit);
        *raised_p |= least > limit;
        problem->load_max[l] = least > limit ? least : limit;
    }
    balance_close(&b);
    return status;
}

static coterie_status_t balance_open(balance_t *b)
{
    uint32_t experts = b->problem->expert_count;
    uint32_t ranks = b->problem->rank_count;

    b->trial = calloc(experts, sizeof(*b->trial));
    b->order = calloc(experts, sizeof(*b->order));
    b->rank_load = calloc(ranks, sizeof(*b->rank_load));
    b->room = calloc(ranks, sizeof(*b->room));
    if (!b->trial || !b->order || !b->rank_load || !b->room)
        return coterie_fail_memory(experts * sizeof(*b->order),
                                   "balancing loads");
    return COTERIE_OK;
}

static void balance_close(balance_t *b)
{
    free(b->trial);
    free(b->order);
    free(b->rank_load);
    free(b->room);
}

static uint64_t layer_limit(const balance_t *b, double cap)
{
    uint64_t sum = 0;

    for (uint32_t e = 0; e < b->problem->expert_count; e++)
        sum += b->load[e];
    return cap * sum / b->problem->rank_count;
}

/* Leaves in rank_of the best of several tries, stopping at the first within
 * the limit; returns the fullest rank's load. */
static uint64_t layer_balance(balance_t *b, uint64_t limit)
{
    uint64_t best = UINT64_MAX;

    for (uint32_t try = 0; try < TRIES && best > limit; try++) {
        uint64_t load;
        order_by_load(b, try);
        fill_lightest(b);
        while (swap_fullest(b))
            continue;
        load = b->rank_load[fullest(b)];
        if (load >= best)
            continue;
        best = load;
        memcpy(b->rank_of, b->trial,
               b->problem->expert_count * sizeof(*b->trial));
    }
    return best;
}

static void order_by_load(balance_t *b, uint32_t shuffles)
{
    uint32_t experts = b->problem->expert_count;

    for (uint32_t i = 0; i < experts; i++) {
        uint32_t at = i;
        for (; at > 0 && b->load[b->order[at - 1]] < b->load[i]; at--)
            b->order[at] = b->order[at - 1];
        b->order[at] = i;
    }
    for (uint32_t i = 0; i < shuffles; i++) {
        uint32_t x = coterie_search_below(b->search, experts);
        uint32_t y = coterie_search_below(b->search, experts);
        uint32_t swapped = b->order[x];
        b->order[x] = b->order[y];
        b->order[y] = swapped;
    }
}

static void fill_lightest(balance_t *b)
{
    const coterie_problem_t *p = b->problem;

    for (uint32_t r = 0; r < p->rank_count; r++) {
        b->room[r] = p->capacity[r];
        b->rank_load[r] = 0;
    }
    for (uint32_t i = 0; i < p->expert_count; i++) {
        uint32_t lightest = p->rank_count;
        for (uint32_t r = 0; r < p->rank_count; r++)
            if (b->room[r] > 0 &&
                (lightest == p->rank_count ||
                 b->rank_load[r] < b->rank_load[lightest]))
                lightest = r;
        b->trial[b->order[i]] = lightest;
        b->room[lightest]--;
        b->rank_load[lightest] += b->load[b->order[i]];
    }
}

/* Makes the swap that relieves the fullest rank most; 0 if none does. */
static int swap_fullest(balance_t *b)
{
    uint32_t full = fullest(b), experts = b->problem->expert_count;
    uint32_t out = experts, in = experts;
    uint64_t best = b->rank_load[full];

    for (uint32_t e = 0; e < experts; e++) {
        if (b->trial[e] != full)
            continue;
        for (uint32_t f = 0; f < experts; f++) {
            uint64_t less = b->load[e] - b->load[f], here, there;
            if (b->trial[f] == full || b->load[f] >= b->load[e])
                continue;
            here = b->rank_load[full] - less;
            there = b->rank_load[b->trial[f]] + less;
            if ((here > there ? here : there) >= best)
                continue;
            best = here > there ? here : there;
            out = e;
            in = f;
        }
    }
    if (out == experts)
        return 0;
    b->rank_load[full] -= b->load[out] - b->load[in];
    b->rank_load[b->trial[in]] += b->load[out] - b->load[in];
    b->trial[out] = b->trial[in];
    b->trial[in] = full;
    return 1;
}

static uint32_t fullest(const balance_t *b)
{
    uint32_t full = 0;

    for (uint32_t r = 1; r < b->problem->rank_count; r++)
        if (b->rank_load[r] > b->rank_load[full])
            full = r;
    return full;
}

static void in_order(const coterie_problem_t *problem, uint16_t *rank_of)
{
    for (uint32_t l = 0; l < problem->layer_count; l++)
        for (uint32_t r = 0; r < problem->rank_count; r++)
            for (uint32_t i = 0; i < problem->capacity[r]; i++)
                *rank_of++ = r;
}
