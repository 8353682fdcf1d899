#include "config.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include <coterie/ffn.h>
#include <coterie/model.h>

#include "experts/convert.h"
#include "tests/models.h"

/* A copy of a fixture whose header a test changes. */
typedef struct damaged {
    char folder[PATH_SIZE], path[PATH_SIZE];
    json_t *header;
} damaged_t;

static void expect_failure(const char *folder, coterie_status_t status,
                           const char *first, const char *second);
static void damage_begin(damaged_t *d);
static void damage_end(damaged_t *d, coterie_status_t status,
                       const char *first, const char *second);
static json_t *offsets(json_int_t begin, json_int_t end);
static void expect_entry_refused(const char *key, json_t *value,
                                 coterie_status_t status, const char *says);

/* The name in the header of the fixture that the tests damage. */
static const char victim[] = "model.layers.1.self_attn.k_proj.weight";

Test(model, is_opened_with_the_sizes_of_each_fixture)
{
    static const struct {
        const char *name;
        uint32_t arch, layers, moe_layers, experts, k, ffn, shared, dense;
    } rows[] = {
        {"mixtral", COTERIE_ARCH_MIXTRAL, 3, 3, 4, 2, 48, 0, 0},
        {"qwen2-moe", COTERIE_ARCH_QWEN2_MOE, 3, 2, 6, 3, 16, 40, 64},
        {"qwen2-moe-step", COTERIE_ARCH_QWEN2_MOE, 4, 2, 6, 3, 16, 40, 64},
        {"qwen3-moe", COTERIE_ARCH_QWEN3_MOE, 3, 3, 8, 2, 24, 0, 0},
        {"qwen3-moe-sharded", COTERIE_ARCH_QWEN3_MOE, 3, 3, 8, 2, 24, 0, 0},
        {"olmoe", COTERIE_ARCH_OLMOE, 2, 2, 8, 4, 24, 0, 0},
        {"olmoe-clip", COTERIE_ARCH_OLMOE, 2, 2, 8, 4, 24, 0, 0},
        {"deepseek-v2", COTERIE_ARCH_DEEPSEEK_V2, 3, 2, 8, 3, 20, 40, 64},
        {"deepseek-v2-groups", COTERIE_ARCH_DEEPSEEK_V2, 3, 2, 8, 4, 12, 24,
         64},
        {"deepseek-v3", COTERIE_ARCH_DEEPSEEK_V3, 3, 2, 8, 3, 20, 20, 64},
        {"deepseek-v3-fp8", COTERIE_ARCH_DEEPSEEK_V3, 2, 1, 8, 3, 132, 132,
         64},
        {"gpt-oss", COTERIE_ARCH_GPT_OSS, 3, 3, 6, 3, 32, 0, 0},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        coterie_model_t *model = NULL;
        coterie_model_config_t c;
        char path[PATH_SIZE];
        fixture_path(rows[i].name, path);
        cr_assert(eq(int, COTERIE_OK, coterie_model_open(path, &model)), "%s",
                  coterie_last_error());
        coterie_model_config(model, &c);
        cr_expect(eq(u32, c.arch, rows[i].arch));
        cr_expect(eq(u32, c.layers, rows[i].layers));
        cr_expect(eq(u32, c.moe_layers, rows[i].moe_layers));
        cr_expect(eq(u32, c.experts, rows[i].experts));
        cr_expect(eq(u32, c.k, rows[i].k));
        cr_expect(eq(u32, c.ffn, rows[i].ffn));
        cr_expect(eq(u32, c.shared_ffn, rows[i].shared));
        cr_expect(eq(u32, c.dense_ffn, rows[i].dense));
        cr_expect(eq(u32, c.vocab, 256));
        cr_expect(eq(u32, c.hidden,
                     rows[i].arch == COTERIE_ARCH_GPT_OSS ? 64 : 32));
        coterie_model_close(model);
    }
}

Test(model, maps_moe_layers_to_layers_and_back)
{
    coterie_model_t *model = NULL;
    char path[PATH_SIZE];
    fixture_path("qwen2-moe-step", path); /* experts in layers 1 and 3 */
    cr_assert(eq(int, COTERIE_OK, coterie_model_open(path, &model)));
    cr_expect(eq(u32, coterie_model_layer_of(model, 0), 1));
    cr_expect(eq(u32, coterie_model_layer_of(model, 1), 3));
    cr_expect(eq(u32, coterie_model_layer_of(model, 2), COTERIE_NO_LAYER));
    cr_expect(eq(u32, coterie_model_moe_layer_of(model, 3), 1));
    cr_expect(eq(u32, coterie_model_moe_layer_of(model, 2), COTERIE_NO_LAYER));
    cr_expect(eq(u32, coterie_model_moe_layer_of(model, 4), COTERIE_NO_LAYER));
    coterie_model_close(model);
}

