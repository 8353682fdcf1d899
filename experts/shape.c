#include "config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <coterie/ffn.h>
#include <coterie/kernels.h>

#include "base/error.h"
#include "experts/configkeys.h"
#include "experts/rope.h"
#include "experts/shape.h"

enum { LAYERS_MAX = 1 << 12, EXPERTS_MAX = 1 << 16 };

typedef void (*arch_read_fn)(coterie_keys_t *keys,
                             coterie_model_config_t *config);

static void mixtral_read(coterie_keys_t *keys, coterie_model_config_t *config);
static void qwen2_read(coterie_keys_t *keys, coterie_model_config_t *config);
static void qwen3_read(coterie_keys_t *keys, coterie_model_config_t *config);
static void olmoe_read(coterie_keys_t *keys, coterie_model_config_t *config);
static void deepseek_v2_read(coterie_keys_t *keys,
                             coterie_model_config_t *config);
static void deepseek_v3_read(coterie_keys_t *keys,
                             coterie_model_config_t *config);
static void gpt_oss_read(coterie_keys_t *keys, coterie_model_config_t *config);

static const struct arch {
    uint32_t arch;
    const char *name; /* model_type */
    arch_read_fn read;
} archs[] = {
    {COTERIE_ARCH_MIXTRAL, "mixtral", mixtral_read},
    {COTERIE_ARCH_QWEN2_MOE, "qwen2_moe", qwen2_read},
    {COTERIE_ARCH_QWEN3_MOE, "qwen3_moe", qwen3_read},
    {COTERIE_ARCH_OLMOE, "olmoe", olmoe_read},
    {COTERIE_ARCH_DEEPSEEK_V2, "deepseek_v2", deepseek_v2_read},
    {COTERIE_ARCH_DEEPSEEK_V3, "deepseek_v3", deepseek_v3_read},
    {COTERIE_ARCH_GPT_OSS, "gpt_oss", gpt_oss_read},
};

enum { ARCH_COUNT = sizeof(archs) / sizeof(archs[0]) };

static const struct arch *arch_find(coterie_keys_t *keys);
static void common_read(coterie_keys_t *keys, coterie_model_config_t *config);
static void head_dim_read(coterie_keys_t *keys,
                          coterie_model_config_t *config);
static void qwen_read(coterie_keys_t *keys, coterie_model_config_t *config);
static uint32_t shared_width(coterie_keys_t *keys, uint32_t ffn);
static void deepseek_read(coterie_keys_t *keys,
                          coterie_model_config_t *config);
static void groups_read(coterie_keys_t *keys, coterie_model_config_t *config);
static void refuse_settings(coterie_keys_t *keys, uint32_t arch);
static void refuse_quantisation(coterie_keys_t *keys, uint32_t arch);
static void refuse_sliding_window(coterie_keys_t *keys, uint32_t positions);
static void check_router(coterie_keys_t *keys,
                         const coterie_model_config_t *config);
static void layers_read(coterie_keys_t *keys, coterie_shape_t *shape);
static int layer_has_experts(coterie_keys_t *keys, uint32_t arch,
                             uint32_t layer);
static int layer_is_listed(const json_t *list, uint32_t layer);
static uint32_t layer_window(coterie_keys_t *keys, uint32_t layer);

coterie_status_t coterie_shape_read(const char *text, const char *path,
                                    coterie_shape_t *shape_p)
{
    json_error_t error;
    json_t *root = json_loads(text, JSON_REJECT_DUPLICATES, &error);
    coterie_keys_t keys = {root, path, COTERIE_OK};
    coterie_shape_t shape = {.config = {.size = sizeof(shape.config)}};
    const struct arch *arch;

    if (!json_is_object(root)) {
        json_decref(root);
        return coterie_fail(COTERIE_ERR_FORMAT,
                            "%s: not a JSON object: %s (line %d)", path,
                            error.text[0] != 0 ? error.text : "another value",
                            error.line);
    }
    arch = arch_find(&keys);
    if (arch != NULL) {
        shape.config.arch = arch->arch;
        common_read(&keys, &shape.config);
        arch->read(&keys, &shape.config);
        check_router(&keys, &shape.config);
        layers_read(&keys, &shape);
    }
    json_decref(root);
    if (keys.status == COTERIE_OK)
        *shape_p = shape;
    else
        coterie_shape_clear(&shape);
    return keys.status;
}

