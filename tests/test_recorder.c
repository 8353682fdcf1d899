#include "config.h"

#include <stdlib.h>
#include <string.h>

#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include <coterie/trace.h>

/* Two layers of eight experts, two of them a token, one predicted. */
static coterie_trace_recorder_t *recorder_make(void)
{
    coterie_trace_recorder_options_t options =
        COTERIE_TRACE_RECORDER_OPTIONS_INIT;
    coterie_trace_recorder_t *recorder = NULL;

    options.layer_count = 2;
    options.expert_count = 8;
    options.k = 2;
    options.predicted_k = 1;
    cr_assert(eq(int, coterie_trace_recorder_create(&options, &recorder),
                 COTERIE_OK));
    return recorder;
}

typedef struct one {
    int32_t sequence, position;
    uint32_t layer, step;
    int32_t ids[2];
    int32_t predicted; /* -1: none */
} one_t;

static coterie_status_t record(coterie_trace_recorder_t *recorder, one_t one)
{
    float weights[] = {0.75f, 0.25f};
    coterie_trace_rows_t rows = {.size = sizeof(rows),
                                 .layer = one.layer,
                                 .count = 1,
                                 .step = one.step,
                                 .phase = one.step > 0,
                                 .sequence = &one.sequence,
                                 .position = &one.position,
                                 .topk_ids = one.ids,
                                 .topk_weights = weights};

    if (one.predicted >= 0)
        rows.predicted = &one.predicted;
    return coterie_trace_record(recorder, &rows);
}

/* One whole token: the same experts at both layers. */
static void record_token(coterie_trace_recorder_t *recorder, int32_t sequence,
                         int32_t position, int32_t expert)
{
    for (uint32_t layer = 0; layer < 2; layer++)
        cr_assert(eq(int, COTERIE_OK,
                     record(recorder, (one_t){sequence, position, layer,
                                              (uint32_t)position,
                                              {expert, -1}, -1})));
}

static void join(coterie_trace_recorder_t *into,
                 const coterie_trace_recorder_t *from)
{
    void *data = NULL;
    size_t size = 0;

    cr_assert(eq(int, coterie_trace_recorder_export(from, &data, &size),
                 COTERIE_OK));
    cr_expect(eq(int, coterie_trace_recorder_import(into, data, size),
                 COTERIE_OK),
              "%s", coterie_last_error());
    free(data);
}

static void expect_unfinished(coterie_trace_recorder_t *recorder,
                              const char *part)
{
    coterie_trace_t *trace = NULL;

    cr_expect(eq(int, coterie_trace_recorder_finish(recorder, &trace),
                 COTERIE_ERR_INVALID));
    cr_expect(zero(ptr, trace)); /* untouched on failure */
    cr_expect(ne(ptr, strstr(coterie_last_error(), part), NULL), "%s",
              coterie_last_error());
    coterie_trace_recorder_destroy(recorder);
}

Test(recorder, merges_two_ranks_rows_recorded_out_of_order)
{
    coterie_trace_recorder_t *zero = recorder_make(), *one = recorder_make();
    coterie_trace_t *trace = NULL;
    coterie_trace_view_t view;

    record_token(zero, 9, 1, 6);
    record(zero, (one_t){4, 0, 1, 0, {3, 2}, -1});
    record_token(one, 9, 0, 5);
    record_token(one, 4, 1, 4);
    record(one, (one_t){4, 0, 0, 0, {0, 1}, -1});
    join(zero, one);
    cr_assert(eq(int, coterie_trace_recorder_finish(zero, &trace), COTERIE_OK),
              "%s", coterie_last_error());
    coterie_trace_view(trace, &view);
    cr_expect(eq(u64, view.token_count, 4));
    cr_expect(eq(u64, view.sequence_count, 2));
    cr_expect(eq(u64, view.seq_start[1], 2));
    cr_expect(eq(u64, view.seq_start[2], 4));
    static const int16_t expected[] = {0, 1,  3, 2,  4, -1, 4, -1,
                                       5, -1, 5, -1, 6, -1, 6, -1};
    cr_expect(zero(int, memcmp(view.experts, expected, sizeof(expected))));
    cr_expect(eq(u32, view.expert_count, 8)); /* also those never chosen */
    cr_expect(eq(u32, view.step[1], 1));
    cr_expect(eq(u8, view.phase[0], COTERIE_PHASE_PREFILL));
    cr_expect(eq(u8, view.phase[1], COTERIE_PHASE_DECODE));
    cr_expect(eq(flt, view.weights[0], 0.75f));
    coterie_trace_destroy(trace);
    coterie_trace_recorder_destroy(one);
    coterie_trace_recorder_destroy(zero);
}

Test(recorder, counts_rows_that_agree_once_and_keeps_their_prediction)
{
    coterie_trace_recorder_t *recorder = recorder_make();
    coterie_trace_t *trace = NULL;
    coterie_trace_view_t view;

    record_token(recorder, 0, 7, 3); /* positions may start anywhere */
    record(recorder, (one_t){0, 7, 0, 7, {3, -1}, 6});
    record(recorder, (one_t){0, 7, 0, 7, {3, -1}, -1});
    cr_assert(eq(int, coterie_trace_recorder_finish(recorder, &trace),
                 COTERIE_OK));
    coterie_trace_view(trace, &view);
    cr_expect(eq(u64, view.token_count, 1));
    cr_expect(eq(i16, view.predicted[0], 6));
    cr_expect(eq(i16, view.predicted[1], -1));
    coterie_trace_destroy(trace);
    coterie_trace_recorder_destroy(recorder);
}

