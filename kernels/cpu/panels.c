#include "config.h"

#include <string.h>

#include <coterie/ffn.h>

#include "base/dtype.h"
#include "kernels/cpu/panel.h"

enum { VECTOR = 64, OUTPUTS = COTERIE_PANEL_OUTPUTS };

static uint64_t divide_up(uint64_t value, uint64_t by);
static uint64_t groups_of(uint32_t in);
static int is_packed(uint32_t dtype);
static void pack_elements(const char *row, uint32_t in, size_t element,
                          char *to);
static void pack_halves(const uint8_t *row, uint32_t in, uint8_t *to);

uint32_t coterie_panels_step(uint32_t dtype)
{
    return dtype >= COTERIE_DTYPE_F32 && dtype <= COTERIE_DTYPE_MXFP4
               ? coterie_panel_elements(dtype)
               : 0;
}

uint64_t coterie_panels_size(uint32_t dtype, uint32_t out, uint32_t in)
{
    const uint32_t step = coterie_panels_step(dtype);

    if (step == 0)
        return 0;
    return divide_up(out, OUTPUTS) * divide_up(in, step) * VECTOR;
}

uint64_t coterie_panels_scales_size(uint32_t dtype, uint32_t out, uint32_t in)
{
    const uint64_t outputs = divide_up(out, OUTPUTS) * OUTPUTS;

    switch (dtype) {
    case COTERIE_DTYPE_INT8:
        return outputs * sizeof(float);
    case COTERIE_DTYPE_INT8_GROUP:
    case COTERIE_DTYPE_INT4:
        return outputs * groups_of(in) * sizeof(uint16_t);
    case COTERIE_DTYPE_INT4_ZERO:
        return outputs * groups_of(in) * 2 * sizeof(uint16_t);
    case COTERIE_DTYPE_FP8:
        return divide_up(out, COTERIE_FP8_BLOCK) *
               divide_up(in, COTERIE_FP8_BLOCK) * sizeof(float);
    case COTERIE_DTYPE_MXFP4:
        return outputs * groups_of(in);
    default:
        return 0;
    }
}

void coterie_panels_pack(uint32_t dtype, uint32_t out, uint32_t in,
                         const void *codes, void *panels)
{
    const size_t element = 4 / coterie_panels_step(dtype);
    const size_t stride = in * (is_packed(dtype) ? 1 : element);
    const uint64_t panel = coterie_panels_size(dtype, OUTPUTS, in);

    memset(panels, 0, coterie_panels_size(dtype, out, in));
    for (size_t o = 0; o < out; o++) {
        const char *row = (const char *)codes + o * stride;
        char *to = (char *)panels + o / OUTPUTS * panel + o % OUTPUTS * 4;
        if (is_packed(dtype))
            pack_halves((const uint8_t *)row, in, (uint8_t *)to);
        else
            pack_elements(row, in, element, to);
    }
}

void coterie_panels_pack_scales(uint32_t dtype, uint32_t out, uint32_t in,
                                const void *scales, const void *minimums,
                                void *panels)
{
    const size_t groups = groups_of(in);
    const size_t size = dtype == COTERIE_DTYPE_MXFP4 ? 1 : 2;
    const size_t kinds = minimums != NULL ? 2 : 1;

    memset(panels, 0, coterie_panels_scales_size(dtype, out, in));
    for (size_t o = 0; o < out; o++)
        for (size_t g = 0; g < groups; g++) {
            const size_t from = (o * groups + g) * size;
            char *to = (char *)panels +
                       ((o / OUTPUTS * groups + g) * kinds * OUTPUTS +
                        o % OUTPUTS) * size;
            memcpy(to, (const char *)scales + from, size);
            if (minimums != NULL)
                memcpy(to + OUTPUTS * size, (const char *)minimums + from,
                       size);
        }
}

static uint64_t divide_up(uint64_t value, uint64_t by)
{
    return (value + by - 1) / by;
}

static uint64_t groups_of(uint32_t in)
{
    return divide_up(in, COTERIE_PANEL_GROUP);
}

static int is_packed(uint32_t dtype)
{
    return coterie_panels_step(dtype) == 8;
}

static void pack_elements(const char *row, uint32_t in, size_t element,
                          char *to)
{
    const uint32_t step = (uint32_t)(4 / element);
    const uint32_t whole = in - in % step;

    for (uint32_t k = 0; k < whole; k += step, to += VECTOR)
        memcpy(to, row + k * element, 4);
    memcpy(to, row + whole * element, (in - whole) * element);
}

static void pack_halves(const uint8_t *row, uint32_t in, uint8_t *to)
{
    for (uint32_t k = 0; k < in; k++)
        to[(size_t)(k / 8) * VECTOR + k % 4] |=
            (uint8_t)((row[k] & 15) << (k % 8 / 4 * 4));
}
