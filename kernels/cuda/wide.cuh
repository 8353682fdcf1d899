#ifndef COTERIE_KERNELS_CUDA_WIDE_CUH
#define COTERIE_KERNELS_CUDA_WIDE_CUH
/* Products of panels and many rows on sm_90a. A block has one warpgroup that
 * brings rows to shared memory, a ring of stages ahead, and two that multiply:
 * outputs are the instruction's 64 rows, our rows its columns. Every warp has
 * two panels, whose words go from memory to the registers that the instruction
 * takes them from: a lane's two outputs and two inner elements are 8 bytes of a
 * panel, and the warp's 256 side by side. doc/gpu.md says why so. */
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ptx_hopper.cuh"

enum {
    WARP = 32,
    GROUP = 128, /* threads of a warpgroup */
    GROUP_WARPS = GROUP / WARP,
    CONSUMERS = 2, /* warpgroups that multiply */
    THREADS = GROUP * (CONSUMERS + 1),
    PRODUCER_REGISTERS = 40,
    CONSUMER_REGISTERS = 232, /* together not more than the processor has */
    ROWS = COTERIE_GPU_TILE_WIDE,
    STEP = 16, /* inner elements of one instruction */
    STAGE_STEPS = COTERIE_GPU_PIECE / STEP,
    STAGE_ROW = COTERIE_GPU_PIECE * 2, /* bytes */
    STAGE_SIZE = ROWS * STAGE_ROW,
    STAGES = 8,
    STAGE_ALIGN = 1024,
    LAG = 3, /* stages of gathered rows under way */
    PANEL = COTERIE_PANEL_OUTPUTS,
    PANEL_STEP = STEP * PANEL * 2, /* bytes */
    PANELS = CONSUMERS * GROUP_WARPS * 2, /* of a block */
    TOGETHER = 16 /* tiles that share weights while these are near */
};

/* What passes from the producers to the consumers, in turn: a stage is full
 * once its rows are there, and empty once every consumers' warp has used it. */
struct ring_t {
    char *stages;
    uint64_t *full, *empty; /* [STAGES] */
    uint32_t turn;          /* of this thread: stages it is done with */
};

/* A block's work: a tile's product with a column of outputs. */
struct task_t {
    coterie_gpu_tile_t tile;
    uint32_t column;
};

/* A warp's two panels; NULL is all zeros. */
struct warp_panels_t {
    const char *at[2];
    uint32_t in;
};

/* at[panel][4 n + c]: output c / 2 of the lane's two, row 8 n + 2 t + c % 2 of
 * the tile, t being the lane modulo 4. */
template <int N> struct wide_sums_t {
    float at[2][N / 2];
};

static inline size_t wide_shared(void)
{
    return STAGE_ALIGN + STAGES * (STAGE_SIZE + 2 * sizeof(uint64_t));
}

/* Stages that the inner dimension takes: an even number, for up to two of them
 * have registers for weights. What is beyond its end is zero. */
static __device__ __forceinline__ uint32_t stages_of(uint32_t in)
{
    return ceil_div(in, 2 * COTERIE_GPU_PIECE) * 2;
}

/* A producer's thread looks after one panel, if it has one: its share of a
 * stage goes to the second-level cache as long before it is multiplied as the
 * stage's rows are brought. */
static __device__ __forceinline__ void panel_near(const char *panel,
                                                  uint32_t in, uint32_t s)
{
    enum { SHARE = STAGE_STEPS * PANEL_STEP };
    const uint32_t size = in / STEP * PANEL_STEP;

    if (panel != NULL && s * SHARE < size)
        bulk_prefetch(panel + (size_t)s * SHARE,
                      min((uint32_t)SHARE, size - s * SHARE));
}

