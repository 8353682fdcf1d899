#include "config.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "experts/names.h"

/* Extents, as the tables below name them; NONE as the second marks a vector. */
typedef enum dim {
    NONE, ONE, VOCAB, HIDDEN, HEAD, HEADS_OF_Q, Q_ROWS, KV_ROWS, EXPERTS,
    DENSE_FFN, SHARED_FFN, Q_RANK, KV_RANK, KV_RANK_ROPE, LATENT_Q, LATENT_KV,
    LATENT_O,
} dim_t;

/* When a layer has a tensor. */
typedef enum when {
    ALWAYS, WITH_BIAS, WITH_O_BIAS, WITH_Q_RANK, WITHOUT_Q_RANK, IN_DENSE,
    IN_MOE, WITH_SHARED, /* in a layer with experts */
} when_t;

enum {
    MIXTRAL = 1 << COTERIE_ARCH_MIXTRAL,
    QWEN2 = 1 << COTERIE_ARCH_QWEN2_MOE,
    QWEN3 = 1 << COTERIE_ARCH_QWEN3_MOE,
    OLMOE = 1 << COTERIE_ARCH_OLMOE,
    DEEPSEEK_V3 = 1 << COTERIE_ARCH_DEEPSEEK_V3,
    DEEPSEEK = 1 << COTERIE_ARCH_DEEPSEEK_V2 | DEEPSEEK_V3,
    GPT_OSS = 1 << COTERIE_ARCH_GPT_OSS,
    /* attention without a latent */
    HEADS = MIXTRAL | QWEN2 | QWEN3 | OLMOE | GPT_OSS,
    ALL = HEADS | DEEPSEEK
};

typedef struct row {
    const char *name;
    uint32_t archs;
    when_t when;
    dim_t shape[2];
} row_t;

static const row_t model_rows[] = {
    {"model.embed_tokens.weight", ALL, ALWAYS, {VOCAB, HIDDEN}},
    {"model.norm.weight", ALL, ALWAYS, {HIDDEN, NONE}},
};

static const char *const head_name = "lm_head.weight";

/* Names follow "model.layers.N.". A name may have several rows, as long as at
 * most one applies to a layer. */
