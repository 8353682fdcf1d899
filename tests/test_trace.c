#include "config.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include "tests/models.h"
#include "tests/trace_files.h"

TestSuite(trace, .init = files_make, .fini = files_remove);

/* Three tokens in two sequences, two layers, two experts of eight a token. */
static const int16_t ids[] = {0, 1, 2, 3, 4, 5, 6, -1, 1, 0, -1, -1};
static const float weights[] = {0.75f, 0.25f, 0.5f, 0.5f, 0.6f, 0.4f,
                                1.0f,  0.0f,  0.9f, 0.1f, 0.0f, 0.0f};
static const int16_t predicted[] = {2, -1, 0, 6, 7, -1};
static const uint64_t starts[] = {0, 2, 3};
static const uint32_t steps[] = {0, 1, 70000};
static const uint8_t phases[] = {COTERIE_PHASE_PREFILL, COTERIE_PHASE_DECODE,
                                 COTERIE_PHASE_DECODE};

static coterie_trace_view_t full_view(void)
{
    return (coterie_trace_view_t){
        .token_count = 3, .sequence_count = 2, .layer_count = 2,
        .expert_count = 8, .k = 2, .predicted_k = 1, .experts = ids,
        .weights = weights, .predicted = predicted, .seq_start = starts,
        .step = steps, .phase = phases};
}

static coterie_trace_t *make(const coterie_trace_view_t *view)
{
    coterie_trace_t *trace = NULL;
    coterie_status_t status = coterie_trace_create(view, &trace);

    cr_assert(eq(int, status, COTERIE_OK), "%s", coterie_last_error());
    return trace;
}

static void expect_refused(const coterie_trace_view_t *view, const char *part)
{
    coterie_trace_t *trace = NULL;

    cr_expect(eq(int, coterie_trace_create(view, &trace),
                 COTERIE_ERR_INVALID));
    cr_expect(zero(ptr, trace)); /* untouched on failure */
    cr_expect(ne(ptr, strstr(coterie_last_error(), part), NULL), "%s",
              coterie_last_error());
}

/* The entries that most files below are made of. */
enum { EXPERTS, STARTS, WEIGHTS, STEP, PHASE, ENTRY_COUNT };

static void entries_fill(coterie_npz_entry_t entries[ENTRY_COUNT])
{
    static const uint64_t shape[] = {3, 2, 2, 0}, three[] = {3, 0};

    entries[EXPERTS] = (coterie_npz_entry_t){
        "experts", coterie_npy_describe("i2", shape, ids)};
    entries[STARTS] = (coterie_npz_entry_t){
        "seq_start", coterie_npy_describe("u8", three, starts)};
    entries[WEIGHTS] = (coterie_npz_entry_t){
        "weights", coterie_npy_describe("f4", shape, weights)};
    entries[STEP] = (coterie_npz_entry_t){
        "step", coterie_npy_describe("u4", three, steps)};
    entries[PHASE] = (coterie_npz_entry_t){
        "phase", coterie_npy_describe("u1", three, phases)};
}

Test(trace, survives_a_round_trip_whole)
{
    coterie_trace_view_t view = full_view(), back;
    coterie_trace_t *trace = make(&view), *read;

    cr_assert(eq(int, coterie_trace_write(trace, file_path("t.npz"), 0),
                 COTERIE_OK),
              "%s", coterie_last_error());
    read = trace_get("t.npz");
    coterie_trace_view(read, &back);
    cr_expect(eq(u64, back.token_count, 3));
    cr_expect(eq(u64, back.sequence_count, 2));
    cr_expect(eq(u32, back.layer_count, 2));
    cr_expect(eq(u32, back.expert_count, 8)); /* though 7 is never chosen */
    cr_expect(eq(u32, back.k, 2));
    cr_expect(eq(u32, back.predicted_k, 1));
    cr_expect(zero(int, memcmp(back.experts, ids, sizeof(ids))));
    cr_expect(zero(int, memcmp(back.weights, weights, sizeof(weights))));
    cr_expect(zero(int, memcmp(back.predicted, predicted, sizeof(predicted))));
    cr_expect(zero(int, memcmp(back.seq_start, starts, sizeof(starts))));
    cr_expect(zero(int, memcmp(back.step, steps, sizeof(steps))));
    cr_expect(zero(int, memcmp(back.phase, phases, sizeof(phases))));
    coterie_trace_destroy(read);
    coterie_trace_destroy(trace);
}

