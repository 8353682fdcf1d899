#include "config.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "experts/store.h"
#include "offload/reader.h"
#include "offload/reader_open.h"

enum {
    DEPTH = COTERIE_READER_FLIGHT / COTERIE_STORE_CHUNK,
    CHUNKS = DEPTH + 1, /* one is verified while DEPTH are under way */
    TRIES_MOST = 3
};

typedef struct queue {
    coterie_read_t *first, *last;
} queue_t;

struct coterie_reader {
    coterie_reader_options_t options;
    coterie_io_setup_t setup;
    bool direct;
    pthread_t thread;
    pthread_mutex_t mutex; /* guards what follows */
    coterie_io_t *io;
    bool refused; /* io takes no more: another one must */
    bool dead;    /* and there is no other */
    bool closing;
    queue_t queues[COTERIE_URGENCY_COUNT];
    coterie_chunk_t chunks[CHUNKS];
    coterie_chunk_t *spare, *again; /* lists: unused, and to be tried again */
    uint32_t under_way;
    uint64_t bytes, retries;
};

static void *reader_main(void *arg);
static bool fill(coterie_reader_t *reader);
static void submit(coterie_reader_t *reader, coterie_chunk_t *chunk);
static coterie_chunk_t *chunk_pick(coterie_reader_t *reader);
static coterie_chunk_t *chunk_cut(coterie_reader_t *reader);
static void replace_io(coterie_reader_t *reader);
static void chunk_landed(coterie_reader_t *reader, coterie_chunk_t *chunk);
static bool chunk_good(const coterie_chunk_t *chunk);
static void chunk_settle(coterie_reader_t *reader, coterie_chunk_t *chunk,
                         bool good);
static void read_fail(coterie_reader_t *reader, coterie_read_t *read,
                      const coterie_chunk_t *chunk);
static void chunk_release(coterie_reader_t *reader, coterie_chunk_t *chunk);
static void queue_add(coterie_reader_t *reader, coterie_read_t *read);
static void queue_remove(coterie_reader_t *reader, coterie_read_t *read);

coterie_status_t coterie_reader_create(const coterie_reader_options_t *options,
                                       coterie_reader_t **reader_p)
{
    coterie_reader_t *reader = calloc(1, sizeof(*reader));
    coterie_status_t status;

    if (reader == NULL)
        return coterie_fail_memory(sizeof(*reader), "a reader");
    reader->options = *options;
    reader->setup = (coterie_io_setup_t){.descriptor = -1,
                                         .arena = options->arena,
                                         .record_size = options->record_size,
                                         .depth = DEPTH};
    for (size_t i = 0; i < CHUNKS; i++)
        chunk_release(reader, &reader->chunks[i]);
    pthread_mutex_init(&reader->mutex, NULL);
    status = coterie_reader_file_open(options->file, &reader->setup.descriptor,
                                      &reader->direct);
    if (status == COTERIE_OK)
        status = coterie_reader_io_open(&reader->setup, options->io,
                                        reader->direct, &reader->io);
    if (status == COTERIE_OK &&
        pthread_create(&reader->thread, NULL, reader_main, reader) != 0) {
        reader->io->ops->close(reader->io);
        reader->io = NULL;
        status = coterie_fail(COTERIE_ERR_NO_MEMORY,
                              "the system starts no thread to read with");
    }
    if (status == COTERIE_OK) {
        *reader_p = reader;
        return COTERIE_OK;
    }
    if (reader->setup.descriptor >= 0)
        close(reader->setup.descriptor);
    pthread_mutex_destroy(&reader->mutex);
    free(reader);
    return status;
}

void coterie_reader_start(coterie_reader_t *reader, coterie_read_t *read,
                          coterie_urgency_t urgency)
{
    pthread_mutex_lock(&reader->mutex);
    assert(!read->queued && read->under_way == 0);
    read->urgency = urgency;
    read->chunk_next = 0;
    read->chunk_count = (uint32_t)coterie_store_chunks(read->size);
    read->bytes = 0;
    read->dropped = false;
    read->status = COTERIE_OK;
    queue_add(reader, read);
    reader->io->ops->wake(reader->io);
    pthread_mutex_unlock(&reader->mutex);
}

void coterie_reader_promote(coterie_reader_t *reader, coterie_read_t *read)
{
    pthread_mutex_lock(&reader->mutex);
    if (read->urgency != COTERIE_URGENCY_DEMAND || read->dropped) {
        if (read->queued)
            queue_remove(reader, read);
        read->urgency = COTERIE_URGENCY_DEMAND;
        read->dropped = false;
        if (read->chunk_next < read->chunk_count &&
            read->status == COTERIE_OK)
            queue_add(reader, read);
        reader->io->ops->wake(reader->io);
    }
    pthread_mutex_unlock(&reader->mutex);
}

