#ifndef COTERIE_OFFLOAD_H
#define COTERIE_OFFLOAD_H
/** @file
 * Serving a model that is larger than memory: what a cache of experts keeps,
 * and which experts come next. Here is what a trace alone can tell of both.
 * Everything is deterministic and safe from many threads. */
#include <coterie/trace.h>

#ifdef __cplusplus
extern "C" {
#endif

/** Which expert leaves a full cache. Values are ABI. */
typedef enum coterie_policy_kind {
    COTERIE_POLICY_LRU = 0, /**< the one used least recently */
    COTERIE_POLICY_LFU = 1, /**< the one used least often, of late */
    COTERIE_POLICY_COST = 2 /**< the one whose next use is expected last */
} coterie_policy_kind_t;

/** How often each expert was chosen, kept between runs (doc/offload.md).
 *
 * @param count  [layer_count, expert_count]; set on success only
 * @return ERR_NOT_FOUND, ERR_FORMAT, ERR_MISMATCH (another model's shape) */
COTERIE_API coterie_status_t coterie_hot_read(const char *path,
                                              uint32_t layer_count,
                                              uint32_t expert_count,
                                              uint64_t *count);

/** Writes, whole or not at all, over what was there. */
COTERIE_API coterie_status_t coterie_hot_write(const char *path,
                                               uint32_t layer_count,
                                               uint32_t expert_count,
                                               const uint64_t *count);

/** Called now and then with tokens done and in all. */
typedef void (*coterie_tokens_fn)(void *arg, uint64_t done, uint64_t total);

/** Start from COTERIE_REPLAY_OPTIONS_INIT. */
typedef struct coterie_replay_options {
    size_t size;
    uint32_t policy;  /**< coterie_policy_kind_t */
    uint32_t slots;   /**< required: experts, of all layers, that fit */
    uint32_t streams; /**< sequences at a time, a token of each a step; 0: 1 */
    uint32_t reserved;
    uint64_t first_counted; /**< tokens before it only warm up */
    /** [layer_count, expert_count], or NULL. Read: what is hot fills the cache
     * and seeds the policy. Then halved, and the uses counted here added. */
    uint64_t *hot;
    coterie_tokens_fn progress; /**< or NULL */
    void *progress_arg;
} coterie_replay_options_t;

#define COTERIE_REPLAY_OPTIONS_INIT \
    { .size = sizeof(coterie_replay_options_t) }

/** Counted over the tokens from first_counted on. A use is an expert needed at
 * one layer of one step, however many streams need it. */
typedef struct coterie_replay_result {
    size_t size;
    uint64_t tokens, uses;
    uint64_t hits, misses;   /**< a miss is one demand read */
    uint64_t optimal_hits;   /**< Belady's: the next use latest, known ahead */
    uint64_t preloaded;      /**< experts read before the first token */
} coterie_replay_result_t;

#define COTERIE_REPLAY_RESULT_INIT { .size = sizeof(coterie_replay_result_t) }

/** Replays a trace through a cache that reads on demand only.
 * @return ERR_INVALID with the rule broken */
COTERIE_API coterie_status_t coterie_cache_replay(
    const coterie_trace_view_t *trace, const coterie_replay_options_t *options,
    coterie_replay_result_t *result);

/** Who predicts. Values are ABI. */
typedef enum coterie_prediction {
    COTERIE_PREDICTION_POPULARITY = 0, /**< how often it is chosen */
    COTERIE_PREDICTION_AFFINITY = 1,   /**< naive Bayes over a set before */
    COTERIE_PREDICTION_REGRESSION = 2, /**< over several sets before */
    COTERIE_PREDICTION_ROUTER = 3,     /**< the router itself, applied early */
    COTERIE_PREDICTION_TOKEN = 4,      /**< by the token that comes in */
    COTERIE_PREDICTION_STACK = 5,      /**< these five, their odds weighted */
    COTERIE_PREDICTION_BLEND = 6       /**< average of all, by past worth */
} coterie_prediction_t;

enum { COTERIE_PREDICTIONS = 7, COTERIE_CALIBRATION_BINS = 10 };

/** Start from COTERIE_SCORE_OPTIONS_INIT. */
typedef struct coterie_score_options {
    size_t size;
    uint32_t distance; /**< layers ahead, 1 to the layer count; 0: 1 */
    uint32_t frozen;   /**< nothing is learned from counted tokens */
    uint64_t first_counted; /**< tokens before it only train */
    coterie_tokens_fn progress; /**< or NULL */
    void *progress_arg;
} coterie_score_options_t;

#define COTERIE_SCORE_OPTIONS_INIT { .size = sizeof(coterie_score_options_t) }

typedef struct coterie_score {
    uint64_t sets;        /**< those it had something to say about */
    uint64_t uses;        /**< experts chosen in them */
    double recall_k;      /**< share of a set among its k best guesses */
    double recall_2k;     /**< among its 2 k best */
    double log_loss;      /**< per set, nats: lower is better */
} coterie_score_t;

/** Of all experts given a chance in this tenth: how many were chosen. */
typedef struct coterie_calibration {
    uint64_t count;
    double chance, frequency; /**< means; equal if calibrated */
} coterie_calibration_t;

typedef struct coterie_score_result {
    size_t size;
    uint64_t tokens;
    coterie_score_t score[COTERIE_PREDICTIONS];
    coterie_calibration_t calibration[COTERIE_CALIBRATION_BINS]; /**< blend */
    double calibration_error; /**< mean distance of chance and frequency */
} coterie_score_result_t;

#define COTERIE_SCORE_RESULT_INIT { .size = sizeof(coterie_score_result_t) }

/** Predicts every set of a trace from what was known `distance` layers before,
 * learning from each once it is scored. Sets count whose prediction was due in
 * the same token (all, for a whole token ahead).
 * @return ERR_INVALID with the rule broken */
COTERIE_API coterie_status_t coterie_predictor_score(
    const coterie_trace_view_t *trace, const coterie_score_options_t *options,
    coterie_score_result_t *result);

#ifdef __cplusplus
}
#endif
#endif
