#include "config.h"

#include <assert.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "experts/record.h"

enum {
    ALIGNMENT = 64,
    RECORD_ALIGNMENT = 4096,
    WORD = 4 /* bytes that one output has of a vector in panels */
};

/* Two bands of the same rows, and their values in between. */
typedef struct recast {
    const coterie_expert_format_t *from, *to;
    coterie_band_t before, after;
    float *values, *again; /* [COTERIE_BAND_ROWS, in] */
    coterie_loss_t *loss;
} recast_t;

static uint64_t place_take(uint64_t *position, uint64_t size);
static bool is_grouped(uint32_t dtype);
static void words_get(const coterie_band_t *band, const unsigned char *panels);
static void halves_get(const coterie_band_t *band,
                       const unsigned char *panels);
static const unsigned char *word_of(const coterie_band_t *band,
                                    const unsigned char *panels, uint32_t row,
                                    uint32_t step);
static const unsigned char *panel_of(const coterie_band_t *band,
                                     const unsigned char *panels,
                                     uint32_t row);
static void scales_get(const coterie_band_t *band,
                       const unsigned char *panels);
static coterie_status_t recast_begin(recast_t *r, uint32_t in);
static void recast_end(recast_t *r);
static coterie_status_t part_recast(recast_t *r, uint32_t part,
                                    const void *record, void *recast);
static void loss_add(recast_t *r);

coterie_status_t coterie_expert_format_init(
    const coterie_model_config_t *config, uint32_t dtype, const char *what,
    coterie_expert_format_t *format)
{
    const uint32_t hidden = config->hidden, ffn = config->ffn;
    coterie_expert_format_t f = {
        .size = sizeof(f), .layout = COTERIE_LAYOUT_PANELS, .dtype = dtype,
        .hidden = hidden, .ffn = ffn, .activation = config->activation,
        .alpha = config->swiglu_alpha, .limit = config->swiglu_limit};
    uint64_t inner = coterie_panels_size(dtype, ffn, hidden), at = 0;
    uint64_t scales = coterie_panels_scales_size(dtype, ffn, hidden);
    uint64_t bias = config->expert_bias ? sizeof(float) : 0;

    if (is_grouped(dtype) &&
        (hidden % COTERIE_PANEL_GROUP != 0 || ffn % COTERIE_PANEL_GROUP != 0))
        return coterie_fail(COTERIE_ERR_UNSUPPORTED,
                            "%s: hidden %u and expert ffn %u cannot be %s, "
                            "which has groups of %d: both must be multiples "
                            "of that; int8 and fp8 take any",
                            what, hidden, ffn, coterie_dtype_name(dtype),
                            COTERIE_PANEL_GROUP);
    f.gate_offset = place_take(&at, inner);
    f.up_offset = place_take(&at, inner);
    f.down_offset = place_take(&at, coterie_panels_size(dtype, hidden, ffn));
    f.gate_scale_offset = place_take(&at, scales);
    f.up_scale_offset = place_take(&at, scales);
    f.down_scale_offset =
        place_take(&at, coterie_panels_scales_size(dtype, hidden, ffn));
    f.gate_bias_offset = place_take(&at, bias * ffn);
    f.up_bias_offset = place_take(&at, bias * ffn);
    f.down_bias_offset = place_take(&at, bias * hidden);
    f.record_size =
        (at + RECORD_ALIGNMENT - 1) / RECORD_ALIGNMENT * RECORD_ALIGNMENT;
    *format = f;
    return COTERIE_OK;
}

coterie_record_part_t coterie_record_part(const coterie_expert_format_t *format,
                                   uint32_t part)
{
    const uint64_t places[][3] = {
        {format->gate_offset, format->gate_scale_offset,
         format->gate_bias_offset},
        {format->up_offset, format->up_scale_offset, format->up_bias_offset},
        {format->down_offset, format->down_scale_offset,
         format->down_bias_offset}};
    bool down = part == COTERIE_EXPERT_PARTS - 1;

    assert(part < COTERIE_EXPERT_PARTS);
    return (coterie_record_part_t){.out = down ? format->hidden : format->ffn,
                            .in = down ? format->ffn : format->hidden,
                            .weights = places[part][0],
                            .scales = places[part][1],
                            .bias = places[part][2]};
}

