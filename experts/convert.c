#include "config.h"

#include <string.h>

#include "base/element.h"
#include "experts/band.h"
#include "experts/convert.h"

/* Element i is read before float i is written over it or over those before
 * it: the narrow ones end where the wide ones end. */
void coterie_widen(uint32_t dtype, uint64_t count, float *out)
{
    const unsigned char *in =
        (const unsigned char *)out + count * sizeof(uint16_t);

    if (dtype == COTERIE_DTYPE_F32)
        return;
    for (uint64_t i = 0; i < count; i++) {
        uint16_t narrow;
        float wide;
        memcpy(&narrow, in + i * sizeof(narrow), sizeof(narrow));
        wide = dtype == COTERIE_DTYPE_F16 ? coterie_f16_value(narrow)
                                          : coterie_bf16_value(narrow);
        memcpy((unsigned char *)out + i * sizeof(wide), &wide, sizeof(wide));
    }
}

void coterie_widen_blocks(uint64_t rows, uint64_t columns,
                          const float *scales, float *out)
{
    const uint64_t count = rows * columns;
    const uint64_t blocks =
        (columns + COTERIE_FP8_BLOCK - 1) / COTERIE_FP8_BLOCK;
    const unsigned char *in =
        (const unsigned char *)out + count * (sizeof(*out) - 1);

    for (uint64_t i = 0; i < count; i++) {
        uint64_t row = i / columns, column = i % columns;
        float scale = scales[row / COTERIE_FP8_BLOCK * blocks +
                             column / COTERIE_FP8_BLOCK];
        float wide = coterie_e4m3_value(in[i]) * scale;
        memcpy((unsigned char *)out + i * sizeof(wide), &wide, sizeof(wide));
    }
}
