/* A transport's cost per all-to-all, beside a bare MPI_Alltoallv of the same
 * sizes in turns with it.
 *
 * usage: alltoall [threads RANKS] | mpirun -n RANKS alltoall mpi
 *
 * The one benchmark that looks below the public headers: what it measures has
 * no name there. One JSON object a line; the median of all rounds. */
#include "config.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef HAVE_MPI
#include <mpi.h>
#endif

#include "bench/bench.h"
#include "runtime/transport.h"

enum { RANKS_MAX = 32, ROUNDS = 300, WARM_ROUNDS = 50, DEADLINE_MS = 60000 };

static const size_t payload_sizes[] = {64, 1024, 16384, 262144};

typedef struct endpoint {
    pthread_t thread;
    coterie_transport_t *transport;
    char *out, *in; /* rank_count blocks of header and payload */
    int failed;
} endpoint_t;

static int run_threads(uint32_t rank_count);
static int run_mpi(void);
static void *rank_main(void *argument);
static int size_measure(endpoint_t *self, size_t payload);
static int round_coterie(endpoint_t *self, size_t block);
static double round_peer(endpoint_t *self, size_t block);

int main(int count, char **arguments)
{
    if (count == 3 && strcmp(arguments[1], "threads") == 0)
        return run_threads((uint32_t)atoi(arguments[2]));
    if (count == 2 && strcmp(arguments[1], "mpi") == 0)
        return run_mpi();
    fputs("usage: alltoall threads RANKS | mpirun -n RANKS alltoall mpi\n",
          stderr);
    return 2;
}

static int run_threads(uint32_t rank_count)
{
    coterie_transport_t *transports[RANKS_MAX];
    endpoint_t ranks[RANKS_MAX];
    int failed = 0;

    if (rank_count - 1 >= RANKS_MAX ||
        coterie_transport_open_threads(rank_count, NULL, transports)) {
        fprintf(stderr, "alltoall: 1 to %d ranks\n", RANKS_MAX);
        return 2;
    }
    for (uint32_t r = 0; r < rank_count; r++) {
        ranks[r] = (endpoint_t){.transport = transports[r]};
        pthread_create(&ranks[r].thread, NULL, rank_main, &ranks[r]);
    }
    for (uint32_t r = 0; r < rank_count; r++) {
        pthread_join(ranks[r].thread, NULL);
        coterie_transport_close(transports[r]);
        failed |= ranks[r].failed;
    }
    return failed;
}

static int run_mpi(void)
{
#ifdef HAVE_MPI
    endpoint_t self = {0};

    if (coterie_transport_open_mpi(0, NULL, &self.transport)) {
        fprintf(stderr, "alltoall: %s\n", coterie_last_error());
        return 1;
    }
    rank_main(&self);
    coterie_transport_close(self.transport);
    return self.failed;
#else
    fputs("alltoall: built without MPI\n", stderr);
    return 1;
#endif
}

static void *rank_main(void *argument)
{
    endpoint_t *self = argument;
    size_t count = sizeof(payload_sizes) / sizeof(payload_sizes[0]);
    size_t all = self->transport->rank_count *
                 (sizeof(coterie_header_t) + payload_sizes[count - 1]);

    self->out = calloc(1, all);
    self->in = calloc(1, all);
    self->failed = self->out == NULL || self->in == NULL;
    for (size_t i = 0; i < count && !self->failed; i++)
        self->failed = size_measure(self, payload_sizes[i]);
    if (self->failed)
        fprintf(stderr, "alltoall: %s\n", coterie_last_error());
    free(self->out);
    free(self->in);
    return NULL;
}

static int size_measure(endpoint_t *self, size_t payload)
{
    double ours[ROUNDS], peers[ROUNDS];
    size_t block = sizeof(coterie_header_t) + payload;

    for (int i = -WARM_ROUNDS; i < ROUNDS; i++) {
        double start = bench_seconds();

        if (round_coterie(self, block) != 0)
            return 1;
        if (i >= 0)
            ours[i] = 1e6 * (bench_seconds() - start);
        start = round_peer(self, block);
        if (i >= 0)
            peers[i] = 1e6 * start;
    }
    if (self->transport->rank != 0)
        return 0;
    printf("{\"transport\": \"%s\", \"ranks\": %u, \"payload\": %zu, "
           "\"coterie_us\": %.1f",
           coterie_transport_name(self->transport),
           self->transport->rank_count, payload, bench_median(ours, ROUNDS));
    if (peers[0] > 0)
        printf(", \"alltoallv_us\": %.1f", bench_median(peers, ROUNDS));
    puts("}");
    return 0;
}

/* As dispatch does it: a message to every peer, their data read in place. The
 * copy out stands for the reading, and makes it like MPI_Alltoallv's. */
static int round_coterie(endpoint_t *self, size_t block)
{
    coterie_transport_t *t = self->transport;
    coterie_parcel_t parcels[RANKS_MAX];
    uint32_t count = 0;

    for (uint32_t r = 0; r < t->rank_count; r++)
        if (r != t->rank)
            parcels[count++] =
                (coterie_parcel_t){r, block, self->out + r * block};
    if (coterie_transport_post(t, COTERIE_TRAFFIC_ALLTOALL, parcels, count))
        return 1;
    for (uint32_t r = 0; r < t->rank_count; r++) {
        coterie_message_t message;

        if (r == t->rank)
            continue;
        if (coterie_transport_receive(t, r, COTERIE_TRAFFIC_ALLTOALL,
                                      DEADLINE_MS, &message))
            return 1;
        memcpy(self->in + r * block, message.data, block);
        coterie_transport_release(t, &message);
    }
    return coterie_transport_flush(t, DEADLINE_MS) != COTERIE_OK;
}

/* Seconds; 0 where there is no MPI to ask. */
static double round_peer(endpoint_t *self, size_t block)
{
#ifdef HAVE_MPI
    uint32_t ranks = self->transport->rank_count;
    int sizes[RANKS_MAX], starts[RANKS_MAX], initialized = 0;
    double start = bench_seconds();

    MPI_Initialized(&initialized);
    if (!initialized)
        return 0;
    for (uint32_t r = 0; r < ranks; r++) {
        sizes[r] = r == self->transport->rank ? 0 : (int)block;
        starts[r] = (int)(r * block);
    }
    MPI_Alltoallv(self->out, sizes, starts, MPI_BYTE, self->in, sizes, starts,
                  MPI_BYTE, MPI_COMM_WORLD);
    return bench_seconds() - start;
#else
    (void)self, (void)block;
    return 0;
#endif
}
