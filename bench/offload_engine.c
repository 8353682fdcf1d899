#include "config.h"

#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/error.h"
#include "bench/bench.h"
#include "bench/offload_engine.h"
#include "experts/model.h"
#include "experts/store.h"

typedef struct engine {
    offload_run_t *run;
    coterie_expert_format_t format;
    coterie_session_t *session;
    coterie_bank_t *bank;
    coterie_rows_t rows[2];
    float *normed; /* [batch, hidden]: the same for every layer */
    int32_t *ids, *next;
    float *weights;
    void *scratch;
    uint32_t cold_left; /* of this step */
    uint64_t bytes;     /* read before this step */
} engine_t;

static coterie_status_t engine_open(engine_t *engine,
                                    coterie_transport_t **transport_p,
                                    coterie_placement_t **placement_p);
static coterie_status_t arrays_create(engine_t *engine);
static void engine_close(engine_t *engine);
static coterie_status_t step(engine_t *engine, uint32_t ordinal);
static coterie_status_t layers_run(engine_t *engine, uint32_t *last_p);
static void rows_route(engine_t *engine, uint32_t layer, coterie_rows_t *rows);
static coterie_status_t engine_norm(void *engine, uint32_t layer,
                                    uint32_t count, const float *hidden,
                                    float *normed);
static coterie_status_t engine_experts(void *engine, uint32_t layer,
                                       const coterie_expert_rows_t *rows,
                                       const float *normed, float *sums);
static const unsigned char *record_of(engine_t *engine, uint32_t layer,
                                      uint32_t expert);
static uint32_t reads_note(engine_t *engine);

coterie_status_t offload_decode(offload_run_t *run)
{
    engine_t engine = {.run = run};
    coterie_transport_t *transport = NULL;
    coterie_placement_t *placement = NULL;
    coterie_status_t status = engine_open(&engine, &transport, &placement);

    for (uint32_t i = 0; i < run->steps && status == COTERIE_OK; i++) {
        double start = bench_seconds();

        if (i + run->measured == run->steps) {
            run->seconds = 0;
            if (run->experts.tiers != NULL)
                coterie_tiers_counts(run->experts.tiers, &run->before);
        }
        engine.cold_left =
            run->experts.cold != NULL ? run->experts.cold[i] : 0;
        status = step(&engine, i);
        run->step_s[i] = bench_seconds() - start;
        run->seconds += run->step_s[i];
        if (run->reads != NULL)
            run->reads[i] = reads_note(&engine);
    }
    if (run->experts.tiers != NULL)
        coterie_tiers_counts(run->experts.tiers, &run->after);
    coterie_session_destroy(engine.session);
    coterie_bank_destroy(engine.bank);
    coterie_transport_close(transport);
    coterie_placement_destroy(placement);
    engine_close(&engine);
    return status;
}

static coterie_status_t engine_open(engine_t *engine,
                                    coterie_transport_t **transport_p,
                                    coterie_placement_t **placement_p)
{
    const offload_run_t *run = engine->run;
    bool tiered = run->experts.tiers != NULL;
    coterie_engine_t callbacks = {.size = sizeof(callbacks),
                                  .engine = engine,
                                  .norm = engine_norm,
                                  .experts = tiered ? NULL : engine_experts};
    coterie_placement_options_t place = COTERIE_PLACEMENT_OPTIONS_INIT;
    coterie_session_options_t options = COTERIE_SESSION_OPTIONS_INIT;
    coterie_link_t link = {.size = sizeof(link)};
    coterie_status_t status = arrays_create(engine);

    place.layer_count = run->view->layer_count;
    place.expert_count = OFFLOAD_EXPERTS;
    place.rank_count = 1;
    if (status == COTERIE_OK)
        status = coterie_placement_create(&place, placement_p);
    if (status == COTERIE_OK)
        status = coterie_transport_open_threads(1, &link, transport_p);
    if (status == COTERIE_OK && tiered)
        status = coterie_bank_create_tiered(run->experts.tiers, *placement_p,
                                            0, &engine->bank);
    if (status == COTERIE_OK && tiered)
        coterie_bank_set_pool(engine->bank, run->pool);
    options.transport = *transport_p;
    options.placement = *placement_p;
    options.bank = engine->bank;
    options.engine = &callbacks;
    options.hidden = OFFLOAD_HIDDEN;
    options.k = OFFLOAD_K;
    options.max_rows = run->batch;
    options.mode = COTERIE_MODE_TWO_PHASE;
    if (status == COTERIE_OK)
        status = coterie_session_create(&options, &engine->session);
    return status;
}

