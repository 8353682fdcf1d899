/* Ranks whose experts are on a device, as the command has them; "host" makes
 * the calls that "cuda" makes. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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

/* One of the ranks that hold a row adds them. */
Test(device, adds_shared_experts_once)
{
    char path[PATH_SIZE], folder[PATH_SIZE], store[PATH_SIZE];
    const char *const runs[] = {
        "--ranks 3 --dispatch forward --device host",
        "--ranks 3 --dispatch forward --device host --predict group",
        "--ranks 3 --dispatch owner --device host"};
    called_t called;
    json_t *want;

    fixture_path("qwen2-moe-step", path);
    folder_make(folder);
    path_in(folder, "s", store);
    command_call(&called, "pack '%s' -o '%s' --dtype bf16", path, store);
    cr_assert(eq(int, called.code, 0));
    called_free(&called);
    want = command_json("run '%s' --prompt-ids 1,2,3 --prompt-ids 7,3 --tokens "
                        "8 --json",
                        store);
    for (size_t i = 0; i < sizeof(runs) / sizeof(runs[0]); i++) {
        json_t *got = command_json("run '%s' --prompt-ids 1,2,3 --prompt-ids "
                                   "7,3 --tokens 8 --json %s",
                                   store, runs[i]);
        cr_expect(json_equal(json_object_get(got, "sequences"),
                             json_object_get(want, "sequences")),
                  "%s", runs[i]);
        json_decref(got);
    }
    json_decref(want);
    folder_remove(folder);
}

/* A device sends messages of its own form, and answers whom it has nothing for:
 * all else is what sim says of the run's trace. */
static bool is_of_its_own(const char *key)
{
    return strncmp(key, "wire_bytes", 10) == 0 ||
           strcmp(key, "empty_messages") == 0;
}

/* Rows are dispatched by the device, so it is what counts them. */
static void expect_simulated(const char *run_options, const char *sim_options)
{
    static const char *const phases[] = {"prefill", "decode"};
    char path[PATH_SIZE], folder[PATH_SIZE], trace[PATH_SIZE];
    json_t *run, *sim, *text = generated("");

    example_path(path);
    folder_make(folder);
    path_in(folder, "t.npz", trace);
    run = command_json("run '%s' --prompt 'The state' --prompt 'We' --tokens "
                       "12 --json --device host %s --trace '%s'",
                       path, run_options, trace);
    sim = command_json("sim '%s' %s --json --model '%s'", trace, sim_options,
                       path);
    cr_expect(json_equal(json_object_get(text, "sequences"),
                         json_object_get(run, "sequences")),
              "%s", run_options);
    for (size_t i = 0; i < 2; i++) {
        const json_t *sent = json_object_get(run, phases[i]);
        const char *key;
        json_t *value;

        cr_expect(gt(sz, json_object_size(json_object_get(sim, phases[i])),
                     10));
        json_object_foreach(json_object_get(sim, phases[i]), key, value)
            cr_expect(is_of_its_own(key) ||
                          json_number_value(json_object_get(sent, key)) ==
                              json_number_value(value),
                      "%s: %s.%s", run_options, phases[i], key);
    }
    json_decref(text);
    json_decref(sim);
    json_decref(run);
    folder_remove(folder);
}

Test(device, sends_what_sim_counts)
{
    const char *const options[] = {
        "--ranks 3 --dispatch two-phase",
        "--ranks 4 --nodes 2 --dispatch owner",
        "--ranks 3 --dispatch owner --wire bf16",
        "--ranks 4 --nodes 2 --dispatch forward",
        "--ranks 3 --dispatch forward --wire bf16"};

    for (size_t i = 0; i < sizeof(options) / sizeof(options[0]); i++)
        expect_simulated(options[i], options[i]);
    expect_simulated("--ranks 3 --dispatch forward --predict group",
                     "--ranks 3 --dispatch forward --prediction group");
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
