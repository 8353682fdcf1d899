/* Whole FFN of a layer, weights from memory, in turns with the read bandwidth,
 * the peak of the operation that it uses, and other implementations.
 *
 * usage: kernels [--shape Q|M|D] [--dtype NAME] [--compute f32|bf16|int8]
 *                [--tokens 1,8,64,512] [--threads 1,2] [--seconds S]
 *                [--peer MODULE.so]...
 *
 * One JSON object a line for each number of threads and tokens; medians.
 * `roofline` is what is possible: the peak, or the bandwidth times FLOP per
 * byte if that is lower; `share` is how much of it was reached; `gbs` is how
 * fast weights were read. All sides read the same bytes. OpenBLAS and oneDNN
 * get their rows already gathered, and compute the three products alone. */
#include "config.h"

#include <dlfcn.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench/bench.h"
#include "bench/kernels_layer.h"
#include "bench/limits.h"
#include "bench/peer.h"

enum { RUNS_MIN = 3, RUNS_MAX = 31, PEERS_MAX = 4, LIST_MAX = 8 };

/* What has just been written is read at half the rate for about a second on
 * some virtual machines. */
static const double warm_seconds = 1.5;

/* Qwen3-30B's layer; Mixtral 8x7B's; and DeepSeek-V3's where 64 of 256 experts
 * are held, of which a token needs two. */
static const shape_t shapes[] = {
    {"Q", 2048, 768, 128, 8},
    {"M", 4096, 14336, 8, 2},
    {"D", 7168, 2048, 64, 2},
};

static const char *const dtype_names[] = {
    "",     "f32",       "f16", "bf16", "int8", "int8-group",
    "int4", "int4-zero", "fp8", "mxfp4"};
static const char *const compute_names[] = {"f32", "bf16", "int8"};

typedef struct list {
    uint32_t count, value[LIST_MAX];
} list_t;

typedef struct settings {
    const shape_t *shape;
    coterie_dtype_t dtype;
    coterie_compute_t compute;
    list_t tokens, threads;
    double seconds; /* of runs with one number of tokens */
    uint32_t peer_count;
    const peer_t *peers[PEERS_MAX];
} settings_t;

/* Of every run: FLOP/s, and bytes/s. */
typedef struct figures {
    int runs;
    double ours[RUNS_MAX], peak[RUNS_MAX], band[RUNS_MAX];
    double peers[PEERS_MAX][RUNS_MAX];
    double flops, bytes; /* of all our runs */
} figures_t;

/* What is measured together. */
typedef struct contest {
    const settings_t *settings;
    const layer_t *layer;
    uint32_t threads;
    batch_t batch;
    coterie_pool_t *pool;
    void *scratch;
    void *handles[PEERS_MAX]; /* NULL: not in this one */
    figures_t figures;
} contest_t;

static int settings_read(int argc, char **argv, settings_t *settings);
static int setting_read(int option, settings_t *settings);
static int name_find(const char *const *names, int count, uint32_t *at);
static int list_read(list_t *list);
static int peer_load(settings_t *settings);
static void contest_run(contest_t *contest, uint32_t tokens);
static void layer_warm(const layer_t *layer, uint32_t threads);
static void peers_open(contest_t *contest);
static void turn_run(contest_t *contest);
static void caches_clear(const contest_t *contest);
static double ours_measure(contest_t *contest);
static double peer_measure(contest_t *contest, uint32_t peer);
static void figures_print(contest_t *contest);

int main(int argc, char **argv)
{
    settings_t settings = {.shape = shapes,
                           .dtype = COTERIE_DTYPE_BF16,
                           .tokens = {4, {1, 8, 64, 512}},
                           .threads = {2, {1, 2}},
                           .seconds = 1};
    layer_t layer;

    if (settings_read(argc, argv, &settings) != 0) {
        fprintf(stderr, "usage: %s [--shape Q|M|D] [--dtype NAME] [--compute "
                        "f32|bf16|int8] [--tokens LIST] [--threads LIST] "
                        "[--seconds S] [--peer MODULE.so]...\n", argv[0]);
        return 2;
    }
    if (peer_openblas() != NULL)
        settings.peers[settings.peer_count++] = peer_openblas();
    layer_make(&layer, settings.shape, settings.dtype, settings.compute);
    for (uint32_t i = 0; i < settings.threads.count; i++)
        for (uint32_t j = 0; j < settings.tokens.count; j++) {
            contest_t contest = {.settings = &settings,
                                 .layer = &layer,
                                 .threads = settings.threads.value[i]};
            contest_run(&contest, settings.tokens.value[j]);
        }
    layer_free(&layer);
    return 0;
}

