#include "config.h"

#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/file.h"
#include "base/options.h"
#include "placement/placement.h"
#include "placement/topology.h"

enum { FILE_LIMIT = 1 << 26 };

static const char synthetic_prefix[] = "synthetic:";

struct coterie_topology {
    coterie_topology_options_t view; /* points at the arrays below */
    uint32_t *slots;
    uint64_t *memory;
};

static coterie_status_t counts_check(const coterie_topology_options_t *opts);
static coterie_status_t figures_check(const coterie_topology_options_t *opts);
static coterie_status_t arrays_copy(const coterie_topology_options_t *opts,
                                    coterie_topology_t *topology);
static coterie_status_t file_parse(const char *path, uint32_t rank_count,
                                   coterie_topology_t **topology_p);
static coterie_status_t ranks_check(const char *name, uint32_t rank_count,
                                    coterie_topology_t **topology_p);

coterie_status_t coterie_topology_create(
    const coterie_topology_options_t *options, coterie_topology_t **topology_p)
{
    coterie_topology_t *topology = NULL;
    coterie_topology_options_t opts;
    coterie_status_t status;

    status = coterie_options_read(options, &opts, sizeof(opts), "topology");
    if (status == COTERIE_OK && opts.node_count == 0)
        opts.node_count = 1;
    if (status == COTERIE_OK)
        status = counts_check(&opts);
    if (status == COTERIE_OK)
        status = figures_check(&opts);
    if (status != COTERIE_OK)
        return status;
    topology = calloc(1, sizeof(*topology));
    if (topology == NULL)
        return coterie_fail_memory(sizeof(*topology), "a topology");
    opts.size = sizeof(opts);
    topology->view = opts;
    status = arrays_copy(&opts, topology);
    if (status == COTERIE_OK)
        *topology_p = topology;
    else
        coterie_topology_destroy(topology);
    return status;
}

coterie_status_t coterie_topology_read(const char *text, uint32_t rank_count,
                                       coterie_topology_t **topology_p)
{
    size_t prefix = strlen(synthetic_prefix);
    coterie_hwloc_request_t request = {.name = text, .rank_count = rank_count};

    if (strcmp(text, "machine") == 0) {
        request.source = COTERIE_HWLOC_MACHINE;
        return coterie_topology_read_hwloc(&request, topology_p);
    }
    if (strncmp(text, synthetic_prefix, prefix) == 0) {
        request.source = COTERIE_HWLOC_SYNTHETIC;
        request.text = text + prefix;
        request.size = strlen(request.text);
        return coterie_topology_read_hwloc(&request, topology_p);
    }
    return file_parse(text, rank_count, topology_p);
}

void coterie_topology_view(const coterie_topology_t *topology,
                           coterie_topology_options_t *view)
{
    *view = topology->view;
}

coterie_status_t coterie_topology_network_cost(
    const coterie_topology_t *topology, uint64_t message_bytes, double *cost_p)
{
    const coterie_topology_link_t *near = &topology->view.node;
    const coterie_topology_link_t *far = &topology->view.network;
    double inside = near->latency_us + near->message_us;
    double across = far->latency_us + far->message_us;
    int rates = near->bandwidth_gbs > 0 && far->bandwidth_gbs > 0;

    if (rates && message_bytes == 0)
        inside = across = 0;
    if (rates) {
        double bytes = message_bytes == 0 ? 1 : (double)message_bytes;
        inside += bytes / near->bandwidth_gbs * 1e-3;
        across += bytes / far->bandwidth_gbs * 1e-3;
    }
    if (!(inside > 0 && across > 0))
        return coterie_fail(COTERIE_ERR_NOT_FOUND,
                            "topology: neither bandwidth nor latency is known "
                            "both inside nodes and between them");
    if (across < inside)
        return coterie_fail(COTERIE_ERR_INVALID,
                            "topology: a message between nodes takes %g of "
                            "one inside a node; nodes are where links are "
                            "fast",
                            across / inside);
    *cost_p = across / inside;
    return COTERIE_OK;
}

void coterie_topology_destroy(coterie_topology_t *topology)
{
    if (topology == NULL)
        return;
    free(topology->slots);
    free(topology->memory);
    free(topology);
}

