#include "config.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include "base/element.h"
#include "experts/model.h"
#include "tests/models.h"

/* A model, and the file that its tensors are in. */
typedef struct opened {
    coterie_model_t *model;
    char *file;
    json_t *header;
    size_t data; /* where tensors begin */
    uint8_t *record;
} opened_t;

static opened_t open_all(const char *fixture, uint32_t layer, uint32_t expert)
{
    char folder[PATH_SIZE], path[PATH_SIZE];
    uint64_t length;
    size_t size;
    opened_t o;

    fixture_path(fixture, folder);
    path_in(folder, "model.safetensors", path);
    cr_assert(coterie_model_open(folder, &o.model) == COTERIE_OK, "%s",
              coterie_last_error());
    o.file = file_load(path, &size);
    o.header = header_load(path);
    memcpy(&length, o.file, sizeof(length));
    o.data = sizeof(length) + length;
    o.record = malloc(o.model->format.record_size);
    cr_assert(coterie_model_expert(o.model, layer, expert, o.record) ==
                  COTERIE_OK,
              "%s", coterie_last_error());
    return o;
}

static void close_all(opened_t *o)
{
    coterie_model_close(o->model);
    json_decref(o->header);
    free(o->file);
    free(o->record);
}

static const uint8_t *tensor_of(const opened_t *o, const char *name)
{
    const json_t *entry = json_object_get(o->header, name);

    cr_assert(ne(ptr, (void *)entry, NULL), "%s", name);
    return (const uint8_t *)o->file + o->data +
           json_integer_value(
               json_array_get(json_object_get(entry, "data_offsets"), 0));
}

/* A part of a record, in rows again. */
static coterie_band_t rows_of(const opened_t *o, uint32_t part, uint32_t first)
{
    const coterie_expert_format_t *format = &o->model->format;
    coterie_record_part_t p = coterie_record_part(format, part);
    coterie_band_t band;

    cr_assert(coterie_band_create(format->dtype, p.in, &band) == COTERIE_OK);
    band.rows = p.out - first < COTERIE_BAND_ROWS ? p.out - first
                                                  : COTERIE_BAND_ROWS;
    coterie_record_get(format, part, first, o->record, &band);
    return band;
}

Test(quantised, deepseek_v3_keeps_its_fp8_bit_for_bit)
{
    static const char base[] = "model.layers.1.mlp.experts.5.";
    static const char *const parts[] = {"gate_proj", "up_proj", "down_proj"};
    opened_t o = open_all("deepseek-v3-fp8", 0, 5);
    cr_assert(eq(u32, o.model->format.dtype, COTERIE_DTYPE_FP8));
    for (uint32_t part = 0; part < 3; part++) {
        coterie_record_part_t p = coterie_record_part(&o.model->format, part);
        uint64_t blocks = (p.in + 127) / 128;
        char name[128];
        snprintf(name, sizeof(name), "%s%s.weight", base, parts[part]);
        const uint8_t *codes = tensor_of(&o, name);
        snprintf(name, sizeof(name), "%s%s.weight_scale_inv", base,
                 parts[part]);
        const uint8_t *scales = tensor_of(&o, name);
        for (uint32_t first = 0; first < p.out; first += COTERIE_BAND_ROWS) {
            coterie_band_t band = rows_of(&o, part, first);
            cr_expect(eq(int, 0, memcmp(band.elements, codes + first * p.in,
                                        (size_t)band.rows * p.in)));
            cr_expect(eq(int, 0, memcmp(band.scales,
                                        scales + first / 128 * blocks * 4,
                                        blocks * 4)));
            coterie_band_clear(&band);
        }
    }
    close_all(&o);
}

Test(quantised, deepseek_v3_gives_its_other_tensors_decoded)
{
    enum { ROWS = 132, COLUMNS = 32 };
    static const char name[] =
        "model.layers.1.mlp.shared_experts.gate_proj.weight";
    static float found[ROWS * COLUMNS];
    opened_t o = open_all("deepseek-v3-fp8", 0, 0);
    const uint8_t *codes = tensor_of(&o, name);
    float scales[2];
    memcpy(scales,
           tensor_of(&o, "model.layers.1.mlp.shared_experts.gate_proj."
                         "weight_scale_inv"),
           sizeof(scales));
    cr_assert(eq(int, COTERIE_OK,
                 coterie_model_tensor(o.model, name, ROWS * COLUMNS, found)));
    for (size_t i = 0; i < ROWS * COLUMNS; i++)
        cr_assert(eq(flt, found[i],
                     coterie_e4m3_value(codes[i]) *
                         scales[i / COLUMNS / COTERIE_FP8_BLOCK]));
    close_all(&o);
}

Test(quantised, gpt_oss_keeps_its_mxfp4_bit_for_bit)
{
    enum { HIDDEN = 64, FFN = 32, EXPERT = 4 };
    enum { GROUPS = HIDDEN / COTERIE_PANEL_GROUP };
    opened_t o = open_all("gpt-oss", 1, EXPERT);
    const uint8_t *blocks =
        tensor_of(&o, "model.layers.1.mlp.experts.gate_up_proj_blocks") +
        EXPERT * 2 * FFN * HIDDEN / 2;
    const uint8_t *scales =
        tensor_of(&o, "model.layers.1.mlp.experts.gate_up_proj_scales") +
        EXPERT * 2 * FFN * GROUPS;
    cr_assert(eq(u32, o.model->format.dtype, COTERIE_DTYPE_MXFP4));
    for (uint32_t part = 0; part < 2; part++) {
        coterie_band_t band = rows_of(&o, part, 0);
        const uint8_t *codes = band.elements, *powers = band.scales;
        for (uint32_t f = 0; f < FFN; f++) {
            uint32_t row = 2 * f + part; /* gate and up take turns */
            for (uint32_t i = 0; i < HIDDEN; i++)
                cr_assert(eq(u8, codes[f * HIDDEN + i],
                             blocks[(row * HIDDEN + i) / 2] >> i % 2 * 4 &
                                 0xf));
            for (uint32_t g = 0; g < GROUPS; g++)
                cr_assert(eq(u8, powers[f * GROUPS + g],
                             scales[row * GROUPS + g]));
        }
        coterie_band_clear(&band);
    }
    close_all(&o);
}

