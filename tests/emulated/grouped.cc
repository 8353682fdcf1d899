#include "tests/emulated/kernels.h"

#include "kernels/cuda/grouped.cu"
