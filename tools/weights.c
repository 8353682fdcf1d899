#include "config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/command.h"
#include "tools/weights.h"

/* Reads tensors one after the other; after the first failure, no more. */
typedef struct loader {
    const coterie_model_t *model;
    weights_t *weights;
    uint32_t layer;
    coterie_status_t status;
} loader_t;

static void load(loader_t *l, float **out_p, const char *name, uint64_t rows,
                 uint64_t columns);
static void load_layer(loader_t *l, float **out_p, const char *name,
                       uint64_t rows, uint64_t columns);
static float *block_add(loader_t *l, uint64_t count);
static void layer_load(loader_t *l, layer_weights_t *layer);
static void attention_load(loader_t *l, attention_weights_t *a);
static void latent_load(loader_t *l, attention_weights_t *a);
static void moe_load(loader_t *l, layer_weights_t *layer);
static void ffn_load(loader_t *l, ffn_weights_t *ffn, const char *name,
                     uint32_t width);

coterie_status_t weights_create(const coterie_model_t *model,
                                weights_t **weights_p)
{
    weights_t *w = calloc(1, sizeof(*w));
    loader_t l = {.model = model, .weights = w};

    if (w == NULL)
        return failure(COTERIE_ERR_NO_MEMORY, "out of memory");
    w->config.size = sizeof(w->config);
    coterie_model_config(model, &w->config);
    w->layers = calloc(w->config.layers, sizeof(*w->layers));
    l.status = w->layers == NULL ? failure(COTERIE_ERR_NO_MEMORY, "no memory "
                                           "for %u layers", w->config.layers)
                                 : rope_create(&w->config, &w->rope);
    load(&l, &w->embed, "model.embed_tokens.weight", w->config.vocab,
         w->config.hidden);
    load(&l, &w->norm, "model.norm.weight", 1, w->config.hidden);
    if (w->config.tied_embeddings)
        w->head = w->embed;
    else
        load(&l, &w->head, "lm_head.weight", w->config.vocab,
             w->config.hidden);
    for (; l.status == COTERIE_OK && l.layer < w->config.layers; l.layer++)
        layer_load(&l, &w->layers[l.layer]);
    if (l.status != COTERIE_OK) {
        weights_destroy(w);
        return l.status;
    }
    *weights_p = w;
    return COTERIE_OK;
}

/* Layers are few beside the work done in one. */
const layer_weights_t *weights_moe_layer(const weights_t *weights,
                                         uint32_t moe_layer)
{
    for (uint32_t i = 0; i < weights->config.layers; i++)
        if (weights->layers[i].moe_layer == moe_layer)
            return &weights->layers[i];
    return NULL;
}

bool weights_latent(const weights_t *weights)
{
    return weights->config.kv_lora_rank != 0;
}

uint32_t kv_row_size(const coterie_model_config_t *config)
{
    uint32_t width = config->kv_lora_rank != 0
                         ? config->kv_lora_rank + config->qk_rope_dim
                         : 2 * config->kv_heads * config->head_dim;

    return width * (uint32_t)sizeof(float);
}

uint32_t weights_query_width(const weights_t *weights)
{
    const coterie_model_config_t *c = &weights->config;

    return c->heads * (weights_latent(weights)
                           ? c->qk_nope_dim + c->qk_rope_dim
                           : c->head_dim);
}

uint32_t weights_value_width(const weights_t *weights)
{
    const coterie_model_config_t *c = &weights->config;

    return c->heads * (weights_latent(weights) ? c->v_head_dim : c->head_dim);
}

void weights_destroy(weights_t *weights)
{
    if (weights == NULL)
        return;
    for (size_t i = 0; i < weights->block_count; i++)
        free(weights->blocks[i]);
    free(weights->blocks);
    free(weights->layers);
    rope_destroy(&weights->rope);
    free(weights);
}

static void load(loader_t *l, float **out_p, const char *name, uint64_t rows,
                 uint64_t columns)
{
    float *out;

    if (l->status != COTERIE_OK)
        return;
    out = block_add(l, rows * columns);
    if (out == NULL) {
        l->status = failure(COTERIE_ERR_NO_MEMORY, "no memory for %s", name);
        return;
    }
    l->status = coterie_model_tensor(l->model, name, rows * columns, out);
    if (l->status == COTERIE_OK)
        *out_p = out;
}

/* Remembered in one list, so that freeing needs to know no architecture. */
static float *block_add(loader_t *l, uint64_t count)
{
    weights_t *w = l->weights;
    float *block = malloc(count * sizeof(*block));
    void **blocks =
        realloc(w->blocks, (w->block_count + 1) * sizeof(*w->blocks));

    if (blocks != NULL)
        w->blocks = blocks;
    if (block == NULL || blocks == NULL) {
        free(block);
        return NULL;
    }
    w->blocks[w->block_count++] = block;
    return block;
}

static void load_layer(loader_t *l, float **out_p, const char *name,
                       uint64_t rows, uint64_t columns)
{
    char full[128];

    snprintf(full, sizeof(full), "model.layers.%u.%s", l->layer, name);
    load(l, out_p, full, rows, columns);
}

