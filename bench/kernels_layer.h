#ifndef COTERIE_BENCH_KERNELS_LAYER_H
#define COTERIE_BENCH_KERNELS_LAYER_H
/* One layer's experts, and tokens that chose among them. */
#include <coterie/coterie.h>

typedef struct shape {
    const char *name;
    uint32_t hidden, ffn, experts, k;
} shape_t;

typedef struct layer {
    const shape_t *shape;
    coterie_ffn_shape_t ffn;
    size_t matrix_size, expert_size; /* bytes, with scales */
    char *weights;
    size_t weights_size;
    coterie_expert_weights_t *experts;
} layer_t;

typedef struct batch {
    uint32_t tokens, distinct; /* distinct: experts that anyone chose */
    int32_t *ids;              /* [tokens, k] */
    float *scores, *x, *sums;
    uint32_t *first, *row;
    float *weight;
    coterie_expert_rows_t rows;
} batch_t;

void *allocate(size_t size);
void layer_make(layer_t *layer, const shape_t *shape, coterie_dtype_t dtype,
                coterie_compute_t compute);
void layer_free(layer_t *layer);
void batch_make(batch_t *batch, const shape_t *shape, uint32_t tokens);
/* Every token chooses k distinct experts at random. */
void batch_route(batch_t *batch, const shape_t *shape);
void batch_free(batch_t *batch);

#endif
