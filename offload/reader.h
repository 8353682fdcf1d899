#ifndef COTERIE_OFFLOAD_READER_H
#define COTERIE_OFFLOAD_READER_H
/* Reads records of an expert store into an arena: cut into pieces of which few
 * are under way at a time, so that a read that somebody waits for never waits
 * long behind those that somebody guessed. One thread of the reader's own
 * takes what has arrived, verifies checksums and tries again what went wrong;
 * pieces are submitted by it and by whoever has a read to begin. */
#include <coterie/tiers.h>

#include "experts/datafile.h"
#include "offload/reader_io.h"

/* Bytes under way at most. What is under way is latency for the demand that
 * comes next, on a drive that answers all it has at once even twice as much: a
 * demand of a chunk beside guesses is done when at most 4 MiB are. Where one
 * rank waits, all demands are of the set that it waits for: one that is begun
 * goes out whole, and another is begun as long as that leaves half of what is
 * demanded for later, or few bytes are under way. For what comes last is
 * verified and computed while the drive rests, and where a drive answers all it
 * has at once, all of that comes last. Where several ranks wait, nobody's
 * demand is behind more than 4 MiB. */
enum {
    COTERIE_READER_ALONE = 32 << 20,
    COTERIE_READER_BEGUN = 8 << 20,
    COTERIE_READER_TOGETHER = 4 << 20,
    COTERIE_READER_GUESSES = 2 << 20
};

typedef enum coterie_urgency {
    COTERIE_URGENCY_DEMAND, /* somebody waits */
    COTERIE_URGENCY_GUESS,
    COTERIE_URGENCY_COUNT
} coterie_urgency_t;

/* One record's read. The first members are the caller's and stay until done is
 * called; the others are the reader's, and begin as zero. */
typedef struct coterie_read {
    uint32_t layer, expert; /* its name */
    struct coterie_reader *reader; /* for who has several */
    uint64_t offset, size;
    const uint64_t *hashes; /* of its chunks, of COTERIE_STORE_CHUNK bytes;
                             * NULL: there are none to verify */
    void *data;

    struct coterie_read *previous, *next; /* in a queue, while chunks remain */
    coterie_urgency_t urgency;
    uint32_t chunk_next, chunk_count;
    uint32_t under_way; /* pieces, until they are verified */
    uint64_t bytes; /* that came so far, again if tried again */
    bool queued, dropped;
    coterie_status_t status; /* and for a failure, where and why: */
    uint32_t bad_chunk;
    int64_t bad_result; /* as a chunk's; the full size: wrong bytes */
} coterie_read_t;

/* On the reader's thread, which holds no lock then. read->status: OK, the
 * failure, or ERR_INTERRUPTED if it was dropped. */
typedef void (*coterie_read_done_fn)(void *arg, coterie_read_t *read);

typedef struct coterie_reader_options {
    const coterie_datafile_t *file; /* its path is opened again */
    const coterie_arena_t *arena;
    size_t record_size;
    coterie_read_done_fn done;
    void *arg;
    coterie_polling_t polling;
    const coterie_io_ops_t *io; /* NULL: the best that works here */
} coterie_reader_options_t;

typedef struct coterie_reader coterie_reader_t;

/* Says once per process, on stderr, if it has to do without io_uring or
 * without direct reads.
 * @return ERR_MISMATCH if another file has the path now */
coterie_status_t coterie_reader_create(const coterie_reader_options_t *options,
                                       coterie_reader_t **reader_p);

/* How many wait for demands, each for its own; one at first. Any thread, like
 * the calls below. */
void coterie_reader_waiters(coterie_reader_t *reader, uint32_t count);

/* Queues a read that is not under way. */
void coterie_reader_start(coterie_reader_t *reader, coterie_read_t *read,
                          coterie_urgency_t urgency);

/* Makes a started guess a demand, and takes back a drop that is not yet done;
 * a demand stays as it is. */
void coterie_reader_promote(coterie_reader_t *reader, coterie_read_t *read);

/* Forgets the chunks of a started read that are not yet under way. True: there
 * is nothing left of it, and done will not be called. */
bool coterie_reader_drop(coterie_reader_t *reader, coterie_read_t *read);

/* Stores why a read failed, for coterie_last_error; returns its status. */
coterie_status_t coterie_reader_explain(const coterie_reader_t *reader,
                                        const coterie_read_t *read);

/* Such as "io_uring, direct, transparent huge pages". */
void coterie_reader_describe(coterie_reader_t *reader, char *text,
                             size_t size);

/* Bytes verified or failed so far, and chunks tried again. */
void coterie_reader_counts(coterie_reader_t *reader, uint64_t *bytes_p,
                           uint64_t *retries_p);

/* Drops what is queued, waits for what is under way, and calls done for
 * neither, nor ever again; reads may still be started, and come to nothing. */
void coterie_reader_stop(coterie_reader_t *reader);

/* Stops it first. Accepts NULL. */
void coterie_reader_destroy(coterie_reader_t *reader);

#endif
