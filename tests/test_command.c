#include "config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include "tests/command.h"
#include "tests/models.h"
#include "tests/trace_files.h"

static const char *const subcommands[] = {"pack", "run",  "trace",  "place",
                                          "sim",  "info", "convert", NULL};

/* Three prompts of a fixture, and how many tokens follow. */
static const char sequences[] =
    "--prompt-ids 1,2,3,4 --prompt-ids 200 --prompt-ids 9,8,7 --tokens 6";

static char model[PATH_SIZE];

static void begin(void)
{
    files_make();
    fixture_path("qwen3-moe", model);
}

TestSuite(command, .init = begin, .fini = files_remove);

static double number(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);

    cr_assert(eq(int, json_is_number(value), 1), "no number %s", key);
    return json_number_value(value);
}

static void trace_record(const char *name)
{
    json_decref(command_json("run '%s' %s --trace '%s' --json", model,
                             sequences, file_path(name)));
}

static int holds(const char *text, const char *part)
{
    return strstr(text, part) != NULL;
}

Test(command, help_names_every_subcommand)
{
    called_t called;

    command_call(&called, "help");
    cr_expect(eq(int, called.code, 0));
    for (int i = 0; subcommands[i] != NULL; i++)
        cr_expect(holds(called.out, subcommands[i]), "%s", subcommands[i]);
    called_free(&called);
}

Test(command, help_of_a_subcommand_shows_how_it_is_called)
{
    for (int i = 0; subcommands[i] != NULL; i++) {
        called_t called;
        char usage[64];
        snprintf(usage, sizeof(usage), "usage: coterie %s ", subcommands[i]);
        command_call(&called, "help %s", subcommands[i]);
        cr_expect(eq(int, called.code, 0));
        cr_expect(holds(called.out, usage), "%s", called.out);
        called_free(&called);
        command_call(&called, "%s --help", subcommands[i]);
        cr_expect(holds(called.out, usage), "%s", called.out);
        called_free(&called);
    }
}

Test(command, says_its_version)
{
    called_t called;

    command_call(&called, "--version");
    cr_expect(eq(int, called.code, 0));
    cr_expect(eq(str, called.out, "coterie " PACKAGE_VERSION "\n"));
    called_free(&called);
}

Test(command, refuses_what_it_does_not_understand_in_one_line)
{
    expect_refused(2, "which subcommand", " ");
    expect_refused(2, "no subcommand 'dance'", "dance");
    expect_refused(2, "no subcommand 'dance'", "help dance");
    expect_refused(2, "not 'sim' as well", "help run sim");
    for (int i = 0; subcommands[i] != NULL; i++)
        expect_refused(2, "no option '--bogus'", "%s --bogus",
                       subcommands[i]);
    expect_refused(2, "--ranks needs a value", "run m --ranks");
    expect_refused(2, "not 'four'", "run m --ranks four");
    expect_refused(2, "not '1.5'", "run m --ranks 1.5");
    expect_refused(2, "1 to 4096", "run m --ranks 0");
    expect_refused(2, "not 'nan'", "run m --temperature nan");
    expect_refused(2, "two-phase", "run m --dispatch sideways");
    expect_refused(2, "what is 'y'", "trace x y");
    expect_refused(2, "needs TRACE", "sim");
    expect_refused(2, "needs a prompt", "run '%s'", model);
    expect_refused(2, "needs -o", "pack '%s'", model);
    expect_refused(2, "needs -o", "convert x");
    expect_refused(2, "--ranks", "sim x");
}

/* A shell of its own: what program_call redirects is not the command's. */
static void expect_unheard(const char *arguments, const char *redirection)
{
    char line[4 * PATH_SIZE];
    called_t called;

    snprintf(line, sizeof(line), "-c \"'%s' %s %s\"",
             getenv("COTERIE_COMMAND"), arguments, redirection);
    program_call(&called, "/bin/sh", line);
    cr_expect(eq(int, called.code, 1), "%s", line);
    cr_expect(holds(called.err, "standard output: not written\n"), "%s: %s",
              line, called.err);
    called_free(&called);
}

Test(command, fails_where_its_output_cannot_be_written)
{
    static const char *const calls[] = {"help", "help run", "info",
                                        "trace '%s'", "sim '%s' --ranks 2",
                                        NULL};

    trace_record("t.npz");
    for (int i = 0; calls[i] != NULL; i++) {
        char call[2 * PATH_SIZE];
        snprintf(call, sizeof(call), calls[i], file_path("t.npz"));
        expect_unheard(call, ">/dev/full");
        expect_unheard(call, ">&-");
    }
}

