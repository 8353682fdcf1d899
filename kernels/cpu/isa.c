#include "config.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include "kernels/cpu/cpu.h"

typedef struct choice {
    const coterie_cpu_ops_t *ops;
    int available;
} choice_t;

static void choose(void);
#if defined(__x86_64__)
static int has_f16c(void);
#endif
static const coterie_cpu_ops_t *forced(const char *name,
                                       const choice_t *choices, size_t count);

static pthread_once_t chosen_once = PTHREAD_ONCE_INIT;
static const coterie_cpu_ops_t *chosen;

const char *coterie_kernels_isa(void)
{
    return coterie_cpu_ops()->name;
}

const coterie_cpu_ops_t *coterie_cpu_ops(void)
{
    pthread_once(&chosen_once, choose);
    return chosen;
}

/* __builtin_cpu_supports asks the operating system as well: it is false where
 * wide registers are not saved. */
static void choose(void)
{
    const char *name = getenv("COTERIE_ISA");
#if defined(__x86_64__)
    const int avx2 = __builtin_cpu_supports("avx2") &&
                     __builtin_cpu_supports("fma") &&
                     has_f16c();
    const int avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
                       __builtin_cpu_supports("avx512bw") &&
                       __builtin_cpu_supports("avx512vl") &&
                       __builtin_cpu_supports("avx512dq");
#endif
    const choice_t choices[] = {
        {&coterie_cpu_portable, 1},
#if defined(__x86_64__)
        {&coterie_cpu_avx2, avx2},
        {&coterie_cpu_avx512, avx512},
#endif
    };
    const size_t count = sizeof(choices) / sizeof(choices[0]);

    for (size_t i = 0; i < count; i++)
        if (choices[i].available)
            chosen = choices[i].ops;
    if (name != NULL && name[0] != '\0')
        chosen = forced(name, choices, count);
}

#if defined(__x86_64__)
/* Not every compiler's __builtin_cpu_supports knows this one. */
static int has_f16c(void)
{
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C) != 0;
}
#endif

static const coterie_cpu_ops_t *forced(const char *name,
                                       const choice_t *choices, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (strcmp(name, choices[i].ops->name) != 0)
            continue;
        if (choices[i].available)
            return choices[i].ops;
        fprintf(stderr, "coterie: COTERIE_ISA=%s: not on this processor; "
                        "using %s\n", name, chosen->name);
        return chosen;
    }
    fprintf(stderr, "coterie: COTERIE_ISA=%s: must be portable, avx2 or "
                    "avx512; using %s\n", name, chosen->name);
    return chosen;
}
