/* Dispatch on a device: random placements and rows, and every row's result
 * against the processor's. */
#include "config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/draw.h"
#include "tests/gpu_checks.h"
#include "tests/gpu_ranks.h"

static plan_t plan_draw(int trial);
static void rows_choose(ranks_t *r, uint32_t layer);
static bool layer_holds(ranks_t *r, uint32_t layer);
static void layer_expect(ranks_t *r, uint32_t layer, uint32_t times,
                         rows_t want[RANKS_MAX]);
static bool counts_hold(ranks_t *r);

static bool layers_hold(coterie_device_t *device, const plan_t *plan)
{
    ranks_t *r = ranks_open(device, plan);
    bool held = true;

    rows_begin(r);
    for (uint32_t l = 0; held && l < LAYERS; l++)
        held = layer_holds(r, l);
    held = held && counts_hold(r);
    if (!held)
        fprintf(stderr,
                "%u ranks, %u nodes, %u experts, %u spare, top-%u, hidden %u, "
                "mode %u, wire %u, element %u%s%s\n",
                plan->ranks, plan->nodes, plan->experts, plan->spare, plan->k,
                plan->hidden, plan->mode, plan->wire, plan->element,
                plan->skewed ? ", skewed" : "",
                plan->distant ? ", distant" : "");
    ranks_close(r);
    return held;
}

bool dispatches_as_the_rule_says(coterie_device_t *device)
{
    bool held = true;

    for (int trial = 0; held && trial < 8; trial++) {
        const plan_t plan = plan_draw(trial);
        held = layers_hold(device, &plan);
    }
    return held;
}

bool dispatches_among_many_experts(coterie_device_t *device)
{
    plan_t plan = plan_draw(0);

    plan.ranks = 2;
    plan.nodes = 1;
    plan.experts = 1024;
    plan.k = COTERIE_K_MAX;
    plan.spare = 3;
    return layers_hold(device, &plan);
}

bool dispatches_where_no_window_is_in_reach(coterie_device_t *device)
{
    bool held = true;

    for (int trial = 0; held && trial < 2; trial++) {
        plan_t plan = plan_draw(trial);
        plan.distant = true;
        held = layers_hold(device, &plan);
    }
    return held;
}

/* All go to one rank, which has room for one, from each or from all. */
static bool overflow_is_said(coterie_device_t *device, uint32_t capacity,
                             uint32_t arrivals)
{
    plan_t plan = plan_draw(0);
    coterie_device_counts_t counts;
    bool held = false;
    ranks_t *r;

    plan.ranks = 3;
    plan.nodes = 1;
    plan.skewed = true;
    plan.rows = plan.max_rows = 6;
    plan.capacity = capacity;
    plan.arrivals = arrivals;
    r = ranks_open(device, &plan);
    rows_begin(r);
    rows_choose(r, 0);
    rows_upload(r);
    must(layer_queue(r, 0, plan.ranks));
    for (uint32_t rank = 0; rank < plan.ranks; rank++)
        held |= coterie_dispatcher_check(r->dispatcher, rank, &counts) ==
                    COTERIE_ERR_CAPACITY &&
                counts.overflows > 0;
    ranks_close(r);
    return held;
}

bool says_that_rows_were_too_many(coterie_device_t *device)
{
    return overflow_is_said(device, 1, 0) && overflow_is_said(device, 0, 1);
}

/* The last rank makes no call: the host knows, or else the device. */
bool names_the_rank_that_does_not_answer(coterie_device_t *device)
{
    plan_t plan = plan_draw(0);
    bool held = true;
    ranks_t *r;

    plan.ranks = 3;
    plan.nodes = 1;
    plan.apart = true;
    plan.deadline_ms = 1;
    r = ranks_open(device, &plan);
    rows_begin(r);
    rows_choose(r, 0);
    rows_upload(r);
    must(layer_queue(r, 0, 2));
    for (uint32_t rank = 0; rank < 2; rank++)
        held = held &&
               coterie_dispatcher_check(r->dispatcher, rank, NULL) ==
                   COTERIE_ERR_TIMEOUT &&
               strstr(coterie_last_error(), "rank 2 did not") != NULL;
    r->plan.apart = false;
    held = held && layer_queue(r, 0, 2) == COTERIE_ERR_TIMEOUT &&
           strstr(coterie_last_error(), "rank 2 has not") != NULL;
    ranks_close(r);
    return held;
}

