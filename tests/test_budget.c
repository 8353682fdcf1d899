#include "config.h"

#include <jansson.h>

#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include <coterie/coterie.h>

#include "tests/command.h"
#include "tests/models.h"

static char folder[PATH_SIZE], path[PATH_SIZE]; /* of a store */

static json_int_t array_sum(const json_t *object, const char *name);
static void store_make(void);
static void store_remove(void);

TestSuite(budget, .init = store_make, .fini = store_remove);

Test(budget, writes_the_same_text)
{
    static const char *const ways[] = {
        "--budget 10% --policy lfu", "--budget 12288 --policy cost",
        "--budget 40% --ranks 2 --dispatch owner --polling sqpoll",
        "--budget 10% --host-budget 30% --ranks 2 --dispatch two-phase",
        "--budget 10% --ranks 3 --dispatch forward --predict group"};
    const char *asked = "--prompt-ids 1,2,3,4 --prompt-ids 9,8 --tokens 9";
    json_t *right = command_json("run '%s' %s --json", path, asked);

    for (size_t i = 0; i < sizeof(ways) / sizeof(ways[0]); i++) {
        json_t *got = command_json("run '%s' %s %s --json", path, asked,
                                   ways[i]);
        const json_t *offload = json_object_get(got, "offload");

        cr_expect(json_equal(json_object_get(right, "sequences"),
                             json_object_get(got, "sequences")), "%s",
                  ways[i]);
        cr_expect(json_integer_value(json_object_get(offload, "uses")) > 0);
        json_decref(got);
    }
    json_decref(right);
}

Test(budget, keeps_hot_counts_for_the_next_run)
{
    const char *run = "run '%s' --prompt-ids 1,2 --tokens 9 --budget 50%% "
                      "--ranks 2 --hot '%s' --json";
    char hot[PATH_SIZE];
    json_t *first, *second;

    path_in(folder, "hot", hot);
    first = command_json(run, path, hot);
    second = command_json(run, path, hot);
    cr_expect(json_equal(json_object_get(first, "sequences"),
                         json_object_get(second, "sequences")));
    cr_expect(zero(int, (int)json_integer_value(json_object_get(
                            json_object_get(first, "offload"),
                            "preloads"))));
    cr_expect(gt(int, (int)json_integer_value(json_object_get(
                          json_object_get(second, "offload"), "preloads")),
                 0));
    json_decref(first);
    json_decref(second);
    file_save(hot, "{}", 2);
    expect_refused(1, hot, run, path, hot);
}

/* Three layers; every step goes once through them. */
Test(budget, tells_of_every_layer_and_of_time)
{
    json_t *got = command_json("run '%s' --prompt-ids 1,2,3 --tokens 5 "
                               "--budget 30%% --ranks 2 --json", path);
    const json_t *offload = json_object_get(got, "offload");
    const json_t *layers = json_object_get(offload, "layers");
    const json_t *spans = json_object_get(
        json_object_get(offload, "timeline"), "spans");
    static const char *const names[] = {"uses", "hits", "demand_reads"};

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        json_int_t total = json_integer_value(
            json_object_get(offload, names[i]));

        cr_expect(eq(i64, total, array_sum(layers, names[i])));
        for (size_t s = 0; s < json_array_size(spans); s++)
            total -= array_sum(json_array_get(spans, s), names[i]);
        cr_expect(zero(i64, total));
    }
    cr_expect(gt(i64, array_sum(layers, "store_bytes"), 0));
    cr_expect(ge(sz, json_array_size(spans), 5));
    json_decref(got);
}

/* For which all modes are the same, but that forward tells of no guesses. */
Test(budget, of_one_rank_is_served_in_two_phases)
{
    json_t *got = command_json("run '%s' --prompt-ids 1,2,3 --tokens 40 "
                               "--budget 30%% --json", path);
    const json_t *steps = json_object_get(got, "decode_steps_by_mode");

    cr_expect(eq(i64, 39,
                 json_integer_value(json_object_get(steps, "two-phase"))));
    json_decref(got);
}

Test(budget, that_is_wrong_is_refused)
{
    const char *asked = "--prompt-ids 1 --tokens 2";
    char directory[PATH_SIZE];

    fixture_path("mixtral", directory);
    expect_refused(1, "one expert takes 12288", "run '%s' %s --budget 12287",
                   path, asked);
    expect_refused(1, "give bytes", "run '%s' %s --budget 20x", path, asked);
    expect_refused(1, "give bytes", "run '%s' %s --budget -5", path, asked);
    expect_refused(1, "needs a --budget", "run '%s' %s --hot x", path, asked);
    expect_refused(1, "needs a --budget", "run '%s' %s --host-budget 1G", path,
                   asked);
    expect_refused(1, "0 to 100 percent",
                   "run '%s' %s --budget 10%% --host-budget 120%%", path,
                   asked);
    expect_refused(1, "at most 100", "run '%s' %s --budget 120%%", path,
                   asked);
    expect_refused(1, "coterie pack", "run '%s' %s --budget 50%%", directory,
                   asked);
}

static json_int_t array_sum(const json_t *object, const char *name)
{
    const json_t *list = json_object_get(object, name);
    json_int_t sum = 0;

    cr_expect(eq(sz, 3, json_array_size(list)));
    for (size_t i = 0; i < json_array_size(list); i++)
        sum += json_integer_value(json_array_get(list, i));
    return sum;
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
