#include "config.h"

#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "base/error.h"
#include "placement/placement.h"
#include "placement/topology.h"

static const char format_name[] = "coterie-topology";

/* What is being read, and what it says so far; the arrays belong to it. */
typedef struct reading {
    const char *name;
    const json_t *root;
    coterie_topology_options_t options;
    uint32_t *slots;
    uint64_t *memory;
} reading_t;

static coterie_status_t root_read(reading_t *in);
static coterie_status_t keys_check(const reading_t *in, const json_t *object,
                                   const char *const *known,
                                   const char *where);
static coterie_status_t ranks_read(reading_t *in);
static coterie_status_t node_sizes_read(const reading_t *in,
                                        const json_t *list, uint32_t nodes,
                                        uint32_t *size_p);
static coterie_status_t count_read(const reading_t *in, const char *key,
                                   uint32_t most, uint32_t *count_p);
static coterie_status_t links_read(reading_t *in);
static coterie_status_t link_read(const reading_t *in, const char *level,
                                  const json_t *object,
                                  coterie_topology_link_t *link);
static coterie_status_t compute_read(reading_t *in);
static coterie_status_t figure_read(const reading_t *in, const json_t *object,
                                    const char *key, double *value_p);
static coterie_status_t per_rank_read(const reading_t *in, const char *key,
                                      uint64_t most, uint64_t **values_p);
static coterie_status_t slots_read(reading_t *in);

coterie_status_t coterie_topology_read_json(const char *name, const char *text,
                                            size_t size,
                                            coterie_topology_t **topology_p)
{
    reading_t in = {.name = name, .options = COTERIE_TOPOLOGY_OPTIONS_INIT};
    json_error_t error;
    json_t *root = json_loadb(text, size, JSON_REJECT_DUPLICATES, &error);
    coterie_status_t status;

    if (root == NULL)
        return coterie_fail(COTERIE_ERR_FORMAT,
                            "%s: neither hwloc's XML nor JSON: line %d, column "
                            "%d: %s",
                            name, error.line, error.column, error.text);
    in.root = root;
    status = root_read(&in);
    if (status == COTERIE_OK)
        status = coterie_topology_create(&in.options, topology_p);
    if (status == COTERIE_ERR_INVALID)
        status = coterie_fail(COTERIE_ERR_FORMAT, "%s: %s", name,
                              coterie_last_error());
    free(in.slots);
    free(in.memory);
    json_decref(root);
    return status;
}

static coterie_status_t root_read(reading_t *in)
{
    static const char *const keys[] = {
        "format", "version", "nodes", "ranks_per_node", "ranks", "processors",
        "links", "compute", "slots", "memory_bytes", NULL};
    const char *format =
        json_string_value(json_object_get(in->root, "format"));
    uint32_t version;
    coterie_status_t status;

    if (format == NULL || strcmp(format, format_name) != 0)
        return coterie_fail(COTERIE_ERR_FORMAT,
                            "%s: no topology: format is %s; a topology's is "
                            "%s",
                            in->name, format == NULL ? "no text" : format,
                            format_name);
    status = count_read(in, "version", UINT16_MAX, &version);
    if (status == COTERIE_OK && version != 1)
        return coterie_fail(COTERIE_ERR_UNSUPPORTED,
                            "%s: version %u; this library reads 1", in->name,
                            version);
    if (status == COTERIE_OK)
        status = keys_check(in, in->root, keys, "a topology");
    if (status == COTERIE_OK)
        status = ranks_read(in);
    if (status == COTERIE_OK)
        status = links_read(in);
    if (status == COTERIE_OK)
        status = compute_read(in);
    if (status == COTERIE_OK)
        status = slots_read(in);
    if (status == COTERIE_OK)
        status = per_rank_read(in, "memory_bytes", INT64_MAX, &in->memory);
    in->options.memory = in->memory;
    return status;
}

