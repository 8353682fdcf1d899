#include "config.h"

#include <cuda.h>
#include <cuda_runtime_api.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifdef HAVE_NVTX
#include <nvtx3/nvToolsExt.h>
#endif

#include "base/error.h"
#include "kernels/cublas.h"

enum { OLDEST = 8 }; /* compute capability: the first with bf16 products */

typedef struct cuda_device {
    coterie_device_t base; /* first: a device is this */
    cudaEvent_t order;
    void *cublas; /* a handle, once there are products */
#ifdef HAVE_NVTX
    nvtxDomainHandle_t domain;
#endif
} cuda_device_t;

/* Pieces of memory behind an arena. */
typedef struct pieces {
    size_t size; /* of each */
    uint32_t count, capacity;
    CUmemGenericAllocationHandle handle[];
} pieces_t;

/* The driver's part of the interface, found at run time: linked, a machine
 * without a driver could not load the library. */
typedef struct driver {
    CUresult (*reserve)(CUdeviceptr *, size_t, size_t, CUdeviceptr,
                        unsigned long long);
    CUresult (*unreserve)(CUdeviceptr, size_t);
    CUresult (*create)(CUmemGenericAllocationHandle *, size_t,
                       const CUmemAllocationProp *, unsigned long long);
    CUresult (*destroy)(CUmemGenericAllocationHandle);
    CUresult (*map)(CUdeviceptr, size_t, size_t, CUmemGenericAllocationHandle,
                    unsigned long long);
    CUresult (*unmap)(CUdeviceptr, size_t);
    CUresult (*allow)(CUdeviceptr, size_t, const CUmemAccessDesc *, size_t);
    CUresult (*granularity)(size_t *, const CUmemAllocationProp *,
                            CUmemAllocationGranularity_flags);
} driver_t;

static coterie_status_t device_begin(cuda_device_t *c);
static coterie_status_t driver_find(driver_t *driver);
static coterie_status_t piece_add(const driver_t *driver, uint32_t index,
                                  coterie_device_arena_t *arena);
static coterie_status_t failed(const coterie_device_t *d, const char *call,
                               cudaError_t error);
static coterie_status_t driver_failed(uint32_t index, const char *call,
                                      CUresult result);
static CUmemAllocationProp piece_of(uint32_t index);

uint32_t coterie_device_count(void)
{
    int count = 0;
    cudaError_t error = cudaGetDeviceCount(&count);

    if (error == cudaSuccess && count > 0)
        return (uint32_t)count;
    if (error == cudaErrorInsufficientDriver)
        coterie_fail(COTERIE_ERR_NOT_FOUND,
                     "no GPU: no NVIDIA driver, or one older than CUDA %d.%d",
                     CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10);
    else
        coterie_fail(COTERIE_ERR_NOT_FOUND, "no GPU: %s",
                     error == cudaSuccess ? "the driver reports none"
                                          : cudaGetErrorString(error));
    return 0;
}

coterie_status_t coterie_device_describe(uint32_t index,
                                         coterie_device_about_t *about)
{
    const uint32_t count = coterie_device_count();
    struct cudaDeviceProp properties;
    size_t available = 0, total = 0;
    cudaError_t error;

    if (count == 0)
        return COTERIE_ERR_NOT_FOUND;
    if (index >= count)
        return coterie_fail(COTERIE_ERR_NOT_FOUND,
                            "cuda:%u: this machine has GPUs 0 to %u", index,
                            count - 1);
    error = cudaGetDeviceProperties(&properties, (int)index);
    if (error == cudaSuccess)
        error = cudaSetDevice((int)index);
    if (error == cudaSuccess)
        error = cudaMemGetInfo(&available, &total);
    if (error != cudaSuccess)
        return coterie_fail(COTERIE_ERR_IO, "cuda:%u: %s", index,
                            cudaGetErrorString(error));
    snprintf(about->name, sizeof(about->name), "%s", properties.name);
    snprintf(about->architecture, sizeof(about->architecture), "sm_%d%d",
             properties.major, properties.minor);
    about->processors = (uint32_t)properties.multiProcessorCount;
    about->wgmma = (uint32_t)coterie_gpu_wide();
    about->memory = total;
    about->memory_free = available;
    return COTERIE_OK;
}

