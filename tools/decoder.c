#include "config.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tools/attention.h"
#include "tools/cache.h"
#include "tools/carve.h"
#include "tools/command.h"
#include "tools/decoder.h"
#include "tools/ffn.h"

/* Rows whose logits are computed together: enough to read the head's matrix
 * once for several, few enough to need little room. */
enum { LOGITS_ROWS = 16 };

struct decoder {
    decoder_options_t options;
    const weights_t *weights;
    coterie_engine_t engine;
    coterie_router_options_t router;
    coterie_early_t *early; /* or NULL */
    cache_t cache;
    attention_t attention;
    uint32_t step;
    coterie_phase_t phase;
    coterie_mode_t mode;
    coterie_rows_t here, next; /* swapped by every exchange */
    void *block;               /* all of the following, and their arrays */
    float *normed;             /* [max_rows, hidden] */
    float *added;              /* [max_rows, hidden] */
    float *inner;              /* ffn_add's scratch */
    float *scores;             /* [max_rows, experts] */
    int32_t *ids, *predicted;  /* [max_rows, k] */
    float *gates, *guesses;    /* [max_rows, k] */
    float *logits;             /* [LOGITS_ROWS, vocab] */
    uint32_t *picked;          /* [max_rows] rows that need logits */
    uint32_t sampled;          /* of the next three: [max_rows] */
    int32_t *sequence, *position, *token;
};

static void arrays_carve(decoder_t *d, carve_t *c);
static void rows_carve(const decoder_t *d, carve_t *c, coterie_rows_t *rows);
static void engine_fill(decoder_t *d);
static void prompts_gather(decoder_t *d, uint32_t rank, uint32_t rank_count);
static coterie_status_t step_run(decoder_t *d, coterie_session_t *session,
                                 bool last);
static coterie_status_t layer_run(decoder_t *d, coterie_session_t *session,
                                  uint32_t layer);
static coterie_status_t attention_add(decoder_t *d, coterie_session_t *session,
                                      uint32_t layer);
static coterie_status_t experts_add(decoder_t *d, coterie_session_t *session,
                                    const layer_weights_t *layer);
static coterie_status_t early_open(decoder_t *d);
static void scores_fill(decoder_t *d, const layer_weights_t *layer,
                        const float *normed);
static coterie_early_rows_t rows_at(const decoder_t *d, uint32_t moe_layer);
static coterie_status_t choose(decoder_t *d, const layer_weights_t *layer,
                               int32_t *ids, float *gates);
static coterie_status_t predict(decoder_t *d, uint32_t next_moe_layer);
static coterie_status_t record(decoder_t *d, uint32_t moe_layer);
static coterie_status_t tokens_draw(decoder_t *d);
static coterie_status_t logits_use(decoder_t *d, uint32_t row,
                                   const float *logits);
static coterie_status_t engine_norm(void *engine, uint32_t moe_layer,
                                    uint32_t count, const float *hidden,
                                    float *normed);
static coterie_status_t engine_shared(void *engine, uint32_t moe_layer,
                                      uint32_t count, const float *normed,
                                      float *sums);
static coterie_status_t engine_kv_arrived(void *engine, uint32_t layer,
                                          int32_t sequence, int32_t position,
                                          const void *data);

