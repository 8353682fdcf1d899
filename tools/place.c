#include "config.h"

#include <signal.h>
#include <stdio.h>

#include <coterie/place.h>

#include "tools/cluster.h"
#include "tools/command.h"
#include "tools/modes.h"
#include "tools/report.h"

typedef struct place_options {
    cluster_options_t cluster;
    uint32_t spare, objective, mode, seed, experts, format, threads;
    double load_cap, time_limit;
    const char *output;
    bool json, force, proof;
} place_options_t;

static const char *const objective_names[] = {"dispatch", "crossing", NULL};

static int place_run(const invocation_t *in);

#define FIELD(name) offsetof(place_options_t, name)

static const option_spec_t place_specs[] = {
    {"ranks", 'r', OPTION_COUNT, FIELD(cluster.ranks), "R",
     "ranks to place on; needed without --topology", 1, 4096, NULL},
    {"output", 'o', OPTION_TEXT, FIELD(output), "P.json",
     "where to write the placement", 0, 0, NULL},
    {"nodes", 0, OPTION_COUNT, FIELD(cluster.nodes), "N",
     "nodes that the ranks are on (1)", 1, 4096, NULL},
    CLUSTER_TOPOLOGY_SPECS(FIELD(cluster)),
    {"spare", 0, OPTION_COUNT, FIELD(spare), "N",
     "replica slots per rank and layer (0)", 0, 1 << 15, NULL},
    {"load-cap", 0, OPTION_REAL, FIELD(load_cap), "F",
     "fullest rank's load over the mean (none)", 1, 4096, NULL},
    {"objective", 0, OPTION_CHOICE, FIELD(objective), "dispatch|crossing",
     "what is minimised (dispatch)", 0, 0, objective_names},
    {"mode", 0, OPTION_CHOICE, FIELD(mode), "two-phase|owner|forward",
     "the dispatch it serves (owner)", 0, 0, mode_names},
    {"time-limit", 0, OPTION_REAL, FIELD(time_limit), "S",
     "seconds to search at most (60)", 0.01, 1e7, NULL},
    {"seed", 's', OPTION_COUNT, FIELD(seed), "S", "of the search", 0,
     UINT32_MAX, NULL},
    {"threads", 't', OPTION_COUNT, FIELD(threads), "T",
     "threads to search with (1)", 1, 256, NULL},
    {"proof", 0, OPTION_FLAG, FIELD(proof), NULL,
     "work on the bound until it is proved or time is out", 0, 0, NULL},
    {"network-cost", 0, OPTION_REAL, FIELD(cluster.network_cost), "F",
     "a copy between nodes, in copies within (8)", 0.001, 1e6, NULL},
    {"experts", 'e', OPTION_COUNT, FIELD(experts), "N",
     "experts per layer (the largest id and one)", 1, 1 << 15, NULL},
    {"format", 'f', OPTION_CHOICE, FIELD(format), "NAME",
     "of the file: as of 'coterie convert' (coterie)", 0, 0, format_names},
    {"json", 0, OPTION_FLAG, FIELD(json), NULL, "print one JSON object", 0, 0,
     NULL},
    {"force", 0, OPTION_FLAG, FIELD(force), NULL,
     "overwrite an existing file", 0, 0, NULL},
    {NULL, 0, 0, 0, NULL, NULL, 0, 0, NULL}};

const command_t command_place = {
    .name = "place",
    .operands = "TRACE",
    .operands_least = 1,
    .operands_most = 1,
    .summary = "decides which rank holds which expert, by GLPK",
    .details =
        "Optimises on the first half of the trace's sequences and reports on\n"
        "both halves. Ctrl-C stops the search; the best so far is written.\n\n"
        "What the figures mean:\n"
        "  cost      per token, in the objective's unit, with experts in\n"
        "            order, at random, and placed; 'bound': no placement can\n"
        "            cost less\n"
        "  gap       (cost - bound) / cost; 0 is proved optimal\n"
        "  kappa     (random - cost) / (random - bound): 1 is all there is\n"
        "            to gain\n"
        "  load      of the fullest rank over the mean, in the worst layer\n"
        "  copies    per token and layer on the half not optimised on, as\n"
        "            'coterie sim' counts them\n\n" CLUSTER_HELP,
    .options = place_specs,
    .options_size = sizeof(place_options_t),
    .run = place_run};

#ifdef HAVE_GLPK

static volatile sig_atomic_t interrupted;

static void interrupt(int signal_number);
static int place_progress(void *arg, const coterie_place_progress_t *now);
static coterie_status_t place_search(const place_options_t *o,
                                     const cluster_t *cluster,
                                     const coterie_trace_t *trace,
                                     coterie_placement_t **placement_p,
                                     coterie_place_report_t *report);
static coterie_status_t place_json(const coterie_place_report_t *r);
static void place_text(const coterie_place_report_t *r);

