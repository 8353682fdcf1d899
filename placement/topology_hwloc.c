#include "config.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "placement/placement.h"
#include "placement/topology.h"

#ifdef HAVE_HWLOC

#include <hwloc.h>

/* The objects of one kind, in hwloc's order: what ranks may be. */
typedef struct objects {
    const char *what; /* plural, for messages */
    uint32_t count;
    hwloc_obj_t *list; /* [count] */
} objects_t;

enum { KINDS = 6 };

typedef struct machine {
    const coterie_hwloc_request_t *request;
    hwloc_topology_t hwloc;
    objects_t kinds[KINDS]; /* GPUs first, then ever smaller parts */
    const objects_t *ranks;
    coterie_topology_options_t options;
    uint64_t *memory;
} machine_t;

static coterie_status_t machine_load(machine_t *m);
static coterie_status_t kinds_collect(machine_t *m);
static coterie_status_t gpus_collect(machine_t *m, objects_t *gpus);
static int device_computes(hwloc_obj_t device);
static hwloc_obj_t device_place(hwloc_obj_t device);
static coterie_status_t type_collect(machine_t *m, hwloc_obj_type_t type,
                                     const char *what, objects_t *objects);
static coterie_status_t ranks_choose(machine_t *m);
static coterie_status_t nodes_find(machine_t *m);
static coterie_status_t depth_divide(machine_t *m, int depth,
                                     uint32_t *parts_p);
static hwloc_obj_t ancestor_at(const machine_t *m, hwloc_obj_t rank,
                               int depth);
static coterie_status_t memory_find(machine_t *m);
static uint64_t device_memory(hwloc_obj_t device);
static void bandwidths_find(machine_t *m);
static int matrix_use(machine_t *m, const struct hwloc_distances_s *matrix);
static int rank_of(const machine_t *m, hwloc_obj_t object);

coterie_status_t coterie_topology_read_hwloc(
    const coterie_hwloc_request_t *request, coterie_topology_t **topology_p)
{
    machine_t m = {.request = request,
                   .options = COTERIE_TOPOLOGY_OPTIONS_INIT};
    coterie_status_t status = machine_load(&m);

    if (status == COTERIE_OK)
        status = kinds_collect(&m);
    if (status == COTERIE_OK)
        status = ranks_choose(&m);
    if (status == COTERIE_OK)
        status = nodes_find(&m);
    if (status == COTERIE_OK)
        status = memory_find(&m);
    if (status == COTERIE_OK) {
        bandwidths_find(&m);
        m.options.memory = m.memory;
        status = coterie_topology_create(&m.options, topology_p);
    }
    for (int k = 0; k < KINDS; k++)
        free(m.kinds[k].list);
    free(m.memory);
    if (m.hwloc != NULL)
        hwloc_topology_destroy(m.hwloc);
    return status;
}

static coterie_status_t machine_load(machine_t *m)
{
    const coterie_hwloc_request_t *r = m->request;
    int failed = 0;

    if (hwloc_topology_init(&m->hwloc) != 0) {
        m->hwloc = NULL;
        return coterie_fail_memory(0, "hwloc");
    }
    hwloc_topology_set_io_types_filter(m->hwloc,
                                       HWLOC_TYPE_FILTER_KEEP_IMPORTANT);
    if (r->source == COTERIE_HWLOC_SYNTHETIC)
        failed = hwloc_topology_set_synthetic(m->hwloc, r->text);
    else if (r->source == COTERIE_HWLOC_XML) /* its size counts the zero */
        failed = hwloc_topology_set_xmlbuffer(m->hwloc, r->text,
                                              (int)r->size + 1);
    if (failed != 0 || hwloc_topology_load(m->hwloc) != 0)
        return coterie_fail(COTERIE_ERR_FORMAT,
                            "%s: hwloc does not understand this %s", r->name,
                            r->source == COTERIE_HWLOC_XML ? "XML"
                            : r->source == COTERIE_HWLOC_SYNTHETIC
                                ? "description; 'package:2 numa:4 pu:8' would "
                                  "do"
                                : "machine");
    return COTERIE_OK;
}

