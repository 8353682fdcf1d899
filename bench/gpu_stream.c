/* Experts that come to a device as they are needed, beside plain copies.
 *
 * usage: gpu_stream STORE [--device cuda|host] [--tokens 16,1024] [--runs N]
 *
 * STORE is used if there is one, and is else made, of Qwen3-30B's experts (2.4
 * GB). All its experts are in the host's memory, and the device has room for
 * one layer of them: two layers are computed in turns, so that every expert
 * comes over for each. One JSON object a line, medians of runs in turns:
 * stream, beside `plain`, copies of as many records from pinned memory, and
 * beside `compute`, the same rows where all experts are on the device;
 * `overlapped` is the larger of these two times over stream's. Exit status 77:
 * there is no such device. */
#include "config.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/bench.h"
#include "bench/offload_store.h"
#include "runtime/bank_cache.h"

enum { LAYERS = 2, RUNS_MAX = 101, KINDS = 3, SKIPPED = 77 };

typedef enum kind { PLAIN, COMPUTE, STREAM } kind_t;

/* Everything of one number of tokens. */
typedef struct bed {
    coterie_model_t *model;
    coterie_model_config_t config;
    size_t record_size;
    uint32_t experts, tokens;
    coterie_placement_t *placement;
    coterie_device_t *device;
    coterie_tiers_t *tiers;
    coterie_bank_t *some, *all; /* experts that the device has room for */
    void *here, *there;         /* [experts] records, the first pinned */
    uint32_t *first, *row;
    float *weight, *x, *sums;
    void *scratch;
} bed_t;

static void must(coterie_status_t status);
static void *allocate(size_t size);
static void bed_open(bed_t *bed, const char *store);
static void tokens_open(bed_t *bed, uint32_t tokens);
static coterie_bank_t *bank_open(const bed_t *bed, uint32_t layers);
static void tokens_close(bed_t *bed);
static void bed_close(bed_t *bed);
static double run(bed_t *bed, kind_t kind);
static void report(const bed_t *bed, double seconds[KINDS][RUNS_MAX],
                   size_t runs);

int main(int argc, char **argv)
{
    static const struct option options[] = {
        {"device", required_argument, NULL, 'd'},
        {"tokens", required_argument, NULL, 't'},
        {"runs", required_argument, NULL, 'r'},
        {NULL, 0, NULL, 0},
    };
    static double seconds[KINDS][RUNS_MAX];
    const char *device = "cuda", *tokens = "16,1024,4096";
    size_t runs = 7;
    bed_t bed = {.config = {.size = sizeof(bed.config)}};
    int option;

    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (option == 'd')
            device = optarg;
        else if (option == 't')
            tokens = optarg;
        else if (option == 'r')
            runs = strtoul(optarg, NULL, 10);
        if (option == '?')
            optind = argc; /* and say how it is used */
    }
    if (optind != argc - 1 || runs == 0 || runs > RUNS_MAX) {
        fprintf(stderr,
                "usage: %s STORE [--device cuda|host] [--tokens 16,1024] "
                "[--runs N]\n",
                argv[0]);
        return 2;
    }
    if (coterie_device_open(device, &bed.device) != COTERIE_OK) {
        printf("SKIP: %s\n", coterie_last_error());
        return SKIPPED;
    }
    bed_open(&bed, argv[optind]);
    while (*tokens != '\0') {
        char *end;
        const unsigned long count = strtoul(tokens, &end, 10);

        tokens_open(&bed, count > 0 ? (uint32_t)count : 1);
        for (size_t i = 0; i < runs; i++)
            for (kind_t kind = PLAIN; kind <= STREAM; kind++)
                seconds[kind][i] = run(&bed, kind);
        report(&bed, seconds, runs);
        tokens_close(&bed);
        tokens = end + strspn(end, ",");
    }
    bed_close(&bed);
    return 0;
}

static void must(coterie_status_t status)
{
    if (status == COTERIE_OK)
        return;
    fprintf(stderr, "gpu_stream: %s\n", coterie_last_error());
    exit(1);
}

static void *allocate(size_t size)
{
    void *memory = calloc(1, size);

    if (memory == NULL) {
        fprintf(stderr, "gpu_stream: no %zu bytes of memory\n", size);
        exit(1);
    }
    return memory;
}

static void bed_open(bed_t *bed, const char *store)
{
    coterie_placement_options_t one = COTERIE_PLACEMENT_OPTIONS_INIT;
    coterie_tiers_options_t tiers = COTERIE_TIERS_OPTIONS_INIT;
    coterie_expert_format_t format = {.size = sizeof(format)};

    must(offload_store_make(store, LAYERS, NULL, 0));
    must(coterie_model_open(store, &bed->model));
    coterie_model_config(bed->model, &bed->config);
    coterie_model_expert_format(bed->model, &format);
    bed->record_size = format.record_size;
    bed->experts = bed->config.experts;
    one.layer_count = bed->config.moe_layers;
    one.expert_count = bed->experts;
    one.rank_count = 1;
    must(coterie_placement_create(&one, &bed->placement));
    tiers.budget = (uint64_t)one.layer_count * bed->experts * bed->record_size;
    must(coterie_tiers_create(bed->model, &tiers, &bed->tiers));
    must(bed->device->ops->allocate(
        bed->device, bed->experts * bed->record_size, &bed->there));
    must(bed->device->ops->host_allocate(
        bed->device, bed->experts * bed->record_size, &bed->here));
    memset(bed->here, 1, bed->experts * bed->record_size);
}

