#include "config.h"

#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "base/error.h"
#include "base/file.h"
#include <coterie/offload.h>

enum { HOT_VERSION = 1, FILE_MOST = 1 << 28 };

static const char hot_format[] = "coterie-hot";

static coterie_status_t hot_parse(const char *path, const char *text,
                                  size_t size, json_t **root_p);
static coterie_status_t counts_take(const char *path, const json_t *layers,
                                    uint32_t layer_count,
                                    uint32_t expert_count, uint64_t *count);
static json_t *counts_json(uint32_t layer_count, uint32_t expert_count,
                           const uint64_t *count);

coterie_status_t coterie_hot_read(const char *path, uint32_t layer_count,
                                  uint32_t expert_count, uint64_t *count)
{
    size_t items = (size_t)layer_count * expert_count, size = 0;
    uint64_t *counts = NULL;
    json_t *root = NULL;
    void *text = NULL;
    coterie_status_t status = coterie_file_read(path, FILE_MOST, &text, &size);

    if (status == COTERIE_OK)
        status = hot_parse(path, text, size, &root);
    if (status != COTERIE_OK)
        goto out;
    counts = malloc(items * sizeof(*counts));
    status = counts == NULL
                 ? coterie_fail_memory(items * sizeof(*counts), path)
                 : counts_take(path, json_object_get(root, "counts"),
                               layer_count, expert_count, counts);
    if (status == COTERIE_OK)
        memcpy(count, counts, items * sizeof(*counts));
out:
    free(counts);
    json_decref(root);
    free(text);
    return status;
}

coterie_status_t coterie_hot_write(const char *path, uint32_t layer_count,
                                   uint32_t expert_count,
                                   const uint64_t *count)
{
    json_t *root = json_pack("{s:s, s:i, s:o}", "format", hot_format,
                             "version", HOT_VERSION, "counts",
                             counts_json(layer_count, expert_count, count));
    char *text = root != NULL ? json_dumps(root, JSON_INDENT(1)) : NULL;
    coterie_output_t output = {0};
    coterie_status_t status;

    json_decref(root);
    if (text == NULL)
        return coterie_fail_memory((size_t)layer_count * expert_count, path);
    status = coterie_output_open(path, 1, &output);
    if (status == COTERIE_OK)
        status = coterie_output_write(&output, text, strlen(text));
    if (status == COTERIE_OK)
        status = coterie_output_commit(&output);
    coterie_output_abandon(&output);
    free(text);
    return status;
}

static coterie_status_t hot_parse(const char *path, const char *text,
                                  size_t size, json_t **root_p)
{
    json_error_t error;
    json_t *root = json_loadb(text, size, JSON_REJECT_DUPLICATES, &error);
    const char *format = json_string_value(json_object_get(root, "format"));
    json_int_t version =
        json_integer_value(json_object_get(root, "version"));
    coterie_status_t status = COTERIE_OK;

    if (root == NULL)
        status = coterie_fail(COTERIE_ERR_FORMAT, "%s:%d: %s", path,
                              error.line, error.text);
    else if (format == NULL || strcmp(format, hot_format) != 0)
        status = coterie_fail(COTERIE_ERR_FORMAT,
                              "%s: no hot counts: 'format' is not '%s'", path,
                              hot_format);
    else if (version != HOT_VERSION)
        status = coterie_fail(COTERIE_ERR_UNSUPPORTED,
                              "%s: version %lld; this build reads %d", path,
                              (long long)version, HOT_VERSION);
    if (status == COTERIE_OK)
        *root_p = root;
    else
        json_decref(root);
    return status;
}

static coterie_status_t counts_take(const char *path, const json_t *layers,
                                    uint32_t layer_count,
                                    uint32_t expert_count, uint64_t *count)
{
    if (json_array_size(layers) != layer_count)
        return coterie_fail(COTERIE_ERR_MISMATCH,
                            "%s: counts of %zu layers; %u are needed", path,
                            json_array_size(layers), layer_count);
    for (uint32_t l = 0; l < layer_count; l++) {
        const json_t *row = json_array_get(layers, l);
        if (json_array_size(row) != expert_count)
            return coterie_fail(COTERIE_ERR_MISMATCH,
                                "%s: layer %u: counts of %zu experts; %u are "
                                "needed",
                                path, l, json_array_size(row), expert_count);
        for (uint32_t e = 0; e < expert_count; e++) {
            const json_t *value = json_array_get(row, e);
            if (!json_is_integer(value) || json_integer_value(value) < 0)
                return coterie_fail(COTERIE_ERR_FORMAT,
                                    "%s: layer %u, expert %u: no count", path,
                                    l, e);
            *count++ = (uint64_t)json_integer_value(value);
        }
    }
    return COTERIE_OK;
}

static json_t *counts_json(uint32_t layer_count, uint32_t expert_count,
                           const uint64_t *count)
{
    json_t *layers = json_array();
    int failed = layers == NULL;

    for (uint32_t l = 0; l < layer_count && !failed; l++) {
        json_t *row = json_array();
        for (uint32_t e = 0; e < expert_count && !failed; e++)
            failed = json_array_append_new(
                         row, json_integer((json_int_t)*count++)) != 0;
        failed |= json_array_append_new(layers, row) != 0;
    }
    if (!failed)
        return layers;
    json_decref(layers);
    return NULL;
}
