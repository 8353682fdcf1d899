#include "config.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "bench/bench.h"
#include "bench/gpu_cublas.h"
#include "bench/gpu_layer.h"
#include "kernels/grouped.h"
#include "tests/draw.h"

enum {
    IMAGES = 2, /* distinct experts: others are copies in memory of their own */
    TURNS = 64, /* choices in turns: all experts are touched */
    REPEATS = 20,
    CHECKED = 4, /* tokens */
    COPY_SIZE = 1 << 28,
    POISON = 0xff
};

typedef struct shape {
    const char *name;
    uint32_t experts, k, hidden, ffn;
} shape_t;

struct gpu_layer {
    coterie_device_t *device;
    shape_t shape;
    uint32_t tokens;
    coterie_expert_weights_t *images, *experts_here;
    coterie_expert_weights_t *experts; /* on the device, as all below */
    char *weights;
    uint16_t *x, *inner;
    int32_t *ids_here; /* [TURNS, tokens, k], not on the device */
    float *x_here, *weight_here;
    coterie_gpu_pairs_t pairs[TURNS];
    double touched; /* experts of a turn on average */
    coterie_grouped_t *grouped; /* NULL: the device has no library */
    coterie_gpu_tile_t *tiles;  /* [TURNS, experts]: an expert's pairs, */
    uint32_t tile_count[TURNS];
    coterie_gpu_tile_t *tiles_there; /* and there */
    float *out, *y, *weight;
    char *from, *to;
    gpu_cublas_t cublas;
};

static const shape_t shapes[] = {{"qwen3-30b", 128, 8, 2048, 768},
                                 {"mixtral-8x7b", 8, 2, 4096, 14336},
                                 {"deepseek-v3", 256, 8, 7168, 2048},
                                 {"small", 16, 4, 256, 192}};

static void must(coterie_status_t status);
static void *room(const gpu_layer_t *l, size_t size);
static void *upload(const gpu_layer_t *l, const void *data, size_t size);
static coterie_ffn_shape_t ffn_shape(const gpu_layer_t *l);
static void weights_open(gpu_layer_t *l);
static void choices_open(gpu_layer_t *l);
static void *image_matrix(uint32_t out, uint32_t in);
static coterie_gpu_pairs_t pairs_open(const gpu_layer_t *l, const int32_t *ids,
                                      uint32_t tile);
static void grouped_open(gpu_layer_t *l);
static void tiles_fill(gpu_layer_t *l, uint32_t turn);
static int experts_launch(const gpu_layer_t *l, const coterie_gpu_pairs_t *p);
static int combine_launch(const gpu_layer_t *l, const coterie_gpu_pairs_t *p);
static void sums_want(const gpu_layer_t *l, uint32_t token, float *want);
static double seconds_since(const gpu_layer_t *l, double begin);

gpu_layer_t *gpu_layer_open(coterie_device_t *device, char shape,
                            uint32_t tokens)
{
    gpu_layer_t *l = calloc(1, sizeof(*l));
    size_t pairs;
    coterie_ffn_shape_t ffn;

    if (l == NULL)
        must(COTERIE_ERR_NO_MEMORY);
    l->device = device;
    l->shape = shapes[strchr(GPU_SHAPES, shape) - GPU_SHAPES];
    l->tokens = tokens;
    pairs = (size_t)tokens * l->shape.k;
    ffn = ffn_shape(l);
    weights_open(l);
    choices_open(l);
    l->inner = room(l, coterie_gpu_inner(&ffn, &l->pairs[0]) * 2);
    l->out = room(l, pairs * l->shape.hidden * sizeof(float));
    l->y = room(l, (size_t)tokens * l->shape.hidden * sizeof(float));
    l->from = room(l, COPY_SIZE);
    l->to = room(l, COPY_SIZE);
    grouped_open(l);
    must(gpu_cublas_open(device, &l->cublas));
    return l;
}

