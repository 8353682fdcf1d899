#include "config.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "tools/command.h"

static const command_t *const commands[] = {
    &command_pack, &command_run,  &command_trace,  &command_place,
    &command_replace,
    &command_sim,  &command_info, &command_convert, &command_cache,
    &command_predict, &command_doctor};

enum { COMMAND_COUNT = sizeof(commands) / sizeof(commands[0]) };

static void streams_hold(void);
static int subcommand(int argc, char **argv);
static int help(int argc, char **argv);
static void overview(void);
static const command_t *find(const char *name);
static int unknown(const char *name);

int main(int argc, char **argv)
{
    int code;

    streams_hold();
    code = subcommand(argc, argv);
    if ((fflush(stdout) != 0 || ferror(stdout)) && code == EXIT_DONE) {
        fprintf(stderr, "coterie: standard output: not written\n");
        code = EXIT_FAILED;
    }
    return code;
}

/* A file that is opened must not get the number of a closed stream, or what is
 * printed would go into it. Read-only, so that printing still fails. */
static void streams_hold(void)
{
    int file;

    do
        file = open("/dev/null", O_RDONLY);
    while (file >= 0 && file <= STDERR_FILENO);
    if (file >= 0)
        close(file);
}

static int subcommand(int argc, char **argv)
{
    const command_t *command;

    if (argc < 2) {
        fprintf(stderr, "coterie: which subcommand? (see 'coterie help')\n");
        return EXIT_USAGE;
    }
    if (strcmp(argv[1], "help") == 0 || strcmp(argv[1], "--help") == 0)
        return help(argc, argv);
    if (strcmp(argv[1], "--version") == 0) {
        printf("coterie %s\n", coterie_version());
        return EXIT_DONE;
    }
    command = find(argv[1]);
    if (command == NULL)
        return unknown(argv[1]);
    if (argc > 2 && strcmp(argv[2], "--help") == 0) {
        command_help(command);
        return EXIT_DONE;
    }
    return command_start(command, argc - 1, argv + 1);
}

static int help(int argc, char **argv)
{
    const command_t *command;

    if (argc < 3) {
        overview();
        return EXIT_DONE;
    }
    command = find(argv[2]);
    if (command == NULL)
        return unknown(argv[2]);
    if (argc > 3) {
        fprintf(stderr, "coterie help: one subcommand, not '%s' as well\n",
                argv[3]);
        return EXIT_USAGE;
    }
    command_help(command);
    return EXIT_DONE;
}

static void overview(void)
{
    printf("Serves Mixture-of-Experts models over many ranks.\n\n"
           "usage: coterie SUBCOMMAND [OPTION]...\n\n");
    for (int i = 0; i < COMMAND_COUNT; i++)
        printf("  %-8s %s\n", commands[i]->name, commands[i]->summary);
    printf("\n'coterie help SUBCOMMAND' tells more; 'coterie --version' the "
           "version.\n"
           "Exit status: 0 done, 1 failed, 2 not understood.\n");
}

static const command_t *find(const char *name)
{
    for (int i = 0; i < COMMAND_COUNT; i++)
        if (strcmp(commands[i]->name, name) == 0)
            return commands[i];
    return NULL;
}

static int unknown(const char *name)
{
    fprintf(stderr, "coterie: no subcommand '%s' (see 'coterie help')\n",
            name);
    return EXIT_USAGE;
}
