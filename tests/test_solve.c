#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "placement/solve/eigen.h"
#include "placement/solve/layer.h"
#include "placement/solve/master.h"
#include "placement/solve/matching.h"
#include "placement/solve/parallel.h"
#include "placement/solve/relabel.h"
#include "placement/solve/rotation.h"

enum { SIDES = 40, LAYERS = 4, EXPERTS = 12, CELLS = EXPERTS * EXPERTS };

static const coterie_search_t unhurried = {.deadline = INFINITY};

/* matrix + shift x identity, has it no eigenvalue of 0 or less? */
static int positive_with(const float *matrix, float sign,
                         const coterie_eigen_t *eigen, double shift)
{
    uint32_t n = eigen->count;
    double *square = malloc((size_t)n * n * sizeof(*square));
    int positive;

    for (uint32_t i = 0; i < n * n; i++)
        square[i] = sign * matrix[i / n * eigen->stride + i % n] +
                    (i / n == i % n ? shift : 0);
    positive = coterie_eigen_is_positive(square, n);
    free(square);
    return positive;
}

static void mark(void *arg, uint32_t thread, uint32_t index)
{
    ((uint32_t *)arg)[index] += 1 + thread % 2;
}

/* Experts that follow their like: those of a layer that share a rank in
 * rank_of, all weight within ranks. */
static coterie_problem_t following(const uint16_t *rank_of, float *seam,
                                   uint64_t *load, const uint32_t *capacity)
{
    for (uint32_t i = 0; i < (LAYERS - 1) * CELLS; i++) {
        uint32_t l = i / CELLS, e = i % CELLS / EXPERTS, f = i % EXPERTS;
        seam[i] = rank_of[l * EXPERTS + e] == rank_of[(l + 1) * EXPERTS + f];
    }
    memset(load, 0, LAYERS * EXPERTS * sizeof(*load));
    return (coterie_problem_t){
        .layer_count = LAYERS, .expert_count = EXPERTS, .rank_count = 4,
        .node_count = 2, .network_cost = 8, .capacity = capacity,
        .seam = seam, .load = load, .tolerance = 1e-6};
}

static void seams_draw(float *seam, coterie_search_t *random)
{
    for (uint32_t i = 0; i < (LAYERS - 1) * CELLS; i++)
        seam[i] = (float)coterie_search_below(random, 50);
}

/* One column for each rank, of three of the experts in every layer. */
static void master_fill(coterie_master_t *master,
                        const coterie_problem_t *problem)
{
    static const uint32_t class_size[] = {4};
    uint32_t masks[LAYERS];

    cr_assert(eq(int, COTERIE_OK,
                 coterie_master_open(master, problem, class_size, 1)));
    for (uint32_t r = 0; r < 4; r++) {
        for (uint32_t l = 0; l < LAYERS; l++)
            masks[l] = 7u << 3 * r;
        cr_assert(eq(int, COTERIE_OK,
                     coterie_master_add(master, masks, 0, 1 + r)));
    }
}

Test(solve, goes_on_after_an_error_inside_glpk)
{
    static const uint32_t capacity[] = {3, 3, 3, 3};
    static const uint32_t masks[LAYERS] = {7, 7, 7, 7};
    coterie_search_t search = unhurried;
    coterie_solution_t solution = {.cost = 1};
    coterie_master_t master;
    uint16_t rank_of[LAYERS * EXPERTS] = {0};
    float seam[(LAYERS - 1) * CELLS];
    uint64_t load[LAYERS * EXPERTS];
    coterie_problem_t problem = following(rank_of, seam, load, capacity);
    uint32_t chosen[4];

    master_fill(&master, &problem);
    cr_assert(eq(int, COTERIE_OK, /* of a class whose row GLPK has not */
                 coterie_master_add(&master, masks, 1, 1)));
    cr_expect(ne(int, 0, coterie_master_solve(&master, &search, &solution)));
    cr_expect(ne(int, 0, coterie_master_choose(&master, &search, &solution,
                                               chosen)));
    coterie_master_close(&master);

    master_fill(&master, &problem);
    cr_expect(zero(int, coterie_master_solve(&master, &search, &solution)));
    cr_expect(zero(int, coterie_master_choose(&master, &search, &solution,
                                              chosen)));
    coterie_master_close(&master);
}

