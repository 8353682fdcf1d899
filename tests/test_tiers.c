#include "config.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include <coterie/coterie.h>

#include "offload/tiers.h"
#include "runtime/bank.h"
#include "tests/fault_io.h"
#include "tests/models.h"

/* The fixture: 3 layers of 4 experts. */
enum { LAYERS = 3, EXPERTS = 4, ITEMS = LAYERS * EXPERTS, ROWS = 300 };

static char folder[PATH_SIZE], path[PATH_SIZE];
static coterie_model_t *model;
static uint64_t record_size;
static unsigned char *records[ITEMS]; /* what they should be */

static void store_open(void);
static void store_close(void);
static coterie_tiers_t *tiers_of(uint64_t experts, coterie_policy_kind_t kind);
static coterie_status_t create(uint64_t budget, double percent,
                               uint32_t policy, const coterie_model_t *from);
static coterie_tiers_counts_t counts_of(coterie_tiers_t *tiers);
static void use_items(coterie_tiers_t *tiers, uint32_t count,
                      const uint32_t *items);
static void use_one(coterie_tiers_t *tiers, uint32_t item);
static void use_skewed(coterie_tiers_t *tiers);
static uint32_t take_one(coterie_tiers_t *tiers, coterie_items_t items);
static void guess_one(coterie_tiers_t *tiers, uint32_t item);
static void *use_many(void *arg);
static void expect_same_sums(uint64_t experts, uint32_t rows);
static void sums_compute(const coterie_bank_t *bank, uint32_t row_count,
                         float *sums);

TestSuite(tiers, .init = store_open, .fini = store_close);

Test(tiers, gives_every_expert_as_the_store_has_it)
{
    coterie_tiers_t *tiers = tiers_of(5, COTERIE_POLICY_LRU);

    for (uint32_t item = 0; item < ITEMS; item++)
        use_one(tiers, item);
    cr_expect(eq(u64, ITEMS, counts_of(tiers).demand_reads));
    coterie_tiers_destroy(tiers);
}

Test(tiers, keeps_to_the_budget_to_the_byte)
{
    coterie_tiers_options_t options = COTERIE_TIERS_OPTIONS_INIT;
    coterie_tiers_t *tiers = NULL;
    uint32_t items[EXPERTS] = {0, 1, 2, 3};

    options.budget = 3 * record_size - 1; /* so two fit */
    cr_assert(eq(int, COTERIE_OK, coterie_tiers_create_with(
                     model, &options, &fault_io, &tiers)));
    use_items(tiers, EXPERTS, items);
    cr_expect(eq(u64, 2 * record_size, counts_of(tiers).resident_most));
    cr_expect(eq(u64, 3 * record_size - 1, counts_of(tiers).budget));
    coterie_tiers_destroy(tiers);
}

Test(tiers, takes_a_budget_in_percent)
{
    coterie_tiers_options_t options = COTERIE_TIERS_OPTIONS_INIT;
    coterie_tiers_t *tiers = NULL;

    options.budget_percent = 25;
    cr_assert(eq(int, COTERIE_OK,
                 coterie_tiers_create(model, &options, &tiers)));
    for (uint32_t item = 0; item < ITEMS; item++)
        use_one(tiers, item);
    cr_expect(eq(u64, ITEMS / 4 * record_size,
                 counts_of(tiers).resident_most));
    coterie_tiers_destroy(tiers);
}

Test(tiers, refuses_budgets_that_say_nothing_too_little_or_too_much)
{
    const double wrong[] = {1, -1, 101, 0.0 / 0.0};

    cr_expect(eq(int, COTERIE_ERR_INVALID,
                 create(record_size - 1, 0, COTERIE_POLICY_LRU, model)));
    cr_expect(eq(int, COTERIE_ERR_INVALID, create(0, 0, 0, model)));
    cr_expect(eq(int, COTERIE_ERR_INVALID, create(1 << 20, 25, 0, model)));
    for (int i = 0; i < 4; i++)
        cr_expect(eq(int, COTERIE_ERR_INVALID, create(0, wrong[i], 0, model)));
    cr_expect(eq(int, COTERIE_ERR_INVALID, create(1 << 20, 0, 99, model)));
}

