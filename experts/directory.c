#include "config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/file.h"
#include "experts/matrix.h"
#include "experts/safetensors.h"
#include "experts/source.h"

/* Far above any real file; a limit keeps a wrong file from filling memory. */
enum { CONFIG_MAX = 16 << 20, INDEX_MAX = 256 << 20 };

typedef struct directory {
    coterie_source_t base;
    const coterie_shape_t *shape;
    coterie_expert_format_t format;
    coterie_datafile_t *files;
    uint32_t file_count;
} directory_t;

static coterie_status_t directory_bind(coterie_source_t *source,
                                       const coterie_shape_t *shape,
                                       coterie_expert_format_t *format);
static coterie_status_t directory_read(const coterie_source_t *source,
                                       const coterie_tensor_t *tensor,
                                       void *data);
static coterie_status_t directory_expert(const coterie_source_t *source,
                                         uint32_t moe_layer, uint32_t expert,
                                         void *record);
static void directory_close(coterie_source_t *source);

static const coterie_source_ops_t directory_ops = {
    "model directory", directory_bind, directory_read, directory_expert,
    directory_close};

static coterie_status_t config_load(directory_t *directory);
static coterie_status_t files_load(directory_t *directory);
static coterie_status_t shards_load(directory_t *directory, const char *index);
static coterie_status_t shards_open(directory_t *directory, const char *index,
                                    const json_t *map);
static coterie_status_t shards_check(const directory_t *directory,
                                     const char *index, const json_t *map);
static const coterie_datafile_t *file_find(const directory_t *directory,
                                           const char *name);
static coterie_status_t file_add(directory_t *directory, const char *path);
static coterie_status_t expert_bind(directory_t *directory, uint32_t moe_layer,
                                    uint32_t expert);
static char *path_join(const char *folder, const char *name);

coterie_status_t coterie_directory_open(const char *path,
                                        coterie_source_t **source_p)
{
    directory_t *directory = calloc(1, sizeof(*directory));
    coterie_status_t status;

    if (directory == NULL)
        return coterie_fail_memory(sizeof(*directory), "a model");
    status = coterie_source_init(&directory->base, &directory_ops, path);
    if (status == COTERIE_OK)
        status = config_load(directory);
    if (status == COTERIE_OK)
        status = files_load(directory);
    if (status == COTERIE_OK)
        status = coterie_tensors_sort(&directory->base.tensors, path);
    if (status != COTERIE_OK) {
        directory_close(&directory->base);
        return status;
    }
    *source_p = &directory->base;
    return COTERIE_OK;
}

static coterie_status_t directory_bind(coterie_source_t *source,
                                       const coterie_shape_t *shape,
                                       coterie_expert_format_t *format)
{
    const coterie_expert_name_t name = {0};
    directory_t *directory = (directory_t *)source;
    coterie_matrix_t first;
    coterie_status_t status;

    directory->shape = shape;
    /* The first expert's dtype stands for all; expert_bind insists on it. */
    status = coterie_matrix_find(&source->tensors, source->path, shape, &name,
                                 &first);
    if (status == COTERIE_OK)
        status = coterie_expert_format_init(&shape->config, first.dtype,
                                            source->path, &directory->format);
    for (uint32_t l = 0;
         l < shape->config.moe_layers && status == COTERIE_OK; l++)
        for (uint32_t e = 0;
             e < shape->config.experts && status == COTERIE_OK; e++)
            status = expert_bind(directory, l, e);
    if (status == COTERIE_OK)
        *format = directory->format;
    return status;
}

static coterie_status_t directory_read(const coterie_source_t *source,
                                       const coterie_tensor_t *tensor,
                                       void *data)
{
    const directory_t *directory = (const directory_t *)source;

    return coterie_datafile_read(&directory->files[tensor->file],
                                 tensor->offset, data, tensor->size);
}

static coterie_status_t directory_expert(const coterie_source_t *source,
                                         uint32_t moe_layer, uint32_t expert,
                                         void *record)
{
    const directory_t *directory = (const directory_t *)source;
    const coterie_expert_format_t *format = &directory->format;
    coterie_expert_name_t name = {moe_layer, expert, 0};
    coterie_status_t status = COTERIE_OK;
    coterie_matrix_t matrix;

    memset(record, 0, format->record_size); /* gaps are part of checksums */
    for (; name.part < COTERIE_EXPERT_PARTS && status == COTERIE_OK;
         name.part++) {
        status = coterie_matrix_find(&source->tensors, source->path,
                                     directory->shape, &name, &matrix);
        if (status == COTERIE_OK)
            status = coterie_matrix_read(&matrix, directory->files, format,
                                         name.part, record);
    }
    return status;
}

static void directory_close(coterie_source_t *source)
{
    directory_t *directory = (directory_t *)source;

    for (uint32_t i = 0; i < directory->file_count; i++)
        coterie_datafile_close(&directory->files[i]);
    free(directory->files);
    coterie_source_clear(source);
    free(directory);
}

static coterie_status_t config_load(directory_t *directory)
{
    char *path = path_join(directory->base.path, "config.json");
    void *text;
    size_t size;
    coterie_status_t status;

    if (path == NULL)
        return COTERIE_ERR_NO_MEMORY;
    status = coterie_file_read(path, CONFIG_MAX, &text, &size);
    if (status == COTERIE_OK)
        directory->base.config_text = text;
    free(path);
    return status;
}

