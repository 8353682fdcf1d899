#ifndef COTERIE_KERNELS_CUDA_DISPATCH_H
#define COTERIE_KERNELS_CUDA_DISPATCH_H
/* Dispatch's kernels: what they are given, and what a message looks like. All
 * pointers are the device's unless they are said to be the host's.
 *
 * A message is a slot of fixed size in the receiver's inbox, one for each
 * sender. Of a dispatch: head, records, padding to whole rows of values, rows
 * of values. Of a return: head, places, padding, sums. A row that is here next
 * is known, wherever it is spoken of, by the rank that it came from and its
 * number among the rows that this rank gave to its next owner. */
#include <coterie/api.h>

#include "base/route.h"

enum {
    COTERIE_GPU_DRIVEN_MAX = 16, /* ranks of one launch */
    COTERIE_GPU_PEER_NONE = 0xffff,
    COTERIE_GPU_ALIGN = 256
};

typedef enum coterie_gpu_parcel {
    COTERIE_GPU_DISPATCH,
    COTERIE_GPU_RETURN,
    COTERIE_GPU_PARCELS
} coterie_gpu_parcel_t;

typedef struct coterie_gpu_head {
    uint32_t count; /* rows that follow */
    uint32_t owned; /* dispatch: rows that the receiver owns next */
    uint32_t reserved[2];
} coterie_gpu_head_t;

/* Before a dispatch row's choices. */
typedef struct coterie_gpu_record {
    uint64_t key;
    uint32_t number; /* among the sender's rows with this next owner */
    uint16_t owner;  /* the next one */
    uint16_t raw;    /* 1: the row is the residual, for its next owner */
} coterie_gpu_record_t;

typedef struct coterie_gpu_choice {
    int16_t slot;     /* the receiver's own, or -1 */
    uint16_t serving; /* rank, or COTERIE_NONE: all of them are D */
    float weight;
} coterie_gpu_choice_t;

/* As coterie_device_rows_t. */
typedef struct coterie_gpu_rows {
    uint32_t capacity;
    uint32_t *count;
    uint64_t *key; /* may be NULL */
    void *hidden;
    const void *normed;
    const int32_t *ids;
    const float *weights;
} coterie_gpu_rows_t;

/* Counters of a rank: as coterie_device_counts_t, and in its order. */
typedef struct coterie_gpu_counts {
    unsigned long long rows, copies[COTERIE_GPU_PARCELS], copies_network,
        payload_bytes, wire_bytes, messages, empty_messages, dropped;
    uint32_t overflows, late;
} coterie_gpu_counts_t;

/* One driven rank's memory. Arrays are [ranks] unless said otherwise. */
typedef struct coterie_gpu_rank {
    uint32_t rank, slots;
    char **to[COTERIE_GPU_PARCELS];  /* this rank's slot at each other */
    uint32_t **flag;                 /* [parcels, ranks] of this rank at each
                                        other; NULL: order stands for it */
    char *inbox[COTERIE_GPU_PARCELS]; /* slots, in this rank's window */
    const uint32_t *flags; /* [parcels, ranks], in this rank's window */
    const uint8_t *active; /* 0: neither sent to nor waited for */
    uint32_t *sent;        /* [parcels, ranks]: rows of the message that is
                              being written */
    uint32_t *owned;       /* rows that each owns next */
    uint32_t *sequence;    /* [parcels]: of the latest message */
    uint32_t *done;        /* [parcels]: blocks that have sent theirs */
    coterie_gpu_counts_t *counts; /* [1] */
    /* Rows that are here, [max_rows]: */
    coterie_route_t *routes;
    uint32_t *number;
    /* Rows that came, [ranks * stride of a dispatch in rows]: */
    int32_t *ids;    /* [, k]: slots */
    float *weights;  /* [, k] */
    uint16_t *x;     /* [, hidden] bf16; may be the inbox itself */
    int32_t *place;  /* [, k]: in `out` */
    const float *out; /* [pairs, hidden] */
    /* Rows that are here next, [max_rows]: */
    uint32_t *held_count;  /* [1] */
    uint32_t *held_from;   /* rank * max_rows + number */
    uint64_t *held_key;
    uint16_t *held_parts;  /* [, k]: D, ascending, then COTERIE_NONE */
    float *base;           /* [, hidden]; owner only */
    float *normed;         /* [hidden] scratch, of the processor's kernels */
} coterie_gpu_rank_t;

