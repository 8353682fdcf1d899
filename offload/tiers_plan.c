/* Which reads are worth beginning before anybody needs them. A right guess
 * spares somebody a read. A wrong one displaces other reads, as far as the
 * drive is busy, and work of the processor and memory, and an expert that may
 * be needed had to leave for it. So a guess is worth its chance's odds against
 * all that, measured in reads. Where routing cannot be predicted, no chance is
 * high enough. */
#include "config.h"

#include <assert.h>
#include <stdlib.h>

#include "offload/tiers_state.h"

enum { UNDER_WAY = 2 }; /* records: one is being read, and one is next */

/* A wrong guess's cost where the drive has nothing else to do. */
static const double idle_cost = 0.5;

static double guess_cost(const coterie_tiers_t *tiers);
static bool is_worth(double chance, double cost);
static void layer_plan(coterie_tiers_t *tiers, uint32_t layer,
                       const float *absent);
static int likelier_first(const void *left, const void *right);
static void passed_refute(coterie_tiers_t *tiers,
                          const coterie_foresight_t *foresight);
static void busy_note(coterie_tiers_t *tiers);

/* Until more is known, the drive has no time to spare. */
void coterie_pace_begin(coterie_pace_t *pace)
{
    pace->busy = 1;
    pace->since = coterie_tiers_now();
}

void coterie_pace_read_begins(coterie_tiers_t *tiers)
{
    if (tiers->arriving++ == 0)
        tiers->pace.busy_since = coterie_tiers_now();
}

void coterie_pace_read_ends(coterie_tiers_t *tiers)
{
    assert(tiers->arriving > 0);
    if (--tiers->arriving == 0)
        tiers->pace.busy_ns +=
            coterie_tiers_now() - tiers->pace.busy_since;
}

void coterie_plan_make(coterie_tiers_t *tiers,
                       const coterie_foresight_t *foresight)
{
    uint32_t layer = coterie_foresight_layer(foresight);

    if (layer == 0)
        busy_note(tiers);
    passed_refute(tiers, foresight);
    tiers->plan_count = tiers->plan_next = 0;
    for (uint32_t d = 1; d <= coterie_foresight_ahead(foresight); d++)
        layer_plan(tiers, (layer + d) % tiers->layer_count,
                   coterie_foresight_absent(foresight, d));
    coterie_plan_go_on(tiers);
}

/* A few at a time: what is learned meanwhile may change the order. */
void coterie_plan_go_on(coterie_tiers_t *tiers)
{
    uint64_t few = 4 * COTERIE_READER_GUESSES / tiers->format.record_size;
    double cost = guess_cost(tiers);

    while (tiers->plan_next < tiers->plan_count &&
           tiers->arriving < (few > UNDER_WAY ? few : UNDER_WAY)) {
        coterie_candidate_t next = tiers->plan[tiers->plan_next];
        const coterie_item_t *item = &tiers->items[next.item];
        uint32_t victim = tiers->free_count > 0
                              ? COTERIE_POLICY_NONE
                              : coterie_policy_victim(tiers->policy);
        double loss = victim == COTERIE_POLICY_NONE
                          ? 0
                          : tiers->items[victim].chance;

        if (item->state == COTERIE_ITEM_ABSENT &&
            is_worth(next.chance, cost + loss) &&
            !coterie_item_read_ahead(tiers, next.item))
            return; /* no slot; there may be one later */
        tiers->plan_next++;
    }
}

/* What one wrong guess costs, in reads. */
static double guess_cost(const coterie_tiers_t *tiers)
{
    return idle_cost + (1 - idle_cost) * tiers->pace.busy;
}

static bool is_worth(double chance, double cost)
{
    return chance > (1 - chance) * cost;
}

static void layer_plan(coterie_tiers_t *tiers, uint32_t layer,
                       const float *absent)
{
    coterie_candidate_t *first = tiers->plan + tiers->plan_count;
    uint32_t count = 0, room = tiers->item_count - tiers->plan_count;
    double cost = guess_cost(tiers);

    for (uint32_t e = 0; e < tiers->expert_count && count < room; e++) {
        uint32_t item = layer * tiers->expert_count + e;
        float chance = 1 - absent[e];

        if (tiers->items[item].state == COTERIE_ITEM_ABSENT &&
            tiers->items[item].banks > 0 && is_worth(chance, cost))
            first[count++] = (coterie_candidate_t){item, chance};
    }
    qsort(first, count, sizeof(*first), likelier_first);
    tiers->plan_count += count;
}

static int likelier_first(const void *left, const void *right)
{
    const coterie_candidate_t *a = left, *b = right;

    if (a->chance != b->chance)
        return a->chance < b->chance ? 1 : -1;
    return (a->item > b->item) - (a->item < b->item);
}

/* Guesses for layers that lie behind, which nobody could refute alone. */
static void passed_refute(coterie_tiers_t *tiers,
                          const coterie_foresight_t *foresight)
{
    uint32_t layers = tiers->layer_count;
    uint32_t layer = coterie_foresight_layer(foresight);
    uint32_t ahead = coterie_foresight_ahead(foresight);

    while (tiers->guess_count > 0) {
        uint32_t target = tiers->items[tiers->guess_first].read.layer;
        uint32_t distance = (target + layers - layer) % layers;

        if (distance <= ahead)
            return;
        coterie_item_refute(tiers, tiers->guess_first);
    }
}

/* Once a step: for how much of its time the drive was busy, half of it what was
 * so before. */
static void busy_note(coterie_tiers_t *tiers)
{
    coterie_pace_t *pace = &tiers->pace;
    uint64_t now = coterie_tiers_now();
    double share;

    if (tiers->arriving > 0) {
        pace->busy_ns += now - pace->busy_since;
        pace->busy_since = now;
    }
    share = (double)pace->busy_ns / (double)(now - pace->since + 1);
    pace->busy = (pace->busy + (share < 1 ? share : 1)) / 2;
    pace->since = now;
    pace->busy_ns = 0;
}
