#ifndef COTERIE_TOOLS_VECTOR_H
#define COTERIE_TOOLS_VECTOR_H
/* Arithmetic on one row, whose order never depends on other rows. */
#include <stdint.h>

/* Turns scores into weights that add up to one. */
void softmax(uint32_t count, float *scores);

/* Sum of products, in order. */
float dot(uint32_t count, const float *a, const float *b);

/* y += scale x */
void add_scaled(uint32_t count, float scale, const float *x, float *y);

#endif
