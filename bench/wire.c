/* Rows into messages, out of them and added up, beside the fastest copy.
 *
 * usage: wire [--hidden H] [--rows N] [--seconds S]
 *
 * One JSON object a line: bytes per second, read and written together (a sum
 * is read as well as written), medians of runs in turns. The copy is memcpy's
 * of as many bytes as the f32 rows have, all at once; rows are gathered from
 * all over a tensor twice as large. */
#include "config.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <coterie/coterie.h>

#include "bench/bench.h"

enum { RUNS_MIN = 5, RUNS_MAX = 101, PARTS = 4, KINDS = 8 };

typedef struct bed {
    uint32_t hidden, rows;
    uint32_t *picked; /* [rows] of 2 * rows */
    float *x;         /* [2 * rows, hidden] */
    char *message;    /* PARTS messages of f32 rows */
    double rate[KINDS][RUNS_MAX];
} bed_t;

static const char *const kinds[KINDS] = {
    "copy",       "pack f32",  "pack bf16",   "pack int8",
    "unpack f32", "unpack bf16", "unpack int8", "sum of 4"};

static void *allocate(size_t size);
static void bed_make(bed_t *bed);
static double copy_run(const bed_t *bed);
static double rows_run(const bed_t *bed, coterie_wire_t wire, int unpack);
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
         runs++) {
        bed.rate[0][runs] = copy_run(&bed);
        for (int wire = 0; wire < 3; wire++) {
            bed.rate[1 + wire][runs] =
                rows_run(&bed, (coterie_wire_t)wire, 0);
            bed.rate[4 + wire][runs] =
                rows_run(&bed, (coterie_wire_t)wire, 1);
        }
        bed.rate[7][runs] = sum_run(&bed);
    }
    rates_print(&bed, runs);
    return 0;
}

static void *allocate(size_t size)
{
    void *memory = malloc(size);

    if (memory == NULL) {
        fprintf(stderr, "no %zu bytes of memory\n", size);
        exit(1);
    }
    memset(memory, 0, size);
    return memory;
}

static void bed_make(bed_t *bed)
{
    const size_t row = bed->hidden * sizeof(float);

    bed->picked = allocate(bed->rows * sizeof(*bed->picked));
    for (uint32_t i = 0; i < bed->rows; i++)
        bed->picked[i] = 2 * i + (uint32_t)rand() % 2;
    bed->x = allocate(2 * bed->rows * row);
    bed->message = allocate(PARTS * bed->rows * row);
    for (size_t i = 0; i < (size_t)2 * bed->rows * bed->hidden; i++)
        bed->x[i] = (float)(i % 13) - 6;
}

static double copy_run(const bed_t *bed)
{
    const size_t size = (size_t)bed->rows * bed->hidden * sizeof(float);
    const double start = bench_seconds();

    memcpy(bed->message, bed->x, size);
    return 2.0 * (double)size / (bench_seconds() - start);
}

static double rows_run(const bed_t *bed, coterie_wire_t wire, int unpack)
{
    const size_t size = coterie_wire_size(wire, bed->hidden);
    const coterie_wire_rows_t rows = {wire, bed->hidden, bed->rows, 0,
                                      bed->picked, size};
    const double bytes = (double)bed->rows *
                         (double)(size + bed->hidden * sizeof(float));
    const double start = bench_seconds();

    if (unpack)
        coterie_wire_unpack(&rows, bed->message, bed->x);
    else
        coterie_wire_pack(&rows, bed->x, bed->message);
    return bytes / (bench_seconds() - start);
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
    double copy = 0;

    for (int kind = 0; kind < KINDS; kind++) {
        const double rate = bench_median(bed->rate[kind], runs);

        copy = kind == 0 ? rate : copy;
        printf("{\"kernel\": \"%s\", \"hidden\": %u, \"rows\": %u, \"isa\": "
               "\"%s\", \"runs\": %zu, \"gbs\": %.1f, \"share_of_copy\": "
               "%.2f}\n",
               kinds[kind], bed->hidden, bed->rows, coterie_kernels_isa(),
               runs, rate / 1e9, rate / copy);
    }
}
