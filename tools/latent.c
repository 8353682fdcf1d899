#include "config.h"

#include <math.h>
#include <string.h>

#include "tools/attention.h"
#include "tools/vector.h"

/* What DeepSeek-V2's norms of latent vectors add to the mean square, whatever
 * the configuration says of the others. */
static const float latent_eps = 1e-6f;

static void query_project(attention_t *a, uint32_t layer, uint32_t count,
                          const float *normed);

/* A cached row is the normed latent vector, then the rotated part of the key
 * that all heads share. */
void latent_project(attention_t *attention, uint32_t layer,
                    const coterie_rows_t *rows, const float *normed)
{
    const weights_t *w = attention->weights;
    const coterie_model_config_t *c = &w->config;
    const attention_weights_t *aw = &w->layers[layer].attention;
    uint32_t width = c->kv_lora_rank + c->qk_rope_dim;
    uint32_t head = c->qk_nope_dim + c->qk_rope_dim;

    query_project(attention, layer, rows->count, normed);
    coterie_linear(rows->count, c->hidden, width, normed, aw->kv_a,
                   COTERIE_DTYPE_F32, NULL, attention->kv);
    for (uint32_t i = 0; i < rows->count; i++) {
        float *kv = attention->kv + (size_t)i * width;
        float *query = attention->query + (size_t)i * c->heads * head;
        coterie_rms_norm(1, c->kv_lora_rank, latent_eps, kv, aw->kv_a_norm,
                         kv);
        rope_apply(&w->rope, rows->position[i], 1, 0, kv + c->kv_lora_rank);
        rope_apply(&w->rope, rows->position[i], c->heads, head,
                   query + c->qk_nope_dim);
    }
}

/* Keys and values are never spelled out: a query is taken to the latent space
 * by its head's key matrix, and the mixed latent vector from there by the
 * value matrix, which costs the same for any number of positions. */
void latent_mix(attention_t *attention, uint32_t layer, uint32_t row,
                int32_t position, const float *kv)
{
    const weights_t *w = attention->weights;
    const coterie_model_config_t *c = &w->config;
    uint32_t rank = c->kv_lora_rank, width = rank + c->qk_rope_dim;
    uint32_t nope = c->qk_nope_dim, count = (uint32_t)position + 1;
    float scale =
        w->rope.softmax_scale / sqrtf((float)(nope + c->qk_rope_dim));
    float *query = attention->latent, *mixed = query + rank;
    float *scores = attention->scores;

    for (uint32_t h = 0; h < c->heads; h++) {
        size_t at = (size_t)row * c->heads + h;
        const float *key = w->layers[layer].attention.kv_b +
                           (size_t)h * (nope + c->v_head_dim) * rank;
        const float *own = attention->query + at * (nope + c->qk_rope_dim);
        float *out = attention->mixed + at * c->v_head_dim;
        memset(query, 0, 2 * rank * sizeof(*query));
        for (uint32_t j = 0; j < nope; j++)
            add_scaled(rank, own[j], key + (size_t)j * rank, query);
        for (uint32_t i = 0; i < count; i++) {
            const float *cached = kv + (size_t)i * width;
            scores[i] = scale * (dot(rank, query, cached) +
                                 dot(c->qk_rope_dim, own + nope,
                                     cached + rank));
        }
        softmax(count, scores);
        for (uint32_t i = 0; i < count; i++)
            add_scaled(rank, scores[i], kv + (size_t)i * width, mixed);
        coterie_linear(1, rank, c->v_head_dim, mixed,
                       key + (size_t)nope * rank, COTERIE_DTYPE_F32, NULL,
                       out);
    }
}

static void query_project(attention_t *a, uint32_t layer, uint32_t count,
                          const float *normed)
{
    const coterie_model_config_t *c = &a->weights->config;
    const attention_weights_t *aw = &a->weights->layers[layer].attention;
    uint32_t width = weights_query_width(a->weights), in = c->hidden;

    if (aw->q_a != NULL) {
        coterie_linear(count, in, c->q_lora_rank, normed, aw->q_a,
                       COTERIE_DTYPE_F32, NULL, a->narrow);
        coterie_rms_norm(count, c->q_lora_rank, latent_eps, a->narrow,
                         aw->q_a_norm, a->narrow);
        normed = a->narrow;
        in = c->q_lora_rank;
    }
    coterie_linear(count, in, width, normed, aw->q, COTERIE_DTYPE_F32, NULL,
                   a->query);
}
