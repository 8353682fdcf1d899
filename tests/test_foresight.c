#include "config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include <coterie/coterie.h>

#include "offload/foresight.h"
#include "offload/tiers.h"
#include "tests/draw.h"
#include "tests/models.h"
#include "tests/planted.h"

enum { TOKENS = 1000, AHEAD = 3, MOMENT_US = 1000 };

static coterie_foresight_t *foresight_of(void);
static void tell(coterie_foresight_t *foresight,
                 const coterie_trace_view_t *view, uint64_t set);
static double chance_of_set(const coterie_foresight_t *foresight,
                            uint32_t distance, const int16_t *ids);
static coterie_tiers_t *tiers_of(coterie_model_t *model, uint32_t percent);
static void play(coterie_tiers_t *tiers, const coterie_trace_view_t *view,
                 uint64_t first, uint64_t end);
static coterie_trace_view_t walk(uint32_t layers, uint32_t experts,
                                 bool predictable);
static coterie_model_t *store_of_example(char *folder);

Test(foresight, sees_planted_sets_one_to_three_layers_ahead)
{
    const coterie_trace_view_t view = planted(PLANTED_FOLLOWING, TOKENS);
    coterie_foresight_t *foresight = foresight_of();
    double chance[AHEAD + 1] = {0};
    uint64_t sets = TOKENS * PLANTED_LAYERS, counted = 0;

    for (uint64_t set = 0; set + AHEAD < sets; set++) {
        tell(foresight, &view, set);
        if (set < sets / 2 || set % PLANTED_LAYERS != 0)
            continue;
        counted++;
        for (uint32_t d = 1; d <= AHEAD; d++)
            chance[d] += chance_of_set(
                foresight, d, view.experts + (set + d) * PLANTED_K);
    }
    for (uint32_t d = 1; d <= AHEAD; d++)
        cr_expect(chance[d] / (double)counted > 0.4, "%u ahead: %f", d,
                  chance[d] / (double)counted);
    coterie_foresight_destroy(foresight);
}

Test(foresight, hears_a_row_once_however_many_ranks_tell_it)
{
    const coterie_trace_view_t view = planted(PLANTED_FOLLOWING, 50);
    coterie_foresight_t *once = foresight_of(), *twice = foresight_of();

    for (uint64_t set = 0; set < 50 * PLANTED_LAYERS; set++) {
        tell(once, &view, set);
        tell(twice, &view, set);
        tell(twice, &view, set);
    }
    for (uint32_t d = 1; d <= AHEAD; d++)
        cr_expect(zero(int, memcmp(coterie_foresight_absent(once, d),
                                   coterie_foresight_absent(twice, d),
                                   PLANTED_EXPERTS * sizeof(float))));
    coterie_foresight_destroy(once);
    coterie_foresight_destroy(twice);
}

Test(foresight, goes_on_after_layers_that_were_told_elsewhere)
{
    const coterie_trace_view_t view = planted(PLANTED_FOLLOWING, TOKENS);
    coterie_foresight_t *foresight = foresight_of();
    uint64_t sets = TOKENS * PLANTED_LAYERS, counted = 0;
    double chance = 0;

    for (uint64_t set = 0; set + 1 < sets; set++) {
        if (draw(4) == 0)
            continue;
        tell(foresight, &view, set);
        if (set < sets / 2 || set % PLANTED_LAYERS == PLANTED_LAYERS - 1)
            continue;
        counted++;
        chance += chance_of_set(foresight, 1,
                                view.experts + (set + 1) * PLANTED_K);
    }
    cr_expect(chance / (double)counted > 0.5, "%f",
              chance / (double)counted);
    coterie_foresight_destroy(foresight);
}

/* A token's number is its expert, at every layer. */
Test(foresight, knows_experts_by_the_token_that_comes_in)
{
    coterie_foresight_t *foresight = foresight_of();
    int32_t sequence = 0, position, token, ids[PLANTED_K];
    coterie_sight_t rows = {.count = 1,
                            .k = PLANTED_K,
                            .sequence = &sequence,
                            .position = &position,
                            .experts = ids};
    double chance = 0;

    for (position = 0; position < TOKENS; position++) {
        token = (int32_t)draw(PLANTED_EXPERTS - 1);
        ids[0] = token;
        ids[1] = token + 1;
        rows.turn = (uint64_t)position;
        rows.layer = 0;
        coterie_foresight_feed(foresight, &rows, &token);
        if (position >= TOKENS / 2)
            chance += 1 - coterie_foresight_absent(foresight, 1)[token];
        for (; rows.layer < PLANTED_LAYERS; rows.layer++)
            coterie_foresight_note(foresight, &rows);
    }
    cr_expect(chance / (TOKENS / 2) > 0.8, "%f", chance / (TOKENS / 2));
    coterie_foresight_destroy(foresight);
}

Test(foresight, has_tiers_read_ahead_what_can_be_predicted)
{
    char folder[PATH_SIZE];
    coterie_model_t *model = store_of_example(folder);
    coterie_trace_view_t view = walk(8, 16, true);
    coterie_tiers_t *tiers = tiers_of(model, 25);
    coterie_tiers_counts_t before, after;

    play(tiers, &view, 0, 200);
    coterie_tiers_counts(tiers, &before);
    play(tiers, &view, 200, 400);
    coterie_tiers_counts(tiers, &after);
    cr_expect(gt(u64, after.guesses_used - before.guesses_used,
                 (after.uses - before.uses) / 2));
    cr_expect(lt(u64, after.guesses_wasted - before.guesses_wasted,
                 (after.uses - before.uses) / 20));
    coterie_tiers_destroy(tiers);
    coterie_model_close(model);
    folder_remove(folder);
}

