#include "config.h"

#include <string.h>
#include <sys/mman.h>

#include "base/error.h"
#include "offload/memory.h"

static coterie_status_t host_create(size_t size, size_t most,
                                    coterie_arena_t *arena_p);
static void processor_fill(void *to, const void *from, size_t size);

const coterie_memory_ops_t coterie_memory_fast = {
    "fast", coterie_arena_create, processor_fill, coterie_arena_destroy};
const coterie_memory_ops_t coterie_memory_shared = {
    "shared", coterie_arena_create_shared, processor_fill,
    coterie_arena_destroy};
const coterie_memory_ops_t coterie_memory_host = {
    "host", host_create, processor_fill, coterie_arena_destroy};

static coterie_status_t host_create(size_t size, size_t most,
                                    coterie_arena_t *arena_p)
{
    void *data = mmap(NULL, size, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    (void)most;
    if (data == MAP_FAILED)
        return coterie_fail_memory(size, "the experts' host memory");
    *arena_p = (coterie_arena_t){
        .data = data, .size = size, .pages = "plain pages"};
    return COTERIE_OK;
}

static void processor_fill(void *to, const void *from, size_t size)
{
    memcpy(to, from, size);
}
