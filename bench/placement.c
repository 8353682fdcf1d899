/* Our placements beside others', one after the other on the same instances.
 *
 * usage: placement [--quick] [--seconds S] [--seed N]
 *                  [--goals NAME | --trace FILE --ranks R [--nodes N]]
 *
 * Instances are planted here; --trace takes a real one instead. Half of the
 * sequences is decided on, the other half is held out. One JSON object a line
 * on standard output, and a table on standard error. `cost` is on the training
 * half: per token, pairs of consecutive experts on different ranks (crossing)
 * or simulated copies of owner mode (dispatch), weighted by link. --goals runs
 * what is promised of planted instances, where their name contains NAME. */
#include "config.h"

#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/bench.h"
#include "bench/placement.h"

typedef struct plan {
    int quick;
    double seconds; /* for whoever takes a limit */
    uint32_t seed, ranks, nodes;
    const char *trace, *goals;
} plan_t;

typedef struct setup {
    const char *name;
    planting_t planting;
    uint32_t ranks, nodes;
    coterie_objective_t objective;
    int quick; /* part of the quick run */
} setup_t;

static const setup_t setups[] = {
    {"8x8 medium", {8, 8, 2, 20000, 4, 1, MEDIUM}, 4, 1,
     COTERIE_OBJECTIVE_CROSSING, 1},
    {"32x8 medium", {32, 8, 2, 20000, 4, 1, MEDIUM}, 8, 1,
     COTERIE_OBJECTIVE_CROSSING, 1},
    {"24x16 medium", {24, 16, 2, 20000, 4, 1, MEDIUM}, 4, 1,
     COTERIE_OBJECTIVE_CROSSING, 1},
    {"24x16 weak", {24, 16, 2, 20000, 4, 1, WEAK}, 4, 1,
     COTERIE_OBJECTIVE_CROSSING, 0},
    {"24x16 strong", {24, 16, 2, 20000, 4, 1, STRONG}, 4, 1,
     COTERIE_OBJECTIVE_CROSSING, 0},
    {"24x16 medium", {24, 16, 2, 20000, 4, 1, MEDIUM}, 4, 1,
     COTERIE_OBJECTIVE_DISPATCH, 1},
    {"24x64 medium", {24, 64, 4, 20000, 12, 1, MEDIUM}, 8, 1,
     COTERIE_OBJECTIVE_CROSSING, 0},
    {"24x64 medium", {24, 64, 4, 20000, 12, 1, MEDIUM}, 8, 1,
     COTERIE_OBJECTIVE_DISPATCH, 0},
    {"48x128 medium", {48, 128, 8, 20000, 25, 1, MEDIUM}, 16, 2,
     COTERIE_OBJECTIVE_CROSSING, 0},
};

/* What is known of one placement. */
typedef struct figures {
    int found;
    double cost, held, copies, load, seconds;
} figures_t;

static const struct {
    const char *name;
    method_t place;
} peers[] = {
    {"in order", place_in_order},  {"random", place_at_random},
    {"EPLB", place_by_load},       {"greedy", place_greedily},
    {"METIS", place_by_metis},     {"ILP, GLPK", place_by_glpk},
    {"ILP, CBC", place_by_cbc},
};

enum { PEERS = sizeof(peers) / sizeof(peers[0]) };

static int plan_read(int count, char **arguments, plan_t *plan);
static int planted_run(const plan_t *plan, const setup_t *setup);
static int trace_run(const plan_t *plan, coterie_objective_t objective);
static int instance_run(const plan_t *plan, const char *name,
                        coterie_trace_t *trace, instance_t *in);
static int instance_open(instance_t *in, coterie_trace_t *trace);
static void instance_close(instance_t *in);
static void counts_add(instance_t *in);
static int peers_run(const char *name, instance_t *in, figures_t *best);
static int ours_run(const plan_t *plan, const char *name, instance_t *in,
                    const figures_t *best);
static int judge(const instance_t *in, const coterie_placement_t *placement,
                 const uint16_t *rank_of, figures_t *figures);
static coterie_placement_t *placement_of(const instance_t *in,
                                         const uint16_t *rank_of);
static void scores_count(const instance_t *in, const uint16_t *rank_of,
                         uint8_t *scores);
