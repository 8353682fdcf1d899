#include "config.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/error.h"
#include "offload/reader_io.h"

/* More of them would only be in one another's way. */
enum { THREADS_MOST = 8 };

/* Threads that each read one piece at a time. */
typedef struct pool {
    coterie_io_t base;
    int descriptor;
    pthread_mutex_t mutex;
    pthread_cond_t waiting_changed, done_changed;
    coterie_piece_t *waiting, **waiting_end; /* in order */
    coterie_piece_t *done;
    bool woken, closing;
    uint32_t thread_count;
    pthread_t threads[];
} pool_t;

static coterie_status_t pool_open(const coterie_io_setup_t *setup,
                                  coterie_io_t **io_p);
static bool pool_submit(coterie_io_t *io, coterie_piece_t *piece);
static coterie_piece_t *pool_wait(coterie_io_t *io, bool block);
static void pool_wake(coterie_io_t *io);
static void pool_close(coterie_io_t *io);

const coterie_io_ops_t coterie_io_pool = {"threads",  pool_open, pool_submit,
                                          pool_wait, pool_wake, pool_close};

static void *pool_main(void *arg);
static coterie_piece_t *todo_take(pool_t *pool);
static int64_t piece_read(int descriptor, const coterie_piece_t *piece);

static coterie_status_t pool_open(const coterie_io_setup_t *setup,
                                  coterie_io_t **io_p)
{
    uint32_t most = setup->depth < THREADS_MOST ? setup->depth : THREADS_MOST;
    size_t size = sizeof(pool_t) + most * sizeof(pthread_t);
    pool_t *pool = calloc(1, size);

    if (pool == NULL)
        return coterie_fail_memory(size, "threads that read");
    pool->base.ops = &coterie_io_pool;
    pool->descriptor = setup->descriptor;
    pool->waiting_end = &pool->waiting;
    pthread_mutex_init(&pool->mutex, NULL);
    pthread_cond_init(&pool->waiting_changed, NULL);
    pthread_cond_init(&pool->done_changed, NULL);
    while (pool->thread_count < most &&
           pthread_create(&pool->threads[pool->thread_count], NULL, pool_main,
                          pool) == 0)
        pool->thread_count++;
    if (pool->thread_count == 0) { /* fewer than asked for are only slower */
        pool_close(&pool->base);
        return coterie_fail(COTERIE_ERR_NO_MEMORY,
                            "the system starts no thread to read with");
    }
    *io_p = &pool->base;
    return COTERIE_OK;
}

static bool pool_submit(coterie_io_t *io, coterie_piece_t *piece)
{
    pool_t *pool = (pool_t *)io;

    pthread_mutex_lock(&pool->mutex);
    piece->next = NULL;
    *pool->waiting_end = piece;
    pool->waiting_end = &piece->next;
    pthread_cond_signal(&pool->waiting_changed);
    pthread_mutex_unlock(&pool->mutex);
    return true;
}

static coterie_piece_t *pool_wait(coterie_io_t *io, bool block)
{
    pool_t *pool = (pool_t *)io;
    coterie_piece_t *piece;

    pthread_mutex_lock(&pool->mutex);
    while (block && pool->done == NULL && !pool->woken)
        pthread_cond_wait(&pool->done_changed, &pool->mutex);
    piece = pool->done;
    if (piece != NULL)
        pool->done = piece->next;
    else if (block)
        pool->woken = false;
    pthread_mutex_unlock(&pool->mutex);
    return piece;
}

static void pool_wake(coterie_io_t *io)
{
    pool_t *pool = (pool_t *)io;

    pthread_mutex_lock(&pool->mutex);
    pool->woken = true;
    pthread_cond_signal(&pool->done_changed);
    pthread_mutex_unlock(&pool->mutex);
}

static void pool_close(coterie_io_t *io)
{
    pool_t *pool = (pool_t *)io;

    pthread_mutex_lock(&pool->mutex);
    pool->closing = true;
    pthread_cond_broadcast(&pool->waiting_changed);
    pthread_mutex_unlock(&pool->mutex);
    for (uint32_t i = 0; i < pool->thread_count; i++)
        pthread_join(pool->threads[i], NULL);
    pthread_cond_destroy(&pool->done_changed);
    pthread_cond_destroy(&pool->waiting_changed);
    pthread_mutex_destroy(&pool->mutex);
    free(pool);
}

static void *pool_main(void *arg)
{
    pool_t *pool = arg;
    coterie_piece_t *piece;

    while ((piece = todo_take(pool)) != NULL) {
        piece->result = piece_read(pool->descriptor, piece);
        pthread_mutex_lock(&pool->mutex);
        piece->next = pool->done;
        pool->done = piece;
        pthread_cond_signal(&pool->done_changed);
        pthread_mutex_unlock(&pool->mutex);
    }
    return NULL;
}

/* NULL when the pool closes. */
static coterie_piece_t *todo_take(pool_t *pool)
{
    coterie_piece_t *piece;

    pthread_mutex_lock(&pool->mutex);
    while (pool->waiting == NULL && !pool->closing)
        pthread_cond_wait(&pool->waiting_changed, &pool->mutex);
    piece = pool->waiting;
    if (piece != NULL) {
        pool->waiting = piece->next;
        if (pool->waiting == NULL)
            pool->waiting_end = &pool->waiting;
    }
    pthread_mutex_unlock(&pool->mutex);
    return piece;
}

static int64_t piece_read(int descriptor, const coterie_piece_t *piece)
{
    ssize_t got;

    do
        got = pread(descriptor, piece->data, piece->size,
                    (off_t)piece->offset);
    while (got < 0 && errno == EINTR);
    return got < 0 ? -errno : got;
}
