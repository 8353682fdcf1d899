#include "config.h"

#include <assert.h>

#include "placement/cover.h"

enum { PLANES = 5 }; /* of a count up to COTERIE_K_MAX */

/* One token's experts on their way to ranks. */
typedef struct covering {
    uint64_t holders[COTERIE_K_MAX];
    uint32_t left;       /* bit i: expert i has no rank yet */
    uint32_t replicated; /* bit i: it could have more than one */
    coterie_covered_t *covered;
} covering_t;

static inline void covering_begin(covering_t *c, const coterie_cover_t *cover,
                           const uint64_t *holders, const int16_t *set,
                                  coterie_covered_t *covered);
static inline void rank_serve(covering_t *c, uint32_t rank);
static inline uint32_t best_rank(const covering_t *c, uint64_t near);

void coterie_cover_init(coterie_cover_t *cover, uint32_t rank_count,
                        uint32_t node_count, double network_cost)
{
    uint32_t size = rank_count / node_count;
    uint64_t node = (UINT64_C(2) << (size - 1)) - 1;

    assert(rank_count <= COTERIE_COVER_RANKS_MAX);
    cover->rank_count = rank_count;
    cover->network_cost = network_cost;
    cover->all = (UINT64_C(2) << (rank_count - 1)) - 1;
    for (uint32_t r = 0; r < rank_count; r++)
        cover->near[r] = node << r / size * size;
}

void coterie_cover_route(const coterie_cover_t *cover,
                         const uint64_t *holders, const int16_t *set,
                         uint32_t owner, coterie_covered_t *covered)
{
    uint64_t near = owner == COTERIE_NONE ? 0 : cover->near[owner];
    covering_t c; /* too large to clear for every token */

    covering_begin(&c, cover, holders, set, covered);
    if (c.replicated != 0 && owner != COTERIE_NONE)
        rank_serve(&c, owner);
    while ((c.left & c.replicated) != 0)
        rank_serve(&c, best_rank(&c, near));
    for (uint32_t bits = c.left; bits != 0; bits &= bits - 1) {
        uint32_t i = (uint32_t)__builtin_ctz(bits);
        covered->serving[i] = (uint8_t)__builtin_ctzll(c.holders[i]);
        covered->ranks |= c.holders[i];
    }
}

uint32_t coterie_cover_next(const coterie_cover_t *cover,
                            const uint8_t *scores, const int16_t *set,
                            uint64_t ranks, uint32_t owner)
{
    uint32_t best = owner, best_key = 0;

    if (ranks != 0 && (ranks & (ranks - 1)) == 0)
        return (uint32_t)__builtin_ctzll(ranks);
    for (uint64_t bits = ranks; bits != 0; bits &= bits - 1) {
        uint32_t rank = (uint32_t)__builtin_ctzll(bits), score = 0, key;
        for (uint32_t i = 0; i < cover->k; i++)
            if (set[i] >= 0)
                score += scores[(size_t)set[i] * cover->rank_count + rank];
        key = score << 2 | (uint32_t)(rank == owner) << 1 |
              (owner != COTERIE_NONE && cover->near[owner] >> rank & 1);
        if (bits == ranks || key > best_key) {
            best = rank;
            best_key = key;
        }
    }
    return best;
}

static inline void covering_begin(covering_t *c, const coterie_cover_t *cover,
                                  const uint64_t *holders, const int16_t *set,
                                  coterie_covered_t *covered)
{
    c->covered = covered;
    c->left = c->replicated = 0;
    covered->ranks = 0;
    for (uint32_t i = 0; i < cover->k; i++) {
        if (set[i] < 0)
            continue;
        c->holders[i] = holders[set[i]];
        c->left |= 1u << i;
        if ((c->holders[i] & (c->holders[i] - 1)) != 0)
            c->replicated |= 1u << i;
    }
}

/* Gives a rank all that it holds of what is left. */
static inline void rank_serve(covering_t *c, uint32_t rank)
{
    uint32_t held = 0;

    for (uint32_t bits = c->left; bits != 0; bits &= bits - 1) {
        uint32_t i = (uint32_t)__builtin_ctz(bits);
        held |= (uint32_t)(c->holders[i] >> rank & 1) << i;
    }
    if (held == 0)
        return;
    c->left &= ~held;
    c->covered->ranks |= UINT64_C(1) << rank;
    for (; held != 0; held &= held - 1)
        c->covered->serving[__builtin_ctz(held)] = (uint8_t)rank;
}

/* Counts all ranks at once: plane j holds bit j of each rank's count. What
 * survives every plane from the top holds most. */
static inline uint32_t best_rank(const covering_t *c, uint64_t near)
{
    uint64_t plane[PLANES] = {0}, best = ~UINT64_C(0);

    for (uint32_t bits = c->left; bits != 0; bits &= bits - 1) {
        uint64_t carry = c->holders[__builtin_ctz(bits)];
        for (uint32_t j = 0; carry != 0; j++) {
            uint64_t both = plane[j] & carry;
            plane[j] ^= carry;
            carry = both;
        }
    }
    for (int j = PLANES - 1; j >= 0; j--)
        if ((best & plane[j]) != 0)
            best &= plane[j];
    if ((best & near) != 0)
        best &= near;
    return (uint32_t)__builtin_ctzll(best);
}
