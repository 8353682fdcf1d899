#include "config.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tools/command.h"
#include "tools/npy.h"

enum { HEADER_SIZE = 128 }; /* magic and all; a multiple of 64, as it must */

static void header_make(uint64_t rows, uint64_t columns, char *header);
static FILE *temporary_open(char *temporary);

coterie_status_t npy_write(const char *path, uint64_t rows, uint64_t columns,
                           const float *data)
{
    static const char suffix[] = ".XXXXXX";
    char header[HEADER_SIZE + 1];
    char *temporary = malloc(strlen(path) + sizeof(suffix));
    FILE *stream = NULL;
    coterie_status_t status = COTERIE_OK;
    size_t count = rows * columns;

    if (temporary == NULL)
        return failure(COTERIE_ERR_NO_MEMORY, "out of memory");
    sprintf(temporary, "%s%s", path, suffix);
    stream = temporary_open(temporary);
    header_make(rows, columns, header);
    if (stream == NULL || fwrite(header, 1, HEADER_SIZE, stream) == 0 ||
        fwrite(data, sizeof(*data), count, stream) != count ||
        fflush(stream) != 0 || rename(temporary, path) != 0)
        status = failure(COTERIE_ERR_IO, "%s: %s", path, strerror(errno));
    if (stream != NULL && status != COTERIE_OK)
        unlink(temporary);
    if (stream != NULL)
        fclose(stream);
    free(temporary);
    return status;
}

/* NumPy's format, version 1.0. */
static void header_make(uint64_t rows, uint64_t columns, char *header)
{
    static const char magic[] = "\x93NUMPY\x01\x00\x76\x00";
    int length;

    memcpy(header, magic, 10);
    length = snprintf(header + 10, HEADER_SIZE - 10,
                      "{'descr': '<f4', 'fortran_order': False, 'shape': "
                      "(%llu, %llu), }",
                      (unsigned long long)rows, (unsigned long long)columns);
    memset(header + 10 + length, ' ', (size_t)(HEADER_SIZE - 10 - length));
    header[HEADER_SIZE - 1] = '\n';
}

/* Beside the file it becomes, so that renaming is one step. */
static FILE *temporary_open(char *temporary)
{
    int descriptor = mkstemp(temporary);
    mode_t mask = umask(0);
    FILE *stream;

    umask(mask);
    if (descriptor < 0)
        return NULL;
    fchmod(descriptor, 0666 & ~mask); /* mkstemp gives 0600 */
    stream = fdopen(descriptor, "wb");
    if (stream == NULL) {
        unlink(temporary);
        close(descriptor);
    }
    return stream;
}
