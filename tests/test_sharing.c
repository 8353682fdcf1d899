#include "config.h"

#include <signal.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include <coterie/coterie.h>

#include "offload/tiers.h"
#include "runtime/bank.h"
#include "tests/models.h"

/* The fixture: 3 layers of 4 experts. What guests find wrong is their exit
 * status. */
enum { LAYERS = 3, EXPERTS = 4, ITEMS = LAYERS * EXPERTS, GUESTS = 3 };

static char folder[PATH_SIZE], path[PATH_SIZE], name[COTERIE_TIERS_NAME];
static coterie_model_t *model;
static uint64_t record_size;
static unsigned char *records[ITEMS]; /* what they should be */

static void store_open(void);
static void store_close(void);
static coterie_tiers_t *shared_tiers(uint64_t experts);
static pid_t guest_start(void (*work)(coterie_tiers_t *tiers));
static void guest_await(pid_t guest);
static void say_ready(void);
static void await_ready(void);
static void use_all(coterie_tiers_t *tiers);
static void use_many(coterie_tiers_t *tiers);
static void hold_one(coterie_tiers_t *tiers);
static void wait_for_one(coterie_tiers_t *tiers);
static void keep_until_killed(void);
static bool use(coterie_tiers_t *tiers, uint32_t count, const uint32_t *items);
static coterie_status_t take_one(coterie_tiers_t *tiers, uint32_t item);
static coterie_tiers_counts_t counts_of(coterie_tiers_t *tiers);
static void nonsense_say(void);

static int ready[2]; /* a pipe */

TestSuite(sharing, .init = store_open, .fini = store_close);

Test(sharing, reads_every_expert_once_for_all_processes)
{
    coterie_tiers_t *tiers = shared_tiers(ITEMS);
    pid_t guests[GUESTS];

    for (int i = 0; i < GUESTS; i++)
        guests[i] = guest_start(use_all);
    use_all(tiers);
    for (int i = 0; i < GUESTS; i++)
        guest_await(guests[i]);
    cr_expect(eq(u64, ITEMS * record_size, counts_of(tiers).bytes));
    cr_expect(eq(u64, ITEMS, counts_of(tiers).demand_reads));
    cr_expect(eq(u64, (GUESTS + 1) * ITEMS, counts_of(tiers).uses));
    coterie_tiers_destroy(tiers);
}

Test(sharing, serves_many_processes_with_one_slot)
{
    coterie_tiers_t *tiers = shared_tiers(1);
    pid_t guests[GUESTS];

    for (int i = 0; i < GUESTS; i++)
        guests[i] = guest_start(use_many);
    use_many(tiers);
    for (int i = 0; i < GUESTS; i++)
        guest_await(guests[i]);
    cr_expect(eq(u64, record_size, counts_of(tiers).resident_most));
    coterie_tiers_destroy(tiers);
}

Test(sharing, takes_back_what_a_killed_process_used)
{
    coterie_tiers_t *tiers = shared_tiers(1);
    pid_t guest = guest_start(hold_one);

    await_ready();
    cr_expect(eq(u64, 2, counts_of(tiers).processes));
    kill(guest, SIGKILL);
    waitpid(guest, NULL, 0);
    cr_expect(eq(int, COTERIE_OK, take_one(tiers, 5)));
    coterie_tiers_release(tiers, 5, 1);
    coterie_tiers_destroy(tiers);
}

Test(sharing, forgets_a_killed_process_that_waited)
{
    coterie_tiers_t *tiers = shared_tiers(1);
    pid_t guest;

    cr_assert(eq(int, COTERIE_OK, take_one(tiers, 2)));
    guest = guest_start(wait_for_one);
    await_ready();
    kill(guest, SIGKILL);
    waitpid(guest, NULL, 0);
    coterie_tiers_release(tiers, 2, 1);
    cr_expect(eq(int, COTERIE_OK, take_one(tiers, 7)));
    coterie_tiers_release(tiers, 7, 1);
    coterie_tiers_destroy(tiers);
}

Test(sharing, tells_guests_that_the_keeper_is_gone)
{
    coterie_tiers_t *tiers = NULL;
    pid_t keeper = fork();

    if (keeper == 0)
        keep_until_killed();
    cr_assert(read(ready[0], name, sizeof(name)) == sizeof(name));
    cr_assert(eq(int, COTERIE_OK, coterie_tiers_join(model, name, &tiers)),
              "%s", coterie_last_error());
    cr_assert(eq(int, COTERIE_OK, take_one(tiers, 3)));
    kill(keeper, SIGKILL);
    waitpid(keeper, NULL, 0);
    cr_expect(eq(int, COTERIE_ERR_PEER, take_one(tiers, 4)));
    coterie_tiers_abandon(tiers,
                          (coterie_items_t){(uint32_t[]){4}, 1});
    coterie_tiers_release(tiers, 3, 1);
    cr_expect(zero(u64, counts_of(tiers).uses));
    coterie_tiers_destroy(tiers);
    cr_expect(eq(int, COTERIE_ERR_PEER,
                 coterie_tiers_join(model, name, &tiers)));
}

