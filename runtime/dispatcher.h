#ifndef COTERIE_RUNTIME_DISPATCHER_H
#define COTERIE_RUNTIME_DISPATCHER_H
/* Inside a dispatcher: dispatcher.c opens it and says what has happened,
 * dispatcher_memory.c keeps what it has on the device, dispatcher_step.c queues
 * a layer. */
#include <stdbool.h>

#include "runtime/bank.h"
#include "runtime/fabric.h"

/* A driven rank. All device memory but its window and `inner` is in `memory`.
 */
typedef struct coterie_driven {
    const coterie_bank_t *bank; /* NULL: not registered */
    coterie_gpu_pairs_t pairs;
    uint32_t share; /* pairs of an expert, if all ranks are full */
    void *memory;
    uint16_t *inner; /* coterie_gpu_inner, from when it is registered */
    char *window;
    char *outbox[COTERIE_GPU_PARCELS]; /* NULL: all ranks are in reach */
} coterie_driven_t;

struct coterie_dispatcher {
    coterie_dispatcher_options_t options;
    coterie_fabric_t *fabric;
    coterie_device_t *device;
    uint32_t rank_count, layer_count, driven_count;
    uint32_t epoch;  /* how often the active ranks were chosen */
    bool swaps;      /* some rank is out of reach */
    uint8_t *active; /* [rank_count] */
    char **reach;    /* [driven_count, rank_count]: the fabric's */
    coterie_gpu_dispatch_t terms; /* what all launches have in common */
    void *tables;                 /* device memory of terms.tables and more */
    uint8_t *active_there;        /* [rank_count] */
    float *norm;                  /* there: [layer_count, hidden], or NULL */
    coterie_gpu_rank_t *ranks;    /* [driven_count]: a copy of terms.ranks */
    coterie_driven_t *driven;     /* [driven_count] */
};

/* Everything that the device has; freed even if that failed half-way. */
coterie_status_t coterie_dispatcher_memory_create(coterie_dispatcher_t *d);
/* All but windows, of another placement; counters go on. */
coterie_status_t coterie_dispatcher_memory_renew(coterie_dispatcher_t *d);
void coterie_dispatcher_memory_destroy(coterie_dispatcher_t *d);

/* The placement's tables, without the experts of ranks that are not active. */
coterie_status_t coterie_dispatcher_tables_write(coterie_dispatcher_t *d);

/* Rows that one rank's inbox has places for. */
static inline size_t coterie_dispatcher_rows(const coterie_dispatcher_t *d)
{
    return (size_t)d->rank_count *
           coterie_gpu_stride(&d->terms, COTERIE_GPU_DISPATCH);
}

/* Pairs that it computes at most. */
static inline size_t coterie_dispatcher_pairs(const coterie_dispatcher_t *d)
{
    return (size_t)d->options.arrivals * d->options.k;
}

/* Whether experts may read rows where they came in. */
static inline bool coterie_dispatcher_in_place(const coterie_dispatcher_t *d,
                                               uint32_t mode)
{
    return mode == COTERIE_MODE_TWO_PHASE &&
           d->options.wire == COTERIE_WIRE_BF16;
}

static inline const uint16_t *
coterie_dispatcher_x(const coterie_dispatcher_t *d, uint32_t i, uint32_t mode)
{
    return coterie_dispatcher_in_place(d, mode)
               ? (const uint16_t *)d->ranks[i].inbox[COTERIE_GPU_DISPATCH]
               : d->ranks[i].x;
}

#endif
