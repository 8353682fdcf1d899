#ifndef COTERIE_TOOLS_WEIGHTS_H
#define COTERIE_TOOLS_WEIGHTS_H
/* All of a model but its routed experts, as f32: read once, then shared by
 * every rank of a process. */
#include <coterie/coterie.h>

#include "tools/rope.h"

/* A SwiGLU block. Matrices are [out, in]; width 0: there is none. */
typedef struct ffn_weights {
    uint32_t width;
    float *gate, *up, *down;
} ffn_weights_t;

/* What an architecture lacks is NULL. */
typedef struct attention_weights {
    float *q, *k, *v, *o;
    float *q_bias, *k_bias, *v_bias, *o_bias;
    float *sinks; /* [heads]: gpt-oss's scores of no position */
    float *q_norm, *k_norm; /* per head, or over the whole vector (OLMoE) */
    float *q_a, *q_a_norm;  /* DeepSeek: q is q_b where q_a is there */
    float *kv_a, *kv_a_norm, *kv_b;
} attention_weights_t;

typedef struct layer_weights {
    uint32_t moe_layer; /* COTERIE_NO_LAYER: ffn is the whole block */
    float *attention_norm, *ffn_norm;
    attention_weights_t attention;
    uint32_t window;    /* positions that attention sees; 0 = all */
    float *router;      /* [experts, hidden] */
    float *router_bias; /* [experts], on the logits, or NULL */
    float *choice_bias; /* [experts], for choosing only, or NULL */
    ffn_weights_t ffn;  /* the shared experts, or the dense block */
    float *shared_gate; /* [hidden]: Qwen2's gate of the shared expert */
} layer_weights_t;

typedef struct weights {
    coterie_model_config_t config;
    float *embed, *norm, *head;
    layer_weights_t *layers;
    rope_t rope;
    void **blocks; /* everything allocated for the above */
    size_t block_count;
} weights_t;

/* @return what coterie_model_tensor says, or ERR_NO_MEMORY */
coterie_status_t weights_create(const coterie_model_t *model,
                                weights_t **weights_p);

/* The router's layer of this ordinal; NULL past the last. */
const layer_weights_t *weights_moe_layer(const weights_t *weights,
                                         uint32_t moe_layer);

/* Whether keys and values are kept as one latent vector (DeepSeek). */
bool weights_latent(const weights_t *weights);

/* Bytes of one row's K and V at one layer, as the cache keeps them: f32. */
uint32_t kv_row_size(const coterie_model_config_t *config);

/* Elements of one row's queries, and of what attention gives per row. */
uint32_t weights_query_width(const weights_t *weights);
uint32_t weights_value_width(const weights_t *weights);

/* Accepts NULL. */
void weights_destroy(weights_t *weights);

#endif
