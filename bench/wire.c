/* Rows into messages, out of them and added up, beside the fastest copy.
 *
 * usage: wire [--hidden H] [--rows N] [--seconds S]
 *
 * One JSON object a line: bytes per second, read and written together (a sum
 * is read as well as written), medians of runs in turns. The copy is the faster
 * of memcpy and a loop that writes past the caches, of as many bytes as the f32
 * rows have, all at once; rows are gathered from all over a tensor twice as
 * large. share_of_moving is beside a loop without arithmetic that reads and
 * writes as many bytes as the kernel, at the same places. Tensors begin 16
 * bytes into a line, as malloc has them. */
#include "config.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <coterie/coterie.h>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include "bench/bench.h"

enum { RUNS_MIN = 5, RUNS_MAX = 101, PARTS = 4, KINDS = 9, LINE = 64 };

typedef struct bed {
    uint32_t hidden, rows;
    uint32_t *picked; /* [rows] of 2 * rows */
    float *x;         /* [2 * rows, hidden] */
    char *message;    /* PARTS messages of f32 rows */
    double rate[KINDS][RUNS_MAX], moving[KINDS][RUNS_MAX];
} bed_t;

static const char *const kinds[KINDS] = {
    "memcpy",     "copy",        "pack f32",    "pack bf16", "pack int8",
    "unpack f32", "unpack bf16", "unpack int8", "sum of 4"};
enum { MEMCPY, COPY, PACK, UNPACK = PACK + 3, SUM = UNPACK + 3 };

static void *allocate(size_t size);
static void bed_make(bed_t *bed);
static void bed_fill(bed_t *bed);
static void kind_run(bed_t *bed, int kind, size_t run);
static double memcpy_run(const bed_t *bed);
static double copy_run(const bed_t *bed);
static double rows_run(const bed_t *bed, coterie_wire_t wire, int unpack);
static double rows_move(const bed_t *bed, coterie_wire_t wire, int unpack);
static void move(size_t in, const char *from, size_t out, char *to);
static double sum_run(const bed_t *bed);
static void rates_print(bed_t *bed, size_t runs);

int main(int argc, char **argv)
{
    static const struct option options[] = {
        {"hidden", required_argument, NULL, 'h'},
        {"rows", required_argument, NULL, 'r'},
        {"seconds", required_argument, NULL, 's'},
        {NULL, 0, NULL, 0},
    };
    bed_t bed = {.hidden = 7168, .rows = 4096};
    double seconds = 1, start;
    size_t runs = 0;
    int option;

    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (option == 'h')
            bed.hidden = (uint32_t)atoi(optarg);
        else if (option == 'r')
            bed.rows = (uint32_t)atoi(optarg);
        else if (option == 's')
            seconds = atof(optarg);
        if (option == '?' || bed.hidden == 0 || bed.rows == 0) {
            fprintf(stderr, "usage: %s [--hidden H] [--rows N] [--seconds "
                            "S]\n", argv[0]);
            return 2;
        }
    }
    bed_make(&bed);
    for (start = bench_seconds();
         runs < RUNS_MAX &&
         (runs < RUNS_MIN || bench_seconds() - start < seconds);
         runs++)
        for (int kind = 0; kind < KINDS; kind++)
            kind_run(&bed, kind, runs);
    rates_print(&bed, runs);
    return 0;
}

static void *allocate(size_t size)
{
    char *memory = aligned_alloc(LINE, (size + 2 * LINE) / LINE * LINE);

    if (memory == NULL) {
        fprintf(stderr, "no %zu bytes of memory\n", size);
        exit(1);
    }
    memset(memory, 0, size);
    return memory + LINE / 4;
}

static void bed_make(bed_t *bed)
{
    const size_t row = bed->hidden * sizeof(float);

    bed->picked = allocate(bed->rows * sizeof(*bed->picked));
    for (uint32_t i = 0; i < bed->rows; i++)
        bed->picked[i] = 2 * i + (uint32_t)rand() % 2;
    bed->x = allocate(2 * bed->rows * row);
    bed->message = allocate(PARTS * bed->rows * row);
    bed_fill(bed);
}

static void bed_fill(bed_t *bed)
{
    for (size_t i = 0; i < (size_t)2 * bed->rows * bed->hidden; i++)
        bed->x[i] = (float)(i % 13) - 6;
}

/* Moving leaves nonsense behind: numbers that are none take another way through
 * int8. */
static void kind_run(bed_t *bed, int kind, size_t run)
{
    const int unpack = kind >= UNPACK;
    const coterie_wire_t wire =
        (coterie_wire_t)(kind - (unpack ? UNPACK : PACK));

    if (kind == MEMCPY)
        bed->rate[kind][run] = memcpy_run(bed);
    else if (kind == COPY)
        bed->rate[kind][run] = copy_run(bed);
    else if (kind == SUM)
        bed->rate[kind][run] = sum_run(bed);
    else {
        bed->rate[kind][run] = rows_run(bed, wire, unpack);
        bed->moving[kind][run] = rows_move(bed, wire, unpack);
        if (unpack)
            bed_fill(bed);
    }
}