/* A band is whole panels, which lie one after the other: a matrix of its own.
 */
void coterie_record_put(const coterie_expert_format_t *format, uint32_t part,
                        uint32_t first, const coterie_band_t *band,
                        void *record)
{
    const uint32_t dtype = band->dtype, in = band->in;
    coterie_record_part_t p = coterie_record_part(format, part);

    assert(first % COTERIE_BAND_ROWS == 0 && dtype == format->dtype &&
           in == p.in && first + band->rows <= p.out);
    coterie_panels_pack(dtype, band->rows, in, band->elements, band->scales,
                        (unsigned char *)record + p.weights +
                            coterie_panels_size(dtype, first, in));
    if (p.scales != 0)
        memcpy((unsigned char *)record + p.scales +
                   coterie_panels_scales_size(dtype, first, in),
               band->scales, coterie_band_scales(dtype, band->rows, in));
}

void coterie_record_get(const coterie_expert_format_t *format, uint32_t part,
                        uint32_t first, const void *record,
                        const coterie_band_t *band)
{
    const uint32_t dtype = band->dtype, in = band->in;
    coterie_record_part_t p = coterie_record_part(format, part);
    const unsigned char *weights = (const unsigned char *)record + p.weights +
                                   coterie_panels_size(dtype, first, in);

    assert(first % COTERIE_BAND_ROWS == 0 && dtype == format->dtype &&
           in == p.in && first + band->rows <= p.out);
    if (coterie_panels_step(dtype) > WORD)
        halves_get(band, weights);
    else
        words_get(band, weights);
    if (is_grouped(dtype))
        scales_get(band, weights);
    else if (p.scales != 0)
        memcpy(band->scales,
               (const unsigned char *)record + p.scales +
                   coterie_panels_scales_size(dtype, first, in),
               coterie_band_scales(dtype, band->rows, in));
}

coterie_status_t coterie_record_recast(const coterie_expert_format_t *from,
                                       const void *record,
                                       const coterie_expert_format_t *to,
                                       const char *what, void *recast,
                                       coterie_loss_t *loss)
{
    static const char *const names[] = {"gate", "up", "down"};
    coterie_status_t status = COTERIE_OK;

    memset(recast, 0, to->record_size);
    for (uint32_t part = 0;
         part < COTERIE_EXPERT_PARTS && status == COTERIE_OK; part++) {
        coterie_record_part_t before = coterie_record_part(from, part);
        coterie_record_part_t after = coterie_record_part(to, part);
        recast_t r = {.from = from, .to = to, .loss = loss};
        status = recast_begin(&r, before.in);
        if (status == COTERIE_OK)
            status = part_recast(&r, part, record, recast);
        if (status == COTERIE_ERR_UNSUPPORTED)
            status = coterie_fail(status,
                                  "%s: %s: a weight is not finite, or too "
                                  "large for %s; bf16 and f32 hold any",
                                  what, names[part],
                                  coterie_dtype_name(to->dtype));
        if (before.bias != 0)
            memcpy((char *)recast + after.bias,
                   (const char *)record + before.bias,
                   before.out * sizeof(float));
        recast_end(&r);
    }
    return status;
}

