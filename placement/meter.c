#include "config.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "placement/meter.h"
#include "placement/placement.h"
#include "placement/wire.h"

/* A layer is a chain of stages of work, with an exchange after each but the
 * last. A stage lasts as long as its slowest rank or, where ranks share
 * processors, as all the work of a node on these. */
enum { STAGES = 4, LEVELS = 2 }; /* levels: inside a node, between nodes */

/* What one rank sends and gets by one lane at one level, in one layer. */
typedef struct port {
    double out, in; /* bytes */
    double cast;    /* of out, once for all the ranks that get it */
    uint32_t to, from; /* messages */
} port_t;

/* Of a phase; sums over its layers, and at last over its steps. */
typedef struct sums {
    uint64_t steps, tokens, layers;
    double exchange_us, work_us, rows_most, rows, bytes_most, idle, kv_us;
} sums_t;

struct coterie_meter {
    const coterie_simulation_t *sim;
    coterie_topology_options_t topology;
    const coterie_topology_link_t *link[LEVELS];
    double row_size[COTERIE_ROW_COUNT];
    uint32_t mode;      /* of the layer at work */
    uint32_t computing; /* the stage in which experts are */
    port_t *ports;      /* [lane, level, rank] */
    double *work;       /* [stage, rank], us */
    double *busy;       /* [2, rank]: bytes out and in, of all lanes */
    uint32_t *rows;     /* [rank]: rows that it computes */
    uint64_t *touched;  /* [slot]: the layer that used it last */
    uint64_t generation;
    uint64_t everywhere; /* tokens that every rank attends to */
    sums_t step, sums[2]; /* step: since it began */
};

static void sizes_set(coterie_meter_t *m);
static int across_nodes(const coterie_meter_t *m);
static port_t *ports_of(const coterie_meter_t *m, coterie_lane_t lane,
                        int level);
static uint32_t stage_of(const coterie_meter_t *m, coterie_lane_t lane);
static void peers_count(coterie_meter_t *m);
static void casts_spread(coterie_meter_t *m, coterie_lane_t lane);
static double lane_time(coterie_meter_t *m, coterie_lane_t lane);
static double level_time(coterie_meter_t *m, coterie_lane_t lane, int level);
static double stages_time(const coterie_meter_t *m);
static void ranks_sum(coterie_meter_t *m);
static double gather_time(const coterie_meter_t *m, uint64_t kv_rows);

coterie_status_t coterie_meter_create(const coterie_simulation_t *sim,
                                      const coterie_topology_t *topology,
                                      coterie_meter_t **meter_p)
{
    size_t ranks = sim->rank_count, slots = sim->placement->slot_count;
    coterie_meter_t *m = calloc(1, sizeof(*m));

    if (m == NULL)
        return coterie_fail_memory(sizeof(*m), "times");
    m->sim = sim;
    coterie_topology_view(topology, &m->topology);
    m->link[0] = &m->topology.node;
    m->link[1] = &m->topology.network;
    sizes_set(m);
    m->ports = calloc(COTERIE_LANE_COUNT * LEVELS * ranks, sizeof(*m->ports));
    m->work = calloc(STAGES * ranks, sizeof(*m->work));
    m->busy = calloc(2 * ranks, sizeof(*m->busy));
    m->rows = calloc(ranks, sizeof(*m->rows));
    m->touched = calloc(slots, sizeof(*m->touched));
    if (!m->ports || !m->work || !m->busy || !m->rows || !m->touched) {
        coterie_meter_destroy(m);
        return coterie_fail_memory(COTERIE_LANE_COUNT * LEVELS * ranks *
                                       sizeof(port_t), "times");
    }
    *meter_p = m;
    return COTERIE_OK;
}

