/* Dispatch over NCCL as the tests have it, a thread a rank, beside dispatch
 * between ranks that share a device. */
#include "config.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include <coterie/coterie.h>

#include "runtime/dispatcher.h"
#include "tests/fake_nccl.h"
#include "tests/models.h"

enum {
    RANKS = 4,
    LAYERS = 8,
    EXPERTS = 16,
    K = 2,
    ROWS = 40,
    LONG_MS = 30000,
    SHORT_MS = 60,
    FAR = 5 << 24 /* messages, as after hours */
};

/* One rank's rows: the input of every layer, and the last one's output. */
typedef struct rows {
    uint32_t count;
    uint64_t key[ROWS];
    float *hidden, *normed;
    int32_t ids[ROWS * K], predicted[ROWS * K];
    float weights[ROWS * K];
    uint32_t seat[ROWS], holders[ROWS];
} rows_t;

typedef struct rank {
    pthread_t thread;
    uint32_t index;
    coterie_nccl_calls_t calls;
    coterie_nccl_options_t options;
    coterie_device_t *device;
    coterie_fabric_t *fabric;
    coterie_dispatcher_t *dispatcher;
    coterie_placement_t *left; /* what it goes on with, if a rank is lost */
    coterie_bank_t *bank;
    float *norm;
    rows_t out, spare;
    coterie_device_counts_t counts;
} rank_t;

static coterie_model_t *model;
static coterie_placement_t *placement;
static coterie_model_config_t config = {.size = sizeof(config)};
static uint32_t mode, predicted_k; /* 0 or K */
static const uint8_t survivors[RANKS] = {1, 0, 1, 1};
static pthread_barrier_t together; /* of these */
static pthread_barrier_t over;     /* of all */

static void setup(void)
{
    coterie_placement_options_t options = COTERIE_PLACEMENT_OPTIONS_INIT;
    char path[PATH_SIZE];

    path_in(getenv("COTERIE_EXAMPLES"), "tiny-moe", path);
    cr_assert(eq(int, COTERIE_OK, coterie_model_open(path, &model)));
    coterie_model_config(model, &config);
    options.layer_count = LAYERS;
    options.expert_count = EXPERTS;
    options.rank_count = RANKS;
    cr_assert(eq(int, COTERIE_OK,
                 coterie_placement_create(&options, &placement)));
}

static void teardown(void)
{
    coterie_placement_destroy(placement);
    coterie_model_close(model);
}

TestSuite(nccl_dispatch, .init = setup, .fini = teardown);

static rows_t rows_new(void)
{
    const size_t size = ROWS * config.hidden * sizeof(float);

    return (rows_t){.hidden = calloc(1, size), .normed = calloc(1, size)};
}

static void rows_free(rows_t *rows)
{
    free(rows->hidden);
    free(rows->normed);
}

/* Some rank has none; in forward all have the last one's. */
static void rows_begin(uint32_t rank, rows_t *rows)
{
    if (mode == COTERIE_MODE_FORWARD)
        rank = RANKS - 1;
    rows->count = rank * 3;
    for (uint32_t i = 0; i < rows->count; i++) {
        rows->key[i] = rank * 100 + i;
        rows->seat[i] = i;
        rows->holders[i] = UINT32_MAX;
    }
    for (size_t i = 0; i < rows->count * (size_t)config.hidden; i++)
        rows->hidden[i] = (float)((i * 31 + rank) % 97) / 48 - 1;
}

static int32_t choice(uint64_t key, uint32_t layer, uint32_t j)
{
    return (int32_t)((key * 7 + layer * 5 + j * 3) % EXPERTS);
}

/* What an engine's attention and router would make of rows, wherever they are:
 * it depends on nothing but their keys and the layer. Every other prediction is
 * wrong. */
static void rows_route(uint32_t layer, rows_t *rows)
{
    for (size_t i = 0; i < rows->count * (size_t)config.hidden; i++)
        rows->normed[i] = rows->hidden[i] / 2;
    for (uint32_t i = 0; i < rows->count; i++)
        for (uint32_t j = 0; j < K; j++) {
            rows->ids[i * K + j] = choice(rows->key[i], layer, j);
            rows->predicted[i * K + j] =
                choice(rows->key[i], layer + 1 + rows->key[i] % 2, j);
            rows->weights[i * K + j] = 0.25f + 0.5f * (float)j;
        }
}