coterie_status_t decoder_create(const decoder_options_t *options,
                                decoder_t **decoder_p)
{
    decoder_t *d = calloc(1, sizeof(*d));
    carve_t measure = {0}, fill = {0};
    uint64_t longest = 0;
    coterie_status_t status;

    if (d == NULL)
        return failure(COTERIE_ERR_NO_MEMORY, "out of memory");
    d->options = *options;
    d->weights = options->weights;
    engine_fill(d);
    for (uint32_t s = 0; s < options->sequences; s++)
        if (options->start[s + 1] - options->start[s] > longest)
            longest = options->start[s + 1] - options->start[s];
    d->cache = (cache_t){.layers = d->weights->config.layers,
                         .sequences = options->sequences,
                         .width = kv_row_size(&d->weights->config) /
                                  (uint32_t)sizeof(float),
                         .start = options->start};
    status = cache_create(&d->cache);
    if (status == COTERIE_OK)
        status = attention_create(d->weights, &d->cache, options->max_rows,
                                  longest, &d->attention);
    if (status != COTERIE_OK)
        goto out;
    arrays_carve(d, &measure);
    d->block = fill.block = malloc(measure.used);
    if (d->block == NULL) {
        status = failure(COTERIE_ERR_NO_MEMORY, "no memory for %u rows",
                         options->max_rows);
        goto out;
    }
    arrays_carve(d, &fill);
    if (options->learn)
        status = early_open(d);
    if (status != COTERIE_OK)
        goto out;
    *decoder_p = d;
    d = NULL;
out:
    decoder_destroy(d);
    return status;
}

const coterie_engine_t *decoder_engine(const decoder_t *decoder)
{
    return &decoder->engine;
}

coterie_status_t decoder_prefill(decoder_t *decoder,
                                 coterie_session_t *session, uint32_t rank,
                                 uint32_t rank_count, bool last)
{
    decoder->phase = COTERIE_PHASE_PREFILL;
    prompts_gather(decoder, rank, rank_count);
    return step_run(decoder, session, last);
}

coterie_status_t decoder_step(decoder_t *decoder, coterie_session_t *session,
                              bool last)
{
    decoder->phase = COTERIE_PHASE_DECODE;
    decoder->here.count = 0;
    return step_run(decoder, session, last);
}

void decoder_destroy(decoder_t *decoder)
{
    if (decoder == NULL)
        return;
    coterie_early_destroy(decoder->early);
    attention_destroy(&decoder->attention);
    cache_destroy(&decoder->cache);
    free(decoder->block);
    free(decoder);
}

static void engine_fill(decoder_t *d)
{
    const coterie_model_config_t *c = &d->weights->config;

    d->engine = (coterie_engine_t){
        .size = sizeof(d->engine),
        .engine = d,
        .norm = engine_norm,
        .shared = c->shared_ffn != 0 ? engine_shared : NULL,
        .kv_arrived = engine_kv_arrived};
    d->router = (coterie_router_options_t){.size = sizeof(d->router),
                                           .expert_count = c->experts,
                                           .k = c->k,
                                           .scoring = c->scoring,
                                           .norm_topk = c->norm_topk,
                                           .group_count = c->group_count,
                                           .group_topk = c->group_topk,
                                           .scale = c->routed_scale};
}

static coterie_status_t early_open(decoder_t *d)
{
    const coterie_model_config_t *c = &d->weights->config;
    coterie_early_options_t options = COTERIE_EARLY_OPTIONS_INIT;

    options.layer_count = c->moe_layers;
    options.expert_count = c->experts;
    options.hidden = c->hidden;
    options.max_rows = d->options.max_rows;
    options.k = c->k;
    return coterie_early_create(&options, &d->early);
}

static void arrays_carve(decoder_t *d, carve_t *c)
{
    const coterie_model_config_t *config = &d->weights->config;
    size_t rows = d->options.max_rows, hidden = rows * config->hidden;
    size_t width = config->dense_ffn > config->shared_ffn
                       ? config->dense_ffn
                       : config->shared_ffn;

    rows_carve(d, c, &d->here);
    rows_carve(d, c, &d->next);
    d->normed = carve(c, hidden, sizeof(float));
    d->added = carve(c, hidden, sizeof(float));
    d->inner = carve(c, 2 * rows * width + hidden, sizeof(float));
    d->scores = carve(c, rows * config->experts, sizeof(float));
    d->ids = carve(c, rows * config->k, sizeof(int32_t));
    d->predicted = carve(c, rows * config->k, sizeof(int32_t));
    d->gates = carve(c, rows * config->k, sizeof(float));
    d->guesses = carve(c, rows * config->k, sizeof(float));
    d->logits = carve(c, LOGITS_ROWS * (size_t)config->vocab, sizeof(float));
    d->picked = carve(c, rows, sizeof(uint32_t));
    d->sequence = carve(c, rows, sizeof(int32_t));
    d->position = carve(c, rows, sizeof(int32_t));
    d->token = carve(c, rows, sizeof(int32_t));
}

