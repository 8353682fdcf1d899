/* Ranks of one process on one device: a peer's window is an address like any
 * other. Their kernels are in one stream, so that none is in another's way. */
#include "config.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/error.h"
#include "runtime/fabric.h"

enum { ACTIVE = 1, HERE = 2 };

typedef struct local_fabric {
    coterie_fabric_t base; /* first: a fabric is this */
    char **window;         /* [rank_count] */
    pthread_mutex_t lock;  /* of what follows */
    pthread_cond_t met;
    uint32_t active, arrived; /* ranks */
    uint8_t *state;           /* [rank_count]: bits, of those below */
    uint32_t meeting;         /* how many have been */
    bool aborted;
} local_fabric_t;

static void meeting_begin(local_fabric_t *f);
static coterie_status_t wait_for_others(local_fabric_t *f,
                                        const struct timespec *until);
static struct timespec after(uint32_t ms);

static coterie_status_t local_open_windows(coterie_fabric_t *base, size_t size,
                                           char **window, char **reach)
{
    local_fabric_t *f = (local_fabric_t *)base;
    const coterie_device_ops_t *ops = base->device->ops;
    coterie_status_t status = COTERIE_OK;

    for (uint32_t r = 0; status == COTERIE_OK && r < base->rank_count; r++) {
        void *memory = NULL;

        status = ops->allocate(base->device, size, &memory);
        f->window[r] = memory;
        if (status == COTERIE_OK)
            status = ops->fill(base->device, COTERIE_STREAM_COMPUTE, memory, 0,
                               size);
    }
    if (status != COTERIE_OK)
        return status;
    memcpy(window, f->window, base->rank_count * sizeof(*window));
    for (size_t i = 0; i < (size_t)base->rank_count * base->rank_count; i++)
        reach[i] = f->window[i % base->rank_count];
    return ops->wait(base->device, COTERIE_STREAM_COMPUTE);
}

/* Every window is within reach. */
static coterie_status_t local_swap(coterie_fabric_t *f,
                                   const coterie_fabric_swap_t *swap)
{
    (void)f, (void)swap;
    return COTERIE_OK;
}

static coterie_status_t local_meet(coterie_fabric_t *base, uint32_t first,
                                   uint32_t count, uint32_t deadline_ms)
{
    local_fabric_t *f = (local_fabric_t *)base;
    const struct timespec until = after(deadline_ms);
    uint32_t missing = 0;
    coterie_status_t status = COTERIE_OK;

    pthread_mutex_lock(&f->lock);
    for (uint32_t r = first; r < first + count; r++) {
        f->arrived += f->state[r] == ACTIVE;
        f->state[r] |= HERE;
    }
    if (f->arrived == f->active) {
        meeting_begin(f);
        f->meeting++;
        pthread_cond_broadcast(&f->met);
    } else {
        status = wait_for_others(f, &until);
    }
    while (missing < base->rank_count && f->state[missing] != ACTIVE)
        missing++;
    pthread_mutex_unlock(&f->lock);
    if (status == COTERIE_ERR_TIMEOUT)
        coterie_fail(status, "fabric: rank %u has not come within %u ms",
                     missing, deadline_ms);
    else if (status != COTERIE_OK)
        coterie_fail(status, "fabric: another rank gave up");
    return status;
}

static coterie_status_t local_check(coterie_fabric_t *base)
{
    local_fabric_t *f = (local_fabric_t *)base;
    bool aborted;

    pthread_mutex_lock(&f->lock);
    aborted = f->aborted;
    pthread_mutex_unlock(&f->lock);
    return aborted ? coterie_fail(COTERIE_ERR_PEER,
                                  "fabric: another rank gave up")
                   : COTERIE_OK;
}

/* Nothing that is queued waits for long: kernels have deadlines. */
static coterie_status_t local_drain(coterie_fabric_t *f, uint32_t deadline_ms)
{
    (void)deadline_ms;
    return f->device->ops->wait(f->device, COTERIE_STREAM_COMPUTE);
}

