#ifndef COTERIE_TIERS_H
#define COTERIE_TIERS_H
/** @file
 * Serving from an expert store with less memory than its experts take. Tiers
 * hold some of them in an arena and read the others when they are needed, or
 * a little before. Ranks that are threads of one process share one object, and
 * those of several processes on a machine can, so that the budget is theirs
 * together and no expert is read twice. Results are
 * the same, bit for bit, with any budget: only time differs. */
#include <coterie/model.h>
#include <coterie/offload.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct coterie_tiers coterie_tiers_t;

/** Who looks for work instead of being told of it, which takes a core each, and
 * saves a little time where the kernel and the drive allow it; where they do
 * not, one line on stderr says so. Values are ABI. */
typedef enum coterie_polling {
    COTERIE_POLLING_NONE = 0,
    COTERIE_POLLING_SUBMIT = 1,  /**< the kernel, for reads: SQPOLL */
    COTERIE_POLLING_COMPLETE = 2 /**< we, for what was read: IOPOLL */
} coterie_polling_t;

/** Start from COTERIE_TIERS_OPTIONS_INIT. One of the two budgets is required.
 */
typedef struct coterie_tiers_options {
    size_t size;
    uint64_t budget;       /**< bytes of experts in memory at most, */
    double budget_percent; /**< or percent of what all experts take */
    uint32_t policy;       /**< coterie_policy_kind_t; 0 is LRU */
    uint32_t polling;      /**< coterie_polling_t; 0 is none */
    /** [MoE layers, experts] how often each was chosen in earlier runs
     * (coterie_hot_read): the hottest are read as soon as ranks begin. Read
     * during the call; NULL: unknown. */
    const uint64_t *hot;
    /** Bytes of experts in plain memory at most, beyond the budget, which is of
     * fast memory; or percent of what all experts take. 0: none. */
    uint64_t host_budget;
    double host_percent;
    uint64_t shared; /**< 1: memory that other processes can map
                      * (coterie_tiers_share); 0: this process's own */
} coterie_tiers_options_t;

#define COTERIE_TIERS_OPTIONS_INIT { .size = sizeof(coterie_tiers_options_t) }

/** @param model  an expert store; must outlive the tiers
 * @return ERR_INVALID if the budget holds no expert; ERR_UNSUPPORTED if the
 *         model is a directory; ERR_MISMATCH if the store was replaced */
COTERIE_API coterie_status_t coterie_tiers_create(
    const coterie_model_t *model, const coterie_tiers_options_t *options,
    coterie_tiers_t **tiers_p);

/** Room for a name, with its final zero. */
enum { COTERIE_TIERS_NAME = 32 };

/** Lets other processes of this machine (of the same user and network
 * namespace) use tiers that were created to be shared: all read the store by
 * this process, into the same memory, with one budget. The name is the
 * kernel's and leaves nothing behind. One that dies gives back what it had.
 * @param name  [COTERIE_TIERS_NAME]: what others join by
 * @return ERR_INVALID if they were not created for that, or are shared
 *         already; ERR_UNSUPPORTED if the system has no such names */
COTERIE_API coterie_status_t coterie_tiers_share(coterie_tiers_t *tiers,
                                                 char *name);

/** Another process's tiers, for one bank of this one. They are that process's:
 * when it destroys them or dies, banks hear ERR_PEER.
 * @param model  the same store
 * @return ERR_PEER if nobody has that name; ERR_MISMATCH if it is of another
 *         store or version */
COTERIE_API coterie_status_t coterie_tiers_join(const coterie_model_t *model,
                                                const char *name,
                                                coterie_tiers_t **tiers_p);

/** What has happened since the tiers were created. A use is one expert that a
 * rank needs at one layer of one step, for however many rows. */
typedef struct coterie_tiers_counts {
    size_t size;
    uint64_t budget;        /**< bytes that experts may take */
    uint64_t resident;      /**< bytes that they take now, */
    uint64_t resident_most; /**< and took at most */
    uint64_t uses;
    uint64_t hits;         /**< uses of experts in memory */
    uint64_t preloads;     /**< reads of what was hot in earlier runs */
    uint64_t demand_reads; /**< begun because a rank waited */
    uint64_t guess_reads;  /**< begun because a rank might need it */
    uint64_t guesses_used;
    uint64_t guesses_wasted; /**< dropped, or evicted without a use */
    uint64_t bytes;          /**< read from the store */
    uint64_t retries;        /**< chunks read again after a failure */
    uint64_t stall_ns;       /**< ranks waited for experts, all together */
    uint64_t host_budget;    /**< bytes that experts may take in plain memory */
    uint64_t computed_in_host; /**< uses of experts where they lay there */
    uint64_t moved_to_fast;    /**< because that was worth a copy */
    uint64_t processes; /**< that use these tiers now; 0: they are another
                         * process's, whose counts these are */
} coterie_tiers_counts_t;

COTERIE_API void coterie_tiers_counts(coterie_tiers_t *tiers,
                                      coterie_tiers_counts_t *counts);

/** The same of one layer, during a part of the time. */
typedef struct coterie_layer_counts {
    uint64_t uses;
    uint64_t hits;
    uint64_t preloads;
    uint64_t demand_reads;
    uint64_t guess_reads;
    uint64_t guesses_used;
    uint64_t guesses_wasted;
    uint64_t memory_bytes; /**< of the experts hit */
    uint64_t store_bytes;  /**< read, of what arrived or was dropped */
    uint64_t stall_ns;
} coterie_layer_counts_t;

/** Every field but the time, for who treats them alike. */
#define COTERIE_LAYER_COUNTS_MAP(X)                            \
    X(uses) X(hits) X(preloads) X(demand_reads) X(guess_reads) \
    X(guesses_used) X(guesses_wasted) X(memory_bytes) X(store_bytes)

/** Spans of time that counts are kept of. */
enum { COTERIE_TIMELINE_SPANS = 64 };

/** The counts by span and layer. A span is some number of rounds, once through
 * the layers each; it doubles whenever all spans are full, so that a run of any
 * length fits. What was hot before is read in the first round.
 *
 * @param counts    [COTERIE_TIMELINE_SPANS, MoE layers]; zero where time has
 *                  not come yet
 * @param rounds_p  of a span */
COTERIE_API void coterie_tiers_timeline(coterie_tiers_t *tiers,
                                        coterie_layer_counts_t *counts,
                                        uint32_t *rounds_p);

/** Half of the options' hot counts, and the uses since: for the next run
 * (coterie_hot_write). */
COTERIE_API void coterie_tiers_hot(coterie_tiers_t *tiers, uint64_t *count);

/** How the store is read, such as "io_uring, direct, transparent huge pages".
 */
COTERIE_API void coterie_tiers_describe(coterie_tiers_t *tiers, char *text,
                                        size_t size);

/** Accepts NULL. No bank may use them any more. */
COTERIE_API void coterie_tiers_destroy(coterie_tiers_t *tiers);

#ifdef __cplusplus
}
#endif
#endif
