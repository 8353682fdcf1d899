#ifndef COTERIE_KERNELS_CUDA_REACH_H
#define COTERIE_KERNELS_CUDA_REACH_H
/* Built with NCCL only. Its window's layout is a promise of one minor version:
 * the library that registered it must be of that which compiled this. */
#include <stdint.h>

#include <nccl.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Writes the addresses at which this device reaches the window's memory of the
 * `count` ranks that it can load from and store to, its own among them. */
int coterie_gpu_reach(void *stream, ncclWindow_t window, uint32_t count,
                      void **reach);

#ifdef __cplusplus
}
#endif

#endif
