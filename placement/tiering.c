#include "config.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include <coterie/tiering.h>

#include "base/error.h"
#include "base/options.h"
#include "placement/measure.h"
#include "placement/tiering.h"

/* Bytes a microsecond. */
static const double HOST_SPEED = 25e3, DISK_SPEED = 3e3;

/* A slot of a layer, with its uses, for sorting. */
typedef struct held_slot {
    uint64_t uses;
    uint32_t layer, slot;
} held_slot_t;

static coterie_status_t options_check(const coterie_tiering_options_t *in,
                                      coterie_tiering_options_t *out);
static coterie_status_t tiering_fill(coterie_tiering_t *tiering,
                                     const coterie_placement_t *placement,
                                     int in_order);
static void rank_fill(coterie_tiering_t *tiering, held_slot_t *slots,
                      size_t count, int in_order);
static int busier(const void *a, const void *b);
static coterie_status_t tiering_report(coterie_tiering_t *tiering,
                                       const coterie_placement_t *placement,
                                       const coterie_trace_view_t *held,
                                       coterie_tiering_report_t *report);
static void shares_sum(const coterie_tiering_t *tiering, const uint64_t *uses,
                       uint64_t token_count, coterie_tiering_report_t *report);

coterie_status_t coterie_tiering_create(
    const coterie_trace_t *trace, const coterie_placement_t *placement,
    const coterie_tiering_options_t *options, coterie_tiering_t **tiering_p,
    coterie_tiering_report_t *report)
{
    coterie_tiering_report_t filled = COTERIE_TIERING_REPORT_INIT;
    coterie_tiering_t *tiering = NULL;
    coterie_tiering_options_t opts;
    coterie_trace_view_t train, held;
    uint64_t start[3];
    coterie_status_t status;

    if (trace == NULL || placement == NULL || tiering_p == NULL)
        return coterie_fail(COTERIE_ERR_INVALID,
                            "tiering: a trace, a placement and a place for "
                            "the result are required");
    coterie_trace_view(trace, &train);
    status = options_check(options, &opts);
    if (status == COTERIE_OK)
        status = coterie_placement_check(placement, train.layer_count,
                                         train.expert_count,
                                         placement->rank_count);
    if (status == COTERIE_OK)
        status = coterie_tiering_allocate(placement, &opts, &tiering);
    if (status != COTERIE_OK)
        return status;
    coterie_measure_split(&train, opts.train_share, &held, start);
    coterie_measure_slots(&train, placement, opts.mode, tiering->uses);
    status = tiering_fill(tiering, placement, 1);
    if (status == COTERIE_OK)
        status = tiering_report(tiering, placement, &held, &filled);
    filled.token_us_in_order = filled.token_us;
    if (status == COTERIE_OK)
        status = tiering_fill(tiering, placement, 0);
    if (status == COTERIE_OK)
        status = tiering_report(tiering, placement, &held, &filled);
    if (status != COTERIE_OK) {
        coterie_tiering_destroy(tiering);
        return status;
    }
    if (report != NULL) {
        size_t size = report->size;
        memcpy(report, &filled, size < sizeof(filled) ? size : sizeof(filled));
        report->size = size;
    }
    *tiering_p = tiering;
    return COTERIE_OK;
}

void coterie_tiering_destroy(coterie_tiering_t *tiering)
{
    if (tiering == NULL)
        return;
    free(tiering->slot_rank);
    free(tiering->slot_expert);
    free(tiering->uses);
    free(tiering->tier);
    free(tiering);
}

coterie_status_t coterie_tiering_allocate(
    const coterie_placement_t *placement,
    const coterie_tiering_options_t *options, coterie_tiering_t **tiering_p)
{
    size_t slots = placement->slot_count;
    size_t cells = placement->layer_count * slots;
    coterie_tiering_t *tiering = calloc(1, sizeof(*tiering));

    if (tiering == NULL)
        return coterie_fail_memory(sizeof(*tiering), "tiers");
    tiering->options = *options;
    tiering->layer_count = placement->layer_count;
    tiering->expert_count = placement->expert_count;
    tiering->rank_count = placement->rank_count;
    tiering->slot_count = placement->slot_count;
    tiering->slot_rank = malloc(slots * sizeof(*tiering->slot_rank));
    tiering->slot_expert = malloc(cells * sizeof(*tiering->slot_expert));
    tiering->uses = calloc(cells, sizeof(*tiering->uses));
    tiering->tier = calloc(cells, sizeof(*tiering->tier));
    if (!tiering->slot_rank || !tiering->slot_expert || !tiering->uses ||
        !tiering->tier) {
        coterie_tiering_destroy(tiering);
        return coterie_fail_memory(cells * sizeof(*tiering->uses), "tiers");
    }
    memcpy(tiering->slot_rank, placement->slot_rank,
           slots * sizeof(*tiering->slot_rank));
    memcpy(tiering->slot_expert, placement->slot_expert,
           cells * sizeof(*tiering->slot_expert));
    *tiering_p = tiering;
    return COTERIE_OK;
}

