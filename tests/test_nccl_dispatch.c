/* Dispatch over NCCL as the tests have it, a thread a rank, beside dispatch
 * between ranks that share a device. */
#include "config.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include <coterie/coterie.h>

#include "tests/fake_nccl.h"
#include "tests/models.h"

enum { RANKS = 4, LAYERS = 8, EXPERTS = 16, K = 2, ROWS = 40, LONG_MS = 30000 };

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
    rows_t out;
    coterie_device_counts_t counts;
} rank_t;

static coterie_model_t *model;
static coterie_placement_t *placement;
static coterie_model_config_t config = {.size = sizeof(config)};
static uint32_t mode, predicted_k; /* 0 or K */

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

static coterie_bank_t *bank_open(uint32_t rank, coterie_device_t *device,
                                 coterie_dispatcher_t *dispatcher)
{
    coterie_bank_t *bank = NULL;

    cr_assert(eq(int, COTERIE_OK,
                 coterie_bank_create(model, placement, rank, &bank)));
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
        banks[r] = bank_open(r, device, dispatcher);
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

static void *rank_main(void *argument)
{
    rank_t *self = argument;
    coterie_fabric_t *fabric = NULL;
    coterie_dispatcher_t *dispatcher;
    coterie_device_t *device = NULL;
    coterie_bank_t *bank;
    rows_t spare = rows_new();
    float *norm = norm_new();

    fake_nccl_gpu = (unsigned char)self->index;
    coterie_device_open("host", &device);
    self->options.device = device;
    cr_assert(eq(int, COTERIE_OK,
                 coterie_fabric_open_nccl_with(&self->options, &self->calls,
                                               &fabric)),
              "%s", coterie_last_error());
    dispatcher = dispatcher_open(fabric, norm);
    bank = bank_open(self->index, device, dispatcher);
    self->out = rows_new();
    rows_begin(self->index, &self->out);
    layers_run(dispatcher, self->index, 1, &self->out, &spare);
    cr_expect(eq(int, COTERIE_OK,
                 coterie_dispatcher_check(dispatcher, self->index,
                                          &self->counts)),
              "%s", coterie_last_error());
    coterie_dispatcher_destroy(dispatcher);
    coterie_bank_destroy(bank);
    coterie_fabric_close(fabric);
    coterie_device_close(device);
    rows_free(&spare);
    free(norm);
    return NULL;
}

/* The same rows, with the same bits, at every rank. */
static void expect_as_local(int team, bool even)
{
    coterie_transport_t *transports[RANKS];
    rows_t right[RANKS];
    rank_t ranks[RANKS];

    local_run(right);
    fake_nccl = (fake_nccl_t){
        .version = 22809, .patience_ms = LONG_MS, .team = team};
    coterie_transport_open_threads(RANKS, NULL, transports);
    for (uint32_t r = 0; r < RANKS; r++) {
        ranks[r] = (rank_t){.index = r, .calls = fake_nccl_calls()};
        if (!even)
            ranks[r].calls.AlltoAll = NULL;
        ranks[r].options =
            (coterie_nccl_options_t)COTERIE_NCCL_OPTIONS_INIT;
        ranks[r].options.transport = transports[r];
        pthread_create(&ranks[r].thread, NULL, rank_main, &ranks[r]);
    }
    for (uint32_t r = 0; r < RANKS; r++) {
        const size_t size = right[r].count * (size_t)config.hidden;

        pthread_join(ranks[r].thread, NULL);
        cr_assert(eq(u32, ranks[r].out.count, right[r].count));
        cr_expect(zero(int, memcmp(ranks[r].out.key, right[r].key,
                                   right[r].count * sizeof(uint64_t))));
        cr_expect(zero(int, memcmp(ranks[r].out.hidden, right[r].hidden,
                                   size * sizeof(float))),
                  "rank %u", r);
        rows_free(&right[r]);
        rows_free(&ranks[r].out);
    }
    for (uint32_t r = 0; r < RANKS; r++)
        coterie_transport_close(transports[r]);
    cr_expect(eq(int, fake_nccl.communicators, 0));
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
    uint8_t active[RANKS] = {1, 0, 1, 1};
    coterie_placement_t *whole = placement, *left = NULL;
    coterie_dispatcher_t *dispatcher;
    coterie_fabric_t *fabric = NULL;
    coterie_device_t *device = NULL;
    coterie_bank_t *banks[RANKS];
    float *norm = norm_new();
    rows_t spare[RANKS];

    coterie_device_open("host", &device);
    cr_assert(eq(int, COTERIE_OK,
                 coterie_fabric_open_local(RANKS, device, &fabric)));
    cr_assert(eq(int, COTERIE_OK,
                 coterie_placement_without(whole, active, &left)));
    dispatcher = dispatcher_open(fabric, norm);
    for (uint32_t r = 0; r < RANKS; r++) {
        banks[r] = bank_open(r, device, dispatcher);
        rows[r] = rows_new();
        spare[r] = rows_new();
        rows_begin(r, &rows[r]);
    }
    if (!lost_at_first)
        layers_run(dispatcher, 0, RANKS, rows, spare);
    placement = left;
    cr_assert(eq(int, COTERIE_OK,
                 coterie_dispatcher_set_active(dispatcher, active)));
    cr_assert(eq(int, COTERIE_OK,
                 coterie_dispatcher_set_placement(dispatcher, left)),
              "%s", coterie_last_error());
    for (uint32_t r = 0; r < RANKS; r++) {
        coterie_bank_destroy(banks[r]);
        banks[r] = bank_open(r, device, dispatcher);
        rows_free(&rows[r]);
        rows[r] = rows_new();
        rows_begin(r, &rows[r]);
        if (active[r] == 0)
            rows[r].count = 0;
    }
    layers_run(dispatcher, 0, RANKS, rows, spare);
    for (uint32_t r = 0; r < RANKS; r++)
        if (active[r] != 0) {
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
    coterie_fabric_close(fabric);
    coterie_device_close(device);
    coterie_placement_destroy(left);
    placement = whole;
    free(norm);
}

/* What it held, others load from the store. */
Test(nccl_dispatch, goes_on_as_if_a_lost_rank_had_never_been)
{
    for (mode = COTERIE_MODE_TWO_PHASE; mode <= COTERIE_MODE_FORWARD; mode++) {
        rows_t got[RANKS], want[RANKS];

        world_run(got, false);
        world_run(want, true);
        for (uint32_t r = 0; r < RANKS; r++) {
            const size_t size = want[r].count * (size_t)config.hidden;

            if (r == 1)
                continue;
            cr_assert(eq(u32, got[r].count, want[r].count));
            cr_expect(zero(int, memcmp(got[r].hidden, want[r].hidden,
                                       size * sizeof(float))),
                      "mode %u, rank %u", mode, r);
        }
        for (uint32_t r = 0; r < RANKS; r++) {
            rows_free(&got[r]);
            rows_free(&want[r]);
        }
    }
}
