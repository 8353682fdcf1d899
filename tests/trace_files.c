#include "config.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zip.h>

#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include "tests/models.h"
#include "tests/trace_files.h"

static char folder[PATH_SIZE]; /* Criterion gives every test a process */

static int is_visible(const struct dirent *entry);

void files_make(void)
{
    folder_make(folder);
}

void files_remove(void)
{
    folder_remove(folder);
}

const char *file_path(const char *name)
{
    enum { PATHS = 4 };
    static char paths[PATHS][PATH_SIZE];
    static unsigned next;
    char *path = paths[next++ % PATHS];

    path_in(folder, name, path);
    return path;
}

int files_count(void)
{
    struct dirent **entries;
    int count = scandir(folder, &entries, is_visible, alphasort);

    for (int i = 0; i < count; i++)
        free(entries[i]);
    free(entries);
    return count;
}

void text_put(const char *name, const char *text)
{
    file_save(file_path(name), text, strlen(text));
}

void npy_put(const char *name, const char *dictionary, const void *data,
             size_t size)
{
    size_t length = strlen(dictionary);
    unsigned char *bytes = malloc(10 + length + size);

    cr_assert(ne(ptr, bytes, NULL));
    memcpy(bytes, "\x93NUMPY\x01\x00", 8);
    bytes[8] = (unsigned char)(length & 0xff);
    bytes[9] = (unsigned char)(length >> 8);
    memcpy(bytes + 10, dictionary, length);
    memcpy(bytes + 10 + length, data, size);
    file_save(file_path(name), bytes, 10 + length + size);
    free(bytes);
}

void array_put(const char *name, const char *type, const uint64_t *shape,
               const void *data)
{
    coterie_npy_t array = coterie_npy_describe(type, shape, data);
    char dictionary[COTERIE_NPY_HEADER_MAX];
    size_t size = coterie_npy_header(&array, dictionary);

    dictionary[size - 1] = 0; /* it ends in a line break, or so it should */
    npy_put(name, dictionary + 10, data, array.count * array.item_size);
}

void npz_put(const char *name, const coterie_npz_entry_t *entries,
             size_t count)
{
    zip_t *archive = zip_open(file_path(name), ZIP_CREATE | ZIP_TRUNCATE, NULL);

    cr_assert(ne(ptr, archive, NULL));
    for (size_t i = 0; i < count; i++) {
        const coterie_npy_t *array = &entries[i].array;
        size_t size = array->count * array->item_size, start;
        char *bytes = malloc(COTERIE_NPY_HEADER_MAX + size), key[64];
        zip_source_t *source;
        zip_int64_t index;

        cr_assert(ne(ptr, bytes, NULL));
        start = coterie_npy_header(array, bytes);
        memcpy(bytes + start, array->data, size);
        source = zip_source_buffer(archive, bytes, start + size, 1);
        snprintf(key, sizeof(key), "%s.npy", entries[i].key);
        index = zip_file_add(archive, key, source, 0);
        cr_assert(ge(i64, index, 0));
        zip_set_file_compression(archive, (zip_uint64_t)index, ZIP_CM_DEFLATE,
                                 0);
    }
    cr_assert(eq(int, zip_close(archive), 0));
}

coterie_trace_t *trace_get(const char *name)
{
    coterie_trace_t *trace = NULL;
    coterie_status_t status = coterie_trace_read(file_path(name), 0, &trace);

    cr_assert(eq(int, status, COTERIE_OK), "%s", coterie_last_error());
    return trace;
}

void expect_unread(const char *name, coterie_status_t status, const char *part)
{
    coterie_trace_t *trace = NULL;

    cr_expect(
        eq(int, coterie_trace_read(file_path(name), 0, &trace), status),
        "%s", coterie_last_error());
    cr_expect(zero(ptr, trace)); /* untouched on failure */
    cr_expect(ne(ptr, strstr(coterie_last_error(), part), NULL), "%s",
              coterie_last_error());
}

static int is_visible(const struct dirent *entry)
{
    return entry->d_name[0] != '.';
}
