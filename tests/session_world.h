#ifndef COTERIE_TESTS_SESSION_WORLD_H
#define COTERIE_TESTS_SESSION_WORLD_H
/* An engine with a made-up model on a world of ranks, each a thread, checked
 * row by row against a serial run. */
#include <stdbool.h>

#include <coterie/coterie.h>

typedef struct world_config {
    uint32_t ranks, nodes; /* nodes 0: one */
    uint32_t layers, experts, k;
    uint32_t replicas; /* further slots a rank */
    uint32_t idle;     /* last ranks that hold no experts */
    uint32_t mode, group;
    uint32_t predicted; /* in 10: how many predictions are right; 0: none */
    uint32_t sequences, prompt, tokens; /* sequence s has tokens - s % 3 */
    uint32_t kv_row_size;
    uint32_t wire; /* coterie_wire_t; other than F32, with fractions */
    bool kv_after_last, kv_undeclared; /* a layer after the last MoE layer */
    bool shared, fractions; /* fractions: numbers that round */
    uint32_t hidden, max_rows, deadline_ms;
    uint32_t failing_rank, failing_layer; /* this rank's experts fail, */
    uint32_t lying_rank;                  /* this one routes otherwise, */
    uint32_t silent_rank;                 /* this one stops, */
    uint32_t odd_rank;   /* this one's max_rows differs; 0: none of them */
} world_config_t;

enum { WORLD_RANKS_MAX = 8 };

/* What a run left behind. */
typedef struct world_result {
    coterie_status_t status[WORLD_RANKS_MAX];
    char error[WORLD_RANKS_MAX][256];
    uint64_t rows_checked, rows_wrong;
    uint64_t kv_wrong; /* K/V rows that a rank has not exactly once */
    uint64_t bits;     /* a hash of all last rows, by their bits */
    uint64_t steps_by_mode[4];
    coterie_counts_t counts[2]; /* summed; occasions as rank 0 has them */
    coterie_trace_t *trace;
} world_result_t;

void world_run(const world_config_t *config, world_result_t *result);
/* Experts in order over the ranks that are not idle; a rank's replicas are the
 * experts that follow its own. */
coterie_placement_t *world_placement(const world_config_t *config);

#endif