static coterie_status_t cuda_allocate(coterie_device_t *d, size_t size,
                                      void **p)
{
    return failed(d, "cudaMalloc", cudaMalloc(p, size));
}

static void cuda_release(coterie_device_t *d, void *p)
{
    (void)d;
    cudaFree(p);
}

static coterie_status_t cuda_host_allocate(coterie_device_t *d, size_t size,
                                           void **p)
{
    return failed(d, "cudaMallocHost", cudaMallocHost(p, size));
}

static void cuda_host_release(coterie_device_t *d, void *p)
{
    (void)d;
    cudaFreeHost(p);
}

static coterie_status_t cuda_pin(coterie_device_t *d, void *p, size_t size)
{
    const cudaError_t error =
        cudaHostRegister(p, size, cudaHostRegisterPortable);

    if (error != cudaSuccess)
        cudaGetLastError(); /* or the next launch would be blamed */
    return error == cudaErrorHostMemoryAlreadyRegistered
               ? COTERIE_ERR_EXISTS
               : failed(d, "cudaHostRegister", error);
}

static void cuda_unpin(coterie_device_t *d, void *p)
{
    (void)d;
    cudaHostUnregister(p);
}

static coterie_status_t cuda_arena_reserve(coterie_device_t *d,
                                           size_t reserved,
                                           coterie_device_arena_t *arena)
{
    const CUmemAllocationProp piece = piece_of(d->index);
    driver_t driver;
    CUdeviceptr at = 0;
    size_t unit = 0, count;
    pieces_t *pieces;
    CUresult result;
    coterie_status_t status = driver_find(&driver);

    if (status != COTERIE_OK)
        return status;
    result = driver.granularity(&unit, &piece,
                                CU_MEM_ALLOC_GRANULARITY_RECOMMENDED);
    if (result != CUDA_SUCCESS)
        return driver_failed(d->index, "cuMemGetAllocationGranularity",
                             result);
    count = reserved / unit + (reserved % unit != 0);
    pieces = calloc(1, sizeof(*pieces) + count * sizeof(pieces->handle[0]));
    if (pieces == NULL)
        return coterie_fail_memory(count * sizeof(pieces->handle[0]),
                                   "a device's arena");
    result = driver.reserve(&at, count * unit, 0, 0, 0);
    if (result != CUDA_SUCCESS) {
        free(pieces);
        return driver_failed(d->index, "cuMemAddressReserve", result);
    }
    pieces->size = unit;
    pieces->capacity = (uint32_t)count;
    *arena = (coterie_device_arena_t){(char *)at, 0, count * unit, pieces};
    return COTERIE_OK;
}

static coterie_status_t cuda_arena_grow(coterie_device_t *d,
                                        coterie_device_arena_t *arena,
                                        size_t size)
{
    driver_t driver;
    coterie_status_t status = driver_find(&driver);

    if (status == COTERIE_OK && size > arena->reserved)
        status = coterie_fail(COTERIE_ERR_CAPACITY,
                              "cuda:%u: an arena of %zu bytes cannot grow to "
                              "%zu",
                              d->index, arena->reserved, size);
    while (status == COTERIE_OK && arena->size < size)
        status = piece_add(&driver, d->index, arena);
    return status;
}

static void cuda_arena_release(coterie_device_t *d,
                               coterie_device_arena_t *arena)
{
    pieces_t *pieces = arena->backend;
    driver_t driver;

    (void)d;
    if (pieces == NULL || driver_find(&driver) != COTERIE_OK)
        return;
    for (uint32_t i = 0; i < pieces->count; i++) {
        driver.unmap((CUdeviceptr)arena->data + i * pieces->size,
                     pieces->size);
        driver.destroy(pieces->handle[i]);
    }
    driver.unreserve((CUdeviceptr)arena->data, arena->reserved);
    free(pieces);
    *arena = (coterie_device_arena_t){0};
}

