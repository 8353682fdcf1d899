#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/file.h"

static int nameless_open(const char *path);
static int named_open(char *pattern);
static int name_give(coterie_output_t *output);
static void output_clear(coterie_output_t *output);
static coterie_status_t output_fail(coterie_output_t *output, const char *what);
static coterie_status_t stream_read(FILE *stream, const char *path,
                                    size_t limit, void **data_p,
                                    size_t *size_p);

coterie_status_t coterie_output_open(const char *path, int force,
                                     coterie_output_t *output)
{
    size_t size = strlen(path) + sizeof(".XXXXXX");
    struct stat present;
    int file;

    memset(output, 0, sizeof(*output));
    if (stat(path, &present) == 0) {
        if (!S_ISREG(present.st_mode)) /* a device must not become a file */
            return coterie_fail(COTERIE_ERR_EXISTS,
                                "%s: exists and is not a regular file", path);
        if (!force)
            return coterie_fail(COTERIE_ERR_EXISTS,
                                "%s: exists already; --force overwrites it",
                                path);
    }
    output->path = strdup(path);
    output->temporary = malloc(size);
    if (output->path == NULL || output->temporary == NULL) {
        output_clear(output);
        return coterie_fail_memory(size, "a file name");
    }
    snprintf(output->temporary, size, "%s.XXXXXX", path);
    file = nameless_open(path);
    output->nameless = file >= 0;
    if (file < 0)
        file = named_open(output->temporary);
    if (file >= 0)
        output->stream = fdopen(file, "wb");
    if (output->stream == NULL)
        return output_fail(output, "cannot be created");
    return COTERIE_OK;
}

coterie_status_t coterie_output_commit(coterie_output_t *output)
{
    FILE *stream = output->stream;
    int failed;

    failed = fflush(stream) != 0 || fsync(fileno(stream)) != 0 ||
             (output->nameless && name_give(output) != 0);
    output->stream = NULL;
    if ((fclose(stream) != 0) | failed)
        return output_fail(output, "cannot be written");
    if (rename(output->temporary, output->path) != 0)
        return output_fail(output, "cannot be renamed into place");
    output_clear(output);
    return COTERIE_OK;
}

void coterie_output_abandon(coterie_output_t *output)
{
    if (output->stream != NULL)
        fclose(output->stream);
    if (output->temporary != NULL && !output->nameless)
        unlink(output->temporary);
    output_clear(output);
}

coterie_status_t coterie_output_write(coterie_output_t *output,
                                      const void *data, size_t size)
{
    size_t done = fwrite(data, 1, size, output->stream);

    if (done != size)
        return coterie_fail(COTERIE_ERR_IO, "%s: %s; %zu bytes not written",
                            output->path, strerror(errno), size - done);
    return COTERIE_OK;
}

coterie_status_t coterie_file_read(const char *path, size_t limit,
                                   void **data_p, size_t *size_p)
{
    coterie_status_t status;
    FILE *stream = fopen(path, "rb");

    if (stream == NULL)
        return coterie_fail(
            errno == ENOENT ? COTERIE_ERR_NOT_FOUND : COTERIE_ERR_IO, "%s: %s",
            path, strerror(errno));
    status = stream_read(stream, path, limit, data_p, size_p);
    fclose(stream);
    return status;
}

/* A file without a name is gone if the process is, however that ends. Not all
 * file systems have such files, and naming them later takes /proc. */
static int nameless_open(const char *path)
{
    char *copy = strdup(path);
    int file = -1;

    if (copy != NULL && access("/proc/self/fd", X_OK) == 0)
        file = open(dirname(copy), O_TMPFILE | O_WRONLY, 0666);
    free(copy);
    return file;
}

static int named_open(char *pattern)
{
    int file = mkstemp(pattern);
    mode_t mask = umask(0);

    umask(mask);
    if (file >= 0)
        fchmod(file, 0666 & ~mask); /* mkstemp gives 0600 */
    return file;
}

/* Replacing takes a file that has a name already: that of a moment. */
static int name_give(coterie_output_t *output)
{
    char link[64];
    int file;

    snprintf(link, sizeof(link), "/proc/self/fd/%d", fileno(output->stream));
    file = mkstemp(output->temporary);
    if (file < 0)
        return -1;
    close(file);
    unlink(output->temporary); /* the name was what it took */
    if (linkat(AT_FDCWD, link, AT_FDCWD, output->temporary,
               AT_SYMLINK_FOLLOW) != 0)
        return -1;
    output->nameless = false;
    return 0;
}

static coterie_status_t stream_read(FILE *stream, const char *path,
                                    size_t limit, void **data_p,
                                    size_t *size_p)
{
    struct stat information;
    size_t size;
    char *data;

    if (fstat(fileno(stream), &information) != 0 ||
        !S_ISREG(information.st_mode))
        return coterie_fail(COTERIE_ERR_IO, "%s: not a regular file", path);
    size = (size_t)information.st_size;
    if (size > limit)
        return coterie_fail(COTERIE_ERR_FORMAT,
                            "%s: %zu bytes; at most %zu make sense here", path,
                            size, limit);
    data = malloc(size + 1);
    if (data == NULL)
        return coterie_fail_memory(size, path);
    if (fread(data, 1, size, stream) != size) {
        free(data);
        return coterie_fail(COTERIE_ERR_IO, "%s: shorter than its size says",
                            path);
    }
    data[size] = 0;
    *data_p = data;
    *size_p = size;
    return COTERIE_OK;
}

static coterie_status_t output_fail(coterie_output_t *output, const char *what)
{
    coterie_status_t status = coterie_fail(
        COTERIE_ERR_IO, "%s: %s: %s", output->path, what, strerror(errno));

    coterie_output_abandon(output);
    return status;
}

static void output_clear(coterie_output_t *output)
{
    free(output->path);
    free(output->temporary);
    memset(output, 0, sizeof(*output));
}
