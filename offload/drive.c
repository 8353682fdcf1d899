#include "config.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <coterie/host.h>

#include "base/error.h"
#include "experts/model.h"
#include "experts/store.h"
#include "offload/reader.h"
#include "offload/reader_open.h"

enum {
    MIB = 1 << 20,
    DEPTHS = 4,
    ROUNDS = 3,
    WAITS = 15,
    SLOTS = 16,
    PIECES = 16,                 /* of bare reads, of the largest requests */
    ARENA = PIECES * 4 * MIB,
    FOLDER_SIZE = 128 * MIB,     /* of the temporary file, */
    FOLDER_RECORD = 4 * MIB,     /* read as if it had such records */
    READ_MOST = 512 * MIB        /* bytes of records, if time allows */
};

static const uint32_t requests[] = {MIB, 2 * MIB, 4 * MIB};
static const uint32_t depths[DEPTHS] = {2, 4, 8, 16};
static const double bare_s = 0.04; /* of one setting, in each round */
static const double records_s = 0.5;

enum { REQUESTS = sizeof(requests) / sizeof(requests[0]) };

/* What is read. */
typedef struct drive {
    coterie_datafile_t file;
    coterie_extent_t (*extent)(const struct drive *drive, uint32_t record);
    const coterie_model_t *model;
    uint32_t file_index; /* of the model's */
    uint32_t record_count, expert_count;
    uint64_t record_size;
    coterie_arena_t arena;
    uint64_t state; /* of the draws */

    coterie_reader_t *reader;
    coterie_read_t reads[SLOTS];
    pthread_mutex_t mutex; /* guards what follows */
    pthread_cond_t changed;
    uint64_t most; /* bytes of a record that are read */
    uint64_t left; /* records to begin, */
    double until;  /* and when not to any more */
    double bytes;  /* read */
    uint32_t under_way;
    const coterie_read_t *failed;
} drive_t;

static coterie_extent_t store_extent(const drive_t *drive, uint32_t record);
static coterie_extent_t folder_extent(const drive_t *drive, uint32_t record);
static coterie_status_t folder_open(const char *folder, drive_t *drive);
static coterie_status_t file_fill(const char *folder, int file);
static coterie_status_t examine(drive_t *drive, coterie_drive_t *found);
static coterie_status_t bare_examine(drive_t *drive, coterie_drive_t *found);
static void setting_measure(drive_t *drive, coterie_io_t *io, size_t setting,
                            double *rate_p);
static uint32_t request_size(const drive_t *drive, size_t setting);
static bool bare_begin(drive_t *drive, coterie_io_t *io,
                       coterie_piece_t *piece);
static coterie_status_t reader_examine(drive_t *drive, coterie_drive_t *found);
static double records_read(drive_t *drive);
static double waits_read(drive_t *drive);
static void record_start(drive_t *drive, coterie_read_t *read);
static bool record_draw(drive_t *drive, uint32_t *record_p);
static void record_done(void *arg, coterie_read_t *read);
static void records_await(drive_t *drive);
static uint64_t draw(drive_t *drive, uint64_t bound);
static int compare(const void *left, const void *right);
static double median(double *values, size_t count);
static double seconds_now(void);

uint32_t coterie_drive_count(const coterie_model_t *model)
{
    uint32_t count = 0;

    while (coterie_store_file(model->source, count) != NULL)
        count++;
    return count;
}

coterie_status_t coterie_drive_examine(const coterie_model_t *model,
                                       uint32_t file, coterie_drive_t *found)
{
    coterie_model_config_t config = {.size = sizeof(config)};
    coterie_expert_format_t format;
    drive_t drive = {.model = model,
                     .extent = store_extent,
                     .file_index = file};
    uint32_t count, record;

    if (model == NULL || found == NULL)
        return coterie_fail(COTERIE_ERR_INVALID,
                            "coterie_drive_examine: an argument is NULL");
    count = coterie_drive_count(model);
    if (count == 0)
        return coterie_fail(COTERIE_ERR_UNSUPPORTED,
                            "%s: not an expert store; make one with `coterie "
                            "pack`, or examine a folder",
                            model->source->path);
    coterie_model_config(model, &config);
    coterie_model_expert_format(model, &format);
    drive.expert_count = config.experts;
    drive.record_count = config.moe_layers * config.experts;
    drive.record_size = format.record_size;
    if (file >= count || !record_draw(&drive, &record))
        return coterie_fail(COTERIE_ERR_INVALID,
                            "%s: no file %u of %u with an expert in it",
                            model->source->path, file, count);
    drive.file = *coterie_store_file(model->source, file);
    return examine(&drive, found);
}