Test(model, lays_an_expert_out_as_gate_up_down_with_zero_gaps)
{
    static const char *const parts[] = {"w1", "w3", "w2"};
    coterie_model_t *model = NULL;
    coterie_expert_format_t format;
    char folder[PATH_SIZE], path[PATH_SIZE], name[128];
    size_t size, length;
    char *file, *record, *expected;
    json_t *header;

    fixture_path("mixtral", folder);
    cr_assert(eq(int, COTERIE_OK, coterie_model_open(folder, &model)));
    coterie_model_expert_format(model, &format);
    record = malloc(format.record_size);
    expected = calloc(1, format.record_size);
    cr_assert(eq(int, COTERIE_OK, coterie_model_expert(model, 2, 3, record)));
    path_in(folder, "model.safetensors", path);
    header = header_load(path);
    file = file_load(path, &size);
    memcpy(&length, file, sizeof(length));
    for (int part = 0; part < 3; part++) {
        const uint64_t to[] = {format.gate_offset, format.up_offset,
                               format.down_offset};
        snprintf(name, sizeof(name),
                 "model.layers.2.block_sparse_moe.experts.3.%s.weight",
                 parts[part]);
        json_t *place =
            json_object_get(json_object_get(header, name), "data_offsets");
        coterie_panels_pack(
            format.dtype, part == 2 ? 32 : 48, part == 2 ? 48 : 32,
            file + 8 + length +
                json_integer_value(json_array_get(place, 0)),
            NULL, expected + to[part]);
    }
    cr_expect(eq(int, memcmp(record, expected, format.record_size), 0));
    cr_expect(eq(u64, format.record_size % 4096, 0));
    cr_expect(eq(u64, format.down_offset % 64, 0));
    json_decref(header);
    free(file);
    free(record);
    free(expected);
    coterie_model_close(model);
}

Test(model, reads_from_f16_shards_what_its_twin_of_one_bf16_file_holds)
{
    enum { COUNT = 256 * 32 };
    static float head[2][COUNT];
    static const char *const twins[] = {"qwen3-moe-sharded", "qwen3-moe"};
    coterie_model_t *model = NULL;
    char path[PATH_SIZE];
    for (int i = 0; i < 2; i++) {
        fixture_path(twins[i], path);
        cr_assert(eq(int, COTERIE_OK, coterie_model_open(path, &model)));
        cr_expect(eq(int, COTERIE_OK,
                     coterie_model_tensor(model, "lm_head.weight", COUNT,
                                          head[i])));
        coterie_model_close(model);
    }
    for (int i = 0; i < COUNT; i++) /* both were rounded from the same f32 */
        cr_expect(fabsf(head[0][i] - head[1][i]) <=
                  fabsf(head[0][i]) / 256 + 1e-6f);
}

Test(model, refuses_a_tensor_of_another_size_than_the_caller_expects)
{
    coterie_model_t *model = NULL;
    char path[PATH_SIZE];
    float norm[33] = {7};
    fixture_path("qwen3-moe", path);
    cr_assert(eq(int, COTERIE_OK, coterie_model_open(path, &model)));
    cr_expect(eq(int, COTERIE_ERR_MISMATCH,
                 coterie_model_tensor(model, "model.norm.weight", 33, norm)));
    cr_expect(eq(flt, norm[0], 7));
    coterie_model_close(model);
}

Test(model, whose_file_shrinks_while_open_gives_an_error)
{
    coterie_model_t *model = NULL;
    coterie_expert_format_t format;
    char folder[PATH_SIZE], path[PATH_SIZE];
    fixture_copy("mixtral", folder);
    cr_assert(eq(int, COTERIE_OK, coterie_model_open(folder, &model)));
    coterie_model_expert_format(model, &format);
    void *record = malloc(format.record_size);
    path_in(folder, "model.safetensors", path);
    cr_assert(eq(int, truncate(path, 9000), 0));
    cr_expect(eq(int, COTERIE_ERR_IO,
                 coterie_model_expert(model, 2, 3, record)));
    free(record);
    coterie_model_close(model);
    folder_remove(folder);
}

