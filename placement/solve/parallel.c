#include "config.h"

#include <assert.h>
#include <pthread.h>

#include "placement/solve/parallel.h"

typedef struct share {
    coterie_parallel_work_t work;
    void *arg;
    uint32_t thread, threads, first, count;
} share_t;

static void all_work(uint32_t threads, share_t whole);
static void *share_work(void *arg);

int coterie_parallel(const coterie_parallel_t *parallel, uint32_t count,
                     coterie_parallel_work_t work, void *arg)
{
    uint32_t some = parallel->some > 0 ? parallel->some : count;

    for (uint32_t first = 0; first < count; first += some) {
        uint32_t end = count - first < some ? count : first + some;
        if (coterie_search_over(parallel->search, parallel->solution))
            return -1;
        all_work(parallel->thread_count,
                 (share_t){.work = work, .arg = arg, .first = first,
                           .count = end});
    }
    return 0;
}

static void all_work(uint32_t threads, share_t whole)
{
    share_t share[COTERIE_THREADS_MAX];
    pthread_t thread[COTERIE_THREADS_MAX];
    int started[COTERIE_THREADS_MAX] = {0};

    assert(threads >= 1 && threads <= COTERIE_THREADS_MAX);
    for (uint32_t t = threads; t-- > 0;) {
        share[t] = whole;
        share[t].thread = t;
        share[t].threads = threads;
        started[t] = t > 0 && whole.first + t < whole.count &&
                     pthread_create(&thread[t], NULL, share_work,
                                    &share[t]) == 0;
    }
    for (uint32_t t = 0; t < threads; t++)
        if (!started[t])
            share_work(&share[t]);
    for (uint32_t t = 1; t < threads; t++)
        if (started[t])
            pthread_join(thread[t], NULL);
}

static void *share_work(void *arg)
{
    const share_t *share = arg;

    for (uint32_t i = share->first + share->thread; i < share->count;
         i += share->threads)
        share->work(share->arg, share->thread, i);
    return NULL;
}
