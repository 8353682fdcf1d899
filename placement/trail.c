#include "config.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "placement/trail.h"

/* Prefers what moves no expert further than it is. */
static const double FREE_MOVES = 1e9;

typedef struct walk {
    coterie_trail_t *trail;
    const coterie_problem_t *p;
    uint16_t *rank_of;     /* [layer, expert] */
    double *worth;         /* [layer, expert, rank]: cost, if it were there,
                              less what it is where all others are far */
    coterie_swap_t *best;  /* [layer]; cost: how good */
    uint64_t *rank_load;   /* [layer, rank] */
    uint64_t *most;        /* [layer]: what a rank may carry */
    double *links;         /* [rank]: of what is being added; */
    uint32_t near, near_end; /* only these are not 0 */
    uint64_t moves;
    double cost;
} walk_t;

static coterie_status_t walk_open(walk_t *w);
static void walk_close(walk_t *w);
static void loads_measure(walk_t *w);
static void worth_add(walk_t *w, uint32_t layer, uint32_t expert, double sign);
static void block_add(walk_t *w, const float *weight, size_t stride,
                      double *worth);
static void links_from(walk_t *w, uint32_t rank, double sign);
static void layer_scan(walk_t *w, uint32_t layer);
static double swap_judge(const walk_t *w, const coterie_swap_t *swap);
static double swap_gain(const walk_t *w, const coterie_swap_t *swap);
static int swap_moves(const walk_t *w, const coterie_swap_t *swap);
static int swap_allowed(const walk_t *w, const coterie_swap_t *swap);
static coterie_status_t swap_make(walk_t *w, coterie_swap_t swap);
static size_t item_of(const walk_t *w, uint32_t layer, uint32_t expert);

coterie_status_t coterie_trail_walk(coterie_trail_t *trail)
{
    walk_t w = {.trail = trail, .p = trail->problem};
    coterie_solution_t now = {.by = "moves", .bound_by = "none"};
    coterie_status_t status = walk_open(&w);
    uint32_t layers = w.p->layer_count;

    for (uint32_t l = 0; status == COTERIE_OK && l < layers; l++)
        layer_scan(&w, l);
    while (status == COTERIE_OK) {
        uint32_t best = 0;
        now.cost = w.cost;
        for (uint32_t l = 1; l < layers; l++)
            if (w.best[l].cost > w.best[best].cost)
                best = l;
        if (w.best[best].cost == -INFINITY ||
            coterie_search_over(trail->search, &now))
            break;
        status = swap_make(&w, w.best[best]);
        for (uint32_t l = best > 0 ? best - 1 : 0; l <= best + 1; l++)
            if (l < layers)
                layer_scan(&w, l);
    }
    walk_close(&w);
    return status;
}

size_t coterie_trail_point(const coterie_trail_t *trail, uint64_t moves)
{
    double best = INFINITY;
    size_t point = 0;

    for (size_t i = 0; i < trail->count; i++)
        if (trail->swaps[i].moves <= moves && trail->swaps[i].cost < best) {
            best = trail->swaps[i].cost;
            point = i + 1;
        }
    return point;
}

static coterie_status_t walk_open(walk_t *w)
{
    const coterie_problem_t *p = w->p;
    size_t items = (size_t)p->layer_count * p->expert_count;
    size_t cells = items * p->rank_count;

    w->rank_of = malloc(items * sizeof(*w->rank_of));
    w->worth = calloc(cells, sizeof(*w->worth));
    w->best = calloc(p->layer_count, sizeof(*w->best));
    w->rank_load = calloc((size_t)p->layer_count * p->rank_count,
                          sizeof(*w->rank_load));
    w->most = calloc(p->layer_count, sizeof(*w->most));
    w->links = calloc(p->rank_count, sizeof(*w->links));
    if (!w->rank_of || !w->worth || !w->best || !w->rank_load || !w->most ||
        !w->links)
        return coterie_fail_memory(cells * sizeof(*w->worth), "moves");
    memcpy(w->rank_of, w->trail->begin, items * sizeof(*w->rank_of));
    for (uint32_t l = 0; l < p->layer_count; l++)
        for (uint32_t e = 0; e < p->expert_count; e++)
            worth_add(w, l, e, 1);
    w->cost = coterie_problem_cost(p, w->rank_of);
    loads_measure(w);
    return COTERIE_OK;
}

