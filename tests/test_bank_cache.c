/* Banks in tiers with a device, "host", that has some of their experts. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include <coterie/coterie.h>

#include "offload/tiers_state.h"
#include "runtime/bank_cache.h"
#include "tests/fault_io.h"
#include "tests/models.h"

enum { LAYERS = 8, EXPERTS = 16, K = 2, ROWS = 24, STEPS = 6 };

static char folder[PATH_SIZE];
static coterie_model_t *model;
static coterie_placement_t *placement;
static coterie_device_t *device;
static coterie_model_config_t config = {.size = sizeof(config)};
static uint64_t record_size;

static void setup(void)
{
    coterie_expert_format_t format = {.size = sizeof(format)};
    coterie_placement_options_t options = COTERIE_PLACEMENT_OPTIONS_INIT;
    char directory[PATH_SIZE], path[PATH_SIZE];

    path_in(getenv("COTERIE_EXAMPLES"), "tiny-moe", directory);
    store_pack(directory, folder, path);
    cr_assert(eq(int, COTERIE_OK, coterie_model_open(path, &model)));
    coterie_model_config(model, &config);
    coterie_model_expert_format(model, &format);
    record_size = format.record_size;
    cr_assert(eq(u32, LAYERS, config.moe_layers));
    cr_assert(eq(u32, EXPERTS, config.experts));
    options.layer_count = LAYERS;
    options.expert_count = EXPERTS;
    options.rank_count = 1;
    cr_assert(eq(int, COTERIE_OK,
                 coterie_placement_create(&options, &placement)));
    cr_assert(eq(int, COTERIE_OK, coterie_device_open("host", &device)));
}

static void teardown(void)
{
    coterie_device_close(device);
    coterie_placement_destroy(placement);
    coterie_model_close(model);
    folder_remove(folder);
}

TestSuite(bank_cache, .init = setup, .fini = teardown);

/* Tiers of `host` experts, and a bank of which the device may have `there`. */
typedef struct cached {
    coterie_tiers_t *tiers;
    coterie_bank_t *bank;
} cached_t;

static cached_t cached_open(uint64_t host, uint64_t there)
{
    coterie_tiers_options_t options = COTERIE_TIERS_OPTIONS_INIT;
    cached_t cached = {0};

    options.budget = host * record_size;
    cr_assert(eq(int, COTERIE_OK,
                 coterie_tiers_create_with(model, &options, &fault_io,
                                           &cached.tiers)));
    cr_assert(eq(int, COTERIE_OK,
                 coterie_bank_create_tiered(cached.tiers, placement, 0,
                                            &cached.bank)));
    cr_assert(eq(int, COTERIE_OK,
                 coterie_bank_move_tiered(cached.bank, device, ROWS, K,
                                          there * record_size)),
              "%s", coterie_last_error());
    return cached;
}

static void cached_close(cached_t *cached)
{
    coterie_bank_destroy(cached->bank);
    coterie_tiers_destroy(cached->tiers);
}

static coterie_bank_counts_t counts_of(const cached_t *cached)
{
    coterie_bank_counts_t counts;

    coterie_bank_device_counts(cached->bank, &counts);
    return counts;
}

/* One layer of one step: which experts rows have depends on both. */
static coterie_status_t layer_compute(const coterie_bank_t *bank,
                                      uint32_t layer, uint32_t step,
                                      float *sums)
{
    const uint32_t rows = step % 2 == 0 ? ROWS : 1 + step;
    uint32_t first[EXPERTS + 1] = {0}, row[ROWS * K], count = 0;
    float weight[ROWS * K], *x = malloc(ROWS * config.hidden * sizeof(*x));
    void *scratch = malloc(coterie_bank_scratch(bank));
    coterie_status_t status;

    for (size_t i = 0; i < (size_t)rows * config.hidden; i++)
        x[i] = (float)((i * 37 + step) % 101) / 50 - 1;
    for (uint32_t e = 0; e < EXPERTS; e++) {
        first[e] = count;
        for (uint32_t r = 0; r < rows; r++) {
            const uint32_t one = (r * 7 + step * 5 + layer) % EXPERTS;

            if (e != one && e != (one + 3 + step) % EXPERTS)
                continue;
            weight[count] = (float)(r % 7 + 1) / 8;
            row[count++] = r;
        }
    }
    first[EXPERTS] = count;
    status = coterie_bank_compute(
        bank, layer,
        &(coterie_expert_rows_t){EXPERTS, rows, first, row, weight}, x, sums,
        scratch);
    free(x);
    free(scratch);
    return status;
}

