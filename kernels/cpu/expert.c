#include "config.h"

#include <string.h>

#include <coterie/model.h>

#include "base/error.h"
#include "kernels/cpu/expert.h"

enum { LINE = 64 }; /* bytes of a line of the cache */

static coterie_status_t groups_check(const coterie_ffn_shape_t *shape);
static uint32_t next_with_rows(const coterie_expert_rows_t *rows, uint32_t e);
static void block_compute(const coterie_block_t *block);
static size_t inner_stride(const coterie_block_t *block);
static void products_run(const coterie_block_t *block, uint32_t cut,
                         coterie_panel_product_t *gate,
                         coterie_panel_product_t *up);
static coterie_panel_product_t product_of(const coterie_block_t *block,
                                          uint32_t in, uint32_t out,
                                          uint32_t cut);
static const char *next_cut(const coterie_block_t *block, uint32_t out,
                            const coterie_panel_product_t *product,
                            const void *after);
static const char *panel_of(const coterie_panel_product_t *product,
                            uint32_t panel);
static void ask_for(const float *values, uint32_t count);
static uint32_t panels_of(uint32_t outputs);
static uint32_t cuts_of(const coterie_block_t *block, uint32_t outputs);
static size_t lines(size_t size);
static uint32_t least(uint32_t a, uint32_t b);

coterie_status_t coterie_ffn_supported(const coterie_ffn_shape_t *shape)
{
    static const char *const computes[] = {"f32", "bf16", "int8"};
    const uint32_t dtype = shape->dtype, compute = shape->compute;
    const int is_float = dtype <= COTERIE_DTYPE_BF16;

    if (coterie_panels_step(dtype) == 0)
        return coterie_fail(COTERIE_ERR_UNSUPPORTED,
                            "experts: no kernels for weights of dtype %u",
                            dtype);
    if (shape->activation > COTERIE_ACTIVATION_SWIGLU_CLAMPED)
        return coterie_fail(COTERIE_ERR_UNSUPPORTED,
                            "experts: no kernels for activation %u; there are "
                            "0 to %d", shape->activation,
                            COTERIE_ACTIVATION_SWIGLU_CLAMPED);
    if (compute > COTERIE_COMPUTE_INT8)
        return coterie_fail(COTERIE_ERR_UNSUPPORTED,
                            "experts: no kernels for compute %u; there are f32 "
                            "(0), bf16 (1) and int8 (2)", compute);
    if ((compute == COTERIE_COMPUTE_BF16 && is_float &&
         dtype != COTERIE_DTYPE_BF16) ||
        (compute == COTERIE_COMPUTE_INT8 &&
         (is_float || dtype == COTERIE_DTYPE_FP8)))
        return coterie_fail(COTERIE_ERR_UNSUPPORTED,
                            "experts: no kernels for compute %s and %s "
                            "weights; f32 will do for all, bf16 for all but "
                            "f32 and f16, int8 for integers and mxfp4",
                            computes[compute], coterie_dtype_name(dtype));
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
                            "of %d for %s weights",
                            shape->hidden, shape->ffn, COTERIE_PANEL_GROUP,
                            coterie_dtype_name(shape->dtype));
    return COTERIE_OK;
}

size_t coterie_expert_ffn_scratch(const coterie_ffn_shape_t *shape)
{
    coterie_block_t block;
    size_t x, packed;

    coterie_block_begin(&block, shape);
    x = coterie_block_x_size(&block);
    packed = coterie_block_packed_size(&block);
    return coterie_block_narrow_size(&block) +
           coterie_block_inner_size(&block) + (x > packed ? x : packed) +
           LINE - 1;
}

void coterie_expert_ffn(const coterie_ffn_shape_t *shape,
                        const coterie_expert_weights_t *experts,
                        const coterie_expert_rows_t *rows, const float *x,
                        float *sums, void *scratch)
{
    const coterie_ffn_call_t call = {shape, experts, rows, x, sums, scratch};
    const size_t past = (uintptr_t)scratch % LINE;
    char *memory = (char *)scratch + (past > 0 ? LINE - past : 0);
    coterie_block_t block;

    coterie_block_begin(&block, shape);
    block.narrow = (float *)memory;
    memory += coterie_block_narrow_size(&block);
    block.inner = (float *)memory;
    block.x = block.packed = memory + coterie_block_inner_size(&block);
    for (uint32_t e = next_with_rows(rows, 0); e < rows->expert_count;) {
        const uint32_t blocks =
            coterie_block_count(rows->first[e + 1] - rows->first[e]);
        const uint32_t next = next_with_rows(rows, e + 1);

        block.after_up = experts[e].down;
        block.after_down = coterie_block_first(&experts[e]);
        for (uint32_t b = 0; b < blocks; b++) {
            if (b + 1 == blocks)
                block.after_down = next < rows->expert_count
                                       ? coterie_block_first(&experts[next])
                                       : NULL;
            coterie_block_set(&block, &call, e, b);
            block_compute(&block);
        }
        e = next;
    }
}

