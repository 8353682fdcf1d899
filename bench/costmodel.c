/* Predicted beside measured: times of decode steps.
 *
 * usage: costmodel [--transport threads|mpi] [--ranks R] [--steps N]
 *                  [--repeats N]
 *
 * The engine is that of bench/dispatch. What a message, a byte and a row take
 * on this machine is fitted to some of the two-phase runs; all other runs
 * (other modes, batches, hidden sizes and emulated latencies) are predicted
 * from these figures, the trace and the placement alone. One JSON object a
 * line; the last line sums up those that were not fitted to. */
#include "config.h"

#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench/bench.h"
#include "bench/dispatch_engine.h"

enum { REPEATS_MAX = 16, LAYERS = 8, FIGURES = 6, ROUNDS = 300 };

static const uint32_t hiddens[] = {128, 1024, 7168};
static const uint32_t batches[] = {1, 8, 64};
static const double latencies[] = {0, 20, 100};
static const char *const mode_names[] = {"auto", "two-phase", "owner",
                                         "forward"};

enum { CASES = 3 * 3 * 3 * 3 };

/* One setting, and what became of it. */
typedef struct run {
    dispatch_setting_t setting;
    coterie_trace_t *trace;
    coterie_placement_t *placement;
    int fitted;
    double measured_us, predicted_us;
} run_t;

/* What this machine takes; what is fitted. */
typedef struct figures {
    double value[FIGURES];
} figures_t;

/* COPY and BYTES per KiB. LATE: an emulated link delivers when a rank
 * wakes, by this share of its latency too late. */
enum { MESSAGE_US, COPY_US, ROW_US, BYTES_US, LAYER_US, LATE };

typedef struct plan {
    uint32_t rank_count, steps, repeats;
    int mpi;
} plan_t;

static int plan_read(int count, char **arguments, plan_t *plan);
static int runs_measure(const plan_t *plan, run_t *runs);
static int run_measure(const plan_t *plan, run_t *run, int *is_first_p);
static int is_fitted(const dispatch_setting_t *setting);
static void figures_fit(const plan_t *plan, run_t *runs, figures_t *figures);
static double misfit(const plan_t *plan, run_t *runs,
                     const figures_t *figures);
static int run_predict(const plan_t *plan, run_t *run,
                       const figures_t *figures);
static void report(const plan_t *plan, const run_t *runs,
                   const figures_t *figures);

int main(int count, char **arguments)
{
    static run_t runs[CASES];
    figures_t figures = {{1, 0.1, 0.1, 0.1, 1, 0.1}};
    plan_t plan;
    int is_first = plan_read(count, arguments, &plan);

    if (is_first == 0)
        return 2;
    is_first = runs_measure(&plan, runs);
    if (is_first < 0)
        return 1;
    if (is_first) {
        figures_fit(&plan, runs, &figures);
        for (int i = 0; i < CASES; i++)
            if (run_predict(&plan, &runs[i], &figures))
                return 1;
        report(&plan, runs, &figures);
    }
    for (int i = 0; i < CASES; i++) {
        coterie_trace_destroy(runs[i].trace);
        coterie_placement_destroy(runs[i].placement);
    }
    return 0;
}

/* 0: not understood. */
static int plan_read(int count, char **arguments, plan_t *plan)
{
    static const struct option options[] = {
        {"transport", 1, NULL, 't'}, {"ranks", 1, NULL, 'r'},
        {"steps", 1, NULL, 's'},     {"repeats", 1, NULL, 'n'},
        {NULL, 0, NULL, 0}};
    int option;

    *plan = (plan_t){.rank_count = 2, .steps = 32, .repeats = 3};
    while ((option = getopt_long(count, arguments, "", options, NULL)) != -1)
        switch (option) {
        case 't': plan->mpi = strcmp(optarg, "mpi") == 0; break;
        case 'r': plan->rank_count = (uint32_t)atoi(optarg); break;
        case 's': plan->steps = (uint32_t)atoi(optarg); break;
        case 'n': plan->repeats = (uint32_t)atoi(optarg); break;
        default: return 0;
        }
    return plan->rank_count - 1 < DISPATCH_RANKS_MAX && plan->steps > 0 &&
           plan->repeats - 1 < REPEATS_MAX;
}

/* Whether this process holds the first rank; -1: failed. */
static int runs_measure(const plan_t *plan, run_t *runs)
{
    int is_first = 1;

    for (int i = 0; i < CASES; i++) {
        runs[i].setting = (dispatch_setting_t){
            .rank_count = plan->rank_count,
            .layers = LAYERS,
            .steps = plan->steps,
            .mode = (coterie_mode_t)(COTERIE_MODE_TWO_PHASE + i % 3),
            .hidden = hiddens[i / 3 % 3],
            .batch = batches[i / 9 % 3],
            .latency_us = latencies[i / 27]};
        runs[i].fitted = is_fitted(&runs[i].setting);
        runs[i].trace = dispatch_trace(&runs[i].setting);
        if (runs[i].trace == NULL ||
            dispatch_placement(&runs[i].setting, &runs[i].placement) ||
            run_measure(plan, &runs[i], &is_first)) {
            fprintf(stderr, "costmodel: %s\n", coterie_last_error());
            return -1;
        }
    }
    return is_first;
}

