#include "config.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include <coterie/ffn.h>

#include "experts/model.h"
#include "experts/record.h"
#include "tests/models.h"

enum { FIRST = COTERIE_DTYPE_F32, LAST = COTERIE_DTYPE_MXFP4 };

/* Experts whose matrices have more than one band and a ragged last panel. */
static const coterie_model_config_t wide = {.hidden = 160, .ffn = 96,
                                            .expert_bias = 1};

static coterie_expert_format_t format_of(uint32_t dtype)
{
    coterie_expert_format_t format;

    cr_assert(coterie_expert_format_init(&wide, dtype, "test", &format) ==
                  COTERIE_OK,
              "%s", coterie_last_error());
    return format;
}

/* Bell-shaped enough, and the same every time. */
static float value_of(size_t i)
{
    uint32_t x = (uint32_t)i * 2654435761u;
    float sum = 0;

    for (int j = 0; j < 4; j++, x = x * 1664525u + 1013904223u)
        sum += (float)(x >> 8) / 0x1p24f - 0.5f;
    return sum;
}

/* A record of f32, biases and all. */
static float *record_make(const coterie_expert_format_t *format)
{
    float *record = calloc(1, format->record_size);

    for (uint32_t part = 0; part < COTERIE_EXPERT_PARTS; part++) {
        coterie_record_part_t p = coterie_record_part(format, part);
        float *rows = malloc((size_t)p.out * p.in * sizeof(*rows));
        for (size_t i = 0; i < (size_t)p.out * p.in; i++)
            rows[i] = value_of(i + part * 100000);
        coterie_panels_pack(format->dtype, p.out, p.in, rows, NULL,
                            (char *)record + p.weights);
        for (uint32_t i = 0; i < p.out; i++)
            record[p.bias / 4 + i] = value_of(i + 7);
        free(rows);
    }
    return record;
}

static void *recast_or_fail(const coterie_expert_format_t *from,
                            const void *record,
                            const coterie_expert_format_t *to, double *error_p)
{
    coterie_loss_t loss = {0};
    void *recast = malloc(to->record_size);

    memset(recast, 3, to->record_size); /* what is not written would show */
    cr_assert(coterie_record_recast(from, record, to, "test", recast, &loss) ==
                  COTERIE_OK,
              "%s", coterie_last_error());
    *error_p = sqrt(loss.difference / loss.whole);
    return recast;
}

/* Where ffn.h says that an element is, worked out once more. */
static size_t place_of(uint32_t bits, uint32_t bundle, uint32_t in, uint32_t o,
                       uint32_t i)
{
    size_t step = 32 / bits, steps = (in + step - 1) / step;
    size_t bundles = bundle == 0 ? 0 : (in + bundle - 1) / bundle;
    size_t vector = o / 16 * (steps + bundles) + i / step +
                    (bundle == 0 ? 0 : i / bundle + 1);
    size_t within = bits == 4 ? i % step % 4 : i % step * (bits / 8);

    return vector * 64 + o % 16 * 4 + within;
}

Test(record, puts_every_band_where_the_kernels_look_for_it)
{
    static const uint32_t bits[] = {0, 32, 16, 16, 8, 8, 4, 4, 8, 4};
    static const uint32_t bundle[] = {0, 0, 0, 0, 0, 64, 64, 32, 0, 128};
    for (uint32_t dtype = FIRST; dtype <= LAST; dtype++) {
        coterie_expert_format_t format = format_of(dtype);
        coterie_record_part_t p = coterie_record_part(&format, 2);
        uint32_t element = coterie_band_element(dtype);
        uint8_t *record = calloc(1, format.record_size);
        coterie_band_t band;
        cr_assert(coterie_band_create(dtype, p.in, &band) == COTERIE_OK);
        uint8_t *codes = band.elements;
        for (uint32_t first = 0; first < p.out; first += band.rows) {
            band.rows = first == 0 ? COTERIE_BAND_ROWS : p.out - first;
            for (size_t i = 0; i < (size_t)band.rows * p.in * element; i++)
                codes[i] = (uint8_t)((i * 7 + i / 64 + first) %
                                     (bits[dtype] == 4 ? 16 : 256));
            memset(band.scales, 5,
                   coterie_band_scales(dtype, band.rows, p.in));
            coterie_record_put(&format, 2, first, &band, record);
            for (uint32_t i = 0; i < band.rows * p.in; i++) {
                uint8_t found =
                    record[p.weights + place_of(bits[dtype], bundle[dtype],
                                                p.in, first + i / p.in,
                                                i % p.in)];
                if (bits[dtype] == 4)
                    found = i % 8 < 4 ? found & 0xf : found >> 4;
                cr_assert(eq(u8, found, codes[i * element]), "%s: %u",
                          coterie_dtype_name(dtype), i);
            }
        }
        coterie_band_clear(&band);
        free(record);
    }
}

