#include "config.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <coterie/replace.h>

#include "base/error.h"
#include "base/options.h"
#include "placement/affinity.h"
#include "placement/placement.h"
#include "placement/placing.h"
#include "placement/replacing.h"
#include "placement/sample.h"

enum {
    JUDGED_MOST = 32768, /* tokens of the training part; */
    JUDGED_LEAST = 2048,
    JUDGED_GUESS = 64    /* candidates */
};

/* Of the time limit: the free choice, then the trails, then judging them. The
 * rest is for the report. */
static const double FREE_SHARE = 0.4, TRAIL_SHARE = 0.7, JUDGE_SHARE = 0.9,
    HASTE = 0.15; /* seconds, where somebody waits for the report */

/* Of what is reported, and of each candidate: it is scored, then judged. */
static const double REPORT_PASSES = 3, JUDGE_PASSES = 2;

static coterie_status_t options_check(const coterie_replace_options_t *in,
                                      coterie_replace_options_t *out);
static coterie_status_t trace_split(coterie_replacing_t *r,
                                    const coterie_trace_t *trace);
static uint64_t judged_tokens(const coterie_replacing_t *r);
static void search_open(coterie_replacing_t *r);
static coterie_status_t free_choose(coterie_replacing_t *r);
static coterie_status_t candidates_judge(coterie_replacing_t *r);
static coterie_status_t slots_judge(coterie_replacing_t *r,
                                    const int16_t *slots, double *copies_p);
static coterie_status_t slots_create(const coterie_replacing_t *r,
                                     const int16_t *slots,
                                     coterie_placement_t **placement_p);
static coterie_status_t report_fill(const coterie_replacing_t *r,
                                    const coterie_placement_t *placement,
                                    coterie_replace_report_t *report);
static coterie_status_t copies_of(const coterie_replacing_t *r,
                                  const coterie_trace_t *trace,
                                  const coterie_placement_t *placement,
                                  double *copies_p);
static void replacing_close(coterie_replacing_t *r);

coterie_status_t coterie_replace(const coterie_placement_t *old,
                                 const coterie_trace_t *trace,
                                 const coterie_replace_options_t *options,
                                 coterie_placement_t **placement_p,
                                 coterie_move_t **moves_p,
                                 coterie_replace_report_t *report)
{
    coterie_replacing_t r = {.old = old};
    coterie_replace_report_t filled = COTERIE_REPLACE_REPORT_INIT;
    coterie_placement_t *placement = NULL;
    coterie_move_t *moves = NULL;
    coterie_trace_view_t view;
    coterie_status_t status = options_check(options, &r.options);

    coterie_trace_view(trace, &view);
    if (status == COTERIE_OK)
        status = coterie_placement_check(old, view.layer_count,
                                         view.expert_count, old->rank_count);
    if (status == COTERIE_OK)
        status = trace_split(&r, trace);
    if (status == COTERIE_OK)
        search_open(&r);
    if (status == COTERIE_OK)
        status = free_choose(&r);
    if (status == COTERIE_OK)
        status = coterie_replacing_candidates(&r);
    if (status == COTERIE_OK)
        status = candidates_judge(&r);
    if (status == COTERIE_OK)
        status = slots_create(&r, r.best, &placement);
    if (status == COTERIE_OK)
        status = coterie_placement_moves(old, placement, &moves,
                                         &filled.moves);
    if (status == COTERIE_OK && report != NULL)
        status = report_fill(&r, placement, &filled);
    if (status == COTERIE_OK) {
        if (report != NULL) { /* an older caller's struct is shorter */
            filled.size = report->size;
            memcpy(report, &filled,
                   report->size < sizeof(filled) ? report->size
                                                 : sizeof(filled));
        }
        *placement_p = placement;
        placement = NULL;
        if (moves_p != NULL) {
            *moves_p = moves;
            moves = NULL;
        }
    }
    free(moves);
    coterie_placement_destroy(placement);
    replacing_close(&r);
    return status;
}

