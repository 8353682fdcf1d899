#include "config.h"

#include <string.h>
#include <time.h>

#include "kernels/device_host_messages.h"

enum {
    NAP_NS = 50000,
    AHEAD_MAX = 1 /* messages, that a sender may be ahead of who reads */
};

static uint64_t now_ns(void);

void coterie_rows_count(const coterie_gpu_dispatch_t *d,
                        const coterie_gpu_rank_t *rank,
                        coterie_gpu_parcel_t parcel, uint32_t to,
                        uint32_t rows)
{
    coterie_gpu_counts_t *counts = rank->counts;
    const size_t row = coterie_gpu_row_size(d);

    counts->copies[coterie_gpu_counted_as(parcel)] += rows;
    counts->payload_bytes += rows * row;
    counts->wire_bytes +=
        rank->flag[to] != NULL
            ? sizeof(coterie_gpu_head_t) +
                  rows * (row + coterie_gpu_extra(d, parcel))
            : coterie_gpu_slot_size(d, parcel);
    if (to / d->tables.node_ranks != rank->rank / d->tables.node_ranks)
        counts->copies_network += rows;
}

uint32_t coterie_message_await(const coterie_gpu_dispatch_t *d,
                               const coterie_gpu_rank_t *rank,
                               coterie_gpu_parcel_t parcel, uint32_t from)
{
    const uint32_t *flag =
        rank->flags + coterie_gpu_flag_of(parcel) * d->tables.rank_count +
        from;
    const uint32_t sequence = rank->sequence[coterie_gpu_number_of(parcel)];
    const uint64_t start = now_ns();
    const struct timespec nap = {0, NAP_NS};
    coterie_gpu_head_t head;

    if (!coterie_gpu_comes(d, rank, parcel, from))
        return 0;
    while (coterie_gpu_flags(d, rank, parcel, from) &&
           __atomic_load_n(flag, __ATOMIC_ACQUIRE) - sequence > AHEAD_MAX) {
        if (rank->counts->late != 0 ||
            now_ns() - start >= d->deadline_ns) {
            if (rank->counts->late == 0)
                rank->counts->late = from + 1;
            return 0;
        }
        nanosleep(&nap, NULL);
    }
    memcpy(&head, coterie_gpu_inbound(d, rank, parcel, from), sizeof(head));
    return head.count < d->capacity ? head.count : d->capacity;
}

uint32_t coterie_arrived_take(const coterie_gpu_dispatch_t *d,
                              const coterie_gpu_rank_t *rank,
                              coterie_gpu_parcel_t parcel, uint32_t from,
                              uint32_t *left)
{
    uint32_t count = coterie_message_await(d, rank, parcel, from);

    if (count > *left) {
        count = *left;
        rank->counts->overflows++;
    }
    *left -= count;
    return count;
}

uint32_t coterie_message_head(const coterie_gpu_dispatch_t *d,
                              const coterie_gpu_rank_t *rank,
                              coterie_gpu_parcel_t parcel, uint32_t to,
                              uint32_t owned)
{
    uint32_t *sent = rank->sent + parcel * d->tables.rank_count + to;
    const coterie_gpu_head_t head = {
        .count = *sent < d->capacity ? *sent : d->capacity, .owned = owned};

    *sent = 0;
    if (coterie_gpu_both_active(rank, to))
        memcpy(coterie_gpu_outbound(d, rank, parcel, to), &head, sizeof(head));
    return head.count;
}

/* The next owner gets the row itself, others the experts' input. */
uint32_t coterie_row_write(const coterie_gpu_dispatch_t *d,
                           const coterie_gpu_rank_t *rank,
                           const coterie_gpu_rows_t *rows, uint32_t row,
                           coterie_gpu_parcel_t parcel, uint32_t to)
{
    const coterie_route_t *route = &rank->routes[row];
    const bool raw =
        d->owner && to == route->next_owner && to != rank->rank;
    const void *values = raw ? rows->hidden : rows->normed;
    char *slot = coterie_gpu_outbound(d, rank, parcel, to), *there;
    const uint32_t place =
        rank->sent[parcel * d->tables.rank_count + to]++;
    coterie_gpu_record_t *record = coterie_gpu_record(d, slot, place);

    if (place >= d->capacity) {
        rank->counts->overflows++;
        return COTERIE_GPU_NOWHERE;
    }
    *record = coterie_row_record(d, rank, rows, row);
    record->raw = raw;
    for (uint32_t j = 0; j < d->k; j++)
        coterie_gpu_choices(record)[j] = (coterie_gpu_choice_t){
            (int16_t)(route->serving[j] == to
                          ? route->slot[j] - (int32_t)d->slot_first[to]
                          : -1),
            route->serving[j], rows->weights[(size_t)row * d->k + j]};
    there = coterie_gpu_values(d, parcel, slot, place);
    for (size_t h = 0; h < d->hidden; h++)
        coterie_value_put(
            there, d->wire, h,
            coterie_value_get(values, d->element,
                              (size_t)row * d->hidden + h));
    return place;
}

