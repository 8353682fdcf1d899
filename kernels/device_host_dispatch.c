/* Dispatch's kernels for the processor as a device, row after row. */
#include "config.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/element.h"
#include "kernels/device.h"
#include "kernels/device_host.h"

enum { NAP_NS = 50000 };

static void rank_send(const coterie_gpu_dispatch_t *d, uint32_t i);
static void rank_arrive(const coterie_gpu_dispatch_t *d, uint32_t i);
static void rank_give_back(const coterie_gpu_dispatch_t *d, uint32_t i);
static void rank_finish(const coterie_gpu_dispatch_t *d, uint32_t i);
static uint32_t rows_here(const coterie_gpu_rows_t *rows);
static void row_route(const coterie_gpu_dispatch_t *d,
                      const coterie_gpu_rank_t *rank,
                      const coterie_gpu_rows_t *rows, uint32_t row);
static void row_send(const coterie_gpu_dispatch_t *d,
                     const coterie_gpu_rank_t *rank,
                     const coterie_gpu_rows_t *rows, uint32_t row,
                     uint32_t to);
static void messages_seal(const coterie_gpu_dispatch_t *d,
                          const coterie_gpu_rank_t *rank,
                          coterie_gpu_parcel_t parcel);
static void message_count(const coterie_gpu_dispatch_t *d,
                          const coterie_gpu_rank_t *rank,
                          coterie_gpu_parcel_t parcel, uint32_t to,
                          uint32_t rows);
static uint32_t message_await(const coterie_gpu_dispatch_t *d,
                              const coterie_gpu_rank_t *rank,
                              coterie_gpu_parcel_t parcel, uint32_t from);
static uint32_t arrived_take(const coterie_gpu_dispatch_t *d,
                             const coterie_gpu_rank_t *rank, uint32_t from,
                             uint32_t *left);
static bool both_active(const coterie_gpu_rank_t *rank, uint32_t peer);
static uint64_t now_ns(void);
static char *inbox_slot(const coterie_gpu_dispatch_t *d,
                        const coterie_gpu_rank_t *rank,
                        coterie_gpu_parcel_t parcel, uint32_t from);
static void message_read(const coterie_gpu_dispatch_t *d,
                         const coterie_gpu_rank_t *rank, uint32_t from,
                         uint32_t count, uint32_t owned_first);
static void row_read(const coterie_gpu_dispatch_t *d,
                     const coterie_gpu_rank_t *rank, uint32_t from,
                     uint32_t row, uint32_t owned_first);
static void stays_hold(const coterie_gpu_dispatch_t *d,
                       const coterie_gpu_rank_t *rank,
                       const coterie_gpu_rows_t *rows, uint32_t owned_first);
static bool held_write(const coterie_gpu_dispatch_t *d,
                       const coterie_gpu_rank_t *rank, uint32_t at,
                       uint32_t from, uint64_t key);
static void parts_write(const coterie_gpu_choice_t *choices, uint32_t k,
                        uint16_t *parts);
static void sum_send(const coterie_gpu_dispatch_t *d,
                     const coterie_gpu_rank_t *rank, uint32_t from,
                     uint32_t row);
static const void *sum_find(const coterie_gpu_dispatch_t *d,
                            const coterie_gpu_rank_t *rank, uint32_t from,
                            uint32_t at);
static float value_get(const void *row, uint32_t type, size_t i);
static void value_put(void *row, uint32_t type, size_t i, float value);

int coterie_host_send(void *stream, const coterie_gpu_dispatch_t *d)
{
    (void)stream;
    for (uint32_t i = 0; i < d->count; i++)
        rank_send(d, i);
    return 0;
}

int coterie_host_arrive(void *stream, const coterie_gpu_dispatch_t *d)
{
    (void)stream;
    for (uint32_t i = 0; i < d->count; i++)
        rank_arrive(d, i);
    return 0;
}

int coterie_host_give_back(void *stream, const coterie_gpu_dispatch_t *d)
{
    (void)stream;
    for (uint32_t i = 0; i < d->count; i++)
        rank_give_back(d, i);
    return 0;
}

int coterie_host_finish(void *stream, const coterie_gpu_dispatch_t *d)
{
    (void)stream;
    for (uint32_t i = 0; i < d->count; i++)
        rank_finish(d, i);
    return 0;
}

