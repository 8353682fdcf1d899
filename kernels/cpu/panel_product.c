#include "config.h"

#include <assert.h>

#include "kernels/cpu/panel.h"

/* Panels read side by side are as many streams, which end before the processor
 * makes up for their beginning; so the next ones are asked for as one, unless
 * they would not stay in the second-level cache. Measured on Zen 4. */
enum { NEAR = 320 << 10 };

/* A product, and how it is cut: rows into tiles of nearly equal numbers, steps
 * of the inner dimension into blocks. */
typedef struct job {
    const coterie_panel_product_t *product;
    const coterie_panel_tiles_t *tiles;
    uint32_t count;        /* of tiles of rows */
    uint32_t elements;     /* of a step */
    uint32_t steps, block; /* of a panel */
    uint32_t word;         /* elements of a word of x */
    size_t words_size;     /* of a row of x, without its spans */
    size_t row_size;
    size_t panel_stride;
    /* Bytes of the scales of a panel, and of a span of it (0: has no spans). */
    size_t scale_stride, scale_span;
    uint32_t span; /* elements */
} job_t;

static job_t job_of(const coterie_panel_product_t *product);
static void stream(const job_t *job);
static void compute(const job_t *job);
static void ahead_set(const job_t *job, const char *next, uint32_t t,
                      coterie_panel_tile_t *tile);
static uint32_t tile_first(uint32_t rows, uint32_t tiles, uint32_t tile);
static coterie_panel_tile_t tile_at(const job_t *job, uint32_t tile,
                                    uint32_t panel, uint32_t step);
static void tile_run(const job_t *job, uint32_t panel, uint32_t panels,
                     const coterie_panel_tile_t *tile);
static void scales_at(const job_t *job, uint32_t panel, uint32_t panels,
                      uint32_t step, coterie_panel_tile_t *tile);
static const char *panel_at(const job_t *job, uint32_t panel, uint32_t step);
static uint32_t divide_up(uint32_t value, uint32_t by);
static uint32_t least(uint32_t a, uint32_t b);

/* Without tiles for bf16 words, f32 words hold the rounded values. */
coterie_panel_method_t coterie_panel_method(const coterie_cpu_panels_t *panels,
                                            coterie_dtype_t dtype,
                                            coterie_compute_t compute)
{
    coterie_panel_method_t method = {.dtype = dtype, .compute = compute};

    if (compute == COTERIE_COMPUTE_INT8)
        method.words = COTERIE_WORDS_INT8;
    if (compute == COTERIE_COMPUTE_BF16 &&
        panels->table[COTERIE_WORDS_BF16] != NULL)
        method.words = COTERIE_WORDS_BF16;
    method.tiles = &(*panels->table[method.words])[dtype - 1];
    if (panels->better[method.words] != NULL &&
        (*panels->better[method.words])[dtype - 1].rows > 0)
        method.tiles = &(*panels->better[method.words])[dtype - 1];
    method.span = panels->span[method.words];
    return method;
}

void coterie_panel_multiply(const coterie_panel_product_t *product)
{
    const job_t job = job_of(product);

    assert(product->rows > 0 && product->in > 0);
    if (job.count == 1)
        stream(&job);
    else
        compute(&job);
}

static job_t job_of(const coterie_panel_product_t *product)
{
    const coterie_panel_method_t *method = product->method;
    const uint32_t elements = coterie_panel_elements(method->dtype);
    job_t job = {
        .product = product,
        .tiles = method->tiles,
        .count = divide_up(product->rows, method->tiles->rows),
        .elements = elements,
        .steps = divide_up(product->in, elements),
        .block = (method->words == COTERIE_WORDS_INT8 ? COTERIE_BLOCK_BYTES
                                                      : COTERIE_BLOCK_FLOATS) /
                 elements,
        .word = (uint32_t)coterie_panel_word_elements(method->words),
        .words_size = coterie_panel_words_size(method, product->in),
        .row_size = coterie_panel_row_size(method, product->in),
    };

    job.panel_stride =
        coterie_panel_vectors(method->dtype, job.steps) * COTERIE_PANEL_VECTOR;
    job.span = coterie_panel_span(COTERIE_WORDS_F32, method->dtype);
    job.scale_stride = coterie_panels_scales_size(
        method->dtype, COTERIE_PANEL_OUTPUTS, product->in);
    if (job.scale_stride > 0 && job.span > 0)
        job.scale_span = job.scale_stride / divide_up(product->in, job.span);
    return job;
}

/* One tile of rows: weights are read as they lie, once. */
static void stream(const job_t *job)
{
    const coterie_panel_product_t *product = job->product;
    const uint32_t wide = job->tiles->kind[product->rows - 1].panels;
    const uint32_t at_once =
        job->steps <= job->block && wide == 1 ? product->panels : wide;
    uint32_t count;

    for (uint32_t panel = 0; panel < product->panels; panel += count) {
        count = least(product->panels - panel, at_once);
        for (uint32_t step = 0; step < job->steps; step += job->block) {
            coterie_panel_tile_t tile = tile_at(job, 0, panel, step);
            if (wide * job->panel_stride <= NEAR)
                tile.ahead = panel_at(job, panel + wide, 0) +
                             wide * (size_t)(tile.weight -
                                             panel_at(job, panel, 0));
            tile.ahead_step = wide * COTERIE_PANEL_VECTOR;
            tile.ahead_stride = COTERIE_PANEL_VECTOR;
            tile_run(job, panel, count, &tile);
        }
    }
}

/* Many rows: the weights of a block and of a few panels, which stay near by,
 * meet all the tiles of rows. Each tile asks for its share of the next such
 * weights, so that memory is never idle. */
