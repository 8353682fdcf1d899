#include "config.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "kernels/device.h"

struct coterie_graph {
    coterie_device_t *device;
    void *backend; /* the device's own */
};

static coterie_status_t index_read(const char *text, uint32_t *index_p);

coterie_status_t coterie_device_open(const char *name,
                                     coterie_device_t **device_p)
{
    uint32_t index = 0;
    coterie_status_t status = COTERIE_OK;

    if (strcmp(name, "host") == 0)
        return coterie_device_open_host(device_p);
    if (strncmp(name, "cuda", 4) != 0)
        status = COTERIE_ERR_INVALID;
    else if (name[4] != '\0')
        status = index_read(name + 4, &index);
    if (status != COTERIE_OK)
        return coterie_fail(COTERIE_ERR_INVALID,
                            "device %s: host, cuda or cuda:N will do", name);
    return coterie_device_open_cuda(index, device_p);
}

void coterie_device_close(coterie_device_t *device)
{
    if (device != NULL)
        device->ops->close(device);
}

void *coterie_device_stream(coterie_device_t *device)
{
    return device->stream[COTERIE_STREAM_COMPUTE];
}

coterie_status_t coterie_device_allocate(coterie_device_t *device, size_t size,
                                         void **p)
{
    return device->ops->allocate(device, size, p);
}

void coterie_device_release(coterie_device_t *device, void *p)
{
    device->ops->release(device, p);
}

coterie_status_t coterie_device_copy(coterie_device_t *device, void *to,
                                     const void *from, size_t size)
{
    return device->ops->copy(device, COTERIE_STREAM_COMPUTE, to, from, size);
}

coterie_status_t coterie_device_wait(coterie_device_t *device)
{
    return device->ops->wait(device, COTERIE_STREAM_COMPUTE);
}

coterie_status_t coterie_graph_begin(coterie_device_t *device)
{
    return device->ops->capture_begin(device);
}

coterie_status_t coterie_graph_end(coterie_device_t *device,
                                   coterie_graph_t **graph_p)
{
    coterie_graph_t *graph = malloc(sizeof(*graph));
    void *backend = NULL;
    coterie_status_t status = device->ops->capture_end(device, &backend);

    if (status == COTERIE_OK && graph == NULL) {
        device->ops->graph_release(device, backend);
        status = coterie_fail_memory(sizeof(*graph), "a graph");
    }
    if (status != COTERIE_OK) {
        free(graph);
        return status;
    }
    *graph = (coterie_graph_t){device, backend};
    *graph_p = graph;
    return COTERIE_OK;
}

coterie_status_t coterie_graph_replay(coterie_graph_t *graph)
{
    return graph->device->ops->replay(graph->device, graph->backend);
}

void coterie_graph_destroy(coterie_graph_t *graph)
{
    if (graph == NULL)
        return;
    graph->device->ops->graph_release(graph->device, graph->backend);
    free(graph);
}

uint32_t coterie_device_tile(const coterie_device_t *device,
                             const coterie_ffn_shape_t *shape, uint32_t rows,
                             uint32_t k, uint32_t experts)
{
    const uint64_t each = experts > 0 ? (uint64_t)rows * k / experts : 0;
    const uint64_t most = 4 * each + 8; /* of nearly all experts */

    if (device->wide && shape->dtype == COTERIE_DTYPE_BF16 &&
        each >= COTERIE_GPU_TILE_WIDE / 2)
        return COTERIE_GPU_TILE_WIDE;
    return coterie_gpu_tile(rows < most ? rows : (uint32_t)most);
}

/* ":N" */
static coterie_status_t index_read(const char *text, uint32_t *index_p)
{
    char *end = NULL;
    unsigned long index;

    if (text[0] != ':' || text[1] < '0' || text[1] > '9')
        return COTERIE_ERR_INVALID;
    index = strtoul(text + 1, &end, 10);
    if (*end != '\0' || index > UINT16_MAX)
        return COTERIE_ERR_INVALID;
    *index_p = (uint32_t)index;
    return COTERIE_OK;
}
