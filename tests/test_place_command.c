#include "config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include "tests/command.h"
#include "tests/draw.h"
#include "tests/models.h"
#include "tests/trace_files.h"

enum { LAYERS = 8, EXPERTS = 16, K = 2, TOKENS = 3000 };

TestSuite(place_command, .init = files_make, .fini = files_remove);

/* Half of all choices follow the one before. */
static void trace_draw(const char *name, uint64_t layers, uint64_t experts,
                       uint64_t tokens)
{
    const uint64_t shape[] = {tokens, layers, K, 0};
    int16_t *ids = calloc(tokens * layers * K, sizeof(*ids));

    for (uint64_t i = 0; i < tokens * layers * K; i++) {
        int follows = i % (layers * K) >= K && draw(2) == 0;
        do
            ids[i] = (int16_t)(follows ? (ids[i - K] + draw(2)) % experts
                                       : draw((uint32_t)experts));
        while (i % K > 0 && ids[i] == ids[i - 1] && experts > 1);
    }
    array_put(name, "i2", shape, ids);
    free(ids);
}

static double number(const json_t *object, const char *key)
{
    return json_number_value(json_object_get(object, key));
}

/* Into Coterie's own format, which says all, and so the same again. */
static void expect_rewritten(const char *name)
{
    json_t *before, *after;
    json_error_t error;
    called_t called;

    command_call(&called, "convert '%s' --force -o '%s'", file_path(name),
                 file_path("c.json"));
    cr_expect(zero(int, called.code), "%s", called.err);
    called_free(&called);
    before = json_load_file(file_path(name), 0, &error);
    after = json_load_file(file_path("c.json"), 0, &error);
    cr_expect(eq(int, json_equal(before, after), 1), "%s", name);
    json_decref(before);
    json_decref(after);
}

/* What placed t.npy as p.json can be bettered and rewritten. */
static void expect_goes_on(void)
{
    json_t *report = command_json(
        "replace '%s' '%s' --time-limit 1 --force -o '%s' --json",
        file_path("p.json"), file_path("t.npy"), file_path("n.json"));

    cr_expect(le(dbl, number(report, "train_copies"),
                 number(report, "train_copies_before") + 1e-9));
    json_decref(report);
    expect_rewritten("p.json");
    expect_rewritten("n.json");
}

static void expect_placed(uint32_t spare)
{
    json_t *report = command_json(
        "place '%s' --ranks 2 --spare %u --load-cap 1.1 --time-limit 1 "
        "--force -o '%s' --json", file_path("t.npy"), spare,
        file_path("p.json"));

    cr_expect(le(dbl, number(report, "bound"), number(report, "cost") + 1e-9));
    json_decref(report);
    expect_goes_on();
}

Test(place_command, an_interrupt_leaves_the_best_so_far)
{
    char line[4096];
    json_error_t error;
    json_t *report, *placement;
    called_t called;

    trace_draw("t.npy", LAYERS, EXPERTS, TOKENS);
    snprintf(line, sizeof(line),
             "-s INT --preserve-status 2 '%s' place '%s' --ranks 4 --proof "
             "--time-limit 600 -o '%s' --json",
             getenv("COTERIE_COMMAND"), file_path("t.npy"),
             file_path("p.json"));
    program_call(&called, "timeout", line);
    cr_assert(zero(int, called.code), "%s", called.err);
    report = json_loads(called.out, 0, &error);
    cr_expect(lt(dbl, number(report, "elapsed_s"), 300));
    cr_expect(eq(int, json_is_true(json_object_get(report, "cut")), 1));
    placement = json_load_file(file_path("p.json"), 0, &error);
    cr_expect(eq(int, json_is_object(placement), 1));
    json_decref(placement);
    json_decref(report);
    called_free(&called);
}

Test(place_command, fills_ranks_as_the_topology_says)
{
    static const char format[] =
        "{\"format\": \"coterie-topology\", \"version\": 1, \"nodes\": 1, "
        "\"ranks_per_node\": 3, \"links\": {\"node\": {\"latency_us\": 1, "
        "\"bandwidth_gbs\": 50}}%s}";
    char text[512];
    json_error_t error;
    json_t *placement, *ranks;
    int held[3] = {0};

    trace_draw("t.npy", 3, EXPERTS, 300);
    snprintf(text, sizeof(text), format,
             ", \"slots\": [2, 9, 12], "
             "\"memory_bytes\": [1000000000, 1000000000, 15000000]");
    text_put("top.json", text);
    json_decref(command_json("place '%s' --topology '%s' --expert-bytes "
                             "1000000 --time-limit 1 -o '%s' --json",
                             file_path("t.npy"), file_path("top.json"),
                             file_path("p.json")));
    placement = json_load_file(file_path("p.json"), 0, &error);
    ranks = json_object_get(placement, "slot_rank");
    for (size_t s = 0; s < json_array_size(ranks); s++)
        held[json_integer_value(json_array_get(ranks, s))]++;
    cr_expect(eq(int, held[0], 2));
    cr_expect(eq(int, held[1], 9));
    cr_expect(eq(int, held[2], 5)); /* 15 MB for three layers */
    json_decref(placement);

    snprintf(text, sizeof(text), format, ", \"slots\": [2, 9, 4]");
    text_put("small.json", text);
    expect_refused(1, "16 experts", "place '%s' --topology '%s' -o '%s'",
                   file_path("t.npy"), file_path("small.json"),
                   file_path("q.json"));
    snprintf(text, sizeof(text), format, ", \"slots\": [2, 9]");
    text_put("odd.json", text);
    expect_refused(1, "slots", "place '%s' --topology '%s' -o '%s'",
                   file_path("t.npy"), file_path("odd.json"),
                   file_path("q.json"));
    cr_expect(zero(ptr, fopen(file_path("q.json"), "r")));
}