static int settings_read(int argc, char **argv, settings_t *settings)
{
    static const struct option options[] = {
        {"shape", required_argument, NULL, 's'},
        {"dtype", required_argument, NULL, 'd'},
        {"compute", required_argument, NULL, 'c'},
        {"tokens", required_argument, NULL, 't'},
        {"threads", required_argument, NULL, 'n'},
        {"seconds", required_argument, NULL, 'S'},
        {"peer", required_argument, NULL, 'p'},
        {NULL, 0, NULL, 0},
    };
    int option;

    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1)
        if (!setting_read(option, settings))
            return 1;
    return optind < argc;
}

static int setting_read(int option, settings_t *settings)
{
    uint32_t at = 0;

    switch (option) {
    case 's':
        for (int i = 0; i < 3; i++)
            if (strcmp(optarg, shapes[i].name) == 0) {
                settings->shape = &shapes[i];
                return 1;
            }
        return 0;
    case 'd':
        if (!name_find(dtype_names, COTERIE_DTYPE_MXFP4 + 1, &at) || at == 0)
            return 0;
        settings->dtype = (coterie_dtype_t)at;
        return 1;
    case 'c':
        if (!name_find(compute_names, 3, &at))
            return 0;
        settings->compute = (coterie_compute_t)at;
        return 1;
    case 't':
        return list_read(&settings->tokens);
    case 'n':
        return list_read(&settings->threads);
    case 'S':
        return (settings->seconds = atof(optarg)) > 0;
    case 'p':
        return peer_load(settings);
    default:
        return 0;
    }
}

static int name_find(const char *const *names, int count, uint32_t *at)
{
    for (int i = 0; i < count; i++)
        if (strcmp(optarg, names[i]) == 0) {
            *at = (uint32_t)i;
            return 1;
        }
    return 0;
}

static int list_read(list_t *list)
{
    const char *at = optarg;
    char *end;

    for (list->count = 0; list->count < LIST_MAX; at = end + 1) {
        const long value = strtol(at, &end, 10);
        if (end == at || value < 1 || value > 1 << 20)
            return 0;
        list->value[list->count++] = (uint32_t)value;
        if (*end != ',')
            return *end == '\0';
    }
    return 0;
}

/* Names that it shares with other modules stay its own. */
static int peer_load(settings_t *settings)
{
    void *module = dlopen(optarg, RTLD_NOW | RTLD_LOCAL);
    const peer_t *(*get)(void) = NULL;

    if (module != NULL)
        *(void **)&get = dlsym(module, "coterie_bench_peer");
    if (get == NULL || settings->peer_count == PEERS_MAX - 1) {
        fprintf(stderr, "--peer %s: %s\n", optarg,
                module == NULL ? dlerror() : "not a peer, or one too many");
        return 0;
    }
    settings->peers[settings->peer_count++] = get();
    return 1;
}

/* Runs of everything in turns, so that all see the same machine; each routes
 * anew, so that weights come from memory. */
static void contest_run(contest_t *contest, uint32_t tokens)
{
    coterie_pool_options_t options = COTERIE_POOL_OPTIONS_INIT;
    const settings_t *settings = contest->settings;
    double start;

    options.threads = contest->threads;
    if (coterie_pool_create(&options, &contest->pool) != COTERIE_OK) {
        fprintf(stderr, "%s\n", coterie_last_error());
        exit(1);
    }
    batch_make(&contest->batch, settings->shape, tokens);
    contest->scratch =
        allocate(coterie_pool_scratch(contest->pool, &contest->layer->ffn));
    batch_route(&contest->batch, settings->shape);
    peers_open(contest);
    layer_warm(contest->layer, contest->threads);
    start = bench_seconds();
    while (contest->figures.runs < RUNS_MAX &&
           (contest->figures.runs < RUNS_MIN ||
            bench_seconds() - start < settings->seconds)) {
        batch_route(&contest->batch, settings->shape);
        turn_run(contest);
    }
    figures_print(contest);
    for (uint32_t i = 0; i < settings->peer_count; i++)
        if (contest->handles[i] != NULL)
            settings->peers[i]->close(contest->handles[i]);
    coterie_pool_destroy(contest->pool);
    free(contest->scratch);
    batch_free(&contest->batch);
}

/* Once. */
static void layer_warm(const layer_t *layer, uint32_t threads)
{
    static const layer_t *warm;
    const double start = bench_seconds();

    while (warm != layer && bench_seconds() - start < warm_seconds)
        limits_read(layer->weights, layer->weights_size, (int)threads);
    warm = layer;
}

