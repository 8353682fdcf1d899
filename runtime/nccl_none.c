#include "config.h"

#include <coterie/nccl.h>

#include "base/error.h"

/* A library built without NCCL. */
static coterie_status_t none(void);

coterie_status_t coterie_fabric_open_nccl(
    const coterie_nccl_options_t *options, coterie_fabric_t **fabric_p)
{
    (void)options, (void)fabric_p;
    return none();
}

coterie_status_t coterie_nccl_version(uint32_t *version_p)
{
    (void)version_p;
    return none();
}

static coterie_status_t none(void)
{
    return coterie_fail(COTERIE_ERR_UNSUPPORTED,
                        "no NCCL: this library was built without it; "
                        "configure it --with-nccl");
}