static void rank_send(const coterie_gpu_dispatch_t *d, uint32_t i)
{
    const coterie_gpu_rank_t *rank = &d->ranks[d->first + i];
    const coterie_gpu_rows_t *rows = &d->in[i];
    const uint32_t count = rows_here(rows);

    memset(rank->owned, 0, d->tables.rank_count * sizeof(*rank->owned));
    for (uint32_t row = 0; row < count; row++) {
        const coterie_route_t *route = &rank->routes[row];

        row_route(d, rank, rows, row);
        for (uint32_t j = 0; j < route->rank_count; j++)
            row_send(d, rank, rows, row, route->rank[j]);
        for (uint32_t j = 0; j < d->k; j++)
            rank->counts->dropped += rows->ids[(size_t)row * d->k + j] >= 0 &&
                                     route->serving[j] == COTERIE_NONE;
    }
    rank->counts->rows += count;
    messages_seal(d, rank, COTERIE_GPU_DISPATCH);
}

static void rank_arrive(const coterie_gpu_dispatch_t *d, uint32_t i)
{
    const coterie_gpu_rank_t *rank = &d->ranks[d->first + i];
    uint32_t owned = 0, here = 0, left = d->arrivals;

    for (uint32_t from = 0; from < d->tables.rank_count; from++) {
        const uint32_t count = arrived_take(d, rank, from, &left);
        const coterie_gpu_head_t *head =
            (const void *)inbox_slot(d, rank, COTERIE_GPU_DISPATCH, from);

        message_read(d, rank, from, count, owned);
        if (from == rank->rank)
            here = owned;
        if (count > 0 || from == rank->rank)
            owned += head->owned < d->max_rows ? head->owned : d->max_rows;
    }
    stays_hold(d, rank, &d->in[i], here);
    *rank->held_count = owned < d->max_rows ? owned : d->max_rows;
    rank->counts->overflows += owned - *rank->held_count;
}

static void rank_give_back(const coterie_gpu_dispatch_t *d, uint32_t i)
{
    const coterie_gpu_rank_t *rank = &d->ranks[d->first + i];
    uint32_t left = d->arrivals;

    for (uint32_t from = 0; from < d->tables.rank_count; from++) {
        const uint32_t count = arrived_take(d, rank, from, &left);

        for (uint32_t row = 0; row < count; row++)
            sum_send(d, rank, from, row);
    }
    messages_seal(d, rank, COTERIE_GPU_RETURN);
}

/* The residual first, then the sums, ranks ascending. */
static void rank_finish(const coterie_gpu_dispatch_t *d, uint32_t i)
{
    const coterie_gpu_rank_t *rank = &d->ranks[d->first + i];
    const coterie_gpu_rows_t *out = &d->out[i];
    const uint32_t type = d->owner ? COTERIE_WIRE_F32 : d->element;
    const void *base = d->owner ? rank->base : d->in[i].hidden;

    for (uint32_t from = 0; from < d->tables.rank_count; from++)
        (void)message_await(d, rank, COTERIE_GPU_RETURN, from);
    *out->count = *rank->held_count < out->capacity ? *rank->held_count
                                                    : out->capacity;
    rank->counts->overflows += *rank->held_count - *out->count;
    for (uint32_t at = 0; at < *out->count; at++) {
        const void *sums[COTERIE_K_MAX];

        if (out->key != NULL)
            out->key[at] = rank->held_key[at];
        for (uint32_t j = 0; j < d->k; j++)
            sums[j] = sum_find(d, rank, rank->held_parts[at * d->k + j], at);
        for (size_t h = 0; h < d->hidden; h++) {
            const size_t element = (size_t)at * d->hidden + h;
            float sum = value_get(base, type, element);

            for (uint32_t j = 0; j < d->k; j++)
                if (sums[j] != NULL)
                    sum += value_get(sums[j], d->wire, h);
            value_put(out->hidden, d->element, element, sum);
        }
    }
}

static uint32_t rows_here(const coterie_gpu_rows_t *rows)
{
    return *rows->count < rows->capacity ? *rows->count : rows->capacity;
}