const char *coterie_arch_name(uint32_t arch)
{
    for (size_t i = 0; i < ARCH_COUNT; i++)
        if (archs[i].arch == arch)
            return archs[i].name;
    return "unknown";
}

void coterie_shape_clear(coterie_shape_t *shape)
{
    free(shape->layer_of);
    free(shape->moe_layer_of);
    free(shape->window_of);
    memset(shape, 0, sizeof(*shape));
}

static const struct arch *arch_find(coterie_keys_t *keys)
{
    const char *name = json_string_value(coterie_keys_get(keys, "model_type"));
    char supported[128] = "";
    size_t used = 0;

    if (name == NULL) {
        coterie_keys_malformed(keys, "model_type", "is missing");
        return NULL;
    }
    for (size_t i = 0; i < ARCH_COUNT; i++) {
        if (strcmp(archs[i].name, name) == 0)
            return &archs[i];
        used += (size_t)snprintf(supported + used, sizeof(supported) - used,
                                 "%s%s", i > 0 ? ", " : "", archs[i].name);
    }
    coterie_keys_refuse(keys, "model_type", supported);
    return NULL;
}

static void common_read(coterie_keys_t *keys, coterie_model_config_t *config)
{
    config->vocab = coterie_keys_count(keys, "vocab_size");
    config->hidden = coterie_keys_count(keys, "hidden_size");
    config->layers = coterie_keys_count(keys, "num_hidden_layers");
    config->max_position = coterie_keys_count(keys, "max_position_embeddings");
    config->k = coterie_keys_count(keys, "num_experts_per_tok");
    config->heads = coterie_keys_count(keys, "num_attention_heads");
    /* Without the key every query head has keys and values of its own. */
    config->kv_heads =
        coterie_keys_count_or(keys, "num_key_value_heads", config->heads);
    config->tied_embeddings =
        coterie_keys_flag_or(keys, "tie_word_embeddings", 0);
    config->norm_eps = coterie_keys_real(keys, "rms_norm_eps");
    config->routed_scale = 1;
    if (config->norm_eps < 0)
        coterie_keys_malformed(keys, "rms_norm_eps", "is negative");
    if (config->layers > LAYERS_MAX)
        coterie_keys_refuse(keys, "num_hidden_layers", "at most 4096");
    if (config->heads == 0 || config->kv_heads == 0 ||
        config->heads % config->kv_heads != 0)
        coterie_keys_malformed(keys, "num_key_value_heads",
                               "does not divide num_attention_heads");
    refuse_settings(keys, config->arch);
    refuse_quantisation(keys, config->arch);
    if (config->arch != COTERIE_ARCH_GPT_OSS)
        refuse_sliding_window(keys, config->max_position);
    coterie_rope_read(keys, config);
}

/* For attention whose heads have one width; latent attention has three. */
static void head_dim_read(coterie_keys_t *keys, coterie_model_config_t *config)
{
    config->head_dim = coterie_keys_count_or(
        keys, "head_dim", config->heads > 0 ? config->hidden / config->heads
                                            : 0);
    if (config->head_dim == 0 || config->head_dim % 2 != 0)
        coterie_keys_malformed(keys, "head_dim",
                               "is odd or zero; rotary positions need pairs");
}

static void mixtral_read(coterie_keys_t *keys, coterie_model_config_t *config)
{
    head_dim_read(keys, config);
    config->experts = coterie_keys_count(keys, "num_local_experts");
    config->ffn = coterie_keys_count(keys, "intermediate_size");
    config->norm_topk = 1; /* no key: always */
}

static void qwen_read(coterie_keys_t *keys, coterie_model_config_t *config)
{
    head_dim_read(keys, config);
    config->experts = coterie_keys_count(keys, "num_experts");
    config->ffn = coterie_keys_count(keys, "moe_intermediate_size");
    config->dense_ffn = coterie_keys_count_or(keys, "intermediate_size", 0);
    config->norm_topk = coterie_keys_flag_or(keys, "norm_topk_prob", 0);
}