Test(record, puts_scales_and_minimums_before_the_weights_of_their_group)
{
    enum { BUNDLE = (1 + 32 / 8) * 64 / 2 }; /* halves */
    coterie_expert_format_t format = format_of(COTERIE_DTYPE_INT4_ZERO);
    coterie_record_part_t p = coterie_record_part(&format, 0);
    uint32_t groups = p.in / COTERIE_PANEL_GROUP;
    char *record = calloc(1, format.record_size);
    const uint16_t *found = (const uint16_t *)(record + p.weights);
    coterie_band_t band;
    cr_assert(coterie_band_create(format.dtype, p.in, &band) == COTERIE_OK);
    uint16_t *scales = band.scales;
    band.rows = p.out;
    memset(band.elements, 0, (size_t)p.out * p.in);
    for (uint32_t i = 0; i < p.out * groups * 2; i++)
        scales[i] = (uint16_t)(i + 1);
    coterie_record_put(&format, 0, 0, &band, record);
    for (uint32_t o = 0; o < p.out; o++)
        for (uint32_t g = 0; g < groups; g++)
            for (uint32_t minimum = 0; minimum < 2; minimum++) {
                uint32_t at = (o / 16 * groups + g) * BUNDLE + minimum * 16;
                cr_assert(eq(u16, found[at + o % 16],
                             scales[(o * groups + g) * 2 + minimum]));
            }
    coterie_band_clear(&band);
    free(record);
}

Test(record, loses_what_each_dtype_is_known_to_lose)
{
    static const double most[] = {0,      0,     3e-4, 2e-3, 8e-3,
                                  6e-3, 0.085, 0.08, 0.03, 0.13};
    coterie_expert_format_t plain = format_of(COTERIE_DTYPE_F32);
    float *record = record_make(&plain);
    for (uint32_t dtype = FIRST; dtype <= LAST; dtype++) {
        coterie_expert_format_t format = format_of(dtype);
        double error, again;
        void *recast = recast_or_fail(&plain, record, &format, &error);
        cr_expect(le(dbl, error, most[dtype]), "%s",
                  coterie_dtype_name(dtype));
        cr_expect(ge(dbl, error, most[dtype] / 3), "%s",
                  coterie_dtype_name(dtype));
        /* Biases are kept whatever the weights become. */
        for (uint32_t part = 0; part < COTERIE_EXPERT_PARTS; part++) {
            coterie_record_part_t a = coterie_record_part(&plain, part);
            coterie_record_part_t b = coterie_record_part(&format, part);
            cr_expect(eq(int, 0, memcmp((char *)record + a.bias,
                                        (char *)recast + b.bias,
                                        4 * a.out)));
        }
        /* What it decodes to is there in f32 to the bit. */
        float *decoded = recast_or_fail(&format, recast, &plain, &again);
        void *twice = recast_or_fail(&plain, decoded, &plain, &error);
        cr_expect(zero(dbl, again));
        cr_expect(eq(int, 0, memcmp(decoded, twice, plain.record_size)));
        free(recast);
        free(decoded);
        free(twice);
    }
    free(record);
}

Test(record, of_groups_needs_whole_groups)
{
    coterie_model_config_t odd = {.hidden = 64, .ffn = 48};
    for (uint32_t dtype = FIRST; dtype <= LAST; dtype++) {
        coterie_expert_format_t format = {.dtype = 99};
        int groups = dtype >= COTERIE_DTYPE_INT8_GROUP &&
                     dtype != COTERIE_DTYPE_FP8;
        cr_expect(eq(int,
                     coterie_expert_format_init(&odd, dtype, "it", &format),
                     groups ? COTERIE_ERR_UNSUPPORTED : COTERIE_OK));
        cr_expect(eq(u32, format.dtype, groups ? 99 : dtype));
    }
    cr_expect(ne(ptr, strstr((char *)coterie_last_error(), "mxfp4"), NULL));
}

Test(record, names_the_expert_whose_weight_is_not_finite)
{
    coterie_expert_format_t plain = format_of(COTERIE_DTYPE_F32);
    coterie_expert_format_t format = format_of(COTERIE_DTYPE_INT8);
    coterie_loss_t loss = {0};
    float *record = record_make(&plain);
    void *recast = malloc(format.record_size);
    record[plain.up_offset / 4 + 5] = NAN;
    cr_expect(eq(int, COTERIE_ERR_UNSUPPORTED,
                 coterie_record_recast(&plain, record, &format, "expert (3, 4)",
                                       recast, &loss)));
    cr_expect(ne(ptr, strstr((char *)coterie_last_error(),
                             "expert (3, 4): up"), NULL));
    free(record);
    free(recast);
}

Test(dtype, has_one_name)
{
    for (uint32_t dtype = FIRST; dtype <= LAST; dtype++) {
        uint32_t found = 0;
        cr_expect(eq(int, COTERIE_OK,
                     coterie_dtype_parse(coterie_dtype_name(dtype), &found)));
        cr_expect(eq(u32, found, dtype));
    }
    uint32_t untouched = 77;
    cr_expect(eq(int, COTERIE_ERR_UNSUPPORTED,
                 coterie_dtype_parse("q8_0", &untouched)));
    cr_expect(eq(u32, untouched, 77));
    cr_expect(eq(str, (char *)coterie_dtype_name(0), "unknown"));
    cr_expect(eq(str, (char *)coterie_dtype_name(LAST + 1), "unknown"));
}
