/* What goes around products that a library makes (kernels/grouped.h). */
#include "kernels/cuda/activation.cuh"
#include "kernels/cuda/formats.cuh"

enum {
    THREADS = 256,
    EIGHT = 8,  /* elements in 16 bytes */
    SLICES = 16 /* blocks that share a tile's rows */
};

static __device__ __forceinline__ float element(uint32_t pair, int which)
{
    return bf16_widen((uint16_t)(pair >> (16 * which)));
}

/* A thread has what one load brings of a row, and stores it k times. */
template <typename V>
static __global__ void permute(coterie_gpu_permute_t p)
{
    const uint32_t row = blockIdx.x;
    const uint32_t at =
        (blockIdx.y * THREADS + threadIdx.x) * (uint32_t)(sizeof(V) / 2);
    V value = {};

    if (at >= p.stride)
        return;
    if (at < p.hidden)
        value = *(const V *)&p.x[(size_t)row * p.hidden + at];
    for (uint32_t j = 0; j < p.k; j++) {
        const int32_t place = p.place[(size_t)row * p.k + j];

        if (place != NO_PAIR)
            *(V *)&p.out[(size_t)place * p.stride + at] = value;
    }
}

/* A thread has eight elements of one output. */
static __global__ void unpack(coterie_gpu_unpack_t u)
{
    const uint32_t i = blockIdx.x * THREADS + threadIdx.x;
    const uint32_t output = blockIdx.y * PANEL + i % PANEL;
    const uint32_t at = i / PANEL * EIGHT, count = ceil_div(u.in, 2);
    const uint32_t *panel =
        (const uint32_t *)u.panels + (size_t)blockIdx.y * count * PANEL;
    uint32_t pair[EIGHT / 2];

    if (at >= u.stride || output >= u.out)
        return;
    for (uint32_t v = 0; v < EIGHT / 2; v++)
        pair[v] = at / 2 + v < count
                      ? panel[(size_t)(at / 2 + v) * PANEL + i % PANEL]
                      : 0;
    *(uint4 *)&u.matrix[(size_t)output * u.stride + at] =
        make_uint4(pair[0], pair[1], pair[2], pair[3]);
}

/* A thread has two columns of a tile's rows. */
static __global__ void activate(coterie_gpu_between_t b, activation_t a)
{
    const coterie_gpu_tile_t tile = b.tiles[blockIdx.y];
    const coterie_expert_weights_t &e = b.experts[tile.expert];
    const uint32_t at = (blockIdx.x * THREADS + threadIdx.x) * 2;

    for (uint32_t r = blockIdx.z; at < b.ffn_stride && r < tile.count;
         r += gridDim.z) {
        const size_t i = (size_t)(tile.first + r) * b.ffn_stride + at;
        const uint32_t up = *(const uint32_t *)&b.up[i];
        const uint32_t gate =
            b.gate != NULL ? *(const uint32_t *)&b.gate[i] : 0;
        float y[2] = {0, 0};

        for (int c = 0; c < 2 && at + c < b.shape.ffn; c++) {
            const float u = element(up, c) + bias_of(e.up_bias, at + c);

            y[c] = b.gate != NULL
                       ? activate_value(a,
                                        element(gate, c) +
                                            bias_of(e.gate_bias, at + c),
                                        u)
                       : activate_value(a, u, 1.0f);
        }
        *(uint32_t *)&b.inner[i] = narrow_pair(y[0], y[1]);
    }
}

static __global__ void deliver(coterie_gpu_between_t b)
{
    const coterie_gpu_tile_t tile = b.tiles[blockIdx.y];
    const float *bias = b.experts[tile.expert].down_bias;
    const uint32_t at = (blockIdx.x * THREADS + threadIdx.x) * 2;

    for (uint32_t r = blockIdx.z; at < b.shape.hidden && r < tile.count;
         r += gridDim.z) {
        const size_t place = tile.first + r;
        const uint32_t y =
            *(const uint32_t *)&b.y[place * b.hidden_stride + at];
        const float2 values = {element(y, 0) + bias_of(bias, at),
                               element(y, 1) + bias_of(bias, at + 1)};

        *(float2 *)&b.out[place * b.shape.hidden + at] = values;
    }
}

int coterie_gpu_permute(void *stream, const coterie_gpu_permute_t *p)
{
    const bool wide = p->hidden % EIGHT == 0;
    const uint32_t threads = ceil_div(p->stride, wide ? EIGHT : EIGHT / 2);
    const cudaLaunchConfig_t config = launch_of(
        stream, dim3(p->rows, ceil_div(threads, THREADS)), THREADS, 0);

    if (p->rows == 0)
        return cudaSuccess;
    return wide ? cudaLaunchKernelEx(&config, permute<uint4>, *p)
                : cudaLaunchKernelEx(&config, permute<uint2>, *p);
}

int coterie_gpu_unpack(void *stream, const coterie_gpu_unpack_t *u)
{
    const cudaLaunchConfig_t config =
        launch_of(stream,
                  dim3(ceil_div(u->stride / EIGHT * PANEL, THREADS),
                       ceil_div(u->out, PANEL)),
                  THREADS, 0);

    return cudaLaunchKernelEx(&config, unpack, *u);
}

/* Of columns by twos, tiles, and slices of their rows. */
static cudaLaunchConfig_t launch_tiles(void *stream, uint32_t columns,
                                       uint32_t tiles)
{
    return launch_of(stream,
                     dim3(ceil_div(columns, 2 * THREADS), tiles, SLICES),
                     THREADS, 0);
}

int coterie_gpu_activate(void *stream, const coterie_gpu_between_t *b)
{
    const cudaLaunchConfig_t config =
        launch_tiles(stream, b->ffn_stride, b->tile_count);

    return b->tile_count > 0
               ? cudaLaunchKernelEx(&config, activate, *b,
                                    activation_of(b->shape))
               : cudaSuccess;
}

int coterie_gpu_deliver(void *stream, const coterie_gpu_between_t *b)
{
    const cudaLaunchConfig_t config =
        launch_tiles(stream, b->shape.hidden, b->tile_count);

    return b->tile_count > 0 ? cudaLaunchKernelEx(&config, deliver, *b)
                             : cudaSuccess;
}
