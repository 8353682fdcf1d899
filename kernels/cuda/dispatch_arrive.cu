/* What came from other ranks: their rows, made ready for this rank's experts,
 * and later their sums, added to rows that are here next. */
#include "kernels/cuda/dispatch.cuh"

/* A block's, in shared memory; three arrays of [ranks] follow it. */
struct arriving_t {
    uint32_t word, place;
    float part[DISPATCH_WARPS];
    const char *sum[COTERIE_K_MAX]; /* of a row; NULL: none */
};

/* What a rank sent here. */
struct arrived_t {
    uint32_t *count, *owned_first; /* owned_first[ranks]: of all */
};

static __global__ void arrive(const __grid_constant__ coterie_gpu_dispatch_t d);
static __global__ void
give_back(const __grid_constant__ coterie_gpu_dispatch_t d);
static __global__ void finish(const __grid_constant__ coterie_gpu_dispatch_t d);
static __device__ arrived_t arrived_count(const coterie_gpu_dispatch_t &d,
                                          const coterie_gpu_rank_t &rank);
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
static __device__ void parts_write(uint16_t *parts, uint32_t k,
                                   const coterie_gpu_choice_t *choices);
static __device__ void sum_write(const coterie_gpu_dispatch_t &d,
                                 const coterie_gpu_rank_t &rank, uint32_t row,
                                 char *to);
static __device__ void held_finish(const coterie_gpu_dispatch_t &d,
                                   const coterie_gpu_rank_t &rank,
                                   const uint32_t *counts, uint32_t at);
static __device__ const char *sum_find(const coterie_gpu_dispatch_t &d,
                                       const coterie_gpu_rank_t &rank,
                                       const uint32_t *counts, uint32_t from,
                                       uint32_t at);
static __device__ float block_sum(float value);

static inline cudaLaunchConfig_t launch_rows(void *stream,
                                             const coterie_gpu_dispatch_t *d)
{
    return launch_of(stream, dim3(d->blocks, d->count), DISPATCH_THREADS,
                     sizeof(arriving_t) +
                         (2 * d->tables.rank_count + 1) * sizeof(uint32_t));
}

int coterie_gpu_arrive(void *stream, const coterie_gpu_dispatch_t *d)
{
    const cudaLaunchConfig_t config = launch_rows(stream, d);

    return cudaLaunchKernelEx(&config, arrive, *d);
}

int coterie_gpu_give_back(void *stream, const coterie_gpu_dispatch_t *d)
{
    const cudaLaunchConfig_t config = launch_rows(stream, d);

    return cudaLaunchKernelEx(&config, give_back, *d);
}

int coterie_gpu_finish(void *stream, const coterie_gpu_dispatch_t *d)
{
    const cudaLaunchConfig_t config = launch_rows(stream, d);

    return cudaLaunchKernelEx(&config, finish, *d);
}

static __global__ void arrive(const __grid_constant__ coterie_gpu_dispatch_t d)
{
    const coterie_gpu_rank_t &rank = d.ranks[d.first + blockIdx.y];
    const arrived_t arrived = arrived_count(d, rank);

    choices_read(d, rank, arrived);
    if (!d.in_place)
        rows_read(d, rank, arrived);
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
    const uint32_t stride = coterie_gpu_stride(&d, COTERIE_GPU_DISPATCH);
    uint32_t *sent = rank.sent + COTERIE_GPU_RETURN * ranks;
    arriving_t *s = (arriving_t *)shared_memory();
    const arrived_t arrived = arrived_count(d, rank);

    for (uint32_t i = blockIdx.x; i < ranks * d.capacity; i += gridDim.x) {
        const uint32_t from = i / d.capacity, row = i % d.capacity;
        if (row >= arrived.count[from])
            continue;
        const coterie_gpu_record_t *record = coterie_gpu_record(
            &d, inbox_slot(d, rank, COTERIE_GPU_DISPATCH, from), row);
        const uint32_t to = record->owner, number = record->number;
        if (to >= ranks || number >= d.max_rows || !both_active(rank, to))
            continue;
        char *slot = rank.to[COTERIE_GPU_RETURN][to];
        if (threadIdx.x == 0) {
            s->place = atomicAdd(&sent[to], 1u);
            if (s->place < d.capacity)
                coterie_gpu_places(slot)[from * d.max_rows + number] =
                    s->place;
            else
                atomicAdd(&rank.counts->overflows, 1u);
        }
        __syncthreads();
        if (s->place < d.capacity)
            sum_write(d, rank,
                      from * stride + d.lead[COTERIE_GPU_DISPATCH] + row,
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

    messages_await(d, rank, COTERIE_GPU_RETURN, counts);
    if (blockIdx.x == 0 && threadIdx.x == 0) {
        *out.count = min(held, out.capacity);
        if (held > out.capacity)
            atomicAdd(&rank.counts->overflows, held - out.capacity);
    }
    held = min(held, out.capacity);
    for (uint32_t at = blockIdx.x; at < held; at += gridDim.x)
        held_finish(d, rank, counts, at);
}

/* In shared memory, once all messages have come. */
static __device__ arrived_t arrived_count(const coterie_gpu_dispatch_t &d,
                                          const coterie_gpu_rank_t &rank)
{
    const uint32_t ranks = d.tables.rank_count;
    uint32_t *count = (uint32_t *)((arriving_t *)shared_memory() + 1);
    uint32_t *first = count + ranks, owned = 0;

    messages_await(d, rank, COTERIE_GPU_DISPATCH, count);
    if (threadIdx.x == 0) {
        uint32_t left = d.arrivals;
        for (uint32_t from = 0; from < ranks; from++) {
            const coterie_gpu_head_t *head =
                (const coterie_gpu_head_t *)inbox_slot(
                    d, rank, COTERIE_GPU_DISPATCH, from);
            first[from] = owned;
            if (count[from] > 0 || from == rank.rank)
                owned += min(head->owned, d.max_rows);
            if (count[from] > left) {
                count[from] = left;
                rank.counts->overflows = 1; /* by all blocks alike */
            }
            left -= count[from];
        }
        first[ranks] = owned;
    }
    __syncthreads();
    return {count, first};
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
                &d, inbox_slot(d, rank, COTERIE_GPU_DISPATCH, from), row))[j];
        rank.ids[i] = choice.slot < (int32_t)rank.slots ? choice.slot
                                                        : NO_PAIR;
        rank.weights[i] = choice.weight;
    }
}

