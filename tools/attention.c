#include "config.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tools/attention.h"
#include "tools/carve.h"
#include "tools/command.h"
#include "tools/vector.h"

static void arrays_carve(attention_t *a, carve_t *c, size_t max_rows,
                         uint64_t longest);
static void heads_project(attention_t *a, uint32_t layer,
                          const coterie_rows_t *rows, const float *normed);
static void heads_norm(const weights_t *weights, uint32_t count,
                       uint32_t width, const float *norm, float *x);
static void heads_clip(float limit, uint64_t count, float *x);
static void heads_mix(attention_t *a, uint32_t layer, uint32_t row,
                      int32_t position, const float *kv);

coterie_status_t attention_create(const weights_t *weights, cache_t *cache,
                                  uint32_t max_rows, uint64_t longest,
                                  attention_t *attention)
{
    attention_t a = {.weights = weights, .cache = cache};
    carve_t measure = {0}, fill = {0};

    arrays_carve(&a, &measure, max_rows, longest);
    a.block = fill.block = malloc(measure.used);
    if (a.block == NULL)
        return failure(COTERIE_ERR_NO_MEMORY,
                       "no memory for attention of %u rows", max_rows);
    arrays_carve(&a, &fill, max_rows, longest);
    *attention = a;
    return COTERIE_OK;
}

coterie_status_t attention_run(attention_t *attention, uint32_t layer,
                               const coterie_rows_t *rows, const float *normed,
                               float *out)
{
    const weights_t *w = attention->weights;
    cache_t *cache = attention->cache;
    coterie_status_t status = COTERIE_OK;
    const float *kv = NULL;

    if (weights_latent(w))
        latent_project(attention, layer, rows, normed);
    else
        heads_project(attention, layer, rows, normed);
    /* All of them first: in prefill, later rows read earlier ones. */
    for (uint32_t i = 0; i < rows->count && status == COTERIE_OK; i++)
        status = cache_put(cache, layer, rows->sequence[i], rows->position[i],
                           attention->kv + (size_t)i * cache->width);
    for (uint32_t i = 0; i < rows->count && status == COTERIE_OK; i++) {
        status = cache_rows(cache, layer, rows->sequence[i],
                            rows->position[i], &kv);
        if (status != COTERIE_OK)
            break;
        if (weights_latent(w))
            latent_mix(attention, layer, i, rows->position[i], kv);
        else
            heads_mix(attention, layer, i, rows->position[i], kv);
    }
    if (status == COTERIE_OK)
        coterie_linear(rows->count, weights_value_width(w), w->config.hidden,
                       attention->mixed, w->layers[layer].attention.o,
                       COTERIE_DTYPE_F32, w->layers[layer].attention.o_bias,
                       out);
    return status;
}

void attention_destroy(attention_t *attention)
{
    free(attention->block);
    attention->block = NULL;
}

static void arrays_carve(attention_t *a, carve_t *c, size_t max_rows,
                         uint64_t longest)
{
    const coterie_model_config_t *config = &a->weights->config;
    size_t kv = (size_t)config->kv_heads * config->head_dim;

    a->query = carve(c, max_rows * weights_query_width(a->weights),
                     sizeof(float));
    a->narrow = carve(c, max_rows * config->q_lora_rank, sizeof(float));
    a->key = carve(c, max_rows * kv, sizeof(float));
    a->value = carve(c, max_rows * kv, sizeof(float));
    a->kv = carve(c, max_rows * a->cache->width, sizeof(float));
    a->mixed = carve(c, max_rows * weights_value_width(a->weights),
                     sizeof(float));
    a->scores = carve(c, longest + 1, sizeof(float));
    a->latent = carve(c, 2 * (size_t)config->kv_lora_rank, sizeof(float));
}

/* Queries, keys and values of all rows; a cached row is its keys, rotated,
 * followed by its values. */
