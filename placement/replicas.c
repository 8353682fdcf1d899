#include "config.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "placement/placement.h"
#include "placement/replicas.h"

/* Greedy, layer by layer: every token is routed by the one rule, and each
 * replica that would have spared it copies is credited with them; the best is
 * taken, and all is routed again. Owners are those without replicas, since a
 * layer's replicas and the next one's owners would otherwise chase each other.
 */

enum { TOKENS_MAX = 65536 }; /* of the trace, evenly spread */

typedef struct replicating {
    const coterie_replicas_t *task;
    uint32_t expert_count, rank_count, k;
    uint64_t token_count;
    int32_t *experts;  /* [token, k], of the layer at work */
    uint16_t *owner;   /* [token], of the layer at work */
    double *gain;      /* [expert, rank]: cost that a replica spares */
    uint8_t *banned;   /* [expert, rank]: held there, or breaks a limit */
    uint64_t *load;    /* [rank]: choices served */
    uint64_t *trial;   /* [rank]: the same, with a replica more */
} replicating_t;

static coterie_status_t replicating_open(replicating_t *r,
                                         const coterie_replicas_t *task);
static void replicating_close(replicating_t *r);
static void layer_load(replicating_t *r, uint32_t layer);
static void owners_move(replicating_t *r, uint32_t layer);
static coterie_status_t layer_fill(replicating_t *r, uint32_t layer,
                                   int16_t *slots);
static coterie_status_t layer_route(replicating_t *r, const int16_t *slots,
                                    uint64_t *load);
static void token_credit(replicating_t *r, uint64_t token,
                         const coterie_route_t *route);
static int best_replica(const replicating_t *r, const int16_t *slots,
                        uint32_t *expert_p, uint32_t *slot_p);
static int limits_kept(const replicating_t *r, uint32_t layer);

coterie_status_t coterie_replicas_choose(const coterie_replicas_t *task,
                                         int16_t *slot_expert)
{
    replicating_t r;
    coterie_status_t status = replicating_open(&r, task);

    for (uint32_t l = 0; status == COTERIE_OK && l < task->view->layer_count;
         l++) {
        layer_load(&r, l);
        status = layer_fill(&r, l, slot_expert + (size_t)l * task->slot_count);
        owners_move(&r, l);
    }
    replicating_close(&r);
    return status;
}

static coterie_status_t replicating_open(replicating_t *r,
                                         const coterie_replicas_t *task)
{
    const coterie_trace_view_t *view = task->view;
    size_t cells = (size_t)view->expert_count * task->problem->rank_count;

    memset(r, 0, sizeof(*r));
    r->task = task;
    r->expert_count = view->expert_count;
    r->rank_count = task->problem->rank_count;
    r->k = view->k;
    r->token_count =
        view->token_count < TOKENS_MAX ? view->token_count : TOKENS_MAX;
    r->experts = calloc(r->token_count * r->k, sizeof(*r->experts));
    r->owner = calloc(r->token_count, sizeof(*r->owner));
    r->gain = calloc(cells, sizeof(*r->gain));
    r->banned = calloc(cells, sizeof(*r->banned));
    r->load = calloc(r->rank_count, sizeof(*r->load));
    r->trial = calloc(r->rank_count, sizeof(*r->trial));
    if (!r->experts || !r->owner || !r->gain || !r->banned || !r->load ||
        !r->trial)
        return coterie_fail_memory(r->token_count * r->k *
                                       sizeof(*r->experts),
                                   "choosing replicas");
    /* who owns a token at first matters to one layer only */
    for (uint64_t t = 0; t < r->token_count; t++)
        r->owner[t] = task->mode == COTERIE_MODE_FORWARD ? COTERIE_NONE
                                                         : t % r->rank_count;
    return COTERIE_OK;
}

static void replicating_close(replicating_t *r)
{
    free(r->experts);
    free(r->owner);
    free(r->gain);
    free(r->banned);
    free(r->load);
    free(r->trial);
}

static void layer_load(replicating_t *r, uint32_t layer)
{
    const coterie_trace_view_t *view = r->task->view;

    for (uint64_t t = 0; t < r->token_count; t++) {
        uint64_t token = t * view->token_count / r->token_count;
        const int16_t *set =
            view->experts + (token * view->layer_count + layer) * r->k;
        for (uint32_t i = 0; i < r->k; i++)
            r->experts[t * r->k + i] = set[i];
    }
}

static void owners_move(replicating_t *r, uint32_t layer)
{
    if (r->task->mode != COTERIE_MODE_OWNER)
        return;
    for (uint64_t t = 0; t < r->token_count; t++) {
        coterie_route_t route;
        coterie_route(r->task->single, layer, r->experts + t * r->k, r->k,
                      r->owner[t], &route);
        r->owner[t] = route.next_owner;
    }
}

