#include "config.h"

#include <math.h>
#include <string.h>

#include "placement/measure.h"

static void token_measure(const coterie_trace_view_t *view, uint64_t token,
                          const coterie_placement_t *placement, int moves,
                          uint32_t *owner_p, uint64_t *load);

void coterie_measure(const coterie_trace_view_t *view,
                     const coterie_placement_t *placement,
                     coterie_mode_t mode, uint64_t *load)
{
    memset(load, 0,
           (size_t)view->layer_count * placement->rank_count * sizeof(*load));
    for (uint64_t s = 0; s < view->sequence_count; s++) {
        uint32_t home = s % placement->rank_count, now = home;
        for (uint64_t t = view->seq_start[s]; t < view->seq_start[s + 1]; t++) {
            int decodes = view->phase == NULL ||
                          view->phase[t] == COTERIE_PHASE_DECODE;
            if (mode == COTERIE_MODE_FORWARD && decodes)
                now = COTERIE_NONE;
            token_measure(view, t, placement,
                          mode == COTERIE_MODE_OWNER && decodes, &now, load);
            if (mode == COTERIE_MODE_FORWARD)
                now = home;
        }
    }
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

static void token_measure(const coterie_trace_view_t *view, uint64_t token,
                          const coterie_placement_t *placement, int moves,
                          uint32_t *owner_p, uint64_t *load)
{
    const int16_t *set = view->experts + token * view->layer_count * view->k;

    for (uint32_t l = 0; l < view->layer_count; l++, set += view->k) {
        int32_t experts[COTERIE_K_MAX];
        coterie_route_t route;
        for (uint32_t i = 0; i < view->k; i++)
            experts[i] = set[i];
        coterie_route(placement, l, experts, view->k, *owner_p, &route);
        for (uint32_t i = 0; i < view->k; i++)
            if (route.serving[i] != COTERIE_NONE)
                load[(size_t)l * placement->rank_count + route.serving[i]]++;
        if (moves)
            *owner_p = route.next_owner;
    }
}
