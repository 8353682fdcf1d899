#include "config.h"

#include <stdio.h>

#include "tools/place.h"
#include "tools/report.h"

static json_t *search_json(const coterie_place_report_t *r);
static json_t *held_json(const coterie_place_report_t *r);
static json_t *tiers_json(const coterie_tiering_report_t *t);
static void search_text(const coterie_place_report_t *r);
static void loads_text(const coterie_place_report_t *r);
static void held_text(const coterie_place_report_t *r);
static void affinity_text(const coterie_place_report_t *r);
static void tiers_text(const coterie_tiering_report_t *t);

coterie_status_t place_json(const place_job_t *job)
{
    const coterie_place_report_t *r = &job->report;
    json_t *root = json_pack(
        "{s:s, s:I, s:b, s:f, s:b, s:f, s:i, s:i, s:f, s:f, s:f, s:f}",
        "solver", r->solver, "seed", (json_int_t)r->seed, "cut", (int)r->cut,
        "elapsed_s", r->elapsed_s, "load_cap_raised",
        (int)r->cap_raised, "load_cap", r->load_cap, "cure_spare",
        (int)r->cure_spare, "cure_replicas", (int)r->cure_replicas,
        "load_in_order", r->load_in_order, "load", r->load,
        "held_load_in_order", r->held_load_in_order, "held_load",
        r->held_load);

    if (job->trace != NULL) {
        json_object_update_new(root, search_json(r));
        json_object_update_new(root, held_json(r));
    }
    if (job->tiering != NULL)
        json_object_set_new(root, "tiers", tiers_json(&job->tiers));
    return json_print(root);
}

void place_text(const place_job_t *job)
{
    const coterie_place_report_t *r = &job->report;

    if (job->trace != NULL)
        search_text(r);
    else
        printf("solver     %s, %.1f s\n"
               "affinity   none was available: loads have no order\n",
               r->solver, r->elapsed_s);
    loads_text(r);
    if (job->trace != NULL) {
        held_text(r);
        affinity_text(r);
    }
    if (job->tiering != NULL)
        tiers_text(&job->tiers);
}

static json_t *search_json(const coterie_place_report_t *r)
{
    return json_pack(
        "{s:b, s:f, s:f, s:f, s:f, s:f, s:f, s:b, s:f, s:f}", "proved",
        (int)r->proved, "cost_in_order", r->cost_in_order, "cost_random",
        r->cost_random, "cost", r->cost, "bound", r->bound, "gap", r->gap,
        "kappa", r->kappa, "polished", (int)r->polished, "train_copies",
        r->train_copies, "train_copies_polished", r->train_copies_polished);
}

static json_t *held_json(const coterie_place_report_t *r)
{
    static const char *const affinity[] = {"unknown", "held", "none"};

    return json_pack(
        "{s:I, s:f, s:f, s:f, s:f, s:f, s:f, s:s, s:f, s:f}", "held_tokens",
        (json_int_t)r->held_tokens, "held_cost_in_order",
        r->held_cost_in_order, "held_cost", r->held_cost,
        "held_copies_in_order", r->held_copies_in_order,
        "held_copies_two_phase", r->held_copies[0], "held_copies_owner",
        r->held_copies[1], "held_copies_forward", r->held_copies[2],
        "affinity", affinity[r->affinity], "affinity_gain", r->affinity_gain,
        "affinity_error", r->affinity_error);
}

static json_t *tiers_json(const coterie_tiering_report_t *t)
{
    return json_pack("{s:f, s:f, s:f, s:f, s:f}", "device_share",
                     t->device_share, "host_share", t->host_share,
                     "disk_share", t->disk_share, "token_us", t->token_us,
                     "token_us_in_order", t->token_us_in_order);
}

static void search_text(const coterie_place_report_t *r)
{
    printf("solver     %s, %.1f s\n"
           "cost       %.4f placed, %.4f in order, %.4f at random\n"
           "bound      %.4f, gap %.2f %%, kappa %.3f%s\n",
           r->solver, r->elapsed_s, r->cost, r->cost_in_order, r->cost_random,
           r->bound, 100 * r->gap, r->kappa,
           r->proved ? ": proved optimal" : "");
    if (r->polished)
        printf("polished   to %.4f copies per token and layer, from %.4f of "
               "the placement above (train)\n",
               r->train_copies_polished, r->train_copies);
}

static void loads_text(const coterie_place_report_t *r)
{
    if (r->cut)
        printf("cut short  by the time limit or Ctrl-C: the same seed may "
               "give another placement\n");
    printf("load       %.3f of the fullest rank over the mean (in order "
           "%.3f); held out: %.3f (%.3f)\n",
           r->load, r->load_in_order, r->held_load, r->held_load_in_order);
    if (!r->cap_raised)
        return;
    printf("load cap   raised to %.3f: the least that was found", r->load_cap);
    if (r->cure_spare > 0)
        printf("; by loads, --spare %u would cure it, with %u replicas in all",
               r->cure_spare, r->cure_replicas);
    printf("\n");
}

static void held_text(const coterie_place_report_t *r)
{
    printf("held out   cost %.4f placed, %.4f in order\n"
           "copies     %.3f two-phase in order; placed: %.3f two-phase, %.3f "
           "owner, %.3f forward\n",
           r->held_cost, r->held_cost_in_order, r->held_copies_in_order,
           r->held_copies[0], r->held_copies[1], r->held_copies[2]);
}

static void affinity_text(const coterie_place_report_t *r)
{
    double gain = 100 * r->affinity_gain, error = 100 * r->affinity_error;

    if (r->affinity == COTERIE_AFFINITY_HELD)
        printf("affinity   saves %.1f %% of held copies (+- %.1f) against the "
               "same loads shuffled\n",
               gain, error);
    else if (r->affinity == COTERIE_AFFINITY_NONE)
        printf("affinity   placement will not help: popularity only. Held "
               "copies are %.1f %% (+- %.1f) fewer than with the same loads "
               "shuffled\n",
               gain, error);
    else
        printf("affinity   too few tokens to say whether it holds\n");
}

static void tiers_text(const coterie_tiering_report_t *t)
{
    printf("tiers      %.1f %% of held uses on the device, %.1f %% on the "
           "host, %.1f %% on disk: %.0f us a token (filled in order: %.0f)\n",
           100 * t->device_share, 100 * t->host_share, 100 * t->disk_share,
           t->token_us, t->token_us_in_order);
}
