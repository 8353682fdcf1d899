#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/numbers.cuh"

enum { THREADS = 256, WIDTH = 4, AT_ONCE = 8 };

static __global__ void combine(coterie_gpu_combine_t c);
static __global__ void narrow(size_t count, const float *x, uint16_t *y);

/* A thread has 4 elements of a row, and asks for eight parts of it before it
 * adds the first. */
int coterie_gpu_combine(void *stream, const coterie_gpu_combine_t *c)
{
    const cudaLaunchConfig_t config =
        launch_of(stream,
                  dim3(c->rows, ceil_div(c->hidden, THREADS * WIDTH)), THREADS,
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
    const uint32_t row = blockIdx.x;
    const uint32_t at = (blockIdx.y * THREADS + threadIdx.x) * WIDTH;
    float4 sum = {0, 0, 0, 0};

    if (at >= c.hidden)
        return;
    if (c.base != NULL)
        sum = *(const float4 *)&c.base[(size_t)row * c.hidden + at];
    for (uint32_t from = 0; from < c.k; from += AT_ONCE) {
        float4 part[AT_ONCE];
        int32_t place[AT_ONCE];

#pragma unroll
        for (uint32_t i = 0; i < AT_ONCE; i++) {
            place[i] = from + i < c.k
                           ? c.place[(size_t)row * c.k + from + i]
                           : NO_PAIR;
            if (place[i] != NO_PAIR)
                part[i] =
                    *(const float4 *)&c.out[(size_t)place[i] * c.hidden + at];
        }
#pragma unroll
        for (uint32_t i = 0; i < AT_ONCE; i++) {
            if (place[i] == NO_PAIR)
                continue;
            const float weight = c.weight[(size_t)row * c.k + from + i];
            sum.x += weight * part[i].x;
            sum.y += weight * part[i].y;
            sum.z += weight * part[i].z;
            sum.w += weight * part[i].w;
        }
    }
    *(float4 *)&c.y[(size_t)row * c.hidden + at] = sum;
}

static __global__ void narrow(size_t count, const float *x, uint16_t *y)
{
    const size_t at = ((size_t)blockIdx.x * THREADS + threadIdx.x) * WIDTH;

    for (size_t i = at; i < at + WIDTH && i < count; i++)
        y[i] = bf16_narrow(x[i]);
}