static void row_route(const coterie_gpu_dispatch_t *d,
                      const coterie_gpu_rank_t *rank,
                      const coterie_gpu_rows_t *rows, uint32_t row)
{
    coterie_route_t *route = &rank->routes[row];
    int32_t ids[COTERIE_K_MAX];

    for (uint32_t j = 0; j < d->k; j++) {
        const int32_t id = rows->ids[(size_t)row * d->k + j];
        ids[j] = id < (int32_t)d->tables.expert_count ? id : -1;
    }
    coterie_route_by(&d->tables, d->layer, ids, d->k, rank->rank, route);
    if (!d->owner)
        route->next_owner = (uint16_t)rank->rank;
    rank->number[row] = rank->owned[route->next_owner]++;
}

/* The next owner gets the row itself, others the experts' input. */
static void row_send(const coterie_gpu_dispatch_t *d,
                     const coterie_gpu_rank_t *rank,
                     const coterie_gpu_rows_t *rows, uint32_t row, uint32_t to)
{
    const coterie_route_t *route = &rank->routes[row];
    char *slot = rank->to[COTERIE_GPU_DISPATCH][to];
    const uint32_t place = rank->sent[to]++;
    const bool raw = to == route->next_owner && to != rank->rank;
    const void *values = raw ? rows->hidden : rows->normed;
    coterie_gpu_record_t *record = coterie_gpu_record(d, slot, place);

    if (place >= d->capacity) {
        rank->counts->overflows++;
        return;
    }
    *record = (coterie_gpu_record_t){
        rows->key != NULL ? rows->key[row] : row, rank->number[row],
        route->next_owner, raw};
    for (uint32_t j = 0; j < d->k; j++)
        coterie_gpu_choices(record)[j] = (coterie_gpu_choice_t){
            (int16_t)(route->serving[j] == to
                          ? route->slot[j] - (int32_t)d->slot_first[to]
                          : -1),
            route->serving[j], rows->weights[(size_t)row * d->k + j]};
    for (size_t h = 0; h < d->hidden; h++)
        value_put(coterie_gpu_values(d, COTERIE_GPU_DISPATCH, slot, place),
                  d->wire, h,
                  value_get(values, d->element, (size_t)row * d->hidden + h));
}

static void messages_seal(const coterie_gpu_dispatch_t *d,
                          const coterie_gpu_rank_t *rank,
                          coterie_gpu_parcel_t parcel)
{
    const uint32_t ranks = d->tables.rank_count;
    const uint32_t sequence = ++rank->sequence[parcel];
    uint32_t *sent = rank->sent + parcel * ranks;

    for (uint32_t to = 0; to < ranks; to++) {
        coterie_gpu_head_t head = {.count = sent[to] < d->capacity
                                                ? sent[to]
                                                : d->capacity};

        sent[to] = 0;
        if (!both_active(rank, to))
            continue;
        if (parcel == COTERIE_GPU_DISPATCH)
            head.owned = rank->owned[to];
        memcpy(rank->to[parcel][to], &head, sizeof(head));
        if (to != rank->rank)
            message_count(d, rank, parcel, to, head.count);
        if (rank->flag[to] != NULL)
            __atomic_store_n(rank->flag[to] + parcel * ranks, sequence,
                             __ATOMIC_RELEASE);
    }
}

static void message_count(const coterie_gpu_dispatch_t *d,
                          const coterie_gpu_rank_t *rank,
                          coterie_gpu_parcel_t parcel, uint32_t to,
                          uint32_t rows)
{
    coterie_gpu_counts_t *counts = rank->counts;
    const size_t row = coterie_gpu_row_size(d);
    const size_t more = parcel == COTERIE_GPU_DISPATCH
                            ? coterie_gpu_record_size(d->k)
                            : sizeof(uint32_t);

    counts->copies[parcel] += rows;
    counts->payload_bytes += rows * row;
    counts->wire_bytes += rank->flag[to] != NULL
                              ? sizeof(coterie_gpu_head_t) +
                                    rows * (row + more)
                              : coterie_gpu_slot_size(d, parcel);
    counts->messages += rows > 0;
    counts->empty_messages += rows == 0;
    if (to / d->tables.node_ranks != rank->rank / d->tables.node_ranks)
        counts->copies_network += rows;
}

