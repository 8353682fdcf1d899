#ifndef COTERIE_BENCH_GPU_CUBLAS_H
#define COTERIE_BENCH_GPU_CUBLAS_H
/* One large product by cuBLAS, found at run time: a GPU's rate. */
#include "kernels/device.h"

enum { GPU_CUBLAS_SIDE = 8192 };
#define GPU_CUBLAS_FLOP (2.0 * 8192 * 8192 * 8192)

typedef struct gpu_cublas {
    void *handle, *a, *b, *c;
    /* cublasGemmEx; NULL: there is no GPU or no cuBLAS. */
    int (*gemm)(void *, int, int, int, int, int, const void *, const void *,
                int, int, const void *, int, int, const void *, void *, int,
                int, int, int);
} gpu_cublas_t;

/* Says so if there is none. */
coterie_status_t gpu_cublas_open(coterie_device_t *device,
                                 gpu_cublas_t *cublas);
void gpu_cublas_close(coterie_device_t *device, gpu_cublas_t *cublas);

/* Queues it. @return what cuBLAS says */
int gpu_cublas_multiply(const gpu_cublas_t *cublas);

#endif