void coterie_meter_begin(coterie_meter_t *m, uint32_t mode)
{
    size_t ranks = m->sim->rank_count;

    m->mode = mode;
    m->computing = mode == COTERIE_MODE_FORWARD && !across_nodes(m) ? 0 : 1;
    m->generation++;
    m->everywhere = 0;
    memset(m->ports, 0,
           COTERIE_LANE_COUNT * LEVELS * ranks * sizeof(*m->ports));
    memset(m->work, 0, STAGES * ranks * sizeof(*m->work));
    memset(m->busy, 0, 2 * ranks * sizeof(*m->busy));
    memset(m->rows, 0, ranks * sizeof(*m->rows));
    for (size_t r = 0; r < ranks; r++)
        m->work[r] = m->topology.layer_us;
}

void coterie_meter_attend(coterie_meter_t *m, uint32_t rank)
{
    if (rank == COTERIE_NONE)
        m->everywhere++;
    else
        m->work[rank] += m->topology.token_us;
}

void coterie_meter_compute(coterie_meter_t *m, const coterie_route_t *route)
{
    double *work = m->work + (size_t)m->computing * m->sim->rank_count;

    for (uint32_t i = 0; i < m->sim->trace.k; i++) {
        uint32_t slot = route->slot[i], rank = route->serving[i];
        if (rank == COTERIE_NONE)
            continue;
        m->rows[rank]++;
        work[rank] += m->topology.row_us;
        if (m->touched[slot] != m->generation)
            work[rank] += m->topology.expert_us;
        m->touched[slot] = m->generation;
    }
}

void coterie_meter_send(coterie_meter_t *m, coterie_row_t row, uint32_t from,
                        uint32_t to, bool first)
{
    coterie_lane_t lane = coterie_simulation_lane(row);
    int level = from / m->sim->node_ranks != to / m->sim->node_ranks;
    port_t *ports = ports_of(m, lane, level);

    ports[from].out += m->row_size[row];
    ports[from].to += first;
    ports[to].in += m->row_size[row];
    ports[to].from += first;
}

void coterie_meter_broadcast(coterie_meter_t *m, coterie_row_t row,
                             uint32_t from, bool first)
{
    coterie_lane_t lane = coterie_simulation_lane(row);
    double near = m->sim->node_ranks - 1.0;
    double far = (double)m->sim->rank_count - m->sim->node_ranks;

    if (lane != COTERIE_LANE_ALLTOALL) { /* seldom */
        for (uint32_t to = 0; to < m->sim->rank_count; to++)
            if (to != from)
                coterie_meter_send(m, row, from, to, first);
        return;
    }
    ports_of(m, lane, 0)[from].out += m->row_size[row] * near;
    ports_of(m, lane, 1)[from].out += m->row_size[row] * far;
    ports_of(m, lane, 0)[from].cast += m->row_size[row];
}

void coterie_meter_end(coterie_meter_t *m)
{
    double exchange_us = 0;

    for (uint32_t r = 0; r < m->sim->rank_count; r++)
        m->work[r] += (double)m->everywhere * m->topology.token_us;
    peers_count(m);
    for (int lane = 0; lane < COTERIE_LANE_COUNT; lane++)
        exchange_us += lane_time(m, (coterie_lane_t)lane);
    m->step.exchange_us += exchange_us;
    m->step.work_us += stages_time(m);
    m->step.layers++;
    ranks_sum(m);
}

void coterie_meter_step(coterie_meter_t *m, uint32_t phase, size_t tokens,
                        uint64_t kv_rows)
{
    sums_t *sums = &m->sums[phase];

    sums->steps++;
    sums->tokens += tokens;
    sums->layers += m->step.layers;
    sums->exchange_us += m->step.exchange_us;
    sums->work_us += m->step.work_us;
    sums->rows_most += m->step.rows_most;
    sums->rows += m->step.rows;
    sums->bytes_most += m->step.bytes_most;
    sums->idle += m->step.idle;
    sums->kv_us += gather_time(m, kv_rows);
    m->step = (sums_t){0};
}