coterie_gpu_record_t coterie_row_record(const coterie_gpu_dispatch_t *d,
                                        const coterie_gpu_rank_t *rank,
                                        const coterie_gpu_rows_t *rows,
                                        uint32_t row)
{
    coterie_gpu_record_t record = {
        .key = rows->key != NULL ? rows->key[row] : row,
        .number = rank->number[row],
        .owner = rank->routes[row].next_owner};

    if (!d->forward)
        return record;
    record.number = rows->seat != NULL ? rows->seat[row] : row;
    record.holders = coterie_gpu_holders(rows, row);
    record.next = rank->next[row];
    return record;
}

void coterie_parts_write(const coterie_gpu_choice_t *choices, uint32_t k,
                         uint16_t *parts)
{
    uint32_t count = 0;

    for (uint32_t j = 0; j < k; j++) {
        uint32_t at = count;

        for (uint32_t i = 0; i < count && at == count; i++)
            if (parts[i] >= choices[j].serving)
                at = i;
        if (choices[j].serving == COTERIE_NONE ||
            (at < count && parts[at] == choices[j].serving))
            continue;
        memmove(parts + at + 1, parts + at, (count - at) * sizeof(*parts));
        parts[at] = choices[j].serving;
        count++;
    }
    while (count < k)
        parts[count++] = COTERIE_NONE;
}

void coterie_dropped_count(const coterie_gpu_dispatch_t *d,
                           const coterie_gpu_rank_t *rank,
                           const coterie_gpu_rows_t *rows, uint32_t row)
{
    const coterie_route_t *route = &rank->routes[row];

    for (uint32_t j = 0; j < d->k; j++)
        rank->counts->dropped += rows->ids[(size_t)row * d->k + j] >= 0 &&
                                 route->serving[j] == COTERIE_NONE;
}

void coterie_sum_make(const coterie_gpu_dispatch_t *d,
                      const coterie_gpu_rank_t *rank, uint32_t row,
                      float *sum)
{
    const size_t at = (size_t)row * d->k;

    for (size_t h = 0; h < d->hidden; h++) {
        sum[h] = 0;
        for (size_t j = at; j < at + d->k; j++)
            if (rank->place[j] >= 0)
                sum[h] += rank->weights[j] *
                          rank->out[(size_t)rank->place[j] * d->hidden + h];
    }
}

uint32_t coterie_sum_write(const coterie_gpu_dispatch_t *d,
                           const coterie_gpu_rank_t *rank,
                           coterie_gpu_parcel_t parcel, uint32_t to,
                           uint32_t number, const float *sum)
{
    const uint32_t place =
        rank->sent[parcel * d->tables.rank_count + to]++;
    char *slot = coterie_gpu_outbound(d, rank, parcel, to), *there;

    if (place >= d->capacity) {
        rank->counts->overflows++;
        return COTERIE_GPU_NOWHERE;
    }
    coterie_gpu_places(d, parcel, slot)[number] = place;
    there = coterie_gpu_values(d, parcel, slot, place);
    for (size_t h = 0; h < d->hidden; h++)
        coterie_value_put(there, d->wire, h, sum[h]);
    return place;
}

const void *coterie_sum_find(const coterie_gpu_dispatch_t *d,
                             const coterie_gpu_rank_t *rank,
                             coterie_gpu_parcel_t parcel, uint32_t from,
                             uint32_t at)
{
    coterie_gpu_head_t head;
    uint32_t place;
    char *slot;

    if (from >= d->tables.rank_count)
        return NULL;
    slot = coterie_gpu_inbound(d, rank, parcel, from);
    memcpy(&head, slot, sizeof(head));
    place = coterie_gpu_places(d, parcel, slot)[rank->held_from[at]];
    if (place >= head.count || place >= d->capacity)
        return NULL;
    return parcel != COTERIE_GPU_FORWARD ||
                   coterie_gpu_record(d, slot, place)->number ==
                       rank->held_from[at]
               ? coterie_gpu_values(d, parcel, slot, place)
               : NULL;
}

void coterie_part_add(const coterie_gpu_dispatch_t *d,
                      const coterie_gpu_rank_t *rank, uint32_t at, uint32_t j,
                      float *sum)
{
    const uint16_t from = rank->held_parts[(size_t)at * d->k + j];
    const coterie_gpu_parcel_t parcel =
        !d->forward                       ? COTERIE_GPU_RETURN
        : rank->held_late[at] >> j & 1 ? COTERIE_GPU_FIXUP
                                          : COTERIE_GPU_FORWARD;
    const void *part = coterie_sum_find(d, rank, parcel, from, at);

    rank->counts->disagreed +=
        d->forward && part == NULL && from != COTERIE_NONE;
    for (size_t h = 0; part != NULL && h < d->hidden; h++)
        sum[h] += coterie_value_get(part, d->wire, h);
}

static uint64_t now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}
