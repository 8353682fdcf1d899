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
    coterie_panel_method_t method;
    const coterie_ffn_shape_t *shape;
    uint32_t rows;
    const float *from[COTERIE_ROW_BLOCK];
    float *sums[COTERIE_ROW_BLOCK];
    const float *weight;
    char *x;       /* rows in words, of hidden and then of ffn */
    float *inner;  /* [ROW_BLOCK, inner_stride]: what the activation gives */
    float *narrow; /* [ROW_BLOCK, BLOCK_PANELS * 16] */
} block_t;

static coterie_status_t groups_check(const coterie_ffn_shape_t *shape);
static size_t inner_stride(const coterie_ffn_shape_t *shape);
static size_t packed_size(const coterie_ffn_shape_t *shape);
static void block_begin(block_t *block, const coterie_expert_rows_t *rows,
                        uint32_t first, const float *x, float *sums);
static void block_compute(const block_t *block,
                          const coterie_expert_weights_t *expert);
static void gate_and_up(const block_t *block,
                        const coterie_expert_weights_t *expert,
                        uint32_t first);
static void inner_pack(const block_t *block);
static void down(const block_t *block, const coterie_expert_weights_t *expert,
                 uint32_t first);
static coterie_panel_product_t product_of(const block_t *block, uint32_t in,
                                          uint32_t out, uint32_t first);
static const char *panel_of(const coterie_panel_product_t *product,
                            uint32_t panel);
static uint32_t panels_of(uint32_t outputs);
static uint32_t least(uint32_t a, uint32_t b);

coterie_status_t coterie_ffn_supported(const coterie_ffn_shape_t *shape)
{
    const uint32_t dtype = shape->dtype, compute = shape->compute;
    const int is_float = dtype <= COTERIE_DTYPE_BF16;

    if (coterie_panels_step(dtype) == 0)
        return coterie_fail(COTERIE_ERR_UNSUPPORTED,
                            "experts: no kernels for weights of dtype %u",
                            dtype);
    if (shape->activation != COTERIE_ACTIVATION_SWIGLU)
        return coterie_fail(COTERIE_ERR_UNSUPPORTED,
                            "experts: no kernels for activation %u; swiglu "
                            "will do", shape->activation);
    if (compute > COTERIE_COMPUTE_INT8 ||
        (compute == COTERIE_COMPUTE_BF16 && is_float &&
         dtype != COTERIE_DTYPE_BF16) ||
        (compute == COTERIE_COMPUTE_INT8 &&
         (is_float || dtype == COTERIE_DTYPE_FP8)))
        return coterie_fail(COTERIE_ERR_UNSUPPORTED,
                            "experts: no kernels for weights of dtype %u and "
                            "compute %u; f32 will do for all, bf16 for all "
                            "but f32 and f16, int8 for integers and mxfp4",
                            dtype, compute);
    return groups_check(shape);
}

static coterie_status_t groups_check(const coterie_ffn_shape_t *shape)
{
    if (coterie_panel_span(COTERIE_WORDS_F32, shape->dtype) !=
        COTERIE_PANEL_GROUP)
        return COTERIE_OK;
    if (shape->hidden % COTERIE_PANEL_GROUP != 0 ||
        shape->ffn % COTERIE_PANEL_GROUP != 0)
        return coterie_fail(COTERIE_ERR_UNSUPPORTED,
                            "experts: hidden %u and ffn %u must be multiples "
                            "of %d for weights of dtype %u",
                            shape->hidden, shape->ffn, COTERIE_PANEL_GROUP,
                            shape->dtype);
    return COTERIE_OK;
}

size_t coterie_expert_ffn_scratch(const coterie_ffn_shape_t *shape)
{
    return COTERIE_ROW_BLOCK *
               (packed_size(shape) +
                sizeof(float) * (inner_stride(shape) +
                                 BLOCK_PANELS * COTERIE_PANEL_OUTPUTS)) +
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
        .method = coterie_panel_method(coterie_cpu_panels(), shape->dtype,
                                       shape->compute),
        .shape = shape,
        .narrow = (float *)((char *)scratch + (past ? LINE - past : 0)),
    };
    block.inner = block.narrow +
                  COTERIE_ROW_BLOCK * BLOCK_PANELS * COTERIE_PANEL_OUTPUTS;
    block.x = (char *)(block.inner + COTERIE_ROW_BLOCK * inner_stride(shape));

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

