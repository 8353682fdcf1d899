#ifndef COTERIE_PLACEMENT_SOLVE_PARALLEL_H
#define COTERIE_PLACEMENT_SOLVE_PARALLEL_H
/* The same work on many things, on several threads. */
#include "placement/solve/search.h"

enum { COTERIE_THREADS_MAX = 256 };

/* One thing's work, on one of the threads, numbered from 0. */
typedef void (*coterie_parallel_work_t)(void *arg, uint32_t thread,
                                        uint32_t index);

typedef struct coterie_parallel {
    uint32_t thread_count;
    uint32_t some; /* things between looks at the clock; 0: all */
    coterie_search_t *search;
    const coterie_solution_t *solution;
} coterie_parallel_t;

/* Works on every index below count. Which thread takes which index follows
 * from the counts alone; if the system gives fewer threads, the caller's own
 * does the rest in their name.
 * @return 0, or not: the search is over, and not all may be done */
int coterie_parallel(const coterie_parallel_t *parallel, uint32_t count,
                     coterie_parallel_work_t work, void *arg);

#endif
