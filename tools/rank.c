#include "config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tools/lift.h"
#include "tools/rank.h"
#include "tools/report.h"

enum { HOST_SIZE = 64 };

static coterie_status_t crowd_warn(rank_t *r);
static coterie_status_t rank_open(rank_t *r);
static coterie_status_t bank_open(rank_t *r);
static coterie_status_t device_open(rank_t *r, uint32_t max_rows);
static coterie_status_t arrays_create(rank_t *r);
static coterie_status_t recorder_open(rank_t *r);
static coterie_status_t decoder_open(rank_t *r, uint32_t max_rows);
static coterie_status_t session_open(rank_t *r, uint32_t max_rows);
static coterie_status_t generate(rank_t *r, results_t *results);
static void session_close(rank_t *r);
static void rank_close(rank_t *r);

coterie_status_t rank_run(const job_t *job, coterie_transport_t *transport,
                          results_t *results)
{
    rank_t r = {.job = job,
                .transport = transport,
                .index = coterie_transport_rank(transport),
                .count = coterie_transport_rank_count(transport)};
    coterie_status_t status = crowd_warn(&r);

    if (status == COTERIE_OK)
        status = rank_open(&r);
    if (status == COTERIE_OK)
        status = generate(&r, results);
    if (status == COTERIE_OK)
        session_close(&r);
    if (status == COTERIE_OK)
        status = rank_collect(&r, results);
    if (status != COTERIE_OK)
        coterie_transport_abort(transport);
    rank_close(&r);
    return status;
}

/* Ranks that share a core wait for one another; say so once. */
static coterie_status_t crowd_warn(rank_t *r)
{
    long cores = coterie_host_cores(), here = 0;
    char host[HOST_SIZE] = "";
    char *hosts = malloc((size_t)r->count * HOST_SIZE);
    coterie_status_t status;

    if (hosts == NULL)
        return failure(COTERIE_ERR_NO_MEMORY, "out of memory");
    gethostname(host, sizeof(host) - 1);
    status = coterie_transport_allgather(r->transport, host, sizeof(host),
                                         hosts);
    for (uint32_t i = 0; status == COTERIE_OK && i < r->count; i++)
        here += memcmp(hosts + (size_t)i * HOST_SIZE, host, HOST_SIZE) == 0;
    if (r->index == 0 && cores > 0 && here > cores)
        fprintf(stderr,
                "coterie run: %ld ranks share %ld cores; they will wait for "
                "one another\n",
                here, cores);
    free(hosts);
    return status;
}

static coterie_status_t rank_open(rank_t *r)
{
    const prompts_t *p = &r->job->prompts;
    uint64_t rows = 0;
    coterie_status_t status = arrays_create(r);

    for (uint32_t s = 0; s < p->count; s++)
        rows += p->length[s]; /* prefill's; a decode step has fewer */
    if (status == COTERIE_OK)
        status = bank_open(r);
    if (status == COTERIE_OK && r->job->options->device != NULL)
        status = device_open(r, (uint32_t)rows);
    if (status == COTERIE_OK && r->job->options->trace != NULL)
        status = recorder_open(r);
    if (status == COTERIE_OK)
        status = decoder_open(r, (uint32_t)rows);
    if (status == COTERIE_OK)
        status = session_open(r, (uint32_t)rows);
    return status;
}

static coterie_status_t bank_open(rank_t *r)
{
    const job_t *job = r->job;
    coterie_status_t status;

    if (job->tiers != NULL)
        status = coterie_bank_create_tiered(job->tiers, job->placement,
                                            r->index, &r->bank);
    else
        status = coterie_bank_create(job->model, job->placement, r->index,
                                     &r->bank);
    if (status != COTERIE_OK)
        return status;
    coterie_bank_set_pool(r->bank, job->pool);
    return coterie_bank_set_compute(r->bank, job->options->compute);
}

/* "cuda" deals the GPUs out to the ranks. */
static coterie_status_t device_open(rank_t *r, uint32_t max_rows)
{
    const char *name = r->job->options->device;
    const uint32_t count = coterie_device_count();
    const uint32_t k = r->job->weights->config.k;
    char dealt[16];
    coterie_status_t status;

    if (strcmp(name, "cuda") == 0 && count > 0) {
        snprintf(dealt, sizeof(dealt), "cuda:%u", r->index % count);
        name = dealt;
    }
    status = coterie_device_open(name, &r->device);
    if (status != COTERIE_OK)
        return status;
    if (r->job->device_budget > 0)
        return coterie_bank_move_tiered(r->bank, r->device, max_rows, k,
                                        r->job->device_budget / r->count);
    status = coterie_bank_move(r->bank, r->device, max_rows, k);
    return status == COTERIE_OK ? lift_join(r) : status;
}

