/* Ranks as MPI processes. */
#include "config.h"

#include <mpi.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/options.h"
#include "runtime/transport.h"

/* Receive buffers are kept and used again, so that steps do not allocate. */
typedef struct buffer {
    struct buffer *next;
    size_t capacity;
    max_align_t data[];
} buffer_t;

typedef struct mpi {
    coterie_transport_t base;
    MPI_Comm comm;
    bool aborted;
    MPI_Request *requests; /* of sends under way */
    int request_count, request_capacity;
    buffer_t *spare;
} mpi_t;

static const coterie_transport_ops_t mpi_ops;
static coterie_status_t mpi_start(uint32_t rank_count, mpi_t *mpi);
static void finalize(void);
static coterie_status_t mpi_send(coterie_transport_t *t, uint32_t peer,
                                 coterie_traffic_t traffic, const void *data,
                                 size_t size);
static coterie_status_t mpi_poll(coterie_transport_t *t, uint32_t peer,
                                 coterie_traffic_t traffic,
                                 coterie_message_t *message, bool *found);
static void mpi_release(coterie_transport_t *t, coterie_message_t *message);
static void mpi_wait(coterie_transport_t *t, uint64_t until_ns);
static bool mpi_flushed(coterie_transport_t *t);
static void mpi_abort(coterie_transport_t *t);
static void mpi_close(coterie_transport_t *t);
static coterie_status_t requests_reserve(mpi_t *mpi);
static buffer_t *buffer_take(mpi_t *mpi, size_t size);
static coterie_status_t mpi_fail(const mpi_t *mpi, const char *call, int code);

coterie_status_t coterie_transport_open_mpi(uint32_t rank_count,
                                            const coterie_link_t *link,
                                            coterie_transport_t **transport_p)
{
    coterie_link_t emulated = {.size = sizeof(emulated)};
    coterie_status_t status = COTERIE_OK;
    mpi_t *mpi;

    if (link != NULL)
        status = coterie_options_read(link, &emulated, sizeof(emulated),
                                      "link");
    if (status != COTERIE_OK)
        return status;
    mpi = calloc(1, sizeof(*mpi));
    if (mpi == NULL)
        return coterie_fail_memory(sizeof(*mpi), "a transport");
    mpi->base.ops = &mpi_ops;
    mpi->base.link = emulated;
    mpi->comm = MPI_COMM_NULL;
    status = mpi_start(rank_count, mpi);
    if (status != COTERIE_OK) {
        mpi_close(&mpi->base);
        return status;
    }
    *transport_p = &mpi->base;
    return COTERIE_OK;
}

static coterie_status_t mpi_start(uint32_t rank_count, mpi_t *mpi)
{
    int initialized = 0, provided, rank = 0, size = 0, code;

    MPI_Initialized(&initialized);
    if (!initialized) {
        code = MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &provided);
        if (code != MPI_SUCCESS)
            return mpi_fail(mpi, "MPI_Init_thread", code);
        atexit(finalize); /* MPI cannot be initialised twice */
    }
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    if (rank_count != 0 && (uint32_t)size != rank_count)
        return coterie_fail(COTERIE_ERR_MISMATCH,
                            "MPI was started with %d processes, not %u; use "
                            "mpirun -n %u",
                            size, rank_count, rank_count);
    code = MPI_Comm_dup(MPI_COMM_WORLD, &mpi->comm);
    if (code != MPI_SUCCESS)
        return mpi_fail(mpi, "MPI_Comm_dup", code);
    MPI_Comm_set_errhandler(mpi->comm, MPI_ERRORS_RETURN);
    MPI_Comm_rank(mpi->comm, &rank);
    mpi->base.rank = (uint32_t)rank;
    mpi->base.rank_count = (uint32_t)size;
    return COTERIE_OK;
}

static void finalize(void)
{
    MPI_Finalize();
}

static coterie_status_t mpi_send(coterie_transport_t *t, uint32_t peer,
                                 coterie_traffic_t traffic, const void *data,
                                 size_t size)
{
    mpi_t *mpi = (mpi_t *)t;
    coterie_status_t status = requests_reserve(mpi);
    int code;

    if (status != COTERIE_OK)
        return status;
    if (size > INT32_MAX)
        return coterie_fail(COTERIE_ERR_CAPACITY,
                            "rank %u: a message of %zu bytes; MPI counts to "
                            "%d",
                            t->rank, size, INT32_MAX);
    code = MPI_Isend(data, (int)size, MPI_BYTE, (int)peer, (int)traffic,
                     mpi->comm, &mpi->requests[mpi->request_count]);
    if (code != MPI_SUCCESS)
        return mpi_fail(mpi, "MPI_Isend", code);
    mpi->request_count++;
    return COTERIE_OK;
}

