#ifndef COTERIE_SESSION_H
#define COTERIE_SESSION_H
/** @file
 * The engine's side of dispatch. One session a rank, used by one thread; every
 * rank makes the same calls in the same order (collective), with rows of its
 * own or none. A step, of prefill or decode:
 *
 *     coterie_step_begin     which rows start here, and by which mode
 *     for every MoE layer l:
 *         attention and router of layer l, on the rows that are here;
 *         coterie_kv_put     the new K/V of these rows
 *         coterie_exchange   their experts; gives the rows of layer l + 1
 *     last norm, logits, sampling, on the rows that are here
 *     coterie_step_end       the sampled tokens
 *
 * Two-phase gives every rank its own rows back, in order. In owner and forward
 * modes other rows come back: each says its sequence and position. Batches are
 * split by sequence: a sequence's home is the rank that prefills it. Prefill
 * is two-phase in every mode; its K/V is gathered once, afterwards.
 *
 * Forward needs every rank to compute the same bits from the same row
 * (coterie/kernels.h does); ranks that come to differ get ERR_MISMATCH. After
 * a failure, the session only accepts destroy; the others see ERR_PEER. */
#include <coterie/device.h>
#include <coterie/ffn.h>
#include <coterie/model.h>
#include <coterie/placement.h>
#include <coterie/pool.h>
#include <coterie/simulate.h>
#include <coterie/tiers.h>
#include <coterie/transport.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct coterie_bank coterie_bank_t;
typedef struct coterie_dispatcher coterie_dispatcher_t;
typedef struct coterie_session coterie_session_t;

/** Loads one rank's experts (the slots that a placement gives it) from a
 * model. Read-only afterwards: ranks in one process may share a model, not a
 * bank. The model must outlive only this call. */
COTERIE_API coterie_status_t coterie_bank_create(
    const coterie_model_t *model, const coterie_placement_t *placement,
    uint32_t rank, coterie_bank_t **bank_p);

/** Moves a bank's experts to a device's memory, and has them computed there
 * from then on: products of bf16, so logits differ a little from the
 * processor's. Rows with the same input still get the same bits.
 *
 * @param device    must outlive the bank, and be this thread's
 * @param max_rows  as the session's; k likewise
 * @return ERR_UNSUPPORTED (weights wider than bf16, a bank in tiers, hidden or
 *         ffn no multiple of 16), ERR_NO_MEMORY: the bank is as it was */
COTERIE_API coterie_status_t coterie_bank_move(coterie_bank_t *bank,
                                               coterie_device_t *device,
                                               uint32_t max_rows, uint32_t k);

/** Has one rank's experts in tiers, which must outlive the bank and may serve
 * other ranks' banks, too. Computes the same bits as a bank in memory; what
 * the engine gives as rows' `predicted` is read ahead, in every mode. */
COTERIE_API coterie_status_t coterie_bank_create_tiered(
    coterie_tiers_t *tiers, const coterie_placement_t *placement,
    uint32_t rank, coterie_bank_t **bank_p);

/** Control path, collective among ranks that are processes: those of each
 * machine get one tiers together, which the first of them has and the others
 * join; so no expert is read twice there. The options are of all ranks, and a
 * machine gets its ranks' part of the budget. Where the system has no memory
 * that processes share, one line on stderr says so, and each has its own part.
 *
 * @return ERR_PEER if the rank that should have them failed */
COTERIE_API coterie_status_t coterie_tiers_create_together(
    coterie_transport_t *transport, const coterie_model_t *model,
    const coterie_tiers_options_t *options, coterie_tiers_t **tiers_p);

/** Has a device compute the experts of a bank in tiers: at most `budget` bytes
 * of them are in its memory at a time, those used last. One that is not comes
 * from the tiers, and is copied over while others are computed; or the
 * processor computes it where it lies, as long as that has taken less time than
 * the copy would. Logits differ as with coterie_bank_move, and a little by who
 * computed.
 *
 * @return as coterie_bank_move; ERR_INVALID if the budget holds no expert */
COTERIE_API coterie_status_t coterie_bank_move_tiered(
    coterie_bank_t *bank, coterie_device_t *device, uint32_t max_rows,
    uint32_t k, uint64_t budget);

/** What became of the experts that a bank with a device and tiers needed. A use
 * is one expert at one layer of one step, for however many rows. */