static coterie_status_t options_check(const coterie_replace_options_t *in,
                                      coterie_replace_options_t *out)
{
    coterie_status_t status =
        coterie_options_read(in, out, sizeof(*out), "replace options");

    if (status != COTERIE_OK)
        return status;
    if (out->mode == COTERIE_MODE_AUTO)
        out->mode = COTERIE_MODE_OWNER;
    if (out->network_cost == 0)
        out->network_cost = 8;
    if (out->time_limit_s == 0)
        out->time_limit_s = 60;
    if (out->train_share == 0)
        out->train_share = 0.5;
    if (!out->is_limited)
        out->moves_most = UINT64_MAX;
    if (out->mode > COTERIE_MODE_FORWARD || !(out->network_cost >= 1) ||
        !(out->time_limit_s > 0) || out->reserved != 0 ||
        !(out->train_share > 0 && out->train_share <= 1) ||
        (out->load_cap != 0 && !(out->load_cap >= 1)))
        return coterie_fail(COTERIE_ERR_INVALID,
                            "replace: mode %u, network cost %g, time limit "
                            "%g, training share %g, load cap %g; a mode, 1 or "
                            "more, above 0, up to 1, and 0 or 1 or more would "
                            "do",
                            out->mode, out->network_cost, out->time_limit_s,
                            out->train_share, out->load_cap);
    return COTERIE_OK;
}

/* By sequences; a lone one is both decided and reported on. */
static coterie_status_t trace_split(coterie_replacing_t *r,
                                    const coterie_trace_t *trace)
{
    coterie_trace_view_t view;
    uint64_t train, held;
    coterie_status_t status;

    coterie_trace_view(trace, &view);
    train = (uint64_t)ceil(r->options.train_share *
                           (double)view.sequence_count);
    if (train == view.sequence_count && r->options.train_share < 1 &&
        train > 1)
        train--;
    held = train < view.sequence_count ? train : 0;
    status = coterie_trace_slice(trace, 0, train, &r->train);
    if (status == COTERIE_OK)
        status = coterie_trace_slice(trace, held, view.sequence_count - held,
                                     &r->held);
    if (status != COTERIE_OK)
        return status;
    coterie_trace_view(r->train, &r->view);
    return coterie_sample_take(r->train, judged_tokens(r), &r->judged);
}

static uint64_t judged_tokens(const coterie_replacing_t *r)
{
    double seconds =
        (JUDGE_SHARE - TRAIL_SHARE) * r->options.time_limit_s;
    uint64_t tokens = coterie_sample_afford(&r->view, seconds,
                                            JUDGE_PASSES * JUDGED_GUESS);

    return tokens < JUDGED_LEAST ? JUDGED_LEAST
           : tokens < JUDGED_MOST ? tokens : JUDGED_MOST;
}

static void search_open(coterie_replacing_t *r)
{
    r->search.started = coterie_search_now();
    r->search.planned = TRAIL_SHARE * r->options.time_limit_s;
    r->search.deadline = r->search.started + r->search.planned;
    r->search.limit = r->search.started + r->options.time_limit_s;
    r->search.unit = (double)r->view.token_count;
    r->search.progress = r->options.progress;
    r->search.progress_arg = r->options.progress_arg;
    r->search.random = r->options.seed;
    r->search.solver = "moves";
}

/* What would be placed if moving were free. A placement whose slots are not
 * as coterie_place spreads them has no such peer. */
static coterie_status_t free_choose(coterie_replacing_t *r)
{
    coterie_place_options_t options = COTERIE_PLACE_OPTIONS_INIT;
    const coterie_placement_t *old = r->old;
    coterie_status_t status;

    options.rank_count = old->rank_count;
    options.node_count = old->node_count;
    options.spare = (old->slot_count - old->expert_count) / old->rank_count;
    options.mode = r->options.mode;
    options.seed = r->options.seed;
    options.load_cap = r->options.load_cap;
    options.network_cost = r->options.network_cost;
    options.time_limit_s = FREE_SHARE * r->options.time_limit_s;
    options.train_share = 1;
    options.progress = r->options.progress;
    options.progress_arg = r->options.progress_arg;
    status = coterie_place(r->train, &options, &r->free_choice, NULL);
    if (status == COTERIE_OK &&
        (r->free_choice->slot_count != old->slot_count ||
         memcmp(r->free_choice->slot_rank, old->slot_rank,
                old->slot_count * sizeof(*old->slot_rank)) != 0)) {
        coterie_placement_destroy(r->free_choice);
        r->free_choice = NULL;
    }
    return status;
}

/* The best of those within the budget: what is chosen from does not depend on
 * it, so that more is never worse. The free choice comes last, and first here,
 * since time may be short; one is judged, however short it is. */