static void compute(const job_t *job)
{
    const coterie_panel_product_t *product = job->product;
    const uint32_t wide = COTERIE_PANELS_MAX;

    for (uint32_t step = 0; step < job->steps; step += job->block)
        for (uint32_t panel = 0; panel < product->panels; panel += wide) {
            const char *next = panel_at(job, panel + wide, step);
            if (panel + wide >= product->panels &&
                step + job->block < job->steps)
                next = panel_at(job, 0, step + job->block);
            for (uint32_t t = 0; t < job->count; t++) {
                coterie_panel_tile_t tile = tile_at(job, t, panel, step);
                ahead_set(job, next, t, &tile);
                tile_run(job, panel, least(product->panels - panel, wide),
                         &tile);
            }
        }
}

/* The tile's share: of what lies end to end one stretch, else one of each
 * panel. */
static void ahead_set(const job_t *job, const char *next, uint32_t t,
                      coterie_panel_tile_t *tile)
{
    const uint32_t panels = job->tiles->kind[tile->rows - 1].panels;
    const size_t vectors =
        coterie_panel_vectors(job->product->method->dtype, tile->steps);
    const uint32_t line = COTERIE_PANEL_VECTOR;
    const uint32_t together = job->steps <= job->block ? panels : 1;

    tile->ahead_near = true;
    tile->ahead = next + vectors * together * t / job->count * line;
    tile->ahead_step = (size_t)line * together / job->count;
    tile->ahead_stride =
        together > 1 ? line / job->count : job->panel_stride;
}

static uint32_t tile_first(uint32_t rows, uint32_t tiles, uint32_t tile)
{
    if (tiles == 1) /* saves a division where time is short */
        return rows * tile;
    return (uint32_t)((uint64_t)rows * tile / tiles);
}

static coterie_panel_tile_t tile_at(const job_t *job, uint32_t tile,
                                    uint32_t panel, uint32_t step)
{
    const coterie_panel_product_t *product = job->product;
    const uint32_t steps = least(job->steps - step, job->block);
    const uint32_t first = tile_first(product->rows, job->count, tile);
    const size_t element = (size_t)step * job->elements;
    const char *x = product->x + first * job->row_size;

    return (coterie_panel_tile_t){
        .x = x + element / job->word * 4,
        .x_spans = x + job->words_size +
                   element / COTERIE_SPAN * COTERIE_SPAN_WORDS * 4,
        .x_stride = job->row_size,
        .rows = tile_first(product->rows, job->count, tile + 1) - first,
        .weight = panel_at(job, panel, step),
        .panel_stride = job->panel_stride,
        .steps = steps,
        .add = step > 0,
        .y = product->y + first * product->y_stride +
             (size_t)panel * COTERIE_PANEL_OUTPUTS,
        .y_stride = product->y_stride,
    };
}

/* The tile's rows and so many panels: those of its kind at once, what is left
 * over one by one. */
static void tile_run(const job_t *job, uint32_t panel, uint32_t panels,
                     const coterie_panel_tile_t *tile)
{
    const coterie_panel_kind_t *kind = &job->tiles->kind[tile->rows - 1];
    const uint32_t step = (uint32_t)((size_t)(tile->weight -
                                              panel_at(job, panel, 0)) /
                                     COTERIE_PANEL_VECTOR);
    coterie_panel_tile_t at = *tile;

    for (; panels >= kind->panels; panels -= kind->panels) {
        scales_at(job, panel, kind->panels, step, &at);
        kind->run(&at);
        at.weight += kind->panels * at.panel_stride;
        if (at.ahead != NULL)
            at.ahead += kind->panels * at.panel_stride;
        at.y += (size_t)kind->panels * COTERIE_PANEL_OUTPUTS;
        panel += kind->panels;
    }
    for (; panels > 0; panels--, panel++) {
        scales_at(job, panel, 1, step, &at);
        for (uint32_t row = 0; row < tile->rows; row++) {
            coterie_panel_tile_t single = at;
            single.x += row * at.x_stride;
            single.x_spans += row * at.x_stride;
            single.y += row * at.y_stride;
            job->tiles->single(&single);
        }
        at.weight += at.panel_stride;
        at.y += COTERIE_PANEL_OUTPUTS;
    }
}

/* Of the panels of a tile, from its first element on. */
static void scales_at(const job_t *job, uint32_t panel, uint32_t panels,
                      uint32_t step, coterie_panel_tile_t *tile)
{
    const coterie_panel_product_t *product = job->product;
    const uint32_t share = product->method->dtype == COTERIE_DTYPE_FP8
                               ? COTERIE_FP8_BLOCK / COTERIE_PANEL_OUTPUTS
                               : 1;
    const size_t from =
        job->span > 0 ? step * job->elements / job->span * job->scale_span
                      : 0;

    for (uint32_t p = 0; job->scale_stride > 0 && p < panels; p++)
        tile->scale[p] = product->scale + from +
                         (product->first + panel + p) / share *
                             job->scale_stride;
}

/* Beyond the last panel comes what is read next; if that is nothing, what is
 * near by, for which it costs nothing to ask. */
static const char *panel_at(const job_t *job, uint32_t panel, uint32_t step)
{
    const coterie_panel_product_t *product = job->product;
    const char *from =
        product->weight + product->first * job->panel_stride;

    if (panel >= product->panels) {
        from = product->next != NULL ? product->next : from;
        panel -= product->panels;
    }
    return from + panel * job->panel_stride +
           coterie_panel_vectors(product->method->dtype, step) *
               COTERIE_PANEL_VECTOR;
}

static uint32_t divide_up(uint32_t value, uint32_t by)
{
    return (value + by - 1) / by;
}

static uint32_t least(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}
