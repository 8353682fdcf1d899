#include "config.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "placement/solve/layer.h"

enum { CHANCES = 4096, NOISE = 32 };

static uint64_t over(uint64_t load, uint64_t max);
static double swap_gain(const coterie_layer_t *layer, coterie_swap_t swap);
static void pair_pull(coterie_layer_t *layer, uint32_t expert, double sign);
static uint64_t random_next(uint64_t *state);
static void pull_fill(coterie_layer_t *layer, const uint16_t *rank_of);
static void members_list(coterie_layer_t *layer, const uint16_t *rank_of);
static void pull_behind(coterie_layer_t *layer, const float *seam,
                        const uint16_t *rank_of);
static void pull_ahead(coterie_layer_t *layer, const float *seam,
                       const uint16_t *rank_of);
static void pull_network(coterie_layer_t *layer);

coterie_status_t coterie_layer_open(coterie_layer_t *layer,
                                    const coterie_problem_t *problem)
{
    size_t experts = problem->expert_count, ranks = problem->rank_count;

    *layer = (coterie_layer_t){.problem = problem};
    layer->rank_load = malloc(ranks * sizeof(*layer->rank_load));
    layer->pull = malloc(experts * ranks * sizeof(*layer->pull));
    layer->by_rank = malloc(experts * ranks * sizeof(*layer->by_rank));
    layer->members = malloc(experts * sizeof(*layer->members));
    layer->first = malloc((ranks + 1) * sizeof(*layer->first));
    layer->chance = malloc(CHANCES * sizeof(*layer->chance));
    if (!layer->rank_load || !layer->pull || !layer->by_rank ||
        !layer->members || !layer->first || !layer->chance)
        return coterie_fail_memory(2 * experts * ranks * sizeof(float),
                                   "a layer's tables");
    for (int i = 0; i < CHANCES; i++)
        layer->chance[i] = -log((i + 0.5) / CHANCES);
    return COTERIE_OK;
}

void coterie_layer_enter(coterie_layer_t *layer, uint16_t *rank_of,
                         uint32_t index)
{
    const coterie_problem_t *p = layer->problem;
    size_t at = (size_t)index * p->expert_count;

    layer->index = index;
    layer->rank_of = rank_of + at;
    layer->pair = coterie_problem_pair(p, index);
    layer->load = p->load + at;
    layer->load_max = p->load_max ? p->load_max[index] : UINT64_MAX;
    memset(layer->rank_load, 0, p->rank_count * sizeof(*layer->rank_load));
    for (uint32_t e = 0; e < p->expert_count; e++)
        layer->rank_load[layer->rank_of[e]] += layer->load[e];
    pull_fill(layer, rank_of);
}

double coterie_layer_excess(const coterie_layer_t *layer, coterie_swap_t swap)
{
    uint32_t from = layer->rank_of[swap.a], to = layer->rank_of[swap.b];
    uint64_t x = layer->load[swap.a], y = layer->load[swap.b];
    uint64_t max = layer->load_max;
    const uint64_t *rank_load = layer->rank_load;

    return (double)over(rank_load[from] - x + y, max) +
           over(rank_load[to] - y + x, max) - over(rank_load[from], max) -
           over(rank_load[to], max);
}

double coterie_layer_gain(const coterie_layer_t *layer, coterie_swap_t swap)
{
    return swap_gain(layer, swap);
}

void coterie_layer_swap(coterie_layer_t *layer, coterie_swap_t swap)
{
    uint16_t g = layer->rank_of[swap.a], h = layer->rank_of[swap.b];
    uint64_t x = layer->load[swap.a], y = layer->load[swap.b];

    if (layer->pair != NULL) {
        pair_pull(layer, swap.a, -1);
        pair_pull(layer, swap.b, -1);
    }
    layer->rank_load[g] += y - x;
    layer->rank_load[h] += x - y;
    layer->rank_of[swap.a] = h;
    layer->rank_of[swap.b] = g;
    if (layer->pair != NULL) {
        pair_pull(layer, swap.a, 1);
        pair_pull(layer, swap.b, 1);
    }
}

