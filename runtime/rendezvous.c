/* Every rank has one file, which it alone writes, whole, by renaming. It holds
 * the rank's life, drawn anew by each call; the lives it has seen of all
 * others; and its bytes. A file whose owner has seen our present life was
 * written during it, so that what earlier runs left is never believed, whoever
 * they were. A rank that has all bytes says so, and leaves when it knows that
 * all others have theirs: who is gone by then must have. */
#include "config.h"

#include <assert.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "base/error.h"
#include "base/file.h"
#include "runtime/rendezvous.h"
#include "runtime/transport.h"

enum {
    NS_PER_MS = 1000000,
    PAUSE_FIRST_NS = NS_PER_MS, /* between two looks, doubling, */
    PAUSE_LAST_NS = 32 * NS_PER_MS,
    NAME_DIGITS = 12 /* of a rank, behind the file's name */
};

static const char cell_magic[8] = "COTMEET1";

/* What a file holds; the bytes follow `seen`. */
typedef struct cell {
    char magic[8];
    uint32_t rank, rank_count;
    uint64_t size;
    uint64_t life;
    uint64_t done;   /* has all bytes */
    uint64_t seen[]; /* [rank_count]: lives; 0 = none */
} cell_t;

/* What is known of another rank. */
typedef struct guest {
    bool here; /* its bytes are, from its present life, */
    bool done; /* and it has everyone's */
    bool stale; /* there is a file, but it has not seen us */
} guest_t;

typedef struct meeting {
    const coterie_rendezvous_t *how;
    const char *file;
    char *path; /* room for one */
    size_t cell_size;
    cell_t *mine;
    unsigned char *all;
    guest_t *guests; /* [rank_count] */
} meeting_t;

static bool variable_read(const char *name, uint32_t *value_p,
                          coterie_status_t *status_p);
static coterie_status_t meeting_open(meeting_t *m, const void *mine);
static void meeting_close(meeting_t *m);
static coterie_status_t path_check(meeting_t *m);
static coterie_status_t meet(meeting_t *m);
static bool guest_visit(meeting_t *m, uint32_t rank);
static coterie_status_t cell_read(const meeting_t *m, uint32_t rank,
                                  cell_t **cell_p);
static coterie_status_t cell_write(const meeting_t *m);
static bool everyone(const meeting_t *m, bool done);
static coterie_status_t missing(const meeting_t *m);
static unsigned char *bytes_of(const meeting_t *m, cell_t *cell);
static const char *path_of(const meeting_t *m, uint32_t rank);

coterie_status_t coterie_launch_read(coterie_launch_t *launch)
{
    static const char *const launchers[][3] = {
        {"RANK", "WORLD_SIZE", "LOCAL_RANK"},
        {"SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"},
        {"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE",
         "OMPI_COMM_WORLD_LOCAL_RANK"},
        {"PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"}};
    const size_t count = sizeof(launchers) / sizeof(launchers[0]);
    coterie_status_t status = COTERIE_OK;
    coterie_launch_t read = {0};

    for (size_t i = 0; i < count; i++) {
        const char *const *names = launchers[i];

        if (!variable_read(names[0], &read.rank, &status) ||
            !variable_read(names[1], &read.rank_count, &status))
            continue;
        if (!variable_read(names[2], &read.local_rank, &status))
            read.local_rank = read.rank; /* one machine */
        if (status == COTERIE_OK && read.rank >= read.rank_count)
            status = coterie_fail(COTERIE_ERR_INVALID, "%s=%u with %s=%u",
                                  names[0], read.rank, names[1],
                                  read.rank_count);
        if (status == COTERIE_OK)
            *launch = read;
        return status;
    }
    return coterie_fail(COTERIE_ERR_NOT_FOUND,
                        "no launcher says which rank this is: torchrun, srun "
                        "or mpirun do, or RANK and WORLD_SIZE");
}

