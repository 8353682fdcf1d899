#include "config.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include "base/npz.h"
#include "experts/band.h"
#include "base/element.h"
#include "tests/models.h"

/* The matrix that other people's code quantised (tests/data/make_formats.py),
 * and what it made of it. */
enum { ROWS = 136, COLUMNS = 160, GROUPS = COLUMNS / COTERIE_PANEL_GROUP };

static const uint32_t all_dtypes[] = {
    COTERIE_DTYPE_F32,       COTERIE_DTYPE_F16,  COTERIE_DTYPE_BF16,
    COTERIE_DTYPE_INT8,      COTERIE_DTYPE_INT8_GROUP,
    COTERIE_DTYPE_INT4,      COTERIE_DTYPE_INT4_ZERO,
    COTERIE_DTYPE_FP8,       COTERIE_DTYPE_MXFP4};

enum { DTYPES = sizeof(all_dtypes) / sizeof(all_dtypes[0]) };

static coterie_npz_t *archive;

static void archive_open(void)
{
    char path[PATH_SIZE];

    path_in(getenv("COTERIE_TEST_DATA"), "formats.npz", path);
    cr_assert(coterie_npz_open(path, &archive) == COTERIE_OK, "%s",
              coterie_last_error());
}

static void archive_close(void)
{
    coterie_npz_close(archive);
}

TestSuite(quantise, .init = archive_open, .fini = archive_close);

static coterie_npy_t array(const char *key, const char *suffix)
{
    coterie_npy_t npy;
    char name[32];

    snprintf(name, sizeof(name), "%s%s", key, suffix);
    cr_assert(coterie_npz_read(archive, name, &npy) == COTERIE_OK, "%s",
              coterie_last_error());
    return npy;
}

/* Rows `first` and following of the matrix, quantised. */
static coterie_band_t encoded(uint32_t dtype, uint32_t first, uint32_t rows)
{
    coterie_npy_t values = array("values", "");
    coterie_band_t band;

    cr_assert(coterie_band_create(dtype, COLUMNS, &band) == COTERIE_OK);
    band.rows = rows;
    cr_assert(eq(int, COTERIE_OK,
                 coterie_band_encode(&band, (const float *)values.data +
                                                first * COLUMNS)));
    coterie_npy_release(&values);
    return band;
}

/* A block as gguf has it: scale, minimum, then the codes; 4-bit ones with the
 * group's second half in the high halves. */
static size_t gguf_block(const coterie_band_t *band, size_t group,
                         uint8_t *block)
{
    size_t scale =
        coterie_band_scales(band->dtype, 1, COTERIE_PANEL_GROUP), half = 16;
    const uint8_t *codes =
        (const uint8_t *)band->elements + group * COTERIE_PANEL_GROUP;

    memcpy(block, (const char *)band->scales + group * scale, scale);
    if (band->dtype == COTERIE_DTYPE_INT8_GROUP) {
        memcpy(block + scale, codes, COTERIE_PANEL_GROUP);
        return scale + COTERIE_PANEL_GROUP;
    }
    for (size_t i = 0; i < half; i++)
        block[scale + i] = (uint8_t)(codes[i] | codes[i + half] << 4);
    return scale + half;
}

static void expect_gguf(uint32_t dtype, const char *key)
{
    coterie_npy_t right = array(key, "");
    coterie_band_t band = encoded(dtype, 0, COTERIE_BAND_ROWS);
    uint8_t block[COTERIE_PANEL_GROUP + 4];

    for (size_t i = 0; i < COTERIE_BAND_ROWS * GROUPS; i++) {
        size_t size = gguf_block(&band, i, block);
        cr_assert(memcmp(block, right.data + i * size, size) == 0,
                  "%s: row %zu, group %zu", key, i / GROUPS, i % GROUPS);
    }
    coterie_band_clear(&band);
    coterie_npy_release(&right);
}

