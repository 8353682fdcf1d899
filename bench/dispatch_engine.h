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

#endif
