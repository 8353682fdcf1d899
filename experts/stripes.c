#include "config.h"

#include <libgen.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "experts/store.h"
#include "experts/stripes.h"

static char *folder_of(const char *path);
static char *join(const char *folder, const char *name);
static coterie_status_t head_check(const coterie_datafile_t *file,
                                   const char *store, uint32_t ordinal,
                                   uint64_t index_hash);

coterie_status_t coterie_stripe_begin(const char *path,
                                      coterie_output_t *output)
{
    static const char block[COTERIE_STORE_BLOCK];
    coterie_status_t status = coterie_output_open(path, 0, output);

    if (status == COTERIE_ERR_EXISTS)
        return coterie_fail(status, "%s: exists already; stripes are not "
                            "written over: give another name, or remove it",
                            path);
    if (status == COTERIE_OK)
        status = coterie_output_write(output, block, sizeof(block));
    return status;
}

coterie_status_t coterie_stripe_end(coterie_output_t *output, uint32_t ordinal,
                                    uint64_t size, uint64_t index_hash)
{
    coterie_store_head_t head = {.magic = COTERIE_STRIPE_MAGIC,
                                 .version = COTERIE_STORE_VERSION,
                                 .reserved = ordinal,
                                 .index_offset = size,
                                 .index_hash = index_hash};

    head.head_hash = coterie_store_head_hash(&head);
    if (fseeko(output->stream, 0, SEEK_SET) != 0)
        return coterie_fail(COTERIE_ERR_IO, "%s: cannot go back to byte 0",
                            output->path);
    return coterie_output_write(output, &head, sizeof(head));
}

char *coterie_stripe_name(const char *store, const char *path)
{
    char *near = folder_of(store), *far = folder_of(path);
    char *copy = strdup(path), *name = NULL;

    if (near != NULL && far != NULL && copy != NULL)
        name = strcmp(near, far) == 0 ? strdup(basename(copy))
                                      : join(far, basename(copy));
    free(near);
    free(far);
    free(copy);
    return name;
}

coterie_status_t coterie_stripe_open(const char *store, const char *name,
                                     uint32_t ordinal, uint64_t index_hash,
                                     coterie_datafile_t *file_p)
{
    char *copy = strdup(store), *path = NULL;
    coterie_datafile_t file;
    coterie_status_t status;

    if (copy != NULL)
        path = *name == '/' ? strdup(name) : join(dirname(copy), name);
    free(copy);
    if (path == NULL)
        return coterie_fail_memory(strlen(store) + strlen(name), "a path");
    status = coterie_datafile_open(path, &file);
    free(path);
    if (status != COTERIE_OK)
        return coterie_fail(status, "%s: a stripe is missing: %s", store,
                            coterie_last_error());
    status = head_check(&file, store, ordinal, index_hash);
    if (status == COTERIE_OK)
        *file_p = file;
    else
        coterie_datafile_close(&file);
    return status;
}

static char *folder_of(const char *path)
{
    char *copy = strdup(path);
    char *folder = copy != NULL ? realpath(dirname(copy), NULL) : NULL;

    free(copy);
    return folder;
}

static char *join(const char *folder, const char *name)
{
    size_t size = strlen(folder) + strlen(name) + 2;
    char *path = malloc(size);

    if (path != NULL)
        snprintf(path, size, "%s/%s", folder, name);
    return path;
}

static coterie_status_t head_check(const coterie_datafile_t *file,
                                   const char *store, uint32_t ordinal,
                                   uint64_t index_hash)
{
    coterie_store_head_t head;
    coterie_status_t status = COTERIE_ERR_FORMAT;

    if (file->size >= COTERIE_STORE_BLOCK)
        status = coterie_datafile_read(file, 0, &head, sizeof(head));
    if (status == COTERIE_ERR_IO)
        return status;
    if (status != COTERIE_OK || memcmp(head.magic, COTERIE_STRIPE_MAGIC,
                                       sizeof(head.magic)) != 0)
        return coterie_fail(COTERIE_ERR_FORMAT, "%s: no stripe of a store",
                            file->path);
    if (head.head_hash != coterie_store_head_hash(&head))
        return coterie_fail(COTERIE_ERR_CORRUPT,
                            "%s: the first block's checksum does not match",
                            file->path);
    if (head.index_hash != index_hash || head.reserved != ordinal)
        return coterie_fail(COTERIE_ERR_MISMATCH,
                            "%s: a stripe of another store than %s, or not "
                            "its number %u",
                            file->path, store, ordinal);
    if (head.index_offset != file->size)
        return coterie_fail(COTERIE_ERR_FORMAT,
                            "%s: %llu bytes; its first block says %llu",
                            file->path, (unsigned long long)file->size,
                            (unsigned long long)head.index_offset);
    return COTERIE_OK;
}
