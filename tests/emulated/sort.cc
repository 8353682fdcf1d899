#include "tests/emulated/kernels.h"

#include "kernels/cuda/sort.cu"
