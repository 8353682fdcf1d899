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
    coterie_piece_t *done, **done_end;
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
static bool fault_submit(coterie_io_t *base, coterie_piece_t *piece);
static coterie_piece_t *fault_wait(coterie_io_t *base, bool block);
static void fault_wake(coterie_io_t *base);
static void fault_close(coterie_io_t *base);

const coterie_io_ops_t fault_io = {"faulty",   fault_open, fault_submit,
                                   fault_wait, fault_wake, fault_close};

static void piece_read(coterie_piece_t *piece, fault_kind_t kind);

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

static bool fault_submit(coterie_io_t *base, coterie_piece_t *piece)
{
    uint32_t ordinal = fault_submitted();
    bool hit = ordinal >= io.first && ordinal - io.first < io.count;

    (void)base;
    if (hit && io.kind == FAULT_REFUSED)
        return false;
    piece_read(piece, hit ? io.kind : FAULT_NONE);
    pthread_mutex_lock(&io.mutex);
    io.log[io.submitted++ % FAULT_LOG] = piece->offset;
    piece->next = NULL;
    *io.done_end = piece;
    io.done_end = &piece->next;
    pthread_cond_broadcast(&io.changed);
    pthread_mutex_unlock(&io.mutex);
    return true;
}

static coterie_piece_t *fault_wait(coterie_io_t *base, bool block)
{
    coterie_piece_t *piece = NULL;

    (void)base;
    pthread_mutex_lock(&io.mutex);
    while (block && (io.done == NULL || io.allowed == 0) && !io.woken)
        pthread_cond_wait(&io.changed, &io.mutex);
    if (io.done != NULL && io.allowed > 0) {
        piece = io.done;
        io.done = piece->next;
        if (io.done == NULL)
            io.done_end = &io.done;
        if (io.allowed < FAULT_ALWAYS)
            io.allowed--;
    } else if (block) {
        io.woken = false;
    }
    pthread_mutex_unlock(&io.mutex);
    return piece;
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

static void piece_read(coterie_piece_t *piece, fault_kind_t kind)
{
    const struct timespec slow = {0, SLOW_NS};

    piece->result = pread(io.descriptor, piece->data, piece->size,
                          (off_t)piece->offset);
    if (kind == FAULT_SHORT)
        piece->result /= 2;
    else if (kind == FAULT_EIO)
        piece->result = -EIO;
    else if (kind == FAULT_WRONG)
        ((unsigned char *)piece->data)[piece->size / 3] ^= 4;
    else if (kind == FAULT_SLOW)
        nanosleep(&slow, NULL);
}
