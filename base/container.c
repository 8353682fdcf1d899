#include "config.h"

#include <limits.h>
#include <math.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/container.h"

enum { LINE_SIZE = 1024 };

/* Version 1 gives "no limit" as the largest multiple of a page. */
static const uint64_t limit_most = (uint64_t)1 << 62;

/* One group of a hierarchy. */
typedef struct group {
    const char *root, *mount;
    char path[LINE_SIZE]; /* "" or "/a/b" */
} group_t;

typedef void (*group_fn)(const group_t *group, coterie_container_t *container);

static void line_read(const char *root, char *line,
                      coterie_container_t *container);
static void groups_walk(group_t *group, group_fn visit,
                        coterie_container_t *container);
static void unified_visit(const group_t *group,
                          coterie_container_t *container);
static void memory_visit(const group_t *group, coterie_container_t *container);
static void cpu_visit(const group_t *group, coterie_container_t *container);
static void memory_limit(coterie_container_t *container, double limit,
                         double used);
static void cpu_limit(coterie_container_t *container, double quota,
                      double period);
static double cached_bytes(const group_t *group, const char *key);
static int numbers_read(const group_t *group, const char *name, double *first,
                        double *second);
static FILE *file_open(const group_t *group, const char *name);
static int has_word(const char *list, const char *word);

void coterie_container_read(const char *root, coterie_container_t *container)
{
    char path[LINE_SIZE], line[LINE_SIZE];
    FILE *stream;

    *container = (coterie_container_t){.memory_limit = UINT64_MAX};
    snprintf(path, sizeof(path), "%s/proc/self/cgroup", root);
    stream = fopen(path, "r");
    if (stream == NULL)
        return;
    while (fgets(line, sizeof(line), stream) != NULL)
        line_read(root, line, container);
    fclose(stream);
}

uint32_t coterie_container_cores(void)
{
    coterie_container_t container;
    cpu_set_t allowed;
    uint32_t cores = 1;

    if (sched_getaffinity(0, sizeof(allowed), &allowed) == 0)
        cores = (uint32_t)CPU_COUNT(&allowed);
    coterie_container_read("", &container);
    if (container.cpu_limit > 0 && container.cpu_limit < cores)
        cores = (uint32_t)ceil(container.cpu_limit);
    return cores > 0 ? cores : 1;
}

/* "4:memory:/docker/1f", or "0::/user" for version 2. */
static void line_read(const char *root, char *line,
                      coterie_container_t *container)
{
    char *controllers = strchr(line, ':');
    char *path = controllers != NULL ? strchr(controllers + 1, ':') : NULL;
    group_t group = {.root = root, .mount = ""};

    if (path == NULL)
        return;
    *controllers++ = *path++ = '\0';
    path[strcspn(path, "\n")] = '\0';
    snprintf(group.path, sizeof(group.path), "%s",
             strcmp(path, "/") == 0 ? "" : path);
    if (*controllers == '\0') {
        groups_walk(&group, unified_visit, container);
    } else if (has_word(controllers, "memory")) {
        group.mount = "/memory";
        groups_walk(&group, memory_visit, container);
    } else if (has_word(controllers, "cpu")) {
        group.mount = "/cpu";
        groups_walk(&group, cpu_visit, container);
    }
}

/* From the group up to the root. Inside a container the path may be the host's
 * and lead nowhere; the root is then the container's own group. */
static void groups_walk(group_t *group, group_fn visit,
                        coterie_container_t *container)
{
    char *end;

    visit(group, container);
    while ((end = strrchr(group->path, '/')) != NULL) {
        *end = '\0';
        visit(group, container);
    }
}

static void unified_visit(const group_t *group, coterie_container_t *container)
{
    double limit, used, quota, period;

    if (numbers_read(group, "memory.max", &limit, NULL) &&
        numbers_read(group, "memory.current", &used, NULL))
        memory_limit(container, limit,
                     used - cached_bytes(group, "inactive_file "));
    if (numbers_read(group, "cpu.max", &quota, &period))
        cpu_limit(container, quota, period);
}

static void memory_visit(const group_t *group, coterie_container_t *container)
{
    double limit, used;

    if (numbers_read(group, "memory.limit_in_bytes", &limit, NULL) &&
        numbers_read(group, "memory.usage_in_bytes", &used, NULL))
        memory_limit(container, limit,
                     used - cached_bytes(group, "total_inactive_file "));
}

static void cpu_visit(const group_t *group, coterie_container_t *container)
{
    double quota, period;

    if (numbers_read(group, "cpu.cfs_quota_us", &quota, NULL) &&
        numbers_read(group, "cpu.cfs_period_us", &period, NULL))
        cpu_limit(container, quota, period);
}

static void memory_limit(coterie_container_t *container, double limit,
                         double used)
{
    double left = (double)container->memory_limit -
                  (double)container->memory_used;

    if (limit < 0 || limit >= (double)limit_most || used < 0 ||
        limit - used >= left)
        return;
    container->memory_limit = (uint64_t)limit;
    container->memory_used = used < limit ? (uint64_t)used : (uint64_t)limit;
}

static void cpu_limit(coterie_container_t *container, double quota,
                      double period)
{
    double cores = quota / period;

    if (quota > 0 && period > 0 &&
        (container->cpu_limit == 0 || cores < container->cpu_limit))
        container->cpu_limit = cores;
}

/* The page cache's, which the kernel takes back when memory is short. */
static double cached_bytes(const group_t *group, const char *key)
{
    FILE *stream = file_open(group, "memory.stat");
    char line[LINE_SIZE];
    double bytes = 0;

    if (stream == NULL)
        return 0;
    while (fgets(line, sizeof(line), stream) != NULL)
        if (strncmp(line, key, strlen(key)) == 0)
            bytes = strtod(line + strlen(key), NULL);
    fclose(stream);
    return bytes;
}

/* "max" is -1, as version 1 says it. Whether there were all of them. */
static int numbers_read(const group_t *group, const char *name, double *first,
                        double *second)
{
    char line[LINE_SIZE], *end = line;
    FILE *stream = file_open(group, name);

    if (stream == NULL)
        return 0;
    if (fgets(line, sizeof(line), stream) == NULL)
        line[0] = '\0';
    fclose(stream);
    if (strncmp(line, "max", 3) == 0) {
        *first = -1;
        end = line + 3;
    } else {
        *first = strtod(line, &end);
    }
    if (end == line)
        return 0;
    if (second == NULL)
        return 1;
    name = end;
    *second = strtod(name, &end);
    return end != name;
}

static FILE *file_open(const group_t *group, const char *name)
{
    char path[4 * LINE_SIZE];

    snprintf(path, sizeof(path), "%s/sys/fs/cgroup%s%s/%s", group->root,
             group->mount, group->path, name);
    return fopen(path, "r");
}

static int has_word(const char *list, const char *word)
{
    size_t size = strlen(word);

    while (strncmp(list, word, size) != 0 ||
           (list[size] != ',' && list[size] != '\0')) {
        list = strchr(list, ',');
        if (list == NULL)
            return 0;
        list++;
    }
    return 1;
}