static void peers_open(contest_t *contest)
{
    const settings_t *settings = contest->settings;
    const shape_t *shape = settings->shape;
    const peer_work_t work = {.dtype = dtype_names[settings->dtype],
                              .hidden = shape->hidden,
                              .ffn = shape->ffn,
                              .experts = shape->experts,
                              .k = shape->k,
                              .tokens = contest->batch.tokens,
                              .threads = contest->threads,
                              .weights = contest->layer->weights,
                              .weights_size = contest->layer->weights_size,
                              .x = contest->batch.x,
                              .ids = contest->batch.ids,
                              .scores = contest->batch.scores};

    for (uint32_t i = 0; i < settings->peer_count; i++)
        contest->handles[i] = settings->peers[i]->open(&work);
}

static void turn_run(contest_t *contest)
{
    static const limits_kind_t kinds[] = {LIMITS_F32, LIMITS_BF16,
                                          LIMITS_INT8};
    const settings_t *settings = contest->settings;
    const layer_t *layer = contest->layer;
    figures_t *figures = &contest->figures;
    const int run = figures->runs++, threads = (int)contest->threads;
    const double flops = 6.0 * contest->batch.tokens * layer->shape->k *
                         layer->shape->hidden * layer->shape->ffn;

    caches_clear(contest);
    figures->band[run] =
        limits_read(layer->weights, layer->weights_size, threads);
    figures->peak[run] = limits_peak(kinds[settings->compute], threads);
    caches_clear(contest);
    figures->ours[run] = flops / ours_measure(contest);
    for (uint32_t i = 0; i < settings->peer_count; i++)
        if (contest->handles[i] != NULL)
            figures->peers[i][run] = peer_measure(contest, i);
    figures->flops += flops;
    figures->bytes +=
        (double)contest->batch.distinct * (double)layer->expert_size;
}

/* Of the weights that the side before has read last; and lets its threads, who
 * may wait for more work, fall asleep. */
static void caches_clear(const contest_t *contest)
{
    static char *memory;
    enum { SIZE = 64 << 20 };

    if (memory == NULL) {
        memory = allocate(SIZE);
        memset(memory, 1, SIZE);
    }
    usleep(20000);
    limits_read(memory, SIZE, (int)contest->threads);
}

static double ours_measure(contest_t *contest)
{
    const layer_t *layer = contest->layer;
    const batch_t *batch = &contest->batch;
    const coterie_ffn_call_t call = {&layer->ffn,  layer->experts,
                                     &batch->rows, batch->x,
                                     batch->sums,  contest->scratch};
    double start;

    memset(batch->sums, 0,
           (size_t)batch->tokens * layer->shape->hidden * sizeof(float));
    start = bench_seconds();
    coterie_pool_ffn(contest->pool, &call);
    return bench_seconds() - start;
}

static double peer_measure(contest_t *contest, uint32_t peer)
{
    const peer_t *side = contest->settings->peers[peer];
    double start;

    side->prepare(contest->handles[peer]);
    caches_clear(contest);
    start = bench_seconds();
    return side->run(contest->handles[peer]) / (bench_seconds() - start);
}

static void figures_print(contest_t *contest)
{
    const settings_t *settings = contest->settings;
    figures_t *figures = &contest->figures;
    const size_t runs = (size_t)figures->runs;
    const double ours = bench_median(figures->ours, runs);
    const double peak = bench_median(figures->peak, runs);
    const double band = bench_median(figures->band, runs);
    const double fed = band * figures->flops / figures->bytes;
    const double roofline = peak > 0 && peak < fed ? peak : fed;

    printf("{\"shape\": \"%s\", \"dtype\": \"%s\", \"compute\": \"%s\", "
           "\"isa\": \"%s\", \"threads\": %u, \"tokens\": %u, \"runs\": %zu, "
           "\"gflops\": %.1f, \"gbs\": %.1f, \"read_gbs\": %.1f, "
           "\"peak_gflops\": %.1f, \"roofline_gflops\": %.1f, "
           "\"share\": %.2f",
           settings->shape->name, dtype_names[settings->dtype],
           compute_names[settings->compute], coterie_kernels_isa(),
           contest->threads, contest->batch.tokens, runs, ours / 1e9,
           ours / figures->flops * figures->bytes / 1e9, band / 1e9,
           peak / 1e9, roofline / 1e9, ours / roofline);
    for (uint32_t i = 0; i < settings->peer_count; i++)
        if (contest->handles[i] != NULL)
            printf(", \"%s_gflops\": %.1f", settings->peers[i]->name,
                   bench_median(figures->peers[i], runs) / 1e9);
    puts("}");
    fflush(stdout);
}
