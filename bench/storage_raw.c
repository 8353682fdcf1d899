#include "config.h"

#include <fcntl.h>
#include <inttypes.h>
#include <liburing.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "bench/bench.h"
#include "bench/storage_raw.h"

enum { PAGE = 4096, STATE_SEED = 12345 };

static int ring_open(struct io_uring *ring, int file,
                     const storage_ring_t *how);
static void ring_read(struct io_uring *ring, uint64_t file_size,
                      uint64_t ordinal, const storage_ring_t *how);

double storage_raw_ring(const char *path, uint64_t file_size, uint64_t size,
                        const storage_ring_t *how)
{
    int file = open(path, O_RDONLY | O_DIRECT);
    uint64_t count = size / how->block, begun = 0;
    struct io_uring ring;
    double start, took = -1;

    if (file < 0)
        return -1;
    if (ring_open(&ring, file, how) != 0)
        goto out;
    start = bench_seconds();
    for (; begun < how->depth && begun < count; begun++)
        ring_read(&ring, file_size, begun, how);
    for (uint64_t done = 0; done < count; done++) {
        struct io_uring_cqe *cqe;

        if (io_uring_submit_and_wait(&ring, 1) < 0 ||
            io_uring_peek_cqe(&ring, &cqe) != 0 ||
            cqe->res != (int)how->block)
            goto out_ring;
        io_uring_cqe_seen(&ring, cqe);
        if (begun < count)
            ring_read(&ring, file_size, begun++, how);
    }
    took = bench_seconds() - start;
out_ring:
    io_uring_queue_exit(&ring);
out:
    close(file);
    return took;
}

double storage_raw_faults(const char *path, uint64_t file_size, size_t block,
                          uint64_t size, bool random)
{
    int file = open(path, O_RDONLY);
    volatile unsigned char seen = 0;
    const unsigned char *data;
    double start;

    if (file < 0)
        return -1;
    posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED);
    data = mmap(NULL, file_size, PROT_READ, MAP_SHARED, file, 0);
    close(file);
    if (data == MAP_FAILED)
        return -1;
    if (random)
        madvise((void *)data, file_size, MADV_RANDOM);
    start = bench_seconds();
    for (uint64_t done = 0; done + block <= size; done += block) {
        uint64_t place = storage_raw_place(file_size, block);

        for (size_t i = 0; i < block; i += PAGE)
            seen ^= data[place + i];
    }
    start = bench_seconds() - start;
    munmap((void *)data, file_size);
    return start;
}

/* The seventh field of fio's terse line is KiB per second. */
double storage_raw_fio(const char *path, uint64_t size, size_t block,
                       unsigned depth)
{
    char command[8192], line[4096] = "";
    FILE *pipe;
    const char *at = line;

    snprintf(command, sizeof(command),
             "fio --name=storage --filename='%s' --readonly --direct=1 "
             "--ioengine=io_uring --fixedbufs=1 --registerfiles=1 "
             "--rw=randread --norandommap --bs=%zu --iodepth=%u "
             "--io_size=%" PRIu64 " --minimal 2>/dev/null",
             path, block, depth, size);
    pipe = popen(command, "r");
    if (pipe == NULL)
        return 0;
    while (fgets(line, sizeof(line), pipe) != NULL && line[0] != '3')
        ;
    pclose(pipe);
    for (int field = 0; field < 6 && at != NULL; field++) {
        at = strchr(at, ';');
        at = at != NULL ? at + 1 : NULL;
    }
    return at != NULL ? strtod(at, NULL) * 1024 * 1e-9 : 0;
}

uint64_t storage_raw_place(uint64_t file_size, size_t block)
{
    static uint64_t state = STATE_SEED;
    uint64_t places = (file_size - block) / PAGE + 1;

    state = state * 6364136223846793005u + 1442695040888963407u;
    return (state >> 33) % places * PAGE;
}

static int ring_open(struct io_uring *ring, int file,
                     const storage_ring_t *how)
{
    struct iovec buffer = {how->memory, how->memory_size};

    if (io_uring_queue_init(how->depth, ring, 0) != 0)
        return -1;
    if (io_uring_register_files(ring, &file, 1) == 0 &&
        io_uring_register_buffers(ring, &buffer, 1) == 0)
        return 0;
    io_uring_queue_exit(ring);
    return -1;
}

static void ring_read(struct io_uring *ring, uint64_t file_size,
                      uint64_t ordinal, const storage_ring_t *how)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(ring);
    uint64_t slot = ordinal % (how->memory_size / how->block);

    io_uring_prep_read_fixed(sqe, 0, (char *)how->memory + slot * how->block,
                             (unsigned)how->block,
                             storage_raw_place(file_size, how->block), 0);
    io_uring_sqe_set_flags(sqe, IOSQE_FIXED_FILE);
}
