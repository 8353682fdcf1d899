#ifndef COTERIE_BASE_ERROR_H
#define COTERIE_BASE_ERROR_H
/* The line behind coterie_last_error. */
#include <coterie/status.h>

/* Stores one line for the calling thread and returns status, so that a failure
 * reads `return coterie_fail(COTERIE_ERR_FORMAT, "%s: ...", path)`. Say what,
 * where, and what would be right; no newline, no trailing full stop. */
coterie_status_t coterie_fail(coterie_status_t status, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Out of memory: says how many bytes, for what. */
coterie_status_t coterie_fail_memory(size_t size, const char *what);

#endif