typedef struct coterie_bank_counts {
    size_t size;
    uint64_t uses;
    uint64_t hits;          /**< uses of experts in the device's memory */
    uint64_t copies;        /**< that were copied there */
    uint64_t computed_here; /**< by the processor */
    uint64_t bytes;         /**< copied, in all */
    uint64_t ahead_copies;  /**< to the device before anybody needed them, */
    uint64_t ahead_used;    /**< that were used, the first time a hit */
    uint64_t ahead_wasted;  /**< that left without a use */
} coterie_bank_counts_t;

/** All zero for a bank without both. */
COTERIE_API void coterie_bank_device_counts(const coterie_bank_t *bank,
                                            coterie_bank_counts_t *counts);

/** How the bank's products are computed (coterie_compute_t; f32 at first):
 * rounding what meets the weights is faster and changes results a little
 * (doc/kernels.md). Before a session has the bank.
 * @return ERR_UNSUPPORTED if the weights' dtype has no such products */
COTERIE_API coterie_status_t coterie_bank_set_compute(coterie_bank_t *bank,
                                                      uint32_t compute);

/** Has the bank's experts computed by a pool, which must outlive the bank and
 * may serve other ranks' banks, too; results keep their bits. Before a session
 * has the bank. On several NUMA nodes, experts in memory move to where they are
 * computed. */
COTERIE_API void coterie_bank_set_pool(coterie_bank_t *bank,
                                       coterie_pool_t *pool);

/** Accepts NULL. */
COTERIE_API void coterie_bank_destroy(coterie_bank_t *bank);

/** What the engine does for the runtime inside coterie_exchange; `engine` is
 * passed through. Each returns a status, and must give a row the same bits
 * whatever the batch. */
typedef struct coterie_engine {
    size_t size;
    void *engine;
    /** The experts' input: normed[count, hidden] from raw hidden states, where
     * a row's ownership moves. Required. */
    coterie_status_t (*norm)(void *engine, uint32_t layer, uint32_t count,
                             const float *hidden, float *normed);
    /** Adds the shared experts of normed[count, hidden] to sums. NULL: none. */
    coterie_status_t (*shared)(void *engine, uint32_t layer, uint32_t count,
                               const float *normed, float *sums);
    /** K/V of a row that another rank computed; data has kv_row_size bytes and
     * is the runtime's. Called in coterie_step_begin. NULL only where
     * kv_row_size is 0. */
    coterie_status_t (*kv_arrived)(void *engine, uint32_t layer,
                                   int32_t sequence, int32_t position,
                                   const void *data);
    /** Instead of a bank: adds every pair's weighted expert output to sums
     * (coterie_expert_ffn's rule); rows' experts are this rank's slots of the
     * layer, in order. NULL: the bank computes. */
    coterie_status_t (*experts)(void *engine, uint32_t layer,
                                const coterie_expert_rows_t *rows,
                                const float *normed, float *sums);
} coterie_engine_t;

/** Start from COTERIE_SESSION_OPTIONS_INIT. Pointers are borrowed until
 * destroy, and must be alike on every rank except transport, bank, engine. */
typedef struct coterie_session_options {
    size_t size;
    coterie_transport_t *transport;       /**< required */
    const coterie_placement_t *placement; /**< required; for all its ranks */
    const coterie_bank_t *bank;           /**< or engine.experts */
    const coterie_engine_t *engine;       /**< required */
    uint32_t hidden;      /**< required: elements of a hidden state */
    uint32_t k;           /**< required: experts a token chooses */
    uint32_t max_rows;    /**< required: rows one step has over all ranks */
    uint32_t mode;        /**< coterie_mode_t of decode; default auto */
    uint32_t group;       /**< coterie_group_t; ACROSS is forward's only */
    uint32_t predicted_k; /**< 0: forward goes to the whole group */
    uint32_t kv_row_size; /**< bytes of K and V of one row and layer */
    uint32_t deadline_ms; /**< a wait longer than this fails; 0: 60,000 */
    /** 1: the model has layers, so K/V to put, after its last MoE layer. 0 lets
     * forward send a step's K/V along with that layer's sums. */
    uint32_t kv_after_last;
    /** coterie_wire_t: what travels. Other than F32, results depend a little on
     * the mode and the number of ranks. K/V is the engine's own. */
    uint32_t wire;
    /** Two-phase, and owner and forward among all ranks, by this instead of the
     * transport: of the same placement, hidden, k, predicted_k (where it has
     * room for forward) and wire, at least as many max_rows, f32 elements; this
     * rank's bank registered (coterie/dispatch.h). */
    coterie_dispatcher_t *dispatcher;
} coterie_session_options_t;

