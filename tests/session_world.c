#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/session_model.h"
#include "tests/session_world.h"

enum { ROWS_MAX = 128 };

typedef struct world {
    world_config_t config;
    coterie_placement_t *placement;
    coterie_placement_options_t view;
    int32_t *tokens; /* [sequence, position], from the serial run */
    float *final;    /* [sequence, position, hidden], from it too */
    world_result_t *result;
    pthread_mutex_t lock;
} world_t;

typedef struct peer {
    world_t *world;
    uint32_t rank, steps;
    coterie_transport_t *transport;
    coterie_session_t *session;
    coterie_trace_recorder_t *recorder;
    coterie_phase_t phase;
    coterie_mode_t mode;
    coterie_rows_t rows[2];
    int32_t *ids, *predicted;
    float *weights, *normed;
    unsigned char *kv, *kv_seen; /* kv_seen: [layer, sequence, position] */
    uint64_t checked, wrong, bits;
    coterie_counts_t counts[2];
    coterie_times_t times;
} peer_t;

static void *peer_main(void *arg);
static coterie_status_t peer_run(peer_t *peer);
static coterie_status_t peer_open(peer_t *peer);
static void peer_close(peer_t *peer);
static coterie_status_t step(peer_t *peer, coterie_phase_t phase,
                             uint32_t chunk);
static void bring_prompts(peer_t *peer, uint32_t chunk);
static coterie_status_t layer_run(peer_t *peer, uint32_t layer,
                                  coterie_rows_t *in, coterie_rows_t *out);
static coterie_status_t put_kv(peer_t *peer, uint32_t layer,
                               const coterie_rows_t *in);
static void predict(peer_t *peer, uint32_t layer, coterie_rows_t *in);
static coterie_status_t finish_step(peer_t *peer,
                                    const coterie_rows_t *rows);
static coterie_status_t engine_norm(void *engine, uint32_t layer,
                                    uint32_t count, const float *hidden,
                                    float *normed);
static coterie_status_t engine_shared(void *engine, uint32_t layer,
                                      uint32_t count, const float *normed,
                                      float *sums);
static coterie_status_t engine_experts(void *engine, uint32_t layer,
                                       const coterie_expert_rows_t *rows,
                                       const float *normed, float *sums);
static coterie_status_t engine_kv(void *engine, uint32_t layer,
                                  int32_t sequence, int32_t position,
                                  const void *data);
static unsigned char *kv_seen(const peer_t *peer, uint32_t layer, uint32_t s,
                              uint32_t p);
static void check_kv(world_t *world, peer_t *peers);
static void sum_counts(world_t *world, peer_t *peers);
static void add_counts(coterie_counts_t *sum, const coterie_counts_t *counts,
                       bool first);

void world_run(const world_config_t *config, world_result_t *result)
{
    coterie_transport_t *transports[WORLD_RANKS_MAX];
    peer_t peers[WORLD_RANKS_MAX];
    pthread_t threads[WORLD_RANKS_MAX];
    world_t world = {.config = *config, .result = result};

    memset(result, 0, sizeof(*result));
    memset(peers, 0, sizeof(peers));
    pthread_mutex_init(&world.lock, NULL);
    world.placement = world_placement(config);
    coterie_placement_view(world.placement, &world.view);
    world.tokens = calloc(config->sequences * POSITIONS_MAX, sizeof(int32_t));
    world.final = calloc((size_t)config->sequences * POSITIONS_MAX,
                         config->hidden * sizeof(float));
    model_run(config, world.tokens, world.final);
    if (coterie_transport_open_threads(config->ranks, NULL, transports) !=
        COTERIE_OK)
        abort();
    for (uint32_t r = 0; r < config->ranks; r++) {
        peers[r] = (peer_t){
            .world = &world, .rank = r, .transport = transports[r]};
        pthread_create(&threads[r], NULL, peer_main, &peers[r]);
    }
    for (uint32_t r = 0; r < config->ranks; r++)
        pthread_join(threads[r], NULL);
    check_kv(&world, peers);
    sum_counts(&world, peers);
    for (uint32_t r = 0; r < config->ranks; r++)
        peer_close(&peers[r]);
    for (uint32_t r = 0; r < config->ranks; r++)
        coterie_transport_close(transports[r]);
    coterie_placement_destroy(world.placement);
    pthread_mutex_destroy(&world.lock);
    free(world.tokens);
    free(world.final);
}

