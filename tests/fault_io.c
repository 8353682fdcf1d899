#include "config.h"

#include <errno.h>
#include <pthread.h>
#include <time.h>
#include <unistd.h>

#include "tests/fault_io.h"

enum { SLOW_NS = 30 * 1000 * 1000 };

static struct {
    coterie_io_t base;
    int descriptor;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    coterie_chunk_t *done, **done_end;
    fault_kind_t kind;
    uint32_t first, count;
    uint32_t submitted, allowed;
    uint64_t log[FAULT_LOG];
    bool woken;
} io = {.mutex = PTHREAD_MUTEX_INITIALIZER,
        .changed = PTHREAD_COND_INITIALIZER,
        .allowed = FAULT_ALWAYS};

static coterie_status_t fault_open(const coterie_io_setup_t *setup,
                                   coterie_io_t **io_p);
static bool fault_submit(coterie_io_t *base, coterie_chunk_t *chunk);
static coterie_chunk_t *fault_wait(coterie_io_t *base);
static void fault_wake(coterie_io_t *base);
static void fault_close(coterie_io_t *base);

const coterie_io_ops_t fault_io = {"faulty",   fault_open, fault_submit,
                                   fault_wait, fault_wake, fault_close};

static void chunk_read(coterie_chunk_t *chunk, fault_kind_t kind);

void fault_plan(fault_kind_t kind, uint32_t first, uint32_t count)
{
    io.kind = kind;
    io.first = first;
    io.count = count;
}

void fault_hold(void)
{
    pthread_mutex_lock(&io.mutex);
    io.allowed = 0;
    pthread_mutex_unlock(&io.mutex);
}

void fault_let(uint32_t count)
{
    pthread_mutex_lock(&io.mutex);
    io.allowed += count;
    pthread_cond_broadcast(&io.changed);
    pthread_mutex_unlock(&io.mutex);
}

void fault_await(uint32_t count)
{
    pthread_mutex_lock(&io.mutex);
    while (io.submitted < count)
        pthread_cond_wait(&io.changed, &io.mutex);
    pthread_mutex_unlock(&io.mutex);
}

uint32_t fault_submitted(void)
{
    uint32_t count;

    pthread_mutex_lock(&io.mutex);
    count = io.submitted;
    pthread_mutex_unlock(&io.mutex);
    return count;
}

uint64_t fault_offset(uint32_t submission)
{
    return io.log[submission % FAULT_LOG];
}

static coterie_status_t fault_open(const coterie_io_setup_t *setup,
                                   coterie_io_t **io_p)
{
    io.base.ops = &fault_io;
    io.descriptor = setup->descriptor;
    io.done_end = &io.done;
    *io_p = &io.base;
    return COTERIE_OK;
}

static bool fault_submit(coterie_io_t *base, coterie_chunk_t *chunk)
{
    uint32_t ordinal = fault_submitted();
    bool hit = ordinal >= io.first && ordinal - io.first < io.count;

    (void)base;
    if (hit && io.kind == FAULT_REFUSED)
        return false;
    chunk_read(chunk, hit ? io.kind : FAULT_NONE);
    pthread_mutex_lock(&io.mutex);
    io.log[io.submitted++ % FAULT_LOG] = chunk->offset;
    chunk->next = NULL;
    *io.done_end = chunk;
    io.done_end = &chunk->next;
    pthread_cond_broadcast(&io.changed);
    pthread_mutex_unlock(&io.mutex);
    return true;
}

static coterie_chunk_t *fault_wait(coterie_io_t *base)
{
    coterie_chunk_t *chunk = NULL;

    (void)base;
    pthread_mutex_lock(&io.mutex);
    while ((io.done == NULL || io.allowed == 0) && !io.woken)
        pthread_cond_wait(&io.changed, &io.mutex);
    if (io.done != NULL && io.allowed > 0) {
        chunk = io.done;
        io.done = chunk->next;
        if (io.done == NULL)
            io.done_end = &io.done;
        if (io.allowed < FAULT_ALWAYS)
            io.allowed--;
    } else {
        io.woken = false;
    }
    pthread_mutex_unlock(&io.mutex);
    return chunk;
}

static void fault_wake(coterie_io_t *base)
{
    (void)base;
    pthread_mutex_lock(&io.mutex);
    io.woken = true;
    pthread_cond_broadcast(&io.changed);
    pthread_mutex_unlock(&io.mutex);
}

static void fault_close(coterie_io_t *base)
{
    (void)base;
}

static void chunk_read(coterie_chunk_t *chunk, fault_kind_t kind)
{
    const struct timespec slow = {0, SLOW_NS};

    chunk->result = pread(io.descriptor, chunk->data, chunk->size,
                          (off_t)chunk->offset);
    if (kind == FAULT_SHORT)
        chunk->result /= 2;
    else if (kind == FAULT_EIO)
        chunk->result = -EIO;
    else if (kind == FAULT_WRONG)
        ((unsigned char *)chunk->data)[chunk->size / 3] ^= 4;
    else if (kind == FAULT_SLOW)
        nanosleep(&slow, NULL);
}
