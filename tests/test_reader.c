#include "config.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include "base/error.h"
#include "experts/store.h"
#include "offload/reader.h"
#include "tests/fault_io.h"
#include "tests/models.h"

/* A file of records of which the last chunk is short, and a reader of it. */
enum {
    RECORDS = 16,
    RECORD = 2 * COTERIE_STORE_CHUNK + 3 * COTERIE_STORE_BLOCK,
    CHUNKS = 3
};

typedef struct bench {
    char folder[PATH_SIZE], path[PATH_SIZE];
    unsigned char *content;
    uint64_t hashes[RECORDS][CHUNKS];
    coterie_datafile_t file;
    coterie_arena_t arena;
    coterie_reader_t *reader;
    coterie_read_t reads[RECORDS];
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    uint32_t order[RECORDS], done; /* the reads, as they ended */
} bench_t;

static coterie_polling_t polling;

static void bench_open(bench_t *b, const coterie_io_ops_t *io);
static void file_make(bench_t *b);
static coterie_status_t bench_reader(bench_t *b, const coterie_io_ops_t *io);
static void bench_close(bench_t *b);
static void note_done(void *arg, coterie_read_t *read);
static void start(bench_t *b, uint32_t record, coterie_urgency_t urgency);
static void await(bench_t *b, uint32_t count);
static void expect_read(const bench_t *b, uint32_t record);
static void expect_failure(const bench_t *b, uint32_t record,
                           coterie_status_t status, const char *words);
static void expect_under_way(coterie_urgency_t urgency, uint32_t waiters,
                             uint32_t pieces);
static void reads_everything(const coterie_io_ops_t *io);
static void survives(fault_kind_t kind);
static void fails_alone(fault_kind_t kind, coterie_status_t status,
                        const char *words);

Test(reader, reads_records_by_the_best_way_here)
{
    reads_everything(NULL);
}

Test(reader, reads_records_by_threads)
{
    reads_everything(&coterie_io_pool);
}

/* With a word on stderr and without polling, where that is refused. */
Test(reader, reads_records_with_any_polling)
{
    static const coterie_polling_t ways[] = {COTERIE_POLLING_SUBMIT,
                                             COTERIE_POLLING_COMPLETE};

    for (size_t i = 0; i < sizeof(ways) / sizeof(ways[0]); i++) {
        polling = ways[i];
        reads_everything(NULL);
    }
}

Test(reader, tries_again_after_a_short_read)
{
    survives(FAULT_SHORT);
}

Test(reader, tries_again_after_an_error)
{
    survives(FAULT_EIO);
}

Test(reader, tries_again_after_wrong_bytes)
{
    survives(FAULT_WRONG);
}

Test(reader, waits_for_slow_reads)
{
    survives(FAULT_SLOW);
}

Test(reader, fails_one_read_for_good_if_it_stays_short)
{
    fails_alone(FAULT_SHORT, COTERIE_ERR_IO, "ends at byte");
}

Test(reader, fails_one_read_for_good_on_lasting_errors)
{
    fails_alone(FAULT_EIO, COTERIE_ERR_IO, "Input/output error");
}

Test(reader, fails_one_read_for_good_on_lasting_wrong_bytes)
{
    fails_alone(FAULT_WRONG, COTERIE_ERR_CORRUPT, "chunk 1 of 3: checksum");
}

Test(reader, goes_on_with_threads_when_refused_half_way)
{
    bench_t b;
    char text[128];

    fault_plan(FAULT_REFUSED, 4, FAULT_ALWAYS);
    bench_open(&b, &fault_io);
    for (uint32_t i = 0; i < RECORDS; i++)
        start(&b, i, COTERIE_URGENCY_DEMAND);
    await(&b, RECORDS);
    for (uint32_t i = 0; i < RECORDS; i++)
        expect_read(&b, i);
    coterie_reader_describe(b.reader, text, sizeof(text));
    cr_expect(strncmp(text, "threads, ", 9) == 0, "%s", text);
    bench_close(&b);
}

