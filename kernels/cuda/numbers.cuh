#ifndef COTERIE_KERNELS_CUDA_NUMBERS_CUH
#define COTERIE_KERNELS_CUDA_NUMBERS_CUH
/* Narrow numbers by their bits, so that every compiler makes the same ones. */
#include <cuda_runtime.h>
#include <stdint.h>

static __device__ __forceinline__ float bf16_widen(uint16_t bits)
{
    return __uint_as_float((uint32_t)bits << 16);
}

/* To nearest, ties to even; a NaN stays one. */
static __device__ __forceinline__ uint16_t bf16_narrow(float value)
{
    const uint32_t bits = __float_as_uint(value);

    if ((bits & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

#endif
