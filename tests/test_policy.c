#include "config.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include "offload/policy.h"

enum { ITEMS = 6 };

static coterie_policy_t *policy_of(coterie_policy_kind_t kind)
{
    coterie_policy_t *policy = NULL;

    cr_assert(eq(int, COTERIE_OK,
                 coterie_policy_create(kind, ITEMS, &policy)));
    return policy;
}

/* Uses the items in this order, then offers each of them once. */
static void use_and_offer(coterie_policy_t *policy, const char *uses)
{
    int offered[ITEMS] = {0};

    for (const char *use = uses; *use != '\0'; use++)
        coterie_policy_used(policy, (uint32_t)(*use - '0'));
    for (const char *use = uses; *use != '\0'; use++)
        if (!offered[*use - '0']++)
            coterie_policy_offer(policy, (uint32_t)(*use - '0'));
}

/* Evicts until nothing is left, and destroys the policy. */
static void expect_order(coterie_policy_t *policy, const char *order)
{
    char evicted[ITEMS + 1] = "";
    uint32_t item;

    for (int i = 0; i < ITEMS; i++) {
        item = coterie_policy_victim(policy);
        if (item == COTERIE_POLICY_NONE)
            break;
        evicted[i] = (char)('0' + item);
        coterie_policy_withdraw(policy, item);
    }
    cr_expect(eq(str, evicted, (char *)order));
    coterie_policy_destroy(policy);
}

Test(policy, lru_evicts_in_order_of_use)
{
    coterie_policy_t *policy = policy_of(COTERIE_POLICY_LRU);

    use_and_offer(policy, "30142");
    coterie_policy_used(policy, 0);
    expect_order(policy, "31420");
}

Test(policy, lfu_evicts_the_rarest_then_the_oldest)
{
    coterie_policy_t *policy = policy_of(COTERIE_POLICY_LFU);

    use_and_offer(policy, "33301142");
    expect_order(policy, "04213");
}

Test(policy, lfu_forgets_what_was_hot_long_ago)
{
    coterie_policy_t *policy = policy_of(COTERIE_POLICY_LFU);

    for (int i = 0; i < 40; i++)
        coterie_policy_used(policy, 5);
    use_and_offer(policy, "50");
    for (int i = 0; i < 400; i++)
        coterie_policy_used(policy, 1);
    coterie_policy_used(policy, 0);
    expect_order(policy, "50");
}

Test(policy, cost_evicts_what_is_expected_last)
{
    coterie_policy_t *policy = policy_of(COTERIE_POLICY_COST);
    const double next_use[ITEMS] = {4, 9, 2, 7, 1, 8};

    for (uint32_t item = 0; item < ITEMS; item++) {
        coterie_policy_offer(policy, item);
        coterie_policy_expect(policy, item, next_use[item]);
    }
    coterie_policy_expect(policy, 1, 3);
    expect_order(policy, "530124");
}

Test(policy, cost_evicts_first_what_nobody_expects)
{
    coterie_policy_t *policy = policy_of(COTERIE_POLICY_COST);

    coterie_policy_expect(policy, 4, 1e9);
    coterie_policy_offer(policy, 4);
    coterie_policy_offer(policy, 2);
    expect_order(policy, "24");
}

Test(policy, a_lease_keeps_an_item)
{
    for (int kind = COTERIE_POLICY_LRU; kind <= COTERIE_POLICY_COST; kind++) {
        coterie_policy_t *policy = policy_of((coterie_policy_kind_t)kind);

        use_and_offer(policy, "01");
        coterie_policy_withdraw(policy, 0);
        expect_order(policy, "1");
    }
}

Test(policy, has_no_victim_without_candidates)
{
    for (int kind = COTERIE_POLICY_LRU; kind <= COTERIE_POLICY_COST; kind++) {
        coterie_policy_t *policy = policy_of((coterie_policy_kind_t)kind);

        coterie_policy_used(policy, 3);
        coterie_policy_expect(policy, 3, 5);
        expect_order(policy, "");
    }
}

Test(policy, refuses_a_kind_it_does_not_know)
{
    coterie_policy_t *policy = NULL;

    cr_expect(eq(int, COTERIE_ERR_INVALID,
                 coterie_policy_create((coterie_policy_kind_t)9, ITEMS,
                                       &policy)));
    cr_expect(zero(ptr, policy));
}
