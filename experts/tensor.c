#include "config.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "experts/tensor.h"

static const struct dtype {
    uint32_t dtype, element; /* bytes */
    const char *name;
} dtypes[] = {
    {COTERIE_DTYPE_F32, 4, "F32"},
    {COTERIE_DTYPE_F16, 2, "F16"},
    {COTERIE_DTYPE_BF16, 2, "BF16"},
    {COTERIE_DTYPE_FP8, 1, "F8_E4M3"},
    {COTERIE_TENSOR_BYTES, 1, "U8"},
};

enum { DTYPE_COUNT = sizeof(dtypes) / sizeof(dtypes[0]) };

static coterie_status_t dtype_parse(const char *name, const char *path,
                                    const char *what, uint32_t *dtype_p);
static coterie_status_t shape_parse(const json_t *shape, const char *path,
                                    coterie_tensor_t *tensor);
static int compare_names(const void *a, const void *b);

const char *coterie_tensor_dtype_name(uint32_t dtype)
{
    for (size_t i = 0; i < DTYPE_COUNT; i++)
        if (dtypes[i].dtype == dtype)
            return dtypes[i].name;
    return "unknown";
}

uint32_t coterie_tensor_element(uint32_t dtype)
{
    for (size_t i = 0; i < DTYPE_COUNT; i++)
        if (dtypes[i].dtype == dtype)
            return dtypes[i].element;
    return 0;
}

coterie_status_t coterie_tensor_parse(const json_t *entry, const char *path,
                                      coterie_tensor_t *tensor)
{
    const char *dtype = json_string_value(json_object_get(entry, "dtype"));
    const json_t *shape = json_object_get(entry, "shape");
    coterie_status_t status;

    if (dtype == NULL || !json_is_array(shape))
        return coterie_fail(COTERIE_ERR_FORMAT,
                            "%s: %s has no dtype or no shape", path,
                            tensor->name);
    status = dtype_parse(dtype, path, tensor->name, &tensor->dtype);
    if (status != COTERIE_OK)
        return status;
    return shape_parse(shape, path, tensor);
}

static coterie_status_t dtype_parse(const char *name, const char *path,
                                    const char *what, uint32_t *dtype_p)
{
    for (size_t i = 0; i < DTYPE_COUNT; i++)
        if (strcmp(dtypes[i].name, name) == 0) {
            *dtype_p = dtypes[i].dtype;
            return COTERIE_OK;
        }
    return coterie_fail(COTERIE_ERR_UNSUPPORTED,
                        "%s: %s has dtype %s; F32, F16, BF16, F8_E4M3 and U8 "
                        "are supported",
                        path, what, name);
}

/* Sizes come from a file: the product is checked before it is formed. */
static coterie_status_t dtype_parse(const char *name, const char *path,
                                    const char *what, uint32_t *dtype_p);
static coterie_status_t shape_parse(const json_t *shape, const char *path,
                                    coterie_tensor_t *tensor)
{
    size_t rank = json_array_size(shape);
    uint64_t size = coterie_tensor_element(tensor->dtype);

    if (rank > COTERIE_TENSOR_RANK_MAX)
        return coterie_fail(COTERIE_ERR_UNSUPPORTED,
                            "%s: %s has %zu dimensions; at most %d are "
                            "supported",
                            path, tensor->name, rank, COTERIE_TENSOR_RANK_MAX);
    for (size_t i = 0; i < rank; i++) {
        const json_t *value = json_array_get(shape, i);
        json_int_t extent = json_integer_value(value);
        if (!json_is_integer(value) || extent < 0 ||
            (extent > 0 && size > INT64_MAX / (uint64_t)extent))
            return coterie_fail(COTERIE_ERR_FORMAT,
                                "%s: %s: dimension %zu of its shape is not a "
                                "sensible size",
                                path, tensor->name, i);
        tensor->shape[i] = (uint64_t)extent;
        size *= (uint64_t)extent;
    }
    tensor->rank = (uint32_t)rank;
    tensor->size = size;
    return COTERIE_OK;
}

void coterie_tensor_shape_text(uint32_t rank, const uint64_t *shape,
                               char *text)
{
    size_t used = (size_t)sprintf(text, "[");

    for (uint32_t i = 0; i < rank; i++)
        used += (size_t)snprintf(text + used, COTERIE_TENSOR_SHAPE_TEXT - used,
                                 "%s%" PRIu64, i > 0 ? ", " : "", shape[i]);
    snprintf(text + used, COTERIE_TENSOR_SHAPE_TEXT - used, "]");
}

coterie_status_t coterie_tensors_add(coterie_tensors_t *tensors,
                                     const coterie_tensor_t *tensor)
{
    char *name;

    /* Doubling: large models have tens of thousands. */
    if (tensors->count == tensors->room) {
        size_t room = tensors->room * 2 + 64;
        void *items = realloc(tensors->items, room * sizeof(*tensors->items));
        if (items == NULL)
            return coterie_fail_memory(room * sizeof(*tensors->items),
                                       "tensor names");
        tensors->items = items;
        tensors->room = room;
    }
    name = strdup(tensor->name);
    if (name == NULL)
        return coterie_fail_memory(strlen(tensor->name) + 1, "a tensor name");
    tensors->items[tensors->count] = *tensor;
    tensors->items[tensors->count++].name = name;
    return COTERIE_OK;
}

coterie_status_t coterie_tensors_sort(coterie_tensors_t *tensors,
                                      const char *path)
{
    const coterie_tensor_t *items = tensors->items;

    if (tensors->count > 0)
        qsort(tensors->items, tensors->count, sizeof(*items), compare_names);
    for (size_t i = 1; i < tensors->count; i++)
        if (strcmp(items[i - 1].name, items[i].name) == 0)
            return coterie_fail(COTERIE_ERR_FORMAT,
                                "%s: %s is there twice; once is right", path,
                                items[i].name);
    return COTERIE_OK;
}

coterie_tensor_t *coterie_tensors_find(const coterie_tensors_t *tensors,
                                       const char *name)
{
    coterie_tensor_t key = {.name = (char *)name};

    if (tensors->count == 0) /* bsearch wants an array even then */
        return NULL;
    return bsearch(&key, tensors->items, tensors->count, sizeof(key),
                   compare_names);
}

void coterie_tensors_clear(coterie_tensors_t *tensors)
{
    for (size_t i = 0; i < tensors->count; i++)
        free(tensors->items[i].name);
    free(tensors->items);
    memset(tensors, 0, sizeof(*tensors));
}

/* For sorting and finding alike: they must agree. */
static int compare_names(const void *a, const void *b)
{
    return strcmp(((const coterie_tensor_t *)a)->name,
                  ((const coterie_tensor_t *)b)->name);
}