static coterie_status_t cuda_copy(coterie_device_t *d,
                                  coterie_stream_t stream, void *to,
                                  const void *from, size_t size)
{
    return failed(d, "cudaMemcpyAsync",
                  cudaMemcpyAsync(to, from, size, cudaMemcpyDefault,
                                  d->stream[stream]));
}

static coterie_status_t cuda_fill(coterie_device_t *d,
                                  coterie_stream_t stream, void *to, int byte,
                                  size_t size)
{
    return failed(d, "cudaMemsetAsync",
                  cudaMemsetAsync(to, byte, size, d->stream[stream]));
}

static coterie_status_t cuda_order(coterie_device_t *d,
                                   coterie_stream_t earlier,
                                   coterie_stream_t later)
{
    const cuda_device_t *c = (const cuda_device_t *)d;
    coterie_status_t status =
        failed(d, "cudaEventRecord",
               cudaEventRecord(c->order, d->stream[earlier]));

    if (status == COTERIE_OK)
        status = failed(d, "cudaStreamWaitEvent",
                        cudaStreamWaitEvent(d->stream[later], c->order, 0));
    return status;
}

static coterie_status_t cuda_wait(coterie_device_t *d, coterie_stream_t stream)
{
    return failed(d, "cudaStreamSynchronize",
                  cudaStreamSynchronize(d->stream[stream]));
}

static coterie_status_t cuda_launched(coterie_device_t *d, const char *kernel,
                                      int error)
{
    return failed(d, kernel, (cudaError_t)error);
}

/* Of this thread's calls: other ranks' threads go on as they do. */
static coterie_status_t cuda_capture_begin(coterie_device_t *d)
{
    return failed(d, "cudaStreamBeginCapture",
                  cudaStreamBeginCapture(d->stream[COTERIE_STREAM_COMPUTE],
                                         cudaStreamCaptureModeThreadLocal));
}

static coterie_status_t cuda_capture_end(coterie_device_t *d, void **graph_p)
{
    cudaGraph_t graph = NULL;
    cudaGraphExec_t exec = NULL;
    coterie_status_t status =
        failed(d, "cudaStreamEndCapture",
               cudaStreamEndCapture(d->stream[COTERIE_STREAM_COMPUTE],
                                    &graph));

    if (status != COTERIE_OK)
        return status;
    status = failed(d, "cudaGraphInstantiate",
                    cudaGraphInstantiate(&exec, graph, 0));
    cudaGraphDestroy(graph);
    if (status == COTERIE_OK)
        *graph_p = exec;
    return status;
}

static coterie_status_t cuda_replay(coterie_device_t *d, void *graph)
{
    return failed(d, "cudaGraphLaunch",
                  cudaGraphLaunch(graph, d->stream[COTERIE_STREAM_COMPUTE]));
}

static void cuda_graph_release(coterie_device_t *d, void *graph)
{
    (void)d;
    if (graph != NULL)
        cudaGraphExecDestroy(graph);
}

static coterie_status_t cuda_products(coterie_device_t *d,
                                      const coterie_products_t *products)
{
    cuda_device_t *c = (cuda_device_t *)d;
    const coterie_cublas_calls_t *calls;
    coterie_status_t status = coterie_cublas_find(&calls);
    int error = 0;

    if (status != COTERIE_OK)
        return status;
    if (c->cublas == NULL)
        error = calls->create(&c->cublas);
    if (error == 0)
        error =
            calls->set_stream(c->cublas, d->stream[COTERIE_STREAM_COMPUTE]);
    if (error == 0)
        error = coterie_cublas_products(calls, c->cublas, products);
    return error == 0 ? COTERIE_OK
                      : coterie_fail(COTERIE_ERR_IO,
                                     "cuda:%u: cuBLAS: status %d", d->index,
                                     error);
}

/* Calls of NVTX do nothing, in a few instructions, unless a profiler started
 * the process. */
