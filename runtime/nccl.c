/* Ranks with a GPU each, which NCCL connects. Its communicator never blocks the
 * host: whatever waits is polled to a deadline, except for the queue itself,
 * which drain polls. A communicator that lost a rank is shrunk, and kept until
 * the end, since its windows stay in use. */
#include "config.h"

#include <assert.h>
#include <sched.h>
#include <stdlib.h>

#include "base/error.h"
#include "runtime/nccl.h"
#include "runtime/transport.h"

enum { NS_PER_MS = 1000000 };

static coterie_status_t nccl_check(coterie_fabric_t *f);
static coterie_status_t window_register(coterie_nccl_t *n, size_t size,
                                        char **reach);
static coterie_status_t swap_queue(coterie_nccl_t *n,
                                   const coterie_fabric_swap_t *swap);
static bool sent_to(const coterie_nccl_t *n, const coterie_fabric_swap_t *swap,
                    uint32_t peer);
static bool swap_is_even(const coterie_nccl_t *n,
                         const coterie_fabric_swap_t *swap);
static coterie_status_t comm_shrink(coterie_nccl_t *n, int *list,
                                    uint32_t count);
static coterie_status_t comm_stop(coterie_nccl_t *n);
static void comm_end(coterie_nccl_t *n);
static uint32_t excluded_list(const coterie_nccl_t *n, const uint8_t *active,
                              int *list);
static void renumber(coterie_nccl_t *n, const uint8_t *active);
static uint64_t until_of(uint32_t deadline_ms);
static void *stream_of(const coterie_nccl_t *n);

coterie_status_t coterie_nccl_greet(coterie_nccl_t *n)
{
    coterie_device_t *d = n->base.device;
    const size_t half = n->base.rank_count * (size_t)COTERIE_NCCL_GREETING;
    char *out = n->there, *in = n->there + half;
    const coterie_fabric_swap_t swap = {.first = n->rank,
                                        .count = 1,
                                        .size = COTERIE_NCCL_GREETING,
                                        .out = &out,
                                        .in = &in};
    coterie_status_t status =
        d->ops->copy(d, COTERIE_STREAM_COMPUTE, n->there, n->here, half);

    if (status == COTERIE_OK)
        status = swap_queue(n, &swap);
    if (status == COTERIE_OK)
        status =
            d->ops->copy(d, COTERIE_STREAM_COMPUTE, n->here + half, in, half);
    if (status == COTERIE_OK)
        status = n->base.ops->drain(&n->base, n->deadline_ms);
    return status;
}

static coterie_status_t nccl_open_windows(coterie_fabric_t *f, size_t size,
                                          char **window, char **reach)
{
    coterie_nccl_t *n = (coterie_nccl_t *)f;
    coterie_device_t *d = f->device;
    coterie_status_t status;
    ncclResult_t result;

    assert(n->memory == NULL);
    result = n->calls->MemAlloc(&n->memory, size);
    if (result != ncclSuccess)
        return coterie_nccl_failed(n, n->comm, result, "ncclMemAlloc");
    status = d->ops->fill(d, COTERIE_STREAM_COMPUTE, n->memory, 0, size);
    for (uint32_t r = 0; r < f->rank_count; r++)
        reach[r] = NULL;
    if (status == COTERIE_OK && n->team.size > 0)
        status = window_register(n, size, reach);
    reach[n->rank] = n->memory;
    window[0] = n->memory;
    /* The others must not write before this is zero, nor we before theirs. */
    if (status == COTERIE_OK)
        status = f->ops->drain(f, n->deadline_ms);
    if (status == COTERIE_OK)
        status = coterie_nccl_greet(n);
    for (uint32_t r = 0; status == COTERIE_OK && r < f->rank_count; r++)
        n->reached[r] = r != n->rank && reach[r] != NULL;
    return status;
}

