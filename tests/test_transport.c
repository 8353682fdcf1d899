#include "config.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include "runtime/transport.h"

enum { RANKS_MAX = 8, ROUNDS = 200 };

typedef struct parcel {
    coterie_header_t header;
    uint32_t value;
} parcel_t;

typedef coterie_status_t (*rank_fn)(coterie_transport_t *t);

typedef struct rank_thread {
    pthread_t thread;
    coterie_transport_t *transport;
    rank_fn body;
    coterie_status_t status;
} rank_thread_t;

static void *rank_main(void *argument)
{
    rank_thread_t *self = argument;

    self->status = self->body(self->transport);
    return NULL;
}

static void run_ranks(uint32_t count, const coterie_link_t *link, rank_fn body,
                      coterie_status_t *statuses)
{
    coterie_transport_t *transports[RANKS_MAX];
    rank_thread_t ranks[RANKS_MAX];

    cr_assert(eq(int, COTERIE_OK,
                 coterie_transport_open_threads(count, link, transports)));
    for (uint32_t r = 0; r < count; r++) {
        ranks[r] = (rank_thread_t){.transport = transports[r], .body = body};
        pthread_create(&ranks[r].thread, NULL, rank_main, &ranks[r]);
    }
    for (uint32_t r = 0; r < count; r++) {
        pthread_join(ranks[r].thread, NULL);
        statuses[r] = ranks[r].status;
        coterie_transport_close(transports[r]);
    }
}

/* Every rank tells every other its number and the round; odd rounds are empty
 * for odd peers. */
static coterie_status_t talk(coterie_transport_t *t)
{
    for (uint32_t round = 0; round < ROUNDS; round++) {
        parcel_t mine[RANKS_MAX];
        coterie_parcel_t parcels[RANKS_MAX];
        uint32_t count = 0;

        for (uint32_t r = 0; r < t->rank_count; r++) {
            if (r == t->rank)
                continue;
            mine[r] = (parcel_t){{0}, round * 100 + t->rank};
            parcels[count++] = (coterie_parcel_t){
                r,
                (round & r & 1) ? sizeof(coterie_header_t) : sizeof(parcel_t),
                &mine[r]};
        }
        coterie_transport_post(t, COTERIE_TRAFFIC_ALLTOALL, parcels, count);
        for (uint32_t r = 0; r < t->rank_count; r++) {
            coterie_message_t message;

            if (r == t->rank)
                continue;
            if (coterie_transport_receive(t, r, COTERIE_TRAFFIC_ALLTOALL, 5000,
                                          &message) != COTERIE_OK)
                return COTERIE_ERR_TIMEOUT;
            if (message.size == sizeof(parcel_t) &&
                ((const parcel_t *)message.data)->value != round * 100 + r)
                return COTERIE_ERR_CORRUPT;
            coterie_transport_release(t, &message);
        }
        if (coterie_transport_flush(t, 5000) != COTERIE_OK)
            return COTERIE_ERR_TIMEOUT;
    }
    return t->counts[COTERIE_TRAFFIC_ALLTOALL].rounds == ROUNDS
               ? COTERIE_OK
               : COTERIE_ERR_MISMATCH;
}

Test(threads, deliver_every_round_in_order_to_every_peer)
{
    coterie_status_t statuses[RANKS_MAX];

    run_ranks(5, NULL, talk, statuses);
    for (int r = 0; r < 5; r++)
        cr_expect(eq(int, statuses[r], COTERIE_OK));
}

/* Two traffics to one peer, received in the other order. */
static coterie_status_t cross(coterie_transport_t *t)
{
    parcel_t mine[2] = {{{0}, 1}, {{0}, 2}};
    uint32_t peer = 1 - t->rank;
    coterie_message_t first, second;
    bool right;

    coterie_transport_post(
        t, COTERIE_TRAFFIC_KV,
        &(coterie_parcel_t){peer, sizeof(mine[0]), &mine[0]}, 1);
    coterie_transport_post(
        t, COTERIE_TRAFFIC_ALLTOALL,
        &(coterie_parcel_t){peer, sizeof(mine[1]), &mine[1]}, 1);
    coterie_transport_receive(t, peer, COTERIE_TRAFFIC_ALLTOALL, 5000, &first);
    coterie_transport_receive(t, peer, COTERIE_TRAFFIC_KV, 5000, &second);
    right = ((const parcel_t *)first.data)->value == 2 &&
            ((const parcel_t *)second.data)->value == 1;
    coterie_transport_release(t, &first);
    coterie_transport_release(t, &second);
    coterie_transport_flush(t, 5000);
    return right ? COTERIE_OK : COTERIE_ERR_CORRUPT;
}