static coterie_status_t kinds_collect(machine_t *m)
{
    static const struct {
        hwloc_obj_type_t type;
        const char *what;
    } types[KINDS - 1] = {
        {HWLOC_OBJ_NUMANODE, "NUMA nodes"}, {HWLOC_OBJ_PACKAGE, "packages"},
        {HWLOC_OBJ_L3CACHE, "L3 caches"},   {HWLOC_OBJ_CORE, "cores"},
        {HWLOC_OBJ_PU, "hardware threads"}};
    coterie_status_t status = gpus_collect(m, &m->kinds[0]);

    for (int k = 1; status == COTERIE_OK && k < KINDS; k++)
        status = type_collect(m, types[k - 1].type, types[k - 1].what,
                              &m->kinds[k]);
    return status;
}

/* A GPU shows as several devices of its drivers: one of them stands for it. */
static coterie_status_t gpus_collect(machine_t *m, objects_t *gpus)
{
    hwloc_obj_t device = NULL;
    uint32_t most = 0;

    gpus->what = "GPUs";
    while ((device = hwloc_get_next_osdev(m->hwloc, device)) != NULL)
        most++;
    gpus->list = calloc(most + 1, sizeof(*gpus->list));
    if (gpus->list == NULL)
        return coterie_fail_memory(most * sizeof(*gpus->list), "GPUs");
    while ((device = hwloc_get_next_osdev(m->hwloc, device)) != NULL) {
        uint32_t i = 0;
        if (!device_computes(device))
            continue;
        while (i < gpus->count &&
               device_place(gpus->list[i]) != device_place(device))
            i++;
        if (i == gpus->count)
            gpus->list[gpus->count++] = device;
    }
    return COTERIE_OK;
}

/* Not what only drives a screen, nor a CPU that a driver shows as a device. */
static int device_computes(hwloc_obj_t device)
{
    const char *backend = hwloc_obj_get_info_by_name(device, "Backend");
    int computes = device->attr->osdev.type == HWLOC_OBJ_OSDEV_COPROC ||
                   (device->attr->osdev.type == HWLOC_OBJ_OSDEV_GPU &&
                    backend != NULL &&
                    (strcmp(backend, "NVML") == 0 ||
                     strcmp(backend, "RSMI") == 0));

    return computes && device_place(device) != NULL;
}

/* The PCI device that it is; NULL for none. */
static hwloc_obj_t device_place(hwloc_obj_t device)
{
    while (device != NULL && device->type != HWLOC_OBJ_PCI_DEVICE)
        device = device->parent;
    return device;
}

static coterie_status_t type_collect(machine_t *m, hwloc_obj_type_t type,
                                     const char *what, objects_t *objects)
{
    int count = hwloc_get_nbobjs_by_type(m->hwloc, type);

    objects->what = what;
    if (count <= 0)
        return COTERIE_OK;
    objects->list = calloc((size_t)count, sizeof(*objects->list));
    if (objects->list == NULL)
        return coterie_fail_memory((size_t)count * sizeof(*objects->list),
                                   what);
    for (int i = 0; i < count; i++)
        objects->list[i] = hwloc_get_obj_by_type(m->hwloc, type, (unsigned)i);
    objects->count = (uint32_t)count;
    return COTERIE_OK;
}

