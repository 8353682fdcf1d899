#include "config.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>

#include "base/error.h"
#include "runtime/transport.h"

enum {
    CONTROL_DEADLINE_MS = 60000,
    NS_PER_MS = 1000000,
    SLEEP_OVERSHOOT_NS = 60000 /* a sleep may wake this much too late */
};

static void parcel_send_time(coterie_transport_t *t, coterie_header_t *header,
                             size_t size);
static void parcel_count(coterie_traffic_counts_t *counts,
                         const coterie_header_t *header, size_t size);
static coterie_status_t message_await(coterie_transport_t *t, uint32_t peer,
                                      coterie_traffic_t traffic,
                                      uint64_t until_ns,
                                      coterie_message_t *message);
static void hold_back(uint64_t ready_ns);
static coterie_status_t control_send(coterie_transport_t *t, const void *mine,
                                     size_t size, uint32_t last);
static void control_free(coterie_transport_t *t);
static coterie_status_t control_collect(coterie_transport_t *t,
                                        const void *mine, size_t size,
                                        void **all_p, size_t *sizes);
static coterie_status_t append(void **data_p, size_t *used, const void *more,
                               size_t size);

uint32_t coterie_transport_rank(const coterie_transport_t *t)
{
    return t->rank;
}

uint32_t coterie_transport_rank_count(const coterie_transport_t *t)
{
    return t->rank_count;
}

const char *coterie_transport_name(const coterie_transport_t *t)
{
    return t->ops->name;
}

coterie_status_t coterie_transport_post(coterie_transport_t *t,
                                        coterie_traffic_t traffic,
                                        const coterie_parcel_t *parcels,
                                        uint32_t count)
{
    coterie_traffic_counts_t *counts = &t->counts[traffic];

    counts->rounds++;
    /* Parcels may share their data: headers are complete before a peer can
     * read the first. */
    for (uint32_t i = 0; i < count; i++) {
        parcel_send_time(t, parcels[i].data, parcels[i].size);
        parcel_count(counts, parcels[i].data, parcels[i].size);
    }
    for (uint32_t i = 0; i < count; i++) {
        coterie_status_t status =
            t->ops->send(t, parcels[i].peer, traffic, parcels[i].data,
                         parcels[i].size);

        if (status != COTERIE_OK)
            return status;
    }
    return COTERIE_OK;
}

coterie_status_t coterie_transport_receive(coterie_transport_t *t,
                                           uint32_t peer,
                                           coterie_traffic_t traffic,
                                           uint32_t deadline_ms,
                                           coterie_message_t *message)
{
    uint64_t start = coterie_now_ns();
    coterie_header_t header;
    coterie_status_t status = message_await(
        t, peer, traffic, start + (uint64_t)deadline_ms * NS_PER_MS, message);

    if (status != COTERIE_OK)
        return status;
    if (message->size < sizeof(header)) {
        size_t size = message->size;

        t->ops->release(t, message);
        return coterie_fail(COTERIE_ERR_FORMAT,
                            "rank %u: a message of %zu bytes from rank %u is "
                            "shorter than its header",
                            t->rank, size, peer);
    }
    memcpy(&header, message->data, sizeof(header));
    hold_back(header.ready_ns);
    t->wait_ns += coterie_now_ns() - start;
    return COTERIE_OK;
}

void coterie_transport_release(coterie_transport_t *t,
                               coterie_message_t *message)
{
    t->ops->release(t, message);
}

coterie_status_t coterie_transport_flush(coterie_transport_t *t,
                                         uint32_t deadline_ms)
{
    uint64_t start = coterie_now_ns();
    uint64_t until = start + (uint64_t)deadline_ms * NS_PER_MS;

    while (!t->ops->flushed(t)) {
        if (coterie_now_ns() >= until)
            return coterie_fail(COTERIE_ERR_TIMEOUT,
                                "rank %u: what it sent was not taken within "
                                "%u ms",
                                t->rank, deadline_ms);
        t->ops->wait(t, until);
    }
    t->wait_ns += coterie_now_ns() - start;
    control_free(t);
    return COTERIE_OK;
}

coterie_status_t coterie_transport_allgather(coterie_transport_t *t,
                                             const void *mine, size_t size,
                                             void *all)
{
    size_t *sizes = calloc(t->rank_count, sizeof(*sizes));
    coterie_status_t status = control_send(t, mine, size, t->rank_count);
    void *blocks = NULL;

    if (sizes == NULL && status == COTERIE_OK)
        status = coterie_fail_memory(t->rank_count * sizeof(*sizes), "sizes");
    if (status == COTERIE_OK)
        status = control_collect(t, mine, size, &blocks, sizes);
    for (uint32_t r = 0; status == COTERIE_OK && r < t->rank_count; r++)
        if (sizes[r] != size)
            status = coterie_fail(COTERIE_ERR_MISMATCH,
                                  "rank %u sent %zu bytes where rank %u sent "
                                  "%zu",
                                  r, sizes[r], t->rank, size);
    if (status == COTERIE_OK)
        memcpy(all, blocks, size * t->rank_count);
    free(blocks);
    free(sizes);
    return status;
}

coterie_status_t coterie_transport_gather(coterie_transport_t *t,
                                          const void *mine, size_t size,
                                          void **all_p, size_t *sizes)
{
    if (t->rank == 0)
        return control_collect(t, mine, size, all_p, sizes);
    *all_p = NULL;
    return control_send(t, mine, size, 1);
}