Test(model, gives_no_tensor_of_a_routed_expert)
{
    coterie_model_t *model = NULL;
    char path[PATH_SIZE];
    float out = 7;
    fixture_path("qwen3-moe", path);
    cr_assert(eq(int, COTERIE_OK, coterie_model_open(path, &model)));
    cr_expect(eq(int, COTERIE_ERR_NOT_FOUND,
                 coterie_model_tensor(
                     model, "model.layers.0.mlp.experts.0.up_proj.weight", 768,
                     &out)));
    cr_expect(eq(flt, out, 7));
    cr_expect(eq(int, COTERIE_ERR_INVALID,
                 coterie_model_expert(model, 3, 0, &out)));
    cr_expect(eq(int, COTERIE_ERR_INVALID,
                 coterie_model_expert(model, 0, 8, &out)));
    coterie_model_close(model);
}

Test(model, with_tied_embeddings_gives_them_as_its_head)
{
    enum { COUNT = 256 * 32 };
    static float head[COUNT], embeddings[COUNT];
    coterie_model_t *model = NULL;
    char folder[PATH_SIZE];
    json_t *config = config_load("olmoe");
    folder_make(folder);
    json_object_set_new(config, "tie_word_embeddings", json_true());
    model_write(folder, config, COTERIE_DTYPE_BF16);
    cr_assert(eq(int, COTERIE_OK, coterie_model_open(folder, &model)), "%s",
              coterie_last_error());
    cr_expect(eq(int, COTERIE_OK, coterie_model_tensor(model, "lm_head.weight",
                                                       COUNT, head)));
    coterie_model_tensor(model, "model.embed_tokens.weight", COUNT,
                         embeddings);
    cr_expect(eq(int, memcmp(head, embeddings, sizeof(head)), 0));
    coterie_model_close(model);
    folder_remove(folder);
}

Test(f16, widens_to_the_same_value_whatever_it_is)
{
    enum { COUNT = 1 << 16 };
    static float out[COUNT];
    for (uint32_t i = 0; i < COUNT; i++)
        ((uint16_t *)out)[COUNT + i] = (uint16_t)i;
    coterie_widen(COTERIE_DTYPE_F16, COUNT, out);
    for (uint32_t i = 0; i < COUNT; i++) {
        int exponent = i >> 10 & 31, fraction = i & 1023;
        double value = exponent == 0 ? ldexp(fraction, -24)
                                     : ldexp(1024 + fraction, exponent - 25);
        if (exponent == 31)
            value = fraction == 0 ? INFINITY : NAN;
        cr_expect(isnan(value) ? isnan(out[i]) : fabsf(out[i]) == value, "%x",
                  i);
        cr_expect(eq(int, signbit(out[i]) != 0, i >> 15 & 1));
    }
}

Test(safetensors, that_is_cut_short_is_refused_wherever_it_is_cut)
{
    char folder[PATH_SIZE], path[PATH_SIZE];
    size_t size;
    fixture_copy("mixtral", folder);
    path_in(folder, "model.safetensors", path);
    free(file_load(path, &size));
    const size_t cuts[] = {size - 1, size / 2, 4000, 9, 8, 7, 0};
    for (size_t i = 0; i < sizeof(cuts) / sizeof(cuts[0]); i++) {
        cr_assert(eq(int, truncate(path, (off_t)cuts[i]), 0));
        expect_failure(folder, COTERIE_ERR_FORMAT, path, "");
    }
    folder_remove(folder);
}

Test(safetensors, with_bytes_after_its_tensors_is_refused)
{
    char folder[PATH_SIZE], path[PATH_SIZE];
    size_t size;
    fixture_copy("mixtral", folder);
    path_in(folder, "model.safetensors", path);
    free(file_load(path, &size));
    cr_assert(eq(int, truncate(path, (off_t)size + 3), 0));
    expect_failure(folder, COTERIE_ERR_FORMAT, "3 bytes follow", "");
    folder_remove(folder);
}

Test(safetensors, whose_header_is_longer_than_the_file_is_refused)
{
    static const uint64_t lengths[] = {1 << 20, (uint64_t)1 << 40, UINT64_MAX};
    char folder[PATH_SIZE], path[PATH_SIZE];
    size_t size;
    fixture_copy("mixtral", folder);
    path_in(folder, "model.safetensors", path);
    char *data = file_load(path, &size);
    for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
        memcpy(data, &lengths[i], sizeof(lengths[i]));
        file_save(path, data, size);
        expect_failure(folder, COTERIE_ERR_FORMAT, "the header claims", path);
    }
    free(data);
    folder_remove(folder);
}

