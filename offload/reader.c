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

/* What one rank waits for comes in larger pieces, which cost less; all else in
 * small ones, so that a demand is never far from its turn. */
enum {
    PIECE_ALONE = 2 * COTERIE_STORE_CHUNK,
    DEPTH = 32,         /* pieces under way, if they are small, */
    GUESSES = 4,        /* and those on guesses */
    PIECES = 2 * DEPTH, /* as many wait for being verified */
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
    pthread_mutex_t submitting; /* held by whoever calls io's submit, and
                                 * taken before the other */
    pthread_mutex_t mutex; /* guards what follows */
    coterie_io_t *io;
    bool refused; /* io takes no more: the thread looks for another one, */
    bool dead;    /* of which there is none */
    bool closing;
    bool alone; /* whoever waits */
    queue_t queues[COTERIE_URGENCY_COUNT];
    coterie_piece_t pieces[PIECES];
    coterie_piece_t *spare, *again; /* lists: unused, and to be tried again */
    uint32_t under_way;
    size_t flight, flight_guesses; /* bytes of these, and those on guesses */
    uint64_t demanded; /* bytes of demands that are not under way */
    uint64_t bytes, retries;
    coterie_piece_t *landed; /* the thread's: to be verified, in that order */
};

static void stir(coterie_reader_t *reader);
static void *reader_main(void *arg);
static bool fill(coterie_reader_t *reader);
static void push(coterie_reader_t *reader);
static void submit(coterie_reader_t *reader, coterie_piece_t *piece);
static coterie_piece_t *piece_pick(coterie_reader_t *reader);
static coterie_piece_t *piece_next(coterie_reader_t *reader);
static coterie_piece_t *piece_cut(coterie_reader_t *reader);
static coterie_read_t *read_next(const coterie_reader_t *reader,
                                 size_t *size_p);
static size_t demands_most(const coterie_reader_t *reader,
                           const coterie_read_t *read);
static uint64_t read_left(const coterie_read_t *read);
static size_t piece_size(const coterie_read_t *read, size_t most);
static bool replace_io(coterie_reader_t *reader);
static void lost_settle(coterie_reader_t *reader);
static void flight_change(coterie_reader_t *reader,
                          const coterie_piece_t *piece, bool begins);
static void piece_landed(coterie_reader_t *reader, coterie_piece_t *piece);
static void piece_verify(coterie_reader_t *reader);
static bool piece_good(const coterie_piece_t *piece, uint32_t *bad_p);
static void piece_settle(coterie_reader_t *reader, coterie_piece_t *piece,
                         bool good, uint32_t bad);
static void read_fail(coterie_reader_t *reader, const coterie_piece_t *piece,
                      uint32_t bad);
static void piece_release(coterie_reader_t *reader, coterie_piece_t *piece);
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
    reader->alone = true;
    reader->setup = (coterie_io_setup_t){.descriptor = -1,
                                         .arena = options->arena,
                                         .record_size = options->record_size,
                                         .depth = DEPTH};
    for (size_t i = 0; i < PIECES; i++)
        piece_release(reader, &reader->pieces[i]);
    pthread_mutex_init(&reader->mutex, NULL);
    pthread_mutex_init(&reader->submitting, NULL);
    status = coterie_reader_file_open(options->file, &reader->setup.descriptor,
                                      &reader->direct);
    if (status == COTERIE_OK)
        status = options->io != NULL
                     ? options->io->open(&reader->setup, &reader->io)
                     : coterie_reader_io_open(&reader->setup, reader->direct,
                                              options->polling, &reader->io);
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
    pthread_mutex_destroy(&reader->submitting);
    pthread_mutex_destroy(&reader->mutex);
    free(reader);
    return status;
}

