#include "config.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "kernels/cpu/cpu.h"

/* An instruction set, by its name in COTERIE_ISA. */
typedef struct choice {
    const char *name;
    const coterie_cpu_ops_t *ops;
    coterie_cpu_panels_t panels;
} choice_t;

#define TABLE(isa, words) &coterie_table_##isa##_##words
#define SPAN(isa, words) coterie_span_##isa##_##words

/* Each has what those before it have. */
static const choice_t choices[] = {
    {"portable",
     &coterie_cpu_portable,
     {{TABLE(portable, f32), NULL, TABLE(portable, int8)},
      {NULL, NULL, NULL},
      {SPAN(portable, f32), NULL, SPAN(portable, int8)}}},
#if defined(__x86_64__)
    {"avx2",
     &coterie_cpu_avx2,
     {{TABLE(avx2, f32), NULL, TABLE(avx2, int8)},
      {NULL, NULL, NULL},
      {SPAN(avx2, f32), NULL, SPAN(avx2, int8)}}},
    {"avx512",
     &coterie_cpu_avx512,
     {{TABLE(avx512, f32), NULL, TABLE(avx512, int8)},
      {NULL, NULL, NULL},
      {SPAN(avx512, f32), NULL, SPAN(avx512, int8)}}},
    {"avx512-vnni",
     &coterie_cpu_avx512,
     {{TABLE(avx512, f32), NULL, TABLE(avx512_vnni, int8)},
      {NULL, NULL, NULL},
      {SPAN(avx512, f32), NULL, SPAN(avx512, int8)}}},
    {"avx512-bf16",
     &coterie_cpu_avx512,
     {{TABLE(avx512, f32), TABLE(avx512_bf16, bf16), TABLE(avx512_vnni, int8)},
      {NULL, NULL, NULL},
      {SPAN(avx512, f32), SPAN(avx512_bf16, bf16),
       SPAN(avx512, int8)}}},
    {"avx512-amx",
     &coterie_cpu_avx512,
     {{TABLE(avx512, f32), TABLE(avx512_bf16, bf16), TABLE(avx512_vnni, int8)},
      {NULL, TABLE(amx, bf16), TABLE(amx, int8)},
      {SPAN(avx512, f32), SPAN(avx512_bf16, bf16),
       SPAN(avx512, int8)}}},
#endif
};

enum { CHOICE_COUNT = sizeof(choices) / sizeof(choices[0]) };

static void choose(void);
static size_t available_count(void);
#if defined(__x86_64__)
static int amx_allowed(void);
static size_t last_cache(unsigned leaf);
#endif
static const choice_t *forced(const char *name, size_t available);

static pthread_once_t chosen_once = PTHREAD_ONCE_INIT;
static const choice_t *chosen;
static size_t last_cache_size;

const char *coterie_kernels_isa(void)
{
    pthread_once(&chosen_once, choose);
    return chosen->name;
}

const coterie_cpu_ops_t *coterie_cpu_ops(void)
{
    pthread_once(&chosen_once, choose);
    return chosen->ops;
}

const coterie_cpu_panels_t *coterie_cpu_panels(void)
{
    pthread_once(&chosen_once, choose);
    return &chosen->panels;
}

size_t coterie_cpu_last_cache(void)
{
    pthread_once(&chosen_once, choose);
    return last_cache_size;
}

static void choose(void)
{
    const char *name = getenv("COTERIE_ISA");
    const size_t available = available_count();

    chosen = &choices[available - 1];
    if (name != NULL && name[0] != '\0')
        chosen = forced(name, available);
#if defined(__x86_64__)
    last_cache_size = last_cache(0x8000001d); /* AMD's; then Intel's */
    if (last_cache_size == 0)
        last_cache_size = last_cache(4);
#endif
}

/* __builtin_cpu_supports asks the operating system as well: it is false where
 * wide registers are not saved. Not every compiler's knows f16c. */
static size_t available_count(void)
{
    size_t count = 1;
#if defined(__x86_64__)
    unsigned a, b, c, d;
    const int f16c = __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C) != 0;
    const int has[] = {
        __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
            f16c,
        __builtin_cpu_supports("avx512f") &&
            __builtin_cpu_supports("avx512bw") &&
            __builtin_cpu_supports("avx512vl") &&
            __builtin_cpu_supports("avx512dq"),
        __builtin_cpu_supports("avx512vnni"),
        __builtin_cpu_supports("avx512bf16") &&
            __builtin_cpu_supports("avx512vbmi"),
        amx_allowed(),
    };

    _Static_assert(sizeof(has) / sizeof(has[0]) == CHOICE_COUNT - 1,
                   "a condition for each but the first");
    while (count < CHOICE_COUNT && has[count - 1])
        count++;
#endif
    return count;
}

/* Not sysconf, which multiplies it by what a virtual machine says of its
 * threads. */
#if defined(__x86_64__)
static size_t last_cache(unsigned leaf)
{
    enum { KIND = 31, CACHES_MAX = 8 };
    unsigned a, b, c, d;
    size_t size = 0;

    for (unsigned i = 0; i < CACHES_MAX; i++) {
        if (!__get_cpuid_count(leaf, i, &a, &b, &c, &d) || (a & KIND) == 0)
            break;
        size = ((size_t)(b >> 22) + 1) * ((b >> 12 & 1023) + 1) *
               ((b & 4095) + 1) * ((size_t)c + 1);
    }
    return size;
}
#endif

/* Its registers are large: Linux saves them for those who ask. */
#if defined(__x86_64__)
static int amx_allowed(void)
{
    enum { REQUEST = 0x1023, TILE_DATA = 18, OSXSAVE = 1 << 27 };
    enum { TILE = 1 << 24, BF16 = 1 << 22, INT8 = 1 << 25 };
    const unsigned all = TILE | BF16 | INT8;
    unsigned a, b, c, d, low, high;

    if (!__get_cpuid(1, &a, &b, &c, &d) || (c & OSXSAVE) == 0 ||
        !__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & all) != all)
        return 0;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    (void)high;
    if ((low >> (TILE_DATA - 1) & 3) != 3)
        return 0;
#if defined(__linux__)
    return syscall(SYS_arch_prctl, REQUEST, TILE_DATA) == 0;
#else
    return 0;
#endif
}
#endif

static const choice_t *forced(const char *name, size_t available)
{
    const choice_t *best = &choices[available - 1];
    char names[128] = "";

    for (size_t i = 0; i < CHOICE_COUNT; i++) {
        if (strcmp(name, choices[i].name) != 0) {
            snprintf(names + strlen(names), sizeof(names) - strlen(names),
                     "%s%s", i > 0 ? ", " : "", choices[i].name);
            continue;
        }
        if (i < available)
            return &choices[i];
        fprintf(stderr, "coterie: COTERIE_ISA=%s: not on this processor; "
                        "using %s\n", name, best->name);
        return best;
    }
    fprintf(stderr, "coterie: COTERIE_ISA=%s: must be one of %s; using %s\n",
            name, names, best->name);
    return best;
}
