/* Ranks as threads of one process. A message is a pointer to the sender's own
 * data: nothing is copied, and the sender learns when it has been read. */
#include "config.h"

#include <errno.h>
#include <linux/futex.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/container.h"
#include "base/error.h"
#include "base/options.h"
#include "runtime/transport.h"

enum {
    RANK_COUNT_MAX = 256, /* mailboxes grow with its square */
    MAILBOX_SLOTS = 16,   /* a pair has a few traffics in flight, no more */
    SPIN_COUNT = 2000,    /* looks before sleeping, with a core to oneself; */
    YIELD_COUNT = 40      /* without, each look lets another rank run */
};

/* What a rank sleeps on; a line each, since all ranks touch them. */
typedef struct desk {
    _Alignas(64) atomic_uint event;
    atomic_uint sleeping;
    atomic_uint unread; /* messages of ours not yet released */
} desk_t;

typedef enum slot_state { SLOT_FREE, SLOT_FULL, SLOT_TAKEN } slot_state_t;

typedef struct slot {
    atomic_uint state;
    coterie_traffic_t traffic;
    uint64_t order; /* of sending, within the mailbox */
    const void *data;
    size_t size;
    desk_t *sender;
} slot_t;

/* From one rank to one other. */
typedef struct mailbox {
    atomic_uint_fast64_t sent;
    uint64_t taken; /* the receiver's own */
    slot_t slots[MAILBOX_SLOTS];
} mailbox_t;

typedef struct world {
    atomic_uint open_count;
    atomic_uint aborted;
    uint32_t rank_count;
    bool spin; /* a core for every rank */
    desk_t *desks;
    mailbox_t *mailboxes; /* [from * rank_count + to] */
} world_t;

typedef struct threads {
    coterie_transport_t base;
    world_t *world;
    uint32_t seen_event;
} threads_t;

static const coterie_transport_ops_t threads_ops;
static coterie_status_t world_create(uint32_t rank_count, world_t **world_p);
static void world_destroy(world_t *world);
static coterie_status_t threads_send(coterie_transport_t *t, uint32_t peer,
                                     coterie_traffic_t traffic,
                                     const void *data, size_t size);
static coterie_status_t threads_poll(coterie_transport_t *t, uint32_t peer,
                                     coterie_traffic_t traffic,
                                     coterie_message_t *message, bool *found);
static slot_t *oldest(mailbox_t *mailbox, coterie_traffic_t traffic);
static void threads_release(coterie_transport_t *t,
                            coterie_message_t *message);
static void threads_wait(coterie_transport_t *t, uint64_t until_ns);
static bool threads_flushed(coterie_transport_t *t);
static void threads_abort(coterie_transport_t *t);
static void threads_close(coterie_transport_t *t);
static void take_back(coterie_transport_t *t);
static coterie_status_t fail_aborted(const coterie_transport_t *t);
static bool slot_move(slot_t *slot, slot_state_t from, slot_state_t to);
static void ring(desk_t *desk);
static void sleep_on(desk_t *desk, uint32_t seen, uint64_t until_ns);

coterie_status_t coterie_transport_open_threads(
    uint32_t rank_count, const coterie_link_t *link,
    coterie_transport_t **transports)
{
    coterie_link_t emulated = {.size = sizeof(emulated)};
    coterie_status_t status = COTERIE_OK;
    world_t *world = NULL;
    threads_t **opened = NULL;
    uint32_t done = 0;

    if (transports == NULL || rank_count == 0 || rank_count > RANK_COUNT_MAX)
        return coterie_fail(COTERIE_ERR_INVALID,
                            "%u ranks in one process; 1 to %d are possible",
                            rank_count, RANK_COUNT_MAX);
    if (link != NULL)
        status = coterie_options_read(link, &emulated, sizeof(emulated),
                                      "link");
    if (status == COTERIE_OK)
        status = world_create(rank_count, &world);
    if (status != COTERIE_OK)
        return status;
    opened = (threads_t **)transports;
    for (; done < rank_count; done++) {
        threads_t *threads = calloc(1, sizeof(*threads));

        if (threads == NULL)
            goto fail;
        threads->base = (coterie_transport_t){.ops = &threads_ops,
                                              .rank = done,
                                              .rank_count = rank_count,
                                              .link = emulated};
        threads->world = world;
        opened[done] = threads;
    }
    return COTERIE_OK;
fail:
    while (done > 0)
        free(opened[--done]);
    world_destroy(world);
    return coterie_fail_memory(sizeof(threads_t), "a transport");
}