static coterie_device_rows_t device_rows(rows_t *rows)
{
    return (coterie_device_rows_t){.size = sizeof(coterie_device_rows_t),
                                   .capacity = ROWS,
                                   .count = &rows->count,
                                   .key = rows->key,
                                   .hidden = rows->hidden,
                                   .normed = rows->normed,
                                   .topk_ids = rows->ids,
                                   .topk_weights = rows->weights,
                                   .seat = rows->seat,
                                   .holders = rows->holders,
                                   .predicted = rows->predicted};
}

static coterie_dispatcher_t *dispatcher_open(coterie_fabric_t *fabric,
                                             const float *norm)
{
    coterie_dispatcher_options_t options = COTERIE_DISPATCHER_OPTIONS_INIT;
    coterie_dispatcher_t *dispatcher = NULL;

    options.fabric = fabric;
    options.placement = placement;
    options.hidden = config.hidden;
    options.k = K;
    options.max_rows = ROWS;
    options.capacity = ROWS;
    options.deadline_ms = LONG_MS;
    options.norm = norm;
    options.norm_epsilon = 1e-6f;
    options.forward = 1;
    options.predicted_k = predicted_k;
    cr_assert(eq(int, COTERIE_OK,
                 coterie_dispatcher_create(&options, &dispatcher)),
              "%s", coterie_last_error());
    return dispatcher;
}

static coterie_bank_t *bank_open(const coterie_placement_t *held,
                                 uint32_t rank, coterie_device_t *device,
                                 coterie_dispatcher_t *dispatcher)
{
    coterie_bank_t *bank = NULL;

    cr_assert(eq(int, COTERIE_OK,
                 coterie_bank_create(model, held, rank, &bank)));
    cr_assert(eq(int, COTERIE_OK,
                 coterie_bank_move(bank, device, RANKS * ROWS, K)));
    cr_assert(eq(int, COTERIE_OK,
                 coterie_dispatcher_register(dispatcher, rank, bank)),
              "%s", coterie_last_error());
    return bank;
}

static coterie_status_t sums_return(coterie_dispatcher_t *dispatcher,
                                    const coterie_layer_call_t *layer,
                                    uint32_t late)
{
    coterie_layer_call_t call = *layer;
    coterie_status_t status;

    call.late = late;
    status = coterie_dispatcher_arrive(dispatcher, &call);
    if (status == COTERIE_OK)
        status = coterie_dispatcher_compute(dispatcher, &call);
    if (status == COTERIE_OK)
        status = coterie_dispatcher_return(dispatcher, &call);
    return status;
}

/* All layers, of ranks first to first + count - 1. rows has the result. */
static void layers_run(coterie_dispatcher_t *dispatcher, uint32_t first,
                       uint32_t count, rows_t *rows, rows_t *spare)
{
    for (uint32_t layer = 0; layer < LAYERS; layer++) {
        coterie_device_rows_t in[RANKS], out[RANKS];
        const coterie_layer_call_t call = {
            sizeof(call), layer, mode, first, count, in, out, 0, 0};
        coterie_status_t status;

        for (uint32_t i = 0; i < count; i++) {
            rows_route(layer, &rows[i]);
            in[i] = device_rows(&rows[i]);
            out[i] = device_rows(&spare[i]);
        }
        status = coterie_dispatcher_send(dispatcher, &call);
        if (status == COTERIE_OK)
            status = sums_return(dispatcher, &call, 0);
        if (status == COTERIE_OK && mode == COTERIE_MODE_FORWARD &&
            predicted_k > 0)
            status = sums_return(dispatcher, &call, 1);
        if (status == COTERIE_OK)
            status = coterie_dispatcher_finish(dispatcher, &call);
        cr_assert(eq(int, COTERIE_OK, status), "%s", coterie_last_error());
        for (uint32_t i = 0; i < count; i++) {
            const rows_t swapped = rows[i];

            rows[i] = spare[i];
            spare[i] = swapped;
        }
    }
}

static float *norm_new(void)
{
    float *norm = malloc(LAYERS * config.hidden * sizeof(*norm));

    for (uint32_t i = 0; i < LAYERS * config.hidden; i++)
        norm[i] = 1;
    return norm;
}