int coterie_layer_over(const coterie_layer_t *layer)
{
    for (uint32_t r = 0; r < layer->problem->rank_count; r++)
        if (layer->rank_load[r] > layer->load_max)
            return 1;
    return 0;
}

void coterie_layer_anneal(coterie_layer_t *layer, uint64_t count, double heat)
{
    uint64_t experts = layer->problem->expert_count, random = layer->random;

    for (uint64_t i = 0; i < count; i++) {
        coterie_swap_t swap;
        double gain;
        uint64_t z = random_next(&random);
        swap.a = ((z & 0x3ffffff) * experts) >> 26;
        swap.b = ((z >> 26 & 0x3ffffff) * experts) >> 26;
        if (layer->rank_of[swap.a] == layer->rank_of[swap.b])
            continue;
        gain = swap_gain(layer, swap);
        if (gain > -heat * layer->chance[z >> 52])
            coterie_layer_swap(layer, swap);
    }
    layer->random = random;
}

void coterie_layer_descend(coterie_layer_t *layer)
{
    uint32_t experts = layer->problem->expert_count, idle = 0;
    double least = coterie_layer_noise(layer);

    for (uint32_t a = 0; idle < experts; a = (a + 1) % experts) {
        coterie_swap_t best = {a, a};
        double most = least;
        for (uint32_t b = 0; b < experts; b++) {
            double gain = swap_gain(layer, (coterie_swap_t){a, b});
            if (gain > most) {
                most = gain;
                best.b = b;
            }
        }
        idle++;
        if (best.b == a)
            continue;
        coterie_layer_swap(layer, best);
        idle = 0;
    }
}

double coterie_layer_noise(const coterie_layer_t *layer)
{
    const coterie_problem_t *p = layer->problem;
    size_t count = (size_t)p->expert_count * p->rank_count;
    float most = 0;

    for (size_t i = 0; i < count; i++)
        most = fmaxf(most, fabsf(layer->pull[i]));
    return fmax(p->tolerance, NOISE * FLT_EPSILON * most);
}

void coterie_layer_close(coterie_layer_t *layer)
{
    free(layer->rank_load);
    free(layer->pull);
    free(layer->by_rank);
    free(layer->members);
    free(layer->first);
    free(layer->chance);
}

static uint64_t over(uint64_t load, uint64_t max)
{
    return load > max ? load - max : 0;
}

static double swap_gain(const coterie_layer_t *layer,
                               coterie_swap_t swap)
{
    const coterie_problem_t *p = layer->problem;
    uint32_t g = layer->rank_of[swap.a], h = layer->rank_of[swap.b];
    const float *a = layer->pull + (size_t)swap.a * p->rank_count;
    const float *b = layer->pull + (size_t)swap.b * p->rank_count;
    double gain;

    if (g == h)
        return 0;
    gain = (a[h] - a[g]) + (b[g] - b[h]);
    if (layer->pair != NULL) /* each counted on the other's leaving */
        gain -= 2 * coterie_problem_link(p, g, h) *
                layer->pair[(size_t)swap.a * p->expert_count + swap.b];
    if (layer->load_max != UINT64_MAX) {
        double excess = coterie_layer_excess(layer, swap);
        if (excess != 0) /* the toll may be infinite */
            gain -= layer->toll * excess;
    }
    return gain;
}

static void pair_pull(coterie_layer_t *layer, uint32_t expert, double sign)
{
    const coterie_problem_t *p = layer->problem;
    uint32_t rank = layer->rank_of[expert], ranks = p->rank_count;
    const float *pair = layer->pair + (size_t)expert * p->expert_count;
    uint32_t size = ranks / p->node_count, begin = rank / size * size;

    for (uint32_t f = 0; f < p->expert_count; f++) {
        float *pull = layer->pull + (size_t)f * ranks;
        float weight = sign * pair[f];
        if (weight == 0)
            continue;
        pull[rank] += weight;
        for (uint32_t r = begin; p->node_count > 1 && r < begin + size; r++)
            pull[r] += weight * (p->network_cost - 1);
    }
}

