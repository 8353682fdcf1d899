#include "config.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "placement/solve/layer.h"
#include "placement/solve/parallel.h"
#include "placement/solve/relabel.h"
#include "placement/solve/rotation.h"
#include "placement/solve/solver.h"

/* Annealed swaps, layer by layer: even layers at once, their neighbours
 * staying, then odd ones. Entering a layer costs O(experts^2), so many swaps
 * are tried while there. What swaps mend slowest is a set of experts that goes
 * on under another rank's name: renaming ranks at the seams does it at once.
 * Loads over the limit pay a toll instead of being forbidden, or tight limits
 * would leave no way from one good placement to another. The toll rises until
 * none pays. */

enum {
    TRIES_EACH = 16,     /* swaps proposed per expert, on entering a layer */
    SWEEPS_EACH = 60,    /* in a round, per expert of a layer */
    ROUNDS = 4,          /* all from a hot start; */
    ROUNDS_SMALL = 12,   /* where all their sweeps take little */
    ROUND_LEAST = 500,   /* sweeps: with fewer there is one round only */
    RELABEL_EVERY = 20,  /* sweeps */
    DESCENTS_MOST = 100, /* sweeps after a round that only take gains */
    SAMPLE = 1024,       /* swaps that say what an average loss is */
    ROTATE_RANKS = 256,  /* beyond, cycles of ranks take too long to find */
    THREAD_LEAST = 1 << 20, /* cells of all seams: fewer are not worth one */
    CELLS_BLIND = 1 << 21   /* of seams, between looks at the clock */
};

/* Of the time: where a proof may come of the rest, and where not. */
static const double SHARE_PROOF = 0.3, SHARE_ALONE = 0.7;

/* Of the sweeps that there is time for, as many more that only take gains. */
static const double DESCENTS_SHARE = 0.4;

/* What a sweep may take, by a low guess, so that the number of sweeps follows
 * from the time limit, not from the clock. */
static const double CELLS_PER_SECOND = 5e8, TRIES_PER_SECOND = 3e7,
    PAIR_TRIES_PER_SECOND = 1e7; /* where a swap changes its layer's table */

/* Of a round's time: by how much sweeps may be late before they are cut, and
 * the same seed gives another placement. */
static const double GRACE = 0.3;

static const double HEAT = 2;  /* at first, in average losses */
static const double TOLL = 20; /* for an average expert, in average losses */

typedef struct anneal {
    const coterie_problem_t *problem;
    coterie_search_t *search;
    const coterie_solution_t *solution;
    uint16_t *rank_of;
    coterie_parallel_t parallel;
    coterie_layer_t *layers; /* [thread]: that each is in */
    coterie_rotation_t *rotations; /* [thread]; or NULL: swaps only */
    coterie_relabel_t relabel;
    double heat, toll; /* now; no heat: gains only */
    uint64_t seed;     /* of this sweep */
    uint32_t parity;   /* of the layers at hand */
} anneal_t;

typedef struct schedule {
    double heat, toll; /* at first, in the objective's unit */
    double seconds;
    uint32_t sweeps;
    uint32_t descents; /* sweeps after them, at most */
} schedule_t;

static int anneal_applies(const coterie_problem_t *problem, double seconds);
static coterie_status_t anneal_solve(const coterie_problem_t *problem,
                                     coterie_search_t *search,
                                     coterie_solution_t *solution);
static coterie_status_t anneal_open(anneal_t *a);
static coterie_status_t rotations_open(anneal_t *a);
static void anneal_close(anneal_t *a);
static uint32_t schedule_plan(anneal_t *a, schedule_t *schedule);
static double average_loss(anneal_t *a);
static double average_load(const coterie_problem_t *problem);
static coterie_status_t anneal_round(anneal_t *a, const schedule_t *schedule);
static coterie_status_t anneal_end(anneal_t *a, const schedule_t *schedule);
static void sweep(anneal_t *a);
static void layer_work(void *arg, uint32_t thread, uint32_t index);
static uint32_t layers_repair(anneal_t *a);
static int swap_relieves(const coterie_layer_t *layer, coterie_swap_t *best);

const coterie_solver_t coterie_solver_anneal = {
    "annealing", 1, anneal_applies, anneal_solve};

static int anneal_applies(const coterie_problem_t *problem, double seconds)
{
    (void)seconds;
    return problem->rank_count > 1;
}

