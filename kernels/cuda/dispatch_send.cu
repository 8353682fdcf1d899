/* Rows to the ranks of their experts: a block takes a row, routes it, and
 * writes it once to every rank of D, where this rank's message to it goes on.
 */
#include "kernels/cuda/dispatch.cuh"
#include "kernels/cuda/route.cuh"

enum { PLAN_THREADS = 1024 };

/* A block's row, in shared memory. */
struct sending_t {
    coterie_route_t route, ahead;  /* ahead: the next layer's, predicted */
    char *slot[COTERIE_K_MAX];     /* of rank i of D; NULL: it is not sent */
    uint32_t place[COTERIE_K_MAX]; /* in that message */
    uint32_t word;
};

static __global__ void plan(const __grid_constant__ coterie_gpu_dispatch_t d);
static __global__ void send(const __grid_constant__ coterie_gpu_dispatch_t d);
static __device__ void row_route(const coterie_gpu_dispatch_t &d,
                                 const coterie_gpu_rank_t &rank,
                                 const coterie_gpu_rows_t &rows, uint32_t row,
                                 sending_t *s);
static __device__ void forward_route(const coterie_gpu_dispatch_t &d,
                                     const coterie_gpu_rank_t &rank,
                                     const coterie_gpu_rows_t &rows,
                                     uint32_t row, sending_t *s);
static __device__ void places_take(const coterie_gpu_dispatch_t &d,
                                   const coterie_gpu_rank_t &rank,
                                   const coterie_gpu_rows_t &rows,
                                   uint32_t row, sending_t *s);
static __device__ void dropped_count(const coterie_gpu_rank_t &rank,
                                     const coterie_gpu_rows_t &rows,
                                     uint32_t row, uint32_t k,
                                     const coterie_route_t &route);
static __device__ void head_write(const coterie_gpu_dispatch_t &d,
                                  const coterie_gpu_rank_t &rank,
                                  const coterie_gpu_rows_t &rows, uint32_t row,
                                  const sending_t *s);
static __device__ void values_write(const coterie_gpu_dispatch_t &d,
                                    const coterie_gpu_rank_t &rank,
                                    const coterie_gpu_rows_t &rows,
                                    uint32_t row, const sending_t *s);

int coterie_gpu_send(void *stream, const coterie_gpu_dispatch_t *d)
{
    const cudaLaunchConfig_t once =
        launch_of(stream, dim3(1, d->count), PLAN_THREADS, 0);
    const cudaLaunchConfig_t by_row =
        launch_of(stream, dim3(d->blocks, d->count), DISPATCH_THREADS,
                  sizeof(sending_t));
    cudaError_t error = cudaSuccess;

    if (d->owner)
        error = cudaLaunchKernelEx(&once, plan, *d);
    if (error == cudaSuccess)
        error = cudaLaunchKernelEx(&by_row, send, *d);
    return error;
}

/* Routes all rows, and numbers those that go to one next owner in their order:
 * a warp takes an owner. */
static __global__ void plan(const __grid_constant__ coterie_gpu_dispatch_t d)
{
    const coterie_gpu_rank_t &rank = d.ranks[d.first + blockIdx.y];
    const coterie_gpu_rows_t &rows = d.in[blockIdx.y];
    const uint32_t warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    const uint32_t count = rows_here(rows), warps = PLAN_THREADS / WARP;

    for (uint32_t row = warp; row < count; row += warps) {
        const int32_t id =
            choice_of(&d.tables, rows.ids + (size_t)row * d.k, d.k);
        route_warp(&d.tables, d.layer, d.k, rank.rank, id, &rank.routes[row]);
    }
    __syncthreads();
    for (uint32_t to = warp; to < d.tables.rank_count; to += warps) {
        uint32_t owned = 0;
        for (uint32_t first = 0; first < count; first += WARP) {
            const uint32_t row = first + lane;
            const bool mine = row < count && rank.routes[row].next_owner == to;
            const uint32_t all = __ballot_sync(ALL_LANES, mine);
            if (mine)
                rank.number[row] = owned + __popc(all & ((1u << lane) - 1));
            owned += __popc(all);
        }
        if (lane == 0)
            rank.owned[to] = owned;
    }
}

