#include "config.h"

#include <stdlib.h>
#include <string.h>

#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include <coterie/placement.h>

#include "placement/placement.h"
#include "tests/draw.h"

/* Two ranks of two slots, three experts: expert 1 has a replica. */
static const int16_t replica_slots[] = {0, 1, 2, 1};

static coterie_placement_options_t replica_options(void)
{
    coterie_placement_options_t options = COTERIE_PLACEMENT_OPTIONS_INIT;

    options.layer_count = 1;
    options.expert_count = 3;
    options.rank_count = 2;
    options.slot_count = 4;
    options.slot_expert = replica_slots;
    return options;
}

static coterie_placement_t *make(const coterie_placement_options_t *options)
{
    coterie_placement_t *placement = NULL;
    coterie_status_t status = coterie_placement_create(options, &placement);

    cr_assert(eq(int, status, COTERIE_OK), "%s", coterie_last_error());
    return placement;
}

static void expect_refused(const coterie_placement_options_t *options,
                           const char *part)
{
    coterie_placement_t *placement = NULL;

    cr_expect(eq(int, COTERIE_ERR_INVALID,
                 coterie_placement_create(options, &placement)));
    cr_expect(zero(ptr, placement)); /* untouched on failure */
    cr_expect(ne(ptr, strstr(coterie_last_error(), part), NULL), "%s",
              coterie_last_error());
}

Test(placement, gives_lower_ranks_the_longer_shares_by_default)
{
    coterie_placement_options_t options = COTERIE_PLACEMENT_OPTIONS_INIT, view;
    const uint16_t expected[] = {0, 0, 1, 1, 2};
    coterie_placement_t *placement;

    options.layer_count = 2;
    options.expert_count = 5;
    options.rank_count = 3;
    placement = make(&options);
    coterie_placement_view(placement, &view);
    cr_expect(eq(u32, view.slot_count, 5));
    cr_expect(eq(u32, view.node_count, 1));
    cr_expect(zero(memcmp(view.slot_rank, expected, sizeof(expected))));
    for (int i = 0; i < 10; i++)
        cr_expect(eq(i16, view.slot_expert[i], (int16_t)(i % 5)));
    for (int i = 0; i < 2 * 5 * 3; i++)
        cr_expect(zero(u8, view.next_score[i]));
    coterie_placement_destroy(placement);
}

Test(placement, leaves_ranks_without_experts_where_experts_are_fewer)
{
    coterie_placement_options_t options = COTERIE_PLACEMENT_OPTIONS_INIT, view;
    coterie_placement_t *placement;

    options.layer_count = options.expert_count = 1;
    options.rank_count = 4;
    placement = make(&options);
    coterie_placement_view(placement, &view);
    cr_expect(eq(u32, view.slot_count, 1));
    cr_expect(zero(u16, view.slot_rank[0]));
    coterie_placement_destroy(placement);
}

Test(placement, copies_what_the_caller_gave)
{
    uint8_t scores[6] = {1, 2, 3, 4, 5, 6};
    int16_t slots[4];
    coterie_placement_options_t options = replica_options(), view;
    coterie_placement_t *placement;

    memcpy(slots, replica_slots, sizeof(slots));
    options.slot_expert = slots;
    options.next_score = scores;
    placement = make(&options);
    memset(slots, 0, sizeof(slots));
    memset(scores, 0, sizeof(scores));
    coterie_placement_view(placement, &view);
    cr_expect(
        zero(memcmp(view.slot_expert, replica_slots, sizeof(replica_slots))));
    cr_expect(eq(u8, view.next_score[5], 6));
    coterie_placement_destroy(placement);
}

Test(placement, lists_the_holders_of_each_expert)
{
    coterie_placement_options_t options = replica_options();
    coterie_placement_t *placement = make(&options);
    coterie_holders_t holders = coterie_placement_holders(placement, 0, 1);

    cr_expect(eq(u32, holders.count, 2));
    cr_expect(eq(u16, holders.slot[0], 1));
    cr_expect(eq(u16, holders.slot[1], 3));
    cr_expect(eq(u16, holders.rank[1], 1));
    cr_expect(eq(u32, coterie_placement_holders(placement, 0, 2).count, 1));
    coterie_placement_destroy(placement);
}