Test(command, info_tells_what_was_built)
{
    json_t *info = command_json("info --json");

    cr_expect(eq(int, json_is_string(json_object_get(info, "kernels")), 1));
    cr_expect(eq(int, json_is_boolean(json_object_get(info, "glpk")), 1));
    cr_expect(eq(int, json_is_boolean(json_object_get(info, "mpi")), 1));
    json_decref(info);
}

Test(command, info_tells_models_traces_and_placements_apart)
{
    static const char *const kinds[] = {"model", "model", "trace",
                                        "placement"};
    const char *paths[4] = {model};
    called_t called;

    command_call(&called, "pack '%s' -o '%s'", model, file_path("m.store"));
    cr_expect(eq(int, called.code, 0), "%s", called.err);
    called_free(&called);
    trace_record("t.npz");
    text_put("p.csv", "Expert,Node\n0,0\n1,1\n");
    paths[1] = file_path("m.store");
    paths[2] = file_path("t.npz");
    paths[3] = file_path("p.csv");
    for (int i = 0; i < 4; i++) {
        json_t *info = command_json("info '%s' --ranks 2 --json", paths[i]);
        cr_expect(eq(
            str, (char *)json_string_value(json_object_get(info, "kind")),
            (char *)kinds[i]));
        json_decref(info);
    }
}

Test(command, a_store_gives_the_tokens_of_its_model)
{
    const char *store = file_path("m.store");
    json_t *from_model, *from_store;
    called_t called;

    command_call(&called, "pack '%s' -o '%s'", model, store);
    cr_expect(eq(int, called.code, 0), "%s", called.err);
    cr_expect(eq(str, called.err, "")); /* no progress but on a terminal */
    called_free(&called);
    from_model = command_json("run '%s' %s --json", model, sequences);
    from_store = command_json("run '%s' %s --json", store, sequences);
    cr_expect(json_equal(json_object_get(from_model, "sequences"),
                         json_object_get(from_store, "sequences")));
    json_decref(from_model);
    json_decref(from_store);
}

Test(command, overwrites_only_with_force)
{
    const char *path = file_path("out");
    called_t called;

    text_put("out", "precious");
    expect_refused(1, "exists", "pack '%s' -o '%s'", model, path);
    expect_refused(1, "exists", "run '%s' -p x --trace '%s'", model, path);
    expect_refused(1, "exists", "run '%s' -p x --logits '%s'", model, path);
    text_put("p.csv", "Expert,Node\n0,0\n1,1\n");
    expect_refused(1, "exists", "convert '%s' --ranks 2 -o '%s'",
                   file_path("p.csv"), path);
    command_call(&called, "pack '%s' -o '%s' --force", model, path);
    cr_expect(eq(int, called.code, 0), "%s", called.err);
    called_free(&called);
    cr_expect(eq(int, files_count(), 2));
}

Test(command, run_refuses_outputs_that_cannot_be_before_it_starts)
{
    expect_refused(1, "two files",
                   "run '%s' --prompt-ids 1 --trace '%s' --logits '%s'", model,
                   file_path("both"), file_path("both"));
    expect_refused(1, "cannot be created",
                   "run '%s' --prompt-ids 1 --logits '%s/none/x'", model,
                   file_path("both"));
    expect_refused(1, "not a regular file",
                   "run '%s' --prompt-ids 1 --logits '%s' --force", model,
                   "/dev/full");
}

Test(command, prints_each_prompt_with_what_follows_and_figures_apart)
{
    called_t called;

    command_call(&called, "run '%s' --prompt Hello --prompt Bye --tokens 3",
                 model);
    cr_expect(eq(int, called.code, 0), "%s", called.err);
    cr_expect(strncmp(called.out, "Hello", 5) == 0, "%s", called.out);
    cr_expect(holds(called.out, "\nBye"), "%s", called.out);
    cr_expect(holds(called.err, "tokens per second"), "%s", called.err);
    called_free(&called);
}

Test(command, prompts_come_from_files_lines_and_ids_alike)
{
    json_t *direct, *files;

    text_put("whole", "ab\ncd");
    text_put("lines", "ab\n\ncd\n");
    text_put("ids", "97,98\n99, 100\n");
    direct = command_json("run '%s' --json -n 2 -p 'ab\ncd' -p ab -p cd -p ab "
                          "-p cd", model);
    files = command_json("run '%s' --json -n 2 --prompt-file '%s' "
                         "--prompt-lines '%s' --prompt-ids-file '%s'",
                         model, file_path("whole"), file_path("lines"),
                         file_path("ids"));
    cr_expect(json_equal(json_object_get(direct, "sequences"),
                         json_object_get(files, "sequences")));
    json_decref(direct);
    json_decref(files);
}

