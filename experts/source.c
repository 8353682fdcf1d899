#include "config.h"

#include <stdlib.h>
#include <string.h>

#include <coterie/ffn.h>

#include "base/error.h"
#include "experts/source.h"

enum { RECORD_ALIGNMENT = 4096 };

static uint64_t round_up(uint64_t size, uint64_t alignment);

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

void coterie_expert_format_init(const coterie_model_config_t *config,
                                uint32_t dtype,
                                coterie_expert_format_t *format)
{
    uint64_t up = coterie_panels_size(dtype, config->ffn, config->hidden);
    uint64_t down = coterie_panels_size(dtype, config->hidden, config->ffn);

    *format = (coterie_expert_format_t){
        .size = sizeof(*format),
        .layout = COTERIE_LAYOUT_PANELS,
        .dtype = dtype,
        .hidden = config->hidden,
        .ffn = config->ffn,
        .record_size = round_up(2 * up + down, RECORD_ALIGNMENT),
        .up_offset = up,
        .down_offset = 2 * up,
    };
}

static uint64_t round_up(uint64_t size, uint64_t alignment)
{
    return (size + alignment - 1) / alignment * alignment;
}
