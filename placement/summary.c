/* Figures that describe a trace. L layers, E experts, k choices; load[l][e] is
 * how often expert e was chosen at layer l.
 *
 * load_skew    of a layer: its largest load over its mean load, load / E.
 *              Layers at which nothing was chosen do not count.
 * affinity     C[l][e][f] is how many times a token chose e at layer l and f
 *              at layer l + 1. Of each row C[l][e] the k largest counts are
 *              kept; affinity is what all rows keep over what all rows hold,
 *              so each expert weighs as much as it is chosen.
 * independent  the same if C[l][e][f] were load[l][e] * load[l + 1][f]: every
 *              row of a layer then keeps the share of the k fullest experts
 *              of layer l + 1.
 * uniform      the same if every count were equal: k / E.
 * fan_out      distinct ranks in a set, the experts of a layer dealt to ranks
 *              in order, as evenly as can be, the lower ranks holding the
 *              longer shares; the mean over all sets, an empty one counting 0.
 * With one layer there is nothing to follow: affinity and independent are 0. */
#include "config.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "placement/trace_object.h"

enum { RANK_COUNTS = 3 };

typedef struct share {
    uint64_t kept, total;
} share_t;

static void skew_measure(const coterie_trace_view_t *view,
                         const uint64_t *load,
                         coterie_trace_summary_t *summary);
static void affinity_measure(const coterie_trace_view_t *view,
                             const uint64_t *load, uint64_t *pairs,
                             coterie_trace_summary_t *summary);
static void pairs_count(const coterie_trace_view_t *view, uint32_t layer,
                        uint64_t *pairs);
static void share_add(share_t *share, const uint64_t *counts,
                      const coterie_trace_view_t *view);
static double fan_out(const coterie_trace_view_t *view, uint32_t ranks,
                      uint8_t *rank_of);

coterie_status_t coterie_trace_summarise(const coterie_trace_t *trace,
                                         coterie_trace_summary_t *summary)
{
    coterie_trace_summary_t full = {.size = sizeof(full)};
    const coterie_trace_view_t *view;
    uint64_t *load = NULL, *pairs = NULL;
    uint8_t *rank_of = NULL;
    coterie_status_t status = COTERIE_OK;
    size_t experts;

    if (trace == NULL || summary == NULL || summary->size == 0)
        return coterie_fail(COTERIE_ERR_INVALID,
                            "coterie_trace_summarise: a trace and a summary "
                            "with its size set are required");
    view = &trace->view;
    experts = view->expert_count;
    load = malloc(view->layer_count * experts * sizeof(*load));
    pairs = malloc(experts * experts * sizeof(*pairs));
    rank_of = malloc(experts);
    if (load == NULL || pairs == NULL || rank_of == NULL) {
        status = coterie_fail_memory(experts * experts * sizeof(*pairs),
                                     "counting pairs of experts");
        goto out;
    }
    full.token_count = view->token_count;
    full.sequence_count = view->sequence_count;
    full.layer_count = view->layer_count;
    full.expert_count = view->expert_count;
    full.k = view->k;
    coterie_trace_loads(trace, load);
    skew_measure(view, load, &full);
    affinity_measure(view, load, pairs, &full);
    for (unsigned i = 0; i < RANK_COUNTS; i++)
        full.fan_out[i] = fan_out(view, 2u << i, rank_of);
    /* An older caller's struct is shorter than ours. */
    if (summary->size < full.size)
        full.size = summary->size;
    memcpy(summary, &full, full.size);
out:
    free(rank_of);
    free(pairs);
    free(load);
    return status;
}

void coterie_trace_loads(const coterie_trace_t *trace, uint64_t *load)
{
    const coterie_trace_view_t *view = &trace->view;
    const int16_t *ids = view->experts;

    memset(load, 0,
           (size_t)view->layer_count * view->expert_count * sizeof(*load));
    for (uint64_t token = 0; token < view->token_count; token++)
        for (uint32_t layer = 0; layer < view->layer_count; layer++)
            for (uint32_t i = 0; i < view->k; i++, ids++)
                if (*ids >= 0)
                    load[(size_t)layer * view->expert_count + (size_t)*ids]++;
}