Test(tiers, refuses_a_model_that_is_no_store)
{
    char directory[PATH_SIZE];
    coterie_model_t *other = NULL;

    fixture_path("mixtral", directory);
    cr_assert(eq(int, COTERIE_OK, coterie_model_open(directory, &other)));
    cr_expect(eq(int, COTERIE_ERR_UNSUPPORTED, create(1 << 20, 0, 0, other)));
    coterie_model_close(other);
}

Test(tiers, refuses_a_store_that_was_replaced)
{
    size_t size;
    void *data = file_load(path, &size);

    cr_assert(unlink(path) == 0);
    file_save(path, data, size);
    free(data);
    cr_expect(eq(int, COTERIE_ERR_MISMATCH, create(1 << 20, 0, 0, model)));
}

Test(tiers, hits_what_it_holds)
{
    coterie_tiers_t *tiers = tiers_of(2, COTERIE_POLICY_LRU);
    coterie_tiers_counts_t counts;

    use_one(tiers, 0);
    use_one(tiers, 1);
    use_one(tiers, 0);
    use_one(tiers, 2); /* in the place of 1 */
    use_one(tiers, 0);
    use_one(tiers, 1);
    counts = counts_of(tiers);
    cr_expect(eq(u64, 6, counts.uses));
    cr_expect(eq(u64, 2, counts.hits));
    cr_expect(eq(u64, 4, counts.demand_reads));
    cr_expect(eq(u64, 4 * record_size, counts.bytes));
    coterie_tiers_destroy(tiers);
}

/* As on replay: where nothing is guessed, which is a matter of time. */
Test(tiers, demand_no_more_with_a_larger_budget)
{
    for (uint32_t kind = COTERIE_POLICY_LRU; kind <= COTERIE_POLICY_COST;
         kind++) {
        uint64_t before = UINT64_MAX;

        for (uint32_t slots = 1; slots <= ITEMS; slots++) {
            coterie_tiers_t *tiers =
                tiers_of(slots, (coterie_policy_kind_t)kind);
            uint64_t demanded;

            use_skewed(tiers);
            demanded = counts_of(tiers).demand_reads;
            cr_expect(le(u64, demanded, before), "policy %u, %u slots", kind,
                      slots);
            before = demanded;
            coterie_tiers_destroy(tiers);
        }
        cr_expect(eq(u64, ITEMS, before));
    }
}

Test(tiers, give_first_what_is_there_then_what_arrives)
{
    coterie_tiers_t *tiers = tiers_of(4, COTERIE_POLICY_LRU);
    uint32_t wanted[3] = {0, 1, 2};
    coterie_items_t items = {wanted, 3};

    use_one(tiers, 2);
    fault_hold();
    guess_one(tiers, 1);
    coterie_tiers_want(tiers, items);
    cr_expect(eq(u32, 2, take_one(tiers, items)));
    fault_let(1);
    cr_expect(eq(u32, 1, take_one(tiers, items)));
    fault_let(FAULT_ALWAYS);
    cr_expect(eq(u32, 0, take_one(tiers, items)));
    coterie_tiers_destroy(tiers);
}

Test(tiers, read_an_expert_once_for_all_who_wait)
{
    coterie_tiers_t *tiers = tiers_of(1, COTERIE_POLICY_LRU);
    uint32_t first[1] = {7}, second[1] = {7};

    fault_hold();
    coterie_tiers_want(tiers, (coterie_items_t){first, 1});
    coterie_tiers_want(tiers, (coterie_items_t){second, 1});
    fault_let(FAULT_ALWAYS);
    take_one(tiers, (coterie_items_t){first, 1});
    take_one(tiers, (coterie_items_t){second, 1});
    cr_expect(eq(u32, 1, fault_submitted()));
    coterie_tiers_destroy(tiers);
}