/* Rows take the experts in turns, so that each has as many. */
static void tokens_open(bed_t *bed, uint32_t tokens)
{
    const uint32_t k = bed->config.k, experts = bed->experts;
    const uint32_t pairs = tokens * k;
    const size_t values = (size_t)tokens * bed->config.hidden;
    uint32_t at = 0;

    bed->tokens = tokens;
    bed->some = bank_open(bed, 1);
    bed->all = bank_open(bed, LAYERS);
    bed->first = allocate((experts + 1) * sizeof(*bed->first));
    bed->row = allocate(pairs * sizeof(*bed->row));
    bed->weight = allocate(pairs * sizeof(*bed->weight));
    bed->x = allocate(values * sizeof(*bed->x));
    bed->sums = allocate(values * sizeof(*bed->sums));
    bed->scratch = allocate(coterie_bank_scratch(bed->some));
    for (uint32_t e = 0; e < experts; e++) {
        for (uint32_t pair = e; pair < pairs; pair += experts) {
            bed->weight[at] = 1;
            bed->row[at++] = pair / k;
        }
        bed->first[e + 1] = at;
    }
    for (size_t i = 0; i < values; i++)
        bed->x[i] = (float)(i % 101) / 50 - 1;
    for (kind_t kind = COMPUTE; kind <= STREAM; kind++)
        run(bed, kind); /* the store is read, the device's room filled */
}

/* Nothing is computed by the processor, whatever it would cost. */
static coterie_bank_t *bank_open(const bed_t *bed, uint32_t layers)
{
    coterie_bank_t *bank = NULL;

    must(coterie_bank_create_tiered(bed->tiers, bed->placement, 0, &bank));
    must(coterie_bank_move_tiered(bank, bed->device, bed->tokens,
                                  bed->config.k,
                                  (uint64_t)layers * bed->experts *
                                      bed->record_size));
    bank->cache->speeds.copy_ns = 0;
    return bank;
}

static void tokens_close(bed_t *bed)
{
    coterie_bank_destroy(bed->some);
    coterie_bank_destroy(bed->all);
    free(bed->first);
    free(bed->row);
    free(bed->weight);
    free(bed->x);
    free(bed->sums);
    free(bed->scratch);
}

static void bed_close(bed_t *bed)
{
    bed->device->ops->release(bed->device, bed->there);
    bed->device->ops->host_release(bed->device, bed->here);
    coterie_tiers_destroy(bed->tiers);
    coterie_placement_destroy(bed->placement);
    coterie_model_close(bed->model);
    coterie_device_close(bed->device);
}

/* Seconds of both layers' experts. */
static double run(bed_t *bed, kind_t kind)
{
    const coterie_device_ops_t *ops = bed->device->ops;
    const coterie_expert_rows_t rows = {bed->experts, bed->tokens, bed->first,
                                        bed->row, bed->weight};
    const double start = bench_seconds();

    for (uint32_t layer = 0; layer < LAYERS; layer++) {
        if (kind != PLAIN) {
            must(coterie_bank_compute(kind == STREAM ? bed->some : bed->all,
                                      layer, &rows, bed->x, bed->sums,
                                      bed->scratch));
            continue;
        }
        for (uint32_t e = 0; e < bed->experts; e++)
            must(ops->copy(bed->device, COTERIE_STREAM_COPY,
                           (char *)bed->there + e * bed->record_size,
                           (char *)bed->here + e * bed->record_size,
                           bed->record_size));
        must(ops->wait(bed->device, COTERIE_STREAM_COPY));
    }
    return bench_seconds() - start;
}

static void report(const bed_t *bed, double seconds[KINDS][RUNS_MAX],
                   size_t runs)
{
    coterie_device_about_t about = {.size = sizeof(about)};
    const double bytes =
        (double)LAYERS * bed->experts * (double)bed->record_size;
    double plain = bench_median(seconds[PLAIN], runs);
    double compute = bench_median(seconds[COMPUTE], runs);
    double stream = bench_median(seconds[STREAM], runs);

    if (coterie_device_describe(bed->device->index, &about) != COTERIE_OK)
        snprintf(about.name, sizeof(about.name), "none");
    printf("{\"gpu\": \"%s\", \"kind\": \"%s\", \"tokens\": %u, "
           "\"experts\": %u, \"record_bytes\": %zu, \"runs\": %zu, "
           "\"plain_gbs\": %.3f, \"stream_gbs\": %.3f, \"of_plain\": %.3f, "
           "\"compute_s\": %.6f, \"stream_s\": %.6f, \"overlapped\": %.3f}\n",
           about.name, bed->device->ops->kind, bed->tokens, bed->experts,
           bed->record_size, runs, 1e-9 * bytes / plain,
           1e-9 * bytes / stream, plain / stream, compute, stream,
           (plain > compute ? plain : compute) / stream);
    fflush(stdout);
}
