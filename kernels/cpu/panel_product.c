#include "config.h"

#include <assert.h>

#include "kernels/cpu/cpu.h"

/* How far ahead of its use a weight is asked for: 8 KiB keeps a core's queue
 * to memory full, measured on Zen 4. */
enum { AHEAD_STEPS = 8192 / COTERIE_PANEL_VECTOR };

/* A product, and how it is cut: rows into tiles of nearly equal numbers, steps
 * of the inner dimension into blocks. */
typedef struct job {
    const coterie_panel_product_t *product;
    const coterie_panel_kind_t *kinds; /* by rows - 1 */
    uint32_t tiles, widest;            /* rows of the largest one */
    uint32_t elements;                 /* of a step */
    uint32_t steps, block;
    size_t words, panel_stride;
} job_t;

static job_t job_of(const coterie_cpu_ops_t *ops,
                    const coterie_panel_product_t *product);
static void stream(const job_t *job);
static void compute(const job_t *job);
static void tile_of_rows(const job_t *job, uint32_t tile, uint32_t *first,
                         uint32_t *rows);
static coterie_panel_tile_t tile_at(const job_t *job, uint32_t tile,
                                    uint32_t panel, uint32_t step);
static void tile_run(const job_t *job, uint32_t tile, uint32_t panels,
                     coterie_panel_tile_t *at);
static const char *panel_at(const job_t *job, uint32_t panel, uint32_t step);
static uint32_t least(uint32_t a, uint32_t b);

size_t coterie_panel_words(coterie_dtype_t dtype, uint32_t in)
{
    const uint32_t step = coterie_panels_step(dtype);
    return ((size_t)in + step - 1) / step * step;
}

void coterie_panel_pack_x(const coterie_cpu_ops_t *ops,
                          const coterie_panel_product_t *product,
                          const float *const *rows, float *to)
{
    const job_t job = job_of(ops, product);

    for (uint32_t tile = 0; tile < job.tiles; tile++) {
        uint32_t first, count;
        tile_of_rows(&job, tile, &first, &count);
        for (uint32_t row = 0; row < count; row++) {
            const float *from = rows[first + row];
            float *word = to + first * job.words + row;
            for (uint32_t k = 0; k < product->in; k++, word += count)
                *word = from[k];
            for (size_t k = product->in; k < job.words; k++, word += count)
                *word = 0;
        }
    }
}

void coterie_panel_product(const coterie_cpu_ops_t *ops,
                           const coterie_panel_product_t *product)
{
    const job_t job = job_of(ops, product);

    assert(product->rows > 0 && product->in > 0);
    if (job.tiles == 1)
        stream(&job);
    else
        compute(&job);
}

static job_t job_of(const coterie_cpu_ops_t *ops,
                    const coterie_panel_product_t *product)
{
    const uint32_t elements = coterie_panels_step(product->dtype);
    job_t job = {
        .product = product,
        .kinds = ops->panel[product->dtype - 1],
        .tiles = (product->rows + ops->panel_rows - 1) / ops->panel_rows,
        .elements = elements,
        .block = COTERIE_PANEL_BLOCK / elements,
        .words = coterie_panel_words(product->dtype, product->in),
    };

    job.widest = (product->rows + job.tiles - 1) / job.tiles;
    job.steps = (uint32_t)(job.words / elements);
    job.panel_stride = (size_t)job.steps * COTERIE_PANEL_VECTOR;
    return job;
}

/* One tile of rows: weights are read as they lie, once. */
static void stream(const job_t *job)
{
    const coterie_panel_product_t *product = job->product;
    const uint32_t wide = job->kinds[product->rows - 1].panels;
    uint32_t count;

    for (uint32_t panel = 0; panel < product->panels; panel += count) {
        count = least(product->panels - panel, wide);
        for (uint32_t step = 0; step < job->steps; step += job->block) {
            coterie_panel_tile_t at = tile_at(job, 0, panel, step);
            const uint32_t left = job->steps - step;
            at.ahead[0] = at.weight + AHEAD_STEPS * COTERIE_PANEL_VECTOR;
            at.ahead_step = COTERIE_PANEL_VECTOR;
            if (left < at.steps + AHEAD_STEPS) {
                at.turn = left > AHEAD_STEPS ? left - AHEAD_STEPS : 0;
                at.ahead[1] = panel_at(job, panel + count,
                                       at.turn + AHEAD_STEPS - left);
            }
            tile_run(job, 0, count, &at);
        }
    }
}