static const row_t layer_rows[] = {
    {"input_layernorm.weight", ALL, ALWAYS, {HIDDEN, NONE}},
    {"post_attention_layernorm.weight", ALL, ALWAYS, {HIDDEN, NONE}},
    {"self_attn.q_proj.weight", HEADS, ALWAYS, {Q_ROWS, HIDDEN}},
    {"self_attn.k_proj.weight", HEADS, ALWAYS, {KV_ROWS, HIDDEN}},
    {"self_attn.v_proj.weight", HEADS, ALWAYS, {KV_ROWS, HIDDEN}},
    {"self_attn.o_proj.weight", HEADS, ALWAYS, {HIDDEN, Q_ROWS}},
    {"self_attn.q_proj.bias", QWEN2 | GPT_OSS, WITH_BIAS, {Q_ROWS, NONE}},
    {"self_attn.k_proj.bias", QWEN2 | GPT_OSS, WITH_BIAS, {KV_ROWS, NONE}},
    {"self_attn.v_proj.bias", QWEN2 | GPT_OSS, WITH_BIAS, {KV_ROWS, NONE}},
    {"self_attn.o_proj.bias", GPT_OSS, WITH_O_BIAS, {HIDDEN, NONE}},
    {"self_attn.sinks", GPT_OSS, ALWAYS, {HEADS_OF_Q, NONE}},
    {"self_attn.q_norm.weight", QWEN3, ALWAYS, {HEAD, NONE}},
    {"self_attn.k_norm.weight", QWEN3, ALWAYS, {HEAD, NONE}},
    {"self_attn.q_norm.weight", OLMOE, ALWAYS, {Q_ROWS, NONE}},
    {"self_attn.k_norm.weight", OLMOE, ALWAYS, {KV_ROWS, NONE}},
    {"self_attn.q_proj.weight", DEEPSEEK, WITHOUT_Q_RANK, {LATENT_Q, HIDDEN}},
    {"self_attn.q_a_proj.weight", DEEPSEEK, WITH_Q_RANK, {Q_RANK, HIDDEN}},
    {"self_attn.q_a_layernorm.weight", DEEPSEEK, WITH_Q_RANK, {Q_RANK, NONE}},
    {"self_attn.q_b_proj.weight", DEEPSEEK, WITH_Q_RANK, {LATENT_Q, Q_RANK}},
    {"self_attn.kv_a_proj_with_mqa.weight", DEEPSEEK, ALWAYS,
     {KV_RANK_ROPE, HIDDEN}},
    {"self_attn.kv_a_layernorm.weight", DEEPSEEK, ALWAYS, {KV_RANK, NONE}},
    {"self_attn.kv_b_proj.weight", DEEPSEEK, ALWAYS, {LATENT_KV, KV_RANK}},
    {"self_attn.o_proj.weight", DEEPSEEK, ALWAYS, {HIDDEN, LATENT_O}},
    {"mlp.gate_proj.weight", ALL, IN_DENSE, {DENSE_FFN, HIDDEN}},
    {"mlp.up_proj.weight", ALL, IN_DENSE, {DENSE_FFN, HIDDEN}},
    {"mlp.down_proj.weight", ALL, IN_DENSE, {HIDDEN, DENSE_FFN}},
    {"block_sparse_moe.gate.weight", MIXTRAL, IN_MOE, {EXPERTS, HIDDEN}},
    {"mlp.router.weight", GPT_OSS, IN_MOE, {EXPERTS, HIDDEN}},
    {"mlp.router.bias", GPT_OSS, IN_MOE, {EXPERTS, NONE}},
    {"mlp.gate.weight", ALL & ~(MIXTRAL | GPT_OSS), IN_MOE,
     {EXPERTS, HIDDEN}},
    {"mlp.gate.e_score_correction_bias", DEEPSEEK_V3, IN_MOE,
     {EXPERTS, NONE}},
    {"mlp.shared_expert_gate.weight", QWEN2, IN_MOE, {ONE, HIDDEN}},
    {"mlp.shared_expert.gate_proj.weight", QWEN2, IN_MOE,
     {SHARED_FFN, HIDDEN}},
    {"mlp.shared_expert.up_proj.weight", QWEN2, IN_MOE, {SHARED_FFN, HIDDEN}},
    {"mlp.shared_expert.down_proj.weight", QWEN2, IN_MOE,
     {HIDDEN, SHARED_FFN}},
    {"mlp.shared_experts.gate_proj.weight", DEEPSEEK, WITH_SHARED,
     {SHARED_FFN, HIDDEN}},
    {"mlp.shared_experts.up_proj.weight", DEEPSEEK, WITH_SHARED,
     {SHARED_FFN, HIDDEN}},
    {"mlp.shared_experts.down_proj.weight", DEEPSEEK, WITH_SHARED,
     {HIDDEN, SHARED_FFN}},
};

static int is_next_token_layer(const coterie_shape_t *shape,
                               const char *name);
static coterie_status_t layer_visit(const coterie_shape_t *shape,
                                    uint32_t layer, coterie_spec_fn fn,
                                    void *arg);
static int row_applies(const coterie_shape_t *shape, const row_t *row,
                       uint32_t layer);
static void spec_shape(const coterie_model_config_t *config,
                       const dim_t *shape, coterie_tensor_spec_t *spec);
static uint64_t extent(const coterie_model_config_t *config, dim_t dim);