static double crossing(const instance_t *in, const coterie_trace_t *trace,
                       const uint16_t *rank_of);
static double copies(const instance_t *in, const coterie_trace_t *trace,
                     const coterie_placement_t *placement,
                     coterie_mode_t mode);
static double fullest(const instance_t *in, const uint16_t *rank_of);
static void figures_print(const char *name, const char *method,
                          const instance_t *in, const figures_t *figures);

int main(int count, char **arguments)
{
    plan_t plan;
    int failed = plan_read(count, arguments, &plan);

    if (!failed && plan.goals != NULL)
        return goals_run(plan.goals, plan.seed, plan.seconds);
    if (!failed)
        fprintf(stderr, "%-14s %-9s %-10s %10s %10s %8s %6s %8s\n",
                "instance", "objective", "method", "cost", "held", "copies",
                "load", "seconds");
    if (!failed && plan.trace != NULL) {
        failed = trace_run(&plan, COTERIE_OBJECTIVE_CROSSING);
        return failed || trace_run(&plan, COTERIE_OBJECTIVE_DISPATCH);
    }
    for (size_t i = 0; !failed && i < sizeof(setups) / sizeof(setups[0]); i++)
        if (!plan.quick || setups[i].quick)
            failed = planted_run(&plan, &setups[i]);
    return failed;
}

static int plan_read(int count, char **arguments, plan_t *plan)
{
    static const struct option options[] = {
        {"quick", 0, NULL, 'q'}, {"seconds", 1, NULL, 's'},
        {"seed", 1, NULL, 'x'},  {"trace", 1, NULL, 't'},
        {"ranks", 1, NULL, 'r'}, {"nodes", 1, NULL, 'n'},
        {"goals", 1, NULL, 'g'},
        {NULL, 0, NULL, 0}};
    int option;

    *plan = (plan_t){.ranks = 8, .nodes = 1};
    while ((option = getopt_long(count, arguments, "", options, NULL)) != -1)
        switch (option) {
        case 'q': plan->quick = 1; break;
        case 's': plan->seconds = atof(optarg); break;
        case 'x': plan->seed = (uint32_t)atoi(optarg); break;
        case 't': plan->trace = optarg; break;
        case 'r': plan->ranks = (uint32_t)atoi(optarg); break;
        case 'n': plan->nodes = (uint32_t)atoi(optarg); break;
        case 'g': plan->goals = optarg; break;
        default: return 2;
        }
    if (plan->seconds <= 0 && plan->goals == NULL)
        plan->seconds = plan->quick ? 4 : 60;
    if (plan->ranks == 0 || plan->nodes == 0 || plan->ranks > 4096 ||
        plan->ranks % plan->nodes != 0) {
        fputs("placement: nodes must divide ranks\n", stderr);
        return 2;
    }
    return 0;
}

static int planted_run(const plan_t *plan, const setup_t *setup)
{
    instance_t in = {.ranks = setup->ranks, .nodes = setup->nodes,
                     .objective = setup->objective};
    planting_t planting = setup->planting;

    planting.seed += plan->seed;
    return instance_run(plan, setup->name, planted_trace(&planting), &in);
}

static int trace_run(const plan_t *plan, coterie_objective_t objective)
{
    instance_t in = {.ranks = plan->ranks, .nodes = plan->nodes,
                     .objective = objective};
    const char *slash = strrchr(plan->trace, '/');
    coterie_trace_t *trace = NULL;

    if (coterie_trace_read(plan->trace, 0, &trace) != COTERIE_OK)
        fprintf(stderr, "placement: %s\n", coterie_last_error());
    return instance_run(plan, slash != NULL ? slash + 1 : plan->trace, trace,
                        &in);
}

/* Takes the trace. */
static int instance_run(const plan_t *plan, const char *name,
                        coterie_trace_t *trace, instance_t *in)
{
    figures_t best = {.cost = INFINITY};
    int failed = trace == NULL || instance_open(in, trace);

    in->seconds = plan->seconds;
    failed = failed || peers_run(name, in, &best) ||
             ours_run(plan, name, in, &best);
    coterie_trace_destroy(trace);
    instance_close(in);
    return failed;
}

