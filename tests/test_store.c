#include "config.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include <coterie/model.h>

#include "experts/model.h"
#include "experts/store.h"
#include "tests/models.h"

static coterie_status_t pack(const char *from, const char *to, uint32_t force);
static void store_make(const char *fixture, char folder[PATH_SIZE],
                       char path[PATH_SIZE]);
static coterie_model_t *open_or_fail(const char *path);
static void expect_same_experts(const coterie_model_t *a,
                                const coterie_model_t *b);
static void expect_same_tensors(const coterie_model_t *a,
                                const coterie_model_t *b);
static json_t *index_load(const char *path);
static void index_save(const char *path, const json_t *index);
static uint64_t place_of(const char *path, const char *list, size_t ordinal);
static void count_progress(void *arg, uint64_t done, uint64_t total);
static size_t entries_in(const char *folder);

Test(store, gives_back_every_fixture_bit_for_bit)
{
    char folder[PATH_SIZE], path[PATH_SIZE], from[PATH_SIZE];
    folder_make(folder);
    path_in(folder, "store", path);
    for (size_t i = 0; fixture_names[i] != NULL; i++) {
        coterie_model_config_t a, b;
        fixture_path(fixture_names[i], from);
        cr_assert(eq(int, COTERIE_OK, pack(from, path, 1)), "%s",
                  coterie_last_error());
        coterie_model_t *model = open_or_fail(from);
        coterie_model_t *store = open_or_fail(path);
        coterie_model_config(model, &a);
        coterie_model_config(store, &b);
        cr_expect(eq(int, memcmp(&a, &b, sizeof(a)), 0));
        expect_same_experts(model, store);
        expect_same_tensors(model, store);
        coterie_model_close(model);
        coterie_model_close(store);
    }
    folder_remove(folder);
}

Test(store, packed_from_a_store_is_the_same_file)
{
    char folder[PATH_SIZE], first[PATH_SIZE], second[PATH_SIZE];
    size_t size, again;
    store_make("qwen2-moe", folder, first);
    path_in(folder, "second", second);
    cr_expect(eq(int, COTERIE_OK, pack(first, second, 0)));
    void *a = file_load(first, &size), *b = file_load(second, &again);
    cr_assert(eq(sz, size, again));
    cr_expect(eq(int, memcmp(a, b, size), 0));
    free(a);
    free(b);
    folder_remove(folder);
}

Test(store, has_contiguous_aligned_records)
{
    char folder[PATH_SIZE], path[PATH_SIZE];
    coterie_expert_format_t format;
    store_make("mixtral", folder, path);
    coterie_model_t *store = open_or_fail(path);
    coterie_model_expert_format(store, &format);
    for (size_t i = 0; i < 12; i++)
        cr_expect(eq(u64, place_of(path, "records", i),
                     4096 + i * format.record_size));
    coterie_model_close(store);
    folder_remove(folder);
}

Test(store, names_the_expert_and_the_chunk_that_went_bad)
{
    char folder[PATH_SIZE], path[PATH_SIZE];
    coterie_expert_format_t format;
    json_t *config = config_load("mixtral");
    folder_make(folder);
    path_in(folder, "store", path);
    json_object_set_new(config, "num_hidden_layers", json_integer(2));
    json_object_set_new(config, "num_local_experts", json_integer(2));
    json_object_set_new(config, "intermediate_size", json_integer(16384));
    model_write(folder, config, COTERIE_DTYPE_F16); /* 3 MiB an expert */
    cr_assert(eq(int, COTERIE_OK, pack(folder, path, 0)), "%s",
              coterie_last_error());
    file_flip(path, place_of(path, "records", 3) + (2 << 20) + 5);
    coterie_model_t *store = open_or_fail(path);
    coterie_model_expert_format(store, &format);
    char *record = malloc(format.record_size);
    cr_expect(eq(int, COTERIE_OK, coterie_model_expert(store, 1, 0, record)));
    cr_expect(eq(int, COTERIE_ERR_CORRUPT,
                 coterie_model_expert(store, 1, 1, record)));
    cr_expect(ne(ptr, strstr((char *)coterie_last_error(),
                             "expert (1, 1): chunk 3 of 3"), NULL));
    free(record);
    coterie_model_close(store);
    folder_remove(folder);
}

