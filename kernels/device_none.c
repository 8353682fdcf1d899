#include "config.h"

#include "base/error.h"
#include "kernels/device.h"

/* A library built without CUDA. */
static coterie_status_t none(void);

uint32_t coterie_device_count(void)
{
    none();
    return 0;
}

coterie_status_t coterie_device_describe(uint32_t index,
                                         coterie_device_about_t *about)
{
    (void)index, (void)about;
    return none();
}

coterie_status_t coterie_device_open_cuda(uint32_t index,
                                          coterie_device_t **device_p)
{
    (void)index, (void)device_p;
    return none();
}

static coterie_status_t none(void)
{
    return coterie_fail(COTERIE_ERR_UNSUPPORTED,
                        "no GPU: this library was built without CUDA; "
                        "configure it --with-cuda");
}
