#ifndef COTERIE_DEVICE_H
#define COTERIE_DEVICE_H
/** @file
 * What computes a rank's experts, if it is not the processor itself. A library
 * built with CUDA loads, and says so, where there is no driver or GPU. */
#include <coterie/status.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct coterie_device coterie_device_t;

/** What a device is. */
typedef struct coterie_device_about {
    size_t size;
    char name[256];        /**< such as "NVIDIA H100 80GB HBM3" */
    char architecture[32]; /**< such as "sm_90" */
    uint32_t processors;   /**< streaming multiprocessors */
    uint32_t wgmma;        /**< 1: many rows of bf16 experts go through wgmma;
                            * 0: all through mma.sync */
    uint64_t memory, memory_free; /**< bytes */
} coterie_device_about_t;

/** How many GPUs this process can use. Where it is none, coterie_last_error
 * says why: no driver, no GPU, or a library that was built without CUDA. */
COTERIE_API uint32_t coterie_device_count(void);

/** @param index  0 to coterie_device_count() - 1; else ERR_NOT_FOUND */
COTERIE_API coterie_status_t coterie_device_describe(
    uint32_t index, coterie_device_about_t *about);

/** Opens a device: "cuda", "cuda:0", "cuda:1", ...; or "host", the same calls
 * made by the processor, against which GPUs are tested. Several ranks may open
 * one GPU. A device belongs to the thread that opened it.
 * @return ERR_INVALID (no such name), ERR_NOT_FOUND (no such GPU),
 *         ERR_UNSUPPORTED (built without CUDA, or too old a GPU) */
COTERIE_API coterie_status_t coterie_device_open(const char *name,
                                                 coterie_device_t **device_p);

/** Accepts NULL. Nothing may use its memory any more. */
COTERIE_API void coterie_device_close(coterie_device_t *device);

/** What the runtime queues its work on: a cudaStream_t, for engines that bring
 * CUDA of their own; NULL on "host". Not while a capture lasts. */
COTERIE_API void *coterie_device_stream(coterie_device_t *device);

/** Memory of the device, aligned to 16 bytes. On "cuda", cudaMalloc's: an
 * engine may as well bring its own. */
COTERIE_API coterie_status_t coterie_device_allocate(coterie_device_t *device,
                                                     size_t size, void **p);
/** Accepts NULL. */
COTERIE_API void coterie_device_release(coterie_device_t *device, void *p);

/** Queues a copy, in any direction. */
COTERIE_API coterie_status_t coterie_device_copy(coterie_device_t *device,
                                                 void *to, const void *from,
                                                 size_t size);

/** Waits for all that is queued. */
COTERIE_API coterie_status_t coterie_device_wait(coterie_device_t *device);

/** What was queued between begin and end, to be queued again as a whole: a
 * CUDA graph. Begin keeps what this thread queues instead of doing it; copies
 * read and write their memory at every replay. */
typedef struct coterie_graph coterie_graph_t;

COTERIE_API coterie_status_t coterie_graph_begin(coterie_device_t *device);
COTERIE_API coterie_status_t coterie_graph_end(coterie_device_t *device,
                                               coterie_graph_t **graph_p);
COTERIE_API coterie_status_t coterie_graph_replay(coterie_graph_t *graph);
/** Accepts NULL. Before its device is closed. */
COTERIE_API void coterie_graph_destroy(coterie_graph_t *graph);

#ifdef __cplusplus
}
#endif
#endif
