#include "config.h"

#include <stdlib.h>

#include <coterie/replace.h>

#include "base/error.h"
#include "placement/placement.h"

static coterie_status_t same_check(const coterie_placement_t *from,
                                   const coterie_placement_t *to);
static uint64_t layer_moves(const coterie_placement_t *from,
                            const coterie_placement_t *to, uint32_t layer,
                            coterie_move_t *moves);
static int holds(const coterie_holders_t *holders, uint32_t rank);
static uint32_t nearest(const coterie_placement_t *placement,
                        const coterie_holders_t *holders, uint32_t rank);

coterie_status_t coterie_placement_moves(const coterie_placement_t *from,
                                         const coterie_placement_t *to,
                                         coterie_move_t **moves_p,
                                         uint64_t *count_p)
{
    coterie_status_t status = same_check(from, to);
    coterie_move_t *moves;
    uint64_t count = 0, at = 0;

    if (status != COTERIE_OK)
        return status;
    for (uint32_t l = 0; l < to->layer_count; l++)
        count += layer_moves(from, to, l, NULL);
    moves = calloc(count + 1, sizeof(*moves)); /* never none */
    if (moves == NULL)
        return coterie_fail_memory(count * sizeof(*moves), "moves");
    for (uint32_t l = 0; l < to->layer_count; l++)
        at += layer_moves(from, to, l, moves + at);
    *moves_p = moves;
    *count_p = count;
    return COTERIE_OK;
}

static coterie_status_t same_check(const coterie_placement_t *from,
                                   const coterie_placement_t *to)
{
    coterie_status_t status = coterie_placement_check(
        from, to->layer_count, to->expert_count, to->rank_count);

    if (status == COTERIE_OK && from->node_count != to->node_count)
        return coterie_fail(COTERIE_ERR_MISMATCH,
                            "placements for %u and for %u nodes",
                            from->node_count, to->node_count);
    return status;
}

/* Counts them; lists them where there is a list. */
static uint64_t layer_moves(const coterie_placement_t *from,
                            const coterie_placement_t *to, uint32_t layer,
                            coterie_move_t *moves)
{
    uint64_t count = 0;

    for (uint32_t e = 0; e < to->expert_count; e++) {
        coterie_holders_t had = coterie_placement_holders(from, layer, e);
        coterie_holders_t has = coterie_placement_holders(to, layer, e);
        for (uint32_t i = 0; i < has.count; i++) {
            if (holds(&had, has.rank[i]))
                continue;
            if (moves != NULL)
                moves[count] = (coterie_move_t){
                    layer, e, nearest(from, &had, has.rank[i]), has.rank[i]};
            count++;
        }
    }
    return count;
}

static int holds(const coterie_holders_t *holders, uint32_t rank)
{
    for (uint32_t i = 0; i < holders->count; i++)
        if (holders->rank[i] == rank)
            return 1;
    return 0;
}

static uint32_t nearest(const coterie_placement_t *placement,
                        const coterie_holders_t *holders, uint32_t rank)
{
    for (uint32_t i = 0; i < holders->count; i++)
        if (holders->rank[i] / placement->node_ranks ==
            rank / placement->node_ranks)
            return holders->rank[i];
    return holders->rank[0];
}
