#include "config.h"

#include "kernels/cpu/cpu.h"

/* Rows of one expert, at most COTERIE_ROW_BLOCK, and where their intermediate
 * values are: the only ones that exist at a time. */
typedef struct block {
    const coterie_cpu_ops_t *ops;
    const coterie_ffn_shape_t *shape;
    uint32_t rows;
    const float *x[COTERIE_ROW_BLOCK];
    float *sums[COTERIE_ROW_BLOCK];
    const float *weight;
    float *inner;  /* [COTERIE_ROW_BLOCK, ffn]: up, then silu(gate) * up */
    float *narrow; /* [COTERIE_ROW_BLOCK, COTERIE_OUTPUT_BLOCK] */
} block_t;

static void block_compute(const block_t *block,
                          const coterie_expert_weights_t *expert);
static void gate_and_up(const block_t *block,
                        const coterie_expert_weights_t *expert,
                        uint32_t first, uint32_t count);
static void down(const block_t *block, const float *const *inner,
                 const void *weight, uint32_t first, uint32_t count);
static coterie_product_t product_of(const block_t *block, uint32_t in,
                                    const void *weight, uint32_t first,
                                    uint32_t count);

size_t coterie_expert_ffn_scratch(const coterie_ffn_shape_t *shape)
{
    return COTERIE_ROW_BLOCK *
           ((size_t)shape->ffn + COTERIE_OUTPUT_BLOCK) * sizeof(float);
}

void coterie_expert_ffn(const coterie_ffn_shape_t *shape,
                        const coterie_expert_weights_t *experts,
                        const coterie_expert_rows_t *rows, const float *x,
                        float *sums, void *scratch)
{
    block_t block = {
        .ops = coterie_cpu_ops(),
        .shape = shape,
        .narrow = scratch,
    };
    block.inner = block.narrow + COTERIE_ROW_BLOCK * COTERIE_OUTPUT_BLOCK;

    for (uint32_t e = 0; e < rows->expert_count; e++)
        for (uint32_t i = rows->first[e]; i < rows->first[e + 1];
             i += block.rows) {
            const uint32_t left = rows->first[e + 1] - i;
            block.rows = left < COTERIE_ROW_BLOCK ? left : COTERIE_ROW_BLOCK;
            for (uint32_t r = 0; r < block.rows; r++) {
                const size_t at = (size_t)rows->row[i + r] * shape->hidden;
                block.x[r] = x + at;
                block.sums[r] = sums + at;
            }
            block.weight = rows->weight + i;
            block_compute(&block, &experts[e]);
        }
}

static void block_compute(const block_t *block,
                          const coterie_expert_weights_t *expert)
{
    const uint32_t ffn = block->shape->ffn, hidden = block->shape->hidden;
    const float *inner[COTERIE_ROW_BLOCK];

    for (uint32_t f = 0; f < ffn; f += COTERIE_OUTPUT_BLOCK)
        gate_and_up(block, expert, f,
                    ffn - f < COTERIE_OUTPUT_BLOCK ? ffn - f
                                                   : COTERIE_OUTPUT_BLOCK);
    for (uint32_t r = 0; r < block->rows; r++)
        inner[r] = block->inner + (size_t)r * ffn;
    for (uint32_t h = 0; h < hidden; h += COTERIE_OUTPUT_BLOCK)
        down(block, inner, expert->down, h,
             hidden - h < COTERIE_OUTPUT_BLOCK ? hidden - h
                                               : COTERIE_OUTPUT_BLOCK);
}

static void gate_and_up(const block_t *block,
                        const coterie_expert_weights_t *expert,
                        uint32_t first, uint32_t count)
{
    const uint32_t hidden = block->shape->hidden, ffn = block->shape->ffn;
    coterie_product_t up =
        product_of(block, hidden, expert->up, first, count);
    coterie_product_t gate =
        product_of(block, hidden, expert->gate, first, count);

    gate.x = up.x = block->x;
    up.y = block->inner + first;
    up.y_stride = ffn;
    coterie_cpu_product(block->ops, &gate);
    coterie_cpu_product(block->ops, &up);
    for (uint32_t r = 0; r < block->rows; r++)
        block->ops->silu_mul(count, gate.y + r * gate.y_stride,
                             up.y + r * up.y_stride);
}

static void down(const block_t *block, const float *const *inner,
                 const void *weight, uint32_t first, uint32_t count)
{
    coterie_product_t product =
        product_of(block, block->shape->ffn, weight, first, count);

    product.x = inner;
    coterie_cpu_product(block->ops, &product);
    for (uint32_t r = 0; r < block->rows; r++)
        block->ops->add_scaled(count, block->weight[r],
                               product.y + r * product.y_stride,
                               block->sums[r] + first);
}

/* Weight rows first ... first + count - 1, into block->narrow. */
static coterie_product_t product_of(const block_t *block, uint32_t in,
                                    const void *weight, uint32_t first,
                                    uint32_t count)
{
    const size_t stride = in * coterie_dtype_size(block->shape->dtype);
    return (coterie_product_t){
        .rows = block->rows,
        .in = in,
        .out = count,
        .dtype = block->shape->dtype,
        .weight = (const char *)weight + first * stride,
        .weight_stride = stride,
        .y = block->narrow,
        .y_stride = COTERIE_OUTPUT_BLOCK,
    };
}
