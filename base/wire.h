#ifndef COTERIE_BASE_WIRE_H
#define COTERIE_BASE_WIRE_H
/* How long a row of values is on the wire: kernels write it, the runtime makes
 * room for it and coterie_simulate counts it. */
#include <coterie/api.h>

enum {
    COTERIE_WIRE_GROUP = 128, /* int8: values that share a scale */
    COTERIE_WIRE_ALIGN = 4    /* of what follows the values */
};

/* Bytes of int8's scales, which precede its values. */
static inline size_t coterie_wire_scales_size(uint32_t width)
{
    return ((size_t)width + COTERIE_WIRE_GROUP - 1) / COTERIE_WIRE_GROUP *
           sizeof(float);
}

static inline size_t coterie_wire_values_size(uint32_t wire, uint32_t width)
{
    size_t size = (size_t)width * sizeof(float);

    if (wire == COTERIE_WIRE_BF16)
        size = (size_t)width * sizeof(uint16_t);
    else if (wire == COTERIE_WIRE_INT8)
        size = coterie_wire_scales_size(width) + width;
    return (size + COTERIE_WIRE_ALIGN - 1) / COTERIE_WIRE_ALIGN *
           COTERIE_WIRE_ALIGN;
}

/* Raw hidden states and sums never travel in 8 bits. */
static inline uint32_t coterie_wire_of_sums(uint32_t wire)
{
    return wire == COTERIE_WIRE_INT8 ? COTERIE_WIRE_BF16 : wire;
}

#endif
