#include "config.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "placement/solve/solver.h"

/* Annealed swaps of two experts of one layer. `pull` holds, for every expert
 * and rank, what is saved by having it there, so that judging a swap takes a
 * handful of look-ups and only a swap that is made costs O(experts). Loads over
 * the limit pay a toll instead of being forbidden, or tight limits would leave no
 * way from one good placement to another. The toll rises until none pays. */

typedef struct anneal {
    const coterie_problem_t *problem;
    uint16_t *rank_of;
    double *pull;        /* [layer, expert, rank] */
    uint64_t *rank_load; /* [layer, rank] */
    double toll;         /* for a unit of load over the limit, at first */
    double toll_now;
} anneal_t;

typedef struct swap {
    uint32_t layer, a, b;
    double gain; /* tolls included */
} swap_t;

enum {
    MOVES_EACH = 40000, /* proposals per expert and layer, at most, */
    MOVES_A_SECOND = 400000, /* and in proportion to the time limit */
    ROUNDS = 4, /* each from the best so far, the later ones cooler */
    ASK_EVERY = 1024 /* proposals between looks at the clock */
};

static const double HEAT = 4; /* at first, in average losses */
static const double TOLL = 20; /* for an average expert, in average losses */

static int anneal_applies(const coterie_problem_t *problem, double seconds);
static coterie_status_t anneal_solve(const coterie_problem_t *problem,
                                     coterie_search_t *search,
                                     coterie_solution_t *solution);
static coterie_status_t anneal_open(anneal_t *a,
                                    const coterie_solution_t *solution);
static void anneal_close(anneal_t *a);
static void anneal_reset(anneal_t *a, const uint16_t *rank_of);
static double average_loss(anneal_t *a, coterie_search_t *search);
static void anneal_round(anneal_t *a, coterie_search_t *search,
                         coterie_solution_t *solution, double heat);
static int swap_propose(const anneal_t *a, coterie_search_t *search,
                        swap_t *swap);
static double load_over(const anneal_t *a, const swap_t *swap);
static uint64_t over(uint64_t load, uint64_t max);
static void swap_make(anneal_t *a, const swap_t *swap);
static void expert_leaves(anneal_t *a, uint32_t layer, uint32_t expert,
                          double sign);
static void pull_add(anneal_t *a, double *pull, uint32_t rank, double weight);

const coterie_solver_t coterie_solver_anneal = {
    "annealing", anneal_applies, anneal_solve};

static int anneal_applies(const coterie_problem_t *problem, double seconds)
{
    (void)seconds;
    return problem->rank_count > 1;
}

static coterie_status_t anneal_solve(const coterie_problem_t *problem,
                                     coterie_search_t *search,
                                     coterie_solution_t *solution)
{
    anneal_t a = {.problem = problem};
    coterie_status_t status = anneal_open(&a, solution);
    double heat;

    if (status != COTERIE_OK)
        goto out;
    heat = HEAT * average_loss(&a, search);
    for (uint32_t round = 0; round < ROUNDS && !search->stopped; round++) {
        anneal_reset(&a, solution->rank_of);
        anneal_round(&a, search, solution, round == 0 ? heat : heat / 4);
        if (coterie_problem_legal(problem, a.rank_of))
            coterie_solution_offer(problem, solution, a.rank_of,
                                   coterie_solver_anneal.name);
    }
out:
    anneal_close(&a);
    return status;
}

static coterie_status_t anneal_open(anneal_t *a,
                                    const coterie_solution_t *solution)
{
    size_t items = (size_t)a->problem->layer_count * a->problem->expert_count;
    size_t pulls = items * a->problem->rank_count;

    a->rank_of = malloc(items * sizeof(*a->rank_of));
    a->pull = malloc(pulls * sizeof(*a->pull));
    a->rank_load = malloc((size_t)a->problem->layer_count *
                          a->problem->rank_count * sizeof(*a->rank_load));
    if (!a->rank_of || !a->pull || !a->rank_load)
        return coterie_fail_memory(pulls * sizeof(*a->pull),
                                   "annealing tables");
    anneal_reset(a, solution->rank_of);
    return COTERIE_OK;
}

static void anneal_close(anneal_t *a)
{
    free(a->rank_of);
    free(a->pull);
    free(a->rank_load);
}

static void anneal_reset(anneal_t *a, const uint16_t *rank_of)
{
    const coterie_problem_t *p = a->problem;
    size_t items = (size_t)p->layer_count * p->expert_count;

    memcpy(a->rank_of, rank_of, items * sizeof(*rank_of));
    memset(a->pull, 0, items * p->rank_count * sizeof(*a->pull));
    memset(a->rank_load, 0, (size_t)p->layer_count * p->rank_count *
                                sizeof(*a->rank_load));
    for (size_t i = 0; i < items; i++) {
        uint32_t layer = i / p->expert_count;
        a->rank_load[(size_t)layer * p->rank_count + rank_of[i]] += p->load[i];
        expert_leaves(a, layer, i % p->expert_count, -1);
    }
}

/* What an average loss is; heat and toll are told in it. */
static double average_loss(anneal_t *a, coterie_search_t *search)
{
    const coterie_problem_t *p = a->problem;
    double loss = 0, load = 1;
    uint32_t seen = 1;

    for (uint32_t i = 0; i < ASK_EVERY; i++) {
        swap_t swap;
        if (!swap_propose(a, search, &swap) || swap.gain >= 0)
            continue;
        loss -= swap.gain;
        seen++;
    }
    for (uint32_t e = 0; e < p->expert_count; e++)
        load += p->load[e];
    a->toll = TOLL * loss / seen * p->expert_count / load;
    return loss / seen;
}