Test(tiers, never_evict_what_is_in_use)
{
    coterie_tiers_t *tiers = tiers_of(1, COTERIE_POLICY_LRU);
    uint32_t first[1] = {0}, second[1] = {1};
    const void *record;
    uint32_t at;

    coterie_tiers_want(tiers, (coterie_items_t){first, 1});
    cr_assert(eq(int, COTERIE_OK,
                 coterie_tiers_take(tiers, (coterie_items_t){first, 1}, &at,
                                    &record)));
    coterie_tiers_want(tiers, (coterie_items_t){second, 1});
    usleep(10000);
    cr_expect(eq(u32, 1, fault_submitted()));
    cr_expect(memcmp(record, records[0], record_size) == 0);
    coterie_tiers_release(tiers, 0, 1);
    take_one(tiers, (coterie_items_t){second, 1});
    coterie_tiers_destroy(tiers);
}

Test(tiers, give_more_at_a_time_unless_somebody_waits_for_a_slot)
{
    coterie_tiers_t *tiers = tiers_of(2, COTERIE_POLICY_LRU);
    uint32_t few[2] = {0, 1}, many[3] = {0, 1, 2};
    coterie_items_t two = {few, 2}, three = {many, 3};

    use_items(tiers, 2, (uint32_t[]){0, 1});
    coterie_tiers_want(tiers, two);
    cr_expect(coterie_tiers_more(tiers, two));
    take_one(tiers, two);
    cr_expect(coterie_tiers_more(tiers, two));
    take_one(tiers, two);
    cr_expect(not(coterie_tiers_more(tiers, two)));
    coterie_tiers_want(tiers, three);
    cr_expect(not(coterie_tiers_more(tiers, three)));
    for (int i = 0; i < 3; i++)
        take_one(tiers, three);
    coterie_tiers_destroy(tiers);
}

Test(tiers, read_ahead_what_is_guessed)
{
    coterie_tiers_t *tiers = tiers_of(4, COTERIE_POLICY_LRU);
    coterie_tiers_counts_t counts;

    guess_one(tiers, 4);
    guess_one(tiers, 4); /* once is enough */
    fault_await(1);
    use_one(tiers, 4);
    counts = counts_of(tiers);
    cr_expect(eq(u64, 1, counts.guess_reads));
    cr_expect(eq(u64, 1, counts.guesses_used));
    cr_expect(zero(u64, counts.demand_reads));
    coterie_tiers_destroy(tiers);
}

Test(tiers, guess_with_half_of_their_slots_at_most)
{
    coterie_tiers_t *tiers = tiers_of(4, COTERIE_POLICY_LRU);

    for (uint32_t item = 0; item < EXPERTS; item++)
        guess_one(tiers, item);
    cr_expect(eq(u64, 2, counts_of(tiers).guess_reads));
    for (uint32_t item = EXPERTS; item < 2 * EXPERTS; item++)
        guess_one(tiers, item); /* of the next layer: those before are old */
    cr_expect(eq(u64, 4, counts_of(tiers).guess_reads));
    cr_expect(eq(u64, 2, counts_of(tiers).guesses_wasted));
    coterie_tiers_destroy(tiers);
}

Test(tiers, stop_reading_what_the_router_refutes)
{
    coterie_tiers_t *tiers = tiers_of(ITEMS, COTERIE_POLICY_LRU);
    uint32_t items[6] = {0, 1, 2, 3, 4, 5};
    coterie_tiers_counts_t counts;

    fault_hold();
    coterie_tiers_guess(tiers, (coterie_items_t){items, 6});
    fault_await(4);
    coterie_tiers_route(tiers, (coterie_items_t){NULL, 0},
                        (coterie_items_t){items, 6});
    fault_let(FAULT_ALWAYS);
    use_one(tiers, 8);
    counts = counts_of(tiers);
    cr_expect(eq(u64, 6, counts.guesses_wasted));
    cr_expect(eq(u32, 5, fault_submitted())); /* four were under way */
    use_one(tiers, 4);                        /* a dropped one comes back */
    use_one(tiers, 0);
    coterie_tiers_destroy(tiers);
}

Test(tiers, read_a_dropped_guess_that_is_wanted_after_all)
{
    coterie_tiers_t *tiers = tiers_of(ITEMS, COTERIE_POLICY_LRU);
    uint32_t item = 3;

    fault_hold();
    guess_one(tiers, item);
    fault_await(1);
    coterie_tiers_route(tiers, (coterie_items_t){NULL, 0},
                        (coterie_items_t){&item, 1});
    coterie_tiers_want(tiers, (coterie_items_t){&item, 1});
    fault_let(FAULT_ALWAYS);
    take_one(tiers, (coterie_items_t){&item, 1});
    coterie_tiers_destroy(tiers);
}

