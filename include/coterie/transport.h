#ifndef COTERIE_TRANSPORT_H
#define COTERIE_TRANSPORT_H
/** @file
 * How ranks reach each other. A transport is one rank's end; it belongs to one
 * thread at a time. Opening and closing are collective over all ranks. */
#include <coterie/status.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct coterie_transport coterie_transport_t;

/** A slower link, emulated on top of the real one: every message is held back
 * until its latency, and its bytes one after the other per sender, are over.
 * All zero: none. */
typedef struct coterie_link {
    size_t size;
    double latency_us;
    double bandwidth_gbs; /**< 1e9 bytes a second; 0: unlimited */
} coterie_link_t;

/** Threads of one process: fills transports[rank_count]; give each to its
 * thread. Never blocks. Each is closed on its own, by any thread.
 * @param link  emulated between all ranks, or NULL */
COTERIE_API coterie_status_t coterie_transport_open_threads(
    uint32_t rank_count, const coterie_link_t *link,
    coterie_transport_t **transports);

/** MPI_COMM_WORLD, duplicated; initialises MPI if nobody has, and then
 * finalises it at exit. In libcoterie-mpi, built where MPI was found.
 * @param rank_count  what the caller planned for, 0: any; ERR_MISMATCH if the
 *                    world has another size */
COTERIE_API coterie_status_t coterie_transport_open_mpi(
    uint32_t rank_count, const coterie_link_t *link,
    coterie_transport_t **transport_p);

COTERIE_API uint32_t coterie_transport_rank(const coterie_transport_t *t);
COTERIE_API uint32_t coterie_transport_rank_count(
    const coterie_transport_t *t);
/** "threads", "mpi". */
COTERIE_API const char *coterie_transport_name(const coterie_transport_t *t);

/** Control path, collective: every rank gets every rank's `size` bytes, in
 * rank order, in all[rank_count * size]. */
COTERIE_API coterie_status_t coterie_transport_allgather(
    coterie_transport_t *t, const void *mine, size_t size, void *all);

/** Control path, collective: rank 0 gets every rank's bytes, of any sizes, one
 * after the other in *all_p (free() it; NULL elsewhere), sizes[rank_count]. */
COTERIE_API coterie_status_t coterie_transport_gather(
    coterie_transport_t *t, const void *mine, size_t size, void **all_p,
    size_t *sizes);

/** Makes every rank's pending and later calls fail with ERR_PEER instead of
 * waiting for this one, which is giving up. Any thread. */
COTERIE_API void coterie_transport_abort(coterie_transport_t *t);

/** Accepts NULL. */
COTERIE_API void coterie_transport_close(coterie_transport_t *t);

#ifdef __cplusplus
}
#endif
#endif
