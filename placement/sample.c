#include "config.h"

#include <math.h>
#include <string.h>

#include "placement/sample.h"
#include "placement/trace_object.h"

enum { TOKENS_LEAST = 256 }; /* of which anything is said */

static uint64_t sequence_length(const coterie_trace_view_t *view,
                                uint64_t sequence, uint64_t room);
static void sequence_copy(const coterie_trace_view_t *view, uint64_t sequence,
                          coterie_trace_t *sample, uint64_t at);

double coterie_sample_seconds(const coterie_trace_view_t *view)
{
    return (double)view->token_count * view->layer_count * view->k /
           COTERIE_CHOICES_PER_SECOND;
}

uint64_t coterie_sample_afford(const coterie_trace_view_t *view,
                               double seconds, double passes)
{
    double each = coterie_sample_seconds(view) / (double)view->token_count;

    return (uint64_t)fmin(UINT32_MAX, /* a trace has no more */
                          fmax(TOKENS_LEAST, seconds / (passes * each)));
}

coterie_status_t coterie_sample_slice(const coterie_trace_view_t *view,
                                      uint64_t first, uint64_t count,
                                      coterie_trace_t **trace_p)
{
    coterie_trace_view_t part = *view;
    uint64_t start[2] = {0, count};
    size_t row = (size_t)view->layer_count;

    part.token_count = count;
    part.sequence_count = 1;
    part.seq_start = start;
    part.experts += first * row * view->k;
    if (part.weights != NULL)
        part.weights += first * row * view->k;
    if (part.predicted != NULL)
        part.predicted += first * row * view->predicted_k;
    if (part.step != NULL)
        part.step += first;
    if (part.phase != NULL)
        part.phase += first;
    return coterie_trace_create(&part, trace_p);
}

coterie_status_t coterie_sample_draw(const coterie_trace_view_t *view,
                                     uint64_t most, coterie_trace_t **trace_p)
{
    uint64_t stride = (view->token_count - 1) / most + 1, at = 0;
    unsigned arrays = (view->step != NULL ? COTERIE_TRACE_STEP : 0) |
                      (view->phase != NULL ? COTERIE_TRACE_PHASE : 0);
    coterie_trace_view_t shape = *view;
    coterie_trace_t *sample;
    coterie_status_t status;

    shape.predicted_k = 0;
    shape.token_count = shape.sequence_count = 0;
    for (uint64_t s = 0; s < view->sequence_count && shape.token_count < most;
         s += stride) {
        shape.token_count +=
            sequence_length(view, s, most - shape.token_count);
        shape.sequence_count++;
    }
    status = coterie_trace_allocate("sample", COTERIE_ERR_INVALID, &shape,
                                    arrays, &sample);
    if (status != COTERIE_OK)
        return status;
    for (uint64_t s = 0; s < shape.sequence_count; s++) {
        sample->seq_start[s] = at;
        at += sequence_length(view, s * stride, most - at);
        sample->seq_start[s + 1] = at;
        sequence_copy(view, s * stride, sample, s);
    }
    *trace_p = sample;
    return COTERIE_OK;
}

coterie_status_t coterie_sample_take(coterie_trace_t *trace, uint64_t most,
                                     coterie_trace_t **sample_p)
{
    coterie_trace_view_t view;

    coterie_trace_view(trace, &view);
    if (view.token_count > most)
        return coterie_sample_draw(&view, most, sample_p);
    *sample_p = trace;
    return COTERIE_OK;
}

static uint64_t sequence_length(const coterie_trace_view_t *view,
                                uint64_t sequence, uint64_t room)
{
    uint64_t length =
        view->seq_start[sequence + 1] - view->seq_start[sequence];

    return length < room ? length : room;
}

/* Becomes sequence `at`, as much of it as there is room for. */
static void sequence_copy(const coterie_trace_view_t *view, uint64_t sequence,
                          coterie_trace_t *sample, uint64_t at)
{
    size_t row = (size_t)view->layer_count * view->k;
    uint64_t from = view->seq_start[sequence], to = sample->seq_start[at];
    uint64_t count = sample->seq_start[at + 1] - to;

    memcpy(sample->experts + to * row, view->experts + from * row,
           count * row * sizeof(*sample->experts));
    if (view->step != NULL)
        memcpy(sample->step + to, view->step + from,
               count * sizeof(*sample->step));
    if (view->phase != NULL)
        memcpy(sample->phase + to, view->phase + from, count);
}
