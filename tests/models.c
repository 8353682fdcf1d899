#include "config.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <criterion/criterion.h>

#include "base/dtype.h"
#include "base/file.h"
#include "experts/names.h"
#include "tests/models.h"

enum { LENGTH_SIZE = 8, FILE_MAX = 64 << 20 };

const char *const fixture_names[] = {
    "mixtral",     "qwen2-moe",          "qwen2-moe-step",
    "qwen3-moe",   "qwen3-moe-sharded",  "olmoe",
    "olmoe-clip",  "deepseek-v2",        "deepseek-v2-groups",
    "deepseek-v3", "deepseek-v3-fp8",    "gpt-oss",
    "gpt-oss-bf16", NULL};

typedef struct writer {
    json_t *header;
    uint32_t dtype;
    uint64_t size;
} writer_t;

static coterie_status_t spec_add(void *arg, const coterie_tensor_spec_t *spec);
static void container_save(const char *path, const json_t *header,
                           const void *data, size_t size);

void fixture_path(const char *name, char path[PATH_SIZE])
{
    snprintf(path, PATH_SIZE, "%s/models/%s", getenv("COTERIE_TEST_DATA"),
             name);
}

void folder_make(char folder[PATH_SIZE])
{
    snprintf(folder, PATH_SIZE, "/tmp/coterie-XXXXXX");
    cr_assert(mkdtemp(folder) != NULL);
}

void fixture_copy(const char *name, char folder[PATH_SIZE])
{
    char from[PATH_SIZE], source[PATH_SIZE], target[PATH_SIZE];
    const struct dirent *entry;
    DIR *stream;

    fixture_path(name, from);
    folder_make(folder);
    stream = opendir(from);
    cr_assert(stream != NULL);
    while ((entry = readdir(stream)) != NULL) {
        void *data;
        size_t size;
        if (entry->d_name[0] == '.')
            continue;
        path_in(from, entry->d_name, source);
        path_in(folder, entry->d_name, target);
        data = file_load(source, &size);
        file_save(target, data, size);
        free(data);
    }
    closedir(stream);
}

void path_in(const char *folder, const char *name, char path[PATH_SIZE])
{
    cr_assert(snprintf(path, PATH_SIZE, "%s/%s", folder, name) < PATH_SIZE);
}

json_t *config_load(const char *name)
{
    char folder[PATH_SIZE], path[PATH_SIZE];
    json_t *config;

    fixture_path(name, folder);
    path_in(folder, "config.json", path);
    config = json_load_file(path, 0, NULL);
    cr_assert(config != NULL);
    return config;
}

void config_save(const char *folder, const json_t *config)
{
    char path[PATH_SIZE];

    path_in(folder, "config.json", path);
    cr_assert(json_dump_file(config, path, 0) == 0);
}

json_t *header_load(const char *path)
{
    size_t size, length;
    char *data = file_load(path, &size);
    json_t *header;

    memcpy(&length, data, sizeof(length));
    header = json_loadb(data + LENGTH_SIZE, length, 0, NULL);
    free(data);
    cr_assert(header != NULL);
    return header;
}

void header_save(const char *path, const json_t *header)
{
    size_t size, length;
    char *data = file_load(path, &size);

    memcpy(&length, data, sizeof(length));
    length += LENGTH_SIZE;
    container_save(path, header, data + length, size - length);
    free(data);
}

void model_write(const char *folder, json_t *config, uint32_t dtype)
{
    char *text = json_dumps(config, 0), path[PATH_SIZE];
    writer_t writer = {json_object(), dtype, 0};
    coterie_shape_t shape;
    coterie_tensor_spec_t spec;
    unsigned char *data;

    cr_assert(coterie_shape_read(text, "test", &shape) == COTERIE_OK, "%s",
              coterie_last_error());
    coterie_names_dense(&shape, spec_add, &writer);
    for (uint32_t l = 0; l < shape.config.moe_layers; l++)
        for (uint32_t e = 0; e < shape.config.experts; e++)
            for (uint32_t part = 0; part < COTERIE_EXPERT_PARTS; part++) {
                coterie_names_expert(
                    &shape, &(coterie_expert_name_t){l, e, part}, &spec);
                spec_add(&writer, &spec);
            }
    data = malloc(writer.size);
    cr_assert(data != NULL);
    for (uint64_t i = 0; i < writer.size; i++)
        data[i] = (unsigned char)(i * 31 + i / 251);
    path_in(folder, "model.safetensors", path);
    container_save(path, writer.header, data, writer.size);
    config_save(folder, config);
    free(data);
    free(text);
    coterie_shape_clear(&shape);
    json_decref(writer.header);
    json_decref(config);
}

