/* Experts' FFN with bf16 weights for many rows, on sm_90a: two launches as in
 * ffn.cuh, of as many blocks as there are processors. */
#include "kernels/cuda/activation.cuh"
#include "kernels/cuda/ffn_formats.h"
#include "kernels/cuda/wide.cuh"

static_assert(PANELS / 2 * PANEL == 2 * COTERIE_GPU_PIECE,
              "the columns of gate and up cover the inner values' padding");

/* A kernel's argument. */
struct call_t {
    coterie_gpu_ffn_t ffn;
    coterie_gpu_pairs_t pairs;
    activation_t activation;
};

/* 1 in the code of an architecture that has the kernels. */
static __device__ uint32_t hopper = HOPPER;

/* Panel `number` of a matrix [out, in], if there is such. */
static __device__ __forceinline__ const char *panel_of(const void *matrix,
                                                       uint32_t number,
                                                       uint32_t out,
                                                       uint32_t in)
{
    return matrix != NULL && number * PANEL < out
               ? (const char *)matrix +
                     (size_t)number * (in / STEP) * PANEL_STEP
               : NULL;
}

/* The inner values of the lane's two outputs, one word a row, in the pieces
 * that rows_copy brings. */
template <int N>
static __device__ __forceinline__ void inner_write(
    const call_t &call, const coterie_gpu_tile_t &tile, uint32_t output,
    const wide_sums_t<N> &sums)
{
    const coterie_expert_weights_t &e = call.ffn.experts[tile.expert];
    const uint32_t t = threadIdx.x % 4, piece = output % COTERIE_GPU_PIECE / 8;
    const size_t places = (size_t)call.pairs.rows * call.pairs.k;
    uint16_t *to =
        call.ffn.inner +
        (output / COTERIE_GPU_PIECE * places + tile.first) * COTERIE_GPU_PIECE;
    float gate_bias[2] = {0, 0}, up_bias[2] = {0, 0};

    for (int i = 0; i < 2 && output < call.ffn.shape.ffn; i++) {
        gate_bias[i] = bias_of(e.gate_bias, output + i);
        up_bias[i] = bias_of(e.up_bias, output + i);
    }
#pragma unroll
    for (int c = 0; c < N / 4; c++) {
        const uint32_t r = c / 2 * 8 + t * 2 + c % 2;
        float y[2];

#pragma unroll
        for (int i = 0; i < 2; i++) {
            const int at = c / 2 * 4 + i * 2 + c % 2;
            const float gate = sums.at[0][at] + gate_bias[i];
            const float up = sums.at[1][at] + up_bias[i];

            y[i] = e.gate != NULL ? activate_value(call.activation, gate, up)
                                  : activate_value(call.activation, up, 1.0f);
        }
        if (r < tile.count)
            *(uint32_t *)&to[r * COTERIE_GPU_PIECE + (piece ^ r % 8) * 8 +
                             output % 8] = narrow_pair(y[0], y[1]);
    }
}

template <int N>
static __device__ __forceinline__ void out_write(const call_t &call,
                                                 const coterie_gpu_tile_t &tile,
                                                 uint32_t output,
                                                 const float (&sums)[N / 2])
{
    const float *bias = call.ffn.experts[tile.expert].down_bias;
    const uint32_t t = threadIdx.x % 4;
    float *to =
        call.ffn.out + (size_t)tile.first * call.ffn.shape.hidden + output;
    float b[2];

    if (output >= call.ffn.shape.hidden)
        return;
    b[0] = bias_of(bias, output);
    b[1] = bias_of(bias, output + 1);
#pragma unroll
    for (int c = 0; c < N / 4; c++) {
        const uint32_t r = c / 2 * 8 + t * 2 + c % 2;
        const float2 y = {sums[c / 2 * 4 + c % 2] + b[0],
                          sums[c / 2 * 4 + 2 + c % 2] + b[1]};

        if (r < tile.count)
            *(float2 *)&to[(size_t)r * call.ffn.shape.hidden] = y;
    }
}

/* The two launches: a block's panels, who fills the ring, and what becomes of
 * the warp's sums, its panels being `first` and the next. */
struct gate_up {
    enum { THERE = HOPPER, ARRIVALS = GROUP, COLUMN = PANELS / 2 * PANEL };
    static __device__ __forceinline__ uint32_t in(const call_t &call)
    {
        return call.ffn.shape.hidden;
    }
    static __device__ __forceinline__ uint32_t out(const call_t &call)
    {
        return call.ffn.shape.ffn;
    }
    /* Of gate and of up in turns. */
    static __device__ __forceinline__ const char *panel(
        const call_t &call, const coterie_expert_weights_t &e, uint32_t i)
    {
        return panel_of(i % 2 ? e.up : e.gate, i / 2, call.ffn.shape.ffn,
                        call.ffn.shape.hidden);
    }
    static __device__ __forceinline__ void produce(
        const call_t &call, const coterie_gpu_tile_t &tile, const char *panel,
        ring_t *ring)
    {
        rows_gather(call.ffn.x, call.ffn.shape.hidden, call.pairs, tile, panel,
                    ring);
    }
    static __device__ __forceinline__ void produced(const ring_t &ring)
    {
        rows_gathered(ring);
    }
    template <int N>
    static __device__ __forceinline__ void write(const call_t &call,
                                                 const coterie_gpu_tile_t &tile,
                                                 uint32_t first,
                                                 const wide_sums_t<N> &sums)
    {
        inner_write<N>(call, tile, lane_output(first / 2), sums);
    }
};