Test(recorder, refuses_rows_that_contradict_each_other)
{
    coterie_trace_recorder_t *recorder = recorder_make();

    record_token(recorder, 2, 0, 3);
    record(recorder, (one_t){2, 0, 1, 0, {4, -1}, -1});
    expect_unfinished(recorder, "sequence 2, position 0, layer 1: recorded "
                                "twice");
}

Test(recorder, refuses_a_token_in_two_steps)
{
    coterie_trace_recorder_t *recorder = recorder_make();

    record(recorder, (one_t){2, 0, 0, 1, {4, -1}, -1});
    record(recorder, (one_t){2, 0, 1, 2, {4, -1}, -1});
    expect_unfinished(recorder, "steps 1 and 2");
}

Test(recorder, names_the_layer_that_is_missing)
{
    coterie_trace_recorder_t *first = recorder_make(), *last = recorder_make();

    record(first, (one_t){2, 5, 1, 0, {4, -1}, -1});
    expect_unfinished(first, "sequence 2, position 5: layer 0 was not");
    record_token(last, 0, 0, 3);
    record(last, (one_t){2, 5, 0, 0, {4, -1}, -1});
    expect_unfinished(last, "sequence 2, position 5: layer 1 was not");
}

Test(recorder, names_the_position_that_is_missing)
{
    coterie_trace_recorder_t *recorder = recorder_make();

    record_token(recorder, 3, 0, 1);
    record_token(recorder, 3, 2, 1);
    expect_unfinished(recorder, "sequence 3: position 2 follows 0");
}

Test(recorder, refuses_to_finish_what_holds_nothing)
{
    expect_unfinished(recorder_make(), "nothing was recorded");
}

Test(recorder, takes_all_rows_of_a_call_or_none)
{
    coterie_trace_recorder_t *recorder = recorder_make();
    int32_t sequence[] = {0, 1}, position[] = {0, 0}, ids[] = {0, 1, 2, 8};
    float weights[4] = {0};
    coterie_trace_rows_t rows = {.size = sizeof(rows), .count = 2,
                                 .sequence = sequence, .position = position,
                                 .topk_ids = ids, .topk_weights = weights};

    cr_expect(eq(int, coterie_trace_record(recorder, &rows),
                 COTERIE_ERR_INVALID));
    cr_expect(ne(ptr, strstr(coterie_last_error(), "expert 8; ids go from 0 "
                                                   "to 7"), NULL));
    expect_unfinished(recorder, "nothing was recorded");
}

Test(recorder, refuses_rows_that_no_model_could_give)
{
    coterie_trace_recorder_t *recorder = recorder_make();
    static const one_t bad[] = {
        {0, 0, 2, 0, {0, 1}, -1},     {-1, 0, 0, 0, {0, 1}, -1},
        {0, -1, 0, 0, {0, 1}, -1},    {0, 0, 0, 0, {5, 5}, -1},
        {0, 0, 0, 0, {0, 70000}, -1}, {0, 0, 0, 0, {0, -2}, -1},
        {0, 0, 0, 0, {0, 1}, 8},
    };

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        cr_expect(eq(int, record(recorder, bad[i]), COTERIE_ERR_INVALID));
    expect_unfinished(recorder, "nothing was recorded");
}

Test(recorder, refuses_bytes_that_no_such_recorder_exported)
{
    coterie_trace_recorder_options_t options =
        COTERIE_TRACE_RECORDER_OPTIONS_INIT;
    coterie_trace_recorder_t *one = recorder_make(), *other = NULL;
    unsigned char *data = NULL;
    void *exported = NULL;
    size_t size = 0;

    options.layer_count = options.k = 1;
    options.expert_count = 8;
    coterie_trace_recorder_create(&options, &other);
    record_token(one, 0, 0, 1);
    coterie_trace_recorder_export(one, &exported, &size);
    data = exported;
    cr_expect(eq(int, coterie_trace_recorder_import(other, data, size),
                 COTERIE_ERR_MISMATCH));
    cr_expect(eq(int, coterie_trace_recorder_import(one, data, size - 1),
                 COTERIE_ERR_FORMAT));
    cr_expect(eq(int, coterie_trace_recorder_import(one, data, 3),
                 COTERIE_ERR_FORMAT));
    memset(data + size - 8, 0x7f, 8); /* the last row's ids */
    cr_expect(eq(int, coterie_trace_recorder_import(one, data, size),
                 COTERIE_ERR_INVALID));
    free(data);
    coterie_trace_recorder_destroy(other);
    coterie_trace_recorder_destroy(one);
}

Test(recorder, refuses_options_that_make_no_sense)
{
    coterie_trace_recorder_options_t options =
        COTERIE_TRACE_RECORDER_OPTIONS_INIT;
    coterie_trace_recorder_t *recorder = NULL;

    options.layer_count = options.expert_count = 1;
    cr_expect(eq(int, coterie_trace_recorder_create(&options, &recorder),
                 COTERIE_ERR_INVALID)); /* no k */
    options.k = COTERIE_K_MAX + 1;
    cr_expect(eq(int, coterie_trace_recorder_create(&options, &recorder),
                 COTERIE_ERR_INVALID));
    cr_expect(zero(ptr, recorder));
}