coterie_status_t coterie_drive_examine_folder(const char *folder,
                                              coterie_drive_t *found)
{
    drive_t drive = {.extent = folder_extent,
                     .record_count = FOLDER_SIZE / FOLDER_RECORD,
                     .record_size = FOLDER_RECORD};
    coterie_status_t status;

    if (folder == NULL || found == NULL)
        return coterie_fail(COTERIE_ERR_INVALID,
                            "coterie_drive_examine_folder: an argument is "
                            "NULL");
    status = folder_open(folder, &drive);
    if (status == COTERIE_OK)
        status = examine(&drive, found);
    if (status == COTERIE_OK)
        snprintf(found->path, sizeof(found->path), "%s", folder);
    coterie_datafile_close(&drive.file);
    return status;
}

static coterie_extent_t store_extent(const drive_t *drive, uint32_t record)
{
    return coterie_store_extent(drive->model->source,
                                record / drive->expert_count,
                                record % drive->expert_count);
}

static coterie_extent_t folder_extent(const drive_t *drive, uint32_t record)
{
    return (coterie_extent_t){.offset = record * drive->record_size,
                              .size = drive->record_size};
}

/* Without a name it is gone whatever happens to us; the reader opens it again
 * by way of /proc. */
static coterie_status_t folder_open(const char *folder, drive_t *drive)
{
    char path[64];
    int file = open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

    if (file < 0) {
        size_t size = strlen(folder) + sizeof("/coterie.XXXXXX");
        char *name = malloc(size);

        if (name == NULL)
            return coterie_fail_memory(size, "a file name");
        snprintf(name, size, "%s/coterie.XXXXXX", folder);
        file = mkstemp(name);
        if (file >= 0)
            unlink(name);
        free(name);
    }
    if (file < 0)
        return coterie_fail(COTERIE_ERR_IO, "%s: takes no file: %s", folder,
                            strerror(errno));
    snprintf(path, sizeof(path), "/proc/self/fd/%d", file);
    drive->file = (coterie_datafile_t){strdup(path), file, FOLDER_SIZE};
    if (drive->file.path == NULL) {
        close(file);
        return coterie_fail_memory(sizeof(path), "a file name");
    }
    return file_fill(folder, file);
}

/* With bytes that no drive compresses. */
static coterie_status_t file_fill(const char *folder, int file)
{
    uint32_t *words = malloc(MIB), state = 1;
    int failed = 0;

    if (words == NULL)
        return coterie_fail_memory(MIB, "a piece of a file");
    for (size_t i = 0; i < FOLDER_SIZE / MIB && !failed; i++) {
        for (size_t w = 0; w < MIB / sizeof(*words); w++)
            words[w] = state = state * 2654435761u + 12345;
        failed = write(file, words, MIB) != MIB;
    }
    free(words);
    if (failed || fsync(file) != 0)
        return coterie_fail(COTERIE_ERR_IO, "%s: a file of %d bytes: %s",
                            folder, FOLDER_SIZE, strerror(errno));
    posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED);
    return COTERIE_OK;
}

static coterie_status_t examine(drive_t *drive, coterie_drive_t *found)
{
    coterie_drive_t made = {.size = sizeof(made),
                            .record_size = drive->record_size};
    coterie_status_t status;
    struct stat about;
    size_t arena = ARENA;

    snprintf(made.path, sizeof(made.path), "%s", drive->file.path);
    if (fstat(drive->file.descriptor, &about) == 0)
        made.device = about.st_dev;
    if (drive->record_size * 2 > arena)
        arena = (size_t)drive->record_size * 2;
    drive->state = 1;
    status = coterie_arena_create(arena, SIZE_MAX, &drive->arena);
    if (status == COTERIE_OK)
        status = bare_examine(drive, &made);
    if (status == COTERIE_OK)
        status = reader_examine(drive, &made);
    coterie_arena_destroy(&drive->arena);
    if (status == COTERIE_OK)
        *found = made;
    return status;
}

