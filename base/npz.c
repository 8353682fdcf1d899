#include "config.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zip.h>

#include "base/error.h"
#include "base/file.h"
#include "base/npz.h"

enum { NAME_SIZE = 64, LINE_SIZE = 512 };
/* Deflate cannot do better than 1032 to 1. */
enum { RATIO_MAX = 1040 };

struct coterie_npz {
    zip_t *archive;
    uint64_t file_size;
    char path[];
};

typedef struct header {
    char text[COTERIE_NPY_HEADER_MAX];
} header_t;

/* What libzip writes the archive to: our temporary file. Given a path, libzip
 * would make a temporary of its own and rename it too early, unsynced. */
typedef struct sink {
    coterie_output_t *output;
    zip_error_t error;
} sink_t;

static coterie_status_t entry_read(coterie_npz_t *npz, const char *name,
                                   const zip_stat_t *stat, void **data_p);
static coterie_status_t archive_write(coterie_output_t *output,
                                      const coterie_npz_entry_t *entries,
                                      header_t *headers, size_t count);
static coterie_status_t entry_add(zip_t *archive, const char *path,
                                  const coterie_npz_entry_t *entry,
                                  header_t *header);
static zip_int64_t sink_call(void *user, void *data, zip_uint64_t size,
                             zip_source_cmd_t command);
static zip_int64_t sink_seek(sink_t *sink, void *data, zip_uint64_t size);
static zip_int64_t sink_failed(sink_t *sink);

coterie_status_t coterie_npz_open(const char *path, coterie_npz_t **npz_p)
{
    coterie_npz_t *npz = calloc(1, sizeof(*npz) + strlen(path) + 1);
    FILE *stream = fopen(path, "rb");
    coterie_status_t status = COTERIE_OK;
    int code = 0;

    if (npz == NULL) {
        status = coterie_fail_memory(sizeof(*npz), path);
        goto out;
    }
    strcpy(npz->path, path);
    if (stream == NULL || fseeko(stream, 0, SEEK_END) != 0) {
        status = coterie_fail(COTERIE_ERR_IO, "%s: %s", path, strerror(errno));
        goto out;
    }
    npz->file_size = (uint64_t)ftello(stream);
    /* The central directory is checked here, each entry when it is read. */
    npz->archive = zip_open(path, ZIP_RDONLY, &code);
    if (npz->archive == NULL) {
        zip_error_t error;
        zip_error_init_with_code(&error, code);
        status = coterie_fail(COTERIE_ERR_FORMAT, "%s: not a whole .npz: %s",
                              path, zip_error_strerror(&error));
        zip_error_fini(&error);
        goto out;
    }
    *npz_p = npz;
    npz = NULL; /* it is the caller's now */
out:
    if (stream != NULL)
        fclose(stream);
    coterie_npz_close(npz);
    return status;
}

int coterie_npz_has(const coterie_npz_t *npz, const char *key)
{
    char name[NAME_SIZE];

    snprintf(name, sizeof(name), "%s.npy", key);
    return zip_name_locate(npz->archive, name, 0) >= 0;
}

coterie_status_t coterie_npz_read(coterie_npz_t *npz, const char *key,
                                  coterie_npy_t *npy)
{
    char name[NAME_SIZE], line[LINE_SIZE];
    coterie_status_t status;
    zip_stat_t stat;
    void *data;

    snprintf(name, sizeof(name), "%s.npy", key);
    if (!coterie_npz_has(npz, key))
        return coterie_fail(COTERIE_ERR_NOT_FOUND, "%s: no array '%s'",
                            npz->path, key);
    if (zip_stat(npz->archive, name, 0, &stat) != 0 ||
        (stat.valid & ZIP_STAT_SIZE) == 0 ||
        stat.size / RATIO_MAX > npz->file_size)
        return coterie_fail(COTERIE_ERR_FORMAT,
                            "%s: the size of '%s' makes no sense", npz->path,
                            name);
    status = entry_read(npz, name, &stat, &data);
    if (status != COTERIE_OK)
        return status;
    snprintf(line, sizeof(line), "%s: %s", npz->path, name);
    status = coterie_npy_parse(line, data, (size_t)stat.size, npy);
    if (status == COTERIE_OK)
        npy->buffer = data;
    else
        free(data);
    return status;
}

void coterie_npz_close(coterie_npz_t *npz)
{
    if (npz != NULL && npz->archive != NULL)
        zip_discard(npz->archive);
    free(npz);
}

coterie_status_t coterie_npz_write(const char *path, int force,
                                   const coterie_npz_entry_t *entries,
                                   size_t count)
{
    header_t *headers = malloc(count * sizeof(*headers));
    coterie_output_t output = {0};
    coterie_status_t status;

    if (headers == NULL)
        return coterie_fail_memory(count * sizeof(*headers), path);
    status = coterie_output_open(path, force, &output);
    if (status == COTERIE_OK)
        status = archive_write(&output, entries, headers, count);
    if (status == COTERIE_OK)
        status = coterie_output_commit(&output);
    coterie_output_abandon(&output);
    free(headers);
    return status;
}

