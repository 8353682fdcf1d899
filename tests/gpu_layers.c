#include "config.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/draw.h"
#include "tests/gpu_layers.h"

int32_t *ids_draw(uint32_t count, uint32_t experts)
{
    int32_t *ids = malloc((count + 1) * sizeof(*ids));

    for (uint32_t i = 0; i < count; i++)
        ids[i] = draw(8) == 0 ? -1 : (int32_t)draw(experts);
    return ids;
}

coterie_gpu_pairs_t pairs_make(world_t *w, const int32_t *ids, uint32_t rows,
                               uint32_t k, uint32_t experts, uint32_t tile)
{
    const size_t count = (size_t)rows * k;
    coterie_gpu_pairs_t p = {.rows = rows,
                             .k = k,
                             .expert_count = experts,
                             .tile = tile};

    p.ids = upload(w, ids, count * sizeof(*ids));
    p.first = room(w, (experts + 1) * sizeof(*p.first));
    p.pair = room(w, count * sizeof(*p.pair));
    p.place = room(w, count * sizeof(*p.place));
    p.tiles = room(w, coterie_gpu_tiles(&p) * sizeof(*p.tiles));
    p.tile_count = room(w, sizeof(*p.tile_count));
    p.counts = room(w, coterie_gpu_chunks(&p) * (size_t)experts *
                           sizeof(*p.counts));
    return p;
}

/* About 0.01 each: f16 (0x2000 and more) or e8m0, as many bytes as any format
 * has for a matrix. */
static unsigned char *group_scales_draw(uint32_t dtype, uint32_t out,
                                        uint32_t in)
{
    const size_t size = (size_t)out * ((in + 31) / 32) * 4;
    unsigned char *scales = malloc(size);

    for (size_t i = 0; i < size; i++)
        scales[i] = dtype == COTERIE_DTYPE_MXFP4
                        ? (unsigned char)(118 + draw(6))
                        : (unsigned char)(i % 2 ? 0x20 : draw(256));
    return scales;
}

/* Weights of about 1 / sqrt(in), as bf16 or as the format's codes: a byte each.
 */
static void *panels_draw(uint32_t dtype, uint32_t out, uint32_t in)
{
    const size_t count = (size_t)out * in;
    const bool wide = dtype == COTERIE_DTYPE_BF16;
    unsigned char *codes = malloc(2 * count);
    unsigned char *scales = group_scales_draw(dtype, out, in);
    void *panels = malloc(coterie_panels_size(dtype, out, in));

    for (size_t i = 0; i < count; i++) {
        const float value = fraction() / sqrtf((float)in);
        uint32_t bits;

        memcpy(&bits, &value, sizeof(bits));
        bits >>= 16;
        if (wide)
            memcpy(codes + 2 * i, &bits, 2);
        else if (dtype == COTERIE_DTYPE_FP8)
            codes[i] = (unsigned char)(draw(2) << 7 | draw(0x7f));
        else if (coterie_panels_step(dtype) == 8)
            codes[i] = (unsigned char)draw(16);
        else
            codes[i] = (unsigned char)(draw(255) - 127);
    }
    coterie_panels_pack(dtype, out, in, codes, scales, panels);
    free(codes);
    free(scales);
    return panels;
}

/* About 0.001 each: f32, of the formats that have them apart. */
static void *scales_draw(uint32_t dtype, uint32_t out, uint32_t in)
{
    const uint64_t size = coterie_panels_scales_size(dtype, out, in);
    unsigned char *scales = size > 0 ? malloc(size) : NULL;

    for (uint64_t i = 0; i < size; i += 4) {
        const float scale = 1e-3f * (1.5f + fraction());
        memcpy(scales + i, &scale, sizeof(scale));
    }
    return scales;
}

static float *bias_draw(uint32_t count)
{
    float *bias = malloc(count * sizeof(*bias));

    for (uint32_t i = 0; i < count; i++)
        bias[i] = fraction();
    return bias;
}

