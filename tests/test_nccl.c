#include "config.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include <coterie/nccl.h>

Test(nccl, is_found_or_told_missing_in_one_line)
{
    uint32_t version = 7;
    coterie_status_t status = coterie_nccl_version(&version);

    if (status == COTERIE_OK) {
        cr_expect(ge(u32, version, 21900));
    } else {
        cr_expect(eq(u32, version, 7));
        cr_expect(ne(ptr, strstr(coterie_last_error(), "no NCCL: "), NULL));
        cr_expect(eq(ptr, strchr(coterie_last_error(), '\n'), NULL));
    }
}

#ifdef HAVE_NCCL
#include "runtime/fabric.h"
#include "tests/fake_nccl.h"

enum { RANKS = 4, SLOT = 32, SHORT_MS = 60, LONG_MS = 30000 };

typedef struct rank rank_t;
typedef void (*rank_fn)(rank_t *rank);

/* One rank, as a thread with a device and a fabric. */
struct rank {
    pthread_t thread;
    uint32_t index;
    coterie_nccl_options_t options;
    coterie_nccl_calls_t calls;
    rank_fn body;
    coterie_device_t *device;
    coterie_fabric_t *fabric;
    coterie_status_t status; /* of opening, */
    coterie_status_t result; /* and of what the body did */
    char line[512];
    char *window, *reach[RANKS];
    char out[RANKS * SLOT];
    uint8_t active[RANKS];
};

static rank_t ranks[RANKS];

static void *rank_main(void *argument)
{
    rank_t *self = argument;

    fake_nccl_gpu = (unsigned char)self->index;
    cr_assert(eq(int, COTERIE_OK, coterie_device_open("host", &self->device)));
    self->options.device = self->device;
    self->status = coterie_fabric_open_nccl_with(&self->options, &self->calls,
                                                 &self->fabric);
    snprintf(self->line, sizeof(self->line), "%s", coterie_last_error());
    if (self->status == COTERIE_OK) {
        self->body(self);
        coterie_fabric_close(self->fabric);
    }
    coterie_device_close(self->device);
    return NULL;
}

/* Ranks as they should be; a test changes some. */
static void ranks_prepare(rank_fn body)
{
    fake_nccl = (fake_nccl_t){.version = 22809, .patience_ms = LONG_MS};
    for (uint32_t r = 0; r < RANKS; r++) {
        ranks[r] = (rank_t){.index = r, .body = body};
        ranks[r].options =
            (coterie_nccl_options_t)COTERIE_NCCL_OPTIONS_INIT;
        ranks[r].options.deadline_ms = LONG_MS;
        ranks[r].calls = fake_nccl_calls();
        memset(ranks[r].active, 1, RANKS);
    }
}

static void ranks_run(void)
{
    coterie_transport_t *transports[RANKS];

    cr_assert(eq(int, COTERIE_OK,
                 coterie_transport_open_threads(RANKS, NULL, transports)));
    for (uint32_t r = 0; r < RANKS; r++) {
        ranks[r].options.transport = transports[r];
        pthread_create(&ranks[r].thread, NULL, rank_main, &ranks[r]);
    }
    for (uint32_t r = 0; r < RANKS; r++)
        pthread_join(ranks[r].thread, NULL);
    for (uint32_t r = 0; r < RANKS; r++)
        coterie_transport_close(transports[r]);
    cr_expect(eq(int, fake_nccl.communicators, 0));
    cr_expect(eq(int, fake_nccl.buffers, 0));
}

static void windows_open(rank_t *self)
{
    self->result = self->fabric->ops->open_windows(
        self->fabric, RANKS * SLOT, &self->window, self->reach);
    for (size_t i = 0; self->result == COTERIE_OK && i < RANKS * SLOT; i++)
        if (self->window[i] != 0)
            self->result = COTERIE_ERR_CORRUPT;
}

/* What rank `from` says to rank `to` in this round. */
static char word(uint32_t from, uint32_t to, uint32_t round)
{
    return (char)(1 + from * 50 + to * 11 + round);
}

/* Its own message is in the window already, as a kernel would leave it. */
static void swap_begin(rank_t *self, uint32_t round)
{
    char *out = self->out, *in = self->window;
    const coterie_fabric_swap_t swap = {.first = self->index,
                                        .count = 1,
                                        .size = SLOT,
                                        .out = &out,
                                        .in = &in,
                                        .active = self->active};

    memset(self->window, 0, RANKS * SLOT);
    for (uint32_t r = 0; r < RANKS; r++)
        memset(self->out + r * SLOT, word(self->index, r, round), SLOT);
    memset(self->window + self->index * SLOT,
           word(self->index, self->index, round), SLOT);
    self->result = self->fabric->ops->swap(self->fabric, &swap);
}

