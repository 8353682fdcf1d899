#include "config.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include "offload/timeline.h"

enum { LAYERS = 3 };

static coterie_timeline_t timeline_of(uint32_t rounds);

Test(timeline, keeps_rounds_apart_as_long_as_there_are_spans)
{
    coterie_timeline_t t = timeline_of(COTERIE_TIMELINE_SPANS);

    cr_expect(eq(u32, 1, t.rounds));
    for (uint32_t s = 0; s < COTERIE_TIMELINE_SPANS; s++)
        for (uint32_t l = 0; l < LAYERS; l++)
            cr_expect(eq(u64, l + 1, t.counts[s * LAYERS + l].uses));
    coterie_timeline_destroy(&t);
}

Test(timeline, makes_one_span_of_two_when_all_are_full)
{
    coterie_timeline_t t = timeline_of(COTERIE_TIMELINE_SPANS + 1);
    uint32_t half = COTERIE_TIMELINE_SPANS / 2;

    cr_expect(eq(u32, 2, t.rounds));
    for (uint32_t s = 0; s < half; s++)
        cr_expect(eq(u64, 2, t.counts[s * LAYERS].uses));
    cr_expect(eq(u64, 1, t.counts[half * LAYERS].uses));
    cr_expect(zero(u64, t.counts[(half + 1) * LAYERS].uses));
    coterie_timeline_destroy(&t);
}

Test(timeline, loses_nothing_in_a_long_run)
{
    uint64_t rounds = 1000;
    coterie_timeline_t t = timeline_of((uint32_t)rounds);

    cr_expect(eq(u32, 16, t.rounds));
    cr_expect(eq(u64, 6 * rounds, coterie_timeline_sum(&t).uses));
    cr_expect(eq(u64, 5 * rounds, coterie_timeline_sum(&t).stall_ns));
    for (uint64_t s = 0; s < rounds / 16; s++)
        cr_expect(eq(u64, 16, t.counts[s * LAYERS].uses));
    coterie_timeline_destroy(&t);
}

/* In each round, layer l has l + 1 uses, and the last one a stall. */
static coterie_timeline_t timeline_of(uint32_t rounds)
{
    coterie_timeline_t t;

    cr_assert(eq(int, COTERIE_OK, coterie_timeline_create(LAYERS, &t)));
    for (uint32_t r = 0; r < rounds; r++) {
        if (r > 0)
            coterie_timeline_round(&t);
        for (uint32_t l = 0; l < LAYERS; l++)
            coterie_timeline_now(&t, l)->uses += l + 1;
        coterie_timeline_now(&t, LAYERS - 1)->stall_ns += 5;
    }
    return t;
}
