#include "config.h"

#include <dirent.h>
#include <fnmatch.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "base/error.h"
#include "base/file.h"
#include "placement/loads_read.h"
#include "placement/placement.h"

/* TensorRT-LLM's expert statistics: each rank writes rankN.safetensors, with a
 * tensor [experts] for each iteration and layer, named iteration_layer. Ranks'
 * counts add up. */

enum { FILE_LIMIT = 1 << 30, HEADER_SIZE = 8 };

/* One tensor's counts. */
typedef struct entry {
    uint32_t iteration, layer;
    double *load; /* [experts] */
} entry_t;

typedef struct entries {
    const char *path;
    entry_t *list;
    size_t count, room;
    size_t expert_count;
} entries_t;

static coterie_status_t folder_read(entries_t *entries, const char *folder);
static coterie_status_t file_read(entries_t *entries, const char *path);
static coterie_status_t tensors_read(entries_t *entries, const char *bytes,
                                     size_t size);
static coterie_status_t tensor_read(entries_t *entries, const char *key,
                                    const json_t *about, const char *data,
                                    size_t size);
static size_t item_size(const char *dtype);
static double item_number(const char *dtype, const char *item);
static coterie_status_t entry_add(entries_t *entries, entry_t entry,
                                  size_t expert_count);
static int entry_compare(const void *a, const void *b);
static coterie_status_t entries_sum(entries_t *entries,
                                    coterie_loads_t **loads_p);
static coterie_status_t grid_check(const entries_t *entries, size_t layers);

coterie_status_t coterie_loads_read_tensors(const char *path, int is_folder,
                                            coterie_loads_t **loads_p)
{
    entries_t entries = {.path = path};
    coterie_status_t status = is_folder ? folder_read(&entries, path)
                                        : file_read(&entries, path);

    if (status == COTERIE_OK)
        status = entries_sum(&entries, loads_p);
    for (size_t i = 0; i < entries.count; i++)
        free(entries.list[i].load);
    free(entries.list);
    return status;
}

static coterie_status_t folder_read(entries_t *entries, const char *folder)
{
    DIR *directory = opendir(folder);
    coterie_status_t status = COTERIE_OK;
    const struct dirent *file;

    if (directory == NULL)
        return coterie_fail(COTERIE_ERR_IO, "%s: cannot be listed", folder);
    while (status == COTERIE_OK && (file = readdir(directory)) != NULL) {
        char path[PATH_MAX];
        if (fnmatch("rank*.safetensors", file->d_name, 0) != 0)
            continue;
        snprintf(path, sizeof(path), "%s/%s", folder, file->d_name);
        status = file_read(entries, path);
    }
    closedir(directory);
    if (status == COTERIE_OK && entries->count == 0)
        return coterie_fail(COTERIE_ERR_FORMAT,
                            "%s: no file rank*.safetensors with counts",
                            folder);
    return status;
}

static coterie_status_t file_read(entries_t *entries, const char *path)
{
    void *bytes = NULL;
    size_t size;
    coterie_status_t status = coterie_file_read(path, FILE_LIMIT, &bytes,
                                                &size);

    entries->path = path;
    if (status == COTERIE_OK)
        status = tensors_read(entries, bytes, size);
    free(bytes);
    return status;
}

static coterie_status_t tensors_read(entries_t *entries, const char *bytes,
                                     size_t size)
{
    coterie_status_t status = COTERIE_OK;
    uint64_t header = 0;
    const char *key;
    json_t *root, *about;

    for (int i = HEADER_SIZE - 1; size >= HEADER_SIZE && i >= 0; i--)
        header = header << 8 | (unsigned char)bytes[i];
    if (size < HEADER_SIZE || header > size - HEADER_SIZE)
        return coterie_fail(COTERIE_ERR_FORMAT,
                            "%s: no safetensors: its header would end beyond "
                            "the file",
                            entries->path);
    root = json_loadb(bytes + HEADER_SIZE, header, 0, NULL);
    if (!json_is_object(root)) {
        json_decref(root);
        return coterie_fail(COTERIE_ERR_FORMAT,
                            "%s: no safetensors: its header is no JSON object",
                            entries->path);
    }
    json_object_foreach(root, key, about) {
        if (strcmp(key, "__metadata__") == 0)
            continue;
        status = tensor_read(entries, key, about,
                             bytes + HEADER_SIZE + header,
                             size - HEADER_SIZE - header);
        if (status != COTERIE_OK)
            break;
    }
    json_decref(root);
    return status;
}