static int place_run(const invocation_t *in)
{
    const place_options_t *o = in->options;
    coterie_place_report_t report = COTERIE_PLACE_REPORT_INIT;
    cluster_t cluster = {.topology = NULL};
    coterie_placement_t *placement = NULL;
    coterie_trace_t *trace = NULL;
    coterie_status_t status;

    if (o->cluster.ranks == 0 && o->cluster.topology == NULL)
        return command_refuse(in, "needs --ranks R or --topology");
    if (o->output == NULL)
        return command_refuse(in, "needs -o P.json");
    status = output_check(o->output, o->force);
    if (status == COTERIE_OK)
        status = cluster_open(&o->cluster, &cluster);
    if (status == COTERIE_OK)
        status = coterie_trace_read(in->operands[0], o->experts, &trace);
    if (status == COTERIE_OK)
        status = place_search(o, &cluster, trace, &placement, &report);
    if (status == COTERIE_OK)
        status = coterie_placement_write(
            placement, o->output, (coterie_placement_format_t)o->format,
            o->force);
    coterie_placement_destroy(placement);
    coterie_trace_destroy(trace);
    cluster_close(&cluster);
    if (status == COTERIE_OK && o->json)
        status = place_json(&report);
    else if (status == COTERIE_OK)
        place_text(&report);
    return status == COTERIE_OK ? EXIT_DONE : command_fail(in);
}

static coterie_status_t place_search(const place_options_t *o,
                                     const cluster_t *cluster,
                                     const coterie_trace_t *trace,
                                     coterie_placement_t **placement_p,
                                     coterie_place_report_t *report)
{
    progress_t progress = {.what = "place"};
    struct sigaction ours = {.sa_handler = interrupt}, before;
    coterie_place_options_t options = COTERIE_PLACE_OPTIONS_INIT;
    coterie_status_t status;

    options.rank_count = cluster->ranks;
    options.node_count = cluster->nodes;
    options.spare = o->spare;
    options.objective = o->objective;
    options.mode = o->mode;
    options.seed = o->seed;
    options.load_cap = o->load_cap;
    options.time_limit_s = o->time_limit;
    options.network_cost = cluster->network_cost;
    options.threads = o->threads;
    options.proof = o->proof;
    options.progress = place_progress;
    options.progress_arg = &progress;
    sigaction(SIGINT, &ours, &before);
    status = coterie_place(trace, &options, placement_p, report);
    sigaction(SIGINT, &before, NULL);
    progress_end(&progress);
    return status;
}

/* The search asks now and then, and ends with the best it has: what was found
 * is worth keeping. */
static void interrupt(int signal_number)
{
    (void)signal_number;
    interrupted = 1;
}

static int place_progress(void *arg, const coterie_place_progress_t *now)
{
    char text[160];

    snprintf(text, sizeof(text),
             "%s: cost %.4f, bound %.4f, %.0f s, at most %.0f s more",
             now->solver, now->cost, now->bound, now->elapsed_s, now->left_s);
    progress_show(arg, text);
    return interrupted;
}

static coterie_status_t place_json(const coterie_place_report_t *r)
{
    return json_print(json_pack(
        "{s:s, s:b, s:b, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, "
        "s:f, s:f, s:f, s:f, s:f, s:f, s:b, s:f, s:f}",
        "solver", r->solver, "proved", (int)r->proved, "load_cap_raised",
        (int)r->cap_raised, "load_cap", r->load_cap, "cost_in_order",
        r->cost_in_order, "cost_random", r->cost_random, "cost", r->cost,
        "bound", r->bound, "gap", r->gap, "kappa", r->kappa, "load_in_order",
        r->load_in_order, "load", r->load, "held_cost_in_order",
        r->held_cost_in_order, "held_cost", r->held_cost,
        "held_copies_in_order", r->held_copies_in_order,
        "held_copies_two_phase", r->held_copies[0], "held_copies_owner",
        r->held_copies[1], "held_copies_forward", r->held_copies[2],
        "elapsed_s", r->elapsed_s, "polished", (int)r->polished,
        "train_copies", r->train_copies, "train_copies_polished",
        r->train_copies_polished));
}

static void place_text(const coterie_place_report_t *r)
{
    printf("solver     %s, %.1f s\n"
           "cost       %.4f placed, %.4f in order, %.4f at random\n"
           "bound      %.4f, gap %.2f %%, kappa %.3f%s\n"
           "load       %.3f of the fullest rank over the mean (in order "
           "%.3f)\n",
           r->solver, r->elapsed_s, r->cost, r->cost_in_order, r->cost_random,
           r->bound, 100 * r->gap, r->kappa,
           r->proved ? ": proved optimal" : "", r->load, r->load_in_order);
    if (r->polished)
        printf("polished   to %.4f copies per token and layer, from %.4f of "
               "the placement above (train)\n",
               r->train_copies_polished, r->train_copies);
    if (r->cap_raised)
        printf("load cap   raised to %.3f: hot experts allow no less\n",
               r->load_cap);
    printf("held out   cost %.4f placed, %.4f in order\n"
           "copies     %.3f two-phase in order; placed: %.3f two-phase, %.3f "
           "owner, %.3f forward\n",
           r->held_cost, r->held_cost_in_order, r->held_copies_in_order,
           r->held_copies[0], r->held_copies[1], r->held_copies[2]);
}

#else

static int place_run(const invocation_t *in)
{
    failure(COTERIE_ERR_UNSUPPORTED,
            "built without GLPK, which decides placements; configure "
            "--with-glpk");
    return command_fail(in);
}

#endif
