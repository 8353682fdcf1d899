/* Forward: sums straight to all ranks that hold a row next, and what comes
 * together there. */
#include "kernels/cuda/dispatch.cuh"

enum { MERGE_THREADS = 1024 };

/* A row whose sum goes out. */
struct leaving_t {
    coterie_gpu_record_t record;
    const coterie_route_t *route; /* own rows only, which say who is D */
    const char *residual;         /* NULL: another rank adds it */
    uint32_t at;                  /* among those computed, or NOWHERE */
};

static __global__ void own(const __grid_constant__ coterie_gpu_dispatch_t d);
static __global__ void late(const __grid_constant__ coterie_gpu_dispatch_t d);
static __global__ void merge(const __grid_constant__ coterie_gpu_dispatch_t d);
static __device__ void sum_spread(const coterie_gpu_dispatch_t &d,
                                  const coterie_gpu_rank_t &rank,
                                  coterie_gpu_parcel_t parcel,
                                  const leaving_t &row, uint32_t *place);
static __device__ void places_take(const coterie_gpu_dispatch_t &d,
                                   const coterie_gpu_rank_t &rank,
                                   coterie_gpu_parcel_t parcel,
                                   const leaving_t &row, uint32_t *place);
static __device__ void records_write(const coterie_gpu_dispatch_t &d,
                                     const coterie_gpu_rank_t &rank,
                                     const leaving_t &row,
                                     const uint32_t *place);
static __device__ void forward_seal(const coterie_gpu_dispatch_t &d,
                                    const coterie_gpu_rank_t &rank);
static __device__ void fixups_seal(const coterie_gpu_dispatch_t &d,
                                   const coterie_gpu_rank_t &rank);
static __device__ void records_note(const coterie_gpu_dispatch_t &d,
                                    const coterie_gpu_rank_t &rank,
                                    const uint32_t *counts);
static __device__ coterie_gpu_record_t *
record_at(const coterie_gpu_dispatch_t &d, const coterie_gpu_rank_t &rank,
          uint32_t at);
static __device__ void row_hold(const coterie_gpu_dispatch_t &d,
                                const coterie_gpu_rank_t &rank, uint32_t seat,
                                uint32_t at);

int coterie_gpu_forward(void *stream, const coterie_gpu_dispatch_t *d)
{
    const cudaLaunchConfig_t config = launch_rows(stream, d);

    return cudaLaunchKernelEx(&config, d->late ? late : own, *d);
}

int coterie_gpu_merge(void *stream, const coterie_gpu_dispatch_t *d)
{
    const cudaLaunchConfig_t config =
        launch_of(stream, dim3(1, d->count), MERGE_THREADS,
                  d->tables.rank_count * sizeof(uint32_t));

    return cudaLaunchKernelEx(&config, merge, *d);
}

/* A block has a row that is here: its experts' sum, the residual, or both. */
static __global__ void own(const __grid_constant__ coterie_gpu_dispatch_t d)
{
    const coterie_gpu_rank_t &rank = d.ranks[d.first + blockIdx.y];
    const coterie_gpu_rows_t &rows = d.in[blockIdx.y];
    const uint32_t count = rows_here(rows);
    arriving_t *s = (arriving_t *)shared_memory();
    uint32_t *place = (uint32_t *)(s + 1);

    for (uint32_t i = blockIdx.x; i < count; i += gridDim.x) {
        const uint32_t number = rank.number[i];
        leaving_t row = {record_of(d, rank, rows, i), &rank.routes[i], NULL,
                         COTERIE_GPU_NOWHERE};

        if (row.record.number >= d.max_rows)
            continue;
        if (number != COTERIE_GPU_NOWHERE)
            row.at = coterie_gpu_arrived_at(&d, rank.rank, number);
        if (row.record.owner == rank.rank)
            row.residual = (const char *)rows.hidden +
                           i * row_size(d.element, d.hidden);
        if (row.at != COTERIE_GPU_NOWHERE || row.residual != NULL)
            sum_spread(d, rank, COTERIE_GPU_FORWARD, row, place);
    }
    if (last_block(&rank.done[COTERIE_GPU_FORWARD], &s->word))
        forward_seal(d, rank);
}

/* A block has a row that came late. */
static __global__ void late(const __grid_constant__ coterie_gpu_dispatch_t d)
{
    const coterie_gpu_rank_t &rank = d.ranks[d.first + blockIdx.y];
    const uint32_t ranks = d.tables.rank_count;
    const arrived_t arrived = arrived_count(d, rank);
    arriving_t *s = (arriving_t *)shared_memory();

    for (uint32_t i = blockIdx.x; i < ranks * d.capacity; i += gridDim.x) {
        const uint32_t from = i / d.capacity, at = i % d.capacity;
        if (at >= arrived.count[from])
            continue;
        const leaving_t row = {
            *coterie_gpu_record(
                &d, coterie_gpu_inbound(&d, &rank, COTERIE_GPU_LATE, from),
                at),
            NULL, NULL, coterie_gpu_arrived_at(&d, from, at)};
        if (row.record.number < d.max_rows)
            sum_spread(d, rank, COTERIE_GPU_FIXUP, row, arrived.owned_first);
    }
    if (last_block(&rank.done[COTERIE_GPU_FIXUP], &s->word))
        fixups_seal(d, rank);
}

