#include "config.h"

#include <stdlib.h>
#include <string.h>

#include "bench/bench.h"
#include "bench/dispatch_engine.h"

enum {
    EXPERTS = 32,
    K = 2,
    KV_ROW_SIZE = 64,
    WARM_STEPS = 40,       /* auto has tried every mode by then */
    STAYS_PERCENT = 80,    /* layers that keep a token's rank */
    TOGETHER_PERCENT = 70, /* tokens whose experts share a rank */
    RIGHT_PERCENT = 90     /* predictions that come true */
};

typedef struct engine {
    const dispatch_setting_t *setting;
    uint32_t rank;
    coterie_rows_t rows[2];
    int32_t *ids, *predicted, *next;
    float *weights;
    unsigned char *kv;
} engine_t;

static coterie_status_t engine_allocate(engine_t *engine);
static void engine_free(engine_t *engine);
static coterie_status_t session_open(engine_t *engine,
                                     coterie_transport_t *transport,
                                     const coterie_placement_t *placement,
                                     const coterie_engine_t *callbacks,
                                     coterie_session_t **session_p);
static coterie_status_t prefill(engine_t *engine, coterie_session_t *session);
static coterie_status_t decode(engine_t *engine, coterie_session_t *session);
static coterie_status_t layers_run(engine_t *engine,
                                   coterie_session_t *session,
                                   uint32_t *last_p);
static void rows_route(engine_t *engine, uint32_t layer, coterie_rows_t *rows);
static void sets_choose(const dispatch_setting_t *setting, uint32_t sequence,
                        uint32_t position, uint32_t layer, int32_t *chosen);
static void experts_choose(const dispatch_setting_t *setting, uint32_t sequence,
                           uint32_t position, uint32_t layer, int32_t *ids);
static uint32_t hash(uint32_t a, uint32_t b, uint32_t c, uint32_t d);
static coterie_status_t engine_norm(void *engine, uint32_t layer,
                                    uint32_t count, const float *hidden,
                                    float *normed);
static coterie_status_t engine_kv(void *engine, uint32_t layer,
                                  int32_t sequence, int32_t position,
                                  const void *data);
static coterie_status_t engine_experts(void *engine, uint32_t layer,
                                       const coterie_expert_rows_t *rows,
                                       const float *normed, float *sums);

coterie_status_t dispatch_measure(const dispatch_setting_t *setting,
                                  coterie_transport_t *transport,
                                  dispatch_result_t *result)
{
    engine_t engine = {.setting = setting,
                       .rank = coterie_transport_rank(transport)};
    coterie_engine_t callbacks = {sizeof(callbacks), &engine,   engine_norm,
                                  NULL,              engine_kv, engine_experts};
    double *step_us = calloc(setting->steps, sizeof(*step_us));
    coterie_placement_t *placement = NULL;
    coterie_session_t *session = NULL;
    coterie_times_t before, after;
    coterie_counts_t counts[2];
    coterie_status_t status = engine_allocate(&engine);

    if (status == COTERIE_OK)
        status = dispatch_placement(setting, &placement);
    if (status == COTERIE_OK)
        status = session_open(&engine, transport, placement, &callbacks,
                              &session);
    if (status == COTERIE_OK)
        status = prefill(&engine, session);
    for (uint32_t i = 0; i < WARM_STEPS && status == COTERIE_OK; i++)
        status = decode(&engine, session);
    if (status != COTERIE_OK)
        goto out;

    coterie_session_counts(session, counts, &before);
    for (uint32_t i = 0; i < setting->steps && status == COTERIE_OK; i++) {
        double start = bench_seconds();

        status = decode(&engine, session);
        step_us[i] = 1e6 * (bench_seconds() - start);
    }
    coterie_session_counts(session, counts, &after);
    result->step_us = bench_median(step_us, setting->steps);
    result->comm_us = 1e-3 * (double)(after.exchange_ns - before.exchange_ns) /
                      setting->steps;
    result->is_first_rank = engine.rank == 0;
out:
    coterie_session_destroy(session);
    coterie_placement_destroy(placement);
    engine_free(&engine);
    free(step_us);
    return status;
}

coterie_status_t dispatch_placement(const dispatch_setting_t *setting,
                                    coterie_placement_t **placement_p)
{
    coterie_placement_options_t options = COTERIE_PLACEMENT_OPTIONS_INIT;

    options.layer_count = setting->layers;
    options.expert_count = EXPERTS;
    options.rank_count = setting->rank_count;
    return coterie_placement_create(&options, placement_p);
}

uint32_t dispatch_kv_row_size(void)
{
    return KV_ROW_SIZE;
}