static void rows_carve(const decoder_t *d, carve_t *c, coterie_rows_t *rows)
{
    size_t count = d->options.max_rows;

    *rows = (coterie_rows_t){.size = sizeof(*rows),
                             .capacity = d->options.max_rows};
    rows->sequence = carve(c, count, sizeof(int32_t));
    rows->position = carve(c, count, sizeof(int32_t));
    rows->token = carve(c, count, sizeof(int32_t));
    rows->hidden =
        carve(c, count * d->weights->config.hidden, sizeof(float));
}

/* A sequence's home is the rank that prefills it. */
static void prompts_gather(decoder_t *d, uint32_t rank, uint32_t rank_count)
{
    const decoder_options_t *o = &d->options;
    coterie_rows_t *rows = &d->here;

    rows->count = 0;
    for (uint32_t s = rank; s < o->sequences; s += rank_count)
        for (uint32_t i = 0; i < o->prompt[s]; i++) {
            rows->sequence[rows->count] = (int32_t)s;
            rows->position[rows->count] = (int32_t)i;
            rows->token[rows->count++] = o->tokens[o->start[s] + i];
        }
}

static coterie_status_t step_run(decoder_t *d, coterie_session_t *session,
                                 bool last)
{
    const coterie_model_config_t *c = &d->weights->config;
    coterie_rows_t *here = &d->here;
    coterie_status_t status =
        coterie_step_begin(session, d->phase, &d->mode, here);

    if (status != COTERIE_OK)
        return status;
    for (uint32_t i = 0; i < here->count; i++)
        memcpy(here->hidden + (size_t)i * c->hidden,
               d->weights->embed + (size_t)here->token[i] * c->hidden,
               c->hidden * sizeof(float));
    for (uint32_t layer = 0; layer < c->layers; layer++) {
        status = layer_run(d, session, layer);
        if (status != COTERIE_OK)
            return status;
    }
    status = tokens_draw(d);
    if (status != COTERIE_OK)
        return status;
    d->step++;
    return coterie_step_end(session, last ? 0 : d->sampled, d->sequence,
                            d->position, d->token);
}

/* A layer without experts moves no rows: the session need not know of it. */
static coterie_status_t layer_run(decoder_t *d, coterie_session_t *session,
                                  uint32_t layer)
{
    const coterie_model_config_t *c = &d->weights->config;
    const layer_weights_t *w = &d->weights->layers[layer];
    coterie_status_t status = attention_add(d, session, layer);

    if (status != COTERIE_OK)
        return status;
    coterie_rms_norm(d->here.count, c->hidden, c->norm_eps, d->here.hidden,
                     w->ffn_norm, d->normed);
    if (w->moe_layer != COTERIE_NO_LAYER)
        return experts_add(d, session, w);
    ffn_add(&w->ffn, c->hidden, NULL, d->normed, d->here.count, d->inner,
            d->here.hidden);
    return COTERIE_OK;
}

static coterie_status_t attention_add(decoder_t *d, coterie_session_t *session,
                                      uint32_t layer)
{
    const coterie_model_config_t *c = &d->weights->config;
    coterie_rows_t *here = &d->here;
    coterie_status_t status;

    coterie_rms_norm(here->count, c->hidden, c->norm_eps, here->hidden,
                     d->weights->layers[layer].attention_norm, d->normed);
    status = attention_run(&d->attention, layer, here, d->normed, d->added);
    if (status != COTERIE_OK)
        return status;
    for (size_t i = 0; i < (size_t)here->count * c->hidden; i++)
        here->hidden[i] += d->added[i];
    if (!d->options.share_kv)
        return COTERIE_OK;
    return coterie_kv_put(session, layer, here->count, here->sequence,
                          here->position, d->attention.kv);
}

/* Hands the rows to their experts. Those that come back may be others: in
 * owner and forward modes each says whose it is. */