static void qwen2_read(coterie_keys_t *keys, coterie_model_config_t *config)
{
    qwen_read(keys, config);
    /* The first published configs lack the key and have the biases. */
    config->qkv_bias = coterie_keys_flag_or(keys, "qkv_bias", 1);
    config->shared_ffn =
        coterie_keys_count(keys, "shared_expert_intermediate_size");
}

static void qwen3_read(coterie_keys_t *keys, coterie_model_config_t *config)
{
    qwen_read(keys, config);
}

static void olmoe_read(coterie_keys_t *keys, coterie_model_config_t *config)
{
    head_dim_read(keys, config);
    config->experts = coterie_keys_count(keys, "num_experts");
    config->ffn = coterie_keys_count(keys, "intermediate_size");
    config->norm_topk = coterie_keys_flag_or(keys, "norm_topk_prob", 0);
    config->clip_qkv = coterie_keys_real_or(keys, "clip_qkv", 0);
}

static void deepseek_v2_read(coterie_keys_t *keys,
                             coterie_model_config_t *config)
{
    const char *method =
        json_string_value(coterie_keys_get(keys, "topk_method"));

    deepseek_read(keys, config);
    /* The published code and transformers' disagree on what true means. */
    if (coterie_keys_flag_or(keys, "norm_topk_prob", 0))
        coterie_keys_refuse(keys, "norm_topk_prob", "false");
    /* Plain top-k leaves both counts at 0, whatever n_group says. */
    if (method == NULL || strcmp(method, "greedy") == 0)
        return;
    if (strcmp(method, "group_limited_greedy") != 0)
        coterie_keys_refuse(keys, "topk_method",
                            "greedy, group_limited_greedy");
    groups_read(keys, config);
}

static void deepseek_v3_read(coterie_keys_t *keys,
                             coterie_model_config_t *config)
{
    const char *method =
        json_string_value(coterie_keys_get(keys, "topk_method"));

    deepseek_read(keys, config);
    config->scoring = COTERIE_SCORING_SIGMOID;
    config->norm_topk = coterie_keys_flag_or(keys, "norm_topk_prob", 1);
    if (method != NULL && strcmp(method, "noaux_tc") != 0)
        coterie_keys_refuse(keys, "topk_method", "noaux_tc");
    if (!coterie_keys_flag_or(keys, "rope_interleave", 1))
        coterie_keys_refuse(keys, "rope_interleave", "true");
    groups_read(keys, config);
}

static void gpt_oss_read(coterie_keys_t *keys, coterie_model_config_t *config)
{
    head_dim_read(keys, config);
    config->experts = coterie_keys_count(keys, "num_local_experts");
    config->ffn = coterie_keys_count(keys, "intermediate_size");
    config->qkv_bias = config->attention_bias =
        coterie_keys_flag_or(keys, "attention_bias", 1);
    config->norm_topk = 1; /* softmax over the chosen is the same */
    config->expert_bias = 1;
    config->activation = COTERIE_ACTIVATION_SWIGLU_CLAMPED;
    config->swiglu_alpha = 1.702f; /* no key: always */
    config->swiglu_limit = coterie_keys_real_or(keys, "swiglu_limit", 7);
}

static void deepseek_read(coterie_keys_t *keys, coterie_model_config_t *config)
{
    config->kv_heads = config->heads; /* each has its own, from the latent */
    config->experts = coterie_keys_count(keys, "n_routed_experts");
    config->ffn = coterie_keys_count(keys, "moe_intermediate_size");
    config->shared_ffn = shared_width(keys, config->ffn);
    config->dense_ffn = coterie_keys_count_or(keys, "intermediate_size", 0);
    config->q_lora_rank = coterie_keys_count_or(keys, "q_lora_rank", 0);
    config->kv_lora_rank = coterie_keys_count(keys, "kv_lora_rank");
    config->qk_nope_dim = coterie_keys_count(keys, "qk_nope_head_dim");
    config->qk_rope_dim = coterie_keys_count(keys, "qk_rope_head_dim");
    config->v_head_dim = coterie_keys_count(keys, "v_head_dim");
    config->head_dim = config->qk_nope_dim + config->qk_rope_dim;
    config->routed_scale =
        coterie_keys_real_or(keys, "routed_scaling_factor", 1);
    if (config->qk_rope_dim % 2 != 0)
        coterie_keys_malformed(keys, "qk_rope_head_dim",
                               "is odd; rotary positions need pairs");
}

