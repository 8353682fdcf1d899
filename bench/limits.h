#ifndef COTERIE_BENCH_LIMITS_H
#define COTERIE_BENCH_LIMITS_H
/* What this machine can do at most, by one thread or several at once. */
#include <stddef.h>

/* Processor time of the calling thread. */
double limits_seconds(void);

/* Bytes per second, reading a part of memory that no cache holds; each call
 * goes on where the one before stopped. */
double limits_read(const void *memory, size_t size, int threads);

typedef enum limits_kind {
    LIMITS_F32,  /* fused multiply-adds */
    LIMITS_BF16, /* vdpbf16ps */
    LIMITS_INT8  /* vpdpbusd */
} limits_kind_t;

/* Operations per second of a kind, in registers, with the widest vectors of
 * the processor; 0 if it has no such instruction. */
double limits_peak(limits_kind_t kind, int threads);

#endif
