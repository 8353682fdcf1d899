/* Forward on a device: random placements, rows and predictions, right and wrong
 * ones, and every row's result, holders and copies against the rule. */
#include "config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/draw.h"
#include "tests/gpu_checks.h"
#include "tests/gpu_ranks.h"

enum { STEPS = 3 };

/* What the placement's active ranks hold, as base/route.h has it. */
typedef struct tables {
    coterie_route_tables_t t;
    uint32_t *first;
    uint16_t *slot, *rank;
} tables_t;

static plan_t plan_draw(uint32_t predicted_k);
static bool steps_hold(coterie_device_t *device, const plan_t *plan);
static bool step_holds(ranks_t *r, uint32_t lost);
static void step_begin(ranks_t *r, rows_t *all);
static void rows_choose(ranks_t *r, uint32_t layer, rows_t *all);
static void rows_share(ranks_t *r, const rows_t *all);
static tables_t tables_make(const ranks_t *r);
static void tables_free(tables_t *tables);
static void layer_expect(ranks_t *r, uint32_t layer, const rows_t *all,
                         rows_t *want);
static uint32_t set_of(const tables_t *tables, uint32_t layer,
                       const int32_t *ids, uint32_t k);
static uint32_t lowest(uint32_t set);
static bool layer_holds(ranks_t *r, uint32_t layer, const rows_t *want);
static bool row_holds(const ranks_t *r, const rows_t *got, uint32_t at,
                      const rows_t *want, uint32_t i, bool seen);
static bool copies_hold(ranks_t *r);

bool forwards_to_all_ranks(coterie_device_t *device)
{
    bool held = true;

    for (int trial = 0; held && trial < 4; trial++) {
        const plan_t plan = plan_draw(0);
        held = steps_hold(device, &plan);
    }
    return held;
}

bool forwards_to_predicted_ranks(coterie_device_t *device)
{
    bool held = true;

    for (int trial = 0; held && trial < 6; trial++) {
        const plan_t plan = plan_draw(1 + draw(4));
        held = steps_hold(device, &plan);
    }
    return held;
}

bool forwards_where_no_window_is_in_reach(coterie_device_t *device)
{
    bool held = true;

    for (uint32_t k = 0; held && k < 2; k++) {
        plan_t plan = plan_draw(k);
        plan.distant = true;
        held = steps_hold(device, &plan);
    }
    return held;
}

bool forwards_without_a_rank(coterie_device_t *device)
{
    bool held = true;

    for (uint32_t k = 0; held && k < 2; k++) {
        plan_t plan = plan_draw(2 * k);
        ranks_t *r;

        plan.ranks = 4;
        plan.nodes = 2;
        plan.experts = 12;
        plan.spare = 3;
        plan.k = 3;
        r = ranks_open(device, &plan);
        held = step_holds(r, COTERIE_NONE) && step_holds(r, k);
        ranks_close(r);
    }
    return held;
}

/* Two ranks have another name for a row. */
bool says_that_ranks_differ_about_a_row(coterie_device_t *device)
{
    plan_t plan = plan_draw(0);
    bool held = true;
    rows_t all;
    ranks_t *r;

    plan.ranks = 2;
    plan.nodes = 1;
    plan.experts = 2;
    plan.spare = 0;
    plan.k = 2;
    r = ranks_open(device, &plan);
    all = rows_new(&plan);
    rows_begin(r);
    step_begin(r, &all);
    for (uint32_t j = 0; j < 2; j++)
        all.ids[j] = (int32_t)j;
    rows_share(r, &all);
    r->rows[1].key[0]++;
    rows_upload(r);
    must(layer_queue(r, 0, 2));
    for (uint32_t rank = 0; rank < 2; rank++)
        held = held && coterie_dispatcher_check(r->dispatcher, rank, NULL) ==
                           COTERIE_ERR_MISMATCH;
    rows_free(&all);
    ranks_close(r);
    return held;
}

