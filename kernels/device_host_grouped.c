/* Products of a library, and the kernels around them, for the processor as a
 * device. */
#include "config.h"

#include <stdlib.h>
#include <string.h>

#include "base/element.h"
#include "kernels/cpu/cpu.h"
#include "kernels/device.h"
#include "kernels/device_host.h"

static void row_multiply(const coterie_products_t *p, size_t at, uint32_t row);
static void row_activate(const coterie_gpu_between_t *b,
                         const coterie_expert_weights_t *expert, size_t place,
                         float *values);

coterie_status_t coterie_host_products(coterie_device_t *d,
                                       const coterie_products_t *p)
{
    (void)d;
    for (uint32_t group = 0; group < p->count; group++)
        for (uint32_t i = 0; i < p->each; i++)
            for (uint32_t row = 0; row < p->rows[group]; row++)
                row_multiply(p, (size_t)group * p->each + i, row);
    return COTERIE_OK;
}

int coterie_host_permute(void *stream, const coterie_gpu_permute_t *p)
{
    (void)stream;
    for (size_t i = 0; i < (size_t)p->rows * p->k; i++) {
        uint16_t *to = p->out + (size_t)p->place[i] * p->stride;

        if (p->place[i] < 0)
            continue;
        memcpy(to, p->x + i / p->k * p->hidden, p->hidden * sizeof(*to));
        memset(to + p->hidden, 0, (p->stride - p->hidden) * sizeof(*to));
    }
    return 0;
}

int coterie_host_unpack(void *stream, const coterie_gpu_unpack_t *u)
{
    const size_t panel = (size_t)(u->in + 1) / 2 * COTERIE_PANEL_OUTPUTS * 2;
    const uint16_t *panels = u->panels;

    (void)stream;
    for (size_t o = 0; o < u->out; o++) {
        const uint16_t *from = panels + o / COTERIE_PANEL_OUTPUTS * panel +
                               o % COTERIE_PANEL_OUTPUTS * 2;

        for (size_t i = 0; i < u->stride; i++)
            u->matrix[o * u->stride + i] =
                i < u->in ? from[i / 2 * COTERIE_PANEL_OUTPUTS * 2 + i % 2]
                          : 0;
    }
    return 0;
}

int coterie_host_activate(void *stream, const coterie_gpu_between_t *b)
{
    const size_t ffn = b->shape.ffn, size = 2 * ffn * sizeof(float);
    float *values = malloc(size);

    (void)stream;
    if (values == NULL)
        return (int)size;
    for (uint32_t t = 0; t < b->tile_count; t++)
        for (uint32_t r = 0; r < b->tiles[t].count; r++)
            row_activate(b, &b->experts[b->tiles[t].expert],
                         (size_t)b->tiles[t].first + r, values);
    free(values);
    return 0;
}

int coterie_host_deliver(void *stream, const coterie_gpu_between_t *b)
{
    const size_t hidden = b->shape.hidden;

    (void)stream;
    for (uint32_t t = 0; t < b->tile_count; t++)
        for (uint32_t r = 0; r < b->tiles[t].count; r++) {
            const float *bias = b->experts[b->tiles[t].expert].down_bias;
            const size_t place = (size_t)b->tiles[t].first + r;

            for (size_t h = 0; h < hidden; h++)
                b->out[place * hidden + h] =
                    coterie_bf16_value(b->y[place * b->hidden_stride + h]) +
                    (bias != NULL ? bias[h] : 0);
        }
    return 0;
}

static void row_multiply(const coterie_products_t *p, size_t at, uint32_t row)
{
    const uint16_t *x = (const uint16_t *)p->x[at] + (size_t)row * p->in;
    uint16_t *y = (uint16_t *)p->y[at] + (size_t)row * p->stride;

    for (size_t o = 0; o < p->out; o++) {
        const uint16_t *a = (const uint16_t *)p->a[at] + o * p->in;
        float sum = 0;

        for (uint32_t i = 0; i < p->in; i++)
            sum += coterie_bf16_value(a[i]) * coterie_bf16_value(x[i]);
        y[o] = coterie_bf16_of(sum);
    }
}

/* @param values  [2, ffn] scratch */
static void row_activate(const coterie_gpu_between_t *b,
                         const coterie_expert_weights_t *expert, size_t place,
                         float *values)
{
    const size_t ffn = b->shape.ffn, at = place * b->ffn_stride;
    const coterie_activate_t activate = {
        .count = ffn,
        .gate = b->gate != NULL ? values : NULL,
        .up = values + ffn,
        .gate_bias = expert->gate_bias,
        .up_bias = expert->up_bias,
        .alpha = b->shape.alpha,
        .limit = b->shape.limit};

    for (size_t f = 0; f < ffn; f++) {
        values[f] = b->gate != NULL ? coterie_bf16_value(b->gate[at + f]) : 0;
        values[ffn + f] = coterie_bf16_value(b->up[at + f]);
    }
    coterie_cpu_ops()->activate[b->shape.activation](&activate);
    for (size_t f = 0; f < b->ffn_stride; f++)
        b->inner[at + f] = f < ffn ? coterie_bf16_of(values[ffn + f]) : 0;
}