static coterie_status_t experts_add(decoder_t *d, coterie_session_t *session,
                                    const layer_weights_t *layer)
{
    const decoder_options_t *o = &d->options;
    bool tell = d->mode == COTERIE_MODE_FORWARD ? o->steer : o->ahead;
    bool guess = tell || (o->predict && o->recorder != NULL);
    coterie_early_rows_t rows = rows_at(d, layer->moe_layer);
    coterie_rows_t swapped;
    coterie_status_t status;

    scores_fill(d, layer, d->normed);
    if (d->early != NULL)
        coterie_early_learn(d->early, &rows, d->scores);
    status = choose(d, layer, d->ids, d->gates);
    d->here.normed = d->normed;
    d->here.topk_ids = d->ids;
    d->here.topk_weights = d->gates;
    d->here.predicted = tell ? d->predicted : NULL;
    if (status == COTERIE_OK && guess)
        status = predict(d, layer->moe_layer + 1);
    if (status == COTERIE_OK && o->recorder != NULL)
        status = record(d, layer->moe_layer);
    if (status == COTERIE_OK)
        status =
            coterie_exchange(session, layer->moe_layer, &d->here, &d->next);
    swapped = d->here;
    d->here = d->next;
    d->next = swapped;
    return status;
}

static void scores_fill(decoder_t *d, const layer_weights_t *layer,
                        const float *normed)
{
    const coterie_model_config_t *c = &d->weights->config;

    coterie_linear(d->here.count, c->hidden, c->experts, normed, layer->router,
                   COTERIE_DTYPE_F32, layer->router_bias, d->scores);
}

static coterie_early_rows_t rows_at(const decoder_t *d, uint32_t moe_layer)
{
    return (coterie_early_rows_t){.layer = moe_layer,
                                  .count = d->here.count,
                                  .sequence = d->here.sequence,
                                  .position = d->here.position};
}

static coterie_status_t choose(decoder_t *d, const layer_weights_t *layer,
                               int32_t *ids, float *gates)
{
    d->router.bias = layer->choice_bias;
    return coterie_router_topk(&d->router, d->here.count, d->scores, ids,
                               gates);
}

/* The next layer's router, asked before this layer's experts have spoken: the
 * residual stream changes slowly, so it is mostly right. Ranks that forward
 * must all guess the same, so none of them learns. */
static coterie_status_t predict(decoder_t *d, uint32_t next_moe_layer)
{
    const coterie_model_config_t *c = &d->weights->config;
    const layer_weights_t *next =
        weights_moe_layer(d->weights, next_moe_layer);

    if (next == NULL) { /* after the last layer nothing is known */
        for (size_t i = 0; i < (size_t)d->here.count * c->k; i++)
            d->predicted[i] = -1;
        return COTERIE_OK;
    }
    coterie_rms_norm(d->here.count, c->hidden, c->norm_eps, d->here.hidden,
                     next->ffn_norm, d->added);
    scores_fill(d, next, d->added);
    if (d->early != NULL && d->mode != COTERIE_MODE_FORWARD) {
        coterie_early_rows_t rows = rows_at(d, next_moe_layer);

        rows.experts = d->ids;
        rows.weights = d->gates;
        coterie_early_correct(d->early, &rows, d->added, d->scores);
    }
    return choose(d, next, d->predicted, d->guesses);
}

static coterie_status_t record(decoder_t *d, uint32_t moe_layer)
{
    coterie_trace_rows_t rows = {.size = sizeof(rows),
                                 .layer = moe_layer,
                                 .count = d->here.count,
                                 .step = d->step,
                                 .phase = d->phase,
                                 .sequence = d->here.sequence,
                                 .position = d->here.position,
                                 .topk_ids = d->here.topk_ids,
                                 .topk_weights = d->here.topk_weights,
                                 .predicted = d->options.predict
                                                  ? d->predicted
                                                  : NULL,
                                 /* Rows that move leave it behind. */
                                 .token = moe_layer == 0 ? d->here.token
                                                         : NULL};

    return coterie_trace_record(d->options.recorder, &rows);
}

