#ifndef COTERIE_KERNELS_CUDA_FFN_CUH
#define COTERIE_KERNELS_CUDA_FFN_CUH
/* Experts' FFN in two launches: gate and up with the activation between them,
 * then down. A block takes a tile of one expert's pairs, and the outputs that
 * its warps cover; blocks go through the tiles, whose number only the device
 * knows. */
#include "kernels/cuda/activation.cuh"
#include "kernels/cuda/product.cuh"

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

/* Lanes g < 4 have gate, the lanes 16 further up, of the same outputs and
 * rows; each computes one of the two rows. */
template <int TILES>
static __device__ __forceinline__ void activate(const coterie_gpu_ffn_t &ffn,
                                                const activation_t &a,
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
            y[i] = expert.gate != NULL ? activate_value(a, gate, up)
                                       : activate_value(a, up, 1.0f);
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

/* A warp has a panel of gate and the same of up, or two of down. */
template <class F, int TILES>
static __device__ __forceinline__ uint32_t warp_of_all(void)
{
    return blockIdx.x * block_t<F, TILES>::WARPS + threadIdx.x / WARP;
}

template <class F, int TILES>
__launch_bounds__(block_t<F, TILES>::THREADS) static __global__
void gate_up(coterie_gpu_ffn_t ffn, coterie_gpu_pairs_t pairs,
                               activation_t a)
{
    char *shared = (char *)shared_memory();
    uint32_t *row = (uint32_t *)(shared + 2 * block_t<F, TILES>::ROWS_SIZE);
    const bool upper = threadIdx.x % WARP >= 16;
    const uint32_t panel = warp_of_all<F, TILES>();
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
        activate<TILES>(ffn, a, tile, output, sums);
    }
}

template <class F, int TILES>
__launch_bounds__(block_t<F, TILES>::THREADS) static __global__
void down(coterie_gpu_ffn_t ffn, coterie_gpu_pairs_t pairs)
{
    char *shared = (char *)shared_memory();
    uint32_t *row = (uint32_t *)(shared + 2 * block_t<F, TILES>::ROWS_SIZE);
    const uint32_t upper = threadIdx.x % WARP / 16;
    const uint32_t panel = warp_of_all<F, TILES>() * 2 + upper;
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
    typedef block_t<F, TILES> block;
    const uint32_t blocks = ffn->blocks * (block_t<F, 8>::WARPS / block::WARPS);
    const uint32_t wide = ceil_div(ffn->shape.ffn, block::WARPS * PANEL);
    const uint32_t narrow =
        ceil_div(ffn->shape.hidden, block::WARPS * 2 * PANEL);
    const cudaLaunchConfig_t first =
        launch_of(stream, dim3(wide, max(1u, blocks / wide)), block::THREADS,
                  block::SHARED);
    const cudaLaunchConfig_t second =
        launch_of(stream, dim3(narrow, max(1u, blocks / narrow)),
                  block::THREADS, block::SHARED);
    cudaError_t error =
        cudaLaunchKernelEx(&first, gate_up<F, TILES>, *ffn, *ffn->pairs,
                           activation_of(ffn->shape));

    if (error == cudaSuccess)
        error =
            cudaLaunchKernelEx(&second, down<F, TILES>, *ffn, *ffn->pairs);
    return error;
}

#endif