/* GPUs, even one; else the largest parts of which there are several. */
static coterie_status_t ranks_choose(machine_t *m)
{
    uint32_t wanted = m->request->rank_count;
    const objects_t *kinds = m->kinds;

    for (int k = 0; k < KINDS && m->ranks == NULL; k++)
        if (wanted != 0 ? kinds[k].count == wanted
                        : kinds[k].count > (k > 0))
            m->ranks = &kinds[k];
    if (m->ranks == NULL && wanted == 0)
        m->ranks = &kinds[KINDS - 1]; /* a single hardware thread */
    if (m->ranks == NULL)
        return coterie_fail(COTERIE_ERR_MISMATCH,
                            "%s: nothing of which there are %u: it has %u "
                            "%s, %u %s, %u %s, %u %s, %u %s, %u %s",
                            m->request->name, wanted, kinds[0].count,
                            kinds[0].what, kinds[1].count, kinds[1].what,
                            kinds[2].count, kinds[2].what, kinds[3].count,
                            kinds[3].what, kinds[4].count, kinds[4].what,
                            kinds[5].count, kinds[5].what);
    if (m->ranks->count > COTERIE_RANKS_MAX)
        return coterie_fail(COTERIE_ERR_FORMAT, "%s: %u %s; at most %d ranks",
                            m->request->name, m->ranks->count, m->ranks->what,
                            COTERIE_RANKS_MAX);
    m->options.rank_count = m->ranks->count;
    return COTERIE_OK;
}

/* From the outside in: the first objects that divide the ranks. Where each
 * would have one rank, links between ranks are all of a kind. */
static coterie_status_t nodes_find(machine_t *m)
{
    int depths = hwloc_topology_get_depth(m->hwloc);
    uint32_t parts = 1;
    coterie_status_t status = COTERIE_OK;

    for (int d = 1; status == COTERIE_OK && parts == 1 && d < depths; d++)
        status = depth_divide(m, d, &parts);
    m->options.node_count = parts < m->ranks->count ? parts : 1;
    return status;
}

static coterie_status_t depth_divide(machine_t *m, int depth,
                                     uint32_t *parts_p)
{
    const objects_t *ranks = m->ranks;
    hwloc_obj_t first = ancestor_at(m, ranks->list[0], depth), before = first;
    uint32_t size = 0;

    while (size < ranks->count &&
           ancestor_at(m, ranks->list[size], depth) == first)
        size++;
    if (first == NULL || size == ranks->count)
        return COTERIE_OK; /* nothing at this depth divides them */
    for (uint32_t r = 0; r < ranks->count; r++) {
        hwloc_obj_t now = ancestor_at(m, ranks->list[r], depth);
        if (now == NULL)
            return COTERIE_OK;
        if ((now != before) != (r > 0 && r % size == 0) ||
            ranks->count % size != 0)
            return coterie_fail(COTERIE_ERR_UNSUPPORTED,
                                "%s: the first %s has %u of %u %s, others "
                                "another number; nodes of unequal size are "
                                "not supported",
                                m->request->name,
                                hwloc_obj_type_string(first->type), size,
                                ranks->count, ranks->what);
        before = now;
    }
    *parts_p = ranks->count / size;
    return COTERIE_OK;
}

/* Devices and memory hang beside the tree whose depths are counted. */
static hwloc_obj_t ancestor_at(const machine_t *m, hwloc_obj_t rank, int depth)
{
    hwloc_obj_t object = rank;

    while (object != NULL && object->depth < 0)
        object = object->parent;
    if (object == NULL || object->depth < depth)
        return NULL;
    return object->depth == depth
               ? object
               : hwloc_get_ancestor_obj_by_depth(m->hwloc, depth, object);
}

/* A synthetic description's memory is hwloc's invention, not the user's. */
static coterie_status_t memory_find(machine_t *m)
{
    const objects_t *ranks = m->ranks;
    int known = m->request->source != COTERIE_HWLOC_SYNTHETIC;

    m->memory = calloc(ranks->count, sizeof(*m->memory));
    if (m->memory == NULL)
        return coterie_fail_memory(ranks->count * sizeof(*m->memory),
                                   m->request->name);
    for (uint32_t r = 0; known && r < ranks->count; r++) {
        hwloc_obj_t object = ranks->list[r];
        if (object->type == HWLOC_OBJ_NUMANODE)
            m->memory[r] = object->attr->numanode.local_memory;
        else if (object->type == HWLOC_OBJ_OS_DEVICE)
            m->memory[r] = device_memory(object);
        known = m->memory[r] != 0;
    }
    if (!known) {
        free(m->memory);
        m->memory = NULL;
    }
    return COTERIE_OK;
}

