#ifndef COTERIE_STATUS_H
#define COTERIE_STATUS_H
/** @file
 * Statuses that every call returns, and the line that explains the last
 * failure. */
#include <coterie/api.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Values are ABI: append only; never renumber, never reuse. */
#define COTERIE_STATUS_MAP(X)                             \
    X(OK, 0, "success")                                   \
    X(ERR_INVALID, -1, "invalid argument")                \
    X(ERR_NO_MEMORY, -2, "out of memory")                 \
    X(ERR_UNSUPPORTED, -3, "not supported")               \
    X(ERR_IO, -4, "input or output failed")               \
    X(ERR_FORMAT, -5, "malformed file")                   \
    X(ERR_MISMATCH, -6, "made for another model or size") \
    X(ERR_EXISTS, -7, "file exists")                      \
    X(ERR_NOT_FOUND, -8, "not found")                     \
    X(ERR_CORRUPT, -9, "checksum mismatch")               \
    X(ERR_INFEASIBLE, -10, "no solution exists")          \
    X(ERR_CAPACITY, -11, "buffer too small")              \
    X(ERR_TIMEOUT, -12, "deadline passed")                \
    X(ERR_PEER, -13, "another rank failed")               \
    X(ERR_INTERRUPTED, -14, "interrupted")

typedef enum coterie_status {
#define X(name, value, text) COTERIE_##name = value,
    COTERIE_STATUS_MAP(X)
#undef X
} coterie_status_t;

/** Static text for any status, even one this build does not know. */
COTERIE_API const char *coterie_strerror(coterie_status_t status);

/** One line that says what failed, where, and what would be right, about the
 * latest failure on the calling thread; "" before the first. The text belongs
 * to the library and changes with the thread's next failure. */
COTERIE_API const char *coterie_last_error(void);

#ifdef __cplusplus
}
#endif
#endif
