/* The cost-aware policy: reads cost the same for every expert, so the cheapest
 * to lose is the one whose next use is expected last. Candidates form a heap,
 * the latest on top; with next uses that are known, this is Belady's rule. */
#include "config.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>

#include "base/error.h"
#include "offload/policy.h"

typedef struct cost_item {
    double next_use;
    uint32_t place; /* in the heap; COTERIE_POLICY_NONE: no candidate */
} cost_item_t;

typedef struct cost {
    coterie_policy_t base;
    uint32_t heap_count;
    uint32_t *heap; /* [item_count] */
    cost_item_t items[];
} cost_t;

static coterie_status_t cost_create(uint32_t item_count,
                                    coterie_policy_t **policy_p);
static void cost_used(coterie_policy_t *policy, uint32_t item);
static void cost_expect(coterie_policy_t *policy, uint32_t item,
                        double next_use);
static void cost_offer(coterie_policy_t *policy, uint32_t item);
static void cost_withdraw(coterie_policy_t *policy, uint32_t item);
static uint32_t cost_victim(const coterie_policy_t *policy);
static void cost_destroy(coterie_policy_t *policy);
static void heap_settle(cost_t *cost, uint32_t item, uint32_t place);
static int leaves_before(const cost_t *cost, uint32_t a, uint32_t b);
static void heap_put(cost_t *cost, uint32_t item, uint32_t place);

const coterie_policy_ops_t coterie_policy_cost = {
    "cost",     cost_create,   cost_used,   cost_expect,
    cost_offer, cost_withdraw, cost_victim, cost_destroy};

static coterie_status_t cost_create(uint32_t item_count,
                                    coterie_policy_t **policy_p)
{
    size_t size = sizeof(cost_t) + item_count * sizeof(cost_item_t);
    cost_t *cost = calloc(1, size);
    uint32_t *heap = calloc(item_count, sizeof(*heap));

    if (cost == NULL || heap == NULL) {
        free(cost);
        free(heap);
        return coterie_fail_memory(size, "the order of a cache");
    }
    cost->heap = heap;
    for (uint32_t i = 0; i < item_count; i++)
        cost->items[i] = (cost_item_t){INFINITY, COTERIE_POLICY_NONE};
    *policy_p = &cost->base;
    return COTERIE_OK;
}

/* A use says nothing about the next one: that is for the forecast. */
static void cost_used(coterie_policy_t *policy, uint32_t item)
{
    (void)policy;
    (void)item;
}

static void cost_expect(coterie_policy_t *policy, uint32_t item,
                        double next_use)
{
    cost_t *cost = (cost_t *)policy;

    assert(!isnan(next_use));
    if (cost->items[item].next_use == next_use)
        return;
    cost->items[item].next_use = next_use;
    if (cost->items[item].place != COTERIE_POLICY_NONE)
        heap_settle(cost, item, cost->items[item].place);
}

static void cost_offer(coterie_policy_t *policy, uint32_t item)
{
    cost_t *cost = (cost_t *)policy;

    assert(cost->items[item].place == COTERIE_POLICY_NONE);
    heap_settle(cost, item, cost->heap_count++);
}

static void cost_withdraw(coterie_policy_t *policy, uint32_t item)
{
    cost_t *cost = (cost_t *)policy;
    uint32_t place = cost->items[item].place;
    uint32_t last = cost->heap[--cost->heap_count];

    assert(place != COTERIE_POLICY_NONE);
    if (last != item)
        heap_settle(cost, last, place);
    cost->items[item].place = COTERIE_POLICY_NONE;
}

static uint32_t cost_victim(const coterie_policy_t *policy)
{
    const cost_t *cost = (const cost_t *)policy;

    return cost->heap_count > 0 ? cost->heap[0] : COTERIE_POLICY_NONE;
}

static void cost_destroy(coterie_policy_t *policy)
{
    free(((cost_t *)policy)->heap);
    free(policy);
}

/* Puts item where it belongs, starting from a place that is free or its own. */
static void heap_settle(cost_t *cost, uint32_t item, uint32_t place)
{
    while (place > 0 &&
           leaves_before(cost, item, cost->heap[(place - 1) / 2])) {
        heap_put(cost, cost->heap[(place - 1) / 2], place);
        place = (place - 1) / 2;
    }
    for (;;) {
        uint32_t child = 2 * place + 1;
        if (child + 1 < cost->heap_count &&
            leaves_before(cost, cost->heap[child + 1], cost->heap[child]))
            child++;
        if (child >= cost->heap_count ||
            !leaves_before(cost, cost->heap[child], item))
            break;
        heap_put(cost, cost->heap[child], place);
        place = child;
    }
    heap_put(cost, item, place);
}

/* Ties go by number, so that caches of all sizes agree on the order. */
static int leaves_before(const cost_t *cost, uint32_t a, uint32_t b)
{
    double use_a = cost->items[a].next_use, use_b = cost->items[b].next_use;

    return use_a != use_b ? use_a > use_b : a > b;
}

static void heap_put(cost_t *cost, uint32_t item, uint32_t place)
{
    cost->heap[place] = item;
    cost->items[item].place = place;
}
