/* Forward for the processor as a device, row after row. */
#include "config.h"

#include <string.h>

#include "kernels/device_host_messages.h"

static void row_plan(const coterie_gpu_dispatch_t *d,
                     const coterie_gpu_rank_t *rank,
                     const coterie_gpu_rows_t *rows, uint32_t row);
static void route_find(const coterie_gpu_dispatch_t *d, uint32_t layer,
                       const int32_t *ids, uint32_t k, coterie_route_t *route);
static void sums_send(const coterie_gpu_dispatch_t *d,
                      const coterie_gpu_rank_t *rank,
                      const coterie_gpu_rows_t *rows);
static void late_send(const coterie_gpu_dispatch_t *d,
                      const coterie_gpu_rank_t *rank);
static void sum_spread(const coterie_gpu_dispatch_t *d,
                       const coterie_gpu_rank_t *rank,
                       coterie_gpu_parcel_t parcel,
                       const coterie_gpu_record_t *record,
                       const coterie_route_t *route);
static void forward_seal(const coterie_gpu_dispatch_t *d,
                         const coterie_gpu_rank_t *rank);
static void fixups_seal(const coterie_gpu_dispatch_t *d,
                        const coterie_gpu_rank_t *rank);
static void record_note(const coterie_gpu_dispatch_t *d,
                        const coterie_gpu_rank_t *rank, uint32_t at);
static coterie_gpu_record_t *record_at(const coterie_gpu_dispatch_t *d,
                                       const coterie_gpu_rank_t *rank,
                                       uint32_t at);
static void row_hold(const coterie_gpu_dispatch_t *d,
                     const coterie_gpu_rank_t *rank, uint32_t seat);

void coterie_forward_send(const coterie_gpu_dispatch_t *d, uint32_t i)
{
    const coterie_gpu_rank_t *rank = &d->ranks[d->first + i];
    const coterie_gpu_rows_t *rows = &d->in[i];
    const uint32_t count = coterie_rows_here(rows);

    for (uint32_t row = 0; row < count; row++) {
        const coterie_route_t *route = &rank->routes[row];

        row_plan(d, rank, rows, row);
        for (uint32_t j = 0; j < route->rank_count; j++) {
            const uint32_t to = route->rank[j];

            if (to == rank->rank)
                rank->number[row] = coterie_row_write(
                    d, rank, rows, row, COTERIE_GPU_DISPATCH, to);
            else if (d->mends && route->next_owner == rank->rank &&
                     !coterie_gpu_set_has(coterie_gpu_holders(rows, row), to))
                (void)coterie_row_write(d, rank, rows, row, COTERIE_GPU_LATE,
                                        to);
        }
        if (route->next_owner == rank->rank)
            coterie_dropped_count(d, rank, rows, row);
    }
    rank->counts->rows += count;
    (void)coterie_message_head(d, rank, COTERIE_GPU_DISPATCH, rank->rank, 0);
}

static void row_plan(const coterie_gpu_dispatch_t *d,
                     const coterie_gpu_rank_t *rank,
                     const coterie_gpu_rows_t *rows, uint32_t row)
{
    coterie_route_t *route = &rank->routes[row], ahead;

    route_find(d, d->layer, rows->ids + (size_t)row * d->k, d->k, route);
    route->next_owner =
        coterie_gpu_carrier(rank, route, coterie_gpu_holders(rows, row));
    rank->number[row] = COTERIE_GPU_NOWHERE;
    rank->next[row] = COTERIE_GPU_SET_ALL;
    if (d->predicted_k == 0 || rows->predicted == NULL)
        return;
    route_find(d, d->layer + 1,
               rows->predicted + (size_t)row * d->predicted_k, d->predicted_k,
               &ahead);
    rank->next[row] = coterie_gpu_next(&ahead, route->next_owner);
}

static void route_find(const coterie_gpu_dispatch_t *d, uint32_t layer,
                       const int32_t *ids, uint32_t k, coterie_route_t *route)
{
    int32_t known[COTERIE_K_MAX];

    for (uint32_t j = 0; j < k; j++)
        known[j] = ids[j] < (int32_t)d->tables.expert_count ? ids[j] : -1;
    coterie_route_by(&d->tables, layer, known, k, COTERIE_NONE, route);
}