static plan_t plan_draw(uint32_t predicted_k)
{
    plan_t p = {.ranks = 1 + draw(RANKS_MAX),
                .nodes = 1,
                .hidden = 16 * (1 + draw(8)),
                .rows = 1 + draw(9),
                .mode = COTERIE_MODE_FORWARD,
                .wire = draw(2) ? COTERIE_WIRE_BF16 : COTERIE_WIRE_F32,
                .element = draw(3) ? COTERIE_WIRE_F32 : COTERIE_WIRE_BF16,
                .predicted_k = predicted_k};

    if (p.ranks % 2 == 0)
        p.nodes = 2;
    p.experts = p.ranks * (1 + draw(6));
    p.spare = p.ranks > 1 ? draw(p.experts / p.ranks + 1) : 0;
    p.k = 1 + draw(p.experts < 8 ? p.experts : 8);
    p.max_rows = p.rows;
    return p;
}

static bool steps_hold(coterie_device_t *device, const plan_t *plan)
{
    ranks_t *r = ranks_open(device, plan);
    bool held = true;

    for (int step = 0; held && step < STEPS; step++)
        held = step_holds(r, COTERIE_NONE);
    if (!held)
        fprintf(stderr,
                "forward: %u ranks, %u nodes, %u experts, %u spare, top-%u, "
                "%u predicted, hidden %u, wire %u, element %u%s\n",
                plan->ranks, plan->nodes, plan->experts, plan->spare, plan->k,
                plan->predicted_k, plan->hidden, plan->wire, plan->element,
                plan->distant ? ", distant" : "");
    ranks_close(r);
    return held;
}

/* Every rank begins with all rows, and ends with them. */
static bool step_holds(ranks_t *r, uint32_t lost)
{
    rows_t all = rows_new(&r->plan);
    bool held = true;

    if (lost != COTERIE_NONE) {
        r->active[lost] = 0;
        must(coterie_dispatcher_set_active(r->dispatcher, r->active));
    }
    for (uint32_t rank = 0; rank < r->plan.ranks; rank++)
        rows_free(&r->rows[rank]);
    rows_begin(r);
    step_begin(r, &all);
    for (uint32_t l = 0; held && l < LAYERS; l++) {
        rows_t want = rows_new(&r->plan);

        rows_choose(r, l, &all);
        rows_share(r, &all);
        layer_expect(r, l, &all, &want);
        held = layer_holds(r, l, &want);
        memcpy(want.predicted, all.predicted,
               all.count * r->plan.predicted_k * sizeof(*all.predicted));
        rows_free(&all);
        all = want;
    }
    held = held && copies_hold(r);
    rows_free(&all);
    return held;
}

static void step_begin(ranks_t *r, rows_t *all)
{
    const plan_t *p = &r->plan;

    all->count = p->rows;
    for (uint32_t i = 0; i < all->count; i++) {
        all->key[i] = 1000 + 7 * (uint64_t)i;
        all->seat[i] = i;
        all->holders[i] = COTERIE_GPU_SET_ALL;
    }
    for (size_t i = 0; i < (size_t)all->count * p->hidden; i++)
        all->hidden[i] = rounded(fraction(), p->element);
}

/* Some rows predict as they will choose, which only the next call draws: so
 * those choose what they predicted. */
static void rows_choose(ranks_t *r, uint32_t layer, rows_t *all)
{
    const plan_t *p = &r->plan;
    const uint32_t ahead = p->predicted_k < p->k ? p->predicted_k : p->k;

    for (uint32_t i = 0; i < all->count * p->k; i++) {
        const uint32_t row = i / p->k, j = i % p->k;

        all->ids[i] = draw(9) == 0 ? -1 : (int32_t)draw(p->experts);
        if (layer > 0 && row % 2 == 0 && ahead > 0)
            all->ids[i] = all->predicted[row * p->predicted_k + j % ahead];
        all->weights[i] = fraction();
    }
    for (uint32_t i = 0; i < all->count * p->predicted_k; i++)
        all->predicted[i] = draw(9) == 0 ? -1 : (int32_t)draw(p->experts);
    coterie_rms_norm(all->count, p->hidden, 1e-5f, all->hidden,
                     r->norm + layer * p->hidden, all->normed);
}