/* Addresses come back by way of the control path's memory. */
static coterie_status_t window_register(coterie_nccl_t *n, size_t size,
                                        char **reach)
{
    coterie_device_t *d = n->base.device;
    const uint32_t count = (uint32_t)n->team.size;
    void **addresses = (void **)(void *)n->here;
    ncclResult_t result = n->calls->CommWindowRegister(
        n->comm, n->memory, size, &n->window, NCCL_WIN_COLL_SYMMETRIC);
    coterie_status_t status =
        coterie_nccl_settle(n, n->comm, result, "ncclCommWindowRegister");

    assert(count <= n->base.rank_count);
    if (status == COTERIE_OK)
        status =
            d->ops->launched(d, "reach",
                             n->calls->reach(stream_of(n), n->window, count,
                                             (void **)(void *)n->there));
    if (status == COTERIE_OK)
        status = d->ops->copy(d, COTERIE_STREAM_COMPUTE, n->here, n->there,
                              count * sizeof(*addresses));
    if (status == COTERIE_OK)
        status = n->base.ops->drain(&n->base, n->deadline_ms);
    for (int i = 0; status == COTERIE_OK && i < n->team.size; i++) {
        const int peer = (int)n->rank + (i - n->team.rank) * n->team.stride;

        assert(peer >= 0 && (uint32_t)peer < n->base.rank_count);
        reach[peer] = addresses[i];
    }
    return status;
}

static coterie_status_t nccl_swap(coterie_fabric_t *f,
                                  const coterie_fabric_swap_t *swap)
{
    coterie_nccl_t *n = (coterie_nccl_t *)f;
    coterie_device_t *d = f->device;
    const size_t own = n->rank * swap->size;
    coterie_status_t status;

    if (n->stopped)
        return coterie_fail(COTERIE_ERR_PEER,
                            "rank %u: NCCL was stopped; lost ranks must be "
                            "excluded first",
                            n->rank);
    if (atomic_load(&n->aborted))
        return nccl_check(f);
    if (n->calls->AlltoAll == NULL || !swap_is_even(n, swap))
        return swap_queue(n, swap);
    /* It moves one's own as well, which is there already. */
    status = d->ops->copy(d, COTERIE_STREAM_COMPUTE, swap->out[0] + own,
                          swap->in[0] + own, swap->size);
    if (status == COTERIE_OK)
        status = coterie_nccl_settle(
            n, n->comm,
            n->calls->AlltoAll(swap->out[0], swap->in[0], swap->size, ncclInt8,
                               n->comm, stream_of(n)),
            "ncclAlltoAll");
    return status;
}

static coterie_status_t swap_queue(coterie_nccl_t *n,
                                   const coterie_fabric_swap_t *swap)
{
    const coterie_nccl_calls_t *calls = n->calls;
    void *stream = stream_of(n);
    ncclResult_t result = calls->GroupStart(), end;

    for (uint32_t r = 0; r < n->base.rank_count && result == ncclSuccess;
         r++) {
        if (!sent_to(n, swap, r))
            continue;
        result = calls->Send(swap->out[0] + r * swap->size, swap->size,
                             ncclInt8, n->number[r], n->comm, stream);
        if (result == ncclSuccess || result == ncclInProgress)
            result = calls->Recv(swap->in[0] + r * swap->size, swap->size,
                                 ncclInt8, n->number[r], n->comm, stream);
        if (result == ncclInProgress) /* GroupEnd says how it goes on */
            result = ncclSuccess;
    }
    end = calls->GroupEnd();
    return coterie_nccl_settle(n, n->comm,
                               result != ncclSuccess ? result : end,
                               "ncclSend and ncclRecv");
}

static bool sent_to(const coterie_nccl_t *n, const coterie_fabric_swap_t *swap,
                    uint32_t peer)
{
    return peer != n->rank && n->number[peer] >= 0 && !n->reached[peer] &&
           (swap->active == NULL || swap->active[peer]);
}

/* Every rank sends as much to every rank of the communicator. */
static bool swap_is_even(const coterie_nccl_t *n,
                         const coterie_fabric_swap_t *swap)
{
    for (uint32_t r = 0; r < n->base.rank_count; r++)
        if (r != n->rank && !sent_to(n, swap, r))
            return false;
    return true;
}

/* No other rank shares this one's device. */
static coterie_status_t nccl_meet(coterie_fabric_t *f, uint32_t first,
                                  uint32_t count, uint32_t deadline_ms)
{
    (void)f, (void)first, (void)count, (void)deadline_ms;
    return COTERIE_OK;
}

