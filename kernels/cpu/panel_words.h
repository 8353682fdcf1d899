/* Rows of x as words, 32 elements at a time: written once, on the functions of
 * vec_t and, beside those of tile.h, vec_largest, vec_store_bytes and
 * vec_round_bf16. An include has defined GROUP_F32 and GROUP_INT8, the names of
 * what it provides. */

/* To f32 words; rounded to bf16 if tiles for bf16 words are lacking. */
#if defined(GROUP_F32)
TARGET void GROUP_F32(const coterie_panel_method_t *method, const float *x,
                      uint32_t *words, float span[2])
{
    vec_t first = vec_load(x), second = vec_load(x + COTERIE_LANES);

    if (method->compute == COTERIE_COMPUTE_BF16) {
        first = vec_round_bf16(first);
        second = vec_round_bf16(second);
    }
    vec_store((float *)words, first);
    vec_store((float *)words + COTERIE_LANES, second);
    span[0] = 0;
    span[1] = vec_sum(vec_add(first, second));
}
#endif

/* What is not finite makes the scale no number, and so every product. */
#if defined(GROUP_INT8)
TARGET void GROUP_INT8(const coterie_panel_method_t *method, const float *x,
                       uint32_t *words, float span[2])
{
    const vec_t first = vec_load(x), second = vec_load(x + COTERIE_LANES);
    const vec_t zero = vec_set(0);
    const float largest = vec_largest(first, second);
    const float strange =
        vec_sum(vec_add(vec_mul(first, zero), vec_mul(second, zero)));
    const float inverse = largest > 0 && strange == 0 ? 127 / largest : 0;
    const vec_t low = vec_round(vec_mul(first, vec_set(inverse)));
    const vec_t high = vec_round(vec_mul(second, vec_set(inverse)));
    const float sum = vec_sum(vec_add(low, high));
    const int32_t shift =
        strange == 0 ? -coterie_panel_shift(method->dtype) * (int32_t)sum : 0;

    vec_store_bytes((char *)words, low);
    vec_store_bytes((char *)words + COTERIE_LANES, high);
    span[0] = largest / 127 + strange;
    span[1] = sum * span[0];
    if (method->dtype != COTERIE_DTYPE_INT4_ZERO)
        memcpy(&span[1], &shift, sizeof(shift));
}
#endif
