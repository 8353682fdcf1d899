#include "config.h"

#include <dlfcn.h>
#include <pthread.h>
#include <string.h>

#include "base/error.h"
#include "kernels/cublas.h"

static void find(void);

static coterie_cublas_calls_t found;
static bool is_there;

coterie_status_t coterie_cublas_find(const coterie_cublas_calls_t **calls_p)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;

    pthread_once(&once, find);
    if (!is_there)
        return coterie_fail(COTERIE_ERR_UNSUPPORTED,
                            "no cuBLAS (libcublas.so.13 or .12); install it, "
                            "or name its directory in LD_LIBRARY_PATH");
    *calls_p = &found;
    return COTERIE_OK;
}

static void find(void)
{
    static const char *const names[] = {"libcublas.so.13", "libcublas.so.12",
                                        "libcublas.so"};
    void *library = NULL;
    const struct {
        const char *name;
        void *to;
    } calls[] = {{"cublasCreate_v2", &found.create},
                 {"cublasDestroy_v2", &found.destroy},
                 {"cublasSetStream_v2", &found.set_stream},
                 {"cublasGemmGroupedBatchedEx", &found.grouped},
                 {"cublasGemmBatchedEx", &found.batched}};

    for (size_t i = 0; library == NULL && i < sizeof(names) / sizeof(names[0]);
         i++)
        library = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
    for (size_t i = 0;
         library != NULL && i < sizeof(calls) / sizeof(calls[0]); i++) {
        void *call = dlsym(library, calls[i].name);

        memcpy(calls[i].to, &call, sizeof(call));
    }
    is_there = found.create != NULL && found.destroy != NULL &&
               found.set_stream != NULL && found.batched != NULL;
}
