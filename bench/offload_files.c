#include "config.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "bench/bench.h"
#include "bench/offload_files.h"
#include "experts/model.h"

enum { MIB = 1 << 20, DRIVE_READ = 256 * MIB, DRIVE_ROUNDS = 3, WAYS = 9 };

static coterie_status_t file_open(const char *path, offload_file_t *file,
                                  dev_t *device_p);
static double file_measure(const offload_file_t *file,
                           const storage_ring_t *how);

coterie_status_t offload_files_open(const coterie_model_t *model,
                                    offload_files_t *files)
{
    const coterie_datafile_t *source;
    dev_t devices[1 + COTERIE_STRIPES_MAX];
    coterie_status_t status = COTERIE_OK;

    while (status == COTERIE_OK &&
           (source = coterie_store_file(model->source, files->count)) !=
               NULL) {
        uint32_t at = files->count++;

        status = file_open(source->path, &files->file[at], &devices[at]);
        files->file[at].apart = true;
        for (uint32_t i = 0; i < at && status == COTERIE_OK; i++)
            if (devices[i] == devices[at])
                files->file[at].apart = false;
    }
    return status;
}

void offload_files_sweep(offload_files_t *files, coterie_arena_t *arena)
{
    static const size_t blocks[] = {MIB, 2 * MIB, 4 * MIB};
    static const unsigned depths[] = {2, 4, 8};

    for (uint32_t i = 0; i < files->count; i++) {
        offload_file_t *file = &files->file[i];
        double best = 0;

        for (size_t n = 0; n < WAYS && file->apart; n++) {
            storage_ring_t how = {blocks[n / 3], depths[n % 3], arena->data,
                                  DRIVE_READ};
            double rate = file_measure(file, &how);

            if (rate > best)
                file->how = how;
            best = rate > best ? rate : best;
        }
    }
}

double offload_files_measure(const offload_files_t *files)
{
    double rate = 0;

    for (uint32_t i = 0; i < files->count; i++)
        if (files->file[i].apart)
            rate += file_measure(&files->file[i], &files->file[i].how);
    return rate;
}

void offload_files_close(offload_files_t *files)
{
    for (uint32_t i = 0; i < files->count; i++) {
        offload_file_t *file = &files->file[i];

        if (file->mapped != NULL)
            munmap((void *)file->mapped, file->size);
        if (file->descriptor >= 0)
            close(file->descriptor);
    }
    files->count = 0;
}

static coterie_status_t file_open(const char *path, offload_file_t *file,
                                  dev_t *device_p)
{
    struct stat about;
    void *mapped;

    file->path = path;
    file->descriptor = open(path, O_RDONLY | O_CLOEXEC);
    if (file->descriptor < 0 || fstat(file->descriptor, &about) != 0)
        return coterie_fail(COTERIE_ERR_IO, "%s: not readable", path);
    file->size = (uint64_t)about.st_size;
    *device_p = about.st_dev;
    fsync(file->descriptor); /* what is not written yet cannot leave the page
                              * cache */
    posix_fadvise(file->descriptor, 0, 0, POSIX_FADV_DONTNEED);
    mapped = mmap(NULL, file->size, PROT_READ, MAP_SHARED, file->descriptor,
                  0);
    if (mapped == MAP_FAILED)
        return coterie_fail(COTERIE_ERR_IO, "%s: not mappable", path);
    file->mapped = mapped;
    return COTERIE_OK;
}

/* GB/s. */
static double file_measure(const offload_file_t *file,
                           const storage_ring_t *how)
{
    double took[DRIVE_ROUNDS];

    for (int i = 0; i < DRIVE_ROUNDS; i++)
        took[i] = storage_raw_ring(file->path, file->size, DRIVE_READ, how);
    return (double)DRIVE_READ / bench_median(took, DRIVE_ROUNDS) * 1e-9;
}
