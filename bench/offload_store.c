#include "config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "bench/offload_store.h"
#include "experts/model.h"
#include "experts/record.h"

enum {
    PATTERN = (1 << 20) / 2, /* elements that repeat, from another one on in */
    STRIDE = 8191 * 8,       /* every expert */
    MERGED_EXPERTS = OFFLOAD_EXPERTS / OFFLOAD_MERGED,
    MERGED_K = OFFLOAD_K / OFFLOAD_MERGED
};

static const char config_text[] =
    "{\"architectures\": [\"Qwen3MoeForCausalLM\"], \"model_type\": "
    "\"qwen3_moe\", \"vocab_size\": 256, \"hidden_size\": %d, "
    "\"num_hidden_layers\": %u, \"num_attention_heads\": 4, "
    "\"num_key_value_heads\": 1, \"head_dim\": 128, "
    "\"intermediate_size\": 6144, \"moe_intermediate_size\": %d, "
    "\"num_experts\": %d, \"num_experts_per_tok\": %d, "
    "\"norm_topk_prob\": true, \"decoder_sparse_step\": 1, "
    "\"mlp_only_layers\": [], \"hidden_act\": \"silu\", "
    "\"max_position_embeddings\": 4096, \"rms_norm_eps\": 1e-06, "
    "\"rope_theta\": 1000000.0, \"tie_word_embeddings\": false, "
    "\"attention_bias\": false, \"torch_dtype\": \"bfloat16\"}";

/* A source of weights like a directory or a store. */
typedef struct drawn {
    coterie_source_t base;
    uint64_t record_size;
    uint16_t *pattern; /* [2 * PATTERN] */
} drawn_t;

static coterie_status_t dense_add(void *source,
                                  const coterie_tensor_spec_t *spec);
static coterie_status_t drawn_bind(coterie_source_t *source,
                                   const coterie_shape_t *shape,
                                   coterie_expert_format_t *format);
static coterie_status_t drawn_read(const coterie_source_t *source,
                                   const coterie_tensor_t *tensor, void *data);
static coterie_status_t drawn_expert(const coterie_source_t *source,
                                     uint32_t moe_layer, uint32_t expert,
                                     void *record);
static void drawn_close(coterie_source_t *source);
static void merge_token(const coterie_trace_view_t *from, uint64_t token,
                        uint32_t layers, int16_t *to);

static const coterie_source_ops_t drawn_ops = {"drawn", drawn_bind, drawn_read,
                                               drawn_expert, drawn_close};

coterie_status_t offload_store_make(const char *path, uint32_t layers,
                                    const char *const *stripes,
                                    uint32_t stripe_count)
{
    drawn_t drawn = {.base = {.ops = &drawn_ops}};
    coterie_model_t model = {.source = &drawn.base};
    coterie_pack_options_t options = COTERIE_PACK_OPTIONS_INIT;
    char text[sizeof(config_text) + 64];
    coterie_status_t status;

    if (access(path, R_OK) == 0)
        return COTERIE_OK;
    options.stripes = stripes;
    options.stripe_count = stripe_count;
    snprintf(text, sizeof(text), config_text, OFFLOAD_HIDDEN, layers,
             OFFLOAD_FFN, OFFLOAD_EXPERTS, OFFLOAD_K);
    drawn.base.config_text = text;
    drawn.pattern = malloc(2 * PATTERN * sizeof(*drawn.pattern));
    if (drawn.pattern == NULL)
        return coterie_fail_memory(2 * PATTERN, "random weights");
    status = coterie_shape_read(text, "random weights", &model.shape);
    if (status == COTERIE_OK)
        status = drawn_bind(&drawn.base, &model.shape, &model.format);
    if (status == COTERIE_OK)
        status = coterie_names_dense(&model.shape, dense_add, &drawn.base);
    if (status == COTERIE_OK)
        status = coterie_model_pack(&model, path, &options);
    coterie_tensors_clear(&drawn.base.tensors);
    coterie_shape_clear(&model.shape);
    free(drawn.pattern);
    return status;
}

