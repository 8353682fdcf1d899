#include "config.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#ifdef HAVE_METIS
#include <metis.h>
#endif

#include "bench/placement.h"

typedef struct tie {
    double value;
    uint32_t expert, rank;
} tie_t;

static int tie_compare(const void *a, const void *b);
static void layer_fill(const instance_t *in, tie_t *ties, size_t count,
                       uint16_t *rank_of);

int place_in_order(const instance_t *in, uint16_t *rank_of)
{
    for (uint32_t l = 0; l < in->view.layer_count; l++)
        for (uint32_t r = 0; r < in->ranks; r++)
            for (uint32_t i = 0; i < in->capacity[r]; i++)
                *rank_of++ = (uint16_t)r;
    return 1;
}

int place_at_random(const instance_t *in, uint16_t *rank_of)
{
    uint32_t experts = in->view.expert_count, state = 12345;

    place_in_order(in, rank_of);
    for (size_t i = 0; i < (size_t)in->view.layer_count * experts; i++) {
        size_t first = i / experts * experts, other;
        uint16_t rank = rank_of[i];
        state = state * 1664525u + 1013904223u;
        other = first + (state >> 8) % (i - first + 1);
        rank_of[i] = rank_of[other];
        rank_of[other] = rank;
    }
    return 1;
}

int place_by_load(const instance_t *in, uint16_t *rank_of)
{
    uint32_t experts = in->view.expert_count;
    tie_t *order = calloc(experts, sizeof(*order));
    double *carried = calloc(in->ranks, sizeof(*carried));
    uint32_t *room = calloc(in->ranks, sizeof(*room));
    int made = order != NULL && carried != NULL && room != NULL;

    for (uint32_t l = 0; made && l < in->view.layer_count; l++) {
        const double *load = in->load + (size_t)l * experts;
        memset(carried, 0, in->ranks * sizeof(*carried));
        memcpy(room, in->capacity, in->ranks * sizeof(*room));
        for (uint32_t e = 0; e < experts; e++)
            order[e] = (tie_t){load[e], e, 0};
        qsort(order, experts, sizeof(*order), tie_compare);
        for (uint32_t i = 0; i < experts; i++) {
            uint32_t best = in->ranks;
            for (uint32_t r = 0; r < in->ranks; r++)
                if (room[r] > 0 &&
                    (best == in->ranks || carried[r] < carried[best]))
                    best = r;
            rank_of[l * (size_t)experts + order[i].expert] = (uint16_t)best;
            room[best]--;
            carried[best] += order[i].value;
        }
    }
    free(order);
    free(carried);
    free(room);
    return made;
}

int place_greedily(const instance_t *in, uint16_t *rank_of)
{
    size_t experts = in->view.expert_count, ranks = in->ranks;
    tie_t *ties = calloc(experts * ranks, sizeof(*ties));

    place_in_order(in, rank_of);
    for (uint32_t l = 1; ties != NULL && l < in->view.layer_count; l++) {
        const uint16_t *before = rank_of + (l - 1) * experts;
        const double *seam = in->seam + (l - 1) * experts * experts;
        for (uint32_t i = 0; i < experts * ranks; i++)
            ties[i] = (tie_t){0, i / in->ranks, i % in->ranks};
        for (size_t i = 0; i < experts * experts; i++)
            ties[i % experts * ranks + before[i / experts]].value += seam[i];
        layer_fill(in, ties, experts * ranks, rank_of + l * experts);
    }
    free(ties);
    return ties != NULL;
}

#ifdef HAVE_METIS

typedef struct graph {
    idx_t *start, *end, *weight, *sides;
    idx_t *part;
} graph_t;

static int graph_open(const instance_t *in, graph_t *g);
static void graph_close(graph_t *g);
static void layers_repair(const instance_t *in, const graph_t *g,
                          uint16_t *rank_of);

int place_by_metis(const instance_t *in, uint16_t *rank_of)
{
    idx_t layers = (idx_t)in->view.layer_count, parts = (idx_t)in->ranks;
    idx_t vertices = layers * (idx_t)in->view.expert_count, cut = 0;
    idx_t options[METIS_NOPTIONS];
    graph_t g;
    int made = graph_open(in, &g);

    METIS_SetDefaultOptions(options);
    options[METIS_OPTION_SEED] = 1;
    made = made &&
           METIS_PartGraphKway(&vertices, &layers, g.start, g.end, g.sides,
                               NULL, g.weight, &parts, NULL, NULL, options,
                               &cut, g.part) == METIS_OK;
    if (made)
        layers_repair(in, &g, rank_of);
    graph_close(&g);
    return made;
}

