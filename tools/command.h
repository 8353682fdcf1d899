#ifndef COTERIE_TOOLS_COMMAND_H
#define COTERIE_TOOLS_COMMAND_H
/* What every subcommand is made of: one table of options, from which the
 * command line is read and the help is printed, and one function. */
#include <stdarg.h>
#include <stdbool.h>

#include <coterie/coterie.h>

/* The exit status of every subcommand. */
enum { EXIT_DONE = 0, EXIT_FAILED = 1, EXIT_USAGE = 2 };

/* How an option's value is read, and the type of the field it goes to. */
typedef enum option_kind {
    OPTION_FLAG,   /* bool */
    OPTION_COUNT,  /* uint32_t */
    OPTION_REAL,   /* double */
    OPTION_TEXT,   /* const char * */
    OPTION_CHOICE, /* uint32_t: ordinal in `choices` */
    OPTION_LIST    /* argument_list_t, each time it is given */
} option_kind_t;

typedef struct option_spec {
    const char *name; /* NULL ends a table */
    int letter;       /* short form, or 0 */
    option_kind_t kind;
    size_t offset;        /* of the field in the options struct */
    const char *argument; /* as the help shows it */
    const char *help;
    double least, most;         /* of a count or a real */
    const char *const *choices; /* NULL-terminated */
} option_spec_t;

/* Options that may be repeated, in the order given: which, and its value. */
typedef struct argument_list {
    uint32_t count;
    struct argument {
        const char *option, *text;
    } *items;
} argument_list_t;

struct invocation;

typedef struct command {
    const char *name;
    const char *operands; /* as the help shows them, or "" */
    int operands_least, operands_most;
    const char *summary;
    const char *details; /* more help, or "" */
    const option_spec_t *options;
    size_t options_size; /* of the struct that run gets, zeroed at first */
    int (*run)(const struct invocation *in);
} command_t;

typedef struct invocation {
    const command_t *command;
    const void *options;
    int operand_count;
    char *const *operands;
} invocation_t;

extern const command_t command_pack, command_run, command_trace, command_place,
    command_replace,
    command_sim, command_info, command_convert, command_cache,
    command_predict, command_doctor;

/* Reads the options and operands after the subcommand's name, then runs it. */
int command_start(const command_t *command, int argc, char **argv);

/* Prints what `coterie help SUBCOMMAND` shows. */
void command_help(const command_t *command);

/* One line on standard error; returns EXIT_USAGE. */
int command_refuse(const invocation_t *in, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* The line of the calling thread's latest failure, on standard error; returns
 * EXIT_FAILED. */
int command_fail(const invocation_t *in);

/* Keeps a line of the command's own as the thread's latest failure. */
coterie_status_t failure(coterie_status_t status, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Whether an output may be written; asked before the work, not after it.
 * @param path  NULL: nothing is to be written */
coterie_status_t output_check(const char *path, bool force);

/* That line, or else the library's. */
const char *failure_line(void);

#endif
