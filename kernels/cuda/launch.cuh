#ifndef COTERIE_KERNELS_CUDA_LAUNCH_CUH
#define COTERIE_KERNELS_CUDA_LAUNCH_CUH
#include <cuda_runtime.h>

#include "kernels/cuda/kernels.h"

#define NO_PAIR (-1)

static inline cudaLaunchConfig_t launch_of(void *stream, dim3 blocks,
                                           dim3 threads, size_t shared)
{
    cudaLaunchConfig_t config = {};

    config.gridDim = blocks;
    config.blockDim = threads;
    config.dynamicSmemBytes = shared;
    config.stream = (cudaStream_t)stream;
    return config;
}

static __device__ __host__ __forceinline__ uint32_t ceil_div(uint32_t a,
                                                             uint32_t b)
{
    return (a + b - 1) / b;
}

#endif
