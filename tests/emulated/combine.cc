#include "tests/emulated/kernels.h"

#include "kernels/cuda/combine.cu"
