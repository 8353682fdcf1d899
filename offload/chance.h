#ifndef COTERIE_OFFLOAD_CHANCE_H
#define COTERIE_OFFLOAD_CHANCE_H
/* Chances, the logarithms of their odds, and running means of what came true. */
#include <math.h>

/* Nothing is ever impossible or certain: a surprise must not cost infinity. */
static inline float coterie_chance_clamp(float chance)
{
    const float least = 1e-4f;

    return fminf(fmaxf(chance, least), 1 - least);
}

static inline float coterie_chance_odds(float chance)
{
    float clamped = coterie_chance_clamp(chance);

    return logf(clamped / (1 - clamped));
}

static inline float coterie_chance_of(float odds)
{
    return coterie_chance_clamp(1 / (1 + expf(-odds)));
}

/* The weight of one more observation: a mean begins as the guess of a few and
 * ends as the average of the latest ones, so that it follows a shift of
 * domain. */
static inline float coterie_chance_step(float *seen)
{
    const float first = 8, last = 4096;

    if (*seen < last)
        ++*seen;
    return 1 / (first + *seen);
}

#endif