void coterie_transport_abort(coterie_transport_t *t)
{
    t->ops->abort(t);
}

void coterie_transport_close(coterie_transport_t *t)
{
    if (t == NULL)
        return;
    /* A peer may yet read what control sent; after a timeout it is never
     * freed. */
    if (t->controls != NULL)
        coterie_transport_flush(t, CONTROL_DEADLINE_MS);
    t->ops->close(t);
}

uint64_t coterie_now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void parcel_send_time(coterie_transport_t *t, coterie_header_t *header,
                             size_t size)
{
    uint64_t now;

    header->ready_ns = 0;
    if (t->link.latency_us <= 0 && t->link.bandwidth_gbs <= 0)
        return;
    now = coterie_now_ns();
    if (t->link_free_ns < now)
        t->link_free_ns = now;
    if (t->link.bandwidth_gbs > 0)
        t->link_free_ns += (uint64_t)((double)size / t->link.bandwidth_gbs);
    header->ready_ns =
        t->link_free_ns + (uint64_t)(t->link.latency_us * 1000);
}

static void parcel_count(coterie_traffic_counts_t *counts,
                         const coterie_header_t *header, size_t size)
{
    if (size > sizeof(*header))
        counts->messages++;
    else
        counts->empty++;
    counts->bytes += size;
}

static coterie_status_t message_await(coterie_transport_t *t, uint32_t peer,
                                      coterie_traffic_t traffic,
                                      uint64_t until_ns,
                                      coterie_message_t *message)
{
    bool found = false;

    for (;;) {
        coterie_status_t status =
            t->ops->poll(t, peer, traffic, message, &found);

        if (status != COTERIE_OK || found)
            return status;
        if (coterie_now_ns() >= until_ns)
            return coterie_fail(COTERIE_ERR_TIMEOUT,
                                "rank %u: nothing came from rank %u before "
                                "the deadline",
                                t->rank, peer);
        t->ops->wait(t, until_ns);
    }
}

/* Sleeps for most of it, since ranks may share a core, and yields for the rest,
 * since a sleep wakes late. */
static void hold_back(uint64_t ready_ns)
{
    static _Thread_local bool slack_set;
    uint64_t now;

    if (ready_ns == 0)
        return;
    if (!slack_set)
        slack_set = prctl(PR_SET_TIMERSLACK, 1ul) == 0;
    while ((now = coterie_now_ns()) < ready_ns) {
        uint64_t left = ready_ns - now;

        if (left > SLEEP_OVERSHOOT_NS) {
            left -= SLEEP_OVERSHOOT_NS;
            nanosleep(&(struct timespec){(time_t)(left / 1000000000u),
                                         (long)(left % 1000000000u)},
                      NULL);
        } else {
            sched_yield();
        }
    }
}

/* Sends to the ranks below `last` but oneself; each gets a copy, since headers
 * differ. Does not wait until they were taken: other traffic may be on its way
 * that peers take much later. */
static coterie_status_t control_send(coterie_transport_t *t, const void *mine,
                                     size_t size, uint32_t last)
{
    size_t whole = sizeof(coterie_header_t) + size;
    coterie_status_t status = COTERIE_OK;

    for (uint32_t r = 0; r < last && status == COTERIE_OK; r++) {
        coterie_control_t *control;
        coterie_parcel_t parcel = {r, whole, NULL};

        if (r == t->rank)
            continue;
        control = calloc(1, sizeof(*control) + whole);
        if (control == NULL)
            return coterie_fail_memory(whole, "a control message");
        control->next = t->controls;
        t->controls = control;
        parcel.data = control + 1;
        if (size > 0)
            memcpy((char *)parcel.data + sizeof(coterie_header_t), mine, size);
        status =
            coterie_transport_post(t, COTERIE_TRAFFIC_CONTROL, &parcel, 1);
    }
    return status;
}

static void control_free(coterie_transport_t *t)
{
    while (t->controls != NULL) {
        coterie_control_t *next = t->controls->next;

        free(t->controls);
        t->controls = next;
    }
}

static coterie_status_t control_collect(coterie_transport_t *t,
                                        const void *mine, size_t size,
                                        void **all_p, size_t *sizes)
{
    coterie_status_t status = COTERIE_OK;
    void *all = NULL;
    size_t used = 0;

    for (uint32_t r = 0; r < t->rank_count && status == COTERIE_OK; r++) {
        coterie_message_t message;

        sizes[r] = size;
        if (r == t->rank) {
            status = append(&all, &used, mine, size);
            continue;
        }
        status = coterie_transport_receive(t, r, COTERIE_TRAFFIC_CONTROL,
                                           CONTROL_DEADLINE_MS, &message);
        if (status != COTERIE_OK)
            break;
        sizes[r] = message.size - sizeof(coterie_header_t);
        status = append(&all, &used,
                        (const char *)message.data + sizeof(coterie_header_t),
                        sizes[r]);
        coterie_transport_release(t, &message);
    }
    if (status == COTERIE_OK)
        *all_p = all;
    else
        free(all);
    return status;
}

static coterie_status_t append(void **data_p, size_t *used, const void *more,
                               size_t size)
{
    char *data = realloc(*data_p, *used + size + 1); /* never of zero bytes */

    if (data == NULL)
        return coterie_fail_memory(*used + size, "gathered data");
    if (size > 0)
        memcpy(data + *used, more, size);
    *data_p = data;
    *used += size;
    return COTERIE_OK;
}
