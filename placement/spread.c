#include "config.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "placement/spread.h"

/* The expert with most load a replica gets the next one; the heaviest goes
 * onto the lightest rank first; then whatever relieves the fullest rank is
 * done, as long as anything does. Several times over, from shuffled orders. */

enum { TRIES = 24 };

typedef struct spreading {
    const coterie_spread_t *task;
    uint32_t slot_count, item_count;
    uint32_t *first;   /* [rank + 1]: its slots */
    uint32_t *rank;    /* [slot] */
    int16_t *expert;   /* [slot] */
    uint32_t *copies;  /* [expert] */
    double *rank_load; /* [rank] */
    uint32_t *items;   /* [slot]: experts, as often as they have copies */
} spreading_t;

static coterie_status_t spreading_open(spreading_t *s,
                                       const coterie_spread_t *task);
static void spreading_close(spreading_t *s);
static void replicas_share(spreading_t *s);
static void items_sort(spreading_t *s, uint32_t shuffles);
static void items_pack(spreading_t *s);
static uint32_t lightest_for(const spreading_t *s, uint32_t expert);
static int holds(const spreading_t *s, uint32_t rank, int32_t expert);
static void loads_sum(spreading_t *s);
static uint32_t fullest(const spreading_t *s);
static int slots_exchange(spreading_t *s);
static int replica_move(spreading_t *s);

static double share(const spreading_t *s, int32_t expert)
{
    return expert < 0 ? 0 : s->task->load[expert] / s->copies[expert];
}

coterie_status_t coterie_spread(const coterie_spread_t *task, int16_t *expert,
                                double *most_p)
{
    spreading_t s;
    coterie_status_t status = spreading_open(&s, task);
    double best = -1;

    for (uint32_t try = 0; status == COTERIE_OK && try < TRIES; try++) {
        double most;
        replicas_share(&s);
        items_sort(&s, try);
        items_pack(&s);
        while (slots_exchange(&s) || replica_move(&s))
            continue;
        most = s.rank_load[fullest(&s)];
        if (best >= 0 && most >= best)
            continue;
        best = most;
        memcpy(expert, s.expert, s.slot_count * sizeof(*expert));
    }
    if (status == COTERIE_OK)
        *most_p = best;
    spreading_close(&s);
    return status;
}

coterie_status_t coterie_spread_least(const coterie_spread_t *task,
                                      double limit, uint32_t *replicas_p)
{
    coterie_spread_t trial = *task;
    uint32_t slots = 0;
    int16_t *expert;
    coterie_status_t status = COTERIE_OK;
    double most = limit + 1;

    for (uint32_t r = 0; r < task->rank_count; r++)
        slots += task->room[r];
    expert = calloc(slots, sizeof(*expert));
    if (expert == NULL)
        return coterie_fail_memory(slots * sizeof(*expert), "slots");
    for (trial.replica_count = 0;
         status == COTERIE_OK && trial.replica_count + task->expert_count <=
                                     slots;
         trial.replica_count++) {
        status = coterie_spread(&trial, expert, &most);
        if (status == COTERIE_OK && most <= limit)
            break;
    }
    if (status == COTERIE_OK)
        *replicas_p = most <= limit ? trial.replica_count : UINT32_MAX;
    free(expert);
    return status;
}

static coterie_status_t spreading_open(spreading_t *s,
                                       const coterie_spread_t *task)
{
    uint32_t at = 0;

    memset(s, 0, sizeof(*s));
    s->task = task;
    for (uint32_t r = 0; r < task->rank_count; r++)
        s->slot_count += task->room[r];
    s->first = calloc(task->rank_count + 1, sizeof(*s->first));
    s->rank = calloc(s->slot_count, sizeof(*s->rank));
    s->expert = calloc(s->slot_count, sizeof(*s->expert));
    s->copies = calloc(task->expert_count, sizeof(*s->copies));
    s->rank_load = calloc(task->rank_count, sizeof(*s->rank_load));
    s->items = calloc(s->slot_count, sizeof(*s->items));
    if (!s->first || !s->rank || !s->expert || !s->copies || !s->rank_load ||
        !s->items)
        return coterie_fail_memory(s->slot_count * sizeof(*s->items),
                                   "balancing loads");
    for (uint32_t r = 0; r < task->rank_count; r++) {
        for (uint32_t i = 0; i < task->room[r]; i++)
            s->rank[at++] = r;
        s->first[r + 1] = at;
    }
    return COTERIE_OK;
}

static void spreading_close(spreading_t *s)
{
    free(s->first);
    free(s->rank);
    free(s->expert);
    free(s->copies);
    free(s->rank_load);
    free(s->items);
}

static void replicas_share(spreading_t *s)
{
    uint32_t experts = s->task->expert_count;
    uint32_t left = s->slot_count - experts;

    if (left > s->task->replica_count)
        left = s->task->replica_count;
    for (uint32_t e = 0; e < experts; e++)
        s->copies[e] = 1;
    for (; left > 0; left--) {
        uint32_t hottest = experts;
        for (uint32_t e = 0; e < experts; e++)
            if (s->copies[e] < s->task->rank_count &&
                (hottest == experts ||
                 share(s, (int32_t)e) > share(s, (int32_t)hottest)))
                hottest = e;
        if (hottest == experts)
            break;
        s->copies[hottest]++;
    }
}