/* All shared experts act as one of their summed width. */
static uint32_t shared_width(coterie_keys_t *keys, uint32_t ffn)
{
    uint64_t count = coterie_keys_count_or(keys, "n_shared_experts", 0);

    if (count * ffn > UINT32_MAX) {
        coterie_keys_malformed(keys, "n_shared_experts", "is too large");
        return 0;
    }
    return (uint32_t)(count * ffn);
}

static void groups_read(coterie_keys_t *keys, coterie_model_config_t *config)
{
    config->group_count = coterie_keys_count(keys, "n_group");
    config->group_topk = coterie_keys_count(keys, "topk_group");
    if (config->group_count == 0 ||
        config->experts % config->group_count != 0)
        coterie_keys_malformed(keys, "n_group",
                               "does not divide n_routed_experts");
    else if (config->group_topk > config->group_count ||
             config->k > config->experts / config->group_count *
                             config->group_topk)
        coterie_keys_malformed(keys, "topk_group",
                               "does not fit n_group and num_experts_per_tok");
}

/* Settings that would change the results and that nothing here computes. */
static void refuse_settings(coterie_keys_t *keys, uint32_t arch)
{
    const struct {
        const char *key, *only;
    } words[] = {{"hidden_act", "silu"},
                 {"scoring_func", arch == COTERIE_ARCH_DEEPSEEK_V3
                                      ? "sigmoid"
                                      : "softmax"}};
    static const char *const off[] = {"mlp_bias", "attention_bias"};
    size_t off_count = arch == COTERIE_ARCH_GPT_OSS ? 1 : 2;

    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
        const json_t *value = coterie_keys_get(keys, words[i].key);
        const char *text = json_string_value(value);
        if (value != NULL && (text == NULL || strcmp(text, words[i].only)))
            coterie_keys_refuse(keys, words[i].key, words[i].only);
    }
    for (size_t i = 0; i < off_count; i++) {
        const json_t *value = coterie_keys_get(keys, off[i]);
        if (value != NULL && !json_is_false(value))
            coterie_keys_refuse(keys, off[i], "false, or no such key");
    }
}

/* Only the way in which a model was published is read. */
static void refuse_quantisation(coterie_keys_t *keys, uint32_t arch)
{
    static const char key[] = "quantization_config";
    const json_t *object = coterie_keys_get(keys, key), *sides;
    const char *method =
        json_string_value(json_object_get(object, "quant_method"));

    if (object == NULL || json_is_false(object))
        return;
    if (arch == COTERIE_ARCH_GPT_OSS && method != NULL &&
        strcmp(method, "mxfp4") == 0)
        return;
    sides = json_object_get(object, "weight_block_size");
    if (arch == COTERIE_ARCH_DEEPSEEK_V3 && method != NULL &&
        strcmp(method, "fp8") == 0 &&
        json_integer_value(json_array_get(sides, 0)) == COTERIE_FP8_BLOCK &&
        json_integer_value(json_array_get(sides, 1)) == COTERIE_FP8_BLOCK)
        return;
    coterie_keys_refuse(keys, key,
                        "no such key; fp8 in blocks of 128 x 128 for "
                        "deepseek_v3, mxfp4 for gpt_oss");
}

/* A window that no position can reach past is none. */
static void refuse_sliding_window(coterie_keys_t *keys, uint32_t positions)
{
    const json_t *types = coterie_keys_get(keys, "layer_types");
    uint32_t window = coterie_keys_count_or(keys, "sliding_window", 0);
    const char *type;

    if (window > 0 && window < positions &&
        coterie_keys_flag_or(keys, "use_sliding_window", 1))
        coterie_keys_refuse(keys, "sliding_window",
                            "null, or at least max_position_embeddings");
    for (size_t i = 0; i < json_array_size(types); i++) {
        type = json_string_value(json_array_get(types, i));
        if (type == NULL || strcmp(type, "full_attention") != 0)
            coterie_keys_refuse(keys, "layer_types", "full_attention only");
    }
}

