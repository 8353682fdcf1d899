#ifndef COTERIE_DISPATCH_H
#define COTERIE_DISPATCH_H
/** @file
 * Dispatch on devices: hidden states, ids and weights are in their memory and
 * stay there. Opening, registering and choosing ranks are the control path:
 * they allocate, and wait. The calls of a layer are the step path: they only
 * queue kernels on the device's stream, so that a graph may capture them.
 *
 *     for every MoE layer:
 *         attention and router, on the rows that are here
 *         coterie_dispatcher_send     rows to the ranks of their experts
 *         coterie_dispatcher_arrive   wait for others' rows, group by expert
 *         coterie_dispatcher_compute  this rank's experts
 *         coterie_dispatcher_return   their sums, to the rows' next owners
 *         coterie_dispatcher_finish   wait for sums, add them to the residual
 *
 * In forward every rank that holds a row calls them for it: send keeps rows at
 * home, return is the one exchange, of sums to all that hold the row next.
 * Those are the ranks of `predicted`, or all. With predictions (predicted_k),
 * a rank may turn out to need rows that it does not hold: it gets them in the
 * same exchange, and between return and finish arrive, compute and return are
 * called once more, with `late` set, for those.
 *
 * Between any two, the engine may queue work of its own. No kernel waits for
 * one that is not queued yet: with several ranks on one device, each call is
 * made for all of them at once, or by a thread a rank, which then meet before
 * they wait. Two halves of a batch overlap by two dispatchers.
 *
 * Messages have room for a fixed number of rows, so no count is needed on the
 * host. A row too many is not sent, and a rank that does not answer is not
 * waited for beyond the deadline: the layer's results are then worthless, and
 * coterie_dispatcher_check says why. */
#include <coterie/device.h>
#include <coterie/session.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct coterie_fabric coterie_fabric_t;
typedef struct coterie_dispatcher coterie_dispatcher_t;

/** All ranks in this process, on one device, which must outlive it. */
COTERIE_API coterie_status_t coterie_fabric_open_local(
    uint32_t rank_count, coterie_device_t *device,
    coterie_fabric_t **fabric_p);

/** "local", "nccl", "nccl-device". */
COTERIE_API const char *coterie_fabric_name(const coterie_fabric_t *fabric);

/** Accepts NULL. Its dispatchers were destroyed before. */
COTERIE_API void coterie_fabric_close(coterie_fabric_t *fabric);

/** Start from COTERIE_DISPATCHER_OPTIONS_INIT. Alike on every rank, but for
 * fabric. */
typedef struct coterie_dispatcher_options {
    size_t size;
    coterie_fabric_t *fabric;             /**< required; borrowed */
    const coterie_placement_t *placement; /**< required; borrowed */
    uint32_t hidden;   /**< required: elements of a row, a multiple of 16 */
    uint32_t k;        /**< required: experts a row chooses */
    uint32_t max_rows; /**< required: rows at one rank */
    /** Rows from one rank to one other, either way; 0: max_rows, which is
     * always enough in two-phase. */
    uint32_t capacity;
    uint32_t wire;    /**< coterie_wire_t of what travels: F32 or BF16 */
    uint32_t element; /**< the same, of rows given and got */
    uint32_t deadline_ms; /**< of a wait; 0: 60,000 */
    float norm_epsilon;
    /** Owner: [layer_count, hidden], on the host: what a rank that gets a raw
     * row applies before its experts, as coterie_rms_norm. */
    const float *norm;
    /** Rows from all ranks together to one, for whose results there is to be
     * room; 0: rank_count * capacity. */
    uint32_t arrivals;
    uint32_t forward;     /**< 1: with room for forward; max_rows is then of all
                             ranks together, since each may hold every row */
    uint32_t predicted_k; /**< forward: experts of a row's `predicted`, among 32
                             ranks or fewer; 0: always to all ranks */
} coterie_dispatcher_options_t;

#define COTERIE_DISPATCHER_OPTIONS_INIT \
    { .size = sizeof(coterie_dispatcher_options_t) }

/** Control path, collective. Once for a fabric.
 * @return ERR_UNSUPPORTED for what a device cannot do */
COTERIE_API coterie_status_t coterie_dispatcher_create(
    const coterie_dispatcher_options_t *options,
    coterie_dispatcher_t **dispatcher_p);

/** Control path: the experts of a rank that this end drives, moved to the
 * same device before (coterie_bank_move). Borrowed. */
COTERIE_API coterie_status_t coterie_dispatcher_register(
    coterie_dispatcher_t *dispatcher, uint32_t rank,
    const coterie_bank_t *bank);

/** Control path: which ranks take part; active[rank_count], 0 = does not. Their
 * experts are served by replicas elsewhere; where there is none, the choice is
 * dropped and counted. Nothing may be queued that is not done. All ranks that
 * remain do the same. */
COTERIE_API coterie_status_t coterie_dispatcher_set_active(
    coterie_dispatcher_t *dispatcher, const uint8_t *active);

/** Control path, after set_active: what ranks hold from now on, such as
 * coterie_placement_without says, in place of what options.placement was;
 * borrowed. The same ranks, layers and experts. Banks are to be registered
 * anew, made for this placement (from the model's store), and graphs captured
 * again. Nothing may be queued that is not done. All ranks that remain do the
 * same. Alone with its dispatcher, as all of the control path.
 *
 * @return ERR_INVALID, ERR_MISMATCH or ERR_UNSUPPORTED for a placement that
 *         does not fit; nothing has changed then. After any other failure only
 *         destroy is left. */
COTERIE_API coterie_status_t coterie_dispatcher_set_placement(
    coterie_dispatcher_t *dispatcher, const coterie_placement_t *placement);