static coterie_status_t nccl_check(coterie_fabric_t *f)
{
    coterie_nccl_t *n = (coterie_nccl_t *)f;
    ncclResult_t state = ncclSuccess, result;

    if (atomic_load(&n->aborted))
        return coterie_fail(COTERIE_ERR_PEER, "rank %u: NCCL was aborted",
                            n->rank);
    if (n->stopped)
        return COTERIE_OK;
    result = n->calls->CommGetAsyncError(n->comm, &state);
    if (result == ncclSuccess)
        result = state;
    return result == ncclSuccess || result == ncclInProgress
               ? COTERIE_OK
               : coterie_nccl_failed(n, n->comm, result, "connection");
}

static coterie_status_t nccl_drain(coterie_fabric_t *f, uint32_t deadline_ms)
{
    coterie_nccl_t *n = (coterie_nccl_t *)f;
    const uint64_t until = until_of(deadline_ms);
    coterie_status_t status = COTERIE_OK;
    int error;

    while ((error = n->calls->query(stream_of(n))) == cudaErrorNotReady) {
        status = nccl_check(f);
        if (status == COTERIE_OK && coterie_now_ns() >= until)
            status = coterie_fail(COTERIE_ERR_TIMEOUT,
                                  "rank %u: what NCCL was to bring did not "
                                  "come within %u ms",
                                  n->rank, deadline_ms);
        if (status != COTERIE_OK)
            break;
        sched_yield();
    }
    if (status != COTERIE_OK) { /* or the queue would never be done */
        n->stuck = true;
        if (atomic_load(&n->aborted))
            comm_end(n);
        else
            comm_stop(n);
        return status;
    }
    return f->device->ops->launched(f->device, "what was queued", error);
}

/* All that remain come here. */
static coterie_status_t nccl_exclude(coterie_fabric_t *f,
                                     const uint8_t *active)
{
    coterie_nccl_t *n = (coterie_nccl_t *)f;
    int *list;
    uint32_t count;
    coterie_status_t status = COTERIE_OK;

    for (uint32_t r = 0; r < f->rank_count; r++)
        if (active[r] && n->number[r] < 0)
            return coterie_fail(COTERIE_ERR_UNSUPPORTED,
                                "rank %u was excluded; it takes a new fabric "
                                "to bring it back",
                                r);
    if (!active[n->rank])
        return COTERIE_OK;
    list = calloc(f->rank_count, sizeof(*list));
    if (list == NULL)
        return coterie_fail_memory(f->rank_count * sizeof(*list), "a fabric");
    count = excluded_list(n, active, list);
    if (count > 0)
        status = comm_shrink(n, list, count);
    if (status == COTERIE_OK && count > 0) {
        renumber(n, active);
        status = coterie_nccl_greet(n);
    }
    free(list);
    return status;
}

static uint32_t excluded_list(const coterie_nccl_t *n, const uint8_t *active,
                              int *list)
{
    uint32_t count = 0;

    for (uint32_t r = 0; r < n->base.rank_count; r++)
        if (!active[r] && n->number[r] >= 0)
            list[count++] = n->number[r];
    return count;
}

/* What is under way is stopped first; shrinking does it where there is no call
 * for that. */
static coterie_status_t comm_shrink(coterie_nccl_t *n, int *list,
                                    uint32_t count)
{
    coterie_status_t status;
    ncclResult_t result;

    if (n->calls->CommShrink == NULL)
        return coterie_fail(COTERIE_ERR_UNSUPPORTED,
                            "NCCL %d cannot go on without a rank; 2.27 can",
                            n->calls->version);
    status = comm_stop(n);
    if (status != COTERIE_OK)
        return status;
    result = n->calls->CommShrink(n->comm, list, (int)count, &n->next, NULL,
                                  n->stopped ? NCCL_SHRINK_DEFAULT
                                             : NCCL_SHRINK_ABORT);
    status = coterie_nccl_settle(n, n->comm, result, "ncclCommShrink");
    if (status == COTERIE_OK)
        status =
            coterie_nccl_settle(n, n->next, ncclInProgress, "ncclCommShrink");
    if (status != COTERIE_OK)
        return status;
    n->parents[n->parent_count++] = n->comm;
    n->comm = n->next;
    n->stopped = n->stuck = false;
    return COTERIE_OK;
}

/* Ends what NCCL has queued, if this version can; it can then only be shrunk
 * or closed. */
static coterie_status_t comm_stop(coterie_nccl_t *n)
{
    coterie_status_t status;

    if (n->stopped || n->calls->CommRevoke == NULL)
        return COTERIE_OK;
    status = coterie_nccl_settle(
        n, n->comm, n->calls->CommRevoke(n->comm, NCCL_REVOKE_DEFAULT),
        "ncclCommRevoke");
    n->stopped = status == COTERIE_OK;
    return status;
}

