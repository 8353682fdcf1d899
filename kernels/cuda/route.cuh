#ifndef COTERIE_KERNELS_CUDA_ROUTE_CUH
#define COTERIE_KERNELS_CUDA_ROUTE_CUH
/* base/route.c for a warp: lane i has the token's expert i. Where the rule goes
 * through experts, lanes vote. */
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/warp.cuh"

struct routing_t {
    const coterie_route_tables_t *tables;
    uint32_t owner, node; /* the owner's node */
    uint32_t left;        /* bit i: expert i has no rank yet */
    uint32_t replicated;  /* bit i: it could have more than one */
    uint32_t lane, first, holders; /* of this lane's expert */
    uint32_t serving, slot;
};

static __device__ __forceinline__ routing_t
routing_begin(const coterie_route_tables_t *tables, uint32_t layer,
              uint32_t owner, int32_t expert)
{
    const size_t i = (size_t)layer * tables->expert_count + (uint32_t)expert;
    routing_t r = {};

    r.tables = tables;
    r.owner = owner;
    r.node = owner / tables->node_ranks;
    r.lane = threadIdx.x % WARP;
    r.serving = r.slot = COTERIE_NONE;
    if (expert >= 0) {
        r.first = tables->first[i];
        r.holders = tables->first[i + 1] - r.first;
    }
    r.left = __ballot_sync(ALL_LANES, r.holders > 0);
    r.replicated = __ballot_sync(ALL_LANES, r.holders > 1);
    return r;
}

/* Gives a rank all that it holds of what is left. */
static __device__ __forceinline__ void rank_serve(routing_t &r, uint32_t rank)
{
    const bool mine = (r.left >> r.lane & 1) != 0;

    for (uint32_t i = r.first; mine && i < r.first + r.holders; i++)
        if (r.tables->holder_rank[i] == rank) {
            r.serving = rank;
            r.slot = r.tables->holder_slot[i];
        }
    r.left &= ~__ballot_sync(ALL_LANES, mine && r.serving != COTERIE_NONE);
}

/* Lanes go through their holders together, the lowest rank first, so that each
 * rank comes up once, with the number of experts that it holds. */
static __device__ __forceinline__ uint32_t best_rank(const routing_t &r)
{
    const bool mine = (r.left >> r.lane & 1) != 0;
    uint32_t at = 0, best = COTERIE_NONE, best_key = 0;

    for (;;) {
        const uint32_t next = mine && at < r.holders
                                  ? r.tables->holder_rank[r.first + at]
                                  : COTERIE_NONE;
        const uint32_t rank = warp_min(next);
        const uint32_t count =
            (uint32_t)__popc(__ballot_sync(ALL_LANES, next == rank));
        const uint32_t key =
            count << 1 | (rank / r.tables->node_ranks == r.node);

        if (rank == COTERIE_NONE)
            return best;
        at += next == rank;
        if (key > best_key) {
            best = rank;
            best_key = key;
        }
    }
}

/* D, ascending, into route; who owns the row next is the member that `score`
 * likes best. */
static __device__ __forceinline__ void
ranks_gather(const routing_t &r, const uint8_t *scores, bool chosen,
             coterie_route_t *route)
{
    uint32_t count = 0, best = r.owner, best_key = 0, last = 0;

    for (;; count++) {
        const bool later = r.serving != COTERIE_NONE &&
                           (count == 0 || r.serving > last);
        const uint32_t rank = warp_min(later ? r.serving : COTERIE_NONE);
        uint32_t key;

        if (rank == COTERIE_NONE)
            break;
        key = warp_sum(chosen ? (uint32_t)scores[rank] : 0u) << 2 |
              (uint32_t)(rank == r.owner) << 1 |
              (rank / r.tables->node_ranks == r.node);
        if (count == 0 || key > best_key) {
            best = rank;
            best_key = key;
        }
        if (r.lane == 0)
            route->rank[count] = (uint16_t)rank;
        last = rank;
    }
    if (r.lane == 0) {
        route->rank_count = (uint16_t)count;
        route->next_owner = (uint16_t)best;
    }
}

/* As coterie_route_by. The warp sees route afterwards. */
static __device__ __forceinline__ void
route_warp(const coterie_route_tables_t *tables, uint32_t layer, uint32_t k,
           uint32_t owner, int32_t expert, coterie_route_t *route)
{
    routing_t r = routing_begin(tables, layer, owner, expert);
    const size_t row = (size_t)layer * tables->expert_count +
                       (uint32_t)(expert >= 0 ? expert : 0);

    rank_serve(r, owner);
    while ((r.left & r.replicated) != 0)
        rank_serve(r, best_rank(r));
    if ((r.left >> r.lane & 1) != 0) { /* who has the only one */
        r.serving = tables->holder_rank[r.first];
        r.slot = tables->holder_slot[r.first];
    }
    ranks_gather(r, tables->next_score + row * tables->rank_count, expert >= 0,
                 route);
    if (r.lane < k) {
        route->serving[r.lane] = (uint16_t)r.serving;
        route->slot[r.lane] = (uint16_t)r.slot;
    }
    __syncwarp();
}

/* Lane i's choice; one that the model does not have is none. */
static __device__ __forceinline__ int32_t
choice_of(const coterie_route_tables_t *tables, const int32_t *ids, uint32_t k)
{
    const uint32_t lane = threadIdx.x % WARP;
    const int32_t id = lane < k ? ids[lane] : NO_PAIR;

    return id < (int32_t)tables->expert_count ? id : NO_PAIR;
}

#endif
