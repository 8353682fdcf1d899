#ifndef COTERIE_KERNELS_DEVICE_HOST_H
#define COTERIE_KERNELS_DEVICE_HOST_H
/* The part of the processor's table that device_host_dispatch.c fills. */
#include "kernels/cuda/kernels.h"

int coterie_host_send(void *stream, const coterie_gpu_dispatch_t *d);
int coterie_host_arrive(void *stream, const coterie_gpu_dispatch_t *d);
int coterie_host_give_back(void *stream, const coterie_gpu_dispatch_t *d);
int coterie_host_finish(void *stream, const coterie_gpu_dispatch_t *d);

#endif
