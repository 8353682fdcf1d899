/* Spans of x as words: written once, on the functions of vec_t and, beside
 * those of tile.h, vec_magnitude, vec_largest, vec_store_bytes and
 * vec_round_bf16. An include has defined SPAN_F32 and SPAN_INT8, the names of
 * what it provides. */

enum {
    VECTORS = COTERIE_SPAN / COTERIE_LANES,
    GROUPS = COTERIE_SPAN / COTERIE_PANEL_GROUP
};

/* Of each 32 of a span's vectors. */
INLINE void span_sums(const vec_t *v, float *sums)
{
    vec_t pair[GROUPS];

    UNROLL for (int g = 0; g < GROUPS; g++)
        pair[g] = vec_add(v[2 * g], v[2 * g + 1]);
    vec_sums(pair, GROUPS, sums);
}

/* To f32 words; rounded to bf16 if tiles for bf16 words are lacking. */
#if defined(SPAN_F32)
TARGET void SPAN_F32(const coterie_panel_method_t *method, const float *x,
                     char *words, float *span)
{
    vec_t v[VECTORS];

    UNROLL for (int i = 0; i < VECTORS; i++) {
        v[i] = vec_load(x + i * COTERIE_LANES);
        if (method->compute == COTERIE_COMPUTE_BF16)
            v[i] = vec_round_bf16(v[i]);
        vec_store((float *)words + i * COTERIE_LANES, v[i]);
    }
    span[0] = 0;
    if (method->dtype == COTERIE_DTYPE_INT4_ZERO)
        span_sums(v, span + 1);
}
#endif

/* What the kernels add to sums of products with unsigned weights to have those
 * with signed ones: whole numbers, or sums to multiply minimums by. */
#if defined(SPAN_INT8)
INLINE void span_shifts(coterie_dtype_t dtype, const float *sums, float *shifts)
{
    int32_t taken[GROUPS];

    for (int g = 0; g < GROUPS; g++)
        taken[g] = -coterie_panel_shift(dtype) * (int32_t)sums[g];
    if (dtype == COTERIE_DTYPE_INT8)
        taken[0] += taken[1] + taken[2] + taken[3];
    if (dtype == COTERIE_DTYPE_INT4_ZERO)
        memcpy(shifts, sums, sizeof(taken));
    else
        memcpy(shifts, taken, sizeof(taken));
}

/* What is not finite makes the scale no number, and so every product. What is
 * so small that its inverse might be infinite becomes 0. */
TARGET void SPAN_INT8(const coterie_panel_method_t *method, const float *x,
                      char *words, float *span)
{
    vec_t v[VECTORS], most = vec_set(0), strange = vec_set(0);
    float largest, sums[GROUPS];

    UNROLL for (int i = 0; i < VECTORS; i++) {
        v[i] = vec_load(x + i * COTERIE_LANES);
        most = vec_max(vec_magnitude(v[i]), most);
        strange = vec_fma(v[i], vec_set(0), strange);
    }
    span[0] = vec_sum(strange);
    largest = vec_largest(most);
    if (span[0] != 0 || largest < 1e-30f) {
        memset(words, 0, COTERIE_SPAN);
        memset(span + 1, 0, sizeof(sums));
        return;
    }
    span[0] = largest / 127;
    UNROLL for (int i = 0; i < VECTORS; i++) {
        v[i] = vec_round(vec_mul(v[i], vec_set(127 / largest)));
        vec_store_bytes(words + i * COTERIE_LANES, v[i]);
    }
    span_sums(v, sums);
    span_shifts(method->dtype, sums, span + 1);
}
#endif