coterie_status_t coterie_rendezvous(const coterie_rendezvous_t *how,
                                    const void *mine, void *all)
{
    meeting_t m = {.how = how, .file = how->file};
    coterie_status_t status;

    assert(how->rank < how->rank_count && how->size > 0);
    if (how->rank_count == 1) {
        memcpy(all, mine, how->size);
        return COTERIE_OK;
    }
    if (m.file == NULL)
        m.file = getenv("COTERIE_RENDEZVOUS");
    if (m.file == NULL || m.file[0] == '\0')
        return coterie_fail(COTERIE_ERR_NOT_FOUND,
                            "rank %u cannot find the others: "
                            "COTERIE_RENDEZVOUS must name a file in a "
                            "directory that all ranks share",
                            how->rank);
    status = meeting_open(&m, mine);
    if (status == COTERIE_OK)
        status = path_check(&m);
    if (status == COTERIE_OK) {
        status = meet(&m);
        unlink(path_of(&m, how->rank));
    }
    if (status == COTERIE_OK)
        memcpy(all, m.all, how->rank_count * how->size);
    meeting_close(&m);
    return status;
}

/* Whether there is such a variable; it may be wrong. */
static bool variable_read(const char *name, uint32_t *value_p,
                          coterie_status_t *status_p)
{
    const char *text = getenv(name);
    char *end = NULL;
    unsigned long value;

    if (text == NULL)
        return false;
    errno = 0;
    value = strtoul(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end != '\0' || errno != 0 ||
        value > UINT16_MAX)
        *status_p = coterie_fail(COTERIE_ERR_INVALID,
                                 "%s=%s: 0 to %d make sense", name, text,
                                 UINT16_MAX);
    *value_p = (uint32_t)value;
    return true;
}

static coterie_status_t meeting_open(meeting_t *m, const void *mine)
{
    const coterie_rendezvous_t *how = m->how;
    const size_t lives = how->rank_count * sizeof(m->mine->seen[0]);

    m->cell_size = sizeof(*m->mine) + lives + how->size;
    m->path = malloc(strlen(m->file) + NAME_DIGITS);
    m->mine = calloc(1, m->cell_size);
    m->all = malloc(how->rank_count * how->size);
    m->guests = calloc(how->rank_count, sizeof(*m->guests));
    if (m->path == NULL || m->mine == NULL || m->all == NULL ||
        m->guests == NULL)
        return coterie_fail_memory(how->rank_count * how->size,
                                   "a rendezvous");
    memcpy(m->mine->magic, cell_magic, sizeof(cell_magic));
    m->mine->rank = how->rank;
    m->mine->rank_count = how->rank_count;
    m->mine->size = how->size;
    while (m->mine->life == 0)
        if (getrandom(&m->mine->life, sizeof(m->mine->life), 0) < 0 &&
            errno != EINTR)
            return coterie_fail(COTERIE_ERR_IO, "getrandom: %s",
                                strerror(errno));
    memcpy(bytes_of(m, m->mine), mine, how->size);
    memcpy(m->all + how->rank * how->size, mine, how->size);
    m->guests[how->rank] = (guest_t){.here = true, .done = true};
    return COTERIE_OK;
}

static void meeting_close(meeting_t *m)
{
    free(m->path);
    free(m->mine);
    free(m->all);
    free(m->guests);
}

/* Ours will be replaced, if it is one of an earlier run's. */
static coterie_status_t path_check(meeting_t *m)
{
    const char *path = path_of(m, m->how->rank);
    char magic[sizeof(cell_magic)] = "";
    FILE *stream = fopen(path, "rb");
    size_t read;

    if (stream == NULL)
        return COTERIE_OK; /* if it is not because there is none, writing it
                              will say why */
    read = fread(magic, 1, sizeof(magic), stream);
    fclose(stream);
    if (read == sizeof(magic) && memcmp(magic, cell_magic, read) == 0)
        return COTERIE_OK;
    return coterie_fail(COTERIE_ERR_EXISTS,
                        "%s: exists and is no rendezvous of ours; name "
                        "another file",
                        path);
}