/** Rows at one rank, in its device's memory, aligned to 16 bytes. */
typedef struct coterie_device_rows {
    size_t size;
    uint32_t capacity;     /**< of the arrays, in rows; at most max_rows */
    uint32_t reserved;     /**< zero */
    uint32_t *count;       /**< [1]: rows that there are; out: written */
    uint64_t *key;         /**< [capacity] the engine's own name of a row,
                              which goes along with it */
    void *hidden;          /**< [capacity, hidden]: residual stream */
    const void *normed;    /**< in: [capacity, hidden] experts' input */
    const int32_t *topk_ids;   /**< in: [capacity, k]; -1 = none */
    const float *topk_weights; /**< in: [capacity, k] */
    /** Forward, [capacity] each: a row's number among all of the step, below
     * max_rows, the same wherever it is; and the ranks that hold it, by bit,
     * all bits: every rank. Out tells what the next layer's in says. NULL in
     * in: rows are numbered as they lie, and every rank holds all of them, as
     * when a step begins. */
    uint32_t *seat, *holders;
    /** Forward: in: [capacity, predicted_k] what the router of the next layer
     * says of these hidden states; NULL: nothing. The same bits wherever the
     * row is. Not read in the last layer, after which all ranks hold it. */
    const int32_t *predicted;
} coterie_device_rows_t;

/** What the calls of a layer are about: ranks first to first + count - 1 of
 * those that this end drives, and rows[count]. In two-phase, out has the rows
 * of in, in order. In owner, other rows come back: by the rank that they come
 * from, then in the order that they had there. In forward, those that this rank
 * holds next, by seat. */
typedef struct coterie_layer_call {
    size_t size;
    uint32_t layer, mode; /**< not auto; the same for all calls */
    uint32_t first, count;
    const coterie_device_rows_t *in; /**< [count]; not to be changed before
                                        finish's kernels are done */
    coterie_device_rows_t *out;      /**< [count]; no array of in */
    uint32_t late, reserved; /**< forward with predictions: 1 for the second
                                arrive, compute and return; zero */
} coterie_layer_call_t;

COTERIE_API coterie_status_t coterie_dispatcher_send(
    coterie_dispatcher_t *dispatcher, const coterie_layer_call_t *call);
COTERIE_API coterie_status_t coterie_dispatcher_arrive(
    coterie_dispatcher_t *dispatcher, const coterie_layer_call_t *call);
COTERIE_API coterie_status_t coterie_dispatcher_compute(
    coterie_dispatcher_t *dispatcher, const coterie_layer_call_t *call);
COTERIE_API coterie_status_t coterie_dispatcher_return(
    coterie_dispatcher_t *dispatcher, const coterie_layer_call_t *call);
COTERIE_API coterie_status_t coterie_dispatcher_finish(
    coterie_dispatcher_t *dispatcher, const coterie_layer_call_t *call);

/** What is where between arrive and return, in device memory: for an engine
 * with experts of its own (write `out`), or shared experts (add to `base`). */
typedef struct coterie_device_work {
    size_t size;
    uint32_t slots;        /**< this rank's experts of a layer */
    uint32_t pairs;        /**< most that there can be */
    const uint32_t *first; /**< [slots + 1]: where an expert's pairs begin */
    const uint32_t *pair;  /**< [pairs]: row k + choice */
    const uint16_t *x;     /**< [rows, hidden] bf16 */
    float *out;            /**< [pairs, hidden], by place: not yet weighted */
    float *base;           /**< owner: [max_rows, hidden] residuals of the rows
                              that are here next; NULL in other modes */
    const uint32_t *base_count; /**< [1] */
} coterie_device_work_t;

COTERIE_API void coterie_dispatcher_work(
    const coterie_dispatcher_t *dispatcher, uint32_t rank,
    coterie_mode_t mode, coterie_device_work_t *work);

/** What a rank sent, counted on the device since its dispatcher was created,
 * and, last, what went wrong since ranks or the placement were last set.
 * payload_bytes equals coterie_simulate's; wire_bytes is what this fabric
 * moves, with records, headers and unused room where that travels. */
typedef struct coterie_device_counts {
    uint64_t rows;            /**< given to send */
    uint64_t copies_dispatch; /**< rows sent to other ranks */
    uint64_t copies_return;   /**< sums sent to other ranks */
    uint64_t copies_forward;  /**< sums sent to other next holders */
    uint64_t copies_fixup;    /**< rows sent to ranks that were not predicted */
    uint64_t copies_network;  /**< of all these, between nodes */
    uint64_t payload_bytes;
    uint64_t wire_bytes;
    uint64_t messages;       /**< those with rows */
    uint64_t fixup_messages; /**< of these, sums of rows that came late */
    uint64_t empty_messages; /**< headers alone */
    uint64_t dropped;        /**< choices whose expert no active rank has */
    /** Forward: rows of which ranks did not say the same. */
    uint64_t disagreed;
    uint32_t overflows;      /**< rows beyond capacity or max_rows */
    uint32_t late;           /**< 1 + the first rank that did not answer */
} coterie_device_counts_t;

/** Waits for the stream, then tells.
 * @param counts  may be NULL
 * @return ERR_TIMEOUT naming the rank that did not answer, ERR_CAPACITY,
 *         ERR_MISMATCH if ranks came to differ about a row in forward */
COTERIE_API coterie_status_t coterie_dispatcher_check(
    coterie_dispatcher_t *dispatcher, uint32_t rank,
    coterie_device_counts_t *counts);

/** Accepts NULL. Waits for the stream. */
COTERIE_API void coterie_dispatcher_destroy(coterie_dispatcher_t *dispatcher);

#ifdef __cplusplus
}
#endif
#endif