/* `arrivals` make a stage full. All threads. */
static __device__ __forceinline__ ring_t ring_begin(uint32_t arrivals)
{
    char *memory = (char *)shared_memory();
    ring_t ring;

    memory += -shared_address(memory) % STAGE_ALIGN;
    ring.stages = memory;
    ring.full = (uint64_t *)(memory + STAGES * STAGE_SIZE);
    ring.empty = ring.full + STAGES;
    ring.turn = 0;
    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; i++) {
            barrier_init(&ring.full[i], arrivals);
            barrier_init(&ring.empty[i], CONSUMERS * GROUP_WARPS);
        }
        proxy_fence();
    }
    __syncthreads();
    return ring;
}

/* The stage of this turn, for a producer, once nobody reads it any more. */
static __device__ __forceinline__ uint32_t ring_take(const ring_t &ring)
{
    const uint32_t stage = ring.turn % STAGES;

    barrier_wait(&ring.empty[stage], (ring.turn / STAGES + 1) % 2);
    return stage;
}

/* Task `index` of all, if there are so many. Some tiles go through all columns
 * before others begin: they share these columns' weights, one expert's tiles
 * being neighbours, and their rows stay near. */
static __device__ __forceinline__ bool task_of(
    const coterie_gpu_pairs_t &pairs, uint32_t columns, uint32_t index,
    task_t *task)
{
    const uint32_t tiles = *pairs.tile_count;
    const uint32_t first = index / (TOGETHER * columns) * TOGETHER;
    const uint32_t inside = index % (TOGETHER * columns);
    uint32_t together;

    if (first >= tiles)
        return false;
    together = min((uint32_t)TOGETHER, tiles - first);
    task->column = inside / together;
    if (task->column >= columns)
        return false;
    task->tile = pairs.tiles[first + inside % together];
    return true;
}

/* This thread's rows of the stage of a turn are there. */
static __device__ __forceinline__ void gathered(const ring_t &ring,
                                                uint32_t turn)
{
    proxy_fence();
    barrier_arrive(&ring.full[turn % STAGES]);
}

/* A thread brings 16 bytes of every 16th row: eight threads a row's share of a
 * stage, in the order that wgmma_rows wants. */
static __device__ __forceinline__ void rows_gather(
    const uint16_t *x, uint32_t in, const coterie_gpu_pairs_t &pairs,
    const coterie_gpu_tile_t &tile, const char *panel, ring_t *ring)
{
    enum { PIECES = STAGE_ROW / 16, AT_A_TIME = GROUP / PIECES };
    const uint32_t thread = threadIdx.x % GROUP;
    const uint32_t piece = thread % PIECES, first = thread / PIECES;
    const uint32_t swizzled = (piece ^ first % 8) * 16;
    const uint16_t *row[ROWS / AT_A_TIME];

#pragma unroll
    for (int j = 0; j < ROWS / AT_A_TIME; j++) {
        const uint32_t r = first + j * AT_A_TIME;

        row[j] = r < tile.count
                     ? x + (size_t)(pairs.pair[tile.first + r] / pairs.k) * in
                     : NULL;
    }
    for (uint32_t s = 0; s < stages_of(in); s++) {
        const uint32_t stage = ring_take(*ring);
        const uint32_t at = s * COTERIE_GPU_PIECE + piece * 8;
        char *to = ring->stages + stage * STAGE_SIZE + first * STAGE_ROW +
                   swizzled;

        panel_near(panel, in, s);
#pragma unroll
        for (int j = 0; j < ROWS / AT_A_TIME; j++)
            if (row[j] != NULL)
                copy_async_16(to + j * AT_A_TIME * STAGE_ROW,
                              at < in ? row[j] + at : x, at < in);
        copy_async_commit();
        copy_async_wait<LAG>();
        if (ring->turn >= LAG)
            gathered(*ring, ring->turn - LAG);
        ring->turn++;
    }
}

/* After the last of rows_gather. */
static __device__ __forceinline__ void rows_gathered(const ring_t &ring)
{
    copy_async_wait<0>();
    for (uint32_t left = min(ring.turn, (uint32_t)LAG); left > 0; left--)
        gathered(ring, ring.turn - left);
}

