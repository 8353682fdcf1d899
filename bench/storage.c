/* The reader of expert records against what the drive gives at best.
 *
 * usage: storage [FOLDER] [MIB]
 *
 * Writes a file of MIB mebibytes (512) to FOLDER (.), reads it in records of
 * several sizes and removes it. First a sweep: direct reads by a bare io_uring,
 * without checksums, for several block sizes and depths. Its best settings then
 * take turns with the reader, with and without checksums, with fio if there is
 * one, and with page faults in a mapping, as the kernel reads ahead and with
 * its advice that access is random; a ceiling is the best median. Drives
 * of virtual machines change their rates from second to second, so shares are
 * medians of those within a round. Then how long a read of 1 MiB takes that
 * somebody waits for while guesses keep the drive busy; and how fast a thread
 * goes through memory (which is what computing experts is) beside the reader,
 * and through what caches hold, which tells the processor's time from memory's.
 * One JSON object a line. */
#include "config.h"

#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include <coterie/coterie.h>

#include "bench/bench.h"
#include "bench/limits.h"
#include "bench/storage_raw.h"
#include "experts/store.h"
#include "offload/reader.h"

enum {
    SWEEPS = 5,
    ROUNDS = 15,
    SLOW_ROUNDS = 5, /* of sides that are far behind */
    BEST = 2, /* settings of the sweep that go on */
    MIB = 1 << 20,
    RECORD_MOST = 28 * MIB,
    ODD = 2727936, /* 2.6 MiB in whole pages */
    TAIL = ODD % MIB,
    ARENA = 4 * RECORD_MOST,
    SLOTS = 64,       /* records under way or waiting, if they fit */
    SWEEP = 64 * MIB, /* bytes of one measurement */
    TURN = 336 * MIB,
    FAULTS = 28 * MIB,
    WAITS = 400, /* demands of a round */
    WAIT_ROUNDS = 7,
    COMPUTE = 256 * MIB, /* bytes of memory gone through, in stretches */
    STRETCH = 64 * MIB,
    CACHED = 512 * 1024, /* or of a cache, */
    PASSES = 20,         /* as many bytes as that often */
    STATE_STEP = 2654435761u
};

static const size_t record_sizes[] = {MIB, ODD, 9 * MIB, RECORD_MOST};
static const size_t blocks[] = {MIB / 2, MIB, 2 * MIB, 4 * MIB};
static const unsigned depths[] = {1, 2, 4, 8, 16};
enum {
    RECORD_SIZES = sizeof(record_sizes) / sizeof(record_sizes[0]),
    BLOCKS = sizeof(blocks) / sizeof(blocks[0]),
    DEPTHS = sizeof(depths) / sizeof(depths[0])
};

typedef struct setting {
    size_t block;
    unsigned depth;
    double rate[SWEEPS];
} setting_t;

/* GB/s by round, but for the processor's seconds per GB. */
typedef struct sides {
    double reader[ROUNDS], bare[ROUNDS]; /* with and without checksums */
    double cpu[ROUNDS], cpu_bare[ROUNDS];
    double raw[BEST][ROUNDS];
    double share[BEST][ROUNDS];
    double faults[SLOW_ROUNDS], random[SLOW_ROUNDS], fio[SLOW_ROUNDS];
} sides_t;

typedef struct bench {
    char path[4096];
    uint64_t size;
    uint64_t *hashes; /* [mebibyte of the file]: its checksum, */
    uint64_t *tails;  /* and that of its first TAIL bytes */
    coterie_datafile_t file;
    coterie_arena_t arena;
    setting_t settings[BLOCKS * DEPTHS]; /* the sweep's, the best first */
    coterie_reader_t *reader;
    coterie_read_t reads[SLOTS], wait;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    uint64_t read_hashes[SLOTS][RECORD_MOST / MIB];
    uint64_t left;      /* records to begin */
    unsigned under_way; /* records */
    bool waited;        /* wait is done */
    bool verified;      /* checksums are */
    size_t record;
} bench_t;

static int bench_open(bench_t *b, const char *folder, uint64_t size);
static int file_write(bench_t *b);
static coterie_status_t reader_open(bench_t *b);
static void read_done(void *arg, coterie_read_t *read);
static void read_next(bench_t *b, coterie_read_t *read,
                      coterie_urgency_t urgency);
