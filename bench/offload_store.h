#ifndef COTERIE_BENCH_OFFLOAD_STORE_H
#define COTERIE_BENCH_OFFLOAD_STORE_H
/* A model of random weights with Qwen3-30B's expert shape, and the routing of
 * another model made to fit it. */
#include <coterie/coterie.h>

enum {
    OFFLOAD_EXPERTS = 128,
    OFFLOAD_K = 8,
    OFFLOAD_HIDDEN = 2048,
    OFFLOAD_FFN = 768,
    OFFLOAD_MERGED = 4 /* layers of a trace that make one of the model's */
};

/* Writes a store of so many layers, unless there is one.
 * @param stripes  as in coterie_pack_options_t */
coterie_status_t offload_store_make(const char *path, uint32_t layers,
                                    const char *const *stripes,
                                    uint32_t stripe_count);

/* Merges each four layers of 32 experts: expert 32 j + e is e of layer
 * 4 l + j, and of each the two heaviest count; in layers beyond the trace's
 * the next two, from the first layer on again.
 * @return ERR_MISMATCH if the trace has another shape, or too few experts a
 *         token for so many layers */
coterie_status_t offload_trace_merge(const char *path, uint32_t layers,
                                     coterie_trace_t **trace_p);

#endif
