/* What came from other ranks: their rows, made ready for this rank's experts,
 * and later their sums, added to rows that are here next. */
#include "kernels/cuda/dispatch.cuh"

static __global__ void arrive(const __grid_constant__ coterie_gpu_dispatch_t d);
static __global__ void
give_back(const __grid_constant__ coterie_gpu_dispatch_t d);
static __global__ void finish(const __grid_constant__ coterie_gpu_dispatch_t d);
static __device__ void choices_read(const coterie_gpu_dispatch_t &d,
                                    const coterie_gpu_rank_t &rank,
                                    const arrived_t &arrived);
static __device__ void rows_read(const coterie_gpu_dispatch_t &d,
                                 const coterie_gpu_rank_t &rank,
                                 const arrived_t &arrived);
static __device__ void row_norm(const coterie_gpu_dispatch_t &d,
                                const char *values, uint16_t *x, float *base);
static __device__ void row_narrow(const coterie_gpu_dispatch_t &d,
                                  const char *values, uint16_t *x);
static __device__ void stays_hold(const coterie_gpu_dispatch_t &d,
                                  const coterie_gpu_rank_t &rank,
                                  const arrived_t &arrived);
static __device__ bool held_write(const coterie_gpu_dispatch_t &d,
                                  const coterie_gpu_rank_t &rank, uint32_t at,
                                  uint32_t from, uint64_t key);
static __device__ void sum_write(const coterie_gpu_dispatch_t &d,
                                 const coterie_gpu_rank_t &rank, uint32_t row,
                                 char *to);
static __device__ void held_finish(const coterie_gpu_dispatch_t &d,
                                   const coterie_gpu_rank_t &rank,
                                   const uint32_t *counts, uint32_t at);
static __device__ void row_name(const coterie_gpu_dispatch_t &d,
                                const coterie_gpu_rank_t &rank,
                                const coterie_gpu_rows_t &out, uint32_t at);
static __device__ const char *part_find(const coterie_gpu_dispatch_t &d,
                                        const coterie_gpu_rank_t &rank,
                                        const uint32_t *counts, uint32_t i,
                                        uint32_t at);
static __device__ const char *sum_find(const coterie_gpu_dispatch_t &d,
                                       const coterie_gpu_rank_t &rank,
                                       coterie_gpu_parcel_t parcel,
                                       uint32_t count, uint32_t from,
                                       uint32_t at);
static __device__ float block_sum(float value);

int coterie_gpu_arrive(void *stream, const coterie_gpu_dispatch_t *d)
{
    const cudaLaunchConfig_t config = launch_rows(stream, d);
    const int error = d->late ? coterie_gpu_merge(stream, d) : 0;

    return error != 0 ? error : cudaLaunchKernelEx(&config, arrive, *d);
}

int coterie_gpu_give_back(void *stream, const coterie_gpu_dispatch_t *d)
{
    const cudaLaunchConfig_t config = launch_rows(stream, d);

    return d->forward ? coterie_gpu_forward(stream, d)
                      : cudaLaunchKernelEx(&config, give_back, *d);
}

int coterie_gpu_finish(void *stream, const coterie_gpu_dispatch_t *d)
{
    const cudaLaunchConfig_t config = launch_rows(stream, d);
    const bool merges = d->forward && !d->mends;
    const int error = merges ? coterie_gpu_merge(stream, d) : 0;

    return error != 0 ? error : cudaLaunchKernelEx(&config, finish, *d);
}

static __global__ void arrive(const __grid_constant__ coterie_gpu_dispatch_t d)
{
    const coterie_gpu_rank_t &rank = d.ranks[d.first + blockIdx.y];
    const arrived_t arrived = arrived_count(d, rank);

    choices_read(d, rank, arrived);
    if (!d.in_place)
        rows_read(d, rank, arrived);
    if (d.forward)
        return; /* nobody owns what came */
    stays_hold(d, rank, arrived);
    if (blockIdx.x == 0 && threadIdx.x == 0) {
        const uint32_t held = arrived.owned_first[d.tables.rank_count];
        *rank.held_count = min(held, d.max_rows);
        if (held > d.max_rows)
            atomicAdd(&rank.counts->overflows, held - d.max_rows);
    }
}

