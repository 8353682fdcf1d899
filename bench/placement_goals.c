#include "config.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "bench/bench.h"
#include "bench/placement.h"

/* What placement promises of planted instances, beside what it reaches: one
 * line for every run. Half of the tokens is decided on. */

enum { TOKENS = 20000 };

typedef struct goal {
    const char *name;
    planting_t planting;
    uint32_t ranks, nodes;
    double load_cap, seconds;
    double gap, kappa; /* promised; 0: nothing is */
} goal_t;

static const goal_t goals[] = {
    {"32x8", {32, 8, 2, TOKENS, 4, 0, MEDIUM}, 8, 1, 0, 60, 0, 1},
    {"8x8", {8, 8, 2, TOKENS, 4, 0, MEDIUM}, 4, 1, 1.1, 60, 0, 1},
    {"24x16 medium", {24, 16, 2, TOKENS, 4, 0, MEDIUM}, 4, 1, 0, 60, 1e-4, 0},
    {"24x16 strong", {24, 16, 2, TOKENS, 4, 0, STRONG}, 4, 1, 0, 60, 1e-4, 0},
    {"24x16 weak", {24, 16, 2, TOKENS, 4, 0, WEAK}, 4, 1, 0, 60, 1e-3, 0},
    {"24x16 cap", {24, 16, 2, TOKENS, 4, 0, MEDIUM}, 4, 1, 1.1, 120, 3e-3, 0},
    {"24x64", {24, 64, 4, TOKENS, 12, 0, MEDIUM}, 8, 1, 1.1, 60, 0.01, 0.88},
    {"48x128", {48, 128, 8, TOKENS, 25, 0, MEDIUM}, 16, 2, 0, 120, 3e-3, 0},
    {"58x256 3 s", {58, 256, 8, TOKENS, 51, 0, MEDIUM}, 64, 8, 0, 3, 0, 0},
    {"58x256 60 s", {58, 256, 8, TOKENS, 51, 0, MEDIUM}, 64, 8, 0, 60, 0, 0},
    {"60x512 3 s", {60, 512, 8, TOKENS, 102, 0, MEDIUM}, 64, 1, 0, 3, 0, 0},
    {"60x512 60 s", {60, 512, 8, TOKENS, 102, 0, MEDIUM}, 64, 1, 0, 60, 0, 0},
};

static int goal_run(const goal_t *goal, uint32_t seed, double seconds);
static void goal_print(const goal_t *goal, uint32_t seed, double took,
                       const coterie_place_report_t *report);

int goals_run(const char *name, uint32_t seed, double seconds)
{
    int failed = 0;

    for (size_t i = 0; !failed && i < sizeof(goals) / sizeof(goals[0]); i++)
        if (strstr(goals[i].name, name) != NULL)
            failed = goal_run(&goals[i], seed, seconds);
    return failed;
}

static int goal_run(const goal_t *goal, uint32_t seed, double seconds)
{
    coterie_place_options_t options = COTERIE_PLACE_OPTIONS_INIT;
    coterie_place_report_t report = COTERIE_PLACE_REPORT_INIT;
    coterie_placement_t *placement = NULL;
    planting_t planting = goal->planting;
    coterie_trace_t *trace;
    double start;
    int failed;

    planting.seed = seed;
    trace = planted_trace(&planting);
    options.rank_count = goal->ranks;
    options.node_count = goal->nodes;
    options.objective = COTERIE_OBJECTIVE_CROSSING;
    options.seed = seed;
    options.load_cap = goal->load_cap;
    options.time_limit_s = seconds > 0 ? seconds : goal->seconds;
    start = bench_seconds();
    failed = trace == NULL ||
             coterie_place(trace, &options, &placement, &report) != COTERIE_OK;
    if (failed)
        fprintf(stderr, "placement: %s\n", coterie_last_error());
    else
        goal_print(goal, seed, bench_seconds() - start, &report);
    coterie_placement_destroy(placement);
    coterie_trace_destroy(trace);
    return failed;
}

static void goal_print(const goal_t *goal, uint32_t seed, double took,
                       const coterie_place_report_t *report)
{
    printf("{\"goal\": \"%s\", \"seed\": %u, \"load_cap\": %.2f, "
           "\"seconds\": %.3f, \"solver\": \"%s\", \"proved\": %s, "
           "\"cost\": %.6f, \"bound\": %.6f, \"gap\": %.6f, "
           "\"gap_asked\": %.4f, \"kappa\": %.4f, \"kappa_asked\": %.2f, "
           "\"cost_random\": %.6f, \"cut\": %s}\n",
           goal->name, seed, goal->load_cap, took, report->solver,
           report->proved ? "true" : "false", report->cost, report->bound,
           report->gap, goal->gap, report->kappa, goal->kappa,
           report->cost_random, report->cut ? "true" : "false");
    fflush(stdout);
}
