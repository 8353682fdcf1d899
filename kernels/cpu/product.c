#include "config.h"

#include <assert.h>

#include "kernels/cpu/cpu.h"

typedef struct outputs {
    uint32_t first, count;
} outputs_t;

static void product_outputs(const coterie_cpu_ops_t *ops,
                            const coterie_product_t *product,
                            outputs_t outputs);
static void product_tile(const coterie_cpu_ops_t *ops,
                         const coterie_product_t *product, outputs_t outputs,
                         uint32_t inner);
static coterie_tile_t tile_at(const coterie_product_t *product,
                              outputs_t outputs, uint32_t inner);
static const char *weight_row(const coterie_product_t *product,
                              uint32_t output);

size_t coterie_dtype_size(coterie_dtype_t dtype)
{
    return dtype == COTERIE_DTYPE_F32 ? sizeof(float) : sizeof(uint16_t);
}

/* With few rows a group is one tile of outputs, so that weights are read as
 * they lie; with many, a group of outputs shares each block of the rows. */
void coterie_cpu_product(const coterie_cpu_ops_t *ops,
                         const coterie_product_t *product)
{
    const uint32_t group =
        product->rows <= ops->rows ? ops->outputs : COTERIE_OUTPUT_BLOCK;

    assert(product->rows <= COTERIE_ROW_BLOCK);
    for (uint32_t first = 0; first < product->out; first += group) {
        const uint32_t left = product->out - first;
        product_outputs(ops, product,
                        (outputs_t){first, left < group ? left : group});
    }
}

/* The first block sets y even if it is empty. */
static void product_outputs(const coterie_cpu_ops_t *ops,
                            const coterie_product_t *product,
                            outputs_t outputs)
{
    uint32_t inner = 0;
    do {
        for (uint32_t done = 0; done < outputs.count; done += ops->outputs) {
            const uint32_t left = outputs.count - done;
            const outputs_t tile = {
                outputs.first + done,
                left < ops->outputs ? left : ops->outputs};
            product_tile(ops, product, tile, inner);
        }
        inner += COTERIE_INNER_BLOCK;
    } while (inner < product->in);
}

/* All rows times one tile of outputs, which stays in the nearest cache. */
static void product_tile(const coterie_cpu_ops_t *ops,
                         const coterie_product_t *product, outputs_t outputs,
                         uint32_t inner)
{
    const int dtype = product->dtype - 1;

    if (outputs.count < ops->outputs) {
        for (uint32_t o = 0; o < outputs.count; o++)
            for (uint32_t row = 0; row < product->rows; row++) {
                coterie_tile_t tile = tile_at(
                    product, (outputs_t){outputs.first + o, 1}, inner);
                tile.x += row;
                tile.y += (size_t)row * product->y_stride;
                ops->tile_single[dtype](&tile);
            }
        return;
    }
    coterie_tile_t tile = tile_at(product, outputs, inner);
    for (uint32_t row = 0; row < product->rows;) {
        const uint32_t left = product->rows - row;
        const uint32_t rows = left < ops->rows ? left : ops->rows;
        ops->tile[dtype][rows - 1](&tile);
        tile.x += rows;
        tile.y += (size_t)rows * product->y_stride;
        tile.ahead = (const char *)tile.weight +
                     tile.first * coterie_dtype_size(product->dtype);
        row += rows;
    }
}

static coterie_tile_t tile_at(const coterie_product_t *product,
                              outputs_t outputs, uint32_t inner)
{
    const uint32_t left = product->in - inner;
    const uint32_t count =
        left < COTERIE_INNER_BLOCK ? left : COTERIE_INNER_BLOCK;
    const uint32_t next = outputs.first + 2 * outputs.count <= product->out
                              ? outputs.first + outputs.count
                              : outputs.first;
    return (coterie_tile_t){
        .x = product->x,
        .weight = weight_row(product, outputs.first),
        .weight_stride = product->weight_stride,
        .first = inner,
        .count = count,
        .ahead = weight_row(product, next) +
                 inner * coterie_dtype_size(product->dtype),
        .y = product->y + outputs.first,
        .y_stride = product->y_stride,
    };
}

static const char *weight_row(const coterie_product_t *product,
                              uint32_t output)
{
    return (const char *)product->weight + output * product->weight_stride;
}