/* Its rows; none of a rank that is late. Once one was, nobody waits. */
static uint32_t message_await(const coterie_gpu_dispatch_t *d,
                              const coterie_gpu_rank_t *rank,
                              coterie_gpu_parcel_t parcel, uint32_t from)
{
    const uint32_t *flag =
        rank->flags + parcel * d->tables.rank_count + from;
    const uint32_t sequence = rank->sequence[parcel];
    const uint64_t start = now_ns();
    const struct timespec nap = {0, NAP_NS};
    coterie_gpu_head_t head;

    if (!both_active(rank, from))
        return 0;
    while (rank->flag[from] != NULL &&
           (int32_t)(__atomic_load_n(flag, __ATOMIC_ACQUIRE) - sequence) < 0) {
        if (rank->counts->late != 0 ||
            now_ns() - start >= d->deadline_ns) {
            if (rank->counts->late == 0)
                rank->counts->late = from + 1;
            return 0;
        }
        nanosleep(&nap, NULL);
    }
    memcpy(&head, inbox_slot(d, rank, parcel, from), sizeof(head));
    return head.count < d->capacity ? head.count : d->capacity;
}

/* Of a dispatch, as many as there is room for. */
static uint32_t arrived_take(const coterie_gpu_dispatch_t *d,
                             const coterie_gpu_rank_t *rank, uint32_t from,
                             uint32_t *left)
{
    uint32_t count = message_await(d, rank, COTERIE_GPU_DISPATCH, from);

    if (count > *left) {
        count = *left;
        rank->counts->overflows++;
    }
    *left -= count;
    return count;
}

static bool both_active(const coterie_gpu_rank_t *rank, uint32_t peer)
{
    return rank->active[rank->rank] && rank->active[peer];
}

static uint64_t now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static char *inbox_slot(const coterie_gpu_dispatch_t *d,
                        const coterie_gpu_rank_t *rank,
                        coterie_gpu_parcel_t parcel, uint32_t from)
{
    return rank->inbox[parcel] + from * coterie_gpu_slot_size(d, parcel);
}

/* Rows that there is room for and did not come choose none. */
static void message_read(const coterie_gpu_dispatch_t *d,
                         const coterie_gpu_rank_t *rank, uint32_t from,
                         uint32_t count, uint32_t owned_first)
{
    const uint32_t lead = d->lead[COTERIE_GPU_DISPATCH];
    const uint32_t stride = coterie_gpu_stride(d, COTERIE_GPU_DISPATCH);
    char *slot = inbox_slot(d, rank, COTERIE_GPU_DISPATCH, from);

    for (uint32_t i = 0; i < stride; i++) {
        const uint32_t row = i - lead; /* wraps before the values */
        const size_t at = ((size_t)from * stride + i) * d->k;

        for (uint32_t j = 0; j < d->k; j++) {
            coterie_gpu_choice_t choice = {-1, COTERIE_NONE, 0};

            if (row < count)
                choice =
                    coterie_gpu_choices(coterie_gpu_record(d, slot, row))[j];
            rank->ids[at + j] =
                choice.slot < (int32_t)rank->slots ? choice.slot : -1;
            rank->weights[at + j] = choice.weight;
        }
    }
    for (uint32_t row = 0; !d->in_place && row < count; row++)
        row_read(d, rank, from, row, owned_first);
}

static void row_read(const coterie_gpu_dispatch_t *d,
                     const coterie_gpu_rank_t *rank, uint32_t from,
                     uint32_t row, uint32_t owned_first)
{
    char *slot = inbox_slot(d, rank, COTERIE_GPU_DISPATCH, from);
    coterie_gpu_record_t *record = coterie_gpu_record(d, slot, row);
    const void *values =
        coterie_gpu_values(d, COTERIE_GPU_DISPATCH, slot, row);
    const uint32_t at = owned_first + record->number;
    const size_t place =
        (size_t)from * coterie_gpu_stride(d, COTERIE_GPU_DISPATCH) +
        d->lead[COTERIE_GPU_DISPATCH] + row;
    uint16_t *x = rank->x + place * d->hidden;
    float *base = rank->base + (size_t)at * d->hidden;
    float *normed = rank->normed;

    for (size_t h = 0; h < d->hidden; h++)
        normed[h] = value_get(values, d->wire, h);
    if (record->raw) {
        if (!held_write(d, rank, at, from * d->max_rows + record->number,
                        record->key))
            return;
        parts_write(coterie_gpu_choices(record), d->k,
                    rank->held_parts + (size_t)at * d->k);
        memcpy(base, normed, d->hidden * sizeof(*base));
        coterie_rms_norm(1, d->hidden, d->norm_epsilon, base, d->norm, normed);
    }
    for (size_t h = 0; h < d->hidden; h++)
        x[h] = coterie_bf16_of(normed[h]);
}

