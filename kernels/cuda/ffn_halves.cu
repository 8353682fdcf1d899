#include "kernels/cuda/ffn.cuh"
#include "kernels/cuda/ffn_formats.h"

int coterie_gpu_ffn_int4(void *stream, const coterie_gpu_ffn_t *ffn)
{
    return ffn_launch<int4_format>(stream, ffn);
}

int coterie_gpu_ffn_int4_zero(void *stream, const coterie_gpu_ffn_t *ffn)
{
    return ffn_launch<int4_zero_format>(stream, ffn);
}

int coterie_gpu_ffn_mxfp4(void *stream, const coterie_gpu_ffn_t *ffn)
{
    return ffn_launch<mxfp4_format>(stream, ffn);
}