void coterie_reader_waiters(coterie_reader_t *reader, uint32_t count)
{
    pthread_mutex_lock(&reader->mutex);
    reader->alone = count <= 1;
    pthread_mutex_unlock(&reader->mutex);
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
    pthread_mutex_unlock(&reader->mutex);
    stir(reader);
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
    }
    pthread_mutex_unlock(&reader->mutex);
    stir(reader);
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

void coterie_reader_stop(coterie_reader_t *reader)
{
    bool stopped;

    pthread_mutex_lock(&reader->mutex);
    stopped = reader->closing;
    reader->closing = true;
    reader->io->ops->wake(reader->io);
    pthread_mutex_unlock(&reader->mutex);
    if (!stopped)
        pthread_join(reader->thread, NULL);
}

void coterie_reader_destroy(coterie_reader_t *reader)
{
    if (reader == NULL)
        return;
    coterie_reader_stop(reader);
    reader->io->ops->close(reader->io);
    close(reader->setup.descriptor);
    pthread_mutex_destroy(&reader->submitting);
    pthread_mutex_destroy(&reader->mutex);
    free(reader);
}

/* Whoever has a read to begin submits it: faster than to wake another for that.
 * The reader's own, in a call of done, looks before it waits again. */
static void stir(coterie_reader_t *reader)
{
    if (pthread_equal(pthread_self(), reader->thread))
        return;
    push(reader);
    pthread_mutex_lock(&reader->mutex);
    if (reader->refused)
        reader->io->ops->wake(reader->io);
    pthread_mutex_unlock(&reader->mutex);
}

/* Whatever has arrived is replaced by what is next before any of it is
 * verified, so that the drive is never idle for that. */
static void *reader_main(void *arg)
{
    coterie_reader_t *reader = arg;

    while (fill(reader)) {
        coterie_piece_t *piece =
            reader->io->ops->wait(reader->io, reader->landed == NULL);

        if (piece != NULL)
            piece_landed(reader, piece);
        else if (reader->landed != NULL)
            piece_verify(reader);
    }
    return NULL;
}

/* False when the reader closes and nothing is under way any more. */
static bool fill(coterie_reader_t *reader)
{
    bool more;

    do
        push(reader);
    while (replace_io(reader));
    lost_settle(reader);
    pthread_mutex_lock(&reader->mutex);
    more = !reader->closing || reader->under_way > 0;
    pthread_mutex_unlock(&reader->mutex);
    return more;
}

static void push(coterie_reader_t *reader)
{
    coterie_piece_t *piece;

    pthread_mutex_lock(&reader->submitting);
    while ((piece = piece_pick(reader)) != NULL)
        submit(reader, piece);
    pthread_mutex_unlock(&reader->submitting);
}

/* No io is replaced while a piece is under way, as this one is. */
static void submit(coterie_reader_t *reader, coterie_piece_t *piece)
{
    if (reader->io->ops->submit(reader->io, piece))
        return;
    pthread_mutex_lock(&reader->mutex);
    flight_change(reader, piece, false);
    reader->refused = true;
    piece->next = reader->again;
    reader->again = piece;
    pthread_mutex_unlock(&reader->mutex);
}

static coterie_piece_t *piece_pick(coterie_reader_t *reader)
{
    coterie_piece_t *piece = NULL;

    pthread_mutex_lock(&reader->mutex);
    if (!reader->refused && !reader->closing && reader->under_way < DEPTH)
        piece = piece_next(reader);
    if (piece != NULL) {
        piece->tries++;
        flight_change(reader, piece, true);
    }
    pthread_mutex_unlock(&reader->mutex);
    return piece;
}

/* What failed goes first: it is the oldest. */
static coterie_piece_t *piece_next(coterie_reader_t *reader)
{
    coterie_piece_t *piece = reader->again;

    if (piece == NULL)
        return piece_cut(reader);
    reader->again = piece->next;
    return piece;
}