Test(sharing, explains_a_failed_read_to_guests)
{
    coterie_tiers_t *tiers = shared_tiers(2), *guest = NULL;

    cr_assert(truncate(path, (off_t)(4096 + 2 * record_size)) == 0);
    cr_assert(eq(int, COTERIE_OK, coterie_tiers_join(model, name, &guest)));
    cr_expect(eq(int, COTERIE_ERR_IO, take_one(guest, ITEMS - 1)));
    cr_expect(strstr(coterie_last_error(), "expert (2, 3)") != NULL, "%s",
              coterie_last_error());
    coterie_tiers_abandon(guest,
                          (coterie_items_t){(uint32_t[]){ITEMS - 1}, 1});
    cr_expect(eq(int, COTERIE_OK, take_one(guest, 1)));
    coterie_tiers_release(guest, 1, 1);
    coterie_tiers_destroy(guest);
    coterie_tiers_destroy(tiers);
}

Test(sharing, tells_guests_what_happened)
{
    coterie_tiers_t *tiers = shared_tiers(ITEMS), *guest = NULL;
    coterie_layer_counts_t counts[COTERIE_TIMELINE_SPANS * LAYERS];
    uint64_t hot[ITEMS];
    uint32_t rounds = 0;
    char text[128], told[128];

    cr_assert(eq(int, COTERIE_OK, coterie_tiers_join(model, name, &guest)));
    use_all(guest);
    cr_expect(eq(u64, ITEMS, counts_of(guest).uses));
    cr_expect(zero(u64, counts_of(guest).processes));
    coterie_tiers_timeline(guest, counts, &rounds);
    cr_expect(eq(u32, 1, rounds));
    cr_expect(eq(u64, EXPERTS, counts[0].uses));
    coterie_tiers_hot(guest, hot);
    cr_expect(eq(u64, 1, hot[ITEMS - 1]));
    coterie_tiers_describe(tiers, text, sizeof(text));
    coterie_tiers_describe(guest, told, sizeof(told));
    cr_expect(eq(str, text, told));
    cr_expect(strstr(text, "shared") != NULL, "%s", text);
    coterie_tiers_destroy(guest);
    coterie_tiers_destroy(tiers);
}

Test(sharing, drops_guests_that_talk_nonsense)
{
    coterie_tiers_t *tiers = shared_tiers(2);

    nonsense_say();
    use_all(tiers);
    coterie_tiers_destroy(tiers);
}

Test(sharing, refuses_what_cannot_be_shared)
{
    coterie_tiers_options_t options = COTERIE_TIERS_OPTIONS_INIT;
    coterie_tiers_t *tiers = NULL, *guest = NULL;
    coterie_model_t *other = NULL;
    uint32_t item = 0;
    char second[PATH_SIZE], directory[PATH_SIZE], elsewhere[PATH_SIZE];

    options.budget = record_size;
    cr_assert(eq(int, COTERIE_OK,
                 coterie_tiers_create(model, &options, &tiers)));
    cr_expect(eq(int, COTERIE_ERR_INVALID, coterie_tiers_share(tiers, name)));
    coterie_tiers_destroy(tiers);
    cr_expect(eq(int, COTERIE_ERR_PEER,
                 coterie_tiers_join(model, "nobody", &guest)));
    cr_expect(eq(int, COTERIE_ERR_INVALID,
                 coterie_tiers_join(model, "", &guest)));
    tiers = shared_tiers(1);
    cr_expect(eq(int, COTERIE_ERR_INVALID, coterie_tiers_share(tiers, name)));
    fixture_path("olmoe", directory);
    store_pack(directory, elsewhere, second);
    cr_assert(eq(int, COTERIE_OK, coterie_model_open(second, &other)));
    cr_expect(eq(int, COTERIE_ERR_MISMATCH,
                 coterie_tiers_join(other, name, &guest)));
    cr_expect(zero(ptr, guest));
    cr_assert(eq(int, COTERIE_OK, coterie_tiers_join(model, name, &guest)));
    cr_expect(eq(int, COTERIE_OK,
                 coterie_tiers_serve(guest, (coterie_items_t){&item, 1})));
    cr_expect(eq(int, COTERIE_ERR_UNSUPPORTED,
                 coterie_tiers_serve(guest, (coterie_items_t){&item, 1})));
    coterie_tiers_destroy(guest);
    coterie_tiers_destroy(tiers);
    coterie_model_close(other);
    folder_remove(elsewhere);
}

static void store_open(void)
{
    char directory[PATH_SIZE];

    fixture_path("mixtral", directory);
    store_pack(directory, folder, path);
    cr_assert(eq(int, COTERIE_OK, coterie_model_open(path, &model)));
    record_size = records_load(model, EXPERTS, ITEMS, records);
    cr_assert(pipe(ready) == 0);
}

static void store_close(void)
{
    for (uint32_t i = 0; i < ITEMS; i++)
        free(records[i]);
    coterie_model_close(model);
    folder_remove(folder);
}

