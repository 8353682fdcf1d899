#ifndef COTERIE_COST_H
#define COTERIE_COST_H
/** @file
 * How long a cluster would take: times of a step, from a trace, a placement
 * and a topology. See doc/placement.md for the model and how near it comes. */
#include <coterie/simulate.h>
#include <coterie/topology.h>

#ifdef __cplusplus
extern "C" {
#endif

/** Of one phase: means over its steps or, where it says so, over the MoE
 * layers of all its steps. Start from COTERIE_COST_INIT. */
typedef struct coterie_cost {
    size_t size;
    uint64_t steps, tokens;
    double step_us;     /**< a step, all its layers */
    double layer_us;    /**< a layer: the two below */
    double exchange_us; /**< of that: links' latency and bandwidth */
    double work_us;     /**< of that: the slowest rank's own work */
    double kv_us;       /**< the K/V gather behind a step, not in step_us */
    double rows_most;   /**< per layer: rows that the fullest rank computes */
    double rows_mean;   /**< per layer: those of a rank on average */
    double bytes_most;  /**< per layer: sent or got by the busiest rank */
    double ranks_idle;  /**< per layer: ranks that compute no expert */
} coterie_cost_t;

#define COTERIE_COST_INIT { .size = sizeof(coterie_cost_t) }

/** Predicts times for what coterie_simulate counts, of the same options (whose
 * sizes, hidden and kv_row_size, decide the bytes).
 *
 * @param costs  [2], by coterie_phase_t; sizes as the caller knows them
 * @return ERR_MISMATCH if the placement has other ranks or nodes than the
 *         topology, or the trace other layers or experts */
COTERIE_API coterie_status_t coterie_cost_predict(
    const coterie_trace_t *trace, const coterie_placement_t *placement,
    const coterie_topology_t *topology,
    const coterie_simulate_options_t *options, coterie_cost_t costs[2]);

#ifdef __cplusplus
}
#endif
#endif