static coterie_status_t anneal_solve(const coterie_problem_t *problem,
                                     coterie_search_t *search,
                                     coterie_solution_t *solution)
{
    anneal_t a = {.problem = problem, .search = search, .solution = solution};
    coterie_status_t status = anneal_open(&a);
    uint32_t rounds = 0;
    schedule_t schedule;

    if (status == COTERIE_OK)
        rounds = schedule_plan(&a, &schedule);
    for (uint32_t round = 0; round < rounds && !search->stopped; round++) {
        status = anneal_round(&a, &schedule);
        if (status == COTERIE_OK)
            status = anneal_end(&a, &schedule);
        if (status != COTERIE_OK)
            break;
        coterie_solution_offer(problem, solution, a.rank_of,
                               coterie_solver_anneal.name);
    }
    anneal_close(&a);
    return status;
}

static coterie_status_t anneal_open(anneal_t *a)
{
    const coterie_problem_t *p = a->problem;
    size_t items = (size_t)p->layer_count * p->expert_count;
    coterie_status_t status;

    a->parallel = (coterie_parallel_t){
        .thread_count = items * p->expert_count < THREAD_LEAST
                            ? 1 : a->search->thread_count,
        .some = 1 + CELLS_BLIND / (p->expert_count * p->expert_count),
        .search = a->search, .solution = a->solution};
    a->rank_of = malloc(items * sizeof(*a->rank_of));
    a->layers = calloc(a->parallel.thread_count, sizeof(*a->layers));
    if (a->rank_of == NULL || a->layers == NULL)
        return coterie_fail_memory(items * sizeof(*a->rank_of),
                                   "a placement");
    memcpy(a->rank_of, a->solution->rank_of, items * sizeof(*a->rank_of));
    status = coterie_relabel_open(&a->relabel, p);
    for (uint32_t t = 0;
         status == COTERIE_OK && t < a->parallel.thread_count; t++)
        status = coterie_layer_open(&a->layers[t], p);
    if (status == COTERIE_OK && p->pair == NULL &&
        p->rank_count <= ROTATE_RANKS)
        status = rotations_open(a);
    return status;
}

static coterie_status_t rotations_open(anneal_t *a)
{
    uint32_t threads = a->parallel.thread_count;
    coterie_status_t status = COTERIE_OK;

    a->rotations = calloc(threads, sizeof(*a->rotations));
    if (a->rotations == NULL)
        return coterie_fail_memory(threads * sizeof(*a->rotations),
                                   "changes of ranks");
    for (uint32_t t = 0; status == COTERIE_OK && t < threads; t++)
        status = coterie_rotation_open(&a->rotations[t],
                                       a->problem->rank_count);
    return status;
}

static void anneal_close(anneal_t *a)
{
    for (uint32_t t = 0; a->layers != NULL && t < a->parallel.thread_count; t++)
        coterie_layer_close(&a->layers[t]);
    for (uint32_t t = 0;
         a->rotations != NULL && t < a->parallel.thread_count; t++)
        coterie_rotation_close(&a->rotations[t]);
    coterie_relabel_close(&a->relabel);
    free(a->layers);
    free(a->rotations);
    free(a->rank_of);
}

/* Returns the number of rounds. */
static uint32_t schedule_plan(anneal_t *a, schedule_t *schedule)
{
    const coterie_problem_t *p = a->problem;
    double limit = a->search->planned;
    double items = (double)p->layer_count * p->expert_count;
    double pace = 2 * items * p->expert_count / CELLS_PER_SECOND +
                  items * TRIES_EACH / (p->pair != NULL ? PAIR_TRIES_PER_SECOND
                                                        : TRIES_PER_SECOND);
    double share = coterie_solve_may_prove(p, limit * (1 - SHARE_PROOF))
                       ? SHARE_PROOF : SHARE_ALONE;
    double sweeps = limit * share * a->parallel.thread_count / pace;
    double loss = average_loss(a);
    double full = SWEEPS_EACH * (double)p->expert_count;
    uint32_t rounds = fmax(1, fmax(fmin(ROUNDS, sweeps / ROUND_LEAST),
                                   fmin(ROUNDS_SMALL, sweeps / full)));

    schedule->heat = HEAT * loss;
    schedule->toll = TOLL * loss / average_load(p);
    schedule->sweeps = fmin(full, sweeps / rounds) + 1;
    schedule->descents =
        fmin(DESCENTS_MOST, sweeps * DESCENTS_SHARE / rounds) + 1;
    /* if sweeps take longer than thought: cut off while hot, a round finds
     * nothing */
    schedule->seconds = share * coterie_search_left(a->search) / rounds;
    return rounds;
}

