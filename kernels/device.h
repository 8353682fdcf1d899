#ifndef COTERIE_KERNELS_DEVICE_H
#define COTERIE_KERNELS_DEVICE_H
/* Memory, order and kernels of a device. Work is queued on a stream, and done
 * in the order queued; a device has two, so that copies overlap computing. */
#include <coterie/device.h>

#include <stdbool.h>

#include "kernels/cuda/kernels.h"

typedef enum coterie_stream {
    COTERIE_STREAM_COMPUTE,
    COTERIE_STREAM_COPY,
    COTERIE_STREAM_COUNT
} coterie_stream_t;

/* Addresses in a row, backed by memory as far as it has grown: what lies in it
 * never moves, and nothing is lost between pieces. */
typedef struct coterie_device_arena {
    char *data;
    size_t size;     /* backed by memory */
    size_t reserved; /* most that it can grow to */
    void *backend;   /* the device's own */
} coterie_device_arena_t;

/* Products of a device's own library: y = x a^T, in groups of `each` that have
 * one x's count of rows. Row-major bf16 with sums in f32. */
typedef struct coterie_products {
    uint32_t count, each;
    uint32_t out, in; /* of every a; x's rows have `in` elements, too, */
    uint32_t stride;  /* and y's so many, of which `out` are written */
    const uint32_t *rows; /* [count], on the host */
    const void *const *a, *const *x; /* [count, each] addresses, there */
    void *const *y;
} coterie_products_t;

/* A backend is one file that fills this table. No slot is NULL. All return a
 * status whose line names the call and the device. */
typedef struct coterie_device_ops {
    const char *kind; /* "cuda", "host" */
    coterie_status_t (*allocate)(coterie_device_t *d, size_t size, void **p);
    void (*release)(coterie_device_t *d, void *p);
    /* Memory of the host that the device copies from and to by itself. */
    coterie_status_t (*host_allocate)(coterie_device_t *d, size_t size,
                                      void **p);
    void (*host_release)(coterie_device_t *d, void *p);
    /* Makes memory that is there already such memory.
     * @return ERR_EXISTS if it is */
    coterie_status_t (*pin)(coterie_device_t *d, void *p, size_t size);
    void (*unpin)(coterie_device_t *d, void *p);
    coterie_status_t (*arena_reserve)(coterie_device_t *d, size_t reserved,
                                      coterie_device_arena_t *arena);
    /* At least to this size; more, as memory comes in pieces. */
    coterie_status_t (*arena_grow)(coterie_device_t *d,
                                   coterie_device_arena_t *arena, size_t size);
    void (*arena_release)(coterie_device_t *d, coterie_device_arena_t *arena);
    /* Queues a copy in any direction. Memory of the host must be pinned for
     * it not to wait. */
    coterie_status_t (*copy)(coterie_device_t *d, coterie_stream_t stream,
                             void *to, const void *from, size_t size);
    coterie_status_t (*fill)(coterie_device_t *d, coterie_stream_t stream,
                             void *to, int byte, size_t size);
    /* What is queued on `later` afterwards waits for what is on `earlier`. */
    coterie_status_t (*order)(coterie_device_t *d, coterie_stream_t earlier,
                              coterie_stream_t later);
    /* The host waits for all that is queued. */
    coterie_status_t (*wait)(coterie_device_t *d, coterie_stream_t stream);
    /* The status of a launch that returned `error`. */
    coterie_status_t (*launched)(coterie_device_t *d, const char *kernel,
                                 int error);
    /* Between these, what is queued on the compute stream is kept instead of
     * done: a graph, of which every replay queues all that. */
    coterie_status_t (*capture_begin)(coterie_device_t *d);
    coterie_status_t (*capture_end)(coterie_device_t *d, void **graph_p);
    coterie_status_t (*replay)(coterie_device_t *d, void *graph);
    void (*graph_release)(coterie_device_t *d, void *graph); /* or NULL */
    /* Queues products; not to be captured. Without any, just says:
     * @return ERR_UNSUPPORTED if there is no library for it */
    coterie_status_t (*products)(coterie_device_t *d,
                                 const coterie_products_t *products);
    /* What this thread does in between, as a profiler shall show it. Nests. */
    void (*range_begin)(coterie_device_t *d, const char *name);
    void (*range_end)(coterie_device_t *d);
    void (*close)(coterie_device_t *d);
} coterie_device_ops_t;

/* Every backend's device begins with this. */
struct coterie_device {
    const coterie_device_ops_t *ops;
    const coterie_gpu_kernels_t *kernels;
    uint32_t index;
    uint32_t blocks; /* of kernels: how many fill the device */
    bool wide;       /* has a kernel for wide tiles of bf16 experts */
    void *stream[COTERIE_STREAM_COUNT];
};

/* Pairs of a tile that suit a call of so many rows: wide ones where the device
 * can and an expert has half of one on average, else what few experts exceed,
 * for these read their weights again. A row's bits are the same whatever tile
 * it is in, but for wide ones. */
uint32_t coterie_device_tile(const coterie_device_t *device,
                             const coterie_ffn_shape_t *shape, uint32_t rows,
                             uint32_t k, uint32_t experts);

coterie_status_t coterie_device_open_host(coterie_device_t **device_p);
coterie_status_t coterie_device_open_cuda(uint32_t index,
                                          coterie_device_t **device_p);

#endif