Test(store, names_the_tensor_that_went_bad)
{
    char folder[PATH_SIZE], path[PATH_SIZE];
    static float head[256 * 32];
    store_make("olmoe", folder, path);
    file_flip(path, place_of(path, "tensors", 0)); /* lm_head is the first */
    coterie_model_t *store = open_or_fail(path);
    cr_expect(eq(int, COTERIE_ERR_CORRUPT,
                 coterie_model_tensor(store, "lm_head.weight", 256 * 32,
                                      head)));
    cr_expect(ne(ptr, strstr((char *)coterie_last_error(), "lm_head.weight"),
                 NULL));
    coterie_model_close(store);
    folder_remove(folder);
}

Test(store, is_refused_when_its_head_or_index_went_bad)
{
    char folder[PATH_SIZE], path[PATH_SIZE];
    coterie_store_head_t head;
    coterie_model_t *store = NULL;
    size_t size;
    store_make("olmoe", folder, path);
    char *data = file_load(path, &size);
    memcpy(&head, data, sizeof(head));
    const struct {
        size_t flip;
        coterie_status_t status;
    } cases[] = {{0, COTERIE_ERR_FORMAT},   /* magic */
                 {17, COTERIE_ERR_CORRUPT}, /* index_offset */
                 {head.index_offset + 99, COTERIE_ERR_CORRUPT}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        file_flip(path, cases[i].flip);
        cr_expect(eq(int, cases[i].status, coterie_model_open(path, &store)));
        file_flip(path, cases[i].flip);
    }
    file_save(path, data, size - 1);
    cr_expect(eq(int, COTERIE_ERR_FORMAT, coterie_model_open(path, &store)));
    file_save(path, data, 5000);
    cr_expect(eq(int, COTERIE_ERR_FORMAT, coterie_model_open(path, &store)));
    cr_expect(zero(ptr, store));
    free(data);
    folder_remove(folder);
}

Test(store, of_another_layout_names_the_command_that_repacks)
{
    char folder[PATH_SIZE], path[PATH_SIZE];
    coterie_model_t *store = NULL;
    store_make("olmoe", folder, path);
    json_t *index = index_load(path);
    json_t *records =
        json_object_get(json_object_get(index, "experts"), "records");
    json_object_set_new(json_array_get(records, 9), "layout", json_integer(1));
    index_save(path, index);
    cr_expect(eq(int, COTERIE_ERR_UNSUPPORTED,
                 coterie_model_open(path, &store)));
    cr_expect(ne(ptr, strstr((char *)coterie_last_error(), "expert (1, 1)"),
                 NULL));
    cr_expect(ne(ptr, strstr((char *)coterie_last_error(), "coterie pack"),
                 NULL));
    json_decref(index);
    folder_remove(folder);
}

Test(store, whose_records_lie_outside_or_are_too_few_is_refused)
{
    char folder[PATH_SIZE], path[PATH_SIZE];
    coterie_model_t *store = NULL;
    store_make("olmoe", folder, path);
    json_t *index = index_load(path);
    json_t *records =
        json_object_get(json_object_get(index, "experts"), "records");
    json_t *last = json_array_get(records, 15);
    const json_int_t offsets[] = {1LL << 62, 4097, 0, -4096};
    for (size_t i = 0; i < sizeof(offsets) / sizeof(offsets[0]); i++) {
        json_object_set_new(last, "offset", json_integer(offsets[i]));
        index_save(path, index);
        cr_expect(eq(int, COTERIE_ERR_FORMAT,
                     coterie_model_open(path, &store)));
    }
    json_array_remove(records, 15);
    index_save(path, index);
    cr_expect(eq(int, COTERIE_ERR_FORMAT, coterie_model_open(path, &store)));
    json_decref(index);
    folder_remove(folder);
}