static void local_run(rows_t *rows)
{
    coterie_device_t *device = NULL;
    coterie_fabric_t *fabric = NULL;
    coterie_dispatcher_t *dispatcher;
    coterie_bank_t *banks[RANKS];
    rows_t spare[RANKS];
    float *norm = norm_new();

    coterie_device_open("host", &device);
    cr_assert(eq(int, COTERIE_OK,
                 coterie_fabric_open_local(RANKS, device, &fabric)));
    dispatcher = dispatcher_open(fabric, norm);
    for (uint32_t r = 0; r < RANKS; r++) {
        banks[r] = bank_open(placement, r, device, dispatcher);
        rows[r] = rows_new();
        spare[r] = rows_new();
        rows_begin(r, &rows[r]);
    }
    layers_run(dispatcher, 0, RANKS, rows, spare);
    coterie_dispatcher_destroy(dispatcher);
    for (uint32_t r = 0; r < RANKS; r++) {
        coterie_bank_destroy(banks[r]);
        rows_free(&spare[r]);
    }
    coterie_fabric_close(fabric);
    coterie_device_close(device);
    free(norm);
}

static void rank_open(rank_t *self)
{
    fake_nccl_gpu = (unsigned char)self->index;
    self->norm = norm_new();
    self->out = rows_new();
    self->spare = rows_new();
    coterie_device_open("host", &self->device);
    self->options.device = self->device;
    cr_assert(eq(int, COTERIE_OK,
                 coterie_fabric_open_nccl_with(&self->options, &self->calls,
                                               &self->fabric)),
              "%s", coterie_last_error());
    self->dispatcher = dispatcher_open(self->fabric, self->norm);
    self->bank =
        bank_open(placement, self->index, self->device, self->dispatcher);
}

static void rank_close(rank_t *self)
{
    coterie_dispatcher_destroy(self->dispatcher);
    coterie_bank_destroy(self->bank);
    coterie_placement_destroy(self->left);
    coterie_fabric_close(self->fabric);
    coterie_device_close(self->device);
    rows_free(&self->spare);
    free(self->norm);
}

static void rank_run(rank_t *self)
{
    rows_begin(self->index, &self->out);
    layers_run(self->dispatcher, self->index, 1, &self->out, &self->spare);
}

static void expect_checked(rank_t *self, coterie_status_t status)
{
    cr_expect(eq(int, status,
                 coterie_dispatcher_check(self->dispatcher, self->index,
                                          &self->counts)),
              "%s", coterie_last_error());
}

static void *rank_main(void *argument)
{
    rank_t *self = argument;

    rank_open(self);
    rank_run(self);
    expect_checked(self, COTERIE_OK);
    rank_close(self);
    return NULL;
}

static void ranks_run(rank_t *ranks, bool even, void *(*body)(void *))
{
    coterie_transport_t *transports[RANKS];

    coterie_transport_open_threads(RANKS, NULL, transports);
    for (uint32_t r = 0; r < RANKS; r++) {
        ranks[r] = (rank_t){.index = r, .calls = fake_nccl_calls()};
        if (!even)
            ranks[r].calls.AlltoAll = NULL;
        ranks[r].options =
            (coterie_nccl_options_t)COTERIE_NCCL_OPTIONS_INIT;
        ranks[r].options.transport = transports[r];
        pthread_create(&ranks[r].thread, NULL, body, &ranks[r]);
    }
    for (uint32_t r = 0; r < RANKS; r++)
        pthread_join(ranks[r].thread, NULL);
    for (uint32_t r = 0; r < RANKS; r++)
        coterie_transport_close(transports[r]);
    cr_expect(eq(int, fake_nccl.communicators, 0));
}

/* The same rows, with the same bits, at every rank. */
static void expect_as_local(int team, bool even)
{
    rows_t right[RANKS];
    rank_t ranks[RANKS];

    local_run(right);
    fake_nccl = (fake_nccl_t){
        .version = 22809, .patience_ms = LONG_MS, .team = team};
    ranks_run(ranks, even, rank_main);
    for (uint32_t r = 0; r < RANKS; r++) {
        const size_t size = right[r].count * (size_t)config.hidden;

        cr_assert(eq(u32, ranks[r].out.count, right[r].count));
        cr_expect(zero(int, memcmp(ranks[r].out.key, right[r].key,
                                   right[r].count * sizeof(uint64_t))));
        cr_expect(zero(int, memcmp(ranks[r].out.hidden, right[r].hidden,
                                   size * sizeof(float))),
                  "rank %u", r);
        rows_free(&right[r]);
        rows_free(&ranks[r].out);
    }
}

