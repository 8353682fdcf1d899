#ifndef TESTS_GPU_DATA_H
#define TESTS_GPU_DATA_H
/* A device's memory, filled from the host and compared with it. */
#include <stdbool.h>

#include "kernels/device.h"

enum { BUFFERS_MAX = 512, POISON = 0xff };

/* A device and what was put on it; ends the program where memory does. */
typedef struct world {
    coterie_device_t *device;
    void *buffers[BUFFERS_MAX];
    uint32_t count;
} world_t;

void must(coterie_status_t status);
/* Poisoned: what a kernel leaves unwritten shows. */
void *room(world_t *w, size_t size);
void *upload(world_t *w, const void *data, size_t size);
/* free() it. */
void *download(world_t *w, const void *data, size_t size);
void world_end(world_t *w);

/* -1 to 1. */
float fraction(void);
/* Within a share of the largest. */
bool near(const char *what, const float *got, const float *want, size_t count,
          float tolerance);
bool same(const char *what, const void *got, const void *want, size_t size);

#endif