Test(tiers, fail_one_expert_by_name_and_serve_the_others)
{
    coterie_tiers_t *tiers = tiers_of(4, COTERIE_POLICY_LRU);
    uint32_t wanted[1] = {6}, at = 77;
    coterie_items_t items = {wanted, 1};
    const void *record = NULL;

    fault_plan(FAULT_WRONG, 0, FAULT_ALWAYS);
    coterie_tiers_want(tiers, items);
    cr_expect(eq(int, COTERIE_ERR_CORRUPT,
                 coterie_tiers_take(tiers, items, &at, &record)));
    cr_expect(strstr(coterie_last_error(), "expert (1, 2)") != NULL, "%s",
              coterie_last_error());
    cr_expect(eq(u32, 77, at)); /* untouched */
    cr_expect(zero(ptr, (void *)record));
    coterie_tiers_abandon(tiers, items);
    fault_plan(FAULT_NONE, 0, 0);
    use_one(tiers, 5);
    use_one(tiers, 6); /* later requests try again */
    coterie_tiers_destroy(tiers);
}

Test(tiers, serve_many_banks_with_one_slot)
{
    coterie_tiers_t *tiers = tiers_of(1, COTERIE_POLICY_LRU);
    pthread_t threads[3];

    for (int i = 0; i < 3; i++)
        cr_assert(pthread_create(&threads[i], NULL, use_many, tiers) == 0);
    for (int i = 0; i < 3; i++)
        pthread_join(threads[i], NULL);
    cr_expect(eq(u64, record_size, counts_of(tiers).resident_most));
    coterie_tiers_destroy(tiers);
}

Test(tiers, let_a_bank_compute_the_bits_it_computes_in_memory)
{
    for (uint64_t experts = 1; experts <= ITEMS; experts += 5)
        expect_same_sums(experts, 3);
}

Test(tiers, compute_the_same_bits_of_more_rows_than_a_wave_keeps)
{
    expect_same_sums(1, ROWS);
    expect_same_sums(3, ROWS);
}

/* Two pieces go wrong, or from the second on none is taken any more. */
Test(tiers, let_a_bank_compute_the_same_bits_whatever_goes_wrong)
{
    static const fault_kind_t kinds[] = {FAULT_SHORT, FAULT_EIO, FAULT_WRONG,
                                         FAULT_SLOW, FAULT_REFUSED};

    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        fault_plan(kinds[i], fault_submitted() + 1,
                   kinds[i] == FAULT_REFUSED ? FAULT_ALWAYS : 2);
        expect_same_sums(2, 20);
    }
}

Test(tiers, read_first_what_was_hot_before)
{
    coterie_tiers_options_t options = COTERIE_TIERS_OPTIONS_INIT;
    coterie_tiers_t *tiers = NULL;
    uint64_t hot[ITEMS] = {[3] = 9, [5] = 8, [9] = 100}, kept[ITEMS];

    options.budget = 2 * record_size;
    options.hot = hot;
    cr_assert(eq(int, COTERIE_OK,
                 coterie_tiers_create(model, &options, &tiers)));
    for (uint32_t item = 0; item < ITEMS; item++)
        coterie_tiers_serve(tiers, (coterie_items_t){&item, 1});
    use_one(tiers, 9);
    use_one(tiers, 3);
    cr_expect(eq(u64, 2, counts_of(tiers).preloads));
    cr_expect(zero(u64, counts_of(tiers).demand_reads));
    coterie_tiers_hot(tiers, kept);
    cr_expect(eq(u64, 51, kept[9])); /* half of it, and one use */
    cr_expect(eq(u64, 5, kept[3]));
    cr_expect(eq(u64, 4, kept[5]));
    cr_expect(zero(u64, kept[0]));
    coterie_tiers_destroy(tiers);
}

