#include "config.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "placement/solve/rotation.h"

static void row_fill(coterie_rotation_t *r, const coterie_layer_t *layer,
                     uint32_t from);
static uint32_t cycle_find(coterie_rotation_t *r, double least);
static int walks_lengthen(coterie_rotation_t *r, double least);
static uint32_t rank_on_cycle(coterie_rotation_t *r);
static uint32_t cycle_list(coterie_rotation_t *r, uint32_t rank);
static double cycle_gain(const coterie_rotation_t *r, uint32_t length);
static uint32_t cycle_excess(const coterie_rotation_t *r,
                             const coterie_layer_t *layer, uint32_t length);
static void cycle_make(coterie_rotation_t *r, coterie_layer_t *layer,
                       uint32_t length);

coterie_status_t coterie_rotation_open(coterie_rotation_t *rotation,
                                       uint32_t rank_count)
{
    size_t ranks = rank_count, cells = ranks * ranks;

    *rotation = (coterie_rotation_t){.rank_count = rank_count};
    rotation->gain = malloc(cells * sizeof(*rotation->gain));
    rotation->mover = malloc(cells * sizeof(*rotation->mover));
    rotation->reach = malloc(ranks * sizeof(*rotation->reach));
    rotation->before = malloc(ranks * sizeof(*rotation->before));
    rotation->cycle = malloc(ranks * sizeof(*rotation->cycle));
    if (!rotation->gain || !rotation->mover || !rotation->reach ||
        !rotation->before || !rotation->cycle)
        return coterie_fail_memory(cells * sizeof(*rotation->gain),
                                   "what goes from rank to rank");
    return COTERIE_OK;
}

/* A cycle that the limit forbids loses its way into the rank that would have
 * too much; after as many as there are ranks, no more are looked for. */
void coterie_rotation_descend(coterie_rotation_t *rotation,
                              coterie_layer_t *layer)
{
    double least = coterie_layer_noise(layer);
    uint32_t rank, forbidden = 0;

    assert(layer->pair == NULL);
    for (uint32_t from = 0; from < rotation->rank_count; from++)
        row_fill(rotation, layer, from);
    while (forbidden < rotation->rank_count &&
           (rank = cycle_find(rotation, least)) < rotation->rank_count) {
        uint32_t length = cycle_list(rotation, rank);
        uint32_t at = cycle_excess(rotation, layer, length);
        if (at == length && cycle_gain(rotation, length) > least) {
            cycle_make(rotation, layer, length);
            continue;
        }
        at %= length;
        rotation->gain[rotation->cycle[at] * rotation->rank_count +
                       rotation->cycle[(at + 1) % length]] = -INFINITY;
        forbidden++;
    }
}

void coterie_rotation_close(coterie_rotation_t *rotation)
{
    free(rotation->gain);
    free(rotation->mover);
    free(rotation->reach);
    free(rotation->before);
    free(rotation->cycle);
}

static void row_fill(coterie_rotation_t *r, const coterie_layer_t *layer,
                     uint32_t from)
{
    uint32_t ranks = r->rank_count;
    float *gain = r->gain + (size_t)from * ranks;
    uint16_t *mover = r->mover + (size_t)from * ranks;

    for (uint32_t to = 0; to < ranks; to++)
        gain[to] = -INFINITY;
    for (uint32_t e = 0; e < layer->problem->expert_count; e++) {
        const float *pull = layer->pull + (size_t)e * ranks;
        if (layer->rank_of[e] != from)
            continue;
        for (uint32_t to = 0; to < ranks; to++)
            if (pull[to] - pull[from] > gain[to]) {
                gain[to] = pull[to] - pull[from];
                mover[to] = (uint16_t)e;
            }
    }
}

/* Bellman and Ford's search for a cycle whose arcs add up to something. Returns
 * a rank on it, or rank_count. */