/* Of swaps that lose; heat and toll are told in it. */
static double average_loss(anneal_t *a)
{
    const coterie_problem_t *p = a->problem;
    coterie_layer_t *layer = a->layers;
    double loss = 0;
    uint32_t seen = 1;

    for (uint32_t i = 0; i < SAMPLE; i++) {
        coterie_swap_t swap;
        double gain;
        if (i % (SAMPLE / 4) == 0)
            coterie_layer_enter(layer, a->rank_of,
                                coterie_search_below(a->search,
                                                     p->layer_count));
        swap.a = coterie_search_below(a->search, p->expert_count);
        swap.b = coterie_search_below(a->search, p->expert_count);
        gain = coterie_layer_gain(layer, swap);
        if (gain >= 0)
            continue;
        loss -= gain;
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

static coterie_status_t anneal_round(anneal_t *a, const schedule_t *schedule)
{
    double begin = coterie_search_now();
    coterie_status_t status = COTERIE_OK;

    for (uint32_t i = 0; status == COTERIE_OK && i < schedule->sweeps; i++) {
        double time = (coterie_search_now() - begin) / schedule->seconds;
        double late = (time - GRACE) / (1 - GRACE);
        double left = 1 - fmax(late, (double)i / schedule->sweeps);
        if (late * schedule->sweeps > i)
            a->search->cut = 1;
        if (left <= 0 || coterie_search_over(a->search, a->solution))
            break;
        a->heat = schedule->heat * left * left;
        a->toll = schedule->toll / left;
        sweep(a);
        if (i % RELABEL_EVERY == 0)
            status = coterie_relabel_seams(&a->relabel, a->rank_of);
    }
    return status;
}

/* From a cooled placement to a legal one that no swap betters and, without
 * pairs and a limit, no other choice of one layer either. */
static coterie_status_t anneal_end(anneal_t *a, const schedule_t *schedule)
{
    double before = INFINITY, cost = 0;
    coterie_status_t status = coterie_relabel_seams(&a->relabel, a->rank_of);

    a->heat = 0;
    a->toll = schedule->toll;
    layers_repair(a);
    a->toll = INFINITY;
    for (uint32_t i = 0; status == COTERIE_OK && i < schedule->descents; i++) {
        cost = coterie_problem_cost(a->problem, a->rank_of);
        if (cost >= before - a->problem->tolerance ||
            coterie_search_over(a->search, a->solution))
            break;
        before = cost;
        sweep(a);
    }
    return status;
}

static void sweep(anneal_t *a)
{
    uint32_t layers = a->problem->layer_count;

    a->seed = coterie_search_random(a->search);
    for (a->parity = 0; a->parity < 2; a->parity++)
        coterie_parallel(&a->parallel, (layers + 1 - a->parity) / 2,
                         layer_work, a);
}

static void layer_work(void *arg, uint32_t thread, uint32_t index)
{
    anneal_t *a = arg;
    coterie_layer_t *layer = &a->layers[thread];
    uint32_t l = 2 * index + a->parity;

    coterie_layer_enter(layer, a->rank_of, l);
    layer->random = a->seed + ((uint64_t)l << 40);
    layer->toll = a->toll;
    if (a->heat > 0) {
        coterie_layer_anneal(layer,
                             (uint64_t)TRIES_EACH * a->problem->expert_count,
                             a->heat);
        return;
    }
    coterie_layer_descend(layer);
    if (a->rotations != NULL)
        coterie_rotation_descend(&a->rotations[thread], layer);
}

/* Brings every layer within its limit: by the swaps that cost least for the
 * load they move or, failing that, by putting it back to what it was in a
 * legal placement. Returns how many layers were over. */
static uint32_t layers_repair(anneal_t *a)
{
    const coterie_problem_t *p = a->problem;
    coterie_layer_t *layer = a->layers;
    uint32_t repaired = 0;

    for (uint32_t l = 0; p->load_max != NULL && l < p->layer_count; l++) {
        coterie_swap_t swap;
        coterie_layer_enter(layer, a->rank_of, l);
        layer->toll = 0; /* gains without it */
        if (!coterie_layer_over(layer))
            continue;
        while (coterie_layer_over(layer) && swap_relieves(layer, &swap))
            coterie_layer_swap(layer, swap);
        if (coterie_layer_over(layer))
            memcpy(layer->rank_of,
                   a->solution->rank_of + (size_t)l * p->expert_count,
                   p->expert_count * sizeof(*a->rank_of));
        repaired++;
    }
    return repaired;
}

static int swap_relieves(const coterie_layer_t *layer, coterie_swap_t *best)
{
    uint32_t e = layer->problem->expert_count;
    double least = INFINITY;

    for (uint32_t i = 0; i < e * e; i++) {
        coterie_swap_t swap = {i / e, i % e};
        double moved, gain;
        if (swap.a >= swap.b ||
            layer->rank_of[swap.a] == layer->rank_of[swap.b])
            continue;
        gain = coterie_layer_gain(layer, swap);
        moved = -coterie_layer_excess(layer, swap);
        if (moved <= 0 || -gain / moved >= least)
            continue;
        least = -gain / moved;
        *best = swap;
    }
    return least < INFINITY;
}
