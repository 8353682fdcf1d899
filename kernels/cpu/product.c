#include "config.h"

#include <assert.h>

#include "kernels/cpu/cpu.h"

/* How far ahead of its use a weight is asked for: 8 KiB keeps a core's queue
 * to memory full, measured on Zen 4. */
enum { AHEAD_SIZE = 8192 };

/* Weight rows between these bytes are best read as one or two streams, measured
 * on Zen 4. Shorter ones cost more by themselves than by being fetched, and
 * with longer ones x no longer stays in the nearest cache: then several outputs
 * share the costs. */
enum { STREAM_MIN = 1024, STREAM_MAX = 4096 };

typedef struct job {
    const coterie_product_t *product;
    const coterie_tile_kind_t *kinds; /* by rows - 1 */
    coterie_tile_fn single;
    uint32_t rows_max;
    size_t element; /* bytes of a weight */
} job_t;

typedef struct range {
    uint32_t first, count;
} range_t;

static void stream(const job_t *job);
static void compute(const job_t *job, range_t outputs, uint32_t inner);
static void rows_at(const coterie_product_t *product, range_t rows,
                    uint32_t inner, const float **x);
static void run_tiles(const job_t *job, const coterie_tile_t *tile,
                      uint32_t rows, uint32_t outputs);
static coterie_tile_t tile_at(const job_t *job, uint32_t output,
                              uint32_t inner);
static const char *ahead_of(const job_t *job, uint32_t output,
                            uint32_t inner);
static uint32_t least(uint32_t a, uint32_t b);

void coterie_cpu_product(const coterie_cpu_ops_t *ops,
                         const coterie_product_t *product)
{
    const size_t size = product->weight_stride;
    const job_t job = {
        .product = product,
        .kinds = size > STREAM_MIN && size <= STREAM_MAX
                     ? ops->tile_stream[product->dtype - 1]
                     : ops->tile[product->dtype - 1],
        .single = ops->tile_single[product->dtype - 1],
        .rows_max = ops->rows,
        .element = coterie_dtype_size(product->dtype),
    };

    assert(product->rows <= COTERIE_ROW_BLOCK);
    if (product->rows <= ops->rows) {
        stream(&job);
        return;
    }
    for (uint32_t first = 0; first < product->out;
         first += COTERIE_OUTPUT_BLOCK) {
        const range_t outputs = {
            first, least(product->out - first, COTERIE_OUTPUT_BLOCK)};
        uint32_t inner = 0;
        do {
            compute(&job, outputs, inner);
            inner += COTERIE_INNER_BLOCK;
        } while (inner < product->in);
    }
}

/* One tile of rows: weights are read as they lie, once. */
static void stream(const job_t *job)
{
    const coterie_product_t *product = job->product;
    const coterie_tile_kind_t *kind = &job->kinds[product->rows - 1];
    uint32_t count;

    for (uint32_t output = 0; output < product->out; output += count) {
        uint32_t inner = 0;
        count = least(product->out - output, kind->outputs);
        do {
            const float *x[COTERIE_TILE_ROWS_MAX];
            coterie_tile_t tile = tile_at(job, output, inner);
            rows_at(product, (range_t){0, product->rows}, inner, x);
            tile.x = x;
            run_tiles(job, &tile, product->rows, count);
            inner += COTERIE_INNER_BLOCK;
        } while (inner < product->in);
    }
}

/* Many rows, one block of outputs and of the inner dimension: a tile of rows
 * stays in the nearest cache and meets all the outputs, whose weights are near
 * by. Tiles are of nearly equal numbers of rows; each asks for its share of
 * every weight row of the next block, so that memory is never idle. */
static void compute(const job_t *job, range_t outputs, uint32_t inner)
{
    const coterie_product_t *product = job->product;
    const uint32_t tiles =
        (product->rows + job->rows_max - 1) / job->rows_max;

    for (uint32_t t = 0; t < tiles; t++) {
        const uint32_t first = product->rows * t / tiles;
        const uint32_t rows = product->rows * (t + 1) / tiles - first;
        const uint32_t step = job->kinds[rows - 1].outputs;
        const float *x[COTERIE_TILE_ROWS_MAX];
        rows_at(product, (range_t){first, rows}, inner, x);
        for (uint32_t o = 0; o < outputs.count; o += step) {
            coterie_tile_t tile = tile_at(job, outputs.first + o, inner);
            tile.x = x;
            tile.y += first * product->y_stride;
            tile.ahead += tile.count * job->element * t / tiles;
            tile.ahead_step = (tile.ahead_step + tiles - 1) / tiles;
            run_tiles(job, &tile, rows, least(outputs.count - o, step));
        }
    }
}

static void rows_at(const coterie_product_t *product, range_t rows,
                    uint32_t inner, const float **x)
{
    for (uint32_t row = 0; row < rows.count; row++)
        x[row] = product->x[rows.first + row] + inner;
}

/* All rows of a tile times `outputs` outputs, which may be fewer than the
 * tile's kind has: then one by one. */
static void run_tiles(const job_t *job, const coterie_tile_t *tile,
                      uint32_t rows, uint32_t outputs)
{
    const coterie_tile_kind_t *kind = &job->kinds[rows - 1];

    if (outputs == kind->outputs) {
        kind->run(tile);
        return;
    }
    for (uint32_t o = 0; o < outputs; o++)
        for (uint32_t row = 0; row < rows; row++) {
            coterie_tile_t single = *tile;
            single.x += row;
            single.weight += o * tile->weight_stride;
            single.y += row * tile->y_stride + o;
            job->single(&single);
        }
}

static coterie_tile_t tile_at(const job_t *job, uint32_t output,
                              uint32_t inner)
{
    const coterie_product_t *product = job->product;
    return (coterie_tile_t){
        .weight = (const char *)product->weight +
                  output * product->weight_stride + inner * job->element,
        .weight_stride = product->weight_stride,
        .count = least(product->in - inner, COTERIE_INNER_BLOCK),
        .ahead = ahead_of(job, output, inner),
        .ahead_step = COTERIE_LANES * job->element,
        .add = inner > 0,
        .y = product->y + output,
        .y_stride = product->y_stride,
    };
}

/* Where to read from while a tile of `output` and `inner` is computed: the same
 * place in the block to come or, streaming, AHEAD_SIZE on, in whole steps. */
static const char *ahead_of(const job_t *job, uint32_t output,
                            uint32_t inner)
{
    const coterie_product_t *product = job->product;
    const size_t stride = product->weight_stride;
    const size_t end = product->out * stride;
    size_t at = output * stride + inner * job->element;

    if (product->rows <= job->rows_max) {
        const size_t outputs = job->kinds[product->rows - 1].outputs;
        const size_t step =
            outputs > 1 && stride > 0 ? outputs * stride : 1;
        at += (AHEAD_SIZE + step - 1) / step * step;
    } else if (inner + COTERIE_INNER_BLOCK < product->in) {
        at += COTERIE_INNER_BLOCK * job->element;
    } else {
        at = (output + COTERIE_OUTPUT_BLOCK) * stride;
    }
    if (at < end)
        return (const char *)product->weight + at;
    if (product->next == NULL)
        return product->weight; /* near by: asking costs nothing */
    return (const char *)product->next + (at - end);
}

static uint32_t least(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}