static void check_router(coterie_keys_t *keys,
                         const coterie_model_config_t *config)
{
    if (config->experts > EXPERTS_MAX)
        coterie_keys_malformed(keys, "the number of experts",
                               "is above 65536");
    if (config->k > config->experts)
        coterie_keys_malformed(keys, "num_experts_per_tok",
                               "is above the number of experts");
    if (config->k > COTERIE_K_MAX)
        coterie_keys_refuse(keys, "num_experts_per_tok", "at most 16");
}

/* Last, because it needs a number of layers that has been checked. */
static void layers_read(coterie_keys_t *keys, coterie_shape_t *shape)
{
    coterie_model_config_t *config = &shape->config;
    size_t size = config->layers * sizeof(uint32_t);

    if (keys->status != COTERIE_OK)
        return;
    /* Room for all layers: how many have experts is not known yet. */
    shape->layer_of = malloc(size);
    shape->moe_layer_of = malloc(size);
    shape->window_of = calloc(config->layers, sizeof(uint32_t));
    if (shape->layer_of == NULL || shape->moe_layer_of == NULL ||
        shape->window_of == NULL) {
        keys->status = coterie_fail_memory(size, "the list of layers");
        return;
    }
    for (uint32_t layer = 0; layer < config->layers; layer++) {
        shape->moe_layer_of[layer] = COTERIE_NO_LAYER;
        if (config->arch == COTERIE_ARCH_GPT_OSS)
            shape->window_of[layer] = layer_window(keys, layer);
        if (layer_has_experts(keys, config->arch, layer)) {
            shape->moe_layer_of[layer] = config->moe_layers;
            shape->layer_of[config->moe_layers++] = layer;
        }
    }
    if (config->moe_layers == 0)
        coterie_keys_malformed(keys,
                               "decoder_sparse_step, mlp_only_layers, "
                               "moe_layer_freq or first_k_dense_replace",
                               "leaves no layer with experts");
    /* Published configs keep the width even where no layer uses it. */
    if (config->moe_layers == config->layers)
        config->dense_ffn = 0;
    else if (config->dense_ffn == 0)
        coterie_keys_malformed(keys, "intermediate_size",
                               "is missing; layers without experts need it");
}

/* Each family counts in its own way: Qwen's first layer is number 1 to its
 * step, DeepSeek's is number 0. */
static int layer_has_experts(coterie_keys_t *keys, uint32_t arch,
                             uint32_t layer)
{
    uint32_t step;

    switch (arch) {
    case COTERIE_ARCH_QWEN2_MOE:
    case COTERIE_ARCH_QWEN3_MOE:
        step = coterie_keys_count_or(keys, "decoder_sparse_step", 1);
        return step > 0 && (layer + 1) % step == 0 &&
               !layer_is_listed(coterie_keys_get(keys, "mlp_only_layers"),
                                layer);
    case COTERIE_ARCH_DEEPSEEK_V2:
    case COTERIE_ARCH_DEEPSEEK_V3:
        step = coterie_keys_count_or(keys, "moe_layer_freq", 1);
        return step > 0 && layer % step == 0 &&
               layer >= coterie_keys_count_or(keys, "first_k_dense_replace", 0);
    default:
        return 1;
    }
}

static int layer_is_listed(const json_t *list, uint32_t layer)
{
    for (size_t i = 0; i < json_array_size(list); i++)
        if (json_integer_value(json_array_get(list, i)) == (json_int_t)layer)
            return 1;
    return 0;
}

/* gpt-oss: every other layer, the first among them, unless there is a list. */
static uint32_t layer_window(coterie_keys_t *keys, uint32_t layer)
{
    const json_t *types = coterie_keys_get(keys, "layer_types");
    const char *type = json_string_value(json_array_get(types, layer));

    if (types == NULL)
        type = layer % 2 == 0 ? "sliding_attention" : "full_attention";
    if (type != NULL && strcmp(type, "full_attention") == 0)
        return 0;
    if (type == NULL || strcmp(type, "sliding_attention") != 0)
        coterie_keys_refuse(keys, "layer_types",
                            "sliding_attention or full_attention a layer");
    return coterie_keys_count(keys, "sliding_window");
}
