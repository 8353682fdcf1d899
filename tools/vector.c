#include "config.h"

#include <math.h>

#include "tools/vector.h"

void softmax(uint32_t count, float *scores)
{
    float most = scores[0], sum = 0;

    for (uint32_t i = 1; i < count; i++)
        most = fmaxf(most, scores[i]);
    for (uint32_t i = 0; i < count; i++) {
        scores[i] = expf(scores[i] - most);
        sum += scores[i];
    }
    for (uint32_t i = 0; i < count; i++)
        scores[i] /= sum;
}

float dot(uint32_t count, const float *a, const float *b)
{
    float sum = 0;

    for (uint32_t i = 0; i < count; i++)
        sum += a[i] * b[i];
    return sum;
}

void add_scaled(uint32_t count, float scale, const float *x, float *y)
{
    for (uint32_t i = 0; i < count; i++)
        y[i] += scale * x[i];
}