static void rows_share(ranks_t *r, const rows_t *all)
{
    const plan_t *p = &r->plan;
    const size_t values = p->hidden * sizeof(float);

    for (uint32_t rank = 0; rank < p->ranks; rank++) {
        rows_t *to = &r->rows[rank];

        to->count = 0;
        for (uint32_t i = 0; r->active[rank] && i < all->count; i++) {
            const uint32_t at = to->count;

            if (!coterie_gpu_set_has(all->holders[i], rank))
                continue;
            to->count++;
            to->key[at] = all->key[i];
            to->seat[at] = all->seat[i];
            to->holders[at] = all->holders[i];
            memcpy(to->hidden + at * p->hidden, all->hidden + i * p->hidden,
                   values);
            memcpy(to->normed + at * p->hidden, all->normed + i * p->hidden,
                   values);
            memcpy(to->ids + at * p->k, all->ids + i * p->k, p->k * 4);
            memcpy(to->weights + at * p->k, all->weights + i * p->k, p->k * 4);
            memcpy(to->predicted + at * p->predicted_k,
                   all->predicted + i * p->predicted_k, p->predicted_k * 4);
        }
    }
}

static tables_t tables_make(const ranks_t *r)
{
    coterie_placement_options_t p;
    tables_t tables = {.first = NULL};
    uint32_t end = 0;

    coterie_placement_view(r->placement, &p);
    tables.first = calloc(LAYERS * p.expert_count + 1, sizeof(uint32_t));
    tables.slot = calloc(LAYERS * p.slot_count, sizeof(uint16_t));
    tables.rank = calloc(LAYERS * p.slot_count, sizeof(uint16_t));
    for (uint32_t i = 0; i < LAYERS * p.expert_count; i++) {
        const int16_t *held =
            p.slot_expert + i / p.expert_count * p.slot_count;

        for (uint32_t s = 0; s < p.slot_count; s++)
            if (held[s] == (int32_t)(i % p.expert_count) &&
                r->active[p.slot_rank[s]]) {
                tables.slot[end] = (uint16_t)s;
                tables.rank[end++] = p.slot_rank[s];
            }
        tables.first[i + 1] = end;
    }
    tables.t = (coterie_route_tables_t){
        p.expert_count, p.rank_count, p.rank_count / p.node_count,
        tables.first,   tables.slot,  tables.rank,
        p.next_score};
    return tables;
}

static void tables_free(tables_t *tables)
{
    free(tables->first);
    free(tables->slot);
    free(tables->rank);
}

static void layer_expect(ranks_t *r, uint32_t layer, const rows_t *all,
                         rows_t *want)
{
    const plan_t *p = &r->plan;
    tables_t tables = tables_make(r);
    uint32_t everyone = 0;

    for (uint32_t rank = 0; rank < p->ranks; rank++)
        everyone |= (uint32_t)(r->active[rank] != 0) << rank;
    for (uint32_t i = 0; i < all->count; i++) {
        const uint32_t held = all->holders[i] & everyone;
        const uint32_t d = set_of(&tables, layer, all->ids + i * p->k, p->k);
        const uint32_t carrier = lowest((d & held) != 0 ? d & held : held);
        const uint32_t senders = d | 1u << carrier;
        uint32_t next = COTERIE_GPU_SET_ALL;

        if (p->predicted_k > 0 && layer + 1 < LAYERS) {
            next = set_of(&tables, layer + 1,
                          all->predicted + i * p->predicted_k,
                          p->predicted_k);
            next = next != 0 ? next : 1u << carrier;
        }
        r->dropped += row_expect(r, layer, all, i, want);
        want->seat[i] = all->seat[i];
        want->holders[i] = next;
        r->copies_fixup += (uint32_t)__builtin_popcount(d & ~held);
        for (uint32_t rank = 0; rank < p->ranks; rank++)
            if (senders >> rank & 1)
                r->copies_forward += (uint32_t)__builtin_popcount(
                    next & everyone & ~(1u << rank));
    }
    tables_free(&tables);
}

