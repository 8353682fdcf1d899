#ifndef COTERIE_PLACEMENT_SIMULATE_H
#define COTERIE_PLACEMENT_SIMULATE_H
/* What the files of the simulation share. */
#include <stdbool.h>

#include <coterie/simulate.h>

/* The rows that travel; each kind has its record, its message and its counter
 * (coterie_simulation_counts). */
typedef enum coterie_row {
    COTERIE_ROW_DISPATCH,
    COTERIE_ROW_MOVE, /* the hidden state itself, to its next owner */
    COTERIE_ROW_RETURN,
    COTERIE_ROW_NODE_DISPATCH,
    COTERIE_ROW_NODE_RETURN,
    COTERIE_ROW_FORWARD,
    COTERIE_ROW_MISSED,     /* to a missed rank, in the all-to-all */
    COTERIE_ROW_MISSED_SUM, /* what that rank then sends, apart */
    COTERIE_ROW_COUNT
} coterie_row_t;

/* Rows of one layer, step and pair of ranks share a message by these. */
typedef enum coterie_lane {
    COTERIE_LANE_ALLTOALL,
    COTERIE_LANE_RETURN,
    COTERIE_LANE_NODE_ALLTOALL,
    COTERIE_LANE_NODE_RETURN,
    COTERIE_LANE_FIXUP,
    COTERIE_LANE_COUNT
} coterie_lane_t;

/* What one phase adds up to. */
typedef struct coterie_tally {
    uint64_t steps, tokens;
    uint64_t alltoalls, returns, node_alltoalls, kv_gathers;
    uint64_t rows[COTERIE_ROW_COUNT];
    uint64_t messages[COTERIE_LANE_COUNT]; /* those with rows */
    uint64_t parcels; /* messages of the full exchanges, rows or none */
    uint64_t network; /* rows between nodes */
    uint64_t kv_rows, kv_tokens, kv_messages;
} coterie_tally_t;

/* A set of ranks: those listed, ascending, or the whole group. */
typedef struct coterie_ranks {
    bool whole;
    uint16_t count;
    uint16_t rank[COTERIE_K_MAX];
} coterie_ranks_t;

/* One token of a step. */
typedef struct coterie_step_token {
    uint64_t token;
    uint64_t sequence;
    uint32_t step;
    uint32_t phase;
} coterie_step_token_t;

/* What times a simulation, where times are wanted. */
typedef struct coterie_meter coterie_meter_t;

typedef struct coterie_simulation {
    coterie_trace_view_t trace;
    const coterie_placement_t *placement;
    coterie_simulate_options_t options;
    uint32_t decode_mode; /* options.mode, or two-phase where nobody shares */
    uint32_t rank_count, node_count, node_ranks;
    uint32_t group_size;          /* ranks that have a sequence's K/V */
    coterie_step_token_t *tokens; /* by step */
    uint16_t *owner;              /* [sequence]: where its next token starts */
    coterie_ranks_t *here;        /* forward: R(l), by token of the step */
    uint64_t *mark;               /* [from, to]: a generation and its lanes */
    uint64_t generation;          /* one more for each step and layer */
    coterie_tally_t tallies[2];
    coterie_tally_t *tally; /* of the present step's phase */
    coterie_meter_t *meter; /* NULL: only counts are wanted */
} coterie_simulation_t;

/* Ranks lack so many tokens' K/V that comes with an MoE layer (or, for layer
 * layer_count, after the last). */
static inline void coterie_simulation_kv(coterie_simulation_t *sim,
                                         uint32_t layer, uint64_t lacking)
{
    const uint32_t *layers = sim->options.kv_layers;
    uint32_t default_layers = layer < sim->trace.layer_count;

    sim->tally->kv_rows +=
        lacking * (layers != NULL ? layers[layer] : default_layers);
}

static inline uint32_t coterie_simulation_home(const coterie_simulation_t *sim,
                                               uint64_t sequence)
{
    return (uint32_t)(sequence % sim->rank_count);
}

/* The message that a kind of row shares. */
coterie_lane_t coterie_simulation_lane(coterie_row_t row);

/* A rank (COTERIE_NONE: every one) runs attention and router of a token; the
 * route's ranks compute its experts. */
void coterie_simulation_attend(coterie_simulation_t *sim, uint32_t rank);
void coterie_simulation_compute(coterie_simulation_t *sim,
                                const coterie_route_t *route);

/* coterie_route for one token's experts in the trace. */
void coterie_simulation_route(const coterie_simulation_t *sim, uint64_t token,
                              uint32_t layer, uint32_t owner,
                              coterie_route_t *route);

/* Counts one row; from and to differ. */
void coterie_simulation_send(coterie_simulation_t *sim, coterie_row_t row,
                             uint32_t from, uint32_t to);

/* Counts a row to every other rank. In one layer and lane a rank's first row
 * must be a broadcast if any of its rows is. */
void coterie_simulation_broadcast(coterie_simulation_t *sim, coterie_row_t row,
                                  uint32_t from);

/* One layer of the `count` tokens of a step. */
void coterie_simulate_two_phase(coterie_simulation_t *sim, uint32_t layer,
                                const coterie_step_token_t *tokens,
                                size_t count);
void coterie_simulate_owner(coterie_simulation_t *sim, uint32_t layer,
                            const coterie_step_token_t *tokens, size_t count);
void coterie_simulate_forward(coterie_simulation_t *sim, uint32_t layer,
                              const coterie_step_token_t *tokens, size_t count);
void coterie_simulate_across(coterie_simulation_t *sim, uint32_t layer,
                             const coterie_step_token_t *tokens, size_t count);

#endif
