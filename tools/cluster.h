#ifndef COTERIE_TOOLS_CLUSTER_H
#define COTERIE_TOOLS_CLUSTER_H
/* What subcommands are told of the cluster, one way or another. */
#include <coterie/coterie.h>

/* As the options say it; 0 and NULL where they do not. */
typedef struct cluster_options {
    uint32_t ranks, nodes;
    double network_cost;
    const char *topology;
    uint32_t copy_bytes;
} cluster_options_t;

/* The same, settled. */
typedef struct cluster {
    uint32_t ranks, nodes;
    double network_cost; /* 0: not known */
    coterie_topology_t *topology; /* NULL: none was named */
} cluster_t;

/* What follows from the options. Afterwards cluster_close, whatever happened.
 * @return ERR_MISMATCH, ERR_INVALID where they contradict each other */
coterie_status_t cluster_open(const cluster_options_t *options,
                              cluster_t *cluster);
void cluster_close(cluster_t *cluster);

/* Rows of a table of options, for a struct whose member `cluster` at offset
 * `at` is a cluster_options_t. */
#define CLUSTER_TOPOLOGY_SPECS(at)                                           \
    {"topology", 0, OPTION_TEXT, (at) + offsetof(cluster_options_t, topology), \
     "FILE|machine|synthetic:...", "ranks, nodes and links: see below", 0, 0, \
     NULL},                                                                  \
    {"copy-bytes", 0, OPTION_COUNT,                                          \
     (at) + offsetof(cluster_options_t, copy_bytes), "BYTES",                \
     "of a message, for what links cost (large)", 1, 1 << 30, NULL}

/* What the help says of them. */
#define CLUSTER_HELP                                                         \
    "A topology says what the cluster is made of: Coterie's JSON (doc/\n"    \
    "formats.md), hwloc's XML, 'synthetic:' and hwloc's description, or\n"   \
    "'machine' for this one. A copy between nodes costs what its links\n"    \
    "take, in copies inside a node: by bandwidth or, for messages of\n"      \
    "--copy-bytes, by latency as well; --network-cost overrides it.\n"

#endif
