#ifndef TESTS_EMULATED_KERNELS_H
#define TESTS_EMULATED_KERNELS_H
/* The GPU's kernels, built for the CPU by ffn.cc and its neighbours under
 * names of their own, so that the library's may be in the same program. */
#define coterie_gpu_narrow emulated_gpu_narrow
#define coterie_gpu_sort emulated_gpu_sort
#define coterie_gpu_ffn emulated_gpu_ffn
#define coterie_gpu_ffn_int8 emulated_gpu_ffn_int8
#define coterie_gpu_ffn_int8_group emulated_gpu_ffn_int8_group
#define coterie_gpu_ffn_fp8 emulated_gpu_ffn_fp8
#define coterie_gpu_ffn_int4 emulated_gpu_ffn_int4
#define coterie_gpu_ffn_int4_zero emulated_gpu_ffn_int4_zero
#define coterie_gpu_ffn_mxfp4 emulated_gpu_ffn_mxfp4
#define coterie_gpu_ffn_wide emulated_gpu_ffn_wide
#define coterie_gpu_wide emulated_gpu_wide
#define coterie_gpu_combine emulated_gpu_combine
#define coterie_gpu_router emulated_gpu_router
#define coterie_gpu_send emulated_gpu_send
#define coterie_gpu_arrive emulated_gpu_arrive
#define coterie_gpu_give_back emulated_gpu_give_back
#define coterie_gpu_finish emulated_gpu_finish
#define coterie_gpu_permute emulated_gpu_permute
#define coterie_gpu_unpack emulated_gpu_unpack
#define coterie_gpu_activate emulated_gpu_activate
#define coterie_gpu_deliver emulated_gpu_deliver
#define coterie_gpu_forward emulated_gpu_forward
#define coterie_gpu_merge emulated_gpu_merge

#include "kernels/cuda/kernels.h"

#endif
