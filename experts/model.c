#include "config.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/error.h"
#include "experts/convert.h"
#include "experts/model.h"

static coterie_status_t source_open(const char *path,
                                    coterie_source_t **source_p);
static coterie_status_t model_load(coterie_model_t *model);
static coterie_status_t dense_mark(void *arg,
                                   const coterie_tensor_spec_t *spec);
static coterie_status_t check_all_known(const coterie_model_t *model);
static coterie_status_t blocks_widen(const coterie_source_t *source,
                                     const coterie_tensor_t *tensor,
                                     float *out);
static const char *tensor_alias(const coterie_model_t *model,
                                const char *name);
static uint64_t weights_size(const coterie_model_t *model);

coterie_status_t coterie_model_open(const char *path,
                                    coterie_model_t **model_p)
{
    coterie_model_t *model;
    coterie_status_t status;

    if (path == NULL || model_p == NULL)
        return coterie_fail(COTERIE_ERR_INVALID,
                            "coterie_model_open: an argument is NULL");
    model = calloc(1, sizeof(*model));
    if (model == NULL)
        return coterie_fail_memory(sizeof(*model), "a model");
    status = source_open(path, &model->source);
    if (status == COTERIE_OK)
        status = model_load(model);
    if (status != COTERIE_OK) {
        coterie_model_close(model);
        return status;
    }
    *model_p = model;
    return COTERIE_OK;
}

void coterie_model_config(const coterie_model_t *model,
                          coterie_model_config_t *config)
{
    *config = model->shape.config;
}

uint32_t coterie_model_layer_of(const coterie_model_t *model,
                                uint32_t moe_layer)
{
    if (moe_layer >= model->shape.config.moe_layers)
        return COTERIE_NO_LAYER;
    return model->shape.layer_of[moe_layer];
}

uint32_t coterie_model_window(const coterie_model_t *model, uint32_t layer)
{
    if (layer >= model->shape.config.layers)
        return 0;
    return model->shape.window_of[layer];
}

uint32_t coterie_model_moe_layer_of(const coterie_model_t *model,
                                    uint32_t layer)
{
    if (layer >= model->shape.config.layers)
        return COTERIE_NO_LAYER;
    return model->shape.moe_layer_of[layer];
}

coterie_status_t coterie_model_tensor(const coterie_model_t *model,
                                      const char *name, uint64_t count,
                                      float *out)
{
    const coterie_source_t *source = model->source;
    const coterie_tensor_t *tensor =
        coterie_tensors_find(&source->tensors, tensor_alias(model, name));
    uint32_t element;
    coterie_status_t status;

    if (tensor == NULL || tensor->role != COTERIE_TENSOR_DENSE)
        return coterie_fail(COTERIE_ERR_NOT_FOUND,
                            "%s: no tensor %s among those outside the experts",
                            source->path, name);
    element = coterie_tensor_element(tensor->dtype);
    if (tensor->size / element != count)
        return coterie_fail(COTERIE_ERR_MISMATCH,
                            "%s: %s has %" PRIu64 " elements; the caller "
                            "expects %" PRIu64,
                            source->path, name, tensor->size / element, count);
    /* At the end of the room: coterie_widen takes it from there. */
    status = source->ops->read(source, tensor,
                               (char *)out + count * (sizeof(*out) - element));
    if (status == COTERIE_OK && tensor->dtype == COTERIE_DTYPE_FP8)
        return blocks_widen(source, tensor, out);
    if (status == COTERIE_OK)
        coterie_widen(tensor->dtype, count, out);
    return status;
}

void coterie_model_expert_format(const coterie_model_t *model,
                                 coterie_expert_format_t *format)
{
    *format = model->format;
}

coterie_status_t coterie_model_expert(const coterie_model_t *model,
                                      uint32_t moe_layer, uint32_t expert,
                                      void *record)
{
    const coterie_model_config_t *config = &model->shape.config;

    if (moe_layer >= config->moe_layers || expert >= config->experts)
        return coterie_fail(COTERIE_ERR_INVALID,
                            "%s: no expert (%u, %u); there are %u layers of %u",
                            model->source->path, moe_layer, expert,
                            config->moe_layers, config->experts);
    return model->source->ops->expert(model->source, moe_layer, expert,
                                      record);
}

void coterie_model_describe(const coterie_model_t *model, char *text,
                            size_t size)
{
    const coterie_model_config_t *config = &model->shape.config;
    const coterie_expert_format_t *format = &model->format;
    char lost[64] = "";

    if (format->packed_from != 0)
        snprintf(lost, sizeof(lost), " (from %s, error %.2g)",
                 coterie_dtype_name(format->packed_from),
                 (double)format->error);
    snprintf(text, size,
             "%s: %s, %u layers (%u with %u experts, top-%u), hidden %u, "
             "expert ffn %u, experts in %s%s, %.1f MB of weights",
             model->source->ops->kind, coterie_arch_name(config->arch),
             config->layers, config->moe_layers, config->experts, config->k,
             config->hidden, config->ffn,
             coterie_dtype_name(format->dtype), lost,
             (double)weights_size(model) / 1e6);
}

