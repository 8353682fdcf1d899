#include "config.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "placement/solve/solver.h"

/* Annealed swaps of two experts of one layer. `pull` holds, for every expert
 * and rank, what is saved by having it there, so that judging a swap takes a
 * handful of look-ups and only a swap that is made costs O(experts). Loads over
 * the limit pay a toll instead of being forbidden, or tight limits would leave
 * no way from one good placement to another. The toll rises until none pays. */

typedef struct anneal {
    const coterie_problem_t *problem;
    uint16_t *rank_of;
    double *pull;        /* [layer, expert, rank] */
    uint64_t *rank_load; /* [layer, rank] */
    double toll;         /* for a unit of load over the limit, now */
} anneal_t;

typedef struct swap {
    uint32_t layer, a, b;
    double gain; /* tolls included */
} swap_t;

typedef struct schedule {
    double heat; /* at first, in the objective's unit */
    double toll; /* for a unit of load over the limit, at first */
    double seconds;
    uint64_t moves;
} schedule_t;

enum {
    MOVES_EACH = 1500, /* proposals per pair of experts of a layer, */
    MOVES_A_SECOND = 2000000, /* but only so many for the time limit */
    ROUNDS = 4, /* each from the best so far, the later ones cooler */
    ASK_EVERY = 1024 /* proposals between looks at the clock */
};

/* Of the time that is left, if moves take longer than thought: a search that
 * is cut off while hot finds nothing. */
static const double TIME_SHARE = 0.7;

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
static double average_load(const coterie_problem_t *problem);
static uint32_t layers_repair(anneal_t *a, const uint16_t *legal);
static int layer_over(const anneal_t *a, uint32_t layer);
static int swap_relieves(const anneal_t *a, swap_t *best);
static void anneal_round(anneal_t *a, coterie_search_t *search,
                         coterie_solution_t *solution,
                         const schedule_t *schedule);
static int swap_propose(const anneal_t *a, coterie_search_t *search,
                        swap_t *swap);
static int swap_judge(const anneal_t *a, swap_t *swap);
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
    double limit = search->deadline - search->started, heat, toll;
    schedule_t schedule;

    if (status != COTERIE_OK)
        goto out;
    heat = HEAT * average_loss(&a, search);
    toll = TOLL * heat / HEAT / average_load(problem);
    schedule.moves = fmin((double)problem->layer_count *
                              problem->expert_count *
                              problem->expert_count * MOVES_EACH,
                          limit * MOVES_A_SECOND) / ROUNDS + 1;
    schedule.seconds = TIME_SHARE * coterie_search_left(search) / ROUNDS;
    for (uint32_t round = 0; round < ROUNDS && !search->stopped; round++) {
        schedule.heat = round == 0 ? heat : heat / 4;
        schedule.toll = toll;
        anneal_reset(&a, solution->rank_of);
        anneal_round(&a, search, solution, &schedule);
        if (layers_repair(&a, solution->rank_of) > 0) {
            schedule.heat = heat / 16;
            schedule.toll = INFINITY;
            anneal_round(&a, search, solution, &schedule);
        }
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

    if (rank_of != a->rank_of)
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
    double loss = 0;
    uint32_t seen = 1;

    for (uint32_t i = 0; i < ASK_EVERY; i++) {
        swap_t swap;
        if (!swap_propose(a, search, &swap) || swap.gain >= 0)
            continue;
        loss -= swap.gain;
        seen++;
    }
    return loss / seen;
}

/* Of an expert. */
static double average_load(const coterie_problem_t *problem)
{
    size_t items = (size_t)problem->layer_count * problem->expert_count;
    double load = 1;

    for (size_t i = 0; i < items; i++)
        load += problem->load[i];
    return load / items;
}

/* Brings every layer within its limit: by the swaps that cost least for the
 * load they move or, failing that, by putting it back to what it was in a
 * legal placement. Returns how many layers were over. */
