#include "config.h"

#include <time.h>

#include "placement/solve/search.h"

static const double REPORT_EVERY = 0.1; /* seconds */

double coterie_search_now(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec + now.tv_nsec * 1e-9;
}

int coterie_search_over(coterie_search_t *search,
                        const coterie_solution_t *solution)
{
    coterie_place_progress_t progress;
    double now = coterie_search_now();

    if (now >= search->deadline && !search->stopped)
        search->stopped = COTERIE_STOPPED_LATE;
    if (search->stopped || search->progress == NULL ||
        now < search->reported + REPORT_EVERY)
        return search->stopped;
    search->reported = now;
    progress.cost = solution->cost / search->unit;
    progress.bound = solution->bound / search->unit;
    progress.elapsed_s = now - search->started;
    progress.left_s = search->limit - now;
    progress.solver = search->solver;
    if (search->progress(search->progress_arg, &progress) != 0)
        search->stopped = COTERIE_STOPPED_TOLD;
    return search->stopped;
}

double coterie_search_left(const coterie_search_t *search)
{
    return search->stopped ? 0 : search->deadline - coterie_search_now();
}

uint64_t coterie_search_random(coterie_search_t *search)
{
    uint64_t z = (search->random += 0x9E3779B97F4A7C15u);

    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

uint32_t coterie_search_below(coterie_search_t *search, uint32_t count)
{
    return (coterie_search_random(search) >> 32) * count >> 32;
}
