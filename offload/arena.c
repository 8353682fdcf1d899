#include "config.h"

#include <stdint.h>
#include <sys/mman.h>

#include "base/error.h"
#include "offload/arena.h"

enum { HUGE_PAGE = 2 << 20, PAGE = 4096 };

static int reserved_pages(size_t size, size_t most, coterie_arena_t *arena);
static int advised_pages(size_t size, coterie_arena_t *arena);
static void *map(size_t size, int flags);

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

void coterie_arena_destroy(coterie_arena_t *arena)
{
    if (arena->data != NULL)
        munmap(arena->data, arena->size);
    *arena = (coterie_arena_t){0};
}

/* The administrator's pool (vm.nr_hugepages) only has whole pages. */
static int reserved_pages(size_t size, size_t most, coterie_arena_t *arena)
{
    size_t whole = (size + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;

    if (whole > most)
        return 0;
    arena->data = map(whole, MAP_HUGETLB);
    arena->size = whole;
    arena->pages = "reserved huge pages";
    return arena->data != NULL;
}

/* Transparent huge pages begin at multiples of their size, so more address
 * space is mapped than needed, and what lies around it is given back: only
 * the rest of the last huge page consists of small ones. */
static int advised_pages(size_t size, coterie_arena_t *arena)
{
    size_t whole = (size + PAGE - 1) / PAGE * PAGE, extra, tail;
    unsigned char *data = map(whole + HUGE_PAGE, 0);

    if (data == NULL)
        return 0;
    extra = (HUGE_PAGE - (uintptr_t)data % HUGE_PAGE) % HUGE_PAGE;
    tail = HUGE_PAGE - extra;
    if (extra > 0)
        munmap(data, extra);
    if (tail > 0)
        munmap(data + extra + whole, tail);
    arena->data = data + extra;
    arena->size = whole;
    arena->pages = madvise(arena->data, whole, MADV_HUGEPAGE) == 0
                       ? "transparent huge pages"
                       : "small pages";
    return 1;
}

static void *map(size_t size, int flags)
{
    void *data = mmap(NULL, size, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);

    return data == MAP_FAILED ? NULL : data;
}