void gpu_layer_close(gpu_layer_t *l)
{
    const coterie_device_ops_t *ops = l->device->ops;
    void *const there[] = {l->experts,  l->weights,  l->x,        l->inner,
                           l->out,      l->y,        l->weight,   l->from,
                           l->to,       l->tiles_there};

    must(ops->wait(l->device, COTERIE_STREAM_COMPUTE));
    coterie_grouped_close(l->grouped);
    gpu_cublas_close(l->device, &l->cublas);
    for (uint32_t i = 0; i < TURNS; i++) {
        const coterie_gpu_pairs_t *p = &l->pairs[i];
        void *const all[] = {(void *)p->ids, p->first,      p->pair,  p->place,
                             p->tiles,       p->tile_count, p->counts};

        for (size_t j = 0; j < sizeof(all) / sizeof(all[0]); j++)
            ops->release(l->device, all[j]);
    }
    for (size_t i = 0; i < sizeof(there) / sizeof(there[0]); i++)
        ops->release(l->device, there[i]);
    for (uint32_t i = 0; i < IMAGES; i++) {
        free((void *)l->images[i].gate);
        free((void *)l->images[i].up);
        free((void *)l->images[i].down);
    }
    free(l->tiles);
    free(l->images);
    free(l->experts_here);
    free(l->ids_here);
    free(l->x_here);
    free(l->weight_here);
    free(l);
}

bool gpu_layer_check(const gpu_layer_t *l)
{
    const coterie_device_ops_t *ops = l->device->ops;
    const size_t row = l->shape.hidden, size = l->tokens * row * sizeof(float);
    float *y = malloc(size), *again = malloc(size);
    float *want = malloc(row * sizeof(*want)), largest = 0, off = 0;
    bool held;

    if (y == NULL || again == NULL || want == NULL)
        must(COTERIE_ERR_NO_MEMORY);
    for (int i = 0; i < 2; i++) {
        must(ops->fill(l->device, COTERIE_STREAM_COMPUTE, l->out, POISON,
                       (size_t)l->tokens * l->shape.k * row * sizeof(float)));
        must(ops->fill(l->device, COTERIE_STREAM_COMPUTE, l->y, POISON, size));
        must(ops->launched(l->device, "experts",
                           experts_launch(l, &l->pairs[0])));
        must(ops->launched(l->device, "combine",
                           combine_launch(l, &l->pairs[0])));
        must(ops->copy(l->device, COTERIE_STREAM_COMPUTE, i ? again : y, l->y,
                       size));
        must(ops->wait(l->device, COTERIE_STREAM_COMPUTE));
    }
    for (uint32_t i = 0; i < CHECKED && i < l->tokens; i++) {
        const size_t token = draw(l->tokens);

        sums_want(l, (uint32_t)token, want);
        for (size_t h = 0; h < row; h++) {
            const float error = fabsf(y[token * row + h] - want[h]);

            largest = fmaxf(largest, fabsf(want[h]));
            off = error <= off ? off : error;
        }
    }
    held = off <= 1e-2f * largest && memcmp(y, again, size) == 0;
    if (!held)
        fprintf(stderr, "%s, %u tokens: off by %g of %g%s\n", l->shape.name,
                l->tokens, (double)off, (double)largest,
                memcmp(y, again, size) == 0 ? "" : ", another time otherwise");
    free(want);
    free(again);
    free(y);
    return held;
}

double gpu_layer_experts(const gpu_layer_t *l, uint32_t turn)
{
    const uint32_t repeats = l->tokens > 512 ? 4 : REPEATS;
    const double begin = bench_seconds();
    int error = 0;

    for (uint32_t i = 0; i < repeats && error == 0; i++)
        error = experts_launch(l, &l->pairs[(turn * repeats + i) % TURNS]);
    must(l->device->ops->launched(l->device, "experts", error));
    return seconds_since(l, begin) / repeats;
}

double gpu_layer_combine(const gpu_layer_t *l, uint32_t turn)
{
    const double begin = bench_seconds();
    int error = 0;

    for (uint32_t i = 0; i < REPEATS && error == 0; i++)
        error = combine_launch(l, &l->pairs[(turn + i) % TURNS]);
    must(l->device->ops->launched(l->device, "combine", error));
    return seconds_since(l, begin) / REPEATS;
}

double gpu_layer_copy(const gpu_layer_t *l, uint32_t turn)
{
    const double begin = bench_seconds();

    (void)turn;
    for (uint32_t i = 0; i < REPEATS; i++)
        must(l->device->ops->copy(l->device, COTERIE_STREAM_COMPUTE, l->to,
                                  l->from, COPY_SIZE));
    return seconds_since(l, begin) / REPEATS;
}

double gpu_layer_permute(const gpu_layer_t *l, uint32_t turn)
{
    const double begin = bench_seconds();
    int error = 0;

    for (uint32_t i = 0; i < REPEATS && error == 0; i++) {
        const coterie_gpu_permute_t permute = {
            l->tokens, l->shape.k, l->shape.hidden,
            l->shape.hidden, l->pairs[(turn + i) % TURNS].place,
            l->x, (uint16_t *)l->out};

        error = l->device->kernels->permute(
            l->device->stream[COTERIE_STREAM_COMPUTE], &permute);
    }
    must(l->device->ops->launched(l->device, "permute", error));
    return seconds_since(l, begin) / REPEATS;
}