#define COTERIE_SESSION_OPTIONS_INIT \
    { .size = sizeof(coterie_session_options_t) }

/** Collective. Allocates everything the steps need.
 * @return ERR_MISMATCH if ranks disagree about the options, or the placement
 *         is for another number of ranks */
COTERIE_API coterie_status_t coterie_session_create(
    const coterie_session_options_t *options, coterie_session_t **session_p);

/** Rows at a rank between two layers. All arrays are the caller's. */
typedef struct coterie_rows {
    size_t size;
    uint32_t capacity; /**< of the arrays, in rows */
    uint32_t count;
    int32_t *sequence; /**< [count], from 0 */
    int32_t *position; /**< [count], in the sequence */
    int32_t *token;    /**< [count]: coterie_step_begin fills it; else unused */
    float *hidden;     /**< [count, hidden]: residual stream before the experts
                          (in), with the experts' sum added (out) */
    const float *normed;       /**< in: [count, hidden] experts' input */
    const int32_t *topk_ids;   /**< in: [count, k]; -1 = none */
    const float *topk_weights; /**< in: [count, k] */
    /** In: [count, predicted_k] what the router of the next MoE layer says of
     * these hidden states; NULL: nothing. Forward goes there instead of to the
     * whole group, and needs the same bits wherever a row is; tiers read these
     * experts ahead. */
    const int32_t *predicted;
} coterie_rows_t;

/** Starts a step.
 *
 * @param phase   prefill: the engine brings rows of sequences born here;
 *                decode: rows says which sequences continue on this rank, at
 *                which position, from which token
 * @param mode_p  the mode of this step, the same on every rank; may be NULL */
COTERIE_API coterie_status_t coterie_step_begin(coterie_session_t *session,
                                                coterie_phase_t phase,
                                                coterie_mode_t *mode_p,
                                                coterie_rows_t *rows);

/** Offers K/V of rows computed here in this step; kv is
 * [count, kv_row_size] bytes, copied. Not needed where group is NONE. */
COTERIE_API coterie_status_t coterie_kv_put(coterie_session_t *session,
                                            uint32_t layer, uint32_t count,
                                            const int32_t *sequence,
                                            const int32_t *position,
                                            const void *kv);

/** Experts of one layer. in and out may share no array.
 * @return ERR_CAPACITY if out has too few rows (max_rows is always enough) */
COTERIE_API coterie_status_t coterie_exchange(coterie_session_t *session,
                                              uint32_t layer,
                                              const coterie_rows_t *in,
                                              coterie_rows_t *out);

/** Ends a step: for the rows that are here after the last layer, the next
 * token of each sequence that goes on (in forward mode every rank of the group
 * gives the same). Starts the K/V gather; does not wait for it.
 *
 * @param position  of the sampled token */
COTERIE_API coterie_status_t coterie_step_end(coterie_session_t *session,
                                              uint32_t count,
                                              const int32_t *sequence,
                                              const int32_t *position,
                                              const int32_t *token);

/** Where a rank's time went; nanoseconds since the session began. */
typedef struct coterie_times {
    uint64_t exchange_ns; /**< packing, sending, waiting, adding */
    uint64_t wait_ns;     /**< of that, waiting for messages */
    uint64_t experts_ns;  /**< computing experts */
    uint64_t steps_by_mode[4]; /**< decode steps, by coterie_mode_t */
} coterie_times_t;

/** What this rank sent so far, by phase; not collective. */
COTERIE_API void coterie_session_counts(const coterie_session_t *session,
                                        coterie_counts_t counts[2],
                                        coterie_times_t *times);

/** Accepts NULL. The transport stays open. After a step, every rank must
 * destroy its session (each in its own thread): it takes what others sent.
 * After a failure, any rank may, alone. */
COTERIE_API void coterie_session_destroy(coterie_session_t *session);

#ifdef __cplusplus
}
#endif
#endif
