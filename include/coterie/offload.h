#ifndef COTERIE_OFFLOAD_H
#define COTERIE_OFFLOAD_H
/** @file
 * Serving a model that is larger than memory: which experts a cache keeps. */
#include <coterie/status.h>

#ifdef __cplusplus
extern "C" {
#endif

/** Which expert leaves a full cache. Values are ABI. */
typedef enum coterie_policy_kind {
    COTERIE_POLICY_LRU = 0, /**< the one used least recently */
    COTERIE_POLICY_LFU = 1, /**< the one used least often, of late */
    COTERIE_POLICY_COST = 2 /**< the one whose next use is expected last */
} coterie_policy_kind_t;

#ifdef __cplusplus
}
#endif
#endif
