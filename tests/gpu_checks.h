#ifndef TESTS_GPU_CHECKS_H
#define TESTS_GPU_CHECKS_H
/* What must hold of any device. tests/test_gpu.c runs the GPU's kernels, built
 * for the CPU, through them; tests/gpu.c a GPU, where there is one. They use no
 * test library, so that they run where there is none. */
#include <stdbool.h>

#include "kernels/device.h"

typedef struct gpu_check {
    const char *name;
    /* Whether it held; else says on standard error what did not. */
    bool (*holds)(coterie_device_t *device);
} gpu_check_t;

/* Ends with a NULL name. */
extern const gpu_check_t gpu_checks[];

#endif
