#ifndef COTERIE_PLACEMENT_SAMPLE_H
#define COTERIE_PLACEMENT_SAMPLE_H
/* Parts of a trace, for what all of it would take too long. */
#include <coterie/trace.h>

/* Choices of experts that are routed in a second, by a low guess: what is
 * measured out by it does not follow the clock. */
#define COTERIE_CHOICES_PER_SECOND 3e7

/* What it takes to route all tokens once. */
double coterie_sample_seconds(const coterie_trace_view_t *view);

/* How many tokens can be routed so many times each; never next to none. */
uint64_t coterie_sample_afford(const coterie_trace_view_t *view,
                               double seconds, double passes);

/* Some tokens, as one sequence. */
coterie_status_t coterie_sample_slice(const coterie_trace_view_t *view,
                                      uint64_t first, uint64_t count,
                                      coterie_trace_t **trace_p);

/* About `most` tokens, and no more: whole sequences, evenly spread, but for
 * the last. Weights, predictions and ids are left behind. */
coterie_status_t coterie_sample_draw(const coterie_trace_view_t *view,
                                     uint64_t most, coterie_trace_t **trace_p);

/* The trace itself if it has no more tokens, else a sample, which the caller
 * destroys. */
coterie_status_t coterie_sample_take(coterie_trace_t *trace, uint64_t most,
                                     coterie_trace_t **sample_p);

#endif
