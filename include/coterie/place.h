#ifndef COTERIE_PLACE_H
#define COTERIE_PLACE_H
/** @file
 * Placement by integer programming. In libcoterie-place, which links GLPK
 * (GPL-3); engines need only libcoterie and the file that is written. */
#include <coterie/loads.h>
#include <coterie/placement.h>
#include <coterie/trace.h>

#ifdef __cplusplus
extern "C" {
#endif

/** What is minimised. Values are ABI. */
typedef enum coterie_objective {
    /** Pairs of experts that one token uses on different ranks: within a layer
     * (each costs copies) and from a layer to the next (each may cost one),
     * weighted as `dispatch` counts them for the mode asked. */
    COTERIE_OBJECTIVE_DISPATCH = 0,
    /** ExFlow's: pairs of consecutive layers' experts on different ranks. */
    COTERIE_OBJECTIVE_CROSSING = 1
} coterie_objective_t;

/** How far the search has come; values in the objective's unit. */
typedef struct coterie_place_progress {
    double cost, bound, elapsed_s, left_s;
    const char *solver; /**< static text */
} coterie_place_progress_t;

/** Start from COTERIE_PLACE_OPTIONS_INIT. Zero always means "default". */
typedef struct coterie_place_options {
    size_t size;
    uint32_t rank_count;   /**< required */
    uint32_t node_count;   /**< default 1 */
    uint32_t spare;        /**< replica slots per rank and layer */
    uint32_t objective;    /**< coterie_objective_t */
    uint32_t mode;         /**< coterie_mode_t that dispatch serves; owner */
    uint32_t seed;
    double load_cap;       /**< fullest rank's load over the mean; 0: none */
    double time_limit_s;   /**< of all but reading the trace; default 60 */
    double network_cost;   /**< a copy between nodes, in copies within; 8 */
    double train_share;    /**< of the sequences, from the first; 0.5 */
    /** Called now and then; non-zero stops the search with the best so far. */
    int (*progress)(void *arg, const coterie_place_progress_t *progress);
    void *progress_arg;
    /** Threads to search with; default 1. The same seed and threads give the
     * same placement, unless time cuts the search short; see the report. */
    uint32_t threads;
    /** 1: works on the bound until it is proved or time is out, even where
     * little is expected of it. */
    uint32_t proof;
    /** What ranks can hold, [rank_count] each, as of a topology; NULL: as much
     * as they are given. Read during the call. */
    const uint32_t *slots;  /**< experts of a layer */
    const uint64_t *memory; /**< bytes of experts, of all layers; needs */
    uint64_t expert_bytes;  /**< what one expert takes */
} coterie_place_options_t;

#define COTERIE_PLACE_OPTIONS_INIT { .size = sizeof(coterie_place_options_t) }

/** Whether what was learned about which experts go together holds on tokens
 * that were not optimised on. Values are ABI. */
typedef enum coterie_affinity {
    COTERIE_AFFINITY_UNKNOWN = 0, /**< too few tokens to say, loads only, or
                                       stopped by the caller */
    COTERIE_AFFINITY_HELD = 1,    /**< affinity_gain is 1 % or more, and three
                                       standard errors */
    COTERIE_AFFINITY_NONE = 2     /**< it is not: placement will not help, for
                                       there is popularity only */
} coterie_affinity_t;

/** What was found and how good it is. "train" is the part of the trace that
 * was optimised on, "held" the rest. */
typedef struct coterie_place_report {
    size_t size;
    char solver[64];       /**< which solvers gave cost and bound */
    uint32_t proved;       /**< 1: no better placement exists (on train) */
    uint32_t cap_raised;   /**< 1: load_cap was infeasible; see load_cap */
    double load_cap;       /**< the cap in force; 0: none */
    double cost_in_order, cost_random, cost, bound; /**< train, per token */
    double gap;            /**< (cost - bound) / cost */
    double kappa;          /**< (random - cost) / (random - bound) */
    double load_in_order, load; /**< fullest rank over mean, worst layer */
    double held_cost_in_order, held_cost; /**< held, per token */
    /** Held: copies per token and layer as coterie_simulate counts them, for
     * two-phase with experts in order, and for two-phase, owner and forward
     * (always-right prediction) with this placement. */
    double held_copies_in_order, held_copies[3];
    double elapsed_s;
    /** Copies are not quite sums over pairs. 1: the placement returned is not
     * the best of the pairwise objective, which solver, proved, cost, bound,
     * gap, kappa and held_cost are about, but one that moves fewer copies on
     * train, or a sample of it where time is short, in the mode asked, per
     * token and layer: train_copies_polished against train_copies (both 0
     * where that was not tried). */
    uint32_t polished;
    uint32_t affinity; /**< coterie_affinity_t: whether held tokens have any */
    double train_copies, train_copies_polished;
    /** What affinity saves of the held copies, as a share of those of the same
     * tokens with their choices shuffled among them, layer by layer, so that
     * only loads are left; and that share's standard error. */
    double affinity_gain, affinity_error;
    double held_load_in_order, held_load; /**< as load, on held tokens */
    /** Where load_cap was raised: spare slots per rank and layer, and replicas
     * in all, with which loads alone would allow it, each expert's being
     * spread evenly over its replicas; 0: none would, or it was not raised. */
    uint32_t cure_spare, cure_replicas;
    /** 1: the time limit, or the caller, ended a search for better placements
     * before its work was done; 0: the same seed, threads and options will
     * give the same placement. (Bounds may differ all the same.) */
    uint32_t cut;
    uint32_t seed; /**< as given */
    /** Held tokens that held_cost, held_copies and held_load are about: all,
     * or a sample where these would take more than the time limit leaves. */
    uint64_t held_tokens;
} coterie_place_report_t;

#define COTERIE_PLACE_REPORT_INIT { .size = sizeof(coterie_place_report_t) }

/** Decides a placement from a trace. Allocates; may use the whole time limit.
 *
 * @param report  may be NULL
 * @return OK also when stopped early; ERR_INFEASIBLE with the reason */
COTERIE_API coterie_status_t coterie_place(
    const coterie_trace_t *trace, const coterie_place_options_t *options,
    coterie_placement_t **placement_p, coterie_place_report_t *report);

/** Decides a placement from loads alone: balances them, with replicas. Of the
 * options, objective, mode, threads and proof do not matter; the earlier
 * windows are optimised on, the rest is held, where there are several.
 *
 * @param report  may be NULL; its loads are filled, and the cap's fields
 * @return as coterie_place */
COTERIE_API coterie_status_t coterie_place_loads(
    const coterie_loads_t *loads, const coterie_place_options_t *options,
    coterie_placement_t **placement_p, coterie_place_report_t *report);

#ifdef __cplusplus
}
#endif
#endif
