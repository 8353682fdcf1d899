#include "config.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/options.h"
#include "placement/meter.h"
#include "placement/placement.h"
#include "placement/simulate.h"
#include "placement/wire.h"

static coterie_status_t sim_open(coterie_simulation_t *sim,
                                 const coterie_trace_t *trace,
                                 const coterie_placement_t *placement,
                                 const coterie_simulate_options_t *options);
static void sim_close(coterie_simulation_t *sim);
static void steps_run(coterie_simulation_t *sim);
static void cost_fill(const coterie_simulation_t *sim, uint32_t phase,
                      coterie_cost_t *cost);
static coterie_status_t options_check(const coterie_simulation_t *sim);
static coterie_status_t trace_check(const coterie_simulation_t *sim);
static void shape_set(coterie_simulation_t *sim);
static coterie_status_t memory_allocate(coterie_simulation_t *sim);
static coterie_status_t tokens_sort(coterie_simulation_t *sim);
static coterie_status_t order_check(const coterie_step_token_t *before,
                                    const coterie_step_token_t *token);
static int token_compare(const void *a, const void *b);
static size_t step_length(const coterie_simulation_t *sim, size_t first);
static void step_run(coterie_simulation_t *sim,
                     const coterie_step_token_t *tokens, size_t count);
static void layer_run(coterie_simulation_t *sim, uint32_t layer, uint32_t mode,
                      const coterie_step_token_t *tokens, size_t count);
static void kv_gather(coterie_simulation_t *sim,
                      const coterie_step_token_t *tokens, size_t count);
static bool token_continues(const coterie_simulation_t *sim,
                            const coterie_step_token_t *token);
static void counts_fill(const coterie_simulation_t *sim,
                        const coterie_tally_t *tally, coterie_counts_t *counts);
static void bytes_fill(const coterie_simulation_t *sim,
                       const coterie_tally_t *tally, coterie_counts_t *c);

coterie_status_t coterie_simulate(const coterie_trace_t *trace,
                                  const coterie_placement_t *placement,
                                  const coterie_simulate_options_t *options,
                                  coterie_counts_t counts[2])
{
    coterie_simulation_t sim;
    coterie_status_t status = sim_open(&sim, trace, placement, options);

    if (status == COTERIE_OK) {
        steps_run(&sim);
        counts_fill(&sim, &sim.tallies[0], &counts[0]);
        counts_fill(&sim, &sim.tallies[1], &counts[1]);
    }
    sim_close(&sim);
    return status;
}

coterie_status_t coterie_cost_predict(
    const coterie_trace_t *trace, const coterie_placement_t *placement,
    const coterie_topology_t *topology,
    const coterie_simulate_options_t *options, coterie_cost_t costs[2])
{
    coterie_topology_options_t has;
    coterie_simulation_t sim;
    coterie_status_t status = sim_open(&sim, trace, placement, options);

    coterie_topology_view(topology, &has);
    if (status == COTERIE_OK && (has.rank_count != placement->rank_count ||
                                 has.node_count != placement->node_count))
        status = coterie_fail(COTERIE_ERR_MISMATCH,
                              "the placement is for %u ranks in %u nodes; the "
                              "topology has %u in %u",
                              placement->rank_count, placement->node_count,
                              has.rank_count, has.node_count);
    if (status == COTERIE_OK)
        status = coterie_meter_create(&sim, topology, &sim.meter);
    if (status == COTERIE_OK) {
        steps_run(&sim);
        for (uint32_t phase = 0; phase < 2; phase++)
            cost_fill(&sim, phase, &costs[phase]);
    }
    sim_close(&sim);
    return status;
}

uint64_t coterie_counts_copies(const coterie_counts_t *counts)
{
    return counts->copies_dispatch + counts->copies_return +
           counts->copies_forward + counts->copies_fixup;
}

static coterie_status_t sim_open(coterie_simulation_t *sim,
                                 const coterie_trace_t *trace,
                                 const coterie_placement_t *placement,
                                 const coterie_simulate_options_t *options)
{
    coterie_status_t status;

    *sim = (coterie_simulation_t){.placement = placement};
    status = coterie_options_read(options, &sim->options,
                                  sizeof(sim->options), "simulation");
    coterie_trace_view(trace, &sim->trace);
    if (status == COTERIE_OK)
        status = options_check(sim);
    if (status == COTERIE_OK)
        status = trace_check(sim);
    shape_set(sim);
    if (status == COTERIE_OK)
        status = memory_allocate(sim);
    if (status == COTERIE_OK)
        status = tokens_sort(sim);
    return status;
}