Test(solve, takes_glpk_up_again_where_the_clock_stopped_it)
{
    static const uint32_t capacity[] = {3, 3, 3, 3};
    coterie_search_t late = {.deadline = 0}, search = unhurried;
    coterie_solution_t solution = {.cost = 1};
    coterie_master_t master;
    uint16_t rank_of[LAYERS * EXPERTS] = {0};
    float seam[(LAYERS - 1) * CELLS];
    uint64_t load[LAYERS * EXPERTS];
    coterie_problem_t problem = following(rank_of, seam, load, capacity);

    master_fill(&master, &problem);
    cr_expect(ne(int, 0, coterie_master_solve(&master, &late, &solution)));
    cr_expect(eq(int, late.stopped, COTERIE_STOPPED_LATE));
    cr_expect(zero(int, master.failed));
    cr_expect(zero(int, coterie_master_solve(&master, &search, &solution)));
    cr_expect(epsilon_eq(dbl, master.columns[3].share, 1, 1e-9));
    coterie_master_close(&master);
}

Test(solve, parts_a_matrix_into_what_is_positive_and_what_is_not)
{
    coterie_search_t random = {.random = 3};

    for (uint32_t n = 1; n <= SIDES; n++) {
        coterie_eigen_t eigen;
        float *matrix, *positive;
        double product = 0, size = 0;
        size_t cells;
        cr_assert(eq(int, COTERIE_OK, coterie_eigen_open(&eigen, n)));
        cells = (size_t)n * eigen.stride;
        matrix = calloc(cells, sizeof(*matrix));
        positive = aligned_alloc(COTERIE_EIGEN_ALIGN, cells * sizeof(float));
        for (uint32_t i = 0; i < n; i++)
            for (uint32_t j = 0; j <= i; j++) /* every third has equal values */
                matrix[i * eigen.stride + j] = matrix[j * eigen.stride + i] =
                    n % 3 ? (float)coterie_search_below(&random, 200) - 100
                          : (i % 5 == j % 5) - 2.0f * (i == j);
        memcpy(eigen.matrix, matrix, cells * sizeof(*matrix));
        coterie_eigen_positive(&eigen, positive);
        for (size_t i = 0; i < cells; i++) {
            product += (double)positive[i] * (matrix[i] - positive[i]);
            size += (double)matrix[i] * matrix[i];
            matrix[i] -= positive[i];
        }
        cr_expect(lt(dbl, fabs(product), 1e-5 * size), "side %u", n);
        cr_expect(positive_with(positive, 1, &eigen, 1e-5 * sqrt(size)));
        cr_expect(positive_with(matrix, -1, &eigen, 1e-5 * sqrt(size)));
        cr_expect(not(positive_with(matrix, -1, &eigen, -1 - sqrt(size))));
        coterie_eigen_close(&eigen);
        free(matrix);
        free(positive);
    }
}

Test(solve, works_on_everything_once_on_any_number_of_threads)
{
    coterie_search_t search = unhurried;
    coterie_solution_t solution = {.cost = 1};

    for (uint32_t threads = 1; threads <= 5; threads++)
        for (uint32_t some = 0; some <= 8; some += 4) {
            coterie_parallel_t parallel = {threads, some, &search, &solution};
            uint32_t marks[11] = {0};
            cr_assert(zero(int, coterie_parallel(&parallel, 11, mark, marks)));
            for (uint32_t i = 0; i < 11; i++)
                cr_expect(eq(u32, marks[i],
                             1 + (some ? i % some : i) % threads % 2));
        }
}

Test(solve, starts_nothing_once_the_search_is_over)
{
    coterie_search_t search = {.deadline = 0};
    coterie_solution_t solution = {.cost = 1};
    coterie_parallel_t parallel = {2, 1, &search, &solution};
    uint32_t marks[3] = {0};

    cr_expect(not(zero(int, coterie_parallel(&parallel, 3, mark, marks))));
    cr_expect(zero(u32, marks[0]));
}

