#include "tests/emulated/kernels.h"

#include "kernels/cuda/dispatch_forward.cu"
