#include "config.h"

#include "tools/cluster.h"
#include "tools/command.h"

static coterie_status_t topology_take(const cluster_options_t *options,
                                      cluster_t *cluster);

coterie_status_t cluster_open(const cluster_options_t *options,
                              cluster_t *cluster)
{
    coterie_status_t status = COTERIE_OK;

    *cluster = (cluster_t){.ranks = options->ranks,
                           .nodes = options->nodes,
                           .network_cost = options->network_cost};
    if (options->topology != NULL) {
        status = coterie_topology_read(options->topology, options->ranks,
                                       &cluster->topology);
        if (status == COTERIE_OK)
            status = topology_take(options, cluster);
    }
    return status;
}

void cluster_close(cluster_t *cluster)
{
    coterie_topology_destroy(cluster->topology);
}

static coterie_status_t topology_take(const cluster_options_t *options,
                                      cluster_t *cluster)
{
    coterie_topology_options_t view;
    coterie_status_t status = COTERIE_OK;

    coterie_topology_view(cluster->topology, &view);
    if (options->nodes != 0 && options->nodes != view.node_count)
        return failure(COTERIE_ERR_MISMATCH,
                       "--topology %s has %u nodes, --nodes says %u",
                       options->topology, view.node_count, options->nodes);
    cluster->ranks = view.rank_count;
    cluster->nodes = view.node_count;
    if (options->network_cost == 0 && view.node_count > 1)
        status = coterie_topology_network_cost(
            cluster->topology, options->copy_bytes, &cluster->network_cost);
    /* What hwloc or a file does not know is left to the default. */
    return status == COTERIE_ERR_NOT_FOUND ? COTERIE_OK : status;
}
