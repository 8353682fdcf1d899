#ifndef COTERIE_TOOLS_ROPE_H
#define COTERIE_TOOLS_ROPE_H
/* Rotary positions (Su et al., 2021), stretched by yarn (Peng et al., 2023)
 * where a model asks for it. */
#include <stdbool.h>

#include <coterie/coterie.h>

typedef struct rope {
    uint32_t width;      /* elements that are rotated, a pair at a time */
    bool interleaved;    /* pairs are neighbours, not half the width apart */
    float amplitude;     /* yarn's, of sine and cosine */
    float softmax_scale; /* yarn's, of the attention scores */
    float *frequency;    /* [width / 2] */
} rope_t;

coterie_status_t rope_create(const coterie_model_config_t *config,
                             rope_t *rope);

/* Rotates `count` vectors that lie `stride` elements apart. */
void rope_apply(const rope_t *rope, int32_t position, uint32_t count,
                uint32_t stride, float *x);

void rope_destroy(rope_t *rope);

#endif
