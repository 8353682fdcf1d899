/* Dispatch among ranks of one GPU, and a whole MoE layer, beside copies within
 * its memory.
 *
 * usage: gpu_dispatch [--device cuda|host] [--ranks 8] [--tokens 128]
 *                     [--hidden 7168] [--experts 256] [--k 8] [--ffn 2048]
 *                     [--runs N]
 *
 * One JSON object, medians of runs in turns. `dispatch_combine` is send,
 * arrive, return and finish without experts, for all ranks in one launch each;
 * its bytes are what they must read and write: rows and copies of them, outputs
 * and their sums. A layer with its experts is queued call by call, and replayed
 * from a graph. Exit status 77: there is no such device. */
#include "config.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/bench.h"
#include "runtime/dispatcher.h"
#include "tests/draw.h"

enum {
    RANKS_MAX = 32,
    RUNS_MAX = 101,
    REPEATS = 20,
    SKIPPED = 77,
    COPY_SIZE = 1 << 28,
    SMALL_BYTE = 0x3c /* twice: 0.0115 in bf16 */
};

typedef enum kind { DISPATCH, QUEUED, REPLAYED, COPY, KINDS } kind_t;

typedef struct bed {
    const char *name;
    uint32_t ranks, tokens, hidden, experts, k, ffn, runs;
    coterie_device_t *device;
    coterie_placement_t *placement;
    coterie_fabric_t *fabric;
    coterie_dispatcher_t *dispatcher;
    coterie_device_rows_t in[RANKS_MAX], out[RANKS_MAX];
    coterie_layer_call_t call;
    coterie_expert_weights_t *weights; /* there: [experts] */
    uint16_t *inner[RANKS_MAX];
    coterie_graph_t *graph;
    char *from, *to;
    double host_seconds; /* of queueing a layer, the last time */
} bed_t;

static int options_read(int argc, char **argv, bed_t *bed);
static void must(coterie_status_t status);
static void *there(const bed_t *bed, const void *data, size_t size);
static void bed_open(bed_t *bed);
static void rows_open(bed_t *bed, uint32_t rank);
static void experts_open(bed_t *bed);
static void layer_queue(bed_t *bed, bool experts);
static void experts_queue(const bed_t *bed, uint32_t rank);
static double run(bed_t *bed, kind_t kind);
static double bytes_of(const bed_t *bed);
static void report(const bed_t *bed, double seconds[KINDS][RUNS_MAX]);

int main(int argc, char **argv)
{
    static double seconds[KINDS][RUNS_MAX];
    bed_t bed = {.name = "cuda",
                 .ranks = 8,
                 .tokens = 128,
                 .hidden = 7168,
                 .experts = 256,
                 .k = 8,
                 .ffn = 2048,
                 .runs = 15};
    int status = options_read(argc, argv, &bed);

    if (status != 0)
        return status;
    if (coterie_device_open(bed.name, &bed.device) != COTERIE_OK) {
        printf("SKIP: %s\n", coterie_last_error());
        return SKIPPED;
    }
    bed_open(&bed);
    for (kind_t kind = DISPATCH; kind < KINDS; kind++)
        run(&bed, kind); /* once, to get warm */
    for (uint32_t i = 0; i < bed.runs; i++)
        for (kind_t kind = DISPATCH; kind < KINDS; kind++)
            seconds[kind][i] = run(&bed, kind);
    report(&bed, seconds);
    return 0; /* what the device has goes with the process */
}

static int options_read(int argc, char **argv, bed_t *bed)
{
    static const struct option options[] = {
        {"device", required_argument, NULL, 'd'},
        {"ranks", required_argument, NULL, 'r'},
        {"tokens", required_argument, NULL, 't'},
        {"hidden", required_argument, NULL, 'h'},
        {"experts", required_argument, NULL, 'e'},
        {"k", required_argument, NULL, 'k'},
        {"ffn", required_argument, NULL, 'f'},
        {"runs", required_argument, NULL, 'n'},
        {NULL, 0, NULL, 0}};
    uint32_t *const to[] = {&bed->ranks,   &bed->tokens, &bed->hidden,
                            &bed->experts, &bed->k,      &bed->ffn,
                            &bed->runs};
    int option;

    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        const char *at = strchr("rthekfn", option);

        if (option == 'd')
            bed->name = optarg;
        else if (at != NULL)
            *to[at - "rthekfn"] = (uint32_t)strtoul(optarg, NULL, 10);
        else
            return 2;
    }
    if (bed->ranks == 0 || bed->ranks > RANKS_MAX || bed->tokens == 0 ||
        bed->runs == 0 || bed->runs > RUNS_MAX || bed->k == 0 ||
        bed->k > COTERIE_K_MAX || bed->experts < bed->ranks ||
        bed->experts % bed->ranks != 0 || bed->experts < bed->k ||
        bed->hidden % 16 != 0 || bed->ffn % 16 != 0) {
        fprintf(stderr, "gpu_dispatch: --ranks 1 to %d, experts as many for "
                        "each; --k 1 to %d; --runs 1 to %d; --hidden and "
                        "--ffn multiples of 16\n",
                RANKS_MAX, COTERIE_K_MAX, RUNS_MAX);
        return 2;
    }
    return 0;
}