static void all_compute(const coterie_bank_t *bank, float *sums)
{
    memset(sums, 0, ROWS * config.hidden * sizeof(*sums));
    for (uint32_t step = 0; step < STEPS; step++)
        for (uint32_t layer = 0; layer < LAYERS; layer++)
            cr_assert(eq(int, COTERIE_OK,
                         layer_compute(bank, layer, step, sums)),
                      "%s", coterie_last_error());
}

/* What a device with all experts makes of it. */
static float *right_sums(void)
{
    float *sums = malloc(ROWS * config.hidden * sizeof(*sums));
    coterie_bank_t *bank = NULL;

    cr_assert(eq(int, COTERIE_OK,
                 coterie_bank_create(model, placement, 0, &bank)));
    cr_assert(eq(int, COTERIE_OK, coterie_bank_move(bank, device, ROWS, K)));
    all_compute(bank, sums);
    coterie_bank_destroy(bank);
    return sums;
}

static const uint64_t rooms[] = {1, 2, 5, 40, LAYERS * EXPERTS, 4000};

Test(bank_cache, computes_the_bits_of_a_device_that_has_all)
{
    float *right = right_sums();
    float *sums = malloc(ROWS * config.hidden * sizeof(*sums));

    for (size_t i = 0; i < sizeof(rooms) / sizeof(rooms[0]); i++)
        for (uint64_t host = 1; host < 100; host += 60) {
            cached_t cached = cached_open(host, rooms[i]);
            coterie_bank_counts_t counts;

            cached.bank->cache->speeds.copy_ns = 0; /* always pays */
            all_compute(cached.bank, sums);
            cr_expect(zero(int, memcmp(sums, right, ROWS * config.hidden *
                                                        sizeof(*sums))),
                      "%llu there, %llu here", (unsigned long long)rooms[i],
                      (unsigned long long)host);
            counts = counts_of(&cached);
            cr_expect(eq(u64, counts.uses, counts.hits + counts.copies));
            cr_expect(eq(u64, counts.bytes, counts.copies * record_size));
            if (rooms[i] >= LAYERS * EXPERTS) /* each one once */
                cr_expect(le(u64, counts.copies, LAYERS * EXPERTS));
            cached_close(&cached);
        }
    free(right);
    free(sums);
}

/* The processor multiplies f32, which makes a small difference. */
Test(bank_cache, has_the_processor_compute_what_is_not_worth_a_copy)
{
    float *right = right_sums(), most = 0, wrong = 0;
    float *sums = malloc(ROWS * config.hidden * sizeof(*sums));
    cached_t cached = cached_open(20, 5);

    cached.bank->cache->speeds.copy_ns = INFINITY;
    all_compute(cached.bank, sums);
    for (size_t i = 0; i < (size_t)ROWS * config.hidden; i++) {
        most = fmaxf(most, fabsf(right[i]));
        wrong = fmaxf(wrong, fabsf(right[i] - sums[i]));
    }
    cr_expect(lt(flt, wrong, 0.01f * most));
    cr_expect(eq(u64, counts_of(&cached).computed_here,
                 counts_of(&cached).uses));
    cached_close(&cached);
    free(right);
    free(sums);
}

/* One row of one expert. */
static void use_once(const cached_t *cached)
{
    uint32_t first[EXPERTS + 1], row = 0;
    float weight = 1, *x = calloc(config.hidden, sizeof(*x));
    float *sums = calloc(config.hidden, sizeof(*sums));
    void *scratch = malloc(coterie_bank_scratch(cached->bank));

    for (uint32_t e = 0; e <= EXPERTS; e++)
        first[e] = e > 3;
    cr_assert(eq(int, COTERIE_OK,
                 coterie_bank_compute(
                     cached->bank, 2,
                     &(coterie_expert_rows_t){EXPERTS, 1, first, &row,
                                              &weight},
                     x, sums, scratch)));
    free(x);
    free(sums);
    free(scratch);
}

Test(bank_cache, copies_when_computing_here_has_cost_as_much)
{
    cached_t cached = cached_open(4, 4);
    coterie_bank_counts_t counts;

    cached.bank->cache->speeds =
        (coterie_speeds_t){.host_ns = 10, .row_ns = 1, .copy_ns = 35};
    for (int i = 0; i < 3; i++)
        use_once(&cached);
    cr_expect(eq(u64, counts_of(&cached).computed_here, 3));
    cr_expect(eq(u64, counts_of(&cached).copies, 0));
    for (int i = 0; i < 3; i++)
        use_once(&cached);
    counts = counts_of(&cached);
    cr_expect(eq(u64, counts.computed_here, 3));
    cr_expect(eq(u64, counts.copies, 1));
    cr_expect(eq(u64, counts.hits, 2));
    cached_close(&cached);
}

