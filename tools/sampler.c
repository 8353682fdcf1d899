#include "config.h"

#include <math.h>

#include "tools/sampler.h"

static uint32_t likeliest(uint32_t vocab, const float *logits);
static double uniform(uint64_t seed, int32_t sequence, int32_t position);
static uint64_t scramble(uint64_t x);

int32_t sampler_draw(const sampler_t *sampler, int32_t sequence,
                     int32_t position, uint32_t vocab, const float *logits)
{
    uint32_t best = likeliest(vocab, logits);
    double total = 0, left;

    if (sampler->temperature == 0)
        return (int32_t)best;
    for (uint32_t i = 0; i < vocab; i++)
        total += exp((logits[i] - logits[best]) / sampler->temperature);
    left = total * uniform(sampler->seed, sequence, position);
    for (uint32_t i = 0; i < vocab; i++) {
        left -= exp((logits[i] - logits[best]) / sampler->temperature);
        if (left < 0)
            return (int32_t)i;
    }
    return (int32_t)best; /* rounding took the last of the total */
}

static uint32_t likeliest(uint32_t vocab, const float *logits)
{
    uint32_t best = 0;

    for (uint32_t i = 1; i < vocab; i++)
        if (logits[i] > logits[best])
            best = i;
    return best;
}

/* In [0, 1). A counter, not a stream: no draw depends on earlier ones. */
static double uniform(uint64_t seed, int32_t sequence, int32_t position)
{
    uint64_t counter = (uint64_t)(uint32_t)sequence << 32 | (uint32_t)position;

    return (double)(scramble(scramble(seed) ^ counter) >> 11) * 0x1p-53;
}

/* The finaliser of SplitMix64 (Steele, Lea and Flood, 2014). */
static uint64_t scramble(uint64_t x)
{
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}
