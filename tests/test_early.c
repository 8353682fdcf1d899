#include "config.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include <coterie/coterie.h>

/* A router's scores change by a linear function of what it was shown. */
enum { HIDDEN = 24, EXPERTS = 6, ROWS = 8, STEPS = 1000, K = 2 };

static float change[EXPERTS][HIDDEN], given[EXPERTS][EXPERTS];
static bool experts_matter, experts_told;

static coterie_early_t *early_of(uint32_t rows);
static float draw(void);
static void experts_choose(int32_t *chosen, float *half, float *right);
static float step_run(coterie_early_t *early, uint32_t rows, bool come);

TestSuite(early);

Test(early, learns_what_changes_a_router)
{
    coterie_early_t *early = early_of(1);
    float before = step_run(early, 1, true), after = 0;

    for (int i = 0; i < STEPS; i++)
        step_run(early, 1, true);
    after = step_run(early, 1, true);
    cr_expect(lt(flt, after, before / 4));
    coterie_early_destroy(early);
}

/* As many as come at once, each of which takes away its part of the error. */
Test(early, learns_from_many_rows_of_a_step)
{
    coterie_early_t *early = early_of(ROWS);

    float before = step_run(early, ROWS, true);

    for (int i = 0; i < STEPS; i++)
        step_run(early, ROWS, true);
    cr_expect(lt(flt, step_run(early, ROWS, true), before / 4));
    coterie_early_destroy(early);
}

/* Those that a row chose before change its scores, too. */
Test(early, learns_what_chosen_experts_do)
{
    coterie_early_t *early = early_of(1);
    float untold = 0, told = 0;

    experts_matter = true;
    for (int i = 0; i < 4 * STEPS; i++)
        untold = 0.99f * untold + 0.01f * step_run(early, 1, true);
    coterie_early_destroy(early);
    early = early_of(1);
    experts_told = true;
    for (int i = 0; i < 4 * STEPS; i++)
        told = 0.99f * told + 0.01f * step_run(early, 1, true);
    cr_expect(lt(flt, told, untold / 3), "%g %g", (double)told,
              (double)untold);
    coterie_early_destroy(early);
}

Test(early, learns_nothing_from_rows_that_went_elsewhere)
{
    coterie_early_t *early = early_of(ROWS);

    for (int i = 0; i < STEPS; i++)
        step_run(early, ROWS, false);
    cr_expect(gt(flt, step_run(early, ROWS, false), 1));
    coterie_early_destroy(early);
}

Test(early, survives_scores_that_are_no_numbers)
{
    coterie_early_t *early = early_of(1);
    const int32_t zero = 0;
    const float nothing[2] = {NAN, NAN};
    const int32_t wrong[2] = {EXPERTS, 0};
    const coterie_early_rows_t rows = {1, 1, &zero, &zero, wrong, nothing};
    float normed[HIDDEN] = {INFINITY, 1}, scores[EXPERTS] = {1, 2};
    float first = 0, last = 0;

    coterie_early_correct(early, &rows, normed, scores);
    cr_expect(eq(flt, 2, scores[1]));
    scores[1] = NAN;
    coterie_early_learn(early, &rows, scores);
    experts_told = true;
    for (int i = 0; i < STEPS; i++) {
        last = step_run(early, 1, true);
        first = i == 0 ? last : first;
    }
    cr_expect(lt(flt, last, first / 2), "%g %g", (double)last, (double)first);
    normed[0] = 1;
    scores[1] = 2;
    coterie_early_correct(early, &rows, normed, scores);
    cr_expect(isfinite(scores[1]));
    coterie_early_destroy(early);
}

Test(early, refuses_what_is_empty)
{
    coterie_early_options_t options = COTERIE_EARLY_OPTIONS_INIT;
    coterie_early_t *early = NULL;

    options.layer_count = 2;
    options.expert_count = EXPERTS;
    options.max_rows = 1;
    cr_expect(eq(int, COTERIE_ERR_INVALID,
                 coterie_early_create(&options, &early)));
    options.hidden = HIDDEN;
    options.k = EXPERTS + 1;
    cr_expect(eq(int, COTERIE_ERR_INVALID,
                 coterie_early_create(&options, &early)));
    cr_expect(zero(ptr, early));
}

static coterie_early_t *early_of(uint32_t rows)
{
    coterie_early_options_t options = COTERIE_EARLY_OPTIONS_INIT;
    coterie_early_t *early = NULL;

    options.layer_count = 2;
    options.expert_count = EXPERTS;
    options.hidden = HIDDEN;
    options.max_rows = rows;
    options.k = K;
    cr_assert(eq(int, COTERIE_OK, coterie_early_create(&options, &early)));
    srand(1);
    for (int e = 0; e < EXPERTS; e++)
        for (int h = 0; h < HIDDEN; h++)
            change[e][h] = draw();
    for (int e = 0; e < EXPERTS; e++)
        for (int other = 0; other < EXPERTS; other++)
            given[e][other] = 20 * draw();
    return early;
}

/* -1 to 1 */
static float draw(void)
{
    return (float)rand() / (float)(RAND_MAX / 2) - 1;
}

/* Two that differ, half of the row each. */
static void experts_choose(int32_t *chosen, float *half, float *right)
{
    chosen[0] = rand() % EXPERTS;
    chosen[1] = (chosen[0] + 1 + rand() % (EXPERTS - 1)) % EXPERTS;
    for (int i = 0; i < K; i++) {
        half[i] = 0.5f;
        for (int e = 0; e < EXPERTS && experts_matter; e++)
            right[e] += half[i] * given[chosen[i]][e];
    }
}

/* Returns the mean distance of what was guessed from what came. */
static float step_run(coterie_early_t *early, uint32_t rows, bool come)
{
    float normed[ROWS][HIDDEN] = {{0}}, scores[ROWS][EXPERTS] = {{0}};
    float right[ROWS][EXPERTS] = {{0}};
    int32_t sequence[ROWS], position[ROWS], other[ROWS], chosen[ROWS][K];
    float distance = 0, half[ROWS][K];

    for (uint32_t i = 0; i < rows; i++) {
        sequence[i] = (int32_t)i;
        position[i] = 5;
        other[i] = 6;
        for (int h = 0; h < HIDDEN; h++)
            normed[i][h] = draw() > 0 ? 1 : -1; /* of mean square 1 */
        for (int e = 0; e < EXPERTS; e++) {
            scores[i][e] = right[i][e] = draw();
            for (int h = 0; h < HIDDEN; h++)
                right[i][e] += change[e][h] * normed[i][h];
        }
        experts_choose(chosen[i], half[i], right[i]);
    }
    coterie_early_correct(
        early,
        &(coterie_early_rows_t){1, rows, sequence, position,
                                experts_told ? chosen[0] : NULL, half[0]},
        normed[0], scores[0]);
    for (uint32_t i = 0; i < rows; i++)
        for (int e = 0; e < EXPERTS; e++)
            distance += fabsf(scores[i][e] - right[i][e]);
    coterie_early_learn(early,
                        &(coterie_early_rows_t){1, rows, sequence,
                                                come ? position : other, NULL,
                                                NULL},
                        right[0]);
    return distance / (float)(rows * EXPERTS);
}