void *file_load(const char *path, size_t *size_p)
{
    void *data = NULL;

    cr_assert(coterie_file_read(path, FILE_MAX, &data, size_p) == COTERIE_OK,
              "%s", coterie_last_error());
    return data;
}

void file_save(const char *path, const void *data, size_t size)
{
    FILE *stream = fopen(path, "wb");

    cr_assert(stream != NULL);
    cr_assert(fwrite(data, 1, size, stream) == size);
    cr_assert(fclose(stream) == 0);
}

void file_flip(const char *path, size_t offset)
{
    size_t size;
    char *data = file_load(path, &size);

    cr_assert(offset < size);
    data[offset] ^= 1;
    file_save(path, data, size);
    free(data);
}

void folder_remove(const char *folder)
{
    char path[PATH_SIZE];
    const struct dirent *entry;
    DIR *stream = opendir(folder);

    cr_assert(stream != NULL);
    while ((entry = readdir(stream)) != NULL)
        if (entry->d_name[0] != '.') {
            path_in(folder, entry->d_name, path);
            unlink(path);
        }
    closedir(stream);
    cr_assert(rmdir(folder) == 0);
}

static coterie_status_t spec_add(void *arg, const coterie_tensor_spec_t *spec)
{
    writer_t *writer = arg;
    uint64_t size = coterie_dtype_size(writer->dtype);
    json_t *shape = json_array();

    for (uint32_t i = 0; i < spec->rank; i++) {
        json_array_append_new(shape, json_integer((json_int_t)spec->shape[i]));
        size *= spec->shape[i];
    }
    json_object_set_new(
        writer->header, spec->name,
        json_pack("{s:s, s:o, s:[I, I]}", "dtype",
                  coterie_tensor_dtype_name(writer->dtype), "shape", shape,
                  "data_offsets", (json_int_t)writer->size,
                  (json_int_t)(writer->size + size)));
    writer->size += size;
    return COTERIE_OK;
}

static void container_save(const char *path, const json_t *header,
                           const void *data, size_t size)
{
    char *text = json_dumps(header, JSON_COMPACT), *all;
    uint64_t length = strlen(text);

    all = malloc(LENGTH_SIZE + length + size);
    cr_assert(all != NULL);
    memcpy(all, &length, LENGTH_SIZE);
    memcpy(all + LENGTH_SIZE, text, length);
    memcpy(all + LENGTH_SIZE + length, data, size);
    file_save(path, all, LENGTH_SIZE + length + size);
    free(all);
    free(text);
}

void store_pack(const char *directory, char folder[PATH_SIZE],
                char store[PATH_SIZE])
{
    coterie_pack_options_t options = COTERIE_PACK_OPTIONS_INIT;
    coterie_model_t *source = NULL;

    folder_make(folder);
    path_in(folder, "store", store);
    cr_assert(coterie_model_open(directory, &source) == COTERIE_OK, "%s",
              coterie_last_error());
    cr_assert(coterie_model_pack(source, store, &options) == COTERIE_OK, "%s",
              coterie_last_error());
    coterie_model_close(source);
}

size_t records_load(const coterie_model_t *model, uint32_t experts,
                    uint32_t count, unsigned char **records)
{
    coterie_expert_format_t format = {.size = sizeof(format)};

    coterie_model_expert_format(model, &format);
    for (uint32_t i = 0; i < count; i++) {
        records[i] = malloc(format.record_size);
        cr_assert(coterie_model_expert(model, i / experts, i % experts,
                                       records[i]) == COTERIE_OK,
                  "%s", coterie_last_error());
    }
    return format.record_size;
}
