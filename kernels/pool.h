#ifndef COTERIE_KERNELS_POOL_H
#define COTERIE_KERNELS_POOL_H
/* Work by the threads of a pool. */
#include <coterie/pool.h>

/* Takes parts of the work until none is left to take, then returns: one part
 * may still be in other threads' hands. Called by each thread that joins, with
 * the NUMA node it is on. */
typedef void (*coterie_pool_fn)(void *work, uint32_t node);

/* Has threads of the pool, the calling one among them if there is a place for
 * it, call `run`; returns when all of them have returned. At most as many as
 * the pool has threads. */
void coterie_pool_run(coterie_pool_t *pool, coterie_pool_fn run, void *work);

/* NUMA nodes that the pool's cores are on, counted from 0. */
uint32_t coterie_pool_nodes(const coterie_pool_t *pool);

/* Has memory come from a node, or move there. */
void coterie_pool_bind(const coterie_pool_t *pool, uint32_t node,
                       const void *memory, size_t size);

/* machine.c: the cores and nodes that this process may use. */
typedef struct coterie_machine coterie_machine_t;
coterie_status_t coterie_machine_create(coterie_machine_t **machine_p);
void coterie_machine_destroy(coterie_machine_t *machine);
uint32_t coterie_machine_cores(const coterie_machine_t *machine);
uint32_t coterie_machine_nodes(const coterie_machine_t *machine);
/* Of the core that the calling thread is on now. */
uint32_t coterie_machine_node_here(const coterie_machine_t *machine);
/* Keeps the calling thread on a core; beyond the last, begins again. */
void coterie_machine_pin(const coterie_machine_t *machine, uint32_t core);
void coterie_machine_bind(const coterie_machine_t *machine, uint32_t node,
                          const void *memory, size_t size);

#endif
