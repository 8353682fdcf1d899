/* Pairs grouped by expert, in a fixed order: chunks of pairs are counted side
 * by side, one block adds the counts up, and chunks place their pairs. */
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ptx.cuh"

enum {
    WARP = 32,
    CHUNK_WARPS = COTERIE_GPU_CHUNK / WARP,
    SCAN_THREADS = COTERIE_GPU_EXPERTS_MAX
};

static __global__ void count_chunk(coterie_gpu_pairs_t pairs);
static __global__ void add_up(coterie_gpu_pairs_t pairs, uint32_t chunks);
static __global__ void place_chunk(coterie_gpu_pairs_t pairs);
static __device__ int32_t id_of(const coterie_gpu_pairs_t &pairs,
                                uint32_t pair);
static __device__ uint32_t sum_before(uint32_t mine, uint32_t *shared);
static __device__ void tiles_write(const coterie_gpu_pairs_t &pairs,
                                   uint32_t *shared, uint32_t first,
                                   uint32_t count);
static __device__ void place_warp(const coterie_gpu_pairs_t &pairs,
                                  uint32_t *next, uint32_t pair, int32_t id);

int coterie_gpu_sort(void *stream, const coterie_gpu_pairs_t *pairs)
{
    const uint32_t chunks = coterie_gpu_chunks(pairs);
    const size_t counters = pairs->expert_count * sizeof(uint32_t);
    const cudaLaunchConfig_t by_chunk =
        launch_of(stream, chunks > 0 ? chunks : 1, COTERIE_GPU_CHUNK,
                  counters);
    const cudaLaunchConfig_t once =
        launch_of(stream, 1, SCAN_THREADS, SCAN_THREADS * sizeof(uint32_t));
    cudaError_t error =
        cudaLaunchKernelEx(&by_chunk, count_chunk, *pairs);

    if (error == cudaSuccess)
        error = cudaLaunchKernelEx(&once, add_up, *pairs, chunks);
    if (error == cudaSuccess)
        error = cudaLaunchKernelEx(&by_chunk, place_chunk, *pairs);
    return error;
}

static __global__ void count_chunk(coterie_gpu_pairs_t pairs)
{
    uint32_t *count = (uint32_t *)shared_memory();
    const uint32_t pair = blockIdx.x * blockDim.x + threadIdx.x;
    const int32_t id = id_of(pairs, pair);

    for (uint32_t e = threadIdx.x; e < pairs.expert_count; e += blockDim.x)
        count[e] = 0;
    __syncthreads();
    if (id >= 0)
        atomicAdd(&count[id], 1u);
    __syncthreads();
    for (uint32_t e = threadIdx.x; e < pairs.expert_count; e += blockDim.x)
        pairs.counts[blockIdx.x * pairs.expert_count + e] = count[e];
}

/* Thread e has expert e. Counts of chunks become where they begin. */
static __global__ void add_up(coterie_gpu_pairs_t pairs, uint32_t chunks)
{
    uint32_t *shared = (uint32_t *)shared_memory();
    const uint32_t e = threadIdx.x;
    uint32_t total = 0, first;

    for (uint32_t c = 0; e < pairs.expert_count && c < chunks; c++)
        total += pairs.counts[c * pairs.expert_count + e];
    first = sum_before(total, shared);
    if (e < pairs.expert_count)
        pairs.first[e] = first;
    if (e == pairs.expert_count - 1)
        pairs.first[e + 1] = first + total;
    tiles_write(pairs, shared, first, total);
    for (uint32_t c = 0; e < pairs.expert_count && c < chunks; c++) {
        uint32_t *at = &pairs.counts[c * pairs.expert_count + e];
        const uint32_t count = *at;
        *at = first;
        first += count;
    }
}

/* One warp after the other, for their pairs must ascend. */
static __global__ void place_chunk(coterie_gpu_pairs_t pairs)
{
    uint32_t *next = (uint32_t *)shared_memory();
    const uint32_t pair = blockIdx.x * blockDim.x + threadIdx.x;
    const int32_t id = id_of(pairs, pair);

    for (uint32_t e = threadIdx.x; e < pairs.expert_count; e += blockDim.x)
        next[e] = pairs.counts[blockIdx.x * pairs.expert_count + e];
    for (uint32_t warp = 0; warp < CHUNK_WARPS; warp++) {
        __syncthreads();
        if (threadIdx.x / WARP == warp)
            place_warp(pairs, next, pair, id);
    }
    if (id < 0 && pair < pairs.rows * pairs.k)
        pairs.place[pair] = NO_PAIR;
}

static __device__ int32_t id_of(const coterie_gpu_pairs_t &pairs,
                                uint32_t pair)
{
    return pair < pairs.rows * pairs.k ? pairs.ids[pair] : NO_PAIR;
}

/* Over the threads of the block, SCAN_THREADS of them. */
static __device__ uint32_t sum_before(uint32_t mine, uint32_t *shared)
{
    uint32_t sum = mine;

    for (uint32_t step = 1; step < SCAN_THREADS; step *= 2) {
        shared[threadIdx.x] = sum;
        __syncthreads();
        if (threadIdx.x >= step)
            sum += shared[threadIdx.x - step];
        __syncthreads();
    }
    return sum - mine;
}

static __device__ void tiles_write(const coterie_gpu_pairs_t &pairs,
                                   uint32_t *shared, uint32_t first,
                                   uint32_t count)
{
    const uint32_t step = coterie_gpu_tile_step(count, pairs.tile);
    const uint32_t tiles = ceil_div(count, step);
    const uint32_t at = sum_before(tiles, shared);

    for (uint32_t i = 0; i < tiles; i++) {
        const uint32_t done = i * step;
        const coterie_gpu_tile_t tile = {threadIdx.x, first + done,
                                         min(count - done, step)};
        pairs.tiles[at + i] = tile;
    }
    if (threadIdx.x == SCAN_THREADS - 1)
        *pairs.tile_count = at + tiles;
}

/* Lanes that chose one expert follow each other; the first moves the counter
 * on for all. */
static __device__ void place_warp(const coterie_gpu_pairs_t &pairs,
                                  uint32_t *next, uint32_t pair, int32_t id)
{
    const uint32_t lane = threadIdx.x % WARP;
    const uint32_t same = __match_any_sync(~0u, id);
    const uint32_t before = __popc(same & ((1u << lane) - 1));
    const uint32_t at = id >= 0 ? next[id] + before : 0;

    __syncwarp();
    if (id < 0)
        return;
    pairs.pair[at] = pair;
    pairs.place[pair] = (int32_t)at;
    if ((uint32_t)__popc(same) == before + 1)
        next[id] = at + 1;
}