/* D, among those that are active. */
static uint32_t set_of(const tables_t *tables, uint32_t layer,
                       const int32_t *ids, uint32_t k)
{
    coterie_route_t route;
    uint32_t set = 0;

    coterie_route_by(&tables->t, layer, ids, k, COTERIE_NONE, &route);
    for (uint32_t i = 0; i < route.rank_count; i++)
        set |= 1u << route.rank[i];
    return set;
}

static uint32_t lowest(uint32_t set)
{
    return (uint32_t)__builtin_ctz(set);
}

/* A row has the same bits at every rank. They go on as they came. */
static bool layer_holds(ranks_t *r, uint32_t layer, const rows_t *want)
{
    const size_t size = r->plan.hidden * sizeof(float);
    bool held = true, seen[ROWS_MAX] = {false};

    rows_upload(r);
    must(layer_queue(r, layer, r->plan.ranks));
    for (uint32_t rank = 0; held && rank < r->plan.ranks; rank++) {
        rows_t got = rows_download(r, rank);
        uint32_t at = 0;

        for (uint32_t i = 0; r->active[rank] && i < want->count; i++) {
            if (!coterie_gpu_set_has(want->holders[i], rank))
                continue;
            held = held && row_holds(r, &got, at, want, i, seen[i]);
            memcpy(want->hidden + i * r->plan.hidden,
                   got.hidden + at * r->plan.hidden, size);
            seen[i] = true;
            at++;
        }
        held = held && (!r->active[rank] || at == got.count);
        rows_free(&got);
    }
    return held;
}

static bool row_holds(const ranks_t *r, const rows_t *got, uint32_t at,
                      const rows_t *want, uint32_t i, bool seen)
{
    const uint32_t hidden = r->plan.hidden;
    const float *row = got->hidden + at * hidden;
    const float *right = want->hidden + i * hidden;

    return at < got->count && got->key[at] == want->key[i] &&
           got->seat[at] == want->seat[i] &&
           got->holders[at] == want->holders[i] &&
           (seen ? same("a row elsewhere", row, right, hidden * sizeof(*row))
                 : near("rows", row, right, hidden, 2e-2f));
}

static bool copies_hold(ranks_t *r)
{
    const plan_t *p = &r->plan;
    const uint64_t row = p->hidden * (p->wire == COTERIE_WIRE_BF16 ? 2 : 4);
    coterie_device_counts_t all = {0}, one;

    for (uint32_t rank = 0; rank < p->ranks; rank++) {
        must(coterie_dispatcher_check(r->dispatcher, rank, &one));
        all.copies_forward += one.copies_forward;
        all.copies_fixup += one.copies_fixup;
        all.payload_bytes += one.payload_bytes;
        all.wire_bytes += one.wire_bytes;
        all.dropped += one.dropped;
    }
    if (all.copies_forward == r->copies_forward &&
        all.copies_fixup == r->copies_fixup && all.dropped == r->dropped &&
        all.payload_bytes ==
            row * (all.copies_forward + all.copies_fixup) &&
        all.wire_bytes >= all.payload_bytes)
        return true;
    fprintf(stderr, "forward: %llu and %llu copies, not %llu and %llu\n",
            (unsigned long long)all.copies_forward,
            (unsigned long long)all.copies_fixup,
            (unsigned long long)r->copies_forward,
            (unsigned long long)r->copies_fixup);
    return false;
}
