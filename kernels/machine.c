#include "config.h"

#include <sched.h>
#include <stdlib.h>

#include "base/container.h"
#include "base/error.h"
#include "kernels/pool.h"

#if defined(HAVE_HWLOC)
#include <hwloc.h>

enum { NODES_MAX = 64 };

struct coterie_machine {
    hwloc_topology_t topology;
    hwloc_bitmap_t allowed; /* what this process may run on */
    uint32_t core_count, node_count;
    hwloc_obj_t nodes[NODES_MAX]; /* those with such cores */
};

static coterie_status_t topology_load(coterie_machine_t *machine);
static void nodes_find(coterie_machine_t *machine);

coterie_status_t coterie_machine_create(coterie_machine_t **machine_p)
{
    coterie_machine_t *machine = calloc(1, sizeof(*machine));
    coterie_status_t status;

    if (machine == NULL)
        return coterie_fail_memory(sizeof(*machine), "a machine");
    status = topology_load(machine);
    if (status != COTERIE_OK) {
        coterie_machine_destroy(machine);
        return status;
    }
    nodes_find(machine);
    *machine_p = machine;
    return COTERIE_OK;
}

void coterie_machine_destroy(coterie_machine_t *machine)
{
    if (machine == NULL)
        return;
    hwloc_bitmap_free(machine->allowed);
    if (machine->topology != NULL)
        hwloc_topology_destroy(machine->topology);
    free(machine);
}

uint32_t coterie_machine_cores(const coterie_machine_t *machine)
{
    return machine->core_count;
}

uint32_t coterie_machine_nodes(const coterie_machine_t *machine)
{
    return machine->node_count;
}

uint32_t coterie_machine_node_here(const coterie_machine_t *machine)
{
    const int cpu = machine->node_count > 1 ? sched_getcpu() : -1;

    for (uint32_t n = 0; cpu >= 0 && n < machine->node_count; n++)
        if (hwloc_bitmap_isset(machine->nodes[n]->cpuset, (unsigned)cpu))
            return n;
    return 0;
}

/* A thread that may not be pinned works all the same. */
void coterie_machine_pin(const coterie_machine_t *machine, uint32_t core)
{
    const hwloc_obj_t object = hwloc_get_obj_inside_cpuset_by_type(
        machine->topology, machine->allowed, HWLOC_OBJ_CORE,
        core % machine->core_count);

    if (object != NULL)
        hwloc_set_cpubind(machine->topology, object->cpuset,
                          HWLOC_CPUBIND_THREAD);
}

void coterie_machine_bind(const coterie_machine_t *machine, uint32_t node,
                          const void *memory, size_t size)
{
    hwloc_set_area_membind(machine->topology, memory, size,
                           machine->nodes[node]->nodeset, HWLOC_MEMBIND_BIND,
                           HWLOC_MEMBIND_BYNODESET | HWLOC_MEMBIND_MIGRATE);
}

static coterie_status_t topology_load(coterie_machine_t *machine)
{
    int cores;

    machine->allowed = hwloc_bitmap_alloc();
    if (machine->allowed == NULL ||
        hwloc_topology_init(&machine->topology) != 0)
        return coterie_fail_memory(sizeof(*machine), "a machine's topology");
    if (hwloc_topology_load(machine->topology) != 0)
        return coterie_fail(COTERIE_ERR_UNSUPPORTED,
                            "pool: hwloc cannot read this machine's topology");
    if (hwloc_get_cpubind(machine->topology, machine->allowed,
                          HWLOC_CPUBIND_PROCESS) != 0)
        hwloc_bitmap_copy(
            machine->allowed,
            hwloc_topology_get_allowed_cpuset(machine->topology));
    cores = hwloc_get_nbobjs_inside_cpuset_by_type(
        machine->topology, machine->allowed, HWLOC_OBJ_CORE);
    machine->core_count = coterie_container_cores();
    if (cores > 0 && (uint32_t)cores < machine->core_count)
        machine->core_count = (uint32_t)cores; /* with threads of its own */
    return COTERIE_OK;
}

static void nodes_find(coterie_machine_t *machine)
{
    hwloc_obj_t node = NULL;

    while (machine->node_count < NODES_MAX &&
           (node = hwloc_get_next_obj_by_type(machine->topology,
                                              HWLOC_OBJ_NUMANODE, node)) !=
               NULL)
        if (hwloc_bitmap_intersects(node->cpuset, machine->allowed))
            machine->nodes[machine->node_count++] = node;
}
#else
struct coterie_machine {
    uint32_t core_count;
};

coterie_status_t coterie_machine_create(coterie_machine_t **machine_p)
{
    coterie_machine_t *machine = calloc(1, sizeof(*machine));

    if (machine == NULL)
        return coterie_fail_memory(sizeof(*machine), "a machine");
    machine->core_count = coterie_container_cores();
    *machine_p = machine;
    return COTERIE_OK;
}

void coterie_machine_destroy(coterie_machine_t *machine)
{
    free(machine);
}

uint32_t coterie_machine_cores(const coterie_machine_t *machine)
{
    return machine->core_count;
}

uint32_t coterie_machine_nodes(const coterie_machine_t *machine)
{
    (void)machine;
    return 1;
}

uint32_t coterie_machine_node_here(const coterie_machine_t *machine)
{
    (void)machine;
    return 0;
}

void coterie_machine_pin(const coterie_machine_t *machine, uint32_t core)
{
    (void)machine;
    (void)core;
}

void coterie_machine_bind(const coterie_machine_t *machine, uint32_t node,
                          const void *memory, size_t size)
{
    (void)machine;
    (void)node;
    (void)memory;
    (void)size;
}
#endif
