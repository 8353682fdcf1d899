#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <coterie/coterie.h>
#include <coterie/place.h>

#include "placement/copies.h"
#include "placement/measure.h"
#include "placement/slots.h"
#include "placement/solve/search.h"

enum { LAYERS = 3, EXPERTS = 10, K = 3, TOKENS = 300, SEQUENCES = 4 };

/* A trace and slots drawn at random, with replicas and empty slots. */
typedef struct drawn {
    coterie_search_t random;
    int16_t experts[TOKENS * LAYERS * K];
    uint64_t seq_start[SEQUENCES + 1];
    coterie_trace_view_t view;
    uint64_t load[LAYERS * EXPERTS];
    coterie_slots_t slots;
    coterie_placement_t *placement;
} drawn_t;

static void sets_draw(drawn_t *d)
{
    for (uint32_t i = 0; i < TOKENS * LAYERS; i++)
        for (uint32_t j = 0; j < K; j++) {
            int16_t *set = d->experts + i * K, any;
            do
                any = (int16_t)coterie_search_below(&d->random, EXPERTS);
            while ((j > 0 && any == set[0]) || (j > 1 && any == set[1]));
            set[j] = any;
        }
    for (uint32_t i = 0; i < 20; i++) /* and some that choose fewer */
        d->experts[coterie_search_below(&d->random, TOKENS * LAYERS * K)] = -1;
    for (uint32_t i = 0; i < TOKENS * LAYERS * K; i++)
        if (d->experts[i] >= 0)
            d->load[i / K % LAYERS * EXPERTS + d->experts[i]]++;
}

static void slots_draw(drawn_t *d, uint32_t ranks, uint32_t nodes)
{
    uint32_t capacity[8];
    uint16_t rank_of[LAYERS * EXPERTS];

    d->slots = (coterie_slots_t){.layer_count = LAYERS,
                                 .expert_count = EXPERTS,
                                 .rank_count = ranks, .node_count = nodes};
    for (uint32_t r = 0; r < ranks; r++)
        capacity[r] = EXPERTS / ranks + 3;
    for (uint32_t i = 0; i < LAYERS * EXPERTS; i++)
        rank_of[i] = (uint16_t)(i % EXPERTS % ranks);
    cr_assert(eq(int, COTERIE_OK, coterie_slots_open(&d->slots, capacity)));
    coterie_slots_fill(&d->slots, rank_of);
    for (uint32_t i = 0; i < LAYERS * d->slots.count; i++) {
        int16_t *slots = d->slots.expert + i / d->slots.count * d->slots.count;
        int16_t any = (int16_t)coterie_search_below(&d->random, EXPERTS);
        uint32_t rank = d->slots.rank[i % d->slots.count], held = 0;
        for (uint32_t s = d->slots.first[rank]; s < d->slots.first[rank + 1];
             s++)
            held |= slots[s] == any;
        if (d->slots.expert[i] < 0 && !held &&
            coterie_search_below(&d->random, 3) > 0)
            d->slots.expert[i] = any;
    }
    for (uint32_t i = 0; i < LAYERS * EXPERTS * ranks; i++)
        d->slots.next_score[i] =
            (uint8_t)coterie_search_below(&d->random, 256);
    cr_assert(eq(int, COTERIE_OK,
                 coterie_slots_create(&d->slots, &d->placement)));
}

static drawn_t *drawn_open(uint64_t seed)
{
    static const uint32_t nodes[] = {1, 2, 4};
    drawn_t *d = calloc(1, sizeof(*d));

    d->random.random = seed;
    for (uint32_t s = 0; s <= SEQUENCES; s++)
        d->seq_start[s] = TOKENS * s / SEQUENCES;
    d->view = (coterie_trace_view_t){
        .token_count = TOKENS, .sequence_count = SEQUENCES,
        .layer_count = LAYERS, .expert_count = EXPERTS, .k = K,
        .experts = d->experts, .seq_start = d->seq_start};
    sets_draw(d);
    slots_draw(d, 4 + seed % 2 * 4, nodes[seed % 3]);
    return d;
}

static void drawn_close(drawn_t *d)
{
    coterie_placement_destroy(d->placement);
    coterie_slots_close(&d->slots);
    free(d);
}

static void copies_open(const drawn_t *d, coterie_mode_t mode, int capped,
                        coterie_copies_t *copies)
{
    uint64_t load_max[LAYERS] = {200, 200, 200};
    uint8_t owner[TOKENS];
    coterie_copies_task_t task = {
        .view = &d->view, .mode = mode, .rank_count = d->slots.rank_count,
        .node_count = d->slots.node_count, .network_cost = 3,
        .token_count = TOKENS, .seed = 1, .load = d->load,
        .load_max = capped ? load_max : NULL};

    for (uint32_t t = 0; t < TOKENS; t++)
        owner[t] = (uint8_t)(t % d->slots.rank_count);
    cr_assert(eq(int, COTERIE_OK, coterie_copies_open(copies, &task)));
    coterie_slots_holders(&d->slots, copies->holders);
    memcpy(copies->scores, d->slots.next_score,
           LAYERS * EXPERTS * d->slots.rank_count);
    copies->toll = 5;
    coterie_copies_refresh(copies, owner);
}