Test(pack, keeps_an_existing_file_unless_forced)
{
    char folder[PATH_SIZE], path[PATH_SIZE], from[PATH_SIZE];
    size_t size;
    folder_make(folder);
    path_in(folder, "store", path);
    fixture_path("olmoe", from);
    file_save(path, "mine", 4);
    cr_expect(eq(int, COTERIE_ERR_EXISTS, pack(from, path, 0)));
    free(file_load(path, &size));
    cr_expect(eq(sz, size, 4));
    cr_expect(eq(int, COTERIE_OK, pack(from, path, 1)));
    cr_expect(eq(sz, entries_in(folder), 1));
    folder_remove(folder);
}

Test(pack, leaves_nothing_where_it_cannot_write)
{
    char folder[PATH_SIZE], path[PATH_SIZE], from[PATH_SIZE];
    folder_make(folder);
    fixture_path("olmoe", from);
    path_in(folder, "nowhere/store", path);
    cr_expect(eq(int, COTERIE_ERR_IO, pack(from, path, 0)));
    cr_expect(ne(ptr, strstr((char *)coterie_last_error(), path), NULL));
    cr_expect(eq(sz, entries_in(folder), 0));
    folder_remove(folder);
}

Test(pack, leaves_nothing_when_the_disk_is_full)
{
    char folder[PATH_SIZE], path[PATH_SIZE], from[PATH_SIZE];
    struct rlimit limit = {100000, 100000};
    folder_make(folder);
    path_in(folder, "store", path);
    fixture_path("olmoe", from);
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &limit); /* this test's process only */
    cr_expect(eq(int, COTERIE_ERR_IO, pack(from, path, 0)));
    cr_expect(ne(ptr, strstr((char *)coterie_last_error(), path), NULL));
    cr_expect(eq(sz, entries_in(folder), 0));
    folder_remove(folder);
}

Test(pack, leaves_nothing_when_the_source_is_corrupt)
{
    char folder[PATH_SIZE], path[PATH_SIZE], copy[PATH_SIZE];
    store_make("olmoe", folder, path);
    path_in(folder, "copy", copy);
    file_flip(path, place_of(path, "records", 15));
    cr_expect(eq(int, COTERIE_ERR_CORRUPT, pack(path, copy, 0)));
    cr_expect(eq(sz, entries_in(folder), 1));
    folder_remove(folder);
}

Test(pack, reports_its_progress_up_to_the_end)
{
    char folder[PATH_SIZE], path[PATH_SIZE], from[PATH_SIZE];
    coterie_pack_options_t options = COTERIE_PACK_OPTIONS_INIT;
    uint64_t seen[2] = {0, 0};
    folder_make(folder);
    path_in(folder, "store", path);
    fixture_path("deepseek-v2", from);
    coterie_model_t *model = open_or_fail(from);
    options.progress = count_progress;
    options.progress_arg = seen;
    cr_expect(eq(int, COTERIE_OK, coterie_model_pack(model, path, &options)));
    cr_expect(gt(u64, seen[0], 0));
    cr_expect(eq(u64, seen[0], seen[1]));
    coterie_model_close(model);
    folder_remove(folder);
}

