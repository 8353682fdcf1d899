#ifndef COTERIE_KERNELS_CUDA_FFN_CUH
#define COTERIE_KERNELS_CUDA_FFN_CUH
/* Experts' FFN in two launches: gate and up with the activation between them,
 * then down. A block takes a tile of one expert's pairs, and the outputs that
 * its warps cover; blocks go through the tiles, whose number only the device
 * knows. */
#include "kernels/cuda/product.cuh"

enum {
    /* A warp has a panel of gate and the same of up, or two of down. */
    FFN_BLOCK = WARPS * PANEL,
    HIDDEN_BLOCK = WARPS * 2 * PANEL
};

/* The kernels of one format and one size of tiles. */
template <class F, int TILES> struct ffn_kernels {
    static int launch(void *stream, const coterie_gpu_ffn_t *ffn);
};

/* Of one format. */
template <class F>
static inline int ffn_launch(void *stream, const coterie_gpu_ffn_t *ffn)
{
    if (ffn->pairs->tile <= 8)
        return ffn_kernels<F, 1>::launch(stream, ffn);
    if (ffn->pairs->tile <= 32)
        return ffn_kernels<F, 4>::launch(stream, ffn);
    return ffn_kernels<F, 8>::launch(stream, ffn);
}

static __device__ __forceinline__ float sigmoid(float x)
{
    return 1.0f / (1.0f + expf(-x));
}

/* The formulas of coterie_activation_t; without a gate, of up alone. */
static __device__ __forceinline__ float activation(
    const coterie_ffn_shape_t &shape, float gate, float up)
{
    const float wide = 0.7978845608f * (gate + 0.044715f * gate * gate * gate);

    switch (shape.activation) {
    case COTERIE_ACTIVATION_GEGLU:
        return 0.5f * gate * (1 + tanhf(wide)) * up;
    case COTERIE_ACTIVATION_RELU:
        return max(gate, 0.0f) * up;
    case COTERIE_ACTIVATION_SWIGLU_CLAMPED:
        gate = min(gate, shape.limit);
        up = min(max(up, -shape.limit), shape.limit);
        return (up + 1) * gate * sigmoid(shape.alpha * gate);
    default:
        return gate * sigmoid(gate) * up;
    }
}

static __device__ __forceinline__ float bias_of(const float *bias, uint32_t i)
{
    return bias != NULL ? bias[i] : 0.0f;
}

/* Lanes g < 4 have gate, the lanes 16 further up, of the same outputs and
 * rows; each computes one of the two rows. */
template <int TILES>
static __device__ __forceinline__ void activate(const coterie_gpu_ffn_t &ffn,
                                                const coterie_gpu_tile_t &tile,
                                                uint32_t output,
                                                const sums_t<TILES> &sums)
{
    const uint32_t lane = threadIdx.x % WARP, upper = lane / 16;
    const coterie_expert_weights_t &expert = ffn.experts[tile.expert];
    const bool mine = output < ffn.shape.ffn;

#pragma unroll
    for (int n = 0; n < TILES; n++) {
        const uint32_t r = 8 * n + lane % 4 * 2 + upper;
        float y[4];

        for (int i = 0; i < 4; i++) {
            const float *c = &sums.at[i / 2][n][i % 2 * 2];
            const float got = __shfl_xor_sync(~0u, upper ? c[0] : c[1], 16);
            float gate = upper ? got : c[0], up = upper ? c[1] : got;

            if (mine) {
                gate += bias_of(expert.gate_bias, output + i);
                up += bias_of(expert.up_bias, output + i);
            }
            y[i] = expert.gate != NULL ? activation(ffn.shape, gate, up)
                                       : activation(ffn.shape, up, 1.0f);
        }
        if (r < tile.count && mine) {
            const uint2 pairs = {narrow_pair(y[0], y[1]),
                                 narrow_pair(y[2], y[3])};
            *(uint2 *)&ffn.inner[(size_t)(tile.first + r) * ffn.shape.ffn +
                                 output] = pairs;
        }
    }
}

