#ifndef COTERIE_TOOLS_ATTENTION_H
#define COTERIE_TOOLS_ATTENTION_H
/* Causal attention over one rank's cache. Each row is computed on its own, its
 * positions in order, so that any rank gives it the same bits. */
#include "tools/cache.h"
#include "tools/weights.h"

/* Borrowed weights and cache, and room for max_rows rows. */
typedef struct attention {
    const weights_t *weights;
    cache_t *cache;
    void *block;   /* all of the following */
    float *query;  /* [max_rows, query width] */
    float *narrow; /* [max_rows, q_lora_rank] */
    float *key;    /* [max_rows, kv_heads * head_dim] */
    float *value;  /* the same */
    float *kv;     /* [max_rows, kv width]: the rows' own, as cached */
    float *mixed;  /* [max_rows, value width] */
    float *scores; /* [longest sequence + 1] */
    float *latent; /* [2, kv_lora_rank] */
} attention_t;

/* @param longest  positions of the longest sequence */
coterie_status_t attention_create(const weights_t *weights, cache_t *cache,
                                  uint32_t max_rows, uint64_t longest,
                                  attention_t *attention);

/* Caches the rows' keys and values (also left in attention->kv), then gives
 * out[count, hidden].
 * @return ERR_NOT_FOUND if an earlier position's never came */
coterie_status_t attention_run(attention_t *attention, uint32_t layer,
                               const coterie_rows_t *rows, const float *normed,
                               float *out);

void attention_destroy(attention_t *attention);

/* Multi-head latent attention (DeepSeek-V2): keys and values of all heads come
 * from one latent vector a row, which is what is cached. */
void latent_project(attention_t *attention, uint32_t layer,
                    const coterie_rows_t *rows, const float *normed);
void latent_mix(attention_t *attention, uint32_t layer, uint32_t row,
                int32_t position, const float *kv);

#endif
