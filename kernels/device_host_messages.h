#ifndef COTERIE_KERNELS_DEVICE_HOST_MESSAGES_H
#define COTERIE_KERNELS_DEVICE_HOST_MESSAGES_H
/* What dispatch's kernels for the processor share: the ends of a message, and
 * rows of values. */
#include <stdbool.h>

#include "base/element.h"
#include "kernels/device.h"

static inline uint32_t coterie_rows_here(const coterie_gpu_rows_t *rows)
{
    return *rows->count < rows->capacity ? *rows->count : rows->capacity;
}

static inline float coterie_value_get(const void *row, uint32_t type, size_t i)
{
    return type == COTERIE_WIRE_BF16
               ? coterie_bf16_value(((const uint16_t *)row)[i])
               : ((const float *)row)[i];
}

static inline void coterie_value_put(void *row, uint32_t type, size_t i,
                                     float value)
{
    if (type == COTERIE_WIRE_BF16)
        ((uint16_t *)row)[i] = coterie_bf16_of(value);
    else
        ((float *)row)[i] = value;
}

/* Counts what goes to a peer, but not that a message does. */
void coterie_rows_count(const coterie_gpu_dispatch_t *d,
                        const coterie_gpu_rank_t *rank,
                        coterie_gpu_parcel_t parcel, uint32_t to,
                        uint32_t rows);

/* Its rows; none of a rank that is late. Once one was, nobody waits. A flag
 * that is further ahead than a sender can be is of another epoch, or of who has
 * given up waiting, and whose message is not there any more. */
uint32_t coterie_message_await(const coterie_gpu_dispatch_t *d,
                               const coterie_gpu_rank_t *rank,
                               coterie_gpu_parcel_t parcel, uint32_t from);

static inline void coterie_message_count(const coterie_gpu_rank_t *rank,
                                         uint32_t rows)
{
    rank->counts->messages += rows > 0;
    rank->counts->empty_messages += rows == 0;
}

static inline void coterie_flag_raise(const coterie_gpu_dispatch_t *d,
                                      const coterie_gpu_rank_t *rank,
                                      coterie_gpu_parcel_t parcel, uint32_t to,
                                      uint32_t sequence)
{
    if (rank->flag[to] != NULL)
        __atomic_store_n(rank->flag[to] + parcel * d->tables.rank_count,
                         sequence, __ATOMIC_RELEASE);
}

/* Of a dispatch, or of late rows, as many as there is room for. */
uint32_t coterie_arrived_take(const coterie_gpu_dispatch_t *d,
                              const coterie_gpu_rank_t *rank,
                              coterie_gpu_parcel_t parcel, uint32_t from,
                              uint32_t *left);

/* Heads the message that is being written to a peer.
 * @return its rows */
uint32_t coterie_message_head(const coterie_gpu_dispatch_t *d,
                              const coterie_gpu_rank_t *rank,
                              coterie_gpu_parcel_t parcel, uint32_t to,
                              uint32_t owned);

/* One routed row of a dispatch, or a late one.
 * @return its place, COTERIE_GPU_NOWHERE if there was none */
uint32_t coterie_row_write(const coterie_gpu_dispatch_t *d,
                           const coterie_gpu_rank_t *rank,
                           const coterie_gpu_rows_t *rows, uint32_t row,
                           coterie_gpu_parcel_t parcel, uint32_t to);

/* Not raw. */
coterie_gpu_record_t coterie_row_record(const coterie_gpu_dispatch_t *d,
                                        const coterie_gpu_rank_t *rank,
                                        const coterie_gpu_rows_t *rows,
                                        uint32_t row);

/* D is who serves any of the choices: ascending, then COTERIE_NONE. */
void coterie_parts_write(const coterie_gpu_choice_t *choices, uint32_t k,
                         uint16_t *parts);

void coterie_dropped_count(const coterie_gpu_dispatch_t *d,
                           const coterie_gpu_rank_t *rank,
                           const coterie_gpu_rows_t *rows, uint32_t row);

/* The weighted outputs of a row that came, choices in order, so that a sum has
 * one order whatever else came. */
void coterie_sum_make(const coterie_gpu_dispatch_t *d,
                      const coterie_gpu_rank_t *rank, uint32_t row,
                      float *sum);
/* One more sum of a message, of the row known there by `number`.
 * @return its place, COTERIE_GPU_NOWHERE if there was none */
uint32_t coterie_sum_write(const coterie_gpu_dispatch_t *d,
                           const coterie_gpu_rank_t *rank,
                           coterie_gpu_parcel_t parcel, uint32_t to,
                           uint32_t number, const float *sum);
/* Of a held row; NULL: it did not come, which some counter says. */
const void *coterie_sum_find(const coterie_gpu_dispatch_t *d,
                             const coterie_gpu_rank_t *rank,
                             coterie_gpu_parcel_t parcel, uint32_t from,
                             uint32_t at);
/* sum += part j of a held row. */
void coterie_part_add(const coterie_gpu_dispatch_t *d,
                      const coterie_gpu_rank_t *rank, uint32_t at, uint32_t j,
                      float *sum);

/* device_host_forward.c: the same of a layer in forward mode. */
void coterie_forward_send(const coterie_gpu_dispatch_t *d, uint32_t i);
void coterie_forward_give_back(const coterie_gpu_dispatch_t *d, uint32_t i);
/* Finds out from all messages which rows are here next. */
void coterie_forward_merge(const coterie_gpu_dispatch_t *d, uint32_t i);
/* What else out says of a held row, and sum = the part with its residual. */
void coterie_forward_begin(const coterie_gpu_dispatch_t *d,
                           const coterie_gpu_rank_t *rank, uint32_t at,
                           const coterie_gpu_rows_t *out, float *sum);

#endif
