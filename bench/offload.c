/* Decoding with a quarter of the experts in memory, beside what the drive and
 * the processor allow and beside page faults.
 *
 * usage: offload TRACE STORE[,STRIPE...] [BATCH [STEPS [ROUNDS]]]
 *
 * Makes STORE (8.5 GB, over as many files as are named), unless there is one:
 * random weights, 7 layers of 128 experts of 9 MiB, 8 a token. TRACE, of 24
 * layers of 32 experts, says which (bench/offload_store.h). Decodes BATCH (1)
 * sequences of its second half for STEPS (120) tokens each, of which the second
 * half counts, ROUNDS (3) times with other sequences, in turns: computing
 * alone, each policy with a budget of 25 %, and computing from a mapping of the
 * store, where just as many experts a step come from the drive as `cost` read.
 * What runs before such a server has taught it, a part of the trace does here.
 * One JSON object a line. */
#include "config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/error.h"
#include "bench/bench.h"
#include "bench/offload_engine.h"
#include "offload/arena.h"
#include "offload/tiers.h"

enum {
    LAYERS = 7, /* so that a quarter of them is 2 GB */
    POLICIES = COTERIE_POLICY_COST + 1,
    BUDGET_PERCENT = 25,
    LEARNED_TOKENS = 6000
};

static const char *const policy_names[] = {"lru", "lfu", "cost"};

typedef struct bench {
    const char *paths[1 + COTERIE_STRIPES_MAX]; /* of the store's files */
    uint32_t path_count;
    uint32_t batch, steps, rounds, round;
    coterie_model_t *model;
    coterie_trace_t *trace; /* merged */
    coterie_trace_view_t view;
    uint32_t *sequences; /* [rounds, batch] */
    uint64_t *hot;
    uint64_t record_size;
    coterie_arena_t arena; /* as large as the budget */
    offload_files_t files;
    coterie_pool_t *pool; /* a thread for each core */
    double compute_ms; /* of a token */
    double *step_s;
    uint32_t *reads;
} bench_t;

static void paths_split(bench_t *b, char *list);
static coterie_status_t bench_open(bench_t *b, const char *trace);
static coterie_status_t store_open(bench_t *b);
static coterie_status_t sequences_pick(bench_t *b);
static coterie_status_t hot_count(bench_t *b);
static coterie_status_t round_run(bench_t *b);
static coterie_status_t memory_run(bench_t *b);
static coterie_status_t policy_run(bench_t *b, uint32_t policy);
static void teach(const bench_t *b, coterie_tiers_t *tiers);
static coterie_status_t mapped_run(bench_t *b);
static coterie_status_t optimum(const bench_t *b, uint32_t policy,
                                coterie_replay_result_t *result);
static void policy_print(const bench_t *b, double drive_gbs,
                         const offload_run_t *run,
                         const coterie_replay_result_t *replay);
static offload_run_t run_of(const bench_t *b);
static double token_ms(const offload_run_t *run);
static void bench_close(bench_t *b);

int main(int argc, char **argv)
{
    bench_t b = {.batch = argc > 3 ? (uint32_t)atoi(argv[3]) : 1,
                 .steps = argc > 4 ? (uint32_t)atoi(argv[4]) : 120,
                 .rounds = argc > 5 ? (uint32_t)atoi(argv[5]) : 3};
    coterie_status_t status;

    if (argc > 2)
        paths_split(&b, argv[2]);
    if (b.path_count == 0 || b.batch == 0 || b.steps < 4 || b.rounds == 0) {
        fprintf(stderr,
                "usage: offload TRACE STORE[,STRIPE...] [BATCH [STEPS "
                "[ROUNDS]]]\n");
        return 2;
    }
    status = bench_open(&b, argv[1]);
    for (; b.round < b.rounds && status == COTERIE_OK; b.round++)
        status = round_run(&b);
    if (status != COTERIE_OK)
        fprintf(stderr, "offload: %s\n", coterie_last_error());
    bench_close(&b);
    return status != COTERIE_OK;
}

