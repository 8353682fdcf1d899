#include "config.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include <coterie/coterie.h>

#include "tests/kernels_data.h"

/* The published formulas in double precision, with masks and repeated argmax
 * where the router counts and inserts. */
typedef struct reference {
    double score[256], choice[256];
    int32_t ids[COTERIE_K_MAX];
    double weights[COTERIE_K_MAX];
} reference_t;

static coterie_router_options_t options_of(uint32_t experts, uint32_t k)
{
    coterie_router_options_t options = COTERIE_ROUTER_OPTIONS_INIT;
    options.expert_count = experts;
    options.k = k;
    return options;
}

static void reference_scores(const coterie_router_options_t *options,
                             const float *logits, reference_t *r)
{
    double sum = 0;
    for (uint32_t e = 0; e < options->expert_count; e++)
        sum += exp(logits[e]);
    for (uint32_t e = 0; e < options->expert_count; e++) {
        r->score[e] = options->scoring == COTERIE_SCORING_SOFTMAX
                          ? exp(logits[e]) / sum
                          : 1 / (1 + exp(-(double)logits[e]));
        r->choice[e] = r->score[e];
        if (options->bias != NULL)
            r->choice[e] += options->bias[e];
    }
}

static uint32_t argmax(const double *values, uint32_t count)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < count; i++)
        if (values[i] > values[best])
            best = i;
    return best;
}

/* The sum of the `top` highest. */
static double sum_of_top(const double *values, uint32_t count, uint32_t top)
{
    double left[256], sum = 0;
    memcpy(left, values, count * sizeof(*values));
    for (uint32_t i = 0; i < top && i < count; i++) {
        const uint32_t best = argmax(left, count);
        sum += left[best];
        left[best] = -INFINITY;
    }
    return sum;
}

static void reference_mask_groups(const coterie_router_options_t *options,
                                  reference_t *r)
{
    const uint32_t size = options->expert_count / options->group_count;
    const uint32_t top = options->scoring == COTERIE_SCORING_SIGMOID ? 2 : 1;
    double group[256];
    int kept[256] = {0};
    for (uint32_t g = 0; g < options->group_count; g++)
        group[g] = sum_of_top(r->choice + g * size, size, top);
    for (uint32_t i = 0; i < options->group_topk; i++) {
        const uint32_t best = argmax(group, options->group_count);
        kept[best] = 1;
        group[best] = -INFINITY;
    }
    for (uint32_t e = 0; e < options->expert_count; e++)
        if (!kept[e / size])
            r->choice[e] = -INFINITY;
}

static void reference_route(const coterie_router_options_t *options,
                            const float *logits, reference_t *r)
{
    double sum = 0;
    reference_scores(options, logits, r);
    if (options->group_count > 1)
        reference_mask_groups(options, r);
    for (uint32_t i = 0; i < options->k; i++) {
        const uint32_t best = argmax(r->choice, options->expert_count);
        r->ids[i] = (int32_t)best;
        r->choice[best] = -INFINITY;
        sum += r->score[best];
    }
    for (uint32_t i = 0; i < options->k; i++)
        r->weights[i] = r->score[r->ids[i]] /
                        (options->norm_topk ? sum : 1) *
                        (options->scale != 0 ? options->scale : 1);
}

/* Rows of random logits, routed all at once. */
static void expect_routes(const coterie_router_options_t *options,
                          uint64_t *seed)
{
    const uint32_t n = 40, k = options->k;
    float *logits = random_floats(seed, (size_t)n * options->expert_count);
    int32_t ids[40 * COTERIE_K_MAX];
    float weights[40 * COTERIE_K_MAX];
    for (uint32_t i = 0; i < n * options->expert_count; i++)
        logits[i] *= 6;
    cr_assert(eq(int, COTERIE_OK,
                 coterie_router_topk(options, n, logits, ids, weights)));
    for (uint32_t row = 0; row < n; row++) {
        reference_t r;
        reference_route(options, logits + row * options->expert_count, &r);
        for (uint32_t i = 0; i < k; i++) {
            cr_expect(eq(i32, ids[row * k + i], r.ids[i]));
            expect_close(weights[row * k + i], r.weights[i],
                         2e-6 * r.weights[i]);
        }
    }
    free(logits);
}

Test(router, chooses_by_softmax_over_all_experts)
{
    uint64_t seed = 1;
    for (uint32_t experts = 1; experts < 140; experts += 9)
        for (uint32_t k = 1; k <= COTERIE_K_MAX && k <= experts; k += 3) {
            coterie_router_options_t options = options_of(experts, k);
            options.norm_topk = k % 2;
            options.scale = k > 4 ? 2.5f : 0;
            expect_routes(&options, &seed);
        }
}

Test(router, takes_the_best_of_a_group_for_its_softmax_score)
{
    uint64_t seed = 2;
    coterie_router_options_t options = options_of(160, 6);
    options.group_count = 8;
    options.group_topk = 3;
    options.scale = 16;
    expect_routes(&options, &seed);
}

Test(router, takes_the_best_two_of_a_group_for_its_sigmoid_score)
{
    uint64_t seed = 3;
    coterie_router_options_t options = options_of(256, 8);
    float *bias = random_floats(&seed, 256);
    options.scoring = COTERIE_SCORING_SIGMOID;
    options.group_count = 8;
    options.group_topk = 4;
    options.norm_topk = 1;
    options.scale = 2.5f;
    expect_routes(&options, &seed);
    options.bias = bias;
    expect_routes(&options, &seed);
    free(bias);
}

