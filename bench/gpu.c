/* What a GPU computes beside what it can: experts beside one large product of
 * cuBLAS, the same experts by cuBLAS's grouped products, and copies within its
 * memory; rows put to their pairs, and sums of parts, beside copies.
 *
 * usage: gpu [--device cuda:0|host] [--shape Q|M|D|S] [--tokens 1,8,4096]
 *            [--runs N]
 *
 * One JSON object a line, medians of `runs` in turns. Outputs are poisoned
 * before a kernel's first run, and checked against the processor's before
 * anything is timed. Exit status 77: there is no such device. */
#include "config.h"

#include <getopt.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "bench/bench.h"
#include "bench/gpu_cublas.h"
#include "bench/gpu_layer.h"

enum { RUNS_MAX = 101, TOKENS_MAX = 16, SKIPPED = 77 };

typedef struct plan {
    const char *device;
    char shape;
    uint32_t tokens[TOKENS_MAX], token_count, runs;
} plan_t;

/* What is measured, all sides in turns. */
typedef struct side {
    const char *name;
    double (*run)(const gpu_layer_t *layer, uint32_t turn); /* seconds */
    double seconds[RUNS_MAX];
} side_t;

static int plan_read(int argc, char **argv, plan_t *plan);
static void measure(const gpu_layer_t *layer, side_t *sides, uint32_t count,
                    uint32_t runs);
static void report(const gpu_layer_t *layer, const char *gpu, side_t *sides,
                   uint32_t runs);

int main(int argc, char **argv)
{
    plan_t plan = {"cuda", 'Q', {1, 8, 64, 4096, 16384}, 5, 15};
    coterie_device_about_t about = {.size = sizeof(about), .name = "host"};
    coterie_device_t *device = NULL;
    int status = plan_read(argc, argv, &plan);

    if (status != 0)
        return status;
    if (coterie_device_open(plan.device, &device) != COTERIE_OK) {
        printf("SKIP: %s\n", coterie_last_error());
        return SKIPPED;
    }
    if (strcmp(device->ops->kind, "cuda") == 0)
        coterie_device_describe(device->index, &about);
    for (uint32_t i = 0; i < plan.token_count && status == 0; i++) {
        side_t sides[GPU_SIDES] = {{"experts", gpu_layer_experts, {0}},
                                   {"combine", gpu_layer_combine, {0}},
                                   {"copy", gpu_layer_copy, {0}},
                                   {"cublas", gpu_layer_cublas, {0}},
                                   {"permute", gpu_layer_permute, {0}},
                                   {"grouped", gpu_layer_grouped, {0}}};
        gpu_layer_t *layer =
            gpu_layer_open(device, plan.shape, plan.tokens[i]);

        if (gpu_layer_check(layer)) {
            measure(layer, sides, GPU_SIDES, plan.runs);
            report(layer, about.name, sides, plan.runs);
        } else {
            status = 1;
        }
        gpu_layer_close(layer);
    }
    coterie_device_close(device);
    return status;
}

static int plan_read(int argc, char **argv, plan_t *plan)
{
    static const struct option options[] = {
        {"device", required_argument, NULL, 'd'},
        {"shape", required_argument, NULL, 's'},
        {"tokens", required_argument, NULL, 't'},
        {"runs", required_argument, NULL, 'r'},
        {NULL, 0, NULL, 0}};
    int option;

    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (option == 'd') {
            plan->device = optarg;
        } else if (option == 's') {
            plan->shape = optarg[0];
        } else if (option == 'r') {
            plan->runs = (uint32_t)strtoul(optarg, NULL, 10);
        } else if (option == 't') {
            plan->token_count = 0;
            for (char *at = optarg; plan->token_count < TOKENS_MAX;
                 at = strchr(at, ',') + 1) {
                plan->tokens[plan->token_count++] =
                    (uint32_t)strtoul(at, NULL, 10);
                if (strchr(at, ',') == NULL)
                    break;
            }
        } else {
            return 2;
        }
    }
    if (plan->runs == 0 || plan->runs > RUNS_MAX || plan->tokens[0] == 0 ||
        plan->shape == '\0' || strchr(GPU_SHAPES, plan->shape) == NULL) {
        fprintf(stderr, "gpu: --shape one of " GPU_SHAPES
                        "; --tokens from 1; --runs 1 to %d\n",
                RUNS_MAX);
        return 2;
    }
    return 0;
}

static void measure(const gpu_layer_t *layer, side_t *sides, uint32_t count,
                    uint32_t runs)
{
    for (uint32_t s = 0; s < count; s++)
        sides[s].run(layer, 0); /* once, to get warm */
    for (uint32_t i = 0; i < runs; i++)
        for (uint32_t s = 0; s < count; s++)
            sides[s].seconds[i] = sides[s].run(layer, i);
}

/* Rates of whichever limits: products, or weights and parts read. */
static void report(const gpu_layer_t *layer, const char *gpu, side_t *sides,
                   uint32_t runs)
{
    const double experts = bench_median(sides[0].seconds, runs);
    const double combine = bench_median(sides[1].seconds, runs);
    const double copy = gpu_layer_copied(layer) /
                        bench_median(sides[2].seconds, runs);
    const double product = GPU_CUBLAS_FLOP /
                           bench_median(sides[3].seconds, runs);
    const double flop = gpu_layer_flop(layer) / experts;
    const double weights = gpu_layer_weights(layer) / experts;
    const double parts = gpu_layer_parts(layer) / combine;
    const double permute = bench_median(sides[4].seconds, runs);
    const double grouped = bench_median(sides[5].seconds, runs);
    const double rows = gpu_layer_permuted(layer) / permute;
    const double both =
        (gpu_layer_parts(layer) + gpu_layer_permuted(layer)) /
        (combine + permute);

    printf("{\"gpu\": \"%s\", \"shape\": \"%s\", \"tokens\": %u, \"tile\": %u, "
           "\"runs\": %u, \"experts_us\": %.2f, \"experts_tflops\": %.2f, "
           "\"weights_gb_s\": %.1f, \"combine_us\": %.2f, "
           "\"combine_gb_s\": %.1f, \"copy_gb_s\": %.1f",
           gpu, gpu_layer_name(layer), gpu_layer_tokens(layer),
           gpu_layer_tile(layer), runs, 1e6 * experts, 1e-12 * flop,
           1e-9 * weights, 1e6 * combine, 1e-9 * parts, 1e-9 * copy);
    if (isfinite(product))
        printf(", \"cublas_tflops\": %.2f, \"of_cublas\": %.3f",
               1e-12 * product, flop / product);
    if (isfinite(grouped))
        printf(", \"grouped_us\": %.2f, \"grouped_over_experts\": %.3f",
               1e6 * grouped, grouped / experts);
    printf(", \"weights_of_copy\": %.3f, \"combine_of_copy\": %.3f, "
           "\"permute_us\": %.2f, \"permute_of_copy\": %.3f, "
           "\"permute_combine_us\": %.2f, "
           "\"permute_combine_of_copy\": %.3f}\n",
           weights / copy, parts / copy, 1e6 * permute, rows / copy,
           1e6 * (permute + combine), both / copy);
    fflush(stdout);
}
