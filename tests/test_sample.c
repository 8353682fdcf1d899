#include "config.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include <coterie/trace.h>

#include "placement/sample.h"

enum {
    SEQUENCES = 10,
    EACH = 40,
    TOKENS = SEQUENCES * EACH,
    LAYERS = 2,
    K = 2
};

/* Experts tell where a token came from: its sequence and, in the second
 * layer, its place in it. */
static coterie_trace_t *trace_make(void)
{
    static int16_t sets[TOKENS * LAYERS * K];
    static uint32_t step[TOKENS];
    static uint8_t phase[TOKENS];
    uint64_t start[SEQUENCES + 1];
    coterie_trace_view_t view = {
        .token_count = TOKENS, .sequence_count = SEQUENCES,
        .layer_count = LAYERS, .expert_count = 64, .k = K, .experts = sets,
        .seq_start = start, .step = step, .phase = phase};
    coterie_trace_t *trace = NULL;

    for (int s = 0; s <= SEQUENCES; s++)
        start[s] = (uint64_t)s * EACH;
    for (int t = 0; t < TOKENS; t++) {
        sets[t * 4] = (int16_t)(t / EACH);
        sets[t * 4 + 1] = 63;
        sets[t * 4 + 2] = (int16_t)(t % EACH);
        sets[t * 4 + 3] = 63;
        step[t] = (uint32_t)(t % EACH);
        phase[t] = t % EACH < 3 ? COTERIE_PHASE_PREFILL
                                : COTERIE_PHASE_DECODE;
    }
    for (int t = 0; t < TOKENS; t++)
        step[t] += phase[t]; /* a step has one phase */
    cr_assert(eq(int, COTERIE_OK, coterie_trace_create(&view, &trace)));
    return trace;
}

Test(sample, is_the_trace_itself_where_that_is_short_enough)
{
    coterie_trace_t *trace = trace_make(), *sample = NULL;

    cr_assert(eq(int, COTERIE_OK,
                 coterie_sample_take(trace, TOKENS, &sample)));
    cr_expect(eq(ptr, sample, trace));
    coterie_trace_destroy(trace);
}

Test(sample, takes_whole_sequences_from_everywhere_but_no_more_than_asked)
{
    static const uint64_t most[] = {1, 39, 40, 100, 130, 200, 399};
    coterie_trace_t *trace = trace_make();

    for (size_t i = 0; i < sizeof(most) / sizeof(most[0]); i++) {
        coterie_trace_t *sample = NULL;
        coterie_trace_view_t view;
        cr_assert(eq(int, COTERIE_OK,
                     coterie_sample_take(trace, most[i], &sample)));
        coterie_trace_view(sample, &view);
        cr_expect(le(u64, view.token_count, most[i]));
        cr_expect(gt(u64, 2 * view.token_count, most[i]));
        for (uint64_t s = 0; s < view.sequence_count; s++)
            for (uint64_t t = view.seq_start[s]; t < view.seq_start[s + 1];
                 t++) {
                uint32_t place = (uint32_t)(t - view.seq_start[s]);
                uint64_t stride = (TOKENS - 1) / most[i] + 1;
                cr_expect(eq(u64, (uint64_t)view.experts[t * 4], s * stride));
                cr_expect(eq(u32, (uint32_t)view.experts[t * 4 + 2], place));
                cr_expect(eq(u32, view.phase[t], place >= 3));
                cr_expect(eq(u32, view.step[t], place + view.phase[t]));
            }
        coterie_trace_destroy(sample);
    }
    coterie_trace_destroy(trace);
}

Test(sample, affords_tokens_by_the_time_and_never_next_to_none)
{
    coterie_trace_t *trace = trace_make();
    coterie_trace_view_t view;
    double all;

    coterie_trace_view(trace, &view);
    all = coterie_sample_seconds(&view);
    cr_expect(gt(dbl, all, 0));
    cr_expect(le(u64, coterie_sample_afford(&view, 12.5 * all, 5),
                 TOKENS * 5 / 2));
    cr_expect(ge(u64, coterie_sample_afford(&view, 12.5 * all, 5),
                 TOKENS * 5 / 2 - 1)); /* rounded */
    cr_expect(gt(u64, coterie_sample_afford(&view, 0, 5), 99));
    coterie_trace_destroy(trace);
}