Test(command, a_seed_gives_the_same_draws_on_any_ranks)
{
    json_t *one = command_json("run '%s' %s --temperature 1 --seed 7 --json",
                               model, sequences);
    json_t *four = command_json("run '%s' %s --temperature 1 --seed 7 --json "
                                "--ranks 4 --dispatch forward",
                                model, sequences);
    json_t *other = command_json("run '%s' %s --temperature 1 --seed 8 --json",
                                 model, sequences);

    cr_expect(json_equal(json_object_get(one, "sequences"),
                         json_object_get(four, "sequences")));
    cr_expect(not(json_equal(json_object_get(one, "sequences"),
                             json_object_get(other, "sequences"))));
    json_decref(one);
    json_decref(four);
    json_decref(other);
}

Test(command, run_refuses_prompts_that_do_not_fit_the_model)
{
    text_put("empty", "");
    expect_refused(1, "is empty", "run '%s' --prompt-file '%s'", model,
                   file_path("empty"));
    expect_refused(1, "the model takes 128", "run '%s' -p x --tokens 128",
                   model);
    expect_refused(1, "0 to 255", "run '%s' --prompt-ids 1,256", model);
    expect_refused(1, "0 to 255", "run '%s' --prompt-ids 1,x", model);
    expect_refused(1, "0 to 255", "run '%s' --prompt-ids 1,,2", model);
    expect_refused(1, "No such file", "run '%s' --prompt-file '%s'", model,
                   file_path("none"));
}

Test(command, run_refuses_a_model_that_is_not_whole)
{
    char folder[PATH_SIZE], weights[PATH_SIZE];

    expect_refused(1, "/nowhere", "run /nowhere -p x");
    fixture_copy("mixtral", folder);
    path_in(folder, "model.safetensors", weights);
    cr_assert(eq(int, truncate(weights, 5000), 0));
    expect_refused(1, "model.safetensors", "run '%s' -p x", folder);
    expect_refused(1, "model.safetensors", "pack '%s' -o '%s'", folder,
                   file_path("m.store"));
    folder_remove(folder);
    cr_expect(eq(int, files_count(), 0)); /* nothing half written */
}

/* All ones is no number in any of the formats of weights. */
Test(command, run_draws_no_token_from_logits_that_are_no_numbers)
{
    char folder[PATH_SIZE], weights[PATH_SIZE];
    unsigned char *data;
    json_int_t at = 0;
    json_t *header;
    uint64_t length;
    size_t size;

    fixture_copy("mixtral", folder);
    path_in(folder, "model.safetensors", weights);
    header = header_load(weights);
    cr_assert(eq(int, 0, json_unpack(header, "{s:{s:[I*]}}",
                                     "lm_head.weight", "data_offsets", &at)));
    json_decref(header);
    data = file_load(weights, &size);
    memcpy(&length, data, sizeof(length));
    memset(data + sizeof(length) + length + at, 0xff, 4);
    file_save(weights, data, size);
    free(data);
    expect_refused(1, "the logit of token 0 is",
                   "run '%s' --prompt-ids 1,2 -r 2", folder);
    folder_remove(folder);
}

Test(command, run_refuses_a_store_whose_experts_are_damaged)
{
    const char *store = file_path("m.store");
    called_t called;
    void *data;
    size_t size;

    command_call(&called, "pack '%s' -o '%s'", model, store);
    called_free(&called);
    data = file_load(store, &size);
    free(data);
    file_flip(store, size / 2);
    expect_refused(1, "checksum", "run '%s' -p x -n 2 -r 2 --trace '%s'",
                   store, file_path("t.npz"));
    cr_expect(eq(int, files_count(), 1)); /* no part of a trace */
}

