#include "config.h"

#include <errno.h>
#include <getopt.h>
#include <libgen.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tools/command.h"

enum {
    OPTIONS_MAX = 32,    /* of one subcommand */
    OPTION_BASE = 256,   /* getopt's values of long options; no letter's */
    LINE_MAX_SIZE = 1024, /* of one failure's text */
    FORM_WIDTH = 30       /* of an option in the help */
};

static _Thread_local char own_failure[LINE_MAX_SIZE];

static coterie_status_t folder_check(const char *path);
static void option_help(const option_spec_t *spec);
static int options_read(const invocation_t *in, int argc, char **argv,
                        char *options);
static void forms_make(const option_spec_t *specs, struct option *longs,
                       char *letters);
static const option_spec_t *spec_of(const option_spec_t *specs, int value);
static int value_read(const invocation_t *in, const option_spec_t *spec,
                      void *field);
static int number_read(const invocation_t *in, const option_spec_t *spec,
                       double *number_p);
static int choice_read(const invocation_t *in, const option_spec_t *spec,
                       uint32_t *choice_p);
static int list_append(const invocation_t *in, const option_spec_t *spec,
                       argument_list_t *list);
static void options_free(const option_spec_t *specs, char *options);
static int operands_check(const invocation_t *in);

int command_start(const command_t *command, int argc, char **argv)
{
    char *options = calloc(1, command->options_size);
    invocation_t in = {.command = command, .options = options};
    int code;

    if (options == NULL) {
        failure(COTERIE_ERR_NO_MEMORY, "out of memory");
        return command_fail(&in);
    }
    code = options_read(&in, argc, argv, options);
    if (code != EXIT_DONE)
        goto out;
    in.operand_count = argc - optind;
    in.operands = argv + optind;
    code = operands_check(&in);
    if (code == EXIT_DONE)
        code = command->run(&in);
out:
    options_free(command->options, options);
    free(options);
    return code;
}

void command_help(const command_t *command)
{
    printf("coterie %s: %s\n\nusage: coterie %s %s%s[OPTION]...\n\n",
           command->name, command->summary, command->name, command->operands,
           command->operands[0] != '\0' ? " " : "");
    for (const option_spec_t *s = command->options; s->name != NULL; s++)
        option_help(s);
    if (command->details[0] != '\0')
        printf("\n%s", command->details);
}

int command_refuse(const invocation_t *in, const char *format, ...)
{
    va_list list;

    fprintf(stderr, "coterie %s: ", in->command->name);
    va_start(list, format);
    vfprintf(stderr, format, list);
    va_end(list);
    fprintf(stderr, " (see 'coterie help %s')\n", in->command->name);
    return EXIT_USAGE;
}

int command_fail(const invocation_t *in)
{
    fprintf(stderr, "coterie %s: %s\n", in->command->name, failure_line());
    return EXIT_FAILED;
}

coterie_status_t failure(coterie_status_t status, const char *format, ...)
{
    va_list list;

    va_start(list, format);
    vsnprintf(own_failure, sizeof(own_failure), format, list);
    va_end(list);
    return status;
}

const char *failure_line(void)
{
    return own_failure[0] != '\0' ? own_failure : coterie_last_error();
}

coterie_status_t output_check(const char *path, bool force)
{
    struct stat present;

    if (path == NULL)
        return COTERIE_OK;
    if (stat(path, &present) != 0)
        return folder_check(path);
    if (!S_ISREG(present.st_mode))
        return failure(COTERIE_ERR_EXISTS,
                       "%s: exists and is not a regular file", path);
    if (force)
        return COTERIE_OK;
    return failure(COTERIE_ERR_EXISTS, "%s: exists; --force overwrites it",
                   path);
}

/* Where the file is to appear, one must be able to appear. */
static coterie_status_t folder_check(const char *path)
{
    char *copy = strdup(path);
    coterie_status_t status = COTERIE_OK;

    if (copy == NULL)
        return failure(COTERIE_ERR_NO_MEMORY, "out of memory");
    if (path[0] == '\0' || access(dirname(copy), W_OK) != 0)
        status = failure(COTERIE_ERR_IO, "'%s': cannot be created: %s", path,
                         path[0] == '\0' ? "no name" : strerror(errno));
    free(copy);
    return status;
}

/* Forms too long for their column have the help on the next line. */
static void option_help(const option_spec_t *spec)
{
    char form[80], letter[] = "    ";
    int wide;

    if (spec->letter != 0)
        snprintf(letter, sizeof(letter), "-%c, ", spec->letter);
    wide = snprintf(form, sizeof(form), "%s--%s%s%s", letter, spec->name,
                    spec->argument != NULL ? " " : "",
                    spec->argument != NULL ? spec->argument : "");
    if (wide > FORM_WIDTH)
        printf("  %s\n  %*s %s\n", form, FORM_WIDTH, "", spec->help);
    else
        printf("  %-*s %s\n", FORM_WIDTH, form, spec->help);
}

