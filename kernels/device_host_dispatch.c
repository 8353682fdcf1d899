/* Dispatch's kernels for the processor as a device, row after row. */
#include "config.h"

#include <string.h>

#include "kernels/device_host.h"
#include "kernels/device_host_messages.h"

static void rank_send(const coterie_gpu_dispatch_t *d, uint32_t i);
static void rank_arrive(const coterie_gpu_dispatch_t *d, uint32_t i);
static void rank_give_back(const coterie_gpu_dispatch_t *d, uint32_t i);
static void rank_finish(const coterie_gpu_dispatch_t *d, uint32_t i);
static void row_route(const coterie_gpu_dispatch_t *d,
                      const coterie_gpu_rank_t *rank,
                      const coterie_gpu_rows_t *rows, uint32_t row);
static void messages_seal(const coterie_gpu_dispatch_t *d,
                          const coterie_gpu_rank_t *rank,
                          coterie_gpu_parcel_t parcel);
static coterie_gpu_parcel_t parcel_of(const coterie_gpu_dispatch_t *d);
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
static void sum_send(const coterie_gpu_dispatch_t *d,
                     const coterie_gpu_rank_t *rank, uint32_t from,
                     uint32_t row);

int coterie_host_send(void *stream, const coterie_gpu_dispatch_t *d)
{
    (void)stream;
    for (uint32_t i = 0; i < d->count; i++)
        if (d->forward)
            coterie_forward_send(d, i);
        else
            rank_send(d, i);
    return 0;
}

int coterie_host_arrive(void *stream, const coterie_gpu_dispatch_t *d)
{
    (void)stream;
    for (uint32_t i = 0; i < d->count; i++) {
        if (d->late)
            coterie_forward_merge(d, i);
        rank_arrive(d, i);
    }
    return 0;
}

int coterie_host_give_back(void *stream, const coterie_gpu_dispatch_t *d)
{
    (void)stream;
    for (uint32_t i = 0; i < d->count; i++)
        if (d->forward)
            coterie_forward_give_back(d, i);
        else
            rank_give_back(d, i);
    return 0;
}

int coterie_host_finish(void *stream, const coterie_gpu_dispatch_t *d)
{
    (void)stream;
    for (uint32_t i = 0; i < d->count; i++) {
        if (d->forward && !d->mends)
            coterie_forward_merge(d, i);
        rank_finish(d, i);
    }
    return 0;
}

static void rank_send(const coterie_gpu_dispatch_t *d, uint32_t i)
{
    const coterie_gpu_rank_t *rank = &d->ranks[d->first + i];
    const coterie_gpu_rows_t *rows = &d->in[i];
    const uint32_t count = coterie_rows_here(rows);

    memset(rank->owned, 0, d->tables.rank_count * sizeof(*rank->owned));
    for (uint32_t row = 0; row < count; row++) {
        const coterie_route_t *route = &rank->routes[row];

        row_route(d, rank, rows, row);
        for (uint32_t j = 0; j < route->rank_count; j++)
            (void)coterie_row_write(d, rank, rows, row, COTERIE_GPU_DISPATCH,
                                    route->rank[j]);
        coterie_dropped_count(d, rank, rows, row);
    }
    rank->counts->rows += count;
    messages_seal(d, rank, COTERIE_GPU_DISPATCH);
}

/* In forward nobody owns what comes, which is this rank's own at first. */
static void rank_arrive(const coterie_gpu_dispatch_t *d, uint32_t i)
{
    const coterie_gpu_rank_t *rank = &d->ranks[d->first + i];
    const coterie_gpu_parcel_t parcel = parcel_of(d);
    uint32_t owned = 0, here = 0, left = d->arrivals;

    for (uint32_t from = 0; from < d->tables.rank_count; from++) {
        const coterie_gpu_head_t *head =
            (const void *)coterie_gpu_inbound(d, rank, parcel, from);
        const uint32_t count =
            coterie_arrived_take(d, rank, parcel, from, &left);

        message_read(d, rank, from, count, owned);
        if (from == rank->rank)
            here = owned;
        if (count > 0 || from == rank->rank)
            owned += head->owned < d->max_rows ? head->owned : d->max_rows;
    }
    if (d->forward)
        return;
    stays_hold(d, rank, &d->in[i], here);
    *rank->held_count = owned < d->max_rows ? owned : d->max_rows;
    rank->counts->overflows += owned - *rank->held_count;
}

static void rank_give_back(const coterie_gpu_dispatch_t *d, uint32_t i)
{
    const coterie_gpu_rank_t *rank = &d->ranks[d->first + i];
    uint32_t left = d->arrivals;

    for (uint32_t from = 0; from < d->tables.rank_count; from++) {
        const uint32_t count = coterie_arrived_take(
            d, rank, COTERIE_GPU_DISPATCH, from, &left);

        for (uint32_t row = 0; row < count; row++)
            sum_send(d, rank, from, row);
    }
    messages_seal(d, rank, COTERIE_GPU_RETURN);
}

