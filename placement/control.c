#include "config.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "placement/placing.h"
#include "placement/sample.h"

/* A control: the same placement on held tokens whose choices were shuffled
 * among them, layer by layer. Loads stay as they were, and nothing else does;
 * so what the true tokens save against them is affinity's doing, and that it
 * was not learned by heart is sure, for nothing was optimised on them. Blocks
 * of tokens give the error. */

enum { BLOCKS = 20, BLOCK_LEAST = 16, BLOCK_MOST = 2048 };

static const double GAIN_LEAST = 0.01, ERRORS_LEAST = 3;

static coterie_status_t block_gain(const coterie_placing_t *p,
                                   const coterie_placement_t *placement,
                                   const coterie_trace_view_t *block,
                                   double *gain_p);
static coterie_status_t block_shuffle(const coterie_trace_view_t *block,
                                      coterie_trace_t **trace_p);
static void column_shuffle(const coterie_trace_view_t *block, int16_t *experts,
                           uint32_t column, coterie_search_t *random);
static int repeats(const int16_t *set, uint32_t k, uint32_t at, int16_t id);

coterie_status_t coterie_placing_control(const coterie_placing_t *p,
                                         const coterie_placement_t *placement,
                                         coterie_place_report_t *report)
{
    coterie_trace_view_t held;
    uint64_t length, most;
    double sum = 0, squares = 0, mean;
    coterie_status_t status = COTERIE_OK;

    coterie_trace_view(p->held, &held);
    length = held.token_count / BLOCKS;
    if (length < BLOCK_LEAST || p->options.rank_count == 1)
        return COTERIE_OK;
    most = coterie_placing_afford(p, COTERIE_REPORT_SHARE,
                                  COTERIE_REPORT_PASSES) / BLOCKS;
    most = most < BLOCK_LEAST ? BLOCK_LEAST
           : most < BLOCK_MOST ? most : BLOCK_MOST;
    for (uint64_t b = 0; status == COTERIE_OK && b < BLOCKS; b++) {
        coterie_trace_t *block = NULL;
        coterie_trace_view_t view;
        double gain = 0;
        status = coterie_sample_slice(&held, b * length,
                                       length < most ? length : most,
                                       &block);
        if (status == COTERIE_OK) {
            coterie_trace_view(block, &view);
            status = block_gain(p, placement, &view, &gain);
        }
        coterie_trace_destroy(block);
        sum += gain;
        squares += gain * gain;
    }
    if (status != COTERIE_OK)
        return status;
    mean = sum / BLOCKS;
    report->affinity_gain = mean;
    report->affinity_error =
        sqrt(fmax(0, squares / BLOCKS - mean * mean) / (BLOCKS - 1));
    report->affinity =
        mean >= GAIN_LEAST && mean >= ERRORS_LEAST * report->affinity_error
            ? COTERIE_AFFINITY_HELD
            : COTERIE_AFFINITY_NONE;
    return COTERIE_OK;
}

static coterie_status_t block_gain(const coterie_placing_t *p,
                                   const coterie_placement_t *placement,
                                   const coterie_trace_view_t *block,
                                   double *gain_p)
{
    coterie_trace_t *shuffled = NULL, *true_block = NULL;
    coterie_trace_view_t decodes = *block;
    double saved = 0, lost = 0;
    coterie_status_t status;

    decodes.phase = NULL; /* each token by the mode asked */
    decodes.step = NULL;
    status = coterie_trace_create(&decodes, &true_block);
    if (status == COTERIE_OK)
        status = block_shuffle(&decodes, &shuffled);
    if (status == COTERIE_OK)
        status = coterie_placing_copies(true_block, placement,
                                        p->options.mode,
                                        p->options.network_cost, &saved);
    if (status == COTERIE_OK)
        status = coterie_placing_copies(shuffled, placement, p->options.mode,
                                        p->options.network_cost, &lost);
    if (status == COTERIE_OK)
        *gain_p = lost > 0 ? 1 - saved / lost : 0;
    coterie_trace_destroy(true_block);
    coterie_trace_destroy(shuffled);
    return status;
}

static coterie_status_t block_shuffle(const coterie_trace_view_t *block,
                                      coterie_trace_t **trace_p)
{
    coterie_trace_view_t view = *block;
    size_t size = block->token_count * block->layer_count * block->k *
                  sizeof(*block->experts);
    int16_t *experts = malloc(size);
    coterie_search_t random = {.random = 1};
    coterie_status_t status;

    if (experts == NULL)
        return coterie_fail_memory(size, "shuffled tokens");
    memcpy(experts, block->experts, size);
    for (uint32_t c = 0; c < block->layer_count * block->k; c++)
        column_shuffle(block, experts, c, &random);
    view.experts = experts;
    status = coterie_trace_create(&view, trace_p);
    free(experts);
    return status;
}

/* Swaps that would choose an expert twice are not made. */
static void column_shuffle(const coterie_trace_view_t *block, int16_t *experts,
                           uint32_t column, coterie_search_t *random)
{
    size_t row = (size_t)block->layer_count * block->k;
    uint32_t at = column % block->k;

    for (uint32_t t = (uint32_t)block->token_count; t-- > 1;) {
        uint32_t other = coterie_search_below(random, t + 1);
        int16_t *a = experts + t * row + column - at;
        int16_t *b = experts + other * row + column - at, id = a[at];
        if (repeats(a, block->k, at, b[at]) || repeats(b, block->k, at, id))
            continue;
        a[at] = b[at];
        b[at] = id;
    }
}

static int repeats(const int16_t *set, uint32_t k, uint32_t at, int16_t id)
{
    for (uint32_t i = 0; i < k; i++)
        if (i != at && id >= 0 && set[i] == id)
            return 1;
    return 0;
}