static coterie_status_t bare_examine(drive_t *drive, coterie_drive_t *found)
{
    coterie_io_setup_t setup = {.arena = &drive->arena,
                                .record_size = requests[REQUESTS - 1],
                                .depth = PIECES};
    double rates[REQUESTS * DEPTHS][ROUNDS];
    coterie_io_t *io;
    bool direct;
    coterie_status_t status = coterie_reader_file_open(
        &drive->file, &setup.descriptor, &direct);

    if (status != COTERIE_OK)
        return status;
    status = coterie_reader_io_open(&setup, direct, COTERIE_POLLING_NONE, &io);
    if (status == COTERIE_OK) {
        for (int round = 0; round < ROUNDS; round++)
            for (size_t i = 0; i < REQUESTS * DEPTHS; i++)
                setting_measure(drive, io, i, &rates[i][round]);
        io->ops->close(io);
    }
    close(setup.descriptor);
    found->direct = direct;
    for (size_t i = 0; i < REQUESTS * DEPTHS && status == COTERIE_OK; i++) {
        double rate = median(rates[i], ROUNDS);

        if (rate <= found->ceiling_gbs)
            continue;
        found->ceiling_gbs = rate;
        found->ceiling_request = request_size(drive, i);
        found->ceiling_depth = depths[i % DEPTHS];
    }
    return status;
}

/* A request that fails counts nothing: the reader will say what is wrong. */
static void setting_measure(drive_t *drive, coterie_io_t *io, size_t setting,
                            double *rate_p)
{
    coterie_piece_t pieces[PIECES] = {{0}};
    double start = seconds_now(), bytes = 0;
    uint32_t under_way = 0;

    for (uint32_t i = 0; i < depths[setting % DEPTHS]; i++) {
        pieces[i].size = request_size(drive, setting);
        pieces[i].data = drive->arena.data + (size_t)i * pieces[i].size;
        under_way += bare_begin(drive, io, &pieces[i]);
    }
    while (under_way > 0) {
        coterie_piece_t *piece = io->ops->wait(io, true);

        if (piece == NULL)
            continue;
        under_way--;
        bytes += piece->result == piece->size ? (double)piece->size : 0;
        if (seconds_now() - start < bare_s)
            under_way += bare_begin(drive, io, piece);
    }
    *rate_p = bytes * 1e-9 / (seconds_now() - start);
}

/* A small store has room for small requests only. */
static uint32_t request_size(const drive_t *drive, size_t setting)
{
    uint64_t whole =
        drive->file.size / COTERIE_STORE_BLOCK * COTERIE_STORE_BLOCK;
    uint32_t size = requests[setting / DEPTHS];

    return whole < size ? (uint32_t)whole : size;
}

static bool bare_begin(drive_t *drive, coterie_io_t *io,
                       coterie_piece_t *piece)
{
    uint64_t places =
        (drive->file.size - piece->size) / COTERIE_STORE_BLOCK + 1;

    piece->offset = draw(drive, places) * COTERIE_STORE_BLOCK;
    return io->ops->submit(io, piece);
}

static coterie_status_t reader_examine(drive_t *drive, coterie_drive_t *found)
{
    coterie_reader_options_t options = {.file = &drive->file,
                                        .arena = &drive->arena,
                                        .record_size = drive->record_size,
                                        .done = record_done,
                                        .arg = drive};
    coterie_status_t status;

    pthread_mutex_init(&drive->mutex, NULL);
    pthread_cond_init(&drive->changed, NULL);
    status = coterie_reader_create(&options, &drive->reader);
    if (status == COTERIE_OK) {
        found->reader_gbs = records_read(drive);
        found->wait_s = waits_read(drive);
        coterie_reader_describe(drive->reader, found->reading,
                                sizeof(found->reading));
        if (drive->failed != NULL)
            status = coterie_reader_explain(drive->reader, drive->failed);
    }
    coterie_reader_destroy(drive->reader);
    pthread_cond_destroy(&drive->changed);
    pthread_mutex_destroy(&drive->mutex);
    return status;
}