/* The next piece of the most urgent read; NULL if none may go out now. */
static coterie_piece_t *piece_cut(coterie_reader_t *reader)
{
    size_t size;
    coterie_read_t *read = read_next(reader, &size);
    coterie_piece_t *piece = reader->spare;
    uint64_t at;

    if (read == NULL || piece == NULL)
        return NULL;
    assert(read->chunk_next < read->chunk_count);
    reader->spare = piece->next;
    at = (uint64_t)read->chunk_next * COTERIE_STORE_CHUNK;
    *piece = (coterie_piece_t){.read = read,
                               .offset = read->offset + at,
                               .data = (unsigned char *)read->data + at,
                               .size = (uint32_t)size,
                               .guess =
                                   read->urgency == COTERIE_URGENCY_GUESS};
    read->under_way++;
    if (!piece->guess)
        reader->demanded -= size;
    read->chunk_next += (uint32_t)coterie_store_chunks(size);
    if (read->chunk_next == read->chunk_count)
        queue_remove(reader, read);
    return piece;
}

/* Guesses wait until no demand is under way. Nothing is cut smaller to fit in,
 * or large pieces would never come about. */
static coterie_read_t *read_next(const coterie_reader_t *reader,
                                 size_t *size_p)
{
    coterie_read_t *read = reader->queues[COTERIE_URGENCY_DEMAND].first;

    if (read != NULL) {
        *size_p = piece_size(read, reader->alone ? PIECE_ALONE
                                                 : COTERIE_STORE_CHUNK);
        return reader->flight + *size_p <= demands_most(reader, read) ? read
                                                                      : NULL;
    }
    read = reader->queues[COTERIE_URGENCY_GUESS].first;
    if (read == NULL || reader->flight > reader->flight_guesses ||
        reader->under_way >= GUESSES)
        return NULL;
    *size_p = piece_size(read, COTERIE_STORE_CHUNK);
    return reader->flight + *size_p <= COTERIE_READER_GUESSES ? read : NULL;
}

static size_t demands_most(const coterie_reader_t *reader,
                           const coterie_read_t *read)
{
    uint64_t half = (reader->flight + reader->demanded) / 2;

    if (!reader->alone)
        return COTERIE_READER_TOGETHER;
    if (read->chunk_next > 0 || half > COTERIE_READER_ALONE)
        return COTERIE_READER_ALONE;
    return half > COTERIE_READER_BEGUN ? half : COTERIE_READER_BEGUN;
}

static uint64_t read_left(const coterie_read_t *read)
{
    uint64_t at = (uint64_t)read->chunk_next * COTERIE_STORE_CHUNK;

    return at < read->size ? read->size - at : 0;
}

static size_t piece_size(const coterie_read_t *read, size_t most)
{
    uint64_t left = read_left(read);

    return left < most ? (size_t)left : most;
}

/* Once the backend that refused has given back everything it had.
 * @return whether there is another one to try */
static bool replace_io(coterie_reader_t *reader)
{
    coterie_io_t *old = reader->io;
    bool due, replaced = false;

    pthread_mutex_lock(&reader->mutex);
    due = reader->refused && !reader->dead && reader->under_way == 0;
    if (due) {
        replaced = old->ops != &coterie_io_pool &&
                   coterie_io_pool.open(&reader->setup, &reader->io) ==
                       COTERIE_OK;
        reader->dead = !replaced;
        reader->refused = !replaced;
    }
    pthread_mutex_unlock(&reader->mutex);
    if (replaced) {
        old->ops->close(old);
        coterie_reader_announce("io_uring is refused from now on");
    }
    return replaced;
}

/* What nothing reads any more fails. */
static void lost_settle(coterie_reader_t *reader)
{
    coterie_piece_t *piece;

    for (;;) {
        pthread_mutex_lock(&reader->mutex);
        piece = reader->dead && !reader->closing ? piece_next(reader) : NULL;
        pthread_mutex_unlock(&reader->mutex);
        if (piece == NULL)
            return;
        piece->result = -EIO;
        piece->tries = TRIES_MOST;
        piece_settle(reader, piece, false, 0);
    }
}

