#ifndef COTERIE_POOL_H
#define COTERIE_POOL_H
/** @file
 * Threads that compute experts: a fixed number, each on a core of its own, for
 * all ranks of a process. At no time do more threads compute than the pool
 * has, callers included; who waits, sleeps. A call's work is split by experts
 * and by outputs within them, so that one hot expert keeps all threads busy;
 * results have the same bits for any number of threads. */
#include <coterie/ffn.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct coterie_pool coterie_pool_t;

/** Start from COTERIE_POOL_OPTIONS_INIT. */
typedef struct coterie_pool_options {
    size_t size;
    uint32_t threads;  /**< 0: one for each core this process may use */
    uint32_t reserved; /**< zero */
} coterie_pool_options_t;

#define COTERIE_POOL_OPTIONS_INIT { .size = sizeof(coterie_pool_options_t) }

/** Starts threads - 1 threads, each kept on a core of its own (if built with
 * hwloc; there may be more threads than cores). The caller of a computation is
 * the last one, and is left on whatever core it is.
 *
 * @return ERR_INVALID beyond 1024 threads */
COTERIE_API coterie_status_t coterie_pool_create(
    const coterie_pool_options_t *options, coterie_pool_t **pool_p);

COTERIE_API uint32_t coterie_pool_threads(const coterie_pool_t *pool);

/** Bytes of scratch that a call needs.
 * @param pool  NULL: the calling thread alone */
COTERIE_API size_t coterie_pool_scratch(const coterie_pool_t *pool,
                                        const coterie_ffn_shape_t *shape);

/** coterie_expert_ffn, to the bit, by the threads of the pool. Any thread, and
 * several at once: they share the threads evenly.
 *
 * @param pool  NULL: the calling thread alone */
COTERIE_API void coterie_pool_ffn(coterie_pool_t *pool,
                                  const coterie_ffn_call_t *call);

/** Has an expert's matrices near the cores that will read them: on a machine of
 * several NUMA nodes each gets its share of every matrix, to whole pages, which
 * move if they were written already. Elsewhere, and without hwloc, does
 * nothing. */
COTERIE_API void coterie_pool_place(const coterie_pool_t *pool,
                                    const coterie_ffn_shape_t *shape,
                                    const coterie_expert_weights_t *expert);

/** Accepts NULL. Not while a computation runs. */
COTERIE_API void coterie_pool_destroy(coterie_pool_t *pool);

#ifdef __cplusplus
}
#endif
#endif
