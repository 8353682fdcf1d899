#include "config.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "placement/copies.h"
#include "placement/solve/search.h"

/* Tokens lie in a drawn order, so that the first of those which a change
 * affects speak for the rest: most changes are bad, and seen to be after a
 * few. */

enum {
    LOOK_LEAST = 32, /* tokens that a guess takes */
    LOOK_SHIFT = 4   /* the first guess: from a 16th of the tokens */
};

static const double SURE = 3; /* standard errors */

/* The sum over one expert's tokens, on its way. */
typedef struct tally {
    double sum, squares;
    uint32_t count, all;
} tally_t;

static coterie_status_t memory_allocate(coterie_copies_t *c);
static coterie_status_t tokens_draw(coterie_copies_t *c,
                                    const coterie_copies_task_t *task);
static void tokens_list(coterie_copies_t *c);
static void loads_weigh(coterie_copies_t *c, const coterie_copies_task_t *task);
static double token_refresh(coterie_copies_t *c, uint32_t token);
static void expert_judge(coterie_copies_t *c, const coterie_change_t *change,
                         uint32_t which, uint32_t shift, tally_t *tally);
static double token_judge(coterie_copies_t *c, uint32_t layer, uint32_t token);
static double entry_cost(const coterie_copies_t *c,
                         const coterie_copies_entry_t *entry, uint32_t owner);
static double seams_cost(const coterie_copies_t *c, uint32_t layer,
                         uint32_t token, uint64_t ranks);
static double ranks_forward(const coterie_copies_t *c, uint64_t from,
                            uint64_t to);
static void load_move(coterie_copies_t *c, const coterie_copies_entry_t *entry);
static double toll_more(const coterie_copies_t *c, double scale);
static double least_likely(const coterie_copies_t *c, const tally_t tally[2]);

static const int16_t *set_of(const coterie_copies_t *c, uint32_t layer,
                             uint32_t token)
{
    return c->sets + ((size_t)layer * c->token_count + token) * c->k;
}

static uint32_t next_of(const coterie_copies_t *c, uint32_t layer,
                        uint32_t token, uint64_t ranks, uint32_t owner)
{
    if (c->mode != COTERIE_MODE_OWNER)
        return owner;
    return coterie_cover_next(&c->cover,
                              c->scores + (size_t)layer * c->expert_count *
                                              c->rank_count,
                              set_of(c, layer, token), ranks, owner);
}

static void route(const coterie_copies_t *c, uint32_t layer, uint32_t token,
                  uint32_t owner, coterie_covered_t *covered)
{
    coterie_cover_route(&c->cover, c->holders + (size_t)layer * c->expert_count,
                        set_of(c, layer, token),
                        owner == COTERIE_COPIES_NOBODY ? COTERIE_NONE : owner,
                        covered);
}

coterie_status_t coterie_copies_open(coterie_copies_t *c,
                                     const coterie_copies_task_t *task)
{
    const coterie_trace_view_t *view = task->view;
    coterie_status_t status;

    memset(c, 0, sizeof(*c));
    c->mode = task->mode;
    c->layer_count = view->layer_count;
    c->expert_count = view->expert_count;
    c->rank_count = task->rank_count;
    c->k = c->cover.k = view->k;
    c->token_count = view->token_count < task->token_count ? view->token_count
                                                           : task->token_count;
    coterie_cover_init(&c->cover, task->rank_count, task->node_count,
                       task->network_cost);
    status = memory_allocate(c);
    if (status == COTERIE_OK)
        status = tokens_draw(c, task);
    if (status != COTERIE_OK)
        return status;
    tokens_list(c);
    loads_weigh(c, task);
    return COTERIE_OK;
}

void coterie_copies_close(coterie_copies_t *c)
{
    free(c->origin);
    free(c->sets);
    free(c->first);
    free(c->chose);
    free(c->weight);
    free(c->limit);
    free(c->holders);
    free(c->scores);
    free(c->ranks);
    free(c->owner);
    free(c->serving);
    free(c->load);
    free(c->entries);
    free(c->more);
    free(c->touched);
    free(c->is_touched);
}

double coterie_copies_refresh(coterie_copies_t *c, const uint8_t *owner)
{
    double cost = 0;

    memset(c->load, 0,
           (size_t)c->layer_count * c->rank_count * sizeof(*c->load));
    for (uint32_t t = 0; t < c->token_count; t++) {
        c->owner[t] = c->mode == COTERIE_MODE_FORWARD ? COTERIE_COPIES_NOBODY
                                                      : owner[c->origin[t]];
        cost += token_refresh(c, t);
    }
    return cost;
}

