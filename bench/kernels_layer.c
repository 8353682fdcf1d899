#include "config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "bench/kernels_layer.h"

static void experts_point(layer_t *layer);
static const void *scales_of(const layer_t *layer, const char *matrix);

void *allocate(size_t size)
{
    enum { HUGE_PAGE = 2 << 20 };
    const size_t whole = (size + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
    void *memory = aligned_alloc(HUGE_PAGE, whole);
    if (memory == NULL) {
        fprintf(stderr, "no %zu bytes of memory\n", size);
        exit(1);
    }
    madvise(memory, whole, MADV_HUGEPAGE); /* as a bank has them */
    return memory;
}

/* Any bytes of small values will do: 0x3c is about 0.01 in bf16 and f32 and 1
 * in f16, as a weight and as a scale. */
void layer_make(layer_t *layer, const shape_t *shape, coterie_dtype_t dtype,
                coterie_compute_t compute)
{
    uint64_t matrices, scales, peers;

    *layer = (layer_t){.shape = shape,
                       .ffn = {.hidden = shape->hidden,
                               .ffn = shape->ffn,
                               .dtype = dtype,
                               .compute = compute}};
    if (coterie_ffn_supported(&layer->ffn) != COTERIE_OK) {
        fprintf(stderr, "%s\n", coterie_last_error());
        exit(1);
    }
    matrices = coterie_panels_size(dtype, shape->ffn, shape->hidden);
    scales = coterie_panels_scales_size(dtype, shape->ffn, shape->hidden);
    layer->matrix_size = matrices;
    layer->expert_size = 3 * (matrices + scales);
    peers = (uint64_t)shape->experts * 3 * (matrices + matrices / 8);
    layer->weights_size = layer->expert_size * shape->experts;
    if (layer->weights_size < peers)
        layer->weights_size = peers;
    layer->weights = allocate(layer->weights_size);
    memset(layer->weights, 0x3c, layer->weights_size);
    layer->experts = allocate(shape->experts * sizeof(*layer->experts));
    experts_point(layer);
}

void layer_free(layer_t *layer)
{
    free(layer->weights);
    free(layer->experts);
}

void batch_make(batch_t *batch, const shape_t *shape, uint32_t tokens)
{
    const size_t pairs = (size_t)tokens * shape->k;
    const size_t size = (size_t)tokens * shape->hidden * sizeof(float);

    *batch = (batch_t){.tokens = tokens};
    batch->first = allocate((shape->experts + 1) * sizeof(uint32_t));
    batch->row = allocate(pairs * sizeof(uint32_t));
    batch->ids = allocate(pairs * sizeof(int32_t));
    batch->weight = allocate(pairs * sizeof(float));
    batch->scores = allocate(pairs * sizeof(float));
    batch->x = allocate(size);
    batch->sums = allocate(size);
    for (size_t i = 0; i < size / sizeof(float); i++)
        batch->x[i] = (float)(i % 7) - 3;
    for (size_t i = 0; i < pairs; i++)
        batch->weight[i] = batch->scores[i] = 1.0f / (float)shape->k;
}

void batch_route(batch_t *batch, const shape_t *shape)
{
    const uint32_t k = shape->k;
    uint32_t count = 0;

    for (uint32_t t = 0; t < batch->tokens; t++)
        for (uint32_t i = 0; i < k; i++) {
            int32_t *ids = batch->ids + (size_t)t * k;
            uint32_t before = 0;
            ids[i] = (int32_t)((uint32_t)rand() % shape->experts);
            while (before < i && ids[before] != ids[i])
                before++;
            i -= before < i; /* drawn already: again */
        }
    batch->distinct = 0;
    for (uint32_t e = 0; e < shape->experts; e++) {
        batch->first[e] = count;
        for (uint32_t i = 0; i < batch->tokens * k; i++)
            if (batch->ids[i] == (int32_t)e)
                batch->row[count++] = i / k;
        batch->distinct += count > batch->first[e];
    }
    batch->first[shape->experts] = count;
    batch->rows = (coterie_expert_rows_t){shape->experts, batch->tokens,
                                          batch->first, batch->row,
                                          batch->weight};
}

void batch_free(batch_t *batch)
{
    free(batch->first);
    free(batch->row);
    free(batch->ids);
    free(batch->weight);
    free(batch->scores);
    free(batch->x);
    free(batch->sums);
}

static void experts_point(layer_t *layer)
{
    for (uint32_t e = 0; e < layer->shape->experts; e++) {
        const char *gate = layer->weights + e * layer->expert_size;
        const char *up = gate + layer->expert_size / 3;
        const char *down = up + layer->expert_size / 3;

        layer->experts[e] =
            (coterie_expert_weights_t){.gate = gate,
                                       .up = up,
                                       .down = down,
                                       .gate_scale = scales_of(layer, gate),
                                       .up_scale = scales_of(layer, up),
                                       .down_scale = scales_of(layer, down)};
    }
}

static const void *scales_of(const layer_t *layer, const char *matrix)
{
    return layer->expert_size == 3 * layer->matrix_size
               ? NULL
               : matrix + layer->matrix_size;
}