static void flight_change(coterie_reader_t *reader,
                          const coterie_piece_t *piece, bool begins)
{
    size_t change = begins ? piece->size : -(size_t)piece->size;

    reader->under_way += begins ? 1 : -1u;
    reader->flight += change;
    if (piece->guess)
        reader->flight_guesses += change;
}

/* Demands are verified before guesses. */
static void piece_landed(coterie_reader_t *reader, coterie_piece_t *piece)
{
    coterie_piece_t **place = &reader->landed;

    while (*place != NULL && (piece->guess || !(*place)->guess))
        place = &(*place)->next;
    piece->next = *place;
    *place = piece;
    pthread_mutex_lock(&reader->mutex);
    flight_change(reader, piece, false);
    pthread_mutex_unlock(&reader->mutex);
}

static void piece_verify(coterie_reader_t *reader)
{
    coterie_piece_t *piece = reader->landed;
    uint32_t bad = 0;
    bool good;

    reader->landed = piece->next;
    good = piece_good(piece, &bad);
    piece_settle(reader, piece, good, bad);
}

/* @param bad_p  the first of its chunks that is not what it should be */
static bool piece_good(const coterie_piece_t *piece, uint32_t *bad_p)
{
    const coterie_read_t *read = piece->read;
    const uint64_t *hashes;

    *bad_p = 0;
    if (piece->result != piece->size)
        return false;
    if (read->hashes == NULL)
        return true;
    hashes = read->hashes +
             (piece->offset - read->offset) / COTERIE_STORE_CHUNK;
    for (size_t at = 0; at < piece->size; at += COTERIE_STORE_CHUNK) {
        size_t left = piece->size - at;

        *bad_p = (uint32_t)(at / COTERIE_STORE_CHUNK);
        if (coterie_store_hash((const char *)piece->data + at,
                               left < COTERIE_STORE_CHUNK
                                   ? left
                                   : COTERIE_STORE_CHUNK) != hashes[*bad_p])
            return false;
    }
    return true;
}

static void piece_settle(coterie_reader_t *reader, coterie_piece_t *piece,
                         bool good, uint32_t bad)
{
    coterie_read_t *read = piece->read;
    bool finished;

    pthread_mutex_lock(&reader->mutex);
    reader->bytes += piece->size;
    read->bytes += piece->size;
    if (!good && !read->dropped && read->status == COTERIE_OK) {
        if (piece->tries < TRIES_MOST) {
            reader->retries++;
            piece->next = reader->again;
            reader->again = piece;
            pthread_mutex_unlock(&reader->mutex);
            return;
        }
        read_fail(reader, piece, bad);
    }
    piece_release(reader, piece);
    finished = --read->under_way == 0 && !read->queued;
    if (finished && read->dropped && read->status == COTERIE_OK)
        read->status = COTERIE_ERR_INTERRUPTED;
    pthread_mutex_unlock(&reader->mutex);
    if (finished)
        reader->options.done(reader->options.arg, read);
}

static void read_fail(coterie_reader_t *reader, const coterie_piece_t *piece,
                      uint32_t bad)
{
    coterie_read_t *read = piece->read;

    read->status = piece->result == piece->size ? COTERIE_ERR_CORRUPT
                                                : COTERIE_ERR_IO;
    read->bad_result = piece->result;
    read->bad_chunk =
        (uint32_t)((piece->offset - read->offset) / COTERIE_STORE_CHUNK) + bad;
    if (read->queued)
        queue_remove(reader, read);
}

static void piece_release(coterie_reader_t *reader, coterie_piece_t *piece)
{
    piece->next = reader->spare;
    reader->spare = piece;
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
    if (read->urgency == COTERIE_URGENCY_DEMAND)
        reader->demanded += read_left(read);
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
    if (read->urgency == COTERIE_URGENCY_DEMAND)
        reader->demanded -= read_left(read);
}
