#include "config.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/budget.h"
#include "tools/command.h"
#include "tools/modes.h"
#include "tools/playing.h"

typedef struct cache_options {
    const char *budget, *hot, *model;
    uint32_t policy, streams, record_size, experts;
    double held_out;
    bool json;
} cache_options_t;

/* What was asked, in the units that the replay works with. */
typedef struct cache_job {
    const cache_options_t *options;
    coterie_trace_view_t view;
    uint64_t record_size; /* bytes; 0: not known */
    uint64_t *hot;
    coterie_replay_options_t replay;
} cache_job_t;

static int cache_run(const invocation_t *in);
static coterie_status_t record_size_read(cache_job_t *job);
static int budget_read(const invocation_t *in, cache_job_t *job);
static double budget_slots(const cache_job_t *job, double number,
                           const char *unit);
static coterie_status_t hot_open(cache_job_t *job);
static coterie_status_t cache_replay(cache_job_t *job);
static coterie_status_t cache_json(const cache_job_t *job,
                                   const coterie_replay_result_t *result);
static void cache_text(const cache_job_t *job,
                       const coterie_replay_result_t *result);
static double share_of(uint64_t part, uint64_t whole);

#define FIELD(name) offsetof(cache_options_t, name)

static const option_spec_t cache_specs[] = {
    {"budget", 'b', OPTION_TEXT, FIELD(budget), "B",
     "what fits: 25%, 192 (experts), or bytes as in 8G", 0, 0, NULL},
    {"policy", 'p', OPTION_CHOICE, FIELD(policy), "lru|lfu|cost",
     "which expert leaves a full cache (lru)", 0, 0, policy_names},
    {"held-out", 0, OPTION_REAL, FIELD(held_out), "SHARE",
     "count this last share, warm up on the rest (1)", 0.001, 1, NULL},
    {"streams", 's', OPTION_COUNT, FIELD(streams), "N",
     "sequences at a time (1)", 1, 4096, NULL},
    {"hot", 0, OPTION_TEXT, FIELD(hot), "FILE",
     "start from these hot counts, and keep them there", 0, 0, NULL},
    {"model", 'm', OPTION_TEXT, FIELD(model), "MODEL",
     "take the size of an expert from it", 0, 0, NULL},
    {"record-size", 0, OPTION_COUNT, FIELD(record_size), "BYTES",
     "size of an expert, for figures in bytes", 1, 4294967295, NULL},
    {"experts", 'e', OPTION_COUNT, FIELD(experts), "N",
     "experts per layer (the largest id and one)", 1, 1 << 15, NULL},
    {"json", 0, OPTION_FLAG, FIELD(json), NULL, "print one JSON object", 0, 0,
     NULL},
    {NULL, 0, 0, 0, NULL, NULL, 0, 0, NULL}};

const command_t command_cache = {
    .name = "cache",
    .operands = "TRACE",
    .operands_least = 1,
    .operands_most = 1,
    .summary = "replays a trace through a cache of experts",
    .details =
        "The cache holds experts of all layers and reads on demand. Policies:\n"
        "  lru    evicts the expert used least recently\n"
        "  lfu    the one used least often; counts age\n"
        "  cost   the one whose next use is expected last, by what the\n"
        "         predictor learns while the trace runs\n"
        "Beside it stands Belady's optimum, which knows the future.\n"
        "K, M, G and T are powers of 1024. A hot file that does not exist is\n"
        "made; 'doc/offload.md' says what is in it.\n",
    .options = cache_specs,
    .options_size = sizeof(cache_options_t),
    .run = cache_run};

static int cache_run(const invocation_t *in)
{
    cache_job_t job = {.options = in->options,
                       .replay = COTERIE_REPLAY_OPTIONS_INIT};
    coterie_trace_t *trace = NULL;
    coterie_status_t status;
    int code = EXIT_DONE;

    if (job.options->budget == NULL)
        return command_refuse(in, "needs --budget");
    status = record_size_read(&job);
    if (status == COTERIE_OK)
        status = coterie_trace_read(in->operands[0], job.options->experts,
                                    &trace);
    if (status != COTERIE_OK)
        return command_fail(in);
    coterie_trace_view(trace, &job.view);
    code = budget_read(in, &job);
    if (code == EXIT_DONE) {
        status = hot_open(&job);
        if (status == COTERIE_OK)
            status = cache_replay(&job);
        if (status != COTERIE_OK)
            code = command_fail(in);
    }
    free(job.hot);
    coterie_trace_destroy(trace);
    return code;
}

static coterie_status_t record_size_read(cache_job_t *job)
{
    coterie_expert_format_t format = {.size = sizeof(format)};
    coterie_model_t *model = NULL;
    coterie_status_t status;

    job->record_size = job->options->record_size;
    if (job->options->model == NULL || job->record_size != 0)
        return COTERIE_OK;
    status = coterie_model_open(job->options->model, &model);
    if (status != COTERIE_OK)
        return status;
    coterie_model_expert_format(model, &format);
    job->record_size = format.record_size;
    coterie_model_close(model);
    return COTERIE_OK;
}

static int budget_read(const invocation_t *in, cache_job_t *job)
{
    const char *text = job->options->budget;
    double all = (double)job->view.layer_count * job->view.expert_count;
    double number, slots;
    char *unit;

    number = strtod(text, &unit);
    if (unit == text || !isfinite(number) || number < 0)
        return command_refuse(in, "--budget takes a share as in 25%%, a number "
                              "of experts, or bytes as in 8G, not '%s'", text);
    if (strcmp(unit, "%") == 0 && number > 100)
        return command_refuse(in, "--budget takes at most 100%%, not %s",
                              text);
    if (*unit != '\0' && *unit != '%' && job->record_size == 0)
        return command_refuse(in, "--budget in bytes needs --record-size or "
                              "--model");
    slots = floor(budget_slots(job, number, unit));
    if (isnan(slots))
        return command_refuse(in, "--budget has no unit '%s'; %% K M G T are "
                              "known", unit);
    if (slots < 1)
        return command_refuse(in, "--budget %s is too small for one expert of "
                              "%.0f", text, all);
    job->replay.slots = (uint32_t)fmin(slots, all);
    return EXIT_DONE;
}