static coterie_status_t counts_check(const coterie_topology_options_t *opts)
{
    if (opts->rank_count == 0 || opts->rank_count > COTERIE_RANKS_MAX)
        return coterie_fail(COTERIE_ERR_INVALID,
                            "topology: %u ranks; 1 to %d would do",
                            opts->rank_count, COTERIE_RANKS_MAX);
    if (opts->rank_count % opts->node_count != 0)
        return coterie_fail(COTERIE_ERR_INVALID,
                            "topology: %u ranks do not fill %u nodes evenly",
                            opts->rank_count, opts->node_count);
    if (opts->processors > opts->rank_count / opts->node_count ||
        opts->reserved != 0)
        return coterie_fail(COTERIE_ERR_INVALID,
                            "topology: %u ranks of a node work at once, "
                            "reserved %u; at most the node's %u, and 0",
                            opts->processors, opts->reserved,
                            opts->rank_count / opts->node_count);
    for (uint32_t r = 0; opts->slots != NULL && r < opts->rank_count; r++)
        if (opts->slots[r] > COTERIE_SLOTS_MAX)
            return coterie_fail(COTERIE_ERR_INVALID,
                                "topology: %u slots on rank %u; at most %d",
                                opts->slots[r], r, COTERIE_SLOTS_MAX);
    return COTERIE_OK;
}

static coterie_status_t figures_check(const coterie_topology_options_t *opts)
{
    const struct {
        const char *name;
        double value;
    } rows[] = {
        {"latency_us in a node", opts->node.latency_us},
        {"bandwidth_gbs in a node", opts->node.bandwidth_gbs},
        {"message_us in a node", opts->node.message_us},
        {"latency_us of the network", opts->network.latency_us},
        {"bandwidth_gbs of the network", opts->network.bandwidth_gbs},
        {"message_us of the network", opts->network.message_us},
        {"expert_us", opts->expert_us},
        {"row_us", opts->row_us},
        {"token_us", opts->token_us},
        {"layer_us", opts->layer_us},
        {"copy_gbs", opts->copy_gbs},
    };

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        if (!(rows[i].value >= 0) || isinf(rows[i].value))
            return coterie_fail(COTERIE_ERR_INVALID,
                                "topology: %s is %g; it must not be negative",
                                rows[i].name, rows[i].value);
    return COTERIE_OK;
}

static coterie_status_t arrays_copy(const coterie_topology_options_t *opts,
                                    coterie_topology_t *topology)
{
    size_t ranks = opts->rank_count;

    if (opts->slots != NULL) {
        topology->slots = malloc(ranks * sizeof(*topology->slots));
        if (topology->slots == NULL)
            return coterie_fail_memory(ranks * 4, "a topology");
        memcpy(topology->slots, opts->slots, ranks * sizeof(*opts->slots));
    }
    if (opts->memory != NULL) {
        topology->memory = malloc(ranks * sizeof(*topology->memory));
        if (topology->memory == NULL)
            return coterie_fail_memory(ranks * 8, "a topology");
        memcpy(topology->memory, opts->memory, ranks * sizeof(*opts->memory));
    }
    topology->view.slots = topology->slots;
    topology->view.memory = topology->memory;
    return COTERIE_OK;
}

static coterie_status_t file_parse(const char *path, uint32_t rank_count,
                                   coterie_topology_t **topology_p)
{
    coterie_hwloc_request_t request = {.name = path,
                                       .source = COTERIE_HWLOC_XML,
                                       .rank_count = rank_count};
    coterie_topology_t *topology = NULL;
    void *text = NULL;
    const char *start;
    coterie_status_t status =
        coterie_file_read(path, FILE_LIMIT, &text, &request.size);

    if (status != COTERIE_OK)
        return status;
    for (start = text; isspace((unsigned char)*start);)
        start++;
    request.text = text;
    if (*start == '<')
        status = coterie_topology_read_hwloc(&request, &topology);
    else
        status = coterie_topology_read_json(path, text, request.size,
                                            &topology);
    if (status == COTERIE_OK)
        status = ranks_check(path, rank_count, &topology);
    if (status == COTERIE_OK)
        *topology_p = topology;
    free(text);
    return status;
}

static coterie_status_t ranks_check(const char *name, uint32_t rank_count,
                                    coterie_topology_t **topology_p)
{
    uint32_t has = (*topology_p)->view.rank_count;

    if (rank_count == 0 || rank_count == has)
        return COTERIE_OK;
    coterie_topology_destroy(*topology_p);
    return coterie_fail(COTERIE_ERR_MISMATCH,
                        "%s: has %u ranks; %u are asked for", name, has,
                        rank_count);
}