coterie_trace_t *dispatch_trace(const dispatch_setting_t *setting)
{
    size_t tokens = (size_t)setting->batch * setting->steps;
    size_t ids = tokens * setting->layers * K;
    int16_t *experts = calloc(ids, sizeof(*experts));
    int16_t *predicted = calloc(ids, sizeof(*predicted));
    uint64_t *start = calloc(setting->batch + 1, sizeof(*start));
    coterie_trace_view_t view = {.token_count = tokens,
                                 .sequence_count = setting->batch,
                                 .layer_count = setting->layers,
                                 .expert_count = EXPERTS,
                                 .k = K,
                                 .predicted_k = K,
                                 .experts = experts,
                                 .predicted = predicted,
                                 .seq_start = start};
    coterie_trace_t *trace = NULL;

    for (uint32_t s = 0; start != NULL && s <= setting->batch; s++)
        start[s] = (uint64_t)s * setting->steps;
    for (size_t i = 0; experts && predicted && i < ids; i += K) {
        uint32_t layer = (uint32_t)(i / K % setting->layers);
        uint32_t token = (uint32_t)(i / K / setting->layers);
        uint32_t position = 1 + WARM_STEPS + token % setting->steps;
        int32_t chosen[2 * K];
        sets_choose(setting, token / setting->steps, position, layer, chosen);
        for (int k = 0; k < K; k++) {
            experts[i + (size_t)k] = (int16_t)chosen[k];
            predicted[i + (size_t)k] = (int16_t)chosen[K + k];
        }
    }
    if (coterie_trace_create(&view, &trace) != COTERIE_OK)
        trace = NULL;
    free(experts);
    free(predicted);
    free(start);
    return trace;
}

static coterie_status_t engine_allocate(engine_t *engine)
{
    size_t batch = engine->setting->batch, hidden = engine->setting->hidden;
    int whole = 1;

    for (int i = 0; i < 2; i++) {
        coterie_rows_t *rows = &engine->rows[i];

        *rows = (coterie_rows_t){.size = sizeof(*rows),
                                 .capacity = (uint32_t)batch,
                                 .sequence = calloc(batch, sizeof(int32_t)),
                                 .position = calloc(batch, sizeof(int32_t)),
                                 .token = calloc(batch, sizeof(int32_t)),
                                 .hidden = calloc(batch, 4 * hidden)};
        whole = whole && rows->sequence != NULL && rows->position != NULL &&
                rows->token != NULL && rows->hidden != NULL;
    }
    engine->ids = calloc(batch, K * sizeof(int32_t));
    engine->predicted = calloc(batch, K * sizeof(int32_t));
    engine->next = calloc(batch, sizeof(int32_t));
    engine->weights = calloc(batch, K * sizeof(float));
    engine->kv = calloc(batch, KV_ROW_SIZE);
    whole = whole && engine->ids != NULL && engine->predicted != NULL &&
            engine->next != NULL && engine->weights != NULL &&
            engine->kv != NULL;
    return whole ? COTERIE_OK : COTERIE_ERR_NO_MEMORY;
}

static void engine_free(engine_t *engine)
{
    for (int i = 0; i < 2; i++) {
        free(engine->rows[i].sequence);
        free(engine->rows[i].position);
        free(engine->rows[i].token);
        free(engine->rows[i].hidden);
    }
    free(engine->ids);
    free(engine->predicted);
    free(engine->next);
    free(engine->weights);
    free(engine->kv);
}

static coterie_status_t session_open(engine_t *engine,
                                     coterie_transport_t *transport,
                                     const coterie_placement_t *placement,
                                     const coterie_engine_t *callbacks,
                                     coterie_session_t **session_p)
{
    coterie_session_options_t options = COTERIE_SESSION_OPTIONS_INIT;

    options.transport = transport;
    options.placement = placement;
    options.engine = callbacks;
    options.hidden = engine->setting->hidden;
    options.k = K;
    options.max_rows = engine->setting->batch;
    options.mode = engine->setting->mode;
    options.predicted_k = K;
    options.kv_row_size = KV_ROW_SIZE;
    return coterie_session_create(&options, session_p);
}

/* A prompt of one token for each sequence that is born here. */
static coterie_status_t prefill(engine_t *engine, coterie_session_t *session)
{
    const dispatch_setting_t *setting = engine->setting;
    coterie_rows_t *rows = &engine->rows[0];
    coterie_status_t status =
        coterie_step_begin(session, COTERIE_PHASE_PREFILL, NULL, rows);
    uint32_t last = 0;

    rows->count = 0;
    for (uint32_t s = engine->rank; s < setting->batch;
         s += setting->rank_count) {
        rows->sequence[rows->count] = (int32_t)s;
        rows->position[rows->count++] = 0;
    }
    if (status == COTERIE_OK)
        status = layers_run(engine, session, &last);
    rows = &engine->rows[last];
    for (uint32_t i = 0; i < rows->count; i++)
        rows->position[i]++;
    if (status != COTERIE_OK)
        return status;
    return coterie_step_end(session, rows->count, rows->sequence,
                            rows->position, engine->next);
}

static coterie_status_t decode(engine_t *engine, coterie_session_t *session)
{
    coterie_status_t status = coterie_step_begin(
        session, COTERIE_PHASE_DECODE, NULL, &engine->rows[0]);
    coterie_rows_t *rows;
    uint32_t last = 0;

    if (status == COTERIE_OK)
        status = layers_run(engine, session, &last);
    rows = &engine->rows[last];
    for (uint32_t i = 0; i < rows->count; i++)
        rows->position[i]++;
    if (status != COTERIE_OK)
        return status;
    return coterie_step_end(session, rows->count, rows->sequence,
                            rows->position, engine->next);
}