static coterie_status_t arrays_create(engine_t *engine)
{
    size_t batch = engine->run->batch, row = OFFLOAD_HIDDEN * sizeof(float);
    coterie_ffn_shape_t shape;
    bool whole = true;

    coterie_model_expert_format(engine->run->model, &engine->format);
    shape = (coterie_ffn_shape_t){.hidden = engine->format.hidden,
                                  .ffn = engine->format.ffn,
                                  .dtype = engine->format.dtype};
    for (int i = 0; i < 2; i++) {
        coterie_rows_t *rows = &engine->rows[i];

        *rows = (coterie_rows_t){.size = sizeof(*rows),
                                 .capacity = (uint32_t)batch,
                                 .sequence = calloc(batch, sizeof(int32_t)),
                                 .position = calloc(batch, sizeof(int32_t)),
                                 .token = calloc(batch, sizeof(int32_t)),
                                 .hidden = calloc(batch, row)};
        whole = whole && rows->sequence != NULL && rows->position != NULL &&
                rows->token != NULL && rows->hidden != NULL;
    }
    engine->normed = calloc(batch, row);
    engine->ids = calloc(batch, OFFLOAD_K * sizeof(int32_t));
    engine->next = calloc(batch, sizeof(int32_t));
    engine->weights = calloc(batch, OFFLOAD_K * sizeof(float));
    engine->scratch = malloc(coterie_pool_scratch(engine->run->pool, &shape));
    whole = whole && engine->normed != NULL && engine->ids != NULL &&
            engine->next != NULL && engine->weights != NULL &&
            engine->scratch != NULL;
    for (size_t i = 0; whole && i < batch * OFFLOAD_HIDDEN; i++)
        engine->normed[i] = (float)(i * 7919 % 200) / 100 - 1;
    for (size_t i = 0; whole && i < batch * OFFLOAD_K; i++)
        engine->weights[i] = 1.0f / OFFLOAD_K;
    return whole ? COTERIE_OK : coterie_fail_memory(batch * row, "rows");
}

static void engine_close(engine_t *engine)
{
    for (int i = 0; i < 2; i++) {
        free(engine->rows[i].sequence);
        free(engine->rows[i].position);
        free(engine->rows[i].token);
        free(engine->rows[i].hidden);
    }
    free(engine->normed);
    free(engine->ids);
    free(engine->next);
    free(engine->weights);
    free(engine->scratch);
}

/* The first token of each sequence is its prompt. */
static coterie_status_t step(engine_t *engine, uint32_t ordinal)
{
    coterie_rows_t *rows = &engine->rows[0];
    uint32_t last = 0;
    coterie_status_t status = coterie_step_begin(
        engine->session,
        ordinal == 0 ? COTERIE_PHASE_PREFILL : COTERIE_PHASE_DECODE, NULL,
        rows);

    for (uint32_t i = 0; ordinal == 0 && i < engine->run->batch; i++) {
        rows->count = engine->run->batch;
        rows->sequence[i] = (int32_t)i;
        rows->position[i] = 0;
    }
    if (status == COTERIE_OK)
        status = layers_run(engine, &last);
    rows = &engine->rows[last];
    for (uint32_t i = 0; i < rows->count; i++)
        rows->position[i]++;
    if (status != COTERIE_OK)
        return status;
    return coterie_step_end(engine->session, rows->count, rows->sequence,
                            rows->position, engine->next);
}