Test(pack, to_every_dtype_says_what_was_lost)
{
    char folder[PATH_SIZE], path[PATH_SIZE], from[PATH_SIZE];
    coterie_model_t *model, *store = NULL;
    folder_make(folder);
    path_in(folder, "store", path);
    path_in(getenv("COTERIE_EXAMPLES"), "tiny-moe", from);
    model = open_or_fail(from);
    for (uint32_t dtype = COTERIE_DTYPE_F32; dtype <= COTERIE_DTYPE_MXFP4;
         dtype++) {
        coterie_pack_options_t options = COTERIE_PACK_OPTIONS_INIT;
        int same = dtype == model->format.dtype;
        char text[512];
        options.dtype = dtype;
        options.force = 1;
        cr_assert(eq(int, COTERIE_OK,
                     coterie_model_pack(model, path, &options)));
        store = open_or_fail(path);
        cr_expect(eq(u32, store->format.dtype, dtype));
        cr_expect(eq(u32, store->format.packed_from,
                     same ? 0 : model->format.dtype));
        cr_expect(lt(flt, store->format.error, 0.15f));
        cr_expect(dtype < COTERIE_DTYPE_INT8 || store->format.error > 0.001f);
        coterie_model_describe(store, text, sizeof(text));
        cr_expect(ne(ptr, strstr(text, coterie_dtype_name(dtype)), NULL));
        expect_same_tensors(model, store);
        coterie_model_close(store);
    }
    coterie_model_close(model);
    folder_remove(folder);
}

Test(pack, of_a_quantised_store_is_the_same_file)
{
    char folder[PATH_SIZE], first[PATH_SIZE], second[PATH_SIZE];
    char from[PATH_SIZE];
    coterie_pack_options_t options = COTERIE_PACK_OPTIONS_INIT;
    size_t size, again;
    folder_make(folder);
    path_in(folder, "first", first);
    path_in(folder, "second", second);
    fixture_path("gpt-oss-bf16", from);
    coterie_model_t *model = open_or_fail(from);
    options.dtype = COTERIE_DTYPE_INT4_ZERO;
    cr_assert(eq(int, COTERIE_OK, coterie_model_pack(model, first, &options)));
    coterie_model_close(model);
    cr_expect(eq(int, COTERIE_OK, pack(first, second, 0)));
    void *a = file_load(first, &size), *b = file_load(second, &again);
    cr_assert(eq(sz, size, again));
    cr_expect(eq(int, memcmp(a, b, size), 0));
    free(a);
    free(b);
    folder_remove(folder);
}

Test(pack, refuses_a_dtype_that_cannot_hold_the_experts)
{
    char folder[PATH_SIZE], path[PATH_SIZE], from[PATH_SIZE];
    coterie_pack_options_t options = COTERIE_PACK_OPTIONS_INIT;
    folder_make(folder);
    path_in(folder, "store", path);
    fixture_path("mixtral", from); /* its ffn is 48 */
    coterie_model_t *model = open_or_fail(from);
    options.dtype = COTERIE_DTYPE_INT4;
    cr_expect(eq(int, COTERIE_ERR_UNSUPPORTED,
                 coterie_model_pack(model, path, &options)));
    options.dtype = COTERIE_DTYPE_MXFP4 + 1;
    cr_expect(eq(int, COTERIE_ERR_INVALID,
                 coterie_model_pack(model, path, &options)));
    cr_expect(eq(sz, entries_in(folder), 0));
    coterie_model_close(model);
    folder_remove(folder);
}

static coterie_status_t pack(const char *from, const char *to, uint32_t force)
{
    coterie_pack_options_t options = COTERIE_PACK_OPTIONS_INIT;
    coterie_model_t *model = open_or_fail(from);
    coterie_status_t status;

    options.force = force;
    status = coterie_model_pack(model, to, &options);
    coterie_model_close(model);
    return status;
}

/* A new folder with the fixture's store in it. */
static void store_make(const char *fixture, char folder[PATH_SIZE],
                       char path[PATH_SIZE])
{
    char from[PATH_SIZE];

    fixture_path(fixture, from);
    folder_make(folder);
    path_in(folder, "store", path);
    cr_assert(pack(from, path, 0) == COTERIE_OK, "%s", coterie_last_error());
}