/* Decoding is a product and a sum of numbers that everybody has exactly. */
static void expect_decoded(uint32_t dtype, const char *key)
{
    coterie_npy_t right = array(key, "_values");
    coterie_band_t band = encoded(dtype, 0, COTERIE_BAND_ROWS);
    float *values = malloc(sizeof(float) * COTERIE_BAND_ROWS * COLUMNS);

    coterie_band_decode(&band, values);
    for (size_t i = 0; i < right.count; i++)
        cr_assert(values[i] == ((const float *)right.data)[i],
                  "%s: row %zu, column %zu", key, i / COLUMNS, i % COLUMNS);
    free(values);
    coterie_band_clear(&band);
    coterie_npy_release(&right);
}

Test(quantise, gives_the_blocks_that_gguf_does)
{
    expect_gguf(COTERIE_DTYPE_INT8_GROUP, "q8_0");
    expect_gguf(COTERIE_DTYPE_INT4, "q4_0");
    expect_gguf(COTERIE_DTYPE_INT4_ZERO, "q4_1");
}

Test(quantise, gives_the_codes_and_scales_that_torchao_does_for_mxfp4)
{
    coterie_npy_t codes = array("mxfp4", ""), scales = array("mxfp4",
                                                             "_scales");
    coterie_band_t band = encoded(COTERIE_DTYPE_MXFP4, 0, COTERIE_BAND_ROWS);
    const uint8_t *mine = band.elements;

    cr_expect(eq(int, 0, memcmp(band.scales, scales.data,
                                COTERIE_BAND_ROWS * GROUPS)));
    for (size_t i = 0; i < COTERIE_BAND_ROWS * COLUMNS / 2; i++)
        cr_assert(codes.data[i] == (mine[2 * i] | mine[2 * i + 1] << 4),
                  "row %zu", 2 * i / COLUMNS);
    coterie_band_clear(&band);
    coterie_npy_release(&codes);
    coterie_npy_release(&scales);
}

Test(quantise, gives_the_codes_and_scales_that_torch_does_for_fp8)
{
    coterie_npy_t codes = array("fp8", ""), scales = array("fp8", "_scales");

    for (uint32_t first = 0; first < ROWS; first += COTERIE_BAND_ROWS) {
        uint32_t rows = ROWS - first < COTERIE_BAND_ROWS ? ROWS - first
                                                         : COTERIE_BAND_ROWS;
        coterie_band_t band = encoded(COTERIE_DTYPE_FP8, first, rows);
        cr_expect(eq(int, 0, memcmp(band.elements,
                                    codes.data + first * COLUMNS,
                                    rows * COLUMNS)));
        cr_expect(eq(int, 0, memcmp(band.scales,
                                    scales.data + first / COTERIE_FP8_BLOCK * 8,
                                    8)));
        coterie_band_clear(&band);
    }
    coterie_npy_release(&codes);
    coterie_npy_release(&scales);
}

Test(quantise, decodes_to_what_others_decode)
{
    expect_decoded(COTERIE_DTYPE_INT8_GROUP, "q8_0");
    expect_decoded(COTERIE_DTYPE_INT4, "q4_0");
    expect_decoded(COTERIE_DTYPE_INT4_ZERO, "q4_1");
    expect_decoded(COTERIE_DTYPE_FP8, "fp8");
    expect_decoded(COTERIE_DTYPE_MXFP4, "mxfp4");
}

Test(quantise, of_rows_to_int8_is_within_half_a_step)
{
    coterie_npy_t values = array("values", "");
    coterie_band_t band = encoded(COTERIE_DTYPE_INT8, 0, COTERIE_BAND_ROWS);
    float *decoded = malloc(sizeof(float) * COTERIE_BAND_ROWS * COLUMNS);

    coterie_band_decode(&band, decoded);
    for (size_t i = 0; i < COTERIE_BAND_ROWS * COLUMNS; i++) {
        float step = ((const float *)band.scales)[i / COLUMNS];
        float off = decoded[i] - ((const float *)values.data)[i];
        cr_assert(fabsf(off) <= 0.5f * step * 1.00001f);
        cr_assert(ne(i8, ((const int8_t *)band.elements)[i], -128));
    }
    free(decoded);
    coterie_band_clear(&band);
    coterie_npy_release(&values);
}