static double reader_turn(bench_t *b, size_t record, double *cpu_p);
static void reader_begin(bench_t *b, size_t record, uint64_t count,
                         coterie_urgency_t urgency);
static void reader_end(bench_t *b);
static double cpu_seconds(void);
static int settings_sweep(bench_t *b);
static int faster_first(const void *left, const void *right);
static double raw_turn(const bench_t *b, const setting_t *how, size_t size);
static void record_compare(bench_t *b, size_t record);
static void sides_measure(bench_t *b, size_t record, int round,
                          sides_t *sides);
static double faults_turn(const bench_t *b, size_t record, bool random);
static void sides_print(const bench_t *b, size_t record, sides_t *sides);
static void waits_measure(bench_t *b);
static double wait_ms(bench_t *b);
static int compute_measure(bench_t *b);
static void compute_beside(bench_t *b, const coterie_arena_t *memory,
                           size_t size);
static double compute_rate(const coterie_arena_t *memory, size_t size);
static void bench_close(bench_t *b);

int main(int argc, char **argv)
{
    uint64_t size = argc > 2 ? strtoull(argv[2], NULL, 10) : 512;
    static bench_t b;
    int code = 1;

    if (size * MIB < TURN || size > 1024) {
        fprintf(stderr, "storage: from %d to 1024 MiB\n", TURN / MIB);
        return 2;
    }
    if (bench_open(&b, argc > 1 ? argv[1] : ".", size * MIB) == 0)
        code = settings_sweep(&b);
    if (code == 0) {
        for (size_t i = 0; i < RECORD_SIZES; i++)
            record_compare(&b, record_sizes[i]);
        waits_measure(&b);
        code = compute_measure(&b);
    }
    bench_close(&b);
    return code;
}

static int bench_open(bench_t *b, const char *folder, uint64_t size)
{
    coterie_status_t status;

    pthread_mutex_init(&b->mutex, NULL);
    pthread_cond_init(&b->changed, NULL);
    b->size = size;
    snprintf(b->path, sizeof(b->path), "%s/storage.bench", folder);
    b->hashes = calloc(size / MIB, sizeof(*b->hashes));
    b->tails = calloc(size / MIB, sizeof(*b->tails));
    status = coterie_arena_create(ARENA, SIZE_MAX, &b->arena);
    if (b->hashes == NULL || b->tails == NULL || status != COTERIE_OK ||
        file_write(b) != 0) {
        fprintf(stderr, "storage: no memory, or no %" PRIu64 " bytes of disk\n",
                size);
        return 1;
    }
    status = coterie_datafile_open(b->path, &b->file);
    if (status == COTERIE_OK)
        status = reader_open(b);
    if (status != COTERIE_OK)
        fprintf(stderr, "storage: %s\n", coterie_last_error());
    return status != COTERIE_OK;
}

/* Bytes that no drive compresses, out of the page cache in the end. */
static int file_write(bench_t *b)
{
    int file = open(b->path, O_WRONLY | O_CREAT | O_EXCL, 0600);
    uint32_t *words = (uint32_t *)b->arena.data, state = 1;
    int failed = file < 0;

    if (file < 0) {
        perror(b->path);
        b->path[0] = '\0'; /* whatever has that name is not ours to remove */
    }
    for (uint64_t i = 0; i < b->size / MIB && !failed; i++) {
        for (size_t w = 0; w < MIB / sizeof(*words); w++)
            words[w] = state = state * STATE_STEP + 12345;
        b->hashes[i] = coterie_store_hash(words, MIB);
        b->tails[i] = coterie_store_hash(words, TAIL);
        failed = write(file, words, MIB) != MIB;
    }
    failed = failed || fsync(file) != 0;
    if (file >= 0) {
        posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED);
        close(file);
    }
    return failed;
}

static coterie_status_t reader_open(bench_t *b)
{
    coterie_reader_options_t options = {.file = &b->file,
                                        .arena = &b->arena,
                                        .record_size = RECORD_MOST,
                                        .done = read_done,
                                        .arg = b};

    b->verified = true;
    return coterie_reader_create(&options, &b->reader);
}

