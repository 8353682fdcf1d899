#include "config.h"

#include <cuda_runtime_api.h>
#include <dlfcn.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "kernels/cuda/reach.h"
#include "runtime/nccl_calls.h"

#define OLDEST NCCL_VERSION(2, 19, 0)

/* What looking it up came to; the lines live as long as the library. */
typedef struct found {
    coterie_nccl_calls_t calls;
    coterie_status_t status;
    char line[256];
} found_t;

static void find(void);
static void *library_open(void);
static bool symbol_find(void *library, const char *name, void *to);
static int stream_query(void *stream);
static int device_uuid(uint32_t device, unsigned char *uuid);

static found_t found;

coterie_status_t coterie_nccl_find(const coterie_nccl_calls_t **calls_p)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;

    pthread_once(&once, find);
    if (found.status != COTERIE_OK)
        return coterie_fail(found.status, "%s", found.line);
    *calls_p = &found.calls;
    return COTERIE_OK;
}

coterie_status_t coterie_nccl_version(uint32_t *version_p)
{
    const coterie_nccl_calls_t *calls;
    coterie_status_t status = coterie_nccl_find(&calls);

    if (status == COTERIE_OK)
        *version_p = (uint32_t)calls->version;
    return status;
}

coterie_status_t coterie_fabric_open_nccl(
    const coterie_nccl_options_t *options, coterie_fabric_t **fabric_p)
{
    const coterie_nccl_calls_t *calls;
    coterie_status_t status = coterie_nccl_find(&calls);

    if (status != COTERIE_OK)
        return status;
    return coterie_fabric_open_nccl_with(options, calls, fabric_p);
}

static void find(void)
{
    void *library = library_open();
    coterie_nccl_calls_t *calls = &found.calls;
    ncclResult_t (*version)(int *) = NULL;

    found.status = COTERIE_ERR_NOT_FOUND;
    if (library == NULL) {
        snprintf(found.line, sizeof(found.line),
                 "no NCCL: %s; install it, or name its directory in "
                 "LD_LIBRARY_PATH",
                 dlerror());
        return;
    }
    found.status = COTERIE_ERR_UNSUPPORTED;
    if (!symbol_find(library, "ncclGetVersion", &version) ||
        version(&calls->version) != ncclSuccess || calls->version < OLDEST) {
        snprintf(found.line, sizeof(found.line),
                 "NCCL %d is too old; 2.19 or later is needed",
                 calls->version);
        return;
    }
#define X(name)                                                       \
    if (!symbol_find(library, "nccl" #name, &calls->name)) {           \
        snprintf(found.line, sizeof(found.line), "NCCL has no nccl%s", \
                 #name);                                               \
        return;                                                        \
    }
    COTERIE_NCCL_CALLS(X)
#undef X
#define X(name) symbol_find(library, "nccl" #name, &calls->name);
    COTERIE_NCCL_LATER_CALLS(X)
#undef X
    /* A window is read by a kernel that was compiled for one minor version. */
    if (calls->version / 100 == NCCL_VERSION_CODE / 100)
        symbol_find(library, "ncclTeamLsa", &calls->TeamLsa);
    calls->query = stream_query;
    calls->uuid = device_uuid;
    calls->reach = coterie_gpu_reach;
    found.status = COTERIE_OK;
}

/* The one that the process has already or the system finds; or else that which
 * lies beside what we were built with. It is never closed: it has threads. */
static void *library_open(void)
{
    static const char name[] = "libnccl.so.2";
    void *library = dlopen(name, RTLD_NOW | RTLD_LOCAL);

    return library != NULL ? library
                           : dlopen(NCCL_LIBRARY, RTLD_NOW | RTLD_LOCAL);
}

static bool symbol_find(void *library, const char *name, void *to)
{
    void *symbol = dlsym(library, name);

    memcpy(to, &symbol, sizeof(symbol));
    return symbol != NULL;
}

static int stream_query(void *stream)
{
    return (int)cudaStreamQuery((cudaStream_t)stream);
}

static int device_uuid(uint32_t device, unsigned char *uuid)
{
    struct cudaDeviceProp properties;
    cudaError_t error = cudaGetDeviceProperties(&properties, (int)device);

    if (error == cudaSuccess)
        memcpy(uuid, &properties.uuid, COTERIE_NCCL_UUID);
    return (int)error;
}
