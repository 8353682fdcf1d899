#include "config.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "placement/solve/matching.h"
#include "placement/solve/relabel.h"

static void seam_keep(coterie_relabel_t *r, uint32_t seam,
                      const uint16_t *rank_of);
static coterie_status_t nodes_match(coterie_relabel_t *r);
static double block_fill(coterie_relabel_t *r, uint32_t from, uint32_t to);
static void ranks_rename(coterie_relabel_t *r, uint16_t *rank_of);

coterie_status_t coterie_relabel_open(coterie_relabel_t *relabel,
                                      const coterie_problem_t *problem)
{
    size_t ranks = problem->rank_count, nodes = problem->node_count;

    *relabel = (coterie_relabel_t){.problem = problem};
    relabel->kept = malloc(ranks * ranks * sizeof(*relabel->kept));
    relabel->block = malloc(ranks / nodes * (ranks / nodes) *
                            sizeof(*relabel->block));
    relabel->node_kept = malloc(nodes * nodes * sizeof(*relabel->node_kept));
    relabel->match = malloc(ranks * sizeof(*relabel->match));
    relabel->node_match = malloc(nodes * sizeof(*relabel->node_match));
    relabel->name = malloc(ranks * sizeof(*relabel->name));
    relabel->inner = malloc(nodes * ranks * sizeof(*relabel->inner));
    if (!relabel->kept || !relabel->block || !relabel->node_kept ||
        !relabel->match || !relabel->node_match || !relabel->name ||
        !relabel->inner)
        return coterie_fail_memory(ranks * ranks * sizeof(*relabel->kept),
                                   "renaming ranks");
    return COTERIE_OK;
}

coterie_status_t coterie_relabel_seams(coterie_relabel_t *relabel,
                                       uint16_t *rank_of)
{
    const coterie_problem_t *p = relabel->problem;
    coterie_status_t status = COTERIE_OK;

    for (uint32_t l = 0; status == COTERIE_OK && l + 1 < p->layer_count; l++) {
        seam_keep(relabel, l, rank_of + (size_t)l * p->expert_count);
        status = nodes_match(relabel);
        if (status == COTERIE_OK)
            ranks_rename(relabel, rank_of + (l + 1) * (size_t)p->expert_count);
    }
    return status;
}

void coterie_relabel_close(coterie_relabel_t *relabel)
{
    free(relabel->kept);
    free(relabel->block);
    free(relabel->node_kept);
    free(relabel->match);
    free(relabel->node_match);
    free(relabel->name);
    free(relabel->inner);
}

static void seam_keep(coterie_relabel_t *r, uint32_t seam,
                      const uint16_t *rank_of)
{
    const coterie_problem_t *p = r->problem;
    const uint16_t *next = rank_of + p->expert_count;
    const float *weight = coterie_problem_seam(p, seam);

    memset(r->kept, 0,
           (size_t)p->rank_count * p->rank_count * sizeof(*r->kept));
    for (uint32_t e = 0; e < p->expert_count; e++) {
        float *kept = r->kept + (size_t)rank_of[e] * p->rank_count;
        for (uint32_t f = 0; f < p->expert_count; f++)
            kept[next[f]] += *weight++;
    }
}

/* Whom each node, and in it each rank, goes on as: a matching of nodes, each
 * pair of which is worth its best matching of ranks. */
static coterie_status_t nodes_match(coterie_relabel_t *r)
{
    const coterie_problem_t *p = r->problem;
    uint32_t nodes = p->node_count, size = p->rank_count / nodes;
    coterie_status_t status = COTERIE_OK;

    for (uint32_t i = 0; status == COTERIE_OK && i < nodes * nodes; i++) {
        uint32_t *inner = r->inner + (size_t)i * size;
        double all = block_fill(r, i / nodes, i % nodes);
        r->node_kept[i] = all * (p->network_cost - 1);
        status = coterie_match(r->block, size, inner);
        for (uint32_t a = 0; status == COTERIE_OK && a < size; a++)
            r->node_kept[i] += r->block[a * size + inner[a]];
    }
    if (status == COTERIE_OK)
        status = coterie_match(r->node_kept, nodes, r->node_match);
    for (uint32_t n = 0; status == COTERIE_OK && n < nodes; n++)
        for (uint32_t a = 0; a < size; a++) {
            uint32_t to = r->node_match[n];
            r->match[n * size + a] =
                to * size + r->inner[((size_t)n * nodes + to) * size + a];
        }
    return status;
}

/* What a node's ranks keep with another's, which is returned in all. */
static double block_fill(coterie_relabel_t *r, uint32_t from, uint32_t to)
{
    const coterie_problem_t *p = r->problem;
    uint32_t size = p->rank_count / p->node_count;
    double all = 0;

    for (uint32_t a = 0; a < size; a++)
        for (uint32_t b = 0; b < size; b++) {
            uint32_t g = from * size + a, h = to * size + b;
            float kept = r->kept[(size_t)g * p->rank_count + h];
            all += kept;
            /* a rank cannot go on as one that takes more or fewer */
            r->block[a * size + b] =
                p->capacity[g] == p->capacity[h] ? kept : -1e30f;
        }
    return all;
}

static void ranks_rename(coterie_relabel_t *r, uint16_t *rank_of)
{
    const coterie_problem_t *p = r->problem;

    for (uint32_t g = 0; g < p->rank_count; g++)
        r->name[r->match[g]] = g;
    for (uint32_t e = 0; e < p->expert_count; e++)
        rank_of[e] = r->name[rank_of[e]];
}