/* Many rows: the weights of a block and of a few panels, which stay near by,
 * meet all the tiles of rows. Each tile asks for its share of the next such
 * weights, so that memory is never idle. */
static void compute(const job_t *job)
{
    const coterie_panel_product_t *product = job->product;
    const uint32_t wide = job->kinds[job->widest - 1].panels;
    uint32_t count;

    for (uint32_t step = 0; step < job->steps; step += job->block)
        for (uint32_t panel = 0; panel < product->panels; panel += count) {
            const char *next = panel_at(job, panel + wide, step);
            count = least(product->panels - panel, wide);
            if (panel + wide >= product->panels &&
                step + job->block < job->steps)
                next = panel_at(job, 0, step + job->block);
            for (uint32_t tile = 0; tile < job->tiles; tile++) {
                coterie_panel_tile_t at = tile_at(job, tile, panel, step);
                at.ahead[0] = next + (size_t)at.steps * tile / job->tiles *
                                         COTERIE_PANEL_VECTOR;
                at.ahead_step = COTERIE_PANEL_VECTOR / job->tiles;
                tile_run(job, tile, count, &at);
            }
        }
}

static void tile_of_rows(const job_t *job, uint32_t tile, uint32_t *first,
                         uint32_t *rows)
{
    const uint32_t count = job->product->rows;
    *first = count * tile / job->tiles;
    *rows = count * (tile + 1) / job->tiles - *first;
}

static coterie_panel_tile_t tile_at(const job_t *job, uint32_t tile,
                                    uint32_t panel, uint32_t step)
{
    const coterie_panel_product_t *product = job->product;
    const uint32_t steps = least(job->steps - step, job->block);
    uint32_t first, rows;

    tile_of_rows(job, tile, &first, &rows);
    return (coterie_panel_tile_t){
        .x = product->x + first * job->words +
             (size_t)step * job->elements * rows,
        .weight = panel_at(job, panel, step),
        .panel_stride = job->panel_stride,
        .steps = steps,
        .turn = steps,
        .add = step > 0,
        .y = product->y + first * product->y_stride +
             (size_t)panel * COTERIE_PANEL_OUTPUTS,
        .y_stride = product->y_stride,
    };
}

/* A tile and so many panels: those of its kind at once, others one by one. */
static void tile_run(const job_t *job, uint32_t tile, uint32_t panels,
                     coterie_panel_tile_t *at)
{
    const coterie_panel_kind_t *kind;
    uint32_t first, rows;

    tile_of_rows(job, tile, &first, &rows);
    kind = &job->kinds[rows - 1];
    for (; panels >= kind->panels; panels -= kind->panels) {
        kind->run(at);
        at->weight += kind->panels * at->panel_stride;
        at->y += (size_t)kind->panels * COTERIE_PANEL_OUTPUTS;
    }
    for (; panels > 0; panels--) {
        kind->single(at);
        at->weight += at->panel_stride;
        at->y += COTERIE_PANEL_OUTPUTS;
    }
}

/* Beyond the last panel comes what is read next; if that is nothing, what is
 * near by, for which it costs nothing to ask. */
static const char *panel_at(const job_t *job, uint32_t panel, uint32_t step)
{
    const coterie_panel_product_t *product = job->product;
    const char *from = product->weight;

    if (panel >= product->panels) {
        from = product->next != NULL ? product->next : from;
        panel -= product->panels;
    }
    return from + panel * job->panel_stride +
           (size_t)step * COTERIE_PANEL_VECTOR;
}

static uint32_t least(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}
