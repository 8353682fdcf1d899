#ifndef COTERIE_BASE_ELEMENT_H
#define COTERIE_BASE_ELEMENT_H
/* Single elements of narrow floating-point formats and f32. Widening is exact;
 * narrowing goes to the nearest, of two equally near ones to the even. */
#include <stdint.h>
#include <string.h>

static inline uint32_t coterie_bits_of(float value)
{
    uint32_t bits;

    memcpy(&bits, &value, sizeof(bits));
    return bits;
}

static inline float coterie_float_of(uint32_t bits)
{
    float value;

    memcpy(&value, &bits, sizeof(value));
    return value;
}

/* 2^exponent, for normal results. */
static inline float coterie_power_of_two(int exponent)
{
    return coterie_float_of((uint32_t)(exponent + 127) << 23);
}

/* The code of the nearest to a finite magnitude in a format of `fraction` bits
 * after the point whose smallest normal is 2^least. Above the format's largest
 * the codes go on as if it had more exponents: the caller limits them. */
static inline uint32_t coterie_narrow(float magnitude, int fraction, int least)
{
    int exponent = (int)(coterie_bits_of(magnitude) >> 23) - 127;
    float units;

    if (exponent < least)
        exponent = least; /* subnormal there: in units of the smallest */
    units = magnitude * coterie_power_of_two(fraction - exponent);
    /* Adding 2^23 leaves no bits after the point, rounded to even. */
    return ((uint32_t)(exponent - least) << fraction) +
           (coterie_bits_of(units + 0x1p23f) & 0x7fffff);
}

static inline uint16_t coterie_f16_of(float value)
{
    uint32_t bits = coterie_bits_of(value);
    uint32_t sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
    uint32_t code;

    if (magnitude > 0x7f800000)
        return (uint16_t)(sign | 0x7e00);
    if (magnitude >= 0x47800000) /* 2^16 */
        return (uint16_t)(sign | 0x7c00);
    code = coterie_narrow(coterie_float_of(magnitude), 10, -14);
    return (uint16_t)(sign | code);
}

static inline float coterie_f16_value(uint16_t half)
{
    enum { BIAS_DIFFERENCE = 127 - 15, FRACTION_SHIFT = 23 - 10 };
    uint32_t sign = (uint32_t)(half >> 15) << 31;
    uint32_t exponent = half >> 10 & 0x1f, fraction = half & 0x3ff;

    if (exponent == 0x1f) /* infinity and NaN */
        return coterie_float_of(sign | 0xffu << 23 |
                                fraction << FRACTION_SHIFT);
    if (exponent == 0) /* subnormal there, normal here */
        return coterie_float_of(sign | coterie_bits_of((float)fraction *
                                                       0x1p-24f));
    return coterie_float_of(sign | (exponent + BIAS_DIFFERENCE) << 23 |
                            fraction << FRACTION_SHIFT);
}

static inline uint16_t coterie_bf16_of(float value)
{
    uint32_t bits = coterie_bits_of(value);

    if ((bits & 0x7fffffff) > 0x7f800000)
        return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static inline float coterie_bf16_value(uint16_t bits)
{
    return coterie_float_of((uint32_t)bits << 16);
}

/* e4m3fn: no infinities, one NaN of each sign; what is too large becomes the
 * largest, 448. */
static inline uint8_t coterie_e4m3_of(float value)
{
    uint32_t bits = coterie_bits_of(value);
    uint32_t sign = bits >> 24 & 0x80, magnitude = bits & 0x7fffffff;
    uint32_t code = 0x7e;

    if (magnitude > 0x7f800000)
        return (uint8_t)(sign | 0x7f);
    if (magnitude < 0x43e00000) /* 448 */
        code = coterie_narrow(coterie_float_of(magnitude), 3, -6);
    return (uint8_t)(sign | code);
}

static inline float coterie_e4m3_value(uint8_t code)
{
    uint32_t sign = (uint32_t)(code >> 7) << 31;
    uint32_t exponent = code >> 3 & 0xf, fraction = code & 7;

    if ((code & 0x7f) == 0x7f)
        return coterie_float_of(sign | 0x7fc00000);
    if (exponent == 0)
        return coterie_float_of(sign | coterie_bits_of((float)fraction *
                                                       0x1p-9f));
    return coterie_float_of(sign | (exponent + 127 - 7) << 23 |
                            fraction << 20);
}

/* e2m1: 0, 0.5, 1, 1.5, 2, 3, 4, 6 and a sign; what is too large becomes 6. */
static inline uint8_t coterie_e2m1_of(float value)
{
    uint32_t bits = coterie_bits_of(value);
    uint32_t sign = bits >> 28 & 8, magnitude = bits & 0x7fffffff;
    uint32_t code = 7;

    if (magnitude < 0x40c00000) /* 6 */
        code = coterie_narrow(coterie_float_of(magnitude), 1, 0);
    return (uint8_t)(sign | code);
}

static inline float coterie_e2m1_value(uint8_t code)
{
    static const float values[] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
    float value = values[code & 7];

    return code & 8 ? -value : value;
}

/* e8m0: a power of two; 255 is NaN. */
static inline float coterie_e8m0_value(uint8_t code)
{
    if (code == 0xff)
        return coterie_float_of(0x7fc00000);
    return code == 0 ? 0x1p-127f : coterie_float_of((uint32_t)code << 23);
}

#endif