/* Whether what came is what the ranks in `mask` sent, and no more. */
static void window_check(rank_t *self, uint32_t mask, uint32_t round)
{
    for (uint32_t r = 0; self->result == COTERIE_OK && r < RANKS; r++)
        for (uint32_t i = 0; i < SLOT; i++)
            if (self->window[r * SLOT + i] !=
                ((mask >> r & 1) ? word(r, self->index, round) : 0))
                self->result = COTERIE_ERR_CORRUPT;
}

static void swap_whole(rank_t *self, uint32_t mask, uint32_t round)
{
    swap_begin(self, round);
    if (self->result == COTERIE_OK)
        self->result = self->fabric->ops->drain(self->fabric, LONG_MS);
    window_check(self, mask, round);
}

static void expect_all(coterie_status_t status, coterie_status_t result)
{
    for (uint32_t r = 0; r < RANKS; r++) {
        cr_expect(eq(int, status, ranks[r].status), "%s", ranks[r].line);
        cr_expect(eq(int, result, ranks[r].result), "rank %u", r);
    }
}

static void swap_thrice(rank_t *self)
{
    windows_open(self);
    for (uint32_t i = 0; i < 3 && self->result == COTERIE_OK; i++)
        swap_whole(self, 0xf, i);
}

Test(nccl, sends_a_slot_from_each_to_each)
{
    ranks_prepare(swap_thrice);
    for (uint32_t r = 0; r < RANKS; r++) {
        ranks[r].options.path = COTERIE_NCCL_PATH_SEND;
        ranks[r].calls.AlltoAll = NULL;
    }
    ranks_run();
    expect_all(COTERIE_OK, COTERIE_OK);
    cr_expect(eq(u32, fake_nccl.even, 0));
    cr_expect(eq(u32, fake_nccl.sends, 5 * RANKS * (RANKS - 1)));
}

Test(nccl, sends_all_to_all_where_the_library_can)
{
    ranks_prepare(swap_thrice);
    ranks_run(); /* nobody reaches anyone */
    expect_all(COTERIE_OK, COTERIE_OK);
    cr_expect(eq(u32, fake_nccl.even, 3 * RANKS));
}

static void swap_without_one(rank_t *self)
{
    windows_open(self);
    self->active[2] = 0;
    if (self->index != 2 && self->result == COTERIE_OK)
        swap_whole(self, 0xb, 0);
}

Test(nccl, leaves_out_who_takes_no_part)
{
    ranks_prepare(swap_without_one);
    ranks_run();
    expect_all(COTERIE_OK, COTERIE_OK);
    cr_expect(eq(u32, fake_nccl.even, 0));
}

/* Ranks 0 and 1 reach each other, and so do 2 and 3. */
static void reach_and_swap(rank_t *self)
{
    const uint32_t buddy = self->index ^ 1;

    windows_open(self);
    for (uint32_t r = 0; self->result == COTERIE_OK && r < RANKS; r++)
        if ((self->reach[r] != NULL) != (r == self->index || r == buddy))
            self->result = COTERIE_ERR_MISMATCH;
    if (self->result != COTERIE_OK || self->reach[self->index] != self->window)
        return;
    swap_whole(self, 0xf & ~(1u << buddy), 0);
    if (self->result == COTERIE_OK &&
        self->reach[buddy] != ranks[buddy].window)
        self->result = COTERIE_ERR_MISMATCH;
}

Test(nccl, reaches_peers_and_sends_to_the_others)
{
    ranks_prepare(reach_and_swap);
    fake_nccl.team = 2;
    ranks_run();
    expect_all(COTERIE_OK, COTERIE_OK);
}

static void tell_name(rank_t *self)
{
    snprintf(self->line, sizeof(self->line), "%s",
             coterie_fabric_name(self->fabric));
}

Test(nccl, says_how_it_sends)
{
    ranks_prepare(tell_name);
    fake_nccl.team = RANKS;
    ranks_run();
    cr_expect(eq(str, ranks[3].line, "nccl-device"));
    ranks_prepare(tell_name);
    for (uint32_t r = 0; r < RANKS; r++)
        ranks[r].calls.TeamLsa = NULL; /* an older library */
    ranks_run();
    cr_expect(eq(str, ranks[3].line, "nccl"));
}