Test(foresight, has_tiers_read_nothing_ahead_where_routing_is_random)
{
    char folder[PATH_SIZE];
    coterie_model_t *model = store_of_example(folder);
    coterie_trace_view_t view = walk(8, 16, false);

    for (uint32_t percent = 25; percent <= 75; percent += 50) {
        coterie_tiers_t *tiers = tiers_of(model, percent);
        coterie_tiers_counts_t counts;

        play(tiers, &view, 0, 400);
        coterie_tiers_counts(tiers, &counts);
        cr_expect(lt(u64, counts.guess_reads, counts.uses / 100));
        coterie_tiers_destroy(tiers);
    }
    coterie_model_close(model);
    folder_remove(folder);
}

static coterie_foresight_t *foresight_of(void)
{
    coterie_foresight_t *foresight = NULL;

    cr_assert(eq(int, COTERIE_OK,
                 coterie_foresight_create(PLANTED_LAYERS, PLANTED_EXPERTS,
                                          PLANTED_K, AHEAD, &foresight)));
    return foresight;
}

static void tell(coterie_foresight_t *foresight,
                 const coterie_trace_view_t *view, uint64_t set)
{
    int32_t sequence = 3, ids[PLANTED_K];
    int32_t position = (int32_t)(set / view->layer_count);
    const coterie_sight_t rows = {.turn = set / view->layer_count,
                                  .layer = (uint32_t)(set % view->layer_count),
                                  .count = 1,
                                  .k = PLANTED_K,
                                  .sequence = &sequence,
                                  .position = &position,
                                  .experts = ids};

    for (int i = 0; i < PLANTED_K; i++)
        ids[i] = view->experts[set * PLANTED_K + (uint64_t)i];
    coterie_foresight_note(foresight, &rows);
}

/* Mean over its experts. */
static double chance_of_set(const coterie_foresight_t *foresight,
                            uint32_t distance, const int16_t *ids)
{
    const float *absent = coterie_foresight_absent(foresight, distance);
    double chance = 0;

    for (int i = 0; i < PLANTED_K; i++)
        chance += 1 - absent[ids[i]];
    return chance / PLANTED_K;
}

static coterie_tiers_t *tiers_of(coterie_model_t *model, uint32_t percent)
{
    coterie_tiers_options_t options = COTERIE_TIERS_OPTIONS_INIT;
    coterie_tiers_t *tiers = NULL;

    options.budget_percent = percent;
    options.policy = COTERIE_POLICY_COST;
    cr_assert(eq(int, COTERIE_OK,
                 coterie_tiers_create(model, &options, &tiers)));
    for (uint32_t item = 0; item < 8 * 16; item++)
        coterie_tiers_serve(tiers, (coterie_items_t){&item, 1});
    return tiers;
}

/* As a bank would, but leaving the tiers time to read ahead. */
static void play(coterie_tiers_t *tiers, const coterie_trace_view_t *view,
                 uint64_t first, uint64_t end)
{
    for (uint64_t set = first * view->layer_count;
         set < end * view->layer_count; set++) {
        uint32_t layer = (uint32_t)(set % view->layer_count), at, items[2];
        int32_t sequence = 0, ids[2];
        int32_t position = (int32_t)(set / view->layer_count);
        const coterie_sight_t rows = {(uint64_t)position, layer, 1, 2, 0,
                                      &sequence, &position, ids, NULL};
        coterie_items_t left = {items, 2};
        const void *record;

        for (int i = 0; i < 2; i++) {
            ids[i] = view->experts[set * 2 + (uint64_t)i];
            items[i] = layer * view->expert_count + (uint32_t)ids[i];
        }
        coterie_tiers_watch(tiers, &rows);
        coterie_tiers_route(tiers, left, (coterie_items_t){NULL, 0});
        coterie_tiers_want(tiers, left);
        for (int i = 0; i < 2; i++) {
            cr_assert(eq(int, COTERIE_OK,
                         coterie_tiers_take(tiers, left, &at, &record)));
            coterie_tiers_release(
                tiers, layer * view->expert_count + (uint32_t)ids[at], 1);
        }
        usleep(MOMENT_US);
    }
}

/* 400 tokens with two experts a layer: both given by the layer before and the
 * token's first, or any. */
static coterie_trace_view_t walk(uint32_t layers, uint32_t experts,
                                 bool predictable)
{
    static int16_t ids[400 * 8 * 2];
    static const uint64_t seq_start[] = {0, 400};

    for (uint32_t set = 0; set < 400 * layers; set++) {
        int16_t *own = ids + set * 2;
        uint32_t one = draw(experts);

        if (predictable && set % layers > 0)
            one = ((uint32_t)own[-2] * 5 + 3) % experts;
        own[0] = (int16_t)one;
        own[1] = (int16_t)((one + experts / 2) % experts);
        if (!predictable)
            own[1] = (int16_t)((one + 1 + draw(experts - 1)) % experts);
    }
    return (coterie_trace_view_t){.token_count = 400,
                                  .sequence_count = 1,
                                  .layer_count = layers,
                                  .expert_count = experts,
                                  .k = 2,
                                  .experts = ids,
                                  .seq_start = seq_start};
}

static coterie_model_t *store_of_example(char *folder)
{
    char directory[PATH_SIZE], path[PATH_SIZE];
    coterie_model_t *model = NULL;

    path_in(getenv("COTERIE_EXAMPLES"), "tiny-moe", directory);
    store_pack(directory, folder, path);
    cr_assert(eq(int, COTERIE_OK, coterie_model_open(path, &model)));
    return model;
}
