#ifndef COTERIE_RUNTIME_NCCL_H
#define COTERIE_RUNTIME_NCCL_H
/* A fabric of NCCL: nccl_open.c opens it, nccl.c is the rest. */
#include <stdatomic.h>
#include <stdbool.h>

#include "runtime/fabric.h"
#include "runtime/nccl_calls.h"

enum { COTERIE_NCCL_GREETING = 16 }; /* bytes: the least that a swap moves */

typedef struct coterie_nccl {
    coterie_fabric_t base;
    const coterie_nccl_calls_t *calls;
    uint32_t rank, deadline_ms;
    ncclComm_t comm, next;
    ncclComm_t *parents; /* [rank_count]: what comm was shrunk from */
    uint32_t parent_count;
    bool stopped;        /* comm can only be shrunk or closed; */
    bool stuck;          /* it waits for what does not come, */
    bool ended;          /* or is gone */
    atomic_bool aborted; /* by any thread; this rank's own then ends it */
    int *number;         /* [rank_count]: in comm; -1 = excluded */
    bool *reached;       /* [rank_count]: by kernels, so nothing is sent */
    coterie_nccl_team_t team; /* size 0: NCCL sends everything */
    void *memory;             /* the window's */
    ncclWindow_t window;
    /* The control path's, on either side: [2, rank_count, GREETING] */
    char *there, *here;
} coterie_nccl_t;

extern const coterie_fabric_ops_t coterie_nccl_ops, coterie_nccl_device_ops;

/* A first message from each to each, which makes NCCL set everything up, so
 * that no step has to: here[r] goes to rank r, which finds it in the second
 * half at our number. */
coterie_status_t coterie_nccl_greet(coterie_nccl_t *n);

/* Waits, if `result` says that the call goes on, and tells how it ended. */
coterie_status_t coterie_nccl_settle(coterie_nccl_t *n, ncclComm_t comm,
                                     ncclResult_t result, const char *call);

coterie_status_t coterie_nccl_failed(const coterie_nccl_t *n, ncclComm_t comm,
                                     ncclResult_t result, const char *call);

#endif
