#include "config.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include <coterie/coterie.h>

#include "tests/command.h"
#include "tests/models.h"

static char folder[PATH_SIZE], path[PATH_SIZE]; /* of a store */

static void store_make(void);
static void store_remove(void);
static void striped_make(char *store, char stripe[2][PATH_SIZE]);
static double number(const json_t *object, const char *part, const char *key);
static void expect_drive(const json_t *found, size_t at, const char *name);
static bool advises(const json_t *found, const char *words);

TestSuite(doctor, .init = store_make, .fini = store_remove);

Test(doctor, examines_the_machine)
{
    json_t *found = command_json("doctor --json");
    double cores = number(found, "host", "cores");

    cr_expect(ge(dbl, cores, 1));
    cr_expect(le(dbl, cores, number(found, "host", "cores_online")));
    cr_expect(gt(dbl, number(found, "host", "memory"), 0));
    cr_expect(gt(dbl, number(found, "memory_gbs", "all_cores"), 0));
    cr_expect(gt(dbl, number(found, "kernels", "one_thread_gbs"), 0));
    cr_expect(zero(sz, json_array_size(json_object_get(found, "drives"))));
    cr_expect(json_array_size(json_object_get(found, "advice")) > 0);
    json_decref(found);
}

Test(doctor, examines_the_drive_of_a_store)
{
    json_t *found = command_json("doctor '%s' --json", path);

    cr_expect(eq(sz, 1, json_array_size(json_object_get(found, "drives"))));
    expect_drive(found, 0, path);
    json_decref(found);
}

/* All on the drive of the tests, which it then says. */
Test(doctor, examines_the_drive_of_every_stripe)
{
    char store[PATH_SIZE], stripe[2][PATH_SIZE];
    json_t *found;

    striped_make(store, stripe);
    found = command_json("doctor '%s' --json", store);
    cr_expect(eq(sz, 3, json_array_size(json_object_get(found, "drives"))));
    expect_drive(found, 0, store);
    expect_drive(found, 1, stripe[0]);
    expect_drive(found, 2, stripe[1]);
    cr_expect(advises(found, "stripe-1 on a drive of its own"));
    cr_expect(advises(found, "stripe-2 on a drive of its own"));
    json_decref(found);
}

Test(doctor, names_the_stripe_that_is_damaged)
{
    char store[PATH_SIZE], stripe[2][PATH_SIZE];
    char *data;
    size_t size;

    striped_make(store, stripe);
    data = file_load(stripe[0], &size);
    memset(data + 4096, 7, size - 4096);
    file_save(stripe[0], data, size);
    free(data);
    expect_refused(1, "stripe-1: expert", "doctor '%s'", store);
}

Test(doctor, leaves_nothing_in_a_folder)
{
    coterie_drive_t drive;

    unlink(path);
    cr_assert(eq(int, COTERIE_OK,
                 coterie_drive_examine_folder(folder, &drive)), "%s",
              coterie_last_error());
    cr_expect(gt(dbl, drive.reader_gbs, 0));
    cr_expect(rmdir(folder) == 0);
    folder_make(folder); /* for the end */
}

Test(doctor, says_which_record_is_damaged)
{
    void *data;
    size_t size;

    data = file_load(path, &size);
    memset((char *)data + 4096, 7, 100); /* in the first record */
    file_save(path, data, size);
    free(data);
    expect_refused(1, "expert (0, 0): chunk 1 of 1: checksum", "doctor '%s'",
                   path);
}

Test(doctor, refuses_what_is_no_store_or_folder)
{
    char directory[PATH_SIZE];

    fixture_path("mixtral", directory);
    expect_refused(1, "not an expert store", "doctor '%s'", directory);
    expect_refused(1, "takes no file", "doctor --dir '%s/none'", folder);
    expect_refused(2, "not both", "doctor '%s' --dir '%s'", path, folder);
}

static void store_make(void)
{
    char directory[PATH_SIZE];

    fixture_path("mixtral", directory);
    store_pack(directory, folder, path);
}

static void store_remove(void)
{
    folder_remove(folder);
}

/* A store over three files. */
static void striped_make(char *store, char stripe[2][PATH_SIZE])
{
    char directory[PATH_SIZE];
    called_t call;

    fixture_path("mixtral", directory);
    path_in(folder, "striped", store);
    path_in(folder, "stripe-1", stripe[0]);
    path_in(folder, "stripe-2", stripe[1]);
    command_call(&call, "pack '%s' -o '%s' --stripe '%s' --stripe '%s'",
                 directory, store, stripe[0], stripe[1]);
    cr_assert(zero(int, call.code), "%s", call.err);
    called_free(&call);
}

static double number(const json_t *object, const char *part, const char *key)
{
    const json_t *value = json_object_get(json_object_get(object, part), key);

    cr_assert(eq(int, 1, json_is_number(value)), "no number %s.%s", part, key);
    return json_number_value(value);
}

static void expect_drive(const json_t *found, size_t at, const char *name)
{
    static const char *const rates[] = {"ceiling_gbs", "reader_gbs", "wait_s"};
    const json_t *drive =
        json_array_get(json_object_get(found, "drives"), at);

    cr_expect(eq(str, (char *)name,
                 (char *)json_string_value(json_object_get(drive, "path"))));
    for (size_t i = 0; i < sizeof(rates) / sizeof(rates[0]); i++)
        cr_expect(gt(dbl, json_number_value(json_object_get(drive, rates[i])),
                     0), "%s", rates[i]);
}

static bool advises(const json_t *found, const char *words)
{
    const json_t *advice = json_object_get(found, "advice");
    bool said = false;

    for (size_t i = 0; i < json_array_size(advice); i++)
        said = said || strstr(json_string_value(json_array_get(advice, i)),
                              words) != NULL;
    return said;
}
