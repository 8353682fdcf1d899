/* Expert kernels against what the machine allows: one layer's experts, weights
 * from memory, in turns with the read bandwidth, the peak of multiply-adds and
 * (f32, if it can be loaded) OpenBLAS, all on one thread and in its processor
 * time.
 *
 * usage: kernels [--shape Q|M|D] [--dtype f32|f16|bf16] [--seconds S]
 *
 * One JSON object a line for each number of tokens; medians. `roofline` is
 * what is possible: the peak, or the bandwidth times FLOP per byte if that is
 * lower; `share` is how much of it was reached. OpenBLAS gets its rows already
 * gathered, and computes the three products alone. */
#include "config.h"

#include <dlfcn.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <coterie/coterie.h>

#include "bench/bench.h"
#include "bench/limits.h"

enum { RUNS_MIN = 3, RUNS_MAX = 31 };

typedef struct shape {
    const char *name;
    uint32_t hidden, ffn, experts, held, k;
} shape_t;

/* Issue-sized models: Qwen3-30B, Mixtral 8x7B, DeepSeek-V3 on 4 ranks. */
static const shape_t shapes[] = {
    {"Q", 2048, 768, 128, 128, 8},
    {"M", 4096, 14336, 8, 8, 2},
    {"D", 7168, 2048, 256, 64, 8},
};

static const char *const dtype_names[] = {"", "f32", "f16", "bf16"};

typedef struct settings {
    const shape_t *shape;
    coterie_dtype_t dtype;
    double seconds; /* to go on with one number of tokens */
} settings_t;

/* One layer's experts. */
typedef struct layer {
    const shape_t *shape;
    coterie_dtype_t dtype;
    size_t matrix_size;
    char *weights;
    coterie_expert_weights_t *experts;
} layer_t;

/* Tokens that chose experts at random. */
typedef struct batch {
    uint32_t tokens, distinct;
    uint32_t *first, *row;
    float *weight, *x, *sums, *inner;
    void *scratch;
    coterie_expert_rows_t rows;
} batch_t;

typedef void (*sgemm_fn)(int order, int trans_a, int trans_b, int m, int n,
                         int k, float alpha, const float *a, int lda,
                         const float *b, int ldb, float beta, float *c,
                         int ldc);

/* Of every run: rates in FLOP/s and bandwidth in bytes/s; peer 0 = none. */
typedef struct figures {
    int runs;
    double ours[RUNS_MAX], peer[RUNS_MAX], peak[RUNS_MAX], band[RUNS_MAX];
    double flops, bytes; /* of all runs */
} figures_t;

static int settings_read(int argc, char **argv, settings_t *settings);
static sgemm_fn peer_open(void);
static void *allocate(size_t size);
static void layer_make(layer_t *layer, const settings_t *settings);
static void layer_free(layer_t *layer);
static void batch_make(batch_t *batch, const layer_t *layer, uint32_t tokens);
static void batch_route(batch_t *batch, const shape_t *shape);
static void batch_free(batch_t *batch);
static void tokens_measure(const settings_t *settings, const layer_t *layer,
                           uint32_t tokens, sgemm_fn sgemm);
static void run_measure(const layer_t *layer, batch_t *batch, sgemm_fn sgemm,
                        figures_t *figures);
static double ours_measure(const layer_t *layer, batch_t *batch);
static double peer_measure(const layer_t *layer, batch_t *batch,
                           sgemm_fn sgemm);
static void figures_print(const settings_t *settings, uint32_t tokens,
                          figures_t *figures);

int main(int argc, char **argv)
{
    static const uint32_t tokens[] = {1, 8, 64, 512};
    settings_t settings = {shapes, COTERIE_DTYPE_BF16, 1};
    layer_t layer;
    sgemm_fn sgemm;

    if (settings_read(argc, argv, &settings) != 0) {
        fprintf(stderr, "usage: %s [--shape Q|M|D] [--dtype f32|f16|bf16] "
                        "[--seconds S]\n", argv[0]);
        return 2;
    }
    sgemm = settings.dtype == COTERIE_DTYPE_F32 ? peer_open() : NULL;
    layer_make(&layer, &settings);
    for (size_t i = 0; i < sizeof(tokens) / sizeof(tokens[0]); i++)
        tokens_measure(&settings, &layer, tokens[i], sgemm);
    layer_free(&layer);
    return 0;
}

