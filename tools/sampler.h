#ifndef COTERIE_TOOLS_SAMPLER_H
#define COTERIE_TOOLS_SAMPLER_H
/* Chooses a token from logits. A pure function of its arguments, so that every
 * rank that holds a row draws the same. */
#include <stdint.h>

typedef struct sampler {
    uint64_t seed;
    double temperature; /* 0: always the likeliest, the lower of equals */
} sampler_t;

/* @param position  of the token that is drawn */
int32_t sampler_draw(const sampler_t *sampler, int32_t sequence,
                     int32_t position, uint32_t vocab, const float *logits);

#endif
