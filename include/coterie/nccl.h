#ifndef COTERIE_NCCL_H
#define COTERIE_NCCL_H
/** @file
 * Ranks with a GPU each, which NCCL connects. NCCL's library is looked up when
 * it is needed: where it is missing, these calls say so. */
#include <coterie/dispatch.h>
#include <coterie/transport.h>

#ifdef __cplusplus
extern "C" {
#endif

/** How messages travel. Values are ABI. */
typedef enum coterie_nccl_path {
    /** "nccl-device": kernels write straight into the memory of those peers
     * that they can reach (NVLink, PCIe), and NCCL sends to the others, on
     * other nodes; where nobody can be reached, as SEND, announced once. */
    COTERIE_NCCL_PATH_AUTO = 0,
    COTERIE_NCCL_PATH_SEND = 1 /**< "nccl": NCCL sends everything */
} coterie_nccl_path_t;

/** Start from COTERIE_NCCL_OPTIONS_INIT. */
typedef struct coterie_nccl_options {
    size_t size;
    coterie_device_t *device; /**< required: this rank's own; borrowed */
    /** How ranks find each other: needed during the call only. NULL: by files
     * (below). */
    coterie_transport_t *transport;
    /** Without a transport: a file's name in a directory that all ranks share,
     * behind which each puts its number; nothing is left there. NULL: what
     * COTERIE_RENDEZVOUS names. */
    const char *file;
    uint32_t rank, rank_count; /**< without a transport; rank_count 0: as
                                  torchrun, srun or mpirun say */
    uint32_t path;             /**< coterie_nccl_path_t; alike on all ranks */
    uint32_t deadline_ms;      /**< of everything that waits; 0: 60,000 */
} coterie_nccl_options_t;

#define COTERIE_NCCL_OPTIONS_INIT { .size = sizeof(coterie_nccl_options_t) }

/** Collective. Two ranks cannot share a GPU: coterie_fabric_open_local can.
 * @return ERR_UNSUPPORTED (built without NCCL, or an older one than 2.19),
 *         ERR_NOT_FOUND (no library; no launcher), ERR_MISMATCH (ranks with
 *         other versions or paths, or two with one GPU), ERR_TIMEOUT */
COTERIE_API coterie_status_t coterie_fabric_open_nccl(
    const coterie_nccl_options_t *options, coterie_fabric_t **fabric_p);

/** Of the library that would be used, such as 22809 for 2.28.9.
 * @return ERR_UNSUPPORTED, ERR_NOT_FOUND as above */
COTERIE_API coterie_status_t coterie_nccl_version(uint32_t *version_p);

#ifdef __cplusplus
}
#endif
#endif
