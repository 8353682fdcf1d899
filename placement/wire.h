#ifndef COTERIE_PLACEMENT_WIRE_H
#define COTERIE_PLACEMENT_WIRE_H
/* What travels between ranks, to the byte: the runtime fills these records and
 * coterie_simulate counts them, so both read the sizes here. A message is a
 * header (coterie_header_t in runtime/transport.h) and rows of fixed strides;
 * numbers are in the machine's own byte order, as all ranks are alike. */
#include <stddef.h>

#include <coterie/api.h>

#include "base/wire.h"

enum { COTERIE_WIRE_HEADER_SIZE = 16 };

/* Begins a dispatch row and a sum row. */
typedef struct coterie_wire_record {
    int32_t sequence, position;
    uint16_t owner; /* the rank that rows are returned to */
    uint16_t flags;
    uint32_t parts; /* the runtime's, by kind of row */
} coterie_wire_record_t;

/* A dispatch row: the record, k of these, the values. */
typedef struct coterie_wire_expert {
    int32_t id; /* -1 = none */
    float weight;
} coterie_wire_expert_t;

/* A K/V row: this, then the engine's bytes. */
typedef struct coterie_wire_kv {
    int32_t sequence, position;
    uint32_t layer;
    uint32_t reserved;
} coterie_wire_kv_t;

/* A sequence that goes on, and where: travels with the K/V rows. */
typedef struct coterie_wire_token {
    int32_t sequence, position, token;
    uint32_t owner;
} coterie_wire_token_t;

_Static_assert(sizeof(coterie_wire_record_t) == 16, "on the wire: no padding");
_Static_assert(sizeof(coterie_wire_expert_t) == 8, "on the wire: no padding");
_Static_assert(sizeof(coterie_wire_kv_t) == 16, "on the wire: no padding");
_Static_assert(sizeof(coterie_wire_token_t) == 16, "on the wire: no padding");

/* Before the values of a dispatch row. */
static inline size_t coterie_wire_dispatch_head(uint32_t k)
{
    return sizeof(coterie_wire_record_t) + k * sizeof(coterie_wire_expert_t);
}

/* Of one row, its record included; wire as its values are. */
static inline size_t coterie_wire_dispatch_size(uint32_t wire, uint32_t k,
                                                uint32_t hidden)
{
    return coterie_wire_dispatch_head(k) +
           coterie_wire_values_size(wire, hidden);
}

/* A sum row names the ranks of D after its record (k x uint16, the rest
 * COTERIE_NONE), padded so that the sum that follows is aligned. */
static inline size_t coterie_wire_ranks_size(uint32_t k)
{
    return (k * sizeof(uint16_t) + 7) / 8 * 8;
}

static inline size_t coterie_wire_sum_head(uint32_t k)
{
    return sizeof(coterie_wire_record_t) + coterie_wire_ranks_size(k);
}

static inline size_t coterie_wire_sum_size(uint32_t wire, uint32_t k,
                                           uint32_t hidden)
{
    return coterie_wire_sum_head(k) + coterie_wire_values_size(wire, hidden);
}

static inline size_t coterie_wire_kv_size(uint32_t kv_row_size)
{
    return sizeof(coterie_wire_kv_t) + kv_row_size;
}

#endif
