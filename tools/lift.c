#include "config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/command.h"
#include "tools/lift.h"

static void say_why_not(const char *why);
static bool have_one_each(const job_t *job);
static const char *hindrance(const job_t *job);
static coterie_status_t dispatcher_open(const job_t *job,
                                        coterie_fabric_t *fabric,
                                        coterie_dispatcher_t **dispatcher_p);
static coterie_status_t norms_gather(const weights_t *weights, float **norm_p);
static coterie_status_t connect_ranks(rank_t *r);

coterie_status_t lift_open(job_t *job)
{
    const char *why = hindrance(job);
    coterie_status_t status;

    if (why != NULL) {
        say_why_not(why);
        return COTERIE_OK;
    }
    if (have_one_each(job))
        return COTERIE_OK; /* they will connect them */
    status = coterie_device_open(job->options->device, &job->device);
    if (status == COTERIE_OK)
        status = coterie_fabric_open_local(job->options->ranks, job->device,
                                           &job->fabric);
    if (status == COTERIE_OK)
        status = dispatcher_open(job, job->fabric, &job->dispatcher);
    return status;
}

void lift_close(job_t *job)
{
    coterie_dispatcher_destroy(job->dispatcher);
    coterie_fabric_close(job->fabric);
    coterie_device_close(job->device);
}

coterie_status_t lift_join(rank_t *r)
{
    coterie_status_t status = COTERIE_OK;

    if (hindrance(r->job) == NULL && have_one_each(r->job))
        status = connect_ranks(r);
    else
        r->dispatcher = r->job->dispatcher;
    if (status == COTERIE_OK && r->dispatcher != NULL)
        status =
            coterie_dispatcher_register(r->dispatcher, r->index, r->bank);
    return status;
}

void lift_leave(rank_t *r)
{
    if (r->fabric != NULL)
        coterie_dispatcher_destroy(r->dispatcher);
    coterie_fabric_close(r->fabric);
}

static void say_why_not(const char *why)
{
    fprintf(stderr, "coterie run: rows go through the host: %s\n", why);
}

/* Ranks that may have GPUs to themselves; NCCL finds out if they do. */
static bool have_one_each(const job_t *job)
{
    const run_options_t *o = job->options;

    if (strncmp(o->device, "cuda", 4) != 0 || o->ranks == 1)
        return false;
    return o->transport == TRANSPORT_MPI ||
           (strcmp(o->device, "cuda") == 0 &&
            coterie_device_count() >= o->ranks);
}

static const char *hindrance(const job_t *job)
{
    const run_options_t *o = job->options;
    coterie_expert_format_t f = {.size = sizeof(f)};

    coterie_model_expert_format(job->model, &f);
    if (o->budget != NULL)
        return "experts are in tiers";
    if (o->wire == COTERIE_WIRE_INT8)
        return "devices send f32 or bf16";
    if (f.dtype == COTERIE_DTYPE_BF16 && (f.hidden % 16 | f.ffn % 16) != 0)
        return "experts of such a shape need counts on the host";
    if (have_one_each(job))
        return NULL;
    if (o->transport != TRANSPORT_THREADS)
        return "ranks are processes";
    if (strcmp(o->device, "cuda") == 0 && coterie_device_count() > 1)
        return "ranks have several GPUs, but not one each; --device cuda:N "
               "gives them one";
    return NULL;
}

static coterie_status_t dispatcher_open(const job_t *job,
                                        coterie_fabric_t *fabric,
                                        coterie_dispatcher_t **dispatcher_p)
{
    const coterie_model_config_t *c = &job->weights->config;
    const prompts_t *p = &job->prompts;
    coterie_dispatcher_options_t options = COTERIE_DISPATCHER_OPTIONS_INIT;
    float *norm = NULL;
    coterie_status_t status = norms_gather(job->weights, &norm);

    for (uint32_t s = 0; s < p->count; s++)
        options.max_rows += p->length[s]; /* as rank.c counts them */
    options.fabric = fabric;
    options.placement = job->placement;
    options.hidden = c->hidden;
    options.k = c->k;
    options.arrivals = options.max_rows;
    options.wire = job->options->wire;
    options.element = COTERIE_WIRE_F32;
    options.norm = norm;
    options.norm_epsilon = c->norm_eps;
    options.forward = job->group == COTERIE_GROUP_ALL &&
                      (job->mode == COTERIE_MODE_FORWARD ||
                       job->mode == COTERIE_MODE_AUTO);
    if (options.forward && job->options->predict != PREDICT_GROUP)
        options.predicted_k = c->k; /* as rank.c tells the session */
    if (status == COTERIE_OK)
        status = coterie_dispatcher_create(&options, dispatcher_p);
    free(norm);
    return status;
}

static coterie_status_t norms_gather(const weights_t *weights, float **norm_p)
{
    const coterie_model_config_t *c = &weights->config;
    const size_t size = c->hidden * sizeof(float);
    float *norm = malloc(c->moe_layers * size);

    if (norm == NULL)
        return failure(COTERIE_ERR_NO_MEMORY, "no memory for %u norms",
                       c->moe_layers);
    for (uint32_t l = 0; l < c->moe_layers; l++)
        memcpy(norm + (size_t)l * c->hidden,
               weights_moe_layer(weights, l)->ffn_norm, size);
    *norm_p = norm;
    return COTERIE_OK;
}

/* All ranks, or none: one line says why. */
static coterie_status_t connect_ranks(rank_t *r)
{
    coterie_nccl_options_t options = COTERIE_NCCL_OPTIONS_INIT;
    uint32_t version;
    bool speaks;
    coterie_status_t status =
        ranks_agree(r->transport, coterie_nccl_version(&version), &speaks);

    options.device = r->device;
    options.transport = r->transport;
    if (status == COTERIE_OK) {
        status = coterie_fabric_open_nccl(&options, &r->fabric);
        speaks = r->index == 0;
    } else if (status == COTERIE_ERR_NOT_FOUND) { /* no library somewhere */
        status = COTERIE_ERR_UNSUPPORTED;
    }
    if (status == COTERIE_ERR_MISMATCH || status == COTERIE_ERR_UNSUPPORTED) {
        if (speaks)
            say_why_not(coterie_last_error());
        return COTERIE_OK;
    }
    return status == COTERIE_OK
               ? dispatcher_open(r->job, r->fabric, &r->dispatcher)
               : status;
}