static void *peer_main(void *arg)
{
    peer_t *peer = arg;
    world_result_t *result = peer->world->result;

    result->status[peer->rank] = peer_run(peer);
    snprintf(result->error[peer->rank], sizeof(result->error[0]), "%s",
             coterie_last_error());
    if (peer->session != NULL)
        coterie_session_counts(peer->session, peer->counts, &peer->times);
    coterie_session_destroy(peer->session);
    pthread_mutex_lock(&peer->world->lock);
    result->rows_checked += peer->checked;
    result->rows_wrong += peer->wrong;
    result->bits += peer->bits;
    pthread_mutex_unlock(&peer->world->lock);
    return NULL;
}

static coterie_status_t peer_run(peer_t *peer)
{
    const world_config_t *c = &peer->world->config;
    coterie_status_t status = peer_open(peer);
    int64_t all[WORLD_RANKS_MAX], mine = peer->rank;

    /* Prompts in two steps: the second brings their last tokens. */
    for (uint32_t chunk = 0; chunk < 2 && status == COTERIE_OK; chunk++)
        status = step(peer, COTERIE_PHASE_PREFILL, chunk);
    for (uint32_t t = 0; t + 1 < c->tokens && status == COTERIE_OK; t++) {
        if (c->silent_rank != 0 && c->silent_rank == peer->rank && t == 1)
            return COTERIE_OK;
        status = step(peer, COTERIE_PHASE_DECODE, 0);
    }
    /* Engines gather their results while a session is still open. */
    if (status == COTERIE_OK)
        status = coterie_transport_allgather(peer->transport, &mine,
                                             sizeof(mine), all);
    return status;
}

static coterie_status_t peer_open(peer_t *peer)
{
    const world_config_t *c = &peer->world->config;
    size_t rows = ROWS_MAX;
    coterie_engine_t engine = {
        .size = sizeof(engine),
        .engine = peer,
        .norm = engine_norm,
        .shared = c->shared ? engine_shared : NULL,
        .kv_arrived = c->kv_row_size > 0 ? engine_kv : NULL,
        .experts = engine_experts};
    coterie_session_options_t options = COTERIE_SESSION_OPTIONS_INIT;
    coterie_trace_recorder_options_t recording =
        COTERIE_TRACE_RECORDER_OPTIONS_INIT;

    recording.layer_count = c->layers;
    recording.expert_count = c->experts;
    recording.k = c->k;
    recording.predicted_k = c->predicted > 0 ? c->k : 0;
    if (coterie_trace_recorder_create(&recording, &peer->recorder) !=
        COTERIE_OK)
        abort();
    for (uint32_t i = 0; i < 2; i++)
        peer->rows[i] = (coterie_rows_t){
            .size = sizeof(coterie_rows_t),
            .capacity = ROWS_MAX,
            .sequence = calloc(rows, sizeof(int32_t)),
            .position = calloc(rows, sizeof(int32_t)),
            .token = calloc(rows, sizeof(int32_t)),
            .hidden = calloc(rows * c->hidden, sizeof(float))};
    peer->ids = calloc(rows * c->k, sizeof(int32_t));
    peer->predicted = calloc(rows * c->k, sizeof(int32_t));
    peer->weights = calloc(rows * c->k, sizeof(float));
    peer->normed = calloc(rows * c->hidden, sizeof(float));
    peer->kv = calloc(rows, c->kv_row_size + 1);
    peer->kv_seen =
        calloc((size_t)(c->layers + 1) * c->sequences, POSITIONS_MAX);
    options.transport = peer->transport;
    options.placement = peer->world->placement;
    options.engine = &engine;
    options.hidden = c->hidden;
    options.k = c->k;
    options.max_rows =
        c->max_rows + (c->odd_rank != 0 && c->odd_rank == peer->rank);
    options.mode = c->mode;
    options.group = c->group;
    options.predicted_k = c->predicted > 0 ? c->k : 0;
    options.kv_row_size = c->kv_row_size;
    options.wire = c->wire;
    options.kv_after_last = c->kv_after_last && !c->kv_undeclared;
    options.deadline_ms = c->deadline_ms;
    return coterie_session_create(&options, &peer->session);
}