Test(threads, keep_traffics_apart)
{
    coterie_status_t statuses[RANKS_MAX];

    run_ranks(2, NULL, cross, statuses);
    cr_expect(eq(int, statuses[0], COTERIE_OK));
    cr_expect(eq(int, statuses[1], COTERIE_OK));
}

static coterie_status_t wait_in_vain(coterie_transport_t *t)
{
    coterie_message_t message;

    return coterie_transport_receive(t, 1 - t->rank, COTERIE_TRAFFIC_RETURN, 20,
                                     &message);
}

Test(threads, give_up_at_the_deadline)
{
    coterie_status_t statuses[RANKS_MAX];

    run_ranks(2, NULL, wait_in_vain, statuses);
    cr_expect(eq(int, statuses[0], COTERIE_ERR_TIMEOUT));
    cr_expect(eq(int, statuses[1], COTERIE_ERR_TIMEOUT));
}

static coterie_status_t fail_on_two(coterie_transport_t *t)
{
    coterie_message_t message;

    if (t->rank == 2) {
        coterie_transport_abort(t);
        return COTERIE_ERR_INVALID;
    }
    return coterie_transport_receive(t, 2, COTERIE_TRAFFIC_RETURN, 5000,
                                     &message);
}

Test(threads, learn_of_a_failed_peer_at_once)
{
    coterie_status_t statuses[RANKS_MAX];

    run_ranks(4, NULL, fail_on_two, statuses);
    cr_expect(eq(int, statuses[0], COTERIE_ERR_PEER));
    cr_expect(eq(int, statuses[1], COTERIE_ERR_PEER));
    cr_expect(eq(int, statuses[2], COTERIE_ERR_INVALID));
    cr_expect(eq(int, statuses[3], COTERIE_ERR_PEER));
}

/* Nobody reads what this rank sent; its data must still become its own. */
static coterie_status_t abandon(coterie_transport_t *t)
{
    parcel_t mine = {{0}, 1};

    if (t->rank == 1) {
        coterie_transport_abort(t);
        return COTERIE_OK;
    }
    coterie_transport_post(t, COTERIE_TRAFFIC_RETURN,
                           &(coterie_parcel_t){1, sizeof(mine), &mine}, 1);
    return coterie_transport_flush(t, 5000);
}

Test(threads, take_back_what_a_failed_peer_never_read)
{
    coterie_status_t statuses[RANKS_MAX];

    run_ranks(2, NULL, abandon, statuses);
    cr_expect(eq(int, statuses[0], COTERIE_OK));
}

static coterie_status_t gather(coterie_transport_t *t)
{
    uint32_t mine = t->rank + 7, all[RANKS_MAX];
    size_t sizes[RANKS_MAX];
    void *text = NULL;
    bool right = true;
    coterie_status_t status =
        coterie_transport_allgather(t, &mine, sizeof(mine), all);

    for (uint32_t r = 0; r < t->rank_count; r++)
        right = right && all[r] == r + 7;
    if (status == COTERIE_OK)
        status = coterie_transport_gather(t, "abc", t->rank, &text, sizes);
    if (t->rank == 0)
        right = right && sizes[0] == 0 && sizes[2] == 2 &&
                memcmp(text, "aab", 3) == 0;
    free(text);
    return right ? status : COTERIE_ERR_CORRUPT;
}

Test(transport, gathers_small_things_on_the_control_path)
{
    coterie_status_t statuses[RANKS_MAX];

    run_ranks(3, NULL, gather, statuses);
    for (int r = 0; r < 3; r++)
        cr_expect(eq(int, statuses[r], COTERIE_OK));
}

static coterie_status_t ping(coterie_transport_t *t)
{
    uint64_t start = coterie_now_ns();
    coterie_status_t status = cross(t);

    return coterie_now_ns() - start >= 3000000 ? status : COTERIE_ERR_MISMATCH;
}

Test(transport, holds_messages_back_as_long_as_the_emulated_link_takes)
{
    coterie_link_t link = {.size = sizeof(link), .latency_us = 3000};
    coterie_status_t statuses[RANKS_MAX];

    run_ranks(2, &link, ping, statuses);
    cr_expect(eq(int, statuses[0], COTERIE_OK));
    cr_expect(eq(int, statuses[1], COTERIE_OK));
}

Test(transport, refuses_no_ranks_and_too_many)
{
    coterie_transport_t *transports[1] = {NULL};

    cr_expect(eq(int, COTERIE_ERR_INVALID,
                 coterie_transport_open_threads(0, NULL, transports)));
    cr_expect(eq(int, COTERIE_ERR_INVALID,
                 coterie_transport_open_threads(100000, NULL, transports)));
    cr_expect(zero(ptr, transports[0]));
}
