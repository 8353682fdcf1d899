#include "config.h"

#include <string.h>

#include "base/error.h"
#include "base/options.h"

enum { OPTIONS_SIZE_MAX = 4096 }; /* beyond this, size is garbage */

coterie_status_t coterie_options_read(const void *in, void *out,
                                      size_t out_size, const char *what)
{
    const unsigned char *bytes = in;
    size_t size;

    if (in == NULL)
        return coterie_fail(COTERIE_ERR_INVALID, "%s: options are NULL", what);
    memcpy(&size, in, sizeof(size));
    if (size < sizeof(size) || size > OPTIONS_SIZE_MAX)
        return coterie_fail(COTERIE_ERR_INVALID,
                            "%s: options.size is %zu; start from the INIT "
                            "macro",
                            what, size);
    for (size_t i = out_size; i < size; i++)
        if (bytes[i] != 0)
            return coterie_fail(COTERIE_ERR_UNSUPPORTED,
                                "%s: option at byte %zu is unknown to this "
                                "version of the library",
                                what, i);
    memset(out, 0, out_size);
    memcpy(out, in, size < out_size ? size : out_size);
    return COTERIE_OK;
}
