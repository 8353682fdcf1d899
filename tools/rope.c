#include "config.h"

#include <math.h>
#include <stdlib.h>

#include "tools/command.h"
#include "tools/rope.h"

static const double two_pi = 6.283185307179586;

static void yarn_stretch(const coterie_model_config_t *config, rope_t *rope);
static double yarn_turn_index(const coterie_model_config_t *config,
                              uint32_t width, double turns);
static float yarn_amplitude(float factor, float scale);

coterie_status_t rope_create(const coterie_model_config_t *config,
                             rope_t *rope)
{
    bool latent = config->kv_lora_rank != 0;
    uint32_t width = latent ? config->qk_rope_dim : config->head_dim;
    float *frequency = malloc((width / 2 + 1) * sizeof(*frequency));

    if (frequency == NULL)
        return failure(COTERIE_ERR_NO_MEMORY, "out of memory");
    for (uint32_t i = 0; i < width / 2; i++)
        frequency[i] =
            1.0f / powf(config->rope_theta, (float)(2 * i) / (float)width);
    *rope = (rope_t){.width = width,
                     .interleaved = latent,
                     .amplitude = 1,
                     .softmax_scale = 1,
                     .frequency = frequency};
    if (config->rope_factor != 0)
        yarn_stretch(config, rope);
    return COTERIE_OK;
}

void rope_apply(const rope_t *rope, int32_t position, uint32_t count,
                uint32_t stride, float *x)
{
    uint32_t half = rope->width / 2;
    uint32_t step = rope->interleaved ? 2 : 1;
    uint32_t apart = rope->interleaved ? 1 : half;

    for (uint32_t i = 0; i < half; i++) {
        float angle = (float)position * rope->frequency[i];
        float cosine = cosf(angle) * rope->amplitude;
        float sine = sinf(angle) * rope->amplitude;
        float *pair = x + step * i;
        for (uint32_t n = 0; n < count; n++, pair += stride) {
            float first = pair[0], second = pair[apart];
            pair[0] = first * cosine - second * sine;
            pair[apart] = second * cosine + first * sine;
        }
    }
}

void rope_destroy(rope_t *rope)
{
    free(rope->frequency);
    rope->frequency = NULL;
}

/* Slow pairs are stretched by the factor, fast ones kept, those that turn
 * between beta_slow and beta_fast times in the original context blended. */
static void yarn_stretch(const coterie_model_config_t *config, rope_t *rope)
{
    uint32_t width = rope->width;
    double low = yarn_turn_index(config, width, config->rope_beta_fast);
    double high = yarn_turn_index(config, width, config->rope_beta_slow);
    float all = yarn_amplitude(config->rope_factor,
                               config->rope_mscale_all_dim);

    if (config->rope_truncate) {
        low = floor(low);
        high = ceil(high);
    }
    low = fmax(low, 0);
    high = fmin(high, width - 1);
    if (high <= low)
        high = low + 0.001; /* a step, not a division by zero */
    for (uint32_t i = 0; i < width / 2; i++) {
        float slow = (float)fmin(fmax((i - low) / (high - low), 0), 1);
        rope->frequency[i] *= slow / config->rope_factor + (1 - slow);
    }
    rope->amplitude =
        yarn_amplitude(config->rope_factor, config->rope_mscale) / all;
    rope->softmax_scale = all * all;
}

/* The pair that turns this often within the original context. */
static double yarn_turn_index(const coterie_model_config_t *config,
                              uint32_t width, double turns)
{
    return width * log(config->rope_original_max / (turns * two_pi)) /
           (2 * log(config->rope_theta));
}

static float yarn_amplitude(float factor, float scale)
{
    return factor > 1 ? 0.1f * scale * logf(factor) + 1 : 1;
}
