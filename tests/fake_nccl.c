#include "tests/fake_nccl.h"

#include <assert.h>
#include <cuda_runtime_api.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/transport.h"

enum { RANKS = 8, GROUP = 64, NS_PER_MS = 1000000 };

typedef struct letter {
    struct letter *next;
    size_t size;
    char data[];
} letter_t;

/* What ranks of one communicator share. */
typedef struct world {
    int size, joined, registered;
    letter_t *letters[RANKS][RANKS]; /* [from][to], the oldest first */
    void *memory[RANKS];             /* windows */
    struct world *child;             /* that it was shrunk to */
} world_t;

typedef struct receipt {
    void *to;
    size_t size;
    int peer;
} receipt_t;

struct ncclComm {
    world_t *world;
    int rank;
    bool revoked, registering;
    receipt_t receipts[GROUP]; /* queued, in order */
    int receipt_count;
    uint64_t until_ns; /* when waiting for them is over; 0: it is */
};

fake_nccl_t fake_nccl;
_Thread_local unsigned char fake_nccl_gpu;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static world_t *worlds[GROUP]; /* by id */
static uint32_t world_count;
static _Thread_local struct ncclComm *current; /* whose stream it is */

static ncclComm_t comm_new(world_t *world, int rank)
{
    ncclComm_t comm = calloc(1, sizeof(*comm));

    comm->world = world;
    comm->rank = rank;
    current = comm;
    world->joined++;
    fake_nccl.communicators++;
    return comm;
}

static ncclResult_t get_unique_id(ncclUniqueId *id)
{
    pthread_mutex_lock(&mutex);
    worlds[world_count] = calloc(1, sizeof(world_t));
    memcpy(id->internal, &world_count, sizeof(world_count));
    world_count++;
    pthread_mutex_unlock(&mutex);
    return ncclSuccess;
}

static ncclResult_t comm_init(ncclComm_t *comm, int size, ncclUniqueId id,
                              int rank, ncclConfig_t *config)
{
    uint32_t world;

    assert(config->blocking == 0);
    memcpy(&world, id.internal, sizeof(world));
    pthread_mutex_lock(&mutex);
    worlds[world]->size = size;
    *comm = comm_new(worlds[world], rank);
    pthread_mutex_unlock(&mutex);
    return ncclInProgress;
}

/* Whether all that is queued has come. */
static bool receive_all(ncclComm_t comm)
{
    int done = 0;

    while (done < comm->receipt_count) {
        const receipt_t *receipt = &comm->receipts[done];
        letter_t **first = &comm->world->letters[receipt->peer][comm->rank];
        letter_t *letter = *first;

        if (letter == NULL)
            break;
        assert(letter->size == receipt->size);
        memcpy(receipt->to, letter->data, letter->size);
        *first = letter->next;
        free(letter);
        done++;
    }
    comm->receipt_count -= done;
    memmove(comm->receipts, comm->receipts + done,
            (size_t)comm->receipt_count * sizeof(comm->receipts[0]));
    return comm->receipt_count == 0;
}

static ncclResult_t comm_state(ncclComm_t comm, ncclResult_t *state)
{
    const world_t *world = comm->world;

    pthread_mutex_lock(&mutex);
    *state = ncclSuccess;
    if (!comm->revoked && world->joined < world->size)
        *state = ncclInProgress;
    if (comm->registering && world->registered < world->size)
        *state = ncclInProgress;
    if (comm->until_ns != 0 && !receive_all(comm) &&
        coterie_now_ns() < comm->until_ns)
        *state = ncclInProgress;
    if (*state == ncclSuccess)
        comm->until_ns = 0;
    pthread_mutex_unlock(&mutex);
    return ncclSuccess;
}

static ncclResult_t comm_finalize(ncclComm_t comm)
{
    return comm->receipt_count == 0 ? ncclSuccess : ncclInvalidUsage;
}

static ncclResult_t comm_destroy(ncclComm_t comm)
{
    pthread_mutex_lock(&mutex);
    fake_nccl.communicators--;
    pthread_mutex_unlock(&mutex);
    free(comm);
    current = NULL;
    return ncclSuccess;
}

static ncclResult_t comm_abort(ncclComm_t comm)
{
    fake_nccl.aborts++;
    return comm_destroy(comm);
}

static ncclResult_t comm_revoke(ncclComm_t comm, int flags)
{
    assert(flags == NCCL_REVOKE_DEFAULT);
    comm->revoked = true;
    comm->receipt_count = 0;
    comm->until_ns = 0;
    fake_nccl.revokes++;
    return ncclInProgress;
}

static ncclResult_t comm_shrink(ncclComm_t comm, int *list, int count,
                                ncclComm_t *next, ncclConfig_t *config,
                                int flags)
{
    world_t *world = comm->world;
    int rank = comm->rank;

    (void)config;
    if (!comm->revoked && flags != NCCL_SHRINK_ABORT)
        return ncclInvalidUsage;
    comm->receipt_count = 0;
    for (int i = 0; i < count; i++)
        rank -= list[i] < comm->rank;
    pthread_mutex_lock(&mutex);
    if (world->child == NULL) {
        world->child = calloc(1, sizeof(*world->child));
        world->child->size = world->size - count;
    }
    *next = comm_new(world->child, rank);
    fake_nccl.shrinks++;
    pthread_mutex_unlock(&mutex);
    return ncclInProgress;
}

static const char *error_string(ncclResult_t result)
{
    return result == ncclSuccess ? "no error" : "some error";
}

