#include "config.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

#include <coterie/coterie.h>

#include "tools/command.h"
#include "tools/modes.h"
#include "tools/report.h"

typedef struct replace_options {
    const char *output, *model, *budget_bytes, *moves;
    uint32_t ranks, mode, seed, experts, format;
    double expert_bytes, network_cost, load_cap, time_limit;
    bool json, force;
} replace_options_t;

static int replace_run(const invocation_t *in);

#define FIELD(name) offsetof(replace_options_t, name)

static const option_spec_t replace_specs[] = {
    {"output", 'o', OPTION_TEXT, FIELD(output), "NEW",
     "where to write the placement", 0, 0, NULL},
    {"moves", 0, OPTION_TEXT, FIELD(moves), "N",
     "experts that may move (all)", 0, 0, NULL},
    {"budget-bytes", 'b', OPTION_TEXT, FIELD(budget_bytes), "B",
     "or bytes of them; needs the size of an expert", 0, 0, NULL},
    {"expert-bytes", 0, OPTION_REAL, FIELD(expert_bytes), "B",
     "what an expert takes", 1, 1e15, NULL},
    {"model", 'm', OPTION_TEXT, FIELD(model), "MODEL",
     "or take that from it", 0, 0, NULL},
    {"ranks", 'r', OPTION_COUNT, FIELD(ranks), "R",
     "ranks, where OLD does not say", 1, 4096, NULL},
    {"mode", 0, OPTION_CHOICE, FIELD(mode), "two-phase|owner|forward",
     "the dispatch it serves (owner)", 0, 0, mode_names},
    {"load-cap", 0, OPTION_REAL, FIELD(load_cap), "F",
     "fullest rank's load over the mean (none)", 1, 4096, NULL},
    {"network-cost", 0, OPTION_REAL, FIELD(network_cost), "F",
     "a copy between nodes, in copies within (8)", 1, 1e6, NULL},
    {"time-limit", 0, OPTION_REAL, FIELD(time_limit), "S",
     "seconds to search at most (60)", 0.01, 1e7, NULL},
    {"seed", 's', OPTION_COUNT, FIELD(seed), "S", "of the search", 0,
     UINT32_MAX, NULL},
    {"format", 'f', OPTION_CHOICE, FIELD(format), "NAME",
     "of NEW: as of 'coterie convert' (coterie)", 0, 0, format_names},
    {"json", 0, OPTION_FLAG, FIELD(json), NULL, "print one JSON object", 0, 0,
     NULL},
    {"force", 0, OPTION_FLAG, FIELD(force), NULL,
     "overwrite an existing file", 0, 0, NULL},
    {NULL, 0, 0, 0, NULL, NULL, 0, 0, NULL}};

const command_t command_replace = {
    .name = "replace",
    .operands = "OLD TRACE",
    .operands_least = 2,
    .operands_most = 2,
    .summary = "betters a placement by moving few experts",
    .details =
        "Decides on the first half of the trace's sequences which experts of\n"
        "the placement OLD to copy to other ranks, and lists the moves:\n"
        "layer, expert, from which rank, to which, bytes. Its ranks, nodes\n"
        "and slots stay; what is not moved stays in its slot. More moves are\n"
        "never worse on that half; copies on the other are printed, also for\n"
        "moving as much as one likes ('all').\n",
    .options = replace_specs,
    .options_size = sizeof(replace_options_t),
    .run = replace_run};

#ifdef HAVE_GLPK

#include <coterie/replace.h>

/* One call. */
typedef struct job {
    const replace_options_t *options;
    coterie_placement_t *old, *placement;
    coterie_trace_t *trace;
    coterie_move_t *moves;
    coterie_replace_report_t report;
    double expert_bytes; /* 0: not known */
    uint64_t moves_most;
} job_t;

static volatile sig_atomic_t interrupted;

static coterie_status_t inputs_open(job_t *job, char *const *operands);
static coterie_status_t expert_bytes_read(job_t *job);
static coterie_status_t budget_read(job_t *job);
static coterie_status_t number_read(const char *name, const char *text,
                                    double *number_p);
static coterie_status_t moves_choose(job_t *job);
static void interrupt(int signal_number);
static int replace_progress(void *arg, const coterie_place_progress_t *now);
static coterie_status_t replace_json(const job_t *job);
static void replace_text(const job_t *job);

static int replace_run(const invocation_t *in)
{
    const replace_options_t *o = in->options;
    job_t job = {.options = o, .report = COTERIE_REPLACE_REPORT_INIT};
    coterie_status_t status;

    if (o->output == NULL)
        return command_refuse(in, "needs -o NEW");
    if (o->moves != NULL && o->budget_bytes != NULL)
        return command_refuse(in, "--moves or --budget-bytes, not both");
    status = output_check(o->output, o->force);
    if (status == COTERIE_OK)
        status = inputs_open(&job, in->operands);
    if (status == COTERIE_OK)
        status = moves_choose(&job);
    if (status == COTERIE_OK)
        status = coterie_placement_write(
            job.placement, o->output, (coterie_placement_format_t)o->format,
            o->force);
    if (status == COTERIE_OK && o->json)
        status = replace_json(&job);
    else if (status == COTERIE_OK)
        replace_text(&job);
    coterie_placement_destroy(job.old);
    coterie_placement_destroy(job.placement);
    coterie_trace_destroy(job.trace);
    free(job.moves);
    return status == COTERIE_OK ? EXIT_DONE : command_fail(in);
}