static coterie_status_t mpi_poll(coterie_transport_t *t, uint32_t peer,
                                 coterie_traffic_t traffic,
                                 coterie_message_t *message, bool *found)
{
    mpi_t *mpi = (mpi_t *)t;
    int here = 0, size = 0, code;
    buffer_t *buffer;
    MPI_Message handle;
    MPI_Status state;

    *found = false;
    if (mpi->aborted)
        return coterie_fail(COTERIE_ERR_PEER,
                            "rank %u stops: another rank failed", t->rank);
    code = MPI_Improbe((int)peer, (int)traffic, mpi->comm, &here, &handle,
                       &state);
    if (code != MPI_SUCCESS)
        return mpi_fail(mpi, "MPI_Improbe", code);
    if (!here)
        return COTERIE_OK;
    MPI_Get_count(&state, MPI_BYTE, &size);
    buffer = buffer_take(mpi, (size_t)size);
    if (buffer == NULL)
        return coterie_fail_memory((size_t)size, "a received message");
    code = MPI_Mrecv(buffer->data, size, MPI_BYTE, &handle, &state);
    if (code != MPI_SUCCESS)
        return mpi_fail(mpi, "MPI_Mrecv", code);
    *message = (coterie_message_t){buffer->data, (size_t)size, buffer};
    *found = true;
    return COTERIE_OK;
}

static void mpi_release(coterie_transport_t *t, coterie_message_t *message)
{
    mpi_t *mpi = (mpi_t *)t;
    buffer_t *buffer = message->backend;

    buffer->next = mpi->spare;
    mpi->spare = buffer;
}

/* MPI has no sleep; a rank may share its core, so it yields. */
static void mpi_wait(coterie_transport_t *t, uint64_t until_ns)
{
    mpi_t *mpi = (mpi_t *)t;
    int here = 0;

    (void)until_ns;
    MPI_Iprobe(MPI_ANY_SOURCE, COTERIE_TRAFFIC_ABORT, mpi->comm, &here,
               MPI_STATUS_IGNORE);
    if (here)
        mpi->aborted = true;
    sched_yield();
}

static bool mpi_flushed(coterie_transport_t *t)
{
    mpi_t *mpi = (mpi_t *)t;
    int done = 0;

    if (mpi->request_count > 0) {
        MPI_Testall(mpi->request_count, mpi->requests, &done,
                    MPI_STATUSES_IGNORE);
        if (done)
            mpi->request_count = 0;
    }
    return mpi->request_count == 0 || mpi->aborted;
}

static void mpi_abort(coterie_transport_t *t)
{
    static const coterie_header_t header; /* outlives the sends */
    mpi_t *mpi = (mpi_t *)t;

    if (mpi->aborted)
        return; /* whoever failed first has told everyone */
    mpi->aborted = true;
    for (uint32_t r = 0; r < t->rank_count; r++)
        if (r != t->rank)
            mpi_send(t, r, COTERIE_TRAFFIC_ABORT, &header, sizeof(header));
}

static void mpi_close(coterie_transport_t *t)
{
    mpi_t *mpi = (mpi_t *)t;

    /* After an abort peers may never take what was sent. */
    for (int i = 0; i < mpi->request_count; i++)
        if (mpi->requests[i] != MPI_REQUEST_NULL)
            MPI_Request_free(&mpi->requests[i]);
    if (mpi->comm != MPI_COMM_NULL && !mpi->aborted)
        MPI_Comm_free(&mpi->comm);
    while (mpi->spare != NULL) {
        buffer_t *next = mpi->spare->next;

        free(mpi->spare);
        mpi->spare = next;
    }
    free(mpi->requests);
    free(mpi);
}

static coterie_status_t requests_reserve(mpi_t *mpi)
{
    int capacity = mpi->request_capacity * 2 + 64;
    MPI_Request *requests;

    if (mpi->request_count < mpi->request_capacity)
        return COTERIE_OK;
    requests = realloc(mpi->requests, (size_t)capacity * sizeof(*requests));
    if (requests == NULL)
        return coterie_fail_memory((size_t)capacity * sizeof(*requests),
                                   "MPI requests");
    mpi->requests = requests;
    mpi->request_capacity = capacity;
    return COTERIE_OK;
}

/* The first spare buffer that is large enough, or a new one. Sizes are rounded
 * up so that messages of similar sizes share buffers. */
static buffer_t *buffer_take(mpi_t *mpi, size_t size)
{
    size_t capacity = 4096;
    buffer_t **at = &mpi->spare;
    buffer_t *buffer;

    while (*at != NULL && (*at)->capacity < size)
        at = &(*at)->next;
    buffer = *at;
    if (buffer != NULL) {
        *at = buffer->next;
        return buffer;
    }
    while (capacity < size)
        capacity *= 2;
    buffer = malloc(sizeof(*buffer) + capacity);
    if (buffer != NULL)
        buffer->capacity = capacity;
    return buffer;
}

static coterie_status_t mpi_fail(const mpi_t *mpi, const char *call, int code)
{
    char text[MPI_MAX_ERROR_STRING] = "";
    int size = 0;

    MPI_Error_string(code, text, &size);
    return coterie_fail(COTERIE_ERR_IO, "rank %u: %s: %s", mpi->base.rank,
                        call, text);
}

static const coterie_transport_ops_t mpi_ops = {
    .name = "mpi",
    .send = mpi_send,
    .poll = mpi_poll,
    .release = mpi_release,
    .wait = mpi_wait,
    .flushed = mpi_flushed,
    .abort = mpi_abort,
    .close = mpi_close,
};
