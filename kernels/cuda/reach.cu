// Where a kernel writes to reach other ranks' memory: NCCL's device interface
// tells kernels only, and dispatch wants to know it once.
#include "kernels/cuda/reach.h"

#include <cuda_runtime.h>

#pragma GCC diagnostic ignored "-Wunused-parameter" // in NCCL's own
#include <nccl_device.h>

static __global__ void reach_write(ncclWindow_t window, uint32_t count,
                                   void **reach)
{
    for (uint32_t i = threadIdx.x; i < count; i += blockDim.x)
        reach[i] = ncclGetLsaPointer(window, 0, static_cast<int>(i));
}

extern "C" int coterie_gpu_reach(void *stream, ncclWindow_t window,
                                 uint32_t count, void **reach)
{
    reach_write<<<1, 32, 0, static_cast<cudaStream_t>(stream)>>>(
        window, count, reach);
    return cudaGetLastError();
}