static coterie_tiers_t *shared_tiers(uint64_t experts)
{
    coterie_tiers_options_t options = COTERIE_TIERS_OPTIONS_INIT;
    coterie_tiers_t *tiers = NULL;

    options.budget = experts * record_size;
    options.shared = 1;
    cr_assert(eq(int, COTERIE_OK,
                 coterie_tiers_create(model, &options, &tiers)), "%s",
              coterie_last_error());
    cr_assert(eq(int, COTERIE_OK, coterie_tiers_share(tiers, name)), "%s",
              coterie_last_error());
    return tiers;
}

static pid_t guest_start(void (*work)(coterie_tiers_t *tiers))
{
    coterie_tiers_t *tiers = NULL;
    pid_t guest = fork();

    cr_assert(guest >= 0);
    if (guest > 0)
        return guest;
    if (coterie_tiers_join(model, name, &tiers) != COTERIE_OK)
        _exit(2);
    work(tiers);
    coterie_tiers_destroy(tiers);
    _exit(0);
}

static void guest_await(pid_t guest)
{
    int status = -1;

    cr_expect(eq(int, (int)guest, (int)waitpid(guest, &status, 0)));
    cr_expect(zero(int, status));
}

static void say_ready(void)
{
    if (write(ready[1], name, sizeof(name)) != sizeof(name))
        _exit(3);
}

static void await_ready(void)
{
    char word[COTERIE_TIERS_NAME];

    cr_assert(read(ready[0], word, sizeof(word)) == sizeof(word));
}

static void use_all(coterie_tiers_t *tiers)
{
    for (uint32_t l = 0; l < LAYERS; l++) {
        const uint32_t items[EXPERTS] = {l * EXPERTS + 3, l * EXPERTS,
                                         l * EXPERTS + 2, l * EXPERTS + 1};

        if (!use(tiers, EXPERTS, items))
            abort();
    }
}

static void use_many(coterie_tiers_t *tiers)
{
    for (uint32_t i = 0; i < 20; i++) {
        const uint32_t items[3] = {i % ITEMS, (i + 4) % ITEMS,
                                   (i * 5 + 9) % ITEMS};

        if (!use(tiers, items[2] == items[0] || items[2] == items[1] ? 2 : 3,
                 items))
            abort();
    }
}

static void hold_one(coterie_tiers_t *tiers)
{
    if (take_one(tiers, 0) != COTERIE_OK)
        _exit(4);
    say_ready();
    pause();
}

static void wait_for_one(coterie_tiers_t *tiers)
{
    say_ready();
    take_one(tiers, 0);
    pause();
}

static void keep_until_killed(void)
{
    shared_tiers(4);
    say_ready();
    pause();
    _exit(0);
}

/* As a bank does; whether all had the right bytes. */
static bool use(coterie_tiers_t *tiers, uint32_t count, const uint32_t *items)
{
    uint32_t left[ITEMS];
    bool right = true;

    memcpy(left, items, count * sizeof(*items));
    coterie_tiers_route(tiers, (coterie_items_t){left, count},
                        (coterie_items_t){NULL, 0});
    coterie_tiers_want(tiers, (coterie_items_t){left, count});
    for (uint32_t i = 0; i < count && right; i++) {
        const void *record;
        uint32_t at;

        right = coterie_tiers_take(tiers, (coterie_items_t){left, count}, &at,
                                   &record) == COTERIE_OK &&
                memcmp(record, records[items[at]], record_size) == 0;
        if (right)
            coterie_tiers_release(tiers, items[at], 1);
    }
    return right;
}

static coterie_status_t take_one(coterie_tiers_t *tiers, uint32_t item)
{
    const void *record;
    uint32_t at;

    coterie_tiers_want(tiers, (coterie_items_t){(uint32_t[]){item}, 1});
    return coterie_tiers_take(tiers, (coterie_items_t){(uint32_t[]){item}, 1},
                              &at, &record);
}

static coterie_tiers_counts_t counts_of(coterie_tiers_t *tiers)
{
    coterie_tiers_counts_t counts;

    coterie_tiers_counts(tiers, &counts);
    return counts;
}

/* Whole and half calls, until nobody listens any more. */
static void nonsense_say(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    unsigned char words[240];

    for (size_t kind = 0; kind < 20; kind++) {
        int descriptor = socket(AF_UNIX, SOCK_STREAM, 0);

        memcpy(address.sun_path + 1, name, strlen(name));
        cr_assert(connect(descriptor, (struct sockaddr *)&address,
                          (socklen_t)(sizeof(sa_family_t) + 1 +
                                      strlen(name))) == 0);
        memset(words, 0xff, sizeof(words));
        memset(words, 0, 24); /* a call's head */
        words[0] = (unsigned char)kind;
        words[16] = kind % 2 ? 216 : 255;
        cr_expect(send(descriptor, words, sizeof(words), MSG_NOSIGNAL) > 0);
        close(descriptor);
    }
}