static __global__ void send(const __grid_constant__ coterie_gpu_dispatch_t d)
{
    const coterie_gpu_rank_t &rank = d.ranks[d.first + blockIdx.y];
    const coterie_gpu_rows_t &rows = d.in[blockIdx.y];
    const uint32_t count = rows_here(rows);
    sending_t *s = (sending_t *)shared_memory();

    for (uint32_t row = blockIdx.x; row < count; row += gridDim.x) {
        if (threadIdx.x < WARP) {
            if (d.forward)
                forward_route(d, rank, rows, row, s);
            else
                row_route(d, rank, rows, row, s);
            places_take(d, rank, rows, row, s);
        }
        __syncthreads();
        if (threadIdx.x == 0 &&
            (!d.forward || s->route.next_owner == rank.rank))
            dropped_count(rank, rows, row, d.k, s->route);
        head_write(d, rank, rows, row, s);
        values_write(d, rank, rows, row, s);
        __syncthreads();
    }
    if (!last_block(&rank.done[COTERIE_GPU_DISPATCH], &s->word))
        return;
    if (!d.owner && !d.forward)
        for (uint32_t to = threadIdx.x; to < d.tables.rank_count;
             to += blockDim.x)
            rank.owned[to] = to == rank.rank ? count : 0;
    if (threadIdx.x == 0)
        rank.counts->rows += count;
    __syncthreads();
    if (!d.forward) {
        messages_seal(d, rank, COTERIE_GPU_DISPATCH);
    } else if (threadIdx.x == 0) { /* only to oneself, in order */
        message_head(d, rank, COTERIE_GPU_DISPATCH, rank.rank, 0);
        rank.done[COTERIE_GPU_DISPATCH] = 0;
    }
}

/* In two-phase the row stays, under its own number. */
static __device__ void row_route(const coterie_gpu_dispatch_t &d,
                                 const coterie_gpu_rank_t &rank,
                                 const coterie_gpu_rows_t &rows, uint32_t row,
                                 sending_t *s)
{
    const uint32_t lane = threadIdx.x % WARP;

    if (d.owner) {
        if (lane == 0)
            s->route = rank.routes[row];
    } else {
        route_warp(&d.tables, d.layer, d.k, rank.rank,
                   choice_of(&d.tables, rows.ids + (size_t)row * d.k, d.k),
                   &s->route);
        if (lane == 0) {
            s->route.next_owner = (uint16_t)rank.rank;
            rank.routes[row] = s->route;
            rank.number[row] = row;
        }
    }
    __syncwarp();
}

/* Who adds the residual, and who holds the row next. */
static __device__ void forward_route(const coterie_gpu_dispatch_t &d,
                                     const coterie_gpu_rank_t &rank,
                                     const coterie_gpu_rows_t &rows,
                                     uint32_t row, sending_t *s)
{
    const bool predicts = d.predicted_k > 0 && rows.predicted != NULL;

    route_warp(&d.tables, d.layer, d.k, COTERIE_NONE,
               choice_of(&d.tables, rows.ids + (size_t)row * d.k, d.k),
               &s->route);
    if (predicts)
        route_warp(&d.tables, d.layer + 1, d.predicted_k, COTERIE_NONE,
                   choice_of(&d.tables,
                             rows.predicted + (size_t)row * d.predicted_k,
                             d.predicted_k),
                   &s->ahead);
    if (threadIdx.x % WARP == 0) {
        s->route.next_owner = coterie_gpu_carrier(
            &rank, &s->route, coterie_gpu_holders(&rows, row));
        rank.routes[row] = s->route;
        rank.number[row] = COTERIE_GPU_NOWHERE;
        rank.next[row] =
            predicts ? coterie_gpu_next(&s->ahead, s->route.next_owner)
                     : COTERIE_GPU_SET_ALL;
    }
    __syncwarp();
}

/* In forward a row goes to this rank itself, and, if it adds the residual, to
 * those that are late. */