static void layer_load(loader_t *l, layer_weights_t *layer)
{
    const coterie_model_config_t *c = &l->weights->config;

    layer->moe_layer = coterie_model_moe_layer_of(l->model, l->layer);
    layer->window = coterie_model_window(l->model, l->layer);
    load_layer(l, &layer->attention_norm, "input_layernorm.weight", 1,
               c->hidden);
    load_layer(l, &layer->ffn_norm, "post_attention_layernorm.weight", 1,
               c->hidden);
    if (weights_latent(l->weights))
        latent_load(l, &layer->attention);
    else
        attention_load(l, &layer->attention);
    load_layer(l, &layer->attention.o, "self_attn.o_proj.weight", c->hidden,
               weights_value_width(l->weights));
    if (layer->moe_layer == COTERIE_NO_LAYER)
        ffn_load(l, &layer->ffn, "mlp", c->dense_ffn);
    else
        moe_load(l, layer);
}

static void attention_load(loader_t *l, attention_weights_t *a)
{
    const coterie_model_config_t *c = &l->weights->config;
    uint32_t q = c->heads * c->head_dim, kv = c->kv_heads * c->head_dim;
    bool per_head = c->arch == COTERIE_ARCH_QWEN3_MOE;

    load_layer(l, &a->q, "self_attn.q_proj.weight", q, c->hidden);
    load_layer(l, &a->k, "self_attn.k_proj.weight", kv, c->hidden);
    load_layer(l, &a->v, "self_attn.v_proj.weight", kv, c->hidden);
    if (c->qkv_bias) {
        load_layer(l, &a->q_bias, "self_attn.q_proj.bias", 1, q);
        load_layer(l, &a->k_bias, "self_attn.k_proj.bias", 1, kv);
        load_layer(l, &a->v_bias, "self_attn.v_proj.bias", 1, kv);
    }
    if (c->attention_bias)
        load_layer(l, &a->o_bias, "self_attn.o_proj.bias", 1, c->hidden);
    if (c->arch == COTERIE_ARCH_GPT_OSS)
        load_layer(l, &a->sinks, "self_attn.sinks", 1, c->heads);
    if (per_head || c->arch == COTERIE_ARCH_OLMOE) {
        load_layer(l, &a->q_norm, "self_attn.q_norm.weight", 1,
                   per_head ? c->head_dim : q);
        load_layer(l, &a->k_norm, "self_attn.k_norm.weight", 1,
                   per_head ? c->head_dim : kv);
    }
}

/* DeepSeek-V2: queries, too, may come by way of a narrow vector. */
static void latent_load(loader_t *l, attention_weights_t *a)
{
    const coterie_model_config_t *c = &l->weights->config;
    uint32_t q = weights_query_width(l->weights);
    uint32_t latent = c->kv_lora_rank;

    if (c->q_lora_rank == 0) {
        load_layer(l, &a->q, "self_attn.q_proj.weight", q, c->hidden);
    } else {
        load_layer(l, &a->q_a, "self_attn.q_a_proj.weight", c->q_lora_rank,
                   c->hidden);
        load_layer(l, &a->q_a_norm, "self_attn.q_a_layernorm.weight", 1,
                   c->q_lora_rank);
        load_layer(l, &a->q, "self_attn.q_b_proj.weight", q, c->q_lora_rank);
    }
    load_layer(l, &a->kv_a, "self_attn.kv_a_proj_with_mqa.weight",
               latent + c->qk_rope_dim, c->hidden);
    load_layer(l, &a->kv_a_norm, "self_attn.kv_a_layernorm.weight", 1, latent);
    load_layer(l, &a->kv_b, "self_attn.kv_b_proj.weight",
               (uint64_t)c->heads * (c->qk_nope_dim + c->v_head_dim), latent);
}

static void moe_load(loader_t *l, layer_weights_t *layer)
{
    const coterie_model_config_t *c = &l->weights->config;
    const char *router = "mlp.gate.weight";

    if (c->arch == COTERIE_ARCH_MIXTRAL)
        router = "block_sparse_moe.gate.weight";
    if (c->arch == COTERIE_ARCH_GPT_OSS) {
        router = "mlp.router.weight";
        load_layer(l, &layer->router_bias, "mlp.router.bias", 1, c->experts);
    }
    if (c->arch == COTERIE_ARCH_DEEPSEEK_V3)
        load_layer(l, &layer->choice_bias, "mlp.gate.e_score_correction_bias",
                   1, c->experts);
    load_layer(l, &layer->router, router, c->experts, c->hidden);
    if (c->shared_ffn == 0)
        return;
    if (c->arch == COTERIE_ARCH_QWEN2_MOE) {
        ffn_load(l, &layer->ffn, "mlp.shared_expert", c->shared_ffn);
        load_layer(l, &layer->shared_gate, "mlp.shared_expert_gate.weight", 1,
                   c->hidden);
    } else {
        ffn_load(l, &layer->ffn, "mlp.shared_experts", c->shared_ffn);
    }
}

static void ffn_load(loader_t *l, ffn_weights_t *ffn, const char *name,
                     uint32_t width)
{
    uint32_t hidden = l->weights->config.hidden;
    char full[64];

    ffn->width = width;
    snprintf(full, sizeof(full), "%s.gate_proj.weight", name);
    load_layer(l, &ffn->gate, full, width, hidden);
    snprintf(full, sizeof(full), "%s.up_proj.weight", name);
    load_layer(l, &ffn->up, full, width, hidden);
    snprintf(full, sizeof(full), "%s.down_proj.weight", name);
    load_layer(l, &ffn->down, full, hidden, width);
}
