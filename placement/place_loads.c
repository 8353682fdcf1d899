#include "config.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "placement/capacity.h"
#include "placement/cure.h"
#include "placement/placement.h"
#include "placement/placing.h"
#include "placement/spread.h"

typedef struct loading {
    coterie_place_options_t options;
    coterie_loads_view_t view;
    double *train, *held; /* [layer, expert]; sums over windows */
    uint32_t *capacity, *room;
    coterie_slots_t slots;
    coterie_search_t search;
} loading_t;

static coterie_status_t loading_open(loading_t *p);
static void loading_close(loading_t *p);
static void windows_sum(loading_t *p);
static coterie_status_t layers_spread(loading_t *p);
static coterie_status_t report_fill(const loading_t *p,
                                    coterie_place_report_t *report);
static double fullest(const loading_t *p, const double *load);
static double fullest_in_order(const loading_t *p, const double *load);

coterie_status_t coterie_place_loads(const coterie_loads_t *loads,
                                     const coterie_place_options_t *options,
                                     coterie_placement_t **placement_p,
                                     coterie_place_report_t *report)
{
    loading_t p = {.train = NULL};
    coterie_place_report_t filled = COTERIE_PLACE_REPORT_INIT;
    coterie_status_t status;

    if (loads == NULL || options == NULL || placement_p == NULL)
        return coterie_fail(COTERIE_ERR_INVALID,
                            "place: no loads, options or place for a result");
    p.search.started = coterie_search_now();
    coterie_loads_view(loads, &p.view);
    status = coterie_placing_options(options, p.view.expert_count, &p.options);
    if (status == COTERIE_OK)
        status = loading_open(&p);
    if (status == COTERIE_OK)
        status = layers_spread(&p);
    if (status == COTERIE_OK)
        status = report_fill(&p, &filled);
    if (status == COTERIE_OK)
        status = coterie_slots_create(&p.slots, placement_p);
    if (status == COTERIE_OK)
        coterie_placing_hand(&filled, report);
    loading_close(&p);
    return status;
}

static coterie_status_t loading_open(loading_t *p)
{
    uint32_t ranks = p->options.rank_count;
    size_t items = (size_t)p->view.layer_count * p->view.expert_count;
    coterie_status_t status;

    p->search.random = p->options.seed;
    p->train = calloc(items, sizeof(*p->train));
    p->held = calloc(items, sizeof(*p->held));
    p->capacity = calloc(ranks, sizeof(*p->capacity));
    p->room = calloc(ranks, sizeof(*p->room));
    if (!p->train || !p->held || !p->capacity || !p->room)
        return coterie_fail_memory(items * sizeof(*p->train), "loads");
    status = coterie_capacity_share(&p->options, p->view.layer_count,
                                    p->view.expert_count, p->capacity,
                                    p->room);
    if (status != COTERIE_OK)
        return status;
    windows_sum(p);
    p->slots = (coterie_slots_t){.layer_count = p->view.layer_count,
                                 .expert_count = p->view.expert_count,
                                 .rank_count = ranks,
                                 .node_count = p->options.node_count};
    return coterie_slots_open(&p->slots, p->room);
}

static void loading_close(loading_t *p)
{
    free(p->train);
    free(p->held);
    free(p->capacity);
    free(p->room);
    coterie_slots_close(&p->slots);
}

/* What cannot be split is both trained on and reported on. */
static void windows_sum(loading_t *p)
{
    size_t items = (size_t)p->view.layer_count * p->view.expert_count;
    uint64_t windows = p->view.window_count;
    uint64_t train = (uint64_t)ceil(p->options.train_share * windows);

    if (train == windows && p->options.train_share < 1 && windows > 1)
        train--;
    for (uint64_t w = 0; w < windows; w++)
        for (size_t i = 0; i < items; i++) {
            double load = p->view.load[w * items + i];
            p->train[i] += w < train ? load : 0;
            p->held[i] += w >= train || train == windows ? load : 0;
        }
}

static coterie_status_t layers_spread(loading_t *p)
{
    coterie_status_t status = COTERIE_OK;

    for (uint32_t l = 0; status == COTERIE_OK && l < p->view.layer_count;
         l++) {
        coterie_spread_t task = {
            .expert_count = p->view.expert_count,
            .rank_count = p->options.rank_count,
            .load = p->train + (size_t)l * p->view.expert_count,
            .room = p->room, .replica_count = UINT32_MAX,
            .search = &p->search};
        double most;
        status = coterie_spread(&task,
                                p->slots.expert + (size_t)l * p->slots.count,
                                &most);
    }
    return status;
}

static coterie_status_t report_fill(const loading_t *p,
                                    coterie_place_report_t *report)
{
    coterie_cure_t cure = {
        .layer_count = p->view.layer_count,
        .expert_count = p->view.expert_count,
        .rank_count = p->options.rank_count, .capacity = p->capacity,
        .spare = p->options.spare, .load = p->train,
        .load_cap = p->options.load_cap};

    snprintf(report->solver, sizeof(report->solver), "balanced loads");
    report->load_in_order = fullest_in_order(p, p->train);
    report->load = fullest(p, p->train);
    report->held_load_in_order = fullest_in_order(p, p->held);
    report->held_load = fullest(p, p->held);
    report->cap_raised =
        p->options.load_cap > 0 && report->load > p->options.load_cap;
    report->load_cap = report->cap_raised ? report->load : p->options.load_cap;
    report->seed = p->options.seed;
    report->elapsed_s = coterie_search_now() - p->search.started;
    if (!report->cap_raised)
        return COTERIE_OK;
    return coterie_cure_find(&cure, &report->cure_spare,
                             &report->cure_replicas);
}

/* Of the placement that was found, over the mean, in the worst layer. */
static double fullest(const loading_t *p, const double *load)
{
    uint32_t experts = p->view.expert_count, ranks = p->options.rank_count;
    double worst = 0;

    for (uint32_t l = 0; l < p->view.layer_count; l++, load += experts) {
        const int16_t *expert = p->slots.expert + (size_t)l * p->slots.count;
        double sum = 0, most = 0;
        for (uint32_t e = 0; e < experts; e++)
            sum += load[e];
        for (uint32_t r = 0; r < ranks; r++) {
            double here = 0;
            for (uint32_t s = p->slots.first[r]; s < p->slots.first[r + 1];
                 s++) {
                uint32_t copies = 0;
                for (uint32_t i = 0; expert[s] >= 0 && i < p->slots.count; i++)
                    copies += expert[i] == expert[s];
                here += copies > 0 ? load[expert[s]] / copies : 0;
            }
            most = fmax(most, here);
        }
        worst = sum > 0 ? fmax(worst, most * ranks / sum) : worst;
    }
    return worst;
}

static double fullest_in_order(const loading_t *p, const double *load)
{
    double worst = 0;

    for (uint32_t l = 0; l < p->view.layer_count; l++) {
        double sum = 0, most = 0;
        for (uint32_t r = 0; r < p->options.rank_count; r++) {
            double here = 0;
            for (uint32_t i = 0; i < p->capacity[r]; i++)
                here += *load++;
            sum += here;
            most = fmax(most, here);
        }
        if (sum > 0)
            worst = fmax(worst, most * p->options.rank_count / sum);
    }
    return worst;
}