static void sim_close(coterie_simulation_t *sim)
{
    free(sim->tokens);
    free(sim->owner);
    free(sim->here);
    free(sim->mark);
    coterie_meter_destroy(sim->meter);
}

static void steps_run(coterie_simulation_t *sim)
{
    for (size_t at = 0, n; at < sim->trace.token_count; at += n) {
        n = step_length(sim, at);
        step_run(sim, sim->tokens + at, n);
    }
}

/* An older caller's struct is shorter. */
static void cost_fill(const coterie_simulation_t *sim, uint32_t phase,
                      coterie_cost_t *cost)
{
    coterie_cost_t filled = {.size = cost->size};

    coterie_meter_read(sim->meter, phase, &filled);
    memcpy(cost, &filled,
           cost->size < sizeof(filled) ? cost->size : sizeof(filled));
}

static coterie_status_t options_check(const coterie_simulation_t *sim)
{
    const coterie_simulate_options_t *opts = &sim->options;

    if (opts->mode < COTERIE_MODE_TWO_PHASE ||
        opts->mode > COTERIE_MODE_FORWARD)
        return coterie_fail(COTERIE_ERR_INVALID,
                            "simulation: mode %u; it must be two-phase, owner "
                            "or forward",
                            opts->mode);
    if (opts->group > COTERIE_GROUP_ACROSS || opts->prediction > 2 ||
        opts->wire > COTERIE_WIRE_INT8)
        return coterie_fail(COTERIE_ERR_INVALID,
                            "simulation: group %u, prediction %u, wire %u; at "
                            "most 3, 2 and 2",
                            opts->group, opts->prediction, opts->wire);
    if (opts->group == COTERIE_GROUP_ACROSS &&
        opts->mode == COTERIE_MODE_OWNER)
        return coterie_fail(COTERIE_ERR_UNSUPPORTED,
                            "simulation: owner moves tokens within a group, "
                            "not across nodes");
    if (opts->group == COTERIE_GROUP_NODE && opts->mode == COTERIE_MODE_FORWARD)
        return coterie_fail(COTERIE_ERR_UNSUPPORTED,
                            "simulation: forward needs a group of all ranks, "
                            "or across nodes");
    return COTERIE_OK;
}

static coterie_status_t trace_check(const coterie_simulation_t *sim)
{
    const coterie_trace_view_t *trace = &sim->trace;
    const coterie_simulate_options_t *opts = &sim->options;

    if (opts->mode == COTERIE_MODE_FORWARD &&
        opts->group == COTERIE_GROUP_ALL && opts->prediction == 1) {
        if (trace->predicted == NULL)
            return coterie_fail(COTERIE_ERR_NOT_FOUND,
                                "the trace holds no predictions");
        if (trace->predicted_k > COTERIE_K_MAX)
            return coterie_fail(COTERIE_ERR_UNSUPPORTED,
                                "the trace predicts %u experts a layer; at "
                                "most %d are routed",
                                trace->predicted_k, COTERIE_K_MAX);
    }
    return coterie_placement_check(sim->placement, trace->layer_count,
                                   trace->expert_count,
                                   sim->placement->rank_count);
}

static void shape_set(coterie_simulation_t *sim)
{
    const coterie_placement_t *placement = sim->placement;

    sim->rank_count = placement->rank_count;
    sim->node_count = placement->node_count;
    sim->node_ranks = placement->node_ranks;
    sim->decode_mode = sim->options.mode;
    switch (sim->options.group) {
    case COTERIE_GROUP_ALL:
        sim->group_size = sim->rank_count;
        break;
    case COTERIE_GROUP_NODE:
        sim->group_size = sim->node_ranks;
        break;
    case COTERIE_GROUP_ACROSS:
        sim->group_size = sim->node_count;
        break;
    default: /* nobody else has the K/V, so nobody else can attend */
        sim->group_size = 1;
        sim->decode_mode = COTERIE_MODE_TWO_PHASE;
    }
}

static coterie_status_t memory_allocate(coterie_simulation_t *sim)
{
    const coterie_trace_view_t *trace = &sim->trace;
    size_t pairs = (size_t)sim->rank_count * sim->rank_count;
    bool forward = sim->decode_mode == COTERIE_MODE_FORWARD;

    sim->tokens = calloc(trace->token_count + 1, sizeof(*sim->tokens));
    sim->owner = calloc(trace->sequence_count + 1, sizeof(*sim->owner));
    sim->mark = calloc(pairs, sizeof(*sim->mark));
    /* A decode step has at most one token of each sequence. */
    if (forward)
        sim->here = calloc(trace->sequence_count + 1, sizeof(*sim->here));
    if (sim->tokens == NULL || sim->owner == NULL || sim->mark == NULL ||
        (forward && sim->here == NULL))
        return coterie_fail_memory(trace->token_count * sizeof(*sim->tokens) +
                                       pairs * 8,
                                   "a simulation");
    for (uint64_t s = 0; s < trace->sequence_count; s++)
        sim->owner[s] = (uint16_t)coterie_simulation_home(sim, s);
    return COTERIE_OK;
}

