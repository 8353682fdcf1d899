#include "config.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "experts/safetensors.h"

/* The format: a 64-bit little-endian length, a JSON header of that length,
 * then the data, to whose beginning offsets refer. */
enum { LENGTH_SIZE = 8, HEADER_MAX = 100 << 20 };

static coterie_status_t header_length(const coterie_datafile_t *file,
                                      uint64_t *length_p);
static coterie_status_t header_load(const coterie_datafile_t *file,
                                    uint64_t length, json_t **header_p);
static coterie_status_t header_add(const coterie_datafile_t *file,
                                   const json_t *header,
                                   coterie_tensor_t *common,
                                   coterie_tensors_t *tensors);
static coterie_status_t entry_parse(const json_t *entry, const char *path,
                                    coterie_tensor_t *tensor);
static coterie_status_t data_covered(const coterie_datafile_t *file,
                                     coterie_tensor_t *items, size_t count,
                                     uint64_t data);
static int compare_offsets(const void *a, const void *b);

coterie_status_t coterie_safetensors_read(const coterie_datafile_t *file,
                                          uint32_t ordinal,
                                          coterie_tensors_t *tensors)
{
    coterie_tensor_t common = {.file = ordinal};
    size_t first = tensors->count;
    uint64_t length = 0;
    json_t *header = NULL;
    coterie_status_t status;

    status = header_length(file, &length);
    if (status == COTERIE_OK)
        status = header_load(file, length, &header);
    if (status == COTERIE_OK) {
        common.offset = LENGTH_SIZE + length;
        status = header_add(file, header, &common, tensors);
    }
    json_decref(header);
    if (status != COTERIE_OK)
        return status;
    return data_covered(file, tensors->items + first, tensors->count - first,
                        LENGTH_SIZE + length);
}

/* Checked against the file before anything of that size is allocated. */
static coterie_status_t header_length(const coterie_datafile_t *file,
                                      uint64_t *length_p)
{
    unsigned char bytes[LENGTH_SIZE];
    uint64_t length = 0;
    coterie_status_t status;

    if (file->size < LENGTH_SIZE)
        return coterie_fail(COTERIE_ERR_FORMAT,
                            "%s: %" PRIu64 " bytes are no safetensors file",
                            file->path, file->size);
    status = coterie_datafile_read(file, 0, bytes, sizeof(bytes));
    if (status != COTERIE_OK)
        return status;
    /* By hand, so that the machine's byte order does not matter. */
    for (int i = LENGTH_SIZE - 1; i >= 0; i--)
        length = length << 8 | bytes[i];
    if (length > file->size - LENGTH_SIZE || length > HEADER_MAX)
        return coterie_fail(COTERIE_ERR_FORMAT,
                            "%s: the header claims %" PRIu64
                            " bytes; the file has %" PRIu64
                            " and a header at most %d",
                            file->path, length, file->size, HEADER_MAX);
    *length_p = length;
    return COTERIE_OK;
}

static coterie_status_t header_load(const coterie_datafile_t *file,
                                    uint64_t length, json_t **header_p)
{
    char *text = malloc(length + 1); /* malloc(0) may be NULL */
    json_error_t error;
    coterie_status_t status;

    if (text == NULL)
        return coterie_fail_memory(length, "a safetensors header");
    status = coterie_datafile_read(file, LENGTH_SIZE, text, length);
    if (status == COTERIE_OK) {
        /* Twice the same name would let the last one win silently. */
        json_t *header =
            json_loadb(text, length, JSON_REJECT_DUPLICATES, &error);
        if (json_is_object(header)) {
            *header_p = header;
        } else {
            json_decref(header);
            status = coterie_fail(COTERIE_ERR_FORMAT,
                                  "%s: the header is no JSON object: %s (byte "
                                  "%d)",
                                  file->path,
                                  error.text[0] != 0 ? error.text
                                                     : "another value",
                                  error.position);
        }
    }
    free(text);
    return status;
}

/* Every tensor begins as a copy of common, which knows file and offset. */
static coterie_status_t header_add(const coterie_datafile_t *file,
                                   const json_t *header,
                                   coterie_tensor_t *common,
                                   coterie_tensors_t *tensors)
{
    const char *name;
    json_t *entry;

    json_object_foreach((json_t *)header, name, entry) {
        coterie_tensor_t tensor = *common;
        coterie_status_t status;

        if (strcmp(name, "__metadata__") == 0)
            continue;
        tensor.name = (char *)name;
        status = entry_parse(entry, file->path, &tensor);
        if (status == COTERIE_OK)
            status = coterie_tensors_add(tensors, &tensor);
        if (status != COTERIE_OK)
            return status;
    }
    return COTERIE_OK;
}

/* On entry tensor->offset is where the data begin; on return, the tensor. */
static coterie_status_t entry_parse(const json_t *entry, const char *path,
                                    coterie_tensor_t *tensor)
{
    const json_t *offsets = json_object_get(entry, "data_offsets");
    const json_t *begin = json_array_get(offsets, 0);
    const json_t *end = json_array_get(offsets, 1);
    json_int_t from = json_integer_value(begin), to = json_integer_value(end);
    coterie_status_t status;

    if (!json_is_integer(begin) || !json_is_integer(end) ||
        json_array_size(offsets) != 2 || from < 0 || to < from ||
        (uint64_t)to > INT64_MAX - tensor->offset)
        return coterie_fail(COTERIE_ERR_FORMAT,
                            "%s: %s: data_offsets are not [begin, end]", path,
                            tensor->name);
    status = coterie_tensor_parse(entry, path, tensor);
    if (status != COTERIE_OK)
        return status;
    if ((uint64_t)(to - from) != tensor->size)
        return coterie_fail(COTERIE_ERR_FORMAT,
                            "%s: %s: its offsets span %" PRIu64
                            " bytes, its shape and dtype make %" PRIu64,
                            path, tensor->name, (uint64_t)(to - from),
                            tensor->size);
    tensor->offset += (uint64_t)from;
    return COTERIE_OK;
}

/* A gap or an overlap is a sign that header and data do not belong together,
 * so the tensors must follow each other up to the end of the file. */
static coterie_status_t data_covered(const coterie_datafile_t *file,
                                     coterie_tensor_t *items, size_t count,
                                     uint64_t data)
{
    uint64_t position = data;

    if (count > 0)
        qsort(items, count, sizeof(*items), compare_offsets);
    for (size_t i = 0; i < count; i++) {
        if (items[i].offset != position)
            return coterie_fail(COTERIE_ERR_FORMAT,
                                "%s: %s begins at byte %" PRIu64
                                " of the data; the tensor before it ends at "
                                "%" PRIu64,
                                file->path, items[i].name,
                                items[i].offset - data, position - data);
        position += items[i].size;
        if (position > file->size)
            return coterie_fail(COTERIE_ERR_FORMAT,
                                "%s: %s ends at byte %" PRIu64
                                ", the file at %" PRIu64 ": truncated",
                                file->path, items[i].name, position,
                                file->size);
    }
    if (position != file->size)
        return coterie_fail(COTERIE_ERR_FORMAT,
                            "%s: %" PRIu64 " bytes follow the last tensor; "
                            "none is right",
                            file->path, file->size - position);
    return COTERIE_OK;
}

static int compare_offsets(const void *a, const void *b)
{
    const coterie_tensor_t *x = a, *y = b;

    if (x->offset != y->offset)
        return x->offset < y->offset ? -1 : 1;
    return (x->size > y->size) - (x->size < y->size); /* empty ones first */
}