/* A layer is captured, and then has the results that it has when it is queued,
 * as often as it is replayed. */
bool replays_a_layer_from_a_graph(coterie_device_t *device)
{
    const plan_t plan = plan_draw(0);
    ranks_t *r = ranks_open(device, &plan);
    rows_t want[RANKS_MAX];
    void *graph = NULL;
    bool held = true;

    rows_begin(r);
    rows_choose(r, 0);
    rows_upload(r);
    must(layer_queue(r, 0, plan.ranks));
    for (uint32_t rank = 0; rank < plan.ranks; rank++)
        want[rank] = rows_download(r, rank);
    must(device->ops->capture_begin(device));
    must(layer_queue(r, 0, plan.ranks));
    must(device->ops->capture_end(device, &graph));
    for (int time = 0; time < 2; time++) {
        for (uint32_t rank = 0; rank < plan.ranks; rank++)
            must(device->ops->fill(device, COTERIE_STREAM_COMPUTE,
                                   r->out[rank].hidden, POISON,
                                   plan.max_rows * plan.hidden * 2));
        must(device->ops->replay(device, graph));
        for (uint32_t rank = 0; rank < plan.ranks; rank++) {
            rows_t got = rows_download(r, rank);
            held = held && got.count == want[rank].count &&
                   same("a replay", got.hidden, want[rank].hidden,
                        got.count * plan.hidden * sizeof(*got.hidden));
            rows_free(&got);
        }
    }
    for (uint32_t rank = 0; rank < plan.ranks; rank++)
        rows_free(&want[rank]);
    device->ops->graph_release(device, graph);
    ranks_close(r);
    return held;
}

bool goes_on_without_a_rank(coterie_device_t *device)
{
    bool held = true;

    for (int trial = 0; held && trial < 2; trial++) {
        plan_t plan = plan_draw(0);
        ranks_t *r;

        plan.ranks = 4;
        plan.nodes = 2;
        plan.spare = plan.experts / 4;
        plan.mode = COTERIE_MODE_TWO_PHASE;
        plan.skewed = false;
        r = ranks_open(device, &plan);
        rows_begin(r);
        held = layer_holds(r, 0);
        r->active[trial] = 0;
        r->rows[trial].count = 0;
        must(coterie_dispatcher_set_active(r->dispatcher, r->active));
        held = held && layer_holds(r, 1) && counts_hold(r);
        ranks_close(r);
    }
    return held;
}

static plan_t plan_draw(int trial)
{
    plan_t p = {.ranks = 1 + draw(RANKS_MAX),
                .nodes = 1,
                .hidden = 16 * (1 + draw(8)),
                .rows = 1 + draw(9),
                .mode = trial % 2 ? COTERIE_MODE_OWNER
                                  : COTERIE_MODE_TWO_PHASE,
                .wire = trial / 2 % 2 ? COTERIE_WIRE_BF16 : COTERIE_WIRE_F32,
                .element =
                    trial % 3 == 1 ? COTERIE_WIRE_BF16 : COTERIE_WIRE_F32,
                .skewed = trial % 5 == 4};

    if (p.ranks % 2 == 0)
        p.nodes = 2;
    p.experts = p.ranks * (1 + draw(6)) + draw(2) * 3;
    p.spare = p.ranks > 1 ? draw(p.experts / p.ranks + 1) : 0;
    p.k = 1 + draw(p.experts < COTERIE_K_MAX ? p.experts : COTERIE_K_MAX);
    p.max_rows = p.mode == COTERIE_MODE_OWNER ? p.rows * p.ranks : p.rows;
    return p;
}

