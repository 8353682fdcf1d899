#ifndef COTERIE_PLACEMENT_TOPOLOGY_H
#define COTERIE_PLACEMENT_TOPOLOGY_H
/* Where topologies come from. `name` begins error lines. */
#include <coterie/topology.h>

/* Text ends with a zero byte that is not counted in size. */
coterie_status_t coterie_topology_read_json(const char *name, const char *text,
                                            size_t size,
                                            coterie_topology_t **topology_p);

typedef enum coterie_hwloc_source {
    COTERIE_HWLOC_MACHINE,
    COTERIE_HWLOC_SYNTHETIC, /* text is the description */
    COTERIE_HWLOC_XML        /* text is the XML */
} coterie_hwloc_source_t;

/* What is read through hwloc, and how many ranks it must have (0: any). */
typedef struct coterie_hwloc_request {
    const char *name, *text;
    size_t size; /* of text */
    coterie_hwloc_source_t source;
    uint32_t rank_count;
} coterie_hwloc_request_t;

coterie_status_t coterie_topology_read_hwloc(
    const coterie_hwloc_request_t *request, coterie_topology_t **topology_p);

#endif
