#include "config.h"

#include <inttypes.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>

#include "base/error.h"
#include "offload/budget.h"

static atomic_flag said = ATOMIC_FLAG_INIT;

static coterie_status_t options_check(const coterie_tiers_options_t *options);
static uint64_t bytes_of(uint64_t bytes, double percent, uint64_t all);
static uint64_t used_of(uint64_t fast, uint64_t host, uint64_t all);
static uint64_t least(uint64_t one, uint64_t other);

coterie_status_t coterie_budget_read(const coterie_tiers_options_t *options,
                                     const coterie_container_t *container,
                                     uint64_t all, const char *path,
                                     coterie_budget_t *budget_p)
{
    uint64_t left = container->memory_limit - container->memory_used;
    uint64_t fixed, wanted, got;
    coterie_budget_t given;
    coterie_status_t status = options_check(options);

    if (status != COTERIE_OK)
        return status;
    fixed = used_of(options->budget, options->host_budget, all);
    if (fixed > container->memory_limit)
        return coterie_fail(COTERIE_ERR_INVALID,
                            "%s: a budget for %" PRIu64 " bytes of experts; "
                            "this container is limited to %" PRIu64,
                            path, fixed, container->memory_limit);
    left -= least(left, fixed);
    given.fast = bytes_of(options->budget, options->budget_percent, all);
    given.host = bytes_of(options->host_budget, options->host_percent, all);
    wanted = used_of(given.fast, given.host, all);
    if (options->budget == 0) {
        given.fast = least(given.fast, left);
        left -= given.fast;
    }
    if (options->host_budget == 0)
        given.host = least(given.host, left);
    got = used_of(given.fast, given.host, all);
    if (got < wanted && !atomic_flag_test_and_set(&said))
        fprintf(stderr,
                "coterie: a budget of %" PRIu64 " bytes is more than this "
                "container has left; experts get %" PRIu64 "\n",
                wanted, got);
    *budget_p = given;
    return COTERIE_OK;
}

static coterie_status_t options_check(const coterie_tiers_options_t *options)
{
    bool bytes = options->budget > 0, percent = options->budget_percent != 0;

    if (bytes == percent)
        return coterie_fail(COTERIE_ERR_INVALID,
                            "tiers: the budget must be given either in bytes "
                            "or in percent");
    if (percent && !(options->budget_percent > 0 &&
                     options->budget_percent <= 100))
        return coterie_fail(COTERIE_ERR_INVALID,
                            "tiers: a budget of %g %%; more than 0 and at "
                            "most 100 are right",
                            options->budget_percent);
    if (!(options->host_percent >= 0 && options->host_percent <= 100) ||
        (options->host_budget > 0 && options->host_percent > 0))
        return coterie_fail(COTERIE_ERR_INVALID,
                            "tiers: host memory must be given either in bytes "
                            "or as 0 to 100 percent");
    return COTERIE_OK;
}

static uint64_t bytes_of(uint64_t bytes, double percent, uint64_t all)
{
    return bytes > 0 ? bytes : (uint64_t)((double)all / 100 * percent);
}

/* Bytes that experts would take: never more than all of them do. */
static uint64_t used_of(uint64_t fast, uint64_t host, uint64_t all)
{
    fast = least(fast, all);
    return fast + least(host, all - fast);
}

static uint64_t least(uint64_t one, uint64_t other)
{
    return one < other ? one : other;
}