static double records_read(drive_t *drive)
{
    double start = seconds_now();
    size_t slots = drive->arena.size / drive->record_size;

    pthread_mutex_lock(&drive->mutex);
    drive->most = drive->record_size;
    drive->left = READ_MOST / drive->record_size + 1;
    drive->until = start + records_s;
    drive->bytes = 0;
    for (size_t i = 0; i < SLOTS && i < slots && drive->left > 0; i++) {
        drive->reads[i].data = drive->arena.data + i * drive->record_size;
        drive->under_way++;
        record_start(drive, &drive->reads[i]);
    }
    records_await(drive);
    pthread_mutex_unlock(&drive->mutex);
    return drive->bytes * 1e-9 / (seconds_now() - start);
}

/* One at a time: a MiB, or a whole record that is smaller. */
static double waits_read(drive_t *drive)
{
    double seconds[WAITS];

    for (int i = 0; i < WAITS && drive->failed == NULL; i++) {
        double start = seconds_now();

        pthread_mutex_lock(&drive->mutex);
        drive->most = MIB;
        drive->left = drive->under_way = 1;
        record_start(drive, &drive->reads[0]);
        records_await(drive);
        pthread_mutex_unlock(&drive->mutex);
        seconds[i] = seconds_now() - start;
    }
    return drive->failed == NULL ? median(seconds, WAITS) : 0;
}

static void record_start(drive_t *drive, coterie_read_t *read)
{
    uint32_t record;
    coterie_extent_t extent;
    bool found = record_draw(drive, &record);

    assert(found);
    (void)found;
    extent = drive->extent(drive, record);
    drive->left--;
    read->layer = drive->expert_count > 0 ? record / drive->expert_count : 0;
    read->expert = drive->expert_count > 0 ? record % drive->expert_count
                                           : record;
    read->offset = extent.offset;
    read->size = extent.size < drive->most ? extent.size : drive->most;
    read->hashes = extent.hashes;
    coterie_reader_start(drive->reader, read, COTERIE_URGENCY_DEMAND);
}

/* One in the file looked at: the next after a random one. */
static bool record_draw(drive_t *drive, uint32_t *record_p)
{
    uint32_t begin = (uint32_t)draw(drive, drive->record_count);

    for (uint32_t i = 0; i < drive->record_count; i++) {
        uint32_t record = (begin + i) % drive->record_count;

        if (drive->extent(drive, record).file != drive->file_index)
            continue;
        *record_p = record;
        return true;
    }
    return false;
}

static void record_done(void *arg, coterie_read_t *read)
{
    drive_t *drive = arg;

    pthread_mutex_lock(&drive->mutex);
    if (read->status != COTERIE_OK && drive->failed == NULL)
        drive->failed = read;
    drive->bytes += (double)read->size;
    if (drive->left > 0 && drive->failed == NULL &&
        seconds_now() < drive->until)
        record_start(drive, read);
    else
        drive->under_way--;
    pthread_cond_signal(&drive->changed);
    pthread_mutex_unlock(&drive->mutex);
}

static void records_await(drive_t *drive)
{
    while (drive->under_way > 0)
        pthread_cond_wait(&drive->changed, &drive->mutex);
}

static uint64_t draw(drive_t *drive, uint64_t bound)
{
    drive->state = drive->state * 6364136223846793005u + 1442695040888963407u;
    return (drive->state >> 33) % bound;
}

static int compare(const void *left, const void *right)
{
    double a = *(const double *)left, b = *(const double *)right;

    return (a > b) - (a < b);
}

/* Of an odd number; sorts them. */
static double median(double *values, size_t count)
{
    qsort(values, count, sizeof(*values), compare);
    return values[count / 2];
}

static double seconds_now(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}