Test(nccl_dispatch, sends_what_local_writes)
{
    for (mode = COTERIE_MODE_TWO_PHASE; mode <= COTERIE_MODE_OWNER; mode++) {
        expect_as_local(0, false);
        expect_as_local(0, true);
        cr_expect(eq(u32, fake_nccl.even, 2 * LAYERS * RANKS));
    }
}

Test(nccl_dispatch, writes_into_peers_as_local_does)
{
    for (mode = COTERIE_MODE_TWO_PHASE; mode <= COTERIE_MODE_OWNER; mode++) {
        expect_as_local(RANKS, true);
        cr_expect(eq(u32, fake_nccl.sends, RANKS * (RANKS - 1) * 2));
    }
}

Test(nccl_dispatch, writes_to_some_and_sends_to_others)
{
    for (mode = COTERIE_MODE_TWO_PHASE; mode <= COTERIE_MODE_OWNER; mode++)
        expect_as_local(2, true);
}

/* One exchange a layer; three where some rank may be late. */
Test(nccl_dispatch, forwards_by_one_exchange_a_layer)
{
    mode = COTERIE_MODE_FORWARD;
    for (predicted_k = 0; predicted_k <= K; predicted_k += K) {
        const uint32_t exchanges = predicted_k > 0 ? 3 : 1;

        expect_as_local(0, true);
        cr_expect(eq(u32, fake_nccl.even, exchanges * LAYERS * RANKS));
        expect_as_local(0, false);
        expect_as_local(2, true);
        expect_as_local(RANKS, true);
    }
}

/* All ranks on one device; the lost one makes its calls for no rows. */
static void world_run(rows_t *rows, bool lost_at_first)
{
    coterie_dispatcher_t *dispatcher;
    coterie_placement_t *left = NULL;
    coterie_fabric_t *fabric = NULL;
    coterie_device_t *device = NULL;
    coterie_bank_t *banks[RANKS];
    float *norm = norm_new();
    rows_t spare[RANKS];

    coterie_device_open("host", &device);
    cr_assert(eq(int, COTERIE_OK,
                 coterie_fabric_open_local(RANKS, device, &fabric)));
    cr_assert(eq(int, COTERIE_OK,
                 coterie_placement_without(placement, survivors, &left)));
    dispatcher = dispatcher_open(fabric, norm);
    for (uint32_t r = 0; r < RANKS; r++) {
        banks[r] = bank_open(placement, r, device, dispatcher);
        rows[r] = rows_new();
        spare[r] = rows_new();
        rows_begin(r, &rows[r]);
    }
    if (!lost_at_first)
        layers_run(dispatcher, 0, RANKS, rows, spare);
    cr_assert(eq(int, COTERIE_OK,
                 coterie_dispatcher_set_active(dispatcher, survivors)));
    cr_assert(eq(int, COTERIE_OK,
                 coterie_dispatcher_set_placement(dispatcher, left)),
              "%s", coterie_last_error());
    for (uint32_t r = 0; r < RANKS; r++) {
        coterie_bank_destroy(banks[r]);
        banks[r] = bank_open(left, r, device, dispatcher);
        rows_begin(r, &rows[r]);
        if (survivors[r] == 0)
            rows[r].count = 0;
    }
    layers_run(dispatcher, 0, RANKS, rows, spare);
    for (uint32_t r = 0; r < RANKS; r++)
        if (survivors[r] != 0) {
            coterie_device_counts_t counts;

            cr_expect(eq(int, COTERIE_OK,
                         coterie_dispatcher_check(dispatcher, r, &counts)));
            cr_expect(zero(u64, counts.dropped));
        }
    coterie_dispatcher_destroy(dispatcher);
    for (uint32_t r = 0; r < RANKS; r++) {
        coterie_bank_destroy(banks[r]);
        rows_free(&spare[r]);
    }
    coterie_placement_destroy(left);
    coterie_fabric_close(fabric);
    coterie_device_close(device);
    free(norm);
}