void coterie_block_begin(coterie_block_t *block,
                         const coterie_ffn_shape_t *shape)
{
    memset(block, 0, sizeof(*block));
    block->ops = coterie_cpu_ops();
    block->method = coterie_panel_method(coterie_cpu_panels(), shape->dtype,
                                         shape->compute);
    block->shape = shape;
    block->cut = COTERIE_CUT_PANELS;
    block->stride = 1;
}

size_t coterie_block_x_size(const coterie_block_t *block)
{
    return lines(COTERIE_ROW_BLOCK *
                 coterie_panel_row_size(&block->method,
                                        block->shape->hidden));
}

size_t coterie_block_inner_size(const coterie_block_t *block)
{
    return lines(COTERIE_ROW_BLOCK * inner_stride(block) * sizeof(float));
}

size_t coterie_block_packed_size(const coterie_block_t *block)
{
    return lines(COTERIE_ROW_BLOCK *
                 coterie_panel_row_size(&block->method, block->shape->ffn));
}

size_t coterie_block_narrow_size(const coterie_block_t *block)
{
    return lines(COTERIE_ROW_BLOCK * sizeof(float) * block->cut *
                 COTERIE_PANEL_OUTPUTS);
}

uint32_t coterie_block_count(uint32_t count)
{
    return (count + COTERIE_ROW_BLOCK - 1) / COTERIE_ROW_BLOCK;
}

void coterie_block_set(coterie_block_t *block, const coterie_ffn_call_t *call,
                       uint32_t expert, uint32_t ordinal)
{
    const coterie_expert_rows_t *rows = call->rows;
    const uint64_t count = rows->first[expert + 1] - rows->first[expert];
    const uint32_t blocks = coterie_block_count((uint32_t)count);
    const uint32_t from = (uint32_t)(count * ordinal / blocks);
    const uint32_t first = rows->first[expert] + from;

    block->expert = &call->experts[expert];
    block->rows = (uint32_t)(count * (ordinal + 1) / blocks) - from;
    block->weight = rows->weight + first;
    for (uint32_t r = 0; r < block->rows; r++) {
        const size_t at = (size_t)rows->row[first + r] * block->shape->hidden;
        block->from[r] = call->x + at;
        block->sums[r] = call->sums + at;
    }
}

uint32_t coterie_block_inner_cuts(const coterie_block_t *block)
{
    return cuts_of(block, block->shape->ffn);
}

uint32_t coterie_block_outer_cuts(const coterie_block_t *block)
{
    return cuts_of(block, block->shape->hidden);
}

void coterie_block_pack(const coterie_block_t *block, uint32_t part,
                        uint32_t parts)
{
    const uint32_t from = block->rows * part / parts;
    const size_t row_size =
        coterie_panel_row_size(&block->method, block->shape->hidden);

    coterie_panel_pack(&block->method,
                       block->rows * (part + 1) / parts - from,
                       block->shape->hidden, block->from + from,
                       block->x + from * row_size);
}

void coterie_block_gate_up(const coterie_block_t *block, uint32_t cut)
{
    const coterie_expert_weights_t *expert = block->expert;
    const uint32_t hidden = block->shape->hidden, ffn = block->shape->ffn;
    const uint32_t from = cut * block->cut * COTERIE_PANEL_OUTPUTS;
    coterie_panel_product_t gate = product_of(block, hidden, ffn, cut);
    coterie_panel_product_t up = gate;
    coterie_activate_t at = {
        .count = least(gate.panels * COTERIE_PANEL_OUTPUTS, ffn - from),
        .alpha = block->shape->alpha,
        .limit = block->shape->limit};

    products_run(block, cut, &gate, &up);
    if (expert->gate_bias != NULL)
        at.gate_bias = expert->gate_bias + from;
    if (expert->up_bias != NULL)
        at.up_bias = expert->up_bias + from;
    for (uint32_t r = 0; r < block->rows; r++) {
        if (expert->gate != NULL)
            at.gate = gate.y + r * gate.y_stride;
        at.up = up.y + r * up.y_stride;
        block->ops->activate[block->shape->activation](&at);
    }
}

void coterie_block_pack_inner(const coterie_block_t *block, uint32_t part,
                              uint32_t parts)
{
    const uint32_t from = block->rows * part / parts;
    const uint32_t to = block->rows * (part + 1) / parts;
    const size_t row_size =
        coterie_panel_row_size(&block->method, block->shape->ffn);
    const float *rows[COTERIE_ROW_BLOCK];

    for (uint32_t r = from; r < to; r++)
        rows[r - from] = block->inner + r * inner_stride(block);
    coterie_panel_pack(&block->method, to - from, block->shape->ffn, rows,
                       block->packed + from * row_size);
}