Test(placement, refuses_counts_that_cannot_be)
{
    coterie_placement_options_t options = replica_options();

    options.rank_count = 4097;
    expect_refused(&options, "rank_count is 4097");
    options.rank_count = 0;
    expect_refused(&options, "rank_count is 0");
    options = replica_options();
    options.layer_count = 0;
    expect_refused(&options, "layer_count");
    options = replica_options();
    options.node_count = 3;
    expect_refused(&options, "3 nodes do not divide 2 ranks");
    options = replica_options();
    options.slot_count = 2;
    expect_refused(&options, "2 slots cannot hold 3 experts");
    options = replica_options();
    options.slot_expert = NULL;
    expect_refused(&options, "who gets a replica");
    options = replica_options();
    options.reserved = 1;
    expect_refused(&options, "reserved");
}

Test(placement, refuses_slots_that_break_a_rule_and_says_where)
{
    coterie_placement_options_t options = replica_options();
    const int16_t missing[] = {0, 1, 1, -1}, beyond[] = {0, 1, 2, 3};
    const int16_t twice[] = {0, 1, 2, 2}, below[] = {0, 1, 2, -2};
    const uint16_t falling[] = {0, 1, 0, 1}, outside[] = {0, 0, 1, 2};

    options.slot_expert = missing;
    expect_refused(&options, "layer 0: expert 2 has no slot");
    options.slot_expert = beyond;
    expect_refused(&options, "layer 0, slot 3: expert 3");
    options.slot_expert = below;
    expect_refused(&options, "layer 0, slot 3: expert -2");
    options.slot_expert = twice;
    expect_refused(&options,
                   "layer 0, slots 2 and 3: expert 2 twice on rank 1");
    options = replica_options();
    options.slot_rank = falling;
    expect_refused(&options, "slot 2 is on rank 0, after rank 1");
    options.slot_rank = outside;
    expect_refused(&options, "slot 3 is on rank 2");
}

Test(placement, refuses_an_option_from_the_future)
{
    struct {
        coterie_placement_options_t known;
        uint64_t unknown;
    } newer = {replica_options(), 1};
    coterie_placement_t *placement = NULL;

    newer.known.size = sizeof(newer);
    cr_expect(eq(int, COTERIE_ERR_UNSUPPORTED,
                 coterie_placement_create(&newer.known, &placement)));
    cr_expect(zero(ptr, placement));
}

Test(placement, for_another_model_is_told_apart)
{
    coterie_placement_options_t options = replica_options();
    coterie_placement_t *placement = make(&options);

    cr_expect(eq(int, COTERIE_OK, coterie_placement_check(placement, 1, 3, 2)));
    cr_expect(eq(int, COTERIE_ERR_MISMATCH,
                 coterie_placement_check(placement, 2, 3, 2)));
    cr_expect(eq(int, COTERIE_ERR_MISMATCH,
                 coterie_placement_check(placement, 1, 4, 2)));
    cr_expect(eq(int, COTERIE_ERR_MISMATCH,
                 coterie_placement_check(placement, 1, 3, 8)));
    cr_expect(eq(str, (char *)coterie_last_error(),
                 "the placement is for 2 ranks; here are 8"));
    coterie_placement_destroy(placement);
}

Test(placement, without_a_rank_keeps_the_others_and_spreads_its_experts)
{
    static const uint8_t active[] = {1, 0, 1};
    static const uint16_t ranks[] = {0, 0, 0, 2, 2, 2};
    static const int16_t experts[] = {0, 1, 2, 4, 5, 3, 0, 1, 2, 4, 5, 3};
    coterie_placement_options_t options = COTERIE_PLACEMENT_OPTIONS_INIT, view;
    coterie_placement_t *whole, *left = NULL;

    options.layer_count = 2;
    options.expert_count = 6;
    options.rank_count = 3;
    whole = make(&options);
    cr_assert(eq(int, COTERIE_OK,
                 coterie_placement_without(whole, active, &left)));
    coterie_placement_view(left, &view);
    cr_assert(eq(u32, view.slot_count, 6));
    cr_expect(zero(int, memcmp(view.slot_rank, ranks, sizeof(ranks))));
    cr_expect(zero(int, memcmp(view.slot_expert, experts, sizeof(experts))));
    coterie_placement_destroy(left);
    coterie_placement_destroy(whole);
}

Test(placement, without_any_rank_is_refused)
{
    static const uint8_t active[] = {0, 0};
    const coterie_placement_options_t options = replica_options();
    coterie_placement_t *whole = make(&options), *left = NULL;

    cr_expect(eq(int, COTERIE_ERR_INVALID,
                 coterie_placement_without(whole, active, &left)));
    cr_expect(zero(ptr, left));
    coterie_placement_destroy(whole);
}

