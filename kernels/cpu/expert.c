#include "config.h"

#include <string.h>

#include "base/error.h"
#include "kernels/cpu/cpu.h"

enum {
    LINE = 64,        /* bytes of a line of the cache */
    BLOCK_PANELS = 12 /* whose outputs exist at a time, before activation */
};

/* Rows of one expert, at most COTERIE_ROW_BLOCK, and where their intermediate
 * values are: the only ones that exist at a time. */
typedef struct block {
    const coterie_cpu_ops_t *ops;
    const coterie_ffn_shape_t *shape;
    uint32_t rows;
    const float *from[COTERIE_ROW_BLOCK];
    float *sums[COTERIE_ROW_BLOCK];
    const float *weight;
    float *x;      /* packed, of hidden and then of ffn */
    float *inner;  /* [ROW_BLOCK, inner_stride]: what the activation gives */
    float *narrow; /* [ROW_BLOCK, BLOCK_PANELS * 16] */
} block_t;

static size_t inner_stride(const coterie_ffn_shape_t *shape);
static size_t packed_words(const coterie_ffn_shape_t *shape);
static void block_begin(block_t *block, const coterie_expert_rows_t *rows,
                        uint32_t first, const float *x, float *sums);
static void block_compute(const block_t *block,
                          const coterie_expert_weights_t *expert);
static void gate_and_up(const block_t *block,
                        const coterie_expert_weights_t *expert,
                        uint32_t first);
static void inner_pack(const block_t *block);
static void down(const block_t *block, const void *weight, uint32_t first);
static coterie_panel_product_t product_of(const block_t *block, uint32_t in);
static void product_cut(coterie_panel_product_t *product, const void *weight,
                        uint32_t first, uint32_t out, const void *next);
static uint32_t panels_of(uint32_t outputs);
static uint32_t least(uint32_t a, uint32_t b);

coterie_status_t coterie_ffn_supported(const coterie_ffn_shape_t *shape)
{
    if (shape->dtype < COTERIE_DTYPE_F32 || shape->dtype > COTERIE_DTYPE_BF16)
        return coterie_fail(COTERIE_ERR_UNSUPPORTED,
                            "experts: no kernels for weights of dtype %u; "
                            "f32, f16 and bf16 will do", shape->dtype);
    if (shape->activation != COTERIE_ACTIVATION_SWIGLU)
        return coterie_fail(COTERIE_ERR_UNSUPPORTED,
                            "experts: no kernels for activation %u; swiglu "
                            "will do", shape->activation);
    if (shape->compute != COTERIE_COMPUTE_F32)
        return coterie_fail(COTERIE_ERR_UNSUPPORTED,
                            "experts: no kernels for compute %u; f32 will do",
                            shape->compute);
    return COTERIE_OK;
}

size_t coterie_expert_ffn_scratch(const coterie_ffn_shape_t *shape)
{
    return COTERIE_ROW_BLOCK * sizeof(float) *
               (packed_words(shape) + inner_stride(shape) +
                BLOCK_PANELS * COTERIE_PANEL_OUTPUTS) +
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
    block.inner = block.narrow +
                  COTERIE_ROW_BLOCK * BLOCK_PANELS * COTERIE_PANEL_OUTPUTS;
    block.x = block.inner + COTERIE_ROW_BLOCK * inner_stride(shape);

    for (uint32_t e = 0; e < rows->expert_count; e++) {
        const uint32_t count = rows->first[e + 1] - rows->first[e];
        const uint32_t blocks =
            (count + COTERIE_ROW_BLOCK - 1) / COTERIE_ROW_BLOCK;
        for (uint32_t b = 0; b < blocks; b++) {
            const uint32_t first = (uint32_t)((uint64_t)count * b / blocks);
            block.rows =
                (uint32_t)((uint64_t)count * (b + 1) / blocks) - first;
            block_begin(&block, rows, rows->first[e] + first, x, sums);
            block_compute(&block, &experts[e]);
        }
    }
}

/* Whole panels, and rows that begin at different sets of the cache even if the
 * width is a power of two. */
static size_t inner_stride(const coterie_ffn_shape_t *shape)
{
    return ((size_t)panels_of(shape->ffn) + 1) * COTERIE_PANEL_OUTPUTS;
}

static size_t packed_words(const coterie_ffn_shape_t *shape)
{
    const size_t hidden = coterie_panel_words(shape->dtype, shape->hidden);
    const size_t ffn = coterie_panel_words(shape->dtype, shape->ffn);
    return hidden > ffn ? hidden : ffn;
}