static const char *last_error(ncclComm_t comm)
{
    (void)comm;
    return "";
}

static ncclResult_t group_start(void)
{
    return ncclSuccess;
}

static ncclResult_t group_end(void)
{
    current->until_ns = coterie_now_ns() +
                        (uint64_t)fake_nccl.patience_ms * NS_PER_MS;
    return ncclInProgress;
}

static ncclResult_t queue_send(const void *from, size_t count,
                               ncclDataType_t type, int peer, ncclComm_t comm,
                               cudaStream_t stream)
{
    letter_t *letter = malloc(sizeof(*letter) + count);
    letter_t **last;

    assert(type == ncclInt8 && peer < comm->world->size && !comm->revoked);
    (void)stream;
    letter->next = NULL;
    letter->size = count;
    memcpy(letter->data, from, count);
    pthread_mutex_lock(&mutex);
    last = &comm->world->letters[comm->rank][peer];
    while (*last != NULL)
        last = &(*last)->next;
    *last = letter;
    fake_nccl.sends++;
    pthread_mutex_unlock(&mutex);
    return ncclInProgress;
}

static ncclResult_t queue_receipt(void *to, size_t count, ncclDataType_t type,
                                  int peer, ncclComm_t comm,
                                  cudaStream_t stream)
{
    assert(type == ncclInt8 && comm->receipt_count < GROUP);
    (void)stream;
    comm->receipts[comm->receipt_count++] = (receipt_t){to, count, peer};
    return ncclInProgress;
}

static ncclResult_t all_to_all(const void *from, void *to, size_t count,
                               ncclDataType_t type, ncclComm_t comm,
                               cudaStream_t stream)
{
    for (int r = 0; r < comm->world->size; r++) {
        queue_send((const char *)from + (size_t)r * count, count, type, r,
                   comm, stream);
        queue_receipt((char *)to + (size_t)r * count, count, type, r, comm,
                      stream);
    }
    fake_nccl.even++;
    return group_end();
}

static ncclResult_t mem_alloc(void **p, size_t size)
{
    const size_t page = NCCL_WIN_REQUIRED_ALIGNMENT;

    *p = aligned_alloc(page, (size + page - 1) / page * page);
    pthread_mutex_lock(&mutex);
    fake_nccl.buffers++;
    pthread_mutex_unlock(&mutex);
    return ncclSuccess;
}

static ncclResult_t mem_free(void *p)
{
    free(p);
    pthread_mutex_lock(&mutex);
    fake_nccl.buffers--;
    pthread_mutex_unlock(&mutex);
    return ncclSuccess;
}

/* A window is its communicator's. */
static ncclResult_t window_register(ncclComm_t comm, void *memory, size_t size,
                                    ncclWindow_t *window, int flags)
{
    (void)size;
    assert(flags == NCCL_WIN_COLL_SYMMETRIC);
    pthread_mutex_lock(&mutex);
    comm->world->memory[comm->rank] = memory;
    comm->world->registered++;
    comm->registering = true;
    pthread_mutex_unlock(&mutex);
    *window = (ncclWindow_t)(void *)comm;
    return ncclInProgress;
}

static ncclResult_t window_deregister(ncclComm_t comm, ncclWindow_t window)
{
    assert((ncclComm_t)(void *)window == comm);
    return ncclSuccess;
}

static coterie_nccl_team_t team_lsa(ncclComm_t comm)
{
    const int team = fake_nccl.team > 0 ? fake_nccl.team : 1;

    return (coterie_nccl_team_t){team, comm->rank % team, 1};
}

static int query(void *stream)
{
    bool done;

    (void)stream;
    if (current == NULL)
        return cudaSuccess;
    pthread_mutex_lock(&mutex);
    done = receive_all(current);
    pthread_mutex_unlock(&mutex);
    return done ? cudaSuccess : cudaErrorNotReady;
}

static int uuid_of(uint32_t device, unsigned char *uuid)
{
    (void)device;
    memset(uuid, fake_nccl_gpu, COTERIE_NCCL_UUID);
    return cudaSuccess;
}

static int reach_of(void *stream, ncclWindow_t window, uint32_t count,
                    void **reach)
{
    const ncclComm_t comm = (ncclComm_t)(void *)window;
    const int first = comm->rank - comm->rank % (int)count;

    (void)stream;
    for (uint32_t i = 0; i < count; i++)
        reach[i] = comm->world->memory[first + (int)i];
    return cudaSuccess;
}

coterie_nccl_calls_t fake_nccl_calls(void)
{
    return (coterie_nccl_calls_t){.version = fake_nccl.version,
                                  .GetUniqueId = get_unique_id,
                                  .CommInitRankConfig = comm_init,
                                  .CommGetAsyncError = comm_state,
                                  .CommFinalize = comm_finalize,
                                  .CommDestroy = comm_destroy,
                                  .CommAbort = comm_abort,
                                  .GetErrorString = error_string,
                                  .GetLastError = last_error,
                                  .GroupStart = group_start,
                                  .GroupEnd = group_end,
                                  .Send = queue_send,
                                  .Recv = queue_receipt,
                                  .MemAlloc = mem_alloc,
                                  .MemFree = mem_free,
                                  .CommShrink = comm_shrink,
                                  .CommWindowRegister = window_register,
                                  .CommWindowDeregister = window_deregister,
                                  .AlltoAll = all_to_all,
                                  .CommRevoke = comm_revoke,
                                  .TeamLsa = team_lsa,
                                  .query = query,
                                  .uuid = uuid_of,
                                  .reach = reach_of};
}