static void skew_measure(const coterie_trace_view_t *view,
                         const uint64_t *load,
                         coterie_trace_summary_t *summary)
{
    uint32_t experts = view->expert_count, counted = 0;
    double sum = 0;

    for (uint32_t layer = 0; layer < view->layer_count; layer++) {
        uint64_t largest = 0, total = 0;
        double skew;
        for (uint32_t e = 0; e < experts; e++, load++) {
            total += *load;
            largest = *load > largest ? *load : largest;
            summary->expert_unused += *load == 0;
        }
        if (total == 0)
            continue;
        skew = (double)largest * experts / (double)total;
        sum += skew;
        counted++;
        if (skew > summary->load_skew_max)
            summary->load_skew_max = skew;
    }
    if (counted > 0)
        summary->load_skew_mean = sum / counted;
}

static void affinity_measure(const coterie_trace_view_t *view,
                             const uint64_t *load, uint64_t *pairs,
                             coterie_trace_summary_t *summary)
{
    uint32_t experts = view->expert_count;
    share_t all = {0, 0};
    double independent = 0;

    for (uint32_t layer = 0; layer + 1 < view->layer_count; layer++) {
        share_t next = {0, 0};
        uint64_t before = all.total;
        pairs_count(view, layer, pairs);
        for (uint32_t e = 0; e < experts; e++)
            share_add(&all, pairs + (size_t)e * experts, view);
        share_add(&next, load + (size_t)(layer + 1) * experts, view);
        if (next.total > 0)
            independent += (double)(all.total - before) * (double)next.kept /
                           (double)next.total;
    }
    summary->affinity_uniform = (double)view->k / experts;
    if (all.total > 0) {
        summary->affinity = (double)all.kept / (double)all.total;
        summary->affinity_independent = independent / (double)all.total;
    }
}

static void pairs_count(const coterie_trace_view_t *view, uint32_t layer,
                        uint64_t *pairs)
{
    size_t experts = view->expert_count, k = view->k;

    memset(pairs, 0, experts * experts * sizeof(*pairs));
    for (uint64_t token = 0; token < view->token_count; token++) {
        const int16_t *from =
            view->experts + (token * view->layer_count + layer) * k;
        for (size_t i = 0; i < k * k; i++) {
            int e = from[i / k], f = from[k + i % k];
            if (e >= 0 && f >= 0)
                pairs[(size_t)e * experts + (size_t)f]++;
        }
    }
}

/* Adds up the counts of all experts, and the k largest among them. */
static void share_add(share_t *share, const uint64_t *counts,
                      const coterie_trace_view_t *view)
{
    uint64_t top[COTERIE_K_MAX] = {0}; /* descending; short enough to shift */

    assert(view->k <= COTERIE_K_MAX);
    for (uint32_t e = 0; e < view->expert_count; e++) {
        uint32_t place = view->k;
        share->total += counts[e];
        for (; place > 0 && counts[e] > top[place - 1]; place--)
            if (place < view->k)
                top[place] = top[place - 1];
        if (place < view->k)
            top[place] = counts[e];
    }
    for (uint32_t i = 0; i < view->k; i++)
        share->kept += top[i];
}

static double fan_out(const coterie_trace_view_t *view, uint32_t ranks,
                      uint8_t *rank_of)
{
    uint32_t share = view->expert_count / ranks;
    uint32_t longer = view->expert_count % ranks * (share + 1);
    uint64_t sets = view->token_count * view->layer_count, touched = 0;

    if (share == 0)
        return 0;
    for (uint32_t e = 0; e < view->expert_count; e++)
        rank_of[e] = (uint8_t)(e < longer ? e / (share + 1)
                                          : (e - longer) / share +
                                                view->expert_count % ranks);
    for (uint64_t set = 0; set < sets; set++) {
        const int16_t *ids = view->experts + set * view->k;
        unsigned mask = 0; /* a bit a rank: at most 8 */
        for (uint32_t i = 0; i < view->k; i++)
            if (ids[i] >= 0)
                mask |= 1u << rank_of[ids[i]];
        touched += (unsigned)__builtin_popcount(mask);
    }
    return (double)touched / (double)sets;
}