static void peer_close(peer_t *peer)
{
    coterie_trace_recorder_destroy(peer->recorder);
    for (uint32_t i = 0; i < 2; i++) {
        free(peer->rows[i].sequence);
        free(peer->rows[i].position);
        free(peer->rows[i].token);
        free(peer->rows[i].hidden);
    }
    free(peer->ids);
    free(peer->predicted);
    free(peer->weights);
    free(peer->normed);
    free(peer->kv);
    free(peer->kv_seen);
}

static coterie_status_t step(peer_t *peer, coterie_phase_t phase,
                             uint32_t chunk)
{
    const world_config_t *c = &peer->world->config;
    coterie_rows_t *in = &peer->rows[0], *out = &peer->rows[1];
    coterie_status_t status =
        coterie_step_begin(peer->session, phase, &peer->mode, in);

    if (status != COTERIE_OK)
        return status;
    peer->phase = phase;
    if (phase == COTERIE_PHASE_PREFILL)
        bring_prompts(peer, chunk);
    for (uint32_t i = 0; i < in->count; i++)
        model_embed(c, in->sequence[i], in->position[i], in->token[i],
              in->hidden + (size_t)i * c->hidden);
    for (uint32_t l = 0; l < c->layers && status == COTERIE_OK; l++) {
        coterie_rows_t *swap = in;

        status = layer_run(peer, l, in, out);
        in = out;
        out = swap;
    }
    if (status == COTERIE_OK && c->kv_after_last)
        status = put_kv(peer, c->layers, in);
    return status == COTERIE_OK ? finish_step(peer, in) : status;
}

static void bring_prompts(peer_t *peer, uint32_t chunk)
{
    const world_config_t *c = &peer->world->config;
    uint32_t first = chunk == 0 ? 0 : c->prompt / 2;
    uint32_t end = chunk == 0 ? c->prompt / 2 : c->prompt;
    coterie_rows_t *in = &peer->rows[0];

    in->count = 0;
    for (uint32_t s = peer->rank; s < c->sequences; s += c->ranks)
        for (uint32_t p = first; p < end; p++) {
            in->sequence[in->count] = (int32_t)s;
            in->position[in->count] = (int32_t)p;
            in->token[in->count++] =
                peer->world->tokens[s * POSITIONS_MAX + p];
        }
}

static coterie_status_t layer_run(peer_t *peer, uint32_t layer,
                                  coterie_rows_t *in, coterie_rows_t *out)
{
    const world_config_t *c = &peer->world->config;
    coterie_status_t status;

    for (uint32_t i = 0; i < in->count; i++) {
        model_attend(c, layer, in->hidden + (size_t)i * c->hidden);
        model_route(c, in->sequence[i], in->position[i], layer,
                  peer->ids + i * c->k, peer->weights + i * c->k);
        if (c->lying_rank != 0 && c->lying_rank == peer->rank &&
            peer->phase == COTERIE_PHASE_DECODE)
            peer->ids[i * c->k] = -1;
    }
    model_norm(c, in->count, in->hidden, peer->normed);
    predict(peer, layer, in);
    in->normed = peer->normed;
    in->topk_ids = peer->ids;
    in->topk_weights = peer->weights;
    status = coterie_trace_record(
        peer->recorder,
        &(coterie_trace_rows_t){.size = sizeof(coterie_trace_rows_t),
                                .layer = layer,
                                .count = in->count,
                                .step = peer->steps,
                                .phase = peer->phase,
                                .sequence = in->sequence,
                                .position = in->position,
                                .topk_ids = in->topk_ids,
                                .topk_weights = in->topk_weights,
                                .predicted = in->predicted});
    if (status == COTERIE_OK)
        status = put_kv(peer, layer, in);
    if (status == COTERIE_OK)
        status = coterie_exchange(peer->session, layer, in, out);
    return status;
}