static void heads_project(attention_t *a, uint32_t layer,
                          const coterie_rows_t *rows, const float *normed)
{
    const weights_t *w = a->weights;
    const coterie_model_config_t *c = &w->config;
    const attention_weights_t *aw = &w->layers[layer].attention;
    uint32_t n = rows->count, dim = c->head_dim;
    uint32_t q_width = c->heads * dim, kv_width = c->kv_heads * dim;

    coterie_linear(n, c->hidden, q_width, normed, aw->q, COTERIE_DTYPE_F32,
                   aw->q_bias, a->query);
    coterie_linear(n, c->hidden, kv_width, normed, aw->k, COTERIE_DTYPE_F32,
                   aw->k_bias, a->key);
    coterie_linear(n, c->hidden, kv_width, normed, aw->v, COTERIE_DTYPE_F32,
                   aw->v_bias, a->value);
    heads_norm(w, n, q_width, aw->q_norm, a->query);
    heads_norm(w, n, kv_width, aw->k_norm, a->key);
    heads_clip(c->clip_qkv, (uint64_t)n * q_width, a->query);
    heads_clip(c->clip_qkv, (uint64_t)n * kv_width, a->key);
    heads_clip(c->clip_qkv, (uint64_t)n * kv_width, a->value);
    for (uint32_t i = 0; i < n; i++) {
        float *key = a->key + (size_t)i * kv_width;
        float *kv = a->kv + 2 * (size_t)i * kv_width;
        rope_apply(&w->rope, rows->position[i], c->heads, dim,
                   a->query + (size_t)i * q_width);
        rope_apply(&w->rope, rows->position[i], c->kv_heads, dim, key);
        memcpy(kv, key, kv_width * sizeof(*kv));
        memcpy(kv + kv_width, a->value + (size_t)i * kv_width,
               kv_width * sizeof(*kv));
    }
}

/* Qwen3 norms each head on its own, OLMoE the whole vector at once. */
static void heads_norm(const weights_t *weights, uint32_t count,
                       uint32_t width, const float *norm, float *x)
{
    const coterie_model_config_t *c = &weights->config;
    uint32_t part = c->arch == COTERIE_ARCH_QWEN3_MOE ? c->head_dim : width;

    if (norm != NULL)
        coterie_rms_norm(count * (width / part), part, c->norm_eps, x, norm,
                         x);
}

/* OLMoE's clip_qkv; 0 is none. */
static void heads_clip(float limit, uint64_t count, float *x)
{
    if (limit == 0)
        return;
    for (uint64_t i = 0; i < count; i++)
        x[i] = fminf(fmaxf(x[i], -limit), limit);
}

/* One row over all positions up to its own, or the last of them, head by head.
 * Neighbouring heads share their keys and values. A sink takes its share of
 * the attention and gives nothing. */
static void heads_mix(attention_t *a, uint32_t layer, uint32_t row,
                      int32_t position, const float *kv)
{
    const coterie_model_config_t *c = &a->weights->config;
    const layer_weights_t *w = &a->weights->layers[layer];
    const float *sinks = w->attention.sinks;
    uint32_t dim = c->head_dim, count = (uint32_t)position + 1;
    uint32_t width = c->kv_heads * dim, sharing = c->heads / c->kv_heads;
    float scale = a->weights->rope.softmax_scale / sqrtf((float)dim);

    if (w->window != 0 && count > w->window) {
        kv += 2 * (size_t)(count - w->window) * width;
        count = w->window;
    }
    for (uint32_t head = 0; head < c->heads; head++) {
        size_t at = ((size_t)row * c->heads + head) * dim;
        const float *key = kv + head / sharing * dim;
        const float *value = key + width;
        for (uint32_t i = 0; i < count; i++)
            a->scores[i] =
                scale * dot(dim, a->query + at, key + 2 * (size_t)i * width);
        a->scores[count] = sinks != NULL ? sinks[head] : -INFINITY;
        softmax(count + 1, a->scores);
        memset(a->mixed + at, 0, dim * sizeof(*a->mixed));
        for (uint32_t i = 0; i < count; i++)
            add_scaled(dim, a->scores[i], value + 2 * (size_t)i * width,
                       a->mixed + at);
    }
}
