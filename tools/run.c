#include "config.h"

#include <stdio.h>
#include <stdlib.h>

#include "tools/budget.h"
#include "tools/job.h"
#include "tools/modes.h"
#include "tools/npy.h"
#include "tools/report.h"

static const char *const transport_names[] = {"threads", "mpi", NULL};
static const char *const predict_names[] = {"router", "group", "learned",
                                            NULL};

static int run_run(const invocation_t *in);
static int together(const invocation_t *in, coterie_transport_t *transport,
                    coterie_status_t status);
static coterie_status_t outputs_write(const job_t *job,
                                      const results_t *results);
static coterie_status_t report_json(const job_t *job,
                                    const results_t *results);
static json_t *sequences_json(const job_t *job, const results_t *results);
static json_t *times_json(const results_t *results);
static coterie_status_t report_text(const job_t *job,
                                    const results_t *results);
static void text_print(const job_t *job, const results_t *results,
                       uint32_t sequence);
static double decode_rate(const results_t *results);

#define FIELD(name) offsetof(run_options_t, name)

static const option_spec_t run_specs[] = {
    {"prompt", 'p', OPTION_LIST, FIELD(prompts), "TEXT",
     "a prompt; repeat it for several sequences", 0, 0, NULL},
    {"prompt-file", 0, OPTION_LIST, FIELD(prompts), "FILE",
     "a prompt: the whole file", 0, 0, NULL},
    {"prompt-lines", 0, OPTION_LIST, FIELD(prompts), "FILE",
     "prompts: one a line", 0, 0, NULL},
    {"prompt-ids", 0, OPTION_LIST, FIELD(prompts), "1,2,3",
     "a prompt as token ids", 0, 0, NULL},
    {"prompt-ids-file", 0, OPTION_LIST, FIELD(prompts), "FILE",
     "prompts as token ids: one a line", 0, 0, NULL},
    {"tokens", 'n', OPTION_COUNT, FIELD(tokens), "N",
     "tokens to add to each sequence (32)", 1, 1 << 24, NULL},
    {"ranks", 'r', OPTION_COUNT, FIELD(ranks), "R", "ranks to serve with (1)",
     1, 4096, NULL},
    {"transport", 0, OPTION_CHOICE, FIELD(transport), "threads|mpi",
     "ranks are threads, or processes of mpirun", 0, 0, transport_names},
    {"dispatch", 'd', OPTION_CHOICE, FIELD(dispatch),
     "auto|two-phase|owner|forward", "how tokens reach their experts", 0, 0,
     mode_names},
    {"placement", 0, OPTION_TEXT, FIELD(placement), "P.json",
     "which rank has which expert (in order)", 0, 0, NULL},
    {"nodes", 0, OPTION_COUNT, FIELD(nodes), "N",
     "nodes that the ranks are on (1)", 1, 4096, NULL},
    {"group", 0, OPTION_CHOICE, FIELD(group), "auto|all|node|none|across",
     "ranks that share keys and values", 0, 0, group_choices},
    {"predict", 0, OPTION_CHOICE, FIELD(predict), "router|group|learned",
     "where next: the router's guess, everywhere, better", 0, 0, predict_names},
    {"threads", 0, OPTION_COUNT, FIELD(threads), "N",
     "compute experts with N threads for all ranks", 1, 1024, NULL},
    {"wire", 0, OPTION_CHOICE, FIELD(wire), "f32|bf16|int8",
     "what travels between ranks: f32, or rounded", 0, 0, wire_names},
    {"compute", 0, OPTION_CHOICE, FIELD(compute), "f32|bf16|int8",
     "what meets experts' weights: f32, or rounded", 0, 0, compute_names},
    {"budget", 0, OPTION_TEXT, FIELD(budget), "25%|8G",
     "memory for experts (a device's); the store has others", 0, 0, NULL},
    {"host-budget", 0, OPTION_TEXT, FIELD(host_budget), "25%|8G",
     "and plain memory for more of them (none)", 0, 0, NULL},
    {"policy", 0, OPTION_CHOICE, FIELD(policy), "lru|lfu|cost",
     "which expert leaves full memory (lru)", 0, 0, policy_names},
    {"polling", 0, OPTION_CHOICE, FIELD(polling), "none|sqpoll|iopoll",
     "a core looks for reads to begin, or that ended", 0, 0, polling_names},
    {"hot", 0, OPTION_TEXT, FIELD(hot), "FILE",
     "start from these hot counts, and keep them there", 0, 0, NULL},
    {"tiers", 0, OPTION_TEXT, FIELD(tiers), "T.json",
     "start from what 'coterie place --tiers' decided", 0, 0, NULL},
    {"device", 0, OPTION_TEXT, FIELD(device), "cuda[:N]|host",
     "what computes experts; cuda: GPU N, or ranks in turns", 0, 0, NULL},
    {"trace", 0, OPTION_TEXT, FIELD(trace), "OUT.npz",
     "record the routing here", 0, 0, NULL},
    {"logits", 0, OPTION_TEXT, FIELD(logits), "OUT.npy",
     "write every position's logits here", 0, 0, NULL},
    {"temperature", 't', OPTION_REAL, FIELD(temperature), "T",
     "0 always takes the likeliest token (0)", 0, 100, NULL},
    {"seed", 's', OPTION_COUNT, FIELD(seed), "S",
     "of the draws, with a temperature", 0, UINT32_MAX, NULL},
    {"link-latency", 0, OPTION_REAL, FIELD(link_latency), "US",
     "emulate a link this slow, in microseconds", 0, 1e6, NULL},
    {"link-bandwidth", 0, OPTION_REAL, FIELD(link_bandwidth), "GBS",
     "and this narrow, in 1e9 bytes a second", 0, 1e6, NULL},
    {"json", 0, OPTION_FLAG, FIELD(json), NULL, "print one JSON object", 0, 0,
     NULL},
    {"force", 0, OPTION_FLAG, FIELD(force), NULL, "overwrite outputs", 0, 0,
     NULL},
    {NULL, 0, 0, 0, NULL, NULL, 0, 0, NULL}};

