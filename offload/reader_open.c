#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "experts/store.h"
#include "offload/reader_open.h"

static atomic_flag said_threads = ATOMIC_FLAG_INIT;

static coterie_status_t ring_open(const coterie_io_setup_t *setup,
                                  coterie_polling_t polling,
                                  coterie_io_t **io_p);
static void announce_once(atomic_flag *said, const char *why,
                          const char *therefore);
static int open_again(const char *path, int flags);
static bool reads_direct(int descriptor);
static bool same_file(int a, int b);

coterie_status_t coterie_reader_file_open(const coterie_datafile_t *file,
                                          int *descriptor_p, bool *direct_p)
{
    int descriptor = open_again(file->path, O_DIRECT);
    bool direct = descriptor >= 0 && reads_direct(descriptor);

    if (!direct) {
        if (descriptor >= 0)
            close(descriptor);
        descriptor = open_again(file->path, 0);
    }
    if (descriptor < 0)
        return coterie_fail(COTERIE_ERR_IO, "%s: %s", file->path,
                            strerror(errno));
    if (!same_file(descriptor, file->descriptor)) {
        close(descriptor);
        return coterie_fail(COTERIE_ERR_MISMATCH,
                            "%s: replaced by another file since it was "
                            "opened; start again",
                            file->path);
    }
    *descriptor_p = descriptor;
    *direct_p = direct;
    return COTERIE_OK;
}

coterie_status_t coterie_reader_io_open(const coterie_io_setup_t *setup,
                                        bool direct, coterie_polling_t polling,
                                        coterie_io_t **io_p)
{
    coterie_status_t status = COTERIE_ERR_UNSUPPORTED;

    if (direct) {
        status = ring_open(setup, polling, io_p);
        if (status != COTERIE_ERR_UNSUPPORTED)
            return status;
        coterie_reader_announce(coterie_last_error());
    } else {
        coterie_reader_announce("the file system refuses direct reads");
    }
    return coterie_io_pool.open(setup, io_p);
}

void coterie_reader_announce(const char *why)
{
    announce_once(&said_threads, why,
                  "threads read the experts, which is slower");
}

#ifdef HAVE_LIBURING
static coterie_status_t ring_open(const coterie_io_setup_t *setup,
                                  coterie_polling_t polling,
                                  coterie_io_t **io_p)
{
    static atomic_flag said_polling = ATOMIC_FLAG_INIT;
    coterie_status_t status = COTERIE_ERR_UNSUPPORTED;

    if (polling == COTERIE_POLLING_SUBMIT)
        status = coterie_io_sqpoll.open(setup, io_p);
    else if (polling == COTERIE_POLLING_COMPLETE)
        status = coterie_io_iopoll.open(setup, io_p);
    if (status == COTERIE_ERR_UNSUPPORTED && polling != COTERIE_POLLING_NONE)
        announce_once(&said_polling, coterie_last_error(),
                      "experts are read without polling");
    if (status == COTERIE_ERR_UNSUPPORTED)
        status = coterie_io_uring.open(setup, io_p);
    return status;
}
#else
static coterie_status_t ring_open(const coterie_io_setup_t *setup,
                                  coterie_polling_t polling,
                                  coterie_io_t **io_p)
{
    (void)setup;
    (void)polling;
    (void)io_p;
    return coterie_fail(COTERIE_ERR_UNSUPPORTED, "built without liburing");
}
#endif

static void announce_once(atomic_flag *said, const char *why,
                          const char *therefore)
{
    if (!atomic_flag_test_and_set(said))
        fprintf(stderr, "coterie: %s; %s\n", why, therefore);
}

static int open_again(const char *path, int flags)
{
    int descriptor;

    do
        descriptor = open(path, O_RDONLY | O_CLOEXEC | flags);
    while (descriptor < 0 && errno == EINTR);
    return descriptor;
}

/* Some file systems only say no when it comes to reading. Every store has a
 * first block. */
static bool reads_direct(int descriptor)
{
    void *block = aligned_alloc(COTERIE_STORE_BLOCK, COTERIE_STORE_BLOCK);
    ssize_t got = -1;

    if (block != NULL)
        got = pread(descriptor, block, COTERIE_STORE_BLOCK, 0);
    free(block);
    return got == COTERIE_STORE_BLOCK;
}

static bool same_file(int a, int b)
{
    struct stat one, other;

    return fstat(a, &one) == 0 && fstat(b, &other) == 0 &&
           one.st_dev == other.st_dev && one.st_ino == other.st_ino;
}