Test(trace, without_optional_arrays_reads_back_without_them)
{
    coterie_trace_view_t view = full_view(), back;
    coterie_trace_t *trace, *read;

    view.weights = NULL;
    view.predicted = NULL;
    view.predicted_k = 0;
    view.step = NULL;
    view.phase = NULL;
    trace = make(&view);
    coterie_trace_write(trace, file_path("t.npz"), 0);
    read = trace_get("t.npz");
    coterie_trace_view(read, &back);
    cr_expect(zero(ptr, (void *)back.weights));
    cr_expect(zero(ptr, (void *)back.predicted));
    cr_expect(zero(ptr, (void *)back.step));
    cr_expect(zero(ptr, (void *)back.phase));
    coterie_trace_destroy(read);
    coterie_trace_destroy(trace);
}

Test(trace, file_that_exists_needs_force)
{
    coterie_trace_view_t view = full_view();
    coterie_trace_t *trace = make(&view);

    text_put("t.npz", "mine");
    cr_expect(eq(int, coterie_trace_write(trace, file_path("t.npz"), 0),
                 COTERIE_ERR_EXISTS));
    cr_expect(eq(int, coterie_trace_write(trace, file_path("t.npz"), 1),
                 COTERIE_OK));
    coterie_trace_destroy(trace_get("t.npz"));
    coterie_trace_destroy(trace);
}

Test(trace, on_a_full_disk_leaves_nothing)
{
    struct rlimit limit = {700, 700}; /* of about 1800 bytes */
    coterie_trace_view_t view = full_view();
    coterie_trace_t *trace = make(&view);

    signal(SIGXFSZ, SIG_IGN); /* so that writing fails instead */
    cr_assert(zero(int, setrlimit(RLIMIT_FSIZE, &limit)));
    cr_expect(eq(int, coterie_trace_write(trace, file_path("t.npz"), 0),
                 COTERIE_ERR_IO));
    cr_expect(ne(ptr, strstr(coterie_last_error(), "t.npz"), NULL));
    cr_expect(zero(int, files_count()));
    coterie_trace_destroy(trace);
}

Test(trace, slice_is_a_trace_of_those_sequences)
{
    coterie_trace_view_t view = full_view(), part;
    coterie_trace_t *trace = make(&view), *slice = NULL;

    cr_assert(eq(int, coterie_trace_slice(trace, 1, 1, &slice), COTERIE_OK));
    coterie_trace_view(slice, &part);
    cr_expect(eq(u64, part.token_count, 1));
    cr_expect(eq(u64, part.seq_start[0], 0));
    cr_expect(eq(u64, part.seq_start[1], 1));
    cr_expect(eq(u32, part.expert_count, 8));
    cr_expect(eq(i16, part.experts[0], 1));
    cr_expect(eq(flt, part.weights[0], 0.9f));
    cr_expect(eq(i16, part.predicted[0], 7));
    cr_expect(eq(u32, part.step[0], 70000));
    cr_expect(eq(u8, part.phase[0], COTERIE_PHASE_DECODE));
    coterie_trace_destroy(slice);
    coterie_trace_destroy(trace);
}

Test(trace, slice_beyond_its_sequences_is_refused)
{
    coterie_trace_view_t view = full_view();
    coterie_trace_t *trace = make(&view), *slice = NULL;

    cr_expect(eq(int, coterie_trace_slice(trace, 0, 0, &slice),
                 COTERIE_ERR_INVALID));
    cr_expect(eq(int, coterie_trace_slice(trace, 1, 2, &slice),
                 COTERIE_ERR_INVALID));
    cr_expect(eq(int, coterie_trace_slice(trace, UINT64_MAX, 2, &slice),
                 COTERIE_ERR_INVALID));
    cr_expect(zero(ptr, slice));
    coterie_trace_destroy(trace);
}

Test(trace, create_names_the_id_that_is_out_of_range)
{
    coterie_trace_view_t view = full_view();

    view.expert_count = 6;
    expect_refused(&view, "token 1, layer 1: expert 6; ids go from 0 to 5");
    view.expert_count = 7; /* now only a prediction is too high */
    expect_refused(&view, "token 2, layer 0: expert 7; ids go from 0 to 6");
}