void coterie_model_close(coterie_model_t *model)
{
    if (model == NULL)
        return;
    if (model->source != NULL)
        model->source->ops->close(model->source);
    coterie_shape_clear(&model->shape);
    free(model);
}

static coterie_status_t source_open(const char *path,
                                    coterie_source_t **source_p)
{
    struct stat information;

    if (stat(path, &information) != 0)
        return coterie_fail(
            errno == ENOENT ? COTERIE_ERR_NOT_FOUND : COTERIE_ERR_IO, "%s: %s",
            path, strerror(errno));
    if (S_ISDIR(information.st_mode))
        return coterie_directory_open(path, source_p);
    return coterie_store_open(path, source_p);
}

static coterie_status_t model_load(coterie_model_t *model)
{
    coterie_source_t *source = model->source;
    char where[512];
    coterie_status_t status;

    snprintf(where, sizeof(where), "%s: config.json", source->path);
    status = coterie_shape_read(source->config_text, where, &model->shape);
    if (status == COTERIE_OK)
        status = coterie_names_dense(&model->shape, dense_mark, source);
    if (status == COTERIE_OK)
        status = source->ops->bind(source, &model->shape, &model->format);
    if (status == COTERIE_OK)
        status = check_all_known(model);
    return status;
}

static coterie_status_t dense_mark(void *arg,
                                   const coterie_tensor_spec_t *spec)
{
    coterie_source_t *source = arg;
    coterie_tensor_spec_t scale;
    coterie_tensor_t *tensor;
    coterie_status_t status;

    status = coterie_names_find(&source->tensors, source->path, spec, &tensor);
    if (status != COTERIE_OK)
        return status;
    if (tensor->dtype == COTERIE_TENSOR_BYTES)
        return coterie_fail(COTERIE_ERR_UNSUPPORTED,
                            "%s: %s has dtype U8; only experts may",
                            source->path, tensor->name);
    tensor->role = COTERIE_TENSOR_DENSE;
    if (tensor->dtype != COTERIE_DTYPE_FP8)
        return COTERIE_OK;
    coterie_names_scale(spec, &scale);
    status = coterie_names_find(&source->tensors, source->path, &scale,
                                &tensor);
    if (status != COTERIE_OK)
        return status;
    if (tensor->dtype != COTERIE_DTYPE_F32)
        return coterie_fail(COTERIE_ERR_UNSUPPORTED,
                            "%s: %s has dtype %s; F32 is right", source->path,
                            tensor->name,
                            coterie_tensor_dtype_name(tensor->dtype));
    tensor->role = COTERIE_TENSOR_DENSE;
    return COTERIE_OK;
}

/* A tensor that nothing reads means that the config tells less than the
 * weights do (a bias, say), and the results would be wrong. */
static coterie_status_t check_all_known(const coterie_model_t *model)
{
    const coterie_tensors_t *tensors = &model->source->tensors;

    for (size_t i = 0; i < tensors->count; i++) {
        const coterie_tensor_t *tensor = &tensors->items[i];
        if (tensor->role == COTERIE_TENSOR_UNKNOWN &&
            !coterie_names_ignorable(&model->shape, tensor->name))
            return coterie_fail(COTERIE_ERR_UNSUPPORTED,
                                "%s: %s is no tensor of a %s model with this "
                                "config",
                                model->source->path, tensor->name,
                                coterie_arch_name(model->shape.config.arch));
    }
    return COTERIE_OK;
}

/* DeepSeek-V3's fp8: the scales are a tensor of their own. */
static coterie_status_t blocks_widen(const coterie_source_t *source,
                                     const coterie_tensor_t *tensor,
                                     float *out)
{
    coterie_tensor_spec_t spec = {.rank = tensor->rank}, found;
    const coterie_tensor_t *scale;
    coterie_status_t status;
    float *scales;

    snprintf(spec.name, sizeof(spec.name), "%s", tensor->name);
    coterie_names_scale(&spec, &found);
    scale = coterie_tensors_find(&source->tensors, found.name);
    assert(scale != NULL && scale->role == COTERIE_TENSOR_DENSE);
    scales = malloc(scale->size + 1); /* malloc(0) may be NULL */
    if (scales == NULL)
        return coterie_fail_memory(scale->size, "a tensor's scales");
    status = source->ops->read(source, scale, scales);
    if (status == COTERIE_OK)
        coterie_widen_blocks(tensor->rank > 1 ? tensor->shape[0] : 1,
                             tensor->shape[tensor->rank - 1], scales, out);
    free(scales);
    return status;
}

static const char *tensor_alias(const coterie_model_t *model,
                                const char *name)
{
    if (model->shape.config.tied_embeddings &&
        strcmp(name, "lm_head.weight") == 0)
        return "model.embed_tokens.weight";
    return name;
}

static uint64_t weights_size(const coterie_model_t *model)
{
    const coterie_tensors_t *tensors = &model->source->tensors;
    const coterie_expert_format_t *format = &model->format;
    uint64_t size = format->record_size * model->shape.config.moe_layers *
                    model->shape.config.experts;

    for (size_t i = 0; i < tensors->count; i++)
        if (tensors->items[i].role == COTERIE_TENSOR_DENSE)
            size += tensors->items[i].size;
    return size;
}