static void block_begin(block_t *block, const coterie_expert_rows_t *rows,
                        uint32_t first, const float *x, float *sums)
{
    for (uint32_t r = 0; r < block->rows; r++) {
        const size_t at = (size_t)rows->row[first + r] * block->shape->hidden;
        block->from[r] = x + at;
        block->sums[r] = sums + at;
    }
    block->weight = rows->weight + first;
}

static void block_compute(const block_t *block,
                          const coterie_expert_weights_t *expert)
{
    const uint32_t hidden = block->shape->hidden, ffn = block->shape->ffn;
    const coterie_panel_product_t product = product_of(block, hidden);

    coterie_panel_pack_x(block->ops, &product, block->from, block->x);
    for (uint32_t panel = 0; panel < panels_of(ffn); panel += BLOCK_PANELS)
        gate_and_up(block, expert, panel);
    inner_pack(block);
    for (uint32_t panel = 0; panel < panels_of(hidden); panel += BLOCK_PANELS)
        down(block, expert->down, panel);
}

/* A block of gate, then the same of up: each names the other's as next. */
static void gate_and_up(const block_t *block,
                        const coterie_expert_weights_t *expert,
                        uint32_t first)
{
    const uint32_t ffn = block->shape->ffn;
    coterie_panel_product_t gate = product_of(block, block->shape->hidden);
    coterie_panel_product_t up = gate;

    product_cut(&up, expert->up, first, ffn, NULL);
    product_cut(&gate, expert->gate, first, ffn, up.weight);
    if (first + BLOCK_PANELS < panels_of(ffn))
        up.next = gate.weight +
                  coterie_panels_size(gate.dtype,
                                      BLOCK_PANELS * COTERIE_PANEL_OUTPUTS,
                                      gate.in);
    else
        up.next = expert->down;
    up.y = block->inner + (size_t)first * COTERIE_PANEL_OUTPUTS;
    up.y_stride = inner_stride(block->shape);
    coterie_panel_product(block->ops, &gate);
    coterie_panel_product(block->ops, &up);
    for (uint32_t r = 0; r < block->rows; r++)
        block->ops->silu_mul((size_t)gate.panels * COTERIE_PANEL_OUTPUTS,
                             gate.y + r * gate.y_stride,
                             up.y + r * up.y_stride);
}

static void inner_pack(const block_t *block)
{
    const coterie_panel_product_t product =
        product_of(block, block->shape->ffn);
    const float *rows[COTERIE_ROW_BLOCK];

    for (uint32_t r = 0; r < block->rows; r++)
        rows[r] = block->inner + r * inner_stride(block->shape);
    coterie_panel_pack_x(block->ops, &product, rows, block->x);
}

static void down(const block_t *block, const void *weight, uint32_t first)
{
    const uint32_t hidden = block->shape->hidden;
    coterie_panel_product_t product = product_of(block, block->shape->ffn);
    const size_t from = (size_t)first * COTERIE_PANEL_OUTPUTS;
    uint32_t outputs;

    product_cut(&product, weight, first, hidden, NULL);
    outputs = least(product.panels * COTERIE_PANEL_OUTPUTS,
                    hidden - (uint32_t)from);
    if (from + outputs < hidden)
        product.next =
            product.weight + coterie_panels_size(product.dtype, outputs,
                                                 product.in);
    coterie_panel_product(block->ops, &product);
    for (uint32_t r = 0; r < block->rows; r++)
        block->ops->add_scaled(outputs, block->weight[r],
                               product.y + r * product.y_stride,
                               block->sums[r] + from);
}

/* What all products of a block with this inner dimension have in common. */
static coterie_panel_product_t product_of(const block_t *block, uint32_t in)
{
    return (coterie_panel_product_t){
        .rows = block->rows,
        .in = in,
        .dtype = block->shape->dtype,
        .x = block->x,
        .y = block->narrow,
        .y_stride = BLOCK_PANELS * COTERIE_PANEL_OUTPUTS,
    };
}

/* BLOCK_PANELS of a matrix, or what is left of it. */
static void product_cut(coterie_panel_product_t *product, const void *weight,
                        uint32_t first, uint32_t out, const void *next)
{
    product->panels = least(panels_of(out) - first, BLOCK_PANELS);
    product->weight =
        (const char *)weight +
        coterie_panels_size(product->dtype, first * COTERIE_PANEL_OUTPUTS,
                            product->in);
    product->next = next;
}

static uint32_t panels_of(uint32_t outputs)
{
    return (outputs + COTERIE_PANEL_OUTPUTS - 1) / COTERIE_PANEL_OUTPUTS;
}

static uint32_t least(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}
