#include "config.h"

#include <math.h>
#include <string.h>

#include "placement/measure.h"

typedef struct measuring {
    const coterie_trace_view_t *view;
    const coterie_placement_t *placement;
    coterie_mode_t mode;
    uint64_t *load;
    uint32_t width; /* of load: a column for each rank, or */
    int by_slot;    /* for each slot */
} measuring_t;

static void trace_measure(const measuring_t *m);
static void choices_count(const measuring_t *m);
static uint32_t token_measure(const measuring_t *m, uint64_t token, int moves,
                              uint32_t owner);

void coterie_measure(const coterie_trace_view_t *view,
                     const coterie_placement_t *placement,
                     coterie_mode_t mode, uint64_t *load)
{
    measuring_t m = {view, placement, mode, load, placement->rank_count, 0};

    memset(load, 0,
           (size_t)view->layer_count * placement->rank_count * sizeof(*load));
    trace_measure(&m);
}

void coterie_measure_slots(const coterie_trace_view_t *view,
                           const coterie_placement_t *placement,
                           coterie_mode_t mode, uint64_t *uses)
{
    measuring_t m = {view, placement, mode, uses, placement->slot_count, 1};

    trace_measure(&m);
}

void coterie_measure_split(coterie_trace_view_t *view, double share,
                           coterie_trace_view_t *held, uint64_t start[3])
{
    int whole = view->sequence_count > 1;
    uint64_t units = whole ? view->sequence_count : view->token_count;
    uint64_t train = (uint64_t)ceil(share * (double)units);

    *held = *view;
    if (train >= units)
        train = share < 1 ? units - 1 : units;
    if (train == 0 || train == units)
        return;
    start[0] = view->seq_start[0];
    start[1] = whole ? view->seq_start[train] : train;
    start[2] = view->seq_start[view->sequence_count];
    held->token_count = start[2] - start[1];
    held->seq_start = whole ? view->seq_start + train : start + 1;
    held->sequence_count = whole ? units - train : 1;
    view->token_count = start[1] - start[0];
    view->seq_start = whole ? view->seq_start : start;
    view->sequence_count = whole ? train : 1;
}

double coterie_measure_fullest(const uint64_t *load, uint32_t layer_count,
                               uint32_t rank_count)
{
    double worst = 0;

    for (uint32_t l = 0; l < layer_count; l++, load += rank_count) {
        uint64_t sum = 0, most = 0;
        for (uint32_t r = 0; r < rank_count; r++) {
            sum += load[r];
            most = load[r] > most ? load[r] : most;
        }
        if (sum > 0)
            worst = fmax(worst, (double)most * rank_count / sum);
    }
    return worst;
}

static void trace_measure(const measuring_t *m)
{
    const coterie_trace_view_t *view = m->view;
    size_t items = (size_t)view->layer_count * view->expert_count;

    if (m->placement->first[items] == items) {
        choices_count(m);
        return;
    }
    for (uint64_t s = 0; s < view->sequence_count; s++) {
        uint32_t home = s % m->placement->rank_count, owner = home;
        for (uint64_t t = view->seq_start[s]; t < view->seq_start[s + 1]; t++) {
            int decodes = view->phase == NULL ||
                          view->phase[t] == COTERIE_PHASE_DECODE;
            if (m->mode == COTERIE_MODE_FORWARD && decodes)
                token_measure(m, t, 0, COTERIE_NONE);
            else
                owner = token_measure(
                    m, t, m->mode == COTERIE_MODE_OWNER && decodes, owner);
        }
    }
}

/* Where each expert is in one place, no choice is left to make. */
static void choices_count(const measuring_t *m)
{
    const coterie_placement_t *p = m->placement;
    const uint16_t *held = m->by_slot ? p->holder_slot : p->holder_rank;
    uint32_t layers = m->view->layer_count, k = m->view->k;
    const int16_t *set = m->view->experts;

    for (uint64_t t = 0; t < m->view->token_count; t++)
        for (size_t l = 0; l < layers; l++, set += k)
            for (uint32_t i = 0; i < k; i++)
                if (set[i] >= 0)
                    m->load[l * m->width +
                            held[l * p->expert_count + (size_t)set[i]]]++;
}

/* @return who owns it afterwards */
static uint32_t token_measure(const measuring_t *m, uint64_t token, int moves,
                              uint32_t owner)
{
    uint32_t layers = m->view->layer_count, k = m->view->k;
    const int16_t *set = m->view->experts + token * layers * k;

    for (uint32_t l = 0; l < layers; l++, set += k) {
        int32_t experts[COTERIE_K_MAX];
        coterie_route_t route;
        for (uint32_t i = 0; i < k; i++)
            experts[i] = set[i];
        coterie_route(m->placement, l, experts, k, owner, &route);
        for (uint32_t i = 0; i < k; i++)
            if (route.serving[i] != COTERIE_NONE)
                m->load[(size_t)l * m->width +
                        (m->by_slot ? route.slot[i] : route.serving[i])]++;
        if (moves)
            owner = route.next_owner;
    }
    return owner;
}