void coterie_block_down(const coterie_block_t *block, uint32_t cut)
{
    const coterie_expert_weights_t *expert = block->expert;
    const uint32_t hidden = block->shape->hidden;
    const uint32_t from = cut * block->cut * COTERIE_PANEL_OUTPUTS;
    coterie_panel_product_t product =
        product_of(block, block->shape->ffn, hidden, cut);
    const uint32_t outputs =
        least(product.panels * COTERIE_PANEL_OUTPUTS, hidden - from);

    product.x = block->packed;
    product.weight = expert->down;
    product.scale = expert->down_scale;
    product.next = next_cut(block, hidden, &product, block->after_down);
    coterie_panel_multiply(&product);
    for (uint32_t r = 0; r < block->rows; r++) {
        float *sums = block->sums[r] + from;
        if (r + 1 < block->rows)
            ask_for(block->sums[r + 1] + from, outputs);
        block->ops->add_scaled(outputs, block->weight[r],
                               product.y + r * product.y_stride, sums);
        if (expert->down_bias != NULL)
            block->ops->add_scaled(outputs, block->weight[r],
                                   expert->down_bias + from, sums);
    }
}

const void *coterie_block_first(const coterie_expert_weights_t *expert)
{
    return expert->gate != NULL ? expert->gate : expert->up;
}

static uint32_t next_with_rows(const coterie_expert_rows_t *rows, uint32_t e)
{
    while (e < rows->expert_count && rows->first[e] == rows->first[e + 1])
        e++;
    return e;
}

static void block_compute(const coterie_block_t *block)
{
    const uint32_t inner = coterie_block_inner_cuts(block);
    const uint32_t outer = coterie_block_outer_cuts(block);

    coterie_block_pack(block, 0, 1);
    for (uint32_t cut = 0; cut < inner; cut++)
        coterie_block_gate_up(block, cut);
    coterie_block_pack_inner(block, 0, 1);
    for (uint32_t cut = 0; cut < outer; cut++)
        coterie_block_down(block, cut);
}

/* Whole panels, and rows that begin at different sets of the cache even if the
 * width is a power of two. */
static size_t inner_stride(const coterie_block_t *block)
{
    return ((size_t)panels_of(block->shape->ffn) + 1) * COTERIE_PANEL_OUTPUTS;
}

/* A cut of gate, then the same of up: each names the other's as next. */
static void products_run(const coterie_block_t *block, uint32_t cut,
                         coterie_panel_product_t *gate,
                         coterie_panel_product_t *up)
{
    const coterie_expert_weights_t *expert = block->expert;
    const coterie_panel_product_t *first = expert->gate != NULL ? gate : up;

    gate->weight = expert->gate;
    gate->scale = expert->gate_scale;
    up->weight = expert->up;
    up->scale = expert->up_scale;
    gate->next = panel_of(up, up->first);
    up->next = next_cut(block, block->shape->ffn, first, block->after_up);
    up->y = block->inner +
            (size_t)cut * block->cut * COTERIE_PANEL_OUTPUTS;
    up->y_stride = inner_stride(block);
    if (expert->gate != NULL)
        coterie_panel_multiply(gate);
    coterie_panel_multiply(up);
}

/* A cut of a matrix, into block->narrow; its weights are for the caller to
 * name. */
static coterie_panel_product_t product_of(const coterie_block_t *block,
                                          uint32_t in, uint32_t out,
                                          uint32_t cut)
{
    const uint32_t first = cut * block->cut;

    return (coterie_panel_product_t){
        .method = &block->method,
        .rows = block->rows,
        .in = in,
        .first = first,
        .panels = least(panels_of(out) - first, block->cut),
        .x = block->x,
        .y = block->narrow,
        .y_stride = (size_t)block->cut * COTERIE_PANEL_OUTPUTS,
    };
}

/* Weights of the cut that this thread takes next. */
static const char *next_cut(const coterie_block_t *block, uint32_t out,
                            const coterie_panel_product_t *product,
                            const void *after)
{
    const uint32_t panel = product->first + block->stride * block->cut;

    return panel < panels_of(out) ? panel_of(product, panel) : after;
}

static const char *panel_of(const coterie_panel_product_t *product,
                            uint32_t panel)
{
    return product->weight +
           coterie_panels_size(product->method->dtype,
                               panel * COTERIE_PANEL_OUTPUTS, product->in);
}

/* Short stretches of rows are nothing that the processor foresees. */
static void ask_for(const float *values, uint32_t count)
{
    for (uint32_t i = 0; i < count; i += LINE / sizeof(*values))
        __builtin_prefetch(values + i, 1, 3);
}

static uint32_t panels_of(uint32_t outputs)
{
    return (outputs + COTERIE_PANEL_OUTPUTS - 1) / COTERIE_PANEL_OUTPUTS;
}

static uint32_t cuts_of(const coterie_block_t *block, uint32_t outputs)
{
    return (panels_of(outputs) + block->cut - 1) / block->cut;
}

static size_t lines(size_t size)
{
    return (size + LINE - 1) / LINE * LINE;
}

static uint32_t least(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}
