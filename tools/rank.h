#ifndef COTERIE_TOOLS_RANK_H
#define COTERIE_TOOLS_RANK_H
#include "tools/decoder.h"
#include "tools/job.h"

/* What a session counted. */
typedef struct rank_counts {
    coterie_counts_t counts[2];
    coterie_times_t times;
} rank_counts_t;

/* Everything that one rank has for itself. */
typedef struct rank {
    const job_t *job;
    coterie_transport_t *transport;
    uint32_t index, count;
    coterie_device_t *device; /* NULL: the processor computes experts */
    coterie_bank_t *bank;
    coterie_fabric_t *fabric; /* of its own; NULL: none, or the job's */
    coterie_dispatcher_t *dispatcher; /* or the job's */
    coterie_trace_recorder_t *recorder;
    decoder_t *decoder;
    coterie_session_t *session; /* until its last step */
    rank_counts_t sent;
    int32_t *tokens;
    float *logits;
    uint8_t *seen;
} rank_t;

/* Brings what all ranks counted, sampled and recorded to rank 0; takes arrays
 * of the rank's with it. */
coterie_status_t rank_collect(rank_t *r, results_t *results);

#endif