static void expect_same(const rows_t *got, const rows_t *want, uint32_t r)
{
    const size_t size = want->count * (size_t)config.hidden;

    cr_assert(eq(u32, got->count, want->count));
    cr_expect(zero(int, memcmp(got->hidden, want->hidden,
                               size * sizeof(float))),
              "mode %u, rank %u", mode, r);
}

/* What it held, others load from the store. */
Test(nccl_dispatch, goes_on_as_if_a_lost_rank_had_never_been)
{
    for (mode = COTERIE_MODE_TWO_PHASE; mode <= COTERIE_MODE_FORWARD; mode++) {
        rows_t got[RANKS], want[RANKS];

        world_run(got, false);
        world_run(want, true);
        for (uint32_t r = 0; r < RANKS; r++) {
            if (survivors[r] != 0)
                expect_same(&got[r], &want[r], r);
            rows_free(&got[r]);
            rows_free(&want[r]);
        }
    }
}

/* Nobody is under way then. */
static void patience_set(const rank_t *self, int ms, uint32_t deadline_ms)
{
    pthread_barrier_wait(&together);
    if (self->index == 0)
        fake_nccl.patience_ms = ms;
    pthread_barrier_wait(&together);
    self->dispatcher->options.deadline_ms = deadline_ms;
    self->dispatcher->terms.deadline_ns = deadline_ms * 1000000ull;
}

static void rank_take_over(rank_t *self)
{
    patience_set(self, 1, SHORT_MS);
    rank_run(self);
    expect_checked(self, COTERIE_ERR_TIMEOUT);
    patience_set(self, LONG_MS, LONG_MS);
    cr_expect(eq(int, COTERIE_OK,
                 coterie_dispatcher_set_active(self->dispatcher, survivors)),
              "%s", coterie_last_error());
    cr_expect(eq(int, COTERIE_OK,
                 coterie_placement_without(placement, survivors,
                                           &self->left)));
    cr_expect(eq(int, COTERIE_OK,
                 coterie_dispatcher_set_placement(self->dispatcher,
                                                  self->left)),
              "%s", coterie_last_error());
    coterie_bank_destroy(self->bank);
    self->bank =
        bank_open(self->left, self->index, self->device, self->dispatcher);
    rank_run(self);
    expect_checked(self, COTERIE_OK);
    cr_expect(zero(u64, self->counts.dropped));
}

/* One takes part in a pass, and then in nothing more. */
static void *taking_over_main(void *argument)
{
    rank_t *self = argument;

    rank_open(self);
    for (int p = 0; p < COTERIE_GPU_PARCELS; p++)
        self->dispatcher->ranks[0].sequence[p] = FAR;
    rank_run(self);
    if (survivors[self->index] != 0)
        rank_take_over(self);
    pthread_barrier_wait(&over); /* others may write into its memory */
    rank_close(self);
    return NULL;
}

static void expect_taken_over(int team, const rows_t *want)
{
    rank_t ranks[RANKS];

    fake_nccl = (fake_nccl_t){
        .version = 22809, .patience_ms = LONG_MS, .team = team};
    ranks_run(ranks, true, taking_over_main);
    cr_expect(eq(u32, fake_nccl.revokes, RANKS - 1));
    cr_expect(eq(u32, fake_nccl.shrinks, RANKS - 1));
    for (uint32_t r = 0; r < RANKS; r++) {
        if (survivors[r] != 0)
            expect_same(&ranks[r].out, &want[r], r);
        rows_free(&ranks[r].out);
    }
}

Test(nccl_dispatch, takes_over_after_a_rank_was_lost_on_the_way)
{
    const int teams[] = {0, 2, RANKS};

    pthread_barrier_init(&together, NULL, RANKS - 1);
    pthread_barrier_init(&over, NULL, RANKS);
    for (mode = COTERIE_MODE_TWO_PHASE; mode <= COTERIE_MODE_FORWARD; mode++) {
        rows_t want[RANKS];

        world_run(want, true);
        for (size_t i = 0; i < sizeof(teams) / sizeof(teams[0]); i++)
            expect_taken_over(teams[i], want);
        for (uint32_t r = 0; r < RANKS; r++)
            rows_free(&want[r]);
    }
    pthread_barrier_destroy(&over);
    pthread_barrier_destroy(&together);
}
