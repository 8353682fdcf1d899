#ifndef COTERIE_KERNELS_CUDA_FORMATS_CUH
#define COTERIE_KERNELS_CUDA_FORMATS_CUH
/* Weight formats (coterie/ffn.h), decoded on the way to the tensor cores. A
 * lane decodes 8 elements of 4 outputs at a time, to pairs of bf16; what is
 * scaled is rounded once. */
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/numbers.cuh"
#include "kernels/cuda/ptx.cuh"

enum {
    PANEL = COTERIE_PANEL_OUTPUTS,
    VECTOR = 64, /* bytes of a panel's vector */
    STEP = 32    /* inner elements that four lanes decode together */
};

/* Pairs of a lane: [output][2 elements each]. */
typedef uint32_t lane_pairs_t[4][4];

static __device__ __forceinline__ uint32_t word_of(const uint4 &v, int output)
{
    return output == 0 ? v.x : output == 1 ? v.y : output == 2 ? v.z : v.w;
}

static __device__ __forceinline__ float f16_widen(uint16_t bits)
{
    const uint32_t sign = (uint32_t)(bits & 0x8000) << 16;
    const uint32_t rest = (uint32_t)(bits & 0x7fff) << 13;
    const float value = __uint_as_float(rest) * 0x1p112f;

    if (rest >= 0x7c00u << 13)
        return __uint_as_float(sign | rest | 0x7f800000u);
    return __uint_as_float(sign | __float_as_uint(value));
}

static __device__ __forceinline__ float fp8_widen(uint32_t bits)
{
    const uint32_t rest = (bits & 0x7f) << 20;
    const float value = __uint_as_float(rest) * 0x1p120f;

    if ((bits & 0x7f) == 0x7f)
        return NAN;
    return bits & 0x80 ? -value : value;
}

static __device__ __forceinline__ float fp4_widen(uint32_t bits)
{
    const uint32_t rest = bits & 7;
    const float value =
        rest < 2 ? 0.5f * rest
                 : bf16_widen((uint16_t)(0x3f80 + (rest - 2) * 0x40));

    return bits & 8 ? -value : value;
}

static __device__ __forceinline__ float e8m0_widen(uint32_t bits)
{
    return bits == 255 ? NAN
                       : __uint_as_float(bits > 0 ? bits << 23 : 1u << 22);
}

static __device__ __forceinline__ float f16_of(uint32_t low, uint32_t high,
                                               int output)
{
    return f16_widen(
        (uint16_t)((output < 2 ? low : high) >> (16 * (output % 2))));
}

/* Codes of 8 bits: two vectors of 4 elements. */
struct bytes_format {
    enum { VECTORS = 2 };
    static __device__ __forceinline__ uint32_t code(const uint4 *v, int output,
                                                    int j)
    {
        return word_of(v[j / 4], output) >> (8 * (j % 4)) & 0xff;
    }
};

/* Codes of 4 bits: low halves before high ones. */
struct halves_format {
    enum { VECTORS = 1 };
    static __device__ __forceinline__ uint32_t code(const uint4 *v, int output,
                                                    int j)
    {
        return word_of(v[0], output) >> (8 * (j % 4) + 4 * (j / 4)) & 15;
    }
};

/* Scales of 16 outputs side by side, SIZE bytes each; `ask` takes the lane's.
 */
template <int SIZE> struct output_scales {
    static __device__ __forceinline__ uint4 ask(const char *scales,
                                                uint32_t output)
    {
        const uint32_t *words =
            (const uint32_t *)(scales + (size_t)output * SIZE);
        uint4 s = make_uint4(__ldg(words), 0, 0, 0);

        if (SIZE >= 2)
            s.y = __ldg(words + 1);
        if (SIZE >= 4) {
            s.z = __ldg(words + 2);
            s.w = __ldg(words + 3);
        }
        return s;
    }
};

struct bf16_format {
    enum { VECTORS = 4, SCALED = 0, BUNDLE = 0 };
};

struct int8_format : bytes_format, output_scales<4> {
    enum { SCALED = 1, BUNDLE = 0 };
    static __device__ __forceinline__ size_t at(uint32_t panel, uint32_t,
                                                uint32_t)
    {
        return (size_t)panel * PANEL * sizeof(float);
    }
    static __device__ __forceinline__ float value(uint32_t code)
    {
        return (float)(int8_t)code;
    }
    static __device__ __forceinline__ float scale(uint4 s, int output)
    {
        return __uint_as_float(word_of(s, output));
    }
    static __device__ __forceinline__ float least(uint4, int)
    {
        return 0;
    }
};

struct int8_group_format : bytes_format, output_scales<2> {
    enum { SCALED = 1, BUNDLE = 2 };
    static __device__ __forceinline__ float value(uint32_t code)
    {
        return (float)(int8_t)code;
    }
    static __device__ __forceinline__ float scale(uint4 s, int output)
    {
        return f16_of(s.x, s.y, output);
    }
    static __device__ __forceinline__ float least(uint4, int)
    {
        return 0;
    }
};