static coterie_status_t world_create(uint32_t rank_count, world_t **world_p)
{
    size_t pairs = (size_t)rank_count * rank_count;
    world_t *world = calloc(1, sizeof(*world));

    if (world == NULL)
        return coterie_fail_memory(sizeof(*world), "a world of ranks");
    atomic_init(&world->open_count, rank_count);
    world->rank_count = rank_count;
    world->spin = coterie_container_cores() >= rank_count;
    world->desks = aligned_alloc(_Alignof(desk_t), rank_count * sizeof(desk_t));
    world->mailboxes = calloc(pairs, sizeof(mailbox_t));
    if (world->desks == NULL || world->mailboxes == NULL) {
        world_destroy(world);
        return coterie_fail_memory(pairs * sizeof(mailbox_t), "mailboxes");
    }
    memset(world->desks, 0, rank_count * sizeof(desk_t));
    *world_p = world;
    return COTERIE_OK;
}

static void world_destroy(world_t *world)
{
    free(world->desks);
    free(world->mailboxes);
    free(world);
}

static coterie_status_t threads_send(coterie_transport_t *t, uint32_t peer,
                                     coterie_traffic_t traffic,
                                     const void *data, size_t size)
{
    world_t *world = ((threads_t *)t)->world;
    mailbox_t *mailbox = &world->mailboxes[t->rank * t->rank_count + peer];
    desk_t *desk = &world->desks[t->rank];
    uint64_t order = atomic_load_explicit(&mailbox->sent, memory_order_relaxed);
    slot_t *slot = mailbox->slots, *end = slot + MAILBOX_SLOTS;

    if (atomic_load(&world->aborted) != 0)
        return fail_aborted(t);
    while (slot < end && atomic_load_explicit(
                             &slot->state, memory_order_acquire) != SLOT_FREE)
        slot++;
    if (slot == end)
        return coterie_fail(COTERIE_ERR_CAPACITY,
                            "rank %u left %d messages from rank %u unread",
                            peer, MAILBOX_SLOTS, t->rank);
    slot->traffic = traffic;
    slot->order = order;
    slot->data = data;
    slot->size = size;
    slot->sender = desk;
    atomic_fetch_add(&desk->unread, 1);
    atomic_store_explicit(&slot->state, SLOT_FULL, memory_order_release);
    atomic_store_explicit(&mailbox->sent, order + 1, memory_order_release);
    ring(&world->desks[peer]);
    return COTERIE_OK;
}

static coterie_status_t threads_poll(coterie_transport_t *t, uint32_t peer,
                                     coterie_traffic_t traffic,
                                     coterie_message_t *message, bool *found)
{
    world_t *world = ((threads_t *)t)->world;
    mailbox_t *mailbox = &world->mailboxes[peer * t->rank_count + t->rank];
    slot_t *slot = NULL;

    *found = false;
    if (atomic_load(&world->aborted) != 0)
        return fail_aborted(t);
    if (atomic_load_explicit(&mailbox->sent, memory_order_acquire) !=
        mailbox->taken)
        slot = oldest(mailbox, traffic);
    if (slot == NULL || !slot_move(slot, SLOT_FULL, SLOT_TAKEN))
        return COTERIE_OK;
    mailbox->taken++;
    *message = (coterie_message_t){slot->data, slot->size, slot};
    *found = true;
    return COTERIE_OK;
}