const command_t command_run = {
    .name = "run",
    .operands = "MODEL_DIR|STORE",
    .operands_least = 1,
    .operands_most = 1,
    .summary = "generates text with a model over several ranks",
    .details =
        "Every prompt is a sequence; its text goes to standard output,\n"
        "figures to standard error, or both as JSON (doc/json.md).\n"
        "A vocabulary of 256 is taken for bytes; other models take and give\n"
        "token ids. The text is the same for any ranks, dispatch, transport,\n"
        "placement and budget; rounded on the wire, logits vary a little.\n\n"
        "With --transport mpi each process is one rank:\n"
        "  mpirun -n 4 coterie run MODEL --prompt 'The' --ranks 4 "
        "--transport mpi\n",
    .options = run_specs,
    .options_size = sizeof(run_options_t),
    .run = run_run};

static int run_run(const invocation_t *in)
{
    run_options_t options = *(const run_options_t *)in->options;
    coterie_transport_t *transport = NULL; /* MPI's */
    coterie_status_t status = COTERIE_OK;
    results_t results = {0};
    job_t job = {0};
    int code;

    if (options.prompts.count == 0)
        return command_refuse(in, "needs a prompt");
    options.tokens = options.tokens != 0 ? options.tokens : 32;
    options.ranks = options.ranks != 0 ? options.ranks : 1;
    if (options.transport == TRANSPORT_MPI)
        status = ranks_join_mpi(&options, &transport);
    if (status == COTERIE_OK)
        status = job_open(&options, in->operands[0], &job);
    code = together(in, transport, status);
    if (code != EXIT_DONE)
        goto out;
    code = together(in, transport, budget_open(&job, transport));
    if (code != EXIT_DONE)
        goto out;
    status = transport != NULL ? rank_run(&job, transport, &results)
                               : ranks_run_threads(&job, &results);
    if (status == COTERIE_OK && results.tokens != NULL) /* rank 0 is here */
        status = outputs_write(&job, &results);
    if (status != COTERIE_OK)
        code = EXIT_FAILED;
    /* Among processes, the one where it began says what it was. */
    if (status != COTERIE_OK &&
        (transport == NULL || status != COTERIE_ERR_PEER))
        command_fail(in);
out:
    coterie_transport_close(transport);
    results_free(&results);
    job_close(&job);
    return code;
}

/* Ranks in other processes read the same options and files: if they fail, all
 * or some, one of them says so. */
static int together(const invocation_t *in, coterie_transport_t *transport,
                    coterie_status_t status)
{
    bool speaks = true;

    if (transport != NULL)
        status = ranks_agree(transport, status, &speaks);
    if (status != COTERIE_OK && speaks)
        command_fail(in);
    return status == COTERIE_OK ? EXIT_DONE : EXIT_FAILED;
}

/* Files first: whoever reads the text may rely on them. */
static coterie_status_t outputs_write(const job_t *job,
                                      const results_t *results)
{
    const run_options_t *o = job->options;
    coterie_status_t status = COTERIE_OK;

    if (o->trace != NULL)
        status = coterie_trace_write(results->trace, o->trace, o->force);
    if (status == COTERIE_OK && o->logits != NULL)
        status = npy_write(o->logits, results->logits_rows,
                           job->weights->config.vocab, results->logits);
    if (status == COTERIE_OK)
        status = budget_hot_write(job, results);
    if (status != COTERIE_OK)
        return status;
    return o->json ? report_json(job, results) : report_text(job, results);
}