/* Descending by share, then some drawn pairs swapped. */
static void items_sort(spreading_t *s, uint32_t shuffles)
{
    s->item_count = 0;
    for (uint32_t e = 0; e < s->task->expert_count; e++)
        for (uint32_t i = 0; i < s->copies[e]; i++) {
            uint32_t at = s->item_count++;
            for (; at > 0 && share(s, (int32_t)s->items[at - 1]) <
                                 share(s, (int32_t)e); at--)
                s->items[at] = s->items[at - 1];
            s->items[at] = e;
        }
    for (uint32_t i = 0; i < shuffles; i++) {
        uint32_t a = coterie_search_below(s->task->search, s->item_count);
        uint32_t b = coterie_search_below(s->task->search, s->item_count);
        uint32_t swapped = s->items[a];
        s->items[a] = s->items[b];
        s->items[b] = swapped;
    }
}

/* A replica is left out if each rank with room has its expert already. */
static void items_pack(spreading_t *s)
{
    memset(s->expert, 0xff, s->slot_count * sizeof(*s->expert));
    memset(s->rank_load, 0, s->task->rank_count * sizeof(*s->rank_load));
    for (uint32_t i = 0; i < s->item_count; i++) {
        uint32_t expert = s->items[i], rank = lightest_for(s, expert);
        uint32_t at;
        if (rank == s->task->rank_count) {
            s->copies[expert]--;
            continue;
        }
        at = s->first[rank];
        while (s->expert[at] >= 0)
            at++;
        s->expert[at] = (int16_t)expert;
        s->rank_load[rank] += share(s, (int32_t)expert);
    }
    loads_sum(s); /* those left out changed shares */
}

static uint32_t lightest_for(const spreading_t *s, uint32_t expert)
{
    uint32_t best = s->task->rank_count;

    for (uint32_t r = 0; r < s->task->rank_count; r++)
        if (s->first[r + 1] > s->first[r] && holds(s, r, -1) &&
            !holds(s, r, (int32_t)expert) &&
            (best == s->task->rank_count ||
             s->rank_load[r] < s->rank_load[best]))
            best = r;
    return best;
}

/* -1: an empty slot. */
static int holds(const spreading_t *s, uint32_t rank, int32_t expert)
{
    for (uint32_t i = s->first[rank]; i < s->first[rank + 1]; i++)
        if (s->expert[i] == expert)
            return 1;
    return 0;
}

static void loads_sum(spreading_t *s)
{
    memset(s->rank_load, 0, s->task->rank_count * sizeof(*s->rank_load));
    for (uint32_t i = 0; i < s->slot_count; i++)
        s->rank_load[s->rank[i]] += share(s, s->expert[i]);
}

static uint32_t fullest(const spreading_t *s)
{
    uint32_t full = 0;

    for (uint32_t r = 1; r < s->task->rank_count; r++)
        if (s->rank_load[r] > s->rank_load[full])
            full = r;
    return full;
}

/* Makes the exchange of two slots that relieves the fullest rank most; 0 if
 * none does. */
static int slots_exchange(spreading_t *s)
{
    uint32_t full = fullest(s), out = 0, in = 0;
    double best = s->rank_load[full] * (1 - 1e-9), before = best;
    int16_t moved;

    for (uint32_t a = s->first[full]; a < s->first[full + 1]; a++)
        for (uint32_t b = 0; b < s->slot_count; b++) {
            double less = share(s, s->expert[a]) - share(s, s->expert[b]);
            double here = s->rank_load[full] - less;
            double there = s->rank_load[s->rank[b]] + less;
            double most = here > there ? here : there;
            if (s->rank[b] == full || less <= 0 || most >= best ||
                holds(s, s->rank[b], s->expert[a]) ||
                (s->expert[b] >= 0 && holds(s, full, s->expert[b])))
                continue;
            best = most;
            out = a;
            in = b;
        }
    if (best >= before)
        return 0;
    moved = s->expert[out];
    s->expert[out] = s->expert[in];
    s->expert[in] = moved;
    loads_sum(s);
    return 1;
}

/* Gives an expert of the fullest rank one more replica, in a slot whose own has
 * others or that is empty, if that leaves no rank as full as this one was. */
static int replica_move(spreading_t *s)
{
    uint32_t full = fullest(s), added = 0;
    double before = s->rank_load[full] * (1 - 1e-9);

    for (uint32_t e = 0; e < s->task->expert_count; e++)
        added += s->copies[e] - 1;
    for (uint32_t a = s->first[full]; a < s->first[full + 1]; a++)
        for (uint32_t b = 0; b < s->slot_count; b++) {
            int16_t expert = s->expert[a], gone = s->expert[b];
            if (expert < 0 || (gone < 0 ? added >= s->task->replica_count
                                        : s->copies[gone] < 2) ||
                holds(s, s->rank[b], expert))
                continue;
            s->expert[b] = expert;
            s->copies[expert]++;
            if (gone >= 0)
                s->copies[gone]--;
            loads_sum(s);
            if (s->rank_load[fullest(s)] < before)
                return 1;
            s->expert[b] = gone;
            s->copies[expert]--;
            if (gone >= 0)
                s->copies[gone]++;
        }
    loads_sum(s);
    return 0;
}