static void stays_hold(const coterie_gpu_dispatch_t *d,
                       const coterie_gpu_rank_t *rank,
                       const coterie_gpu_rows_t *rows, uint32_t owned_first)
{
    const uint32_t count = rows_here(rows);

    for (uint32_t row = 0; row < count; row++) {
        const coterie_route_t *route = &rank->routes[row];
        const uint32_t at = owned_first + rank->number[row];

        if (route->next_owner != rank->rank ||
            !held_write(d, rank, at,
                        rank->rank * d->max_rows + rank->number[row],
                        rows->key != NULL ? rows->key[row] : row))
            continue;
        for (uint32_t j = 0; j < d->k; j++)
            rank->held_parts[at * d->k + j] =
                j < route->rank_count ? route->rank[j] : COTERIE_NONE;
        for (size_t h = 0; d->owner && h < d->hidden; h++)
            rank->base[(size_t)at * d->hidden + h] = value_get(
                rows->hidden, d->element, (size_t)row * d->hidden + h);
    }
}

static bool held_write(const coterie_gpu_dispatch_t *d,
                       const coterie_gpu_rank_t *rank, uint32_t at,
                       uint32_t from, uint64_t key)
{
    if (at >= d->max_rows)
        return false;
    rank->held_from[at] = from;
    rank->held_key[at] = key;
    return true;
}

/* D is who serves any of the choices. */
static void parts_write(const coterie_gpu_choice_t *choices, uint32_t k,
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

/* Choices in order, so that a sum has one order whatever else came. */
static void sum_send(const coterie_gpu_dispatch_t *d,
                     const coterie_gpu_rank_t *rank, uint32_t from,
                     uint32_t row)
{
    const coterie_gpu_record_t *record = coterie_gpu_record(
        d, inbox_slot(d, rank, COTERIE_GPU_DISPATCH, from), row);
    const size_t at =
        ((size_t)from * coterie_gpu_stride(d, COTERIE_GPU_DISPATCH) +
         d->lead[COTERIE_GPU_DISPATCH] + row) *
        d->k;
    uint32_t *sent = rank->sent + COTERIE_GPU_RETURN * d->tables.rank_count;
    uint32_t place;
    char *slot;

    if (record->owner >= d->tables.rank_count ||
        record->number >= d->max_rows || !both_active(rank, record->owner))
        return;
    place = sent[record->owner]++;
    if (place >= d->capacity) {
        rank->counts->overflows++;
        return;
    }
    slot = rank->to[COTERIE_GPU_RETURN][record->owner];
    coterie_gpu_places(slot)[from * d->max_rows + record->number] = place;
    for (size_t h = 0; h < d->hidden; h++) {
        float sum = 0;

        for (size_t j = at; j < at + d->k; j++)
            if (rank->place[j] >= 0)
                sum += rank->weights[j] *
                       rank->out[(size_t)rank->place[j] * d->hidden + h];
        value_put(coterie_gpu_values(d, COTERIE_GPU_RETURN, slot, place),
                  d->wire, h, sum);
    }
}

/* NULL: it did not come, which some counter says. */
static const void *sum_find(const coterie_gpu_dispatch_t *d,
                            const coterie_gpu_rank_t *rank, uint32_t from,
                            uint32_t at)
{
    coterie_gpu_head_t head;
    uint32_t place;
    char *slot;

    if (from >= d->tables.rank_count)
        return NULL;
    slot = inbox_slot(d, rank, COTERIE_GPU_RETURN, from);
    memcpy(&head, slot, sizeof(head));
    place = coterie_gpu_places(slot)[rank->held_from[at]];
    return place < head.count && place < d->capacity
               ? coterie_gpu_values(d, COTERIE_GPU_RETURN, slot, place)
               : NULL;
}

static float value_get(const void *row, uint32_t type, size_t i)
{
    return type == COTERIE_WIRE_BF16
               ? coterie_bf16_value(((const uint16_t *)row)[i])
               : ((const float *)row)[i];
}

static void value_put(void *row, uint32_t type, size_t i, float value)
{
    if (type == COTERIE_WIRE_BF16)
        ((uint16_t *)row)[i] = coterie_bf16_of(value);
    else
        ((float *)row)[i] = value;
}