Test(router, counts_the_only_expert_of_a_group_once)
{
    uint64_t seed = 4;
    coterie_router_options_t options = options_of(8, 2);
    options.scoring = COTERIE_SCORING_SIGMOID;
    options.group_count = 8;
    options.group_topk = 3;
    expect_routes(&options, &seed);
}

Test(router, lets_the_bias_choose_but_not_weigh)
{
    const float logits[3] = {2, 1, 0}, bias[3] = {0, 0, 9};
    coterie_router_options_t options = options_of(3, 1);
    int32_t id = -7;
    float weight = 0;
    options.scoring = COTERIE_SCORING_SIGMOID;
    options.bias = bias;
    cr_expect(eq(int, COTERIE_OK,
                 coterie_router_topk(&options, 1, logits, &id, &weight)));
    cr_expect(eq(i32, id, 2));
    cr_expect(ieee_ulp_eq(flt, weight, 0.5f, 2));
}

Test(router, gives_ties_to_the_lower_id)
{
    const float logits[6] = {1, 3, 3, 1, 3, 1};
    const coterie_router_options_t options = options_of(6, 5);
    int32_t ids[5];
    float weights[5];
    cr_expect(eq(int, COTERIE_OK,
                 coterie_router_topk(&options, 1, logits, ids, weights)));
    cr_expect(ids[0] == 1 && ids[1] == 2 && ids[2] == 4);
    cr_expect(ids[3] == 0 && ids[4] == 3);
}

Test(router, never_leaves_the_chosen_groups_though_scores_vanish)
{
    const float logits[4] = {-300, -300, 0, -300};
    coterie_router_options_t options = options_of(4, 2);
    int32_t ids[2];
    float weights[2];
    options.group_count = 2;
    options.group_topk = 1;
    cr_expect(eq(int, COTERIE_OK,
                 coterie_router_topk(&options, 1, logits, ids, weights)));
    cr_expect(ids[0] == 2 && ids[1] == 3);
    cr_expect(eq(flt, weights[1], 0));
}

Test(router, gives_masked_experts_no_weight)
{
    const float logits[3] = {-INFINITY, 5, -INFINITY};
    coterie_router_options_t options = options_of(3, 2);
    int32_t ids[2];
    float weights[2];
    options.norm_topk = 1;
    cr_expect(eq(int, COTERIE_OK,
                 coterie_router_topk(&options, 1, logits, ids, weights)));
    cr_expect(eq(i32, ids[0], 1));
    cr_expect(eq(flt, weights[0], 1));
    cr_expect(eq(flt, weights[1], 0));
}

static void expect_refusal(const coterie_router_options_t *options,
                           const float *logits, coterie_status_t status)
{
    int32_t ids[COTERIE_K_MAX + 1] = {-7};
    float weights[COTERIE_K_MAX + 1] = {-7};
    cr_expect(eq(int, status,
                 coterie_router_topk(options, 1, logits, ids, weights)));
    cr_expect(ids[0] == -7 && weights[0] == -7);
    cr_expect(ne(chr, coterie_last_error()[0], '\0'));
}

Test(router, refuses_logits_without_an_order)
{
    const float bad[] = {NAN, INFINITY};
    const coterie_router_options_t options = options_of(3, 1);
    const float masked[3] = {-INFINITY, -INFINITY, -INFINITY};
    for (int i = 0; i < 2; i++) {
        const float logits[3] = {1, bad[i], 2};
        expect_refusal(&options, logits, COTERIE_ERR_INVALID);
    }
    expect_refusal(&options, masked, COTERIE_ERR_INVALID);
}

Test(router, refuses_k_that_does_not_fit)
{
    const float logits[32] = {0};
    const uint32_t experts[] = {4, 4, 32, 0, 5000};
    const uint32_t k[] = {0, 5, COTERIE_K_MAX + 1, 1, 1};
    for (int i = 0; i < 5; i++) {
        const coterie_router_options_t options = options_of(experts[i], k[i]);
        expect_refusal(&options, logits, COTERIE_ERR_INVALID);
    }
}

Test(router, refuses_groups_that_do_not_fit)
{
    const float logits[12] = {0};
    const uint32_t count[] = {5, 4, 4, 4}, topk[] = {1, 0, 5, 1};
    for (int i = 0; i < 4; i++) {
        coterie_router_options_t options = options_of(12, 4);
        options.group_count = count[i];
        options.group_topk = topk[i];
        expect_refusal(&options, logits, COTERIE_ERR_INVALID);
    }
}

Test(router, refuses_what_it_does_not_know)
{
    const float logits[2] = {0}, bias[2] = {0, NAN};
    coterie_router_options_t options = options_of(2, 1);
    options.scoring = 2;
    expect_refusal(&options, logits, COTERIE_ERR_UNSUPPORTED);
    options = options_of(2, 1);
    options.norm_topk = 2;
    expect_refusal(&options, logits, COTERIE_ERR_INVALID);
    options = options_of(2, 1);
    options.scale = NAN;
    expect_refusal(&options, logits, COTERIE_ERR_INVALID);
    options = options_of(2, 1);
    options.bias = bias;
    expect_refusal(&options, logits, COTERIE_ERR_INVALID);
}