Test(placement, destroy_accepts_null)
{
    coterie_placement_destroy(NULL);
}

Test(route, serves_the_owner_first_even_if_another_rank_holds_more)
{
    /* Rank 0 holds 0 and 1, rank 1 holds 2 and 1. */
    coterie_placement_options_t options = replica_options();
    coterie_placement_t *placement = make(&options);
    const int32_t experts[] = {1, 2};
    coterie_route_t route;

    coterie_route(placement, 0, experts, 2, 0, &route);
    cr_expect(eq(u16, route.rank_count, 2));
    cr_expect(eq(u16, route.serving[0], 0));
    cr_expect(eq(u16, route.slot[0], 1));
    cr_expect(eq(u16, route.serving[1], 1));
    cr_expect(eq(u16, route.slot[1], 2));
    coterie_route(placement, 0, experts, 2, COTERIE_NONE, &route);
    cr_expect(eq(u16, route.rank_count, 1));
    cr_expect(eq(u16, route.serving[0], 1));
    cr_expect(eq(u16, route.slot[0], 3));
    cr_expect(eq(u16, route.next_owner, 1));
    coterie_placement_destroy(placement);
}

Test(route, of_no_experts_stays_with_the_owner)
{
    coterie_placement_options_t options = replica_options();
    coterie_placement_t *placement = make(&options);
    const int32_t experts[] = {-1, -1};
    coterie_route_t route;

    coterie_route(placement, 0, experts, 2, 1, &route);
    cr_expect(zero(u16, route.rank_count));
    cr_expect(eq(u16, route.next_owner, 1));
    cr_expect(eq(u16, route.serving[1], COTERIE_NONE));
    cr_expect(eq(u16, route.slot[1], COTERIE_NONE));
    coterie_route(placement, 0, experts, 2, COTERIE_NONE, &route);
    cr_expect(eq(u16, route.next_owner, COTERIE_NONE));
    coterie_placement_destroy(placement);
}

/* The rule once more, slowly and by other means: a table of who holds what. */
enum { EXPERTS = 24, RANKS = 8, SLOTS = 40 };

typedef struct random_case {
    coterie_placement_options_t options;
    uint16_t slot_rank[SLOTS];
    int16_t slot_expert[2 * SLOTS];
    uint8_t next_score[2 * EXPERTS * RANKS];
} random_case_t;

static int slot_of(const random_case_t *c, int layer, int expert, int rank)
{
    for (int s = 0; s < SLOTS; s++)
        if (c->slot_rank[s] == rank &&
            c->slot_expert[layer * SLOTS + s] == expert)
            return s;
    return -1;
}

static void random_case_fill(random_case_t *c)
{
    const uint32_t nodes[] = {1, 2, 4, 8};

    c->options = (coterie_placement_options_t)COTERIE_PLACEMENT_OPTIONS_INIT;
    c->options.layer_count = 2;
    c->options.expert_count = EXPERTS;
    c->options.rank_count = RANKS;
    c->options.node_count = nodes[draw(4)];
    c->options.slot_count = SLOTS;
    c->options.slot_rank = c->slot_rank;
    c->options.slot_expert = c->slot_expert;
    c->options.next_score = c->next_score;
    for (int s = 0; s < SLOTS; s++)
        c->slot_rank[s] = (uint16_t)(s * RANKS / SLOTS);
    for (int l = 0; l < 2; l++) {
        int16_t *slots = c->slot_expert + l * SLOTS;
        for (int s = 0; s < SLOTS; s++)
            slots[s] = -1;
        for (int e = 0; e < EXPERTS; e++) {
            uint32_t at = draw(SLOTS);
            while (slots[at] != -1)
                at = (at + 1) % SLOTS;
            slots[at] = (int16_t)e;
        }
        for (int s = 0; s < SLOTS; s++) {
            int expert = (int)draw(EXPERTS);
            if (slots[s] == -1 && draw(4) > 0 &&
                slot_of(c, l, expert, c->slot_rank[s]) < 0)
                slots[s] = (int16_t)expert;
        }
    }
    for (size_t i = 0; i < sizeof(c->next_score); i++)
        c->next_score[i] = (uint8_t)draw(3); /* few values: many ties */
}

static int same_node(const random_case_t *c, int rank, uint32_t owner)
{
    int size = RANKS / (int)c->options.node_count;

    return owner != COTERIE_NONE && rank / size == (int)owner / size;
}

/* One greedy choice: the rank with the largest (count, in the owner's node),
 * lowest first. */
