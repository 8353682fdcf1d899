/* Between the products: part of tile.h. As published, with one exponential
 * each: gelu's 0.5 (1 + tanh z) is 1 / (1 + exp(-2 z)). vec_exp is within 2
 * units in the last place, so the results are within 2^-21 of themselves, and
 * gelu's (1 + |2 z|) times that, because z rounds. NaN stays NaN, infinities do
 * what the formula does in f32. */

INLINE vec_t vec_gated(vec_t x, vec_t z);
INLINE vec_t vec_gelu(vec_t x);
INLINE vec_t vec_inner(const coterie_activate_t *at, vec_t gate, vec_t up,
                       coterie_activation_t kind);

INLINE vec_t load_some(const float *from, size_t i, size_t count)
{
    return count == COTERIE_LANES ? vec_load(from + i)
                                  : vec_load_part(from + i, count);
}

INLINE vec_t load_biased(const float *from, const float *bias, size_t i,
                         size_t count)
{
    const vec_t values = load_some(from, i, count);
    return bias != NULL ? vec_add(values, load_some(bias, i, count)) : values;
}

INLINE void activate_some(const coterie_activate_t *at, size_t i, size_t count,
                          coterie_activation_t kind)
{
    const vec_t up = load_biased(at->up, at->up_bias, i, count);
    vec_t inner;

    if (at->gate == NULL)
        inner = vec_inner(at, up, vec_set(1), kind);
    else
        inner = vec_inner(
            at, load_biased(at->gate, at->gate_bias, i, count), up, kind);
    if (count == COTERIE_LANES)
        vec_store(at->up + i, inner);
    else
        vec_store_part(at->up + i, inner, count);
}

INLINE void activate_all(const coterie_activate_t *at,
                         coterie_activation_t kind)
{
    size_t i = 0;
    for (; i + COTERIE_LANES <= at->count; i += COTERIE_LANES)
        activate_some(at, i, COTERIE_LANES, kind);
    if (i < at->count)
        activate_some(at, i, at->count - i, kind);
}

#define ACTIVATION(name)                                      \
    TARGET static void activate_##name(const coterie_activate_t *at) \
    {                                                         \
        activate_all(at, COTERIE_ACTIVATION_##name);          \
    }
ACTIVATION(SWIGLU)
ACTIVATION(GEGLU)
ACTIVATION(RELU)
ACTIVATION(SWIGLU_CLAMPED)

/* vec_min and vec_max return their second argument if one is NaN. */
INLINE vec_t vec_inner(const coterie_activate_t *at, vec_t gate, vec_t up,
                       coterie_activation_t kind)
{
    const vec_t limit = vec_set(at->limit);

    switch (kind) {
    case COTERIE_ACTIVATION_SWIGLU:
        return vec_mul(vec_gated(gate, gate), up);
    case COTERIE_ACTIVATION_GEGLU:
        return vec_mul(vec_gelu(gate), up);
    case COTERIE_ACTIVATION_RELU:
        return vec_mul(vec_max(vec_set(0), gate), up);
    default:
        gate = vec_min(limit, gate);
        up = vec_max(vec_mul(limit, vec_set(-1)), vec_min(limit, up));
        gate = vec_gated(gate, vec_mul(gate, vec_set(at->alpha)));
        return vec_mul(vec_add(up, vec_set(1)), gate);
    }
}

/* As torch computes it: x / (1 + exp(-z)), so -infinity gives NaN. */
INLINE vec_t vec_gated(vec_t x, vec_t z)
{
    const vec_t one = vec_set(1);
    return vec_div(x, vec_add(one, vec_exp(vec_mul(z, vec_set(-1)))));
}

INLINE vec_t vec_gelu(vec_t x)
{
    const vec_t cube = vec_mul(vec_mul(x, x), x);
    const vec_t z = vec_fma(vec_set(0.044715f), cube, x);
    return vec_gated(x, vec_mul(z, vec_set(1.5957691216f))); /* 2 sqrt(2/pi) */
}
