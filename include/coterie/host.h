#ifndef COTERIE_HOST_H
#define COTERIE_HOST_H
/** @file
 * What the machine that this process runs on allows, and what a drive of it
 * gives: for who decides whether a model can be served here, and how well
 * (`coterie doctor`). Any thread. */
#include <coterie/model.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { COTERIE_HOST_TEXT = 96, COTERIE_HOST_PATH = 4096 };

typedef struct coterie_host {
    size_t size;
    uint32_t cores;        /**< that threads can keep busy; the least of */
    uint32_t cores_online; /**< those that there are, */
    uint32_t cores_allowed; /**< those that this process may run on, */
    uint32_t numa_nodes;
    double cpu_limit;    /**< and its container's limit; 0: none */
    uint64_t memory;     /**< bytes: of the machine, */
    uint64_t available;  /**< not in use, */
    uint64_t limit;      /**< and the container's limit; UINT64_MAX: none */
    uint64_t limit_used; /**< of it */
    uint64_t locked;     /**< that may be locked; UINT64_MAX: any */
    uint64_t huge_free;  /**< in reserved huge pages that nobody uses */
    char huge[COTERIE_HOST_TEXT]; /**< transparent ones: "always", "madvise",
                                       "never", or "" if there are none */
    char huge_shared[COTERIE_HOST_TEXT]; /**< for memory that processes share:
                                          * "advise", "never", or others */
    char uring[COTERIE_HOST_TEXT]; /**< why io_uring does not work, or "" */
} coterie_host_t;

COTERIE_API void coterie_host_examine(coterie_host_t *host);

/** Its `cores` alone. */
COTERIE_API uint32_t coterie_host_cores(void);

/** GB/s (1e9 bytes) and seconds. */
typedef struct coterie_drive {
    size_t size;
    uint32_t direct;          /**< whether reads go past the page cache */
    uint32_t ceiling_depth;   /**< requests under way that gave the best rate */
    uint64_t ceiling_request; /**< and bytes of each */
    double ceiling_gbs;       /**< bare reads, nothing verified */
    double reader_gbs;        /**< records, as tiers read them */
    double wait_s; /**< median time of reading a MiB that somebody waits for */
    uint64_t record_size; /**< bytes */
    char reading[COTERIE_HOST_TEXT]; /**< as coterie_tiers_describe */
    uint64_t device; /**< the system's number; files of one share its rate */
    char path[COTERIE_HOST_PATH]; /**< of what was read */
} coterie_drive_t;

/** Files that a store is striped over, with its own, each perhaps on a drive of
 * its own. 0: a directory. */
COTERIE_API uint32_t coterie_drive_count(const coterie_model_t *model);

/** Reads from a file of a store for a second or two: bare requests of several
 * sizes and depths, then experts' records with their checksums.
 *
 * @param file  below coterie_drive_count; 0 is the store's own
 * @return ERR_UNSUPPORTED if the model is a directory; ERR_INVALID if there is
 *         no such file, or no expert in it; a read's failure */
COTERIE_API coterie_status_t coterie_drive_examine(
    const coterie_model_t *model, uint32_t file, coterie_drive_t *drive);

/** The same of a temporary file of 128 MiB in a folder, without checksums. The
 * file has no name, or loses it at once.
 * @return ERR_IO if the folder takes none */
COTERIE_API coterie_status_t coterie_drive_examine_folder(
    const char *folder, coterie_drive_t *drive);

#ifdef __cplusplus
}
#endif
#endif
