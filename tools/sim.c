#include "config.h"

#include <stdio.h>
#include <stdlib.h>

#include "tools/command.h"
#include "tools/modes.h"
#include "tools/report.h"
#include "tools/weights.h"

typedef struct sim_options {
    const char *placement, *model, *topology;
    uint32_t ranks, nodes, group, hidden, kv_row_size, prediction, experts;
    uint32_t dispatch; /* coterie_mode_t without auto */
    uint32_t wire;     /* coterie_wire_t */
    bool json;
} sim_options_t;

/* By coterie_simulate_options_t.prediction, after one for "not said". */
static const char *const prediction_names[] = {"auto", "group", "trace",
                                               "perfect", NULL};

static int sim_run(const invocation_t *in);
static coterie_status_t sizes_read(const sim_options_t *o,
                                   const coterie_trace_t *trace,
                                   coterie_simulate_options_t *options,
                                   uint32_t **kv_layers_p);
static coterie_status_t kv_layers_read(const coterie_model_t *model,
                                       const coterie_model_config_t *config,
                                       uint32_t **kv_layers_p);
static coterie_status_t placement_open(const sim_options_t *o,
                                       const coterie_trace_t *trace,
                                       coterie_topology_t **topology_p,
                                       coterie_placement_t **placement_p);
static coterie_status_t in_order_create(const sim_options_t *o,
                                        const coterie_trace_t *trace,
                                        const coterie_topology_t *topology,
                                        coterie_placement_t **placement_p);
static void prediction_choose(const sim_options_t *o,
                              const coterie_trace_t *trace,
                              coterie_simulate_options_t *options);
static coterie_status_t sim_report(const sim_options_t *o,
                                   const coterie_trace_t *trace,
                                   const coterie_simulate_options_t *options,
                                   const coterie_counts_t counts[2],
                                   const coterie_cost_t costs[2]);
static json_t *cost_json(const coterie_cost_t *cost);
static void cost_print(const char *phase, const coterie_cost_t *cost);

#define FIELD(name) offsetof(sim_options_t, name)

static const option_spec_t sim_specs[] = {
    {"placement", 'p', OPTION_TEXT, FIELD(placement), "P.json",
     "which rank has which expert (in order)", 0, 0, NULL},
    {"ranks", 'r', OPTION_COUNT, FIELD(ranks), "R",
     "ranks; needed without a placement or topology", 1, 4096, NULL},
    {"nodes", 0, OPTION_COUNT, FIELD(nodes), "N",
     "nodes, without a placement (1)", 1, 4096, NULL},
    {"topology", 0, OPTION_TEXT, FIELD(topology),
     "FILE|machine|synthetic:...", "predict times on this cluster", 0, 0,
     NULL},
    {"dispatch", 'd', OPTION_CHOICE, FIELD(dispatch),
     "two-phase|owner|forward", "how tokens reach their experts (two-phase)",
     0, 0, mode_names + 1},
    {"group", 0, OPTION_CHOICE, FIELD(group), "auto|all|node|none|across",
     "ranks that share keys and values", 0, 0, group_choices},
    {"prediction", 0, OPTION_CHOICE, FIELD(prediction),
     "auto|group|trace|perfect", "forward: what is known of the next layer",
     0, 0, prediction_names},
    {"wire", 0, OPTION_CHOICE, FIELD(wire), "f32|bf16|int8",
     "what travels between ranks (f32)", 0, 0, wire_names},
    {"model", 'm', OPTION_TEXT, FIELD(model), "MODEL",
     "take the two sizes below from it", 0, 0, NULL},
    {"hidden", 0, OPTION_COUNT, FIELD(hidden), "H",
     "elements of a hidden state", 1, 1 << 20, NULL},
    {"kv-row-size", 0, OPTION_COUNT, FIELD(kv_row_size), "BYTES",
     "keys and values of a token and layer", 0, 1 << 30, NULL},
    {"experts", 'e', OPTION_COUNT, FIELD(experts), "N",
     "experts per layer (the largest id and one)", 1, 1 << 15, NULL},
    {"json", 0, OPTION_FLAG, FIELD(json), NULL, "print one JSON object", 0, 0,
     NULL},
    {NULL, 0, 0, 0, NULL, NULL, 0, 0, NULL}};