struct int4_format : halves_format, output_scales<2> {
    enum { SCALED = 1, BUNDLE = 2 };
    static __device__ __forceinline__ float value(uint32_t code)
    {
        return (float)((int)code - 8);
    }
    static __device__ __forceinline__ float scale(uint4 s, int output)
    {
        return f16_of(s.x, s.y, output);
    }
    static __device__ __forceinline__ float least(uint4, int)
    {
        return 0;
    }
};

/* A group's 16 scales come before its 16 minimums. */
struct int4_zero_format : halves_format {
    enum { SCALED = 1, BUNDLE = 1 };
    static __device__ __forceinline__ uint4 ask(const char *scales,
                                                uint32_t output)
    {
        const uint4 s = output_scales<2>::ask(scales, output);
        const uint4 m = output_scales<2>::ask(scales, PANEL + output);

        return make_uint4(s.x, s.y, m.x, m.y);
    }
    static __device__ __forceinline__ float value(uint32_t code)
    {
        return (float)code;
    }
    static __device__ __forceinline__ float scale(uint4 s, int output)
    {
        return f16_of(s.x, s.y, output);
    }
    static __device__ __forceinline__ float least(uint4 s, int output)
    {
        return f16_of(s.z, s.w, output);
    }
};

struct mxfp4_format : halves_format, output_scales<1> {
    enum { SCALED = 1, BUNDLE = 4 };
    static __device__ __forceinline__ float value(uint32_t code)
    {
        return fp4_widen(code);
    }
    static __device__ __forceinline__ float scale(uint4 s, int output)
    {
        return e8m0_widen(s.x >> (8 * output) & 0xff);
    }
    static __device__ __forceinline__ float least(uint4, int)
    {
        return 0;
    }
};

/* One scale for a block of outputs and elements. */
struct fp8_format : bytes_format {
    enum { SCALED = 1, BUNDLE = 0 };
    static __device__ __forceinline__ size_t at(uint32_t panel, uint32_t in,
                                                uint32_t from)
    {
        return ((size_t)(panel * PANEL / COTERIE_FP8_BLOCK) *
                    ceil_div(in, COTERIE_FP8_BLOCK) +
                from / COTERIE_FP8_BLOCK) *
               sizeof(float);
    }
    static __device__ __forceinline__ uint4 ask(const char *scales, uint32_t)
    {
        return make_uint4(__ldg((const uint32_t *)scales), 0, 0, 0);
    }
    static __device__ __forceinline__ float value(uint32_t code)
    {
        return fp8_widen(code);
    }
    static __device__ __forceinline__ float scale(uint4 s, int)
    {
        return __uint_as_float(s.x);
    }
    static __device__ __forceinline__ float least(uint4, int)
    {
        return 0;
    }
};

/* Where in a panel the vector that has weights of a step's index is, */
template <class F>
static __device__ __forceinline__ size_t panel_vector(uint32_t index)
{
    enum { STEPS = F::BUNDLE * (STEP / 8) * F::VECTORS };

    if constexpr (F::BUNDLE > 0)
        index += index / STEPS + 1;
    return (size_t)index * VECTOR;
}

/* the scales of a group are, where bundles have them, */
template <class F>
static __device__ __forceinline__ size_t panel_scales(uint32_t group)
{
    enum { STEPS = F::BUNDLE * (STEP / 8) * F::VECTORS };

    return (size_t)(group / F::BUNDLE) * (STEPS + 1) * VECTOR +
           group % F::BUNDLE * (VECTOR / F::BUNDLE);
}

/* and a panel of so many such vectors ends. */
template <class F>
static __device__ __forceinline__ size_t panel_size(uint32_t count)
{
    return panel_vector<F>(count - 1) + VECTOR;
}

/* A lane's vectors of one step to pairs. */
template <class F>
static __device__ __forceinline__ void decode(const uint4 *v, uint4 s,
                                              lane_pairs_t pairs)
{
#pragma unroll
    for (int o = 0; o < 4; o++) {
        const float scale = F::scale(s, o), least = F::least(s, o);
        float value[8];

#pragma unroll
        for (int j = 0; j < 8; j++)
            value[j] = F::value(F::code(v, o, j)) * scale + least;
#pragma unroll
        for (int i = 0; i < 4; i++)
            pairs[o][i] = narrow_pair(value[2 * i], value[2 * i + 1]);
    }
}

template <>
__device__ __forceinline__ void decode<bf16_format>(const uint4 *v, uint4,
                                                    lane_pairs_t pairs)
{
#pragma unroll
    for (int o = 0; o < 4; o++)
#pragma unroll
        for (int i = 0; i < 4; i++)
            pairs[o][i] = word_of(v[i], o);
}

#endif