Test(reader, lets_a_demand_overtake_guesses)
{
    bench_t b;

    bench_open(&b, &fault_io);
    fault_hold();
    for (uint32_t i = 0; i < RECORDS - 1; i++)
        start(&b, i, COTERIE_URGENCY_GUESS);
    fault_await(2);
    start(&b, RECORDS - 1, COTERIE_URGENCY_DEMAND);
    fault_await(4);
    usleep(10000);
    /* Only what was under way went before it, and nothing goes beside it. */
    cr_expect(eq(u32, 4, fault_submitted()));
    cr_expect(eq(u64, fault_offset(2), b.reads[RECORDS - 1].offset));
    cr_expect(eq(u64, fault_offset(3), b.reads[RECORDS - 1].offset +
                                           2 * COTERIE_STORE_CHUNK));
    fault_let(FAULT_ALWAYS);
    await(&b, RECORDS);
    bench_close(&b);
}

Test(reader, never_has_more_than_two_mebibytes_of_guesses_under_way)
{
    expect_under_way(COTERIE_URGENCY_GUESS, 1, 2);
}

/* Eight of sixteen records, in two pieces each. */
Test(reader, leaves_half_of_the_demands_for_a_second_turn)
{
    expect_under_way(COTERIE_URGENCY_DEMAND, 1, 16);
}

/* Three records of 2 MiB and a little; another 2 MiB do not fit. */
Test(reader, begins_few_demands_only_up_to_eight_mebibytes)
{
    bench_t b;

    bench_open(&b, &fault_io);
    fault_hold();
    for (uint32_t i = 0; i < 4; i++)
        start(&b, i, COTERIE_URGENCY_DEMAND);
    fault_await(6);
    usleep(10000);
    cr_expect(eq(u32, 6, fault_submitted()));
    fault_let(FAULT_ALWAYS);
    await(&b, 4);
    bench_close(&b);
}

/* 16 times 2 MiB; what is left waits. */
Test(reader, sends_a_record_out_whole_up_to_thirty_two_mebibytes)
{
    bench_t b;

    bench_open(&b, &fault_io);
    fault_hold();
    b.reads[0].size = RECORDS * (uint64_t)RECORD;
    b.reads[0].hashes = NULL;
    start(&b, 0, COTERIE_URGENCY_DEMAND);
    start(&b, 1, COTERIE_URGENCY_DEMAND);
    fault_await(16);
    usleep(10000);
    cr_expect(eq(u32, 16, fault_submitted()));
    for (uint32_t i = 0; i < 16; i++)
        cr_expect(eq(u64, fault_offset(i),
                     b.reads[0].offset + i * 2ull * COTERIE_STORE_CHUNK));
    fault_let(FAULT_ALWAYS);
    await(&b, 2);
    bench_close(&b);
}

/* Whoever comes next waits behind no more, whatever others read. Pieces are of
 * 1 MiB then. */
Test(reader, never_has_more_than_four_mebibytes_under_way_for_several)
{
    expect_under_way(COTERIE_URGENCY_DEMAND, 2, 4);
}

Test(reader, makes_a_guess_a_demand_when_somebody_waits)
{
    bench_t b;

    bench_open(&b, &fault_io);
    fault_hold();
    for (uint32_t i = 0; i < RECORDS; i++)
        start(&b, i, COTERIE_URGENCY_GUESS);
    fault_await(2);
    coterie_reader_promote(b.reader, &b.reads[RECORDS - 1]);
    fault_let(FAULT_ALWAYS);
    await(&b, RECORDS);
    cr_expect(eq(u64, fault_offset(2), b.reads[RECORDS - 1].offset));
    bench_close(&b);
}

Test(reader, drops_a_guess_that_has_not_begun)
{
    bench_t b;

    bench_open(&b, &fault_io);
    fault_hold();
    for (uint32_t i = 0; i < 3; i++)
        start(&b, i, COTERIE_URGENCY_GUESS);
    fault_await(2);
    cr_expect(coterie_reader_drop(b.reader, &b.reads[2]));
    fault_let(FAULT_ALWAYS);
    await(&b, 2);
    cr_expect(eq(u32, 2 * CHUNKS, fault_submitted()));
    cr_expect(zero(u32, b.reads[2].chunk_next));
    start(&b, 2, COTERIE_URGENCY_DEMAND); /* it may come back */
    await(&b, 3);
    expect_read(&b, 2);
    bench_close(&b);
}