static void comm_end(coterie_nccl_t *n)
{
    if (n->comm != NULL && !n->ended)
        n->calls->CommAbort(n->comm);
    n->ended = true;
}

static void renumber(coterie_nccl_t *n, const uint8_t *active)
{
    int next = 0;

    for (uint32_t r = 0; r < n->base.rank_count; r++)
        n->number[r] = active[r] && n->number[r] >= 0 ? next++ : -1;
}

coterie_status_t coterie_nccl_settle(coterie_nccl_t *n, ncclComm_t comm,
                                     ncclResult_t result, const char *call)
{
    const uint64_t until = until_of(n->deadline_ms);

    while (result == ncclInProgress) {
        ncclResult_t asked = n->calls->CommGetAsyncError(comm, &result);

        if (asked != ncclSuccess)
            result = asked;
        if (result != ncclInProgress)
            break;
        n->stuck = atomic_load(&n->aborted) || coterie_now_ns() >= until;
        if (n->stuck)
            return coterie_fail(
                atomic_load(&n->aborted) ? COTERIE_ERR_PEER
                                         : COTERIE_ERR_TIMEOUT,
                "rank %u: %s: not done within %u ms, or aborted", n->rank,
                call, n->deadline_ms);
        sched_yield();
    }
    return result == ncclSuccess ? COTERIE_OK
                                 : coterie_nccl_failed(n, comm, result, call);
}

coterie_status_t coterie_nccl_failed(const coterie_nccl_t *n, ncclComm_t comm,
                                     ncclResult_t result, const char *call)
{
    const bool peer = result == ncclRemoteError || result == ncclSystemError;

    return coterie_fail(peer ? COTERIE_ERR_PEER : COTERIE_ERR_IO,
                        "rank %u: %s: %s: %s", n->rank, call,
                        n->calls->GetErrorString(result),
                        n->calls->GetLastError(comm));
}

static uint64_t until_of(uint32_t deadline_ms)
{
    return coterie_now_ns() + (uint64_t)deadline_ms * NS_PER_MS;
}

static void *stream_of(const coterie_nccl_t *n)
{
    return n->base.device->stream[COTERIE_STREAM_COMPUTE];
}

/* The rank's own thread notices, wherever it waits: the communicator is gone
 * after an abort, and may be in use there. */
static void nccl_abort(coterie_fabric_t *f)
{
    atomic_store(&((coterie_nccl_t *)f)->aborted, true);
}

static void nccl_close(coterie_fabric_t *f)
{
    coterie_nccl_t *n = (coterie_nccl_t *)f;
    const coterie_device_ops_t *ops = f->device->ops;
    const coterie_nccl_calls_t *calls = n->calls;
    ncclComm_t first = n->parent_count > 0 ? n->parents[0] : n->comm;
    const bool whole = n->comm != NULL && !n->stopped && !n->stuck &&
                       !n->ended &&
                       nccl_check(f) == COTERIE_OK;

    if (n->window != NULL && (n->parent_count > 0 || whole))
        calls->CommWindowDeregister(first, n->window);
    if (whole && coterie_nccl_settle(n, n->comm, calls->CommFinalize(n->comm),
                                     "ncclCommFinalize") == COTERIE_OK)
        calls->CommDestroy(n->comm);
    else
        comm_end(n);
    for (uint32_t i = n->parent_count; i-- > 0;)
        calls->CommAbort(n->parents[i]);
    if (n->memory != NULL)
        calls->MemFree(n->memory);
    ops->release(f->device, n->there);
    ops->host_release(f->device, n->here);
    free(n->parents);
    free(n->number);
    free(n->reached);
    free(n);
}

#define OPS(kind)                                                             \
    {                                                                         \
        .name = kind, .open_windows = nccl_open_windows, .swap = nccl_swap,   \
        .meet = nccl_meet, .check = nccl_check, .drain = nccl_drain,          \
        .exclude = nccl_exclude, .abort = nccl_abort, .close = nccl_close     \
    }

const coterie_fabric_ops_t coterie_nccl_ops = OPS("nccl");
const coterie_fabric_ops_t coterie_nccl_device_ops = OPS("nccl-device");
