#ifndef COTERIE_BASE_ERROR_H
#define COTERIE_BASE_ERROR_H
/* The line behind coterie_last_error. Exported for our sister libraries only:
 * libcoterie-mpi and libcoterie-place. */
#include <coterie/status.h>

/* Stores one line for the calling thread and returns status, so that a failure
 * reads `return coterie_fail(COTERIE_ERR_FORMAT, "%s: ...", path)`. Say what,
 * where, and what would be right; no newline, no trailing full stop. */
COTERIE_API coterie_status_t coterie_fail(coterie_status_t status,
                                          const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Out of memory: says how many bytes, for what. */
COTERIE_API coterie_status_t coterie_fail_memory(size_t size,
                                                 const char *what);

#endif
