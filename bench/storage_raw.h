#ifndef COTERIE_BENCH_STORAGE_RAW_H
#define COTERIE_BENCH_STORAGE_RAW_H
/* What a drive can give without us: direct reads through a bare io_uring, and
 * page faults. Each reads `size` bytes of a file in blocks at random places,
 * and returns the seconds it took, or a negative number. */
#include <stddef.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct storage_ring {
    size_t block;
    unsigned depth;     /* blocks under way at a time */
    void *memory;       /* in huge pages; gone through from end to end, since */
    size_t memory_size; /* a cached destination would flatter the drive */
} storage_ring_t;

double storage_raw_ring(const char *path, uint64_t file_size, uint64_t size,
                        const storage_ring_t *how);

/* The file mapped afresh, and not in the page cache.
 * @param random  the kernel is told that access is, and reads nothing ahead */
double storage_raw_faults(const char *path, uint64_t file_size, size_t block,
                          uint64_t size, bool random);

/* GB/s that fio reads at with io_uring, registered buffers and files; 0 if
 * there is no fio. */
double storage_raw_fio(const char *path, uint64_t size, size_t block,
                       unsigned depth);

/* A block of the file, at a multiple of 4096. */
uint64_t storage_raw_place(uint64_t file_size, size_t block);

#endif
