#ifndef COTERIE_KERNELS_CUBLAS_H
#define COTERIE_KERNELS_CUBLAS_H
/* cuBLAS, as far as a device's products take it. It is looked up at run time:
 * nothing of ours links it. */
#include "kernels/device.h"

/* cublasStatus_t is int here; 0 is success. */
typedef struct coterie_cublas_calls {
    int (*create)(void **handle_p);
    int (*destroy)(void *handle);
    int (*set_stream)(void *handle, void *stream);
    /* cublasGemmGroupedBatchedEx, of CUDA 12.5 and later; else NULL. */
    int (*grouped)(void *handle, const int *op_a, const int *op_b,
                   const int *m, const int *n, const int *k,
                   const void *alpha, const void *const *a, int a_type,
                   const int *a_stride, const void *const *b, int b_type,
                   const int *b_stride, const void *beta, void *const *c,
                   int c_type, const int *c_stride, int group_count,
                   const int *group_size, int compute);
    /* cublasGemmBatchedEx */
    int (*batched)(void *handle, int op_a, int op_b, int m, int n, int k,
                   const void *alpha, const void *const *a, int a_type,
                   int a_stride, const void *const *b, int b_type,
                   int b_stride, const void *beta, void *const *c, int c_type,
                   int c_stride, int count, int compute, int algorithm);
} coterie_cublas_calls_t;

/* @return what cuBLAS returned */
int coterie_cublas_products(const coterie_cublas_calls_t *calls, void *handle,
                            const coterie_products_t *products);

/* cublas_find.c, with CUDA only. Of a process; never closed. */
coterie_status_t coterie_cublas_find(const coterie_cublas_calls_t **calls_p);

#endif
