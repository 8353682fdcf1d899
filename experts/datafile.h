#ifndef COTERIE_EXPERTS_DATAFILE_H
#define COTERIE_EXPERTS_DATAFILE_H
/* Files of weights: opened once, read at offsets by any thread. Plain reads,
 * not a mapping, so that a file cut short under us is an error, not a
 * signal. */
#include <coterie/status.h>

typedef struct coterie_datafile {
    char *path;
    int descriptor;
    uint64_t size;
} coterie_datafile_t;

coterie_status_t coterie_datafile_open(const char *path,
                                       coterie_datafile_t *file_p);

/* Reads exactly size bytes, or fails with ERR_IO. */
coterie_status_t coterie_datafile_read(const coterie_datafile_t *file,
                                       uint64_t offset, void *data,
                                       uint64_t size);

/* A zeroed file is fine. */
void coterie_datafile_close(coterie_datafile_t *file);

#endif
