#include "config.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "tools/command.h"
#include "tools/doctor.h"
#include "tools/report.h"

/* A matrix of bf16 weights that no cache holds; the same for every thread. */
enum {
    WIDTH = 4096,
    HEIGHT = 16384,
    SIZE = WIDTH * HEIGHT * 2,
    ROUNDS = 3,
    CORES_MOST = 64
};

typedef struct part {
    const char *memory;
    size_t size;
    pthread_t thread;
    const void *found; /* so that reading is needed */
} part_t;

static double memory_rate(const char *memory, uint32_t threads);
static void *part_read(void *arg);
static coterie_status_t kernels_rate(const char *memory, double *rate_p);

coterie_status_t doctor_measure(uint32_t cores, doctor_rates_t *rates)
{
    char *memory = malloc(SIZE);
    coterie_status_t status;

    if (memory == NULL)
        return failure(COTERIE_ERR_NO_MEMORY, "no memory for %d bytes", SIZE);
    memset(memory, 2, SIZE); /* pages of zeros would be one page */
    *rates = (doctor_rates_t){0};
    status = kernels_rate(memory, &rates->kernels_one);
    for (int round = 0; round < ROUNDS; round++) {
        double one = memory_rate(memory, 1);
        double all = memory_rate(memory,
                                 cores < CORES_MOST ? cores : CORES_MOST);

        rates->memory_one = one > rates->memory_one ? one : rates->memory_one;
        rates->memory_all = all > rates->memory_all ? all : rates->memory_all;
    }
    free(memory);
    return status;
}

/* Threads that cannot be started leave their part to this one. */
static double memory_rate(const char *memory, uint32_t threads)
{
    part_t parts[CORES_MOST];
    uint32_t begun = 0;
    double start = seconds_now();

    for (uint32_t i = 0; i < threads; i++)
        parts[i] = (part_t){.memory = memory + SIZE / threads * i,
                            .size = SIZE / threads};
    while (begun + 1 < threads &&
           pthread_create(&parts[begun].thread, NULL, part_read,
                          &parts[begun]) == 0)
        begun++;
    for (uint32_t i = begun; i < threads; i++)
        part_read(&parts[i]);
    for (uint32_t i = 0; i < begun; i++)
        pthread_join(parts[i].thread, NULL);
    return SIZE * 1e-9 / (seconds_now() - start);
}

/* Looks for a byte that is not there, with the C library's widest loads. */
static void *part_read(void *arg)
{
    part_t *part = arg;

    part->found = memchr(part->memory, 1, part->size);
    return NULL;
}

/* One row times all weights: as an expert is computed in decoding. */
static coterie_status_t kernels_rate(const char *memory, double *rate_p)
{
    float *x = calloc(WIDTH, sizeof(*x)), *y = calloc(HEIGHT, sizeof(*y));
    coterie_status_t status = COTERIE_OK;

    if (x == NULL || y == NULL)
        status = failure(COTERIE_ERR_NO_MEMORY, "out of memory");
    for (int round = 0; round < ROUNDS && status == COTERIE_OK; round++) {
        double start = seconds_now(), rate;

        coterie_linear(1, WIDTH, HEIGHT, x, memory, COTERIE_DTYPE_BF16, NULL,
                       y);
        rate = SIZE * 1e-9 / (seconds_now() - start);
        *rate_p = rate > *rate_p ? rate : *rate_p;
    }
    free(x);
    free(y);
    return status;
}