bool coterie_reader_drop(coterie_reader_t *reader, coterie_read_t *read)
{
    bool gone;

    pthread_mutex_lock(&reader->mutex);
    gone = read->queued && read->under_way == 0;
    if (read->queued) {
        queue_remove(reader, read);
        read->dropped = true;
    }
    pthread_mutex_unlock(&reader->mutex);
    return gone;
}

coterie_status_t coterie_reader_explain(const coterie_reader_t *reader,
                                        const coterie_read_t *read)
{
    const char *path = reader->options.file->path;
    uint64_t at =
        read->offset + (uint64_t)read->bad_chunk * COTERIE_STORE_CHUNK;

    if (read->status == COTERIE_ERR_CORRUPT)
        return coterie_fail(read->status,
                            "%s: expert (%u, %u): chunk %u of %u: checksum "
                            "mismatch; pack the model again",
                            path, read->layer, read->expert,
                            read->bad_chunk + 1, read->chunk_count);
    if (read->bad_result < 0)
        return coterie_fail(read->status, "%s: expert (%u, %u): byte %" PRIu64
                            ": %s", path, read->layer, read->expert, at,
                            strerror((int)-read->bad_result));
    return coterie_fail(read->status,
                        "%s: expert (%u, %u): ends at byte %" PRIu64
                        ", within a record",
                        path, read->layer, read->expert,
                        at + (uint64_t)read->bad_result);
}

void coterie_reader_describe(coterie_reader_t *reader, char *text, size_t size)
{
    pthread_mutex_lock(&reader->mutex);
    snprintf(text, size, "%s, %s, %s", reader->io->ops->name,
             reader->direct ? "direct" : "through the page cache",
             reader->options.arena->pages);
    pthread_mutex_unlock(&reader->mutex);
}

void coterie_reader_counts(coterie_reader_t *reader, uint64_t *bytes_p,
                           uint64_t *retries_p)
{
    pthread_mutex_lock(&reader->mutex);
    *bytes_p = reader->bytes;
    *retries_p = reader->retries;
    pthread_mutex_unlock(&reader->mutex);
}

void coterie_reader_destroy(coterie_reader_t *reader)
{
    if (reader == NULL)
        return;
    pthread_mutex_lock(&reader->mutex);
    reader->closing = true;
    reader->io->ops->wake(reader->io);
    pthread_mutex_unlock(&reader->mutex);
    pthread_join(reader->thread, NULL);
    reader->io->ops->close(reader->io);
    close(reader->setup.descriptor);
    pthread_mutex_destroy(&reader->mutex);
    free(reader);
}

static void *reader_main(void *arg)
{
    coterie_reader_t *reader = arg;

    while (fill(reader)) {
        coterie_chunk_t *chunk = reader->io->ops->wait(reader->io);

        if (chunk != NULL)
            chunk_landed(reader, chunk);
    }
    return NULL;
}

/* False when the reader closes and nothing is under way any more. */
static bool fill(coterie_reader_t *reader)
{
    coterie_chunk_t *chunk;
    bool more;

    while ((chunk = chunk_pick(reader)) != NULL)
        submit(reader, chunk);
    pthread_mutex_lock(&reader->mutex);
    more = !reader->closing || reader->under_way > 0;
    pthread_mutex_unlock(&reader->mutex);
    return more;
}

static void submit(coterie_reader_t *reader, coterie_chunk_t *chunk)
{
    if (!reader->dead && reader->io->ops->submit(reader->io, chunk))
        return;
    pthread_mutex_lock(&reader->mutex);
    reader->under_way--;
    if (!reader->dead) {
        reader->refused = true;
        chunk->next = reader->again;
        reader->again = chunk;
        replace_io(reader);
    }
    pthread_mutex_unlock(&reader->mutex);
    if (reader->dead) {
        chunk->result = -EIO;
        chunk->tries = TRIES_MOST;
        chunk_settle(reader, chunk, false);
    }
}

/* What failed goes first: it is the oldest. */
static coterie_chunk_t *chunk_pick(coterie_reader_t *reader)
{
    coterie_chunk_t *chunk = NULL;

    pthread_mutex_lock(&reader->mutex);
    if (!reader->refused && !reader->closing && reader->under_way < DEPTH) {
        chunk = reader->again;
        if (chunk != NULL)
            reader->again = chunk->next;
        else
            chunk = chunk_cut(reader);
    }
    if (chunk != NULL) {
        chunk->tries++;
        reader->under_way++;
    }
    pthread_mutex_unlock(&reader->mutex);
    return chunk;
}

