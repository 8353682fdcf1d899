#ifndef COTERIE_PLACEMENT_COVER_H
#define COTERIE_PLACEMENT_COVER_H
/* coterie_route over sets of ranks that fit a word, for a search that routes
 * the same tokens millions of times. */
#include <coterie/placement.h>

enum { COTERIE_COVER_RANKS_MAX = 64 };

typedef struct coterie_cover {
    uint32_t rank_count, expert_count, k;
    double network_cost; /* of a copy between nodes; 1 inside one */
    uint64_t all;        /* every rank */
    uint64_t near[COTERIE_COVER_RANKS_MAX]; /* the ranks of a rank's node */
} coterie_cover_t;

/* What serves one token at one layer; serving[i] means nothing where the
 * token's expert i is -1. */
typedef struct coterie_covered {
    uint64_t ranks;
    uint8_t serving[COTERIE_K_MAX];
} coterie_covered_t;

void coterie_cover_init(coterie_cover_t *cover, uint32_t rank_count,
                        uint32_t node_count, double network_cost);

/* @param holders  [expert]: the ranks that hold it
 * @param owner    rank, or COTERIE_NONE */
void coterie_cover_route(const coterie_cover_t *cover,
                         const uint64_t *holders, const int16_t *set,
                         uint32_t owner, coterie_covered_t *covered);

/* The next owner among `ranks`, by the scores [expert, rank] of the layer. */
uint32_t coterie_cover_next(const coterie_cover_t *cover,
                            const uint8_t *scores, const int16_t *set,
                            uint64_t ranks, uint32_t owner);

/* Ranks in a set: few, so that clearing them one by one is fastest. */
static inline uint32_t coterie_cover_count(uint64_t ranks)
{
    uint32_t count = 0;

    for (; ranks != 0; ranks &= ranks - 1)
        count++;
    return count;
}

/* What it costs to reach all of `ranks` from one, which need not be among
 * them. */
static inline double coterie_cover_reach(const coterie_cover_t *cover,
                                         uint32_t from, uint64_t ranks)
{
    uint64_t others = ranks & ~(UINT64_C(1) << from);

    return coterie_cover_count(others & cover->near[from]) +
           cover->network_cost *
               coterie_cover_count(others & ~cover->near[from]);
}

#endif
