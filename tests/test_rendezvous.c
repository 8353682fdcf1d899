#include "config.h"

#include <dirent.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include "runtime/rendezvous.h"

enum { RANKS = 5, SIZE = 128, LONG_MS = 30000, SHORT_MS = 60 };

typedef struct rank {
    pthread_t thread;
    coterie_rendezvous_t how;
    uint32_t rounds, value;
    coterie_status_t status;
    char line[512];
} rank_t;

static char directory[] = "/tmp/coterie-rendezvous-XXXXXX";
static char file[64];

static void place_make(void)
{
    cr_assert(ne(ptr, mkdtemp(directory), NULL));
    snprintf(file, sizeof(file), "%s/meet", directory);
}

static void place_remove(void)
{
    char command[128];

    snprintf(command, sizeof(command), "rm -rf '%s'", directory);
    cr_assert(eq(int, system(command), 0));
}

static uint32_t files_left(void)
{
    DIR *stream = opendir(directory);
    uint32_t count = 0;

    while (readdir(stream) != NULL)
        count++;
    closedir(stream);
    return count - 2; /* . and .. */
}

/* Tells everyone its value, and wants everyone's to be of this round. */
static void *rank_main(void *argument)
{
    rank_t *self = argument;

    for (uint32_t i = 0; i < self->rounds; i++) {
        uint32_t mine[SIZE / sizeof(uint32_t)] = {self->value + i};
        uint32_t all[RANKS][SIZE / sizeof(uint32_t)];

        self->status = coterie_rendezvous(&self->how, mine, all);
        snprintf(self->line, sizeof(self->line), "%s", coterie_last_error());
        for (uint32_t r = 0;
             self->status == COTERIE_OK && r < self->how.rank_count; r++)
            if (all[r][0] != self->value - self->how.rank + r + i)
                self->status = COTERIE_ERR_CORRUPT;
        if (self->status != COTERIE_OK)
            break;
    }
    return NULL;
}

static rank_t rank_of(uint32_t rank, uint32_t value, uint32_t deadline_ms)
{
    return (rank_t){.how = {file, rank, RANKS, deadline_ms, SIZE},
                    .rounds = 1,
                    .value = value + rank};
}

static void ranks_run(rank_t *ranks, uint32_t count)
{
    for (uint32_t r = 0; r < count; r++)
        pthread_create(&ranks[r].thread, NULL, rank_main, &ranks[r]);
    for (uint32_t r = 0; r < count; r++)
        pthread_join(ranks[r].thread, NULL);
}

TestSuite(rendezvous, .init = place_make, .fini = place_remove);

Test(rendezvous, gives_everyone_everything_again_and_again)
{
    rank_t ranks[RANKS];

    for (uint32_t r = 0; r < RANKS; r++) {
        ranks[r] = rank_of(r, 100, LONG_MS);
        ranks[r].rounds = 6;
    }
    ranks_run(ranks, RANKS);
    for (uint32_t r = 0; r < RANKS; r++)
        cr_expect(eq(int, COTERIE_OK, ranks[r].status), "%s", ranks[r].line);
    cr_expect(eq(u32, files_left(), 0));
}

Test(rendezvous, alone_needs_no_file)
{
    const coterie_rendezvous_t how = {NULL, 0, 1, SHORT_MS, 4};
    uint32_t mine = 7, all = 0;

    cr_expect(eq(int, COTERIE_OK, coterie_rendezvous(&how, &mine, &all)));
    cr_expect(eq(u32, all, 7));
}

/* What a run leaves that is killed while its ranks wait for the last one. */
static void leave_files(void)
{
    pid_t children[RANKS - 1];

    for (uint32_t r = 0; r < RANKS - 1; r++) {
        children[r] = fork();
        if (children[r] == 0) {
            rank_t rank = rank_of(r, 100, LONG_MS);

            rank_main(&rank);
            _exit(0);
        }
    }
    for (uint32_t r = 0; r < RANKS - 1; r++) {
        char path[80];

        snprintf(path, sizeof(path), "%s.%u", file, r);
        while (access(path, R_OK) != 0)
            usleep(1000);
    }
    for (uint32_t r = 0; r < RANKS - 1; r++) {
        kill(children[r], SIGKILL);
        waitpid(children[r], NULL, 0);
    }
}

Test(rendezvous, believes_nothing_of_an_earlier_run)
{
    rank_t ranks[RANKS];

    leave_files();
    for (uint32_t r = 0; r < RANKS; r++)
        ranks[r] = rank_of(r, 900, LONG_MS);
    ranks_run(ranks, RANKS);
    for (uint32_t r = 0; r < RANKS; r++)
        cr_expect(eq(int, COTERIE_OK, ranks[r].status), "%s", ranks[r].line);
}

