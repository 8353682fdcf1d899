#ifndef COTERIE_KERNELS_CUDA_FFN_FORMATS_H
#define COTERIE_KERNELS_CUDA_FFN_FORMATS_H
/* What coterie_gpu_ffn chooses from: three sources beside its own, so that
 * compilers have less to do at a time. */
#include "kernels/cuda/kernels.h"

int coterie_gpu_ffn_int8(void *stream, const coterie_gpu_ffn_t *ffn);
int coterie_gpu_ffn_int8_group(void *stream, const coterie_gpu_ffn_t *ffn);
int coterie_gpu_ffn_fp8(void *stream, const coterie_gpu_ffn_t *ffn);
int coterie_gpu_ffn_int4(void *stream, const coterie_gpu_ffn_t *ffn);
int coterie_gpu_ffn_int4_zero(void *stream, const coterie_gpu_ffn_t *ffn);
int coterie_gpu_ffn_mxfp4(void *stream, const coterie_gpu_ffn_t *ffn);
int coterie_gpu_ffn_wide(void *stream, const coterie_gpu_ffn_t *ffn);

#endif