static void paths_split(bench_t *b, char *list)
{
    for (char *path = strtok(list, ",");
         path != NULL && b->path_count <= COTERIE_STRIPES_MAX;
         path = strtok(NULL, ","))
        b->paths[b->path_count++] = path;
}

static coterie_status_t bench_open(bench_t *b, const char *trace)
{
    coterie_pool_options_t every_core = COTERIE_POOL_OPTIONS_INIT;
    coterie_status_t status = offload_trace_merge(trace, LAYERS, &b->trace);

    if (status != COTERIE_OK)
        return status;
    coterie_trace_view(b->trace, &b->view);
    b->step_s = calloc(b->steps, sizeof(*b->step_s));
    b->reads = calloc(b->steps, sizeof(*b->reads));
    if (b->step_s == NULL || b->reads == NULL)
        return coterie_fail_memory(b->steps, "steps");
    status = coterie_pool_create(&every_core, &b->pool);
    if (status == COTERIE_OK)
        status = store_open(b);
    if (status == COTERIE_OK)
        status = sequences_pick(b);
    if (status == COTERIE_OK)
        status = hot_count(b);
    if (status == COTERIE_OK)
        status = coterie_arena_create(
            (size_t)(b->record_size * LAYERS * OFFLOAD_EXPERTS *
                     BUDGET_PERCENT / 100),
            SIZE_MAX, &b->arena);
    if (status == COTERIE_OK)
        memset(b->arena.data, 0x3c, b->arena.size);
    return status;
}

static coterie_status_t store_open(bench_t *b)
{
    coterie_expert_format_t format = {.size = sizeof(format)};
    coterie_status_t status = offload_store_make(
        b->paths[0], LAYERS, b->paths + 1, b->path_count - 1);

    if (status == COTERIE_OK)
        status = coterie_model_open(b->paths[0], &b->model);
    if (status != COTERIE_OK)
        return status;
    coterie_model_expert_format(b->model, &format);
    b->record_size = format.record_size;
    return offload_files_open(b->model, &b->files);
}

/* Those of the second half that are long enough, as far apart as can be. */
static coterie_status_t sequences_pick(bench_t *b)
{
    uint32_t wanted = b->rounds * b->batch, count = 0, half;
    uint32_t *fit = calloc(b->view.sequence_count, sizeof(*fit));

    b->sequences = calloc(wanted, sizeof(*b->sequences));
    if (fit == NULL || b->sequences == NULL) {
        free(fit);
        return coterie_fail_memory(wanted, "sequences");
    }
    half = (uint32_t)b->view.sequence_count / 2;
    for (uint32_t s = half; s < b->view.sequence_count; s++)
        if (b->view.seq_start[s + 1] - b->view.seq_start[s] >= b->steps)
            fit[count++] = s;
    for (uint32_t i = 0; i < wanted && count >= wanted; i++)
        b->sequences[i] = fit[(uint64_t)i * count / wanted];
    free(fit);
    if (count < wanted)
        return coterie_fail(COTERIE_ERR_INVALID,
                            "%u sequences of %u tokens are needed; the "
                            "trace's second half has %u",
                            wanted, b->steps, count);
    return COTERIE_OK;
}

/* How often experts were chosen in the first half. */
static coterie_status_t hot_count(bench_t *b)
{
    coterie_trace_t *first = NULL;
    coterie_status_t status = coterie_trace_slice(
        b->trace, 0, b->view.sequence_count / 2, &first);

    if (status != COTERIE_OK)
        return status;
    b->hot = calloc(LAYERS * OFFLOAD_EXPERTS, sizeof(*b->hot));
    if (b->hot == NULL)
        status = coterie_fail_memory(LAYERS * OFFLOAD_EXPERTS, "counts");
    else
        coterie_trace_loads(first, b->hot);
    coterie_trace_destroy(first);
    return status;
}

static coterie_status_t round_run(bench_t *b)
{
    coterie_status_t status;

    offload_files_sweep(&b->files, &b->arena);
    status = memory_run(b);
    for (uint32_t p = 0; p < POLICIES && status == COTERIE_OK; p++)
        status = policy_run(b, p);
    if (status == COTERIE_OK)
        status = mapped_run(b);
    return status;
}

