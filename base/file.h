#ifndef COTERIE_BASE_FILE_H
#define COTERIE_BASE_FILE_H
/* Files that are written whole or not at all, and whole files read. */
#include <stdbool.h>
#include <stdio.h>

#include <coterie/status.h>

typedef struct coterie_output {
    FILE *stream;
    char *path;
    char *temporary;
    bool nameless; /* until it is committed */
} coterie_output_t;

/* Opens a temporary file beside path; where the file system can, one without
 * a name, so that nothing is left even if the process is killed.
 * @return ERR_EXISTS if path exists and force is 0 */
coterie_status_t coterie_output_open(const char *path, int force,
                                     coterie_output_t *output);

/* Flushes, syncs and renames to path. On failure nothing is left behind.
 * Either way output is closed. */
coterie_status_t coterie_output_commit(coterie_output_t *output);

/* Removes the temporary file; nothing, for a zeroed or committed output. */
void coterie_output_abandon(coterie_output_t *output);

/* Writes, or says which file is short of how many bytes. */
coterie_status_t coterie_output_write(coterie_output_t *output,
                                      const void *data, size_t size);

/* Reads a whole file of at most `limit` bytes; free(*data_p). A zero byte that
 * is not counted in size follows the data. */
coterie_status_t coterie_file_read(const char *path, size_t limit,
                                   void **data_p, size_t *size_p);

#endif
