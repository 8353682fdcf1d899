#include "config.h"

#include <stdio.h>

#include "tools/command.h"
#include "tools/report.h"

typedef struct trace_options {
    uint32_t experts;
    bool json;
} trace_options_t;

static int trace_run(const invocation_t *in);
static coterie_status_t trace_json(const coterie_trace_summary_t *s);
static void trace_text(const coterie_trace_summary_t *s);

static const option_spec_t trace_specs[] = {
    {"experts", 'e', OPTION_COUNT, offsetof(trace_options_t, experts), "N",
     "experts per layer (the largest id and one)", 1, 1 << 15, NULL},
    {"json", 0, OPTION_FLAG, offsetof(trace_options_t, json), NULL,
     "print one JSON object", 0, 0, NULL},
    {NULL, 0, 0, 0, NULL, NULL, 0, 0, NULL}};

const command_t command_trace = {
    .name = "trace",
    .operands = "FILE",
    .operands_least = 1,
    .operands_most = 1,
    .summary = "checks a routing trace and describes it",
    .details =
        "Reads .npz of Coterie and others with 'experts', .npy of\n"
        "[tokens, layers] or [tokens, layers, k], and CSV of layer,expert.\n\n"
        "What the figures mean:\n"
        "  load skew    the busiest expert's load over the mean of its layer;\n"
        "               1 is even. Mean and worst over the layers.\n"
        "  unused       experts, of all layers, that no token chose.\n"
        "  affinity     of the choices that follow an expert's in the next\n"
        "               layer, the share that falls on its k most frequent\n"
        "               successors. 'independent' is what the same loads\n"
        "               give if layers know nothing of each other, 'uniform'\n"
        "               what choosing at random gives. Placement lives on\n"
        "               what is above 'independent'.\n"
        "  fan-out      distinct ranks that one token's experts of a layer\n"
        "               are on, experts in order on 2, 4 and 8 ranks.\n",
    .options = trace_specs,
    .options_size = sizeof(trace_options_t),
    .run = trace_run};

static int trace_run(const invocation_t *in)
{
    const trace_options_t *o = in->options;
    coterie_trace_summary_t summary = COTERIE_TRACE_SUMMARY_INIT;
    coterie_trace_t *trace = NULL;
    coterie_status_t status =
        coterie_trace_read(in->operands[0], o->experts, &trace);

    if (status == COTERIE_OK)
        status = coterie_trace_summarise(trace, &summary);
    coterie_trace_destroy(trace);
    if (status == COTERIE_OK && o->json)
        status = trace_json(&summary);
    else if (status == COTERIE_OK)
        trace_text(&summary);
    return status == COTERIE_OK ? EXIT_DONE : command_fail(in);
}

static coterie_status_t trace_json(const coterie_trace_summary_t *s)
{
    return json_print(json_pack(
        "{s:I, s:I, s:i, s:i, s:i, s:i, s:f, s:f, s:f, s:f, s:f, "
        "s:{s:f, s:f, s:f}}",
        "tokens", (json_int_t)s->token_count, "sequences",
        (json_int_t)s->sequence_count, "layers", (int)s->layer_count,
        "experts", (int)s->expert_count, "k", (int)s->k, "experts_unused",
        (int)s->expert_unused, "load_skew_mean", s->load_skew_mean,
        "load_skew_max", s->load_skew_max, "affinity", s->affinity,
        "affinity_independent", s->affinity_independent, "affinity_uniform",
        s->affinity_uniform, "fan_out", "ranks_2", s->fan_out[0], "ranks_4",
        s->fan_out[1], "ranks_8", s->fan_out[2]));
}

static void trace_text(const coterie_trace_summary_t *s)
{
    static const unsigned ranks[] = {2, 4, 8};

    printf("tokens           %llu in %llu sequences\n"
           "layers           %u of %u experts, %u chosen per token\n"
           "load skew        %.2f mean, %.2f worst\n"
           "unused           %u experts\n"
           "affinity         %.3f (independent %.3f, uniform %.3f)\n",
           (unsigned long long)s->token_count,
           (unsigned long long)s->sequence_count, s->layer_count,
           s->expert_count, s->k, s->load_skew_mean, s->load_skew_max,
           s->expert_unused, s->affinity, s->affinity_independent,
           s->affinity_uniform);
    for (int i = 0; i < 3; i++)
        if (s->fan_out[i] > 0)
            printf("fan-out          %.2f on %u ranks, in order\n",
                   s->fan_out[i], ranks[i]);
}
