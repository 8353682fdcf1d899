#ifndef COTERIE_BENCH_DISPATCH_ENGINE_H
#define COTERIE_BENCH_DISPATCH_ENGINE_H
/* A synthetic engine to time dispatch with: routing with affinity (a token's
 * experts tend to stay on one rank from layer to layer), predictions that are
 * right nine times in ten, experts that only scale their rows. */
#include <coterie/coterie.h>

typedef struct dispatch_setting {
    uint32_t rank_count, layers, steps, hidden, batch;
    double latency_us;
    coterie_mode_t mode;
    int is_first_rank; /* of this process, in the samples before */
} dispatch_setting_t;

/* Medians over the steps, on one rank. */
typedef struct dispatch_result {
    double step_us; /* a whole decode step */
    double comm_us; /* of that, inside the runtime but for the experts */
    int is_first_rank;
} dispatch_result_t;

/* Decodes `steps` steps of `batch` sequences; one rank's part. */
coterie_status_t dispatch_measure(const dispatch_setting_t *setting,
                                  coterie_transport_t *transport,
                                  dispatch_result_t *result);

enum { DISPATCH_RANKS_MAX = 32 };

/* The same on all ranks: threads of this process, or its MPI world.
 * @return not 0: failed, and said why */
int dispatch_sample(const dispatch_setting_t *setting,
                    const coterie_link_t *link, int mpi,
                    dispatch_result_t *result);

/* What is decoded, once warm, and where its experts are; for predictions. */
coterie_trace_t *dispatch_trace(const dispatch_setting_t *setting);
coterie_status_t dispatch_placement(const dispatch_setting_t *setting,
                                    coterie_placement_t **placement_p);
uint32_t dispatch_kv_row_size(void);

#endif
