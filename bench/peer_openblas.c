#include "config.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

#include "bench/peer.h"

typedef void (*sgemm_fn)(int order, int trans_a, int trans_b, int m, int n,
                         int k, float alpha, const float *a, int lda,
                         const float *b, int ldb, float beta, float *c,
                         int ldc);

typedef struct handle {
    peer_work_t work;
    uint32_t *rows; /* of each expert */
    float *inner, *sums;
} handle_t;

static void *blas_open(const peer_work_t *work);
static void blas_prepare(void *handle);
static double blas_run(void *handle);
static void blas_close(void *handle);

static sgemm_fn sgemm;
static void (*threads_set)(int);

const peer_t *peer_openblas(void)
{
    static const peer_t peer = {"openblas", blas_open, blas_prepare, blas_run,
                                blas_close};
    void *library;

    /* Its threads are to sleep soon after a call: the others need the cores. */
    setenv("OPENBLAS_THREAD_TIMEOUT", "20", 0);
    library = dlopen("libopenblas.so.0", RTLD_NOW);

    if (library == NULL)
        return NULL;
    *(void **)&threads_set = dlsym(library, "openblas_set_num_threads");
    *(void **)&sgemm = dlsym(library, "cblas_sgemm");
    return sgemm != NULL && threads_set != NULL ? &peer : NULL;
}

static void *blas_open(const peer_work_t *work)
{
    handle_t *handle;

    if (strcmp(work->dtype, "f32") != 0)
        return NULL;
    handle = calloc(1, sizeof(*handle));
    handle->work = *work;
    handle->rows = calloc(work->experts, sizeof(*handle->rows));
    handle->inner = calloc((size_t)work->tokens * work->ffn, sizeof(float));
    handle->sums = calloc((size_t)work->tokens * work->hidden, sizeof(float));
    return handle;
}

static void blas_prepare(void *arg)
{
    handle_t *handle = arg;
    const peer_work_t *work = &handle->work;

    threads_set((int)work->threads);
    memset(handle->rows, 0, work->experts * sizeof(*handle->rows));
    for (size_t i = 0; i < (size_t)work->tokens * work->k; i++)
        handle->rows[work->ids[i]]++;
}

static double blas_run(void *arg)
{
    enum { ROW_MAJOR = 101, PLAIN = 111, TRANSPOSED = 112 };
    handle_t *handle = arg;
    const peer_work_t *work = &handle->work;
    const int hidden = (int)work->hidden, ffn = (int)work->ffn;
    const size_t matrix = (size_t)work->hidden * work->ffn;
    double flops = 0;

    for (uint32_t e = 0; e < work->experts; e++) {
        const float *gate = (const float *)work->weights + 3 * e * matrix;
        const int n = (int)handle->rows[e];
        if (n == 0)
            continue;
        sgemm(ROW_MAJOR, PLAIN, TRANSPOSED, n, ffn, hidden, 1, work->x, hidden,
              gate, hidden, 0, handle->inner, ffn);
        sgemm(ROW_MAJOR, PLAIN, TRANSPOSED, n, ffn, hidden, 1, work->x, hidden,
              gate + matrix, hidden, 0, handle->inner, ffn);
        sgemm(ROW_MAJOR, PLAIN, TRANSPOSED, n, hidden, ffn, 1, handle->inner,
              ffn, gate + 2 * matrix, ffn, 0, handle->sums, hidden);
        flops += 6.0 * n * (double)matrix;
    }
    return flops;
}

static void blas_close(void *arg)
{
    handle_t *handle = arg;

    free(handle->rows);
    free(handle->inner);
    free(handle->sums);
    free(handle);
}
