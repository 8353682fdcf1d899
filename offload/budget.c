#include "config.h"

#include <inttypes.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>

#include "base/error.h"
#include "offload/budget.h"

static atomic_flag said = ATOMIC_FLAG_INIT;

static coterie_status_t options_check(const coterie_tiers_options_t *options);

coterie_status_t coterie_budget_bytes(const coterie_tiers_options_t *options,
                                      const coterie_container_t *container,
                                      uint64_t all, const char *path,
                                      uint64_t *budget_p)
{
    uint64_t budget = options->budget;
    uint64_t left = container->memory_limit - container->memory_used;
    coterie_status_t status = options_check(options);

    if (status != COTERIE_OK)
        return status;
    if (budget == 0) {
        budget = (uint64_t)((double)all / 100 * options->budget_percent);
        if (budget > left && !atomic_flag_test_and_set(&said))
            fprintf(stderr,
                    "coterie: a budget of %" PRIu64 " bytes is more than this "
                    "container has left; experts get %" PRIu64 "\n",
                    budget, left);
        budget = budget < left ? budget : left;
    } else if ((budget < all ? budget : all) > container->memory_limit) {
        return coterie_fail(COTERIE_ERR_INVALID,
                            "%s: a budget of %" PRIu64 " bytes; this "
                            "container is limited to %" PRIu64,
                            path, budget, container->memory_limit);
    }
    *budget_p = budget;
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
    return COTERIE_OK;
}