static void *same_gpu_main(void *argument)
{
    rank_t *self = argument;

    fake_nccl_gpu = 0;
    cr_assert(eq(int, COTERIE_OK, coterie_device_open("host", &self->device)));
    self->options.device = self->device;
    self->status = coterie_fabric_open_nccl_with(&self->options, &self->calls,
                                                 &self->fabric);
    snprintf(self->line, sizeof(self->line), "%s", coterie_last_error());
    coterie_device_close(self->device);
    return NULL;
}

Test(nccl, refuses_two_ranks_on_one_gpu)
{
    coterie_transport_t *transports[RANKS];

    ranks_prepare(NULL);
    coterie_transport_open_threads(RANKS, NULL, transports);
    for (uint32_t r = 0; r < RANKS; r++) {
        ranks[r].options.transport = transports[r];
        pthread_create(&ranks[r].thread, NULL, same_gpu_main, &ranks[r]);
    }
    for (uint32_t r = 0; r < RANKS; r++)
        pthread_join(ranks[r].thread, NULL);
    for (uint32_t r = 0; r < RANKS; r++) {
        coterie_transport_close(transports[r]);
        cr_expect(eq(int, COTERIE_ERR_MISMATCH, ranks[r].status));
        cr_expect(ne(ptr, strstr(ranks[r].line, "ranks 0 and 1"), NULL));
    }
}

Test(nccl, refuses_ranks_with_other_libraries)
{
    ranks_prepare(NULL);
    ranks[3].calls.version = 22703;
    ranks_run();
    expect_all(COTERIE_ERR_MISMATCH, COTERIE_OK);
}

static ncclResult_t fail_to_open(ncclComm_t *comm, int size, ncclUniqueId id,
                                 int rank, ncclConfig_t *config)
{
    (void)comm, (void)size, (void)id, (void)rank, (void)config;
    return ncclUnhandledCudaError;
}

Test(nccl, gives_up_on_a_rank_that_cannot_be_connected)
{
    ranks_prepare(NULL);
    for (uint32_t r = 0; r < RANKS; r++)
        ranks[r].options.deadline_ms = SHORT_MS;
    ranks[3].calls.CommInitRankConfig = fail_to_open;
    ranks_run();
    cr_expect(eq(int, COTERIE_ERR_IO, ranks[3].status));
    for (uint32_t r = 0; r < 3; r++) {
        cr_expect(eq(int, COTERIE_ERR_TIMEOUT, ranks[r].status));
        cr_expect(ne(ptr, strstr(ranks[r].line, "ncclCommInitRankConfig"),
                     NULL));
    }
    cr_expect(eq(u32, fake_nccl.aborts, 3));
}

/* Rank 3 never sends. The others see it by the deadline, exclude it and go on
 * without. */
static void lose_one(rank_t *self)
{
    windows_open(self);
    if (self->index == 3 || self->result != COTERIE_OK)
        return;
    swap_begin(self, 0);
    if (self->result == COTERIE_OK &&
        self->fabric->ops->drain(self->fabric, SHORT_MS) !=
            COTERIE_ERR_TIMEOUT)
        self->result = COTERIE_ERR_TIMEOUT;
    self->active[3] = 0;
    if (self->result == COTERIE_OK)
        self->result = self->fabric->ops->exclude(self->fabric, self->active);
    for (uint32_t i = 1; i < 4 && self->result == COTERIE_OK; i++)
        swap_whole(self, 0x7, i);
}

Test(nccl, goes_on_without_a_lost_rank)
{
    ranks_prepare(lose_one);
    fake_nccl.patience_ms = SHORT_MS;
    ranks_run();
    expect_all(COTERIE_OK, COTERIE_OK);
    cr_expect(eq(u32, fake_nccl.revokes, 3));
    cr_expect(eq(u32, fake_nccl.shrinks, 3));
}

Test(nccl, shrinking_stops_what_nothing_else_can)
{
    ranks_prepare(lose_one);
    fake_nccl.patience_ms = SHORT_MS;
    for (uint32_t r = 0; r < RANKS; r++)
        ranks[r].calls.CommRevoke = NULL;
    ranks_run();
    expect_all(COTERIE_OK, COTERIE_OK);
    cr_expect(eq(u32, fake_nccl.shrinks, 3));
}

