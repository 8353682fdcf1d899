#include "config.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <liburing.h>

#include "base/error.h"
#include "offload/reader_io.h"

enum {
    BLOCK = 4096,
    PIECE_MOST = 1 << 30, /* the kernel's limit of one registered buffer */
    PIECES_MOST = 1 << 14 /* and of their number */
};

typedef struct ring {
    coterie_io_t base;
    struct io_uring uring;
    int event; /* both completions and wakes signal it */
    const unsigned char *arena;
    size_t arena_size;
    size_t buffer; /* bytes of one registered buffer; 0: none are */
    bool woken;
    bool polled;        /* completions come by looking for them */
    uint32_t under_way;
} ring_t;

static coterie_status_t ring_open_plain(const coterie_io_setup_t *setup,
                                        coterie_io_t **io_p);
static coterie_status_t ring_open_sqpoll(const coterie_io_setup_t *setup,
                                         coterie_io_t **io_p);
static coterie_status_t ring_open_iopoll(const coterie_io_setup_t *setup,
                                         coterie_io_t **io_p);
static bool ring_submit(coterie_io_t *io, coterie_piece_t *piece);
static coterie_piece_t *ring_wait(coterie_io_t *io, bool block);
static void ring_wake(coterie_io_t *io);
static void ring_close(coterie_io_t *io);

#define RING_OPS(name, open) \
    {name, open, ring_submit, ring_wait, ring_wake, ring_close}

const coterie_io_ops_t coterie_io_uring =
    RING_OPS("io_uring", ring_open_plain);
const coterie_io_ops_t coterie_io_sqpoll =
    RING_OPS("io_uring with SQPOLL", ring_open_sqpoll);
const coterie_io_ops_t coterie_io_iopoll =
    RING_OPS("io_uring with IOPOLL", ring_open_iopoll);

static coterie_status_t ring_open(const coterie_io_setup_t *setup,
                                  const coterie_io_ops_t *ops,
                                  unsigned flags, coterie_io_t **io_p);
static void ring_signal(ring_t *ring);
static int ring_try(ring_t *ring, const coterie_io_setup_t *setup);
static int ring_register(ring_t *ring, const coterie_io_setup_t *setup);
static void buffers_register(ring_t *ring, const coterie_io_setup_t *setup);

static coterie_status_t ring_open_plain(const coterie_io_setup_t *setup,
                                        coterie_io_t **io_p)
{
    return ring_open(setup, &coterie_io_uring, 0, io_p);
}

static coterie_status_t ring_open_sqpoll(const coterie_io_setup_t *setup,
                                         coterie_io_t **io_p)
{
    return ring_open(setup, &coterie_io_sqpoll, IORING_SETUP_SQPOLL, io_p);
}

static coterie_status_t ring_open_iopoll(const coterie_io_setup_t *setup,
                                         coterie_io_t **io_p)
{
    return ring_open(setup, &coterie_io_iopoll, IORING_SETUP_IOPOLL, io_p);
}

static bool ring_submit(coterie_io_t *io, coterie_piece_t *piece)
{
    ring_t *ring = (ring_t *)io;
    struct io_uring_sqe *sqe = io_uring_get_sqe(&ring->uring);
    size_t at = (size_t)((unsigned char *)piece->data - ring->arena);
    int taken;

    if (sqe == NULL)
        return false;
    if (ring->buffer > 0 && at < ring->arena_size) /* else not registered */
        io_uring_prep_read_fixed(sqe, 0, piece->data, piece->size,
                                 piece->offset, (int)(at / ring->buffer));
    else
        io_uring_prep_read(sqe, 0, piece->data, piece->size, piece->offset);
    io_uring_sqe_set_flags(sqe, IOSQE_FIXED_FILE);
    io_uring_sqe_set_data(sqe, piece);
    __atomic_add_fetch(&ring->under_way, 1, __ATOMIC_RELEASE);
    do
        taken = io_uring_submit(&ring->uring);
    while (taken == -EINTR);
    if (taken < 1) { /* with SQPOLL, those before may be counted again */
        __atomic_sub_fetch(&ring->under_way, 1, __ATOMIC_RELAXED);
        return false;
    }
    if (ring->polled) /* by a thread that may be asleep */
        ring_signal(ring);
    return true;
}

/* Not io_uring_wait_cqe: completions are seen in shared memory and signalled
 * by the eventfd, so that they still come in if the kernel should refuse any
 * further call. */
