#include "tests/emulated/kernels.h"

#include "kernels/cuda/ffn.cu"
