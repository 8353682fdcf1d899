#ifndef TESTS_GPU_LAYERS_H
#define TESTS_GPU_LAYERS_H
/* Layers' experts for devices, drawn at random. */
#include "tests/gpu_data.h"

enum { EXPERTS_MAX = 9 };

/* One layer's experts, choices of some rows, and room for all results. */
typedef struct layer {
    coterie_ffn_shape_t shape;
    uint32_t experts, rows, k;
    coterie_expert_weights_t *weights; /* [experts], on the host */
    float *x;                          /* [rows, hidden] */
    int32_t *ids;
    float *weight;
} layer_t;

int32_t *ids_draw(uint32_t count, uint32_t experts);
coterie_gpu_pairs_t pairs_make(world_t *w, const int32_t *ids, uint32_t rows,
                               uint32_t k, uint32_t experts, uint32_t tile);
/* Whose shape, experts, rows and k are set. */
void layer_fill(layer_t *layer);
void layer_free(layer_t *layer);
const coterie_expert_weights_t *weights_upload(world_t *w, const layer_t *l);

#endif