double gpu_layer_grouped(const gpu_layer_t *l, uint32_t turn)
{
    const uint32_t repeats = l->tokens > 512 ? 4 : REPEATS;
    const double begin = bench_seconds();

    if (l->grouped == NULL)
        return NAN;
    for (uint32_t i = 0; i < repeats; i++) {
        const uint32_t at = (turn * repeats + i) % TURNS;
        const size_t tiles = (size_t)at * l->shape.experts;

        must(coterie_grouped_rows(
            l->grouped,
            (coterie_gpu_permute_t){.rows = l->tokens,
                                    .k = l->shape.k,
                                    .hidden = l->shape.hidden,
                                    .place = l->pairs[at].place,
                                    .x = l->x}));
        must(coterie_grouped_ffn(
            l->grouped,
            &(coterie_grouped_call_t){l->experts_here, l->experts,
                                      l->tiles + tiles,
                                      l->tiles_there + tiles,
                                      l->tile_count[at], l->out}));
    }
    return seconds_since(l, begin) / repeats;
}

double gpu_layer_cublas(const gpu_layer_t *l, uint32_t turn)
{
    const double begin = bench_seconds();

    (void)turn;
    if (l->cublas.gemm == NULL)
        return NAN;
    must(l->device->ops->launched(l->device, "cublasGemmEx",
                                  gpu_cublas_multiply(&l->cublas)));
    return seconds_since(l, begin);
}

const char *gpu_layer_name(const gpu_layer_t *l)
{
    return l->shape.name;
}

uint32_t gpu_layer_tokens(const gpu_layer_t *l)
{
    return l->tokens;
}

uint32_t gpu_layer_tile(const gpu_layer_t *l)
{
    return l->pairs[0].tile;
}

double gpu_layer_flop(const gpu_layer_t *l)
{
    return 6.0 * l->tokens * l->shape.k * l->shape.hidden * l->shape.ffn;
}

double gpu_layer_weights(const gpu_layer_t *l)
{
    return l->touched * 6.0 * l->shape.hidden * l->shape.ffn;
}

double gpu_layer_parts(const gpu_layer_t *l)
{
    return 4.0 * l->tokens * l->shape.hidden * (l->shape.k + 1);
}

double gpu_layer_permuted(const gpu_layer_t *l)
{
    return 2.0 * l->tokens * l->shape.hidden * (l->shape.k + 1);
}

double gpu_layer_copied(const gpu_layer_t *l)
{
    (void)l;
    return 2.0 * COPY_SIZE;
}

static void must(coterie_status_t status)
{
    if (status == COTERIE_OK)
        return;
    fprintf(stderr, "gpu: %s: %s\n", coterie_strerror(status),
            coterie_last_error());
    exit(1);
}

static void *room(const gpu_layer_t *l, size_t size)
{
    void *p = NULL;

    must(l->device->ops->allocate(l->device, size, &p));
    must(l->device->ops->fill(l->device, COTERIE_STREAM_COMPUTE, p, 0, size));
    return p;
}

static void *upload(const gpu_layer_t *l, const void *data, size_t size)
{
    void *p = room(l, size);

    must(l->device->ops->copy(l->device, COTERIE_STREAM_COMPUTE, p, data,
                              size));
    must(l->device->ops->wait(l->device, COTERIE_STREAM_COMPUTE));
    return p;
}

static coterie_ffn_shape_t ffn_shape(const gpu_layer_t *l)
{
    return (coterie_ffn_shape_t){.hidden = l->shape.hidden,
                                 .ffn = l->shape.ffn,
                                 .dtype = COTERIE_DTYPE_BF16};
}