static __device__ void places_take(const coterie_gpu_dispatch_t &d,
                                   const coterie_gpu_rank_t &rank,
                                   const coterie_gpu_rows_t &rows,
                                   uint32_t row, sending_t *s)
{
    const uint32_t lane = threadIdx.x % WARP;
    coterie_gpu_parcel_t parcel = COTERIE_GPU_DISPATCH;

    if (lane >= s->route.rank_count)
        return;
    const uint32_t to = s->route.rank[lane];
    s->slot[lane] = NULL;
    if (d.forward && to != rank.rank) {
        if (!d.mends || s->route.next_owner != rank.rank ||
            coterie_gpu_set_has(coterie_gpu_holders(&rows, row), to))
            return;
        parcel = COTERIE_GPU_LATE;
    }
    s->place[lane] =
        atomicAdd(&rank.sent[parcel * d.tables.rank_count + to], 1u);
    if (s->place[lane] >= d.capacity) {
        atomicAdd(&rank.counts->overflows, 1u);
        return;
    }
    s->slot[lane] = coterie_gpu_outbound(&d, &rank, parcel, to);
    if (d.forward && to == rank.rank)
        rank.number[row] = s->place[lane];
}

static __device__ void dropped_count(const coterie_gpu_rank_t &rank,
                                     const coterie_gpu_rows_t &rows,
                                     uint32_t row, uint32_t k,
                                     const coterie_route_t &route)
{
    uint32_t dropped = 0;

    for (uint32_t j = 0; j < k; j++)
        dropped += rows.ids[(size_t)row * k + j] >= 0 &&
                   route.serving[j] == COTERIE_NONE;
    if (dropped > 0)
        atomicAdd(&rank.counts->dropped, (unsigned long long)dropped);
}

/* A thread has a choice of the row, and writes it to all of D. */
static __device__ void head_write(const coterie_gpu_dispatch_t &d,
                                  const coterie_gpu_rank_t &rank,
                                  const coterie_gpu_rows_t &rows, uint32_t row,
                                  const sending_t *s)
{
    const coterie_route_t &route = s->route;
    const uint32_t i = threadIdx.x / COTERIE_K_MAX;
    const uint32_t j = threadIdx.x % COTERIE_K_MAX;
    coterie_gpu_record_t *record;

    if (i >= route.rank_count || j >= d.k || s->slot[i] == NULL)
        return;
    const uint32_t to = route.rank[i];
    const bool its = route.serving[j] == to;
    record = coterie_gpu_record(&d, s->slot[i], s->place[i]);
    coterie_gpu_choices(record)[j] = {
        (int16_t)(its ? (int)(route.slot[j] - d.slot_first[to]) : NO_PAIR),
        route.serving[j], rows.weights[(size_t)row * d.k + j]};
    if (j != 0)
        return;
    *record = record_of(d, rank, rows, row);
    record->raw = d.owner && to == route.next_owner && to != rank.rank;
}

/* The next owner gets the row itself, others the experts' input. */
static __device__ void values_write(const coterie_gpu_dispatch_t &d,
                                    const coterie_gpu_rank_t &rank,
                                    const coterie_gpu_rows_t &rows,
                                    uint32_t row, const sending_t *s)
{
    const coterie_route_t &route = s->route;
    const size_t at = row * row_size(d.element, d.hidden);
    const bool moves = d.owner && route.next_owner != rank.rank;

    for (uint32_t i = threadIdx.x; i < d.hidden / 8; i += blockDim.x) {
        const eight_t x =
            eight_load((const char *)rows.normed + at, d.element, i);
        const eight_t raw =
            moves ? eight_load((const char *)rows.hidden + at, d.element, i)
                  : x;
        for (uint32_t j = 0; j < route.rank_count; j++) {
            if (s->slot[j] == NULL)
                continue;
            eight_store(coterie_gpu_values(&d, COTERIE_GPU_DISPATCH,
                                           s->slot[j], s->place[j]),
                        d.wire, i,
                        route.rank[j] == route.next_owner ? raw : x);
        }
    }
}