static coterie_status_t put_kv(peer_t *peer, uint32_t layer,
                               const coterie_rows_t *in)
{
    const world_config_t *c = &peer->world->config;

    if (c->kv_row_size == 0)
        return COTERIE_OK;
    for (uint32_t i = 0; i < in->count; i++) {
        uint32_t h = model_hash((uint32_t)in->sequence[i],
                          (uint32_t)in->position[i], layer, 99);

        memset(peer->kv + i * c->kv_row_size, (int)(h & 255), c->kv_row_size);
        *kv_seen(peer, layer, (uint32_t)in->sequence[i],
                 (uint32_t)in->position[i]) += 1;
    }
    return coterie_kv_put(peer->session, layer, in->count, in->sequence,
                          in->position, peer->kv);
}

static void predict(peer_t *peer, uint32_t layer, coterie_rows_t *in)
{
    const world_config_t *c = &peer->world->config;
    float weights[COTERIE_K_MAX];

    in->predicted = c->predicted > 0 ? peer->predicted : NULL;
    for (uint32_t i = 0; c->predicted > 0 && i < in->count; i++) {
        uint32_t h = model_hash((uint32_t)in->sequence[i],
                          (uint32_t)in->position[i], layer, 7);
        int32_t off = h % 10 < c->predicted ? 0 : 50; /* another token's */

        model_route(c, in->sequence[i] + off, in->position[i], layer + 1,
                  peer->predicted + i * c->k, weights);
    }
}

static coterie_status_t finish_step(peer_t *peer,
                                    const coterie_rows_t *rows)
{
    world_t *world = peer->world;
    const world_config_t *c = &world->config;
    int32_t sequence[ROWS_MAX], position[ROWS_MAX], token[ROWS_MAX];
    uint32_t count = 0;

    peer->steps++;
    for (uint32_t i = 0; i < rows->count; i++) {
        uint32_t s = (uint32_t)rows->sequence[i];
        uint32_t p = (uint32_t)rows->position[i];
        const float *hidden = rows->hidden + (size_t)i * c->hidden;
        const float *right = world->final +
                             (s * POSITIONS_MAX + (size_t)p) * c->hidden;
        uint32_t bits = 0;

        peer->checked++;
        for (uint32_t j = 0; j < c->hidden; j++) {
            uint32_t word;
            memcpy(&word, &hidden[j], sizeof(word));
            bits = model_hash(bits, word, j, 0);
        }
        if (s % c->ranks == peer->rank || peer->mode != COTERIE_MODE_FORWARD)
            peer->bits += model_hash(s, p, bits, 1); /* each row once */
        if (!c->fractions &&
            memcmp(hidden, right, c->hidden * sizeof(float)) != 0)
            peer->wrong++;
        if (p + 1 < c->prompt || p + 1 >= model_length(c, s))
            continue;
        sequence[count] = (int32_t)s;
        position[count] = (int32_t)p + 1;
        token[count++] = model_sample(c, hidden);
    }
    return coterie_step_end(peer->session, count, sequence, position, token);
}

static coterie_status_t engine_norm(void *engine, uint32_t layer,
                                    uint32_t count, const float *hidden,
                                    float *normed)
{
    const peer_t *peer = engine;

    (void)layer;
    model_norm(&peer->world->config, count, hidden, normed);
    return COTERIE_OK;
}

static coterie_status_t engine_shared(void *engine, uint32_t layer,
                                      uint32_t count, const float *normed,
                                      float *sums)
{
    const peer_t *peer = engine;

    (void)layer;
    for (size_t i = 0; i < (size_t)count * peer->world->config.hidden; i++)
        sums[i] += 2 * normed[i];
    return COTERIE_OK;
}

static coterie_status_t engine_experts(void *engine, uint32_t layer,
                                       const coterie_expert_rows_t *rows,
                                       const float *normed, float *sums)
{
    const peer_t *peer = engine;
    const world_t *world = peer->world;
    const world_config_t *c = &world->config;
    uint32_t first = 0;

    if (c->failing_rank != 0 && c->failing_rank == peer->rank &&
        c->failing_layer == layer && peer->phase == COTERIE_PHASE_DECODE)
        return COTERIE_ERR_IO;
    while (first < world->view.slot_count &&
           world->view.slot_rank[first] < peer->rank)
        first++;
    for (uint32_t slot = 0; slot < rows->expert_count; slot++)
        for (uint32_t i = rows->first[slot]; i < rows->first[slot + 1]; i++) {
            int expert = world->view.slot_expert
                             [layer * world->view.slot_count + first + slot];
            size_t row = (size_t)rows->row[i] * c->hidden;

            for (uint32_t j = 0; j < c->hidden; j++)
                sums[row + j] +=
                    rows->weight[i] * model_expert(c, layer, (uint32_t)expert,
                                                   normed[row + j]);
        }
    return COTERIE_OK;
}