static int instance_open(instance_t *in, coterie_trace_t *trace)
{
    coterie_trace_view_t view;
    size_t items;
    uint64_t half;

    coterie_trace_view(trace, &view);
    half = (view.sequence_count + 1) / 2;
    if (view.sequence_count < 2 ||
        coterie_trace_slice(trace, 0, half, &in->train) != COTERIE_OK ||
        coterie_trace_slice(trace, half, view.sequence_count - half,
                            &in->held) != COTERIE_OK) {
        fputs("placement: a trace of several sequences is needed\n", stderr);
        return 1;
    }
    coterie_trace_view(in->train, &in->view);
    items = (size_t)view.layer_count * view.expert_count;
    in->network_cost = in->nodes > 1 ? 8 : 1;
    in->capacity = calloc(in->ranks, sizeof(*in->capacity));
    in->seam = calloc(items * view.expert_count, sizeof(*in->seam));
    in->load = calloc(items, sizeof(*in->load));
    if (!in->capacity || !in->seam || !in->load)
        return 1;
    for (uint32_t r = 0; r < in->ranks; r++)
        in->capacity[r] = view.expert_count / in->ranks +
                          (r < view.expert_count % in->ranks);
    counts_add(in);
    return 0;
}

static void instance_close(instance_t *in)
{
    coterie_trace_destroy(in->train);
    coterie_trace_destroy(in->held);
    free(in->capacity);
    free(in->seam);
    free(in->load);
}

static void counts_add(instance_t *in)
{
    uint32_t layers = in->view.layer_count, k = in->view.k;
    size_t experts = in->view.expert_count;

    for (uint64_t set = 0; set < in->view.token_count * layers; set++) {
        const int16_t *ids = in->view.experts + set * k;
        size_t l = set % layers;
        for (uint32_t i = 0; i < k; i++) {
            if (ids[i] < 0)
                continue;
            in->load[l * experts + (size_t)ids[i]]++;
            for (uint32_t j = 0; l + 1 < layers && j < k; j++)
                if (ids[k + j] >= 0)
                    in->seam[(l * experts + (size_t)ids[i]) * experts +
                             (size_t)ids[k + j]]++;
        }
    }
}

/* *best: the least cost of any. */
static int peers_run(const char *name, instance_t *in, figures_t *best)
{
    size_t items = (size_t)in->view.layer_count * in->view.expert_count;
    uint16_t *rank_of = calloc(items, sizeof(*rank_of));
    int failed = rank_of == NULL;

    for (int i = 0; !failed && i < PEERS; i++) {
        figures_t figures = {0};
        double start = bench_seconds();
        figures.found = peers[i].place(in, rank_of);
        figures.seconds = bench_seconds() - start;
        if (figures.found)
            failed = judge(in, NULL, rank_of, &figures);
        figures_print(name, peers[i].name, in, &figures);
        if (figures.found && figures.cost < best->cost)
            *best = figures;
    }
    free(rank_of);
    return failed;
}

static int ours_run(const plan_t *plan, const char *name, instance_t *in,
                    const figures_t *best)
{
    coterie_place_options_t options = COTERIE_PLACE_OPTIONS_INIT;
    coterie_place_report_t report = COTERIE_PLACE_REPORT_INIT;
    size_t items = (size_t)in->view.layer_count * in->view.expert_count;
    uint16_t *rank_of = calloc(items, sizeof(*rank_of));
    coterie_placement_t *placement = NULL;
    coterie_placement_options_t view;
    figures_t figures = {.found = 1};
    double start = bench_seconds();
    int failed = rank_of == NULL;

    options.rank_count = in->ranks;
    options.node_count = in->nodes;
    options.network_cost = in->network_cost;
    options.objective = in->objective;
    options.seed = plan->seed;
    options.time_limit_s = in->seconds;
    options.train_share = 1;
    if (failed || coterie_place(in->train, &options, &placement, &report)) {
        fprintf(stderr, "placement: %s\n", coterie_last_error());
        free(rank_of);
        return 1;
    }
    figures.seconds = bench_seconds() - start;
    coterie_placement_view(placement, &view);
    for (size_t i = 0; i < items; i++)
        rank_of[i / view.slot_count * view.slot_count +
                (size_t)view.slot_expert[i]] =
            view.slot_rank[i % view.slot_count]; /* no spare slots here */
    failed = judge(in, placement, rank_of, &figures);
    figures_print(name, "Coterie", in, &figures);
    printf("{\"instance\": \"%s\", \"objective\": \"%s\", \"method\": "
           "\"Coterie\", \"solver\": \"%s\", \"proved\": %s, \"bound\": "
           "%.6f, \"gap\": %.6f, \"kappa\": %.4f, \"pairwise_cost\": %.6f, "
           "\"over_best_peer\": %.4f}\n",
           name, in->objective ? "crossing" : "dispatch", report.solver,
           report.proved ? "true" : "false", report.bound, report.gap,
           report.kappa, report.cost,
           best->cost > 0 ? figures.cost / best->cost : 1);
    fflush(stdout);
    if (figures.cost > best->cost * (1 + 1e-9))
        fprintf(stderr, "%s: WORSE than a peer: %.6f against %.6f\n", name,
                figures.cost, best->cost);
    coterie_placement_destroy(placement);
    free(rank_of);
    return failed;
}

