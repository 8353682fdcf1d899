#ifndef COTERIE_KERNELS_DEVICE_HOST_H
#define COTERIE_KERNELS_DEVICE_HOST_H
/* The parts of the processor's tables that other files than device_host.c fill.
 */
#include "kernels/device.h"

/* device_host_dispatch.c */
int coterie_host_send(void *stream, const coterie_gpu_dispatch_t *d);
int coterie_host_arrive(void *stream, const coterie_gpu_dispatch_t *d);
int coterie_host_give_back(void *stream, const coterie_gpu_dispatch_t *d);
int coterie_host_finish(void *stream, const coterie_gpu_dispatch_t *d);

/* device_host_grouped.c */
coterie_status_t coterie_host_products(coterie_device_t *d,
                                       const coterie_products_t *products);
int coterie_host_permute(void *stream, const coterie_gpu_permute_t *permute);
int coterie_host_unpack(void *stream, const coterie_gpu_unpack_t *unpack);
int coterie_host_activate(void *stream, const coterie_gpu_between_t *between);
int coterie_host_deliver(void *stream, const coterie_gpu_between_t *between);

/* device_host_graph.c; while a capture lasts, the compute stream is not NULL,
 * and what goes there is kept. */
coterie_status_t coterie_host_capture_begin(coterie_device_t *d);
coterie_status_t coterie_host_capture_end(coterie_device_t *d,
                                          void **graph_p);
coterie_status_t coterie_host_replay(coterie_device_t *d, void *graph);
void coterie_host_graph_release(coterie_device_t *d, void *graph);
int coterie_host_keep_copy(void *stream, void *to, const void *from,
                           size_t size);
int coterie_host_keep_fill(void *stream, void *to, int byte, size_t size);

#endif