Test(quantise, refuses_what_is_not_finite_or_out_of_range)
{
    float values[COLUMNS] = {1};
    for (size_t i = 0; i < DTYPES; i++) {
        coterie_band_t band;
        coterie_status_t with_nan, with_large;
        cr_assert(eq(int, COTERIE_OK,
                     coterie_band_create(all_dtypes[i], COLUMNS, &band)));
        band.rows = 1;
        values[7] = NAN;
        with_nan = coterie_band_encode(&band, values);
        values[7] = 3e38f;
        with_large = coterie_band_encode(&band, values);
        /* What has no scale keeps NaN; f16 is too narrow for the other. */
        cr_expect(eq(int, with_nan, i < 3 ? COTERIE_OK
                                          : COTERIE_ERR_UNSUPPORTED));
        cr_expect(with_large == (i == 1 || (i >= 4 && i <= 6)
                                     ? COTERIE_ERR_UNSUPPORTED
                                     : COTERIE_OK),
                  "dtype %u", all_dtypes[i]);
        coterie_band_clear(&band);
    }
}

Test(quantise, gives_zeros_where_a_scale_is_too_small_to_divide_by)
{
    float values[COLUMNS], decoded[COLUMNS];
    for (size_t i = 0; i < COLUMNS; i++)
        values[i] = i % 2 ? 1e-43f : -2e-43f;
    for (size_t i = 3; i < DTYPES; i++) {
        coterie_band_t band;
        cr_assert(eq(int, COTERIE_OK,
                     coterie_band_create(all_dtypes[i], COLUMNS, &band)));
        band.rows = 1;
        cr_expect(eq(int, COTERIE_OK, coterie_band_encode(&band, values)));
        coterie_band_decode(&band, decoded);
        for (size_t j = 0; j < COLUMNS; j++)
            cr_expect(fabsf(decoded[j]) <= 4e-43f);
        coterie_band_clear(&band);
    }
}

Test(element, survives_widening_and_narrowing_whatever_it_is)
{
    for (uint32_t i = 0; i < 1 << 16; i++) {
        float half = coterie_f16_value((uint16_t)i);
        float brain = coterie_bf16_value((uint16_t)i);
        cr_expect(isnan(half) || coterie_f16_of(half) == i);
        cr_expect(isnan(brain) || coterie_bf16_of(brain) == i);
    }
    for (uint32_t i = 0; i < 256; i++) {
        float value = coterie_e4m3_value((uint8_t)i);
        cr_expect(isnan(value) || coterie_e4m3_of(value) == i);
    }
    for (uint32_t i = 0; i < 16; i++)
        cr_expect(coterie_e2m1_of(coterie_e2m1_value((uint8_t)i)) == i);
}

Test(element, halfway_between_two_goes_to_the_even_one)
{
    cr_expect(eq(u16, coterie_f16_of(65519.9f), 0x7bff));
    cr_expect(eq(u16, coterie_f16_of(65520), 0x7c00));
    cr_expect(eq(u16, coterie_f16_of(0x1p-25f), 0));
    cr_expect(eq(u16, coterie_f16_of(0x1.8p-24f), 2));
    cr_expect(eq(u16, coterie_bf16_of(0x1.01p0f), 0x3f80));
    cr_expect(eq(u16, coterie_bf16_of(0x1.03p0f), 0x3f82));
    cr_expect(eq(u8, coterie_e4m3_of(0x1.1p0f), 0x38));
    cr_expect(eq(u8, coterie_e4m3_of(-0x1.3p0f), 0xba));
    cr_expect(eq(u8, coterie_e4m3_of(1e9f), 0x7e));
    cr_expect(eq(u8, coterie_e2m1_of(2.5f), 4));
    cr_expect(eq(u8, coterie_e2m1_of(-5), 14));
}