/* Every expert has memory of its own, and weights of one of the images. */
static void weights_open(gpu_layer_t *l)
{
    const shape_t *s = &l->shape;
    const size_t matrix = (size_t)s->hidden * s->ffn * 2;
    coterie_device_t *d = l->device;

    l->images = calloc(IMAGES, sizeof(*l->images));
    l->experts_here = calloc(s->experts, sizeof(*l->experts_here));
    if (l->images == NULL || l->experts_here == NULL)
        must(COTERIE_ERR_NO_MEMORY);
    for (uint32_t i = 0; i < IMAGES; i++)
        l->images[i] = (coterie_expert_weights_t){
            .gate = image_matrix(s->ffn, s->hidden),
            .up = image_matrix(s->ffn, s->hidden),
            .down = image_matrix(s->hidden, s->ffn)};
    l->weights = room(l, 3 * matrix * s->experts);
    for (uint32_t e = 0; e < s->experts; e++) {
        const coterie_expert_weights_t *image = &l->images[e % IMAGES];
        const void *const from[] = {image->gate, image->up, image->down};
        char *to = l->weights + 3 * matrix * e;

        for (int i = 0; i < 3; i++)
            must(d->ops->copy(d, COTERIE_STREAM_COMPUTE, to + i * matrix,
                              from[i], matrix));
        l->experts_here[e] = (coterie_expert_weights_t){
            .gate = to, .up = to + matrix, .down = to + 2 * matrix};
    }
    l->experts = upload(l, l->experts_here,
                        s->experts * sizeof(*l->experts_here));
}

/* Panels need no packing here: any numbers will do. */
static void *image_matrix(uint32_t out, uint32_t in)
{
    const float scale = 1 / sqrtf((float)in);
    uint16_t *codes = malloc((size_t)out * in * sizeof(*codes));

    if (codes == NULL)
        must(COTERIE_ERR_NO_MEMORY);
    for (size_t i = 0; i < (size_t)out * in; i++) {
        const float value = scale * ((float)draw(1 << 16) / (1 << 15) - 1);
        uint32_t bits;

        memcpy(&bits, &value, sizeof(bits));
        codes[i] = (uint16_t)(bits >> 16);
    }
    return codes;
}

static void choices_open(gpu_layer_t *l)
{
    const shape_t *s = &l->shape;
    const size_t count = (size_t)l->tokens * s->k;
    const size_t values = (size_t)l->tokens * s->hidden;
    const coterie_ffn_shape_t ffn = ffn_shape(l);
    const uint32_t tile =
        coterie_device_tile(l->device, &ffn, l->tokens, s->k, s->experts);
    float *x_there;

    l->x_here = malloc(values * sizeof(*l->x_here));
    l->weight_here = malloc(count * sizeof(*l->weight_here));
    l->ids_here = malloc(TURNS * count * sizeof(*l->ids_here));
    if (l->x_here == NULL || l->weight_here == NULL || l->ids_here == NULL)
        must(COTERIE_ERR_NO_MEMORY);
    for (size_t i = 0; i < values; i++)
        l->x_here[i] = (float)draw(1 << 16) / (1 << 15) - 1;
    for (size_t i = 0; i < count; i++)
        l->weight_here[i] = (float)draw(1 << 16) / (1 << 16);
    x_there = upload(l, l->x_here, values * sizeof(*l->x_here));
    l->weight = upload(l, l->weight_here, count * sizeof(*l->weight_here));
    l->x = room(l, values * sizeof(*l->x));
    must(l->device->ops->launched(
        l->device, "narrow",
        l->device->kernels->narrow(l->device->stream[COTERIE_STREAM_COMPUTE],
                                   values, x_there, l->x)));
    must(l->device->ops->wait(l->device, COTERIE_STREAM_COMPUTE));
    l->device->ops->release(l->device, x_there);
    for (uint32_t t = 0; t < TURNS; t++) {
        int32_t *ids = l->ids_here + t * count;
        bool chosen[256] = {false};

        for (uint32_t i = 0; i < l->tokens; i++) {
            const uint32_t begin = draw(s->experts);
            /* Distinct, for it has no divisor in common with the count. */
            const uint32_t step = 2 * draw(s->experts / 2) + 1;

            for (uint32_t j = 0; j < s->k; j++) {
                const uint32_t e = (begin + j * step) % s->experts;

                ids[i * s->k + j] = (int32_t)e;
                l->touched += chosen[e] ? 0 : 1.0 / TURNS;
                chosen[e] = true;
            }
        }
        l->pairs[t] = pairs_open(l, ids, tile);
    }
}