static coterie_status_t layer_fill(replicating_t *r, uint32_t layer,
                                   int16_t *slots)
{
    uint32_t expert, slot;
    coterie_status_t status;

    memset(r->banned, 0, (size_t)r->expert_count * r->rank_count);
    for (uint32_t s = 0; s < r->task->slot_count; s++)
        if (slots[s] >= 0)
            r->banned[(size_t)slots[s] * r->rank_count +
                      r->task->slot_rank[s]] = 1;
    status = layer_route(r, slots, r->load);
    while (status == COTERIE_OK && best_replica(r, slots, &expert, &slot) &&
           !coterie_search_over(r->task->search, r->task->solution)) {
        r->banned[(size_t)expert * r->rank_count +
                  r->task->slot_rank[slot]] = 1;
        slots[slot] = expert;
        status = layer_route(r, slots, r->trial);
        if (status != COTERIE_OK)
            break;
        if (limits_kept(r, layer)) {
            memcpy(r->load, r->trial, r->rank_count * sizeof(*r->load));
            continue;
        }
        slots[slot] = -1;
        status = layer_route(r, slots, r->load);
    }
    return status;
}

/* Routes all tokens over these slots: what each rank serves, and what each
 * replica more would spare. */
static coterie_status_t layer_route(replicating_t *r, const int16_t *slots,
                                    uint64_t *load)
{
    coterie_placement_options_t options = COTERIE_PLACEMENT_OPTIONS_INIT;
    coterie_placement_t *placement;
    coterie_status_t status;

    options.layer_count = 1;
    options.expert_count = r->expert_count;
    options.rank_count = r->rank_count;
    options.node_count = r->task->problem->node_count;
    options.slot_count = r->task->slot_count;
    options.slot_rank = r->task->slot_rank;
    options.slot_expert = slots;
    status = coterie_placement_create(&options, &placement);
    if (status != COTERIE_OK)
        return status;
    memset(load, 0, r->rank_count * sizeof(*load));
    memset(r->gain, 0,
           (size_t)r->expert_count * r->rank_count * sizeof(*r->gain));
    for (uint64_t t = 0; t < r->token_count; t++) {
        coterie_route_t route;
        coterie_route(placement, 0, r->experts + t * r->k, r->k, r->owner[t],
                      &route);
        token_credit(r, t, &route);
        for (uint32_t i = 0; i < r->k; i++)
            if (route.serving[i] != COTERIE_NONE)
                load[route.serving[i]]++;
    }
    coterie_placement_destroy(placement);
    return COTERIE_OK;
}

/* A rank that serves one expert only need not be visited if another rank of
 * the token's, or its owner, has that expert: a copy and a sum less. The owner
 * serves what it holds even where that empties no other rank, and then adds
 * itself to those whose sums are needed. */
static void token_credit(replicating_t *r, uint64_t token,
                         const coterie_route_t *route)
{
    const int32_t *experts = r->experts + token * r->k;
    uint32_t owner = r->owner[token], ranks = r->rank_count, owned = 0;
    double sum_kept = r->task->mode == COTERIE_MODE_TWO_PHASE ? 1 : 0;

    for (uint32_t i = 0; i < route->rank_count; i++)
        owned |= route->rank[i] == owner;
    for (uint32_t i = 0; i < r->k; i++) {
        uint32_t rank = route->serving[i], shared = 0;
        double link = 1, *gain;
        if (rank == COTERIE_NONE || rank == owner)
            continue;
        for (uint32_t j = 0; j < r->k; j++)
            shared |= j != i && route->serving[j] == rank;
        gain = r->gain + (size_t)experts[i] * ranks;
        if (owner != COTERIE_NONE) {
            link = coterie_problem_link(r->task->problem, owner, rank);
            if (!owned)
                gain[owner] += (shared ? -1 : link) + sum_kept;
        }
        for (uint32_t j = 0; !shared && j < route->rank_count; j++)
            if (route->rank[j] != rank)
                gain[route->rank[j]] += 2 * link;
    }
}

static int best_replica(const replicating_t *r, const int16_t *slots,
                        uint32_t *expert_p, uint32_t *slot_p)
{
    double best = 0;

    for (uint32_t s = 0; s < r->task->slot_count; s++) {
        uint32_t rank = r->task->slot_rank[s];
        if (slots[s] >= 0)
            continue;
        for (uint32_t e = 0; e < r->expert_count; e++) {
            size_t cell = (size_t)e * r->rank_count + rank;
            if (r->banned[cell] || r->gain[cell] <= best)
                continue;
            best = r->gain[cell];
            *expert_p = e;
            *slot_p = s;
        }
    }
    return best > 0;
}

/* Loads within the limit or, where they are over it already, no higher. */
static int limits_kept(const replicating_t *r, uint32_t layer)
{
    const coterie_problem_t *p = r->task->problem;
    double share = (double)r->token_count / r->task->view->token_count;

    for (uint32_t i = 0; p->load_max != NULL && i < r->rank_count; i++)
        if (r->trial[i] > p->load_max[layer] * share &&
            r->trial[i] > r->load[i])
            return 0;
    return 1;
}