static coterie_status_t local_exclude(coterie_fabric_t *base,
                                      const uint8_t *active)
{
    local_fabric_t *f = (local_fabric_t *)base;

    pthread_mutex_lock(&f->lock);
    f->active = 0;
    for (uint32_t r = 0; r < base->rank_count; r++) {
        f->state[r] = active[r] != 0 ? ACTIVE : 0;
        f->active += active[r] != 0;
    }
    f->arrived = 0;
    pthread_mutex_unlock(&f->lock);
    return COTERIE_OK;
}

static void local_abort(coterie_fabric_t *base)
{
    local_fabric_t *f = (local_fabric_t *)base;

    pthread_mutex_lock(&f->lock);
    f->aborted = true;
    pthread_cond_broadcast(&f->met);
    pthread_mutex_unlock(&f->lock);
}

static void local_close(coterie_fabric_t *base)
{
    local_fabric_t *f = (local_fabric_t *)base;

    for (uint32_t r = 0; r < base->rank_count; r++)
        base->device->ops->release(base->device, f->window[r]);
    pthread_cond_destroy(&f->met);
    pthread_mutex_destroy(&f->lock);
    free(f->state);
    free(f->window);
    free(f);
}

static const coterie_fabric_ops_t local_ops = {
    .name = "local",
    .open_windows = local_open_windows,
    .swap = local_swap,
    .meet = local_meet,
    .check = local_check,
    .drain = local_drain,
    .exclude = local_exclude,
    .abort = local_abort,
    .close = local_close};

coterie_status_t coterie_fabric_open_local(uint32_t rank_count,
                                           coterie_device_t *device,
                                           coterie_fabric_t **fabric_p)
{
    pthread_condattr_t clock;
    local_fabric_t *f;

    if (rank_count == 0 || device == NULL)
        return coterie_fail(COTERIE_ERR_INVALID,
                            "fabric: it needs a device and at least one rank");
    f = calloc(1, sizeof(*f));
    if (f == NULL)
        return coterie_fail_memory(sizeof(*f), "a fabric");
    f->window = calloc(rank_count, sizeof(*f->window));
    f->state = malloc(rank_count);
    if (f->window == NULL || f->state == NULL) {
        free(f->state);
        free(f->window);
        free(f);
        return coterie_fail_memory(rank_count * sizeof(*f->window),
                                   "a fabric");
    }
    memset(f->state, ACTIVE, rank_count);
    f->base = (coterie_fabric_t){.ops = &local_ops,
                                 .device = device,
                                 .rank_count = rank_count,
                                 .count = rank_count};
    f->active = rank_count;
    pthread_mutex_init(&f->lock, NULL);
    pthread_condattr_init(&clock);
    pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    pthread_cond_init(&f->met, &clock);
    pthread_condattr_destroy(&clock);
    *fabric_p = &f->base;
    return COTERIE_OK;
}

/* These hold the lock. */
static void meeting_begin(local_fabric_t *f)
{
    f->arrived = 0;
    for (uint32_t r = 0; r < f->base.rank_count; r++)
        f->state[r] &= ACTIVE;
}

static coterie_status_t wait_for_others(local_fabric_t *f,
                                        const struct timespec *until)
{
    const uint32_t meeting = f->meeting;
    int error = 0;

    while (meeting == f->meeting && !f->aborted && error != ETIMEDOUT)
        error = pthread_cond_timedwait(&f->met, &f->lock, until);
    if (meeting != f->meeting)
        return COTERIE_OK;
    return f->aborted ? COTERIE_ERR_PEER : COTERIE_ERR_TIMEOUT;
}

static struct timespec after(uint32_t ms)
{
    struct timespec at;

    clock_gettime(CLOCK_MONOTONIC, &at);
    at.tv_sec += ms / 1000;
    at.tv_nsec += (long)(ms % 1000) * 1000000;
    if (at.tv_nsec >= 1000000000) {
        at.tv_sec++;
        at.tv_nsec -= 1000000000;
    }
    return at;
}
