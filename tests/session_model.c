#include <stdio.h>
#include <stdlib.h>

#include "tests/session_model.h"

enum { VALUE_MOD = 61 };

static void layer_run(const world_config_t *config, const uint32_t at[3],
                      float *hidden, float *normed);

/* Experts in order over the ranks that are not idle; a rank's replicas are the
 * experts that follow its own. */
coterie_placement_t *world_placement(const world_config_t *config)
{
    uint32_t holders = config->ranks - config->idle;
    uint32_t replicas = holders > 1 ? config->replicas : 0;
    uint32_t slots = config->experts + holders * replicas;
    uint16_t *slot_rank = calloc(slots, sizeof(*slot_rank));
    int16_t *slot_expert = calloc((size_t)slots * config->layers,
                                  sizeof(*slot_expert));
    uint8_t *scores = calloc((size_t)config->layers * config->experts,
                             config->ranks);
    coterie_placement_options_t options = COTERIE_PLACEMENT_OPTIONS_INIT;
    coterie_placement_t *placement = NULL;
    uint32_t slot = 0;

    for (uint32_t r = 0; r < holders; r++) {
        uint32_t first = config->experts * r / holders;
        uint32_t end = config->experts * (r + 1) / holders;

        for (uint32_t e = first; e < end + replicas; e++, slot++) {
            slot_rank[slot] = (uint16_t)r;
            for (uint32_t l = 0; l < config->layers; l++)
                slot_expert[(size_t)l * slots + slot] =
                    (int16_t)((e + 3 * l) % config->experts);
        }
    }
    for (uint32_t i = 0; i < config->layers * config->experts * config->ranks;
         i++)
        scores[i] = (uint8_t)model_hash(i, 1, 2, 3);
    options.layer_count = config->layers;
    options.expert_count = config->experts;
    options.rank_count = config->ranks;
    options.node_count = config->nodes;
    options.slot_count = slots;
    options.slot_rank = slot_rank;
    options.slot_expert = slot_expert;
    options.next_score = scores;
    if (coterie_placement_create(&options, &placement) != COTERIE_OK) {
        fprintf(stderr, "%s\n", coterie_last_error());
        abort();
    }
    free(slot_rank);
    free(slot_expert);
    free(scores);
    return placement;
}

uint32_t model_hash(uint32_t a, uint32_t b, uint32_t c, uint32_t d)
{
    uint32_t h = a * 0x9e3779b1u ^ b * 0x85ebca77u ^ c * 0xc2b2ae3du ^
                 d * 0x27d4eb2fu;

    h ^= h >> 15;
    h *= 0x2c1b3c6du;
    return h ^ h >> 13;
}

void model_route(const world_config_t *config, int32_t sequence,
                 int32_t position, uint32_t layer, int32_t *ids,
                 float *weights)
{
    for (uint32_t j = 0; j < config->k; j++) {
        uint32_t h =
            model_hash((uint32_t)sequence, (uint32_t)position, layer, j);
        int32_t id = (int32_t)(h % config->experts);

        for (uint32_t i = 0; i < j; i++)
            if (ids[i] == id) {
                id = (id + 1) % (int32_t)config->experts;
                i = UINT32_MAX; /* look at all of them again */
            }
        ids[j] = id;
        weights[j] = (float)(h >> 20 & 3) + 1;
    }
    for (uint32_t j = 0; j < config->k; j++)
        if ((sequence + position) % 13 == 5 ||
            model_hash((uint32_t)position, layer, (uint32_t)sequence, j) %
                    11 == 0)
            ids[j] = -1;
}

void model_embed(const world_config_t *config, int32_t sequence,
                 int32_t position, int32_t token, float *hidden)
{
    for (uint32_t i = 0; i < config->hidden; i++)
        hidden[i] = (float)(model_hash((uint32_t)sequence, (uint32_t)position,
                                 (uint32_t)token, i) %
                            VALUE_MOD);
}

void model_attend(const world_config_t *config, uint32_t layer, float *hidden)
{
    for (uint32_t i = 0; i < config->hidden; i++) {
        if (config->fractions)
            hidden[i] = hidden[i] * 0.013f + 0.1f;
        else
            hidden[i] = (float)(((int64_t)hidden[i] + layer) % VALUE_MOD);
    }
}

int32_t model_sample(const world_config_t *config, const float *hidden)
{
    uint32_t h = 0;

    for (uint32_t i = 0; i < config->hidden; i++)
        h = h * 31 + (uint32_t)(int64_t)hidden[i];
    return (int32_t)(h % 1000);
}

uint32_t model_length(const world_config_t *config, uint32_t sequence)
{
    return config->prompt + config->tokens - 1 - sequence % 3;
}

void model_norm(const world_config_t *config, uint32_t count,
                const float *hidden, float *normed)
{
    for (size_t i = 0; i < (size_t)count * config->hidden; i++)
        normed[i] = config->fractions ? hidden[i] * 0.7f + 0.2f
                                      : (float)((int64_t)hidden[i] % 7);
}

float model_expert(const world_config_t *config, uint32_t layer,
                   uint32_t expert, float x)
{
    if (config->fractions)
        return x * (float)(expert + 1) / 7 + (float)layer / 3;
    return (float)(((int64_t)x * (expert % 5 + 1) + layer) % 13);
}

void model_run(const world_config_t *config, int32_t *tokens, float *final)
{
    float *x = calloc(config->hidden, sizeof(*x));

    for (uint32_t s = 0; s < config->sequences; s++)
        for (uint32_t p = 0; p < model_length(config, s); p++) {
            size_t at = (size_t)s * POSITIONS_MAX + p;
            float *h = final + at * config->hidden;

            if (p < config->prompt)
                tokens[at] = (int32_t)(s + p);
            model_embed(config, (int32_t)s, (int32_t)p, tokens[at], h);
            for (uint32_t l = 0; l < config->layers; l++)
                layer_run(config, (const uint32_t[3]){s, p, l}, h, x);
            tokens[at + 1] = model_sample(config, h);
        }
    free(x);
}

/* One layer of one row; at is its sequence, position and layer. */
static void layer_run(const world_config_t *config, const uint32_t at[3],
                      float *hidden, float *normed)
{
    int32_t ids[COTERIE_K_MAX];
    float weights[COTERIE_K_MAX];

    model_attend(config, at[2], hidden);
    model_norm(config, 1, hidden, normed);
    model_route(config, (int32_t)at[0], (int32_t)at[1], at[2], ids, weights);
    for (uint32_t i = 0; i < config->hidden; i++) {
        float x = normed[i];

        hidden[i] += config->shared ? 2 * x : 0;
        for (uint32_t j = 0; j < config->k; j++)
            if (ids[j] >= 0)
                hidden[i] += weights[j] * model_expert(config, at[2],
                                                       (uint32_t)ids[j], x);
    }
}
