#include "config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/command.h"
#include "tools/lift.h"

static const char *hindrance(const job_t *job);
static coterie_status_t norms_gather(const weights_t *weights, float **norm_p);

coterie_status_t lift_open(job_t *job)
{
    const coterie_model_config_t *c = &job->weights->config;
    const prompts_t *p = &job->prompts;
    const char *why = hindrance(job);
    coterie_dispatcher_options_t options = COTERIE_DISPATCHER_OPTIONS_INIT;
    float *norm = NULL;
    coterie_status_t status;

    if (why != NULL) {
        fprintf(stderr, "coterie run: rows go through the host: %s\n", why);
        return COTERIE_OK;
    }
    status = norms_gather(job->weights, &norm);
    if (status == COTERIE_OK)
        status = coterie_device_open(job->options->device, &job->device);
    if (status == COTERIE_OK)
        status = coterie_fabric_open_local(job->options->ranks, job->device,
                                           &job->fabric);
    for (uint32_t s = 0; s < p->count; s++)
        options.max_rows += p->length[s]; /* as rank.c counts them */
    options.fabric = job->fabric;
    options.placement = job->placement;
    options.hidden = c->hidden;
    options.k = c->k;
    options.arrivals = options.max_rows;
    options.wire = job->options->wire;
    options.element = COTERIE_WIRE_F32;
    options.norm = norm;
    options.norm_epsilon = c->norm_eps;
    if (status == COTERIE_OK)
        status = coterie_dispatcher_create(&options, &job->dispatcher);
    free(norm);
    return status;
}

void lift_close(job_t *job)
{
    coterie_dispatcher_destroy(job->dispatcher);
    coterie_fabric_close(job->fabric);
    coterie_device_close(job->device);
}

static const char *hindrance(const job_t *job)
{
    const run_options_t *o = job->options;

    if (o->transport != TRANSPORT_THREADS)
        return "ranks are processes";
    if (job->tiers != NULL)
        return "experts are in tiers";
    if (o->wire == COTERIE_WIRE_INT8)
        return "devices send f32 or bf16";
    if (strcmp(o->device, "cuda") == 0 && coterie_device_count() > 1)
        return "ranks have several GPUs; --device cuda:N gives them one";
    return NULL;
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
