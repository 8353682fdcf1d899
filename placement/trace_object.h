#ifndef COTERIE_PLACEMENT_TRACE_OBJECT_H
#define COTERIE_PLACEMENT_TRACE_OBJECT_H
/* A trace while it is being made, by a reader or a recorder. */
#include <coterie/trace.h>

struct coterie_trace {
    coterie_trace_view_t view; /* points at the arrays below */
    int16_t *experts;
    float *weights;
    int16_t *predicted;
    uint64_t *seq_start;
    uint32_t *step;
    uint8_t *phase;
    int32_t *token;
};

/* As many as the router takes; a summary counts pairs of them. */
enum { COTERIE_TRACE_EXPERTS_MAX = 4096 };

/* Which of the arrays that may be missing to allocate. */
enum {
    COTERIE_TRACE_WEIGHTS = 1,
    COTERIE_TRACE_STEP = 2,
    COTERIE_TRACE_PHASE = 4,
    COTERIE_TRACE_TOKEN = 8
};

/* Allocates arrays for the sizes in `shape` (its pointers do not matter);
 * predictions are there if shape->predicted_k is not 0. `name` begins error
 * lines. @return status if a size is 0 or beyond what a trace can hold */
COTERIE_API coterie_status_t coterie_trace_allocate(
    const char *name, coterie_status_t status,
    const coterie_trace_view_t *shape, unsigned arrays,
    coterie_trace_t **trace_p);

/* Checks ids, sequences and phases. An expert_count of 0 becomes one more than
 * the largest id. @return status, with a line that names the place */
coterie_status_t coterie_trace_check(const char *name, coterie_status_t status,
                                     coterie_trace_view_t *view);

/* An id that a set holds twice, else -1. */
int16_t coterie_trace_repeated_id(const int16_t *ids, uint32_t k);

#endif