static coterie_status_t entry_read(coterie_npz_t *npz, const char *name,
                                   const zip_stat_t *stat, void **data_p)
{
    coterie_status_t status = COTERIE_OK;
    zip_file_t *file = zip_fopen(npz->archive, name, 0);
    char *data = malloc((size_t)stat->size + 1);

    if (data == NULL)
        status = coterie_fail_memory((size_t)stat->size, name);
    else if (file == NULL)
        status = coterie_fail(COTERIE_ERR_FORMAT, "%s: '%s': %s", npz->path,
                              name, zip_strerror(npz->archive));
    /* Nothing must follow, and only on meeting the end does libzip compare
     * the checksum. */
    else if (zip_fread(file, data, stat->size) != (zip_int64_t)stat->size ||
             zip_fread(file, data + stat->size, 1) != 0)
        status = coterie_fail(COTERIE_ERR_FORMAT,
                              "%s: '%s' is damaged or cut off: %s", npz->path,
                              name, zip_file_strerror(file));
    if (file != NULL)
        zip_fclose(file);
    if (status == COTERIE_OK)
        *data_p = data;
    else
        free(data);
    return status;
}

static coterie_status_t archive_write(coterie_output_t *output,
                                      const coterie_npz_entry_t *entries,
                                      header_t *headers, size_t count)
{
    coterie_status_t status = COTERIE_OK;
    zip_source_t *source = NULL;
    zip_t *archive = NULL;
    sink_t sink = {.output = output};

    zip_error_init(&sink.error);
    source = zip_source_function_create(sink_call, &sink, NULL);
    if (source != NULL)
        archive = zip_open_from_source(source, ZIP_CREATE | ZIP_TRUNCATE,
                                       &sink.error);
    if (archive == NULL) {
        status = coterie_fail(COTERIE_ERR_IO, "%s: no archive can be begun: %s",
                              output->path, zip_error_strerror(&sink.error));
        zip_source_free(source);
    }
    for (size_t i = 0; status == COTERIE_OK && i < count; i++)
        status = entry_add(archive, output->path, &entries[i], &headers[i]);
    if (status == COTERIE_OK && zip_close(archive) == 0)
        archive = NULL; /* closed; after a failure it still has to be freed */
    else if (status == COTERIE_OK)
        status = coterie_fail(COTERIE_ERR_IO, "%s: cannot be written: %s",
                              output->path, zip_strerror(archive));
    if (archive != NULL)
        zip_discard(archive);
    zip_error_fini(&sink.error);
    return status;
}

static coterie_status_t entry_add(zip_t *archive, const char *path,
                                  const coterie_npz_entry_t *entry,
                                  header_t *header)
{
    enum { DOS_1980 = 1 << 5 | 1 }; /* no clock: equal traces, equal files */
    const coterie_npy_t *array = &entry->array;
    zip_buffer_fragment_t parts[2] = {
        {(zip_uint8_t *)header->text,
         coterie_npy_header(array, header->text)},
        {(zip_uint8_t *)(uintptr_t)array->data,
         array->count * array->item_size}};
    zip_source_t *source = zip_source_buffer_fragment(archive, parts, 2, 0);
    zip_int64_t index = -1;
    char name[NAME_SIZE];

    snprintf(name, sizeof(name), "%s.npy", entry->key);
    if (source != NULL)
        index = zip_file_add(archive, name, source, 0);
    if (index < 0) {
        zip_source_free(source);
        return coterie_fail(COTERIE_ERR_IO, "%s: '%s' cannot be added: %s",
                            path, name, zip_strerror(archive));
    }
    /* Stored, as numpy.savez does: ids deflate to a third at best, and slowly
     * enough to be felt in every run that records. */
    zip_set_file_compression(archive, (zip_uint64_t)index, ZIP_CM_STORE, 0);
    zip_file_set_dostime(archive, (zip_uint64_t)index, 0, DOS_1980, 0);
    return COTERIE_OK;
}

/* A libzip source that is only ever written. libzip asks every writable one
 * to be readable too, yet never reads one that STAT says is not there. */
static zip_int64_t sink_call(void *user, void *data, zip_uint64_t size,
                             zip_source_cmd_t command)
{
    sink_t *sink = user;
    FILE *stream = sink->output->stream;

    switch (command) {
    case ZIP_SOURCE_SUPPORTS:
        return ZIP_SOURCE_SUPPORTS_WRITABLE;
    case ZIP_SOURCE_ERROR:
        return zip_error_to_data(&sink->error, data, size);
    case ZIP_SOURCE_WRITE:
        if (fwrite(data, 1, size, stream) != size)
            return sink_failed(sink);
        return (zip_int64_t)size;
    case ZIP_SOURCE_SEEK_WRITE:
        return sink_seek(sink, data, size);
    case ZIP_SOURCE_TELL_WRITE:
        return ftello(stream);
    case ZIP_SOURCE_COMMIT_WRITE:
        return fflush(stream) == 0 ? 0 : sink_failed(sink);
    case ZIP_SOURCE_STAT:
        zip_error_set(&sink->error, ZIP_ER_READ, ENOENT);
        return -1;
    default:
        return 0;
    }
}

static zip_int64_t sink_seek(sink_t *sink, void *data, zip_uint64_t size)
{
    zip_source_args_seek_t *seek =
        ZIP_SOURCE_GET_ARGS(zip_source_args_seek_t, data, size, &sink->error);

    if (seek == NULL)
        return -1;
    if (fseeko(sink->output->stream, seek->offset, seek->whence) != 0)
        return sink_failed(sink);
    return 0;
}

static zip_int64_t sink_failed(sink_t *sink)
{
    zip_error_set(&sink->error, ZIP_ER_WRITE, errno);
    return -1;
}
