#include "config.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include <coterie/coterie.h>

#include "base/error.h"
#include "base/file.h"
#include "base/options.h"

Test(status, has_a_text_for_every_value_even_unknown_ones)
{
    cr_expect(eq(str, (char *)coterie_strerror(COTERIE_ERR_CORRUPT),
                 "checksum mismatch"));
    cr_expect(eq(str, (char *)coterie_strerror((coterie_status_t)-999),
                 "unknown status"));
}

Test(status, keeps_the_latest_line_even_if_it_quotes_the_one_before)
{
    coterie_fail(COTERIE_ERR_IO, "disk %d", 7);
    coterie_fail(COTERIE_ERR_IO, "again: %s", coterie_last_error());
    cr_expect(eq(str, (char *)coterie_last_error(), "again: disk 7"));
}

typedef struct known {
    size_t size;
    uint64_t first, second;
} known_t;

Test(options, of_an_older_caller_read_as_zero_past_their_end)
{
    struct {
        size_t size;
        uint64_t first;
    } older = {sizeof(older), 5};
    known_t out;
    cr_expect(eq(int, COTERIE_OK,
                 coterie_options_read(&older, &out, sizeof(out), "test")));
    cr_expect(eq(u64, out.first, 5));
    cr_expect(eq(u64, out.second, 0));
}

Test(options, from_the_future_are_refused_only_if_set)
{
    struct {
        known_t known;
        uint64_t unknown;
    } newer = {{sizeof(newer), 1, 2}, 0};
    known_t out;
    cr_expect(eq(int, COTERIE_OK,
                 coterie_options_read(&newer, &out, sizeof(out), "test")));
    newer.unknown = 1;
    cr_expect(eq(int, COTERIE_ERR_UNSUPPORTED,
                 coterie_options_read(&newer, &out, sizeof(out), "test")));
}

Test(output, that_is_abandoned_leaves_nothing)
{
    char folder[] = "/tmp/coterie-XXXXXX", path[64];
    coterie_output_t output;
    cr_assert(ne(ptr, mkdtemp(folder), NULL));
    snprintf(path, sizeof(path), "%s/file", folder);
    cr_expect(eq(int, COTERIE_OK, coterie_output_open(path, 0, &output)));
    coterie_output_write(&output, "half", 4);
    coterie_output_abandon(&output);
    cr_expect(eq(int, rmdir(folder), 0)); /* empty again */
}

Test(output, of_a_process_that_ends_too_early_leaves_nothing)
{
    char folder[] = "/tmp/coterie-XXXXXX", path[64];
    coterie_output_t output;
    cr_assert(ne(ptr, mkdtemp(folder), NULL));
    snprintf(path, sizeof(path), "%s/file", folder);
    cr_expect(eq(int, COTERIE_OK, coterie_output_open(path, 0, &output)));
    if (!output.nameless) /* this file system cannot */
        unlink(output.temporary);
    cr_expect(eq(int, rmdir(folder), 0)); /* already now */
    coterie_output_abandon(&output);
}

Test(output, refuses_to_overwrite_without_force)
{
    char folder[] = "/tmp/coterie-XXXXXX", path[64];
    coterie_output_t output;
    cr_assert(ne(ptr, mkdtemp(folder), NULL));
    snprintf(path, sizeof(path), "%s/file", folder);
    coterie_output_open(path, 0, &output);
    coterie_output_write(&output, "one", 3);
    cr_expect(eq(int, COTERIE_OK, coterie_output_commit(&output)));
    cr_expect(
        eq(int, COTERIE_ERR_EXISTS, coterie_output_open(path, 0, &output)));
    cr_expect(eq(int, COTERIE_OK, coterie_output_open(path, 1, &output)));
    coterie_output_abandon(&output);
    unlink(path);
    rmdir(folder);
}

Test(output, never_replaces_what_is_not_a_regular_file)
{
    char folder[] = "/tmp/coterie-XXXXXX", path[64];
    coterie_output_t output;
    struct stat present;
    cr_assert(ne(ptr, mkdtemp(folder), NULL));
    snprintf(path, sizeof(path), "%s/pipe", folder);
    cr_assert(eq(int, mkfifo(path, 0600), 0));
    cr_expect(
        eq(int, COTERIE_ERR_EXISTS, coterie_output_open(path, 1, &output)));
    cr_expect(eq(int, stat(path, &present), 0));
    cr_expect(ne(int, S_ISFIFO(present.st_mode), 0));
    unlink(path);
    cr_expect(eq(int, rmdir(folder), 0)); /* and nothing beside it */
}