/* A block has a row that came, and sends its partial sum to the next owner. */
static __global__ void
give_back(const __grid_constant__ coterie_gpu_dispatch_t d)
{
    const coterie_gpu_rank_t &rank = d.ranks[d.first + blockIdx.y];
    const uint32_t ranks = d.tables.rank_count;
    uint32_t *sent = rank.sent + COTERIE_GPU_RETURN * ranks;
    arriving_t *s = (arriving_t *)shared_memory();
    const arrived_t arrived = arrived_count(d, rank);

    for (uint32_t i = blockIdx.x; i < ranks * d.capacity; i += gridDim.x) {
        const uint32_t from = i / d.capacity, row = i % d.capacity;
        if (row >= arrived.count[from])
            continue;
        const coterie_gpu_record_t *record = coterie_gpu_record(
            &d, coterie_gpu_inbound(&d, &rank, COTERIE_GPU_DISPATCH, from),
            row);
        const uint32_t to = record->owner, number = record->number;
        if (to >= ranks || number >= d.max_rows ||
            !coterie_gpu_both_active(&rank, to))
            continue;
        char *slot = rank.to[COTERIE_GPU_RETURN][to];
        if (threadIdx.x == 0) {
            s->place = atomicAdd(&sent[to], 1u);
            if (s->place < d.capacity)
                coterie_gpu_places(&d, COTERIE_GPU_RETURN,
                                   slot)[from * d.max_rows + number] =
                    s->place;
            else
                atomicAdd(&rank.counts->overflows, 1u);
        }
        __syncthreads();
        if (s->place < d.capacity)
            sum_write(d, rank, coterie_gpu_arrived_at(&d, from, row),
                      coterie_gpu_values(&d, COTERIE_GPU_RETURN, slot,
                                         s->place));
        __syncthreads();
    }
    if (last_block(&rank.done[COTERIE_GPU_RETURN], &s->word))
        messages_seal(d, rank, COTERIE_GPU_RETURN);
}

static __global__ void finish(const __grid_constant__ coterie_gpu_dispatch_t d)
{
    const coterie_gpu_rank_t &rank = d.ranks[d.first + blockIdx.y];
    const coterie_gpu_rows_t &out = d.out[blockIdx.y];
    uint32_t *counts = (uint32_t *)((arriving_t *)shared_memory() + 1);
    uint32_t held = *rank.held_count;

    messages_await(d, rank, d.forward ? COTERIE_GPU_FIXUP : COTERIE_GPU_RETURN,
                   counts);
    if (blockIdx.x == 0 && threadIdx.x == 0) {
        *out.count = min(held, out.capacity);
        if (held > out.capacity)
            atomicAdd(&rank.counts->overflows, held - out.capacity);
    }
    held = min(held, out.capacity);
    for (uint32_t at = blockIdx.x; at < held; at += gridDim.x)
        held_finish(d, rank, counts, at);
}

/* Of every row that there is room for: those that did not come choose none. */
static __device__ void choices_read(const coterie_gpu_dispatch_t &d,
                                    const coterie_gpu_rank_t &rank,
                                    const arrived_t &arrived)
{
    const uint32_t stride = coterie_gpu_stride(&d, COTERIE_GPU_DISPATCH);
    const uint32_t all = d.tables.rank_count * stride * d.k;

    for (uint32_t i = blockIdx.x * blockDim.x + threadIdx.x; i < all;
         i += gridDim.x * blockDim.x) {
        const uint32_t from = i / d.k / stride, j = i % d.k;
        /* Wraps, so that it is large, before the values. */
        const uint32_t row =
            i / d.k % stride - d.lead[COTERIE_GPU_DISPATCH];
        coterie_gpu_choice_t choice = {NO_PAIR, COTERIE_NONE, 0};
        if (row < arrived.count[from])
            choice = coterie_gpu_choices(coterie_gpu_record(
                &d, coterie_gpu_inbound(&d, &rank, arrived_as(d), from),
                row))[j];
        rank.ids[i] = choice.slot < (int32_t)rank.slots ? choice.slot
                                                        : NO_PAIR;
        rank.weights[i] = choice.weight;
    }
}

