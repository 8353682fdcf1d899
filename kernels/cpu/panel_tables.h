/* The tiles of panels that an instruction set has, by the words that x is in.
 * Includes of this file have defined WIDE and SPANNED, which take words, a
 * dtype and the panels that suit one or two rows, make tiles and list them as
 * kinds_<words>_<dtype>, and the names of the tables that they provide:
 * TABLE_F32, TABLE_BF16, TABLE_INT8. */

#include "kernels/cpu/panel_tile.h"
#include "kernels/cpu/panel_words.h"

#define PANEL_KIND(words, dtype, rows, panels) \
    {panels, panel_##words##_##dtype##_##rows##x##panels}
#define PANEL_KINDS(words, dtype, ...)                                    \
    static const coterie_panel_kind_t kinds_##words##_##dtype[] = { \
        __VA_ARGS__};
#define PANEL_TILES(words, dtype)                                     \
    [COTERIE_DTYPE_##dtype - 1] = {                             \
        sizeof(kinds_##words##_##dtype) /                       \
            sizeof(kinds_##words##_##dtype[0]),                 \
        kinds_##words##_##dtype, panel_##words##_##dtype##_1x1}

#if defined(TABLE_F32)
WIDE(F32, F32, 1)
WIDE(F32, F16, 4)
WIDE(F32, BF16, 1)
SPANNED(F32, INT8, 4)
SPANNED(F32, INT8_GROUP, 4)
SPANNED(F32, INT4, 4)
SPANNED(F32, INT4_ZERO, 4)
SPANNED(F32, FP8, 4)
SPANNED(F32, MXFP4, 4)

const coterie_panel_table_t TABLE_F32 = {
    PANEL_TILES(F32, F32),
    PANEL_TILES(F32, F16),
    PANEL_TILES(F32, BF16),
    PANEL_TILES(F32, INT8),
    PANEL_TILES(F32, INT8_GROUP),
    PANEL_TILES(F32, INT4),
    PANEL_TILES(F32, INT4_ZERO),
    PANEL_TILES(F32, FP8),
    PANEL_TILES(F32, MXFP4),
};
#endif

#if defined(TABLE_BF16)
WIDE(BF16, BF16, 1)
SPANNED(BF16, INT8, 4)
SPANNED(BF16, INT8_GROUP, 4)
SPANNED(BF16, INT4, 4)
SPANNED(BF16, INT4_ZERO, 4)
SPANNED(BF16, FP8, 4)
SPANNED(BF16, MXFP4, 4)

const coterie_panel_table_t TABLE_BF16 = {
    PANEL_TILES(BF16, BF16),
    PANEL_TILES(BF16, INT8),
    PANEL_TILES(BF16, INT8_GROUP),
    PANEL_TILES(BF16, INT4),
    PANEL_TILES(BF16, INT4_ZERO),
    PANEL_TILES(BF16, FP8),
    PANEL_TILES(BF16, MXFP4),
};
#endif

#if defined(TABLE_INT8)
SPANNED(INT8, INT8, 1)
SPANNED(INT8, INT8_GROUP, 1)
SPANNED(INT8, INT4, 1)
SPANNED(INT8, INT4_ZERO, 1)
SPANNED(INT8, MXFP4, 1)

const coterie_panel_table_t TABLE_INT8 = {
    PANEL_TILES(INT8, INT8),
    PANEL_TILES(INT8, INT8_GROUP),
    PANEL_TILES(INT8, INT4),
    PANEL_TILES(INT8, INT4_ZERO),
    PANEL_TILES(INT8, MXFP4),
};
#endif
