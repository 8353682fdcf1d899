/* The reader of expert records against what the drive gives at best.
 *
 * usage: storage [FOLDER] [MIB]
 *
 * Writes a file of MIB mebibytes (512) to FOLDER (.), reads it in records of
 * several sizes and removes it. In turns, medians of five: the reader, with
 * checksums; direct reads by a bare io_uring without checksums, for several
 * block sizes and depths (the best of these medians is the ceiling); page
 * faults in a mapping. Then how long a read of 1 MiB takes that somebody waits
 * for while guesses keep the drive busy. One JSON object a line. */
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
#include "bench/storage_raw.h"
#include "experts/store.h"
#include "offload/reader.h"

enum {
    ROUNDS = 5,
    MIB = 1 << 20,
    RECORD_MOST = 28 * MIB,
    ODD = 2727936, /* 2.6 MiB in whole pages */
    TAIL = ODD % MIB,
    SLOTS = 4,        /* records under way or waiting */
    TURN = 168 * MIB, /* bytes of one measurement */
    WAITS = 400,
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

typedef struct bench {
    char path[4096];
    uint64_t size;
    uint64_t *hashes; /* [mebibyte of the file]: its checksum, */
    uint64_t *tails;  /* and that of its first TAIL bytes */
    coterie_datafile_t file;
    coterie_arena_t arena; /* [SLOTS, RECORD_MOST], or the raw reads' */
    coterie_reader_t *reader;
    coterie_read_t reads[SLOTS], wait;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    uint64_t read_hashes[SLOTS][RECORD_MOST / MIB];
    uint64_t left;      /* records to begin */
    unsigned under_way; /* records */
    bool waited;        /* wait is done */
    size_t record;
} bench_t;

static int bench_open(bench_t *b, const char *folder, uint64_t size);
static int file_write(bench_t *b);
static coterie_status_t reader_open(bench_t *b);
static void read_done(void *arg, coterie_read_t *read);
static void read_next(bench_t *b, coterie_read_t *read,
                      coterie_urgency_t urgency);
static double reader_turn(bench_t *b, size_t record, double *cpu_p);
static double cpu_seconds(void);
static double hash_seconds(const bench_t *b);
static int sizes_compare(bench_t *b);
static int rates_measure(bench_t *b, size_t record, double *reader,
                         double *faults, double *cpu);
static void waits_measure(bench_t *b);
static void bench_close(bench_t *b);

/* [block, depth, round] GB/s */
static double raw[BLOCKS][DEPTHS][ROUNDS];

int main(int argc, char **argv)
{
    uint64_t size = argc > 2 ? strtoull(argv[2], NULL, 10) : 512;
    static bench_t b;
    int code = 1;

    if (size * MIB < 2 * (uint64_t)TURN || size > 1024) {
        fprintf(stderr, "storage: from %d to 1024 MiB\n", 2 * TURN / MIB);
        return 2;
    }
    if (bench_open(&b, argc > 1 ? argv[1] : ".", size * MIB) == 0)
        code = sizes_compare(&b);
    if (code == 0)
        waits_measure(&b);
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
    status = coterie_arena_create((size_t)SLOTS * RECORD_MOST, SIZE_MAX,
                                  &b->arena);
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

    for (uint32_t i = 0; i < SLOTS; i++)
        b->reads[i].data = b->arena.data + (size_t)i * RECORD_MOST;
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
    read->hashes = hashes;
    coterie_reader_start(b->reader, read, urgency);
}

/* GB/s; the processor's seconds for it, ours and the kernel's, in *cpu_p. */
static double reader_turn(bench_t *b, size_t record, double *cpu_p)
{
    double start = bench_seconds(), cpu = cpu_seconds(), bytes;

    pthread_mutex_lock(&b->mutex);
    b->record = record;
    b->left = TURN / record;
    bytes = (double)(b->left * record);
    for (uint32_t i = 0; i < SLOTS && b->left > 0; i++) {
        b->under_way++;
        read_next(b, &b->reads[i], COTERIE_URGENCY_DEMAND);
    }
    while (b->under_way > 0)
        pthread_cond_wait(&b->changed, &b->mutex);
    pthread_mutex_unlock(&b->mutex);
    *cpu_p = (cpu_seconds() - cpu) / bytes * 1e9;
    return bytes / (bench_seconds() - start) * 1e-9;
}

static double cpu_seconds(void)
{
    struct rusage used;

    getrusage(RUSAGE_SELF, &used);
    return (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
           1e-6 * (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec);
}

/* Processor time per GB that checksums alone take. */
static double hash_seconds(const bench_t *b)
{
    size_t size = (size_t)SLOTS * RECORD_MOST;
    volatile uint64_t seen = 0;
    double took[ROUNDS];

    for (int round = 0; round < ROUNDS; round++) {
        double start = cpu_seconds();

        for (size_t at = 0; at < size; at += MIB)
            seen ^= coterie_store_hash(b->arena.data + at, MIB);
        took[round] = (cpu_seconds() - start) / (double)size * 1e9;
    }
    return bench_median(took, ROUNDS);
}

static int sizes_compare(bench_t *b)
{
    char how[128];

    coterie_reader_describe(b->reader, how, sizeof(how));
    for (size_t i = 0; i < RECORD_SIZES; i++) {
        double reader[ROUNDS], faults[ROUNDS], cpu[ROUNDS], best = 0, rate;
        size_t block = 0, depth = 0;

        if (rates_measure(b, record_sizes[i], reader, faults, cpu) != 0) {
            fprintf(stderr, "storage: the bare reads failed\n");
            return 1;
        }
        for (size_t n = 0; n < BLOCKS * DEPTHS; n++) {
            rate = bench_median(raw[n / DEPTHS][n % DEPTHS], ROUNDS);
            if (rate > best) {
                best = rate;
                block = n / DEPTHS;
                depth = n % DEPTHS;
            }
        }
        rate = bench_median(reader, ROUNDS);
        printf("{\"record_bytes\": %zu, \"reading\": \"%s\", "
               "\"reader_gbs\": %.3f, \"ceiling_gbs\": %.3f, "
               "\"ceiling_block\": %zu, \"ceiling_depth\": %u, "
               "\"share\": %.3f, \"cpu_s_per_gb\": %.4f, "
               "\"checksums_s_per_gb\": %.4f, "
               "\"faults_gbs\": %.3f, \"over_faults\": %.2f}\n",
               record_sizes[i], how, rate, best, blocks[block], depths[depth],
               rate / best, bench_median(cpu, ROUNDS), hash_seconds(b),
               bench_median(faults, ROUNDS),
               rate / bench_median(faults, ROUNDS));
        fflush(stdout);
    }
    return 0;
}

static int rates_measure(bench_t *b, size_t record, double *reader,
                         double *faults, double *cpu)
{
    for (int round = 0; round < ROUNDS; round++) {
        double seconds;

        reader[round] = reader_turn(b, record, &cpu[round]);
        for (size_t n = 0; n < BLOCKS * DEPTHS; n++) {
            storage_ring_t how = {blocks[n / DEPTHS], depths[n % DEPTHS],
                                  b->arena.data,
                                  (size_t)SLOTS * RECORD_MOST};
            uint64_t size = TURN / how.block * how.block;

            seconds = storage_raw_ring(b->path, b->size, size, &how);
            if (seconds <= 0)
                return 1;
            raw[n / DEPTHS][n % DEPTHS][round] =
                (double)size / seconds * 1e-9;
        }
        seconds = storage_raw_faults(b->path, b->size, record, TURN / 2);
        faults[round] =
            (double)(TURN / 2 / record * record) / seconds * 1e-9;
    }
    return 0;
}

/* Guesses of 9 MiB without end, and one demand after the other. */
static void waits_measure(bench_t *b)
{
    static double ms[WAITS];

    pthread_mutex_lock(&b->mutex);
    b->record = 9 * MIB;
    b->left = UINT64_MAX;
    for (uint32_t i = 0; i + 1 < SLOTS; i++) {
        b->under_way++;
        read_next(b, &b->reads[i], COTERIE_URGENCY_GUESS);
    }
    b->wait.data = b->arena.data + (size_t)(SLOTS - 1) * RECORD_MOST;
    for (int i = 0; i < WAITS; i++) {
        double start = bench_seconds();
        uint64_t place = storage_raw_place(b->size, MIB) / MIB;

        b->wait.size = MIB;
        b->wait.offset = place * MIB;
        b->wait.hashes = b->hashes + place;
        b->waited = false;
        coterie_reader_start(b->reader, &b->wait, COTERIE_URGENCY_DEMAND);
        while (!b->waited)
            pthread_cond_wait(&b->changed, &b->mutex);
        ms[i] = 1e3 * (bench_seconds() - start);
    }
    b->left = 0;
    while (b->under_way > 0)
        pthread_cond_wait(&b->changed, &b->mutex);
    pthread_mutex_unlock(&b->mutex);
    qsort(ms, WAITS, sizeof(*ms), bench_compare);
    printf("{\"demand_bytes\": %d, \"beside\": \"guesses of 9 MiB\", "
           "\"p50_ms\": %.2f, \"p99_ms\": %.2f, \"worst_ms\": %.2f}\n",
           MIB, ms[WAITS / 2], ms[WAITS * 99 / 100], ms[WAITS - 1]);
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
