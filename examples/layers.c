/* A serving engine's view of dispatch on a device: several ranks on one, rows
 * that stay in its memory, a whole pass through a model's MoE layers in one
 * graph. Attention and routers, which the engine would queue between layers,
 * are left out: rows choose experts by chance. In forward every rank has all
 * rows, and a layer is one exchange instead of two.
 *
 *     layers MODEL [DEVICE [RANKS [two-phase|forward]]] */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <coterie/coterie.h>

enum { ROWS = 8, RANKS_MAX = 16, REPLAYS = 10 };

static coterie_device_t *device;
static coterie_mode_t mode = COTERIE_MODE_TWO_PHASE;
static uint32_t thrown = 1; /* by dice */

static void check(coterie_status_t status)
{
    if (status == COTERIE_OK)
        return;
    fprintf(stderr, "layers: %s\n", coterie_last_error());
    exit(1);
}

/* Device memory with the bytes of `from`, or of any. */
static void *there(const void *from, size_t size)
{
    void *p = NULL;

    check(coterie_device_allocate(device, size, &p));
    if (from != NULL)
        check(coterie_device_copy(device, p, from, size));
    check(coterie_device_wait(device));
    return p;
}

static uint32_t dice(uint32_t sides)
{
    thrown = thrown * 1664525u + 1013904223u;
    return (thrown >> 8) % sides;
}

/* Experts in order, as evenly as can be. */
static coterie_placement_t *placement_create(const coterie_model_config_t *c,
                                             uint32_t ranks)
{
    coterie_placement_options_t options = COTERIE_PLACEMENT_OPTIONS_INIT;
    coterie_placement_t *placement = NULL;

    options.layer_count = c->moe_layers;
    options.expert_count = c->experts;
    options.rank_count = ranks;
    check(coterie_placement_create(&options, &placement));
    return placement;
}

/* ROWS rows in f32, and room for as many. */
static void rows_create(const coterie_model_config_t *c,
                        coterie_device_rows_t *in, coterie_device_rows_t *out)
{
    const uint32_t count = ROWS;
    const size_t values = (size_t)ROWS * c->hidden;
    float *x = malloc(values * sizeof(*x)), weights[ROWS * COTERIE_K_MAX];
    int32_t ids[ROWS * COTERIE_K_MAX];

    if (mode == COTERIE_MODE_FORWARD)
        thrown = 1; /* the same at every rank */
    for (size_t i = 0; i < values; i++)
        x[i] = (float)dice(2001) / 1000 - 1;
    for (uint32_t i = 0; i < ROWS * c->k; i++) {
        /* A row's choices differ: each is among others. */
        const uint32_t share = c->experts / c->k;
        ids[i] = (int32_t)(i % c->k * share + dice(share));
        weights[i] = 1.0f / (float)c->k;
    }
    *in = *out = (coterie_device_rows_t){.size = sizeof(*in),
                                         .capacity = ROWS};
    in->count = there(&count, sizeof(count));
    in->hidden = there(x, values * sizeof(*x));
    in->normed = in->hidden;
    in->topk_ids = there(ids, sizeof(ids));
    in->topk_weights = there(weights, sizeof(weights));
    out->count = there(NULL, sizeof(count));
    out->hidden = there(NULL, values * sizeof(*x));
    free(x);
}

static void rows_destroy(const coterie_device_rows_t *in,
                         const coterie_device_rows_t *out)
{
    coterie_device_release(device, in->count);
    coterie_device_release(device, in->hidden);
    coterie_device_release(device, (void *)in->topk_ids);
    coterie_device_release(device, (void *)in->topk_weights);
    coterie_device_release(device, out->count);
    coterie_device_release(device, out->hidden);
}

/* Between any two of these calls, an engine may queue kernels of its own. */
static void layer_queue(coterie_dispatcher_t *dispatcher,
                        const coterie_layer_call_t *call)
{
    check(coterie_dispatcher_send(dispatcher, call));
    check(coterie_dispatcher_arrive(dispatcher, call));
    check(coterie_dispatcher_compute(dispatcher, call));
    check(coterie_dispatcher_return(dispatcher, call));
    check(coterie_dispatcher_finish(dispatcher, call));
}