static coterie_status_t tokens_sort(coterie_simulation_t *sim)
{
    const coterie_trace_view_t *trace = &sim->trace;
    coterie_status_t status = COTERIE_OK;

    for (uint64_t s = 0; s < trace->sequence_count; s++)
        for (uint64_t t = trace->seq_start[s]; t < trace->seq_start[s + 1];
             t++) {
            coterie_step_token_t *token = &sim->tokens[t];
            *token = (coterie_step_token_t){
                .token = t,
                .sequence = s,
                .step = trace->step != NULL
                            ? trace->step[t]
                            : (uint32_t)(t - trace->seq_start[s]),
                .phase = trace->phase != NULL ? trace->phase[t]
                                              : COTERIE_PHASE_DECODE,
            };
            if (t > trace->seq_start[s])
                status = order_check(token - 1, token);
            if (status != COTERIE_OK)
                return status;
        }
    qsort(sim->tokens, trace->token_count, sizeof(*sim->tokens), token_compare);
    return COTERIE_OK;
}

/* A sequence's tokens are computed in order, and decoded one at a time. */
static coterie_status_t order_check(const coterie_step_token_t *before,
                                    const coterie_step_token_t *token)
{
    if (token->step > before->step ||
        (token->step == before->step && token->phase == before->phase &&
         token->phase == COTERIE_PHASE_PREFILL))
        return COTERIE_OK;
    return coterie_fail(COTERIE_ERR_INVALID,
                        "trace: sequence %llu, token %llu: step %u after step "
                        "%u; decoded tokens need a later step each",
                        (unsigned long long)token->sequence,
                        (unsigned long long)token->token, token->step,
                        before->step);
}

static int token_compare(const void *a, const void *b)
{
    const coterie_step_token_t *x = a, *y = b;

    if (x->step != y->step)
        return x->step < y->step ? -1 : 1;
    if (x->phase != y->phase)
        return x->phase < y->phase ? -1 : 1;
    return x->token < y->token ? -1 : x->token > y->token;
}

static size_t step_length(const coterie_simulation_t *sim, size_t first)
{
    const coterie_step_token_t *tokens = sim->tokens;
    size_t end = first + 1;

    while (end < sim->trace.token_count &&
           tokens[end].step == tokens[first].step &&
           tokens[end].phase == tokens[first].phase)
        end++;
    return end - first;
}

static void step_run(coterie_simulation_t *sim,
                     const coterie_step_token_t *tokens, size_t count)
{
    bool decode = tokens[0].phase == COTERIE_PHASE_DECODE;
    uint32_t mode = decode ? sim->decode_mode : COTERIE_MODE_TWO_PHASE;
    uint64_t kv_rows;

    sim->tally = &sim->tallies[tokens[0].phase];
    sim->tally->steps++;
    sim->tally->tokens += count;
    kv_rows = sim->tally->kv_rows;
    for (uint32_t layer = 0; layer < sim->trace.layer_count; layer++)
        layer_run(sim, layer, mode, tokens, count);
    /* After forward's last layer, all of the group has the row. */
    if (mode != COTERIE_MODE_FORWARD)
        coterie_simulation_kv(sim, sim->trace.layer_count,
                              count * (sim->group_size - 1));
    for (size_t i = 0; !decode && i < count; i++)
        sim->owner[tokens[i].sequence] =
            (uint16_t)coterie_simulation_home(sim, tokens[i].sequence);
    if (sim->group_size > 1)
        kv_gather(sim, tokens, count);
    if (sim->meter != NULL)
        coterie_meter_step(sim->meter, tokens[0].phase, count,
                           sim->tally->kv_rows - kv_rows);
}