static double memcpy_run(const bed_t *bed)
{
    const size_t size = (size_t)bed->rows * bed->hidden * sizeof(float);
    const double start = bench_seconds();

    memcpy(bed->message, bed->x, size);
    return 2.0 * (double)size / (bench_seconds() - start);
}

static double copy_run(const bed_t *bed)
{
    const size_t size = (size_t)bed->rows * bed->hidden * sizeof(float);
    const double start = bench_seconds();

    move(size, (const char *)bed->x, size, bed->message);
    return 2.0 * (double)size / (bench_seconds() - start);
}

static double rows_run(const bed_t *bed, coterie_wire_t wire, int unpack)
{
    const size_t size = coterie_wire_size(wire, bed->hidden);
    const coterie_wire_rows_t rows = {wire, bed->hidden, bed->rows, 0,
                                      bed->picked, size};
    const double bytes = (double)bed->rows *
                         (double)(size + bed->hidden * sizeof(float));
    double start;

    if (unpack) /* what this wire has packed */
        coterie_wire_pack(&rows, bed->x, bed->message);
    start = bench_seconds();
    if (unpack)
        coterie_wire_unpack(&rows, bed->message, bed->x);
    else
        coterie_wire_pack(&rows, bed->x, bed->message);
    return bytes / (bench_seconds() - start);
}

static double rows_move(const bed_t *bed, coterie_wire_t wire, int unpack)
{
    const size_t size = coterie_wire_size(wire, bed->hidden);
    const size_t row = bed->hidden * sizeof(float);
    const double start = bench_seconds();

    for (uint32_t i = 0; i < bed->rows; i++) {
        char *x = (char *)(bed->x + (size_t)bed->picked[i] * bed->hidden);
        char *message = bed->message + i * size;

        if (unpack)
            move(size, message, row, x);
        else
            move(row, x, size, message);
    }
    return (double)bed->rows * (double)(size + row) /
           (bench_seconds() - start);
}

/* Reads so much and writes so much, past the caches where that can be had. */
static void move(size_t in, const char *from, size_t out, char *to)
{
#if defined(__SSE2__)
    enum { WIDTH = sizeof(__m128i) };
    size_t read = 0;
    __m128i all = _mm_setzero_si128();

    for (size_t i = 0; i + WIDTH <= out; i += WIDTH) {
        for (; read * out < (i + WIDTH) * in && read + WIDTH <= in;
             read += WIDTH)
            all = _mm_xor_si128(
                all, _mm_loadu_si128((const __m128i *)(from + read)));
        _mm_stream_si128((__m128i *)(to + i - (uintptr_t)to % WIDTH), all);
    }
    _mm_sfence();
#else
    for (size_t i = 0; i < out; i += in)
        memcpy(to + i, from, in < out - i ? in : out - i);
#endif
}

/* Each row of the tensor is the first part of its sum. */
static double sum_run(const bed_t *bed)
{
    const size_t row = bed->hidden * sizeof(float);
    const double start = bench_seconds();

    for (uint32_t i = 0; i < bed->rows; i++) {
        float *sum = bed->x + (size_t)bed->picked[i] * bed->hidden;
        coterie_wire_part_t parts[PARTS] = {{sum, COTERIE_WIRE_F32, 1}};

        for (size_t p = 1; p < PARTS; p++)
            parts[p] = (coterie_wire_part_t){
                bed->message + (p * bed->rows + i) * row, COTERIE_WIRE_F32, 1};
        coterie_wire_sum(bed->hidden, PARTS, parts, sum);
    }
    return (double)(PARTS + 1) * bed->rows * (double)row /
           (bench_seconds() - start);
}

static void rates_print(bed_t *bed, size_t runs)
{
    const double plain = bench_median(bed->rate[MEMCPY], runs);
    const double past = bench_median(bed->rate[COPY], runs);
    const double copy = plain > past ? plain : past;

    for (int kind = 0; kind < KINDS; kind++) {
        const double rate = bench_median(bed->rate[kind], runs);

        printf("{\"kernel\": \"%s\", \"hidden\": %u, \"rows\": %u, \"isa\": "
               "\"%s\", \"runs\": %zu, \"gbs\": %.1f, \"share_of_copy\": "
               "%.2f",
               kinds[kind], bed->hidden, bed->rows, coterie_kernels_isa(),
               runs, rate / 1e9, rate / copy);
        if (kind >= PACK && kind < SUM)
            printf(", \"share_of_moving\": %.2f",
                   rate / bench_median(bed->moving[kind], runs));
        puts("}");
    }
}