/* A misspelt key would otherwise be left out without a word. */
static coterie_status_t keys_check(const reading_t *in, const json_t *object,
                                   const char *const *known, const char *where)
{
    const char *key;
    json_t *value;

    json_object_foreach((json_t *)object, key, value) {
        int i = 0;
        while (known[i] != NULL && strcmp(known[i], key) != 0)
            i++;
        if (known[i] == NULL)
            return coterie_fail(COTERIE_ERR_FORMAT,
                                "%s: %s has no key '%s'", in->name, where,
                                key);
    }
    return COTERIE_OK;
}

static coterie_status_t ranks_read(reading_t *in)
{
    const json_t *sizes = json_object_get(in->root, "ranks_per_node");
    uint32_t nodes, size = 0, sum;
    coterie_status_t status = count_read(in, "nodes", COTERIE_RANKS_MAX,
                                         &nodes);

    if (status == COTERIE_OK && json_is_array(sizes))
        status = node_sizes_read(in, sizes, nodes, &size);
    else if (status == COTERIE_OK)
        status = count_read(in, "ranks_per_node", COTERIE_RANKS_MAX, &size);
    if (status != COTERIE_OK)
        return status;
    sum = nodes * size;
    if (json_object_get(in->root, "ranks") != NULL) {
        status = count_read(in, "ranks", COTERIE_RANKS_MAX,
                            &in->options.rank_count);
        if (status == COTERIE_OK && in->options.rank_count != sum)
            return coterie_fail(COTERIE_ERR_FORMAT,
                                "%s: ranks is %u, but %u nodes of %u make %u",
                                in->name, in->options.rank_count, nodes, size,
                                sum);
    }
    in->options.rank_count = sum;
    in->options.node_count = nodes;
    if (status == COTERIE_OK &&
        json_object_get(in->root, "processors") != NULL)
        status = count_read(in, "processors", COTERIE_RANKS_MAX,
                            &in->options.processors);
    return status;
}

static coterie_status_t node_sizes_read(const reading_t *in,
                                        const json_t *list, uint32_t nodes,
                                        uint32_t *size_p)
{
    json_int_t first = json_integer_value(json_array_get(list, 0));

    if (json_array_size(list) != nodes || first < 1 ||
        first > COTERIE_RANKS_MAX)
        return coterie_fail(COTERIE_ERR_FORMAT,
                            "%s: ranks_per_node must be a number, or a list "
                            "of one for each of the %u nodes",
                            in->name, nodes);
    for (size_t i = 1; i < nodes; i++) {
        const json_t *value = json_array_get(list, i);
        if (!json_is_integer(value) || json_integer_value(value) != first)
            return coterie_fail(COTERIE_ERR_UNSUPPORTED,
                                "%s: node %zu has not %lld ranks as node 0 "
                                "has; nodes of unequal size are not supported",
                                in->name, i, (long long)first);
    }
    *size_p = (uint32_t)first;
    return COTERIE_OK;
}

static coterie_status_t count_read(const reading_t *in, const char *key,
                                   uint32_t most, uint32_t *count_p)
{
    const json_t *value = json_object_get(in->root, key);
    json_int_t count = json_integer_value(value);

    if (!json_is_integer(value) || count < 1 || count > most)
        return coterie_fail(COTERIE_ERR_FORMAT,
                            "%s: %s must be a number from 1 to %u", in->name,
                            key, most);
    *count_p = (uint32_t)count;
    return COTERIE_OK;
}

static coterie_status_t links_read(reading_t *in)
{
    static const char *const levels[] = {"node", "network", NULL};
    const json_t *links = json_object_get(in->root, "links");
    coterie_status_t status;

    if (links == NULL)
        return COTERIE_OK;
    if (!json_is_object(links))
        return coterie_fail(COTERIE_ERR_FORMAT,
                            "%s: links must be an object of node and network",
                            in->name);
    status = keys_check(in, links, levels, "links");
    if (status == COTERIE_OK)
        status = link_read(in, "node", json_object_get(links, "node"),
                           &in->options.node);
    if (status == COTERIE_OK)
        status = link_read(in, "network", json_object_get(links, "network"),
                           &in->options.network);
    return status;
}