static void layer_run(coterie_simulation_t *sim, uint32_t layer, uint32_t mode,
                      const coterie_step_token_t *tokens, size_t count)
{
    sim->generation++;
    if (sim->meter != NULL)
        coterie_meter_begin(sim->meter, mode);
    if (mode == COTERIE_MODE_TWO_PHASE)
        coterie_simulate_two_phase(sim, layer, tokens, count);
    else if (mode == COTERIE_MODE_OWNER)
        coterie_simulate_owner(sim, layer, tokens, count);
    else if (sim->options.group == COTERIE_GROUP_ACROSS)
        coterie_simulate_across(sim, layer, tokens, count);
    else
        coterie_simulate_forward(sim, layer, tokens, count);
    if (sim->meter != NULL)
        coterie_meter_end(sim->meter);
}

/* The K/V rows were counted layer by layer. Where every rank sampled, in
 * forward's decode, nobody needs to be told the token. */
static void kv_gather(coterie_simulation_t *sim,
                      const coterie_step_token_t *tokens, size_t count)
{
    uint64_t peers = sim->group_size - 1;
    bool told = tokens[0].phase == COTERIE_PHASE_PREFILL ||
                sim->decode_mode != COTERIE_MODE_FORWARD;

    sim->tally->kv_gathers++;
    sim->tally->kv_messages += sim->rank_count * peers;
    for (size_t i = 0; told && i < count; i++)
        if (token_continues(sim, &tokens[i]))
            sim->tally->kv_tokens += peers;
}

/* Whether the token sampled from this one was computed in its turn. */
static bool token_continues(const coterie_simulation_t *sim,
                            const coterie_step_token_t *token)
{
    const coterie_trace_view_t *trace = &sim->trace;
    uint64_t next = token->token + 1;

    return next < trace->seq_start[token->sequence + 1] &&
           (trace->phase == NULL || trace->phase[next] == COTERIE_PHASE_DECODE);
}

static void counts_fill(const coterie_simulation_t *sim,
                        const coterie_tally_t *tally, coterie_counts_t *counts)
{
    const uint64_t *rows = tally->rows, *messages = tally->messages;
    coterie_counts_t c = {
        .steps = tally->steps,
        .tokens = tally->tokens,
        .alltoalls = tally->alltoalls,
        .returns = tally->returns,
        .node_alltoalls = tally->node_alltoalls,
        .kv_gathers = tally->kv_gathers,
        .fixup_sends = messages[COTERIE_LANE_FIXUP],
        .copies_dispatch =
            rows[COTERIE_ROW_DISPATCH] + rows[COTERIE_ROW_MOVE] +
            rows[COTERIE_ROW_NODE_DISPATCH],
        .copies_return =
            rows[COTERIE_ROW_RETURN] + rows[COTERIE_ROW_NODE_RETURN],
        .copies_forward =
            rows[COTERIE_ROW_FORWARD] + rows[COTERIE_ROW_MISSED_SUM],
        .copies_fixup = rows[COTERIE_ROW_MISSED],
        .copies_network = tally->network,
    };

    for (int lane = 0; lane < COTERIE_LANE_COUNT; lane++)
        c.messages += messages[lane];
    c.empty_messages = tally->parcels - messages[COTERIE_LANE_ALLTOALL] -
                       messages[COTERIE_LANE_NODE_ALLTOALL];
    bytes_fill(sim, tally, &c);
    if (sim->options.kv_row_size != 0)
        c.copies_kv = tally->kv_rows;
    c.kv_bytes = tally->kv_messages * COTERIE_WIRE_HEADER_SIZE +
                 tally->kv_tokens * sizeof(coterie_wire_token_t) +
                 c.copies_kv * coterie_wire_kv_size(sim->options.kv_row_size);
    *counts = c;
}

/* Of everything but K/V; messages and copies are counted. */
static void bytes_fill(const coterie_simulation_t *sim,
                       const coterie_tally_t *tally, coterie_counts_t *c)
{
    uint32_t hidden = sim->options.hidden, k = sim->trace.k;
    uint32_t wire = sim->options.wire, wide = coterie_wire_of_sums(wire);
    uint64_t inputs = tally->rows[COTERIE_ROW_DISPATCH] +
                      tally->rows[COTERIE_ROW_NODE_DISPATCH] +
                      tally->rows[COTERIE_ROW_MISSED];
    uint64_t moves = tally->rows[COTERIE_ROW_MOVE];
    uint64_t sums = coterie_counts_copies(c) - inputs - moves;

    c->payload_bytes = inputs * coterie_wire_values_size(wire, hidden) +
                       (moves + sums) * coterie_wire_values_size(wide, hidden);
    c->wire_bytes = c->payload_bytes +
                    (inputs + moves) * coterie_wire_dispatch_head(k) +
                    sums * coterie_wire_sum_head(k) +
                    (c->messages + c->empty_messages) *
                        COTERIE_WIRE_HEADER_SIZE;
}
