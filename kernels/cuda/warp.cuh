#ifndef COTERIE_KERNELS_CUDA_WARP_CUH
#define COTERIE_KERNELS_CUDA_WARP_CUH
/* Of all lanes of a warp, for each of them. */
#include <cuda_runtime.h>
#include <stdint.h>

enum { WARP = 32 };
static const uint32_t ALL_LANES = ~0u;

template <typename T> static __device__ __forceinline__ T warp_sum(T value)
{
    for (int by = WARP / 2; by > 0; by /= 2)
        value += __shfl_xor_sync(ALL_LANES, value, by);
    return value;
}

template <typename T> static __device__ __forceinline__ T warp_min(T value)
{
    for (int by = WARP / 2; by > 0; by /= 2)
        value = min(value, __shfl_xor_sync(ALL_LANES, value, by));
    return value;
}

#endif