Test(bank_cache, copies_what_has_many_rows_at_once)
{
    cached_t cached = cached_open(20, 20);
    float *sums = calloc(ROWS * config.hidden, sizeof(*sums));

    cached.bank->cache->speeds =
        (coterie_speeds_t){.host_ns = 1, .row_ns = 1, .copy_ns = 1};
    cr_assert(eq(int, COTERIE_OK, layer_compute(cached.bank, 0, 0, sums)));
    cr_expect(eq(u64, counts_of(&cached).copies, counts_of(&cached).uses));
    cached_close(&cached);
    free(sums);
}

/* As the tiers' own thread does it, from what rows chose. */
static void foresee(const cached_t *cached, uint32_t layer, uint32_t expert,
                    float chance)
{
    coterie_tiers_t *tiers = cached->tiers;

    pthread_mutex_lock(&tiers->mutex);
    tiers->items[layer * EXPERTS + expert].chance = chance;
    pthread_mutex_unlock(&tiers->mutex);
}

/* All experts in the host's memory, room for some on the device, whose experts
 * of layer 2 are there. */
static cached_t cached_begin(uint64_t there)
{
    float *sums = calloc(ROWS * config.hidden, sizeof(*sums));
    cached_t cached = cached_open(LAYERS * EXPERTS, there);

    for (uint32_t layer = 0; layer < LAYERS; layer++) {
        cached.bank->cache->speeds.copy_ns = 0;
        cr_assert(eq(int, COTERIE_OK,
                     layer_compute(cached.bank, layer, 0, sums)));
    }
    cr_assert(eq(int, COTERIE_OK, layer_compute(cached.bank, 2, 1, sums)));
    free(sums);
    return cached;
}

static void layer_of(const cached_t *cached, uint32_t layer, uint32_t step)
{
    float *sums = calloc(ROWS * config.hidden, sizeof(*sums));

    cr_assert(eq(int, COTERIE_OK,
                 layer_compute(cached->bank, layer, step, sums)),
              "%s", coterie_last_error());
    free(sums);
}

static bool is_there(const cached_t *cached, uint32_t layer, uint32_t expert)
{
    return cached->bank->cache->room[layer * EXPERTS + expert] !=
           COTERIE_ITEM_NONE;
}

Test(bank_cache, copies_likely_experts_of_the_next_layer_ahead)
{
    cached_t cached = cached_begin(24);
    coterie_bank_counts_t before = counts_of(&cached), after;

    for (uint32_t e = 0; e < EXPERTS; e++)
        foresee(&cached, 3, e, e < 3 ? 0.9f : 0.1f);
    layer_of(&cached, 2, 1);
    after = counts_of(&cached);
    cr_expect(is_there(&cached, 3, 0) && is_there(&cached, 3, 2));
    cr_expect(eq(u64, after.copies, before.copies));
    cr_expect(ge(u64, after.ahead_copies, 1));
    cr_expect(eq(u64, after.bytes - before.bytes,
                 after.ahead_copies * record_size));
    layer_of(&cached, 3, 0); /* which needs every expert */
    cr_expect(eq(u64, counts_of(&cached).ahead_used, after.ahead_copies));
    cr_expect(eq(u64, counts_of(&cached).ahead_wasted, 0));
    cached_close(&cached);
}

Test(bank_cache, counts_what_was_copied_ahead_in_vain)
{
    cached_t cached = cached_begin(16);
    uint64_t ahead;

    foresee(&cached, 3, 5, 1);
    foresee(&cached, 3, 6, 1);
    layer_of(&cached, 2, 1);
    ahead = counts_of(&cached).ahead_copies;
    cr_assert(ge(u64, ahead, 1));
    for (uint32_t layer = 4; layer < LAYERS; layer++)
        layer_of(&cached, layer, 0); /* all rooms */
    cr_expect(eq(u64, counts_of(&cached).ahead_wasted, ahead));
    cr_expect(eq(u64, counts_of(&cached).ahead_used, 0));
    cached_close(&cached);
}

Test(bank_cache, keeps_what_is_as_likely_as_what_would_come)
{
    cached_t cached = cached_begin(16);
    uint64_t copies = counts_of(&cached).ahead_copies;

    for (uint32_t layer = 0; layer < LAYERS; layer++)
        for (uint32_t e = 0; e < EXPERTS; e++)
            foresee(&cached, layer, e, 0.8f);
    layer_of(&cached, 2, 1);
    cr_expect(eq(u64, counts_of(&cached).ahead_copies, copies));
    cached_close(&cached);
}

static int range_depth, range_count;

static void range_begin(coterie_device_t *d, const char *name)
{
    cr_expect(eq(ptr, d, device));
    cr_expect(gt(sz, strlen(name), 0));
    range_depth++;
    range_count++;
}

static void range_end(coterie_device_t *d)
{
    (void)d;
    cr_expect(ge(int, --range_depth, 0));
}

