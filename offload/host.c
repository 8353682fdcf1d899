#include "config.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#ifdef HAVE_LIBURING
#include <liburing.h>
#endif

#include <coterie/host.h>

#include "base/container.h"
#include "offload/arena.h"

static uint64_t memory_line(const char *path, const char *key);
static uint64_t huge_free(void);
static void uring_try(char *text, size_t size);
static uint32_t nodes_count(void);

void coterie_host_examine(coterie_host_t *host)
{
    coterie_container_t container;
    struct rlimit locked = {RLIM_INFINITY, RLIM_INFINITY};
    cpu_set_t allowed;

    coterie_container_read("", &container);
    getrlimit(RLIMIT_MEMLOCK, &locked);
    *host = (coterie_host_t){
        .size = sizeof(*host),
        .cores = coterie_container_cores(),
        .cores_online = (uint32_t)sysconf(_SC_NPROCESSORS_ONLN),
        .numa_nodes = nodes_count(),
        .cpu_limit = container.cpu_limit,
        .memory = memory_line("/proc/meminfo", "MemTotal:"),
        .available = memory_line("/proc/meminfo", "MemAvailable:"),
        .limit = container.memory_limit,
        .limit_used = container.memory_used,
        .locked = locked.rlim_cur == RLIM_INFINITY ? UINT64_MAX
                                                   : locked.rlim_cur,
        .huge_free = huge_free()};
    host->cores_allowed = host->cores_online;
    if (sched_getaffinity(0, sizeof(allowed), &allowed) == 0)
        host->cores_allowed = (uint32_t)CPU_COUNT(&allowed);
    coterie_pages_setting(false, host->huge, sizeof(host->huge));
    coterie_pages_setting(true, host->huge_shared, sizeof(host->huge_shared));
    uring_try(host->uring, sizeof(host->uring));
}

uint32_t coterie_host_cores(void)
{
    return coterie_container_cores();
}

/* Such a line has a number of KiB; 0 if there is none. */
static uint64_t memory_line(const char *path, const char *key)
{
    FILE *stream = fopen(path, "r");
    uint64_t kib = 0;
    char line[256];

    if (stream == NULL)
        return 0;
    while (fgets(line, sizeof(line), stream) != NULL)
        if (strncmp(line, key, strlen(key)) == 0)
            kib = strtoull(line + strlen(key), NULL, 10);
    fclose(stream);
    return kib * 1024;
}

/* Their number stands without a unit. */
static uint64_t huge_free(void)
{
    return memory_line("/proc/meminfo", "HugePages_Free:") / 1024 *
           memory_line("/proc/meminfo", "Hugepagesize:");
}

static void uring_try(char *text, size_t size)
{
#ifdef HAVE_LIBURING
    struct io_uring ring;
    int error = -io_uring_queue_init(1, &ring, 0);

    snprintf(text, size, "%s", error != 0 ? strerror(error) : "");
    if (error == 0)
        io_uring_queue_exit(&ring);
#else
    snprintf(text, size, "built without liburing");
#endif
}

static uint32_t nodes_count(void)
{
    char path[64];
    struct stat about;
    uint32_t count = 0;

    do
        snprintf(path, sizeof(path), "/sys/devices/system/node/node%u",
                 count);
    while (stat(path, &about) == 0 && ++count < 1024);
    return count > 0 ? count : 1;
}