Test(reader, tells_when_a_guess_dropped_half_way_has_let_go)
{
    bench_t b;

    bench_open(&b, &fault_io);
    fault_hold();
    start(&b, 0, COTERIE_URGENCY_GUESS);
    start(&b, 1, COTERIE_URGENCY_GUESS);
    fault_await(2);
    fault_let(2);
    fault_await(4); /* all of the first, a third of the second */
    cr_expect(not(coterie_reader_drop(b.reader, &b.reads[1])));
    fault_let(FAULT_ALWAYS);
    await(&b, 2);
    cr_expect(eq(int, COTERIE_ERR_INTERRUPTED, b.reads[1].status));
    cr_expect(eq(u32, 4, fault_submitted()));
    bench_close(&b);
}

Test(reader, refuses_a_file_that_was_replaced)
{
    bench_t b = {.mutex = PTHREAD_MUTEX_INITIALIZER,
                 .changed = PTHREAD_COND_INITIALIZER};
    char other[PATH_SIZE];

    file_make(&b);
    path_in(b.folder, "other", other);
    file_save(other, b.content, RECORD);
    cr_assert(rename(other, b.path) == 0);
    cr_expect(eq(int, COTERIE_ERR_MISMATCH, bench_reader(&b, NULL)));
    cr_expect(zero(ptr, b.reader));
    bench_close(&b);
}

Test(reader, names_the_expert_of_a_file_cut_short)
{
    bench_t b;

    bench_open(&b, NULL);
    cr_assert(truncate(b.path, COTERIE_STORE_BLOCK + 2 * RECORD + 8192) == 0);
    for (uint32_t i = 0; i < RECORDS; i++)
        start(&b, i, COTERIE_URGENCY_DEMAND);
    await(&b, RECORDS);
    for (uint32_t i = 0; i < 2; i++)
        expect_read(&b, i);
    for (uint32_t i = 2; i < RECORDS; i++)
        expect_failure(&b, i, COTERIE_ERR_IO, "ends at byte");
    bench_close(&b);
}

Test(reader, closes_in_the_middle_of_reads)
{
    bench_t b;

    bench_open(&b, NULL);
    for (uint32_t i = 0; i < RECORDS; i++)
        start(&b, i, COTERIE_URGENCY_DEMAND);
    bench_close(&b);
}

static void bench_open(bench_t *b, const coterie_io_ops_t *io)
{
    *b = (bench_t){.mutex = PTHREAD_MUTEX_INITIALIZER,
                   .changed = PTHREAD_COND_INITIALIZER};
    file_make(b);
    cr_assert(eq(int, COTERIE_OK, bench_reader(b, io)), "%s",
              coterie_last_error());
}

static void file_make(bench_t *b)
{
    size_t size = COTERIE_STORE_BLOCK + RECORDS * (size_t)RECORD;
    uint32_t state = 1;

    folder_make(b->folder);
    path_in(b->folder, "records", b->path);
    b->content = malloc(size);
    cr_assert(b->content != NULL);
    for (size_t i = 0; i < size; i++)
        b->content[i] = (unsigned char)((state = state * 1664525 + 1) >> 24);
    file_save(b->path, b->content, size);
    cr_assert(eq(int, COTERIE_OK, coterie_datafile_open(b->path, &b->file)));
}

static coterie_status_t bench_reader(bench_t *b, const coterie_io_ops_t *io)
{
    coterie_reader_options_t options = {.file = &b->file,
                                        .arena = &b->arena,
                                        .record_size = RECORD,
                                        .done = note_done,
                                        .arg = b,
                                        .polling = polling,
                                        .io = io};

    cr_assert(eq(int, COTERIE_OK, coterie_arena_create(
                     RECORDS * (size_t)RECORD, SIZE_MAX, &b->arena)));
    for (uint32_t i = 0; i < RECORDS; i++) {
        coterie_read_t *read = &b->reads[i];
        read->layer = i / 2;
        read->expert = i % 2;
        read->offset = COTERIE_STORE_BLOCK + (uint64_t)i * RECORD;
        read->size = RECORD;
        read->data = b->arena.data + (size_t)i * RECORD;
        read->hashes = b->hashes[i];
        for (uint32_t c = 0; c < CHUNKS; c++)
            b->hashes[i][c] = coterie_store_hash(
                b->content + read->offset + c * COTERIE_STORE_CHUNK,
                c + 1 < CHUNKS ? COTERIE_STORE_CHUNK
                               : RECORD % COTERIE_STORE_CHUNK);
    }
    return coterie_reader_create(&options, &b->reader);
}

