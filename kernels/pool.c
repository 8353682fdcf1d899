#include "config.h"

#include <assert.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>

#include "base/error.h"
#include "base/options.h"
#include "kernels/pool.h"

enum { THREADS_MAX = 1024 };

/* One call's work, on its caller's stack. */
typedef struct job {
    coterie_pool_fn run;
    void *work;
    uint32_t inside; /* threads that run it */
    bool open;       /* there may be parts left to take */
    struct job *next;
} job_t;

struct coterie_pool {
    coterie_machine_t *machine;
    uint32_t threads, started;
    pthread_t *helpers; /* [threads - 1] */
    pthread_mutex_t lock;
    pthread_cond_t posted;  /* helpers: a job, or the end */
    pthread_cond_t changed; /* callers: a free place, or a job left */
    job_t *jobs;            /* open ones, oldest first */
    uint32_t busy;          /* threads inside of jobs */
    bool closing;
};

/* What a helper is told; it lives until the helper has begun. */
typedef struct start {
    coterie_pool_t *pool;
    uint32_t core;
} start_t;

static coterie_status_t helpers_start(coterie_pool_t *pool);
static void *helper_main(void *arg);
static job_t *job_choose(const coterie_pool_t *pool);
static void job_enter(coterie_pool_t *pool, job_t *job);
static void job_post(coterie_pool_t *pool, job_t *job);
static void job_close(coterie_pool_t *pool, job_t *job);

coterie_status_t coterie_pool_create(const coterie_pool_options_t *options,
                                     coterie_pool_t **pool_p)
{
    coterie_pool_options_t opts;
    coterie_pool_t *pool = NULL;
    coterie_status_t status =
        coterie_options_read(options, &opts, sizeof(opts), "pool");

    if (status != COTERIE_OK)
        return status;
    if (opts.threads > THREADS_MAX)
        return coterie_fail(COTERIE_ERR_INVALID,
                            "pool: %u threads; at most %d", opts.threads,
                            THREADS_MAX);
    pool = calloc(1, sizeof(*pool));
    if (pool == NULL)
        return coterie_fail_memory(sizeof(*pool), "a pool");
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->posted, NULL);
    pthread_cond_init(&pool->changed, NULL);
    status = coterie_machine_create(&pool->machine);
    if (status == COTERIE_OK) {
        pool->threads = opts.threads != 0
                            ? opts.threads
                            : coterie_machine_cores(pool->machine);
        status = helpers_start(pool);
    }
    if (status == COTERIE_OK)
        *pool_p = pool;
    else
        coterie_pool_destroy(pool);
    return status;
}

uint32_t coterie_pool_threads(const coterie_pool_t *pool)
{
    return pool->threads;
}

void coterie_pool_run(coterie_pool_t *pool, coterie_pool_fn run, void *work)
{
    job_t job = {.run = run, .work = work, .open = true};

    pthread_mutex_lock(&pool->lock);
    job_post(pool, &job);
    while (job.open && pool->busy == pool->threads)
        pthread_cond_wait(&pool->changed, &pool->lock);
    if (job.open)
        job_enter(pool, &job);
    while (job.inside > 0)
        pthread_cond_wait(&pool->changed, &pool->lock);
    pthread_mutex_unlock(&pool->lock);
}

uint32_t coterie_pool_nodes(const coterie_pool_t *pool)
{
    return coterie_machine_nodes(pool->machine);
}

void coterie_pool_bind(const coterie_pool_t *pool, uint32_t node,
                       const void *memory, size_t size)
{
    coterie_machine_bind(pool->machine, node, memory, size);
}

void coterie_pool_destroy(coterie_pool_t *pool)
{
    if (pool == NULL)
        return;
    pthread_mutex_lock(&pool->lock);
    assert(pool->jobs == NULL && pool->busy == 0);
    pool->closing = true;
    pthread_cond_broadcast(&pool->posted);
    pthread_mutex_unlock(&pool->lock);
    for (uint32_t i = 0; i < pool->started; i++)
        pthread_join(pool->helpers[i], NULL);
    pthread_cond_destroy(&pool->changed);
    pthread_cond_destroy(&pool->posted);
    pthread_mutex_destroy(&pool->lock);
    coterie_machine_destroy(pool->machine);
    free(pool->helpers);
    free(pool);
}

static coterie_status_t helpers_start(coterie_pool_t *pool)
{
    pool->helpers = calloc(pool->threads, sizeof(*pool->helpers));
    if (pool->helpers == NULL)
        return coterie_fail_memory(pool->threads * sizeof(*pool->helpers),
                                   "a pool's threads");
    while (pool->started + 1 < pool->threads) {
        start_t *start = malloc(sizeof(*start));

        if (start == NULL)
            return coterie_fail_memory(sizeof(*start), "a pool's threads");
        *start = (start_t){pool, pool->started + 1};
        if (pthread_create(&pool->helpers[pool->started], NULL, helper_main,
                           start) != 0) {
            free(start);
            return coterie_fail(COTERIE_ERR_NO_MEMORY,
                                "pool: thread %u of %u could not be started",
                                pool->started + 2, pool->threads);
        }
        pool->started++;
    }
    return COTERIE_OK;
}

static void *helper_main(void *arg)
{
    start_t start = *(start_t *)arg;
    coterie_pool_t *pool = start.pool;

    free(arg);
    coterie_machine_pin(pool->machine, start.core);
    pthread_mutex_lock(&pool->lock);
    while (!pool->closing) {
        job_t *job = pool->busy < pool->threads ? job_choose(pool) : NULL;

        if (job != NULL)
            job_enter(pool, job);
        else
            pthread_cond_wait(&pool->posted, &pool->lock);
    }
    pthread_mutex_unlock(&pool->lock);
    return NULL;
}

/* That with the fewest threads, so that callers at once share them evenly;
 * among such, the oldest. */
static job_t *job_choose(const coterie_pool_t *pool)
{
    job_t *chosen = pool->jobs;

    for (job_t *job = chosen; job != NULL; job = job->next)
        if (job->inside < chosen->inside)
            chosen = job;
    return chosen;
}

/* Runs it until nothing is left to take; the lock is free meanwhile. */
static void job_enter(coterie_pool_t *pool, job_t *job)
{
    pool->busy++;
    job->inside++;
    pthread_mutex_unlock(&pool->lock);
    job->run(job->work, coterie_machine_node_here(pool->machine));
    pthread_mutex_lock(&pool->lock);
    pool->busy--;
    job->inside--;
    if (job->open)
        job_close(pool, job);
    if (pool->jobs != NULL)
        pthread_cond_broadcast(&pool->posted);
    pthread_cond_broadcast(&pool->changed);
}

static void job_post(coterie_pool_t *pool, job_t *job)
{
    job_t **end = &pool->jobs;

    while (*end != NULL)
        end = &(*end)->next;
    *end = job;
    pthread_cond_broadcast(&pool->posted);
}

static void job_close(coterie_pool_t *pool, job_t *job)
{
    job_t **at = &pool->jobs;

    while (*at != job)
        at = &(*at)->next;
    *at = job->next;
    job->open = false;
}