Test(solve, finds_ranks_again_that_go_on_under_other_names)
{
    static const uint32_t capacity[] = {3, 3, 3, 3};
    /* nodes {0, 1} and {2, 3} stay together in every renaming */
    static const uint16_t name[LAYERS][4] = {
        {0, 1, 2, 3}, {3, 2, 0, 1}, {1, 0, 2, 3}, {2, 3, 1, 0}};
    uint16_t same[LAYERS * EXPERTS], renamed[LAYERS * EXPERTS];
    float seam[(LAYERS - 1) * CELLS];
    uint64_t load[LAYERS * EXPERTS];
    coterie_relabel_t relabel;
    coterie_problem_t problem;

    for (uint32_t i = 0; i < LAYERS * EXPERTS; i++) {
        same[i] = (i + i / EXPERTS) % 4;
        renamed[i] = name[i / EXPERTS][same[i]];
    }
    problem = following(same, seam, load, capacity);
    cr_assert(gt(dbl, coterie_problem_cost(&problem, renamed), 0));
    cr_assert(eq(int, COTERIE_OK, coterie_relabel_open(&relabel, &problem)));
    cr_assert(eq(int, COTERIE_OK, coterie_relabel_seams(&relabel, renamed)));
    cr_expect(zero(dbl, coterie_problem_cost(&problem, renamed)));
    cr_expect(coterie_problem_legal(&problem, renamed));
    coterie_relabel_close(&relabel);
}

Test(solve, tells_a_swaps_gain_as_the_cost_does)
{
    static const uint32_t capacity[] = {3, 3, 3, 3};
    uint16_t rank_of[LAYERS * EXPERTS];
    float seam[(LAYERS - 1) * CELLS], pair[LAYERS * CELLS];
    uint64_t load[LAYERS * EXPERTS];
    coterie_search_t random = {.random = 5};
    coterie_problem_t problem;
    coterie_layer_t layer;

    for (uint32_t i = 0; i < LAYERS * EXPERTS; i++)
        rank_of[i] = i % 4;
    problem = following(rank_of, seam, load, capacity);
    seams_draw(seam, &random);
    for (uint32_t i = 0; i < LAYERS * CELLS; i++) {
        uint32_t e = i % CELLS / EXPERTS, f = i % EXPERTS;
        pair[i] = e == f ? 0 : e * f % 7;
    }
    problem.pair = pair;
    cr_assert(eq(int, COTERIE_OK, coterie_layer_open(&layer, &problem)));
    for (uint32_t i = 0; i < 200; i++) {
        double before = coterie_problem_cost(&problem, rank_of), gain;
        coterie_swap_t swap = {coterie_search_below(&random, EXPERTS),
                               coterie_search_below(&random, EXPERTS)};
        coterie_layer_enter(&layer, rank_of, i % LAYERS);
        gain = coterie_layer_gain(&layer, swap);
        coterie_layer_swap(&layer, swap);
        cr_expect(epsilon_eq(dbl, gain,
                             before - coterie_problem_cost(&problem, rank_of),
                             1e-3));
    }
    coterie_layer_close(&layer);
}

/* Of an assignment of experts to slots, which is exact. */
static double most_pull(const coterie_layer_t *layer, const uint16_t *slot)
{
    uint32_t ranks = layer->problem->rank_count, match[EXPERTS];
    float weight[CELLS];
    double sum = 0;

    for (uint32_t i = 0; i < CELLS; i++)
        weight[i] = layer->pull[i / EXPERTS * ranks + slot[i % EXPERTS]];
    cr_assert(eq(int, COTERIE_OK, coterie_match(weight, EXPERTS, match)));
    for (uint32_t e = 0; e < EXPERTS; e++)
        sum += weight[e * EXPERTS + match[e]];
    return sum;
}

Test(solve, rotations_leave_a_layer_at_its_best_between_its_neighbours)
{
    static const uint32_t capacity[] = {4, 3, 3, 2};
    static const uint16_t slot[] = {0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3};
    uint16_t rank_of[LAYERS * EXPERTS] = {0};
    float seam[(LAYERS - 1) * CELLS];
    uint64_t load[LAYERS * EXPERTS];
    coterie_search_t random = {.random = 7};
    coterie_problem_t problem = following(rank_of, seam, load, capacity);
    coterie_layer_t layer;
    coterie_rotation_t rotation;

    cr_assert(eq(int, COTERIE_OK, coterie_layer_open(&layer, &problem)));
    cr_assert(eq(int, COTERIE_OK, coterie_rotation_open(&rotation, 4)));
    for (uint32_t round = 0; round < 200; round++) {
        double sum = 0;
        for (uint32_t i = 0; i < LAYERS * EXPERTS; i++)
            rank_of[i] = slot[i % EXPERTS];
        seams_draw(seam, &random);
        coterie_problem_measure(&problem);
        coterie_layer_enter(&layer, rank_of, round % LAYERS);
        coterie_rotation_descend(&rotation, &layer);
        cr_expect(coterie_problem_legal(&problem, rank_of));
        for (uint32_t e = 0; e < EXPERTS; e++)
            sum += layer.pull[e * 4 + layer.rank_of[e]];
        cr_expect(epsilon_eq(dbl, sum, most_pull(&layer, slot), 1e-2));
    }
    coterie_rotation_close(&rotation);
    coterie_layer_close(&layer);
}