void coterie_forward_give_back(const coterie_gpu_dispatch_t *d, uint32_t i)
{
    const coterie_gpu_rank_t *rank = &d->ranks[d->first + i];

    if (d->late) {
        late_send(d, rank);
        fixups_seal(d, rank);
    } else {
        sums_send(d, rank, &d->in[i]);
        forward_seal(d, rank);
    }
}

static void sums_send(const coterie_gpu_dispatch_t *d,
                      const coterie_gpu_rank_t *rank,
                      const coterie_gpu_rows_t *rows)
{
    const uint32_t count = coterie_rows_here(rows);
    float *sum = rank->normed;

    for (uint32_t row = 0; row < count; row++) {
        const coterie_route_t *route = &rank->routes[row];
        const coterie_gpu_record_t record =
            coterie_row_record(d, rank, rows, row);
        const uint32_t number = rank->number[row];

        if (record.number >= d->max_rows ||
            (number == COTERIE_GPU_NOWHERE && record.owner != rank->rank))
            continue;
        memset(sum, 0, d->hidden * sizeof(*sum));
        if (number != COTERIE_GPU_NOWHERE)
            coterie_sum_make(d, rank,
                             coterie_gpu_arrived_at(d, rank->rank, number),
                             sum);
        for (size_t h = 0; record.owner == rank->rank && h < d->hidden; h++)
            sum[h] = coterie_value_get(rows->hidden, d->element,
                                       (size_t)row * d->hidden + h) +
                     sum[h];
        sum_spread(d, rank, COTERIE_GPU_FORWARD, &record, route);
    }
}

static void late_send(const coterie_gpu_dispatch_t *d,
                      const coterie_gpu_rank_t *rank)
{
    uint32_t left = d->arrivals;

    for (uint32_t from = 0; from < d->tables.rank_count; from++) {
        const uint32_t count =
            coterie_arrived_take(d, rank, COTERIE_GPU_LATE, from, &left);
        char *slot = coterie_gpu_inbound(d, rank, COTERIE_GPU_LATE, from);

        for (uint32_t row = 0; row < count; row++) {
            const coterie_gpu_record_t *record =
                coterie_gpu_record(d, slot, row);

            if (record->number >= d->max_rows)
                continue;
            coterie_sum_make(d, rank, coterie_gpu_arrived_at(d, from, row),
                             rank->normed);
            sum_spread(d, rank, COTERIE_GPU_FIXUP, record, NULL);
        }
    }
}

/* To all that hold the row next, itself too: all add up what has travelled. */
static void sum_spread(const coterie_gpu_dispatch_t *d,
                       const coterie_gpu_rank_t *rank,
                       coterie_gpu_parcel_t parcel,
                       const coterie_gpu_record_t *record,
                       const coterie_route_t *route)
{
    for (uint32_t to = 0; to < d->tables.rank_count; to++) {
        coterie_gpu_record_t *there;
        uint32_t place;

        if (!coterie_gpu_set_has(record->next, to) ||
            !coterie_gpu_both_active(rank, to))
            continue;
        place = coterie_sum_write(d, rank, parcel, to, record->number,
                                  rank->normed);
        if (place == COTERIE_GPU_NOWHERE || parcel == COTERIE_GPU_FIXUP)
            continue;
        there = coterie_gpu_record(
            d, coterie_gpu_outbound(d, rank, parcel, to), place);
        *there = *record;
        for (uint32_t j = 0; j < d->k; j++)
            coterie_gpu_choices(there)[j] =
                (coterie_gpu_choice_t){-1, route->serving[j], 0};
    }
}

/* Sums and late rows are one message. */
static void forward_seal(const coterie_gpu_dispatch_t *d,
                         const coterie_gpu_rank_t *rank)
{
    const uint32_t sequence = rank->sequence[COTERIE_GPU_FORWARD] + 1;

    for (uint32_t to = 0; to < d->tables.rank_count; to++) {
        const uint32_t sums =
            coterie_message_head(d, rank, COTERIE_GPU_FORWARD, to, 0);
        const uint32_t late =
            d->mends ? coterie_message_head(d, rank, COTERIE_GPU_LATE, to, 0)
                     : 0;

        if (!coterie_gpu_both_active(rank, to))
            continue;
        if (to != rank->rank) {
            coterie_rows_count(d, rank, COTERIE_GPU_FORWARD, to, sums);
            coterie_message_count(rank, sums + late);
        }
        if (to != rank->rank && d->mends)
            coterie_rows_count(d, rank, COTERIE_GPU_LATE, to, late);
        coterie_flag_raise(d, rank, COTERIE_GPU_FORWARD, to, sequence);
    }
    rank->sequence[COTERIE_GPU_FORWARD] = sequence;
}