const command_t command_sim = {
    .name = "sim",
    .operands = "TRACE",
    .operands_least = 1,
    .operands_most = 1,
    .summary = "counts what a run would send, without a model",
    .details =
        "The counts are those of 'coterie run' on the same trace and\n"
        "placement, copy by copy and byte by byte. Without sizes, copies and\n"
        "messages are right and bytes leave the hidden states out.\n"
        "'auto' prediction is the trace's where it has one, else the whole\n"
        "group. With --topology, which is as for 'coterie place', times of\n"
        "steps and layers are predicted as well; sizes matter for them.\n",
    .options = sim_specs,
    .options_size = sizeof(sim_options_t),
    .run = sim_run};

static int sim_run(const invocation_t *in)
{
    const sim_options_t *o = in->options;
    coterie_simulate_options_t options = COTERIE_SIMULATE_OPTIONS_INIT;
    coterie_cost_t costs[2] = {COTERIE_COST_INIT, COTERIE_COST_INIT};
    coterie_placement_t *placement = NULL;
    coterie_topology_t *topology = NULL;
    coterie_trace_t *trace = NULL;
    uint32_t *kv_layers = NULL;
    coterie_counts_t counts[2];
    coterie_status_t status;

    if (o->placement == NULL && o->ranks == 0 && o->topology == NULL)
        return command_refuse(in, "needs --placement, --ranks or --topology");
    options.mode = o->dispatch + COTERIE_MODE_TWO_PHASE;
    options.group = group_choose(o->group, (coterie_mode_t)options.mode);
    options.wire = o->wire;
    status = coterie_trace_read(in->operands[0], o->experts, &trace);
    if (status == COTERIE_OK)
        status = sizes_read(o, trace, &options, &kv_layers);
    if (status == COTERIE_OK)
        status = placement_open(o, trace, &topology, &placement);
    if (status != COTERIE_OK)
        goto out;
    prediction_choose(o, trace, &options);
    status = coterie_simulate(trace, placement, &options, counts);
    if (status == COTERIE_OK && topology != NULL)
        status = coterie_cost_predict(trace, placement, topology, &options,
                                      costs);
    if (status == COTERIE_OK)
        status = sim_report(o, trace, &options, counts, costs);
out:
    coterie_placement_destroy(placement);
    coterie_topology_destroy(topology);
    coterie_trace_destroy(trace);
    free(kv_layers);
    return status == COTERIE_OK ? EXIT_DONE : command_fail(in);
}

/* Sizes given by hand win over the model's. */
static coterie_status_t sizes_read(const sim_options_t *o,
                                   const coterie_trace_t *trace,
                                   coterie_simulate_options_t *options,
                                   uint32_t **kv_layers_p)
{
    coterie_model_config_t config = {.size = sizeof(config)};
    coterie_model_t *model = NULL;
    coterie_status_t status = COTERIE_OK;
    coterie_trace_view_t view;

    coterie_trace_view(trace, &view);
    if (o->model != NULL) {
        status = coterie_model_open(o->model, &model);
        if (status != COTERIE_OK)
            return status;
        coterie_model_config(model, &config);
        options->hidden = config.hidden;
        options->kv_row_size = kv_row_size(&config);
        if (config.moe_layers == view.layer_count)
            status = kv_layers_read(model, &config, kv_layers_p);
        else
            status = failure(COTERIE_ERR_MISMATCH,
                             "%s: %u MoE layers; the trace has %u", o->model,
                             config.moe_layers, view.layer_count);
        options->kv_layers = *kv_layers_p;
        coterie_model_close(model);
    }
    if (o->hidden != 0)
        options->hidden = o->hidden;
    if (o->kv_row_size != 0)
        options->kv_row_size = o->kv_row_size;
    return status;
}

/* Dense layers' K/V travels with that of the MoE layer behind them. */
static coterie_status_t kv_layers_read(const coterie_model_t *model,
                                       const coterie_model_config_t *config,
                                       uint32_t **kv_layers_p)
{
    uint32_t *kv_layers = calloc(config->moe_layers + 1, sizeof(*kv_layers));
    uint32_t at = 0;

    if (kv_layers == NULL)
        return failure(COTERIE_ERR_NO_MEMORY, "out of memory for %u layers",
                       config->moe_layers);
    for (uint32_t l = 0; l < config->layers; l++) {
        kv_layers[at]++;
        if (coterie_model_moe_layer_of(model, l) != COTERIE_NO_LAYER)
            at++;
    }
    *kv_layers_p = kv_layers;
    return COTERIE_OK;
}

