/* Tokens a second of each dispatch mode, side by side in one run.
 *
 * usage: dispatch [--transport threads|mpi] [--ranks R] [--layers L]
 *                 [--hidden H,...] [--batch B,...] [--latency US,...]
 *                 [--bandwidth GBS] [--steps N] [--repeats N]
 *
 * The engine (bench/dispatch_engine.c) is synthetic and light, so that what is
 * timed is dispatch. The modes take turns `repeats` times over every setting;
 * medians are printed, one JSON object a line. Under mpirun, give --transport
 * mpi and as many ranks as processes. */
#include "config.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/bench.h"
#include "bench/dispatch_engine.h"

enum { LIST_MAX = 16, REPEATS_MAX = 64, MODES = 4 };

static const char *const mode_names[MODES] = {"auto", "two-phase", "owner",
                                              "forward"};

typedef struct plan {
    uint32_t rank_count, layers, steps, repeats;
    int mpi;
    double bandwidth_gbs;
    uint32_t hidden[LIST_MAX], batch[LIST_MAX], latency[LIST_MAX];
} plan_t;

typedef struct samples {
    double step_us[MODES][REPEATS_MAX];
    double comm_us[MODES][REPEATS_MAX];
} samples_t;

static int plan_read(int count, char **arguments, plan_t *plan);
static void list_read(const char *text, uint32_t *list);
static int setting_run(const plan_t *plan, dispatch_setting_t setting);
static int sample(const plan_t *plan, dispatch_setting_t *setting,
                  dispatch_result_t *result);
static void setting_print(const plan_t *plan, const dispatch_setting_t *setting,
                          samples_t *samples);

int main(int count, char **arguments)
{
    plan_t plan;
    int failed = plan_read(count, arguments, &plan);

    for (int l = 0; !failed && plan.latency[l] != UINT32_MAX; l++)
        for (int h = 0; !failed && plan.hidden[h] != UINT32_MAX; h++)
            for (int b = 0; !failed && plan.batch[b] != UINT32_MAX; b++)
                failed = setting_run(
                    &plan, (dispatch_setting_t){.rank_count = plan.rank_count,
                                                .layers = plan.layers,
                                                .steps = plan.steps,
                                                .hidden = plan.hidden[h],
                                                .batch = plan.batch[b],
                                                .latency_us = plan.latency[l]});
    return failed;
}

static int plan_read(int count, char **arguments, plan_t *plan)
{
    static const struct option options[] = {
        {"transport", 1, NULL, 't'}, {"ranks", 1, NULL, 'r'},
        {"layers", 1, NULL, 'l'},    {"hidden", 1, NULL, 'h'},
        {"batch", 1, NULL, 'b'},     {"latency", 1, NULL, 'u'},
        {"bandwidth", 1, NULL, 'g'}, {"steps", 1, NULL, 's'},
        {"repeats", 1, NULL, 'n'},   {NULL, 0, NULL, 0}};
    int option;

    *plan = (plan_t){.rank_count = 2, .layers = 8, .steps = 32, .repeats = 5};
    list_read("128,1024,7168", plan->hidden);
    list_read("1,8,64,512", plan->batch);
    list_read("0,20,100", plan->latency);
    while ((option = getopt_long(count, arguments, "", options, NULL)) != -1)
        switch (option) {
        case 't': plan->mpi = strcmp(optarg, "mpi") == 0; break;
        case 'r': plan->rank_count = (uint32_t)atoi(optarg); break;
        case 'l': plan->layers = (uint32_t)atoi(optarg); break;
        case 'h': list_read(optarg, plan->hidden); break;
        case 'b': list_read(optarg, plan->batch); break;
        case 'u': list_read(optarg, plan->latency); break;
        case 'g': plan->bandwidth_gbs = atof(optarg); break;
        case 's': plan->steps = (uint32_t)atoi(optarg); break;
        case 'n': plan->repeats = (uint32_t)atoi(optarg); break;
        default: return 2;
        }
    if (plan->rank_count - 1 >= DISPATCH_RANKS_MAX || plan->layers == 0 ||
        plan->steps == 0 || plan->repeats - 1 >= REPEATS_MAX) {
        fprintf(stderr,
                "dispatch: 1 to %d ranks, 1 to %d repeats, layers and steps "
                "from 1\n",
                DISPATCH_RANKS_MAX, REPEATS_MAX);
        return 2;
    }
    return 0;
}

/* Ends with UINT32_MAX. */
static void list_read(const char *text, uint32_t *list)
{
    uint32_t count = 0;

    while (count < LIST_MAX - 1 && *text != '\0') {
        char *end;

        list[count++] = (uint32_t)strtoul(text, &end, 10);
        text = end + (end == text) + strspn(end, ",");
    }
    list[count] = UINT32_MAX;
}

static int setting_run(const plan_t *plan, dispatch_setting_t setting)
{
    static samples_t samples;

    for (uint32_t repeat = 0; repeat < plan->repeats; repeat++)
        for (uint32_t mode = 0; mode < MODES; mode++) {
            dispatch_result_t result = {0};

            setting.mode = (coterie_mode_t)mode;
            if (sample(plan, &setting, &result) != 0)
                return 1;
            samples.step_us[mode][repeat] = result.step_us;
            samples.comm_us[mode][repeat] = result.comm_us;
            setting.is_first_rank = result.is_first_rank;
        }
    if (setting.is_first_rank)
        setting_print(plan, &setting, &samples);
    return 0;
}

static int sample(const plan_t *plan, dispatch_setting_t *setting,
                  dispatch_result_t *result)
{
    coterie_link_t link = {.size = sizeof(link),
                           .latency_us = setting->latency_us,
                           .bandwidth_gbs = plan->bandwidth_gbs};

    return dispatch_sample(setting, &link, plan->mpi, result);
}

static void setting_print(const plan_t *plan, const dispatch_setting_t *setting,
                          samples_t *samples)
{
    double step_us[MODES];
    uint32_t best = COTERIE_MODE_TWO_PHASE;

    printf("{\"transport\": \"%s\", \"ranks\": %u, \"hidden\": %u, "
           "\"batch\": %u, \"latency_us\": %g",
           plan->mpi ? "mpi" : "threads", setting->rank_count, setting->hidden,
           setting->batch, setting->latency_us);
    for (uint32_t mode = 0; mode < MODES; mode++) {
        step_us[mode] = bench_median(samples->step_us[mode], plan->repeats);
        printf(", \"%s\": {\"tokens_per_s\": %.0f, \"step_us\": %.1f, "
               "\"exchange_us\": %.1f}",
               mode_names[mode], setting->batch * 1e6 / step_us[mode],
               step_us[mode],
               bench_median(samples->comm_us[mode], plan->repeats));
        if (mode != COTERIE_MODE_AUTO && step_us[mode] < step_us[best])
            best = mode;
    }
    printf(", \"best\": \"%s\", \"forward_over_two_phase\": %.2f, "
           "\"auto_over_best\": %.2f}\n",
           mode_names[best],
           step_us[COTERIE_MODE_TWO_PHASE] / step_us[COTERIE_MODE_FORWARD],
           step_us[best] / step_us[COTERIE_MODE_AUTO]);
    fflush(stdout);
}