static void exclude_one(rank_t *self)
{
    windows_open(self);
    self->active[3] = 0;
    if (self->index != 3)
        self->result = self->fabric->ops->exclude(self->fabric, self->active);
}

Test(nccl, an_old_library_cannot_go_on)
{
    ranks_prepare(exclude_one);
    for (uint32_t r = 0; r < RANKS; r++)
        ranks[r].calls.CommShrink = NULL;
    ranks_run();
    for (uint32_t r = 0; r < 3; r++)
        cr_expect(eq(int, COTERIE_ERR_UNSUPPORTED, ranks[r].result));
}

/* A second loss, and one that would come back. */
static void lose_two(rank_t *self)
{
    windows_open(self);
    self->active[0] = 0;
    if (self->index > 0)
        self->result = self->fabric->ops->exclude(self->fabric, self->active);
    self->active[2] = 0;
    if (self->index % 2 == 1 && self->result == COTERIE_OK)
        self->result = self->fabric->ops->exclude(self->fabric, self->active);
    if (self->index % 2 == 0 || self->result != COTERIE_OK)
        return;
    swap_whole(self, 0xa, 5);
    self->active[0] = 1;
    if (self->result == COTERIE_OK)
        self->result = self->fabric->ops->exclude(self->fabric, self->active);
}

Test(nccl, loses_another_rank_but_takes_none_back)
{
    ranks_prepare(lose_two);
    fake_nccl.patience_ms = SHORT_MS;
    ranks_run();
    for (uint32_t r = 1; r < RANKS; r += 2)
        cr_expect(eq(int, COTERIE_ERR_UNSUPPORTED, ranks[r].result));
    for (uint32_t r = 0; r < RANKS; r += 2)
        cr_expect(eq(int, COTERIE_OK, ranks[r].result));
}

static void *abort_later(void *argument)
{
    coterie_fabric_t *fabric = argument;

    usleep(SHORT_MS * 1000);
    fabric->ops->abort(fabric);
    return NULL;
}

static void be_aborted(rank_t *self)
{
    pthread_t other;

    windows_open(self);
    if (self->index == 3)
        return;
    swap_begin(self, 0);
    pthread_create(&other, NULL, abort_later, self->fabric);
    self->result = self->fabric->ops->drain(self->fabric, LONG_MS);
    pthread_join(other, NULL);
}

Test(nccl, another_thread_ends_the_wait)
{
    ranks_prepare(be_aborted);
    fake_nccl.patience_ms = 1;
    ranks_run();
    for (uint32_t r = 0; r < 3; r++)
        cr_expect(eq(int, COTERIE_ERR_PEER, ranks[r].result));
}

Test(nccl, ranks_find_each_other_by_files)
{
    char directory[] = "/tmp/coterie-nccl-XXXXXX", file[64];

    cr_assert(ne(ptr, mkdtemp(directory), NULL));
    snprintf(file, sizeof(file), "%s/meet", directory);
    ranks_prepare(swap_thrice);
    for (uint32_t r = 0; r < RANKS; r++) {
        ranks[r].options.file = file;
        ranks[r].options.rank = r;
        ranks[r].options.rank_count = RANKS;
        pthread_create(&ranks[r].thread, NULL, rank_main, &ranks[r]);
    }
    for (uint32_t r = 0; r < RANKS; r++)
        pthread_join(ranks[r].thread, NULL);
    expect_all(COTERIE_OK, COTERIE_OK);
    cr_expect(eq(int, rmdir(directory), 0)); /* it is empty */
}

Test(nccl, needs_a_device_and_a_path_that_exists)
{
    coterie_nccl_options_t options = COTERIE_NCCL_OPTIONS_INIT;
    const coterie_nccl_calls_t calls = fake_nccl_calls();
    coterie_fabric_t *fabric = NULL;
    coterie_device_t *device;

    cr_expect(eq(int, COTERIE_ERR_INVALID,
                 coterie_fabric_open_nccl_with(&options, &calls, &fabric)));
    coterie_device_open("host", &device);
    options.device = device;
    options.path = 2;
    cr_expect(eq(int, COTERIE_ERR_INVALID,
                 coterie_fabric_open_nccl_with(&options, &calls, &fabric)));
    options.path = 0;
    options.rank = options.rank_count = 3;
    cr_expect(eq(int, COTERIE_ERR_INVALID,
                 coterie_fabric_open_nccl_with(&options, &calls, &fabric)));
    cr_expect(zero(ptr, fabric));
    coterie_device_close(device);
}
#endif
