#ifndef COTERIE_TIERING_H
#define COTERIE_TIERING_H
/** @file
 * Which experts start, and stay, in which tier of memory: the device, the
 * host, or the disk. Goes with a placement, in a file of its own. A tiering
 * never changes once made, so reading needs no lock. */
#include <coterie/placement.h>
#include <coterie/trace.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct coterie_tiering coterie_tiering_t;

/** Start from COTERIE_TIERING_OPTIONS_INIT. */
typedef struct coterie_tiering_options {
    size_t size;
    uint64_t expert_bytes; /**< required: what one expert takes */
    uint64_t device_bytes; /**< of each rank, for experts */
    uint64_t host_bytes;   /**< the same */
    /** What a use of an expert costs that is not on the device: read, or
     * computed where it lies, whichever the engine does. Default: reading it,
     * at 25 GB/s from the host and at 3 GB/s from the disk. */
    double host_us, disk_us;
    double train_share; /**< of the tokens, from the first; 0.5 */
    uint32_t mode;      /**< coterie_mode_t: who serves what; owner */
    uint32_t reserved;  /**< zero */
} coterie_tiering_options_t;

#define COTERIE_TIERING_OPTIONS_INIT \
    { .size = sizeof(coterie_tiering_options_t) }

/** What is expected, counted on the held tokens. Shares are of all uses. */
typedef struct coterie_tiering_report {
    size_t size;
    double device_share, host_share, disk_share;
    double token_us;          /**< cost of uses off the device, per token */
    double token_us_in_order; /**< with tiers filled slot by slot instead */
} coterie_tiering_report_t;

#define COTERIE_TIERING_REPORT_INIT \
    { .size = sizeof(coterie_tiering_report_t) }

/** Decides tiers for a placement: the experts that a rank serves most, on the
 * training tokens routed by the one rule, are nearest. Experts are of one
 * size and costs add up, so that no other choice costs less on these.
 *
 * @param report  may be NULL
 * @return ERR_MISMATCH if trace and placement differ in layers or experts */
COTERIE_API coterie_status_t coterie_tiering_create(
    const coterie_trace_t *trace, const coterie_placement_t *placement,
    const coterie_tiering_options_t *options, coterie_tiering_t **tiering_p,
    coterie_tiering_report_t *report);

/** Writes JSON (doc/formats.md), whole or not at all.
 * @return ERR_EXISTS if path exists and force is 0 */
COTERIE_API coterie_status_t coterie_tiering_write(
    const coterie_tiering_t *tiering, const char *path, int force);

/** Reads what coterie_tiering_write wrote, as hot counts for coterie_tiers:
 * how often each expert was used, 0 where it is to stay on disk on every rank.
 *
 * @param count  [layer_count, expert_count]
 * @return ERR_MISMATCH if it was made for other numbers of either */
COTERIE_API coterie_status_t coterie_tiering_read(const char *path,
                                                  uint32_t layer_count,
                                                  uint32_t expert_count,
                                                  uint64_t *count);

/** Accepts NULL. */
COTERIE_API void coterie_tiering_destroy(coterie_tiering_t *tiering);

#ifdef __cplusplus
}
#endif
#endif