static void walk_close(walk_t *w)
{
    free(w->rank_of);
    free(w->worth);
    free(w->best);
    free(w->rank_load);
    free(w->most);
    free(w->links);
}

/* Where a limit is broken to begin with, it must not get worse. */
static void loads_measure(walk_t *w)
{
    const coterie_problem_t *p = w->p;

    for (uint32_t l = 0; l < p->layer_count; l++) {
        uint64_t *load = w->rank_load + (size_t)l * p->rank_count;
        for (uint32_t e = 0; e < p->expert_count; e++)
            load[w->rank_of[item_of(w, l, e)]] += p->load[item_of(w, l, e)];
        w->most[l] = p->load_max != NULL ? p->load_max[l] : UINT64_MAX;
        for (uint32_t r = 0; r < p->rank_count; r++)
            if (load[r] > w->most[l])
                w->most[l] = load[r];
    }
}

/* What an expert, where it is, makes others' places cost; or, with a sign of
 * -1, that no more. */
static void worth_add(walk_t *w, uint32_t layer, uint32_t expert, double sign)
{
    const coterie_problem_t *p = w->p;
    size_t experts = p->expert_count, row = experts * p->rank_count;
    double *worth = w->worth + layer * row;

    links_from(w, w->rank_of[item_of(w, layer, expert)], sign);
    if (layer + 1 < p->layer_count)
        block_add(w, coterie_problem_seam(p, layer) + expert * experts, 1,
                  worth + row);
    if (layer > 0)
        block_add(w, coterie_problem_seam(p, layer - 1) + expert, experts,
                  worth - row);
    if (p->pair != NULL)
        block_add(w, coterie_problem_pair(p, layer) + expert * experts, 1,
                  worth);
}

static void block_add(walk_t *w, const float *weight, size_t stride,
                      double *worth)
{
    uint32_t ranks = w->p->rank_count;

    for (uint32_t e = 0; e < w->p->expert_count; e++) {
        double each = weight[e * stride];
        for (uint32_t r = w->near; each != 0 && r < w->near_end; r++)
            worth[(size_t)e * ranks + r] += each * w->links[r];
    }
}

static void links_from(walk_t *w, uint32_t rank, double sign)
{
    const coterie_problem_t *p = w->p;
    uint32_t size = p->node_count > 1 ? p->rank_count / p->node_count : 1;
    double far = p->node_count > 1 ? p->network_cost : 1;

    w->near = rank / size * size;
    w->near_end = w->near + size;
    for (uint32_t r = w->near; r < w->near_end; r++)
        w->links[r] = sign * (coterie_problem_link(p, rank, r) - far);
}

static void layer_scan(walk_t *w, uint32_t layer)
{
    coterie_swap_t *best = &w->best[layer];
    uint32_t experts = w->p->expert_count;

    best->cost = -INFINITY;
    for (uint32_t a = 0; a < experts; a++)
        for (uint32_t b = a + 1; b < experts; b++) {
            coterie_swap_t swap = {.layer = layer, .a = (uint16_t)a,
                                   .b = (uint16_t)b};
            swap.cost = swap_judge(w, &swap);
            if (swap.cost > best->cost)
                *best = swap;
        }
}

/* How much to be preferred; -INFINITY: not at all. Towards a target, what it
 * costs on the way does not matter. */
