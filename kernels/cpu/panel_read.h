/* What tiles of panels read beside plain weights: written once, on the
 * functions of vec_t and raw_t. */

INLINE raw_t panel_bytes(const char *weight, coterie_dtype_t dtype, int unit);
INLINE vec_t panel_scale(const coterie_panel_tile_t *tile, int panel,
                         coterie_dtype_t dtype, size_t span);
INLINE vec_t panel_minimum(const coterie_panel_tile_t *tile, int panel,
                           coterie_dtype_t dtype, size_t span);
INLINE const char *panel_group_scale(const coterie_panel_tile_t *tile,
                                     int panel, coterie_dtype_t dtype,
                                     size_t group);
INLINE const char *panel_span_word(const coterie_panel_tile_t *tile, int row,
                                   size_t span, size_t word);
INLINE const char *panel_group_word(const coterie_panel_tile_t *tile, int row,
                                    size_t group);

/* Four elements of each output as unsigned bytes: shifted by 128, 8, 0 or,
 * doubled, by 12. */
INLINE raw_t panel_bytes(const char *weight, coterie_dtype_t dtype, int unit)
{
    const raw_t raw = raw_load(weight);
    raw_t half;

    if (coterie_panel_elements(dtype) == 4)
        return raw_xor(raw, 0x80808080);
    half = raw_and(unit == 0 ? raw : raw_shift_right(raw, 4), 0x0f0f0f0f);
    return dtype == COTERIE_DTYPE_MXFP4 ? raw_mxfp4_bytes(half) : half;
}

INLINE vec_t panel_scale(const coterie_panel_tile_t *tile, int panel,
                         coterie_dtype_t dtype, size_t span)
{
    switch (dtype) {
    case COTERIE_DTYPE_FP8:
        return vec_set_from(tile->scale[panel] + span * sizeof(float));
    case COTERIE_DTYPE_MXFP4:
        return vec_load_e8m0(panel_group_scale(tile, panel, dtype, span));
    default:
        return vec_load_f16(panel_group_scale(tile, panel, dtype, span));
    }
}

/* Of int4-zero: behind the scales. */
INLINE vec_t panel_minimum(const coterie_panel_tile_t *tile, int panel,
                           coterie_dtype_t dtype, size_t span)
{
    return vec_load_f16(panel_group_scale(tile, panel, dtype, span) +
                        COTERIE_PANEL_VECTOR / 2);
}

INLINE const char *panel_group_scale(const coterie_panel_tile_t *tile,
                                     int panel, coterie_dtype_t dtype,
                                     size_t group)
{
    return tile->weight + (size_t)panel * tile->panel_stride +
           coterie_panel_scale_at(dtype, group);
}

/* Of the words behind a row: those of a span of x, and what belongs to 32 of
 * its elements. */
INLINE const char *panel_span_word(const coterie_panel_tile_t *tile, int row,
                                   size_t span, size_t word)
{
    return tile->x_spans + (size_t)row * tile->x_stride +
           (span * COTERIE_SPAN_WORDS + word) * 4;
}

INLINE const char *panel_group_word(const coterie_panel_tile_t *tile, int row,
                                    size_t group)
{
    enum { GROUPS_OF_SPAN = COTERIE_SPAN_WORDS - 1 };
    return panel_span_word(tile, row, group / GROUPS_OF_SPAN,
                           1 + group % GROUPS_OF_SPAN);
}