static coterie_status_t inputs_open(job_t *job, char *const *operands)
{
    coterie_placement_options_t view;
    coterie_status_t status = expert_bytes_read(job);

    if (status == COTERIE_OK)
        status = budget_read(job);
    if (status == COTERIE_OK)
        status = coterie_placement_read(operands[0], job->options->ranks,
                                        &job->old);
    if (status != COTERIE_OK)
        return status;
    coterie_placement_view(job->old, &view);
    return coterie_trace_read(operands[1], view.expert_count, &job->trace);
}

static coterie_status_t expert_bytes_read(job_t *job)
{
    coterie_expert_format_t format = {.size = sizeof(format)};
    coterie_model_t *model = NULL;
    coterie_status_t status;

    job->expert_bytes = job->options->expert_bytes;
    if (job->options->model == NULL || job->expert_bytes != 0)
        return COTERIE_OK;
    status = coterie_model_open(job->options->model, &model);
    if (status != COTERIE_OK)
        return status;
    coterie_model_expert_format(model, &format);
    job->expert_bytes = (double)format.record_size;
    coterie_model_close(model);
    return COTERIE_OK;
}

static coterie_status_t budget_read(job_t *job)
{
    const replace_options_t *o = job->options;
    double number = 0;
    coterie_status_t status = COTERIE_OK;

    job->moves_most = UINT64_MAX;
    if (o->moves != NULL)
        status = number_read("moves", o->moves, &number);
    if (status == COTERIE_OK && o->moves != NULL)
        job->moves_most = (uint64_t)number;
    if (o->budget_bytes == NULL)
        return status;
    if (job->expert_bytes == 0)
        return failure(COTERIE_ERR_INVALID,
                       "--budget-bytes needs --expert-bytes or --model");
    status = number_read("budget-bytes", o->budget_bytes, &number);
    if (status == COTERIE_OK)
        job->moves_most = (uint64_t)(number / job->expert_bytes);
    return status;
}

static coterie_status_t number_read(const char *name, const char *text,
                                    double *number_p)
{
    char *end;
    double number = strtod(text, &end);

    if (end == text || *end != '\0' || !(number >= 0 && number < 1e18))
        return failure(COTERIE_ERR_INVALID,
                       "--%s takes a number from 0 on, not '%s'", name, text);
    *number_p = number;
    return COTERIE_OK;
}

static coterie_status_t moves_choose(job_t *job)
{
    const replace_options_t *o = job->options;
    progress_t progress = {.what = "replace"};
    struct sigaction ours = {.sa_handler = interrupt}, before;
    coterie_replace_options_t options = COTERIE_REPLACE_OPTIONS_INIT;
    coterie_status_t status;

    options.is_limited = job->moves_most != UINT64_MAX;
    options.moves_most = job->moves_most;
    options.mode = o->mode;
    options.network_cost = o->network_cost;
    options.load_cap = o->load_cap;
    options.time_limit_s = o->time_limit;
    options.seed = o->seed;
    options.progress = replace_progress;
    options.progress_arg = &progress;
    sigaction(SIGINT, &ours, &before);
    status = coterie_replace(job->old, job->trace, &options, &job->placement,
                             &job->moves, &job->report);
    sigaction(SIGINT, &before, NULL);
    progress_end(&progress);
    return status;
}

static void interrupt(int signal_number)
{
    (void)signal_number;
    interrupted = 1;
}

static int replace_progress(void *arg, const coterie_place_progress_t *now)
{
    char text[120];

    snprintf(text, sizeof(text), "%s: cost %.4f, %.0f s, at most %.0f s more",
             now->solver, now->cost, now->elapsed_s, now->left_s);
    progress_show(arg, text);
    return interrupted;
}

static coterie_status_t replace_json(const job_t *job)
{
    const coterie_replace_report_t *r = &job->report;
    json_t *moves = json_array();

    for (uint64_t i = 0; i < r->moves; i++)
        json_array_append_new(
            moves,
            json_pack("{s:i, s:i, s:i, s:i}", "layer",
                      (int)job->moves[i].layer, "expert",
                      (int)job->moves[i].expert, "from",
                      (int)job->moves[i].from, "to", (int)job->moves[i].to));
    return json_print(json_pack(
        "{s:o, s:I, s:I, s:f, s:f, s:f, s:f, s:f, s:f, s:f}", "moves", moves,
        "move_count", (json_int_t)r->moves, "moves_all",
        (json_int_t)r->moves_all, "expert_bytes", job->expert_bytes, "bytes",
        job->expert_bytes * (double)r->moves, "train_copies_before",
        r->train_copies_before, "train_copies", r->train_copies,
        "held_copies_before", r->held_copies_before, "held_copies",
        r->held_copies, "held_copies_all", r->held_copies_all));
}

static void replace_text(const job_t *job)
{
    const coterie_replace_report_t *r = &job->report;

    printf("moves      %llu experts, %.0f bytes (all: %llu), %.1f s\n"
           "train      %.4f copies per token and layer, %.4f before\n"
           "held out   %.4f, %.4f before (all: %.4f)\n",
           (unsigned long long)r->moves, job->expert_bytes * (double)r->moves,
           (unsigned long long)r->moves_all, r->elapsed_s, r->train_copies,
           r->train_copies_before, r->held_copies, r->held_copies_before,
           r->held_copies_all);
    for (uint64_t i = 0; i < r->moves; i++)
        printf("layer %u expert %u rank %u to %u, %.0f bytes\n",
               job->moves[i].layer, job->moves[i].expert, job->moves[i].from,
               job->moves[i].to, job->expert_bytes);
}

#else

static int replace_run(const invocation_t *in)
{
    failure(COTERIE_ERR_UNSUPPORTED,
            "built without GLPK, which decides placements; configure "
            "--with-glpk");
    return command_fail(in);
}

#endif
