#include "config.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "kernels/device.h"

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
