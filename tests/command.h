#ifndef COTERIE_TESTS_COMMAND_H
#define COTERIE_TESTS_COMMAND_H
/* Calls of the built command, as a shell would make them. */
#include <jansson.h>

/* What one call left behind. */
typedef struct called {
    int code;
    char *out, *err;
} called_t;

/* Runs `coterie` with these arguments. Failures to start end the test. */
void command_call(called_t *called, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Runs any other program with these arguments. */
void program_call(called_t *called, const char *program, const char *arguments);

void called_free(called_t *called);

/* Expects it to succeed and print one JSON object. */
json_t *command_json(const char *format, ...)
    __attribute__((format(printf, 1, 2)));

/* Expects it to end with this status, nothing on standard output, and one line
 * on standard error that holds `part`. */
void expect_refused(int code, const char *part, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#endif