/* The residual first, then the sums, ranks ascending; in forward, the sum of
 * which the residual is a part. */
static void rank_finish(const coterie_gpu_dispatch_t *d, uint32_t i)
{
    const coterie_gpu_rank_t *rank = &d->ranks[d->first + i];
    const coterie_gpu_rows_t *out = &d->out[i];
    const uint32_t type = d->owner ? COTERIE_WIRE_F32 : d->element;
    const void *base = d->owner ? rank->base : d->in[i].hidden;
    const coterie_gpu_parcel_t parcel =
        d->forward ? COTERIE_GPU_FIXUP : COTERIE_GPU_RETURN;

    for (uint32_t from = 0; from < d->tables.rank_count; from++)
        (void)coterie_message_await(d, rank, parcel, from);
    *out->count = *rank->held_count < out->capacity ? *rank->held_count
                                                    : out->capacity;
    rank->counts->overflows += *rank->held_count - *out->count;
    for (uint32_t at = 0; at < *out->count; at++) {
        const size_t first = (size_t)at * d->hidden;
        float *sum = rank->normed;

        for (size_t h = 0; !d->forward && h < d->hidden; h++)
            sum[h] = coterie_value_get(base, type, first + h);
        if (d->forward)
            coterie_forward_begin(d, rank, at, out, sum);
        if (out->key != NULL)
            out->key[at] = rank->held_key[at];
        for (uint32_t j = 0; j < d->k; j++)
            coterie_part_add(d, rank, at, j, sum);
        for (size_t h = 0; h < d->hidden; h++)
            coterie_value_put(out->hidden, d->element, first + h, sum[h]);
    }
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

static void messages_seal(const coterie_gpu_dispatch_t *d,
                          const coterie_gpu_rank_t *rank,
                          coterie_gpu_parcel_t parcel)
{
    const uint32_t ranks = d->tables.rank_count;
    const uint32_t sequence = rank->sequence[parcel] + 1;

    for (uint32_t to = 0; to < ranks; to++) {
        const uint32_t owned =
            parcel == COTERIE_GPU_DISPATCH ? rank->owned[to] : 0;
        const uint32_t count =
            coterie_message_head(d, rank, parcel, to, owned);

        if (!coterie_gpu_both_active(rank, to))
            continue;
        if (to != rank->rank) {
            coterie_rows_count(d, rank, parcel, to, count);
            coterie_message_count(rank, count);
        }
        coterie_flag_raise(d, rank, parcel, to, sequence);
    }
    rank->sequence[parcel] = sequence;
}

static coterie_gpu_parcel_t parcel_of(const coterie_gpu_dispatch_t *d)
{
    return d->late ? COTERIE_GPU_LATE : COTERIE_GPU_DISPATCH;
}

/* Rows that there is room for and did not come choose none. */
static void message_read(const coterie_gpu_dispatch_t *d,
                         const coterie_gpu_rank_t *rank, uint32_t from,
                         uint32_t count, uint32_t owned_first)
{
    const uint32_t lead = d->lead[COTERIE_GPU_DISPATCH];
    const uint32_t stride = coterie_gpu_stride(d, COTERIE_GPU_DISPATCH);
    char *slot = coterie_gpu_inbound(d, rank, parcel_of(d), from);

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
    char *slot = coterie_gpu_inbound(d, rank, parcel_of(d), from);
    coterie_gpu_record_t *record = coterie_gpu_record(d, slot, row);
    const void *values =
        coterie_gpu_values(d, COTERIE_GPU_DISPATCH, slot, row);
    const uint32_t at = owned_first + record->number;
    const size_t place = coterie_gpu_arrived_at(d, from, row);
    uint16_t *x = rank->x + place * d->hidden;
    float *base = rank->base + (size_t)at * d->hidden;
    float *normed = rank->normed;

    for (size_t h = 0; h < d->hidden; h++)
        normed[h] = coterie_value_get(values, d->wire, h);
    if (record->raw) {
        if (!held_write(d, rank, at, from * d->max_rows + record->number,
                        record->key))
            return;
        coterie_parts_write(coterie_gpu_choices(record), d->k,
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
    const uint32_t count = coterie_rows_here(rows);

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
            rank->base[(size_t)at * d->hidden + h] = coterie_value_get(
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

static void sum_send(const coterie_gpu_dispatch_t *d,
                     const coterie_gpu_rank_t *rank, uint32_t from,
                     uint32_t row)
{
    const coterie_gpu_record_t *record = coterie_gpu_record(
        d, coterie_gpu_inbound(d, rank, COTERIE_GPU_DISPATCH, from), row);
    const uint32_t at = coterie_gpu_arrived_at(d, from, row);

    if (record->owner >= d->tables.rank_count ||
        record->number >= d->max_rows ||
        !coterie_gpu_both_active(rank, record->owner))
        return;
    coterie_sum_make(d, rank, at, rank->normed);
    (void)coterie_sum_write(d, rank, COTERIE_GPU_RETURN, record->owner,
                            from * d->max_rows + record->number,
                            rank->normed);
}
