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

/* gpu_dispatch.c: ranks of one process on a device. */
bool dispatches_as_the_rule_says(coterie_device_t *device);
bool dispatches_among_many_experts(coterie_device_t *device);
bool dispatches_where_no_window_is_in_reach(coterie_device_t *device);
bool says_that_rows_were_too_many(coterie_device_t *device);
bool names_the_rank_that_does_not_answer(coterie_device_t *device);
bool replays_a_layer_from_a_graph(coterie_device_t *device);
bool goes_on_without_a_rank(coterie_device_t *device);

/* gpu_grouped.c */
bool permutes_rows_to_their_pairs(coterie_device_t *device);
bool computes_odd_shapes_by_a_library(coterie_device_t *device);

/* gpu_forward.c */
bool forwards_to_all_ranks(coterie_device_t *device);
bool forwards_to_predicted_ranks(coterie_device_t *device);
bool forwards_where_no_window_is_in_reach(coterie_device_t *device);
bool forwards_without_a_rank(coterie_device_t *device);
bool says_that_ranks_differ_about_a_row(coterie_device_t *device);

/* Ends with a NULL name. */
extern const gpu_check_t gpu_checks[];

#endif
