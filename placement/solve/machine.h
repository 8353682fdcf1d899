#ifndef COTERIE_PLACEMENT_SOLVE_MACHINE_H
#define COTERIE_PLACEMENT_SOLVE_MACHINE_H

/* A function that is compiled for several machines; the loader picks: too
 * early for a sanitizer of threads. */
#if defined(__x86_64__) && defined(__GLIBC__) && !defined(__SANITIZE_THREAD__)
#define EACH_MACHINE \
    __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define EACH_MACHINE
#endif

#endif