static double swap_judge(const walk_t *w, const coterie_swap_t *swap)
{
    const uint16_t *target = w->trail->target;
    size_t a = item_of(w, swap->layer, swap->a);
    size_t b = item_of(w, swap->layer, swap->b);
    double gain;
    int moves;

    if (w->rank_of[a] == w->rank_of[b])
        return -INFINITY;
    if (target != NULL)
        return (target[a] == w->rank_of[b] && target[b] != w->rank_of[b]) ||
                       (target[b] == w->rank_of[a] &&
                        target[a] != w->rank_of[a])
                   ? swap_gain(w, swap)
                   : -INFINITY;
    gain = swap_gain(w, swap);
    if (gain <= w->p->tolerance || !swap_allowed(w, swap))
        return -INFINITY;
    moves = swap_moves(w, swap);
    return moves > 0 ? gain / moves : gain * FREE_MOVES;
}

static double swap_gain(const walk_t *w, const coterie_swap_t *swap)
{
    uint32_t ranks = w->p->rank_count;
    size_t a = item_of(w, swap->layer, swap->a);
    size_t b = item_of(w, swap->layer, swap->b);
    uint32_t ra = w->rank_of[a], rb = w->rank_of[b];
    double gain = w->worth[a * ranks + ra] - w->worth[a * ranks + rb] +
                  w->worth[b * ranks + rb] - w->worth[b * ranks + ra];

    /* The two are as far apart as before, which both sums overlook. */
    if (w->p->pair != NULL)
        gain -= 2 * coterie_problem_link(w->p, ra, rb) *
                coterie_problem_pair(w->p, swap->layer)
                    [(size_t)swap->a * w->p->expert_count + swap->b];
    return gain;
}

/* Experts more that are not where they began. */
static int swap_moves(const walk_t *w, const coterie_swap_t *swap)
{
    size_t a = item_of(w, swap->layer, swap->a);
    size_t b = item_of(w, swap->layer, swap->b);
    const uint16_t *begin = w->trail->begin;

    return (begin[a] == w->rank_of[a]) + (begin[b] == w->rank_of[b]) -
           (begin[a] == w->rank_of[b]) - (begin[b] == w->rank_of[a]);
}

static int swap_allowed(const walk_t *w, const coterie_swap_t *swap)
{
    size_t a = item_of(w, swap->layer, swap->a);
    size_t b = item_of(w, swap->layer, swap->b);
    const uint64_t *load =
        w->rank_load + (size_t)swap->layer * w->p->rank_count;
    uint64_t more = w->p->load[b] - w->p->load[a]; /* modulo 2^64 */

    return load[w->rank_of[a]] + more <= w->most[swap->layer] &&
           load[w->rank_of[b]] - more <= w->most[swap->layer];
}

static coterie_status_t swap_make(walk_t *w, coterie_swap_t swap)
{
    coterie_trail_t *trail = w->trail;
    size_t a = item_of(w, swap.layer, swap.a);
    size_t b = item_of(w, swap.layer, swap.b);
    uint64_t *load = w->rank_load + (size_t)swap.layer * w->p->rank_count;
    uint64_t more = w->p->load[b] - w->p->load[a];
    uint16_t rank = w->rank_of[a];

    if (trail->count == trail->room) {
        size_t room = trail->room == 0 ? 256 : 2 * trail->room;
        coterie_swap_t *swaps =
            realloc(trail->swaps, room * sizeof(*trail->swaps));
        if (swaps == NULL)
            return coterie_fail_memory(room * sizeof(*swaps), "moves");
        trail->swaps = swaps;
        trail->room = room;
    }
    w->cost -= swap_gain(w, &swap);
    w->moves += (uint64_t)(int64_t)swap_moves(w, &swap);
    load[rank] += more;
    load[w->rank_of[b]] -= more;
    worth_add(w, swap.layer, swap.a, -1);
    worth_add(w, swap.layer, swap.b, -1);
    w->rank_of[a] = w->rank_of[b];
    w->rank_of[b] = rank;
    worth_add(w, swap.layer, swap.a, 1);
    worth_add(w, swap.layer, swap.b, 1);
    swap.moves = w->moves;
    swap.cost = w->cost;
    trail->swaps[trail->count++] = swap;
    return COTERIE_OK;
}

static size_t item_of(const walk_t *w, uint32_t layer, uint32_t expert)
{
    return (size_t)layer * w->p->expert_count + expert;
}