/* Every layer gets the rows that the one before it gave. */
static coterie_graph_t *layers_capture(coterie_dispatcher_t *dispatcher,
                                       uint32_t layers, uint32_t ranks,
                                       coterie_device_rows_t *in,
                                       coterie_device_rows_t *out)
{
    coterie_graph_t *graph = NULL;

    check(coterie_graph_begin(device));
    for (uint32_t l = 0; l < layers; l++) {
        const coterie_layer_call_t call = {.size = sizeof(call),
                                           .layer = l,
                                           .mode = mode,
                                           .count = ranks,
                                           .in = in,
                                           .out = out};

        layer_queue(dispatcher, &call);
        for (uint32_t r = 0; r < ranks; r++) {
            void *hidden = in[r].hidden;

            in[r].hidden = out[r].hidden;
            in[r].normed = in[r].hidden;
            out[r].hidden = hidden;
        }
    }
    check(coterie_graph_end(device, &graph));
    return graph;
}

static void counts_print(coterie_dispatcher_t *dispatcher, uint32_t ranks)
{
    for (uint32_t r = 0; r < ranks; r++) {
        coterie_device_counts_t counts;

        check(coterie_dispatcher_check(dispatcher, r, &counts));
        printf("rank %u: %llu rows, %llu + %llu copies, %llu bytes of rows, "
               "%llu in all\n",
               r, (unsigned long long)counts.rows,
               (unsigned long long)counts.copies_dispatch,
               (unsigned long long)(counts.copies_return +
                                    counts.copies_forward),
               (unsigned long long)counts.payload_bytes,
               (unsigned long long)counts.wire_bytes);
    }
}

/* Whether there is such a mode. */
static int mode_read(const char *name)
{
    if (strcmp(name, "forward") == 0)
        mode = COTERIE_MODE_FORWARD;
    return mode == COTERIE_MODE_FORWARD || strcmp(name, "two-phase") == 0;
}

int main(int argc, char **argv)
{
    const uint32_t ranks = argc > 3 ? (uint32_t)atoi(argv[3]) : 4;
    coterie_model_config_t config = {.size = sizeof(config)};
    coterie_dispatcher_options_t options = COTERIE_DISPATCHER_OPTIONS_INIT;
    coterie_device_rows_t in[RANKS_MAX], out[RANKS_MAX];
    coterie_bank_t *banks[RANKS_MAX];
    coterie_model_t *model = NULL;
    coterie_placement_t *placement = NULL;
    coterie_fabric_t *fabric = NULL;
    coterie_dispatcher_t *dispatcher = NULL;
    coterie_graph_t *graph;

    if (argc < 2 || ranks == 0 || ranks > RANKS_MAX ||
        (argc > 4 && !mode_read(argv[4]))) {
        fprintf(stderr,
                "usage: layers MODEL [DEVICE [1-%d [two-phase|forward]]]\n",
                RANKS_MAX);
        return 2;
    }
    check(coterie_model_open(argv[1], &model));
    coterie_model_config(model, &config);
    placement = placement_create(&config, ranks);

    check(coterie_device_open(argc > 2 ? argv[2] : "host", &device));
    check(coterie_fabric_open_local(ranks, device, &fabric));
    options.fabric = fabric;
    options.placement = placement;
    options.hidden = config.hidden;
    options.k = config.k;
    options.max_rows = ROWS;
    options.forward = mode == COTERIE_MODE_FORWARD;
    check(coterie_dispatcher_create(&options, &dispatcher));
    for (uint32_t r = 0; r < ranks; r++) {
        check(coterie_bank_create(model, placement, r, &banks[r]));
        check(coterie_bank_move(banks[r], device, ROWS, config.k));
        check(coterie_dispatcher_register(dispatcher, r, banks[r]));
        rows_create(&config, &in[r], &out[r]);
    }

    graph = layers_capture(dispatcher, config.moe_layers, ranks, in, out);
    for (int i = 0; i < REPLAYS; i++)
        check(coterie_graph_replay(graph));
    counts_print(dispatcher, ranks);

    coterie_graph_destroy(graph);
    coterie_dispatcher_destroy(dispatcher);
    coterie_fabric_close(fabric);
    for (uint32_t r = 0; r < ranks; r++) {
        rows_destroy(&in[r], &out[r]);
        coterie_bank_destroy(banks[r]);
    }
    coterie_device_close(device);
    coterie_placement_destroy(placement);
    coterie_model_close(model);
    return 0;
}
