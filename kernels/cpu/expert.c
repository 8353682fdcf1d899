#include "config.h"

#include <string.h>

#include "kernels/cpu/cpu.h"

enum { LINE = 64 }; /* bytes of a line of the cache */

/* Rows of one expert, at most COTERIE_ROW_BLOCK, and where their intermediate
 * values are: the only ones that exist at a time. */
typedef struct block {
    const coterie_cpu_ops_t *ops;
    const coterie_ffn_shape_t *shape;
    uint32_t rows;
    float *sums[COTERIE_ROW_BLOCK];
    const float *weight;
    /* Each [COTERIE_ROW_BLOCK], of rows as far apart as row_stride says. */
    float *x;      /* [hidden] */
    float *inner;  /* [ffn]: up, then silu(gate) * up */
    float *narrow; /* [COTERIE_OUTPUT_BLOCK], close together */
} block_t;

static size_t row_stride(uint32_t width);
static void block_gather(block_t *block, const coterie_expert_rows_t *rows,
                         uint32_t first, const float *x, float *sums);
static void block_compute(const block_t *block,
                          const coterie_expert_weights_t *expert);
static void gate_and_up(const block_t *block, const float *const *x,
                        const coterie_expert_weights_t *expert,
                        uint32_t first);
static void down(const block_t *block, const float *const *inner,
                 const void *weight, uint32_t first);
static coterie_product_t product_of(const block_t *block, const void *weight,
                                    uint32_t in, uint32_t first,
                                    uint32_t out);

size_t coterie_expert_ffn_scratch(const coterie_ffn_shape_t *shape)
{
    return COTERIE_ROW_BLOCK * sizeof(float) *
               (row_stride(shape->hidden) + row_stride(shape->ffn) +
                COTERIE_OUTPUT_BLOCK) +
           LINE - 1;
}

void coterie_expert_ffn(const coterie_ffn_shape_t *shape,
                        const coterie_expert_weights_t *experts,
                        const coterie_expert_rows_t *rows, const float *x,
                        float *sums, void *scratch)
{
    const size_t past = (uintptr_t)scratch % LINE;
    block_t block = {
        .ops = coterie_cpu_ops(),
        .shape = shape,
        .narrow = (float *)((char *)scratch + (past ? LINE - past : 0)),
    };
    block.x = block.narrow + COTERIE_ROW_BLOCK * COTERIE_OUTPUT_BLOCK;
    block.inner = block.x + COTERIE_ROW_BLOCK * row_stride(shape->hidden);

    for (uint32_t e = 0; e < rows->expert_count; e++)
        for (uint32_t i = rows->first[e]; i < rows->first[e + 1];
             i += block.rows) {
            const uint32_t left = rows->first[e + 1] - i;
            block.rows = left < COTERIE_ROW_BLOCK ? left : COTERIE_ROW_BLOCK;
            block_gather(&block, rows, i, x, sums);
            block_compute(&block, &experts[e]);
        }
}

/* Rows begin at lines of the cache, and at different sets of it even if the
 * width is a power of two: else those of a tile and of the weights all want
 * the same few places. */
static size_t row_stride(uint32_t width)
{
    const size_t lanes = COTERIE_LANES;
    return (width + lanes - 1) / lanes * lanes + lanes;
}

static void block_gather(block_t *block, const coterie_expert_rows_t *rows,
                         uint32_t first, const float *x, float *sums)
{
    const size_t hidden = block->shape->hidden;
    const size_t stride = row_stride(block->shape->hidden);

    for (uint32_t r = 0; r < block->rows; r++) {
        const size_t at = rows->row[first + r] * hidden;
        memcpy(block->x + r * stride, x + at, hidden * sizeof(*x));
        block->sums[r] = sums + at;
    }
    block->weight = rows->weight + first;
}

static void block_compute(const block_t *block,
                          const coterie_expert_weights_t *expert)
{
    const uint32_t hidden = block->shape->hidden, ffn = block->shape->ffn;
    const float *x[COTERIE_ROW_BLOCK], *inner[COTERIE_ROW_BLOCK];

    for (uint32_t r = 0; r < block->rows; r++) {
        x[r] = block->x + r * row_stride(hidden);
        inner[r] = block->inner + r * row_stride(ffn);
    }
    for (uint32_t f = 0; f < ffn; f += COTERIE_OUTPUT_BLOCK)
        gate_and_up(block, x, expert, f);
    for (uint32_t h = 0; h < hidden; h += COTERIE_OUTPUT_BLOCK)
        down(block, inner, expert->down, h);
}

/* A block of gate, then the same of up: each names the other's as next. */
static void gate_and_up(const block_t *block, const float *const *x,
                        const coterie_expert_weights_t *expert,
                        uint32_t first)
{
    const uint32_t hidden = block->shape->hidden, ffn = block->shape->ffn;
    coterie_product_t gate =
        product_of(block, expert->gate, hidden, first, ffn);
    coterie_product_t up = product_of(block, expert->up, hidden, first, ffn);

    up.next = first + gate.out < ffn
                  ? (const char *)gate.weight + gate.out * gate.weight_stride
                  : expert->down;
    gate.next = up.weight;
    gate.x = up.x = x;
    up.y = block->inner + first;
    up.y_stride = row_stride(ffn);
    coterie_cpu_product(block->ops, &gate);
    coterie_cpu_product(block->ops, &up);
    for (uint32_t r = 0; r < block->rows; r++)
        block->ops->silu_mul(gate.out, gate.y + r * gate.y_stride,
                             up.y + r * up.y_stride);
}

static void down(const block_t *block, const float *const *inner,
                 const void *weight, uint32_t first)
{
    const uint32_t hidden = block->shape->hidden, ffn = block->shape->ffn;
    coterie_product_t product =
        product_of(block, weight, ffn, first, hidden);

    product.x = inner;
    if (first + product.out < hidden)
        product.next = (const char *)product.weight +
                       product.out * product.weight_stride;
    coterie_cpu_product(block->ops, &product);
    for (uint32_t r = 0; r < block->rows; r++)
        block->ops->add_scaled(product.out, block->weight[r],
                               product.y + r * product.y_stride,
                               block->sums[r] + first);
}

/* A block of the outputs of a matrix [out, in], into block->narrow. */
static coterie_product_t product_of(const block_t *block, const void *weight,
                                    uint32_t in, uint32_t first, uint32_t out)
{
    const size_t stride = in * coterie_dtype_size(block->shape->dtype);
    const uint32_t left = out - first;
    return (coterie_product_t){
        .rows = block->rows,
        .in = in,
        .out = left < COTERIE_OUTPUT_BLOCK ? left : COTERIE_OUTPUT_BLOCK,
        .dtype = block->shape->dtype,
        .weight = (const char *)weight + first * stride,
        .weight_stride = stride,
        .y = block->narrow,
        .y_stride = COTERIE_OUTPUT_BLOCK,
    };
}