/* Some expert of some layer, held elsewhere as well or instead. */
static coterie_change_t change_draw(drawn_t *d, const coterie_copies_t *copies)
{
    coterie_change_t change = {
        .layer = coterie_search_below(&d->random, LAYERS)};

    for (int i = 0; i < 2; i++) {
        uint64_t bit = UINT64_C(1)
                       << coterie_search_below(&d->random, copies->rank_count);
        do
            change.expert[i] =
                (int32_t)coterie_search_below(&d->random, EXPERTS);
        while (i > 0 && change.expert[1] == change.expert[0]);
        change.holders[i] = bit;
        if (coterie_search_below(&d->random, 2) > 0)
            change.holders[i] |= copies->holders[change.layer * EXPERTS +
                                                 change.expert[i]];
    }
    if (coterie_search_below(&d->random, 3) == 0)
        change.expert[1] = -1;
    return change;
}

Test(copies, routes_as_the_routing_rule_does)
{
    for (uint64_t seed = 1; seed <= 20; seed++) {
        drawn_t *d = drawn_open(seed);
        uint64_t holders[LAYERS * EXPERTS] = {0};
        coterie_cover_t cover = {.k = K};
        uint32_t ranks = d->slots.rank_count;

        coterie_slots_holders(&d->slots, holders);
        coterie_cover_init(&cover, ranks, d->slots.node_count, 3);
        for (uint32_t i = 0; i < TOKENS * LAYERS; i++) {
            uint32_t layer = i % LAYERS;
            uint32_t owner = i % 5 == 0 ? COTERIE_NONE : i % ranks;
            const int16_t *set = d->experts + i * K;
            int32_t ids[K] = {set[0], set[1], set[2]};
            coterie_covered_t covered;
            coterie_route_t route;
            uint64_t expected = 0;
            coterie_route(d->placement, layer, ids, K, owner, &route);
            coterie_cover_route(&cover, holders + layer * EXPERTS, set, owner,
                                &covered);
            for (uint32_t j = 0; j < route.rank_count; j++)
                expected |= UINT64_C(1) << route.rank[j];
            cr_assert(eq(u64, covered.ranks, expected));
            for (uint32_t j = 0; j < K; j++)
                cr_assert(set[j] < 0 ||
                          covered.serving[j] == route.serving[j]);
            cr_assert(eq(u32, route.next_owner,
                         coterie_cover_next(&cover,
                                            d->slots.next_score +
                                                layer * EXPERTS * ranks,
                                            set, covered.ranks, owner)));
        }
        drawn_close(d);
    }
}

Test(copies, judges_a_change_as_routing_everything_anew_would)
{
    for (uint64_t seed = 1; seed <= 30; seed++) {
        coterie_mode_t mode = (coterie_mode_t)(1 + seed % 3);
        drawn_t *d = drawn_open(seed);
        uint8_t owner[TOKENS];
        coterie_copies_t copies;

        for (uint32_t t = 0; t < TOKENS; t++)
            owner[t] = (uint8_t)(t % d->slots.rank_count);
        copies_open(d, mode, seed % 2, &copies);
        for (int i = 0; i < 10; i++) {
            double before = coterie_copies_refresh(&copies, owner) +
                            copies.toll * coterie_copies_excess(&copies);
            coterie_change_t change = change_draw(d, &copies);
            double more = coterie_copies_judge(&copies, &change, INFINITY);
            coterie_copies_settle(&copies, &change, 1);
            cr_expect(epsilon_eq(
                dbl, before + more,
                coterie_copies_refresh(&copies, owner) +
                    copies.toll * coterie_copies_excess(&copies), 1e-6));
        }
        coterie_copies_close(&copies);
        drawn_close(d);
    }
}

Test(copies, forgets_a_change_that_is_not_kept)
{
    drawn_t *d = drawn_open(5);
    coterie_copies_t copies, untouched;

    copies_open(d, COTERIE_MODE_OWNER, 1, &copies);
    copies_open(d, COTERIE_MODE_OWNER, 1, &untouched);
    for (int i = 0; i < 20; i++) {
        coterie_change_t change = change_draw(d, &copies);
        coterie_copies_judge(&copies, &change, INFINITY);
        coterie_copies_settle(&copies, &change, 0);
    }
    cr_expect(zero(int, memcmp(copies.holders, untouched.holders,
                               LAYERS * EXPERTS * sizeof(uint64_t))));
    cr_expect(zero(int, memcmp(copies.ranks, untouched.ranks,
                               LAYERS * TOKENS * sizeof(uint64_t))));
    cr_expect(zero(int, memcmp(copies.load, untouched.load,
                               LAYERS * copies.rank_count * sizeof(double))));
    coterie_copies_close(&copies);
    coterie_copies_close(&untouched);
    drawn_close(d);
}

/* What coterie_measure says is held against a sum made by hand. */
Test(copies, measures_what_every_rank_serves)
{
    drawn_t *d = drawn_open(4);
    uint64_t load[LAYERS * 8], sum = 0, chosen = 0;

    coterie_measure(&d->view, d->placement, COTERIE_MODE_OWNER, load);
    for (uint32_t i = 0; i < LAYERS * d->slots.rank_count; i++)
        sum += load[i];
    for (uint32_t i = 0; i < LAYERS * EXPERTS; i++)
        chosen += d->load[i];
    cr_expect(eq(u64, sum, chosen));
    drawn_close(d);
}