/* splitmix64, as in search.c; here it is in the innermost loop. */
static uint64_t random_next(uint64_t *state)
{
    uint64_t z = (*state += 0x9E3779B97F4A7C15u);

    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

static void pull_fill(coterie_layer_t *layer, const uint16_t *rank_of)
{
    const coterie_problem_t *p = layer->problem;
    uint32_t l = layer->index, e = p->expert_count;

    memset(layer->by_rank, 0, (size_t)e * p->rank_count *
                                  sizeof(*layer->by_rank));
    if (l > 0)
        pull_behind(layer, coterie_problem_seam(p, l - 1),
                    rank_of + (size_t)(l - 1) * e);
    if (layer->pair != NULL)
        pull_behind(layer, layer->pair, layer->rank_of);
    for (uint32_t f = 0; f < e; f++)
        for (uint32_t r = 0; r < p->rank_count; r++)
            layer->pull[(size_t)f * p->rank_count + r] =
                layer->by_rank[(size_t)r * e + f];
    if (l + 1 < p->layer_count)
        pull_ahead(layer, coterie_problem_seam(p, l),
                   rank_of + (size_t)(l + 1) * e);
    if (p->node_count > 1)
        pull_network(layer);
}

static void pull_behind(coterie_layer_t *layer, const float *seam,
                        const uint16_t *rank_of)
{
    uint32_t e = layer->problem->expert_count;

    for (uint32_t from = 0; from < e; from++, seam += e) {
        float *pull = layer->by_rank + (size_t)rank_of[from] * e;
        for (uint32_t f = 0; f < e; f++)
            pull[f] += seam[f];
    }
}

static void members_list(coterie_layer_t *layer, const uint16_t *rank_of)
{
    const coterie_problem_t *p = layer->problem;
    uint32_t *first = layer->first;

    memset(first, 0, (p->rank_count + 1) * sizeof(*first));
    for (uint32_t e = 0; e < p->expert_count; e++)
        first[rank_of[e]]++;
    for (uint32_t r = 0, sum = 0; r <= p->rank_count; r++) {
        uint32_t count = first[r];
        first[r] = sum;
        sum += count;
    }
    for (uint32_t e = 0; e < p->expert_count; e++)
        layer->members[first[rank_of[e]]++] = e;
    for (uint32_t r = p->rank_count; r > 0; r--)
        first[r] = first[r - 1];
    first[0] = 0;
}

static void pull_ahead(coterie_layer_t *layer, const float *seam,
                       const uint16_t *rank_of)
{
    const coterie_problem_t *p = layer->problem;
    float *pull = layer->pull;

    members_list(layer, rank_of);
    for (uint32_t e = 0; e < p->expert_count; e++, seam += p->expert_count)
        for (uint32_t r = 0; r < p->rank_count; r++) {
            float sum = 0;
            for (uint32_t i = layer->first[r]; i < layer->first[r + 1]; i++)
                sum += seam[layer->members[i]];
            *pull++ += sum;
        }
}

/* A neighbour on the very rank saves a link between nodes; one on the same
 * node all but the link inside it. */
static void pull_network(coterie_layer_t *layer)
{
    const coterie_problem_t *p = layer->problem;
    uint32_t size = p->rank_count / p->node_count;
    float *pull = layer->pull;

    for (uint64_t i = 0; i < (uint64_t)p->expert_count * p->node_count; i++) {
        float sum = 0;
        for (uint32_t r = 0; r < size; r++)
            sum += pull[r];
        for (uint32_t r = 0; r < size; r++)
            *pull++ += sum * (p->network_cost - 1);
    }
}
