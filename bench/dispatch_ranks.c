#include "config.h"

#include <pthread.h>
#include <stdio.h>

#include "bench/dispatch_engine.h"

typedef struct rank_thread {
    pthread_t thread;
    const dispatch_setting_t *setting;
    coterie_transport_t *transport;
    dispatch_result_t result;
    int failed;
} rank_thread_t;

static int sample_threads(const dispatch_setting_t *setting,
                          const coterie_link_t *link,
                          dispatch_result_t *result);
static int sample_mpi(const dispatch_setting_t *setting,
                      const coterie_link_t *link, dispatch_result_t *result);
static void *rank_main(void *argument);

int dispatch_sample(const dispatch_setting_t *setting,
                    const coterie_link_t *link, int mpi,
                    dispatch_result_t *result)
{
    return mpi ? sample_mpi(setting, link, result)
               : sample_threads(setting, link, result);
}

static int sample_threads(const dispatch_setting_t *setting,
                          const coterie_link_t *link,
                          dispatch_result_t *result)
{
    coterie_transport_t *transports[DISPATCH_RANKS_MAX];
    rank_thread_t ranks[DISPATCH_RANKS_MAX];
    int failed = 0;

    if (coterie_transport_open_threads(setting->rank_count, link, transports)) {
        fprintf(stderr, "dispatch: %s\n", coterie_last_error());
        return 1;
    }
    for (uint32_t r = 0; r < setting->rank_count; r++) {
        ranks[r] = (rank_thread_t){.setting = setting,
                                   .transport = transports[r]};
        pthread_create(&ranks[r].thread, NULL, rank_main, &ranks[r]);
    }
    for (uint32_t r = 0; r < setting->rank_count; r++) {
        pthread_join(ranks[r].thread, NULL);
        coterie_transport_close(transports[r]);
        failed |= ranks[r].failed;
    }
    *result = ranks[0].result;
    return failed;
}

static int sample_mpi(const dispatch_setting_t *setting,
                      const coterie_link_t *link, dispatch_result_t *result)
{
#ifdef HAVE_MPI
    rank_thread_t self = {.setting = setting};

    if (coterie_transport_open_mpi(setting->rank_count, link,
                                   &self.transport)) {
        fprintf(stderr, "dispatch: %s\n", coterie_last_error());
        return 1;
    }
    rank_main(&self);
    coterie_transport_close(self.transport);
    *result = self.result;
    return self.failed;
#else
    (void)setting, (void)link, (void)result;
    fputs("dispatch: built without MPI\n", stderr);
    return 1;
#endif
}

static void *rank_main(void *argument)
{
    rank_thread_t *self = argument;

    self->failed = dispatch_measure(self->setting, self->transport,
                                    &self->result) != COTERIE_OK;
    if (self->failed)
        fprintf(stderr, "dispatch: %s\n", coterie_last_error());
    return NULL;
}
