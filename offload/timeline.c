#include "config.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "offload/timeline.h"

static coterie_layer_counts_t *counts_at(const coterie_timeline_t *timeline,
                                         uint32_t span);
static void spans_pair(coterie_timeline_t *timeline);
static void counts_add(const coterie_layer_counts_t *from, size_t count,
                       coterie_layer_counts_t *to);

coterie_status_t coterie_timeline_create(uint32_t layer_count,
                                         coterie_timeline_t *timeline)
{
    coterie_timeline_t made = {.layer_count = layer_count, .rounds = 1,
                                 .begun = 1};
    size_t entries = (size_t)layer_count * COTERIE_TIMELINE_SPANS;

    made.counts = calloc(entries, sizeof(*made.counts));
    if (made.counts == NULL)
        return coterie_fail_memory(entries * sizeof(*made.counts),
                                   "the layers' counts");
    *timeline = made;
    return COTERIE_OK;
}

void coterie_timeline_round(coterie_timeline_t *timeline)
{
    if (++timeline->begun <= timeline->rounds)
        return;
    timeline->begun = 1;
    if (++timeline->span == COTERIE_TIMELINE_SPANS)
        spans_pair(timeline);
}

coterie_layer_counts_t *coterie_timeline_now(coterie_timeline_t *timeline,
                                             uint32_t layer)
{
    assert(layer < timeline->layer_count);
    return counts_at(timeline, timeline->span) + layer;
}

coterie_layer_counts_t coterie_timeline_sum(const coterie_timeline_t *timeline)
{
    coterie_layer_counts_t sum = {0};
    size_t entries = (size_t)timeline->layer_count * (timeline->span + 1);

    for (size_t i = 0; i < entries; i++)
        counts_add(&timeline->counts[i], 1, &sum);
    return sum;
}

void coterie_timeline_destroy(coterie_timeline_t *timeline)
{
    free(timeline->counts);
    *timeline = (coterie_timeline_t){0};
}

static coterie_layer_counts_t *counts_at(const coterie_timeline_t *timeline,
                                         uint32_t span)
{
    return timeline->counts + (size_t)span * timeline->layer_count;
}

/* The round that has just begun is the first of the span after the pairs. */
static void spans_pair(coterie_timeline_t *timeline)
{
    size_t size = timeline->layer_count * sizeof(*timeline->counts);
    uint32_t half = COTERIE_TIMELINE_SPANS / 2;

    for (uint32_t span = 0; span < half; span++) {
        if (span > 0)
            memcpy(counts_at(timeline, span), counts_at(timeline, 2 * span),
                   size);
        counts_add(counts_at(timeline, 2 * span + 1), timeline->layer_count,
                   counts_at(timeline, span));
    }
    memset(counts_at(timeline, half), 0, half * size);
    timeline->span = half;
    timeline->rounds *= 2;
}

static void counts_add(const coterie_layer_counts_t *from, size_t count,
                       coterie_layer_counts_t *to)
{
    for (size_t i = 0; i < count; i++) {
#define X(field) to[i].field += from[i].field;
        COTERIE_LAYER_COUNTS_MAP(X)
#undef X
        to[i].stall_ns += from[i].stall_ns;
    }
}