Test(trace, create_refuses_an_expert_twice_in_one_set)
{
    static const int16_t twice[] = {0, 1, 2, 3, 4, 4, -1, -1, 1, 0, 2, 3};
    coterie_trace_view_t view = full_view();

    view.experts = twice;
    expect_refused(&view, "token 1, layer 0: expert 4 comes twice");
}

Test(trace, create_refuses_sequences_that_do_not_fit)
{
    static const uint64_t descending[] = {0, 3, 3}, late[] = {1, 2, 3},
                          early[] = {0, 1, 2};
    coterie_trace_view_t view = full_view();

    view.seq_start = descending;
    expect_refused(&view, "must ascend: entry 1 is 3, the next 3");
    view.seq_start = late;
    expect_refused(&view, "from 1 to 3");
    view.seq_start = early;
    expect_refused(&view, "from 0 to 2");
}

Test(trace, create_refuses_sizes_that_no_trace_has)
{
    coterie_trace_view_t view = full_view();

    view.token_count = 0;
    expect_refused(&view, "empty");
    view = full_view();
    view.k = COTERIE_K_MAX + 1;
    expect_refused(&view, "at most 16");
    view = full_view();
    view.token_count = UINT32_MAX;
    view.layer_count = 4096;
    view.predicted_k = UINT32_MAX;
    expect_refused(&view, "more than a trace can hold");
    view = full_view();
    view.predicted = NULL;
    expect_refused(&view, "predicted");
}

Test(trace, reads_compressed_npz_of_other_makers)
{
    coterie_npz_entry_t entries[ENTRY_COUNT];
    coterie_trace_view_t view;
    coterie_trace_t *trace;

    entries_fill(entries);
    npz_put("t.npz", entries, ENTRY_COUNT);
    trace = trace_get("t.npz");
    coterie_trace_view(trace, &view);
    cr_expect(eq(u32, view.expert_count, 7)); /* one more than the largest */
    cr_expect(zero(int, memcmp(view.step, steps, sizeof(steps))));
    cr_expect(eq(flt, view.weights[1], 0.25f));
    coterie_trace_destroy(trace);
}

Test(trace, reads_vllm_routed_experts_as_one_sequence)
{
    static const int32_t routed[] = {0, 1, 2, 3, 4, 5, 6, 7};
    static const uint64_t shape[] = {2, 2, 2, 0};
    coterie_npz_entry_t entry = {"routed_experts",
                                 coterie_npy_describe("i4", shape, routed)};
    coterie_trace_view_t view;
    coterie_trace_t *trace;

    npz_put("t.npz", &entry, 1);
    trace = trace_get("t.npz");
    coterie_trace_view(trace, &view);
    cr_expect(eq(u64, view.token_count, 2));
    cr_expect(eq(u64, view.sequence_count, 1));
    cr_expect(eq(i16, view.experts[7], 7));
    coterie_trace_destroy(trace);
}

Test(trace, reads_npy_of_every_integer_type)
{
    static const uint8_t u1[] = {3, 0, 1, 2};
    static const uint16_t u2[] = {3, 0, 1, 2};
    static const uint32_t u4[] = {3, 0, 1, 2};
    static const int8_t i1[] = {3, 0, -1, 2};
    static const int16_t i2[] = {3, 0, -1, 2};
    static const int32_t i4[] = {3, 0, -1, 2};
    static const int64_t i8[] = {3, 0, -1, 2};
    static const struct {
        const char *type;
        const void *data;
    } files[] = {{"u1", u1}, {"u2", u2}, {"u4", u4}, {"i1", i1},
                 {"i2", i2}, {"i4", i4}, {"i8", i8}};
    static const uint64_t shape[] = {2, 2, 0}; /* k = 1, as ExFlow has it */

    for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
        coterie_trace_view_t view;
        coterie_trace_t *trace;
        array_put("t.npy", files[i].type, shape, files[i].data);
        trace = trace_get("t.npy");
        coterie_trace_view(trace, &view);
        cr_expect(eq(u32, view.k, 1));
        cr_expect(eq(u32, view.expert_count, 4));
        cr_expect(eq(i16, view.experts[0], 3));
        cr_expect(eq(i16, view.experts[2], files[i].type[0] == 'u' ? 1 : -1));
        coterie_trace_destroy(trace);
    }
}

