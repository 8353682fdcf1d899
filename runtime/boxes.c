#include "config.h"

#include <assert.h>
#include <stdlib.h>

#include "base/error.h"
#include "runtime/boxes.h"

enum { ROOM_ALIGN = 64 };

static coterie_header_t *outbox_header(coterie_outbox_t *outbox,
                                       uint32_t member);
static void *outbox_append(coterie_outbox_t *outbox, uint32_t member,
                           size_t size);
static coterie_status_t inbox_check(const coterie_inbox_t *inbox,
                                    uint32_t member);
static const coterie_header_t *inbox_header(const coterie_inbox_t *inbox,
                                            uint32_t member);

_Static_assert(sizeof(coterie_header_t) == COTERIE_WIRE_HEADER_SIZE,
               "simulate counts headers of this size");

coterie_status_t coterie_outbox_create(coterie_outbox_t *outbox,
                                       uint32_t rank_count, size_t row_bytes)
{
    size_t room = (sizeof(coterie_header_t) + row_bytes + ROOM_ALIGN - 1) /
                  ROOM_ALIGN * ROOM_ALIGN;

    outbox->room = room;
    outbox->data = calloc(rank_count, room);
    outbox->used = calloc(rank_count, sizeof(*outbox->used));
    outbox->parcels = calloc(rank_count, sizeof(*outbox->parcels));
    if (outbox->data == NULL || outbox->used == NULL ||
        outbox->parcels == NULL)
        return coterie_fail_memory(rank_count * room, "messages to send");
    return COTERIE_OK;
}

void coterie_outbox_destroy(coterie_outbox_t *outbox)
{
    free(outbox->data);
    free(outbox->used);
    free(outbox->parcels);
}

void coterie_outbox_open(coterie_outbox_t *outbox,
                         const coterie_circle_t *circle)
{
    outbox->circle = circle;
    for (uint32_t i = 0; i < circle->count; i++) {
        *outbox_header(outbox, i) = (coterie_header_t){0};
        outbox->used[i] = sizeof(coterie_header_t);
    }
}

void *coterie_outbox_row(coterie_outbox_t *outbox, uint32_t member,
                         size_t size)
{
    assert(outbox_header(outbox, member)->extra == 0);
    outbox_header(outbox, member)->count++;
    return outbox_append(outbox, member, size);
}

void *coterie_outbox_extra(coterie_outbox_t *outbox, uint32_t member,
                           size_t size)
{
    outbox_header(outbox, member)->extra++;
    return outbox_append(outbox, member, size);
}

coterie_status_t coterie_outbox_post(coterie_outbox_t *outbox,
                                     coterie_transport_t *t,
                                     coterie_traffic_t traffic, bool sparse)
{
    const coterie_circle_t *circle = outbox->circle;
    uint32_t count = 0;

    for (uint32_t i = 0; i < circle->count; i++) {
        bool empty = outbox->used[i] == sizeof(coterie_header_t);

        if (i == circle->me || (sparse && empty))
            continue;
        outbox->parcels[count++] =
            (coterie_parcel_t){coterie_circle_rank(circle, i),
                               outbox->used[i], outbox_header(outbox, i)};
    }
    return coterie_transport_post(t, traffic, outbox->parcels, count);
}

coterie_status_t coterie_inbox_create(coterie_inbox_t *inbox,
                                      coterie_transport_t *t, size_t row_size,
                                      size_t extra_size)
{
    inbox->transport = t;
    inbox->row_size = row_size;
    inbox->extra_size = extra_size;
    inbox->messages = calloc(t->rank_count, sizeof(*inbox->messages));
    inbox->taken = calloc(t->rank_count, sizeof(*inbox->taken));
    inbox->extra_taken = calloc(t->rank_count, sizeof(*inbox->extra_taken));
    if (inbox->messages == NULL || inbox->taken == NULL ||
        inbox->extra_taken == NULL)
        return coterie_fail_memory(t->rank_count * sizeof(*inbox->messages),
                                   "received messages");
    return COTERIE_OK;
}

