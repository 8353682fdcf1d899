#include "config.h"

#include <stdlib.h>
#include <string.h>

#include "tools/budget.h"
#include "tools/job.h"
#include "tools/lift.h"
#include "tools/modes.h"

static coterie_status_t pool_open(uint32_t threads, coterie_pool_t **pool_p);
static coterie_status_t length_check(const job_t *job);
static coterie_status_t placement_open(const run_options_t *options,
                                       const coterie_model_config_t *config,
                                       coterie_placement_t **placement_p);
static coterie_status_t placement_load(const run_options_t *options,
                                       const coterie_model_config_t *config,
                                       coterie_placement_t **placement_p);

coterie_status_t job_open(const run_options_t *options, const char *model,
                          job_t *job)
{
    coterie_model_config_t config = {.size = sizeof(config)};
    coterie_status_t status = output_check(options->trace, options->force);

    *job = (job_t){.options = options,
                   .mode = (coterie_mode_t)options->dispatch};
    job->group = group_choose(options->group, job->mode);
    if (status == COTERIE_OK)
        status = output_check(options->logits, options->force);
    if (status == COTERIE_OK && options->trace != NULL &&
        options->logits != NULL &&
        strcmp(options->trace, options->logits) == 0)
        status = failure(COTERIE_ERR_INVALID,
                         "%s: --trace and --logits are two files",
                         options->trace);
    if (status == COTERIE_OK)
        status = coterie_model_open(model, &job->model);
    if (status != COTERIE_OK)
        return status;
    coterie_model_config(job->model, &config);
    status = placement_open(options, &config, &job->placement);
    if (status == COTERIE_OK)
        status = prompts_create(&options->prompts, config.vocab,
                                options->tokens, &job->prompts);
    if (status == COTERIE_OK)
        status = weights_create(job->model, &job->weights);
    if (status == COTERIE_OK)
        status = length_check(job);
    if (status == COTERIE_OK)
        status = budget_options_read(job);
    if (status == COTERIE_OK && options->threads > 0)
        status = pool_open(options->threads, &job->pool);
    if (status == COTERIE_OK && options->device != NULL)
        status = lift_open(job);
    return status;
}

void job_close(job_t *job)
{
    lift_close(job);
    prompts_destroy(&job->prompts);
    coterie_placement_destroy(job->placement);
    weights_destroy(job->weights);
    coterie_tiers_destroy(job->tiers); /* before the model, which it reads */
    free(job->hot);
    coterie_pool_destroy(job->pool);
    coterie_model_close(job->model);
    *job = (job_t){0};
}

void results_free(results_t *results)
{
    free(results->tokens);
    free(results->logits);
    coterie_trace_destroy(results->trace);
    free(results->hot);
    free(results->timeline);
    *results = (results_t){0};
}

static coterie_status_t pool_open(uint32_t threads, coterie_pool_t **pool_p)
{
    coterie_pool_options_t options = COTERIE_POOL_OPTIONS_INIT;

    options.threads = threads;
    return coterie_pool_create(&options, pool_p);
}

static coterie_status_t length_check(const job_t *job)
{
    uint32_t most = job->weights->config.max_position;
    const prompts_t *p = &job->prompts;

    for (uint32_t s = 0; s < p->count; s++) {
        uint64_t length = p->start[s + 1] - p->start[s];
        if (most != 0 && length > most)
            return failure(COTERIE_ERR_INVALID,
                           "prompt %u with %u new tokens has %llu positions; "
                           "the model takes %u",
                           s, job->options->tokens,
                           (unsigned long long)length, most);
    }
    if (p->start[p->count] > INT32_MAX)
        return failure(COTERIE_ERR_INVALID, "prompts are too long together");
    return COTERIE_OK;
}

static coterie_status_t placement_open(const run_options_t *options,
                                       const coterie_model_config_t *config,
                                       coterie_placement_t **placement_p)
{
    coterie_placement_options_t in_order = COTERIE_PLACEMENT_OPTIONS_INIT;

    if (options->placement != NULL)
        return placement_load(options, config, placement_p);
    in_order.layer_count = config->moe_layers;
    in_order.expert_count = config->experts;
    in_order.rank_count = options->ranks;
    in_order.node_count = options->nodes;
    return coterie_placement_create(&in_order, placement_p);
}

static coterie_status_t placement_load(const run_options_t *options,
                                       const coterie_model_config_t *config,
                                       coterie_placement_t **placement_p)
{
    coterie_placement_t *placement = NULL;
    coterie_placement_options_t view;
    coterie_status_t status =
        coterie_placement_read(options->placement, 0, &placement);

    if (status != COTERIE_OK)
        return status;
    coterie_placement_view(placement, &view);
    status = coterie_placement_check(placement, config->moe_layers,
                                     config->experts, options->ranks);
    if (status != COTERIE_OK)
        failure(status, "%s: %s", options->placement, coterie_last_error());
    else if (options->nodes != 0 && options->nodes != view.node_count)
        status = failure(COTERIE_ERR_MISMATCH,
                         "%s is for %u nodes, not --nodes %u",
                         options->placement, view.node_count, options->nodes);
    if (status == COTERIE_OK)
        *placement_p = placement;
    else
        coterie_placement_destroy(placement);
    return status;
}
