#ifndef COTERIE_TESTS_SESSION_MODEL_H
#define COTERIE_TESTS_SESSION_MODEL_H
/* A made-up model. Its numbers are whole and small, so that sums are exact in
 * any order; with `fractions` they round. Its routing is a hash of sequence,
 * position and layer, sometimes -1. */
#include "tests/session_world.h"

enum { POSITIONS_MAX = 64 }; /* that a sequence may have */

uint32_t model_hash(uint32_t a, uint32_t b, uint32_t c, uint32_t d);
void model_route(const world_config_t *config, int32_t sequence,
                 int32_t position, uint32_t layer, int32_t *ids,
                 float *weights);
void model_embed(const world_config_t *config, int32_t sequence,
                 int32_t position, int32_t token, float *hidden);
/* Keeps numbers small; in place of attention. */
void model_attend(const world_config_t *config, uint32_t layer, float *hidden);
void model_norm(const world_config_t *config, uint32_t count,
                const float *hidden, float *normed);
/* One element of an expert's output. */
float model_expert(const world_config_t *config, uint32_t layer,
                   uint32_t expert, float x);
int32_t model_sample(const world_config_t *config, const float *hidden);
/* Tokens of a sequence, its prompt included. */
uint32_t model_length(const world_config_t *config, uint32_t sequence);
/* Everything, one row after the other: tokens[sequence, POSITIONS_MAX] and the
 * last layer's rows. */
void model_run(const world_config_t *config, int32_t *tokens, float *final);

#endif