/* With a placement of its own, or one made of rank_of. */
static int judge(const instance_t *in, const coterie_placement_t *placement,
                 const uint16_t *rank_of, figures_t *figures)
{
    coterie_placement_t *made =
        placement == NULL ? placement_of(in, rank_of) : NULL;
    const coterie_placement_t *judged = placement != NULL ? placement : made;
    uint16_t *ordered = calloc((size_t)in->view.layer_count *
                                   in->view.expert_count, sizeof(*ordered));
    coterie_placement_t *in_order = NULL;

    if (ordered != NULL && place_in_order(in, ordered))
        in_order = placement_of(in, ordered);
    free(ordered);
    if (judged == NULL || in_order == NULL) {
        fprintf(stderr, "placement: %s\n", coterie_last_error());
        coterie_placement_destroy(made);
        return 1;
    }
    figures->held = crossing(in, in->held, rank_of);
    figures->cost = in->objective == COTERIE_OBJECTIVE_CROSSING
                        ? crossing(in, in->train, rank_of)
                        : copies(in, in->train, judged, COTERIE_MODE_OWNER);
    figures->copies =
        copies(in, in->held, judged, COTERIE_MODE_OWNER) /
        copies(in, in->held, in_order, COTERIE_MODE_TWO_PHASE);
    figures->load = fullest(in, rank_of);
    coterie_placement_destroy(made);
    coterie_placement_destroy(in_order);
    return 0;
}

static coterie_placement_t *placement_of(const instance_t *in,
                                         const uint16_t *rank_of)
{
    coterie_placement_options_t options = COTERIE_PLACEMENT_OPTIONS_INIT;
    size_t experts = in->view.expert_count, at = 0;
    size_t items = in->view.layer_count * experts;
    int16_t *slots = calloc(items, sizeof(*slots));
    uint8_t *scores = calloc(items * in->ranks, 1);
    coterie_placement_t *placement = NULL;

    for (size_t l = 0; slots && scores && l < in->view.layer_count; l++)
        for (uint32_t r = 0; r < in->ranks; r++)
            for (size_t e = 0; e < experts; e++)
                if (rank_of[l * experts + e] == r)
                    slots[at++] = (int16_t)e;
    if (slots != NULL && scores != NULL)
        scores_count(in, rank_of, scores);
    options.layer_count = in->view.layer_count;
    options.expert_count = in->view.expert_count;
    options.rank_count = in->ranks;
    options.node_count = in->nodes;
    options.slot_expert = slots;
    options.next_score = scores;
    coterie_placement_create(&options, &placement);
    free(slots);
    free(scores);
    return placement;
}

/* Where peers do not say who should own a token next: how much of what an
 * expert's tokens choose next is on each rank. */
static void scores_count(const instance_t *in, const uint16_t *rank_of,
                         uint8_t *scores)
{
    size_t experts = in->view.expert_count, ranks = in->ranks;

    for (size_t i = 0; i < (in->view.layer_count - 1) * experts; i++) {
        const double *seam = in->seam + i * experts;
        const uint16_t *next = rank_of + (i / experts + 1) * experts;
        double total = 0;
        for (size_t f = 0; f < experts; f++)
            total += seam[f];
        for (size_t r = 0; total > 0 && r < ranks; r++) {
            double sum = 0;
            for (size_t f = 0; f < experts; f++)
                sum += next[f] == r ? seam[f] : 0;
            scores[i * ranks + r] = (uint8_t)lround(255 * sum / total);
        }
    }
}

