#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/numbers.cuh"

enum { THREADS = 256, WIDTH = 4 };

static __global__ void combine(coterie_gpu_combine_t c);
static __global__ void narrow(size_t count, const float *x, uint16_t *y);

/* A thread has 4 elements of a row: all of a row's parts are read at once. */
int coterie_gpu_combine(void *stream, const coterie_gpu_combine_t *c)
{
    const cudaLaunchConfig_t config =
        launch_of(stream,
                  dim3(ceil_div(c->hidden, THREADS * WIDTH), c->rows), THREADS,
                  0);

    return c->rows > 0 ? cudaLaunchKernelEx(&config, combine, *c)
                       : cudaSuccess;
}

int coterie_gpu_narrow(void *stream, size_t count, const float *x, uint16_t *y)
{
    const cudaLaunchConfig_t config = launch_of(
        stream, (unsigned)((count + THREADS * WIDTH - 1) / (THREADS * WIDTH)),
        THREADS, 0);

    return count > 0 ? cudaLaunchKernelEx(&config, narrow, count, x, y)
                     : cudaSuccess;
}

static __global__ void combine(coterie_gpu_combine_t c)
{
    const uint32_t row = blockIdx.y;
    const uint32_t at = (blockIdx.x * THREADS + threadIdx.x) * WIDTH;
    float4 sum = {0, 0, 0, 0};

    if (at >= c.hidden)
        return;
    if (c.base != NULL)
        sum = *(const float4 *)&c.base[(size_t)row * c.hidden + at];
    for (uint32_t j = 0; j < c.k; j++) {
        const int32_t place = c.place[row * c.k + j];
        const float weight = c.weight[row * c.k + j];

        if (place == NO_PAIR)
            continue;
        const float4 part =
            *(const float4 *)&c.out[(size_t)place * c.hidden + at];
        sum.x += weight * part.x;
        sum.y += weight * part.y;
        sum.z += weight * part.z;
        sum.w += weight * part.w;
    }
    *(float4 *)&c.y[(size_t)row * c.hidden + at] = sum;
}

static __global__ void narrow(size_t count, const float *x, uint16_t *y)
{
    const size_t at = ((size_t)blockIdx.x * THREADS + threadIdx.x) * WIDTH;

    for (size_t i = at; i < at + WIDTH && i < count; i++)
        y[i] = bf16_narrow(x[i]);
}
