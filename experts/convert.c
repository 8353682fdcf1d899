#include "config.h"

#include <string.h>

#include "experts/convert.h"

static uint32_t bits_from_f16(uint16_t half);

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
        uint32_t wide;
        memcpy(&narrow, in + i * sizeof(narrow), sizeof(narrow));
        wide = dtype == COTERIE_DTYPE_F16 ? bits_from_f16(narrow)
                                          : (uint32_t)narrow << 16;
        memcpy((unsigned char *)out + i * sizeof(wide), &wide, sizeof(wide));
    }
}

static uint32_t bits_from_f16(uint16_t half)
{
    enum { BIAS_DIFFERENCE = 127 - 15, FRACTION_SHIFT = 23 - 10 };
    uint32_t sign = (uint32_t)(half >> 15) << 31;
    uint32_t exponent = half >> 10 & 0x1f, fraction = half & 0x3ff;

    if (exponent == 0x1f) /* infinity and NaN */
        return sign | 0xffu << 23 | fraction << FRACTION_SHIFT;
    if (exponent == 0 && fraction == 0)
        return sign;
    if (exponent == 0) { /* subnormal there, normal here */
        for (exponent = 1; (fraction & 0x400) == 0; exponent--)
            fraction <<= 1;
        fraction &= 0x3ff;
    }
    return sign | (exponent + BIAS_DIFFERENCE) << 23 |
           fraction << FRACTION_SHIFT;
}