static int settings_read(int argc, char **argv, settings_t *settings)
{
    static const struct option options[] = {
        {"shape", required_argument, NULL, 's'},
        {"dtype", required_argument, NULL, 'd'},
        {"seconds", required_argument, NULL, 't'},
        {NULL, 0, NULL, 0},
    };
    int option, bad = 0;

    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        int found = option == 't' && (settings->seconds = atof(optarg)) > 0;
        for (int i = 0; option == 's' && i < 3; i++)
            if (strcmp(optarg, shapes[i].name) == 0) {
                settings->shape = &shapes[i];
                found = 1;
            }
        for (int i = 1; option == 'd' && i <= COTERIE_DTYPE_BF16; i++)
            if (strcmp(optarg, dtype_names[i]) == 0) {
                settings->dtype = i;
                found = 1;
            }
        bad |= !found;
    }
    return bad || optind < argc;
}

/* Debian's OpenBLAS, on the calling thread. */
static sgemm_fn peer_open(void)
{
    void *const library = dlopen("libopenblas.so.0", RTLD_NOW);
    void (*set_threads)(int) = NULL;
    sgemm_fn sgemm = NULL;

    if (library == NULL)
        return NULL;
    *(void **)&set_threads = dlsym(library, "openblas_set_num_threads");
    *(void **)&sgemm = dlsym(library, "cblas_sgemm");
    if (set_threads != NULL)
        set_threads(1);
    return sgemm;
}

static void *allocate(size_t size)
{
    void *memory = aligned_alloc(4096, (size + 4095) / 4096 * 4096);
    if (memory == NULL) {
        fprintf(stderr, "no %zu bytes of memory\n", size);
        exit(1);
    }
    return memory;
}

static void layer_make(layer_t *layer, const settings_t *settings)
{
    const shape_t *shape = settings->shape;
    const size_t bytes = settings->dtype == COTERIE_DTYPE_F32 ? 4 : 2;
    size_t size;

    layer->shape = shape;
    layer->dtype = settings->dtype;
    layer->matrix_size = (size_t)shape->hidden * shape->ffn * bytes;
    size = layer->matrix_size * 3 * shape->held;
    layer->weights = allocate(size);
    layer->experts = allocate(shape->held * sizeof(*layer->experts));
    /* Any bytes of small values will do: 0x3c is about 0.01 in bf16 and f32,
     * and 1 in f16. */
    memset(layer->weights, 0x3c, size);
    for (uint32_t e = 0; e < shape->held; e++) {
        const char *gate = layer->weights + 3 * e * layer->matrix_size;
        layer->experts[e] = (coterie_expert_weights_t){
            .gate = gate,
            .up = gate + layer->matrix_size,
            .down = gate + 2 * layer->matrix_size};
    }
}

static void layer_free(layer_t *layer)
{
    free(layer->weights);
    free(layer->experts);
}

static void batch_make(batch_t *batch, const layer_t *layer, uint32_t tokens)
{
    const shape_t *shape = layer->shape;
    const coterie_ffn_shape_t ffn = {.hidden = shape->hidden,
                                     .ffn = shape->ffn,
                                     .dtype = layer->dtype};
    const size_t pairs = (size_t)tokens * shape->k;
    const size_t size = (size_t)tokens * shape->hidden * sizeof(float);

    batch->tokens = tokens;
    batch->first = allocate((shape->held + 1) * sizeof(uint32_t));
    batch->row = allocate(pairs * sizeof(uint32_t));
    batch->weight = allocate(pairs * sizeof(float));
    batch->x = allocate(size);
    batch->sums = allocate(size);
    batch->scratch = allocate(coterie_expert_ffn_scratch(&ffn));
    batch->inner = allocate((size_t)tokens * shape->ffn * sizeof(float));
    for (size_t i = 0; i < size / sizeof(float); i++)
        batch->x[i] = (float)(i % 7) - 3;
    for (size_t i = 0; i < pairs; i++)
        batch->weight[i] = 1.0f / (float)shape->k;
}

/* Every token chooses k distinct experts of all; those not held are another
 * rank's. */
static void batch_route(batch_t *batch, const shape_t *shape)
{
    unsigned char *chosen = allocate((size_t)batch->tokens * shape->experts);
    uint32_t count = 0;

    memset(chosen, 0, (size_t)batch->tokens * shape->experts);
    for (uint32_t t = 0; t < batch->tokens; t++)
        for (uint32_t i = 0; i < shape->k;) {
            unsigned char *mark = &chosen[(size_t)t * shape->experts +
                                          (uint32_t)rand() % shape->experts];
            i += !*mark;
            *mark = 1;
        }
    batch->distinct = 0;
    for (uint32_t e = 0; e < shape->held; e++) {
        batch->first[e] = count;
        for (uint32_t t = 0; t < batch->tokens; t++)
            if (chosen[(size_t)t * shape->experts + e])
                batch->row[count++] = t;
        batch->distinct += count > batch->first[e];
    }
    batch->first[shape->held] = count;
    batch->rows = (coterie_expert_rows_t){shape->held, batch->tokens,
                                          batch->first, batch->row,
                                          batch->weight};
    free(chosen);
}