static void anneal_round(anneal_t *a, coterie_search_t *search,
                         coterie_solution_t *solution, double heat)
{
    const coterie_problem_t *p = a->problem;
    double time = search->deadline - search->started;
    uint64_t moves = fmin((double)p->layer_count * p->expert_count *
                              MOVES_EACH, time * MOVES_A_SECOND) / ROUNDS;

    for (uint64_t i = 0; i < moves; i++) {
        double left = 1 - (double)i / moves, now = heat * left * left;
        swap_t swap;
        if (i % ASK_EVERY == 0 && coterie_search_over(search, solution))
            return;
        a->toll_now = a->toll / left;
        if (!swap_propose(a, search, &swap))
            continue;
        if (swap.gain < 0) {
            double chance = (coterie_search_random(search) >> 11) * 0x1p-53;
            if (now <= 0 || chance > exp(swap.gain / now))
                continue;
        }
        swap_make(a, &swap);
    }
}

static int swap_propose(const anneal_t *a, coterie_search_t *search,
                        swap_t *swap)
{
    const coterie_problem_t *p = a->problem;
    uint32_t e = p->expert_count, g, h;
    const double *pull_a, *pull_b;
    const float *pair;

    swap->layer = coterie_search_below(search, p->layer_count);
    swap->a = coterie_search_below(search, e);
    swap->b = coterie_search_below(search, e);
    g = a->rank_of[(size_t)swap->layer * e + swap->a];
    h = a->rank_of[(size_t)swap->layer * e + swap->b];
    if (g == h)
        return 0;
    pull_a = a->pull + ((size_t)swap->layer * e + swap->a) * p->rank_count;
    pull_b = a->pull + ((size_t)swap->layer * e + swap->b) * p->rank_count;
    swap->gain = pull_a[h] - pull_a[g] + pull_b[g] - pull_b[h];
    pair = coterie_problem_pair(p, swap->layer);
    if (pair != NULL) /* each counted on the other's leaving its rank */
        swap->gain -= 2 * coterie_problem_link(p, g, h) *
                      pair[(size_t)swap->a * e + swap->b];
    swap->gain -= a->toll_now * load_over(a, swap);
    return 1;
}

static double load_over(const anneal_t *a, const swap_t *swap)
{
    const coterie_problem_t *p = a->problem;
    size_t at = (size_t)swap->layer * p->expert_count;
    uint32_t from = a->rank_of[at + swap->a], to = a->rank_of[at + swap->b];
    const uint64_t *rank_load =
        a->rank_load + (size_t)swap->layer * p->rank_count;
    uint64_t x = p->load[at + swap->a], y = p->load[at + swap->b];
    uint64_t max;

    if (p->load_max == NULL)
        return 0;
    max = p->load_max[swap->layer];
    return (double)over(rank_load[from] - x + y, max) +
           over(rank_load[to] - y + x, max) - over(rank_load[from], max) -
           over(rank_load[to], max);
}

static uint64_t over(uint64_t load, uint64_t max)
{
    return load > max ? load - max : 0;
}

static void swap_make(anneal_t *a, const swap_t *swap)
{
    const coterie_problem_t *p = a->problem;
    uint16_t *rank_of = a->rank_of + (size_t)swap->layer * p->expert_count;
    uint64_t *rank_load = a->rank_load + (size_t)swap->layer * p->rank_count;
    const uint64_t *load = p->load + (size_t)swap->layer * p->expert_count;
    uint16_t g = rank_of[swap->a], h = rank_of[swap->b];

    expert_leaves(a, swap->layer, swap->a, 1);
    expert_leaves(a, swap->layer, swap->b, 1);
    rank_load[g] += load[swap->b] - load[swap->a];
    rank_load[h] += load[swap->a] - load[swap->b];
    rank_of[swap->a] = h;
    rank_of[swap->b] = g;
    expert_leaves(a, swap->layer, swap->a, -1);
    expert_leaves(a, swap->layer, swap->b, -1);
}

/* Takes (sign 1) or adds (-1) what an expert's being where it is lends to the
 * pull of every expert it is used with. */
static void expert_leaves(anneal_t *a, uint32_t layer, uint32_t expert,
                          double sign)
{
    const coterie_problem_t *p = a->problem;
    uint32_t e = p->expert_count;
    size_t at = (size_t)layer * e;
    uint32_t rank = a->rank_of[at + expert];
    double *pull = a->pull + at * p->rank_count;

    for (uint32_t f = 0; layer > 0 && f < e; f++)
        pull_add(a, pull - (size_t)(e - f) * p->rank_count, rank,
                 -sign * coterie_problem_seam(p, layer - 1)[(size_t)f * e +
                                                            expert]);
    for (uint32_t f = 0; layer + 1 < p->layer_count && f < e; f++)
        pull_add(a, pull + (size_t)(e + f) * p->rank_count, rank,
                 -sign * coterie_problem_seam(p, layer)[(size_t)expert * e +
                                                        f]);
    for (uint32_t f = 0; p->pair != NULL && f < e; f++)
        pull_add(a, pull + (size_t)f * p->rank_count, rank,
                 -sign * coterie_problem_pair(p, layer)[(size_t)expert * e +
                                                        f]);
}

/* A neighbour on the very rank saves a link between nodes; one on the same
 * node all but the link inside it. */
static void pull_add(anneal_t *a, double *pull, uint32_t rank, double weight)
{
    const coterie_problem_t *p = a->problem;
    uint32_t size = p->rank_count / p->node_count;
    uint32_t first = rank / size * size;

    if (p->node_count == 1) {
        pull[rank] += weight;
        return;
    }
    for (uint32_t r = first; r < first + size; r++)
        pull[r] += weight * (p->network_cost - (r != rank));
}
