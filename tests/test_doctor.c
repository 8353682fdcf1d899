#include "config.h"

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
static double number(const json_t *object, const char *part, const char *key);

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
    cr_expect(eq(int, 1, json_is_null(json_object_get(found, "drive"))));
    cr_expect(json_array_size(json_object_get(found, "advice")) > 0);
    json_decref(found);
}

Test(doctor, examines_the_drive_of_a_store)
{
    json_t *found = command_json("doctor '%s' --json", path);

    cr_expect(gt(dbl, number(found, "drive", "ceiling_gbs"), 0));
    cr_expect(gt(dbl, number(found, "drive", "reader_gbs"), 0));
    cr_expect(gt(dbl, number(found, "drive", "wait_s"), 0));
    json_decref(found);
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

static double number(const json_t *object, const char *part, const char *key)
{
    const json_t *value = json_object_get(json_object_get(object, part), key);

    cr_assert(eq(int, 1, json_is_number(value)), "no number %s.%s", part, key);
    return json_number_value(value);
}
