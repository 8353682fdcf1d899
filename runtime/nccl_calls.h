#ifndef COTERIE_RUNTIME_NCCL_CALLS_H
#define COTERIE_RUNTIME_NCCL_CALLS_H
/* What a fabric asks of NCCL, and of CUDA around it. Looked up at run time:
 * linked, a machine without NCCL could not load the library, and a process that
 * has NCCL already (an engine's) could get a second one. tests/ fills the table
 * with ranks that are threads. */
#include <coterie/nccl.h>
#include <nccl.h>

/* Of every version since 2.19. */
#define COTERIE_NCCL_CALLS(X)                                     \
    X(GetUniqueId) X(CommInitRankConfig) X(CommGetAsyncError)     \
    X(CommFinalize) X(CommDestroy) X(CommAbort) X(GetErrorString) \
    X(GetLastError) X(GroupStart) X(GroupEnd) X(Send) X(Recv)     \
    X(MemAlloc) X(MemFree)

/* Of 2.27, and two of 2.28; NULL where there is none. */
#define COTERIE_NCCL_LATER_CALLS(X)                              \
    X(CommShrink) X(CommWindowRegister) X(CommWindowDeregister) \
    X(AlltoAll) X(CommRevoke)

/* The ranks, `stride` apart, that load from and store to each other's memory;
 * laid out as NCCL's. */
typedef struct coterie_nccl_team {
    int size, rank, stride;
} coterie_nccl_team_t;

enum { COTERIE_NCCL_UUID = 16 };

typedef struct coterie_nccl_calls {
    int version; /* of the library */
#define X(name) __typeof__(nccl##name) *name;
    COTERIE_NCCL_CALLS(X)
    COTERIE_NCCL_LATER_CALLS(X)
#undef X
    coterie_nccl_team_t (*TeamLsa)(ncclComm_t comm); /* 2.28, or NULL */

    /* CUDA's; errors are cudaError_t. */
    int (*query)(void *stream); /* cudaErrorNotReady: not all is done */
    int (*uuid)(uint32_t device, unsigned char *uuid);
    int (*reach)(void *stream, ncclWindow_t window, uint32_t count,
                 void **reach);
} coterie_nccl_calls_t;

/* The library's, looked up once. The table is static.
 * @return ERR_NOT_FOUND; ERR_UNSUPPORTED if it is too old */
coterie_status_t coterie_nccl_find(const coterie_nccl_calls_t **calls_p);

/* As coterie_fabric_open_nccl, by these calls. */
coterie_status_t coterie_fabric_open_nccl_with(
    const coterie_nccl_options_t *options, const coterie_nccl_calls_t *calls,
    coterie_fabric_t **fabric_p);

#endif