static coterie_status_t link_read(const reading_t *in, const char *level,
                                  const json_t *object,
                                  coterie_topology_link_t *link)
{
    static const char *const keys[] = {"latency_us", "bandwidth_gbs",
                                       "message_us", NULL};
    double *const fields[] = {&link->latency_us, &link->bandwidth_gbs,
                              &link->message_us};
    coterie_status_t status;

    if (object == NULL)
        return COTERIE_OK;
    if (!json_is_object(object))
        return coterie_fail(COTERIE_ERR_FORMAT,
                            "%s: links.%s must be an object", in->name, level);
    status = keys_check(in, object, keys, level);
    for (int i = 0; status == COTERIE_OK && keys[i] != NULL; i++)
        status = figure_read(in, object, keys[i], fields[i]);
    return status;
}

static coterie_status_t compute_read(reading_t *in)
{
    static const char *const keys[] = {"expert_us", "row_us", "token_us",
                                       "layer_us", "copy_gbs", NULL};
    double *const fields[] = {&in->options.expert_us, &in->options.row_us,
                              &in->options.token_us, &in->options.layer_us,
                              &in->options.copy_gbs};
    const json_t *compute = json_object_get(in->root, "compute");
    coterie_status_t status;

    if (compute == NULL)
        return COTERIE_OK;
    if (!json_is_object(compute))
        return coterie_fail(COTERIE_ERR_FORMAT,
                            "%s: compute must be an object", in->name);
    status = keys_check(in, compute, keys, "compute");
    for (int i = 0; status == COTERIE_OK && keys[i] != NULL; i++)
        status = figure_read(in, compute, keys[i], fields[i]);
    return status;
}

static coterie_status_t figure_read(const reading_t *in, const json_t *object,
                                    const char *key, double *value_p)
{
    const json_t *value = json_object_get(object, key);

    if (value == NULL)
        return COTERIE_OK;
    if (!json_is_number(value) || json_number_value(value) < 0)
        return coterie_fail(COTERIE_ERR_FORMAT,
                            "%s: %s must be a number, not negative", in->name,
                            key);
    *value_p = json_number_value(value);
    return COTERIE_OK;
}

/* One number for every rank, or a list of theirs. */
static coterie_status_t per_rank_read(const reading_t *in, const char *key,
                                      uint64_t most, uint64_t **values_p)
{
    const json_t *value = json_object_get(in->root, key);
    uint32_t ranks = in->options.rank_count;

    if (value == NULL)
        return COTERIE_OK;
    if (json_is_array(value) && json_array_size(value) != ranks)
        return coterie_fail(COTERIE_ERR_FORMAT,
                            "%s: %s lists %zu ranks; there are %u", in->name,
                            key, json_array_size(value), ranks);
    *values_p = calloc(ranks, sizeof(**values_p));
    if (*values_p == NULL)
        return coterie_fail_memory(ranks * sizeof(**values_p), in->name);
    for (uint32_t r = 0; r < ranks; r++) {
        const json_t *item =
            json_is_array(value) ? json_array_get(value, r) : value;
        json_int_t number = json_integer_value(item);
        if (!json_is_integer(item) || number < 0 || (uint64_t)number > most)
            return coterie_fail(COTERIE_ERR_FORMAT,
                                "%s: %s of rank %u must be a whole number, 0 "
                                "to %llu",
                                in->name, key, r, (unsigned long long)most);
        (*values_p)[r] = (uint64_t)number;
    }
    return COTERIE_OK;
}

static coterie_status_t slots_read(reading_t *in)
{
    uint64_t *values = NULL;
    coterie_status_t status =
        per_rank_read(in, "slots", COTERIE_SLOTS_MAX, &values);

    if (status == COTERIE_OK && values != NULL) {
        in->slots = calloc(in->options.rank_count, sizeof(*in->slots));
        if (in->slots == NULL)
            status = coterie_fail_memory(in->options.rank_count * 4, in->name);
    }
    for (uint32_t r = 0; in->slots != NULL && r < in->options.rank_count; r++)
        in->slots[r] = (uint32_t)values[r];
    in->options.slots = in->slots;
    free(values);
    return status;
}