static coterie_status_t tensor_read(entries_t *entries, const char *key,
                                    const json_t *about, const char *data,
                                    size_t size)
{
    const char *dtype = json_string_value(json_object_get(about, "dtype"));
    const json_t *shape = json_object_get(about, "shape");
    const json_t *offsets = json_object_get(about, "data_offsets");
    json_int_t experts = json_integer_value(json_array_get(shape, 0));
    json_int_t begin = json_integer_value(json_array_get(offsets, 0));
    json_int_t end = json_integer_value(json_array_get(offsets, 1));
    size_t item = dtype == NULL ? 0 : item_size(dtype);
    unsigned iteration, layer;
    entry_t entry;
    char rest;

    if (sscanf(key, "%u_%u%c", &iteration, &layer, &rest) != 2 || item == 0 ||
        json_array_size(shape) != 1 || experts < 1 ||
        experts > COTERIE_EXPERTS_MAX || begin < 0 || end < begin ||
        (uint64_t)end > size ||
        (uint64_t)(end - begin) != (uint64_t)experts * item)
        return coterie_fail(COTERIE_ERR_FORMAT,
                            "%s: tensor %s is no count of experts: it must be "
                            "named iteration_layer, and hold one number for "
                            "each expert",
                            entries->path, key);
    entry = (entry_t){iteration, layer,
                      malloc((size_t)experts * sizeof(*entry.load))};
    if (entry.load == NULL)
        return coterie_fail_memory((size_t)experts * sizeof(*entry.load),
                                   entries->path);
    for (json_int_t e = 0; e < experts; e++)
        entry.load[e] =
            item_number(dtype, data + begin + (size_t)e * item);
    return entry_add(entries, entry, (size_t)experts);
}

static size_t item_size(const char *dtype)
{
    return strcmp(dtype, "I32") == 0 || strcmp(dtype, "F32") == 0   ? 4
           : strcmp(dtype, "I64") == 0 || strcmp(dtype, "F64") == 0 ? 8
                                                                    : 0;
}

static double item_number(const char *dtype, const char *item)
{
    union {
        int32_t i32;
        int64_t i64;
        float f32;
        double f64;
    } number;

    memcpy(&number, item, item_size(dtype));
    if (dtype[0] == 'I')
        return dtype[1] == '3' ? number.i32 : (double)number.i64;
    return dtype[1] == '3' ? number.f32 : number.f64;
}

static coterie_status_t entry_add(entries_t *entries, entry_t entry,
                                  size_t expert_count)
{
    if (entries->count == entries->room) {
        size_t room = entries->room == 0 ? 64 : 2 * entries->room;
        entry_t *list = realloc(entries->list, room * sizeof(*list));
        if (list == NULL) {
            free(entry.load);
            return coterie_fail_memory(room * sizeof(*list), entries->path);
        }
        entries->list = list;
        entries->room = room;
    }
    entries->list[entries->count++] = entry;
    if (entries->expert_count == 0)
        entries->expert_count = expert_count;
    if (entries->expert_count != expert_count)
        return coterie_fail(COTERIE_ERR_FORMAT,
                            "%s: iteration %u, layer %u has %zu experts; "
                            "others have %zu",
                            entries->path, entry.iteration, entry.layer,
                            expert_count, entries->expert_count);
    return COTERIE_OK;
}

static int entry_compare(const void *a, const void *b)
{
    const entry_t *x = a, *y = b;

    if (x->iteration != y->iteration)
        return x->iteration < y->iteration ? -1 : 1;
    return x->layer < y->layer ? -1 : x->layer > y->layer;
}

/* Sorted, what belongs together is adjacent, and layers are the ordinals of
 * those numbers that occur. */
static coterie_status_t entries_sum(entries_t *entries,
                                    coterie_loads_t **loads_p)
{
    size_t experts = entries->expert_count, kept = 0, layers = 0;
    coterie_loads_view_t view = {.expert_count = (uint32_t)experts};
    coterie_status_t status;
    double *load;

    if (entries->count == 0)
        return coterie_fail(COTERIE_ERR_FORMAT, "%s: holds no counts",
                            entries->path);
    qsort(entries->list, entries->count, sizeof(*entries->list),
          entry_compare);
    load = calloc(entries->count * experts, sizeof(*load));
    if (load == NULL)
        return coterie_fail_memory(entries->count * experts * sizeof(*load),
                                   entries->path);
    for (size_t i = 0; i < entries->count; i++) {
        const entry_t *entry = &entries->list[i];
        kept += i == 0 || entry_compare(entry - 1, entry) != 0;
        layers += kept > layers &&
                  entry->iteration == entries->list[0].iteration;
        for (size_t e = 0; e < experts; e++)
            load[(kept - 1) * experts + e] += entry->load[e];
    }
    view.window_count = kept / layers;
    view.layer_count = (uint32_t)layers;
    view.load = load;
    status = kept % layers != 0 ? COTERIE_ERR_FORMAT
                                : grid_check(entries, layers);
    if (status == COTERIE_ERR_FORMAT)
        status = coterie_fail(status,
                              "%s: iterations have counts of different layers",
                              entries->path);
    if (status == COTERIE_OK)
        status = coterie_loads_create(&view, loads_p);
    free(load);
    return status;
}

/* Every iteration has the first one's layers. */
static coterie_status_t grid_check(const entries_t *entries, size_t layers)
{
    const entry_t *list = entries->list;
    size_t at = 0;

    for (size_t i = 1; i < entries->count; i++) {
        if (entry_compare(&list[i - 1], &list[i]) == 0)
            continue;
        at++;
        if ((at % layers == 0) != (list[i].iteration != list[i - 1].iteration))
            return COTERIE_ERR_FORMAT;
    }
    return COTERIE_OK;
}