static uint32_t layers_repair(anneal_t *a, const uint16_t *legal)
{
    const coterie_problem_t *p = a->problem;
    uint32_t repaired = 0;

    a->toll = 0; /* gains without it */
    for (uint32_t l = 0; p->load_max != NULL && l < p->layer_count; l++) {
        swap_t swap = {.layer = l};
        if (!layer_over(a, l))
            continue;
        while (layer_over(a, l) && swap_relieves(a, &swap))
            swap_make(a, &swap);
        if (layer_over(a, l))
            memcpy(a->rank_of + (size_t)l * p->expert_count,
                   legal + (size_t)l * p->expert_count,
                   p->expert_count * sizeof(*legal));
        repaired++;
    }
    if (repaired > 0)
        anneal_reset(a, a->rank_of);
    return repaired;
}

static int layer_over(const anneal_t *a, uint32_t layer)
{
    uint32_t ranks = a->problem->rank_count;

    for (uint32_t r = 0; r < ranks; r++)
        if (a->rank_load[(size_t)layer * ranks + r] >
            a->problem->load_max[layer])
            return 1;
    return 0;
}

static int swap_relieves(const anneal_t *a, swap_t *best)
{
    uint32_t e = a->problem->expert_count;
    double least = INFINITY;

    for (uint32_t i = 0; i < e * e; i++) {
        swap_t swap = {.layer = best->layer, .a = i / e, .b = i % e};
        double moved;
        if (swap.a >= swap.b || !swap_judge(a, &swap))
            continue;
        moved = -load_over(a, &swap);
        if (moved <= 0 || -swap.gain / moved >= least)
            continue;
        least = -swap.gain / moved;
        *best = swap;
    }
    return least < INFINITY;
}

static void anneal_round(anneal_t *a, coterie_search_t *search,
                         coterie_solution_t *solution,
                         const schedule_t *schedule)
{
    double begin = coterie_search_now(), left = 1; /* share of the round */

    for (uint64_t i = 0;; i++) {
        swap_t swap;
        if (i % ASK_EVERY == 0) {
            double time = (coterie_search_now() - begin) / schedule->seconds;
            left = 1 - fmax(time, (double)i / schedule->moves);
            if (left <= 0 || coterie_search_over(search, solution))
                return;
            a->toll = schedule->toll / left;
        }
        if (!swap_propose(a, search, &swap))
            continue;
        if (swap.gain < 0) {
            double chance = (coterie_search_random(search) >> 11) * 0x1p-53;
            if (chance > exp(swap.gain / (schedule->heat * left * left)))
                continue;
        }
        swap_make(a, &swap);
    }
}

static int swap_propose(const anneal_t *a, coterie_search_t *search,
                        swap_t *swap)
{
    swap->layer = coterie_search_below(search, a->problem->layer_count);
    swap->a = coterie_search_below(search, a->problem->expert_count);
    swap->b = coterie_search_below(search, a->problem->expert_count);
    return swap_judge(a, swap);
}

/* Fills in the gain; 0 if both are on one rank. */
static int swap_judge(const anneal_t *a, swap_t *swap)
{
    const coterie_problem_t *p = a->problem;
    size_t at = (size_t)swap->layer * p->expert_count;
    uint32_t g = a->rank_of[at + swap->a], h = a->rank_of[at + swap->b];
    const double *pull_a = a->pull + (at + swap->a) * p->rank_count;
    const double *pull_b = a->pull + (at + swap->b) * p->rank_count;
    const float *pair = coterie_problem_pair(p, swap->layer);
    double over_limit;

    if (g == h)
        return 0;
    swap->gain = pull_a[h] - pull_a[g] + pull_b[g] - pull_b[h];
    if (pair != NULL) /* each counted on the other's leaving its rank */
        swap->gain -= 2 * coterie_problem_link(p, g, h) *
                      pair[(size_t)swap->a * p->expert_count + swap->b];
    over_limit = load_over(a, swap);
    if (over_limit != 0) /* the toll may be infinite */
        swap->gain -= a->toll * over_limit;
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