coterie_status_t coterie_names_dense(const coterie_shape_t *shape,
                                     coterie_spec_fn fn, void *arg)
{
    static const dim_t head_shape[] = {VOCAB, HIDDEN};
    coterie_status_t status = COTERIE_OK;
    coterie_tensor_spec_t spec;

    for (size_t i = 0; i < sizeof(model_rows) / sizeof(row_t); i++) {
        snprintf(spec.name, sizeof(spec.name), "%s", model_rows[i].name);
        spec_shape(&shape->config, model_rows[i].shape, &spec);
        status = fn(arg, &spec);
        if (status != COTERIE_OK)
            return status;
    }
    if (!shape->config.tied_embeddings) {
        snprintf(spec.name, sizeof(spec.name), "%s", head_name);
        spec_shape(&shape->config, head_shape, &spec);
        status = fn(arg, &spec);
    }
    for (uint32_t layer = 0;
         layer < shape->config.layers && status == COTERIE_OK; layer++)
        status = layer_visit(shape, layer, fn, arg);
    return status;
}

void coterie_names_expert(const coterie_shape_t *shape,
                          const coterie_expert_name_t *name,
                          coterie_tensor_spec_t *spec)
{
    /* Mixtral counts its matrices in another order than it uses them. */
    static const char *const mixtral[] = {"w1", "w3", "w2"};
    static const char *const others[] = {"gate_proj", "up_proj", "down_proj"};
    const coterie_model_config_t *config = &shape->config;
    int is_mixtral = config->arch == COTERIE_ARCH_MIXTRAL;
    int down = name->part == COTERIE_EXPERT_PARTS - 1;
    uint64_t out = down ? config->hidden : config->ffn;
    uint64_t in = down ? config->ffn : config->hidden;

    assert(name->moe_layer < config->moe_layers &&
           name->part < COTERIE_EXPERT_PARTS);
    if (config->arch == COTERIE_ARCH_GPT_OSS) {
        snprintf(spec->name, sizeof(spec->name),
                 "model.layers.%u.mlp.experts.%s",
                 shape->layer_of[name->moe_layer],
                 down ? "down_proj" : "gate_up_proj");
        spec->rank = 3;
        spec->shape[0] = config->experts;
        spec->shape[1] = in;
        spec->shape[2] = down ? out : 2 * out;
        return;
    }
    snprintf(spec->name, sizeof(spec->name),
             "model.layers.%u.%s.experts.%u.%s.weight",
             shape->layer_of[name->moe_layer],
             is_mixtral ? "block_sparse_moe" : "mlp", name->expert,
             (is_mixtral ? mixtral : others)[name->part]);
    spec->rank = 2;
    spec->shape[0] = out;
    spec->shape[1] = in;
}

void coterie_names_scale(const coterie_tensor_spec_t *weight,
                         coterie_tensor_spec_t *scale)
{
    snprintf(scale->name, sizeof(scale->name), "%.*s_scale_inv",
             (int)(sizeof(scale->name) - sizeof("_scale_inv")), weight->name);
    scale->rank = weight->rank;
    for (uint32_t i = 0; i < weight->rank; i++)
        scale->shape[i] =
            (weight->shape[i] + COTERIE_FP8_BLOCK - 1) / COTERIE_FP8_BLOCK;
}

coterie_status_t coterie_names_find(const coterie_tensors_t *tensors,
                                    const char *path,
                                    const coterie_tensor_spec_t *spec,
                                    coterie_tensor_t **tensor_p)
{
    coterie_tensor_t *tensor = coterie_tensors_find(tensors, spec->name);
    char found[COTERIE_TENSOR_SHAPE_TEXT], right[COTERIE_TENSOR_SHAPE_TEXT];

    if (tensor == NULL)
        return coterie_fail(COTERIE_ERR_NOT_FOUND, "%s: %s is missing", path,
                            spec->name);
    if (tensor->rank != spec->rank ||
        memcmp(tensor->shape, spec->shape,
               spec->rank * sizeof(spec->shape[0])) != 0) {
        coterie_tensor_shape_text(tensor->rank, tensor->shape, found);
        coterie_tensor_shape_text(spec->rank, spec->shape, right);
        return coterie_fail(COTERIE_ERR_MISMATCH,
                            "%s: %s has shape %s; its config asks for %s",
                            path, spec->name, found, right);
    }
    *tensor_p = tensor;
    return COTERIE_OK;
}