static coterie_status_t arrays_create(rank_t *r)
{
    const prompts_t *p = &r->job->prompts;
    uint64_t total = p->start[p->count];
    bool logits = r->job->options->logits != NULL;

    r->tokens = malloc(total * sizeof(*r->tokens));
    if (logits) {
        r->seen = calloc(total, 1);
        r->logits = malloc(total * r->job->weights->config.vocab *
                           sizeof(*r->logits));
    }
    if (r->tokens == NULL ||
        (logits && (r->seen == NULL || r->logits == NULL)))
        return failure(COTERIE_ERR_NO_MEMORY, "no memory for %llu tokens",
                       (unsigned long long)total);
    memcpy(r->tokens, p->tokens, total * sizeof(*r->tokens));
    return COTERIE_OK;
}

static coterie_status_t recorder_open(rank_t *r)
{
    const coterie_model_config_t *c = &r->job->weights->config;
    coterie_trace_recorder_options_t options =
        COTERIE_TRACE_RECORDER_OPTIONS_INIT;

    options.layer_count = c->moe_layers;
    options.expert_count = c->experts;
    options.k = c->k;
    options.predicted_k =
        r->job->options->predict != PREDICT_GROUP ? c->k : 0;
    return coterie_trace_recorder_create(&options, &r->recorder);
}

static coterie_status_t decoder_open(rank_t *r, uint32_t max_rows)
{
    const job_t *job = r->job;
    bool predict = job->options->predict != PREDICT_GROUP;
    decoder_options_t options = {
        .weights = job->weights,
        .sequences = job->prompts.count,
        .start = job->prompts.start,
        .prompt = job->prompts.length,
        .max_rows = max_rows,
        .share_kv = job->group != COTERIE_GROUP_NONE,
        .predict = predict,
        .learn = job->options->predict == PREDICT_LEARNED ||
                 (predict && job->tiers != NULL),
        .steer = predict && job->group == COTERIE_GROUP_ALL,
        .ahead = predict && job->tiers != NULL,
        .sampler = {.seed = job->options->seed,
                    .temperature = job->options->temperature},
        .recorder = r->recorder,
        .tokens = r->tokens,
        .logits = r->logits,
        .seen = r->seen};

    return decoder_create(&options, &r->decoder);
}

/* Where tokens go among all ranks, the session is told what to expect; across
 * nodes every node holds every token, and there is nothing to guess. */
static coterie_status_t session_open(rank_t *r, uint32_t max_rows)
{
    const job_t *job = r->job;
    const coterie_model_config_t *c = &job->weights->config;
    bool predict = job->options->predict != PREDICT_GROUP &&
                   (job->group == COTERIE_GROUP_ALL || job->tiers != NULL);
    coterie_session_options_t options = COTERIE_SESSION_OPTIONS_INIT;

    options.transport = r->transport;
    options.placement = job->placement;
    options.bank = r->bank;
    options.engine = decoder_engine(r->decoder);
    options.dispatcher = r->dispatcher;
    options.hidden = c->hidden;
    options.k = c->k;
    options.max_rows = max_rows;
    options.mode = job->mode;
    options.group = job->group;
    options.predicted_k = predict ? c->k : 0;
    options.kv_row_size = kv_row_size(c);
    options.wire = job->options->wire;
    options.kv_after_last =
        job->weights->layers[c->layers - 1].moe_layer == COTERIE_NO_LAYER;
    return coterie_session_create(&options, &r->session);
}

static coterie_status_t generate(rank_t *r, results_t *results)
{
    uint32_t tokens = r->job->options->tokens;
    progress_t progress = {.what = "run"};
    double start = seconds_now(), prefilled;
    coterie_status_t status = decoder_prefill(
        r->decoder, r->session, r->index, r->count, tokens == 1);

    prefilled = seconds_now();
    for (uint32_t i = 1; i < tokens && status == COTERIE_OK; i++) {
        char text[64];
        snprintf(text, sizeof(text), "token %u of %u", i + 1, tokens);
        if (r->index == 0)
            progress_show(&progress, text);
        status = decoder_step(r->decoder, r->session, i + 1 == tokens);
    }
    progress_end(&progress);
    if (status == COTERIE_OK && r->index == 0) {
        results->prefill_s = prefilled - start;
        results->decode_s = seconds_now() - prefilled;
    }
    return status;
}

/* The transport is free for other uses only once the session has received
 * what was still on its way between its steps. */
static void session_close(rank_t *r)
{
    coterie_session_counts(r->session, r->sent.counts, &r->sent.times);
    coterie_session_destroy(r->session);
    r->session = NULL;
}

static void rank_close(rank_t *r)
{
    coterie_session_destroy(r->session);
    decoder_destroy(r->decoder);
    coterie_trace_recorder_destroy(r->recorder);
    lift_leave(r);
    coterie_bank_destroy(r->bank);
    coterie_device_close(r->device);
    free(r->tokens);
    free(r->logits);
    free(r->seen);
}
