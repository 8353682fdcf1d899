#ifndef COTERIE_RUNTIME_BOXES_H
#define COTERIE_RUNTIME_BOXES_H
/* Messages to and from the members of a circle, row by row. */
#include "placement/wire.h"
#include "runtime/transport.h"

/* Ranks that exchange with each other: member i is rank first + i * stride;
 * this rank is member `me`. */
typedef struct coterie_circle {
    uint32_t first, stride, count, me;
} coterie_circle_t;

static inline uint32_t coterie_circle_rank(const coterie_circle_t *circle,
                                           uint32_t member)
{
    return circle->first + member * circle->stride;
}

/* The exchanges of one layer, each with a buffer of its own: one flush before
 * the first of them then serves all. */
typedef enum coterie_box {
    COTERIE_BOX_DISPATCH,
    COTERIE_BOX_RETURN,
    COTERIE_BOX_SUMS,
    COTERIE_BOX_FIXUP,
    COTERIE_BOX_KV, /* its outgoing rows wait for longer: see gather.c */
    COTERIE_BOX_COUNT
} coterie_box_t;

/* Every member's message has room for all the rows a step may have, so that
 * rows are packed as they come; pages that no row reaches cost nothing. */
typedef struct coterie_outbox {
    const coterie_circle_t *circle;
    unsigned char *data; /* [rank_count, room] */
    size_t room;
    size_t *used; /* [rank_count], headers included */
    coterie_parcel_t *parcels;
} coterie_outbox_t;

coterie_status_t coterie_outbox_create(coterie_outbox_t *outbox,
                                       uint32_t rank_count, size_t row_bytes);
void coterie_outbox_destroy(coterie_outbox_t *outbox);
void coterie_outbox_open(coterie_outbox_t *outbox,
                         const coterie_circle_t *circle);
/* Room for one more row to a member, of `size` bytes; `extra` rows, counted
 * apart, come after all others. */
void *coterie_outbox_row(coterie_outbox_t *outbox, uint32_t member,
                         size_t size);
void *coterie_outbox_extra(coterie_outbox_t *outbox, uint32_t member,
                           size_t size);
/* @param sparse  only to members that get rows, which they must know */
coterie_status_t coterie_outbox_post(coterie_outbox_t *outbox,
                                     coterie_transport_t *t,
                                     coterie_traffic_t traffic, bool sparse);

typedef struct coterie_inbox {
    const coterie_circle_t *circle; /* NULL while closed */
    coterie_transport_t *transport;
    size_t row_size, extra_size;
    coterie_message_t *messages; /* [rank_count]; data is NULL if none came */
    uint32_t *taken, *extra_taken; /* [rank_count] rows */
} coterie_inbox_t;

coterie_status_t coterie_inbox_create(coterie_inbox_t *inbox,
                                      coterie_transport_t *t, size_t row_size,
                                      size_t extra_size);
void coterie_inbox_destroy(coterie_inbox_t *inbox);
/* Waits for a message of every member, or of those `expected`.
 * @return ERR_MISMATCH if a message's size is not what its header says */
coterie_status_t coterie_inbox_open(coterie_inbox_t *inbox,
                                    const coterie_circle_t *circle,
                                    coterie_traffic_t traffic,
                                    const bool *expected,
                                    uint32_t deadline_ms);
/* A member's next row or extra row, or NULL; take() steps over it. */
const void *coterie_inbox_peek(const coterie_inbox_t *inbox, uint32_t member);
void coterie_inbox_take(coterie_inbox_t *inbox, uint32_t member);
const void *coterie_inbox_peek_extra(const coterie_inbox_t *inbox,
                                     uint32_t member);
void coterie_inbox_take_extra(coterie_inbox_t *inbox, uint32_t member);
/* Releases the messages; fine if closed. */
void coterie_inbox_close(coterie_inbox_t *inbox);

#endif