template <int TILES>
static __device__ __forceinline__ void deliver(const coterie_gpu_ffn_t &ffn,
                                             const coterie_gpu_tile_t &tile,
                                             uint32_t output,
                                             const sums_t<TILES> &sums)
{
    const uint32_t t = threadIdx.x % 4;

    const float *bias = ffn.experts[tile.expert].down_bias;

    if (output >= ffn.shape.hidden)
        return;
#pragma unroll
    for (int n = 0; n < TILES; n++)
        for (int i = 0; i < 2; i++) {
            const uint32_t r = 8 * n + 2 * t + i;
            const float4 y = {
                sums.at[0][n][i] + bias_of(bias, output),
                sums.at[0][n][2 + i] + bias_of(bias, output + 1),
                sums.at[1][n][i] + bias_of(bias, output + 2),
                sums.at[1][n][2 + i] + bias_of(bias, output + 3)};
            if (r < tile.count)
                *(float4 *)&ffn.out[(size_t)(tile.first + r) *
                                        ffn.shape.hidden + output] = y;
        }
}

template <class F, int TILES>
__launch_bounds__(THREADS) static __global__
void gate_up(coterie_gpu_ffn_t ffn, coterie_gpu_pairs_t pairs)
{
    char *shared = (char *)shared_memory();
    uint32_t *row = (uint32_t *)(shared + 2 * TILES * 8 * ROW_SIZE);
    const bool upper = threadIdx.x % WARP >= 16;
    const uint32_t panel = blockIdx.x * WARPS + threadIdx.x / WARP;
    const uint32_t output = panel * PANEL + lane_output();
    sums_t<TILES> sums;

    for (uint32_t i = blockIdx.y; i < *pairs.tile_count; i += gridDim.y) {
        const coterie_gpu_tile_t tile = pairs.tiles[i];
        const coterie_expert_weights_t &e = ffn.experts[tile.expert];
        const matrix_t matrix = {upper ? e.up : e.gate,
                                 upper ? e.up_scale : e.gate_scale};
        const product_t product = {
            ffn.shape.hidden, ffn.x, tile.count, row,
            output < ffn.shape.ffn ? matrix : matrix_t(), panel};

        if (threadIdx.x < tile.count)
            row[threadIdx.x] = pairs.pair[tile.first + threadIdx.x] / pairs.k;
        __syncthreads();
        multiply<F, TILES>(product, shared, &sums);
        activate<TILES>(ffn, tile, output, sums);
    }
}

template <class F, int TILES>
__launch_bounds__(THREADS) static __global__
void down(coterie_gpu_ffn_t ffn, coterie_gpu_pairs_t pairs)
{
    char *shared = (char *)shared_memory();
    uint32_t *row = (uint32_t *)(shared + 2 * TILES * 8 * ROW_SIZE);
    const uint32_t upper = threadIdx.x % WARP / 16;
    const uint32_t panel =
        (blockIdx.x * WARPS + threadIdx.x / WARP) * 2 + upper;
    const uint32_t output = panel * PANEL + lane_output();
    sums_t<TILES> sums;

    for (uint32_t i = blockIdx.y; i < *pairs.tile_count; i += gridDim.y) {
        const coterie_gpu_tile_t tile = pairs.tiles[i];
        const coterie_expert_weights_t &e = ffn.experts[tile.expert];
        const matrix_t matrix = {e.down, e.down_scale};
        const product_t product = {
            ffn.shape.ffn, ffn.inner, tile.count, row,
            output < ffn.shape.hidden ? matrix : matrix_t(), panel};

        if (threadIdx.x < tile.count)
            row[threadIdx.x] = tile.first + threadIdx.x;
        __syncthreads();
        multiply<F, TILES>(product, shared, &sums);
        deliver<TILES>(ffn, tile, output, sums);
    }
}

template <class F, int TILES>
int ffn_kernels<F, TILES>::launch(void *stream, const coterie_gpu_ffn_t *ffn)
{
    const uint32_t wide = ceil_div(ffn->shape.ffn, FFN_BLOCK);
    const uint32_t narrow = ceil_div(ffn->shape.hidden, HIDDEN_BLOCK);
    const size_t shared = product_shared(8 * TILES);
    const cudaLaunchConfig_t first = launch_of(
        stream, dim3(wide, max(1u, ffn->blocks / wide)), THREADS, shared);
    const cudaLaunchConfig_t second = launch_of(
        stream, dim3(narrow, max(1u, ffn->blocks / narrow)), THREADS, shared);
    cudaError_t error =
        cudaLaunchKernelEx(&first, gate_up<F, TILES>, *ffn, *ffn->pairs);

    if (error == cudaSuccess)
        error =
            cudaLaunchKernelEx(&second, down<F, TILES>, *ffn, *ffn->pairs);
    return error;
}

#endif
