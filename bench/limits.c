#include "config.h"

#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <time.h>

#include "bench/bench.h"
#include "bench/limits.h"

enum { PART = 128 << 20, SUMS = 12, ROUNDS = 1000000, THREADS_MAX = 64 };

/* One thread's share of what is measured. */
typedef struct task {
    const char *from; /* NULL: multiply */
    size_t size;
    limits_kind_t kind;
    double operations, start, end;
} task_t;

static atomic_int waiting; /* threads of a task that do not run yet */

static double tasks_run(task_t *tasks, int count);
static void *task_main(void *arg);
static void task_measure(task_t *task);
static double multiply(limits_kind_t kind);
static void read_part(const char *from, size_t size);

static volatile float sink; /* so that results are needed */

double limits_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

#if defined(__x86_64__)
#include <immintrin.h>

#define WIDE __attribute__((target("avx512f")))
#define NARROW __attribute__((target("avx2,fma")))

/* Four streams: one alone, however far ahead it asks, leaves a fifth unused. */
WIDE static void read_wide(const char *from, size_t size)
{
    const size_t stream = size / 4;
    __m512i sum[4] = {_mm512_setzero_si512()};
    for (size_t i = 0; i + 64 <= stream; i += 64) {
        for (size_t j = 0; j < 4; j++) {
            const char *at = from + j * stream + i;
            _mm_prefetch(at + 4096, _MM_HINT_T1);
            sum[j] = _mm512_add_epi32(sum[j], _mm512_loadu_si512(at));
        }
    }
    for (int j = 0; j < 4; j++)
        sink += (float)_mm512_reduce_add_epi32(sum[j]);
}

NARROW static void read_narrow(const char *from, size_t size)
{
    __m256i sum[4] = {_mm256_setzero_si256()};
    int words[8];
    for (size_t i = 0; i + 128 <= size; i += 128) {
        for (int j = 0; j < 4; j++) {
            _mm_prefetch(from + i + j * 32 + 4096, _MM_HINT_T0);
            sum[j] = _mm256_add_epi32(
                sum[j],
                _mm256_loadu_si256((const void *)(from + i + j * 32)));
        }
    }
    sum[0] = _mm256_add_epi32(_mm256_add_epi32(sum[0], sum[1]),
                              _mm256_add_epi32(sum[2], sum[3]));
    _mm256_storeu_si256((void *)words, sum[0]);
    sink += (float)words[0];
}

__attribute__((target("avx512f,avx512bf16"))) static double multiply_bf16(void)
{
    const __m512bh ones = (__m512bh)_mm512_set1_epi32(0x3f803f80);
    __m512 sum[SUMS];
    for (int i = 0; i < SUMS; i++)
        sum[i] = _mm512_setzero_ps();
    for (int round = 0; round < ROUNDS; round++) {
#pragma GCC unroll 12
        for (int i = 0; i < SUMS; i++)
            sum[i] = _mm512_dpbf16_ps(sum[i], ones, ones);
    }
    for (int i = 0; i < SUMS; i++)
        sink += _mm512_reduce_add_ps(sum[i]);
    return 2.0 * 32 * SUMS * ROUNDS;
}

__attribute__((target("avx512f,avx512vnni"))) static double multiply_int8(void)
{
    const __m512i ones = _mm512_set1_epi8(1);
    __m512i sum[SUMS];
    for (int i = 0; i < SUMS; i++)
        sum[i] = _mm512_setzero_si512();
    for (int round = 0; round < ROUNDS; round++) {
#pragma GCC unroll 12
        for (int i = 0; i < SUMS; i++)
            sum[i] = _mm512_dpbusd_epi32(sum[i], ones, ones);
    }
    for (int i = 0; i < SUMS; i++)
        sink += (float)_mm512_reduce_add_epi32(sum[i]);
    return 2.0 * 64 * SUMS * ROUNDS;
}

