#include "config.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <jansson.h>

#include "base/error.h"
#include "base/file.h"
#include "base/npy.h"
#include "placement/loads_read.h"
#include "placement/placement.h"

enum { FILE_LIMIT = 1 << 30, HEADER_SIZE = 8 };

static const char npy_magic[] = "\x93NUMPY";

static coterie_status_t bytes_read(const char *path, const char *bytes,
                                   size_t size, coterie_loads_t **loads_p);
static coterie_status_t npy_read(const char *path, const char *bytes,
                                 size_t size, coterie_loads_t **loads_p);
static coterie_status_t json_read(const char *path, const char *text,
                                  size_t size, coterie_loads_t **loads_p);
static coterie_status_t nested_read(const char *path, const json_t *array,
                                    coterie_loads_t **loads_p);
static coterie_status_t layer_read(const char *path, const json_t *layer,
                                   size_t experts, double *load);
static coterie_status_t loads_make(const char *path,
                                   const coterie_loads_view_t *view,
                                   coterie_loads_t **loads_p);

coterie_status_t coterie_loads_read(const char *path,
                                    coterie_loads_t **loads_p)
{
    struct stat about;
    void *bytes = NULL;
    size_t size;
    coterie_status_t status;

    if (stat(path, &about) == 0 && S_ISDIR(about.st_mode))
        return coterie_loads_read_tensors(path, 1, loads_p);
    status = coterie_file_read(path, FILE_LIMIT, &bytes, &size);
    if (status == COTERIE_OK)
        status = bytes_read(path, bytes, size, loads_p);
    free(bytes);
    return status;
}

/* safetensors begin with the size of their header, and then its brace. */
static coterie_status_t bytes_read(const char *path, const char *bytes,
                                   size_t size, coterie_loads_t **loads_p)
{
    size_t start = 0;

    if (size >= strlen(npy_magic) &&
        memcmp(bytes, npy_magic, strlen(npy_magic)) == 0)
        return npy_read(path, bytes, size, loads_p);
    while (start < size && isspace((unsigned char)bytes[start]))
        start++;
    if (size > HEADER_SIZE && bytes[HEADER_SIZE] == '{' &&
        bytes[start] != '{' && bytes[start] != '[')
        return coterie_loads_read_tensors(path, 0, loads_p);
    return json_read(path, bytes, size, loads_p);
}

static coterie_status_t npy_read(const char *path, const char *bytes,
                                 size_t size, coterie_loads_t **loads_p)
{
    coterie_loads_view_t view = {.window_count = 1};
    coterie_npy_t npy;
    double *load;
    coterie_status_t status = coterie_npy_parse(path, bytes, size, &npy);

    if (status != COTERIE_OK)
        return status;
    if (npy.ndim < 2 || npy.ndim > 3 ||
        npy.shape[npy.ndim - 2] > COTERIE_LAYERS_MAX ||
        npy.shape[npy.ndim - 1] > COTERIE_EXPERTS_MAX)
        return coterie_fail(COTERIE_ERR_FORMAT,
                            "%s: an array of %u dimensions is no loads: "
                            "[layers, experts] or [windows, layers, experts], "
                            "at most %d layers of %d, would do",
                            path, npy.ndim, COTERIE_LAYERS_MAX,
                            COTERIE_EXPERTS_MAX);
    if (npy.ndim == 3)
        view.window_count = npy.shape[0];
    view.layer_count = (uint32_t)npy.shape[npy.ndim - 2];
    view.expert_count = (uint32_t)npy.shape[npy.ndim - 1];
    load = malloc((npy.count + 1) * sizeof(*load));
    if (load == NULL)
        return coterie_fail_memory(npy.count * sizeof(*load), path);
    for (uint64_t i = 0; i < npy.count; i++)
        load[i] = coterie_npy_number(&npy, i);
    view.load = load;
    status = loads_make(path, &view, loads_p);
    free(load);
    return status;
}

static coterie_status_t json_read(const char *path, const char *text,
                                  size_t size, coterie_loads_t **loads_p)
{
    json_error_t error;
    json_t *root = json_loadb(text, size, JSON_REJECT_DUPLICATES, &error);
    const json_t *array = root;
    coterie_status_t status;

    if (root == NULL)
        return coterie_fail(COTERIE_ERR_FORMAT,
                            "%s: no loads: neither .npy nor safetensors, and "
                            "as JSON: line %d, column %d: %s",
                            path, error.line, error.column, error.text);
    if (json_is_object(root))
        array = json_object_get(root, "logical_count");
    status = nested_read(path, array, loads_p);
    json_decref(root);
    return status;
}

/* [layer][expert], or a list of these. */
static coterie_status_t nested_read(const char *path, const json_t *array,
                                    coterie_loads_t **loads_p)
{
    const json_t *first = json_array_get(array, 0), *layers = array;
    int windows = json_is_array(json_array_get(first, 0));
    coterie_loads_view_t view = {.window_count = 1};
    size_t experts, layer_count;
    double *load;
    coterie_status_t status = COTERIE_OK;

    if (windows)
        layers = first;
    layer_count = json_array_size(layers);
    experts = json_array_size(json_array_get(layers, 0));
    if (layer_count == 0 || layer_count > COTERIE_LAYERS_MAX ||
        experts == 0 || experts > COTERIE_EXPERTS_MAX)
        return coterie_fail(COTERIE_ERR_FORMAT,
                            "%s: no logical_count: lists of layers, each a "
                            "list of its experts' counts",
                            path);
    if (windows)
        view.window_count = json_array_size(array);
    view.layer_count = (uint32_t)layer_count;
    view.expert_count = (uint32_t)experts;
    load = calloc(view.window_count * layer_count * experts, sizeof(*load));
    if (load == NULL)
        return coterie_fail_memory(layer_count * experts * sizeof(*load),
                                   path);
    for (uint64_t w = 0; status == COTERIE_OK && w < view.window_count; w++) {
        const json_t *window = windows ? json_array_get(array, w) : array;
        if (json_array_size(window) != layer_count)
            status = coterie_fail(COTERIE_ERR_FORMAT,
                                  "%s: window %llu has %zu layers; the first "
                                  "has %zu",
                                  path, (unsigned long long)w,
                                  json_array_size(window), layer_count);
        for (size_t l = 0; status == COTERIE_OK && l < layer_count; l++)
            status = layer_read(path, json_array_get(window, l), experts,
                                load + (w * layer_count + l) * experts);
    }
    view.load = load;
    if (status == COTERIE_OK)
        status = loads_make(path, &view, loads_p);
    free(load);
    return status;
}

static coterie_status_t layer_read(const char *path, const json_t *layer,
                                   size_t experts, double *load)
{
    if (json_array_size(layer) != experts)
        return coterie_fail(COTERIE_ERR_FORMAT,
                            "%s: a layer has %zu experts; the first has %zu",
                            path, json_array_size(layer), experts);
    for (size_t e = 0; e < experts; e++) {
        const json_t *value = json_array_get(layer, e);
        if (!json_is_number(value))
            return coterie_fail(COTERIE_ERR_FORMAT,
                                "%s: expert %zu of a layer: not a number",
                                path, e);
        load[e] = json_number_value(value);
    }
    return COTERIE_OK;
}

static coterie_status_t loads_make(const char *path,
                                   const coterie_loads_view_t *view,
                                   coterie_loads_t **loads_p)
{
    coterie_status_t status = coterie_loads_create(view, loads_p);

    return status == COTERIE_ERR_INVALID
               ? coterie_fail(COTERIE_ERR_FORMAT, "%s: %s", path,
                              coterie_last_error())
               : status;
}
