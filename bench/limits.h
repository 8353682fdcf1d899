#ifndef COTERIE_BENCH_LIMITS_H
#define COTERIE_BENCH_LIMITS_H
/* What one thread of this machine can do at most. */
#include <stddef.h>

/* Processor time of the calling thread. */
double limits_seconds(void);

/* Bytes per second, reading a part of memory that no cache holds; each call
 * goes on where the one before stopped. */
double limits_read(const void *memory, size_t size);

/* FLOP per second of f32 multiply-adds in registers, with the widest vectors
 * of the processor; 0 if it has no fused ones. */
double limits_peak(void);

#endif
