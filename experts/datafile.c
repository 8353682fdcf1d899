#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "experts/datafile.h"

coterie_status_t coterie_datafile_open(const char *path,
                                       coterie_datafile_t *file_p)
{
    coterie_datafile_t file = {.path = strdup(path)};
    struct stat information;

    if (file.path == NULL)
        return coterie_fail_memory(strlen(path) + 1, "a file name");
    /* A pipe would make a plain open wait for its writer. */
    file.descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (file.descriptor < 0) {
        int error = errno;
        free(file.path);
        return coterie_fail(
            error == ENOENT ? COTERIE_ERR_NOT_FOUND : COTERIE_ERR_IO, "%s: %s",
            path, strerror(error));
    }
    if (fstat(file.descriptor, &information) != 0 ||
        !S_ISREG(information.st_mode)) {
        coterie_datafile_close(&file);
        return coterie_fail(COTERIE_ERR_IO, "%s: not a regular file", path);
    }
    file.size = (uint64_t)information.st_size;
    *file_p = file;
    return COTERIE_OK;
}

coterie_status_t coterie_datafile_read(const coterie_datafile_t *file,
                                       uint64_t offset, void *data,
                                       uint64_t size)
{
    char *bytes = data;

    while (size > 0) {
        /* One call moves at most 2 GiB; tensors may be larger. */
        ssize_t got = pread(file->descriptor, bytes, size, (off_t)offset);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return coterie_fail(COTERIE_ERR_IO, "%s: byte %" PRIu64 ": %s",
                                file->path, offset, strerror(errno));
        if (got == 0)
            return coterie_fail(COTERIE_ERR_IO,
                                "%s: ends at byte %" PRIu64 "; %" PRIu64
                                " more were expected",
                                file->path, offset, size);
        bytes += got;
        offset += (uint64_t)got;
        size -= (uint64_t)got;
    }
    return COTERIE_OK;
}

void coterie_datafile_close(coterie_datafile_t *file)
{
    if (file->path != NULL)
        close(file->descriptor);
    free(file->path);
    memset(file, 0, sizeof(*file));
}
