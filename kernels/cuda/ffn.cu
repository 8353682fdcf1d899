#include "kernels/cuda/ffn.cuh"
#include "kernels/cuda/ffn_formats.h"

int coterie_gpu_ffn(void *stream, const coterie_gpu_ffn_t *ffn)
{
    if (ffn->pairs->tile == COTERIE_GPU_TILE_WIDE)
        return ffn->shape.dtype == COTERIE_DTYPE_BF16
                   ? coterie_gpu_ffn_wide(stream, ffn)
                   : (int)cudaErrorInvalidValue;
    switch (ffn->shape.dtype) {
    case COTERIE_DTYPE_BF16:
        return ffn_launch<bf16_format>(stream, ffn);
    case COTERIE_DTYPE_INT8:
        return coterie_gpu_ffn_int8(stream, ffn);
    case COTERIE_DTYPE_INT8_GROUP:
        return coterie_gpu_ffn_int8_group(stream, ffn);
    case COTERIE_DTYPE_INT4:
        return coterie_gpu_ffn_int4(stream, ffn);
    case COTERIE_DTYPE_INT4_ZERO:
        return coterie_gpu_ffn_int4_zero(stream, ffn);
    case COTERIE_DTYPE_FP8:
        return coterie_gpu_ffn_fp8(stream, ffn);
    case COTERIE_DTYPE_MXFP4:
        return coterie_gpu_ffn_mxfp4(stream, ffn);
    default:
        return cudaErrorInvalidValue;
    }
}
