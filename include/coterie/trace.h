#ifndef COTERIE_TRACE_H
#define COTERIE_TRACE_H
/** @file
 * Routing traces: which experts each token chose at each layer. A trace never
 * changes once made, so reading needs no lock. A recorder belongs to one
 * thread at a time. */
#include <coterie/status.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct coterie_trace coterie_trace_t;
typedef struct coterie_trace_recorder coterie_trace_recorder_t;

/** What a trace holds; filled by coterie_trace_view, pointers borrowed from
 * the trace. Tokens lie sequence by sequence, in order of position. */
typedef struct coterie_trace_view {
    uint64_t token_count;
    uint64_t sequence_count;
    uint32_t layer_count;  /**< MoE layers; l is the MoE layer's ordinal */
    uint32_t expert_count; /**< per layer */
    uint32_t k;
    uint32_t predicted_k;    /**< 0 if no predictions were recorded */
    const int16_t *experts;  /**< [token, layer, k]; -1 = none */
    const float *weights;    /**< the same shape, or NULL */
    const int16_t *predicted; /**< [token, layer, predicted_k] or NULL: what
                                 was predicted, at layer l, for layer l + 1 */
    const uint64_t *seq_start; /**< sequence_count + 1 entries */
    const uint32_t *step;   /**< [token]: the step that computed it, or NULL */
    const uint8_t *phase;   /**< [token]: coterie_phase_t; NULL = decode */
    const int32_t *token;   /**< [token]: its id, -1 = unknown; or NULL */
} coterie_trace_view_t;

/** Reads `.npz` (Coterie's own; vLLM's and others with `experts`), `.npy` of
 * [tokens, layers] or [tokens, layers, k], or llama.cpp's `layer,expert` CSV.
 *
 * @param expert_count  0: one more than the largest id found
 * @return ERR_FORMAT, ERR_IO, with a line that names the file and the place */
COTERIE_API coterie_status_t coterie_trace_read(const char *path,
                                                uint32_t expert_count,
                                                coterie_trace_t **trace_p);

/** Writes Coterie's own `.npz`, whole or not at all.
 * @return ERR_EXISTS if path exists and force is 0 */
COTERIE_API coterie_status_t coterie_trace_write(const coterie_trace_t *trace,
                                                 const char *path, int force);

/** Copies arrays (as in the view) into a new trace; ids are checked. */
COTERIE_API coterie_status_t coterie_trace_create(
    const coterie_trace_view_t *arrays, coterie_trace_t **trace_p);

/** A new trace of sequences [first, first + count). */
COTERIE_API coterie_status_t coterie_trace_slice(const coterie_trace_t *trace,
                                                 uint64_t first,
                                                 uint64_t count,
                                                 coterie_trace_t **trace_p);

COTERIE_API void coterie_trace_view(const coterie_trace_t *trace,
                                    coterie_trace_view_t *view);

/** Accepts NULL. */
COTERIE_API void coterie_trace_destroy(coterie_trace_t *trace);

/** Start from COTERIE_TRACE_RECORDER_OPTIONS_INIT. */
typedef struct coterie_trace_recorder_options {
    size_t size;
    uint32_t layer_count;  /**< required */
    uint32_t expert_count; /**< required */
    uint32_t k;            /**< required */
    uint32_t predicted_k;  /**< 0: predictions are not recorded */
} coterie_trace_recorder_options_t;

#define COTERIE_TRACE_RECORDER_OPTIONS_INIT \
    { .size = sizeof(coterie_trace_recorder_options_t) }

/** Rows that one rank routed at one layer of one step. */
typedef struct coterie_trace_rows {
    size_t size;
    uint32_t layer;
    uint32_t count;
    uint32_t step;
    uint32_t phase;            /**< coterie_phase_t */
    const int32_t *sequence;   /**< [count] */
    const int32_t *position;   /**< [count] */
    const int32_t *topk_ids;   /**< [count, k]; -1 = none */
    const float *topk_weights; /**< [count, k] */
    const int32_t *predicted;  /**< [count, predicted_k], or NULL */
    const int32_t *token;      /**< [count]: ids fed in; NULL: unknown here */
} coterie_trace_rows_t;

COTERIE_API coterie_status_t coterie_trace_recorder_create(
    const coterie_trace_recorder_options_t *options,
    coterie_trace_recorder_t **recorder_p);

/** Appends rows. Every (sequence, position, layer) may come in any order, from
 * several ranks' recorders, and more than once if the ids agree. */
COTERIE_API coterie_status_t coterie_trace_record(
    coterie_trace_recorder_t *recorder, const coterie_trace_rows_t *rows);

/** Flat bytes of a recorder, to carry it to another process; free() them. */
COTERIE_API coterie_status_t coterie_trace_recorder_export(
    const coterie_trace_recorder_t *recorder, void **data_p, size_t *size_p);

/** Adds what another recorder exported (of the same options). */
COTERIE_API coterie_status_t coterie_trace_recorder_import(
    coterie_trace_recorder_t *recorder, const void *data, size_t size);

/** Makes the trace of everything recorded, sorted by sequence and position.
 * @return ERR_INVALID if a token lacks a layer or ids contradict each other */
COTERIE_API coterie_status_t coterie_trace_recorder_finish(
    const coterie_trace_recorder_t *recorder, coterie_trace_t **trace_p);

/** Accepts NULL. */
COTERIE_API void coterie_trace_recorder_destroy(
    coterie_trace_recorder_t *recorder);

/** Figures that describe a trace; see `coterie help trace` for each. */
typedef struct coterie_trace_summary {
    size_t size;
    uint64_t token_count, sequence_count;
    uint32_t layer_count, expert_count, k, expert_unused; /**< never chosen */
    double load_skew_mean, load_skew_max; /**< max/mean load, over layers */
    /** Share of an expert's next-layer choices that fall on its k most
     * frequent successors, load-weighted; and what independence of layers with
     * the same loads, and uniform choice, would give. */
    double affinity, affinity_independent, affinity_uniform;
    /** Mean distinct ranks a token's set touches, experts in order on
     * 2, 4, 8 ranks; 0 where experts are fewer. */
    double fan_out[3];
} coterie_trace_summary_t;

#define COTERIE_TRACE_SUMMARY_INIT { .size = sizeof(coterie_trace_summary_t) }

/** Computes the summary. Any thread; reads the trace only. */
COTERIE_API coterie_status_t coterie_trace_summarise(
    const coterie_trace_t *trace, coterie_trace_summary_t *summary);

/** load[layer * expert_count + expert] = how often it was chosen. */
COTERIE_API void coterie_trace_loads(const coterie_trace_t *trace,
                                     uint64_t *load);

#ifdef __cplusplus
}
#endif
#endif