Test(solve, rotations_keep_to_load_limits)
{
    static const uint32_t capacity[] = {3, 3, 3, 3};
    uint16_t rank_of[LAYERS * EXPERTS] = {0};
    float seam[(LAYERS - 1) * CELLS];
    uint64_t load[LAYERS * EXPERTS], load_max[LAYERS] = {0};
    coterie_search_t random = {.random = 8};
    coterie_problem_t problem = following(rank_of, seam, load, capacity);
    coterie_layer_t layer;
    coterie_rotation_t rotation;

    problem.load_max = load_max;
    cr_assert(eq(int, COTERIE_OK, coterie_layer_open(&layer, &problem)));
    cr_assert(eq(int, COTERIE_OK, coterie_rotation_open(&rotation, 4)));
    for (uint32_t round = 0; round < 200; round++) {
        uint32_t l = round % LAYERS;
        double before;
        for (uint32_t i = 0; i < LAYERS * EXPERTS; i++) {
            rank_of[i] = i % 4;
            load[i] = coterie_search_below(&random, 10);
        }
        seams_draw(seam, &random);
        for (uint32_t i = 0; i < LAYERS; i++)
            load_max[i] = 3 * 10;
        coterie_layer_enter(&layer, rank_of, l);
        load_max[l] = 0; /* what its fullest rank has */
        for (uint32_t r = 0; r < 4; r++)
            if (layer.rank_load[r] > load_max[l])
                load_max[l] = layer.rank_load[r];
        layer.load_max = load_max[l];
        before = coterie_problem_cost(&problem, rank_of);
        coterie_rotation_descend(&rotation, &layer);
        cr_expect(coterie_problem_legal(&problem, rank_of));
        cr_expect(le(dbl, coterie_problem_cost(&problem, rank_of), before));
    }
    coterie_rotation_close(&rotation);
    coterie_layer_close(&layer);
}

/* Thirds are no floats, and experts alike in pairs save nothing by changing
 * places: rounding alone decides what a swap seems to save. */
Test(solve, descends_to_an_end_where_swaps_save_only_rounding, .timeout = 60)
{
    static const uint32_t capacity[] = {3, 3, 3, 3};
    uint16_t rank_of[LAYERS * EXPERTS], alike[] = {0, 1, 2, 3, 0, 1,
                                                   2, 3, 0, 1, 2, 3};
    float seam[(LAYERS - 1) * CELLS] = {0}, pair[LAYERS * CELLS];
    uint64_t load[LAYERS * EXPERTS];
    coterie_search_t random = {.random = 6};
    coterie_problem_t problem;
    coterie_layer_t layer;

    memset(rank_of, 0, sizeof(rank_of));
    problem = following(rank_of, seam, load, capacity);
    problem.pair = pair;
    cr_assert(eq(int, COTERIE_OK, coterie_layer_open(&layer, &problem)));
    for (uint32_t round = 0; round < 2000; round++) {
        float of_kind[CELLS];

        for (uint32_t i = 0; i < CELLS; i++)
            of_kind[i] = 5.5f / 3 * coterie_search_below(&random, 60);
        for (uint32_t i = 0; i < LAYERS * CELLS; i++) {
            uint32_t e = i % CELLS / EXPERTS, f = i % EXPERTS;
            uint32_t low = (e < f ? e : f) / 2, high = (e < f ? f : e) / 2;
            pair[i] = e == f ? 0 : of_kind[low * EXPERTS + high];
        }
        for (uint32_t i = 0; i < (LAYERS - 1) * CELLS; i++)
            seam[i] = of_kind[i % CELLS];
        memcpy(rank_of, alike, sizeof(alike));
        coterie_problem_measure(&problem);
        coterie_layer_enter(&layer, rank_of, 0);
        coterie_layer_descend(&layer);
    }
    coterie_layer_close(&layer);
}
