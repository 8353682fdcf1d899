#include "config.h"

#include <assert.h>

#include "base/error.h"
#include "offload/policy.h"

static const coterie_policy_ops_t *const policies[] = {
    [COTERIE_POLICY_LRU] = &coterie_policy_lru,
    [COTERIE_POLICY_LFU] = &coterie_policy_lfu,
    [COTERIE_POLICY_COST] = &coterie_policy_cost};

enum { POLICY_COUNT = sizeof(policies) / sizeof(policies[0]) };

coterie_status_t coterie_policy_create(coterie_policy_kind_t kind,
                                       uint32_t item_count,
                                       coterie_policy_t **policy_p)
{
    coterie_status_t status;

    if ((unsigned)kind >= POLICY_COUNT)
        return coterie_fail(COTERIE_ERR_INVALID,
                            "cache policy %d; 0 to %d are known", (int)kind,
                            POLICY_COUNT - 1);
    assert(item_count > 0 && item_count < COTERIE_POLICY_NONE / 2);
    status = policies[kind]->create(item_count, policy_p);
    if (status != COTERIE_OK)
        return status;
    (*policy_p)->ops = policies[kind];
    (*policy_p)->item_count = item_count;
    return COTERIE_OK;
}

void coterie_policy_used(coterie_policy_t *policy, uint32_t item)
{
    assert(item < policy->item_count);
    policy->ops->used(policy, item);
}

void coterie_policy_expect(coterie_policy_t *policy, uint32_t item,
                           double next_use)
{
    assert(item < policy->item_count);
    policy->ops->expect(policy, item, next_use);
}

void coterie_policy_offer(coterie_policy_t *policy, uint32_t item)
{
    assert(item < policy->item_count);
    policy->ops->offer(policy, item);
}

void coterie_policy_withdraw(coterie_policy_t *policy, uint32_t item)
{
    assert(item < policy->item_count);
    policy->ops->withdraw(policy, item);
}

uint32_t coterie_policy_victim(const coterie_policy_t *policy)
{
    return policy->ops->victim(policy);
}

void coterie_policy_destroy(coterie_policy_t *policy)
{
    if (policy != NULL)
        policy->ops->destroy(policy);
}