Test(safetensors, whose_header_is_no_json_is_refused)
{
    char folder[PATH_SIZE], path[PATH_SIZE];
    fixture_copy("mixtral", folder);
    path_in(folder, "model.safetensors", path);
    file_flip(path, 8); /* the opening brace */
    expect_failure(folder, COTERIE_ERR_FORMAT, "no JSON object", path);
    folder_remove(folder);
}

Test(safetensors, with_offsets_that_lie_is_refused)
{
    const json_int_t huge = INT64_MAX;
    expect_entry_refused("data_offsets", offsets(0, 1024), COTERIE_ERR_FORMAT,
                         "");
    expect_entry_refused("data_offsets", offsets(8, 4), COTERIE_ERR_FORMAT,
                         "data_offsets");
    expect_entry_refused("data_offsets", offsets(-8, 8), COTERIE_ERR_FORMAT,
                         "data_offsets");
    expect_entry_refused("data_offsets", offsets(huge - 1024, huge),
                         COTERIE_ERR_FORMAT, "data_offsets");
    expect_entry_refused("data_offsets", json_string("0"), COTERIE_ERR_FORMAT,
                         "data_offsets");
}

Test(safetensors, with_a_shape_that_does_not_fit_its_bytes_is_refused)
{
    const json_int_t huge = (json_int_t)1 << 62;
    expect_entry_refused("shape", json_pack("[i, i]", 16, 31),
                         COTERIE_ERR_FORMAT, "992");
    expect_entry_refused("shape", json_pack("[I, I]", huge, huge),
                         COTERIE_ERR_FORMAT, "dimension 0");
    expect_entry_refused("shape", json_pack("[i]", -1), COTERIE_ERR_FORMAT,
                         "dimension 0");
    expect_entry_refused("shape", json_null(), COTERIE_ERR_FORMAT, "no shape");
}

Test(safetensors, of_an_unsupported_dtype_is_refused_by_name)
{
    expect_entry_refused("dtype", json_string("F8_E5M2"),
                         COTERIE_ERR_UNSUPPORTED, "F8_E5M2");
}

Test(safetensors, with_a_tensor_of_another_shape_is_refused_with_both)
{
    expect_entry_refused("shape", json_pack("[i, i]", 32, 16),
                         COTERIE_ERR_MISMATCH, "[32, 16]");
    cr_expect(ne(ptr, strstr((char *)coterie_last_error(), "[16, 32]"), NULL));
}

Test(safetensors, without_a_tensor_is_refused_and_names_it)
{
    static const char *const names[] = {
        "model.norm.weight", "lm_head.weight",
        "model.layers.1.block_sparse_moe.experts.2.w3.weight"};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        damaged_t d;
        damage_begin(&d);
        json_t *entry = json_incref(json_object_get(d.header, names[i]));
        json_object_del(d.header, names[i]);
        json_object_set_new(d.header, "other.rotary_emb.inv_freq", entry);
        damage_end(&d, COTERIE_ERR_NOT_FOUND, names[i], "missing");
    }
}

Test(safetensors, with_a_tensor_that_nothing_reads_is_refused)
{
    damaged_t d;
    damage_begin(&d);
    json_object_set_new(d.header, "model.layers.0.self_attn.q_proj.bias",
                        json_pack("{s:s, s:[i], s:[i, i]}", "dtype", "F32",
                                  "shape", 0, "data_offsets", 0, 0));
    damage_end(&d, COTERIE_ERR_UNSUPPORTED, "q_proj.bias", "mixtral");
}

Test(safetensors, of_experts_in_two_dtypes_is_refused)
{
    damaged_t d;
    damage_begin(&d);
    json_object_set_new(
        json_object_get(d.header,
                        "model.layers.1.block_sparse_moe.experts.2.w3.weight"),
        "dtype", json_string("F16"));
    damage_end(&d, COTERIE_ERR_UNSUPPORTED, "experts.2.w3", "one dtype");
}