/* Of rows that lie in pieces as stages want them: one thread, one copy. */
static __device__ __forceinline__ void rows_copy(
    const uint16_t *pieces, uint32_t in, uint32_t places,
    const coterie_gpu_tile_t &tile, const char *panel, ring_t *ring)
{
    const uint32_t size = tile.count * STAGE_ROW;

    for (uint32_t s = 0; s < stages_of(in); s++, ring->turn++) {
        const uint32_t stage = ring_take(*ring);

        panel_near(panel, in, s);
        if (threadIdx.x != 0)
            continue;
        barrier_expect(&ring->full[stage], size);
        bulk_copy(ring->stages + stage * STAGE_SIZE,
                  pieces +
                      ((size_t)s * places + tile.first) * COTERIE_GPU_PIECE,
                  size, &ring->full[stage]);
    }
}

/* A step's words of the lane whose part of the panels begins at `lane`: inner
 * elements 2 t, 2 t + 1 of both outputs, then those 8 further on. */
static __device__ __forceinline__ void words_ask(const warp_panels_t &panels,
                                                 uint32_t lane, uint32_t step,
                                                 uint32_t (&words)[2][4])
{
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const bool valid = panels.at[i] != NULL && step * STEP < panels.in;
        const char *at =
            panels.at[i] + (size_t)step * PANEL_STEP + lane;
        const uint2 low = load_stream_8(at, valid);
        const uint2 high = load_stream_8(at + PANEL_STEP / 2, valid);

        words[i][0] = low.x;
        words[i][1] = low.y;
        words[i][2] = high.x;
        words[i][3] = high.y;
    }
}

/* The warp has read all of the stage before this thread's turn. */
static __device__ __forceinline__ void stage_release(const ring_t &ring)
{
    if (threadIdx.x % WARP == 0)
        barrier_arrive(&ring.empty[(ring.turn - 1) % STAGES]);
}

/* The first of the lane's two outputs of a panel. */
static __device__ __forceinline__ uint32_t lane_output(uint32_t panel)
{
    return panel * PANEL + threadIdx.x % WARP / 4 * 2;
}

/* A consumer's part of a task. Weights are asked for AHEAD - 1 steps before
 * they are multiplied, into registers that the step before has left. */
template <int N>
static __device__ __forceinline__ void multiply(const warp_panels_t &panels,
                                                ring_t *ring,
                                                wide_sums_t<N> *sums)
{
    /* As many as there are registers for. */
    enum { AHEAD = N <= 96 ? 2 * STAGE_STEPS : STAGE_STEPS };
    const uint32_t steps = stages_of(panels.in) * STAGE_STEPS;
    const uint32_t lane =
        threadIdx.x % 4 * PANEL * 4 + threadIdx.x % WARP / 4 * 8;
    uint32_t words[AHEAD][2][4];
    uint64_t rows = 0;

    *sums = wide_sums_t<N>();
#pragma unroll
    for (int s = 0; s < AHEAD - 1; s++)
        words_ask(panels, lane, s, words[s]);
    for (uint32_t step = 0; step < steps; step += AHEAD)
#pragma unroll
        for (int s = 0; s < AHEAD; s++) {
            const uint32_t stage = ring->turn % STAGES;

            if (s % STAGE_STEPS == 0) {
                barrier_wait(&ring->full[stage], ring->turn / STAGES % 2);
                rows = wgmma_rows(ring->stages + stage * STAGE_SIZE);
            }
            wgmma_fence();
#pragma unroll
            for (int i = 0; i < 2; i++)
                wgmma<N>(sums->at[i], words[s][i],
                         rows + s % STAGE_STEPS * (STEP * 2 / 16));
            wgmma_commit();
            wgmma_wait<1>();
            if (s % STAGE_STEPS == 0 && step + s > 0)
                stage_release(*ring);
            if (s % STAGE_STEPS == STAGE_STEPS - 1)
                ring->turn++;
            words_ask(panels, lane, step + s + AHEAD - 1,
                      words[(s + AHEAD - 1) % AHEAD]);
        }
    wgmma_wait<0>();
    stage_release(*ring);
}

#endif
