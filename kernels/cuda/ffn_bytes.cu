#include "kernels/cuda/ffn.cuh"
#include "kernels/cuda/ffn_formats.h"

int coterie_gpu_ffn_int8(void *stream, const coterie_gpu_ffn_t *ffn)
{
    return ffn_launch<int8_format>(stream, ffn);
}

int coterie_gpu_ffn_int8_group(void *stream, const coterie_gpu_ffn_t *ffn)
{
    return ffn_launch<int8_group_format>(stream, ffn);
}

int coterie_gpu_ffn_fp8(void *stream, const coterie_gpu_ffn_t *ffn)
{
    return ffn_launch<fp8_format>(stream, ffn);
}
