#include "config.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "placement/placement.h"
#include "placement/trace_object.h"

typedef unsigned long long ull_t;

static coterie_status_t shape_check(const char *name, coterie_status_t status,
                                    const coterie_trace_view_t *shape);
static void *array_new(uint64_t count, size_t item_size, int *failed);
static unsigned arrays_of(const coterie_trace_view_t *view);
static void tokens_copy(coterie_trace_t *trace,
                        const coterie_trace_view_t *from, uint64_t first);
static coterie_status_t sequences_check(const char *name,
                                        coterie_status_t status,
                                        const coterie_trace_view_t *view);
static uint32_t experts_used(const coterie_trace_view_t *view);
static coterie_status_t ids_check(const char *name, coterie_status_t status,
                                  const coterie_trace_view_t *view);
static coterie_status_t predicted_check(const char *name,
                                        coterie_status_t status,
                                        const coterie_trace_view_t *view);
static coterie_status_t id_fail(const char *name, coterie_status_t status,
                                const coterie_trace_view_t *view,
                                uint64_t set, int id);
static coterie_status_t phases_check(const char *name, coterie_status_t status,
                                     const coterie_trace_view_t *view);

coterie_status_t coterie_trace_create(const coterie_trace_view_t *arrays,
                                      coterie_trace_t **trace_p)
{
    const char *name = "coterie_trace_create";
    coterie_trace_t *trace = NULL;
    coterie_status_t status;

    if (arrays == NULL || trace_p == NULL || arrays->experts == NULL ||
        arrays->seq_start == NULL ||
        (arrays->predicted == NULL) != (arrays->predicted_k == 0))
        return coterie_fail(COTERIE_ERR_INVALID,
                            "%s: experts and seq_start are required, and "
                            "predicted goes with predicted_k",
                            name);
    status = coterie_trace_allocate(name, COTERIE_ERR_INVALID, arrays,
                                    arrays_of(arrays), &trace);
    if (status != COTERIE_OK)
        return status;
    tokens_copy(trace, arrays, 0);
    memcpy(trace->seq_start, arrays->seq_start,
           (arrays->sequence_count + 1) * sizeof(*trace->seq_start));
    status = coterie_trace_check(name, COTERIE_ERR_INVALID, &trace->view);
    if (status == COTERIE_OK)
        *trace_p = trace;
    else
        coterie_trace_destroy(trace);
    return status;
}

coterie_status_t coterie_trace_slice(const coterie_trace_t *trace,
                                     uint64_t first, uint64_t count,
                                     coterie_trace_t **trace_p)
{
    coterie_trace_view_t shape;
    coterie_trace_t *slice;
    coterie_status_t status;
    uint64_t start;

    if (trace == NULL || trace_p == NULL)
        return coterie_fail(COTERIE_ERR_INVALID,
                            "coterie_trace_slice: a trace and a place for the "
                            "new one are required");
    shape = trace->view;
    if (count == 0 || first >= shape.sequence_count ||
        count > shape.sequence_count - first)
        return coterie_fail(COTERIE_ERR_INVALID,
                            "no slice of %llu sequences from %llu: the trace "
                            "holds %llu",
                            (ull_t)count, (ull_t)first,
                            (ull_t)shape.sequence_count);
    start = trace->seq_start[first];
    shape.sequence_count = count;
    shape.token_count = trace->seq_start[first + count] - start;
    status = coterie_trace_allocate("coterie_trace_slice", COTERIE_ERR_INVALID,
                                    &shape, arrays_of(&trace->view), &slice);
    if (status != COTERIE_OK)
        return status;
    tokens_copy(slice, &trace->view, start);
    for (uint64_t i = 0; i <= count; i++)
        slice->seq_start[i] = trace->seq_start[first + i] - start;
    *trace_p = slice;
    return COTERIE_OK;
}

void coterie_trace_view(const coterie_trace_t *trace,
                        coterie_trace_view_t *view)
{
    *view = trace->view;
}

void coterie_trace_destroy(coterie_trace_t *trace)
{
    if (trace == NULL)
        return;
    free(trace->experts);
    free(trace->weights);
    free(trace->predicted);
    free(trace->seq_start);
    free(trace->step);
    free(trace->phase);
    free(trace->token);
    free(trace);
}