/* Last norm, logits and sampling of the rows that need them: those at the end
 * of their sequence, or all where logits are kept. */
static coterie_status_t tokens_draw(decoder_t *d)
{
    const coterie_model_config_t *c = &d->weights->config;
    const coterie_rows_t *here = &d->here;
    coterie_status_t status = COTERIE_OK;
    uint32_t count = 0;

    d->sampled = 0;
    for (uint32_t i = 0; i < here->count; i++)
        if (d->options.logits != NULL ||
            (uint32_t)here->position[i] + 1 >=
                d->options.prompt[here->sequence[i]])
            d->picked[count++] = i;
    for (uint32_t first = 0; first < count; first += LOGITS_ROWS) {
        uint32_t n = count - first < LOGITS_ROWS ? count - first : LOGITS_ROWS;
        for (uint32_t i = 0; i < n; i++)
            coterie_rms_norm(
                1, c->hidden, c->norm_eps,
                here->hidden + (size_t)d->picked[first + i] * c->hidden,
                d->weights->norm, d->normed + (size_t)i * c->hidden);
        coterie_linear(n, c->hidden, c->vocab, d->normed, d->weights->head,
                       COTERIE_DTYPE_F32, NULL, d->logits);
        for (uint32_t i = 0; i < n && status == COTERIE_OK; i++)
            status = logits_use(d, d->picked[first + i],
                                d->logits + (size_t)i * c->vocab);
    }
    return status;
}

static coterie_status_t logits_use(decoder_t *d, uint32_t row,
                                   const float *logits)
{
    const decoder_options_t *o = &d->options;
    uint32_t vocab = d->weights->config.vocab;
    int32_t sequence = d->here.sequence[row];
    int32_t position = d->here.position[row];
    uint64_t at = o->start[sequence] + (uint64_t)position;

    if (o->logits != NULL) {
        memcpy(o->logits + at * vocab, logits, vocab * sizeof(*logits));
        o->seen[at] = 1;
    }
    if ((uint32_t)position + 1 < o->prompt[sequence])
        return COTERIE_OK;
    for (uint32_t i = 0; i < vocab; i++)
        if (!isfinite(logits[i]))
            return failure(COTERIE_ERR_INVALID,
                           "sequence %d, position %d: the logit of token %u is "
                           "%g; no token can be drawn",
                           sequence, position, i, (double)logits[i]);
    d->sequence[d->sampled] = sequence;
    d->position[d->sampled] = position + 1;
    d->token[d->sampled] = o->tokens[at + 1] =
        sampler_draw(&o->sampler, sequence, position + 1, vocab, logits);
    d->sampled++;
    return COTERIE_OK;
}

/* The runtime calls the next three within coterie_exchange and
 * coterie_step_begin, never while the decoder uses the same arrays. */
static coterie_status_t engine_norm(void *engine, uint32_t moe_layer,
                                    uint32_t count, const float *hidden,
                                    float *normed)
{
    const decoder_t *d = engine;
    const coterie_model_config_t *c = &d->weights->config;

    coterie_rms_norm(count, c->hidden, c->norm_eps, hidden,
                     weights_moe_layer(d->weights, moe_layer)->ffn_norm,
                     normed);
    return COTERIE_OK;
}

static coterie_status_t engine_shared(void *engine, uint32_t moe_layer,
                                      uint32_t count, const float *normed,
                                      float *sums)
{
    const decoder_t *d = engine;
    const layer_weights_t *layer = weights_moe_layer(d->weights, moe_layer);

    ffn_add(&layer->ffn, d->weights->config.hidden, layer->shared_gate, normed,
            count, d->inner, sums);
    return COTERIE_OK;
}

static coterie_status_t engine_kv_arrived(void *engine, uint32_t layer,
                                          int32_t sequence, int32_t position,
                                          const void *data)
{
    decoder_t *d = engine;

    return cache_put(&d->cache, layer, sequence, position, data);
}