static coterie_status_t memory_run(bench_t *b)
{
    offload_run_t run = run_of(b);
    coterie_status_t status;

    run.experts.arena = b->arena.data;
    run.experts.arena_size = b->arena.size;
    status = offload_decode(&run);
    b->compute_ms = token_ms(&run);
    return status;
}

static coterie_status_t policy_run(bench_t *b, uint32_t policy)
{
    offload_run_t run = run_of(b);
    coterie_tiers_options_t options = COTERIE_TIERS_OPTIONS_INIT;
    coterie_replay_result_t replay = COTERIE_REPLAY_RESULT_INIT;
    double drive_gbs = offload_files_measure(&b->files);
    coterie_status_t status;

    options.budget_percent = BUDGET_PERCENT;
    options.policy = run.policy = policy;
    options.hot = b->hot;
    status = coterie_tiers_create(b->model, &options, &run.experts.tiers);
    if (status != COTERIE_OK)
        return status;
    teach(b, run.experts.tiers);
    run.reads = b->reads; /* the last policy's stay */
    status = offload_decode(&run);
    if (status == COTERIE_OK)
        status = optimum(b, policy, &replay);
    /* Drives that others share change from minute to minute. */
    drive_gbs = (drive_gbs + offload_files_measure(&b->files)) / 2;
    if (status == COTERIE_OK)
        policy_print(b, drive_gbs, &run, &replay);
    coterie_tiers_destroy(run.experts.tiers);
    return status;
}

/* The last tokens of the first half, as fast as they are heard. */
static void teach(const bench_t *b, coterie_tiers_t *tiers)
{
    const coterie_trace_view_t *view = &b->view;
    uint64_t end = view->seq_start[view->sequence_count / 2];
    uint64_t first = end > LEARNED_TOKENS ? end - LEARNED_TOKENS : 0;
    const struct timespec moment = {0, 1000000};
    uint32_t sequence = 0;

    for (uint64_t token = first; token < end; token++) {
        int32_t experts[OFFLOAD_K], name, position;

        while (view->seq_start[sequence + 1] <= token)
            sequence++;
        name = (int32_t)sequence;
        position = (int32_t)(token - view->seq_start[sequence]);
        for (uint32_t l = 0; l < view->layer_count; l++) {
            coterie_sight_t rows = {token, l, 1, OFFLOAD_K, 0, &name,
                                    &position, experts, NULL};

            for (uint32_t k = 0; k < OFFLOAD_K; k++)
                experts[k] =
                    view->experts[(token * view->layer_count + l) *
                                      OFFLOAD_K +
                                  k];
            while (!coterie_tiers_watch(tiers, &rows))
                nanosleep(&moment, NULL);
        }
    }
}

static coterie_status_t mapped_run(bench_t *b)
{
    offload_run_t run = run_of(b);
    coterie_status_t status;
    uint64_t reads = 0;

    run.experts.arena = b->arena.data;
    run.experts.arena_size = b->arena.size;
    run.experts.mapped = &b->files;
    run.experts.cold = b->reads;
    status = offload_decode(&run);
    for (uint32_t i = b->steps - run.measured; i < b->steps; i++)
        reads += b->reads[i];
    if (status == COTERIE_OK)
        printf("{\"batch\": %u, \"round\": %u, \"experts\": \"mapped\", "
               "\"ms_per_token\": %.2f, \"mb_per_token\": %.1f}\n",
               b->batch, b->round, token_ms(&run),
               1e-6 * (double)(reads * b->record_size) /
                   (run.measured * b->batch));
    fflush(stdout);
    return status;
}