/* One file wins over an index, as in transformers. */
static coterie_status_t files_load(directory_t *directory)
{
    const char *folder = directory->base.path;
    char *single = path_join(folder, "model.safetensors");
    char *index = path_join(folder, "model.safetensors.index.json");
    coterie_status_t status;

    if (single == NULL || index == NULL)
        status = COTERIE_ERR_NO_MEMORY;
    else if (access(single, F_OK) == 0)
        status = file_add(directory, single);
    else if (access(index, F_OK) == 0)
        status = shards_load(directory, index);
    else
        status = coterie_fail(COTERIE_ERR_NOT_FOUND,
                              "%s: neither model.safetensors nor "
                              "model.safetensors.index.json is there",
                              folder);
    free(single);
    free(index);
    return status;
}

static coterie_status_t shards_load(directory_t *directory, const char *index)
{
    json_error_t error;
    json_t *root;
    const json_t *map;
    void *text;
    size_t size;
    coterie_status_t status;

    status = coterie_file_read(index, INDEX_MAX, &text, &size);
    if (status != COTERIE_OK)
        return status;
    root = json_loadb(text, size, JSON_REJECT_DUPLICATES, &error);
    free(text);
    map = json_object_get(root, "weight_map");
    if (json_is_object(map))
        status = shards_open(directory, index, map);
    else
        status = coterie_fail(COTERIE_ERR_FORMAT,
                              "%s: not a JSON object with a weight_map", index);
    if (status == COTERIE_OK)
        status = coterie_tensors_sort(&directory->base.tensors, index);
    if (status == COTERIE_OK)
        status = shards_check(directory, index, map);
    json_decref(root);
    return status;
}

/* A name with a slash could reach outside the folder. */
static coterie_status_t shards_open(directory_t *directory, const char *index,
                                    const json_t *map)
{
    const char *name;
    json_t *shard;

    json_object_foreach((json_t *)map, name, shard) {
        const char *file = json_string_value(shard);
        coterie_status_t status;
        char *path;

        if (file == NULL || strchr(file, '/') != NULL)
            return coterie_fail(COTERIE_ERR_FORMAT,
                                "%s: %s is not mapped to a file's name", index,
                                name);
        if (file_find(directory, file) != NULL)
            continue;
        path = path_join(directory->base.path, file);
        if (path == NULL)
            return COTERIE_ERR_NO_MEMORY;
        status = file_add(directory, path);
        free(path);
        if (status != COTERIE_OK)
            return status;
    }
    return COTERIE_OK;
}

/* An index of another download names tensors where they are not. */
static coterie_status_t shards_check(const directory_t *directory,
                                     const char *index, const json_t *map)
{
    const char *name;
    json_t *shard;

    json_object_foreach((json_t *)map, name, shard) {
        const coterie_datafile_t *file =
            file_find(directory, json_string_value(shard));
        const coterie_tensor_t *tensor =
            coterie_tensors_find(&directory->base.tensors, name);
        if (tensor == NULL || &directory->files[tensor->file] != file)
            return coterie_fail(COTERIE_ERR_NOT_FOUND,
                                "%s: %s is said to be in %s and is not", index,
                                name, file->path);
    }
    return COTERIE_OK;
}

/* By name within the folder; there are few files, so a search will do. */
static const coterie_datafile_t *file_find(const directory_t *directory,
                                           const char *name)
{
    size_t folder = strlen(directory->base.path) + 1;

    for (uint32_t i = 0; i < directory->file_count; i++)
        if (strcmp(directory->files[i].path + folder, name) == 0)
            return &directory->files[i];
    return NULL;
}

static coterie_status_t file_add(directory_t *directory, const char *path)
{
    uint32_t ordinal = directory->file_count;
    coterie_datafile_t *files =
        realloc(directory->files, (ordinal + 1) * sizeof(*files));
    coterie_status_t status;

    if (files == NULL)
        return coterie_fail_memory((ordinal + 1) * sizeof(*files), "files");
    directory->files = files;
    status = coterie_datafile_open(path, &files[ordinal]);
    if (status != COTERIE_OK)
        return status;
    directory->file_count++; /* closing the directory closes it from now on */
    return coterie_safetensors_read(&files[ordinal], ordinal,
                                    &directory->base.tensors);
}

static coterie_status_t expert_bind(directory_t *directory, uint32_t moe_layer,
                                    uint32_t expert)
{
    const coterie_source_t *source = &directory->base;
    coterie_expert_name_t name = {moe_layer, expert, 0};
    coterie_matrix_t m;

    for (; name.part < COTERIE_EXPERT_PARTS; name.part++) {
        coterie_status_t status = coterie_matrix_find(
            &source->tensors, source->path, directory->shape, &name, &m);
        if (status != COTERIE_OK)
            return status;
        if (m.dtype != directory->format.dtype)
            return coterie_fail(COTERIE_ERR_UNSUPPORTED,
                                "%s: %s is %s, the first expert %s; experts "
                                "of one dtype are supported",
                                source->path, m.weight->name,
                                coterie_dtype_name(m.dtype),
                                coterie_dtype_name(directory->format.dtype));
        m.weight->role = COTERIE_TENSOR_EXPERT;
        if (m.scale != NULL)
            m.scale->role = COTERIE_TENSOR_EXPERT;
        if (m.bias != NULL)
            m.bias->role = COTERIE_TENSOR_EXPERT;
    }
    return COTERIE_OK;
}

/* NULL when out of memory, which is reported already. */
static char *path_join(const char *folder, const char *name)
{
    size_t size = strlen(folder) + 1 + strlen(name) + 1;
    char *path = malloc(size);

    if (path != NULL)
        snprintf(path, size, "%s/%s", folder, name);
    else
        coterie_fail_memory(size, "a file name");
    return path;
}