Test(tiers, report_a_store_cut_short_under_them)
{
    coterie_tiers_options_t options = COTERIE_TIERS_OPTIONS_INIT;
    coterie_tiers_t *tiers = NULL;
    uint32_t wanted[1] = {ITEMS - 1}, at;
    const void *record;

    options.budget = 2 * record_size;
    cr_assert(eq(int, COTERIE_OK,
                 coterie_tiers_create(model, &options, &tiers)));
    cr_assert(truncate(path, (off_t)(4096 + 2 * record_size)) == 0);
    use_one(tiers, 1);
    coterie_tiers_want(tiers, (coterie_items_t){wanted, 1});
    cr_expect(eq(int, COTERIE_ERR_IO,
                 coterie_tiers_take(tiers, (coterie_items_t){wanted, 1}, &at,
                                    &record)));
    cr_expect(strstr(coterie_last_error(), "expert (2, 3)") != NULL, "%s",
              coterie_last_error());
    coterie_tiers_abandon(tiers, (coterie_items_t){wanted, 1});
    coterie_tiers_destroy(tiers);
}

static void store_open(void)
{
    char directory[PATH_SIZE];

    fixture_path("mixtral", directory);
    store_pack(directory, folder, path);
    cr_assert(eq(int, COTERIE_OK, coterie_model_open(path, &model)));
    record_size = records_load(model, EXPERTS, ITEMS, records);
}

static void store_close(void)
{
    for (uint32_t i = 0; i < ITEMS; i++)
        free(records[i]);
    coterie_model_close(model);
    folder_remove(folder);
}

/* With room for so many experts, all of them served by one bank, and a reader
 * that obeys fault_*. */
static coterie_tiers_t *tiers_of(uint64_t experts, coterie_policy_kind_t kind)
{
    coterie_tiers_options_t options = COTERIE_TIERS_OPTIONS_INIT;
    coterie_tiers_t *tiers = NULL;

    options.budget = experts * record_size;
    options.policy = kind;
    cr_assert(eq(int, COTERIE_OK, coterie_tiers_create_with(
                     model, &options, &fault_io, &tiers)), "%s",
              coterie_last_error());
    for (uint32_t item = 0; item < ITEMS; item++)
        coterie_tiers_serve(tiers, (coterie_items_t){&item, 1});
    return tiers;
}

/* Expects nothing to be created. */
static coterie_status_t create(uint64_t budget, double percent,
                               uint32_t policy, const coterie_model_t *from)
{
    coterie_tiers_options_t options = COTERIE_TIERS_OPTIONS_INIT;
    coterie_tiers_t *tiers = NULL;
    coterie_status_t status;

    options.budget = budget;
    options.budget_percent = percent;
    options.policy = policy;
    status = coterie_tiers_create(from, &options, &tiers);
    cr_expect(zero(ptr, tiers));
    return status;
}

static coterie_tiers_counts_t counts_of(coterie_tiers_t *tiers)
{
    coterie_tiers_counts_t counts;

    coterie_tiers_counts(tiers, &counts);
    return counts;
}

static void use_items(coterie_tiers_t *tiers, uint32_t count,
                      const uint32_t *items)
{
    uint32_t wanted[ITEMS];
    coterie_items_t left = {wanted, count};

    memcpy(wanted, items, count * sizeof(*items));
    coterie_tiers_route(tiers, left, (coterie_items_t){NULL, 0});
    coterie_tiers_want(tiers, left);
    for (uint32_t i = 0; i < count; i++)
        take_one(tiers, left);
}

static void use_one(coterie_tiers_t *tiers, uint32_t item)
{
    use_items(tiers, 1, &item);
}

/* Round after round through the layers, an expert or two of each, the first
 * ones more often. */
static void use_skewed(coterie_tiers_t *tiers)
{
    uint32_t state = 1, items[2];

    for (uint32_t step = 0; step < 100 * LAYERS; step++) {
        uint32_t of = step % LAYERS * EXPERTS;

        state = state * 1664525 + 1013904223;
        items[0] = of + (state >> 30) * (state >> 28 & 3) / 3;
        items[1] = of + (state >> 26) % EXPERTS;
        use_items(tiers, 1 + (items[0] != items[1]), items);
    }
}