void coterie_meter_read(const coterie_meter_t *m, uint32_t phase,
                        coterie_cost_t *cost)
{
    const sums_t *sums = &m->sums[phase];
    double layers = sums->layers > 0 ? (double)sums->layers : 1;
    double steps = sums->steps > 0 ? (double)sums->steps : 1;

    cost->steps = sums->steps;
    cost->tokens = sums->tokens;
    cost->step_us = (sums->exchange_us + sums->work_us) / steps;
    cost->layer_us = (sums->exchange_us + sums->work_us) / layers;
    cost->exchange_us = sums->exchange_us / layers;
    cost->work_us = sums->work_us / layers;
    cost->kv_us = sums->kv_us / steps;
    cost->rows_most = sums->rows_most / layers;
    cost->rows_mean = sums->rows / layers / m->sim->rank_count;
    cost->bytes_most = sums->bytes_most / layers;
    cost->ranks_idle = sums->idle / layers;
}

void coterie_meter_destroy(coterie_meter_t *m)
{
    if (m == NULL)
        return;
    free(m->ports);
    free(m->work);
    free(m->busy);
    free(m->rows);
    free(m->touched);
    free(m);
}

static void sizes_set(coterie_meter_t *m)
{
    uint32_t k = m->sim->trace.k, hidden = m->sim->options.hidden;
    uint32_t wire = m->sim->options.wire, wide = coterie_wire_of_sums(wire);
    size_t input = coterie_wire_dispatch_head(k) +
                   coterie_wire_values_size(wire, hidden);
    size_t move = coterie_wire_dispatch_head(k) +
                  coterie_wire_values_size(wide, hidden);
    size_t sum = coterie_wire_sum_head(k) +
                 coterie_wire_values_size(wide, hidden);

    for (int row = 0; row < COTERIE_ROW_COUNT; row++)
        m->row_size[row] = (double)sum;
    m->row_size[COTERIE_ROW_DISPATCH] = (double)input;
    m->row_size[COTERIE_ROW_NODE_DISPATCH] = (double)input;
    m->row_size[COTERIE_ROW_MISSED] = (double)input;
    m->row_size[COTERIE_ROW_MOVE] = (double)move;
}

static int across_nodes(const coterie_meter_t *m)
{
    return m->mode == COTERIE_MODE_FORWARD &&
           m->sim->options.group == COTERIE_GROUP_ACROSS;
}

static port_t *ports_of(const coterie_meter_t *m, coterie_lane_t lane,
                        int level)
{
    return m->ports +
           ((size_t)lane * LEVELS + (size_t)level) * m->sim->rank_count;
}

/* The stage whose work sends by this lane; the next one receives. */
static uint32_t stage_of(const coterie_meter_t *m, coterie_lane_t lane)
{
    static const uint32_t stages[COTERIE_LANE_COUNT] = {
        [COTERIE_LANE_RETURN] = 1,
        [COTERIE_LANE_NODE_RETURN] = 1,
        [COTERIE_LANE_FIXUP] = 1,
    };

    return lane == COTERIE_LANE_ALLTOALL && across_nodes(m) ? 2 : stages[lane];
}

/* A full exchange has a message for every peer, rows or none. */
static void peers_count(coterie_meter_t *m)
{
    uint32_t near = m->sim->node_ranks - 1;
    uint32_t far = m->sim->rank_count - m->sim->node_ranks;
    coterie_lane_t near_lane = COTERIE_LANE_ALLTOALL;

    if (across_nodes(m)) {
        near_lane = COTERIE_LANE_NODE_ALLTOALL;
        far = m->sim->node_count - 1;
    }
    for (uint32_t r = 0; r < m->sim->rank_count; r++) {
        port_t *inside = &ports_of(m, near_lane, 0)[r];
        port_t *across = &ports_of(m, COTERIE_LANE_ALLTOALL, 1)[r];
        inside->to = inside->from = near;
        across->to = across->from = far;
    }
    casts_spread(m, COTERIE_LANE_ALLTOALL);
}

