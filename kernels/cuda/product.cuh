#ifndef COTERIE_KERNELS_CUDA_PRODUCT_CUH
#define COTERIE_KERNELS_CUDA_PRODUCT_CUH
/* Two panels of 16 outputs a warp times a tile of rows, on tensor cores.
 *
 * Weights go from memory to registers and nowhere else: each is read once, by
 * one lane, 16 bytes at a time. A product of matrices does not mind in which
 * order its outputs and its inner elements are numbered as long as both
 * operands agree, so lanes take what is contiguous: lane (g, t) = (lane / 4,
 * lane % 4) has outputs 4 (g % 4) .. + 3 of panel g / 4 and, of every 32 inner
 * elements, 8 t .. 8 t + 7. The rows of x come through shared memory, a chunk
 * of the inner dimension at a time, one chunk ahead. */
#include "kernels/cuda/formats.cuh"

enum { WARP = 32 };

/* How a block goes about it. Few rows leave registers for more weights under
 * way, which memory's rate takes: 8 KiB a warp of bf16, 4 of narrower types;
 * and smaller blocks are more, so that few experts keep all processors busy.
 * None of this changes a bit of a sum. */
template <class F, int TILES> struct block_t {
    enum {
        FEW = TILES <= 4,
        WARPS = FEW ? 4 : 8,
        THREADS = WARP * WARPS,
        STEPS = !FEW ? 2 : F::VECTORS > 1 ? 4 : 8, /* asked for ahead */
        CHUNK = STEP * STEPS,
        ROW_SIZE = CHUNK * 2 + 64, /* bytes in shared memory: no conflicts */
        ROWS_SIZE = TILES * 8 * ROW_SIZE,
        SHARED = 2 * ROWS_SIZE + TILES * 8 * (int)sizeof(uint32_t)
    };
};

/* One matrix of an expert. */
struct matrix_t {
    const void *panels, *scales; /* NULL: not apart from panels */
};

/* What a block computes. */
struct product_t {
    uint32_t in;
    const uint16_t *x; /* rows of `in` elements */
    uint32_t rows;     /* of the tile */
    const uint32_t *row; /* [rows] in shared memory: which of x's rows */
    matrix_t matrix;     /* of this lane; panels is NULL if it has no outputs */
    uint32_t panel;      /* of this lane */
};

/* What a lane has asked memory for: a step of its outputs. */
template <class F> struct weights_t {
    uint4 vector[F::VECTORS];
    uint4 scale;
};

/* sums[2][TILES][4]: tile T of the two has outputs 2 T and 2 T + 1 of the
 * lane's four, in c[0..1] and c[2..3], for the rows 8 n + 2 t and + 1. */
template <int TILES> struct sums_t {
    float at[2][TILES][4];
};

/* The rows' next chunk, on its way to shared memory. */
template <class F, int TILES>
static __device__ __forceinline__ void rows_ask(const product_t &p,
                                                uint32_t from, char *to)
{
    typedef block_t<F, TILES> block;
    enum { PIECES = block::CHUNK * 2 / 16 };

    for (uint32_t i = threadIdx.x; i < TILES * 8 * PIECES;
         i += block::THREADS) {
        const uint32_t r = i / PIECES, at = from + i % PIECES * 8;
        const int valid = r < p.rows && at < p.in;
        const uint16_t *row = valid ? p.x + (size_t)p.row[r] * p.in + at : p.x;

        copy_async_16(to + r * block::ROW_SIZE + i % PIECES * 16, row, valid);
    }
    copy_async_commit();
}

/* The lane's outputs begin here in a vector. */
static __device__ __forceinline__ uint32_t lane_output(void)
{
    return threadIdx.x % WARP / 4 % 4 * 4;
}

/* Of the weights from an inner element on. */
template <class F>
static __device__ __forceinline__ const char *
scales_of(const product_t &p, const char *panel, uint32_t from)
{
    if constexpr (F::BUNDLE > 0)
        return panel + panel_scales<F>(from / STEP);
    else
        return (const char *)p.matrix.scales + F::at(p.panel, p.in, from);
}

template <class F>
static __device__ __forceinline__ void weights_ask(const product_t &p,
                                                   uint32_t from,
                                                   weights_t<F> *w)
{
    const uint32_t elements = 8 / F::VECTORS; /* of an output in a vector */
    const uint32_t count = ceil_div(p.in, elements);
    const uint32_t first = (from / 8 + threadIdx.x % 4) * F::VECTORS;
    const char *panel =
        (const char *)p.matrix.panels + p.panel * panel_size<F>(count);

#pragma unroll
    for (int i = 0; i < F::VECTORS; i++) {
        w->vector[i] = make_uint4(0, 0, 0, 0);
        if (p.matrix.panels != NULL && first + i < count)
            w->vector[i] = load_stream(panel + panel_vector<F>(first + i) +
                                       lane_output() * 4);
    }
    if constexpr (F::SCALED)
        if (p.matrix.panels != NULL && from < p.in)
            w->scale = F::ask(scales_of<F>(p, panel, from), lane_output());
}

template <class F, int TILES>
static __device__ __forceinline__ void step_multiply(const weights_t<F> &w,
                                                     const char *x,
                                                     uint32_t rows,
                                                     sums_t<TILES> *sums)
{
    const uint32_t lane = threadIdx.x % WARP;
    lane_pairs_t o;

    decode<F>(w.vector, w.scale, o);
#pragma unroll
    for (int n = 0; n < TILES; n++) {
        if (8u * n >= rows)
            break;
        const uint4 v =
            *(const uint4 *)(x +
                             (8 * n + lane / 4) * block_t<F, TILES>::ROW_SIZE +
                             lane % 4 * 16);
        const uint32_t b[2][2] = {{v.x, v.y}, {v.z, v.w}};
#pragma unroll
        for (int half = 0; half < 2; half++)
#pragma unroll
            for (int tile = 0; tile < 2; tile++) {
                const uint32_t *low = o[2 * tile], *high = o[2 * tile + 1];
                const uint32_t a[4] = {low[2 * half], high[2 * half],
                                       low[2 * half + 1], high[2 * half + 1]};
                mma_bf16(sums->at[tile][n], a, b[half]);
            }
    }
}

template <class F, int TILES>
static __device__ __forceinline__ void multiply(const product_t &p,
                                                char *shared,
                                                sums_t<TILES> *sums)
{
    typedef block_t<F, TILES> block;
    weights_t<F> w[block::STEPS] = {};

    *sums = sums_t<TILES>();
    rows_ask<F, TILES>(p, 0, shared);
#pragma unroll
    for (int s = 0; s < block::STEPS; s++)
        weights_ask<F>(p, s * STEP, &w[s]);
    for (uint32_t from = 0, turn = 0; from < p.in;
         from += block::CHUNK, turn ^= 1) {
        const char *x = shared + turn * block::ROWS_SIZE;

        rows_ask<F, TILES>(p, from + block::CHUNK,
                           shared + (turn ^ 1) * block::ROWS_SIZE);
        copy_async_wait<1>();
        __syncthreads();
#pragma unroll
        for (int s = 0; s < block::STEPS; s++) {
            step_multiply<F, TILES>(w[s], x + s * STEP * 2, p.rows, sums);
            weights_ask<F>(p, from + block::CHUNK + s * STEP, &w[s]);
        }
        __syncthreads();
    }
    copy_async_wait<0>();
}

#endif
