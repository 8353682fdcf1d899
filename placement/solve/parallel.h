#ifndef COTERIE_PLACEMENT_SOLVE_PARALLEL_H
#define COTERIE_PLACEMENT_SOLVE_PARALLEL_H
/* The same work on many things at once. */
#include <coterie/status.h>

enum { COTERIE_THREADS_MAX = 256 };

/* One thing's work, on one of the threads, numbered from 0. */
typedef void (*coterie_parallel_work_t)(void *arg, uint32_t thread,
                                        uint32_t index);

/* Works on every index below count and returns when all is done. Which thread
 * takes which index follows from `threads` alone; if the system gives fewer,
 * the caller's own does the rest in their name. */
void coterie_parallel(uint32_t threads, uint32_t count,
                      coterie_parallel_work_t work, void *arg);

#endif