static int slow_best(const random_case_t *c, int layer, const int32_t *left,
                     uint32_t k, uint32_t owner)
{
    int best = -1, best_count = 0, best_near = 0;

    for (int r = 0; r < RANKS; r++) {
        int count = 0, near = same_node(c, r, owner);
        for (uint32_t i = 0; i < k; i++)
            count += left[i] >= 0 && slot_of(c, layer, left[i], r) >= 0;
        if (count > best_count ||
            (count == best_count && count > 0 && near && !best_near)) {
            best = r;
            best_count = count;
            best_near = near;
        }
    }
    return best;
}

static int slow_score(const random_case_t *c, int layer, const int32_t *experts,
                      uint32_t k, int rank)
{
    int score = 0;

    for (uint32_t i = 0; i < k; i++)
        if (experts[i] >= 0)
            score +=
                c->next_score[(layer * EXPERTS + experts[i]) * RANKS + rank];
    return score;
}

/* Stable insertion by preference: every later rank must be strictly better. */
static uint32_t slow_next_owner(const random_case_t *c, int layer,
                                const int32_t *experts, uint32_t k,
                                const coterie_route_t *route, uint32_t owner)
{
    uint32_t best = owner;
    int best_score = -1, best_is = 0, best_near = 0;

    for (int i = 0; i < route->rank_count; i++) {
        int rank = route->rank[i];
        int score = slow_score(c, layer, experts, k, rank);
        int is = (uint32_t)rank == owner, near = same_node(c, rank, owner);
        int better = score != best_score ? score > best_score
                     : is != best_is     ? is
                                         : near > best_near;
        if (better) {
            best = (uint32_t)rank;
            best_score = score;
            best_is = is;
            best_near = near;
        }
    }
    return best;
}

static void slow_route(const random_case_t *c, int layer,
                       const int32_t *experts, uint32_t k, uint32_t owner,
                       coterie_route_t *route)
{
    int32_t left[COTERIE_K_MAX];
    int used[RANKS] = {0};
    int rank = owner == COTERIE_NONE ? -1 : (int)owner;

    memcpy(left, experts, k * sizeof(*left));
    memset(route->serving, 0xff, sizeof(route->serving));
    memset(route->slot, 0xff, sizeof(route->slot));
    if (rank < 0)
        rank = slow_best(c, layer, left, k, owner);
    while (rank >= 0) {
        for (uint32_t i = 0; i < k; i++) {
            int slot = left[i] < 0 ? -1 : slot_of(c, layer, left[i], rank);
            if (slot < 0)
                continue;
            route->serving[i] = (uint16_t)rank;
            route->slot[i] = (uint16_t)slot;
            left[i] = -1;
            used[rank] = 1;
        }
        rank = slow_best(c, layer, left, k, owner);
    }
    route->rank_count = 0;
    for (int r = 0; r < RANKS; r++)
        if (used[r])
            route->rank[route->rank_count++] = (uint16_t)r;
    route->next_owner =
        (uint16_t)slow_next_owner(c, layer, experts, k, route, owner);
}

static int routes_equal(const coterie_route_t *a, const coterie_route_t *b,
                        uint32_t k)
{
    return a->rank_count == b->rank_count && a->next_owner == b->next_owner &&
           memcmp(a->rank, b->rank, a->rank_count * sizeof(*a->rank)) == 0 &&
           memcmp(a->serving, b->serving, k * sizeof(*a->serving)) == 0 &&
           memcmp(a->slot, b->slot, k * sizeof(*a->slot)) == 0;
}

Test(route, agrees_with_a_slow_formulation_on_random_placements)
{
    random_case_t c;
    int differ = 0;

    for (int round = 0; round < 2000; round++) {
        coterie_placement_t *placement;
        random_case_fill(&c);
        placement = make(&c.options);
        for (int token = 0; token < 10; token++) {
            int32_t experts[COTERIE_K_MAX];
            uint32_t k = 1 + draw(COTERIE_K_MAX), layer = draw(2);
            uint32_t owner = draw(5) == 0 ? COTERIE_NONE : draw(RANKS);
            coterie_route_t fast, slow;
            for (uint32_t i = 0; i < k; i++) /* ids may even repeat */
                experts[i] = (int32_t)draw(EXPERTS + 1) - 1;
            coterie_route(placement, layer, experts, k, owner, &fast);
            slow_route(&c, (int)layer, experts, k, owner, &slow);
            differ += !routes_equal(&fast, &slow, k);
        }
        coterie_placement_destroy(placement);
    }
    cr_expect(zero(int, differ));
}