static coterie_piece_t *ring_wait(coterie_io_t *io, bool block)
{
    ring_t *ring = (ring_t *)io;
    struct io_uring_cqe *cqe;
    uint64_t signals;

    while (io_uring_peek_cqe(&ring->uring, &cqe) != 0) {
        if (!block)
            return NULL;
        if (__atomic_exchange_n(&ring->woken, false, __ATOMIC_ACQUIRE))
            return NULL;
        if (ring->polled &&
            __atomic_load_n(&ring->under_way, __ATOMIC_ACQUIRE) > 0)
            io_uring_wait_cqe(&ring->uring, &cqe);
        else
            (void)!read(ring->event, &signals, sizeof(signals));
    }
    coterie_piece_t *piece = io_uring_cqe_get_data(cqe);
    /* Whatever who submitted it wrote is seen from here on. */
    __atomic_sub_fetch(&ring->under_way, 1, __ATOMIC_ACQUIRE);
    piece->result = cqe->res;
    io_uring_cqe_seen(&ring->uring, cqe);
    return piece;
}

static void ring_wake(coterie_io_t *io)
{
    ring_t *ring = (ring_t *)io;

    __atomic_store_n(&ring->woken, true, __ATOMIC_RELEASE);
    ring_signal(ring);
}

static void ring_close(coterie_io_t *io)
{
    ring_t *ring = (ring_t *)io;

    io_uring_queue_exit(&ring->uring);
    if (ring->event >= 0)
        close(ring->event);
    free(ring);
}

static coterie_status_t ring_open(const coterie_io_setup_t *setup,
                                  const coterie_io_ops_t *ops,
                                  unsigned flags, coterie_io_t **io_p)
{
    ring_t *ring = calloc(1, sizeof(*ring));
    int error;

    if (ring == NULL)
        return coterie_fail_memory(sizeof(*ring), "a ring");
    ring->base.ops = ops;
    ring->event = -1;
    ring->arena = setup->arena->data;
    ring->arena_size = setup->arena->size;
    ring->polled = (flags & IORING_SETUP_IOPOLL) != 0;
    error = -io_uring_queue_init(setup->depth, &ring->uring, flags);
    if (error != 0) {
        free(ring);
        return coterie_fail(COTERIE_ERR_UNSUPPORTED, "%s: %s", ops->name,
                            strerror(error));
    }
    error = ring_register(ring, setup);
    if (error == 0 && ring->polled)
        error = ring_try(ring, setup);
    if (error != 0) {
        ring_close(&ring->base);
        return coterie_fail(COTERIE_ERR_UNSUPPORTED, "%s: %s", ops->name,
                            strerror(error));
    }
    buffers_register(ring, setup);
    *io_p = &ring->base;
    return COTERIE_OK;
}

static void ring_signal(ring_t *ring)
{
    uint64_t one = 1;

    (void)!write(ring->event, &one, sizeof(one));
}

/* Whether a drive can be polled is known when it is: reads the file's first
 * block to where nothing is yet. Returns 0 or an errno. */
static int ring_try(ring_t *ring, const coterie_io_setup_t *setup)
{
    coterie_piece_t first = {.data = setup->arena->data, .size = BLOCK};

    if (!ring_submit(&ring->base, &first) ||
        ring_wait(&ring->base, true) != &first)
        return EOPNOTSUPP;
    return first.result < 0 ? (int)-first.result : 0;
}

/* Returns 0 or an errno. */
static int ring_register(ring_t *ring, const coterie_io_setup_t *setup)
{
    int error;

    ring->event = eventfd(0, EFD_CLOEXEC);
    if (ring->event < 0)
        return errno;
    error = io_uring_register_eventfd(&ring->uring, ring->event);
    if (error == 0)
        error = io_uring_register_files(&ring->uring, &setup->descriptor, 1);
    return -error;
}

/* Saves pinning the pages for every read. Where the limit of locked memory
 * does not allow it, reads are a little dearer, that is all. */
static void buffers_register(ring_t *ring, const coterie_io_setup_t *setup)
{
    const coterie_arena_t *arena = setup->arena;
    size_t piece = PIECE_MOST / setup->record_size * setup->record_size;
    size_t count = piece == 0 ? 0 : (arena->size + piece - 1) / piece;
    struct iovec *pieces;

    if (count == 0 || count > PIECES_MOST)
        return;
    pieces = calloc(count, sizeof(*pieces));
    if (pieces == NULL)
        return;
    for (size_t i = 0; i < count; i++) {
        size_t left = arena->size - i * piece;

        pieces[i] = (struct iovec){arena->data + i * piece,
                                   left < piece ? left : piece};
    }
    if (io_uring_register_buffers(&ring->uring, pieces, (unsigned)count) == 0)
        ring->buffer = piece;
    free(pieces);
}
