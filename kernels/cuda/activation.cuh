#ifndef COTERIE_KERNELS_CUDA_ACTIVATION_CUH
#define COTERIE_KERNELS_CUDA_ACTIVATION_CUH
/* All of coterie_activation_t as one formula, for it is written out for every
 * value that a lane holds: (up + one) gate s, where s is a sigmoid of alpha
 * gate + beta gate^3, or a step. (1 + tanh(z)) / 2 is the sigmoid of 2 z. */
#include "kernels/cuda/launch.cuh"

struct activation_t {
    float gate_most, up_most, alpha, beta, one;
    bool step;
};

/* On the host: as arguments of a kernel its numbers take no registers. */
static inline activation_t activation_of(const coterie_ffn_shape_t &shape)
{
    activation_t a = {INFINITY, INFINITY, 1, 0, 0, false};

    switch (shape.activation) {
    case COTERIE_ACTIVATION_GEGLU:
        a.alpha = 2 * 0.7978845608f;
        a.beta = 2 * 0.7978845608f * 0.044715f;
        break;
    case COTERIE_ACTIVATION_RELU:
        a.step = true;
        break;
    case COTERIE_ACTIVATION_SWIGLU_CLAMPED:
        a.gate_most = a.up_most = shape.limit;
        a.alpha = shape.alpha;
        a.one = 1;
        break;
    default:
        break;
    }
    return a;
}

/* Comparisons are such that a NaN stays one; 0 times infinity would be one. */
static __device__ __forceinline__ float activate_value(const activation_t &a,
                                                       float gate, float up)
{
    const float g = gate > a.gate_most ? a.gate_most : gate;
    const float cubic = a.beta != 0 ? a.beta * g * g : 0;
    const float s = a.step ? (g <= 0 ? 0 : g)
                           : __fdividef(g, 1 + __expf(-g * (a.alpha + cubic)));

    up = up > a.up_most ? a.up_most : up < -a.up_most ? -a.up_most : up;
    return (up + a.one) * s;
}

static __device__ __forceinline__ float bias_of(const float *bias, uint32_t i)
{
    return bias != NULL ? bias[i] : 0.0f;
}

#endif
