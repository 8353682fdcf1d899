#include "config.h"

#include <stdint.h>
#include <time.h>

#include "bench/limits.h"

enum { PART = 128 << 20, SUMS = 12 };

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

WIDE static void read_wide(const char *from, size_t size)
{
    __m512i sum[4] = {_mm512_setzero_si512()};
    for (size_t i = 0; i + 256 <= size; i += 256) {
        for (int j = 0; j < 4; j++) {
            _mm_prefetch(from + i + j * 64 + 4096, _MM_HINT_T0);
            sum[j] = _mm512_add_epi32(
                sum[j], _mm512_loadu_si512(from + i + j * 64));
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

static double multiply(int rounds)
{
    if (__builtin_cpu_supports("avx512f"))
        return multiply_wide(rounds);
    return __builtin_cpu_supports("fma") ? multiply_narrow(rounds) : 0;
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

static double multiply(int rounds)
{
    (void)rounds;
    return 0;
}
#endif

double limits_read(const void *memory, size_t size)
{
    static size_t next;
    const size_t part = size < PART ? size : PART;
    double start;

    if (next + part > size)
        next = 0;
    start = limits_seconds();
    read_part((const char *)memory + next, part);
    next += part;
    return (double)part / (limits_seconds() - start);
}

double limits_peak(void)
{
    const double start = limits_seconds();
    const double flops = multiply(1000000);
    return flops / (limits_seconds() - start);
}
