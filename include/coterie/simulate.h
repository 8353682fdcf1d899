#ifndef COTERIE_SIMULATE_H
#define COTERIE_SIMULATE_H
/** @file
 * Counts of what dispatch moves: kept by a session while it runs, and worked
 * out beforehand, exactly alike, from a trace and a placement. */
#include <coterie/placement.h>
#include <coterie/trace.h>

#ifdef __cplusplus
extern "C" {
#endif

/** Counts of one phase. A session counts what its rank sends; summed over
 * ranks they equal coterie_simulate's. Only `alltoalls`, `node_alltoalls`,
 * `kv_gathers`, `steps` and `fixup_rounds` count occasions, once each however
 * many ranks take part: a session's own are the same on every rank, but for
 * `fixup_rounds`, which rank 0 learns from nobody and a sum cannot give; there
 * each rank reports the rounds in which it sent, as `fixup_sends`. */
typedef struct coterie_counts {
    uint64_t steps;
    uint64_t tokens;          /**< tokens computed, at their home */
    uint64_t alltoalls;       /**< exchanges in sequence over all ranks */
    uint64_t returns;         /**< sparse returns in sequence (known peers) */
    uint64_t node_alltoalls;  /**< exchanges and returns inside nodes */
    uint64_t kv_gathers;      /**< K/V gathers, off the critical path */
    uint64_t fixup_sends;     /**< messages that mend a missed prediction */
    uint64_t copies_dispatch; /**< hidden vectors sent to experts */
    uint64_t copies_return;   /**< partial sums sent to an owner */
    uint64_t copies_forward;  /**< partial sums sent to next ranks */
    uint64_t copies_fixup;    /**< hidden vectors sent to missed ranks */
    uint64_t copies_network;  /**< of all these, between nodes */
    uint64_t copies_kv;       /**< K/V rows (token, layer) sent */
    uint64_t payload_bytes;   /**< hidden vectors and partial sums */
    uint64_t wire_bytes;      /**< payload, row records, message headers */
    uint64_t kv_bytes;        /**< K/V rows, their records and headers */
    uint64_t messages;        /**< those that carry rows */
    uint64_t empty_messages;  /**< a header that only says "nothing" */
} coterie_counts_t;

/** Start from COTERIE_SIMULATE_OPTIONS_INIT. */
typedef struct coterie_simulate_options {
    size_t size;
    uint32_t mode;        /**< coterie_mode_t; AUTO is refused */
    uint32_t group;       /**< coterie_group_t */
    uint32_t hidden;      /**< elements of a hidden state */
    uint32_t kv_row_size; /**< bytes of K and V of one token and layer */
    /** Forward: whose predictions give the next ranks: 0 the whole group,
     * 1 those in the trace (ERR_NOT_FOUND without), 2 always right. */
    uint32_t prediction;
    uint32_t wire; /**< coterie_wire_t */
    /** [layer_count + 1]: how many of the model's layers, so how many K/V rows
     * of a token, come with each MoE layer (itself and dense ones before it),
     * and after the last. NULL: 1 each, and none after. */
    const uint32_t *kv_layers;
} coterie_simulate_options_t;

#define COTERIE_SIMULATE_OPTIONS_INIT \
    { .size = sizeof(coterie_simulate_options_t) }

/** Counts what a run that made this trace sends under this placement: prefill
 * tokens two-phase, decode tokens by `mode`; a sequence's home is its ordinal
 * modulo ranks. Without `step` in the trace, one token of every sequence makes
 * a step.
 *
 * @param counts  [2], by coterie_phase_t
 * @return ERR_MISMATCH if trace and placement differ in layers or experts */
COTERIE_API coterie_status_t coterie_simulate(
    const coterie_trace_t *trace, const coterie_placement_t *placement,
    const coterie_simulate_options_t *options, coterie_counts_t counts[2]);

/** Sum of the copies of hidden vectors and partial sums (K/V not counted). */
COTERIE_API uint64_t coterie_counts_copies(const coterie_counts_t *counts);

#ifdef __cplusplus
}
#endif
#endif