static uint32_t cycle_find(coterie_rotation_t *r, double least)
{
    uint32_t rank = r->rank_count;

    for (uint32_t i = 0; i < r->rank_count; i++) {
        r->reach[i] = 0;
        r->before[i] = (uint16_t)r->rank_count;
    }
    for (uint32_t i = 0; i <= r->rank_count && rank == r->rank_count; i++) {
        if (!walks_lengthen(r, least))
            break;
        rank = rank_on_cycle(r);
    }
    return rank;
}

static int walks_lengthen(coterie_rotation_t *r, double least)
{
    int longer = 0;

    for (uint32_t from = 0; from < r->rank_count; from++) {
        const float *gain = r->gain + (size_t)from * r->rank_count;
        double reach = r->reach[from] - least;
        for (uint32_t to = 0; to < r->rank_count; to++) {
            if (to == from || reach + gain[to] <= r->reach[to])
                continue;
            r->reach[to] = r->reach[from] + gain[to];
            r->before[to] = (uint16_t)from;
            longer = 1;
        }
    }
    return longer;
}

/* Walks back from every rank, and marks by `cycle` where it has been from
 * which. */
static uint32_t rank_on_cycle(coterie_rotation_t *r)
{
    uint32_t none = r->rank_count;

    memset(r->cycle, 0xff, none * sizeof(*r->cycle));
    for (uint32_t start = 0; start < none; start++) {
        uint32_t rank = start;
        while (rank != none && r->cycle[rank] == UINT16_MAX) {
            r->cycle[rank] = (uint16_t)start;
            rank = r->before[rank];
        }
        if (rank != none && r->cycle[rank] == start)
            return rank;
    }
    return none;
}

/* In `cycle`, in the order in which experts go. Returns how many ranks. */
static uint32_t cycle_list(coterie_rotation_t *r, uint32_t rank)
{
    uint32_t length = 0, at = rank;

    do {
        r->cycle[length++] = (uint16_t)at;
        at = r->before[at];
    } while (at != rank);
    for (uint32_t i = 0; i < length / 2; i++) {
        uint16_t other = r->cycle[i];
        r->cycle[i] = r->cycle[length - 1 - i];
        r->cycle[length - 1 - i] = other;
    }
    return length;
}

static double cycle_gain(const coterie_rotation_t *r, uint32_t length)
{
    double gain = 0;

    for (uint32_t i = 0; i < length; i++)
        gain += r->gain[(size_t)r->cycle[i] * r->rank_count +
                        r->cycle[(i + 1) % length]];
    return gain;
}

/* Returns where in the cycle an expert goes to a rank that would have too much,
 * and more than now; or length. */
static uint32_t cycle_excess(const coterie_rotation_t *r,
                             const coterie_layer_t *layer, uint32_t length)
{
    for (uint32_t i = 0; i < length; i++) {
        size_t from = r->cycle[i], to = r->cycle[(i + 1) % length];
        size_t next = r->cycle[(i + 2) % length];
        uint64_t gets = layer->load[r->mover[from * r->rank_count + to]];
        uint64_t gives = layer->load[r->mover[to * r->rank_count + next]];
        if (gets > gives &&
            layer->rank_load[to] + gets - gives > layer->load_max)
            return i;
    }
    return length;
}

/* Swap by swap: the expert that is not yet where it goes waits on the first
 * rank. */
static void cycle_make(coterie_rotation_t *r, coterie_layer_t *layer,
                       uint32_t length)
{
    uint32_t first = r->mover[(size_t)r->cycle[0] * r->rank_count +
                              r->cycle[1]];

    for (uint32_t i = 1; i < length; i++) {
        uint32_t next = r->mover[(size_t)r->cycle[i] * r->rank_count +
                                 r->cycle[(i + 1) % length]];
        coterie_layer_swap(layer, (coterie_swap_t){first, next});
        first = next;
    }
    for (uint32_t i = 0; i < length; i++)
        row_fill(r, layer, r->cycle[i]);
}