void coterie_inbox_destroy(coterie_inbox_t *inbox)
{
    coterie_inbox_close(inbox);
    free(inbox->messages);
    free(inbox->taken);
    free(inbox->extra_taken);
}

coterie_status_t coterie_inbox_open(coterie_inbox_t *inbox,
                                    const coterie_circle_t *circle,
                                    coterie_traffic_t traffic,
                                    const bool *expected,
                                    uint32_t deadline_ms)
{
    coterie_status_t status = COTERIE_OK;

    assert(inbox->circle == NULL);
    inbox->circle = circle;
    for (uint32_t i = 0; i < circle->count; i++) {
        inbox->messages[i].data = NULL;
        inbox->taken[i] = inbox->extra_taken[i] = 0;
    }
    for (uint32_t i = 0; i < circle->count && status == COTERIE_OK; i++) {
        coterie_message_t message;

        if (i == circle->me || (expected != NULL && !expected[i]))
            continue;
        status = coterie_transport_receive(inbox->transport,
                                           coterie_circle_rank(circle, i),
                                           traffic, deadline_ms, &message);
        if (status != COTERIE_OK)
            break;
        inbox->messages[i] = message;
        status = inbox_check(inbox, i);
    }
    return status;
}

const void *coterie_inbox_peek(const coterie_inbox_t *inbox, uint32_t member)
{
    const coterie_header_t *header = inbox_header(inbox, member);
    uint32_t at = inbox->taken[member];

    if (header == NULL || at == header->count)
        return NULL;
    return (const unsigned char *)(header + 1) + at * inbox->row_size;
}

void coterie_inbox_take(coterie_inbox_t *inbox, uint32_t member)
{
    inbox->taken[member]++;
}

const void *coterie_inbox_peek_extra(const coterie_inbox_t *inbox,
                                     uint32_t member)
{
    const coterie_header_t *header = inbox_header(inbox, member);
    uint32_t at = inbox->extra_taken[member];

    if (header == NULL || at == header->extra)
        return NULL;
    return (const unsigned char *)(header + 1) +
           header->count * inbox->row_size + at * inbox->extra_size;
}

void coterie_inbox_take_extra(coterie_inbox_t *inbox, uint32_t member)
{
    inbox->extra_taken[member]++;
}

void coterie_inbox_close(coterie_inbox_t *inbox)
{
    if (inbox->circle == NULL)
        return;
    for (uint32_t i = 0; i < inbox->circle->count; i++)
        if (inbox->messages[i].data != NULL)
            coterie_transport_release(inbox->transport, &inbox->messages[i]);
    inbox->circle = NULL;
}

static coterie_header_t *outbox_header(coterie_outbox_t *outbox,
                                       uint32_t member)
{
    return (void *)(outbox->data + member * outbox->room);
}

static void *outbox_append(coterie_outbox_t *outbox, uint32_t member,
                           size_t size)
{
    void *row = outbox->data + member * outbox->room + outbox->used[member];

    assert(outbox->used[member] + size <= outbox->room);
    outbox->used[member] += size;
    return row;
}

static coterie_status_t inbox_check(const coterie_inbox_t *inbox,
                                    uint32_t member)
{
    const coterie_header_t *header = inbox_header(inbox, member);
    size_t size = sizeof(*header) + header->count * inbox->row_size +
                  header->extra * inbox->extra_size;

    if (inbox->messages[member].size == size)
        return COTERIE_OK;
    return coterie_fail(COTERIE_ERR_MISMATCH,
                        "rank %u got %zu bytes from rank %u where %u + %u "
                        "rows take %zu: their sessions differ",
                        inbox->transport->rank, inbox->messages[member].size,
                        coterie_circle_rank(inbox->circle, member),
                        header->count, header->extra, size);
}

static const coterie_header_t *inbox_header(const coterie_inbox_t *inbox,
                                            uint32_t member)
{
    return inbox->messages[member].data;
}
