#include "config.h"

#include <string.h>

#include <coterie/model.h>

#include "base/error.h"

static const char *const names[] = {
    [COTERIE_DTYPE_F32] = "f32",
    [COTERIE_DTYPE_F16] = "f16",
    [COTERIE_DTYPE_BF16] = "bf16",
    [COTERIE_DTYPE_INT8] = "int8",
    [COTERIE_DTYPE_INT8_GROUP] = "int8-group",
    [COTERIE_DTYPE_INT4] = "int4",
    [COTERIE_DTYPE_INT4_ZERO] = "int4-zero",
    [COTERIE_DTYPE_FP8] = "fp8",
    [COTERIE_DTYPE_MXFP4] = "mxfp4",
};

enum { FIRST = COTERIE_DTYPE_F32, COUNT = sizeof(names) / sizeof(names[0]) };

const char *coterie_dtype_name(uint32_t dtype)
{
    return dtype >= FIRST && dtype < COUNT ? names[dtype] : "unknown";
}

coterie_status_t coterie_dtype_parse(const char *name, uint32_t *dtype_p)
{
    for (uint32_t i = FIRST; i < COUNT; i++)
        if (strcmp(names[i], name) == 0) {
            *dtype_p = i;
            return COTERIE_OK;
        }
    return coterie_fail(COTERIE_ERR_UNSUPPORTED,
                        "dtype %s: f32, f16, bf16, int8, int8-group, int4, "
                        "int4-zero, fp8 and mxfp4 are supported", name);
}