/* *last_p: which of the two row sets holds the rows after the last layer. */
static coterie_status_t layers_run(engine_t *engine,
                                   coterie_session_t *session, uint32_t *last_p)
{
    coterie_status_t status = COTERIE_OK;
    uint32_t here = 0;

    for (uint32_t l = 0; l < engine->setting->layers && status == COTERIE_OK;
         l++) {
        coterie_rows_t *rows = &engine->rows[here];

        rows_route(engine, l, rows);
        status = coterie_kv_put(session, l, rows->count, rows->sequence,
                                rows->position, engine->kv);
        if (status == COTERIE_OK)
            status =
                coterie_exchange(session, l, rows, &engine->rows[1 - here]);
        here = 1 - here;
    }
    *last_p = here;
    return status;
}

static void rows_route(engine_t *engine, uint32_t layer, coterie_rows_t *rows)
{
    const dispatch_setting_t *setting = engine->setting;

    for (uint32_t i = 0; i < rows->count; i++) {
        uint32_t sequence = (uint32_t)rows->sequence[i];
        uint32_t position = (uint32_t)rows->position[i];
        int32_t chosen[2 * K];

        sets_choose(setting, sequence, position, layer, chosen);
        for (uint32_t k = 0; k < K; k++) {
            engine->ids[i * K + k] = chosen[k];
            engine->predicted[i * K + k] = chosen[K + k];
            engine->weights[i * K + k] = 0.5f;
        }
    }
    rows->normed = rows->hidden;
    rows->topk_ids = engine->ids;
    rows->topk_weights = engine->weights;
    rows->predicted = engine->predicted;
}

/* chosen[2 * K]: a token's experts of a layer, and those predicted next. */
static void sets_choose(const dispatch_setting_t *setting, uint32_t sequence,
                        uint32_t position, uint32_t layer, int32_t *chosen)
{
    uint32_t draw = hash(sequence, position, layer, 7) % 100;

    experts_choose(setting, sequence, position, layer, chosen);
    experts_choose(setting, sequence, position,
                   draw < RIGHT_PERCENT ? layer + 1 : layer + 5, chosen + K);
}

/* Experts in order: rank r holds EXPERTS / rank_count of them. */
static void experts_choose(const dispatch_setting_t *setting, uint32_t sequence,
                           uint32_t position, uint32_t layer, int32_t *ids)
{
    uint32_t share = EXPERTS / setting->rank_count;
    uint32_t rank = hash(sequence, position, 0, 1) % setting->rank_count;
    uint32_t draw, other;

    for (uint32_t l = 1; l <= layer; l++)
        if (hash(sequence, position, l, 2) % 100 >= STAYS_PERCENT)
            rank = hash(sequence, position, l, 3) % setting->rank_count;
    draw = hash(sequence, position, layer, 4);
    other = draw % 100 < TOGETHER_PERCENT
                ? rank
                : hash(sequence, position, layer, 5) % setting->rank_count;
    ids[0] = (int32_t)(rank * share + draw / 100 % share);
    ids[1] = (int32_t)(other * share + draw / 10000 % share);
    if (ids[1] == ids[0])
        ids[1] = ids[0] % EXPERTS == EXPERTS - 1 ? 0 : ids[0] + 1;
}

static uint32_t hash(uint32_t a, uint32_t b, uint32_t c, uint32_t d)
{
    uint32_t x = a * 0x9E3779B1u ^ b * 0x85EBCA77u ^ c * 0xC2B2AE3Du ^ d;

    x ^= x >> 15;
    x *= 0x2C1B3C6Du;
    x ^= x >> 12;
    x *= 0x297A2D39u;
    return x ^ x >> 15;
}

static coterie_status_t engine_norm(void *engine, uint32_t layer,
                                    uint32_t count, const float *hidden,
                                    float *normed)
{
    const engine_t *self = engine;

    (void)layer;
    memcpy(normed, hidden, (size_t)count * self->setting->hidden * 4);
    return COTERIE_OK;
}

static coterie_status_t engine_kv(void *engine, uint32_t layer,
                                  int32_t sequence, int32_t position,
                                  const void *data)
{
    (void)engine, (void)layer, (void)sequence, (void)position, (void)data;
    return COTERIE_OK;
}

static coterie_status_t engine_experts(void *engine, uint32_t layer,
                                       const coterie_expert_rows_t *rows,
                                       const float *normed, float *sums)
{
    size_t hidden = ((engine_t *)engine)->setting->hidden;

    (void)layer;
    for (uint32_t i = 0; i < rows->first[rows->expert_count]; i++) {
        const float *x = normed + rows->row[i] * hidden;
        float *y = sums + rows->row[i] * hidden;

        for (size_t j = 0; j < hidden; j++)
            y[j] += 0.01f * rows->weight[i] * x[j];
    }
    return COTERIE_OK;
}