/* The next chunk of the most urgent read; NULL if none is queued. */
static coterie_chunk_t *chunk_cut(coterie_reader_t *reader)
{
    coterie_read_t *read = reader->queues[COTERIE_URGENCY_DEMAND].first;
    coterie_chunk_t *chunk = reader->spare;
    uint64_t at;

    if (read == NULL)
        read = reader->queues[COTERIE_URGENCY_GUESS].first;
    if (read == NULL)
        return NULL;
    assert(chunk != NULL && read->chunk_next < read->chunk_count);
    reader->spare = chunk->next;
    at = (uint64_t)read->chunk_next * COTERIE_STORE_CHUNK;
    chunk->read = read;
    chunk->offset = read->offset + at;
    chunk->data = (unsigned char *)read->data + at;
    chunk->size = read->size - at < COTERIE_STORE_CHUNK
                      ? (uint32_t)(read->size - at)
                      : COTERIE_STORE_CHUNK;
    chunk->tries = 0;
    read->under_way++;
    if (++read->chunk_next == read->chunk_count)
        queue_remove(reader, read);
    return chunk;
}

/* Once the backend that refused has given back everything it had. */
static void replace_io(coterie_reader_t *reader)
{
    coterie_io_t *old = reader->io;

    if (!reader->refused || reader->dead || reader->under_way > 0)
        return;
    if (old->ops == &coterie_io_pool ||
        coterie_reader_io_open(&reader->setup, &coterie_io_pool,
                               reader->direct, &reader->io) != COTERIE_OK)
        reader->dead = true;
    else
        old->ops->close(old);
    if (!reader->dead)
        coterie_reader_announce("io_uring is refused from now on");
    reader->refused = false;
}

/* The next chunk goes out before this one is verified: the drive is never idle
 * for that. */
static void chunk_landed(coterie_reader_t *reader, coterie_chunk_t *chunk)
{
    bool good;

    pthread_mutex_lock(&reader->mutex);
    reader->under_way--;
    replace_io(reader);
    pthread_mutex_unlock(&reader->mutex);
    fill(reader);
    good = chunk_good(chunk);
    chunk_settle(reader, chunk, good);
}

static bool chunk_good(const coterie_chunk_t *chunk)
{
    const coterie_read_t *read = chunk->read;
    uint64_t ordinal = (chunk->offset - read->offset) / COTERIE_STORE_CHUNK;

    return chunk->result == chunk->size &&
           coterie_store_hash(chunk->data, chunk->size) ==
               read->hashes[ordinal];
}

static void chunk_settle(coterie_reader_t *reader, coterie_chunk_t *chunk,
                         bool good)
{
    coterie_read_t *read = chunk->read;
    bool finished;

    pthread_mutex_lock(&reader->mutex);
    reader->bytes += chunk->size;
    read->bytes += chunk->size;
    if (!good && !read->dropped && read->status == COTERIE_OK) {
        if (chunk->tries < TRIES_MOST) {
            reader->retries++;
            chunk->next = reader->again;
            reader->again = chunk;
            pthread_mutex_unlock(&reader->mutex);
            return;
        }
        read_fail(reader, read, chunk);
    }
    chunk_release(reader, chunk);
    finished = --read->under_way == 0 && !read->queued;
    if (finished && read->dropped && read->status == COTERIE_OK)
        read->status = COTERIE_ERR_INTERRUPTED;
    pthread_mutex_unlock(&reader->mutex);
    if (finished)
        reader->options.done(reader->options.arg, read);
}

static void read_fail(coterie_reader_t *reader, coterie_read_t *read,
                      const coterie_chunk_t *chunk)
{
    read->status = chunk->result == chunk->size ? COTERIE_ERR_CORRUPT
                                                : COTERIE_ERR_IO;
    read->bad_result = chunk->result;
    read->bad_chunk =
        (uint32_t)((chunk->offset - read->offset) / COTERIE_STORE_CHUNK);
    if (read->queued)
        queue_remove(reader, read);
}

static void chunk_release(coterie_reader_t *reader, coterie_chunk_t *chunk)
{
    chunk->next = reader->spare;
    reader->spare = chunk;
}

static void queue_add(coterie_reader_t *reader, coterie_read_t *read)
{
    queue_t *queue = &reader->queues[read->urgency];

    read->previous = queue->last;
    read->next = NULL;
    if (queue->last != NULL)
        queue->last->next = read;
    else
        queue->first = read;
    queue->last = read;
    read->queued = true;
}

static void queue_remove(coterie_reader_t *reader, coterie_read_t *read)
{
    queue_t *queue = &reader->queues[read->urgency];

    if (read->previous != NULL)
        read->previous->next = read->next;
    else
        queue->first = read->next;
    if (read->next != NULL)
        read->next->previous = read->previous;
    else
        queue->last = read->previous;
    read->queued = false;
}