int coterie_names_ignorable(const coterie_shape_t *shape, const char *name)
{
    static const char computed[] = ".rotary_emb.inv_freq";
    size_t length = strlen(name), tail = sizeof(computed) - 1;

    /* Tied files sometimes repeat the embeddings as the head. */
    if (shape->config.tied_embeddings && strcmp(name, head_name) == 0)
        return 1;
    if (is_next_token_layer(shape, name))
        return 1;
    return length > tail && strcmp(name + length - tail, computed) == 0;
}

/* DeepSeek-V3 is published with layers behind the last that predict further
 * tokens; decoding does without them. */
static int is_next_token_layer(const coterie_shape_t *shape, const char *name)
{
    unsigned layer;

    return shape->config.arch == COTERIE_ARCH_DEEPSEEK_V3 &&
           sscanf(name, "model.layers.%u.", &layer) == 1 &&
           layer >= shape->config.layers;
}

/* In the table's order, so that the first thing missing is named first. */
static coterie_status_t layer_visit(const coterie_shape_t *shape,
                                    uint32_t layer, coterie_spec_fn fn,
                                    void *arg)
{
    coterie_tensor_spec_t spec;
    coterie_status_t status;

    for (size_t i = 0; i < sizeof(layer_rows) / sizeof(row_t); i++) {
        const row_t *row = &layer_rows[i];
        if (!row_applies(shape, row, layer))
            continue;
        snprintf(spec.name, sizeof(spec.name), "model.layers.%u.%s", layer,
                 row->name);
        spec_shape(&shape->config, row->shape, &spec);
        status = fn(arg, &spec);
        if (status != COTERIE_OK)
            return status;
    }
    return COTERIE_OK;
}

static int row_applies(const coterie_shape_t *shape, const row_t *row,
                       uint32_t layer)
{
    const coterie_model_config_t *config = &shape->config;
    int is_moe = shape->moe_layer_of[layer] != COTERIE_NO_LAYER;

    if ((row->archs >> config->arch & 1) == 0)
        return 0;
    switch (row->when) {
    case ALWAYS:
        return 1;
    case WITH_BIAS:
        return config->qkv_bias != 0;
    case WITH_O_BIAS:
        return config->attention_bias != 0;
    case WITH_Q_RANK:
        return config->q_lora_rank > 0;
    case WITHOUT_Q_RANK:
        return config->q_lora_rank == 0;
    case IN_DENSE:
        return !is_moe;
    case IN_MOE:
        return is_moe;
    case WITH_SHARED:
        return is_moe && config->shared_ffn > 0;
    }
    return 0;
}

static void spec_shape(const coterie_model_config_t *config,
                       const dim_t *shape, coterie_tensor_spec_t *spec)
{
    spec->rank = shape[1] == NONE ? 1 : 2;
    spec->shape[0] = extent(config, shape[0]);
    spec->shape[1] = extent(config, shape[1]);
}

/* Sums and products of sizes up to 2^24: far from 64 bits. */
static uint64_t extent(const coterie_model_config_t *config, dim_t dim)
{
    uint64_t heads = config->heads;

    switch (dim) {
    case NONE: return 0;
    case ONE: return 1;
    case VOCAB: return config->vocab;
    case HIDDEN: return config->hidden;
    case HEAD: return config->head_dim;
    case HEADS_OF_Q: return heads;
    case Q_ROWS: return heads * config->head_dim;
    case KV_ROWS: return (uint64_t)config->kv_heads * config->head_dim;
    case EXPERTS: return config->experts;
    case DENSE_FFN: return config->dense_ffn;
    case SHARED_FFN: return config->shared_ffn;
    case Q_RANK: return config->q_lora_rank;
    case KV_RANK: return config->kv_lora_rank;
    case KV_RANK_ROPE: return config->kv_lora_rank + config->qk_rope_dim;
    case LATENT_Q: return heads * (config->qk_nope_dim + config->qk_rope_dim);
    case LATENT_KV: return heads * (config->qk_nope_dim + config->v_head_dim);
    case LATENT_O: return heads * config->v_head_dim;
    }
    return 0;
}