double coterie_copies_judge(coterie_copies_t *c, coterie_change_t *change,
                            double most)
{
    size_t first = (size_t)change->layer * c->expert_count;
    tally_t tally[2] = {{.sum = 0}, {.sum = 0}};

    c->entry_count = c->touched_count = 0;
    for (int i = 0; i < 2 && change->expert[i] >= 0; i++) {
        size_t item = first + (uint32_t)change->expert[i];
        uint64_t was = c->holders[item];
        c->holders[item] = change->holders[i];
        change->holders[i] = was;
        tally[i].all = c->first[item + 1] - c->first[item];
    }
    for (uint32_t shift = LOOK_SHIFT;; shift -= 2) {
        if (shift > 0 && (tally[0].all + tally[1].all) >> shift < LOOK_LEAST)
            continue;
        for (uint32_t i = 0; i < 2 && change->expert[i] >= 0; i++)
            expert_judge(c, change, i, shift, &tally[i]);
        if (shift == 0)
            return tally[0].sum + tally[1].sum + toll_more(c, 1);
        if (least_likely(c, tally) > most)
            return INFINITY;
    }
}

void coterie_copies_settle(coterie_copies_t *c, const coterie_change_t *change,
                           int keep)
{
    uint64_t *holders = c->holders + (size_t)change->layer * c->expert_count;

    for (int i = 0; !keep && i < 2 && change->expert[i] >= 0; i++)
        holders[change->expert[i]] = change->holders[i];
    for (uint32_t i = 0; i < c->touched_count; i++) {
        uint32_t layer = c->touched[i];
        double *load = c->load + (size_t)layer * c->rank_count;
        double *more = c->more + (size_t)layer * c->rank_count;
        for (uint32_t r = 0; r < c->rank_count; r++) {
            load[r] += keep ? more[r] : 0;
            more[r] = 0;
        }
        c->is_touched[layer] = 0;
    }
    for (size_t i = 0; keep && i < c->entry_count; i++) {
        const coterie_copies_entry_t *entry = &c->entries[i];
        size_t at = (size_t)entry->layer * c->token_count + entry->token;
        c->ranks[at] = entry->covered.ranks;
        c->owner[at + c->token_count] = entry->next;
        memcpy(c->serving + at * c->k, entry->covered.serving, c->k);
    }
}

double coterie_copies_excess(const coterie_copies_t *c)
{
    double excess = 0;

    for (size_t i = 0; c->limit != NULL &&
                       i < (size_t)c->layer_count * c->rank_count; i++)
        excess += fmax(0, c->load[i] - c->limit[i / c->rank_count]);
    return excess;
}

static coterie_status_t memory_allocate(coterie_copies_t *c)
{
    size_t layers = c->layer_count, items = layers * c->expert_count;
    size_t positions = layers * c->token_count, cells = layers * c->rank_count;

    c->origin = calloc(c->token_count, sizeof(*c->origin));
    c->sets = calloc(positions * c->k, sizeof(*c->sets));
    c->first = calloc(items + 1, sizeof(*c->first));
    c->chose = calloc(positions * c->k, sizeof(*c->chose));
    c->weight = calloc(items, sizeof(*c->weight));
    c->limit = calloc(layers, sizeof(*c->limit));
    c->holders = calloc(items, sizeof(*c->holders));
    c->scores = calloc(items * c->rank_count, sizeof(*c->scores));
    c->ranks = calloc(positions, sizeof(*c->ranks));
    c->owner = calloc(positions + c->token_count, sizeof(*c->owner));
    c->serving = calloc(positions * c->k, sizeof(*c->serving));
    c->load = calloc(cells, sizeof(*c->load));
    c->entries = calloc(positions, sizeof(*c->entries));
    c->more = calloc(cells, sizeof(*c->more));
    c->touched = calloc(layers, sizeof(*c->touched));
    c->is_touched = calloc(layers, sizeof(*c->is_touched));
    if (!c->origin || !c->sets || !c->first || !c->chose || !c->weight ||
        !c->limit || !c->holders || !c->scores || !c->ranks || !c->owner ||
        !c->serving || !c->load || !c->entries || !c->more || !c->touched ||
        !c->is_touched)
        return coterie_fail_memory(positions * (sizeof(*c->entries) + c->k),
                                   "a sample of tokens");
    return COTERIE_OK;
}