Test(trace, takes_the_files_beside_experts_npy_but_no_others)
{
    static const uint8_t experts[] = {0, 1, 2, 3, 4, 5};
    static const uint8_t bytes[] = {255, 0, 51, 204, 255, 0};
    static const int64_t begins[] = {0, 1, 3};
    uint64_t shape[] = {3, 1, 2, 0}, three[] = {3, 0};
    coterie_trace_view_t view;
    coterie_trace_t *trace;

    array_put("experts.npy", "u1", shape, experts);
    array_put("other.npy", "u1", shape, experts);
    array_put("weights.npy", "u1", shape, bytes);
    array_put("seq_start.npy", "i8", three, begins);
    trace = trace_get("experts.npy");
    coterie_trace_view(trace, &view);
    cr_expect(eq(u64, view.sequence_count, 2));
    cr_expect(eq(u64, view.seq_start[1], 1));
    cr_expect(eq(flt, view.weights[0], 1.0f));
    cr_expect(eq(flt, view.weights[2], 0.2f));
    coterie_trace_destroy(trace);
    trace = trace_get("other.npy");
    coterie_trace_view(trace, &view);
    cr_expect(eq(u64, view.sequence_count, 1));
    cr_expect(zero(ptr, (void *)view.weights));
    coterie_trace_destroy(trace);
}

Test(trace, reads_llama_csv_and_counts_its_experts_a_layer)
{
    coterie_trace_view_t view;
    coterie_trace_t *trace;

    /* The first MoE layer is the model's second. */
    text_put("t.csv", "layer,expert\r\n1,5\n1,2\n2,0\n2,1\n1,7\n1,3\n2,4\n2,6");
    trace = trace_get("t.csv");
    coterie_trace_view(trace, &view);
    cr_expect(eq(u64, view.token_count, 2));
    cr_expect(eq(u32, view.layer_count, 2));
    cr_expect(eq(u32, view.k, 2));
    cr_expect(eq(i16, view.experts[4], 7));
    cr_expect(eq(i16, view.experts[7], 6));
    coterie_trace_destroy(trace);
}

Test(trace, refuses_csv_whose_tokens_differ)
{
    text_put("t.csv", "0,1\n0,2\n1,0\n1,3\n0,1\n1,0\n1,2\n1,3\n");
    expect_unread("t.csv", COTERIE_ERR_FORMAT, "line 6: layer 1 breaks");
    text_put("t.csv", "0,1\n0,2\n1,0\n1,3\n0,1\n0,3\n");
    expect_unread("t.csv", COTERIE_ERR_FORMAT, "not whole tokens");
    text_put("t.csv", "0,1\n1,0\n1,3\n");
    expect_unread("t.csv", COTERIE_ERR_FORMAT, "layer 1 breaks");
    text_put("t.csv", "0,1\n0,2\n0,3\n");
    expect_unread("t.csv", COTERIE_ERR_FORMAT, "only layer 0");
    text_put("t.csv", "0,1\n0,1\n1,0\n1,3\n");
    expect_unread("t.csv", COTERIE_ERR_FORMAT, "expert 1 comes twice");
}

Test(trace, refuses_files_that_are_no_trace)
{
    text_put("t", "");
    expect_unread("t", COTERIE_ERR_FORMAT, "empty trace");
    text_put("t", "It was the best of times\n");
    expect_unread("t", COTERIE_ERR_FORMAT, "line 1 is not `layer,expert`");
    text_put("t", "0,1\n0;2\n");
    expect_unread("t", COTERIE_ERR_FORMAT, "line 2 is not");
    text_put("t", "PK\3\4 and nothing of a zip");
    expect_unread("t", COTERIE_ERR_FORMAT, "not a whole .npz");
    expect_unread("absent", COTERIE_ERR_NOT_FOUND, "absent");
    expect_unread(".", COTERIE_ERR_IO, "not a regular file");
}