static __device__ void rows_read(const coterie_gpu_dispatch_t &d,
                                 const coterie_gpu_rank_t &rank,
                                 const arrived_t &arrived)
{
    const uint32_t stride = coterie_gpu_stride(&d, COTERIE_GPU_DISPATCH);

    for (uint32_t i = blockIdx.x; i < d.tables.rank_count * d.capacity;
         i += gridDim.x) {
        const uint32_t from = i / d.capacity, row = i % d.capacity;
        if (row >= arrived.count[from])
            continue;
        char *slot = inbox_slot(d, rank, COTERIE_GPU_DISPATCH, from);
        coterie_gpu_record_t *record = coterie_gpu_record(&d, slot, row);
        const char *values =
            coterie_gpu_values(&d, COTERIE_GPU_DISPATCH, slot, row);
        const uint32_t at = arrived.owned_first[from] + record->number;
        uint16_t *x = rank.x + (from * stride + row +
                                (size_t)d.lead[COTERIE_GPU_DISPATCH]) *
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

/* D is who serves any of the choices. */
static __device__ void parts_write(uint16_t *parts, uint32_t k,
                                   const coterie_gpu_choice_t *choices)
{
    uint32_t last = 0;

    for (uint32_t i = 0; i < k; i++) {
        uint32_t next = COTERIE_NONE;
        for (uint32_t j = 0; j < k; j++)
            if ((i == 0 || choices[j].serving > last) &&
                choices[j].serving < next)
                next = choices[j].serving;
        parts[i] = (uint16_t)next;
        last = next;
    }
}

/* Choices in order, so that a sum has one order whatever else came. */
static __device__ void sum_write(const coterie_gpu_dispatch_t &d,
                                 const coterie_gpu_rank_t &rank, uint32_t row,
                                 char *to)
{
    const int32_t *place = rank.place + (size_t)row * d.k;
    const float *weights = rank.weights + (size_t)row * d.k;

    for (uint32_t i = threadIdx.x; i < d.hidden / 8; i += blockDim.x) {
        eight_t sum = {};
        for (uint32_t j = 0; j < d.k; j++) {
            if (place[j] == NO_PAIR)
                continue;
            const eight_t part =
                eight_load(rank.out + (size_t)place[j] * d.hidden,
                           COTERIE_WIRE_F32, i);
            for (int e = 0; e < 8; e++)
                sum.v[e] += weights[j] * part.v[e];
        }
        eight_store(to, d.wire, i, sum);
    }
}

/* The residual first, then the sums, ranks ascending. */
static __device__ void held_finish(const coterie_gpu_dispatch_t &d,
                                   const coterie_gpu_rank_t &rank,
                                   const uint32_t *counts, uint32_t at)
{
    const coterie_gpu_rows_t &out = d.out[blockIdx.y];
    const uint32_t type = d.owner ? (uint32_t)COTERIE_WIRE_F32 : d.element;
    const char *base = (const char *)(d.owner ? rank.base
                                              : d.in[blockIdx.y].hidden);
    arriving_t *s = (arriving_t *)shared_memory();

    __syncthreads();
    if (threadIdx.x < d.k)
        s->sum[threadIdx.x] = sum_find(
            d, rank, counts, rank.held_parts[at * d.k + threadIdx.x], at);
    __syncthreads();
    if (threadIdx.x == 0 && out.key != NULL)
        out.key[at] = rank.held_key[at];
    for (uint32_t i = threadIdx.x; i < d.hidden / 8; i += blockDim.x) {
        eight_t sum = eight_load(base + at * row_size(type, d.hidden), type, i);
        for (uint32_t j = 0; j < d.k; j++) {
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

/* NULL: it did not come, which some counter says. */
static __device__ const char *sum_find(const coterie_gpu_dispatch_t &d,
                                       const coterie_gpu_rank_t &rank,
                                       const uint32_t *counts, uint32_t from,
                                       uint32_t at)
{
    char *slot;
    uint32_t place;

    if (from >= d.tables.rank_count)
        return NULL;
    slot = inbox_slot(d, rank, COTERIE_GPU_RETURN, from);
    place = coterie_gpu_places(slot)[rank.held_from[at]];
    return place < counts[from]
               ? coterie_gpu_values(&d, COTERIE_GPU_RETURN, slot, place)
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