static coterie_status_t options_check(const coterie_tiering_options_t *in,
                                      coterie_tiering_options_t *out)
{
    coterie_status_t status =
        coterie_options_read(in, out, sizeof(*out), "tiering options");

    if (status != COTERIE_OK)
        return status;
    if (out->mode == COTERIE_MODE_AUTO)
        out->mode = COTERIE_MODE_OWNER;
    if (out->train_share == 0)
        out->train_share = 0.5;
    if (out->host_us == 0)
        out->host_us = out->expert_bytes / HOST_SPEED;
    if (out->disk_us == 0)
        out->disk_us = out->expert_bytes / DISK_SPEED;
    if (out->expert_bytes == 0 || out->mode > COTERIE_MODE_FORWARD ||
        !(out->train_share > 0 && out->train_share <= 1) ||
        out->reserved != 0)
        return coterie_fail(COTERIE_ERR_INVALID,
                            "tiering: %" PRIu64 " bytes an expert, mode %u, "
                            "training share %g; 1 or more, 0 to %d, and up to "
                            "1 would do",
                            out->expert_bytes, out->mode, out->train_share,
                            COTERIE_MODE_FORWARD);
    if (!(out->host_us >= 0) || !(out->disk_us >= out->host_us))
        return coterie_fail(COTERIE_ERR_INVALID,
                            "tiering: a use costs %g us from the host and %g "
                            "from the disk; the host must be no dearer",
                            out->host_us, out->disk_us);
    return COTERIE_OK;
}

static coterie_status_t tiering_fill(coterie_tiering_t *tiering,
                                     const coterie_placement_t *placement,
                                     int in_order)
{
    size_t slots = tiering->slot_count;
    size_t cells = tiering->layer_count * slots;
    held_slot_t *held = malloc(cells * sizeof(*held));

    if (held == NULL)
        return coterie_fail_memory(cells * sizeof(*held), "tiers");
    for (uint32_t r = 0; r < tiering->rank_count; r++) {
        size_t count = 0;
        for (size_t i = 0; i < cells; i++)
            if (placement->slot_rank[i % slots] == r &&
                tiering->slot_expert[i] >= 0)
                held[count++] = (held_slot_t){tiering->uses[i],
                                              (uint32_t)(i / slots),
                                              (uint32_t)(i % slots)};
        rank_fill(tiering, held, count, in_order);
    }
    free(held);
    return COTERIE_OK;
}

static void rank_fill(coterie_tiering_t *tiering, held_slot_t *slots,
                      size_t count, int in_order)
{
    uint64_t device =
        tiering->options.device_bytes / tiering->options.expert_bytes;
    uint64_t host =
        tiering->options.host_bytes / tiering->options.expert_bytes;

    if (!in_order)
        qsort(slots, count, sizeof(*slots), busier);
    for (size_t i = 0; i < count; i++)
        tiering->tier[(size_t)slots[i].layer * tiering->slot_count +
                      slots[i].slot] =
            i < device          ? COTERIE_TIER_DEVICE
            : i - device < host ? COTERIE_TIER_HOST
                                : COTERIE_TIER_DISK;
}

static int busier(const void *a, const void *b)
{
    const held_slot_t *x = a, *y = b;

    if (x->uses != y->uses)
        return x->uses < y->uses ? 1 : -1;
    if (x->layer != y->layer)
        return x->layer < y->layer ? -1 : 1;
    return x->slot < y->slot ? -1 : x->slot > y->slot;
}

static coterie_status_t tiering_report(coterie_tiering_t *tiering,
                                       const coterie_placement_t *placement,
                                       const coterie_trace_view_t *held,
                                       coterie_tiering_report_t *report)
{
    size_t cells = (size_t)tiering->layer_count * tiering->slot_count;
    uint64_t *uses = calloc(cells, sizeof(*uses));

    if (uses == NULL)
        return coterie_fail_memory(cells * sizeof(*uses), "tiers");
    coterie_measure_slots(held, placement, tiering->options.mode, uses);
    shares_sum(tiering, uses, held->token_count, report);
    free(uses);
    return COTERIE_OK;
}

static void shares_sum(const coterie_tiering_t *tiering, const uint64_t *uses,
                       uint64_t token_count, coterie_tiering_report_t *report)
{
    size_t cells = (size_t)tiering->layer_count * tiering->slot_count;
    double of[COTERIE_TIER_COUNT] = {0}, all = 0;

    for (size_t i = 0; i < cells; i++) {
        of[tiering->tier[i]] += (double)uses[i];
        all += (double)uses[i];
    }
    report->token_us = (of[COTERIE_TIER_HOST] * tiering->options.host_us +
                        of[COTERIE_TIER_DISK] * tiering->options.disk_us) /
                       (double)token_count;
    if (all == 0)
        return;
    report->device_share = of[COTERIE_TIER_DEVICE] / all;
    report->host_share = of[COTERIE_TIER_HOST] / all;
    report->disk_share = of[COTERIE_TIER_DISK] / all;
}
