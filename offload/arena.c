#include "config.h"

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/error.h"
#include "offload/arena.h"

enum { HUGE_PAGE = 2 << 20, PAGE = 4096 };

static const char own_setting[] = "/sys/kernel/mm/transparent_hugepage/enabled";
static const char shared_setting[] =
    "/sys/kernel/mm/transparent_hugepage/shmem_enabled";

static bool reserved_pages(size_t size, size_t most, coterie_arena_t *arena);
static bool advised_pages(size_t size, coterie_arena_t *arena);
static bool reserved_shared(size_t size, size_t most, coterie_arena_t *arena);
static bool advised_shared(size_t size, coterie_arena_t *arena);
static bool shared_file(size_t size, unsigned flags, coterie_arena_t *arena);
static bool shared_map(coterie_arena_t *arena);
static bool shared_are_huge(void);
static size_t rounded(size_t size, size_t page);
static unsigned char *map(size_t size, int flags);
static unsigned char *map_aligned(size_t size);

coterie_status_t coterie_arena_create(size_t size, size_t most,
                                      coterie_arena_t *arena_p)
{
    coterie_arena_t arena = {0};

    if (size > SIZE_MAX / 2 || (!reserved_pages(size, most, &arena) &&
                                !advised_pages(size, &arena)))
        return coterie_fail_memory(size, "the experts' arena");
    *arena_p = arena;
    return COTERIE_OK;
}

coterie_status_t coterie_arena_create_shared(size_t size, size_t most,
                                             coterie_arena_t *arena_p)
{
    coterie_arena_t arena = {0};

    if (size > SIZE_MAX / 2)
        return coterie_fail_memory(size, "the experts' arena");
    if (!reserved_shared(size, most, &arena) && !advised_shared(size, &arena))
        return coterie_fail(COTERIE_ERR_UNSUPPORTED,
                            "no memory of %zu bytes that processes share: %s",
                            size, strerror(errno));
    *arena_p = arena;
    return COTERIE_OK;
}

coterie_status_t coterie_arena_map(int descriptor, size_t size,
                                   coterie_arena_t *arena_p)
{
    coterie_arena_t arena = {
        .size = size, .shared = true, .descriptor = descriptor};

    if (!shared_map(&arena)) {
        close(descriptor);
        return coterie_fail_memory(size, "another process's experts");
    }
    arena.pages = "shared memory";
    *arena_p = arena;
    return COTERIE_OK;
}

/* "always [madvise] never": the one in brackets. */
void coterie_pages_setting(bool shared, char *text, size_t size)
{
    FILE *file = fopen(shared ? shared_setting : own_setting, "r");
    char line[256] = "";
    const char *begin;

    text[0] = '\0';
    if (file == NULL)
        return;
    if (fgets(line, sizeof(line), file) == NULL)
        line[0] = '\0';
    fclose(file);
    begin = strchr(line, '[');
    if (begin != NULL)
        snprintf(text, size, "%.*s", (int)strcspn(begin + 1, "]"), begin + 1);
}

void coterie_arena_destroy(coterie_arena_t *arena)
{
    if (arena->data != NULL)
        munmap(arena->data, arena->size);
    if (arena->shared)
        close(arena->descriptor);
    *arena = (coterie_arena_t){0};
}

/* The administrator's pool (vm.nr_hugepages) only has whole pages. */
static bool reserved_pages(size_t size, size_t most, coterie_arena_t *arena)
{
    arena->size = rounded(size, HUGE_PAGE);
    if (arena->size > most)
        return false;
    arena->data = map(arena->size, MAP_HUGETLB);
    arena->pages = "reserved huge pages";
    return arena->data != NULL;
}

static bool advised_pages(size_t size, coterie_arena_t *arena)
{
    arena->size = rounded(size, PAGE);
    arena->data = map_aligned(arena->size);
    if (arena->data == NULL)
        return false;
    arena->pages = madvise(arena->data, arena->size, MADV_HUGEPAGE) == 0
                       ? "transparent huge pages"
                       : "small pages";
    return true;
}

static bool reserved_shared(size_t size, size_t most, coterie_arena_t *arena)
{
    size_t whole = rounded(size, HUGE_PAGE);

    if (whole > most || !shared_file(whole, MFD_HUGETLB, arena))
        return false;
    arena->pages = "shared reserved huge pages";
    return true;
}

static bool advised_shared(size_t size, coterie_arena_t *arena)
{
    if (!shared_file(rounded(size, PAGE), 0, arena))
        return false;
    arena->pages = madvise(arena->data, arena->size, MADV_HUGEPAGE) == 0 &&
                           shared_are_huge()
                       ? "shared transparent huge pages"
                       : "shared small pages";
    return true;
}

/* Mapping reserves what comes from the administrator's pool, or fails. */
static bool shared_file(size_t size, unsigned flags, coterie_arena_t *arena)
{
    int error;

    arena->descriptor = memfd_create("coterie", MFD_CLOEXEC | flags);
    if (arena->descriptor < 0)
        return false;
    arena->shared = true;
    arena->size = size;
    if (ftruncate(arena->descriptor, (off_t)size) == 0 && shared_map(arena))
        return true;
    error = errno;
    coterie_arena_destroy(arena);
    errno = error;
    return false;
}

/* At a multiple of the huge page, or it would be mapped in small ones. */
static bool shared_map(coterie_arena_t *arena)
{
    unsigned char *place = map_aligned(rounded(arena->size, PAGE));
    void *data = MAP_FAILED;

    if (place != NULL)
        data = mmap(place, arena->size, PROT_READ | PROT_WRITE,
                    MAP_SHARED | MAP_FIXED, arena->descriptor, 0);
    if (data != MAP_FAILED) {
        arena->data = data;
        return true;
    }
    if (place != NULL)
        munmap(place, rounded(arena->size, PAGE));
    return false;
}

/* Without such a setting, the advice is taken and nothing comes of it. */
static bool shared_are_huge(void)
{
    char setting[32];

    coterie_pages_setting(true, setting, sizeof(setting));
    return setting[0] != '\0' && strcmp(setting, "never") != 0 &&
           strcmp(setting, "deny") != 0;
}

static size_t rounded(size_t size, size_t page)
{
    return (size + page - 1) / page * page;
}

static unsigned char *map(size_t size, int flags)
{
    void *data = mmap(NULL, size, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);

    return data == MAP_FAILED ? NULL : data;
}

/* Transparent huge pages begin at multiples of their size, so more address
 * space is mapped than needed, and what lies around it is given back: only
 * the rest of the last huge page consists of small ones. */
static unsigned char *map_aligned(size_t size)
{
    unsigned char *data = map(size + HUGE_PAGE, 0);
    size_t extra, tail;

    if (data == NULL)
        return NULL;
    extra = (HUGE_PAGE - (uintptr_t)data % HUGE_PAGE) % HUGE_PAGE;
    tail = HUGE_PAGE - extra;
    if (extra > 0)
        munmap(data, extra);
    munmap(data + extra + size, tail);
    return data + extra;
}