#ifdef HAVE_NVTX
static void cuda_range_begin(coterie_device_t *d, const char *name)
{
    const nvtxEventAttributes_t range = {
        .version = NVTX_VERSION,
        .size = NVTX_EVENT_ATTRIB_STRUCT_SIZE,
        .messageType = NVTX_MESSAGE_TYPE_ASCII,
        .message.ascii = name};

    nvtxDomainRangePushEx(((cuda_device_t *)d)->domain, &range);
}

static void cuda_range_end(coterie_device_t *d)
{
    nvtxDomainRangePop(((cuda_device_t *)d)->domain);
}
#else
static void cuda_range_begin(coterie_device_t *d, const char *name)
{
    (void)d, (void)name;
}

static void cuda_range_end(coterie_device_t *d)
{
    (void)d;
}
#endif

static void cuda_close(coterie_device_t *d)
{
    cuda_device_t *c = (cuda_device_t *)d;
    const coterie_cublas_calls_t *cublas;

    if (c->cublas != NULL && coterie_cublas_find(&cublas) == COTERIE_OK)
        cublas->destroy(c->cublas);
    for (int i = 0; i < COTERIE_STREAM_COUNT; i++)
        if (d->stream[i] != NULL)
            cudaStreamDestroy(d->stream[i]);
    if (c->order != NULL)
        cudaEventDestroy(c->order);
#ifdef HAVE_NVTX
    nvtxDomainDestroy(c->domain);
#endif
    free(c);
}

static const coterie_gpu_kernels_t cuda_kernels = {
    coterie_gpu_narrow, coterie_gpu_sort, coterie_gpu_ffn,
    coterie_gpu_combine, coterie_gpu_router, coterie_gpu_send,
    coterie_gpu_arrive, coterie_gpu_give_back, coterie_gpu_finish,
    coterie_gpu_permute, coterie_gpu_unpack, coterie_gpu_activate,
    coterie_gpu_deliver};

static const coterie_device_ops_t cuda_ops = {
    .kind = "cuda",
    .allocate = cuda_allocate,
    .release = cuda_release,
    .host_allocate = cuda_host_allocate,
    .host_release = cuda_host_release,
    .pin = cuda_pin,
    .unpin = cuda_unpin,
    .arena_reserve = cuda_arena_reserve,
    .arena_grow = cuda_arena_grow,
    .arena_release = cuda_arena_release,
    .copy = cuda_copy,
    .fill = cuda_fill,
    .order = cuda_order,
    .wait = cuda_wait,
    .launched = cuda_launched,
    .capture_begin = cuda_capture_begin,
    .capture_end = cuda_capture_end,
    .replay = cuda_replay,
    .graph_release = cuda_graph_release,
    .products = cuda_products,
    .range_begin = cuda_range_begin,
    .range_end = cuda_range_end,
    .close = cuda_close};

coterie_status_t coterie_device_open_cuda(uint32_t index,
                                          coterie_device_t **device_p)
{
    coterie_device_about_t about = {.size = sizeof(about)};
    cuda_device_t *c;
    coterie_status_t status = coterie_device_describe(index, &about);

    if (status != COTERIE_OK)
        return status;
    if (atoi(about.architecture + 3) < OLDEST * 10)
        return coterie_fail(COTERIE_ERR_UNSUPPORTED,
                            "cuda:%u: %s is %s; the kernels need sm_%d0 or "
                            "later",
                            index, about.name, about.architecture, OLDEST);
    c = calloc(1, sizeof(*c));
    if (c == NULL)
        return coterie_fail_memory(sizeof(*c), "a device");
    c->base = (coterie_device_t){.ops = &cuda_ops,
                                 .kernels = &cuda_kernels,
                                 .index = index,
                                 .blocks = about.processors *
                                           COTERIE_GPU_BLOCKS_EACH,
                                 .wide = about.wgmma == 1};
    status = device_begin(c);
    if (status != COTERIE_OK)
        cuda_close(&c->base);
    else
        *device_p = &c->base;
    return status;
}