/* Vertex l * experts + e; of its `layers` weights only the layer's is 1. */
static int graph_open(const instance_t *in, graph_t *g)
{
    size_t layers = in->view.layer_count, experts = in->view.expert_count;
    size_t vertices = layers * experts, edges = 2 * vertices * experts;
    idx_t at = 0;

    g->start = calloc(vertices + 1, sizeof(*g->start));
    g->end = calloc(edges, sizeof(*g->end));
    g->weight = calloc(edges, sizeof(*g->weight));
    g->sides = calloc(vertices * layers, sizeof(*g->sides));
    g->part = calloc(vertices, sizeof(*g->part));
    if (!g->start || !g->end || !g->weight || !g->sides || !g->part)
        return 0;
    for (size_t v = 0; v < vertices; v++) {
        size_t l = v / experts, e = v % experts;
        g->sides[v * layers + l] = 1;
        for (size_t f = 0; f < 2 * experts; f++) {
            size_t after = f / experts, other = f % experts;
            double w = 0;
            if (after && l + 1 < layers)
                w = in->seam[(l * experts + e) * experts + other];
            else if (!after && l > 0)
                w = in->seam[((l - 1) * experts + other) * experts + e];
            if (w < 0.5)
                continue;
            g->end[at] = (idx_t)((after ? l + 1 : l - 1) * experts + other);
            g->weight[at++] = (idx_t)w;
        }
        g->start[v + 1] = at;
    }
    return 1;
}

static void graph_close(graph_t *g)
{
    free(g->start);
    free(g->end);
    free(g->weight);
    free(g->sides);
    free(g->part);
}

/* Experts go where METIS put them first, those of most load first; who finds
 * no room there goes where its neighbours are. */
static void layers_repair(const instance_t *in, const graph_t *g,
                          uint16_t *rank_of)
{
    size_t experts = in->view.expert_count, ranks = in->ranks;
    tie_t *ties = calloc(experts * ranks, sizeof(*ties));

    for (size_t l = 0; ties != NULL && l < in->view.layer_count; l++) {
        for (size_t i = 0; i < experts * ranks; i++) {
            size_t v = l * experts + i / ranks;
            ties[i] = (tie_t){0, (uint32_t)(i / ranks),
                              (uint32_t)(i % ranks)};
            if ((size_t)g->part[v] == i % ranks)
                ties[i].value = 1e12 + in->load[v];
        }
        for (size_t e = 0; e < experts; e++)
            for (idx_t n = g->start[l * experts + e];
                 n < g->start[l * experts + e + 1]; n++)
                ties[e * ranks + (size_t)g->part[g->end[n]]].value +=
                    g->weight[n];
        layer_fill(in, ties, experts * ranks, rank_of + l * experts);
    }
    free(ties);
}

#else

int place_by_metis(const instance_t *in, uint16_t *rank_of)
{
    (void)in, (void)rank_of;
    return 0;
}

#endif

static int tie_compare(const void *a, const void *b)
{
    const tie_t *x = a, *y = b;

    if (x->value != y->value)
        return x->value > y->value ? -1 : 1;
    if (x->expert != y->expert)
        return x->expert < y->expert ? -1 : 1;
    return (x->rank > y->rank) - (x->rank < y->rank);
}

/* The strongest tie first, as long as there is room; every expert has one to
 * every rank. */
static void layer_fill(const instance_t *in, tie_t *ties, size_t count,
                       uint16_t *rank_of)
{
    uint32_t *room = calloc(in->ranks, sizeof(*room));
    uint8_t *placed = calloc(in->view.expert_count, 1);

    qsort(ties, count, sizeof(*ties), tie_compare);
    if (room != NULL)
        memcpy(room, in->capacity, in->ranks * sizeof(*room));
    for (size_t i = 0; room != NULL && placed != NULL && i < count; i++) {
        if (placed[ties[i].expert] || room[ties[i].rank] == 0)
            continue;
        placed[ties[i].expert] = 1;
        room[ties[i].rank]--;
        rank_of[ties[i].expert] = (uint16_t)ties[i].rank;
    }
    free(room);
    free(placed);
}
