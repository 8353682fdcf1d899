#ifndef COTERIE_RUNTIME_TRANSPORT_H
#define COTERIE_RUNTIME_TRANSPORT_H
/* What the runtime asks of a network, and what it counts there.
 *
 * Messages of one traffic between two ranks arrive in the order sent. Every
 * message begins with a header, for which the sender leaves room; a header
 * alone says "nothing for you", so no exchange of counts is ever needed. */
#include <stdbool.h>

#include <coterie/transport.h>

/* What a message is for: it is matched and counted by this. */
typedef enum coterie_traffic {
    COTERIE_TRAFFIC_CONTROL,
    COTERIE_TRAFFIC_ALLTOALL,      /* a message to every peer, maybe empty */
    COTERIE_TRAFFIC_RETURN,        /* only between peers that both know */
    COTERIE_TRAFFIC_NODE_ALLTOALL, /* the same two, inside a node */
    COTERIE_TRAFFIC_NODE_RETURN,
    COTERIE_TRAFFIC_FIXUP,
    COTERIE_TRAFFIC_KV,
    COTERIE_TRAFFIC_ABORT,
    COTERIE_TRAFFIC_COUNT
} coterie_traffic_t;

typedef struct coterie_header {
    uint64_t ready_ns; /* filled here: when an emulated link has delivered */
    uint32_t count;    /* the sender's: rows that follow */
    uint32_t extra;    /* the sender's: whatever the traffic needs */
} coterie_header_t;

/* A received message, header first; data is the transport's until released. */
typedef struct coterie_message {
    const void *data;
    size_t size;
    void *backend; /* the backend's own */
} coterie_message_t;

/* A backend is one file that fills this table and opens itself. No slot is
 * NULL. The base struct is its handle's first member. */
typedef struct coterie_transport_ops {
    const char *name;
    /* Never blocks. data must not change until a later flush returns. */
    coterie_status_t (*send)(coterie_transport_t *t, uint32_t peer,
                             coterie_traffic_t traffic, const void *data,
                             size_t size);
    /* Never blocks: *found says whether a message was there. */
    coterie_status_t (*poll)(coterie_transport_t *t, uint32_t peer,
                             coterie_traffic_t traffic,
                             coterie_message_t *message, bool *found);
    void (*release)(coterie_transport_t *t, coterie_message_t *message);
    /* Sleeps until something may have changed, or until_ns has come. */
    void (*wait)(coterie_transport_t *t, uint64_t until_ns);
    /* Never blocks: whether every earlier send's data may change again. */
    bool (*flushed)(coterie_transport_t *t);
    void (*abort)(coterie_transport_t *t);
    void (*close)(coterie_transport_t *t);
} coterie_transport_ops_t;

typedef struct coterie_traffic_counts {
    uint64_t rounds;   /* posts, whatever the number of peers */
    uint64_t messages; /* with rows */
    uint64_t empty;    /* a header alone */
    uint64_t bytes;    /* headers included */
} coterie_traffic_counts_t;

/* What control sent and peers may still read; the data follows. */
typedef struct coterie_control {
    _Alignas(16) struct coterie_control *next;
} coterie_control_t;

struct coterie_transport {
    const coterie_transport_ops_t *ops;
    uint32_t rank, rank_count;
    coterie_link_t link;
    uint64_t link_free_ns; /* when the emulated link has sent what it has */
    uint64_t wait_ns;      /* time spent waiting in receive and flush */
    coterie_control_t *controls;
    coterie_traffic_counts_t counts[COTERIE_TRAFFIC_COUNT];
};

/* What goes to one peer: data begins with a header whose count and extra are
 * set; size includes it. */
typedef struct coterie_parcel {
    uint32_t peer;
    size_t size;
    void *data;
} coterie_parcel_t;

/* Starts sending one parcel to each of `count` peers, as one counted round
 * (also when count is 0). Parcels to oneself are not allowed. */
coterie_status_t coterie_transport_post(coterie_transport_t *t,
                                        coterie_traffic_t traffic,
                                        const coterie_parcel_t *parcels,
                                        uint32_t count);

/* Waits for the next message of this traffic from one peer.
 * @return ERR_TIMEOUT after deadline_ms; ERR_PEER after anyone's abort;
 *         ERR_FORMAT if it is shorter than a header */
coterie_status_t coterie_transport_receive(coterie_transport_t *t,
                                           uint32_t peer,
                                           coterie_traffic_t traffic,
                                           uint32_t deadline_ms,
                                           coterie_message_t *message);

void coterie_transport_release(coterie_transport_t *t,
                               coterie_message_t *message);

/* Waits until all data of earlier posts may change again. */
coterie_status_t coterie_transport_flush(coterie_transport_t *t,
                                         uint32_t deadline_ms);

/* Monotonic nanoseconds, the same clock in every process of a machine. */
uint64_t coterie_now_ns(void);

#endif