/* What a launch is about: driven ranks first to first + count - 1. */
typedef struct coterie_gpu_dispatch {
    coterie_route_tables_t tables;
    const uint32_t *slot_first;      /* [ranks]: of a layer's slots */
    const coterie_gpu_rank_t *ranks; /* [driven] */
    uint32_t first, count;
    uint32_t layer, hidden, k, max_rows, capacity;
    uint32_t arrivals; /* rows that one rank takes from all */
    uint32_t owner; /* 1: rows move to their next owner */
    uint32_t wire, element; /* coterie_wire_t: F32 or BF16 */
    uint32_t in_place;      /* 1: x is the inbox */
    uint32_t lead[COTERIE_GPU_PARCELS]; /* coterie_gpu_lay_out's: rows' worth
                                           of a slot before its values */
    uint32_t blocks;
    const float *norm; /* [hidden], owner */
    float norm_epsilon;
    uint64_t deadline_ns;
    coterie_gpu_rows_t in[COTERIE_GPU_DRIVEN_MAX],
        out[COTERIE_GPU_DRIVEN_MAX];
} coterie_gpu_dispatch_t;

#ifdef __CUDACC__
#define COTERIE_GPU_BOTH static __device__ __host__ inline
#else
#define COTERIE_GPU_BOTH static inline
#endif

/* Bytes of a row of values on the wire. */
COTERIE_GPU_BOTH size_t coterie_gpu_row_size(const coterie_gpu_dispatch_t *d)
{
    return (size_t)d->hidden * (d->wire == COTERIE_WIRE_BF16 ? 2 : 4);
}

COTERIE_GPU_BOTH size_t coterie_gpu_record_size(uint32_t k)
{
    return sizeof(coterie_gpu_record_t) + k * sizeof(coterie_gpu_choice_t);
}

static inline void coterie_gpu_lay_out(coterie_gpu_dispatch_t *d)
{
    const size_t row = coterie_gpu_row_size(d), head = row - 1 +
                       sizeof(coterie_gpu_head_t);
    const size_t places =
        (size_t)d->tables.rank_count * d->max_rows * sizeof(uint32_t);

    d->lead[COTERIE_GPU_DISPATCH] =
        (uint32_t)((head + d->capacity * coterie_gpu_record_size(d->k)) / row);
    d->lead[COTERIE_GPU_RETURN] = (uint32_t)((head + places) / row);
}

/* Rows' worth of a slot. */
COTERIE_GPU_BOTH uint32_t coterie_gpu_stride(const coterie_gpu_dispatch_t *d,
                                             coterie_gpu_parcel_t parcel)
{
    return d->lead[parcel] + d->capacity;
}

COTERIE_GPU_BOTH size_t coterie_gpu_slot_size(const coterie_gpu_dispatch_t *d,
                                              coterie_gpu_parcel_t parcel)
{
    return coterie_gpu_stride(d, parcel) * coterie_gpu_row_size(d);
}

COTERIE_GPU_BOTH coterie_gpu_record_t *
coterie_gpu_record(const coterie_gpu_dispatch_t *d, char *slot, uint32_t row)
{
    return (coterie_gpu_record_t *)(slot + sizeof(coterie_gpu_head_t) +
                                    row * coterie_gpu_record_size(d->k));
}

COTERIE_GPU_BOTH coterie_gpu_choice_t *
coterie_gpu_choices(coterie_gpu_record_t *record)
{
    return (coterie_gpu_choice_t *)(record + 1);
}

/* Of a return: [ranks, max_rows], which of its sums is a row's. */
COTERIE_GPU_BOTH uint32_t *coterie_gpu_places(char *slot)
{
    return (uint32_t *)(slot + sizeof(coterie_gpu_head_t));
}

COTERIE_GPU_BOTH char *coterie_gpu_values(const coterie_gpu_dispatch_t *d,
                                          coterie_gpu_parcel_t parcel,
                                          char *slot, uint32_t row)
{
    return slot + (d->lead[parcel] + row) * coterie_gpu_row_size(d);
}

#ifdef __cplusplus
extern "C" {
#endif

/* Each reads what the one before it wrote, in this order; between arrive and
 * give_back the pairs are sorted and their experts computed. */
int coterie_gpu_send(void *stream, const coterie_gpu_dispatch_t *d);
int coterie_gpu_arrive(void *stream, const coterie_gpu_dispatch_t *d);
int coterie_gpu_give_back(void *stream, const coterie_gpu_dispatch_t *d);
int coterie_gpu_finish(void *stream, const coterie_gpu_dispatch_t *d);

#ifdef __cplusplus
}
#endif
#endif