Test(trace, refuses_an_npz_without_experts)
{
    coterie_npz_entry_t entries[ENTRY_COUNT];

    entries_fill(entries);
    npz_put("t.npz", &entries[WEIGHTS], 1);
    expect_unread("t.npz", COTERIE_ERR_FORMAT, "neither 'experts' nor");
}

Test(trace, refuses_the_wrong_rank_or_dtype)
{
    static const uint64_t flat[] = {12, 0}, deep[] = {3, 2, 1, 2, 0},
                          floats[] = {3, 2, 2, 0};

    array_put("t.npy", "i2", flat, ids);
    expect_unread("t.npy", COTERIE_ERR_FORMAT, "1 dimensions");
    array_put("t.npy", "i2", deep, ids);
    expect_unread("t.npy", COTERIE_ERR_FORMAT, "4 dimensions");
    array_put("t.npy", "f4", floats, weights);
    expect_unread("t.npy", COTERIE_ERR_FORMAT, "ids must be integers");
    npy_put("t.npy",
            "{'descr': '<i2', 'fortran_order': False, 'shape': (0, 2, 2)}",
            ids, 0);
    expect_unread("t.npy", COTERIE_ERR_FORMAT, "empty trace");
}

Test(trace, names_the_id_of_a_file_that_is_out_of_range)
{
    static const int32_t low[] = {0, 1, 2, -2}, high[] = {0, 1, 5000000, 2};
    static const uint64_t shape[] = {2, 2, 0};
    coterie_trace_t *trace = NULL;

    array_put("t.npy", "i4", shape, low);
    expect_unread("t.npy", COTERIE_ERR_FORMAT, "token 1, layer 1: expert -2");
    array_put("t.npy", "i4", shape, high);
    expect_unread("t.npy", COTERIE_ERR_FORMAT,
                  "token 1, layer 0: expert 5000000");
    array_put("t.npy", "i2", shape, ids);
    cr_expect(eq(int, coterie_trace_read(file_path("t.npy"), 3, &trace),
                 COTERIE_ERR_FORMAT));
    cr_expect(ne(ptr, strstr(coterie_last_error(),
                             "token 1, layer 1: expert 3; ids go from 0 to 2"),
                 NULL));
}

Test(trace, recorded_for_another_number_of_experts_is_a_mismatch)
{
    coterie_trace_view_t view = full_view();
    coterie_trace_t *trace = make(&view), *read = NULL;

    coterie_trace_write(trace, file_path("t.npz"), 0);
    cr_expect(eq(int, coterie_trace_read(file_path("t.npz"), 16, &read),
                 COTERIE_ERR_MISMATCH));
    cr_expect(zero(ptr, read));
    coterie_trace_destroy(trace);
}

Test(trace, refuses_parts_that_do_not_fit_its_experts)
{
    static const uint64_t two[] = {2, 0}, three[] = {3, 0},
                          same[] = {3, 2, 2, 0}, other[] = {3, 2, 1, 0};
    static const uint8_t wrong[] = {0, 1, 2};
    static const struct {
        int entry;
        const char *type;
        const uint64_t *shape;
        const char *part;
    } cases[] = {{WEIGHTS, "f4", other, "another shape"},
                 {WEIGHTS, "i4", same, "floats"},
                 {STEP, "u4", two, "step must be 3 integers"},
                 {PHASE, "u1", two, "phase must be 3 integers"},
                 {STARTS, "u8", two, "seq_start goes from 0 to 2"},
                 {STARTS, "f8", three, "seq_start must"}};
    coterie_npz_entry_t entries[ENTRY_COUNT];

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        coterie_npy_t *array = &entries[cases[i].entry].array;
        entries_fill(entries);
        *array = coterie_npy_describe(cases[i].type, cases[i].shape,
                                      array->data);
        npz_put("t.npz", entries, ENTRY_COUNT);
        expect_unread("t.npz", COTERIE_ERR_FORMAT, cases[i].part);
    }
    entries_fill(entries);
    entries[PHASE].array.data = wrong;
    npz_put("t.npz", entries, ENTRY_COUNT);
    expect_unread("t.npz", COTERIE_ERR_FORMAT, "token 2: phase 2");
}

