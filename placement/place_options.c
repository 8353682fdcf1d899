#include "config.h"

#include <string.h>

#include "base/error.h"
#include "base/options.h"
#include "placement/placement.h"
#include "placement/placing.h"
#include "placement/solve/parallel.h"

static coterie_status_t limits_check(const coterie_place_options_t *options,
                                     uint32_t experts);
static void options_default(coterie_place_options_t *options);

coterie_status_t coterie_placing_options(const coterie_place_options_t *in,
                                         uint32_t expert_count,
                                         coterie_place_options_t *out)
{
    coterie_status_t status = coterie_options_read(in, out, sizeof(*out),
                                                   "place options");

    if (status != COTERIE_OK)
        return status;
    options_default(out);
    if (out->rank_count == 0 || out->rank_count > COTERIE_RANKS_MAX)
        return coterie_fail(COTERIE_ERR_INVALID,
                            "place: %u ranks; 1 to %d would do",
                            out->rank_count, COTERIE_RANKS_MAX);
    if (out->rank_count % out->node_count != 0)
        return coterie_fail(COTERIE_ERR_INVALID,
                            "place: %u ranks do not fill %u nodes evenly",
                            out->rank_count, out->node_count);
    if (out->objective > COTERIE_OBJECTIVE_CROSSING)
        return coterie_fail(COTERIE_ERR_INVALID,
                            "place: there is no objective %u", out->objective);
    if (out->mode > COTERIE_MODE_FORWARD)
        return coterie_fail(COTERIE_ERR_INVALID, "place: there is no mode %u",
                            out->mode);
    if (out->threads > COTERIE_THREADS_MAX || out->proof > 1)
        return coterie_fail(COTERIE_ERR_INVALID,
                            "place: %u threads, proof %u; 1 to %d threads and "
                            "0 or 1 would do", out->threads, out->proof,
                            COTERIE_THREADS_MAX);
    return limits_check(out, expert_count);
}

static coterie_status_t limits_check(const coterie_place_options_t *options,
                                     uint32_t experts)
{
    uint32_t ranks = options->rank_count;
    uint64_t most = (experts + ranks - 1) / ranks + (uint64_t)options->spare;

    if (options->load_cap != 0 && !(options->load_cap >= 1))
        return coterie_fail(COTERIE_ERR_INVALID,
                            "place: load cap %g; the fullest rank has at "
                            "least the mean, so 1 or more would do",
                            options->load_cap);
    if (!(options->time_limit_s > 0) || !(options->network_cost >= 1))
        return coterie_fail(COTERIE_ERR_INVALID,
                            "place: time limit %g, network cost %g; the first "
                            "must be positive, the second 1 or more",
                            options->time_limit_s, options->network_cost);
    if (!(options->train_share > 0 && options->train_share <= 1))
        return coterie_fail(COTERIE_ERR_INVALID,
                            "place: training share %g; above 0, up to 1 "
                            "would do", options->train_share);
    if (options->spare > 0 && most > experts)
        return coterie_fail(COTERIE_ERR_INFEASIBLE,
                            "place: %u spare slots a rank; %u experts on %u "
                            "ranks leave each no more than %u to replicate",
                            options->spare, experts, ranks,
                            experts - (experts + ranks - 1) / ranks);
    return COTERIE_OK;
}

static void options_default(coterie_place_options_t *options)
{
    if (options->node_count == 0)
        options->node_count = 1;
    if (options->mode == COTERIE_MODE_AUTO)
        options->mode = COTERIE_MODE_OWNER;
    if (options->threads == 0)
        options->threads = 1;
    if (options->time_limit_s == 0)
        options->time_limit_s = 60;
    if (options->network_cost == 0)
        options->network_cost = 8;
    if (options->train_share == 0)
        options->train_share = 0.5;
    if (options->node_count == 1)
        options->network_cost = 1; /* there is no network to cross */
}

void coterie_placing_hand(const coterie_place_report_t *filled,
                          coterie_place_report_t *report)
{
    size_t size;

    if (report == NULL)
        return;
    size = report->size;
    memcpy(report, filled, size < sizeof(*filled) ? size : sizeof(*filled));
    report->size = size;
}