Test(place_command, takes_traces_with_hardly_anything_in_them)
{
    static const struct {
        uint64_t layers, experts, tokens;
    } shapes[] = {{1, 8, 40}, {3, 8, 1}, {3, 1, 40}, {1, 1, 1}};

    for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++) {
        const uint64_t shape[] = {shapes[i].tokens, shapes[i].layers, 1, 0};
        int16_t ids[3 * 40];
        for (size_t t = 0; t < 3 * 40; t++)
            ids[t] = (int16_t)(t * 5 % shapes[i].experts);
        array_put("t.npy", "i2", shape, ids);
        expect_placed(0);
        if (shapes[i].experts > 1)
            expect_placed(1);
    }
    expect_refused(1, "spare", "place '%s' --ranks 2 --spare 1 -o '%s'",
                   file_path("t.npy"), file_path("q.json"));
    cr_expect(zero(ptr, fopen(file_path("q.json"), "r")));
}

Test(place_command, places_experts_that_nobody_uses_and_tokens_all_alike)
{
    const uint64_t shape[] = {50, 2, 2, 0};
    int16_t ids[50 * 2 * 2];

    for (int i = 0; i < 200; i++)
        ids[i] = (int16_t)(i % 2); /* of eight, two are ever chosen */
    array_put("t.npy", "i2", shape, ids);
    for (uint32_t spare = 0; spare < 2; spare++) {
        json_t *report = command_json(
            "place '%s' --ranks 4 --experts 8 --spare %u --time-limit 1 "
            "--force -o '%s' --json", file_path("t.npy"), spare,
            file_path("p.json"));
        cr_expect(zero(dbl, number(report, "cost"))); /* they share a rank */
        json_decref(report);
        expect_goes_on();
    }
}

Test(place_command, takes_loads_with_hardly_anything_in_them)
{
    static const struct {
        uint64_t layers, experts;
        double load; /* of the first expert; others have none */
    } shapes[] = {{1, 8, 5}, {3, 8, 0}, {2, 1, 7}, {1, 1, 0}};

    for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++)
        for (uint32_t spare = 0; spare < 2 && spare < shapes[i].experts;
             spare++) {
            const uint64_t shape[] = {shapes[i].layers, shapes[i].experts, 0};
            const double load[3 * 8] = {shapes[i].load};
            json_t *report;
            array_put("l.npy", "f8", shape, load);
            report = command_json(
                "place '%s' --loads --ranks 2 --spare %u --load-cap 1.1 "
                "--force -o '%s' --json", file_path("l.npy"), spare,
                file_path("p.json"));
            cr_expect(le(dbl, number(report, "load"),
                         number(report, "load_in_order") + 1e-9));
            json_decref(report);
            expect_rewritten("p.json");
        }
}

Test(place_command, tells_run_which_experts_to_begin_with)
{
    char model[PATH_SIZE];
    json_t *plain, *tiered, *report;
    called_t called;

    fixture_path("qwen3-moe", model);
    command_call(&called, "pack '%s' -o '%s'", model, file_path("s"));
    cr_assert(zero(int, called.code), "%s", called.err);
    called_free(&called);
    plain = command_json("run '%s' --prompt-ids 1,2,3 --tokens 8 --trace '%s' "
                         "--json", file_path("s"), file_path("t.npz"));
    report = command_json("place '%s' --ranks 1 --expert-bytes 1000 "
                          "--device-memory 4000 --tiers '%s' --time-limit 1 "
                          "-o '%s' --json", file_path("t.npz"),
                          file_path("tiers.json"), file_path("p.json"));
    cr_expect(gt(dbl, number(json_object_get(report, "tiers"),
                             "device_share"), 0));
    tiered = command_json("run '%s' --prompt-ids 1,2,3 --tokens 8 --budget "
                          "50%% --tiers '%s' --json", file_path("s"),
                          file_path("tiers.json"));
    cr_expect(json_equal(json_object_get(plain, "sequences"),
                         json_object_get(tiered, "sequences")));
    json_decref(report);
    json_decref(plain);
    json_decref(tiered);
}