static __device__ void rows_read(const coterie_gpu_dispatch_t &d,
                                 const coterie_gpu_rank_t &rank,
                                 const arrived_t &arrived)
{
    for (uint32_t i = blockIdx.x; i < d.tables.rank_count * d.capacity;
         i += gridDim.x) {
        const uint32_t from = i / d.capacity, row = i % d.capacity;
        if (row >= arrived.count[from])
            continue;
        char *slot = coterie_gpu_inbound(&d, &rank, arrived_as(d), from);
        coterie_gpu_record_t *record = coterie_gpu_record(&d, slot, row);
        const char *values =
            coterie_gpu_values(&d, COTERIE_GPU_DISPATCH, slot, row);
        const uint32_t at = arrived.owned_first[from] + record->number;
        uint16_t *x = rank.x + (size_t)coterie_gpu_arrived_at(&d, from, row) *
                                   d.hidden;
        if (!record->raw) {
            row_narrow(d, values, x);
        } else if (held_write(d, rank, at, from * d.max_rows + record->number,
                              record->key)) {
            if (threadIdx.x == 0)
                parts_write(rank.held_parts + (size_t)at * d.k, d.k,
                            coterie_gpu_choices(record));
            row_norm(d, values, x, rank.base + (size_t)at * d.hidden);
        }
    }
}

/* base = the row, x = its norm. */
static __device__ void row_norm(const coterie_gpu_dispatch_t &d,
                                const char *values, uint16_t *x, float *base)
{
    float squares = 0, scale;

    for (uint32_t i = threadIdx.x; i < d.hidden / 8; i += blockDim.x) {
        const eight_t e = eight_load(values, d.wire, i);
        for (int j = 0; j < 8; j++)
            squares += e.v[j] * e.v[j];
        eight_store(base, COTERIE_WIRE_F32, i, e);
    }
    scale = rsqrtf(block_sum(squares) / d.hidden + d.norm_epsilon);
    for (uint32_t i = threadIdx.x; i < d.hidden / 8; i += blockDim.x) {
        eight_t e = eight_load(values, d.wire, i);
        for (int j = 0; j < 8; j++)
            e.v[j] *= scale * d.norm[8 * i + j];
        eight_store(x, COTERIE_WIRE_BF16, i, e);
    }
}

static __device__ void row_narrow(const coterie_gpu_dispatch_t &d,
                                  const char *values, uint16_t *x)
{
    for (uint32_t i = threadIdx.x; i < d.hidden / 8; i += blockDim.x)
        eight_store(x, COTERIE_WIRE_BF16, i, eight_load(values, d.wire, i));
}

/* Rows that were here and stay. */
static __device__ void stays_hold(const coterie_gpu_dispatch_t &d,
                                  const coterie_gpu_rank_t &rank,
                                  const arrived_t &arrived)
{
    const coterie_gpu_rows_t &rows = d.in[blockIdx.y];
    const uint32_t count = min(*rows.count, rows.capacity);

    for (uint32_t row = blockIdx.x; row < count; row += gridDim.x) {
        const coterie_route_t &route = rank.routes[row];
        const uint32_t number = rank.number[row];
        const uint32_t at = arrived.owned_first[rank.rank] + number;
        if (route.next_owner != rank.rank ||
            !held_write(d, rank, at, rank.rank * d.max_rows + number,
                        rows.key != NULL ? rows.key[row] : row))
            continue;
        for (uint32_t j = threadIdx.x; j < d.k; j += blockDim.x)
            rank.held_parts[(size_t)at * d.k + j] =
                j < route.rank_count ? route.rank[j] : COTERIE_NONE;
        if (!d.owner)
            continue;
        for (uint32_t i = threadIdx.x; i < d.hidden / 8; i += blockDim.x)
            eight_store(rank.base + (size_t)at * d.hidden, COTERIE_WIRE_F32,
                        i,
                        eight_load((const char *)rows.hidden +
                                       row * row_size(d.element, d.hidden),
                                   d.element, i));
    }
}

static __device__ bool held_write(const coterie_gpu_dispatch_t &d,
                                  const coterie_gpu_rank_t &rank, uint32_t at,
                                  uint32_t from, uint64_t key)
{
    if (at >= d.max_rows)
        return false;
    if (threadIdx.x == 0) {
        rank.held_from[at] = from;
        rank.held_key[at] = key;
    }
    return true;
}

static __device__ void sum_write(const coterie_gpu_dispatch_t &d,
                                 const coterie_gpu_rank_t &rank, uint32_t row,
                                 char *to)
{
    for (uint32_t i = threadIdx.x; i < d.hidden / 8; i += blockDim.x)
        eight_store(to, d.wire, i, sum_of(d, rank, row, i));
}

/* The residual first, then the sums, ranks ascending; in forward, the sum that
 * the residual is a part of is first. */
