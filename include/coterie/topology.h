#ifndef COTERIE_TOPOLOGY_H
#define COTERIE_TOPOLOGY_H
/** @file
 * What a cluster is made of: ranks in nodes, the links between them, and what
 * fits on each. Two levels: ranks of one node, and ranks of different nodes. A
 * topology never changes once made, so reading needs no lock. */
#include <coterie/status.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct coterie_topology coterie_topology_t;

/** The links of one level, as each rank has them. A message takes latency_us,
 * and message_us of both its ranks; a rank's bytes pass one after the other,
 * out and in at the same time. */
typedef struct coterie_topology_link {
    double latency_us;    /**< 0: none, or unknown */
    double bandwidth_gbs; /**< 1e9 bytes a second each way; 0: unknown */
    double message_us;    /**< 0: none, or unknown */
} coterie_topology_link_t;

/** Start from COTERIE_TOPOLOGY_OPTIONS_INIT. Zero: unknown, where it is not
 * said otherwise. */
typedef struct coterie_topology_options {
    size_t size;
    uint32_t rank_count; /**< required: of all nodes; at most 4096 */
    uint32_t node_count; /**< 0: one; must divide rank_count */
    uint32_t processors; /**< ranks of a node that work at once; 0: all */
    uint32_t reserved;   /**< zero */
    coterie_topology_link_t node;    /**< between ranks of one node */
    coterie_topology_link_t network; /**< between ranks of different nodes */
    double expert_us; /**< an expert that a rank computes, for any rows */
    double row_us;    /**< a row of one expert */
    double token_us;  /**< attention and router of a token at one layer */
    double layer_us;  /**< a layer, on every rank, whatever it has to do */
    double copy_gbs;  /**< packing or unpacking messages, 1e9 bytes a second;
                           0: takes no time */
    const uint32_t *slots;  /**< [rank_count]: experts a layer, or NULL */
    const uint64_t *memory; /**< [rank_count]: bytes for experts, or NULL */
} coterie_topology_options_t;

#define COTERIE_TOPOLOGY_OPTIONS_INIT \
    { .size = sizeof(coterie_topology_options_t) }

/** Copies the arrays.
 * @return ERR_INVALID with what does not add up */
COTERIE_API coterie_status_t coterie_topology_create(
    const coterie_topology_options_t *options, coterie_topology_t **topology_p);

/** Reads a topology: `machine` is the one that this runs on, `synthetic:` and
 * a description is hwloc's, anything else a file: Coterie's JSON
 * (doc/formats.md) or hwloc's XML. hwloc knows objects, not ranks: ranks are
 * GPUs, else the first of NUMA nodes, packages, L3 caches, cores and hardware
 * threads of which there are several; nodes are the outermost objects that
 * divide them into equal parts.
 *
 * @param rank_count  0, or what it must have: from hwloc, the first of those
 *                    kinds with so many
 * @return ERR_UNSUPPORTED if hwloc was not built in; ERR_FORMAT, ERR_MISMATCH,
 *         with what does not add up */
COTERIE_API coterie_status_t coterie_topology_read(
    const char *text, uint32_t rank_count, coterie_topology_t **topology_p);

/** Borrowed arrays and sizes, as in the options; node_count is never 0. */
COTERIE_API void coterie_topology_view(const coterie_topology_t *topology,
                                       coterie_topology_options_t *view);

/** What a message between nodes costs, in messages inside one.
 *
 * @param message_bytes  0: so many that only bandwidth counts
 * @return ERR_NOT_FOUND if the topology does not say it; ERR_INVALID if it is
 *         less than 1: a node is where links are fast */
COTERIE_API coterie_status_t coterie_topology_network_cost(
    const coterie_topology_t *topology, uint64_t message_bytes,
    double *cost_p);

/** Accepts NULL. */
COTERIE_API void coterie_topology_destroy(coterie_topology_t *topology);

#ifdef __cplusplus
}
#endif
#endif
