#ifndef COTERIE_TOOLS_JOB_H
#define COTERIE_TOOLS_JOB_H
/* `coterie run`, taken apart: run.c reads options and prints, job.c opens what
 * all ranks share, ranks.c starts ranks as threads or joins them as MPI
 * processes, rank.c is one rank from its bank to its last token. */
#include "tools/prompts.h"
#include "tools/weights.h"

typedef struct run_options {
    argument_list_t prompts;
    uint32_t tokens, ranks, nodes;
    uint32_t transport; /* transport_choice_t */
    uint32_t dispatch;  /* coterie_mode_t */
    uint32_t group;     /* of group_choices */
    uint32_t predict;   /* predict_choice_t */
    uint32_t wire;      /* coterie_wire_t */
    uint32_t threads;   /* of the pool; 0: no pool */
    uint32_t compute;   /* coterie_compute_t */
    uint32_t seed;
    double temperature, link_latency, link_bandwidth;
    const char *placement, *trace, *logits, *budget, *host_budget, *hot,
        *tiers, *device;
    uint32_t policy;  /* coterie_policy_kind_t */
    uint32_t polling; /* coterie_polling_t */
    bool json, force;
} run_options_t;

typedef enum transport_choice {
    TRANSPORT_THREADS,
    TRANSPORT_MPI
} transport_choice_t;

typedef enum predict_choice {
    PREDICT_ROUTER,
    PREDICT_GROUP,
    PREDICT_LEARNED
} predict_choice_t;

/* What every rank reads and none changes. */
typedef struct job {
    const run_options_t *options;
    coterie_model_t *model;
    weights_t *weights;
    coterie_placement_t *placement;
    coterie_tiers_options_t budget; /* if there is one */
    uint64_t *hot;                  /* [MoE layers, experts], of the budget */
    uint64_t device_budget; /* bytes, of all ranks; 0: no device, or all */
    coterie_tiers_t *tiers; /* NULL: all experts are in memory */
    coterie_pool_t *pool;   /* NULL: every rank computes by itself */
    coterie_device_t *device; /* of all ranks; NULL: none, or one each */
    coterie_fabric_t *fabric;
    coterie_dispatcher_t *dispatcher; /* NULL: rows go through transports */
    prompts_t prompts;
    coterie_mode_t mode;
    coterie_group_t group;
} job_t;

/* What rank 0 has collected from all ranks in the end. */
typedef struct results {
    int32_t *tokens; /* as prompts_t has them, complete */
    float *logits;   /* [rows of seen, vocab], if asked for */
    uint64_t logits_rows;
    coterie_trace_t *trace;     /* if asked for */
    coterie_counts_t counts[2]; /* over all ranks, by coterie_phase_t */
    coterie_times_t times;      /* mean of the ranks */
    coterie_tiers_counts_t tiers;
    uint32_t tiers_count; /* one on each machine, or one a process */
    coterie_bank_counts_t device;
    coterie_layer_counts_t *timeline; /* [SPANS, MoE layers], of tiers */
    uint32_t span_rounds;
    uint64_t *hot; /* of tiers, if asked for */
    double prefill_s, decode_s;
} results_t;

coterie_status_t job_open(const run_options_t *options, const char *model,
                          job_t *job);
void job_close(job_t *job);
void results_free(results_t *results);

/* One rank's whole work; its thread calls it. Fills results on rank 0. On
 * failure the other ranks are told. */
coterie_status_t rank_run(const job_t *job, coterie_transport_t *transport,
                          results_t *results);

/* All ranks as threads. The failure that began it all is the one kept. */
coterie_status_t ranks_run_threads(const job_t *job, results_t *results);

/* This process among others of MPI.
 * @return ERR_MISMATCH if the world has another size, on every rank */
coterie_status_t ranks_join_mpi(const run_options_t *options,
                                coterie_transport_t **transport_p);

/* Whether all ranks got this far; a rank that did not says why, once.
 * @param speaks_p  on failure: 1 on the one rank whose line is to be shown */
coterie_status_t ranks_agree(coterie_transport_t *transport,
                             coterie_status_t status, bool *speaks_p);

#endif
