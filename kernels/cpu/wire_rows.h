/* Written once, compiled once for each instruction set: includes of this file
 * have defined TARGET (what lets a function use the instructions), LANES,
 * NAME(function), STREAM(to, vector), which stores to aligned memory past the
 * caches, and what compilers do badly with vectors of their own:
 * LARGER(words, words), NARROW_16(words), which keeps the lowest bits,
 * STORE_BYTES(to, ints[4]), of ints that fit, WIDEN_8(memory), to ints, and
 * SET_IF_NAN(floats, words, words if NaN). */

#define VEC TARGET static inline __attribute__((always_inline))
#define floats NAME(floats)
#define words NAME(words)
#define ints NAME(ints)
#define halves NAME(halves)
#define bytes NAME(bytes)

typedef float floats __attribute__((vector_size(4 * LANES)));
typedef uint32_t words __attribute__((vector_size(4 * LANES)));
typedef int32_t ints __attribute__((vector_size(4 * LANES)));
typedef uint16_t halves __attribute__((vector_size(2 * LANES)));
typedef int8_t bytes __attribute__((vector_size(LANES)));

VEC floats NAME(load)(const float *from)
{
    floats v;
    memcpy(&v, from, sizeof(v));
    return v;
}

VEC floats NAME(load_bf16)(const uint16_t *from)
{
    halves h;
    memcpy(&h, from, sizeof(h));
    return (floats)(__builtin_convertvector(h, words) << 16);
}

/* To the nearest, ties to even; a NaN keeps its upper bits and stays one. */
VEC halves NAME(to_bf16)(floats v)
{
    const words bits = (words)v;
    const words rounded = bits + 0x7fffu + (bits >> 16 & 1u);
    return NARROW_16(SET_IF_NAN(v, rounded, bits | 0x400000u) >> 16);
}

/* Begins and ends of vectors go the usual way. */
TARGET static void NAME(copy_past)(size_t size, const char *from, char *to)
{
    const size_t before = -(uintptr_t)to % sizeof(words);
    size_t i = before < size ? before : size;

    memcpy(to, from, i);
    for (; i + sizeof(words) <= size; i += sizeof(words)) {
        words v;
        memcpy(&v, from + i, sizeof(v));
        STREAM(to + i, v);
    }
    memcpy(to + i, from + i, size - i);
}

TARGET static void NAME(pack_bf16)(size_t count, const float *from,
                                   uint16_t *to)
{
    size_t i = 0;

    for (; i + LANES <= count; i += LANES) {
        const halves h = NAME(to_bf16)(NAME(load)(from + i));
        memcpy(to + i, &h, sizeof(h));
    }
    for (; i < count; i++)
        to[i] = coterie_bf16_of(from[i]);
}

TARGET static void NAME(unpack_bf16)(size_t count, const uint16_t *from,
                                     float *to)
{
    size_t i = 0;

    for (; i + LANES <= count; i += LANES) {
        const floats v = NAME(load_bf16)(from + i);
        memcpy(to + i, &v, sizeof(v));
    }
    for (; i < count; i++)
        to[i] = coterie_bf16_value(from[i]);
}

/* The largest magnitude's bits: as integers, NaN is above infinity. */
TARGET static uint32_t NAME(largest)(size_t count, const float *from)
{
    words most = {0};
    uint32_t lanes[LANES], all = 0;
    size_t i = 0;

    for (; i + LANES <= count; i += LANES) {
        const words bits = (words)NAME(load)(from + i) & 0x7fffffffu;
        most = LARGER(most, bits);
    }
    memcpy(lanes, &most, sizeof(lanes));
    for (size_t l = 0; l < LANES; l++)
        all = lanes[l] > all ? lanes[l] : all;
    for (; i < count; i++) {
        const uint32_t bits = coterie_bits_of(from[i]) & 0x7fffffffu;
        all = bits > all ? bits : all;
    }
    return all;
}

/* from / scale, to the nearest: 1.5 * 2^23 leaves the sum's last bits whole. */
TARGET static void NAME(pack_int8)(size_t count, const float *from,
                                   float inverse, int8_t *to)
{
    enum { VECTORS = 4, BIAS = 0x4b400000 };
    size_t i = 0;

    for (; i + VECTORS * LANES <= count; i += VECTORS * LANES) {
        ints v[VECTORS];
        for (size_t part = 0; part < VECTORS; part++)
            v[part] = (ints)(NAME(load)(from + i + part * LANES) * inverse +
                             0x1.8p23f) - BIAS;
        STORE_BYTES(to + i, v);
    }
    for (; i < count; i++)
        to[i] = (int8_t)((int32_t)coterie_bits_of(from[i] * inverse +
                                                  0x1.8p23f) - BIAS);
}

TARGET static void NAME(unpack_int8)(size_t count, const int8_t *from,
                                     float scale, float *to)
{
    size_t i = 0;

    for (; i + LANES <= count; i += LANES) {
        const floats v =
            __builtin_convertvector(WIDEN_8(from + i), floats) * scale;
        memcpy(to + i, &v, sizeof(v));
    }
    for (; i < count; i++)
        to[i] = (float)from[i] * scale;
}

TARGET static void NAME(add)(size_t count, float weight, const float *from,
                             float *to)
{
    size_t i = 0;

    for (; i + LANES <= count; i += LANES) {
        const floats v = NAME(load)(to + i) + NAME(load)(from + i) * weight;
        memcpy(to + i, &v, sizeof(v));
    }
    for (; i < count; i++)
        to[i] += from[i] * weight;
}

TARGET static void NAME(add_bf16)(size_t count, float weight,
                                  const uint16_t *from, float *to)
{
    size_t i = 0;

    for (; i + LANES <= count; i += LANES) {
        const floats v =
            NAME(load)(to + i) + NAME(load_bf16)(from + i) * weight;
        memcpy(to + i, &v, sizeof(v));
    }
    for (; i < count; i++)
        to[i] += coterie_bf16_value(from[i]) * weight;
}

static const wire_ops_t NAME(ops) = {
    NAME(copy_past), NAME(pack_bf16),   NAME(unpack_bf16), NAME(largest),
    NAME(pack_int8), NAME(unpack_int8), NAME(add),         NAME(add_bf16),
};

#undef VEC
#undef floats
#undef words
#undef ints
#undef halves
#undef bytes
#undef TARGET
#undef LANES
#undef NAME
#undef STREAM
#undef SET_IF_NAN
#undef NARROW_16
#undef LARGER
#undef STORE_BYTES
#undef WIDEN_8
