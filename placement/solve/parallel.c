#include "config.h"

#include <assert.h>
#include <pthread.h>

#include "placement/solve/parallel.h"

typedef struct share {
    coterie_parallel_work_t work;
    void *arg;
    uint32_t thread, threads, count;
} share_t;

static void *share_work(void *arg);

void coterie_parallel(uint32_t threads, uint32_t count,
                      coterie_parallel_work_t work, void *arg)
{
    share_t share[COTERIE_THREADS_MAX];
    pthread_t thread[COTERIE_THREADS_MAX];
    int started[COTERIE_THREADS_MAX] = {0};

    assert(threads >= 1 && threads <= COTERIE_THREADS_MAX);
    for (uint32_t t = threads; t-- > 0;) {
        share[t] = (share_t){work, arg, t, threads, count};
        started[t] = t > 0 && t < count &&
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

    for (uint32_t i = share->thread; i < share->count; i += share->threads)
        share->work(share->arg, share->thread, i);
    return NULL;
}
