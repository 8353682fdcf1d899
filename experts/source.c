#include "config.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "experts/source.h"

coterie_status_t coterie_source_init(coterie_source_t *source,
                                     const coterie_source_ops_t *ops,
                                     const char *path)
{
    source->ops = ops;
    source->path = strdup(path);
    if (source->path == NULL)
        return coterie_fail_memory(strlen(path) + 1, "a file name");
    return COTERIE_OK;
}

void coterie_source_clear(coterie_source_t *source)
{
    coterie_tensors_clear(&source->tensors);
    free(source->config_text);
    free(source->path);
}
