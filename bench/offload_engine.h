#ifndef COTERIE_BENCH_OFFLOAD_ENGINE_H
#define COTERIE_BENCH_OFFLOAD_ENGINE_H
/* Decodes sequences of a trace on one rank: their routing, experts that are
 * really computed, and nothing else. */
#include "bench/offload_files.h"
#include "bench/offload_store.h"

/* Where experts are: in tiers; or all in memory (the arena is smaller than the
 * model, but far larger than caches); or in a mapping of the store, those of
 * `cold` reads a step not in the page cache, as an operating system would have
 * it that keeps the others there. */
typedef struct offload_experts {
    coterie_tiers_t *tiers;
    const unsigned char *arena; /* or NULL */
    size_t arena_size;
    const offload_files_t *mapped; /* or NULL */
    const uint32_t *cold;          /* [steps] */
} offload_experts_t;

typedef struct offload_run {
    const coterie_model_t *model;
    const coterie_trace_view_t *view;
    const uint32_t *sequences; /* [batch]: of the trace, long enough */
    uint32_t batch, steps, measured; /* the last so many steps count */
    coterie_pool_t *pool; /* that computes */
    offload_experts_t experts;
    uint32_t policy;  /* of the tiers, for the report */
    double seconds;   /* set: of those steps, */
    double *step_s;   /* [steps], of each, */
    uint32_t *reads;  /* [steps] and how many experts each read, */
    coterie_tiers_counts_t before, after; /* and what the tiers counted */
} offload_run_t;

coterie_status_t offload_decode(offload_run_t *run);

#endif
