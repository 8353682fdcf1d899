#ifndef COTERIE_EXPERTS_CONVERT_H
#define COTERIE_EXPERTS_CONVERT_H
/* Element types to f32, exactly. */
#include <coterie/api.h>

/* Widens count elements that lie at the end of the room that out has for
 * count floats; so no second buffer is needed. f32 are there already. */
void coterie_widen(uint32_t dtype, uint64_t count, float *out);

/* The same of fp8 [rows, columns], times the scales of blocks of 128 x 128. */
void coterie_widen_blocks(uint64_t rows, uint64_t columns,
                          const float *scales, float *out);

#endif