static int options_read(const invocation_t *in, int argc, char **argv,
                        char *options)
{
    const option_spec_t *specs = in->command->options;
    struct option longs[OPTIONS_MAX + 1];
    char letters[2 * OPTIONS_MAX + 2];
    int value, code = EXIT_DONE;

    forms_make(specs, longs, letters);
    opterr = 0; /* the lines are ours, in the words of the help */
    while (code == EXIT_DONE &&
           (value = getopt_long(argc, argv, letters, longs, NULL)) != -1) {
        const option_spec_t *spec = spec_of(specs, value);
        if (value == ':')
            code = command_refuse(in, "%s needs a value", argv[optind - 1]);
        else if (spec == NULL)
            code = command_refuse(in, "no option '%s'", argv[optind - 1]);
        else
            code = value_read(in, spec, options + spec->offset);
    }
    return code;
}

/* The leading ':' makes getopt tell a missing value from an unknown option. */
static void forms_make(const option_spec_t *specs, struct option *longs,
                       char *letters)
{
    int n = 0;

    *letters++ = ':';
    for (; specs[n].name != NULL; n++) {
        int takes = specs[n].kind != OPTION_FLAG;
        longs[n] = (struct option){.name = specs[n].name,
                                   .has_arg = takes ? required_argument
                                                    : no_argument,
                                   .val = OPTION_BASE + n};
        if (specs[n].letter != 0)
            *letters++ = (char)specs[n].letter;
        if (specs[n].letter != 0 && takes)
            *letters++ = ':';
    }
    *letters = '\0';
    longs[n] = (struct option){0};
}

static const option_spec_t *spec_of(const option_spec_t *specs, int value)
{
    if (value >= OPTION_BASE)
        return &specs[value - OPTION_BASE];
    for (; specs->name != NULL; specs++)
        if (specs->letter == value)
            return specs;
    return NULL;
}

static int value_read(const invocation_t *in, const option_spec_t *spec,
                      void *field)
{
    double number = 0;
    int code = EXIT_DONE;

    switch (spec->kind) {
    case OPTION_FLAG:
        *(bool *)field = true;
        break;
    case OPTION_COUNT:
        code = number_read(in, spec, &number);
        *(uint32_t *)field = (uint32_t)number;
        break;
    case OPTION_REAL:
        code = number_read(in, spec, field);
        break;
    case OPTION_TEXT:
        *(const char **)field = optarg;
        break;
    case OPTION_CHOICE:
        code = choice_read(in, spec, field);
        break;
    case OPTION_LIST:
        code = list_append(in, spec, field);
        break;
    }
    return code;
}

static int number_read(const invocation_t *in, const option_spec_t *spec,
                       double *number_p)
{
    bool whole = spec->kind == OPTION_COUNT;
    char *end;
    double number;

    errno = 0;
    number = strtod(optarg, &end);
    if (end == optarg || *end != '\0' || errno != 0 || !isfinite(number) ||
        (whole && number != floor(number)))
        return command_refuse(in, "--%s takes a %snumber, not '%s'",
                              spec->name, whole ? "whole " : "", optarg);
    if (number < spec->least || number > spec->most)
        return command_refuse(in, "--%s takes %.10g to %.10g, not %s",
                              spec->name, spec->least, spec->most, optarg);
    *number_p = number;
    return EXIT_DONE;
}

static int choice_read(const invocation_t *in, const option_spec_t *spec,
                       uint32_t *choice_p)
{
    for (uint32_t i = 0; spec->choices[i] != NULL; i++)
        if (strcmp(spec->choices[i], optarg) == 0) {
            *choice_p = i;
            return EXIT_DONE;
        }
    return command_refuse(in, "--%s takes %s, not '%s'", spec->name,
                          spec->argument, optarg);
}

static int list_append(const invocation_t *in, const option_spec_t *spec,
                       argument_list_t *list)
{
    struct argument *items =
        realloc(list->items, (list->count + 1) * sizeof(*items));

    if (items == NULL) {
        failure(COTERIE_ERR_NO_MEMORY, "out of memory");
        return command_fail(in);
    }
    items[list->count].option = spec->name;
    items[list->count].text = optarg;
    list->items = items;
    list->count++;
    return EXIT_DONE;
}

/* Options that share one list name the same field: free it once. */
static void options_free(const option_spec_t *specs, char *options)
{
    for (; specs->name != NULL; specs++)
        if (specs->kind == OPTION_LIST) {
            argument_list_t *list = (void *)(options + specs->offset);
            free(list->items);
            list->items = NULL;
        }
}

static int operands_check(const invocation_t *in)
{
    const command_t *command = in->command;

    if (in->operand_count < command->operands_least)
        return command_refuse(in, "needs %s", command->operands);
    if (in->operand_count > command->operands_most)
        return command_refuse(in, "what is '%s' for?",
                              in->operands[command->operands_most]);
    return EXIT_DONE;
}