static coterie_status_t candidates_judge(coterie_replacing_t *r)
{
    const coterie_solution_t nothing = {.by = "copies", .bound_by = "none"};
    coterie_status_t status =
        copies_of(r, r->judged, r->old, &r->copies_before);
    size_t judged = 0;

    r->best = r->old->slot_expert;
    r->copies = r->copies_before;
    r->search.deadline =
        r->search.started + JUDGE_SHARE * r->options.time_limit_s;
    if (r->search.stopped == COTERIE_STOPPED_LATE)
        r->search.stopped = COTERIE_STOPPED_NOT;
    for (size_t i = r->count; status == COTERIE_OK && i > 0; i--) {
        const coterie_candidate_t *candidate = &r->candidates[i - 1];
        double copies = INFINITY;
        if (candidate->moves > r->options.moves_most)
            continue;
        if (coterie_search_over(&r->search, &nothing) && judged > 0)
            break;
        judged++;
        status = slots_judge(r, candidate->slots, &copies);
        if (status != COTERIE_OK || copies >= r->copies)
            continue;
        r->copies = copies;
        r->best = candidate->slots;
    }
    return status;
}

static coterie_status_t slots_judge(coterie_replacing_t *r,
                                    const int16_t *slots, double *copies_p)
{
    coterie_placement_t *placement = NULL;
    coterie_status_t status = slots_create(r, slots, &placement);

    if (status == COTERIE_OK)
        status = copies_of(r, r->judged, placement, copies_p);
    coterie_placement_destroy(placement);
    return status;
}

/* Scores follow from where experts are; those of the old placement stay where
 * nothing moves. */
static coterie_status_t slots_create(const coterie_replacing_t *r,
                                     const int16_t *slots,
                                     coterie_placement_t **placement_p)
{
    size_t scores = (size_t)r->view.layer_count * r->view.expert_count *
                    r->old->rank_count;
    coterie_placement_options_t options;
    coterie_trace_view_t view;
    coterie_placement_t *unscored = NULL;
    uint8_t *next_score = NULL;
    coterie_status_t status;

    coterie_trace_view(r->judged, &view);
    coterie_placement_view(r->old, &options);
    if (slots == r->old->slot_expert)
        return coterie_placement_create(&options, placement_p);
    options.slot_expert = slots;
    options.next_score = NULL;
    status = coterie_placement_create(&options, &unscored);
    if (status == COTERIE_OK) {
        next_score = calloc(scores, 1);
        status = next_score == NULL
                     ? coterie_fail_memory(scores, "next-layer scores")
                     : coterie_affinity_scores(&view, unscored, next_score);
    }
    options.next_score = next_score;
    if (status == COTERIE_OK)
        status = coterie_placement_create(&options, placement_p);
    coterie_placement_destroy(unscored);
    free(next_score);
    return status;
}

static coterie_status_t report_fill(const coterie_replacing_t *r,
                                    const coterie_placement_t *placement,
                                    coterie_replace_report_t *report)
{
    const coterie_placement_t *all =
        r->free_choice != NULL ? r->free_choice : placement;
    double seconds = (1 - JUDGE_SHARE) * r->options.time_limit_s;
    int told = r->search.stopped == COTERIE_STOPPED_TOLD;
    uint64_t most = coterie_sample_afford(
        &r->view, told ? fmin(seconds, HASTE) : seconds, REPORT_PASSES);
    coterie_trace_t *sample = NULL;
    coterie_status_t status = coterie_sample_take(r->held, most, &sample);

    report->train_copies_before = r->copies_before;
    report->train_copies = r->copies;
    report->moves_all = r->moves_all;
    if (status == COTERIE_OK)
        status = copies_of(r, sample, r->old, &report->held_copies_before);
    if (status == COTERIE_OK)
        status = copies_of(r, sample, placement, &report->held_copies);
    if (status == COTERIE_OK)
        status = copies_of(r, sample, all, &report->held_copies_all);
    if (sample != r->held)
        coterie_trace_destroy(sample);
    report->elapsed_s = coterie_search_now() - r->search.started;
    return status;
}

static coterie_status_t copies_of(const coterie_replacing_t *r,
                                  const coterie_trace_t *trace,
                                  const coterie_placement_t *placement,
                                  double *copies_p)
{
    return coterie_placing_copies(trace, placement,
                                  (coterie_mode_t)r->options.mode,
                                  r->options.network_cost, copies_p);
}

static void replacing_close(coterie_replacing_t *r)
{
    for (size_t i = 0; i < r->count; i++)
        free(r->candidates[i].slots);
    free(r->candidates);
    coterie_placement_destroy(r->free_choice);
    if (r->judged != r->train)
        coterie_trace_destroy(r->judged);
    coterie_trace_destroy(r->train);
    coterie_trace_destroy(r->held);
}