static coterie_expert_weights_t expert_draw(const coterie_ffn_shape_t *s)
{
    coterie_expert_weights_t w = {0};

    w.up = panels_draw(s->dtype, s->ffn, s->hidden);
    w.down = panels_draw(s->dtype, s->hidden, s->ffn);
    w.up_scale = scales_draw(s->dtype, s->ffn, s->hidden);
    w.down_scale = scales_draw(s->dtype, s->hidden, s->ffn);
    if (s->activation != COTERIE_ACTIVATION_RELU) {
        w.gate = panels_draw(s->dtype, s->ffn, s->hidden);
        w.gate_scale = scales_draw(s->dtype, s->ffn, s->hidden);
    }
    if (s->activation == COTERIE_ACTIVATION_SWIGLU_CLAMPED) {
        w.gate_bias = bias_draw(s->ffn);
        w.up_bias = bias_draw(s->ffn);
        w.down_bias = bias_draw(s->hidden);
    }
    return w;
}

void layer_fill(layer_t *l)
{
    l->weights = calloc(l->experts, sizeof(*l->weights));
    for (uint32_t e = 0; e < l->experts; e++)
        l->weights[e] = expert_draw(&l->shape);
    l->x = malloc((size_t)l->rows * l->shape.hidden * sizeof(*l->x));
    for (size_t i = 0; i < (size_t)l->rows * l->shape.hidden; i++)
        l->x[i] = fraction();
    l->ids = ids_draw(l->rows * l->k, l->experts);
    l->weight = malloc((size_t)l->rows * l->k * sizeof(*l->weight));
    for (size_t i = 0; i < (size_t)l->rows * l->k; i++)
        l->weight[i] = fraction();
}

void layer_free(layer_t *l)
{
    for (uint32_t e = 0; e < l->experts; e++) {
        const coterie_expert_weights_t *w = &l->weights[e];
        const void *all[] = {w->gate,       w->up,        w->down,
                             w->gate_scale, w->up_scale,  w->down_scale,
                             w->gate_bias,  w->up_bias,   w->down_bias};

        for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
            free((void *)all[i]);
    }
    free(l->weights);
    free(l->weight);
    free(l->ids);
    free(l->x);
}

static const void *maybe_upload(world_t *w, const void *data, size_t size)
{
    return data != NULL ? upload(w, data, size) : NULL;
}

const coterie_expert_weights_t *weights_upload(world_t *w, const layer_t *l)
{
    const coterie_ffn_shape_t *s = &l->shape;
    const size_t up = coterie_panels_size(s->dtype, s->ffn, s->hidden);
    const size_t down = coterie_panels_size(s->dtype, s->hidden, s->ffn);
    const size_t up_scale =
        coterie_panels_scales_size(s->dtype, s->ffn, s->hidden);
    const size_t down_scale =
        coterie_panels_scales_size(s->dtype, s->hidden, s->ffn);
    coterie_expert_weights_t there[EXPERTS_MAX] = {{0}};

    for (uint32_t e = 0; e < l->experts; e++) {
        const coterie_expert_weights_t *from = &l->weights[e];

        there[e] = (coterie_expert_weights_t){
            .gate = maybe_upload(w, from->gate, up),
            .up = upload(w, from->up, up),
            .down = upload(w, from->down, down),
            .gate_scale = maybe_upload(w, from->gate_scale, up_scale),
            .up_scale = maybe_upload(w, from->up_scale, up_scale),
            .down_scale = maybe_upload(w, from->down_scale, down_scale),
            .gate_bias = maybe_upload(w, from->gate_bias, s->ffn * 4),
            .up_bias = maybe_upload(w, from->up_bias, s->ffn * 4),
            .down_bias = maybe_upload(w, from->down_bias, s->hidden * 4)};
    }
    return upload(w, there, sizeof(there));
}