static coterie_status_t meet(meeting_t *m)
{
    const uint64_t until =
        coterie_now_ns() + (uint64_t)m->how->deadline_ms * NS_PER_MS;
    struct timespec pause = {0, PAUSE_FIRST_NS};
    coterie_status_t status = cell_write(m);

    while (status == COTERIE_OK) {
        bool changed = false;

        for (uint32_t r = 0; r < m->how->rank_count; r++)
            if (r != m->how->rank && guest_visit(m, r))
                changed = true;
        if (!m->mine->done && everyone(m, false)) {
            m->mine->done = 1;
            changed = true;
        }
        if (changed)
            status = cell_write(m);
        if (m->mine->done && everyone(m, true))
            break;
        if (coterie_now_ns() >= until)
            return missing(m);
        nanosleep(&pause, NULL);
        pause.tv_nsec = pause.tv_nsec < PAUSE_LAST_NS ? pause.tv_nsec * 2
                                                      : PAUSE_LAST_NS;
    }
    return status;
}

/* Looks for what a rank says; whether we have something new to say. Once we
 * have everything, a rank whose file is gone, or of its next life, was done. */
static bool guest_visit(meeting_t *m, uint32_t rank)
{
    guest_t *guest = &m->guests[rank];
    cell_t *cell = NULL;
    const coterie_status_t status = cell_read(m, rank, &cell);
    uint64_t *seen = &m->mine->seen[rank];
    bool changed = false;

    if (m->mine->done) {
        guest->done = guest->done || status == COTERIE_ERR_NOT_FOUND ||
                      status == COTERIE_ERR_MISMATCH ||
                      (status == COTERIE_OK &&
                       (cell->life != *seen || cell->done));
    } else if (status == COTERIE_OK) {
        changed = *seen != cell->life;
        *seen = cell->life;
        guest->here = cell->seen[m->how->rank] == m->mine->life;
        guest->stale = !guest->here;
        if (guest->here)
            memcpy(m->all + rank * m->how->size, bytes_of(m, cell),
                   m->how->size);
    }
    free(cell);
    return changed;
}

/* Other sizes are another run's, and as good as no file. */
static coterie_status_t cell_read(const meeting_t *m, uint32_t rank,
                                  cell_t **cell_p)
{
    void *data = NULL;
    size_t size = 0;
    const cell_t *cell;
    coterie_status_t status =
        coterie_file_read(path_of(m, rank), m->cell_size, &data, &size);

    cell = data;
    if (status == COTERIE_OK && size == m->cell_size &&
        memcmp(cell->magic, cell_magic, sizeof(cell_magic)) == 0 &&
        cell->rank == rank && cell->rank_count == m->how->rank_count &&
        cell->size == m->how->size) {
        *cell_p = data;
        return COTERIE_OK;
    }
    free(data);
    if (status != COTERIE_OK && status != COTERIE_ERR_FORMAT)
        return status;
    m->guests[rank].stale = true;
    return COTERIE_ERR_MISMATCH;
}

static coterie_status_t cell_write(const meeting_t *m)
{
    coterie_output_t output = {0};
    coterie_status_t status =
        coterie_output_open(path_of(m, m->how->rank), 1, &output);

    if (status == COTERIE_OK)
        status = coterie_output_write(&output, m->mine, m->cell_size);
    if (status == COTERIE_OK)
        status = coterie_output_commit(&output);
    if (status != COTERIE_OK)
        coterie_output_abandon(&output);
    return status;
}

static bool everyone(const meeting_t *m, bool done)
{
    for (uint32_t r = 0; r < m->how->rank_count; r++)
        if (!(done ? m->guests[r].done : m->guests[r].here))
            return false;
    return true;
}

static coterie_status_t missing(const meeting_t *m)
{
    uint32_t first = m->how->rank_count, count = 0;

    for (uint32_t r = m->how->rank_count; r-- > 0;)
        if (!(m->mine->done ? m->guests[r].done : m->guests[r].here)) {
            first = r;
            count++;
        }
    return coterie_fail(
        COTERIE_ERR_TIMEOUT,
        "rank %u: %u of %u ranks did not come to %s within %u ms; rank %u %s",
        m->how->rank, count, m->how->rank_count, m->file, m->how->deadline_ms,
        first,
        m->guests[first].stale
            ? "left a file there in another run, or does not answer"
            : "was never there");
}

static unsigned char *bytes_of(const meeting_t *m, cell_t *cell)
{
    return (unsigned char *)(cell->seen + m->how->rank_count);
}

static const char *path_of(const meeting_t *m, uint32_t rank)
{
    snprintf(m->path, strlen(m->file) + NAME_DIGITS, "%s.%u", m->file, rank);
    return m->path;
}