/* Whichever is named first says how many ranks the other must have. */
static coterie_status_t placement_open(const sim_options_t *o,
                                       const coterie_trace_t *trace,
                                       coterie_topology_t **topology_p,
                                       coterie_placement_t **placement_p)
{
    coterie_placement_options_t view;
    coterie_status_t status;

    if (o->nodes != 0 && (o->placement != NULL || o->topology != NULL))
        return failure(COTERIE_ERR_INVALID,
                       "--nodes goes without --placement and --topology, "
                       "which say it");
    if (o->placement != NULL) {
        status = coterie_placement_read(o->placement, o->ranks, placement_p);
        if (status != COTERIE_OK || o->topology == NULL)
            return status;
        coterie_placement_view(*placement_p, &view);
        return coterie_topology_read(o->topology, view.rank_count, topology_p);
    }
    if (o->topology != NULL) {
        status = coterie_topology_read(o->topology, o->ranks, topology_p);
        if (status != COTERIE_OK)
            return status;
    }
    return in_order_create(o, trace, *topology_p, placement_p);
}

static coterie_status_t in_order_create(const sim_options_t *o,
                                        const coterie_trace_t *trace,
                                        const coterie_topology_t *topology,
                                        coterie_placement_t **placement_p)
{
    coterie_placement_options_t in_order = COTERIE_PLACEMENT_OPTIONS_INIT;
    coterie_topology_options_t cluster = {.rank_count = o->ranks,
                                          .node_count = o->nodes};
    coterie_trace_view_t view;

    if (topology != NULL)
        coterie_topology_view(topology, &cluster);
    coterie_trace_view(trace, &view);
    in_order.layer_count = view.layer_count;
    in_order.expert_count = view.expert_count;
    in_order.rank_count = cluster.rank_count;
    in_order.node_count = cluster.node_count;
    return coterie_placement_create(&in_order, placement_p);
}

/* What was recorded is what a run with the router's predictions would do. */
static void prediction_choose(const sim_options_t *o,
                              const coterie_trace_t *trace,
                              coterie_simulate_options_t *options)
{
    coterie_trace_view_t view;

    coterie_trace_view(trace, &view);
    options->prediction = o->prediction != 0       ? o->prediction - 1
                          : view.predicted != NULL ? 1
                                                   : 0;
}

static coterie_status_t sim_report(const sim_options_t *o,
                                   const coterie_trace_t *trace,
                                   const coterie_simulate_options_t *options,
                                   const coterie_counts_t counts[2],
                                   const coterie_cost_t costs[2])
{
    static const char *const phases[2] = {"prefill", "decode"};
    coterie_trace_view_t view;
    json_t *object = NULL;

    coterie_trace_view(trace, &view);
    if (o->json)
        object = json_pack("{s:s, s:s, s:s, s:s, s:i}", "dispatch",
                           mode_names[options->mode], "group",
                           group_choices[options->group + 1], "prediction",
                           prediction_names[options->prediction + 1], "wire",
                           wire_names[options->wire],
                           "moe_layers", (int)view.layer_count);
    for (int phase = 0; phase < 2; phase++) {
        json_t *figures;
        if (!o->json) {
            counts_print(stdout, phases[phase], &counts[phase],
                         view.layer_count);
            if (o->topology != NULL)
                cost_print(phases[phase], &costs[phase]);
            continue;
        }
        figures = counts_json(&counts[phase], view.layer_count);
        if (o->topology != NULL)
            json_object_set_new(figures, "predicted",
                                cost_json(&costs[phase]));
        json_object_set_new(object, phases[phase], figures);
    }
    return o->json ? json_print(object) : COTERIE_OK;
}

/* Times in seconds, as in everything that --json prints. */
static json_t *cost_json(const coterie_cost_t *cost)
{
    return json_pack("{s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f}", "step_s",
                     1e-6 * cost->step_us, "layer_s", 1e-6 * cost->layer_us,
                     "exchange_s", 1e-6 * cost->exchange_us, "work_s",
                     1e-6 * cost->work_us, "kv_s", 1e-6 * cost->kv_us,
                     "rows_most", cost->rows_most, "rows_mean",
                     cost->rows_mean, "bytes_most", cost->bytes_most,
                     "ranks_idle", cost->ranks_idle);
}

static void cost_print(const char *phase, const coterie_cost_t *cost)
{
    printf("%s, predicted:\n"
           "  a step                                %8.1f us\n"
           "  a layer                               %8.2f us: %.2f links, "
           "%.2f work\n"
           "  rows of the fullest rank              %8.1f (mean %.1f)\n"
           "  bytes of the busiest rank             %8.0f\n"
           "  ranks without an expert to compute    %8.1f\n",
           phase, cost->step_us, cost->layer_us, cost->exchange_us,
           cost->work_us, cost->rows_most, cost->rows_mean, cost->bytes_most,
           cost->ranks_idle);
}
