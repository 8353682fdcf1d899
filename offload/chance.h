#ifndef COTERIE_OFFLOAD_CHANCE_H
#define COTERIE_OFFLOAD_CHANCE_H
/* Chances, the logarithms of their odds, and running means of what came true.
 * They are worked out for every expert of every layer of every token, so here
 * they go by several at once, and exact to about one in a million. */
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { COTERIE_LANES = 4 };

/* Every compiler turns these into the vectors that the machine has. */
typedef float coterie_lanes_t
    __attribute__((vector_size(COTERIE_LANES * sizeof(float))));
typedef int32_t coterie_lane_bits_t
    __attribute__((vector_size(COTERIE_LANES * sizeof(int32_t))));

/* Vectors that hold `count` floats. */
static inline uint32_t coterie_lane_count(uint32_t count)
{
    return (count + COTERIE_LANES - 1) / COTERIE_LANES;
}

static inline coterie_lanes_t coterie_lanes_clamp(coterie_lanes_t x,
                                                  float least, float most)
{
    coterie_lanes_t low = (coterie_lanes_t){0} + least;
    coterie_lanes_t high = (coterie_lanes_t){0} + most;
    coterie_lane_bits_t below = x < low, above = x > high;

    return (coterie_lanes_t)((below & (coterie_lane_bits_t)low) |
                             (above & (coterie_lane_bits_t)high) |
                             (~(below | above) & (coterie_lane_bits_t)x));
}

/* Nothing is ever impossible or certain: a surprise must not cost infinity. */
static inline coterie_lanes_t coterie_lanes_possible(coterie_lanes_t chance)
{
    return coterie_lanes_clamp(chance, 1e-4f, 1 - 1e-4f);
}

/* log(c / (1 - c)): the ratio is 2^e m, m about 1, and log m a series in
 * (m - 1) / (m + 1). */
static inline coterie_lanes_t coterie_lanes_odds(coterie_lanes_t chance)
{
    const float log_2 = 0.69314718f;
    const int32_t half = 0x3f3504f3; /* bits of the square root of 1/2 */
    coterie_lanes_t c = coterie_lanes_possible(chance), m, s, t;
    coterie_lane_bits_t bits = (coterie_lane_bits_t)(c / (1 - c));
    coterie_lane_bits_t exponent = (bits - half) >> 23;

    m = (coterie_lanes_t)(bits - (exponent << 23));
    s = (m - 1) / (m + 1);
    t = s * s;
    return __builtin_convertvector(exponent, coterie_lanes_t) * log_2 +
           2 * s * (1 + t * (1.0f / 3 + t * (0.2f + t * (1.0f / 7))));
}

/* 1 / (1 + exp(-odds)): the power of 2 is split into a whole one, which goes
 * to the exponent, and the rest, a Taylor series. */
static inline coterie_lanes_t coterie_lanes_chance(coterie_lanes_t odds)
{
    const float log_2 = 0.69314718f, shift = 64.5f; /* whole parts round down */
    coterie_lanes_t x = coterie_lanes_clamp(odds, -40, 40) / -log_2, r, power;
    coterie_lane_bits_t whole =
        __builtin_convertvector(x + shift, coterie_lane_bits_t) - 64;

    r = (x - __builtin_convertvector(whole, coterie_lanes_t)) * log_2;
    power = 1 +
            r * (1 + r * (0.5f + r * (1.0f / 6 +
                                      r * (1.0f / 24 + r * (1.0f / 120)))));
    power = (coterie_lanes_t)((coterie_lane_bits_t)power + (whole << 23));
    return coterie_lanes_possible(1 / (1 + power));
}

/* The weight of one more observation: a mean begins as the guess of a few and
 * ends as the average of about the `last` ones, so that it follows a shift of
 * domain. */
static inline float coterie_chance_step(float *seen, float last)
{
    const float first = 8;

    if (*seen < last)
        ++*seen;
    return 1 / (first + *seen);
}

/* Room for `count` rows of lanes, all zero; free() it. */
static inline coterie_lanes_t *coterie_lanes_allocate(size_t count)
{
    size_t size = count * sizeof(coterie_lanes_t);
    coterie_lanes_t *lanes = aligned_alloc(sizeof(coterie_lanes_t), size);

    if (lanes != NULL)
        memset(lanes, 0, size);
    return lanes;
}

/* The logarithmic loss of `count` forecasts, in nats; chosen is 1 or 0. */
static inline double coterie_chance_loss(const float *chance,
                                         const float *chosen, uint32_t count)
{
    enum { RUN = 32 }; /* products of so many chances stay in range */
    double loss = 0, product = 1;

    for (uint32_t e = 0; e < count; e++) {
        product *= chosen[e] > 0 ? chance[e] : 1 - chance[e];
        if (e % RUN == RUN - 1) {
            loss -= log(product);
            product = 1;
        }
    }
    return loss - log(product);
}

#endif
