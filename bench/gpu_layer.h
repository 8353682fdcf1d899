#ifndef COTERIE_BENCH_GPU_LAYER_H
#define COTERIE_BENCH_GPU_LAYER_H
/* A layer's experts on a device, and what is measured of it. Each run returns
 * seconds for one of it. Out of memory or luck ends the program. */
#include <stdbool.h>

#include "kernels/device.h"

enum { GPU_SIDES = 6 };

typedef struct gpu_layer gpu_layer_t;

/* Qwen3-30B's, Mixtral's, DeepSeek-V3's, a small one. */
#define GPU_SHAPES "QMDS"
gpu_layer_t *gpu_layer_open(coterie_device_t *device, char shape,
                            uint32_t tokens);
void gpu_layer_close(gpu_layer_t *layer);

/* Whether some tokens' sums are the processor's, and those of two runs alike;
 * else says which are not. */
bool gpu_layer_check(const gpu_layer_t *layer);

/* Choices change with the turn, so that weights come from memory. */
double gpu_layer_experts(const gpu_layer_t *layer, uint32_t turn);
double gpu_layer_combine(const gpu_layer_t *layer, uint32_t turn);
double gpu_layer_copy(const gpu_layer_t *layer, uint32_t turn);
double gpu_layer_permute(const gpu_layer_t *layer, uint32_t turn);
/* Experts by the device's library, from permuting to unweighted outputs; its
 * matrices are in rows. NaN without one. */
double gpu_layer_grouped(const gpu_layer_t *layer, uint32_t turn);
/* NaN without a GPU or cuBLAS. */
double gpu_layer_cublas(const gpu_layer_t *layer, uint32_t turn);

const char *gpu_layer_name(const gpu_layer_t *layer);
uint32_t gpu_layer_tokens(const gpu_layer_t *layer);
uint32_t gpu_layer_tile(const gpu_layer_t *layer);
double gpu_layer_flop(const gpu_layer_t *layer);
/* Bytes: of the experts that are chosen, on average over turns; of parts read
 * and rows written; of rows read and put to their pairs; and that a copy reads
 * and writes. */
double gpu_layer_weights(const gpu_layer_t *layer);
double gpu_layer_parts(const gpu_layer_t *layer);
double gpu_layer_permuted(const gpu_layer_t *layer);
double gpu_layer_copied(const gpu_layer_t *layer);

#endif
