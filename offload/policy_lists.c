/* LRU and LFU: candidates in linked lists, one for each number of uses, each
 * in order of use. LRU has one list. LFU ages: from time to time every count is
 * halved, and with it each list joins the one of half its number, so an expert
 * that was hot long ago can leave. */
#include "config.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "offload/policy.h"

enum {
    LEVELS = 256,   /* lists of LFU; counts stop at the last */
    WORD_BITS = 64,
    AGE_USES = 4    /* mean uses of an item between two halvings */
};

typedef struct item_link {
    uint32_t previous, next; /* itself: no candidate, or an empty list */
} item_link_t;

typedef struct lists {
    coterie_policy_t base;
    uint32_t level_count;
    uint32_t uses_left; /* until the next halving */
    uint64_t filled[LEVELS / WORD_BITS]; /* a bit a list that is not empty */
    uint8_t *count;                      /* [item_count] */
    item_link_t links[]; /* items, then one head for each list */
} lists_t;

static coterie_status_t lists_create(uint32_t item_count, uint32_t level_count,
                                     coterie_policy_t **policy_p);
static coterie_status_t lru_create(uint32_t item_count,
                                   coterie_policy_t **policy_p);
static coterie_status_t lfu_create(uint32_t item_count,
                                   coterie_policy_t **policy_p);
static void lists_used(coterie_policy_t *policy, uint32_t item);
static void lists_expect(coterie_policy_t *policy, uint32_t item,
                         double next_use);
static void lists_offer(coterie_policy_t *policy, uint32_t item);
static void lists_withdraw(coterie_policy_t *policy, uint32_t item);
static uint32_t lists_victim(const coterie_policy_t *policy);
static void lists_destroy(coterie_policy_t *policy);
static void lists_age(lists_t *lists);
static void list_join(lists_t *lists, uint32_t from, uint32_t to);
static void filled_note(lists_t *lists, uint32_t level);

const coterie_policy_ops_t coterie_policy_lru = {
    "lru",       lru_create,     lists_used,   lists_expect,
    lists_offer, lists_withdraw, lists_victim, lists_destroy};
const coterie_policy_ops_t coterie_policy_lfu = {
    "lfu",       lfu_create,     lists_used,   lists_expect,
    lists_offer, lists_withdraw, lists_victim, lists_destroy};

static coterie_status_t lists_create(uint32_t item_count, uint32_t level_count,
                                     coterie_policy_t **policy_p)
{
    size_t link_count = (size_t)item_count + level_count;
    size_t size = sizeof(lists_t) + link_count * sizeof(item_link_t);
    lists_t *lists = calloc(1, size);
    uint8_t *count = calloc(item_count, sizeof(*count));

    if (lists == NULL || count == NULL) {
        free(lists);
        free(count);
        return coterie_fail_memory(size, "the order of a cache");
    }
    lists->level_count = level_count;
    lists->uses_left = AGE_USES * item_count;
    lists->count = count;
    for (uint32_t i = 0; i < link_count; i++)
        lists->links[i] = (item_link_t){i, i};
    *policy_p = &lists->base;
    return COTERIE_OK;
}

static coterie_status_t lru_create(uint32_t item_count,
                                   coterie_policy_t **policy_p)
{
    return lists_create(item_count, 1, policy_p);
}

static coterie_status_t lfu_create(uint32_t item_count,
                                   coterie_policy_t **policy_p)
{
    return lists_create(item_count, LEVELS, policy_p);
}

static void lists_used(coterie_policy_t *policy, uint32_t item)
{
    lists_t *lists = (lists_t *)policy;
    int candidate = lists->links[item].next != item;

    if (candidate)
        lists_withdraw(policy, item);
    if (lists->count[item] + 1u < lists->level_count)
        lists->count[item]++;
    if (candidate)
        lists_offer(policy, item);
    if (--lists->uses_left == 0)
        lists_age(lists);
}

static void lists_expect(coterie_policy_t *policy, uint32_t item,
                         double next_use)
{
    (void)policy;
    (void)item;
    (void)next_use;
}

static void lists_offer(coterie_policy_t *policy, uint32_t item)
{
    lists_t *lists = (lists_t *)policy;
    uint32_t level = lists->count[item];
    uint32_t head = lists->base.item_count + level;
    uint32_t last = lists->links[head].previous;

    assert(lists->links[item].next == item);
    lists->links[item] = (item_link_t){last, head};
    lists->links[last].next = item;
    lists->links[head].previous = item;
    filled_note(lists, level);
}

static void lists_withdraw(coterie_policy_t *policy, uint32_t item)
{
    lists_t *lists = (lists_t *)policy;
    item_link_t link = lists->links[item];

    assert(link.next != item);
    lists->links[link.previous].next = link.next;
    lists->links[link.next].previous = link.previous;
    lists->links[item] = (item_link_t){item, item};
    filled_note(lists, lists->count[item]);
}

static uint32_t lists_victim(const coterie_policy_t *policy)
{
    const lists_t *lists = (const lists_t *)policy;

    for (uint32_t word = 0; word < LEVELS / WORD_BITS; word++)
        if (lists->filled[word] != 0) {
            uint32_t level = word * WORD_BITS +
                             (uint32_t)__builtin_ctzll(lists->filled[word]);
            return lists->links[lists->base.item_count + level].next;
        }
    return COTERIE_POLICY_NONE;
}

static void lists_destroy(coterie_policy_t *policy)
{
    free(((lists_t *)policy)->count);
    free(policy);
}

/* Upwards: a list's new number is below it, and was emptied before. */
static void lists_age(lists_t *lists)
{
    lists->uses_left = AGE_USES * lists->base.item_count;
    for (uint32_t i = 0; i < lists->base.item_count; i++)
        lists->count[i] /= 2;
    for (uint32_t level = 1; level < lists->level_count; level++)
        list_join(lists, level, level / 2);
}

static void list_join(lists_t *lists, uint32_t from, uint32_t to)
{
    item_link_t *source = &lists->links[lists->base.item_count + from];
    item_link_t *target = &lists->links[lists->base.item_count + to];

    if (source->next == lists->base.item_count + from)
        return;
    lists->links[target->previous].next = source->next;
    lists->links[source->next].previous = target->previous;
    lists->links[source->previous].next = lists->base.item_count + to;
    target->previous = source->previous;
    source->previous = source->next = lists->base.item_count + from;
    filled_note(lists, from);
    filled_note(lists, to);
}

static void filled_note(lists_t *lists, uint32_t level)
{
    uint32_t head = lists->base.item_count + level;
    uint64_t bit = 1ull << (level % WORD_BITS);

    if (lists->links[head].next == head)
        lists->filled[level / WORD_BITS] &= ~bit;
    else
        lists->filled[level / WORD_BITS] |= bit;
}