/* Takes and releases; returns which it was. */
static uint32_t take_one(coterie_tiers_t *tiers, coterie_items_t items)
{
    uint32_t before[ITEMS], at = ITEMS;
    const void *record = NULL;

    memcpy(before, items.items, items.count * sizeof(*before));
    cr_assert(eq(int, COTERIE_OK,
                 coterie_tiers_take(tiers, items, &at, &record)), "%s",
              coterie_last_error());
    cr_expect(memcmp(record, records[before[at]], record_size) == 0);
    coterie_tiers_release(tiers, before[at], 1);
    return before[at];
}

static void guess_one(coterie_tiers_t *tiers, uint32_t item)
{
    coterie_tiers_guess(tiers, (coterie_items_t){&item, 1});
}

static void *use_many(void *arg)
{
    uint32_t state = 0, items[3];

    for (int i = 0; i < 30; i++) {
        for (uint32_t j = 0; j < 3; j++)
            items[j] = (uint32_t)((i * 5 + j + state) % ITEMS);
        guess_one(arg, (items[2] + 2) % ITEMS);
        use_items(arg, 3, items);
        state += 7;
    }
    return NULL;
}

static void expect_same_sums(uint64_t experts, uint32_t rows)
{
    coterie_placement_options_t options = COTERIE_PLACEMENT_OPTIONS_INIT;
    coterie_placement_t *placement = NULL;
    coterie_bank_t *memory = NULL, *tiered = NULL;
    coterie_tiers_t *tiers = tiers_of(experts, COTERIE_POLICY_LRU);
    coterie_model_config_t config = {.size = sizeof(config)};
    size_t size;

    coterie_model_config(model, &config);
    size = (size_t)rows * config.hidden * sizeof(float);
    float *right = calloc(1, size), *got = calloc(1, size);
    options.layer_count = LAYERS;
    options.expert_count = EXPERTS;
    options.rank_count = 1;
    cr_assert(eq(int, COTERIE_OK,
                 coterie_placement_create(&options, &placement)));
    cr_assert(eq(int, COTERIE_OK,
                 coterie_bank_create(model, placement, 0, &memory)));
    cr_assert(eq(int, COTERIE_OK,
                 coterie_bank_create_tiered(tiers, placement, 0, &tiered)));
    sums_compute(memory, rows, right);
    sums_compute(tiered, rows, got);
    cr_expect(memcmp(right, got, size) == 0);
    coterie_bank_destroy(memory);
    coterie_bank_destroy(tiered);
    coterie_tiers_destroy(tiers);
    coterie_placement_destroy(placement);
    free(right);
    free(got);
}

/* Every layer in turn adds two experts' outputs to every row, one of them to
 * all rows. */
static void sums_compute(const coterie_bank_t *bank, uint32_t row_count,
                         float *sums)
{
    coterie_model_config_t config = {.size = sizeof(config)};
    uint32_t first[EXPERTS + 1] = {0}, row[2 * ROWS];
    float weight[2 * ROWS];

    coterie_model_config(model, &config);
    float *x = malloc((size_t)row_count * config.hidden * sizeof(float));
    void *scratch = malloc(coterie_bank_scratch(bank));
    for (size_t i = 0; i < (size_t)row_count * config.hidden; i++)
        x[i] = (float)(i * 37 % 101) / 50 - 1;
    for (uint32_t i = 0; i < row_count; i++)
        row[i] = i;
    first[1] = first[2] = row_count; /* expert 0, then experts 2 and 3 */
    first[3] = row_count + row_count / 2;
    first[4] = 2 * row_count;
    for (uint32_t i = 0; i < row_count; i++)
        row[row_count + i] = i;
    for (uint32_t i = 0; i < 2 * row_count; i++)
        weight[i] = (float)(i % 7 + 1) / 8;
    for (uint32_t layer = 0; layer < LAYERS; layer++)
        cr_assert(eq(int, COTERIE_OK,
                     coterie_bank_compute(
                         bank, layer,
                         &(coterie_expert_rows_t){EXPERTS, row_count, first,
                                                  row, weight},
                         x, sums, scratch)));
    free(x);
    free(scratch);
}