/* 0, which says that there is none, if its size is 0. */
static uint64_t place_take(uint64_t *position, uint64_t size)
{
    uint64_t place = size == 0 ? 0 : *position;

    *position += (size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    return place;
}

static bool is_grouped(uint32_t dtype)
{
    return dtype == COTERIE_DTYPE_INT8_GROUP || dtype == COTERIE_DTYPE_INT4 ||
           dtype == COTERIE_DTYPE_INT4_ZERO || dtype == COTERIE_DTYPE_MXFP4;
}

static void words_get(const coterie_band_t *band, const unsigned char *panels)
{
    const size_t size = (size_t)band->in * coterie_band_element(band->dtype);

    for (uint32_t r = 0; r < band->rows; r++) {
        unsigned char *to = (unsigned char *)band->elements + r * size;
        for (uint32_t at = 0; at < size; at += WORD)
            memcpy(to + at, word_of(band, panels, r, at / WORD),
                   size - at < WORD ? size - at : WORD);
    }
}

/* `in` is a multiple of a group here, so words are whole. */
static void halves_get(const coterie_band_t *band, const unsigned char *panels)
{
    for (uint32_t r = 0; r < band->rows; r++) {
        unsigned char *to =
            (unsigned char *)band->elements + (size_t)r * band->in;
        for (uint32_t i = 0; i < band->in; i += 2 * WORD) {
            const unsigned char *from =
                word_of(band, panels, r, i / (2 * WORD));
            for (uint32_t j = 0; j < WORD; j++) {
                to[i + j] = from[j] & 0xf;
                to[i + j + WORD] = from[j] >> 4;
            }
        }
    }
}

/* A row's word of a step. */
static const unsigned char *word_of(const coterie_band_t *band,
                                    const unsigned char *panels, uint32_t row,
                                    uint32_t step)
{
    return panel_of(band, panels, row) +
           coterie_panels_weights_at(band->dtype, step) +
           row % COTERIE_PANEL_OUTPUTS * WORD;
}

/* The panel with a row. */
static const unsigned char *panel_of(const coterie_band_t *band,
                                     const unsigned char *panels, uint32_t row)
{
    return panels + row / COTERIE_PANEL_OUTPUTS *
                        coterie_panels_size(band->dtype, COTERIE_PANEL_OUTPUTS,
                                            band->in);
}

static void scales_get(const coterie_band_t *band, const unsigned char *panels)
{
    const size_t size = band->dtype == COTERIE_DTYPE_MXFP4 ? 1 : 2;
    const size_t kinds = band->dtype == COTERIE_DTYPE_INT4_ZERO ? 2 : 1;
    const size_t groups = band->in / COTERIE_PANEL_GROUP;

    for (uint32_t r = 0; r < band->rows; r++)
        for (uint32_t g = 0; g < groups; g++)
            for (size_t kind = 0; kind < kinds; kind++)
                memcpy((char *)band->scales +
                           ((r * groups + g) * kinds + kind) * size,
                       panel_of(band, panels, r) +
                           coterie_panels_scales_at(band->dtype, g) +
                           (kind * COTERIE_PANEL_OUTPUTS +
                            r % COTERIE_PANEL_OUTPUTS) * size,
                       size);
}

static coterie_status_t recast_begin(recast_t *r, uint32_t in)
{
    size_t size = (size_t)COTERIE_BAND_ROWS * in * sizeof(float);
    coterie_status_t status =
        coterie_band_create(r->from->dtype, in, &r->before);

    if (status == COTERIE_OK)
        status = coterie_band_create(r->to->dtype, in, &r->after);
    if (status != COTERIE_OK)
        return status;
    r->values = malloc(size);
    r->again = malloc(size);
    if (r->values == NULL || r->again == NULL)
        return coterie_fail_memory(2 * size, "rows of an expert");
    return COTERIE_OK;
}

static void recast_end(recast_t *r)
{
    coterie_band_clear(&r->before);
    coterie_band_clear(&r->after);
    free(r->values);
    free(r->again);
}

static coterie_status_t part_recast(recast_t *r, uint32_t part,
                                    const void *record, void *recast)
{
    uint32_t out = coterie_record_part(r->from, part).out;
    coterie_status_t status = COTERIE_OK;

    for (uint32_t first = 0; first < out && status == COTERIE_OK;
         first += COTERIE_BAND_ROWS) {
        uint32_t left = out - first;
        r->before.rows = r->after.rows =
            left < COTERIE_BAND_ROWS ? left : COTERIE_BAND_ROWS;
        coterie_record_get(r->from, part, first, record, &r->before);
        coterie_band_decode(&r->before, r->values);
        status = coterie_band_encode(&r->after, r->values);
        if (status != COTERIE_OK)
            break;
        coterie_record_put(r->to, part, first, &r->after, recast);
        loss_add(r);
    }
    return status;
}

static void loss_add(recast_t *r)
{
    const size_t count = (size_t)r->after.rows * r->after.in;

    coterie_band_decode(&r->after, r->again);
    for (size_t i = 0; i < count; i++) {
        double value = r->values[i], off = r->again[i] - value;
        r->loss->difference += off * off;
        r->loss->whole += value * value;
    }
}
