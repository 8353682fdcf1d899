#include "tests/emulated/kernels.h"

#include "kernels/cuda/router.cu"