/* NaN: no such unit. */
static double budget_slots(const cache_job_t *job, double number,
                           const char *unit)
{
    static const char prefixes[] = "KMGT";
    double all = (double)job->view.layer_count * job->view.expert_count;
    const char *prefix;

    if (*unit == '\0')
        return number;
    if (strcmp(unit, "%") == 0)
        return all * number / 100;
    prefix = strchr(prefixes, *unit);
    if (prefix == NULL || unit[1] != '\0')
        return NAN;
    return number * pow(1024, (double)(prefix - prefixes + 1)) /
           (double)job->record_size;
}

static coterie_status_t hot_open(cache_job_t *job)
{
    size_t items = (size_t)job->view.layer_count * job->view.expert_count;
    coterie_status_t status;

    if (job->options->hot == NULL)
        return COTERIE_OK;
    job->hot = calloc(items, sizeof(*job->hot));
    if (job->hot == NULL)
        return failure(COTERIE_ERR_NO_MEMORY, "out of memory");
    status = coterie_hot_read(job->options->hot, job->view.layer_count,
                              job->view.expert_count, job->hot);
    return status == COTERIE_ERR_NOT_FOUND ? COTERIE_OK : status;
}

static coterie_status_t cache_replay(cache_job_t *job)
{
    coterie_replay_result_t result = COTERIE_REPLAY_RESULT_INIT;
    progress_t progress = {.what = "cache"};
    double held_out = job->options->held_out;
    coterie_status_t status;

    job->replay.policy = job->options->policy;
    job->replay.streams = job->options->streams;
    job->replay.first_counted =
        playing_first(&job->view, held_out > 0 ? held_out : 1);
    job->replay.hot = job->hot;
    job->replay.progress = playing_progress;
    job->replay.progress_arg = &progress;
    status = coterie_cache_replay(&job->view, &job->replay, &result);
    progress_end(&progress);
    if (status == COTERIE_OK && job->hot != NULL)
        status = coterie_hot_write(job->options->hot, job->view.layer_count,
                                   job->view.expert_count, job->hot);
    if (status == COTERIE_OK && job->options->json)
        status = cache_json(job, &result);
    else if (status == COTERIE_OK)
        cache_text(job, &result);
    return status;
}

static coterie_status_t cache_json(const cache_job_t *job,
                                   const coterie_replay_result_t *result)
{
    uint64_t optimal_misses = result->uses - result->optimal_hits;
    json_t *object = json_pack(
        "{s:s, s:i, s:f, s:i, s:I, s:I, s:I, s:I, s:f, s:I, s:f, s:I}",
        "policy", policy_names[job->replay.policy], "slots",
        (int)job->replay.slots, "budget_share",
        share_of(job->replay.slots,
                 (uint64_t)job->view.layer_count * job->view.expert_count),
        "streams", (int)(job->replay.streams > 0 ? job->replay.streams : 1),
        "tokens", (json_int_t)result->tokens, "uses",
        (json_int_t)result->uses, "hits", (json_int_t)result->hits, "misses",
        (json_int_t)result->misses, "hit_rate",
        share_of(result->hits, result->uses), "optimal_misses",
        (json_int_t)optimal_misses, "optimal_hit_rate",
        share_of(result->optimal_hits, result->uses), "preloaded",
        (json_int_t)result->preloaded);

    if (object != NULL && job->record_size > 0) {
        double size = (double)job->record_size;
        json_object_set_new(object, "demand_bytes",
                            json_real(size * (double)result->misses));
        json_object_set_new(object, "optimal_bytes",
                            json_real(size * (double)optimal_misses));
        json_object_set_new(object, "bytes_per_token",
                            json_real(size * (double)result->misses /
                                      (double)result->tokens));
    }
    return json_print(object);
}

static void cache_text(const cache_job_t *job,
                       const coterie_replay_result_t *result)
{
    uint64_t optimal_misses = result->uses - result->optimal_hits;
    double tokens = (double)result->tokens;

    printf("budget           %u experts of %u (%.1f%%)\n", job->replay.slots,
           job->view.layer_count * job->view.expert_count,
           100 * share_of(job->replay.slots,
                          (uint64_t)job->view.layer_count *
                              job->view.expert_count));
    printf("needed           %llu experts in %llu tokens\n",
           (unsigned long long)result->uses,
           (unsigned long long)result->tokens);
    printf("                 %10s %10s\n", policy_names[job->replay.policy],
           "optimum");
    printf("hits             %9.1f%% %9.1f%%\n",
           100 * share_of(result->hits, result->uses),
           100 * share_of(result->optimal_hits, result->uses));
    printf("reads per token  %10.2f %10.2f\n",
           (double)result->misses / tokens, (double)optimal_misses / tokens);
    if (job->record_size > 0)
        printf("MB per token     %10.2f %10.2f\n",
               1e-6 * (double)job->record_size * (double)result->misses /
                   tokens,
               1e-6 * (double)job->record_size * (double)optimal_misses /
                   tokens);
    if (result->preloaded > 0)
        printf("read before      %llu hot experts\n",
               (unsigned long long)result->preloaded);
}

static double share_of(uint64_t part, uint64_t whole)
{
    return whole > 0 ? (double)part / (double)whole : 0;
}