static void batch_free(batch_t *batch)
{
    free(batch->first);
    free(batch->row);
    free(batch->weight);
    free(batch->x);
    free(batch->sums);
    free(batch->scratch);
    free(batch->inner);
}

/* Runs of everything in turns, so that all see the same machine; each routes
 * anew, so that weights come from memory. */
static void tokens_measure(const settings_t *settings, const layer_t *layer,
                           uint32_t tokens, sgemm_fn sgemm)
{
    const double start = bench_seconds();
    figures_t figures = {0};
    batch_t batch;

    batch_make(&batch, layer, tokens);
    while (figures.runs < RUNS_MAX &&
           (figures.runs < RUNS_MIN ||
            bench_seconds() - start < settings->seconds)) {
        do
            batch_route(&batch, layer->shape);
        while (batch.distinct == 0);
        run_measure(layer, &batch, sgemm, &figures);
    }
    figures_print(settings, tokens, &figures);
    batch_free(&batch);
}

static void run_measure(const layer_t *layer, batch_t *batch, sgemm_fn sgemm,
                        figures_t *figures)
{
    const shape_t *shape = layer->shape;
    const int run = figures->runs++;
    const double flops = 6.0 * batch->first[shape->held] * shape->hidden *
                         shape->ffn;

    figures->band[run] =
        limits_read(layer->weights, layer->matrix_size * 3 * shape->held);
    figures->peak[run] = limits_peak();
    figures->ours[run] = flops / ours_measure(layer, batch);
    if (sgemm != NULL)
        figures->peer[run] = flops / peer_measure(layer, batch, sgemm);
    figures->flops += flops;
    figures->bytes += 3.0 * batch->distinct * (double)layer->matrix_size;
}

static double ours_measure(const layer_t *layer, batch_t *batch)
{
    const coterie_ffn_shape_t shape = {.hidden = layer->shape->hidden,
                                       .ffn = layer->shape->ffn,
                                       .dtype = layer->dtype};
    double start;

    memset(batch->sums, 0,
           (size_t)batch->tokens * shape.hidden * sizeof(float));
    start = limits_seconds();
    coterie_expert_ffn(&shape, layer->experts, &batch->rows, batch->x,
                       batch->sums, batch->scratch);
    return limits_seconds() - start;
}

static double peer_measure(const layer_t *layer, batch_t *batch,
                           sgemm_fn sgemm)
{
    enum { ROW_MAJOR = 101, PLAIN = 111, TRANSPOSED = 112 };
    const int hidden = (int)layer->shape->hidden, ffn = (int)layer->shape->ffn;
    const double start = limits_seconds();

    for (uint32_t e = 0; e < layer->shape->held; e++) {
        const int n = (int)(batch->first[e + 1] - batch->first[e]);
        const coterie_expert_weights_t *expert = &layer->experts[e];
        if (n == 0)
            continue;
        sgemm(ROW_MAJOR, PLAIN, TRANSPOSED, n, ffn, hidden, 1, batch->x,
              hidden, expert->gate, hidden, 0, batch->inner, ffn);
        sgemm(ROW_MAJOR, PLAIN, TRANSPOSED, n, ffn, hidden, 1, batch->x,
              hidden, expert->up, hidden, 0, batch->inner, ffn);
        sgemm(ROW_MAJOR, PLAIN, TRANSPOSED, n, hidden, ffn, 1, batch->inner,
              ffn, expert->down, ffn, 0, batch->sums, hidden);
    }
    return limits_seconds() - start;
}

static void figures_print(const settings_t *settings, uint32_t tokens,
                          figures_t *figures)
{
    const size_t runs = (size_t)figures->runs;
    const double ours = bench_median(figures->ours, runs);
    const double peer = bench_median(figures->peer, runs);
    const double peak = bench_median(figures->peak, runs);
    const double band = bench_median(figures->band, runs);
    const double fed = band * figures->flops / figures->bytes;
    const double roofline = peak > 0 && peak < fed ? peak : fed;

    printf("{\"shape\": \"%s\", \"dtype\": \"%s\", \"isa\": \"%s\", "
           "\"tokens\": %u, \"runs\": %zu, \"gflops\": %.1f, "
           "\"gbs\": %.1f, \"read_gbs\": %.1f, \"peak_gflops\": %.1f, "
           "\"roofline_gflops\": %.1f, \"share\": %.2f",
           settings->shape->name, dtype_names[settings->dtype],
           coterie_kernels_isa(), tokens, runs, ours / 1e9,
           ours / figures->flops * figures->bytes / 1e9, band / 1e9,
           peak / 1e9, roofline / 1e9, ours / roofline);
    if (peer > 0)
        printf(", \"openblas_gflops\": %.1f", peer / 1e9);
    puts("}");
    fflush(stdout);
}