/* To all that hold the row next, itself too: all add up what has travelled.
 * place: [ranks], shared. */
static __device__ void sum_spread(const coterie_gpu_dispatch_t &d,
                                  const coterie_gpu_rank_t &rank,
                                  coterie_gpu_parcel_t parcel,
                                  const leaving_t &row, uint32_t *place)
{
    places_take(d, rank, parcel, row, place);
    __syncthreads();
    if (row.route != NULL)
        records_write(d, rank, row, place);
    for (uint32_t i = threadIdx.x; i < d.hidden / 8; i += blockDim.x) {
        eight_t sum = {};
        if (row.at != COTERIE_GPU_NOWHERE)
            sum = sum_of(d, rank, row.at, i);
        if (row.residual != NULL) {
            const eight_t first = eight_load(row.residual, d.element, i);
            for (int e = 0; e < 8; e++)
                sum.v[e] = first.v[e] + sum.v[e];
        }
        for (uint32_t to = 0; to < d.tables.rank_count; to++)
            if (place[to] != COTERIE_GPU_NOWHERE)
                eight_store(coterie_gpu_values(&d, parcel,
                                               coterie_gpu_outbound(
                                                   &d, &rank, parcel, to),
                                               place[to]),
                            d.wire, i, sum);
    }
    __syncthreads();
}

static __device__ void places_take(const coterie_gpu_dispatch_t &d,
                                   const coterie_gpu_rank_t &rank,
                                   coterie_gpu_parcel_t parcel,
                                   const leaving_t &row, uint32_t *place)
{
    const uint32_t ranks = d.tables.rank_count;

    for (uint32_t to = threadIdx.x; to < ranks; to += blockDim.x) {
        uint32_t mine;

        place[to] = COTERIE_GPU_NOWHERE;
        if (!coterie_gpu_set_has(row.record.next, to) ||
            !coterie_gpu_both_active(&rank, to))
            continue;
        mine = atomicAdd(&rank.sent[parcel * ranks + to], 1u);
        if (mine >= d.capacity) {
            atomicAdd(&rank.counts->overflows, 1u);
            continue;
        }
        place[to] = mine;
        coterie_gpu_places(&d, parcel,
                           coterie_gpu_outbound(&d, &rank, parcel,
                                                to))[row.record.number] = mine;
    }
}

static __device__ void records_write(const coterie_gpu_dispatch_t &d,
                                     const coterie_gpu_rank_t &rank,
                                     const leaving_t &row,
                                     const uint32_t *place)
{
    for (uint32_t i = threadIdx.x; i < d.tables.rank_count * d.k;
         i += blockDim.x) {
        const uint32_t to = i / d.k, j = i % d.k;
        if (place[to] == COTERIE_GPU_NOWHERE)
            continue;
        coterie_gpu_record_t *record = coterie_gpu_record(
            &d, coterie_gpu_outbound(&d, &rank, COTERIE_GPU_FORWARD, to),
            place[to]);
        coterie_gpu_choices(record)[j] = {NO_PAIR, row.route->serving[j], 0};
        if (j == 0)
            *record = row.record;
    }
}

/* Sums and late rows are one message. */
static __device__ void forward_seal(const coterie_gpu_dispatch_t &d,
                                    const coterie_gpu_rank_t &rank)
{
    const uint32_t sequence = rank.sequence[COTERIE_GPU_FORWARD] + 1;

    for (uint32_t to = threadIdx.x; to < d.tables.rank_count;
         to += blockDim.x) {
        const uint32_t sums =
            message_head(d, rank, COTERIE_GPU_FORWARD, to, 0);
        const uint32_t rows =
            d.mends ? message_head(d, rank, COTERIE_GPU_LATE, to, 0) : 0;

        if (!coterie_gpu_both_active(&rank, to))
            continue;
        if (to != rank.rank) {
            rows_count(d, rank, COTERIE_GPU_FORWARD, to, sums);
            message_count(rank, sums + rows);
        }
        if (to != rank.rank && d.mends)
            rows_count(d, rank, COTERIE_GPU_LATE, to, rows);
        message_flag(d, rank, COTERIE_GPU_FORWARD, to, sequence);
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        rank.sequence[COTERIE_GPU_FORWARD] = sequence;
        rank.done[COTERIE_GPU_FORWARD] = 0;
    }
}