/* Per token. */
static double crossing(const instance_t *in, const coterie_trace_t *trace,
                       const uint16_t *rank_of)
{
    coterie_trace_view_t view;
    double cost = 0;

    coterie_trace_view(trace, &view);
    for (uint64_t set = 0; set < view.token_count * view.layer_count; set++) {
        const int16_t *ids = view.experts + set * view.k;
        size_t l = set % view.layer_count;
        const uint16_t *here = rank_of + l * view.expert_count;
        const uint16_t *next = here + view.expert_count;
        if (l + 1 == view.layer_count)
            continue;
        for (uint32_t i = 0; i < view.k; i++)
            for (uint32_t j = view.k; j < 2 * view.k; j++)
                if (ids[i] >= 0 && ids[j] >= 0)
                    cost += instance_link(in, here[ids[i]], next[ids[j]]);
    }
    return cost / (double)view.token_count;
}

double instance_link(const instance_t *in, uint32_t a, uint32_t b)
{
    uint32_t size = in->ranks / in->nodes;

    if (a == b)
        return 0;
    return a / size == b / size ? 1 : in->network_cost;
}

/* Per token and layer, weighted by link. */
static double copies(const instance_t *in, const coterie_trace_t *trace,
                     const coterie_placement_t *placement, coterie_mode_t mode)
{
    coterie_simulate_options_t options = COTERIE_SIMULATE_OPTIONS_INIT;
    coterie_counts_t counts[2];
    double sum = 0, tokens = 0;

    options.mode = mode;
    options.group = mode == COTERIE_MODE_TWO_PHASE ? COTERIE_GROUP_NONE
                                                   : COTERIE_GROUP_ALL;
    if (coterie_simulate(trace, placement, &options, counts) != COTERIE_OK)
        return NAN;
    for (int phase = 0; phase < 2; phase++) {
        sum += (double)coterie_counts_copies(&counts[phase]) +
               (in->network_cost - 1) * (double)counts[phase].copies_network;
        tokens += (double)counts[phase].tokens;
    }
    return sum / tokens / in->view.layer_count;
}

static double fullest(const instance_t *in, const uint16_t *rank_of)
{
    size_t experts = in->view.expert_count;
    double worst = 0;

    for (size_t l = 0; l < in->view.layer_count; l++)
        for (uint32_t r = 0; r < in->ranks; r++) {
            double load = 0, sum = 0;
            for (size_t e = l * experts; e < (l + 1) * experts; e++) {
                sum += in->load[e];
                load += rank_of[e] == r ? in->load[e] : 0;
            }
            if (sum > 0)
                worst = fmax(worst, load * in->ranks / sum);
        }
    return worst;
}

static void figures_print(const char *name, const char *method,
                          const instance_t *in, const figures_t *f)
{
    const char *objective = in->objective ? "crossing" : "dispatch";

    if (!f->found) {
        fprintf(stderr, "%-14s %-9s %-10s %10s in %.0f s\n", name, objective,
                method, "nothing", f->seconds);
        printf("{\"instance\": \"%s\", \"objective\": \"%s\", "
               "\"method\": \"%s\", \"found\": false, \"seconds\": "
               "%.3f}\n", name, objective, method, f->seconds);
    } else {
        fprintf(stderr, "%-14s %-9s %-10s %10.4f %10.4f %8.3f %6.2f %8.2f\n",
                name, objective, method, f->cost, f->held, f->copies, f->load,
                f->seconds);
        printf("{\"instance\": \"%s\", \"objective\": \"%s\", "
               "\"method\": \"%s\", \"cost\": %.6f, \"held_crossing\": "
               "%.6f, \"held_copies_of_two_phase_in_order\": %.4f, "
               "\"load\": %.4f, \"seconds\": %.3f}\n",
               name, objective, method, f->cost, f->held, f->copies, f->load,
               f->seconds);
    }
    fflush(stdout);
}