/* What a policy and Belady's rule would read of the same sets. */
static coterie_status_t optimum(const bench_t *b, uint32_t policy,
                                coterie_replay_result_t *result)
{
    const coterie_trace_view_t *view = &b->view;
    size_t set = (size_t)view->layer_count * OFFLOAD_K;
    uint64_t *start = calloc(b->batch + 1, sizeof(*start));
    int16_t *experts = calloc(b->batch * b->steps * set, sizeof(*experts));
    coterie_replay_options_t options = COTERIE_REPLAY_OPTIONS_INIT;
    coterie_trace_view_t part = *view;
    coterie_status_t status = COTERIE_ERR_NO_MEMORY;

    for (uint32_t i = 0; i < b->batch && start && experts; i++) {
        uint32_t sequence = b->sequences[b->round * b->batch + i];

        memcpy(experts + i * b->steps * set,
               view->experts + view->seq_start[sequence] * set,
               b->steps * set * sizeof(*experts));
        start[i + 1] = (uint64_t)(i + 1) * b->steps;
    }
    part.token_count = (uint64_t)b->batch * b->steps;
    part.sequence_count = b->batch;
    part.seq_start = start;
    part.experts = experts;
    part.step = NULL;
    part.phase = NULL;
    options.policy = policy;
    options.streams = b->batch;
    options.slots = (uint32_t)(b->arena.size / b->record_size);
    options.first_counted = b->steps - run_of(b).measured;
    if (start != NULL && experts != NULL)
        status = coterie_cache_replay(&part, &options, result);
    free(start);
    free(experts);
    return status;
}

static void policy_print(const bench_t *b, double drive_gbs,
                         const offload_run_t *run,
                         const coterie_replay_result_t *replay)
{
    const coterie_tiers_counts_t *from = &run->before, *to = &run->after;
    double tokens = (double)run->measured * b->batch;
    double mb = 1e-6 * (double)b->record_size / tokens;
    uint64_t wasted = to->guesses_wasted - from->guesses_wasted;
    uint64_t guessed = to->guesses_used - from->guesses_used;
    uint64_t demanded = to->demand_reads - from->demand_reads;
    double needed_mb = mb * (double)(demanded + guessed);
    double drive_ms = needed_mb / drive_gbs;
    double bound = drive_ms > b->compute_ms ? drive_ms : b->compute_ms;

    printf("{\"batch\": %u, \"round\": %u, \"experts\": \"tiers\", "
           "\"policy\": \"%s\", \"ms_per_token\": %.2f, "
           "\"compute_ms\": %.2f, \"drive_ms\": %.2f, \"over_bound\": %.3f, "
           "\"stall_ms\": %.2f, \"drive_gbs\": %.2f, \"mb_per_token\": %.1f, "
           "\"needed_mb\": %.1f, \"wasted_mb\": %.1f, \"hit_rate\": %.3f, "
           "\"reads_over_optimum\": %.3f, \"guesses_used\": %llu, "
           "\"guesses_wasted\": %llu, \"demand_reads\": %llu}\n",
           b->batch, b->round, policy_names[run->policy], token_ms(run),
           b->compute_ms, drive_ms, token_ms(run) / bound,
           1e-6 * (double)(to->stall_ns - from->stall_ns) / tokens,
           drive_gbs, 1e-6 * (double)(to->bytes - from->bytes) / tokens,
           needed_mb, mb * (double)wasted,
           (double)(to->hits - from->hits) / (double)(to->uses - from->uses),
           (double)(demanded + guessed) /
               (double)(replay->uses - replay->optimal_hits),
           (unsigned long long)guessed, (unsigned long long)wasted,
           (unsigned long long)demanded);
    fflush(stdout);
}

static offload_run_t run_of(const bench_t *b)
{
    return (offload_run_t){.model = b->model,
                           .view = &b->view,
                           .sequences = b->sequences + b->round * b->batch,
                           .batch = b->batch,
                           .steps = b->steps,
                           .pool = b->pool,
                           .measured = b->steps / 2,
                           .step_s = b->step_s};
}

static double token_ms(const offload_run_t *run)
{
    return 1e3 * run->seconds / ((double)run->measured * run->batch);
}

static void bench_close(bench_t *b)
{
    offload_files_close(&b->files);
    coterie_arena_destroy(&b->arena);
    coterie_model_close(b->model);
    coterie_pool_destroy(b->pool);
    coterie_trace_destroy(b->trace);
    free(b->sequences);
    free(b->hot);
    free(b->step_s);
    free(b->reads);
}