static void must(coterie_status_t status)
{
    if (status == COTERIE_OK)
        return;
    fprintf(stderr, "gpu_dispatch: %s\n", coterie_last_error());
    exit(1);
}

/* Device memory with these bytes, or of small numbers. */
static void *there(const bed_t *bed, const void *data, size_t size)
{
    coterie_device_t *d = bed->device;
    void *p = NULL;

    must(d->ops->allocate(d, size, &p));
    must(data != NULL
             ? d->ops->copy(d, COTERIE_STREAM_COMPUTE, p, data, size)
             : d->ops->fill(d, COTERIE_STREAM_COMPUTE, p, SMALL_BYTE, size));
    must(d->ops->wait(d, COTERIE_STREAM_COMPUTE));
    return p;
}

static void bed_open(bed_t *bed)
{
    coterie_placement_options_t one = COTERIE_PLACEMENT_OPTIONS_INIT;
    coterie_dispatcher_options_t options = COTERIE_DISPATCHER_OPTIONS_INIT;

    one.layer_count = 1;
    one.expert_count = bed->experts;
    one.rank_count = bed->ranks;
    must(coterie_placement_create(&one, &bed->placement));
    must(coterie_fabric_open_local(bed->ranks, bed->device, &bed->fabric));
    options.fabric = bed->fabric;
    options.placement = bed->placement;
    options.hidden = bed->hidden;
    options.k = bed->k;
    options.max_rows = bed->tokens;
    options.wire = COTERIE_WIRE_BF16;
    options.element = COTERIE_WIRE_BF16;
    must(coterie_dispatcher_create(&options, &bed->dispatcher));
    for (uint32_t rank = 0; rank < bed->ranks; rank++)
        rows_open(bed, rank);
    bed->call = (coterie_layer_call_t){.size = sizeof(bed->call),
                                       .mode = COTERIE_MODE_TWO_PHASE,
                                       .count = bed->ranks,
                                       .in = bed->in,
                                       .out = bed->out};
    experts_open(bed);
    bed->from = there(bed, NULL, COPY_SIZE);
    bed->to = there(bed, NULL, COPY_SIZE);
    must(coterie_graph_begin(bed->device));
    layer_queue(bed, true);
    must(coterie_graph_end(bed->device, &bed->graph));
}

static void rows_open(bed_t *bed, uint32_t rank)
{
    const size_t choices = (size_t)bed->tokens * bed->k;
    const size_t size = (size_t)bed->tokens * bed->hidden * 2;
    int32_t *ids = malloc(choices * sizeof(*ids));
    float *weights = malloc(choices * sizeof(*weights));
    coterie_device_rows_t *in = &bed->in[rank], *out = &bed->out[rank];

    if (ids == NULL || weights == NULL)
        exit(1);
    for (size_t i = 0; i < choices; i++) {
        /* A row's choices differ: each is among others. */
        const uint32_t share = bed->experts / bed->k;

        ids[i] = (int32_t)(i % bed->k * share + draw(share));
        weights[i] = 1.0f / (float)bed->k;
    }
    *in = *out = (coterie_device_rows_t){.size = sizeof(*in),
                                         .capacity = bed->tokens};
    in->count = there(bed, &bed->tokens, sizeof(bed->tokens));
    in->hidden = there(bed, NULL, size);
    in->normed = in->hidden;
    in->topk_ids = there(bed, ids, choices * sizeof(*ids));
    in->topk_weights = there(bed, weights, choices * sizeof(*weights));
    out->count = there(bed, NULL, sizeof(uint32_t));
    out->hidden = there(bed, NULL, size);
    free(weights);
    free(ids);
}

/* Each has weights of its own, so that they come from memory. */
static void experts_open(bed_t *bed)
{
    const size_t matrix = (size_t)bed->hidden * bed->ffn * 2;
    coterie_expert_weights_t *table =
        calloc(bed->experts, sizeof(*table));
    const coterie_ffn_shape_t shape = {.hidden = bed->hidden,
                                       .ffn = bed->ffn,
                                       .dtype = COTERIE_DTYPE_BF16};
    char *at = there(bed, NULL, 3 * matrix * bed->experts);

    if (table == NULL)
        exit(1);
    for (uint32_t e = 0; e < bed->experts; e++, at += 3 * matrix)
        table[e] = (coterie_expert_weights_t){
            .gate = at, .up = at + matrix, .down = at + 2 * matrix};
    bed->weights = there(bed, table, bed->experts * sizeof(*table));
    for (uint32_t rank = 0; rank < bed->ranks; rank++) {
        coterie_device_work_t work = {.size = sizeof(work)};
        const coterie_gpu_pairs_t *pairs =
            &bed->dispatcher->driven[rank].pairs;

        coterie_dispatcher_work(bed->dispatcher, rank,
                                COTERIE_MODE_TWO_PHASE, &work);
        must(bed->device->ops->fill(
            bed->device, COTERIE_STREAM_COMPUTE, work.out, SMALL_BYTE,
            (size_t)work.pairs * bed->hidden * sizeof(*work.out)));
        bed->inner[rank] =
            there(bed, NULL, coterie_gpu_inner(&shape, pairs) * 2);
    }
    free(table);
}