static __device__ void held_finish(const coterie_gpu_dispatch_t &d,
                                   const coterie_gpu_rank_t &rank,
                                   const uint32_t *counts, uint32_t at)
{
    const coterie_gpu_rows_t &out = d.out[blockIdx.y];
    const uint32_t type = d.forward ? d.wire
                          : d.owner ? (uint32_t)COTERIE_WIRE_F32
                                    : d.element;
    arriving_t *s = (arriving_t *)shared_memory();

    __syncthreads();
    if (threadIdx.x <= d.k)
        s->sum[threadIdx.x] = part_find(d, rank, counts, threadIdx.x, at);
    __syncthreads();
    if (threadIdx.x == 0)
        row_name(d, rank, out, at);
    for (uint32_t i = threadIdx.x; i < d.hidden / 8; i += blockDim.x) {
        eight_t sum = {};
        if (s->sum[0] != NULL)
            sum = eight_load(s->sum[0], type, i);
        for (uint32_t j = 1; j <= d.k; j++) {
            if (s->sum[j] == NULL)
                continue;
            const eight_t part = eight_load(s->sum[j], d.wire, i);
            for (int e = 0; e < 8; e++)
                sum.v[e] += part.v[e];
        }
        eight_store((char *)out.hidden + at * row_size(d.element, d.hidden),
                    d.element, i, sum);
    }
}

static __device__ void row_name(const coterie_gpu_dispatch_t &d,
                                const coterie_gpu_rank_t &rank,
                                const coterie_gpu_rows_t &out, uint32_t at)
{
    if (out.key != NULL)
        out.key[at] = rank.held_key[at];
    if (d.forward && out.seat != NULL)
        out.seat[at] = rank.held_from[at];
    if (d.forward && out.holders != NULL)
        out.holders[at] = rank.held_next[at];
}

/* What a row begins with, then its parts. NULL: there is none, or it did not
 * come, which some counter says. */
static __device__ const char *part_find(const coterie_gpu_dispatch_t &d,
                                        const coterie_gpu_rank_t &rank,
                                        const uint32_t *counts, uint32_t i,
                                        uint32_t at)
{
    if (i == 0 && d.owner)
        return (const char *)(rank.base + (size_t)at * d.hidden);
    if (i == 0 && !d.forward)
        return (const char *)d.in[blockIdx.y].hidden +
               at * row_size(d.element, d.hidden);
    const uint32_t from = i == 0 ? rank.held_carrier[at]
                                 : rank.held_parts[at * d.k + i - 1];
    if (from >= d.tables.rank_count)
        return NULL;
    if (!d.forward)
        return sum_find(d, rank, COTERIE_GPU_RETURN, counts[from], from, at);
    const bool late = i > 0 && (rank.held_late[at] >> (i - 1) & 1) != 0;
    const coterie_gpu_parcel_t parcel =
        late ? COTERIE_GPU_FIXUP : COTERIE_GPU_FORWARD;
    const coterie_gpu_head_t *head =
        (const coterie_gpu_head_t *)coterie_gpu_inbound(&d, &rank, parcel,
                                                        from);
    const char *sum = sum_find(d, rank, parcel,
                               late ? counts[from]
                                    : min(head->count, d.capacity),
                               from, at);
    if (sum == NULL)
        atomicAdd(&rank.counts->disagreed, 1ull);
    return sum;
}

static __device__ const char *sum_find(const coterie_gpu_dispatch_t &d,
                                       const coterie_gpu_rank_t &rank,
                                       coterie_gpu_parcel_t parcel,
                                       uint32_t count, uint32_t from,
                                       uint32_t at)
{
    char *slot = coterie_gpu_inbound(&d, &rank, parcel, from);
    const uint32_t place =
        coterie_gpu_places(&d, parcel, slot)[rank.held_from[at]];

    if (place >= count)
        return NULL;
    return parcel != COTERIE_GPU_FORWARD ||
                   coterie_gpu_record(&d, slot, place)->number ==
                       rank.held_from[at]
               ? coterie_gpu_values(&d, parcel, slot, place)
               : NULL;
}

/* Over the threads of the block, in a fixed order. */
static __device__ float block_sum(float value)
{
    arriving_t *s = (arriving_t *)shared_memory();
    const uint32_t warp = threadIdx.x / WARP;
    float sum = 0;

    value = warp_sum(value);
    __syncthreads();
    if (threadIdx.x % WARP == 0)
        s->part[warp] = value;
    __syncthreads();
    for (int i = 0; i < DISPATCH_WARPS; i++)
        sum += s->part[i];
    return sum;
}
