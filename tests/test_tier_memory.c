#include "config.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include <coterie/coterie.h>

#include "offload/tiers.h"
#include "tests/models.h"

/* The fixture: 3 layers of 4 experts. */
enum { LAYERS = 3, EXPERTS = 4, ITEMS = LAYERS * EXPERTS };

static char folder[PATH_SIZE];
static coterie_model_t *model;
static uint64_t record_size;
static unsigned char *record; /* what one should be */

static void store_open(void);
static void store_close(void);
static coterie_tiers_t *with_host(uint64_t fast, uint64_t host);
static void foretell(coterie_tiers_t *tiers);
static coterie_tiers_counts_t counts_of(coterie_tiers_t *tiers);
static void use_one(coterie_tiers_t *tiers, uint32_t item);

TestSuite(tier_memory, .init = store_open, .fini = store_close);

Test(tier_memory, of_the_host_is_computed_from_beyond_the_budget)
{
    coterie_tiers_t *tiers = with_host(2, 3);
    const coterie_speeds_t alike = {9, 9, 1, 5};
    coterie_tiers_counts_t counts;

    coterie_tiers_speeds(tiers, &alike);
    for (int round = 0; round < 2; round++)
        for (uint32_t item = 0; item < 5; item++)
            use_one(tiers, item);
    counts = counts_of(tiers);
    cr_expect(eq(u64, 5, counts.demand_reads));
    cr_expect(eq(u64, 5 * record_size, counts.resident_most));
    cr_expect(eq(u64, 2 * record_size, counts.budget));
    cr_expect(eq(u64, 3 * record_size, counts.host_budget));
    cr_expect(eq(u64, 6, counts.computed_in_host));
    cr_expect(zero(u64, counts.moved_to_fast));
    coterie_tiers_destroy(tiers);
}

Test(tier_memory, that_is_fast_gets_what_is_worth_two_copies)
{
    const coterie_speeds_t dear = {1, 2, 1, 100}, cheap = {1, 900, 1, 1};
    coterie_tiers_t *tiers = with_host(1, 3);

    for (uint32_t item = 0; item < 4; item++)
        use_one(tiers, item);
    foretell(tiers);
    coterie_tiers_speeds(tiers, &dear);
    use_one(tiers, 3);
    cr_expect(zero(u64, counts_of(tiers).moved_to_fast));
    coterie_tiers_speeds(tiers, &cheap);
    use_one(tiers, 3);
    cr_expect(eq(u64, 1, counts_of(tiers).moved_to_fast));
    for (uint32_t item = 0; item < ITEMS; item++)
        use_one(tiers, item); /* each is still itself */
    coterie_tiers_destroy(tiers);
}

static void store_open(void)
{
    char directory[PATH_SIZE], path[PATH_SIZE];
    coterie_expert_format_t format = {.size = sizeof(format)};

    fixture_path("mixtral", directory);
    store_pack(directory, folder, path);
    cr_assert(eq(int, COTERIE_OK, coterie_model_open(path, &model)));
    coterie_model_expert_format(model, &format);
    record_size = format.record_size;
    record = malloc(record_size);
}

static void store_close(void)
{
    free(record);
    coterie_model_close(model);
    folder_remove(folder);
}

static coterie_tiers_t *with_host(uint64_t fast, uint64_t host)
{
    coterie_tiers_options_t options = COTERIE_TIERS_OPTIONS_INIT;
    coterie_tiers_t *tiers = NULL;

    options.budget = fast * record_size;
    options.host_budget = host * record_size;
    cr_assert(eq(int, COTERIE_OK,
                 coterie_tiers_create(model, &options, &tiers)), "%s",
              coterie_last_error());
    for (uint32_t item = 0; item < ITEMS; item++)
        coterie_tiers_serve(tiers, (coterie_items_t){&item, 1});
    return tiers;
}

/* A sequence that always chooses expert 3 at every layer, and never 0. */
static void foretell(coterie_tiers_t *tiers)
{
    int32_t sequence = 0, position, ids[2] = {3, 1};
    coterie_sight_t rows = {.count = 1,
                            .k = 2,
                            .sequence = &sequence,
                            .position = &position,
                            .experts = ids};

    for (position = 0; position < 60; position++)
        for (rows.layer = 0; rows.layer < LAYERS; rows.layer++) {
            rows.turn = (uint64_t)position;
            ids[1] = 1 + position % 2;
            while (!coterie_tiers_watch(tiers, &rows))
                usleep(1000);
        }
    usleep(50000); /* until all of it is heard */
}

static coterie_tiers_counts_t counts_of(coterie_tiers_t *tiers)
{
    coterie_tiers_counts_t counts;

    coterie_tiers_counts(tiers, &counts);
    return counts;
}

/* Expects the record that the store has. */
static void use_one(coterie_tiers_t *tiers, uint32_t item)
{
    uint32_t wanted = item, at;
    coterie_items_t items = {&wanted, 1};
    const void *got = NULL;

    coterie_tiers_route(tiers, items, (coterie_items_t){NULL, 0});
    coterie_tiers_want(tiers, items);
    cr_assert(eq(int, COTERIE_OK,
                 coterie_tiers_take(tiers, items, &at, &got)), "%s",
              coterie_last_error());
    cr_assert(eq(int, COTERIE_OK,
                 coterie_model_expert(model, item / EXPERTS, item % EXPERTS,
                                      record)));
    cr_expect(zero(int, memcmp(got, record, record_size)), "%u", item);
    coterie_tiers_release(tiers, item, 1);
}