/* *last_p: which of the two row sets holds the rows after the last layer. */
static coterie_status_t layers_run(engine_t *engine, uint32_t *last_p)
{
    coterie_status_t status = COTERIE_OK;
    uint32_t layers = engine->run->view->layer_count;

    for (uint32_t l = 0; l < layers && status == COTERIE_OK; l++) {
        rows_route(engine, l, &engine->rows[l % 2]);
        status = coterie_exchange(engine->session, l, &engine->rows[l % 2],
                                  &engine->rows[(l + 1) % 2]);
    }
    *last_p = layers % 2;
    return status;
}

static void rows_route(engine_t *engine, uint32_t layer, coterie_rows_t *rows)
{
    const coterie_trace_view_t *view = engine->run->view;

    for (uint32_t i = 0; i < rows->count; i++) {
        uint32_t sequence = engine->run->sequences[rows->sequence[i]];
        uint64_t token = view->seq_start[sequence] +
                         (uint64_t)rows->position[i];
        const int16_t *ids =
            view->experts + (token * view->layer_count + layer) * OFFLOAD_K;

        for (uint32_t k = 0; k < OFFLOAD_K; k++)
            engine->ids[i * OFFLOAD_K + k] = ids[k];
    }
    rows->normed = engine->normed;
    rows->topk_ids = engine->ids;
    rows->topk_weights = engine->weights;
}

/* Rows stay at home. */
static coterie_status_t engine_norm(void *engine, uint32_t layer,
                                    uint32_t count, const float *hidden,
                                    float *normed)
{
    (void)engine;
    (void)layer;
    memcpy(normed, hidden, (size_t)count * OFFLOAD_HIDDEN * sizeof(float));
    return COTERIE_OK;
}

static coterie_status_t engine_experts(void *engine, uint32_t layer,
                                       const coterie_expert_rows_t *rows,
                                       const float *normed, float *sums)
{
    engine_t *e = engine;
    const coterie_expert_format_t *format = &e->format;
    coterie_ffn_shape_t shape = {.hidden = format->hidden,
                                 .ffn = format->ffn,
                                 .dtype = format->dtype};
    coterie_expert_weights_t experts[OFFLOAD_EXPERTS] = {{0}};

    for (uint32_t i = 0; i < OFFLOAD_EXPERTS; i++) {
        const unsigned char *record;

        if (rows->first[i] == rows->first[i + 1])
            continue;
        record = record_of(e, layer, i);
        experts[i].gate = record + format->gate_offset;
        experts[i].up = record + format->up_offset;
        experts[i].down = record + format->down_offset;
    }
    coterie_pool_ffn(e->run->pool,
                     &(coterie_ffn_call_t){&shape, experts, rows, normed, sums,
                                           e->scratch});
    return COTERIE_OK;
}

/* What is cold leaves the page cache; what is not is in memory of its own. */
static const unsigned char *record_of(engine_t *engine, uint32_t layer,
                                      uint32_t expert)
{
    const offload_experts_t *experts = &engine->run->experts;
    uint64_t size = engine->format.record_size;
    coterie_extent_t extent = coterie_store_extent(
        engine->run->model->source, layer, expert);
    uint64_t slots = experts->arena_size / size;
    const offload_file_t *file;

    if (engine->cold_left == 0)
        return experts->arena +
               (layer * OFFLOAD_EXPERTS + expert) % slots * size;
    engine->cold_left--;
    file = &experts->mapped->file[extent.file];
    madvise((void *)(file->mapped + extent.offset), size, MADV_DONTNEED);
    posix_fadvise(file->descriptor, (off_t)extent.offset, (off_t)size,
                  POSIX_FADV_DONTNEED);
    return file->mapped + extent.offset;
}

static uint32_t reads_note(engine_t *engine)
{
    coterie_tiers_counts_t counts;
    uint64_t before = engine->bytes;

    coterie_tiers_counts(engine->run->experts.tiers, &counts);
    engine->bytes = counts.bytes;
    return (uint32_t)((counts.bytes - before) / engine->format.record_size);
}
