#ifndef COTERIE_BASE_DTYPE_H
#define COTERIE_BASE_DTYPE_H
#include <coterie/api.h>

/* Bytes of one element; 0 for what is no coterie_dtype_t. */
static inline uint32_t coterie_dtype_size(uint32_t dtype)
{
    switch (dtype) {
    case COTERIE_DTYPE_F32:
        return 4;
    case COTERIE_DTYPE_F16:
    case COTERIE_DTYPE_BF16:
        return 2;
    default:
        return 0;
    }
}

#endif
