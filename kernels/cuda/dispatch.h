#ifndef COTERIE_KERNELS_CUDA_DISPATCH_H
#define COTERIE_KERNELS_CUDA_DISPATCH_H
/* Dispatch's kernels: what they are given, and what a message looks like. All
 * pointers are the device's unless they are said to be the host's.
 *
 * A message is a slot of fixed size in the receiver's inbox, one for each
 * sender. Of a dispatch: head, records, padding to whole rows of values, rows
 * of values. Of a return: head, places, padding, sums. A row that is here next
 * is known, wherever it is spoken of, by the rank that it came from and its
 * number among the rows that this rank gave to its next owner.
 *
 * In forward a row is known by its seat, which it has for a step, alike at
 * every rank. Sums travel with records, and late rows, laid out as in a
 * dispatch, beside them: one flag says that both are there. Since nobody waits
 * for what a rank makes of them, there are two inboxes of each, which take
 * turns: the message after the next is sent when that which it replaces was
 * read, as the next one says. */
#include <stdbool.h>

#include <coterie/api.h>

#include "base/route.h"

enum {
    COTERIE_GPU_DRIVEN_MAX = 16, /* ranks of one launch */
    COTERIE_GPU_PEER_NONE = 0xffff,
    COTERIE_GPU_ALIGN = 256
};

typedef enum coterie_gpu_parcel {
    COTERIE_GPU_DISPATCH, /* in forward, to oneself only */
    COTERIE_GPU_RETURN,
    COTERIE_GPU_FORWARD, /* sums to who holds the row next */
    COTERIE_GPU_LATE,    /* rows to ranks that need and do not hold them */
    COTERIE_GPU_FIXUP,   /* their sums; in the place of a return */
    COTERIE_GPU_PARCELS
} coterie_gpu_parcel_t;

enum { COTERIE_GPU_COPIES = COTERIE_GPU_FIXUP }; /* counters of copies */

/* Ranks by bit, of which there are no more unless they are all. */
#define COTERIE_GPU_SET_ALL 0xffffffffu
enum { COTERIE_GPU_SET_BITS = 32 };
#define COTERIE_GPU_NOWHERE 0xffffffffu /* in place of a place */

typedef struct coterie_gpu_head {
    uint32_t count; /* rows that follow */
    uint32_t owned; /* dispatch: rows that the receiver owns next */
    uint32_t reserved[2];
} coterie_gpu_head_t;

/* Before a dispatch row's choices. */
typedef struct coterie_gpu_record {
    uint64_t key;
    uint32_t number; /* among the sender's rows with this next owner; forward:
                        its seat */
    uint16_t owner;  /* the next one; forward: who adds the residual */
    uint16_t raw;    /* 1: the row is the residual, for its next owner */
    uint32_t holders, next; /* forward: who holds it, and who will */
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
    uint32_t *seat, *holders; /* forward; may be NULL */
    const int32_t *predicted;
} coterie_gpu_rows_t;