static coterie_model_t *open_or_fail(const char *path)
{
    coterie_model_t *model = NULL;

    cr_assert(coterie_model_open(path, &model) == COTERIE_OK, "%s",
              coterie_last_error());
    return model;
}

static void expect_same_experts(const coterie_model_t *a,
                                const coterie_model_t *b)
{
    const coterie_model_config_t *config = &a->shape.config;
    uint64_t size = a->format.record_size;
    char *x = malloc(size), *y = malloc(size);

    for (uint32_t l = 0; l < config->moe_layers; l++)
        for (uint32_t e = 0; e < config->experts; e++) {
            memset(x, 1, size); /* what is not written would differ */
            memset(y, 2, size);
            cr_expect(coterie_model_expert(a, l, e, x) == COTERIE_OK);
            cr_expect(coterie_model_expert(b, l, e, y) == COTERIE_OK);
            cr_expect(memcmp(x, y, size) == 0, "(%u, %u)", l, e);
        }
    free(x);
    free(y);
}

static void expect_same_tensors(const coterie_model_t *a,
                                const coterie_model_t *b)
{
    const coterie_tensors_t *tensors = &a->source->tensors;

    for (size_t i = 0; i < tensors->count; i++) {
        const coterie_tensor_t *t = &tensors->items[i];
        uint64_t count = t->size / coterie_tensor_element(t->dtype);
        if (t->role != COTERIE_TENSOR_DENSE)
            continue;
        float *x = malloc(count * sizeof(*x)), *y = malloc(count * sizeof(*y));
        cr_expect(coterie_model_tensor(a, t->name, count, x) == COTERIE_OK);
        cr_expect(coterie_model_tensor(b, t->name, count, y) == COTERIE_OK);
        cr_expect(memcmp(x, y, count * sizeof(*x)) == 0, "%s", t->name);
        free(x);
        free(y);
    }
}

static json_t *index_load(const char *path)
{
    size_t size;
    char *data = file_load(path, &size);
    coterie_store_head_t head;
    json_t *index;

    memcpy(&head, data, sizeof(head));
    index = json_loadb(data + head.index_offset, head.index_size, 0, NULL);
    free(data);
    cr_assert(index != NULL);
    return index;
}

/* With right checksums: what is wrong is inside. */
static void index_save(const char *path, const json_t *index)
{
    char *text = json_dumps(index, JSON_COMPACT), *data;
    coterie_store_head_t head;
    size_t size, length = strlen(text);

    data = file_load(path, &size);
    memcpy(&head, data, sizeof(head));
    head.index_size = length;
    head.index_hash = coterie_store_hash(text, length);
    head.head_hash = coterie_store_head_hash(&head);
    data = realloc(data, head.index_offset + length);
    memcpy(data, &head, sizeof(head));
    memcpy(data + head.index_offset, text, length);
    file_save(path, data, head.index_offset + length);
    free(data);
    free(text);
}

static uint64_t place_of(const char *path, const char *list, size_t ordinal)
{
    json_t *index = index_load(path);
    const json_t *found = json_object_get(index, list);
    json_int_t offset;

    if (found == NULL)
        found = json_object_get(json_object_get(index, "experts"), list);
    offset = json_integer_value(
        json_object_get(json_array_get(found, ordinal), "offset"));
    json_decref(index);
    return (uint64_t)offset;
}

static void count_progress(void *arg, uint64_t done, uint64_t total)
{
    uint64_t *seen = arg;

    cr_expect(ge(u64, done, seen[0]));
    seen[0] = done;
    seen[1] = total;
}

static size_t entries_in(const char *folder)
{
    char command[PATH_SIZE + 16];
    FILE *list;
    size_t count = 0;

    snprintf(command, sizeof(command), "ls -A %s", folder);
    list = popen(command, "r");
    for (int c = fgetc(list); c != EOF; c = fgetc(list))
        count += c == '\n';
    pclose(list);
    return count;
}