coterie_status_t coterie_trace_allocate(const char *name,
                                        coterie_status_t status,
                                        const coterie_trace_view_t *shape,
                                        unsigned arrays,
                                        coterie_trace_t **trace_p)
{
    coterie_status_t shape_status = shape_check(name, status, shape);
    coterie_trace_t *trace;
    uint64_t tokens = shape->token_count, sets;
    int failed = 0;

    if (shape_status != COTERIE_OK)
        return shape_status;
    trace = calloc(1, sizeof(*trace));
    if (trace == NULL)
        return coterie_fail_memory(sizeof(*trace), "a trace");
    sets = tokens * shape->layer_count;
    trace->experts = array_new(sets * shape->k, sizeof(int16_t), &failed);
    trace->seq_start =
        array_new(shape->sequence_count + 1, sizeof(uint64_t), &failed);
    if (shape->predicted_k > 0)
        trace->predicted =
            array_new(sets * shape->predicted_k, sizeof(int16_t), &failed);
    if (arrays & COTERIE_TRACE_WEIGHTS)
        trace->weights = array_new(sets * shape->k, sizeof(float), &failed);
    if (arrays & COTERIE_TRACE_STEP)
        trace->step = array_new(tokens, sizeof(uint32_t), &failed);
    if (arrays & COTERIE_TRACE_PHASE)
        trace->phase = array_new(tokens, sizeof(uint8_t), &failed);
    if (arrays & COTERIE_TRACE_TOKEN)
        trace->token = array_new(tokens, sizeof(int32_t), &failed);
    if (failed) {
        coterie_trace_destroy(trace);
        return coterie_fail_memory((size_t)(sets * shape->k), name);
    }
    trace->view = *shape;
    trace->view.experts = trace->experts;
    trace->view.weights = trace->weights;
    trace->view.predicted = trace->predicted;
    trace->view.seq_start = trace->seq_start;
    trace->view.step = trace->step;
    trace->view.phase = trace->phase;
    trace->view.token = trace->token;
    *trace_p = trace;
    return COTERIE_OK;
}

coterie_status_t coterie_trace_check(const char *name, coterie_status_t status,
                                     coterie_trace_view_t *view)
{
    coterie_status_t checked = sequences_check(name, status, view);

    if (view->expert_count == 0) /* the format did not say */
        view->expert_count = experts_used(view);
    if (checked == COTERIE_OK)
        checked = ids_check(name, status, view);
    if (checked == COTERIE_OK && view->predicted != NULL)
        checked = predicted_check(name, status, view);
    if (checked == COTERIE_OK && view->phase != NULL)
        checked = phases_check(name, status, view);
    return checked;
}

/* Sets are small: comparing all pairs beats any marking. */
int16_t coterie_trace_repeated_id(const int16_t *ids, uint32_t k)
{
    for (uint32_t i = 1; i < k; i++)
        for (uint32_t j = 0; j < i; j++)
            if (ids[i] == ids[j] && ids[i] >= 0)
                return ids[i];
    return -1;
}

/* Sizes may come from a file: nothing is multiplied or allocated before. */
static coterie_status_t shape_check(const char *name, coterie_status_t status,
                                    const coterie_trace_view_t *shape)
{
    uint64_t bytes = shape->token_count;

    if (shape->token_count == 0 || shape->layer_count == 0 || shape->k == 0 ||
        shape->sequence_count == 0)
        return coterie_fail(status,
                            "%s: an empty trace: %llu tokens, %u layers, %u "
                            "experts a token, %llu sequences",
                            name, (ull_t)shape->token_count,
                            shape->layer_count, shape->k,
                            (ull_t)shape->sequence_count);
    if (shape->k > COTERIE_K_MAX)
        return coterie_fail(status,
                            "%s: %u experts a token and layer; at most %d",
                            name, shape->k, COTERIE_K_MAX);
    if (shape->expert_count > COTERIE_TRACE_EXPERTS_MAX ||
        shape->layer_count > COTERIE_LAYERS_MAX)
        return coterie_fail(status,
                            "%s: %u layers of %u experts; at most %d of %d",
                            name, shape->layer_count, shape->expert_count,
                            COTERIE_LAYERS_MAX, COTERIE_TRACE_EXPERTS_MAX);
    if (shape->token_count > UINT32_MAX ||
        shape->sequence_count > shape->token_count ||
        __builtin_mul_overflow(bytes, shape->layer_count, &bytes) ||
        __builtin_mul_overflow(bytes,
                               (uint64_t)shape->k + shape->predicted_k,
                               &bytes) ||
        bytes > PTRDIFF_MAX / sizeof(uint64_t))
        return coterie_fail(status,
                            "%s: %llu tokens, %u layers, %llu sequences: more "
                            "than a trace can hold",
                            name, (ull_t)shape->token_count,
                            shape->layer_count, (ull_t)shape->sequence_count);
    return COTERIE_OK;
}

static void *array_new(uint64_t count, size_t item_size, int *failed)
{
    void *array = malloc((size_t)count * item_size);

    if (array == NULL)
        *failed = 1;
    return array;
}

static unsigned arrays_of(const coterie_trace_view_t *view)
{
    return (view->weights != NULL ? COTERIE_TRACE_WEIGHTS : 0u) |
           (view->step != NULL ? COTERIE_TRACE_STEP : 0u) |
           (view->phase != NULL ? COTERIE_TRACE_PHASE : 0u) |
           (view->token != NULL ? COTERIE_TRACE_TOKEN : 0u);
}

