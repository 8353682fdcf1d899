#include "config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include <coterie/coterie.h>

#include "experts/model.h"
#include "experts/store.h"
#include "offload/tiers.h"
#include "tests/command.h"
#include "tests/models.h"

/* A store of 3 layers of 4 experts, over three files: one beside it, one in
 * another folder. */
enum { FILES = 3, LAYERS = 3, EXPERTS = 4, ITEMS = LAYERS * EXPERTS };

static char folder[PATH_SIZE], other[PATH_SIZE], directory[PATH_SIZE];
static char path[FILES][PATH_SIZE];

static void folders_make(void);
static void folders_remove(void);
static coterie_status_t pack(const char *store, const char *first,
                             const char *second);
static coterie_status_t reopen(void);
static void expect_all(const coterie_model_t *model);

TestSuite(stripes, .init = folders_make, .fini = folders_remove);

Test(stripes, share_the_records_evenly)
{
    coterie_model_t *model = NULL;
    uint32_t in[FILES] = {0};

    cr_assert(eq(int, COTERIE_OK, coterie_model_open(path[0], &model)));
    for (uint32_t i = 0; i < ITEMS; i++)
        in[coterie_store_extent(model->source, i / EXPERTS, i % EXPERTS)
               .file]++;
    for (uint32_t f = 0; f < FILES; f++)
        cr_expect(eq(u32, ITEMS / FILES, in[f]));
    expect_all(model);
    coterie_model_close(model);
}

Test(stripes, are_read_by_tiers)
{
    coterie_tiers_options_t options = COTERIE_TIERS_OPTIONS_INIT;
    coterie_model_t *model = NULL;
    coterie_tiers_t *tiers = NULL;
    coterie_expert_format_t format;
    char text[128];

    cr_assert(eq(int, COTERIE_OK, coterie_model_open(path[0], &model)));
    coterie_model_expert_format(model, &format);
    options.budget_percent = 50;
    cr_assert(eq(int, COTERIE_OK,
                 coterie_tiers_create(model, &options, &tiers)));
    for (uint32_t item = 0; item < ITEMS; item++) {
        uint32_t wanted = item, at;
        coterie_items_t items = {&wanted, 1};
        const void *record;
        void *right = malloc(format.record_size);

        coterie_tiers_want(tiers, items);
        cr_assert(eq(int, COTERIE_OK,
                     coterie_tiers_take(tiers, items, &at, &record)));
        cr_assert(eq(int, COTERIE_OK,
                     coterie_model_expert(model, item / EXPERTS,
                                          item % EXPERTS, right)));
        cr_expect(zero(int, memcmp(record, right, format.record_size)));
        coterie_tiers_release(tiers, item, 1);
        free(right);
    }
    coterie_tiers_describe(tiers, text, sizeof(text));
    cr_expect(strstr(text, ", 3 files") != NULL, "%s", text);
    coterie_tiers_destroy(tiers);
    coterie_model_close(model);
}

Test(stripes, beside_their_store_may_move_with_it)
{
    char moved[PATH_SIZE], stripe[PATH_SIZE];

    path_in(other, "store", moved);
    path_in(other, "stripe", stripe);
    cr_assert(zero(int, rename(path[0], moved)));
    cr_assert(zero(int, rename(path[1], stripe)));
    coterie_model_t *model = NULL;
    cr_assert(eq(int, COTERIE_OK, coterie_model_open(moved, &model)), "%s",
              coterie_last_error());
    expect_all(model);
    coterie_model_close(model);
}

Test(stripes, are_named_if_they_are_missing)
{
    unlink(path[2]);
    cr_expect(eq(int, COTERIE_ERR_NOT_FOUND, reopen()));
    cr_expect(strstr(coterie_last_error(), path[2]) != NULL, "%s",
              coterie_last_error());
}

Test(stripes, of_another_store_are_refused)
{
    char store[PATH_SIZE], first[PATH_SIZE], second[PATH_SIZE];

    path_in(folder, "store2", store);
    path_in(folder, "stripe2", first);
    path_in(other, "stripe3", second);
    fixture_path("qwen3-moe", directory);
    cr_assert(eq(int, COTERIE_OK, pack(store, first, second)));
    cr_assert(zero(int, rename(first, path[1])));
    cr_expect(eq(int, COTERIE_ERR_MISMATCH, reopen()));
    cr_expect(strstr(coterie_last_error(), path[1]) != NULL);
}

Test(stripes, in_the_wrong_place_are_refused)
{
    cr_assert(zero(int, rename(path[2], path[1])));
    cr_expect(eq(int, COTERIE_ERR_MISMATCH, reopen()));
}

Test(stripes, cut_short_or_damaged_are_refused)
{
    struct stat about;
    char *data;
    size_t size;

    cr_assert(zero(int, stat(path[1], &about)));
    cr_assert(zero(int, truncate(path[1], about.st_size - 1)));
    cr_expect(eq(int, COTERIE_ERR_FORMAT, reopen()));
    cr_assert(zero(int, truncate(path[1], 100)));
    cr_expect(eq(int, COTERIE_ERR_FORMAT, reopen()));
    data = file_load(path[2], &size);
    data[9] ^= 1;
    file_save(path[2], data, size);
    free(data);
    cr_assert(zero(int, truncate(path[1], about.st_size)));
    cr_expect(not(eq(int, COTERIE_OK, reopen())));
}

