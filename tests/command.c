#include "config.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include "tests/command.h"
#include "tests/models.h"

enum { ARGUMENTS_SIZE = 4096 };

static const char *after_notices(const char *text);
static const char *command_path(void);

void command_call(called_t *called, const char *format, ...)
{
    char arguments[ARGUMENTS_SIZE];
    va_list list;

    va_start(list, format);
    vsnprintf(arguments, sizeof(arguments), format, list);
    va_end(list);
    program_call(called, command_path(), arguments);
}

void program_call(called_t *called, const char *program, const char *arguments)
{
    char folder[PATH_SIZE], out[PATH_SIZE], err[PATH_SIZE];
    char line[ARGUMENTS_SIZE + 4 * PATH_SIZE];
    size_t size;
    int status;

    folder_make(folder);
    path_in(folder, "out", out);
    path_in(folder, "err", err);
    snprintf(line, sizeof(line), "'%s' %s >'%s' 2>'%s'", program, arguments,
             out, err);
    status = system(line);
    cr_assert(eq(int, WIFEXITED(status), 1), "%s", line);
    called->code = WEXITSTATUS(status);
    called->out = file_load(out, &size);
    called->err = file_load(err, &size);
    folder_remove(folder);
}

void called_free(called_t *called)
{
    free(called->out);
    free(called->err);
}

json_t *command_json(const char *format, ...)
{
    char arguments[ARGUMENTS_SIZE];
    json_error_t error;
    called_t called;
    json_t *object;
    va_list list;

    va_start(list, format);
    vsnprintf(arguments, sizeof(arguments), format, list);
    va_end(list);
    program_call(&called, command_path(), arguments);
    cr_assert(eq(int, called.code, 0), "%s: %s", arguments, called.err);
    object = json_loads(called.out, 0, &error);
    cr_assert(eq(int, json_is_object(object), 1), "%s: %s", arguments,
              error.text);
    called_free(&called);
    return object;
}

void expect_refused(int code, const char *part, const char *format, ...)
{
    char arguments[ARGUMENTS_SIZE];
    called_t called;
    const char *line, *end;
    va_list list;

    va_start(list, format);
    vsnprintf(arguments, sizeof(arguments), format, list);
    va_end(list);
    program_call(&called, command_path(), arguments);
    line = after_notices(called.err);
    end = strchr(line, '\n');
    cr_expect(eq(int, called.code, code), "%s", arguments);
    cr_expect(eq(str, called.out, ""), "%s", arguments);
    cr_expect(end != NULL && end[1] == '\0', "%s: not one line: %s",
              arguments, called.err);
    cr_expect(strstr(line, part) != NULL, "%s: %s", arguments, called.err);
    called_free(&called);
}

/* What this build lacks is said before anything else, in lines of its own. */
static const char *after_notices(const char *text)
{
    static const char notice[] = "coterie: built without ";
    const char *end;

    while (strncmp(text, notice, strlen(notice)) == 0 &&
           (end = strchr(text, '\n')) != NULL)
        text = end + 1;
    return text;
}

static const char *command_path(void)
{
    const char *path = getenv("COTERIE_COMMAND");

    cr_assert(path != NULL, "COTERIE_COMMAND is not set");
    return path;
}