static coterie_status_t engine_kv(void *engine, uint32_t layer,
                                  int32_t sequence, int32_t position,
                                  const void *data)
{
    peer_t *peer = engine;
    const world_config_t *c = &peer->world->config;
    uint32_t h = model_hash((uint32_t)sequence, (uint32_t)position, layer, 99);
    const unsigned char *bytes = data;

    for (uint32_t i = 0; i < c->kv_row_size; i++)
        if (bytes[i] != (h & 255))
            return COTERIE_ERR_CORRUPT;
    *kv_seen(peer, layer, (uint32_t)sequence, (uint32_t)position) += 1;
    return COTERIE_OK;
}

static unsigned char *kv_seen(const peer_t *peer, uint32_t layer, uint32_t s,
                              uint32_t p)
{
    return &peer->kv_seen[((size_t)layer * peer->world->config.sequences + s) *
                              POSITIONS_MAX +
                          p];
}

/* What the last step computed is still on its way to the others. */
static void check_kv(world_t *world, peer_t *peers)
{
    const world_config_t *c = &world->config;
    uint32_t node_ranks = c->ranks / (c->nodes > 0 ? c->nodes : 1);

    for (uint32_t r = 0; c->kv_row_size > 0 && r < c->ranks; r++)
        for (uint32_t s = 0; s < c->sequences; s++) {
            uint32_t home = s % c->ranks, end = model_length(c, s);
            bool member =
                c->group == COTERIE_GROUP_ALL || r == home ||
                (c->group == COTERIE_GROUP_NODE &&
                 r / node_ranks == home / node_ranks) ||
                (c->group == COTERIE_GROUP_ACROSS &&
                 r % node_ranks == home % node_ranks);

            if (s % 3 == 0)
                end--;
            for (uint32_t l = 0; l < c->layers + c->kv_after_last; l++)
                for (uint32_t p = 0; p < end; p++)
                    if (*kv_seen(&peers[r], l, s, p) != (member ? 1 : 0))
                        world->result->kv_wrong++;
        }
}

static void sum_counts(world_t *world, peer_t *peers)
{
    world_result_t *result = world->result;
    coterie_trace_recorder_t *all = peers[0].recorder;

    for (uint32_t r = 0; r < world->config.ranks; r++) {
        void *data;
        size_t size;

        if (result->status[r] != COTERIE_OK)
            return;
        for (uint32_t phase = 0; phase < 2; phase++)
            add_counts(&result->counts[phase], &peers[r].counts[phase],
                       r == 0);
        if (r == 0)
            continue;
        if (coterie_trace_recorder_export(peers[r].recorder, &data, &size) !=
                COTERIE_OK ||
            coterie_trace_recorder_import(all, data, size) != COTERIE_OK)
            abort();
        free(data);
    }
    memcpy(result->steps_by_mode, peers[0].times.steps_by_mode,
           sizeof(result->steps_by_mode));
    if (coterie_trace_recorder_finish(all, &result->trace) != COTERIE_OK)
        fprintf(stderr, "%s\n", coterie_last_error());
}

static void add_counts(coterie_counts_t *sum, const coterie_counts_t *counts,
                       bool first)
{
    const coterie_counts_t before = *sum;
    uint64_t *to = &sum->steps;
    const uint64_t *from = &counts->steps;

    for (size_t i = 0; i < sizeof(*sum) / sizeof(*to); i++)
        to[i] += from[i];
    if (first)
        return;
    sum->steps = before.steps;
    sum->alltoalls = before.alltoalls;
    sum->returns = before.returns;
    sum->node_alltoalls = before.node_alltoalls;
    sum->kv_gathers = before.kv_gathers;
}