Test(safetensors, reads_alike_when_its_data_are_not_aligned)
{
    coterie_model_t *even = NULL, *odd = NULL;
    char folder[PATH_SIZE], path[PATH_SIZE];
    float a[32], b[32];
    fixture_copy("qwen2-moe", folder); /* f32 */
    path_in(folder, "model.safetensors", path);
    json_t *header = header_load(path);
    char *text = json_dumps(header, JSON_COMPACT);
    if (strlen(text) % 2 == 0)
        json_object_set_new(json_object_get(header, "__metadata__"), "odd",
                            json_string(""));
    header_save(path, header);
    free(text);
    json_decref(header);
    cr_assert(eq(int, COTERIE_OK, coterie_model_open(folder, &odd)), "%s",
              coterie_last_error());
    fixture_path("qwen2-moe", path);
    cr_assert(eq(int, COTERIE_OK, coterie_model_open(path, &even)));
    coterie_model_tensor(odd, "model.norm.weight", 32, a);
    coterie_model_tensor(even, "model.norm.weight", 32, b);
    cr_expect(eq(int, memcmp(a, b, sizeof(a)), 0));
    coterie_model_close(odd);
    coterie_model_close(even);
    folder_remove(folder);
}

Test(shards, that_are_missing_or_escape_the_folder_are_refused)
{
    static const char shard[] = "model-00003-of-00004.safetensors";
    char folder[PATH_SIZE], path[PATH_SIZE], index[PATH_SIZE];
    fixture_copy("qwen3-moe-sharded", folder);
    path_in(folder, shard, path);
    unlink(path);
    expect_failure(folder, COTERIE_ERR_NOT_FOUND, shard, "");
    path_in(folder, "model.safetensors.index.json", index);
    json_t *root = json_load_file(index, 0, NULL);
    json_object_set_new(json_object_get(root, "weight_map"), "lm_head.weight",
                        json_string("../model.safetensors"));
    json_dump_file(root, index, 0);
    expect_failure(folder, COTERIE_ERR_FORMAT, "lm_head.weight", index);
    json_decref(root);
    folder_remove(folder);
}

Test(shards, that_lack_what_the_index_promises_are_refused)
{
    char folder[PATH_SIZE], index[PATH_SIZE];
    fixture_copy("qwen3-moe-sharded", folder);
    path_in(folder, "model.safetensors.index.json", index);
    json_t *root = json_load_file(index, 0, NULL);
    json_object_set_new(json_object_get(root, "weight_map"), "lm_head.weight",
                        json_string("model-00001-of-00004.safetensors"));
    json_dump_file(root, index, 0);
    expect_failure(folder, COTERIE_ERR_NOT_FOUND, "lm_head.weight",
                   "model-00001-of-00004");
    json_decref(root);
    folder_remove(folder);
}

Test(model, that_is_not_there_or_is_something_else_is_refused)
{
    char folder[PATH_SIZE], path[PATH_SIZE];
    folder_make(folder);
    expect_failure(folder, COTERIE_ERR_NOT_FOUND, "config.json", "");
    json_t *empty = json_object();
    config_save(folder, empty);
    json_decref(empty);
    expect_failure(folder, COTERIE_ERR_NOT_FOUND, "model.safetensors", "");
    path_in(folder, "nowhere", path);
    expect_failure(path, COTERIE_ERR_NOT_FOUND, path, "");
    path_in(folder, "config.json", path);
    expect_failure(path, COTERIE_ERR_FORMAT, path, "neither");
    folder_remove(folder);
}

/* Opening fails with the status, one line that has both texts, and the
 * handle untouched. */
static void expect_failure(const char *folder, coterie_status_t status,
                           const char *first, const char *second)
{
    coterie_model_t *model = NULL;
    const char *line;

    cr_expect(eq(int, status, coterie_model_open(folder, &model)));
    line = coterie_last_error();
    cr_expect(zero(ptr, model));
    cr_expect(strstr(line, first) != NULL && strstr(line, second) != NULL,
              "%s", line);
    cr_expect(strchr(line, '\n') == NULL);
}

static json_t *offsets(json_int_t begin, json_int_t end)
{
    return json_pack("[I, I]", begin, end);
}

static void damage_begin(damaged_t *d)
{
    fixture_copy("mixtral", d->folder);
    path_in(d->folder, "model.safetensors", d->path);
    d->header = header_load(d->path);
}

static void damage_end(damaged_t *d, coterie_status_t status,
                       const char *first, const char *second)
{
    header_save(d->path, d->header);
    expect_failure(d->folder, status, first, second);
    json_decref(d->header);
    folder_remove(d->folder);
}

/* One value of the victim's entry in the header is replaced. */
static void expect_entry_refused(const char *key, json_t *value,
                                 coterie_status_t status, const char *says)
{
    damaged_t d;

    damage_begin(&d);
    json_object_set_new(json_object_get(d.header, victim), key, value);
    damage_end(&d, status, says, d.folder);
}
