#include "tests/emulated/kernels.h"

#include "kernels/cuda/ffn_wide.cu"
