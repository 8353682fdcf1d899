#ifndef COTERIE_OFFLOAD_BUDGET_H
#define COTERIE_OFFLOAD_BUDGET_H
/* How many bytes a budget is, where a container may have less. */
#include <coterie/tiers.h>

#include "base/container.h"

/* A percentage is at most of what the container has left, which is told once
 * per process; a number of bytes is taken at its word, or refused.
 * @param all   bytes that all experts take
 * @param path  the store's, for messages */
coterie_status_t coterie_budget_bytes(const coterie_tiers_options_t *options,
                                      const coterie_container_t *container,
                                      uint64_t all, const char *path,
                                      uint64_t *budget_p);

#endif