static coterie_status_t device_begin(cuda_device_t *c)
{
    coterie_device_t *d = &c->base;
    coterie_status_t status = COTERIE_OK;

    for (int i = 0; status == COTERIE_OK && i < COTERIE_STREAM_COUNT; i++) {
        cudaStream_t stream = NULL;
        status = failed(d, "cudaStreamCreate",
                        cudaStreamCreateWithFlags(&stream,
                                                  cudaStreamNonBlocking));
        d->stream[i] = stream;
    }
    if (status == COTERIE_OK)
        status = failed(d, "cudaEventCreate",
                        cudaEventCreateWithFlags(&c->order,
                                                 cudaEventDisableTiming));
#ifdef HAVE_NVTX
    c->domain = nvtxDomainCreateA("coterie");
#endif
    return status;
}

static coterie_status_t driver_find(driver_t *driver)
{
    const struct {
        const char *name;
        void *to;
    } calls[] = {
        {"cuMemAddressReserve", &driver->reserve},
        {"cuMemAddressFree", &driver->unreserve},
        {"cuMemCreate", &driver->create},
        {"cuMemRelease", &driver->destroy},
        {"cuMemMap", &driver->map},
        {"cuMemUnmap", &driver->unmap},
        {"cuMemSetAccess", &driver->allow},
        {"cuMemGetAllocationGranularity", &driver->granularity}};
    const size_t count = sizeof(calls) / sizeof(calls[0]);

    for (size_t i = 0; i < count; i++) {
        enum cudaDriverEntryPointQueryResult found;
        void *call = NULL;
        cudaError_t error = cudaGetDriverEntryPointByVersion(
            calls[i].name, &call, CUDART_VERSION, cudaEnableDefault, &found);

        if (error != cudaSuccess || call == NULL)
            return coterie_fail(COTERIE_ERR_UNSUPPORTED,
                                "the CUDA driver has no %s; a newer one is "
                                "needed",
                                calls[i].name);
        memcpy(calls[i].to, &call, sizeof(call));
    }
    return COTERIE_OK;
}

static coterie_status_t piece_add(const driver_t *driver, uint32_t index,
                                  coterie_device_arena_t *arena)
{
    pieces_t *pieces = arena->backend;
    const CUmemAllocationProp piece = piece_of(index);
    const CUmemAccessDesc access = {piece.location,
                                    CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
    const CUdeviceptr at = (CUdeviceptr)arena->data + arena->size;
    CUmemGenericAllocationHandle handle;
    CUresult result = driver->create(&handle, pieces->size, &piece, 0);

    if (result != CUDA_SUCCESS)
        return driver_failed(index, "cuMemCreate", result);
    result = driver->map(at, pieces->size, 0, handle, 0);
    if (result != CUDA_SUCCESS) {
        driver->destroy(handle);
        return driver_failed(index, "cuMemMap", result);
    }
    result = driver->allow(at, pieces->size, &access, 1);
    if (result != CUDA_SUCCESS) {
        driver->unmap(at, pieces->size);
        driver->destroy(handle);
        return driver_failed(index, "cuMemSetAccess", result);
    }
    pieces->handle[pieces->count++] = handle;
    arena->size += pieces->size;
    return COTERIE_OK;
}

static coterie_status_t failed(const coterie_device_t *d, const char *call,
                               cudaError_t error)
{
    if (error == cudaSuccess)
        return COTERIE_OK;
    return coterie_fail(error == cudaErrorMemoryAllocation
                            ? COTERIE_ERR_NO_MEMORY
                            : COTERIE_ERR_IO,
                        "cuda:%u: %s: %s", d->index, call,
                        cudaGetErrorString(error));
}

static coterie_status_t driver_failed(uint32_t index, const char *call,
                                      CUresult result)
{
    return coterie_fail(result == CUDA_ERROR_OUT_OF_MEMORY
                            ? COTERIE_ERR_NO_MEMORY
                            : COTERIE_ERR_IO,
                        "cuda:%u: %s: CUDA error %d", index, call,
                        (int)result);
}

static CUmemAllocationProp piece_of(uint32_t index)
{
    return (CUmemAllocationProp){
        .type = CU_MEM_ALLOCATION_TYPE_PINNED,
        .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = (int)index}};
}