static coterie_gpu_pairs_t pairs_open(const gpu_layer_t *l, const int32_t *ids,
                                      uint32_t tile)
{
    const size_t count = (size_t)l->tokens * l->shape.k;
    coterie_gpu_pairs_t p = {.rows = l->tokens,
                             .k = l->shape.k,
                             .expert_count = l->shape.experts,
                             .tile = tile};

    p.ids = upload(l, ids, count * sizeof(*ids));
    p.first = room(l, (l->shape.experts + 1) * sizeof(*p.first));
    p.pair = room(l, count * sizeof(*p.pair));
    p.place = room(l, count * sizeof(*p.place));
    p.tiles = room(l, coterie_gpu_tiles(&p) * sizeof(*p.tiles));
    p.tile_count = room(l, sizeof(*p.tile_count));
    p.counts = room(l, coterie_gpu_chunks(&p) * (size_t)l->shape.experts *
                           sizeof(*p.counts));
    must(l->device->ops->launched(
        l->device, "sort",
        l->device->kernels->sort(l->device->stream[COTERIE_STREAM_COMPUTE],
                                 &p)));
    return p;
}

/* Weights are any numbers, so those in panels do as matrices in rows. */
static void grouped_open(gpu_layer_t *l)
{
    const coterie_products_t none = {.count = 0};
    const size_t size =
        (size_t)TURNS * l->shape.experts * sizeof(*l->tiles);
    const coterie_grouped_options_t options = {
        .shape = ffn_shape(l),
        .pairs = l->tokens * l->shape.k,
        .experts = l->shape.experts,
        .plain = true};

    if (l->device->ops->products(l->device, &none) != COTERIE_OK) {
        fprintf(stderr, "gpu: %s\n", coterie_last_error());
        return;
    }
    l->tiles = calloc(1, size);
    if (l->tiles == NULL)
        must(COTERIE_ERR_NO_MEMORY);
    for (uint32_t t = 0; t < TURNS; t++)
        tiles_fill(l, t);
    l->tiles_there = upload(l, l->tiles, size);
    must(coterie_grouped_open(l->device, &options, &l->grouped));
}

static void tiles_fill(gpu_layer_t *l, uint32_t turn)
{
    const size_t pairs = (size_t)l->tokens * l->shape.k;
    const int32_t *ids = l->ids_here + turn * pairs;
    coterie_gpu_tile_t *tiles = l->tiles + turn * l->shape.experts;
    uint32_t count[256] = {0}, first = 0;

    for (size_t i = 0; i < pairs; i++)
        count[ids[i]]++;
    for (uint32_t e = 0; e < l->shape.experts; first += count[e++])
        if (count[e] > 0)
            tiles[l->tile_count[turn]++] =
                (coterie_gpu_tile_t){e, first, count[e]};
}

static int experts_launch(const gpu_layer_t *l, const coterie_gpu_pairs_t *p)
{
    const coterie_gpu_ffn_t ffn = {.shape = ffn_shape(l),
                                   .experts = l->experts,
                                   .pairs = p,
                                   .x = l->x,
                                   .inner = l->inner,
                                   .out = l->out,
                                   .blocks = l->device->blocks};

    return l->device->kernels->ffn(l->device->stream[COTERIE_STREAM_COMPUTE],
                                   &ffn);
}

static int combine_launch(const gpu_layer_t *l, const coterie_gpu_pairs_t *p)
{
    const coterie_gpu_combine_t combine = {.rows = l->tokens,
                                           .k = l->shape.k,
                                           .hidden = l->shape.hidden,
                                           .place = p->place,
                                           .weight = l->weight,
                                           .out = l->out,
                                           .y = l->y};

    return l->device->kernels->combine(
        l->device->stream[COTERIE_STREAM_COMPUTE], &combine);
}

/* One token's, on the processor. */
static void sums_want(const gpu_layer_t *l, uint32_t token, float *want)
{
    const uint32_t first[] = {0, 1}, row[] = {0};
    coterie_ffn_shape_t shape = ffn_shape(l);
    void *scratch;

    shape.compute = COTERIE_COMPUTE_BF16;
    scratch = malloc(coterie_expert_ffn_scratch(&shape));
    if (scratch == NULL)
        must(COTERIE_ERR_NO_MEMORY);
    memset(want, 0, l->shape.hidden * sizeof(*want));
    for (uint32_t j = 0; j < l->shape.k; j++) {
        const size_t at = (size_t)token * l->shape.k + j;
        const coterie_expert_rows_t rows = {1, 1, first, row,
                                            &l->weight_here[at]};

        coterie_expert_ffn(&shape, &l->images[l->ids_here[at] % IMAGES],
                           &rows, l->x_here + (size_t)token * l->shape.hidden,
                           want, scratch);
    }
    free(scratch);
}

static double seconds_since(const gpu_layer_t *l, double begin)
{
    must(l->device->ops->wait(l->device, COTERIE_STREAM_COMPUTE));
    return bench_seconds() - begin;
}
