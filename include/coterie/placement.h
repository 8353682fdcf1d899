#ifndef COTERIE_PLACEMENT_H
#define COTERIE_PLACEMENT_H
/** @file
 * Which rank holds which expert, and the one routing rule that follows from
 * it. A placement never changes once created, so queries need no lock; only
 * destroy must be alone. */
#include <coterie/status.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct coterie_placement coterie_placement_t;

/** Marks "no rank", "no slot". */
#define COTERIE_NONE 0xffffu

/** Start from COTERIE_PLACEMENT_OPTIONS_INIT. Slots are numbered through all
 * ranks; slot_rank says whose each is. Ranks are numbered node by node. */
typedef struct coterie_placement_options {
    size_t size;
    uint32_t layer_count;  /**< required: MoE layers */
    uint32_t expert_count; /**< required: per layer */
    uint32_t rank_count;   /**< required; at most 4096 */
    uint32_t node_count;   /**< 0: one node; must divide rank_count */
    uint32_t slot_count;   /**< all ranks, per layer; 0: expert_count */
    uint32_t reserved;     /**< zero */
    /** [slot_count]: the rank of each slot, ascending; NULL: as evenly as can
     * be, the lower ranks holding the longer shares. */
    const uint16_t *slot_rank;
    /** [layer_count, slot_count]: the expert in each slot, -1 = empty; every
     * expert at least once, never twice on one rank. NULL: in order (needs
     * slot_count == expert_count). */
    const int16_t *slot_expert;
    /** [layer_count, expert_count, rank_count]: how strongly an expert of
     * layer l draws its tokens, next, to a rank's experts of layer l + 1 (of
     * the next token's layer 0, for the last). NULL: all zero. */
    const uint8_t *next_score;
} coterie_placement_options_t;

#define COTERIE_PLACEMENT_OPTIONS_INIT \
    { .size = sizeof(coterie_placement_options_t) }

/** Copies the arrays.
 * @return ERR_INVALID with the first rule that is broken, and where */
COTERIE_API coterie_status_t coterie_placement_create(
    const coterie_placement_options_t *options,
    coterie_placement_t **placement_p);

/** Without lost ranks, which then have no slot. The others keep what they hold,
 * in order; experts that none of them holds go where fewest are, layer by
 * layer. The same on every rank.
 *
 * @param active       [rank_count]: 0: lost, else 1
 * @param placement_p  set on success only; the caller destroys it
 * @return ERR_INVALID if all are lost; ERR_NO_MEMORY */
COTERIE_API coterie_status_t coterie_placement_without(
    const coterie_placement_t *placement, const uint8_t *active,
    coterie_placement_t **placement_p);

/** Formats that engines read. Values are ABI. */
typedef enum coterie_placement_format {
    COTERIE_FORMAT_COTERIE = 0,  /**< our JSON, see doc/formats.md */
    COTERIE_FORMAT_SGLANG = 1,   /**< --init-expert-location JSON */
    COTERIE_FORMAT_VLLM = 2,     /**< per-layer list of physical experts */
    COTERIE_FORMAT_ASCEND = 3,   /**< vllm-ascend expert map */
    COTERIE_FORMAT_TENSORRT = 4, /**< TensorRT-LLM YAML */
    COTERIE_FORMAT_EXFLOW = 5,   /**< CSV `Expert,Node` */
    COTERIE_FORMAT_EPLB = 6      /**< JSON of EPLB's three maps */
} coterie_placement_format_t;

/** Reads any of the formats, told apart by content.
 * @param rank_count  for formats that do not say it; else 0 or the same */
COTERIE_API coterie_status_t coterie_placement_read(
    const char *path, uint32_t rank_count, coterie_placement_t **placement_p);

/** Writes, whole or not at all.
 * @return ERR_EXISTS if path exists and force is 0; ERR_UNSUPPORTED if the
 *         format cannot say what the placement holds (uneven slots) */
COTERIE_API coterie_status_t coterie_placement_write(
    const coterie_placement_t *placement, const char *path,
    coterie_placement_format_t format, int force);

/** Borrowed arrays and sizes, as in the options (never NULL, never 0). */
COTERIE_API void coterie_placement_view(const coterie_placement_t *placement,
                                        coterie_placement_options_t *view);

/** @return ERR_MISMATCH, saying what differs, unless the placement was made
 *          for this many layers, experts and ranks */
COTERIE_API coterie_status_t coterie_placement_check(
    const coterie_placement_t *placement, uint32_t layer_count,
    uint32_t expert_count, uint32_t rank_count);

/** Accepts NULL. */
COTERIE_API void coterie_placement_destroy(coterie_placement_t *placement);

/** Where one token's experts of one layer are computed. */
typedef struct coterie_route {
    uint16_t rank_count;               /**< |D|: 0 if all ids are -1 */
    uint16_t next_owner;               /**< rank; `owner` if D is empty */
    uint16_t rank[COTERIE_K_MAX];      /**< D, ascending */
    uint16_t serving[COTERIE_K_MAX];   /**< [k]: rank, or COTERIE_NONE */
    uint16_t slot[COTERIE_K_MAX];      /**< [k]: slot, or COTERIE_NONE */
} coterie_route_t;

/** The one routing rule: a pure function, the same on every rank, in the
 * runtime, in placement's objective and in `coterie sim`. The owner serves all
 * the experts it holds; the rest go, again and again, to the rank that holds
 * most of those left (then the owner's node, then the lowest rank). The next
 * owner is the member of D with the highest next-layer score (then the owner,
 * its node, the lowest rank). One thread or many; allocates nothing.
 *
 * @param experts  [k] ids, -1 = none; unchecked beyond an assert
 * @param owner    rank, or COTERIE_NONE: no rank comes first */
COTERIE_API void coterie_route(const coterie_placement_t *placement,
                               uint32_t layer, const int32_t *experts,
                               uint32_t k, uint32_t owner,
                               coterie_route_t *route);

#ifdef __cplusplus
}
#endif
#endif
