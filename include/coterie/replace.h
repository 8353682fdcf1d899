#ifndef COTERIE_REPLACE_H
#define COTERIE_REPLACE_H
/** @file
 * From yesterday's placement to one for today's trace, moving no more than a
 * budget allows. In libcoterie-place, like coterie/place.h. */
#include <coterie/place.h>

#ifdef __cplusplus
extern "C" {
#endif

/** One expert that a rank lacks: copied from a rank that has it. */
typedef struct coterie_move {
    uint32_t layer, expert;
    uint32_t from, to; /**< ranks */
} coterie_move_t;

/** Start from COTERIE_REPLACE_OPTIONS_INIT. Zero always means "default". */
typedef struct coterie_replace_options {
    size_t size;
    uint32_t is_limited; /**< 0: anything may move; 1: moves_most holds */
    uint32_t mode;       /**< coterie_mode_t that is served; owner */
    uint64_t moves_most; /**< 0 leaves the placement as it is */
    double network_cost; /**< a copy between nodes, in copies within; 8 */
    double load_cap;     /**< as of coterie_place; 0: none */
    double time_limit_s; /**< default 60 */
    double train_share;  /**< of the sequences, from the first; 0.5 */
    uint32_t seed, reserved;
    /** Called now and then; non-zero stops the search with the best so far. */
    int (*progress)(void *arg, const coterie_place_progress_t *progress);
    void *progress_arg;
} coterie_replace_options_t;

#define COTERIE_REPLACE_OPTIONS_INIT \
    { .size = sizeof(coterie_replace_options_t) }

/** What was found. "train" is the part of the trace that was decided on,
 * "held" the rest, or a sample of it where the time limit is short; copies are
 * per token and layer in the mode asked, those between nodes counted
 * network_cost times. */
typedef struct coterie_replace_report {
    size_t size;
    uint64_t moves;      /**< how many, */
    uint64_t moves_all;  /**< and how many the free choice would take */
    double train_copies_before, train_copies;
    double held_copies_before, held_copies;
    double held_copies_all; /**< of the free choice */
    double elapsed_s;
} coterie_replace_report_t;

#define COTERIE_REPLACE_REPORT_INIT \
    { .size = sizeof(coterie_replace_report_t) }

/** Decides which experts to move. More moves are never worse on train, unless
 * time cuts the search short.
 *
 * @param old      its ranks, nodes and slots are kept
 * @param moves_p  [report->moves], by layer; free() it. NULL: not wanted
 * @param report   may be NULL
 * @return ERR_MISMATCH if the trace has other layers or experts */
COTERIE_API coterie_status_t coterie_replace(
    const coterie_placement_t *old, const coterie_trace_t *trace,
    const coterie_replace_options_t *options,
    coterie_placement_t **placement_p, coterie_move_t **moves_p,
    coterie_replace_report_t *report);

/** The copies that lead from one placement to the other, by layer: a rank's
 * new experts come from the nearest rank that has them.
 *
 * @param moves_p  [*count_p]; free() it
 * @return ERR_MISMATCH if they differ in layers, experts, ranks or nodes */
COTERIE_API coterie_status_t coterie_placement_moves(
    const coterie_placement_t *from, const coterie_placement_t *to,
    coterie_move_t **moves_p, uint64_t *count_p);

#ifdef __cplusplus
}
#endif
#endif
