#include "config.h"

#include <stdlib.h>
#include <string.h>

#include "tools/budget.h"

/* What one process's tiers tell. */
typedef struct part {
    uint64_t rounds; /* of a span; 0: another process tells all that */
    coterie_layer_counts_t counts[];
} part_t;

static size_t part_size(uint32_t layers);
static void parts_add(const char *parts, uint32_t count, uint32_t layers,
                      results_t *results);
static void counts_add(const coterie_layer_counts_t *from, size_t count,
                       coterie_layer_counts_t *to);
static json_t *counts_json(const coterie_layer_counts_t *counts,
                           uint32_t layers);
static json_t *column(const coterie_layer_counts_t *counts, uint32_t layers,
                      size_t offset);

coterie_status_t budget_layers_collect(const rank_t *r, results_t *results)
{
    uint32_t layers = r->job->weights->config.moe_layers;
    bool shared = r->job->options->transport == TRANSPORT_THREADS;
    size_t size = part_size(layers);
    part_t *mine = calloc(1, size);
    char *all = malloc(r->count * size);
    coterie_layer_counts_t *sum = calloc(1, size);
    coterie_status_t status = COTERIE_ERR_NO_MEMORY;
    coterie_tiers_counts_t tiers;
    uint32_t rounds;

    if (mine == NULL || all == NULL || sum == NULL) {
        failure(status, "out of memory");
        goto out;
    }
    coterie_tiers_counts(r->job->tiers, &tiers);
    coterie_tiers_timeline(r->job->tiers, mine->counts, &rounds);
    mine->rounds = tiers.processes > 0 ? rounds : 0;
    status = coterie_transport_allgather(r->transport, mine, size, all);
    if (status != COTERIE_OK || r->index != 0)
        goto out;
    results->timeline = sum;
    sum = NULL; /* it is the results' now */
    parts_add(all, shared ? 1 : r->count, layers, results);
out:
    free(mine);
    free(all);
    free(sum);
    return status;
}

void budget_layers_json(const results_t *results, uint32_t layers,
                        json_t *object)
{
    coterie_layer_counts_t *sum = calloc(layers, sizeof(*sum));
    json_t *spans = json_array();
    uint32_t last = 0;

    for (uint32_t s = 0; s < COTERIE_TIMELINE_SPANS && sum != NULL; s++) {
        const coterie_layer_counts_t *span =
            results->timeline + (size_t)s * layers;

        for (uint32_t l = 0; l < layers; l++)
            last = span[l].uses > 0 ? s : last;
        counts_add(span, layers, sum);
    }
    for (uint32_t s = 0; s <= last; s++)
        json_array_append_new(
            spans,
            counts_json(results->timeline + (size_t)s * layers, layers));
    if (sum != NULL)
        json_object_set_new(object, "layers", counts_json(sum, layers));
    json_object_set_new(object, "timeline",
                        json_pack("{s:i, s:o}", "rounds_per_span",
                                  (int)results->span_rounds, "spans", spans));
    free(sum);
}

static size_t part_size(uint32_t layers)
{
    return sizeof(part_t) + COTERIE_TIMELINE_SPANS * (size_t)layers *
                                sizeof(coterie_layer_counts_t);
}

/* A process that had no work in some rounds may have shorter spans: always by
 * a power of two. */
static void parts_add(const char *parts, uint32_t count, uint32_t layers,
                      results_t *results)
{
    size_t size = part_size(layers);

    for (uint32_t i = 0; i < count; i++) {
        const part_t *part = (const part_t *)(parts + i * size);

        if (part->rounds > results->span_rounds)
            results->span_rounds = (uint32_t)part->rounds;
    }
    for (uint32_t i = 0; i < count; i++) {
        const part_t *part = (const part_t *)(parts + i * size);
        size_t merged = 1;

        if (part->rounds == 0)
            continue;
        merged = results->span_rounds / part->rounds;
        for (size_t s = 0; s < COTERIE_TIMELINE_SPANS; s++)
            counts_add(part->counts + s * layers, layers,
                       results->timeline + s / merged * layers);
    }
}

static void counts_add(const coterie_layer_counts_t *from, size_t count,
                       coterie_layer_counts_t *to)
{
    for (size_t i = 0; i < count; i++) {
#define X(field) to[i].field += from[i].field;
        COTERIE_LAYER_COUNTS_MAP(X)
#undef X
        to[i].stall_ns += from[i].stall_ns;
    }
}

/* An array, by layer, for every count. */
static json_t *counts_json(const coterie_layer_counts_t *counts,
                           uint32_t layers)
{
    json_t *object = json_object(), *stalls = json_array();

#define X(field)                                                            \
    json_object_set_new(object, #field,                                     \
                        column(counts, layers,                              \
                               offsetof(coterie_layer_counts_t, field)));
    COTERIE_LAYER_COUNTS_MAP(X)
#undef X
    for (uint32_t l = 0; l < layers; l++)
        json_array_append_new(
            stalls, json_real(1e-9 * (double)counts[l].stall_ns));
    json_object_set_new(object, "stall_s", stalls);
    return object;
}

static json_t *column(const coterie_layer_counts_t *counts, uint32_t layers,
                      size_t offset)
{
    json_t *list = json_array();

    for (uint32_t l = 0; l < layers; l++) {
        uint64_t value;

        memcpy(&value, (const char *)&counts[l] + offset, sizeof(value));
        json_array_append_new(list, json_integer((json_int_t)value));
    }
    return list;
}