/* Nobody waits for a rank that was not late; but what is sent for it is sent
 * whatever it has, and then says that it has nothing. */
static void fixups_seal(const coterie_gpu_dispatch_t *d,
                        const coterie_gpu_rank_t *rank)
{
    const uint32_t *sent =
        rank->sent + COTERIE_GPU_FIXUP * d->tables.rank_count;

    for (uint32_t to = 0; to < d->tables.rank_count; to++) {
        const bool swapped = rank->flag[to] == NULL;
        uint32_t count;

        if (!coterie_gpu_both_active(rank, to) || (sent[to] == 0 && !swapped))
            continue;
        count = coterie_message_head(d, rank, COTERIE_GPU_FIXUP, to, 0);
        if (to != rank->rank) {
            coterie_rows_count(d, rank, COTERIE_GPU_FIXUP, to, count);
            coterie_message_count(rank, count);
            rank->counts->fixup_messages += count > 0;
        }
        coterie_flag_raise(d, rank, COTERIE_GPU_FIXUP, to,
                           rank->sequence[COTERIE_GPU_FORWARD]);
    }
}

void coterie_forward_merge(const coterie_gpu_dispatch_t *d, uint32_t i)
{
    const coterie_gpu_rank_t *rank = &d->ranks[d->first + i];
    const uint32_t ranks = d->tables.rank_count;

    memset(rank->seats, 0, d->max_rows * sizeof(*rank->seats));
    memset(rank->expected, 0, ranks * sizeof(*rank->expected));
    *rank->held_count = 0;
    for (uint32_t from = 0; from < ranks; from++) {
        const uint32_t count =
            coterie_message_await(d, rank, COTERIE_GPU_FORWARD, from);

        for (uint32_t row = 0; row < count; row++)
            record_note(d, rank, from * d->capacity + row);
    }
    for (uint32_t seat = 0; seat < d->max_rows; seat++)
        if (rank->seats[seat] != 0)
            row_hold(d, rank, seat);
}

/* All that tell of a row say the same. */
static void record_note(const coterie_gpu_dispatch_t *d,
                        const coterie_gpu_rank_t *rank, uint32_t at)
{
    const coterie_gpu_record_t *record = record_at(d, rank, at), *other;
    uint32_t *seat;

    if (record->number >= d->max_rows) {
        rank->counts->disagreed++;
        return;
    }
    seat = &rank->seats[record->number];
    if (*seat == 0) {
        *seat = at + 1;
        return;
    }
    other = record_at(d, rank, *seat - 1);
    rank->counts->disagreed += !coterie_gpu_same_row(record, other);
}

static coterie_gpu_record_t *record_at(const coterie_gpu_dispatch_t *d,
                                       const coterie_gpu_rank_t *rank,
                                       uint32_t at)
{
    return coterie_gpu_record(
        d,
        coterie_gpu_inbound(d, rank, COTERIE_GPU_FORWARD, at / d->capacity),
        at % d->capacity);
}

static void row_hold(const coterie_gpu_dispatch_t *d,
                     const coterie_gpu_rank_t *rank, uint32_t seat)
{
    coterie_gpu_record_t *record =
        record_at(d, rank, rank->seats[seat] - 1);
    const uint32_t at = (*rank->held_count)++;

    rank->held_from[at] = seat;
    rank->held_key[at] = record->key;
    rank->held_carrier[at] = record->owner;
    rank->held_next[at] = record->next;
    coterie_parts_write(coterie_gpu_choices(record), d->k,
                        rank->held_parts + (size_t)at * d->k);
    coterie_gpu_parts_begin(d, rank, at, record->holders);
}

void coterie_forward_begin(const coterie_gpu_dispatch_t *d,
                           const coterie_gpu_rank_t *rank, uint32_t at,
                           const coterie_gpu_rows_t *out, float *sum)
{
    const void *first = coterie_sum_find(d, rank, COTERIE_GPU_FORWARD,
                                         rank->held_carrier[at], at);

    if (out->seat != NULL)
        out->seat[at] = rank->held_from[at];
    if (out->holders != NULL)
        out->holders[at] = rank->held_next[at];
    rank->counts->disagreed += first == NULL;
    for (size_t h = 0; h < d->hidden; h++)
        sum[h] = first != NULL ? coterie_value_get(first, d->wire, h) : 0;
}