/* Evenly over the view, in an order drawn at random. */
static coterie_status_t tokens_draw(coterie_copies_t *c,
                                    const coterie_copies_task_t *task)
{
    const coterie_trace_view_t *view = task->view;
    coterie_search_t random = {.random = task->seed};

    for (uint32_t t = 0; t < c->token_count; t++) {
        uint32_t at = coterie_search_below(&random, t + 1);
        c->origin[t] = c->origin[at];
        c->origin[at] = t * view->token_count / c->token_count;
    }
    for (uint32_t l = 0; l < c->layer_count; l++)
        for (uint32_t t = 0; t < c->token_count; t++)
            memcpy(c->sets + ((size_t)l * c->token_count + t) * c->k,
                   view->experts +
                       (c->origin[t] * c->layer_count + l) * c->k,
                   c->k * sizeof(*c->sets));
    return COTERIE_OK;
}

/* By expert, in the tokens' order. */
static void tokens_list(coterie_copies_t *c)
{
    size_t items = (size_t)c->layer_count * c->expert_count;
    size_t choices = (size_t)c->layer_count * c->token_count * c->k;

    for (int filling = 0; filling < 2; filling++) {
        for (size_t i = choices; i-- > 0;) {
            size_t position = i / c->k, item;
            if (c->sets[i] < 0)
                continue;
            item = position / c->token_count * c->expert_count + c->sets[i];
            if (filling)
                c->chose[--c->first[item]] = position % c->token_count;
            else
                c->first[item]++;
        }
        for (size_t i = 0; !filling && i < items; i++)
            c->first[i + 1] += c->first[i];
    }
}

/* A choice in the sample stands for its share of the expert's load, so that a
 * rank's load is exact but for which replica serves. */
static void loads_weigh(coterie_copies_t *c, const coterie_copies_task_t *task)
{
    size_t items = (size_t)c->layer_count * c->expert_count;
    double share = (double)c->token_count / task->view->token_count;

    for (size_t i = 0; i < items; i++)
        if (c->first[i + 1] > c->first[i])
            c->weight[i] =
                task->load[i] * share / (c->first[i + 1] - c->first[i]);
    for (uint32_t l = 0; task->load_max != NULL && l < c->layer_count; l++)
        c->limit[l] = task->load_max[l] * share;
    if (task->load_max == NULL) {
        free(c->limit);
        c->limit = NULL;
    }
}

static double token_refresh(coterie_copies_t *c, uint32_t token)
{
    double cost = 0;

    for (uint32_t l = 0; l < c->layer_count; l++) {
        size_t at = (size_t)l * c->token_count + token;
        coterie_copies_entry_t entry = {.layer = l, .token = token};
        uint32_t owner = c->owner[at];
        route(c, l, token, owner, &entry.covered);
        entry.next = next_of(c, l, token, entry.covered.ranks, owner);
        c->ranks[at] = entry.covered.ranks;
        c->owner[at + c->token_count] = entry.next;
        memcpy(c->serving + at * c->k, entry.covered.serving, c->k);
        for (uint32_t i = 0; i < c->k; i++) {
            int16_t expert = c->sets[at * c->k + i];
            if (expert >= 0)
                c->load[l * c->rank_count + entry.covered.serving[i]] +=
                    c->weight[l * c->expert_count + expert];
        }
        cost += entry_cost(c, &entry, owner);
        if (c->mode == COTERIE_MODE_FORWARD && l > 0)
            cost += ranks_forward(c, c->ranks[at - c->token_count],
                                  c->ranks[at]);
    }
    return cost;
}

/* Goes on to the first of so many parts of an expert's tokens. Those that
 * chose both experts are the first one's. */
static void expert_judge(coterie_copies_t *c, const coterie_change_t *change,
                         uint32_t which, uint32_t shift, tally_t *tally)
{
    size_t item = (size_t)change->layer * c->expert_count +
                  (uint32_t)change->expert[which];

    for (; tally->count < tally->all >> shift; tally->count++) {
        uint32_t token = c->chose[c->first[item] + tally->count];
        const int16_t *set = set_of(c, change->layer, token);
        int known = 0;
        double more;
        for (uint32_t j = 0; which > 0 && j < c->k; j++)
            known |= set[j] == change->expert[0];
        if (known)
            continue;
        more = token_judge(c, change->layer, token);
        tally->sum += more;
        tally->squares += more * more;
    }
}