static slot_t *oldest(mailbox_t *mailbox, coterie_traffic_t traffic)
{
    slot_t *best = NULL;

    for (slot_t *slot = mailbox->slots; slot < mailbox->slots + MAILBOX_SLOTS;
         slot++)
        if (atomic_load_explicit(&slot->state, memory_order_acquire) ==
                SLOT_FULL &&
            slot->traffic == traffic &&
            (best == NULL || slot->order < best->order))
            best = slot;
    return best;
}

static void threads_release(coterie_transport_t *t, coterie_message_t *message)
{
    slot_t *slot = message->backend;
    desk_t *sender = slot->sender;

    (void)t;
    atomic_store_explicit(&slot->state, SLOT_FREE, memory_order_release);
    if (atomic_fetch_sub(&sender->unread, 1) == 1)
        ring(sender);
}

static void threads_wait(coterie_transport_t *t, uint64_t until_ns)
{
    threads_t *threads = (threads_t *)t;
    desk_t *desk = &threads->world->desks[t->rank];
    uint32_t spins = threads->world->spin ? SPIN_COUNT : YIELD_COUNT;
    uint32_t event;

    /* Whatever happened since the last wait may be what the caller wants, so
     * let it look again first: no wake-up can be lost in between. */
    while ((event = atomic_load(&desk->event)) == threads->seen_event &&
           spins-- > 0)
        sched_yield();
    if (event == threads->seen_event)
        sleep_on(desk, event, until_ns);
    threads->seen_event = event;
}

static bool threads_flushed(coterie_transport_t *t)
{
    world_t *world = ((threads_t *)t)->world;

    if (atomic_load(&world->aborted) != 0)
        take_back(t);
    return atomic_load(&world->desks[t->rank].unread) == 0;
}

/* After an abort nobody may come for our messages; those that a peer is just
 * reading we still wait for. */
static void take_back(coterie_transport_t *t)
{
    world_t *world = ((threads_t *)t)->world;

    for (uint32_t r = 0; r < t->rank_count; r++) {
        slot_t *slots = world->mailboxes[t->rank * t->rank_count + r].slots;

        for (int i = 0; i < MAILBOX_SLOTS; i++)
            if (slot_move(&slots[i], SLOT_FULL, SLOT_FREE))
                atomic_fetch_sub(&world->desks[t->rank].unread, 1);
    }
}

static void threads_abort(coterie_transport_t *t)
{
    world_t *world = ((threads_t *)t)->world;

    atomic_store(&world->aborted, 1);
    for (uint32_t r = 0; r < t->rank_count; r++)
        ring(&world->desks[r]);
}

static void threads_close(coterie_transport_t *t)
{
    world_t *world = ((threads_t *)t)->world;

    if (atomic_fetch_sub(&world->open_count, 1) == 1)
        world_destroy(world);
    free(t);
}

static coterie_status_t fail_aborted(const coterie_transport_t *t)
{
    return coterie_fail(COTERIE_ERR_PEER, "rank %u stops: another rank failed",
                        t->rank);
}

static bool slot_move(slot_t *slot, slot_state_t from, slot_state_t to)
{
    unsigned expected = from;

    return atomic_compare_exchange_strong(&slot->state, &expected, to);
}

static void ring(desk_t *desk)
{
    atomic_fetch_add(&desk->event, 1);
    if (atomic_load(&desk->sleeping) != 0)
        syscall(SYS_futex, &desk->event, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

static void sleep_on(desk_t *desk, uint32_t seen, uint64_t until_ns)
{
    struct timespec until = {(time_t)(until_ns / 1000000000u),
                             (long)(until_ns % 1000000000u)};

    atomic_store(&desk->sleeping, 1);
    syscall(SYS_futex, &desk->event, FUTEX_WAIT_BITSET_PRIVATE, seen, &until,
            NULL, FUTEX_BITSET_MATCH_ANY);
    atomic_store(&desk->sleeping, 0);
}

static const coterie_transport_ops_t threads_ops = {
    .name = "threads",
    .send = threads_send,
    .poll = threads_poll,
    .release = threads_release,
    .wait = threads_wait,
    .flushed = threads_flushed,
    .abort = threads_abort,
    .close = threads_close,
};
