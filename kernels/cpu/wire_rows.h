/* Written once, compiled once for each instruction set: includes of this file
 * have defined TARGET (what lets a function use the instructions), LANES,
 * NAME(function), STREAM_F32 and STREAM_U16(to, vector), which store to
 * aligned memory past the caches, and what compilers do badly with vectors of
 * their own: NARROW_16 and NARROW_8(words), which keep the lowest bits,
 * WIDEN_8(memory), to words, and SET_IF_NAN(floats, words, words if NaN). */

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

TARGET static void NAME(copy)(size_t count, const float *from, float *to)
{
    size_t i = 0;

    for (; i < count && (uintptr_t)(to + i) % sizeof(floats) != 0; i++)
        to[i] = from[i];
    for (; i + LANES <= count; i += LANES)
        STREAM_F32(to + i, NAME(load)(from + i));
    for (; i < count; i++)
        to[i] = from[i];
}

TARGET static void NAME(pack_bf16)(size_t count, const float *from,
                                   uint16_t *to, int stream)
{
    size_t i = 0;

    for (; i < count && (uintptr_t)(to + i) % sizeof(halves) != 0; i++)
        to[i] = coterie_bf16_of(from[i]);
    for (; stream && i + LANES <= count; i += LANES)
        STREAM_U16(to + i, NAME(to_bf16)(NAME(load)(from + i)));
    for (; i + LANES <= count; i += LANES) {
        const halves h = NAME(to_bf16)(NAME(load)(from + i));
        memcpy(to + i, &h, sizeof(h));
    }
    for (; i < count; i++)
        to[i] = coterie_bf16_of(from[i]);
}

TARGET static void NAME(unpack_bf16)(size_t count, const uint16_t *from,
                                     float *to, int stream)
{
    size_t i = 0;

    for (; i < count && (uintptr_t)(to + i) % sizeof(floats) != 0; i++)
        to[i] = coterie_bf16_value(from[i]);
    for (; stream && i + LANES <= count; i += LANES)
        STREAM_F32(to + i, NAME(load_bf16)(from + i));
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
        const words more = (words)(bits > most);
        most = (bits & more) | (most & ~more);
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
    size_t i = 0;

    for (; i + LANES <= count; i += LANES) {
        const floats sum = NAME(load)(from + i) * inverse + 0x1.8p23f;
        const bytes b = NARROW_8((words)sum);
        memcpy(to + i, &b, sizeof(b));
    }
    for (; i < count; i++)
        to[i] = (int8_t)(uint8_t)coterie_bits_of(from[i] * inverse + 0x1.8p23f);
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
    NAME(copy),    NAME(pack_bf16),   NAME(unpack_bf16), NAME(largest),
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
#undef STREAM_F32
#undef STREAM_U16
#undef SET_IF_NAN
#undef NARROW_16
#undef NARROW_8
#undef WIDEN_8
