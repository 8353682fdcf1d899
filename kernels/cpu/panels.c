#include "config.h"

#include <string.h>

#include <coterie/ffn.h>

#include "base/dtype.h"
#include "kernels/cpu/panel.h"

enum { VECTOR = 64, OUTPUTS = COTERIE_PANEL_OUTPUTS };

static uint64_t divide_up(uint64_t value, uint64_t by);
static int is_packed(uint32_t dtype);
static void pack_elements(uint32_t dtype, size_t output, uint32_t in,
                          const char *row, char *panel);
static void pack_halves(uint32_t dtype, size_t output, uint32_t in,
                        const uint8_t *row, char *panel);
static void pack_scales(uint32_t dtype, size_t output, uint32_t in,
                        const char *scales, char *panel);

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
    return divide_up(out, OUTPUTS) * VECTOR *
           coterie_panel_vectors(dtype, divide_up(in, step));
}

uint64_t coterie_panels_scales_size(uint32_t dtype, uint32_t out, uint32_t in)
{
    const uint64_t outputs = divide_up(out, OUTPUTS) * OUTPUTS;

    switch (dtype) {
    case COTERIE_DTYPE_INT8:
        return outputs * sizeof(float);
    case COTERIE_DTYPE_FP8:
        return divide_up(out, COTERIE_FP8_BLOCK) *
               divide_up(in, COTERIE_FP8_BLOCK) * sizeof(float);
    default:
        return 0;
    }
}

uint64_t coterie_panels_weights_at(uint32_t dtype, uint32_t step)
{
    return coterie_panel_vector(dtype, step) * VECTOR;
}

uint64_t coterie_panels_scales_at(uint32_t dtype, uint32_t group)
{
    return coterie_panel_scale_at(dtype, group);
}

void coterie_panels_pack(uint32_t dtype, uint32_t out, uint32_t in,
                         const void *codes, const void *scales, void *panels)
{
    const size_t element = 4 / coterie_panels_step(dtype);
    const size_t stride = in * (is_packed(dtype) ? 1 : element);
    const uint64_t panel = coterie_panels_size(dtype, OUTPUTS, in);

    memset(panels, 0, coterie_panels_size(dtype, out, in));
    for (size_t o = 0; o < out; o++) {
        const char *row = (const char *)codes + o * stride;
        char *to = (char *)panels + o / OUTPUTS * panel;
        if (is_packed(dtype))
            pack_halves(dtype, o % OUTPUTS, in, (const uint8_t *)row, to);
        else
            pack_elements(dtype, o % OUTPUTS, in, row, to);
        if (coterie_panel_bundle(dtype) > 0)
            pack_scales(dtype, o, in, scales, to);
    }
}

static uint64_t divide_up(uint64_t value, uint64_t by)
{
    return (value + by - 1) / by;
}

static int is_packed(uint32_t dtype)
{
    return coterie_panels_step(dtype) == 8;
}

static void pack_elements(uint32_t dtype, size_t output, uint32_t in,
                          const char *row, char *panel)
{
    const uint32_t step = coterie_panels_step(dtype);
    const size_t element = 4 / step;

    for (uint32_t k = 0; k < in; k += step) {
        char *to = panel + coterie_panel_vector(dtype, k / step) * VECTOR +
                   output * 4;
        if (in - k >= step)
            memcpy(to, row + k * element, 4);
        else
            memcpy(to, row + k * element, (in - k) * element);
    }
}

static void pack_halves(uint32_t dtype, size_t output, uint32_t in,
                        const uint8_t *row, char *panel)
{
    for (uint32_t k = 0; k < in; k++) {
        uint8_t *to = (uint8_t *)panel +
                      coterie_panel_vector(dtype, k / 8) * VECTOR + output * 4;
        to[k % 4] |= (uint8_t)((row[k] & 15) << (k % 8 / 4 * 4));
    }
}

static void pack_scales(uint32_t dtype, size_t output, uint32_t in,
                        const char *scales, char *panel)
{
    const size_t groups = divide_up(in, COTERIE_PANEL_GROUP);
    const size_t size = dtype == COTERIE_DTYPE_MXFP4 ? 1 : 2;
    const size_t kinds = dtype == COTERIE_DTYPE_INT4_ZERO ? 2 : 1;

    for (size_t g = 0; g < groups; g++)
        for (size_t kind = 0; kind < kinds; kind++)
            memcpy(panel + coterie_panel_scale_at(dtype, g) +
                       (kind * OUTPUTS + output % OUTPUTS) * size,
                   scales + ((output * groups + g) * kinds + kind) * size,
                   size);
}
