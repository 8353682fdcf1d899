#ifndef COTERIE_PLACEMENT_SOLVE_SEARCH_H
#define COTERIE_PLACEMENT_SOLVE_SEARCH_H
/* One search: its clock, its caller's wish to stop, its random numbers. */
#include <coterie/place.h>

#include "placement/solve/problem.h"

/* Why a search is over. */
typedef enum coterie_stopped {
    COTERIE_STOPPED_NOT = 0,
    COTERIE_STOPPED_LATE, /* the deadline has passed */
    COTERIE_STOPPED_TOLD  /* the caller said so */
} coterie_stopped_t;

typedef struct coterie_search {
    double started, deadline; /* seconds of a monotonic clock */
    double limit;   /* deadline of all there is to do, for progress */
    double planned; /* seconds that work is measured out for: no clock's */
    double reported;          /* when progress was called last */
    double unit;              /* progress is told cost / unit */
    int (*progress)(void *arg, const coterie_place_progress_t *progress);
    void *progress_arg;
    uint64_t random;       /* state; the seed to begin with */
    uint32_t thread_count; /* at least 1 */
    uint32_t proof;        /* work on bounds of which little is expected, too */
    const char *solver; /* at work now, for progress */
    int stopped; /* coterie_stopped_t; whoever moves the deadline resets it */
    int cut; /* a search for better placements ended before its work was done:
                another run's may go further */
} coterie_search_t;

double coterie_search_now(void);

/* Asks the clock and, now and then, the caller. Once over, always over. */
int coterie_search_over(coterie_search_t *search,
                        const coterie_solution_t *solution);

/* Seconds left. */
double coterie_search_left(const coterie_search_t *search);

/* splitmix64 (Steele, Lea and Flood, 2014). */
uint64_t coterie_search_random(coterie_search_t *search);

/* Below count, which is positive. */
uint32_t coterie_search_below(coterie_search_t *search, uint32_t count);

#endif