/* Each finished record begins another one, as long as there are any. */
static void read_done(void *arg, coterie_read_t *read)
{
    bench_t *b = arg;

    if (read->status != COTERIE_OK) {
        coterie_reader_explain(b->reader, read);
        fprintf(stderr, "storage: %s\n", coterie_last_error());
        exit(1);
    }
    pthread_mutex_lock(&b->mutex);
    if (read == &b->wait)
        b->waited = true;
    else if (b->left > 0)
        read_next(b, read, read->urgency);
    else
        b->under_way--;
    if (b->waited || b->under_way == 0)
        pthread_cond_signal(&b->changed);
    pthread_mutex_unlock(&b->mutex);
}

/* Records begin at mebibytes, so that those of all sizes share checksums. */
static void read_next(bench_t *b, coterie_read_t *read,
                      coterie_urgency_t urgency)
{
    uint64_t *hashes = b->read_hashes[read - b->reads];
    size_t whole = b->record / MIB;
    uint64_t place = storage_raw_place(b->size, (whole + 1) * MIB) / MIB;

    b->left--;
    memcpy(hashes, b->hashes + place, whole * sizeof(*hashes));
    if (b->record % MIB != 0)
        hashes[whole] = b->tails[place + whole];
    read->size = b->record;
    read->offset = place * MIB;
    read->hashes = b->verified ? hashes : NULL;
    coterie_reader_start(b->reader, read, urgency);
}

/* GB/s; the processor's seconds for it, ours and the kernel's, in *cpu_p. */
static double reader_turn(bench_t *b, size_t record, double *cpu_p)
{
    double start = bench_seconds(), cpu = cpu_seconds();
    uint64_t count = TURN / record;
    double bytes = (double)(count * record);

    reader_begin(b, record, count, COTERIE_URGENCY_DEMAND);
    reader_end(b);
    *cpu_p = (cpu_seconds() - cpu) / bytes * 1e9;
    return bytes / (bench_seconds() - start) * 1e-9;
}

static void reader_begin(bench_t *b, size_t record, uint64_t count,
                         coterie_urgency_t urgency)
{
    pthread_mutex_lock(&b->mutex);
    b->record = record;
    b->left = count;
    for (size_t i = 0; i < SLOTS && (i + 1) * record <= ARENA && b->left > 0;
         i++) {
        b->reads[i].data = b->arena.data + i * record;
        b->under_way++;
        read_next(b, &b->reads[i], urgency);
    }
    pthread_mutex_unlock(&b->mutex);
}

static void reader_end(bench_t *b)
{
    pthread_mutex_lock(&b->mutex);
    while (b->under_way > 0)
        pthread_cond_wait(&b->changed, &b->mutex);
    pthread_mutex_unlock(&b->mutex);
}

