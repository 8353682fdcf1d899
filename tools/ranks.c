#include "config.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "tools/job.h"

enum { LINE_SIZE = 1024 };

/* A rank as a thread, and what it ended with. */
typedef struct rank_thread {
    const job_t *job;
    coterie_transport_t *transport;
    results_t *results;
    pthread_t thread;
    coterie_status_t status;
    char line[LINE_SIZE]; /* of its failure */
} rank_thread_t;

static coterie_link_t link_of(const run_options_t *options);
static void threads_start(const job_t *job, coterie_transport_t **transports,
                          results_t *results, rank_thread_t *threads);
static void *thread_main(void *arg);
static coterie_status_t first_cause(const rank_thread_t *threads,
                                    uint32_t count);

coterie_status_t ranks_run_threads(const job_t *job, results_t *results)
{
    uint32_t count = job->options->ranks;
    coterie_link_t link = link_of(job->options);
    coterie_transport_t **transports = calloc(count, sizeof(*transports));
    rank_thread_t *threads = calloc(count, sizeof(*threads));
    coterie_status_t status;

    if (transports == NULL || threads == NULL) {
        status = failure(COTERIE_ERR_NO_MEMORY, "no memory for %u ranks",
                         count);
        goto out;
    }
    status = coterie_transport_open_threads(count, &link, transports);
    if (status != COTERIE_OK)
        goto out;
    threads_start(job, transports, results, threads);
    status = first_cause(threads, count);
out:
    for (uint32_t i = 0; transports != NULL && i < count; i++)
        coterie_transport_close(transports[i]);
    free(transports);
    free(threads);
    return status;
}

coterie_status_t ranks_join_mpi(const run_options_t *options,
                                coterie_transport_t **transport_p)
{
#ifdef HAVE_MPI
    coterie_link_t link = link_of(options);
    coterie_transport_t *transport = NULL;
    uint32_t count;
    coterie_status_t status =
        coterie_transport_open_mpi(0, &link, &transport);

    if (status != COTERIE_OK)
        return status;
    *transport_p = transport; /* also on a mismatch, to say so only once */
    count = coterie_transport_rank_count(transport);
    if (count != options->ranks)
        return failure(COTERIE_ERR_MISMATCH,
                       "MPI started %u processes, --ranks is %u: use "
                       "mpirun -n %u",
                       count, options->ranks, options->ranks);
    return COTERIE_OK;
#else
    (void)options;
    (void)transport_p;
    return failure(COTERIE_ERR_UNSUPPORTED,
                   "built without MPI; --transport threads works");
#endif
}

coterie_status_t ranks_agree(coterie_transport_t *transport,
                             coterie_status_t status, bool *speaks_p)
{
    uint32_t count = coterie_transport_rank_count(transport), first = 0;
    int32_t mine = status, *all = malloc(count * sizeof(*all));
    coterie_status_t told;

    *speaks_p = true; /* unless it turns out that another one does */
    if (all == NULL)
        return failure(COTERIE_ERR_NO_MEMORY, "out of memory");
    told = coterie_transport_allgather(transport, &mine, sizeof(mine), all);
    if (told != COTERIE_OK)
        goto out;
    while (first < count && all[first] == COTERIE_OK)
        first++;
    told = first == count ? COTERIE_OK : (coterie_status_t)all[first];
    *speaks_p = first == coterie_transport_rank(transport);
out:
    free(all);
    return told;
}

static coterie_link_t link_of(const run_options_t *options)
{
    return (coterie_link_t){.size = sizeof(coterie_link_t),
                            .latency_us = options->link_latency,
                            .bandwidth_gbs = options->link_bandwidth};
}

/* Starts all ranks and waits for them. One that cannot start makes the others
 * give up instead of waiting for it. */
static void threads_start(const job_t *job, coterie_transport_t **transports,
                          results_t *results, rank_thread_t *threads)
{
    uint32_t count = job->options->ranks, started = 0;

    for (; started < count; started++) {
        rank_thread_t *t = &threads[started];
        t->job = job;
        t->transport = transports[started];
        t->results = results;
        if (pthread_create(&t->thread, NULL, thread_main, t) != 0) {
            t->status = COTERIE_ERR_NO_MEMORY;
            strcpy(t->line, "the system starts no more threads");
            coterie_transport_abort(t->transport);
            break;
        }
    }
    for (uint32_t i = 0; i < started; i++)
        pthread_join(threads[i].thread, NULL);
}

static void *thread_main(void *arg)
{
    rank_thread_t *t = arg;

    t->status = rank_run(t->job, t->transport, t->results);
    if (t->status != COTERIE_OK)
        strncpy(t->line, failure_line(), sizeof(t->line) - 1);
    return NULL;
}

/* Those that failed because another did are not the cause. */
static coterie_status_t first_cause(const rank_thread_t *threads,
                                    uint32_t count)
{
    const rank_thread_t *cause = NULL;

    for (uint32_t i = 0; i < count; i++) {
        const rank_thread_t *t = &threads[i];
        if (t->status == COTERIE_OK)
            continue;
        if (cause == NULL || (cause->status == COTERIE_ERR_PEER &&
                              t->status != COTERIE_ERR_PEER))
            cause = t;
    }
    if (cause == NULL)
        return COTERIE_OK;
    return failure(cause->status, "%s", cause->line);
}