Test(quantised, gpt_oss_in_bf16_is_the_same_model)
{
    /* Another rounding of the same numbers: a row or column mistaken for
     * another would be far off. */
    opened_t quantised = open_all("gpt-oss", 2, 3);
    opened_t plain = open_all("gpt-oss-bf16", 2, 3);
    for (uint32_t part = 0; part < 3; part++) {
        coterie_band_t a = rows_of(&quantised, part, 0);
        coterie_band_t b = rows_of(&plain, part, 0);
        float *x = malloc(4 * (size_t)a.rows * a.in), *y = malloc(
            4 * (size_t)a.rows * a.in);
        double off = 0, whole = 0;
        coterie_band_decode(&a, x);
        coterie_band_decode(&b, y);
        for (size_t i = 0; i < (size_t)a.rows * a.in; i++) {
            off += (double)(x[i] - y[i]) * (x[i] - y[i]);
            whole += (double)y[i] * y[i];
        }
        cr_expect(lt(dbl, sqrt(off / whole), 0.15));
        free(x);
        free(y);
        coterie_band_clear(&a);
        coterie_band_clear(&b);
    }
    close_all(&quantised);
    close_all(&plain);
}

Test(quantised, gpt_oss_has_its_biases_as_f32_in_the_record)
{
    enum { FFN = 32, EXPERT = 4 };
    opened_t o = open_all("gpt-oss", 1, EXPERT);
    const uint16_t *bias =
        (const uint16_t *)(const void *)tensor_of(
            &o, "model.layers.1.mlp.experts.gate_up_proj_bias") +
        EXPERT * 2 * FFN;
    for (uint32_t part = 0; part < 2; part++) {
        const float *found =
            (const float *)(o.record +
                            coterie_record_part(&o.model->format, part).bias);
        for (uint32_t f = 0; f < FFN; f++) {
            uint16_t right;
            memcpy(&right, bias + 2 * f + part, sizeof(right));
            cr_assert(eq(flt, found[f], coterie_bf16_value(right)));
        }
    }
    close_all(&o);
}

/* Opens a fixture with one tensor renamed or given another shape or dtype. */
static coterie_status_t open_damaged(const char *fixture, const char *tensor,
                                     const char *key, json_t *value)
{
    char folder[PATH_SIZE], path[PATH_SIZE];
    coterie_model_t *model = NULL;
    coterie_status_t status;
    json_t *header;

    fixture_copy(fixture, folder);
    path_in(folder, "model.safetensors", path);
    header = header_load(path);
    if (strcmp(key, "name") == 0) {
        json_object_set(header, json_string_value(value),
                        json_object_get(header, tensor));
        json_object_del(header, tensor);
        json_decref(value);
    } else {
        json_object_set_new(json_object_get(header, tensor), key, value);
    }
    header_save(path, header);
    json_decref(header);
    status = coterie_model_open(folder, &model);
    coterie_model_close(model);
    folder_remove(folder);
    return status;
}

Test(quantised, without_its_scales_or_with_wrong_ones_is_refused)
{
    static const char fp8[] =
        "model.layers.1.mlp.experts.5.up_proj.weight_scale_inv";
    static const char dense[] =
        "model.layers.0.self_attn.o_proj.weight_scale_inv";
    static const char powers[] =
        "model.layers.1.mlp.experts.down_proj_scales";
    cr_expect(eq(int, COTERIE_ERR_NOT_FOUND,
                 open_damaged("deepseek-v3-fp8", fp8, "name",
                              json_string("elsewhere"))));
    cr_expect(eq(int, COTERIE_ERR_MISMATCH,
                 open_damaged("deepseek-v3-fp8", fp8, "shape",
                              json_pack("[i, i]", 1, 2))));
    cr_expect(eq(int, COTERIE_ERR_NOT_FOUND,
                 open_damaged("deepseek-v3-fp8", dense, "name",
                              json_string("elsewhere"))));
    cr_expect(eq(int, COTERIE_ERR_NOT_FOUND,
                 open_damaged("gpt-oss", powers, "name",
                              json_string("elsewhere"))));
    cr_expect(eq(int, COTERIE_ERR_MISMATCH,
                 open_damaged("gpt-oss", powers, "shape",
                              json_pack("[i, i, i]", 6, 1, 64))));
    cr_expect(eq(int, COTERIE_ERR_UNSUPPORTED,
                 open_damaged("gpt-oss", powers, "dtype",
                              json_string("F8_E4M3"))));
}

Test(quantised, layers_that_predict_further_tokens_are_left_out)
{
    json_t *config;
    char folder[PATH_SIZE];
    coterie_model_t *model = NULL;
    fixture_copy("deepseek-v3", folder);
    config = config_load("deepseek-v3");
    json_object_set_new(config, "num_hidden_layers", json_integer(2));
    config_save(folder, config); /* layer 2 is behind the last now */
    cr_expect(eq(int, COTERIE_OK, coterie_model_open(folder, &model)), "%s",
              coterie_last_error());
    coterie_model_close(model);
    json_decref(config);
    folder_remove(folder);
}