static int run_measure(const plan_t *plan, run_t *run, int *is_first_p)
{
    coterie_link_t link = {.size = sizeof(link),
                           .latency_us = run->setting.latency_us};
    double step_us[REPEATS_MAX];

    for (uint32_t i = 0; i < plan->repeats; i++) {
        dispatch_result_t result = {0};
        if (dispatch_sample(&run->setting, &link, plan->mpi, &result))
            return 1;
        step_us[i] = result.step_us;
        *is_first_p = result.is_first_rank;
    }
    run->measured_us = bench_median(step_us, plan->repeats);
    return 0;
}

/* Two-phase at the corners, without the middle sizes. */
static int is_fitted(const dispatch_setting_t *setting)
{
    return setting->mode == COTERIE_MODE_TWO_PHASE && setting->batch != 8 &&
           setting->hidden != 1024 && setting->latency_us != 20;
}

/* One figure after the other is tried somewhat larger and smaller. */
static void figures_fit(const plan_t *plan, run_t *runs, figures_t *figures)
{
    double best = misfit(plan, runs, figures), step = 4;

    for (int round = 0; round < ROUNDS; round++) {
        int better = 0;
        for (int f = 0; f < 2 * FIGURES; f++) {
            figures_t tried = *figures;
            double now;
            tried.value[f / 2] *= f % 2 ? step : 1 / step;
            now = misfit(plan, runs, &tried);
            if (now < best) {
                best = now;
                *figures = tried;
                better = 1;
            }
        }
        if (!better)
            step = 1 + 0.7 * (step - 1);
    }
}

/* Sum of squares of the logarithms of ratios, over what is fitted. */
static double misfit(const plan_t *plan, run_t *runs, const figures_t *figures)
{
    double sum = 0;

    for (int i = 0; i < CASES; i++)
        if (runs[i].fitted) {
            double ratio;
            if (run_predict(plan, &runs[i], figures))
                return INFINITY;
            ratio = log(runs[i].predicted_us / runs[i].measured_us);
            sum += ratio * ratio;
        }
    return sum;
}

static int run_predict(const plan_t *plan, run_t *run,
                       const figures_t *figures)
{
    coterie_topology_options_t machine = COTERIE_TOPOLOGY_OPTIONS_INIT;
    coterie_simulate_options_t options = COTERIE_SIMULATE_OPTIONS_INIT;
    coterie_cost_t costs[2] = {COTERIE_COST_INIT, COTERIE_COST_INIT};
    double row_kib = run->setting.hidden * sizeof(float) / 1024.0;
    long processors = sysconf(_SC_NPROCESSORS_ONLN);
    coterie_topology_t *topology = NULL;
    coterie_status_t status;

    machine.rank_count = plan->rank_count;
    machine.processors = processors < (long)plan->rank_count
                             ? (uint32_t)processors
                             : plan->rank_count;
    machine.node.latency_us =
        run->setting.latency_us * (1 + figures->value[LATE]);
    machine.node.message_us = figures->value[MESSAGE_US];
    machine.copy_gbs = 1.024 / figures->value[COPY_US];
    machine.row_us =
        figures->value[ROW_US] + figures->value[BYTES_US] * row_kib;
    machine.token_us = machine.row_us;
    machine.layer_us = figures->value[LAYER_US];
    options.mode = run->setting.mode;
    options.prediction = 1;
    options.hidden = run->setting.hidden;
    options.kv_row_size = dispatch_kv_row_size();
    status = coterie_topology_create(&machine, &topology);
    if (status == COTERIE_OK)
        status = coterie_cost_predict(run->trace, run->placement, topology,
                                      &options, costs);
    coterie_topology_destroy(topology);
    if (status != COTERIE_OK)
        fprintf(stderr, "costmodel: %s\n", coterie_last_error());
    run->predicted_us = costs[COTERIE_PHASE_DECODE].step_us;
    return status != COTERIE_OK;
}

static void report(const plan_t *plan, const run_t *runs,
                   const figures_t *figures)
{
    double off[CASES], ratios[CASES];
    size_t others = 0, near = 0;

    for (int i = 0; i < CASES; i++) {
        const dispatch_setting_t *s = &runs[i].setting;
        double ratio = runs[i].predicted_us / runs[i].measured_us;
        printf("{\"transport\": \"%s\", \"ranks\": %u, \"mode\": \"%s\", "
               "\"hidden\": %u, \"batch\": %u, \"latency_us\": %g, "
               "\"fitted\": %s, \"measured_us\": %.1f, \"predicted_us\": "
               "%.1f, \"ratio\": %.3f}\n",
               plan->mpi ? "mpi" : "threads", plan->rank_count,
               mode_names[s->mode], s->hidden, s->batch, s->latency_us,
               runs[i].fitted ? "true" : "false", runs[i].measured_us,
               runs[i].predicted_us, ratio);
        if (runs[i].fitted)
            continue;
        ratios[others] = ratio;
        near += ratio > 0.8 && ratio < 1.25;
        off[others++] = fabs(log(ratio));
    }
    printf("{\"transport\": \"%s\", \"ranks\": %u, \"message_us\": %.3f, "
           "\"copy_us_per_kib\": %.4f, \"row_us\": %.4f, "
           "\"row_us_per_kib\": %.4f, \"layer_us\": %.3f, "
           "\"late_share\": %.3f, ",
           plan->mpi ? "mpi" : "threads", plan->rank_count,
           figures->value[MESSAGE_US], figures->value[COPY_US],
           figures->value[ROW_US], figures->value[BYTES_US],
           figures->value[LAYER_US], figures->value[LATE]);
    printf("\"predicted\": %zu, \"within_25_percent\": %zu, "
           "\"median_ratio\": %.3f, \"median_off\": %.3f}\n",
           others, near, bench_median(ratios, others),
           exp(bench_median(off, others)) - 1);
}