Test(trace, never_takes_a_damaged_archive)
{
    coterie_trace_view_t view = full_view();
    coterie_trace_t *trace = make(&view), *read = NULL;
    size_t size;
    void *bytes;

    coterie_trace_write(trace, file_path("t.npz"), 0);
    bytes = file_load(file_path("t.npz"), &size);
    for (size_t cut = 0; cut < size; cut += 7) {
        file_save(file_path("cut.npz"), bytes, cut);
        cr_expect(ne(int, coterie_trace_read(file_path("cut.npz"), 0, &read),
                     COTERIE_OK));
    }
    file_flip(file_path("t.npz"), 170); /* an id: the checksum must tell */
    expect_unread("t.npz", COTERIE_ERR_FORMAT, "damaged");
    free(bytes);
    coterie_trace_destroy(trace);
}

/* Worked out by hand: four tokens, two layers of four experts, top-1; layer 0
 * chooses 0 0 0 1, layer 1 after it 2 2 3 2. */
Test(trace, summary_is_what_its_formulas_say)
{
    static const int16_t chosen[] = {0, 2, 0, 2, 0, 3, 1, 2};
    static const uint64_t begins[] = {0, 4};
    coterie_trace_view_t view = {.token_count = 4, .sequence_count = 1,
                                 .layer_count = 2, .expert_count = 4, .k = 1,
                                 .experts = chosen, .seq_start = begins};
    coterie_trace_summary_t summary = COTERIE_TRACE_SUMMARY_INIT;
    coterie_trace_t *trace = make(&view);
    uint64_t load[8];

    coterie_trace_loads(trace, load);
    cr_expect(eq(u64, load[0], 3));
    cr_expect(eq(u64, load[6], 3));
    cr_expect(zero(int, coterie_trace_summarise(trace, &summary)));
    cr_expect(eq(u32, summary.expert_unused, 4));
    cr_expect(eq(dbl, summary.load_skew_mean, 3.0));
    cr_expect(eq(dbl, summary.load_skew_max, 3.0));
    cr_expect(eq(dbl, summary.affinity, (2.0 + 1.0) / 4.0));
    cr_expect(eq(dbl, summary.affinity_independent, 3.0 / 4.0));
    cr_expect(eq(dbl, summary.affinity_uniform, 1.0 / 4.0));
    cr_expect(eq(dbl, summary.fan_out[1], 1.0));
    cr_expect(eq(dbl, summary.fan_out[2], 0.0)); /* fewer experts than ranks */
    coterie_trace_destroy(trace);
}

Test(trace, summary_counts_distinct_ranks_of_uneven_shares)
{
    /* Five experts on two ranks: 0 1 2 and 3 4; on four: 0 1, 2, 3, 4. */
    static const int16_t chosen[] = {0, 1, 2, 1, 2, 3, 0, 3, 4};
    static const uint64_t begins[] = {0, 3};
    coterie_trace_view_t view = {.token_count = 3, .sequence_count = 1,
                                 .layer_count = 1, .expert_count = 5, .k = 3,
                                 .experts = chosen, .seq_start = begins};
    coterie_trace_summary_t summary = COTERIE_TRACE_SUMMARY_INIT;
    coterie_trace_t *trace = make(&view);

    cr_expect(zero(int, coterie_trace_summarise(trace, &summary)));
    cr_expect(eq(dbl, summary.fan_out[0], 5.0 / 3.0));
    cr_expect(eq(dbl, summary.fan_out[1], 8.0 / 3.0));
    cr_expect(eq(dbl, summary.affinity, 0.0)); /* one layer has no next */
    coterie_trace_destroy(trace);
}

Test(trace, summary_of_an_older_caller_is_not_written_past_its_end)
{
    coterie_trace_view_t view = full_view();
    coterie_trace_t *trace = make(&view);
    coterie_trace_summary_t summary;

    memset(&summary, 0x5a, sizeof(summary));
    summary.size = offsetof(coterie_trace_summary_t, load_skew_mean);
    cr_expect(zero(int, coterie_trace_summarise(trace, &summary)));
    cr_expect(eq(u64, summary.token_count, 3));
    cr_expect(eq(sz, summary.size,
                 offsetof(coterie_trace_summary_t, load_skew_mean)));
    cr_expect(eq(chr, ((char *)&summary.load_skew_mean)[0], 0x5a));
    coterie_trace_destroy(trace);
}
