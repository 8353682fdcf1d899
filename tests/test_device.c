/* Ranks whose experts are on a device, as the command has them; "host" makes
 * the calls that "cuda" makes. */
#include <stdio.h>
#include <stdlib.h>

#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include "tests/command.h"
#include "tests/models.h"

static void example_path(char path[PATH_SIZE])
{
    path_in(getenv("COTERIE_EXAMPLES"), "tiny-moe", path);
}

static json_t *generated(const char *options)
{
    char path[PATH_SIZE];

    example_path(path);
    return command_json("run '%s' --prompt 'The state' --prompt 'We' --tokens "
                        "12 --json %s",
                        path, options);
}

Test(device, writes_the_text_of_the_processor)
{
    const char *const others[] = {
        "--device host", "--device host --ranks 3 --dispatch owner",
        "--device host --ranks 2 --dispatch forward"};
    json_t *want = generated("");

    for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++) {
        json_t *got = generated(others[i]);
        cr_expect(json_equal(json_object_get(got, "sequences"),
                             json_object_get(want, "sequences")),
                  "%s", others[i]);
        json_decref(got);
    }
    json_decref(want);
}

Test(device, writes_the_same_text_with_little_memory)
{
    const char *const budgets[] = {
        "--budget 30%", "--budget 60% --host-budget 40%",
        "--budget 20% --ranks 3 --dispatch owner",
        "--budget 25% --host-budget 50% --ranks 2 --dispatch forward "
        "--predict router"};
    char folder[PATH_SIZE], store[PATH_SIZE], path[PATH_SIZE];
    json_t *want = generated("--device host");

    example_path(path);
    store_pack(path, folder, store);
    for (size_t i = 0; i < sizeof(budgets) / sizeof(budgets[0]); i++) {
        json_t *got = command_json("run '%s' --prompt 'The state' --prompt "
                                   "'We' --tokens 12 --json --device host %s",
                                   store, budgets[i]);
        const json_t *device = json_object_get(
            json_object_get(got, "offload"), "device");

        cr_expect(json_equal(json_object_get(got, "sequences"),
                             json_object_get(want, "sequences")),
                  "%s", budgets[i]);
        cr_expect(gt(i64, json_integer_value(json_object_get(device, "uses")),
                     0));
        json_decref(got);
    }
    json_decref(want);
    folder_remove(folder);
}

/* Rows are dispatched by the device, so it is what counts them. */
Test(device, sends_the_copies_that_the_processor_sends)
{
    const char *const runs[] = {"--ranks 3 --dispatch two-phase",
                                "--ranks 4 --nodes 2 --dispatch owner",
                                "--ranks 3 --dispatch owner --wire bf16"};
    const char *const phases[] = {"prefill", "decode"};
    const char *const counts[] = {"copies_dispatch", "copies_return",
                                  "copies_network", "payload_bytes",
                                  "alltoalls", "returns"};

    for (size_t i = 0; i < sizeof(runs) / sizeof(runs[0]); i++) {
        char options[128];
        json_t *want = generated(runs[i]), *got;

        snprintf(options, sizeof(options), "%s --device host", runs[i]);
        got = generated(options);
        for (size_t j = 0; j < 12; j++) {
            const json_t *one = json_object_get(want, phases[j / 6]);
            const json_t *other = json_object_get(got, phases[j / 6]);

            cr_expect(json_equal(json_object_get(one, counts[j % 6]),
                                 json_object_get(other, counts[j % 6])),
                      "%s, %s: %s", runs[i], phases[j / 6], counts[j % 6]);
        }
        cr_expect(json_equal(json_object_get(want, "sequences"),
                             json_object_get(got, "sequences")),
                  "%s", runs[i]);
        json_decref(got);
        json_decref(want);
    }
}

Test(device, that_cannot_serve_is_refused)
{
    char path[PATH_SIZE], wide[PATH_SIZE];

    example_path(path);
    path_in(getenv("COTERIE_TEST_DATA"), "models/olmoe", wide);
    expect_refused(1, "host, cuda or cuda:N",
                   "run '%s' --prompt x --device gpu", path);
    expect_refused(1, "--dtype bf16",
                   "run '%s' --prompt-ids 1,2 --device host", wide);
    expect_refused(1, "GPU", "run '%s' --prompt x --device cuda:4000",
                   path);
    expect_refused(2, "without a FILE", "info '%s' --devices", path);
}

Test(device, list_says_what_there_is_or_why_not)
{
    json_t *info = command_json("info --devices --json");
    const json_t *devices = json_object_get(info, "devices");
    const char *reason =
        json_string_value(json_object_get(info, "reason"));
    const int some = json_array_size(devices) > 0, silent = reason[0] == '\0';

    cr_expect(eq(int, JSON_ARRAY, json_typeof(devices)));
    cr_expect(eq(int, some, silent));
    cr_expect(ne(ptr, json_object_get(info, "nccl"), NULL));
    json_decref(info);
}
