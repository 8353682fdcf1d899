#include "config.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

#include "bench/gpu_cublas.h"

/* Of library_types.h and cublas_api.h. */
enum { BF16 = 14, SUMS_F32 = 68, ANY_ALGORITHM = -1 };

static void *library_open(void);
static coterie_status_t matrix_open(coterie_device_t *device, void **matrix_p);

/* Its stream must be ours, or times would not be its. */
coterie_status_t gpu_cublas_open(coterie_device_t *device,
                                 gpu_cublas_t *cublas)
{
    int (*create)(void **) = NULL;
    int (*set_stream)(void *, void *) = NULL;
    void *library, *gemm = NULL;
    coterie_status_t status;

    *cublas = (gpu_cublas_t){0};
    if (strcmp(device->ops->kind, "cuda") != 0)
        return COTERIE_OK;
    library = library_open();
    if (library != NULL) {
        *(void **)&create = dlsym(library, "cublasCreate_v2");
        *(void **)&set_stream = dlsym(library, "cublasSetStream_v2");
        gemm = dlsym(library, "cublasGemmEx");
    }
    if (create == NULL || set_stream == NULL || gemm == NULL ||
        create(&cublas->handle) != 0 ||
        set_stream(cublas->handle, device->stream[COTERIE_STREAM_COMPUTE]) !=
            0) {
        fprintf(stderr, "gpu: no cuBLAS: nothing to compare products with\n");
        return COTERIE_OK;
    }
    *(void **)&cublas->gemm = gemm;
    status = matrix_open(device, &cublas->a);
    if (status == COTERIE_OK)
        status = matrix_open(device, &cublas->b);
    if (status == COTERIE_OK)
        status = matrix_open(device, &cublas->c);
    return status;
}

void gpu_cublas_close(coterie_device_t *device, gpu_cublas_t *cublas)
{
    device->ops->release(device, cublas->a);
    device->ops->release(device, cublas->b);
    device->ops->release(device, cublas->c);
}

int gpu_cublas_multiply(const gpu_cublas_t *c)
{
    enum { N = GPU_CUBLAS_SIDE };
    const float one = 1, zero = 0;

    return c->gemm(c->handle, 1, 0, N, N, N, &one, c->a, BF16, N, c->b, BF16,
                   N, &zero, c->c, BF16, N, SUMS_F32, ANY_ALGORITHM);
}

static void *library_open(void)
{
    static const char *const names[] = {"libcublas.so.13", "libcublas.so.12",
                                        "libcublas.so"};
    void *library = NULL;

    for (size_t i = 0; library == NULL && i < sizeof(names) / sizeof(names[0]);
         i++)
        library = dlopen(names[i], RTLD_NOW);
    return library;
}

/* Of zeros. */
static coterie_status_t matrix_open(coterie_device_t *device, void **matrix_p)
{
    const size_t size = (size_t)GPU_CUBLAS_SIDE * GPU_CUBLAS_SIDE * 2;
    coterie_status_t status = device->ops->allocate(device, size, matrix_p);

    if (status == COTERIE_OK)
        status = device->ops->fill(device, COTERIE_STREAM_COMPUTE, *matrix_p,
                                   0, size);
    return status;
}