/* Counters of a rank: as coterie_device_counts_t, and in its order. */
typedef struct coterie_gpu_counts {
    unsigned long long rows, copies[COTERIE_GPU_COPIES], copies_network,
        payload_bytes, wire_bytes, messages, fixup_messages, empty_messages,
        dropped, disagreed;
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
    coterie_route_t *routes; /* forward: next_owner adds the residual */
    uint32_t *number; /* forward: its place in the message to oneself, or
                         COTERIE_GPU_NOWHERE */
    uint32_t *next;   /* forward: who holds it next */
    /* Rows that came, [ranks * stride of a dispatch in rows]: */
    int32_t *ids;    /* [, k]: slots */
    float *weights;  /* [, k] */
    uint16_t *x;     /* [, hidden] bf16; may be the inbox itself */
    int32_t *place;  /* [, k]: in `out` */
    const float *out; /* [pairs, hidden] */
    /* Rows that are here next, [max_rows]: */
    uint32_t *held_count;  /* [1] */
    uint32_t *held_from;   /* rank * max_rows + number; forward: its seat */
    uint64_t *held_key;
    uint16_t *held_parts;  /* [, k]: D, ascending, then COTERIE_NONE; forward:
                              without held_carrier */
    uint16_t *held_carrier;
    uint16_t *held_late;   /* bit j: part j comes by a fix-up */
    uint32_t *held_next;
    uint32_t *seats;       /* [max_rows]: 1 + where a record of it is, or 0 */
    uint32_t *expected;    /* [ranks]: 1: a fix-up comes from there */
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
    uint32_t forward; /* 1: sums go to whoever holds a row next */
    uint32_t mends;   /* 1: by predictions, so that some may be late */
    uint32_t late;    /* 1: this is about late rows */
    uint32_t predicted_k; /* of rows' predicted; 0 in the last layer */
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
    const size_t records = d->capacity * coterie_gpu_record_size(d->k);
    const size_t seats = d->max_rows * sizeof(uint32_t);

    d->lead[COTERIE_GPU_DISPATCH] = d->lead[COTERIE_GPU_LATE] =
        (uint32_t)((head + records) / row);
    d->lead[COTERIE_GPU_RETURN] = d->lead[COTERIE_GPU_FIXUP] =
        (uint32_t)((head + places) / row);
    d->lead[COTERIE_GPU_FORWARD] = (uint32_t)((head + records + seats) / row);
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

/* Which of its sums is a row's: of a return [ranks, max_rows]; of what goes
 * forward [max_rows], by seat. */
COTERIE_GPU_BOTH uint32_t *coterie_gpu_places(const coterie_gpu_dispatch_t *d,
                                              coterie_gpu_parcel_t parcel,
                                              char *slot)
{
    return (uint32_t *)(slot + sizeof(coterie_gpu_head_t) +
                        (parcel == COTERIE_GPU_FORWARD
                             ? d->capacity * coterie_gpu_record_size(d->k)
                             : 0));
}

COTERIE_GPU_BOTH char *coterie_gpu_values(const coterie_gpu_dispatch_t *d,
                                          coterie_gpu_parcel_t parcel,
                                          char *slot, uint32_t row)
{
    return slot + (d->lead[parcel] + row) * coterie_gpu_row_size(d);
}

/* Where a row that came is among those that this rank computes. */
COTERIE_GPU_BOTH uint32_t coterie_gpu_arrived_at(
    const coterie_gpu_dispatch_t *d, uint32_t from, uint32_t row)
{
    return from * coterie_gpu_stride(d, COTERIE_GPU_DISPATCH) +
           d->lead[COTERIE_GPU_DISPATCH] + row;
}

/* What goes with a row of values. */
COTERIE_GPU_BOTH size_t coterie_gpu_extra(const coterie_gpu_dispatch_t *d,
                                          coterie_gpu_parcel_t parcel)
{
    const bool names =
        parcel == COTERIE_GPU_RETURN || parcel == COTERIE_GPU_FIXUP;
    const bool places = names || parcel == COTERIE_GPU_FORWARD;

    return (places ? sizeof(uint32_t) : 0) +
           (names ? 0 : coterie_gpu_record_size(d->k));
}

COTERIE_GPU_BOTH int coterie_gpu_counted_as(coterie_gpu_parcel_t parcel)
{
    return parcel == COTERIE_GPU_FIXUP ? COTERIE_GPU_FORWARD : parcel;
}

/* Whose flag says that a parcel is there, and whose number counts it. */
COTERIE_GPU_BOTH coterie_gpu_parcel_t
coterie_gpu_flag_of(coterie_gpu_parcel_t parcel)
{
    return parcel == COTERIE_GPU_LATE ? COTERIE_GPU_FORWARD : parcel;
}

COTERIE_GPU_BOTH coterie_gpu_parcel_t
coterie_gpu_number_of(coterie_gpu_parcel_t parcel)
{
    return parcel >= COTERIE_GPU_FORWARD ? COTERIE_GPU_FORWARD : parcel;
}

COTERIE_GPU_BOTH bool coterie_gpu_both_active(const coterie_gpu_rank_t *rank,
                                              uint32_t peer)
{
    return rank->active[rank->rank] && rank->active[peer];
}

/* Whether a message comes from there. */
COTERIE_GPU_BOTH bool coterie_gpu_comes(const coterie_gpu_dispatch_t *d,
                                        const coterie_gpu_rank_t *rank,
                                        coterie_gpu_parcel_t parcel,
                                        uint32_t from)
{
    if (d->forward && parcel == COTERIE_GPU_DISPATCH && from != rank->rank)
        return false;
    if (parcel == COTERIE_GPU_FIXUP && !rank->expected[from])
        return false;
    return coterie_gpu_both_active(rank, from);
}

/* Whether a flag says that it is there; else order does. */
COTERIE_GPU_BOTH bool coterie_gpu_flags(const coterie_gpu_dispatch_t *d,
                                        const coterie_gpu_rank_t *rank,
                                        coterie_gpu_parcel_t parcel,
                                        uint32_t from)
{
    return rank->flag[from] != NULL &&
           !(d->forward && parcel == COTERIE_GPU_DISPATCH);
}

/* How far into its inboxes a message of this number goes. What is not written
 * into a peer's window is in order: it needs one inbox only. */
COTERIE_GPU_BOTH size_t coterie_gpu_turn(const coterie_gpu_dispatch_t *d,
                                         const coterie_gpu_rank_t *rank,
                                         coterie_gpu_parcel_t parcel,
                                         uint32_t peer, uint32_t number)
{
    return (parcel == COTERIE_GPU_FORWARD || parcel == COTERIE_GPU_LATE) &&
                   rank->flag[peer] != NULL && number % 2 == 1
               ? d->tables.rank_count * coterie_gpu_slot_size(d, parcel)
               : 0;
}

/* This rank's slot at a peer, for the next message. */
COTERIE_GPU_BOTH char *coterie_gpu_outbound(const coterie_gpu_dispatch_t *d,
                                            const coterie_gpu_rank_t *rank,
                                            coterie_gpu_parcel_t parcel,
                                            uint32_t to)
{
    return rank->to[parcel][to] +
           coterie_gpu_turn(d, rank, parcel, to,
                            rank->sequence[coterie_gpu_number_of(parcel)] + 1);
}

/* The latest message. */
COTERIE_GPU_BOTH char *coterie_gpu_inbound(const coterie_gpu_dispatch_t *d,
                                           const coterie_gpu_rank_t *rank,
                                           coterie_gpu_parcel_t parcel,
                                           uint32_t from)
{
    return rank->inbox[parcel] + from * coterie_gpu_slot_size(d, parcel) +
           coterie_gpu_turn(d, rank, parcel, from,
                            rank->sequence[coterie_gpu_number_of(parcel)]);
}

COTERIE_GPU_BOTH bool coterie_gpu_set_has(uint32_t set, uint32_t rank)
{
    return set == COTERIE_GPU_SET_ALL ||
           (rank < COTERIE_GPU_SET_BITS && (set >> rank & 1) != 0);
}

COTERIE_GPU_BOTH uint32_t coterie_gpu_holders(const coterie_gpu_rows_t *rows,
                                              uint32_t row)
{
    return rows->holders != NULL ? rows->holders[row] : COTERIE_GPU_SET_ALL;
}

/* Who adds the residual: the lowest of D that holds the row; if there is none,
 * the lowest that holds it. */
COTERIE_GPU_BOTH uint16_t coterie_gpu_carrier(const coterie_gpu_rank_t *rank,
                                              const coterie_route_t *route,
                                              uint32_t holders)
{
    uint32_t lowest = 0;

    for (uint32_t i = 0; i < route->rank_count; i++)
        if (coterie_gpu_set_has(holders, route->rank[i]))
            return route->rank[i];
    while (!coterie_gpu_set_has(holders, lowest) || !rank->active[lowest])
        if (++lowest == COTERIE_GPU_SET_BITS)
            return (uint16_t)rank->rank;
    return (uint16_t)lowest;
}

COTERIE_GPU_BOTH bool coterie_gpu_same_row(const coterie_gpu_record_t *a,
                                           const coterie_gpu_record_t *b)
{
    return a->key == b->key && a->number == b->number &&
           a->owner == b->owner && a->holders == b->holders &&
           a->next == b->next;
}

/* Makes of a held row's D those whose sums come on top of the carrier's, and
 * notes which of them are late. */
COTERIE_GPU_BOTH void coterie_gpu_parts_begin(const coterie_gpu_dispatch_t *d,
                                              const coterie_gpu_rank_t *rank,
                                              uint32_t at, uint32_t holders)
{
    uint16_t *parts = rank->held_parts + (size_t)at * d->k, late = 0;
    uint32_t count = 0;

    for (uint32_t j = 0; j < d->k; j++) {
        const uint16_t part = parts[j];
        if (part >= d->tables.rank_count || part == rank->held_carrier[at])
            continue;
        if (!coterie_gpu_set_has(holders, part)) {
            late |= (uint16_t)(1u << count);
            rank->expected[part] = 1;
        }
        parts[count++] = part;
    }
    while (count < d->k)
        parts[count++] = COTERIE_NONE;
    rank->held_late[at] = late;
}

/* D of a prediction; where that is nobody, the carrier. */
COTERIE_GPU_BOTH uint32_t coterie_gpu_next(const coterie_route_t *ahead,
                                           uint32_t carrier)
{
    uint32_t set = 0;

    for (uint32_t i = 0; i < ahead->rank_count; i++)
        set |= 1u << ahead->rank[i];
    return set != 0 ? set : 1u << carrier;
}

#ifdef __cplusplus
extern "C" {
#endif

/* Each reads what the one before it wrote, in this order; between arrive and
 * give_back the pairs are sorted and their experts computed. In forward that
 * mends, these come twice, the second time for late rows. */
int coterie_gpu_send(void *stream, const coterie_gpu_dispatch_t *d);
int coterie_gpu_arrive(void *stream, const coterie_gpu_dispatch_t *d);
int coterie_gpu_give_back(void *stream, const coterie_gpu_dispatch_t *d);
int coterie_gpu_finish(void *stream, const coterie_gpu_dispatch_t *d);

/* What the others launch in forward: the sums of own or late rows to those who
 * hold them next; and who holds which rows here, from what came. */
int coterie_gpu_forward(void *stream, const coterie_gpu_dispatch_t *d);
int coterie_gpu_merge(void *stream, const coterie_gpu_dispatch_t *d);

#ifdef __cplusplus
}
#endif
#endif
