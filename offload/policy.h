#ifndef COTERIE_OFFLOAD_POLICY_H
#define COTERIE_OFFLOAD_POLICY_H
/* Which expert leaves a full cache. A policy orders items, small numbers that
 * the caller gives its experts; it knows no bytes and reads nothing. What may
 * leave is a candidate: resident, and leased by nobody. A cache calls
 *
 *   used      when the router chose the item, resident or not
 *   offer     when it becomes a candidate: it arrived unasked, or the last
 *             lease on it ended
 *   withdraw  when it stops being one: it is leased, or was dropped
 *   victim    when a slot is needed
 *
 * As long as calls of `used` and `expect` do not depend on what is resident,
 * a larger cache holds all that a smaller one holds, so it never misses more.
 * One thread at a time; no call allocates but create. */
#include <coterie/offload.h>

enum { COTERIE_POLICY_NONE = 0xffffffff };

typedef struct coterie_policy coterie_policy_t;

/* A policy is one file that fills this table, and one line in policy.c. No
 * slot is NULL. */
typedef struct coterie_policy_ops {
    const char *name;
    coterie_status_t (*create)(uint32_t item_count,
                               coterie_policy_t **policy_p);
    void (*used)(coterie_policy_t *policy, uint32_t item);
    void (*expect)(coterie_policy_t *policy, uint32_t item, double next_use);
    void (*offer)(coterie_policy_t *policy, uint32_t item);
    void (*withdraw)(coterie_policy_t *policy, uint32_t item);
    uint32_t (*victim)(const coterie_policy_t *policy);
    void (*destroy)(coterie_policy_t *policy);
} coterie_policy_ops_t;

struct coterie_policy {
    const coterie_policy_ops_t *ops;
    uint32_t item_count;
};

extern const coterie_policy_ops_t coterie_policy_lru, coterie_policy_lfu,
    coterie_policy_cost;

coterie_status_t coterie_policy_create(coterie_policy_kind_t kind,
                                       uint32_t item_count,
                                       coterie_policy_t **policy_p);

/* Counts a use. O(1); amortised for LFU, which ages as it counts. */
void coterie_policy_used(coterie_policy_t *policy, uint32_t item);

/* When the item's next use is expected, on any clock that runs forward; only
 * the order matters. COST evicts the latest; the others take no notice.
 * O(log n) for a candidate, n candidates; else O(1). */
void coterie_policy_expect(coterie_policy_t *policy, uint32_t item,
                           double next_use);

/* O(1); COST O(log n). */
void coterie_policy_offer(coterie_policy_t *policy, uint32_t item);
void coterie_policy_withdraw(coterie_policy_t *policy, uint32_t item);

/* The candidate to evict, which stays one until withdrawn, or
 * COTERIE_POLICY_NONE if there is none. O(1). */
uint32_t coterie_policy_victim(const coterie_policy_t *policy);

/* Accepts NULL. */
void coterie_policy_destroy(coterie_policy_t *policy);

#endif