static void rows_choose(ranks_t *r, uint32_t layer)
{
    const plan_t *p = &r->plan;

    for (uint32_t rank = 0; rank < p->ranks; rank++) {
        rows_t *rows = &r->rows[rank];

        for (uint32_t i = 0; i < rows->count * p->k; i++) {
            rows->ids[i] = (int32_t)draw(p->experts);
            if (p->skewed)
                rows->ids[i] -= (rows->ids[i] + (int32_t)layer) %
                                (int32_t)p->ranks;
            if (rows->ids[i] < 0 || draw(9) == 0)
                rows->ids[i] = -1;
            rows->weights[i] = fraction();
        }
        coterie_rms_norm(rows->count, p->hidden, 1e-5f, rows->hidden,
                         r->norm + layer * p->hidden, rows->normed);
    }
}

/* One layer, the first twice: the same bits. The rows go on as they came. */
static bool layer_holds(ranks_t *r, uint32_t layer)
{
    const plan_t *p = &r->plan;
    const int times = layer == 0 ? 2 : 1;
    rows_t want[RANKS_MAX] = {{0}};
    bool held = true;

    rows_choose(r, layer);
    layer_expect(r, layer, (uint32_t)times, want);
    for (int time = 0; time < times; time++) {
        rows_upload(r);
        must(layer_queue(r, layer, p->ranks));
        for (uint32_t rank = 0; held && rank < p->ranks; rank++) {
            rows_t got = rows_download(r, rank);
            const size_t values = (size_t)want[rank].count * p->hidden;

            if (!r->active[rank])
                got.count = 0;
            held = held && got.count == want[rank].count &&
                   same("keys", got.key, want[rank].key, got.count * 8) &&
                   near("rows", got.hidden, want[rank].hidden, values, 2e-2f);
            if (time == 1)
                held = held && same("rows, again", got.hidden,
                                    want[rank].hidden, values * 4);
            rows_free(&want[rank]);
            want[rank] = got;
        }
    }
    for (uint32_t rank = 0; rank < p->ranks; rank++) {
        rows_free(&r->rows[rank]);
        r->rows[rank] = want[rank];
    }
    return held;
}

/* Who owns it next, ranks ascending, has a row after those that it already has.
 */
static void layer_expect(ranks_t *r, uint32_t layer, uint32_t times,
                         rows_t want[RANKS_MAX])
{
    const plan_t *p = &r->plan;

    for (uint32_t rank = 0; rank < p->ranks; rank++)
        want[rank] = rows_new(p);
    for (uint32_t rank = 0; rank < p->ranks; rank++)
        for (uint32_t i = 0; i < r->rows[rank].count; i++) {
            const rows_t *rows = &r->rows[rank];
            coterie_route_t route;
            uint32_t to = rank;

            coterie_route(r->placement, layer, rows->ids + i * p->k, p->k,
                          rank, &route);
            if (p->mode == COTERIE_MODE_OWNER)
                to = route.next_owner;
            for (uint32_t j = 0; j < route.rank_count; j++) {
                r->copies_dispatch += times * (route.rank[j] != rank);
                r->copies_return += times * (route.rank[j] != to);
            }
            r->dropped += times * row_expect(r, layer, rows, i, &want[to]);
        }
}

static bool counts_hold(ranks_t *r)
{
    const plan_t *p = &r->plan;
    const uint64_t row = p->hidden * (p->wire == COTERIE_WIRE_BF16 ? 2 : 4);
    coterie_device_counts_t all = {0}, one;

    for (uint32_t rank = 0; rank < p->ranks; rank++) {
        must(coterie_dispatcher_check(r->dispatcher, rank, &one));
        all.copies_dispatch += one.copies_dispatch;
        all.copies_return += one.copies_return;
        all.payload_bytes += one.payload_bytes;
        all.wire_bytes += one.wire_bytes;
        all.dropped += one.dropped;
    }
    if (r->dropped == all.dropped && all.payload_bytes <= all.wire_bytes &&
        all.payload_bytes == row * (all.copies_dispatch + all.copies_return) &&
        (r->dropped > 0 || (all.copies_dispatch == r->copies_dispatch &&
                            all.copies_return == r->copies_return)))
        return true;
    fprintf(stderr, "counts: %llu and %llu copies, %llu bytes, %llu dropped\n",
            (unsigned long long)all.copies_dispatch,
            (unsigned long long)all.copies_return,
            (unsigned long long)all.payload_bytes,
            (unsigned long long)all.dropped);
    return false;
}