static void layer_queue(bed_t *bed, bool experts)
{
    must(coterie_dispatcher_send(bed->dispatcher, &bed->call));
    must(coterie_dispatcher_arrive(bed->dispatcher, &bed->call));
    for (uint32_t rank = 0; experts && rank < bed->ranks; rank++)
        experts_queue(bed, rank);
    must(coterie_dispatcher_return(bed->dispatcher, &bed->call));
    must(coterie_dispatcher_finish(bed->dispatcher, &bed->call));
}

/* As an engine with experts of its own. */
static void experts_queue(const bed_t *bed, uint32_t rank)
{
    coterie_device_t *d = bed->device;
    coterie_device_work_t work = {.size = sizeof(work)};
    coterie_gpu_ffn_t ffn = {
        .shape = {.hidden = bed->hidden,
                  .ffn = bed->ffn,
                  .dtype = COTERIE_DTYPE_BF16},
        .experts = bed->weights + rank * (bed->experts / bed->ranks),
        .pairs = &bed->dispatcher->driven[rank].pairs,
        .inner = bed->inner[rank],
        .blocks = d->blocks};

    coterie_dispatcher_work(bed->dispatcher, rank, COTERIE_MODE_TWO_PHASE,
                            &work);
    ffn.x = work.x;
    ffn.out = work.out;
    must(d->ops->launched(
        d, "experts",
        d->kernels->ffn(d->stream[COTERIE_STREAM_COMPUTE], &ffn)));
}

/* Seconds of one. */
static double run(bed_t *bed, kind_t kind)
{
    const double begin = bench_seconds();

    for (uint32_t i = 0; i < REPEATS; i++) {
        if (kind == DISPATCH || kind == QUEUED)
            layer_queue(bed, kind == QUEUED);
        else if (kind == REPLAYED)
            must(coterie_graph_replay(bed->graph));
        else
            must(coterie_device_copy(bed->device, bed->to, bed->from,
                                     COPY_SIZE));
    }
    if (kind == QUEUED)
        bed->host_seconds = (bench_seconds() - begin) / REPEATS;
    must(coterie_device_wait(bed->device));
    return (bench_seconds() - begin) / REPEATS;
}

/* That one layer's calls must read and write: rows, read twice and written
 * once, experts' outputs, and copies, of which those back are read as well. */
static double bytes_of(const bed_t *bed)
{
    const double row = 2.0 * bed->hidden;
    double bytes = 0;

    for (uint32_t rank = 0; rank < bed->ranks; rank++) {
        coterie_device_counts_t c = {0};
        double copies, rows;

        must(coterie_dispatcher_check(bed->dispatcher, rank, &c));
        if (c.rows == 0)
            continue;
        rows = bed->tokens;
        copies = rows * (double)(c.copies_dispatch + c.copies_return) /
                 (double)c.rows;
        bytes += row * (3 * rows + 1.5 * copies);
        bytes += 2 * row * rows * bed->k;
    }
    return bytes;
}

static void report(const bed_t *bed, double seconds[KINDS][RUNS_MAX])
{
    coterie_device_about_t about = {.size = sizeof(about), .name = "none"};
    const double dispatch = bench_median(seconds[DISPATCH], bed->runs);
    const double queued = bench_median(seconds[QUEUED], bed->runs);
    const double replayed = bench_median(seconds[REPLAYED], bed->runs);
    const double copy =
        2.0 * COPY_SIZE / bench_median(seconds[COPY], bed->runs);
    const double bytes = bytes_of(bed);

    if (strcmp(bed->device->ops->kind, "cuda") == 0)
        coterie_device_describe(bed->device->index, &about);
    printf("{\"gpu\": \"%s\", \"kind\": \"%s\", \"ranks\": %u, "
           "\"tokens\": %u, \"hidden\": %u, \"experts\": %u, \"k\": %u, "
           "\"runs\": %u, \"dispatch_combine_us\": %.2f, "
           "\"dispatch_combine_bytes\": %.0f, "
           "\"dispatch_combine_gb_s\": %.1f, \"copy_gb_s\": %.1f, "
           "\"dispatch_combine_of_copy\": %.3f, \"ffn\": %u, "
           "\"layer_queued_us\": %.2f, \"layer_host_us\": %.2f, "
           "\"layer_replayed_us\": %.2f}\n",
           about.name, bed->device->ops->kind, bed->ranks, bed->tokens,
           bed->hidden, bed->experts, bed->k, bed->runs, 1e6 * dispatch, bytes,
           1e-9 * bytes / dispatch, 1e-9 * copy, bytes / dispatch / copy,
           bed->ffn, 1e6 * queued, 1e6 * bed->host_seconds, 1e6 * replayed);
}