Test(command, run_refuses_a_placement_for_something_else)
{
    static const char in_order[] =
        "{\"physical_to_logical_map\": [[0, 1, 2, 3, 4, 5, 6, 7], "
        "[0, 1, 2, 3, 4, 5, 6, 7], [0, 1, 2, 3, 4, 5, 6, 7]]}";
    called_t called;

    text_put("p.csv", "Expert,Node\n0,0\n1,1\n"); /* one layer, two experts */
    text_put("sglang.json", in_order);
    command_call(&called, "convert '%s' --ranks 2 -o '%s'",
                 file_path("sglang.json"), file_path("p.json"));
    cr_expect(eq(int, called.code, 0), "%s", called.err);
    called_free(&called);
    trace_record("t.npz");
    expect_refused(1, "p.csv", "run '%s' -p x -r 2 --placement '%s'", model,
                   file_path("p.csv"));
    expect_refused(1, "layer", "sim '%s' -r 2 --placement '%s'",
                   file_path("t.npz"), file_path("p.csv"));
    expect_refused(1, "2 ranks", "run '%s' -p x -r 4 --placement '%s'", model,
                   file_path("p.json"));
    expect_refused(1, "1 node", "run '%s' -p x -r 2 --nodes 2 --placement '%s'",
                   model, file_path("p.json"));
    expect_refused(1, "--nodes", "sim '%s' --nodes 2 --placement '%s'",
                   file_path("t.npz"), file_path("p.json"));
    expect_refused(1, "none.json", "run '%s' -p x --placement '%s'", model,
                   file_path("none.json"));
}

Test(command, refuses_traces_that_are_none)
{
    static const float floats[] = {1, 2, 3, 4};
    const uint64_t shape[] = {2, 2, 0};

    text_put("t.npz", "PK\3\4 is not enough");
    expect_refused(1, "t.npz", "trace '%s'", file_path("t.npz"));
    array_put("f.npy", "f4", shape, floats);
    expect_refused(1, "f.npy", "trace '%s'", file_path("f.npy"));
    text_put("t.csv", "layer,expert\n0,1\n1,9\n");
    expect_refused(1, "9", "trace '%s' --experts 4", file_path("t.csv"));
    expect_refused(1, "f.npy", "sim '%s' -r 2", file_path("f.npy"));
}

Test(command, trace_describes_what_run_recorded)
{
    json_t *trace;

    trace_record("t.npz");
    trace = command_json("trace '%s' --json", file_path("t.npz"));
    /* The last token of each of the three sequences is never computed. */
    cr_expect(eq(dbl, number(trace, "tokens"), 8 + 3 * 5));
    cr_expect(eq(dbl, number(trace, "sequences"), 3));
    cr_expect(eq(dbl, number(trace, "layers"), 3));
    cr_expect(eq(dbl, number(trace, "experts"), 8));
    cr_expect(eq(dbl, number(trace, "k"), 2));
    cr_expect(ge(dbl, number(trace, "load_skew_max"),
                 number(trace, "load_skew_mean")));
    json_decref(trace);
}

/* What a run sends, under these options, is what sim says of its trace. */
static void expect_simulated(const char *run_options, const char *sim_options)
{
    static const char *const phases[] = {"prefill", "decode"};
    json_t *run = command_json("run '%s' %s --ranks 4 %s --json --force "
                               "--trace '%s'",
                               model, sequences, run_options,
                               file_path("t.npz"));
    json_t *sim = command_json("sim '%s' --ranks 4 %s --json --model '%s'",
                               file_path("t.npz"), sim_options, model);
    const char *key;
    json_t *value;

    for (int i = 0; i < 2; i++) {
        const json_t *sent = json_object_get(run, phases[i]);
        json_object_foreach(json_object_get(sim, phases[i]), key, value)
            cr_expect(eq(dbl, number(sent, key), json_number_value(value)),
                      "%s: %s.%s", run_options, phases[i], key);
    }
    json_decref(run);
    json_decref(sim);
}

Test(command, sim_counts_what_run_sends_in_every_mode)
{
    expect_simulated("--dispatch two-phase", "--dispatch two-phase");
    expect_simulated("--dispatch owner", "--dispatch owner");
    expect_simulated("--dispatch forward", "--dispatch forward");
    expect_simulated("--dispatch forward --predict group",
                     "--dispatch forward --prediction group");
    expect_simulated("--dispatch two-phase --group across --nodes 2",
                     "--dispatch two-phase --group across --nodes 2");
    expect_simulated("--dispatch forward --group across --nodes 2",
                     "--dispatch forward --group across --nodes 2");
}

Test(command, sim_counts_keys_and_values_of_layers_without_experts)
{
    fixture_path("qwen2-moe-step", model);
    expect_simulated("--dispatch owner", "--dispatch owner");
    expect_simulated("--dispatch forward", "--dispatch forward");
    fixture_path("qwen3-moe", model);
    expect_refused(1, "3 MoE layers", "sim '%s' --ranks 4 --model '%s'",
                   file_path("t.npz"), model);
}

Test(command, the_smallest_engine_serves)
{
    char engine[PATH_SIZE], *slash;
    called_t called;

    snprintf(engine, sizeof(engine), "%s", getenv("COTERIE_COMMAND"));
    slash = strrchr(engine, '/');
    cr_assert(ne(ptr, slash, NULL));
    snprintf(slash, (size_t)(engine + sizeof(engine) - slash),
             "/examples/engine");
    program_call(&called, engine, "");
    cr_expect(eq(int, called.code, 0), "%s", called.err);
    cr_expect(eq(sz, strlen(called.out), 3 * 25)); /* lines of 24 tokens */
    called_free(&called);
}