/* Nobody waits for a rank that was not late; but what is sent for it is sent
 * whatever it has, and then says that it has nothing. */
static __device__ void fixups_seal(const coterie_gpu_dispatch_t &d,
                                   const coterie_gpu_rank_t &rank)
{
    const uint32_t ranks = d.tables.rank_count;

    for (uint32_t to = threadIdx.x; to < ranks; to += blockDim.x) {
        const bool none = rank.sent[COTERIE_GPU_FIXUP * ranks + to] == 0;
        uint32_t count;

        if (!coterie_gpu_both_active(&rank, to) ||
            (none && rank.flag[to] != NULL))
            continue;
        count = message_head(d, rank, COTERIE_GPU_FIXUP, to, 0);
        if (to != rank.rank) {
            rows_count(d, rank, COTERIE_GPU_FIXUP, to, count);
            message_count(rank, count);
            if (count > 0)
                atomicAdd(&rank.counts->fixup_messages, 1ull);
        }
        message_flag(d, rank, COTERIE_GPU_FIXUP, to,
                     rank.sequence[COTERIE_GPU_FORWARD]);
    }
    if (threadIdx.x == 0)
        rank.done[COTERIE_GPU_FIXUP] = 0;
}

/* One block: which seats are taken by what came, then a warp counts them off.
 */
static __global__ void merge(const __grid_constant__ coterie_gpu_dispatch_t d)
{
    const coterie_gpu_rank_t &rank = d.ranks[d.first + blockIdx.y];
    const uint32_t lane = threadIdx.x % WARP;
    uint32_t *counts = (uint32_t *)shared_memory(), held = 0;

    for (uint32_t i = threadIdx.x; i < d.max_rows; i += blockDim.x)
        rank.seats[i] = 0;
    for (uint32_t i = threadIdx.x; i < d.tables.rank_count; i += blockDim.x)
        rank.expected[i] = 0;
    messages_await(d, rank, COTERIE_GPU_FORWARD, counts);
    records_note(d, rank, counts);
    if (threadIdx.x >= WARP)
        return;
    for (uint32_t first = 0; first < d.max_rows; first += WARP) {
        const uint32_t seat = first + lane;
        const bool taken = seat < d.max_rows && rank.seats[seat] != 0;
        const uint32_t all = __ballot_sync(ALL_LANES, taken);
        if (taken)
            row_hold(d, rank, seat,
                     held + __popc(all & ((1u << lane) - 1)));
        held += __popc(all);
    }
    if (lane == 0)
        *rank.held_count = held;
}

/* All that tell of a row say the same. */
static __device__ void records_note(const coterie_gpu_dispatch_t &d,
                                    const coterie_gpu_rank_t &rank,
                                    const uint32_t *counts)
{
    const uint32_t all = d.tables.rank_count * d.capacity;

    for (uint32_t at = threadIdx.x; at < all; at += blockDim.x) {
        if (at % d.capacity >= counts[at / d.capacity])
            continue;
        const uint32_t seat = record_at(d, rank, at)->number;
        if (seat < d.max_rows)
            atomicMax(&rank.seats[seat], at + 1);
        else
            atomicAdd(&rank.counts->disagreed, 1ull);
    }
    __syncthreads();
    for (uint32_t at = threadIdx.x; at < all; at += blockDim.x) {
        if (at % d.capacity >= counts[at / d.capacity])
            continue;
        const coterie_gpu_record_t *record = record_at(d, rank, at);
        if (record->number < d.max_rows &&
            !coterie_gpu_same_row(
                record, record_at(d, rank, rank.seats[record->number] - 1)))
            atomicAdd(&rank.counts->disagreed, 1ull);
    }
    __syncthreads();
}

static __device__ coterie_gpu_record_t *
record_at(const coterie_gpu_dispatch_t &d, const coterie_gpu_rank_t &rank,
          uint32_t at)
{
    return coterie_gpu_record(
        &d,
        coterie_gpu_inbound(&d, &rank, COTERIE_GPU_FORWARD, at / d.capacity),
        at % d.capacity);
}

static __device__ void row_hold(const coterie_gpu_dispatch_t &d,
                                const coterie_gpu_rank_t &rank, uint32_t seat,
                                uint32_t at)
{
    coterie_gpu_record_t *record = record_at(d, rank, rank.seats[seat] - 1);

    rank.held_from[at] = seat;
    rank.held_key[at] = record->key;
    rank.held_carrier[at] = record->owner;
    rank.held_next[at] = record->next;
    parts_write(rank.held_parts + (size_t)at * d.k, d.k,
                coterie_gpu_choices(record));
    coterie_gpu_parts_begin(&d, &rank, at, record->holders);
}