WIDE static double multiply_wide(int rounds)
{
    const __m512 factor = _mm512_set1_ps(0.5f);
    __m512 sum[SUMS];
    for (int i = 0; i < SUMS; i++)
        sum[i] = factor;
    for (int round = 0; round < rounds; round++) {
#pragma GCC unroll 12
        for (int i = 0; i < SUMS; i++)
            sum[i] = _mm512_fmadd_ps(sum[i], factor, factor);
    }
    for (int i = 0; i < SUMS; i++)
        sink += _mm512_reduce_add_ps(sum[i]);
    return 2.0 * 16 * SUMS * rounds;
}

NARROW static double multiply_narrow(int rounds)
{
    const __m256 factor = _mm256_set1_ps(0.5f);
    __m256 sum[SUMS];
    for (int i = 0; i < SUMS; i++)
        sum[i] = factor;
    for (int round = 0; round < rounds; round++) {
#pragma GCC unroll 12
        for (int i = 0; i < SUMS; i++)
            sum[i] = _mm256_fmadd_ps(sum[i], factor, factor);
    }
    for (int i = 0; i < SUMS; i++)
        sink += _mm256_cvtss_f32(sum[i]);
    return 2.0 * 8 * SUMS * rounds;
}

static void read_part(const char *from, size_t size)
{
    if (__builtin_cpu_supports("avx512f"))
        read_wide(from, size);
    else if (__builtin_cpu_supports("avx2"))
        read_narrow(from, size);
}

static double multiply(limits_kind_t kind)
{
    if (kind == LIMITS_BF16)
        return __builtin_cpu_supports("avx512bf16") ? multiply_bf16() : 0;
    if (kind == LIMITS_INT8)
        return __builtin_cpu_supports("avx512vnni") ? multiply_int8() : 0;
    if (__builtin_cpu_supports("avx512f"))
        return multiply_wide(ROUNDS);
    return __builtin_cpu_supports("fma") ? multiply_narrow(ROUNDS) : 0;
}
#else
static void read_part(const char *from, size_t size)
{
    const uint64_t *words = (const void *)from;
    uint64_t sum = 0;
    for (size_t i = 0; i < size / sizeof(*words); i++)
        sum += words[i];
    sink += (float)sum;
}

static double multiply(limits_kind_t kind)
{
    (void)kind;
    return 0;
}
#endif

double limits_read(const void *memory, size_t size, int threads)
{
    static size_t next;
    const size_t part = size < PART ? size : PART;
    task_t tasks[THREADS_MAX];

    if (next + part > size)
        next = 0;
    for (int i = 0; i < threads; i++)
        tasks[i] = (task_t){.from = (const char *)memory + next +
                                    part * (size_t)i /
                                                        (size_t)threads,
                            .size = part / (size_t)threads};
    next += part;
    return (double)part / tasks_run(tasks, threads);
}

double limits_peak(limits_kind_t kind, int threads)
{
    task_t tasks[THREADS_MAX];
    double seconds, operations = 0;

    for (int i = 0; i < threads; i++)
        tasks[i] = (task_t){.kind = kind};
    seconds = tasks_run(tasks, threads);
    for (int i = 0; i < threads; i++)
        operations += tasks[i].operations;
    return operations / seconds;
}

/* By threads of their own, but for the last one. From the moment all of them
 * are running, each on its core, until the last one is done. */
static double tasks_run(task_t *tasks, int count)
{
    pthread_t threads[THREADS_MAX];
    double first = INFINITY, last = 0;

    atomic_store(&waiting, count);
    for (int i = 0; i + 1 < count; i++)
        pthread_create(&threads[i], NULL, task_main, &tasks[i]);
    task_main(&tasks[count - 1]);
    for (int i = 0; i + 1 < count; i++)
        pthread_join(threads[i], NULL);
    for (int i = 0; i < count; i++) {
        first = fmin(first, tasks[i].start);
        last = fmax(last, tasks[i].end);
    }
    return last - first;
}

static void *task_main(void *arg)
{
    task_t *task = arg;

    atomic_fetch_sub(&waiting, 1);
    while (atomic_load(&waiting) > 0)
        sched_yield();
    task->start = bench_seconds();
    task_measure(task);
    task->end = bench_seconds();
    return NULL;
}

static void task_measure(task_t *task)
{
    if (task->from != NULL)
        read_part(task->from, task->size);
    else
        task->operations = multiply(task->kind);
}