Test(bank_cache, ends_every_range_that_a_profiler_shows)
{
    const coterie_device_ops_t *host = device->ops;
    coterie_device_ops_t ops = *host;
    cached_t cached;

    ops.range_begin = range_begin;
    ops.range_end = range_end;
    device->ops = &ops;
    cached = cached_begin(16);
    foresee(&cached, 3, 5, 1);
    layer_of(&cached, 2, 1);
    cached.bank->cache->speeds.copy_ns = INFINITY;
    layer_of(&cached, 5, 1);
    cr_expect(gt(int, range_count, LAYERS));
    cr_expect(zero(int, range_depth));
    cached_close(&cached);
    device->ops = host;
}

/* Half of them, or those who wait for a slot might wait for ever. */
Test(bank_cache, borrows_no_more_than_half_of_the_tiers_slots)
{
    cached_t cached = cached_open(4, 40);
    const void *record[5];

    layer_of(&cached, 0, 1);
    for (uint32_t i = 0, lent = 0; i < EXPERTS; i++) {
        const bool got = coterie_tiers_borrow(cached.tiers, i, &record[lent]);

        cr_assert(le(u32, lent += got, 2));
        if (i == EXPERTS - 1)
            cr_expect(eq(u32, lent, 2));
    }
    layer_of(&cached, 1, 0); /* with what is left */
    for (uint32_t i = 0; i < EXPERTS; i++)
        if (cached.tiers->items[i].state == COTERIE_ITEM_IN_USE)
            coterie_tiers_give_back(cached.tiers, i);
    cr_expect(eq(u32, cached.tiers->borrowed, 0));
    cached_close(&cached);
}

Test(bank_cache, borrows_nothing_from_tiers_of_one_slot)
{
    cached_t cached = cached_open(1, 8);
    const void *record = NULL;

    layer_of(&cached, 0, 1);
    for (uint32_t i = 0; i < LAYERS * EXPERTS; i++)
        cr_expect(not(coterie_tiers_borrow(cached.tiers, i, &record)));
    cr_expect(zero(ptr, (void *)record));
    cached_close(&cached);
}

Test(bank_cache, a_failed_read_leaves_it_whole)
{
    float *right = right_sums();
    float *sums = malloc(ROWS * config.hidden * sizeof(*sums));

    for (uint64_t there = 2; there < 20; there += 5) {
        cached_t cached = cached_open(3, there);

        cached.bank->cache->speeds.copy_ns = 0;
        fault_plan(FAULT_WRONG, fault_submitted() + 2, FAULT_ALWAYS);
        cr_expect(eq(int, COTERIE_ERR_CORRUPT,
                     layer_compute(cached.bank, 1, 0, sums)));
        cr_expect(ne(ptr, strstr(coterie_last_error(), "expert (1, "), NULL),
                  "%s", coterie_last_error());
        fault_plan(FAULT_NONE, 0, 0);
        all_compute(cached.bank, sums);
        cr_expect(zero(int, memcmp(sums, right, ROWS * config.hidden *
                                                    sizeof(*sums))));
        cached_close(&cached);
    }
    free(right);
    free(sums);
}

Test(bank_cache, refuses_a_budget_below_one_expert)
{
    coterie_tiers_options_t options = COTERIE_TIERS_OPTIONS_INIT;
    coterie_tiers_t *tiers = NULL;
    coterie_bank_t *bank = NULL;
    float *sums = calloc(ROWS * config.hidden, sizeof(*sums));

    options.budget = 3 * record_size;
    cr_assert(eq(int, COTERIE_OK,
                 coterie_tiers_create(model, &options, &tiers)));
    cr_assert(eq(int, COTERIE_OK,
                 coterie_bank_create_tiered(tiers, placement, 0, &bank)));
    cr_expect(eq(int, COTERIE_ERR_INVALID,
                 coterie_bank_move_tiered(bank, device, ROWS, K,
                                          record_size - 1)));
    cr_expect(eq(int, COTERIE_ERR_UNSUPPORTED,
                 coterie_bank_move(bank, device, ROWS, K)));
    cr_expect(eq(int, COTERIE_OK, layer_compute(bank, 0, 0, sums)));
    coterie_bank_destroy(bank);
    coterie_tiers_destroy(tiers);
    free(sums);
}

Test(bank_cache, refuses_more_rows_than_it_has_room_for)
{
    cached_t cached = cached_open(4, 4);
    uint32_t first[EXPERTS + 1] = {0}, row = 0;
    float weight = 1, x = 0, sums = 0;

    cr_expect(eq(int, COTERIE_ERR_CAPACITY,
                 coterie_bank_compute(
                     cached.bank, 0,
                     &(coterie_expert_rows_t){EXPERTS, ROWS + 1, first, &row,
                                              &weight},
                     &x, &sums, NULL)));
    cached_close(&cached);
}