struct down {
    enum { THERE = HOPPER, ARRIVALS = 1, COLUMN = PANELS * PANEL };
    static __device__ __forceinline__ uint32_t in(const call_t &call)
    {
        return call.ffn.shape.ffn;
    }
    static __device__ __forceinline__ uint32_t out(const call_t &call)
    {
        return call.ffn.shape.hidden;
    }
    static __device__ __forceinline__ const char *panel(
        const call_t &call, const coterie_expert_weights_t &e, uint32_t i)
    {
        return panel_of(e.down, i, call.ffn.shape.hidden, call.ffn.shape.ffn);
    }
    static __device__ __forceinline__ void produce(
        const call_t &call, const coterie_gpu_tile_t &tile, const char *panel,
        ring_t *ring)
    {
        if (threadIdx.x < PANELS)
            rows_copy(call.ffn.inner, call.ffn.shape.ffn,
                      call.pairs.rows * call.pairs.k, tile, panel, ring);
    }
    static __device__ __forceinline__ void produced(const ring_t &)
    {
    }
    template <int N>
    static __device__ __forceinline__ void write(const call_t &call,
                                                 const coterie_gpu_tile_t &tile,
                                                 uint32_t first,
                                                 const wide_sums_t<N> &sums)
    {
#pragma unroll
        for (int i = 0; i < 2; i++)
            out_write<N>(call, tile, lane_output(first + i), sums.at[i]);
    }
};

template <class Work>
static __device__ __forceinline__ void tasks_produce(const call_t &call,
                                                     ring_t *ring)
{
    const uint32_t columns = ceil_div(Work::out(call), Work::COLUMN);
    task_t task;

    for (uint32_t i = blockIdx.x; task_of(call.pairs, columns, i, &task);
         i += gridDim.x) {
        const char *panel =
            threadIdx.x < PANELS
                ? Work::panel(call, call.ffn.experts[task.tile.expert],
                              task.column * PANELS + threadIdx.x)
                : NULL;

        Work::produce(call, task.tile, panel, ring);
    }
    Work::produced(*ring);
}

template <class Work, int N>
static __device__ __forceinline__ void task_consume(const call_t &call,
                                                    const task_t &task,
                                                    ring_t *ring)
{
    const coterie_expert_weights_t &e = call.ffn.experts[task.tile.expert];
    const uint32_t first =
        task.column * PANELS + (threadIdx.x - GROUP) / WARP * 2;
    const warp_panels_t panels = {
        {Work::panel(call, e, first), Work::panel(call, e, first + 1)},
        Work::in(call)};
    wide_sums_t<N> sums;

    multiply<N>(panels, ring, &sums);
    Work::template write<N>(call, task.tile, first, sums);
}

/* An instruction's columns are a multiple of 8; with a kernel for every 32,
 * few of them are in vain. */
template <class Work>
static __device__ __forceinline__ void tasks_consume(const call_t &call,
                                                     ring_t *ring)
{
    const uint32_t columns = ceil_div(Work::out(call), Work::COLUMN);
    task_t task;

    for (uint32_t i = blockIdx.x; task_of(call.pairs, columns, i, &task);
         i += gridDim.x) {
        if (task.tile.count <= 32)
            task_consume<Work, 32>(call, task, ring);
        else if (task.tile.count <= 64)
            task_consume<Work, 64>(call, task, ring);
        else if (task.tile.count <= 96)
            task_consume<Work, 96>(call, task, ring);
        else
            task_consume<Work, 128>(call, task, ring);
    }
}

template <class Work>
__launch_bounds__(THREADS, 1) static __global__
    void wide(const __grid_constant__ call_t call)
{
    if constexpr (Work::THERE) {
        ring_t ring = ring_begin(Work::ARRIVALS);

        if (threadIdx.x < GROUP) {
            registers_drop<PRODUCER_REGISTERS>();
            tasks_produce<Work>(call, &ring);
        } else {
            registers_raise<CONSUMER_REGISTERS>();
            tasks_consume<Work>(call, &ring);
        }
    }
}

template <class Work>
static cudaError_t launch(void *stream, const coterie_gpu_ffn_t *ffn)
{
    const call_t call = {*ffn, *ffn->pairs, activation_of(ffn->shape)};
    const cudaLaunchConfig_t config =
        launch_of(stream, max(1u, ffn->blocks / COTERIE_GPU_BLOCKS_EACH),
                  THREADS, wide_shared());
    const cudaError_t error = cudaFuncSetAttribute(
        wide<Work>, cudaFuncAttributeMaxDynamicSharedMemorySize,
        (int)wide_shared());

    return error == cudaSuccess ? cudaLaunchKernelEx(&config, wide<Work>, call)
                                : error;
}

int coterie_gpu_wide(void)
{
    uint32_t there = 0;

    if (cudaMemcpyFromSymbol(&there, hopper, sizeof(there)) != cudaSuccess)
        return 0;
    return there != 0;
}

int coterie_gpu_ffn_wide(void *stream, const coterie_gpu_ffn_t *ffn)
{
    cudaError_t error = launch<gate_up>(stream, ffn);

    return error == cudaSuccess ? launch<down>(stream, ffn) : error;
}
