#include "config.h"

#include <stdarg.h>
#include <stdio.h>

#include "base/error.h"

enum { LINE_SIZE = 1024 };

static _Thread_local char last_line[LINE_SIZE];

const char *coterie_strerror(coterie_status_t status)
{
    switch ((int)status) {
#define X(name, value, text) \
    case value:              \
        return text;
        COTERIE_STATUS_MAP(X)
#undef X
    }
    return "unknown status";
}

const char *coterie_last_error(void)
{
    return last_line;
}

coterie_status_t coterie_fail(coterie_status_t status, const char *format, ...)
{
    char line[LINE_SIZE]; /* the arguments may point into last_line */
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(line, sizeof(line), format, arguments);
    va_end(arguments);
    snprintf(last_line, sizeof(last_line), "%s", line);
    return status;
}

coterie_status_t coterie_fail_memory(size_t size, const char *what)
{
    return coterie_fail(COTERIE_ERR_NO_MEMORY,
                        "out of memory: %zu bytes for %s", size, what);
}
