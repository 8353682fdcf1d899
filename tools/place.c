#include "config.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/command.h"
#include "tools/modes.h"
#include "tools/place.h"
#include "tools/report.h"

typedef struct place_options {
    cluster_options_t cluster;
    uint32_t spare, objective, mode, seed, experts, format, threads;
    double load_cap, time_limit, host_us, disk_us;
    const char *output, *tiers, *expert_bytes, *device_memory, *host_memory;
    bool json, force, proof, loads;
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
    {"loads", 0, OPTION_FLAG, FIELD(loads), NULL,
     "the operand holds loads, without order", 0, 0, NULL},
    {"expert-bytes", 0, OPTION_TEXT, FIELD(expert_bytes), "BYTES",
     "of one expert, as in 12M; memory and tiers need it", 0, 0, NULL},
    {"tiers", 0, OPTION_TEXT, FIELD(tiers), "T.json",
     "where to write which expert starts in which tier", 0, 0, NULL},
    {"device-memory", 0, OPTION_TEXT, FIELD(device_memory), "BYTES",
     "of a rank, for experts, as in 8G (none)", 0, 0, NULL},
    {"host-memory", 0, OPTION_TEXT, FIELD(host_memory), "BYTES",
     "the same, of its host (none)", 0, 0, NULL},
    {"host-cost", 0, OPTION_REAL, FIELD(host_us), "US",
     "of an expert used from the host (reading at 25 GB/s)", 0, 1e9, NULL},
    {"disk-cost", 0, OPTION_REAL, FIELD(disk_us), "US",
     "of an expert used from the disk (reading at 3 GB/s)", 0, 1e9, NULL},
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
    .operands = "TRACE|LOADS",
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
static coterie_status_t job_open(const invocation_t *in, place_job_t *job);
static void job_close(place_job_t *job);
static coterie_status_t bytes_parse(const char *option, const char *text,
                                    uint64_t *bytes_p);
static coterie_status_t place_search(const place_options_t *o,
                                     place_job_t *job);
static coterie_status_t place_tiers(const place_options_t *o,
                                    place_job_t *job);

static int place_run(const invocation_t *in)
{
    const place_options_t *o = in->options;
    place_job_t job = {.report = COTERIE_PLACE_REPORT_INIT,
                       .tiers = COTERIE_TIERING_REPORT_INIT};
    coterie_status_t status;

    if (o->cluster.ranks == 0 && o->cluster.topology == NULL)
        return command_refuse(in, "needs --ranks R or --topology");
    if (o->output == NULL)
        return command_refuse(in, "needs -o P.json");
    if (o->tiers != NULL && (o->expert_bytes == NULL || o->loads))
        return command_refuse(in, "--tiers needs a trace and --expert-bytes");
    status = job_open(in, &job);
    if (status == COTERIE_OK)
        status = place_search(o, &job);
    if (status == COTERIE_OK && o->tiers != NULL)
        status = place_tiers(o, &job);
    if (status == COTERIE_OK)
        status = coterie_placement_write(
            job.placement, o->output, (coterie_placement_format_t)o->format,
            o->force);
    if (status == COTERIE_OK && o->tiers != NULL)
        status = coterie_tiering_write(job.tiering, o->tiers, o->force);
    if (status == COTERIE_OK && o->json)
        status = place_json(&job);
    else if (status == COTERIE_OK)
        place_text(&job);
    job_close(&job);
    return status == COTERIE_OK ? EXIT_DONE : command_fail(in);
}

static coterie_status_t job_open(const invocation_t *in, place_job_t *job)
{
    const place_options_t *o = in->options;
    coterie_status_t status = output_check(o->output, o->force);

    if (status == COTERIE_OK && o->tiers != NULL)
        status = output_check(o->tiers, o->force);
    if (status == COTERIE_OK)
        status = bytes_parse("expert-bytes", o->expert_bytes,
                             &job->expert_bytes);
    if (status == COTERIE_OK)
        status = cluster_open(&o->cluster, &job->cluster);
    if (status == COTERIE_OK && o->loads)
        status = coterie_loads_read(in->operands[0], &job->loads);
    else if (status == COTERIE_OK)
        status = coterie_trace_read(in->operands[0], o->experts, &job->trace);
    return status;
}

static void job_close(place_job_t *job)
{
    coterie_tiering_destroy(job->tiering);
    coterie_placement_destroy(job->placement);
    coterie_trace_destroy(job->trace);
    coterie_loads_destroy(job->loads);
    cluster_close(&job->cluster);
}

/* As in 12M. NULL is 0. */
static coterie_status_t bytes_parse(const char *option, const char *text,
                                    uint64_t *bytes_p)
{
    static const char units[] = "KMGT";
    char *end = NULL;
    double value = text == NULL ? 0 : strtod(text, &end);

    if (text != NULL && *end != 0 && strchr(units, *end) != NULL)
        for (const char *u = units; u <= strchr(units, *end); u++)
            value *= 1024;
    end = end != NULL && *end != 0 ? end + 1 : end;
    if (text != NULL && (!(value >= 1 && value < 1e18) || *end != 0))
        return failure(COTERIE_ERR_INVALID,
                       "--%s %s: give bytes, as in 8G or 500M", option, text);
    *bytes_p = (uint64_t)value;
    return COTERIE_OK;
}

static coterie_status_t place_search(const place_options_t *o,
                                     place_job_t *job)
{
    progress_t progress = {.what = "place"};
    struct sigaction ours = {.sa_handler = interrupt}, before;
    coterie_place_options_t options = COTERIE_PLACE_OPTIONS_INIT;
    coterie_topology_options_t view = COTERIE_TOPOLOGY_OPTIONS_INIT;
    coterie_status_t status;

    if (job->cluster.topology != NULL)
        coterie_topology_view(job->cluster.topology, &view);
    options.rank_count = job->cluster.ranks;
    options.node_count = job->cluster.nodes;
    options.spare = o->spare;
    options.objective = o->objective;
    options.mode = o->mode;
    options.seed = o->seed;
    options.load_cap = o->load_cap;
    options.time_limit_s = o->time_limit;
    options.network_cost = job->cluster.network_cost;
    options.threads = o->threads;
    options.proof = o->proof;
    options.slots = view.slots;
    options.expert_bytes = job->expert_bytes;
    options.memory = job->expert_bytes > 0 ? view.memory : NULL;
    options.progress = place_progress;
    options.progress_arg = &progress;
    sigaction(SIGINT, &ours, &before);
    status = o->loads ? coterie_place_loads(job->loads, &options,
                                            &job->placement, &job->report)
                      : coterie_place(job->trace, &options, &job->placement,
                                      &job->report);
    sigaction(SIGINT, &before, NULL);
    progress_end(&progress);
    return status;
}

static coterie_status_t place_tiers(const place_options_t *o, place_job_t *job)
{
    coterie_tiering_options_t options = COTERIE_TIERING_OPTIONS_INIT;
    coterie_status_t status = bytes_parse("device-memory", o->device_memory,
                                          &options.device_bytes);

    if (status == COTERIE_OK)
        status = bytes_parse("host-memory", o->host_memory,
                             &options.host_bytes);
    options.expert_bytes = job->expert_bytes;
    options.host_us = o->host_us;
    options.disk_us = o->disk_us;
    options.mode = o->mode;
    if (status == COTERIE_OK)
        status = coterie_tiering_create(job->trace, job->placement, &options,
                                        &job->tiering, &job->tiers);
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
    double gap = now->cost > 0 ? (now->cost - now->bound) / now->cost : 0;

    snprintf(text, sizeof(text),
             "%s: cost %.4f, bound %.4f, gap %.3f %%, %.0f s, at most %.0f s "
             "more",
             now->solver, now->cost, now->bound, 100 * gap, now->elapsed_s,
             now->left_s > 0 ? now->left_s : 0);
    progress_show(arg, text);
    return interrupted;
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