Test(command, convert_keeps_where_every_expert_is)
{
    const char *ours = file_path("p.json"), *back = file_path("q.csv");
    called_t called;
    char *text;
    size_t size;

    text_put("p.csv", "Expert,Node\n0,1\n1,0\n2,0\n3,1\n");
    command_call(&called, "convert '%s' --ranks 2 -o '%s'", file_path("p.csv"),
                 ours);
    cr_expect(eq(int, called.code, 0), "%s", called.err);
    called_free(&called);
    command_call(&called, "convert '%s' -o '%s' --format exflow", ours, back);
    cr_expect(eq(int, called.code, 0), "%s", called.err);
    called_free(&called);
    text = file_load(back, &size);
    cr_expect(holds(text, "0,1\n") && holds(text, "1,0\n") &&
                  holds(text, "2,0\n") && holds(text, "3,1\n"),
              "%s", text);
    free(text);
}

#ifdef HAVE_MPI

/* mpirun with as many processes, whoever runs it and however few the cores.
 * MPI's own leaks are not ours to find. */
static void mpirun_call(called_t *called, int processes, const char *options)
{
    char arguments[1024];

    snprintf(arguments, sizeof(arguments),
             "OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 "
             "ASAN_OPTIONS=detect_leaks=0 mpirun --oversubscribe -n %d '%s' "
             "run '%s' %s --transport mpi %s",
             processes, getenv("COTERIE_COMMAND"), model, sequences, options);
    program_call(called, "env", arguments);
}

static void skip_without_mpirun(void)
{
    if (system("mpirun --version >/dev/null 2>&1") != 0)
        cr_skip_test("no mpirun");
}

Test(command, mpi_processes_give_the_tokens_of_threads)
{
    json_t *threads, *processes;
    called_t called;

    skip_without_mpirun();
    threads = command_json("run '%s' %s --json", model, sequences);
    mpirun_call(&called, 2, "--ranks 2 --dispatch forward --json");
    cr_assert(eq(int, called.code, 0), "%s", called.err);
    processes = json_loads(called.out, 0, NULL);
    cr_expect(json_equal(json_object_get(threads, "sequences"),
                         json_object_get(processes, "sequences")));
    called_free(&called);
    json_decref(threads);
    json_decref(processes);
}

Test(command, mpi_worlds_of_another_size_are_refused_once)
{
    const char *line;
    called_t called;

    skip_without_mpirun();
    mpirun_call(&called, 2, "--ranks 3");
    cr_expect(ne(int, called.code, 0));
    line = strstr(called.err, "coterie run: MPI started 2 processes");
    cr_expect(ne(ptr, (void *)line, NULL), "%s", called.err);
    cr_expect(zero(ptr, strstr(line + 1, "coterie run:")), "%s", called.err);
    called_free(&called);
}

#endif

#ifdef HAVE_GLPK

Test(command, place_writes_a_placement_that_run_takes)
{
    json_t *plain, *placed, *report;

    trace_record("t.npz");
    report = command_json("place '%s' --ranks 2 --time-limit 2 -o '%s' --json",
                          file_path("t.npz"), file_path("p.json"));
    cr_expect(le(dbl, number(report, "bound"),
                 number(report, "cost") + 1e-9));
    cr_expect(le(dbl, number(report, "cost"),
                 number(report, "cost_in_order") + 1e-9));
    plain = command_json("run '%s' %s --json", model, sequences);
    placed = command_json("run '%s' %s --json -r 2 -d owner --placement '%s'",
                          model, sequences, file_path("p.json"));
    cr_expect(json_equal(json_object_get(plain, "sequences"),
                         json_object_get(placed, "sequences")));
    json_decref(report);
    json_decref(plain);
    json_decref(placed);
}

Test(command, place_refuses_outputs_that_exist_before_it_searches)
{
    trace_record("t.npz");
    text_put("p.json", "precious");
    expect_refused(1, "exists", "place '%s' --ranks 2 -o '%s'",
                   file_path("t.npz"), file_path("p.json"));
    expect_refused(2, "needs --ranks", "place '%s' -o x",
                   file_path("t.npz"));
}

#else

Test(command, place_says_that_it_was_built_without_glpk)
{
    expect_refused(1, "without GLPK", "place x --ranks 2 -o y");
}

#endif
