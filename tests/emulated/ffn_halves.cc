#include "tests/emulated/kernels.h"

#include "kernels/cuda/ffn_halves.cu"