/* What was sent to all arrives at all but its sender. */
static void casts_spread(coterie_meter_t *m, coterie_lane_t lane)
{
    port_t *near = ports_of(m, lane, 0), *far = ports_of(m, lane, 1);
    uint32_t size = m->sim->node_ranks;
    double all = 0;

    for (uint32_t r = 0; r < m->sim->rank_count; r++)
        all += near[r].cast;
    for (uint32_t first = 0; first < m->sim->rank_count; first += size) {
        double node = 0;
        for (uint32_t r = first; r < first + size; r++)
            node += near[r].cast;
        for (uint32_t r = first; r < first + size; r++) {
            near[r].in += node - near[r].cast;
            far[r].in += all - node;
        }
    }
}

/* Both levels at once: they are different links. */
static double lane_time(coterie_meter_t *m, coterie_lane_t lane)
{
    double near = level_time(m, lane, 0), far = level_time(m, lane, 1);

    return near > far ? near : far;
}

static double level_time(coterie_meter_t *m, coterie_lane_t lane, int level)
{
    const coterie_topology_link_t *link = m->link[level];
    const port_t *ports = ports_of(m, lane, level);
    size_t ranks = m->sim->rank_count;
    double *sending = m->work + stage_of(m, lane) * ranks;
    double *getting = sending + ranks;
    double copy_us = m->topology.copy_gbs > 0 ? 1e-3 / m->topology.copy_gbs
                                              : 0;
    double most = 0;
    int used = 0;

    for (size_t r = 0; r < ranks; r++) {
        const port_t *p = &ports[r];
        double out = p->out + p->to * (double)COTERIE_WIRE_HEADER_SIZE;
        double in = p->in + p->from * (double)COTERIE_WIRE_HEADER_SIZE;
        used |= p->to > 0;
        most = fmax(most, fmax(out, in));
        sending[r] += p->to * link->message_us + out * copy_us;
        getting[r] += p->from * link->message_us + in * copy_us;
        m->busy[r] += out;
        m->busy[ranks + r] += in;
    }
    if (!used)
        return 0;
    return link->latency_us +
           (link->bandwidth_gbs > 0 ? most / link->bandwidth_gbs * 1e-3 : 0);
}

static double stages_time(const coterie_meter_t *m)
{
    uint32_t ranks = m->sim->rank_count, size = m->sim->node_ranks;
    uint32_t processors =
        m->topology.processors > 0 ? m->topology.processors : size;
    double all = 0;

    for (int s = 0; s < STAGES; s++) {
        const double *work = m->work + (size_t)s * ranks;
        double most = 0;
        for (uint32_t first = 0; first < ranks; first += size) {
            double sum = 0;
            for (uint32_t r = first; r < first + size; r++) {
                most = fmax(most, work[r]);
                sum += work[r];
            }
            most = fmax(most, sum / processors);
        }
        all += most;
    }
    return all;
}

static void ranks_sum(coterie_meter_t *m)
{
    size_t ranks = m->sim->rank_count;
    double rows_most = 0, bytes_most = 0;

    for (size_t r = 0; r < ranks; r++) {
        rows_most = fmax(rows_most, m->rows[r]);
        bytes_most = fmax(bytes_most,
                          fmax(m->busy[r], m->busy[ranks + r]));
        m->step.rows += m->rows[r];
        m->step.idle += m->rows[r] == 0;
    }
    m->step.rows_most += rows_most;
    m->step.bytes_most += bytes_most;
}

/* Spread evenly: sequences' homes are. */
static double gather_time(const coterie_meter_t *m, uint64_t kv_rows)
{
    int across = m->sim->group_size > m->sim->node_ranks ||
                 m->sim->options.group == COTERIE_GROUP_ACROSS;
    const coterie_topology_link_t *link = m->link[across];
    double bytes = (double)kv_rows *
                   (double)coterie_wire_kv_size(m->sim->options.kv_row_size) /
                   m->sim->rank_count;

    if (m->sim->group_size == 1)
        return 0;
    return link->latency_us +
           (link->bandwidth_gbs > 0 ? bytes / link->bandwidth_gbs * 1e-3 : 0);
}