coterie_status_t offload_trace_merge(const char *path, uint32_t layers,
                                     coterie_trace_t **trace_p)
{
    coterie_trace_t *trace = NULL;
    coterie_trace_view_t from, to;
    int16_t *experts;
    uint32_t whole;
    coterie_status_t status = coterie_trace_read(path, MERGED_EXPERTS, &trace);

    if (status != COTERIE_OK)
        return status;
    coterie_trace_view(trace, &from);
    whole = from.layer_count / OFFLOAD_MERGED;
    if (from.layer_count % OFFLOAD_MERGED != 0 ||
        from.k < ((layers - 1) / whole + 1) * MERGED_K) {
        coterie_trace_destroy(trace);
        return coterie_fail(COTERIE_ERR_MISMATCH,
                            "%s: layers in fours, of %d experts, at least %d "
                            "a token, are needed for %u layers",
                            path, MERGED_EXPERTS, MERGED_K, layers);
    }
    to = (coterie_trace_view_t){.token_count = from.token_count,
                                .sequence_count = from.sequence_count,
                                .layer_count = layers,
                                .expert_count = OFFLOAD_EXPERTS,
                                .k = OFFLOAD_K,
                                .seq_start = from.seq_start};
    experts = malloc(to.token_count * to.layer_count * OFFLOAD_K *
                     sizeof(*experts));
    for (uint64_t t = 0; t < from.token_count && experts != NULL; t++)
        merge_token(&from, t, layers,
                    experts + t * (size_t)layers * OFFLOAD_K);
    to.experts = experts;
    status = experts == NULL ? coterie_fail_memory(to.token_count, "a trace")
                             : coterie_trace_create(&to, trace_p);
    free(experts);
    coterie_trace_destroy(trace);
    return status;
}

static coterie_status_t dense_add(void *source,
                                  const coterie_tensor_spec_t *spec)
{
    coterie_tensor_t tensor = {.name = (char *)spec->name,
                               .dtype = COTERIE_DTYPE_BF16,
                               .role = COTERIE_TENSOR_DENSE,
                               .rank = spec->rank,
                               .size = sizeof(uint16_t)};

    for (uint32_t i = 0; i < spec->rank; i++) {
        tensor.shape[i] = spec->shape[i];
        tensor.size *= spec->shape[i];
    }
    return coterie_tensors_add(&((coterie_source_t *)source)->tensors,
                               &tensor);
}

/* bf16 of either sign about 1/45, so that sums stay in range. */
static coterie_status_t drawn_bind(coterie_source_t *source,
                                   const coterie_shape_t *shape,
                                   coterie_expert_format_t *format)
{
    drawn_t *drawn = (drawn_t *)source;
    coterie_status_t status;
    uint64_t state = 1;

    for (size_t i = 0; i < 2 * PATTERN; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        drawn->pattern[i] =
            (uint16_t)((uint32_t)(state >> 40) % 0x100 | 0x3c80);
        drawn->pattern[i] |= (uint16_t)(state >> 63 << 15);
    }
    status = coterie_expert_format_init(&shape->config, COTERIE_DTYPE_BF16,
                                        "random weights", format);
    drawn->record_size = format->record_size;
    return status;
}

/* Nobody reads what is not experts. */
static coterie_status_t drawn_read(const coterie_source_t *source,
                                   const coterie_tensor_t *tensor, void *data)
{
    (void)source;
    memset(data, 0, tensor->size);
    return COTERIE_OK;
}

static coterie_status_t drawn_expert(const coterie_source_t *source,
                                     uint32_t moe_layer, uint32_t expert,
                                     void *record)
{
    const drawn_t *drawn = (const drawn_t *)source;
    uint64_t from = moe_layer * OFFLOAD_EXPERTS + expert;

    for (uint64_t at = 0, size; at < drawn->record_size; at += size) {
        from = (from + STRIDE) % PATTERN;
        size = drawn->record_size - at;
        size = size < 2 * PATTERN ? size : 2 * PATTERN;
        memcpy((char *)record + at, drawn->pattern + from, size);
    }
    return COTERIE_OK;
}

static void drawn_close(coterie_source_t *source)
{
    (void)source;
}

static void merge_token(const coterie_trace_view_t *from, uint64_t token,
                        uint32_t layers, int16_t *to)
{
    const int16_t *sets =
        from->experts + token * from->layer_count * from->k;

    for (uint32_t part = 0; part < layers * OFFLOAD_MERGED; part++)
        for (uint32_t i = 0; i < MERGED_K; i++) {
            uint32_t layer = part % from->layer_count;
            uint32_t rank = part / from->layer_count * MERGED_K + i;
            int16_t id = sets[layer * from->k + rank];

            *to++ = (int16_t)(id < 0 ? -1
                                     : id + (int)(part % OFFLOAD_MERGED) *
                                                MERGED_EXPERTS);
        }
}
