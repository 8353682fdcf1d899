#ifndef COTERIE_OFFLOAD_BUDGET_H
#define COTERIE_OFFLOAD_BUDGET_H
/* How many bytes budgets are, where a container may have less. */
#include <coterie/tiers.h>

#include "base/container.h"

typedef struct coterie_budget {
    uint64_t fast, host; /* bytes of either tier's memory */
} coterie_budget_t;

/* Percentages are at most of what the container has left beside budgets in
 * bytes, the fast tier's first; that is told once per process. Numbers of bytes
 * are taken at their word, or refused.
 * @param all   bytes that all experts take: more is never used
 * @param path  the store's, for messages */
coterie_status_t coterie_budget_read(const coterie_tiers_options_t *options,
                                     const coterie_container_t *container,
                                     uint64_t all, const char *path,
                                     coterie_budget_t *budget_p);

#endif