/* Everything but the sequences, from token `first` of `from` on. */
static void tokens_copy(coterie_trace_t *trace,
                        const coterie_trace_view_t *from, uint64_t first)
{
    uint64_t tokens = trace->view.token_count;
    uint64_t ids = (uint64_t)from->layer_count * from->k;
    uint64_t guesses = (uint64_t)from->layer_count * from->predicted_k;

    memcpy(trace->experts, from->experts + first * ids,
           tokens * ids * sizeof(*trace->experts));
    if (from->weights != NULL)
        memcpy(trace->weights, from->weights + first * ids,
               tokens * ids * sizeof(*trace->weights));
    if (from->predicted != NULL)
        memcpy(trace->predicted, from->predicted + first * guesses,
               tokens * guesses * sizeof(*trace->predicted));
    if (from->step != NULL)
        memcpy(trace->step, from->step + first, tokens * sizeof(*trace->step));
    if (from->phase != NULL)
        memcpy(trace->phase, from->phase + first, tokens);
    if (from->token != NULL)
        memcpy(trace->token, from->token + first,
               tokens * sizeof(*trace->token));
}

/* Every sequence has a token at least: a sequence's ordinal decides its home,
 * and one that nobody computed would shift the homes of all after it. */
static coterie_status_t sequences_check(const char *name,
                                        coterie_status_t status,
                                        const coterie_trace_view_t *view)
{
    const uint64_t *start = view->seq_start;
    uint64_t last = start[view->sequence_count];

    if (start[0] != 0 || last != view->token_count)
        return coterie_fail(status,
                            "%s: seq_start goes from %llu to %llu; it must "
                            "go from 0 to the %llu tokens",
                            name, (ull_t)start[0], (ull_t)last,
                            (ull_t)view->token_count);
    for (uint64_t s = 0; s < view->sequence_count; s++)
        if (start[s] >= start[s + 1])
            return coterie_fail(status,
                                "%s: seq_start must ascend: entry %llu is "
                                "%llu, the next %llu",
                                name, (ull_t)s, (ull_t)start[s],
                                (ull_t)start[s + 1]);
    return COTERIE_OK;
}

static uint32_t experts_used(const coterie_trace_view_t *view)
{
    uint64_t sets = view->token_count * view->layer_count;
    int highest = 0; /* a layer has one expert at least */

    for (uint64_t i = 0; i < sets * view->k; i++)
        if (view->experts[i] > highest)
            highest = view->experts[i];
    for (uint64_t i = 0; i < sets * view->predicted_k; i++)
        if (view->predicted[i] > highest)
            highest = view->predicted[i];
    if (highest >= COTERIE_TRACE_EXPERTS_MAX)
        return COTERIE_TRACE_EXPERTS_MAX; /* the check finds the culprit */
    return (uint32_t)highest + 1;
}

static coterie_status_t ids_check(const char *name, coterie_status_t status,
                                  const coterie_trace_view_t *view)
{
    uint64_t sets = view->token_count * view->layer_count;

    for (uint64_t set = 0; set < sets; set++) {
        const int16_t *ids = view->experts + set * view->k;
        int16_t repeated;
        for (uint32_t i = 0; i < view->k; i++)
            if (ids[i] < -1 || ids[i] >= (int)view->expert_count)
                return id_fail(name, status, view, set, ids[i]);
        repeated = coterie_trace_repeated_id(ids, view->k);
        if (repeated >= 0)
            return coterie_fail(status,
                                "%s: token %llu, layer %llu: expert %d comes "
                                "twice in one set",
                                name, (ull_t)(set / view->layer_count),
                                (ull_t)(set % view->layer_count), repeated);
    }
    return COTERIE_OK;
}

/* Guesses may repeat themselves; they only have to be experts. */
static coterie_status_t predicted_check(const char *name,
                                        coterie_status_t status,
                                        const coterie_trace_view_t *view)
{
    uint64_t sets = view->token_count * view->layer_count;

    for (uint64_t i = 0; i < sets * view->predicted_k; i++)
        if (view->predicted[i] < -1 ||
            view->predicted[i] >= (int)view->expert_count)
            return id_fail(name, status, view, i / view->predicted_k,
                           view->predicted[i]);
    return COTERIE_OK;
}

static coterie_status_t id_fail(const char *name, coterie_status_t status,
                                const coterie_trace_view_t *view,
                                uint64_t set, int id)
{
    return coterie_fail(status,
                        "%s: token %llu, layer %llu: expert %d; ids go from 0 "
                        "to %u (-1 = none)",
                        name, (ull_t)(set / view->layer_count),
                        (ull_t)(set % view->layer_count), id,
                        view->expert_count - 1);
}

static coterie_status_t phases_check(const char *name, coterie_status_t status,
                                     const coterie_trace_view_t *view)
{
    for (uint64_t token = 0; token < view->token_count; token++)
        if (view->phase[token] != COTERIE_PHASE_PREFILL &&
            view->phase[token] != COTERIE_PHASE_DECODE)
            return coterie_fail(status,
                                "%s: token %llu: phase %u is neither 0 "
                                "(prefill) nor 1 (decode)",
                                name, (ull_t)token, view->phase[token]);
    return COTERIE_OK;
}