static coterie_status_t report_json(const job_t *job, const results_t *results)
{
    const run_options_t *o = job->options;
    uint32_t layers = job->weights->config.moe_layers;
    json_t *object = json_pack(
        "{s:i, s:i, s:s, s:s, s:s, s:s, s:s, s:s, s:i, s:o, s:o, s:o, s:o, "
        "s:f}",
        "ranks", (int)o->ranks, "threads", (int)o->threads, "transport",
        transport_names[o->transport], "dispatch", mode_names[job->mode],
        "group", group_choices[job->group + 1],
        "predict", predict_names[o->predict], "wire", wire_names[o->wire],
        "compute", compute_names[o->compute], "moe_layers", (int)layers,
        "sequences", sequences_json(job, results), "prefill",
        counts_json(&results->counts[COTERIE_PHASE_PREFILL], layers),
        "decode", counts_json(&results->counts[COTERIE_PHASE_DECODE], layers),
        "time", times_json(results), "decode_tokens_per_second",
        decode_rate(results));
    json_t *steps = json_object();

    for (int mode = COTERIE_MODE_TWO_PHASE; mode <= COTERIE_MODE_FORWARD;
         mode++)
        json_object_set_new(
            steps, mode_names[mode],
            json_integer((json_int_t)results->times.steps_by_mode[mode]));
    json_object_set_new(object, "decode_steps_by_mode", steps);
    if (job->tiers != NULL)
        json_object_set_new(object, "offload", budget_json(job, results));
    return json_print(object);
}

static json_t *sequences_json(const job_t *job, const results_t *results)
{
    const prompts_t *p = &job->prompts;
    bool bytes = job->weights->config.vocab == BYTE_VOCAB;
    char *text = malloc(job->options->tokens);
    json_t *list = json_array();

    for (uint32_t s = 0; s < p->count && text != NULL; s++) {
        const int32_t *added = results->tokens + p->start[s] + p->length[s];
        json_t *tokens = json_array();
        json_t *sequence = json_pack("{s:i, s:o}", "prompt_tokens",
                                     (int)p->length[s], "tokens", tokens);
        for (uint32_t i = 0; i < job->options->tokens; i++) {
            json_array_append_new(tokens, json_integer(added[i]));
            text[i] = (char)added[i];
        }
        if (bytes)
            json_object_set_new(sequence, "text",
                                json_bytes(text, job->options->tokens));
        json_array_append_new(list, sequence);
    }
    free(text);
    return list;
}

static json_t *times_json(const results_t *results)
{
    const coterie_times_t *t = &results->times;

    return json_pack("{s:f, s:f, s:f, s:f, s:f}", "prefill_s",
                     results->prefill_s, "decode_s", results->decode_s,
                     "exchange_s", 1e-9 * (double)t->exchange_ns, "wait_s",
                     1e-9 * (double)t->wait_ns, "experts_s",
                     1e-9 * (double)t->experts_ns);
}

static coterie_status_t report_text(const job_t *job, const results_t *results)
{
    const coterie_times_t *t = &results->times;
    uint32_t layers = job->weights->config.moe_layers;

    for (uint32_t s = 0; s < job->prompts.count; s++)
        text_print(job, results, s);
    if (fflush(stdout) != 0)
        return failure(COTERIE_ERR_IO, "standard output: not written");
    fprintf(stderr, "%u ranks as %s, dispatch %s, group %s\n",
            job->options->ranks, transport_names[job->options->transport],
            mode_names[job->mode], group_choices[job->group + 1]);
    counts_print(stderr, "prefill", &results->counts[COTERIE_PHASE_PREFILL],
                 layers);
    counts_print(stderr, "decode", &results->counts[COTERIE_PHASE_DECODE],
                 layers);
    fprintf(stderr,
            "  tokens per second                     %8.1f\n"
            "time of a rank: %.3f s in exchanges, %.3f s waiting for messages, "
            "%.3f s in experts\n",
            decode_rate(results), 1e-9 * (double)t->exchange_ns,
            1e-9 * (double)t->wait_ns, 1e-9 * (double)t->experts_ns);
    if (job->tiers != NULL)
        budget_print(stderr, job, results);
    return COTERIE_OK;
}

/* The prompt and what follows; without a text, the ids that follow. */
static void text_print(const job_t *job, const results_t *results,
                       uint32_t sequence)
{
    const prompts_t *p = &job->prompts;
    const int32_t *tokens = results->tokens + p->start[sequence];
    uint32_t prompt = p->length[sequence];
    uint32_t end = prompt + job->options->tokens;

    if (job->weights->config.vocab == BYTE_VOCAB)
        for (uint32_t i = 0; i < end; i++)
            putchar(tokens[i]);
    else
        for (uint32_t i = prompt; i < end; i++)
            printf("%s%d", i > prompt ? "," : "", tokens[i]);
    putchar('\n');
}

static double decode_rate(const results_t *results)
{
    double tokens =
        (double)results->counts[COTERIE_PHASE_DECODE].tokens;

    return results->decode_s > 0 ? tokens / results->decode_s : 0;
}