Test(rendezvous, says_what_it_found_of_an_earlier_run)
{
    rank_t last = rank_of(RANKS - 1, 900, SHORT_MS);

    leave_files();
    ranks_run(&last, 1);
    cr_expect(eq(int, COTERIE_ERR_TIMEOUT, last.status));
    cr_expect(ne(ptr, strstr(last.line, "rank 0 left a file"), NULL), "%s",
              last.line);
}

Test(rendezvous, names_a_rank_that_did_not_come)
{
    rank_t rank = rank_of(0, 100, SHORT_MS);

    ranks_run(&rank, 1);
    cr_expect(eq(int, COTERIE_ERR_TIMEOUT, rank.status));
    cr_expect(ne(ptr, strstr(rank.line, "4 of 5 ranks did not come"), NULL));
    cr_expect(ne(ptr, strstr(rank.line, "rank 1 was never there"), NULL));
    cr_expect(eq(u32, files_left(), 0));
}

Test(rendezvous, a_world_of_another_size_is_another_run)
{
    rank_t smaller = rank_of(0, 100, SHORT_MS);

    smaller.how.rank_count = RANKS - 1;
    leave_files();
    ranks_run(&smaller, 1);
    cr_expect(eq(int, COTERIE_ERR_TIMEOUT, smaller.status));
    cr_expect(ne(ptr, strstr(smaller.line, "in another run"), NULL));
}

Test(rendezvous, leaves_a_foreign_file_alone)
{
    rank_t rank = rank_of(0, 100, SHORT_MS);
    char path[80], text[16] = "";
    FILE *stream;

    snprintf(path, sizeof(path), "%s.0", file);
    stream = fopen(path, "w");
    fputs("mine", stream);
    fclose(stream);
    ranks_run(&rank, 1);
    cr_expect(eq(int, COTERIE_ERR_EXISTS, rank.status));
    stream = fopen(path, "r");
    cr_expect(ne(ptr, fgets(text, sizeof(text), stream), NULL));
    fclose(stream);
    cr_expect(eq(str, text, "mine"));
}

Test(rendezvous, needs_a_name_and_a_directory)
{
    rank_t rank = rank_of(0, 100, SHORT_MS);

    unsetenv("COTERIE_RENDEZVOUS");
    rank.how.file = NULL;
    ranks_run(&rank, 1);
    cr_expect(eq(int, COTERIE_ERR_NOT_FOUND, rank.status));
    cr_expect(ne(ptr, strstr(rank.line, "COTERIE_RENDEZVOUS"), NULL));
    setenv("COTERIE_RENDEZVOUS", "/no/such/directory/meet", 1);
    ranks_run(&rank, 1);
    cr_expect(eq(int, COTERIE_ERR_IO, rank.status));
}

static const char *const launcher_names[] = {
    "RANK", "WORLD_SIZE", "LOCAL_RANK", "SLURM_PROCID",
    "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "OMPI_COMM_WORLD_RANK",
    "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "PMI_RANK",
    "PMI_SIZE", "MPI_LOCALRANKID"};
enum { NAMES = sizeof(launcher_names) / sizeof(launcher_names[0]) };

Test(rendezvous, knows_its_rank_from_each_launcher)
{
    coterie_launch_t launch = {9, 9, 9};

    for (int i = 0; i < NAMES; i++)
        unsetenv(launcher_names[i]);
    cr_expect(eq(int, COTERIE_ERR_NOT_FOUND, coterie_launch_read(&launch)));
    cr_expect(eq(u32, launch.rank, 9));
    for (int i = NAMES - 3; i >= 0; i -= 3) { /* earlier ones win */
        char rank[16];

        snprintf(rank, sizeof(rank), "%d", i);
        setenv(launcher_names[i], rank, 1);
        setenv(launcher_names[i + 1], "16", 1);
        setenv(launcher_names[i + 2], "2", 1);
        cr_expect(eq(int, COTERIE_OK, coterie_launch_read(&launch)));
        cr_expect(eq(u32, launch.rank, (uint32_t)i));
        cr_expect(eq(u32, launch.rank_count, 16));
        cr_expect(eq(u32, launch.local_rank, 2));
    }
}

Test(rendezvous, refuses_a_launcher_that_makes_no_sense)
{
    static const char *const wrong[][2] = {
        {"4", "4"}, {"-1", "4"}, {"x", "4"}, {"0", ""}, {"0", "4x"}};
    coterie_launch_t launch = {9, 9, 9};

    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        setenv("RANK", wrong[i][0], 1);
        setenv("WORLD_SIZE", wrong[i][1], 1);
        cr_expect(
            eq(int, COTERIE_ERR_INVALID, coterie_launch_read(&launch)));
        cr_expect(eq(u32, launch.rank, 9));
    }
}