/* Of one row. */
static size_t packed_size(const coterie_ffn_shape_t *shape)
{
    const coterie_panel_method_t method = coterie_panel_method(
        coterie_cpu_panels(), shape->dtype, shape->compute);
    const size_t hidden = coterie_panel_row_size(&method, shape->hidden);
    const size_t ffn = coterie_panel_row_size(&method, shape->ffn);
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

    coterie_panel_pack(&block->method, block->rows, hidden, block->from,
                       block->x);
    for (uint32_t panel = 0; panel < panels_of(ffn); panel += BLOCK_PANELS)
        gate_and_up(block, expert, panel);
    inner_pack(block);
    for (uint32_t panel = 0; panel < panels_of(hidden); panel += BLOCK_PANELS)
        down(block, expert, panel);
}

/* A block of gate, then the same of up: each names the other's as next. */
static void gate_and_up(const block_t *block,
                        const coterie_expert_weights_t *expert,
                        uint32_t first)
{
    const uint32_t hidden = block->shape->hidden, ffn = block->shape->ffn;
    coterie_panel_product_t gate = product_of(block, hidden, ffn, first);
    coterie_panel_product_t up = gate;

    gate.weight = expert->gate;
    gate.scale = expert->gate_scale;
    up.weight = expert->up;
    up.scale = expert->up_scale;
    gate.next = panel_of(&up, first);
    up.next = first + up.panels < panels_of(ffn)
                  ? panel_of(&gate, first + gate.panels)
                  : expert->down;
    up.y = block->inner + (size_t)first * COTERIE_PANEL_OUTPUTS;
    up.y_stride = inner_stride(block->shape);
    coterie_panel_multiply(&gate);
    coterie_panel_multiply(&up);
    for (uint32_t r = 0; r < block->rows; r++)
        block->ops->silu_mul((size_t)gate.panels * COTERIE_PANEL_OUTPUTS,
                             gate.y + r * gate.y_stride,
                             up.y + r * up.y_stride);
}

static void inner_pack(const block_t *block)
{
    const float *rows[COTERIE_ROW_BLOCK];

    for (uint32_t r = 0; r < block->rows; r++)
        rows[r] = block->inner + r * inner_stride(block->shape);
    coterie_panel_pack(&block->method, block->rows, block->shape->ffn, rows,
                       block->x);
}

static void down(const block_t *block, const coterie_expert_weights_t *expert,
                 uint32_t first)
{
    const uint32_t hidden = block->shape->hidden;
    const uint32_t from = first * COTERIE_PANEL_OUTPUTS;
    coterie_panel_product_t product =
        product_of(block, block->shape->ffn, hidden, first);
    const uint32_t outputs =
        least(product.panels * COTERIE_PANEL_OUTPUTS, hidden - from);

    product.weight = expert->down;
    product.scale = expert->down_scale;
    if (from + outputs < hidden)
        product.next = panel_of(&product, first + product.panels);
    coterie_panel_multiply(&product);
    for (uint32_t r = 0; r < block->rows; r++)
        block->ops->add_scaled(outputs, block->weight[r],
                               product.y + r * product.y_stride,
                               block->sums[r] + from);
}

/* BLOCK_PANELS of a matrix, or what is left of it, into block->narrow; its
 * weights are for the caller to name. */
static coterie_panel_product_t product_of(const block_t *block, uint32_t in,
                                          uint32_t out, uint32_t first)
{
    return (coterie_panel_product_t){
        .method = &block->method,
        .rows = block->rows,
        .in = in,
        .first = first,
        .panels = least(panels_of(out) - first, BLOCK_PANELS),
        .x = block->x,
        .y = block->narrow,
        .y_stride = BLOCK_PANELS * COTERIE_PANEL_OUTPUTS,
    };
}

static const char *panel_of(const coterie_panel_product_t *product,
                            uint32_t panel)
{
    return product->weight +
           coterie_panels_size(product->method->dtype,
                               panel * COTERIE_PANEL_OUTPUTS, product->in);
}

static uint32_t panels_of(uint32_t outputs)
{
    return (outputs + COTERIE_PANEL_OUTPUTS - 1) / COTERIE_PANEL_OUTPUTS;
}

static uint32_t least(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}