static void bench_close(bench_t *b)
{
    coterie_reader_destroy(b->reader);
    coterie_arena_destroy(&b->arena);
    coterie_datafile_close(&b->file);
    folder_remove(b->folder);
    free(b->content);
}

static void note_done(void *arg, coterie_read_t *read)
{
    bench_t *b = arg;

    pthread_mutex_lock(&b->mutex);
    b->order[b->done++] = (uint32_t)(read - b->reads);
    pthread_cond_signal(&b->changed);
    pthread_mutex_unlock(&b->mutex);
}

static void start(bench_t *b, uint32_t record, coterie_urgency_t urgency)
{
    coterie_reader_start(b->reader, &b->reads[record], urgency);
}

static void await(bench_t *b, uint32_t count)
{
    pthread_mutex_lock(&b->mutex);
    while (b->done < count)
        pthread_cond_wait(&b->changed, &b->mutex);
    pthread_mutex_unlock(&b->mutex);
}

static void expect_read(const bench_t *b, uint32_t record)
{
    const coterie_read_t *read = &b->reads[record];

    cr_expect(eq(int, COTERIE_OK, read->status));
    cr_expect(memcmp(read->data, b->content + read->offset, RECORD) == 0);
}

static void expect_failure(const bench_t *b, uint32_t record,
                           coterie_status_t status, const char *words)
{
    char name[64];

    snprintf(name, sizeof(name), "expert (%u, %u)", record / 2, record % 2);
    cr_expect(eq(int, status,
                 coterie_reader_explain(b->reader, &b->reads[record])));
    cr_expect(strstr(coterie_last_error(), name) != NULL, "%s",
              coterie_last_error());
    cr_expect(strstr(coterie_last_error(), words) != NULL, "%s",
              coterie_last_error());
}

static void expect_under_way(coterie_urgency_t urgency, uint32_t waiters,
                             uint32_t pieces)
{
    bench_t b;

    bench_open(&b, &fault_io);
    coterie_reader_waiters(b.reader, waiters);
    fault_hold();
    for (uint32_t i = 0; i < RECORDS; i++)
        start(&b, i, urgency);
    fault_await(pieces);
    usleep(10000);
    cr_expect(eq(u32, pieces, fault_submitted()));
    fault_let(FAULT_ALWAYS);
    await(&b, RECORDS);
    bench_close(&b);
}

static void reads_everything(const coterie_io_ops_t *io)
{
    bench_t b;
    uint64_t bytes, retries;

    bench_open(&b, io);
    for (uint32_t i = 0; i < RECORDS; i++)
        start(&b, i, i % 2 ? COTERIE_URGENCY_GUESS : COTERIE_URGENCY_DEMAND);
    await(&b, RECORDS);
    for (uint32_t i = 0; i < RECORDS; i++)
        expect_read(&b, i);
    coterie_reader_counts(b.reader, &bytes, &retries);
    cr_expect(eq(u64, RECORDS * (uint64_t)RECORD, bytes));
    cr_expect(zero(u64, retries));
    bench_close(&b);
}

/* Two pieces suffer; their reads succeed all the same. */
static void survives(fault_kind_t kind)
{
    bench_t b;
    uint64_t bytes, retries;

    fault_plan(kind, 1, 2);
    bench_open(&b, &fault_io);
    for (uint32_t i = 0; i < RECORDS; i++)
        start(&b, i, COTERIE_URGENCY_DEMAND);
    await(&b, RECORDS);
    for (uint32_t i = 0; i < RECORDS; i++)
        expect_read(&b, i);
    coterie_reader_counts(b.reader, &bytes, &retries);
    cr_expect(eq(u64, kind == FAULT_SLOW ? 0 : 2, retries));
    bench_close(&b);
}

/* One read suffers for good; the next one is served. */
static void fails_alone(fault_kind_t kind, coterie_status_t status,
                        const char *words)
{
    bench_t b;

    fault_plan(kind, 0, FAULT_ALWAYS);
    bench_open(&b, &fault_io);
    start(&b, 0, COTERIE_URGENCY_DEMAND);
    await(&b, 1);
    expect_failure(&b, 0, status, words);
    fault_plan(FAULT_NONE, 0, 0);
    start(&b, 1, COTERIE_URGENCY_DEMAND);
    await(&b, 2);
    expect_read(&b, 1);
    bench_close(&b);
}