static double cpu_seconds(void)
{
    struct rusage used;

    getrusage(RUSAGE_SELF, &used);
    return (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
           1e-6 * (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec);
}

static int settings_sweep(bench_t *b)
{
    for (int round = 0; round < SWEEPS; round++)
        for (size_t n = 0; n < BLOCKS * DEPTHS; n++) {
            setting_t *setting = &b->settings[n];

            setting->block = blocks[n / DEPTHS];
            setting->depth = depths[n % DEPTHS];
            setting->rate[round] = raw_turn(b, setting, SWEEP);
            if (setting->rate[round] <= 0) {
                fprintf(stderr, "storage: the bare reads failed\n");
                return 1;
            }
        }
    for (size_t n = 0; n < BLOCKS * DEPTHS; n++)
        bench_median(b->settings[n].rate, SWEEPS); /* sorts */
    qsort(b->settings, BLOCKS * DEPTHS, sizeof(*b->settings), faster_first);
    return 0;
}

static int faster_first(const void *left, const void *right)
{
    const setting_t *a = left, *b = right;

    return -bench_compare(&a->rate[SWEEPS / 2], &b->rate[SWEEPS / 2]);
}

/* GB/s, or less than 0. */
static double raw_turn(const bench_t *b, const setting_t *setting, size_t size)
{
    storage_ring_t how = {setting->block, setting->depth, b->arena.data,
                          ARENA};

    size = size / how.block * how.block;
    return (double)size * 1e-9 /
           storage_raw_ring(b->path, b->size, size, &how);
}

static void record_compare(bench_t *b, size_t record)
{
    sides_t sides;

    for (int round = 0; round < ROUNDS; round++)
        sides_measure(b, record, round, &sides);
    sides_print(b, record, &sides);
}

static void sides_measure(bench_t *b, size_t record, int round, sides_t *sides)
{
    for (size_t turn = 0; turn < BEST + 2; turn++) {
        size_t i = (turn + (size_t)round) % (BEST + 2);

        b->verified = i != BEST;
        if (i < BEST)
            sides->raw[i][round] = raw_turn(b, &b->settings[i], TURN);
        else if (b->verified)
            sides->reader[round] = reader_turn(b, record, &sides->cpu[round]);
        else
            sides->bare[round] =
                reader_turn(b, record, &sides->cpu_bare[round]);
    }
    b->verified = true;
    for (size_t i = 0; i < BEST; i++)
        sides->share[i][round] = sides->reader[round] / sides->raw[i][round];
    if (round >= SLOW_ROUNDS)
        return;
    sides->faults[round] = faults_turn(b, record, false);
    sides->random[round] = faults_turn(b, record, true);
    sides->fio[round] = storage_raw_fio(b->path, TURN, b->settings[0].block,
                                        b->settings[0].depth);
}

/* GB/s. */
static double faults_turn(const bench_t *b, size_t record, bool random)
{
    double seconds =
        storage_raw_faults(b->path, b->size, record, FAULTS, random);

    return (double)(FAULTS / record * record) / seconds * 1e-9;
}

static void sides_print(const bench_t *b, size_t record, sides_t *sides)
{
    double rate = bench_median(sides->reader, ROUNDS), best = 0;
    double faults = bench_median(sides->faults, SLOW_ROUNDS);
    size_t which = 0;
    char how[128];

    coterie_reader_describe(b->reader, how, sizeof(how));
    for (size_t i = 0; i < BEST; i++) {
        double raw = bench_median(sides->raw[i], ROUNDS);

        which = raw > best ? i : which;
        best = raw > best ? raw : best;
    }
    printf("{\"record_bytes\": %zu, \"reading\": \"%s\", "
           "\"reader_gbs\": %.3f, \"ceiling_gbs\": %.3f, "
           "\"ceiling_block\": %zu, \"ceiling_depth\": %u, "
           "\"share\": %.3f, \"unverified_gbs\": %.3f, "
           "\"fio_gbs\": %.3f, \"cpu_s_per_gb\": %.4f, "
           "\"unverified_cpu_s_per_gb\": %.4f, "
           "\"faults_gbs\": %.3f, \"over_faults\": %.2f, "
           "\"random_faults_gbs\": %.3f}\n",
           record, how, rate, best, b->settings[which].block,
           b->settings[which].depth,
           bench_median(sides->share[which], ROUNDS),
           bench_median(sides->bare, ROUNDS),
           bench_median(sides->fio, SLOW_ROUNDS),
           bench_median(sides->cpu, ROUNDS),
           bench_median(sides->cpu_bare, ROUNDS), faults, rate / faults,
           bench_median(sides->random, SLOW_ROUNDS));
    fflush(stdout);
}

/* Guesses of 9 MiB without end, and one demand after the other, in rounds. */
static void waits_measure(bench_t *b)
{
    double half[WAIT_ROUNDS], most[WAIT_ROUNDS], worst[WAIT_ROUNDS];
    double begun = bench_seconds(), guessed;
    uint64_t before, after, retries;

    coterie_reader_counts(b->reader, &before, &retries);
    reader_begin(b, 9 * MIB, UINT64_MAX, COTERIE_URGENCY_GUESS);
    b->wait.data = b->arena.data + ARENA - MIB; /* guesses leave that free */
    for (int round = 0; round < WAIT_ROUNDS; round++) {
        double ms[WAITS];

        for (int i = 0; i < WAITS; i++)
            ms[i] = wait_ms(b);
        qsort(ms, WAITS, sizeof(*ms), bench_compare);
        half[round] = ms[WAITS / 2];
        most[round] = ms[WAITS * 99 / 100];
        worst[round] = ms[WAITS - 1];
    }
    pthread_mutex_lock(&b->mutex);
    b->left = 0;
    pthread_mutex_unlock(&b->mutex);
    coterie_reader_counts(b->reader, &after, &retries);
    guessed = (double)(after - before) - (double)WAIT_ROUNDS * WAITS * MIB;
    guessed *= 1e-9 / (bench_seconds() - begun);
    reader_end(b);
    printf("{\"demand_bytes\": %d, \"beside\": \"guesses of 9 MiB\", "
           "\"guesses_gbs\": %.2f, \"p50_ms\": %.2f, \"p99_ms\": %.2f",
           MIB, guessed, bench_median(half, WAIT_ROUNDS),
           bench_median(most, WAIT_ROUNDS)); /* which sorts */
    printf(", \"p99_ms_least\": %.2f, \"p99_ms_most\": %.2f, "
           "\"worst_ms\": %.2f}\n",
           most[0], most[WAIT_ROUNDS - 1], bench_median(worst, WAIT_ROUNDS));
}

static double wait_ms(bench_t *b)
{
    double start = bench_seconds();
    uint64_t place = storage_raw_place(b->size, MIB) / MIB;

    pthread_mutex_lock(&b->mutex);
    b->wait.size = MIB;
    b->wait.offset = place * MIB;
    b->wait.hashes = b->hashes + place;
    b->waited = false;
    coterie_reader_start(b->reader, &b->wait, COTERIE_URGENCY_DEMAND);
    while (!b->waited)
        pthread_cond_wait(&b->changed, &b->mutex);
    pthread_mutex_unlock(&b->mutex);
    return 1e3 * (bench_seconds() - start);
}

static int compute_measure(bench_t *b)
{
    coterie_arena_t memory;

    if (coterie_arena_create(COMPUTE, SIZE_MAX, &memory) != COTERIE_OK) {
        fprintf(stderr, "storage: %s\n", coterie_last_error());
        return 1;
    }
    memset(memory.data, 1, COMPUTE);
    compute_beside(b, &memory, COMPUTE);
    compute_beside(b, &memory, CACHED);
    coterie_arena_destroy(&memory);
    return 0;
}

/* Alone, then beside the reader, in turns. */
static void compute_beside(bench_t *b, const coterie_arena_t *memory,
                           size_t size)
{
    double alone[ROUNDS], beside[ROUNDS], share[ROUNDS], read[ROUNDS];

    for (int round = 0; round < ROUNDS; round++) {
        uint64_t before, after, retries;
        double start;

        alone[round] = compute_rate(memory, size);
        coterie_reader_counts(b->reader, &before, &retries);
        start = bench_seconds();
        reader_begin(b, 9 * MIB, UINT64_MAX, COTERIE_URGENCY_DEMAND);
        beside[round] = compute_rate(memory, size);
        share[round] = beside[round] / alone[round];
        coterie_reader_counts(b->reader, &after, &retries);
        read[round] =
            1e-9 * (double)(after - before) / (bench_seconds() - start);
        pthread_mutex_lock(&b->mutex);
        b->left = 0;
        pthread_mutex_unlock(&b->mutex);
        reader_end(b);
    }
    printf("{\"compute\": \"one thread goes through %s\", "
           "\"alone_gbs\": %.2f, \"beside_gbs\": %.2f, "
           "\"share\": %.3f, \"reader_gbs\": %.2f}\n",
           size == CACHED ? "a cache" : "memory",
           bench_median(alone, ROUNDS), bench_median(beside, ROUNDS),
           bench_median(share, ROUNDS), bench_median(read, ROUNDS));
    fflush(stdout);
}

/* By the clock on the wall: a core taken away counts, too. */
static double compute_rate(const coterie_arena_t *memory, size_t size)
{
    const size_t stretch = size < STRETCH ? size : STRETCH;
    const size_t passed = (size_t)PASSES * COMPUTE;
    double start = bench_seconds();

    for (size_t at = 0; at < passed; at += stretch)
        limits_read(memory->data + at % size / stretch * stretch, stretch, 1);
    return (double)passed * 1e-9 / (bench_seconds() - start);
}

static void bench_close(bench_t *b)
{
    coterie_reader_destroy(b->reader);
    coterie_datafile_close(&b->file);
    coterie_arena_destroy(&b->arena);
    free(b->hashes);
    free(b->tails);
    if (b->path[0] != '\0')
        unlink(b->path);
}