Test(stripes, are_never_written_over)
{
    char store[PATH_SIZE], fresh[PATH_SIZE];

    path_in(folder, "store2", store);
    path_in(folder, "fresh", fresh);
    cr_expect(eq(int, COTERIE_ERR_EXISTS, pack(store, fresh, path[2])));
    cr_expect(eq(int, -1, access(store, F_OK)));
    cr_expect(eq(int, -1, access(fresh, F_OK)));
    cr_expect(eq(int, COTERIE_OK, reopen()));
}

Test(stripes, are_files_of_their_own)
{
    char store[PATH_SIZE], fresh[PATH_SIZE];

    path_in(folder, "store2", store);
    path_in(folder, "fresh", fresh);
    cr_expect(eq(int, COTERIE_ERR_INVALID, pack(store, fresh, fresh)));
    cr_expect(eq(int, COTERIE_ERR_INVALID, pack(store, fresh, store)));
    cr_expect(eq(int, -1, access(store, F_OK)));
}

/* With the store's own file there would be one more than there are experts. */
Test(stripes, are_fewer_than_experts)
{
    char store[PATH_SIZE], names[ITEMS][PATH_SIZE], name[24];
    const char *stripes[ITEMS];
    coterie_pack_options_t options = COTERIE_PACK_OPTIONS_INIT;
    coterie_model_t *source = NULL;

    path_in(folder, "store2", store);
    for (int i = 0; i < ITEMS; i++) {
        snprintf(name, sizeof(name), "many-%d", i);
        path_in(folder, name, names[i]);
        stripes[i] = names[i];
    }
    options.stripes = stripes;
    options.stripe_count = ITEMS;
    cr_assert(eq(int, COTERIE_OK, coterie_model_open(directory, &source)));
    cr_expect(eq(int, COTERIE_ERR_INVALID,
                 coterie_model_pack(source, store, &options)));
    cr_expect(eq(int, -1, access(store, F_OK)));
    cr_expect(eq(int, -1, access(names[0], F_OK)));
    options.stripe_count = ITEMS - 1;
    cr_expect(eq(int, COTERIE_OK,
                 coterie_model_pack(source, store, &options)));
    coterie_model_close(source);
}

Test(stripes, serve_the_same_text)
{
    char plain[PATH_SIZE];
    const char *asked = "--prompt-ids 1,2,3 --tokens 6 --json";
    called_t call;
    json_t *right, *got;

    path_in(folder, "plain", plain);
    command_call(&call, "pack '%s' -o '%s'", directory, plain);
    cr_assert(eq(int, 0, call.code));
    called_free(&call);
    right = command_json("run '%s' %s", plain, asked);
    got = command_json("run '%s' %s --budget 20%% --ranks 2", path[0], asked);
    cr_expect(eq(int, 1, json_equal(json_object_get(right, "sequences"),
                                    json_object_get(got, "sequences"))));
    json_decref(right);
    json_decref(got);
}

static void folders_make(void)
{
    folder_make(folder);
    folder_make(other);
    path_in(folder, "store", path[0]);
    path_in(folder, "stripe", path[1]);
    path_in(other, "stripe-far", path[2]);
    fixture_path("mixtral", directory);
    cr_assert(eq(int, COTERIE_OK, pack(path[0], path[1], path[2])), "%s",
              coterie_last_error());
}

static void folders_remove(void)
{
    folder_remove(folder);
    folder_remove(other);
}

static coterie_status_t pack(const char *store, const char *first,
                             const char *second)
{
    coterie_pack_options_t options = COTERIE_PACK_OPTIONS_INIT;
    const char *stripes[] = {first, second};
    coterie_model_t *source = NULL;
    coterie_status_t status;

    options.stripes = stripes;
    options.stripe_count = 2;
    cr_assert(eq(int, COTERIE_OK, coterie_model_open(directory, &source)));
    status = coterie_model_pack(source, store, &options);
    coterie_model_close(source);
    return status;
}

static coterie_status_t reopen(void)
{
    coterie_model_t *model = NULL;
    coterie_status_t status = coterie_model_open(path[0], &model);

    coterie_model_close(model);
    return status;
}

/* The records of the directory that they were packed from. */
static void expect_all(const coterie_model_t *model)
{
    coterie_model_t *source = NULL;
    coterie_expert_format_t format;

    cr_assert(eq(int, COTERIE_OK, coterie_model_open(directory, &source)));
    coterie_model_expert_format(source, &format);
    for (uint32_t i = 0; i < ITEMS; i++) {
        void *right = malloc(format.record_size);
        void *got = malloc(format.record_size);

        cr_assert(eq(int, COTERIE_OK,
                     coterie_model_expert(source, i / EXPERTS, i % EXPERTS,
                                          right)));
        cr_assert(eq(int, COTERIE_OK,
                     coterie_model_expert(model, i / EXPERTS, i % EXPERTS,
                                          got)));
        cr_expect(zero(int, memcmp(right, got, format.record_size)));
        free(right);
        free(got);
    }
    coterie_model_close(source);
}