/* Which of its drivers' devices says it differs. */
static uint64_t device_memory(hwloc_obj_t device)
{
    static const char *const names[] = {
        "CUDAGlobalMemorySize", "OpenCLGlobalMemorySize",
        "LevelZeroHBMSize", "LevelZeroDDRSize"};
    uint64_t most = 0;

    for (hwloc_obj_t o = device_place(device)->io_first_child; o != NULL;
         o = o->next_sibling)
        for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
            const char *text = hwloc_obj_get_info_by_name(o, names[i]);
            uint64_t kib = text == NULL ? 0 : strtoull(text, NULL, 10);
            if (kib > most && kib < UINT64_MAX >> 11)
                most = kib;
        }
    return most << 10;
}

/* Of the first matrix of bandwidths that knows all ranks. */
static void bandwidths_find(machine_t *m)
{
    unsigned count = 0;
    struct hwloc_distances_s **matrices;
    int used = 0;

    if (hwloc_distances_get(m->hwloc, &count, NULL,
                            HWLOC_DISTANCES_KIND_MEANS_BANDWIDTH, 0) != 0 ||
        count == 0)
        return;
    matrices = calloc(count, sizeof(struct hwloc_distances_s *));
    if (matrices == NULL ||
        hwloc_distances_get(m->hwloc, &count, matrices,
                            HWLOC_DISTANCES_KIND_MEANS_BANDWIDTH, 0) != 0)
        count = 0;
    for (unsigned i = 0; i < count; i++) {
        used = used || matrix_use(m, matrices[i]);
        hwloc_distances_release(m->hwloc, matrices[i]);
    }
    free(matrices);
}

/* Means over pairs of ranks; hwloc's unit is MB/s. */
static int matrix_use(machine_t *m, const struct hwloc_distances_s *matrix)
{
    uint32_t size = m->ranks->count / m->options.node_count, known = 0;
    double sum[2] = {0}, pairs[2] = {0};

    for (unsigned i = 0; i < matrix->nbobjs; i++) {
        int from = rank_of(m, matrix->objs[i]);
        known += from >= 0;
        for (unsigned j = 0; from >= 0 && j < matrix->nbobjs; j++) {
            int to = rank_of(m, matrix->objs[j]);
            int across = (uint32_t)from / size != (uint32_t)to / size;
            if (to < 0 || to == from)
                continue;
            sum[across] += (double)matrix->values[i * matrix->nbobjs + j];
            pairs[across]++;
        }
    }
    if (known != m->ranks->count)
        return 0;
    if (pairs[0] > 0)
        m->options.node.bandwidth_gbs = sum[0] / pairs[0] * 1e-3;
    if (pairs[1] > 0)
        m->options.network.bandwidth_gbs = sum[1] / pairs[1] * 1e-3;
    return 1;
}

static int rank_of(const machine_t *m, hwloc_obj_t object)
{
    for (uint32_t r = 0; r < m->ranks->count; r++) {
        hwloc_obj_t rank = m->ranks->list[r];
        if (rank == object ||
            (device_place(object) != NULL &&
             device_place(rank) == device_place(object)))
            return (int)r;
    }
    return -1;
}

#else

coterie_status_t coterie_topology_read_hwloc(
    const coterie_hwloc_request_t *request, coterie_topology_t **topology_p)
{
    (void)topology_p;
    return coterie_fail(COTERIE_ERR_UNSUPPORTED,
                        "%s: built without hwloc, which reads machines; "
                        "configure --with-hwloc, or give a topology as JSON",
                        request->name);
}

#endif