/* Follows the token until its owner is as before. */
static double token_judge(coterie_copies_t *c, uint32_t layer, uint32_t token)
{
    double more = 0;
    size_t at = (size_t)layer * c->token_count + token;
    uint32_t owner = c->owner[at];

    for (; layer < c->layer_count; layer++, at += c->token_count) {
        coterie_copies_entry_t *entry = &c->entries[c->entry_count++];
        coterie_copies_entry_t was = {
            .covered.ranks = c->ranks[at],
            .layer = layer, .token = token,
            .next = c->owner[at + c->token_count]};
        entry->layer = layer;
        entry->token = token;
        route(c, layer, token, owner, &entry->covered);
        entry->next = next_of(c, layer, token, entry->covered.ranks, owner);
        if (c->limit != NULL)
            load_move(c, entry);
        more += entry_cost(c, entry, owner) - entry_cost(c, &was, c->owner[at]);
        if (c->mode == COTERIE_MODE_FORWARD)
            more += seams_cost(c, layer, token, entry->covered.ranks) -
                    seams_cost(c, layer, token, was.covered.ranks);
        if (entry->next == was.next)
            break;
        owner = entry->next;
    }
    return more;
}

/* Out from the owner, and back to the next; forward, from the last layer to
 * every rank. */
static double entry_cost(const coterie_copies_t *c,
                         const coterie_copies_entry_t *entry, uint32_t owner)
{
    uint64_t ranks = entry->covered.ranks;

    if (c->mode != COTERIE_MODE_FORWARD)
        return coterie_cover_reach(&c->cover, owner, ranks) +
               coterie_cover_reach(&c->cover, entry->next, ranks);
    return entry->layer + 1 == c->layer_count
               ? ranks_forward(c, ranks, c->cover.all)
               : 0;
}

static double seams_cost(const coterie_copies_t *c, uint32_t layer,
                         uint32_t token, uint64_t ranks)
{
    const uint64_t *at = c->ranks + (size_t)layer * c->token_count + token;
    double cost = 0;

    if (layer > 0)
        cost += ranks_forward(c, at[-(ptrdiff_t)c->token_count], ranks);
    if (layer + 1 < c->layer_count)
        cost += ranks_forward(c, ranks, at[c->token_count]);
    return cost;
}

static double ranks_forward(const coterie_copies_t *c, uint64_t from,
                            uint64_t to)
{
    double cost = 0;

    for (; from != 0; from &= from - 1)
        cost += coterie_cover_reach(&c->cover,
                                    (uint32_t)__builtin_ctzll(from), to);
    return cost;
}

static void load_move(coterie_copies_t *c, const coterie_copies_entry_t *entry)
{
    uint32_t layer = entry->layer;
    size_t at = ((size_t)layer * c->token_count + entry->token) * c->k;
    double *more = c->more + (size_t)layer * c->rank_count;

    for (uint32_t i = 0; i < c->k; i++) {
        uint8_t from = c->serving[at + i], to = entry->covered.serving[i];
        double weight;
        if (c->sets[at + i] < 0 || from == to)
            continue;
        if (!c->is_touched[layer])
            c->touched[c->touched_count++] = layer;
        c->is_touched[layer] = 1;
        weight = c->weight[(size_t)layer * c->expert_count + c->sets[at + i]];
        more[from] -= weight;
        more[to] += weight;
    }
}

/* Once loads have moved `scale` times as far as they have. */
static double toll_more(const coterie_copies_t *c, double scale)
{
    double over = 0;

    for (uint32_t i = 0; i < c->touched_count; i++) {
        uint32_t layer = c->touched[i];
        const double *load = c->load + (size_t)layer * c->rank_count;
        const double *more = c->more + (size_t)layer * c->rank_count;
        for (uint32_t r = 0; r < c->rank_count; r++)
            over += fmax(0, load[r] + scale * more[r] - c->limit[layer]) -
                    fmax(0, load[r] - c->limit[layer]);
    }
    return c->toll * over;
}

/* The sum over all tokens, guessed from those that were judged, and lowered by
 * what the guess may be wrong. */
static double least_likely(const coterie_copies_t *c, const tally_t tally[2])
{
    double sum = 0, variance = 0, scale = 1;

    for (int i = 0; i < 2; i++) {
        double count = tally[i].count, mean, all = tally[i].all;
        if (tally[i].count == 0)
            continue;
        mean = tally[i].sum / count;
        sum += all * mean;
        variance += all * all *
                    fmax(0, tally[i].squares / count - mean * mean) / count;
        scale = fmax(scale, all / count);
    }
    return sum + toll_more(c, scale) - SURE * sqrt(variance);
}
