#include "config.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/draw.h"
#include "tests/gpu_checks.h"
#include "tests/gpu_layers.h"

static layer_t layer_draw(int trial);
static layer_t wide_layer_draw(int trial);
static float *layer_compute(coterie_device_t *device, const layer_t *layer,
                            uint32_t first, uint32_t rows);

static bool sorts_pairs_by_expert(coterie_device_t *device)
{
    bool held = true;

    for (int trial = 0; held && trial < 20; trial++) {
        world_t w = {.device = device};
        const uint32_t rows = draw(300), k = 1 + draw(COTERIE_K_MAX);
        const uint32_t experts = 1 + draw(trial % 2 ? 20 : 1024);
        const size_t count = (size_t)rows * k;
        int32_t *ids = ids_draw(rows * k, experts);
        coterie_gpu_pairs_t p = pairs_make(&w, ids, rows, k, experts,
                                           coterie_gpu_tile(rows));
        uint32_t *first, *pair, at = 0;
        int32_t *place;

        must(device->ops->launched(
            device, "sort",
            device->kernels->sort(device->stream[0], &p)));
        first = download(&w, p.first, (experts + 1) * sizeof(*first));
        pair = download(&w, p.pair, count * sizeof(*pair));
        place = download(&w, p.place, count * sizeof(*place));
        for (uint32_t e = 0; e < experts; e++) {
            held = held && first[e] == at;
            for (uint32_t i = 0; i < count; i++)
                if (ids[i] == (int32_t)e) {
                    held = held && pair[at] == i && place[i] == (int32_t)at;
                    at++;
                }
        }
        held = held && first[experts] == at;
        for (uint32_t i = 0; i < count; i++)
            held = held && (ids[i] >= 0 || place[i] == -1);
        if (!held)
            fprintf(stderr, "sort: %u rows, top-%u of %u\n", rows, k, experts);
        free(place);
        free(pair);
        free(first);
        free(ids);
        world_end(&w);
    }
    return held;
}

static coterie_router_options_t router_draw(void)
{
    coterie_router_options_t o = COTERIE_ROUTER_OPTIONS_INIT;

    o.group_count = 1 << draw(4);
    o.expert_count = o.group_count * (1 + draw(24));
    o.group_topk = 1 + draw(o.group_count);
    o.k = 1 + draw(COTERIE_K_MAX);
    if (o.k > o.group_topk * (o.expert_count / o.group_count))
        o.k = o.group_topk * (o.expert_count / o.group_count);
    o.scoring = draw(2);
    o.norm_topk = draw(2);
    o.scale = 2.5f;
    return o;
}

static bool routes_as_the_processor_does(coterie_device_t *device)
{
    bool held = true;

    for (int trial = 0; held && trial < 20; trial++) {
        world_t w = {.device = device};
        coterie_router_options_t o = router_draw();
        const uint32_t rows = 1 + draw(9), bad = draw(2 * rows);
        const size_t chosen = (size_t)rows * o.k;
        const size_t count = (size_t)rows * o.expert_count;
        float *logits = malloc(count * sizeof(*logits));
        float *bias = malloc(o.expert_count * sizeof(*bias));
        float *want = calloc(chosen, sizeof(*want)), *weights;
        int32_t *want_ids = malloc(chosen * sizeof(*want_ids)), *ids;
        coterie_gpu_router_t r = {.rows = rows};

        for (size_t i = 0; i < count; i++)
            logits[i] = 8 * fraction();
        if (bad < rows)
            logits[bad * o.expert_count + draw(o.expert_count)] = NAN;
        for (uint32_t e = 0; e < o.expert_count; e++)
            bias[e] = fraction();
        memset(want_ids, POISON, chosen * sizeof(*want_ids));
        o.bias = bias;
        for (size_t i = 0; i < rows; i++)
            (void)coterie_router_topk(&o, 1, logits + i * o.expert_count,
                                      want_ids + i * o.k, want + i * o.k);
        o.bias = upload(&w, bias, o.expert_count * sizeof(*bias));
        r.options = o;
        r.logits = upload(&w, logits, count * sizeof(*logits));
        r.ids = room(&w, chosen * sizeof(*r.ids));
        r.weights = room(&w, chosen * sizeof(*r.weights));
        must(device->ops->launched(
            device, "router",
            device->kernels->router(device->stream[0], &r)));
        ids = download(&w, r.ids, chosen * sizeof(*ids));
        weights = download(&w, r.weights, chosen * sizeof(*weights));
        held = same("router: ids", ids, want_ids, chosen * sizeof(*ids)) &&
               near("router: weights", weights, want, chosen, 1e-5f);
        free(weights);
        free(ids);
        free(want_ids);
        free(want);
        free(bias);
        free(logits);
        world_end(&w);
    }
    return held;
}

/* Rounding x and the inner values to bf16 moves each by 2^-9 of itself; over
 * sums of some hundred terms that is well within 1 % of the largest. */
static bool computes_experts_as_the_processor_does(coterie_device_t *device)
{
    coterie_device_t *host = NULL;
    bool held = true;

    must(coterie_device_open("host", &host));
    for (int trial = 0; held && trial < 14; trial++) {
        layer_t layer = layer_draw(trial);
        float *got = layer_compute(device, &layer, 0, layer.rows);
        float *want = layer_compute(host, &layer, 0, layer.rows);

        held = near("experts", got, want,
                    (size_t)layer.rows * layer.shape.hidden, 1e-2f);
        if (!held)
            fprintf(stderr, "dtype %u, activation %u\n", layer.shape.dtype,
                    layer.shape.activation);
        free(want);
        free(got);
        layer_free(&layer);
    }
    coterie_device_close(host);
    return held;
}

/* Where the device has no kernel for wide tiles, of 64 rows. */
static bool computes_many_rows_as_the_processor_does(coterie_device_t *device)
{
    coterie_device_t *host = NULL;
    bool held = true;

    must(coterie_device_open("host", &host));
    for (int trial = 0; held && trial < 6; trial++) {
        layer_t layer = wide_layer_draw(trial);
        const size_t count = (size_t)layer.rows * layer.shape.hidden;
        float *got = layer_compute(device, &layer, 0, layer.rows);
        float *again = layer_compute(device, &layer, 0, layer.rows);
        float *want = layer_compute(host, &layer, 0, layer.rows);

        held = near("many rows", got, want, count, 1e-2f) &&
               same("many rows again", again, got, count * sizeof(*got));
        free(want);
        free(again);
        free(got);
        layer_free(&layer);
    }
    coterie_device_close(host);
    return held;
}

/* But for wide tiles, which are for many rows only. */
static bool gives_a_row_the_same_bits_in_any_batch(coterie_device_t *device)
{
    const bool wide = device->wide;
    bool held = true;

    device->wide = false;

    for (int trial = 0; held && trial < 4; trial++) {
        layer_t layer = layer_draw(trial);
        const size_t row_size = layer.shape.hidden * sizeof(float);
        const uint32_t row = draw(layer.rows);
        float *all = layer_compute(device, &layer, 0, layer.rows);
        float *alone = layer_compute(device, &layer, row, 1);

        held = same("a row alone", alone, all + row * layer.shape.hidden,
                    row_size);
        free(alone);
        free(all);
        layer_free(&layer);
    }
    device->wide = wide;
    return held;
}

static bool grows_an_arena_in_place(coterie_device_t *device)
{
    enum { FIRST = 1 << 20, LATER = 9 << 20, MOST = 16 << 20 };
    world_t w = {.device = device};
    coterie_device_arena_t arena = {0};
    char *data = malloc(FIRST), *back, *begin;
    bool held;

    memset(data, 42, FIRST);
    must(device->ops->arena_reserve(device, MOST, &arena));
    must(device->ops->arena_grow(device, &arena, FIRST));
    begin = arena.data;
    must(device->ops->copy(device, COTERIE_STREAM_COPY, begin, data, FIRST));
    must(device->ops->arena_grow(device, &arena, LATER));
    must(device->ops->order(device, COTERIE_STREAM_COPY,
                            COTERIE_STREAM_COMPUTE));
    must(device->ops->fill(device, COTERIE_STREAM_COMPUTE, begin + FIRST, 7,
                           LATER - FIRST));
    back = download(&w, begin, FIRST + 1);
    held = arena.data == begin && arena.size >= LATER &&
           memcmp(back, data, FIRST) == 0 && back[FIRST] == 7 &&
           device->ops->arena_grow(device, &arena, 2 * (size_t)MOST) ==
               COTERIE_ERR_CAPACITY;
    device->ops->arena_release(device, &arena);
    free(back);
    free(data);
    return held;
}

const gpu_check_t gpu_checks[] = {
    {"sorts_pairs_by_expert", sorts_pairs_by_expert},
    {"routes_as_the_processor_does", routes_as_the_processor_does},
    {"computes_experts_as_the_processor_does",
     computes_experts_as_the_processor_does},
    {"computes_many_rows_as_the_processor_does",
     computes_many_rows_as_the_processor_does},
    {"gives_a_row_the_same_bits_in_any_batch",
     gives_a_row_the_same_bits_in_any_batch},
    {"permutes_rows_to_their_pairs", permutes_rows_to_their_pairs},
    {"computes_odd_shapes_by_a_library", computes_odd_shapes_by_a_library},
    {"grows_an_arena_in_place", grows_an_arena_in_place},
    {"dispatches_as_the_rule_says", dispatches_as_the_rule_says},
    {"dispatches_among_many_experts", dispatches_among_many_experts},
    {"dispatches_where_no_window_is_in_reach",
     dispatches_where_no_window_is_in_reach},
    {"says_that_rows_were_too_many", says_that_rows_were_too_many},
    {"names_the_rank_that_does_not_answer",
     names_the_rank_that_does_not_answer},
    {"replays_a_layer_from_a_graph", replays_a_layer_from_a_graph},
    {"goes_on_without_a_rank", goes_on_without_a_rank},
    {"forwards_to_all_ranks", forwards_to_all_ranks},
    {"forwards_to_predicted_ranks", forwards_to_predicted_ranks},
    {"forwards_where_no_window_is_in_reach",
     forwards_where_no_window_is_in_reach},
    {"forwards_without_a_rank", forwards_without_a_rank},
    {"says_that_ranks_differ_about_a_row",
     says_that_ranks_differ_about_a_row},
    {NULL, NULL}};

static const uint32_t dtypes[] = {
    COTERIE_DTYPE_BF16,       COTERIE_DTYPE_INT8, COTERIE_DTYPE_INT8_GROUP,
    COTERIE_DTYPE_INT4,       COTERIE_DTYPE_FP8,  COTERIE_DTYPE_INT4_ZERO,
    COTERIE_DTYPE_MXFP4};

/* Formats and activations in turns. */
static layer_t layer_draw(int trial)
{
    layer_t l = {.experts = 1 + draw(EXPERTS_MAX), .rows = 1 + draw(80)};

    l.shape = (coterie_ffn_shape_t){
        .hidden = 32 * (1 + draw(8)),
        .ffn = 32 * (1 + draw(6)),
        .dtype = dtypes[trial % (sizeof(dtypes) / sizeof(dtypes[0]))],
        .activation = (uint32_t)trial % 4,
        .alpha = 1.702f,
        .limit = 0.5f};
    if (l.shape.dtype == COTERIE_DTYPE_BF16 ||
        l.shape.dtype == COTERIE_DTYPE_INT8 ||
        l.shape.dtype == COTERIE_DTYPE_FP8) { /* has no groups of 32 */
        l.shape.hidden -= 16 * draw(2);
        l.shape.ffn -= 16 * draw(2);
    }
    l.k = 1 + draw(trial % 4 == 0 ? COTERIE_K_MAX : 4);
    layer_fill(&l);
    return l;
}

/* As many rows as make wide tiles worth it, of any height. */
static layer_t wide_layer_draw(int trial)
{
    layer_t l = {.experts = 1 + draw(3), .k = 1};

    l.rows = l.experts * (64 + draw(100));
    l.shape = (coterie_ffn_shape_t){.hidden = 16 * (1 + draw(24)),
                                    .ffn = 16 * (1 + draw(24)),
                                    .dtype = COTERIE_DTYPE_BF16,
                                    .activation = (uint32_t)trial % 4,
                                    .alpha = 1.702f,
                                    .limit = 0.5f};
    layer_fill(&l);
    return l;
}

/* The weighted sums of `rows` of the layer's rows, [rows, hidden]. */
static float *layer_compute(coterie_device_t *device, const layer_t *l,
                            uint32_t first, uint32_t rows)
{
    world_t w = {.device = device};
    const coterie_gpu_kernels_t *kernels = device->kernels;
    const size_t hidden = l->shape.hidden, pairs = (size_t)rows * l->k;
    const float *x = upload(&w, l->x + first * hidden, rows * hidden * 4);
    const float *weight = upload(&w, l->weight + first * l->k, pairs * 4);
    uint16_t *narrow = room(&w, rows * hidden * sizeof(*narrow));
    coterie_gpu_pairs_t p =
        pairs_make(&w, l->ids + first * l->k, rows, l->k, l->experts,
                   coterie_device_tile(device, &l->shape, rows, l->k,
                                       l->experts));
    coterie_gpu_ffn_t ffn = {.shape = l->shape,
                             .experts = weights_upload(&w, l),
                             .pairs = &p,
                             .x = narrow,
                             .blocks = 1 + draw(6)};
    coterie_gpu_combine_t c = {.rows = rows,
                               .k = l->k,
                               .hidden = l->shape.hidden,
                               .place = p.place,
                               .weight = weight};
    void *stream = device->stream[COTERIE_STREAM_COMPUTE];
    float *y;
    int error;

    ffn.inner = room(&w, coterie_gpu_inner(&l->shape, &p) *
                             sizeof(*ffn.inner));
    c.out = ffn.out = room(&w, pairs * hidden * sizeof(*ffn.out));
    c.base = x;
    c.y = room(&w, rows * hidden * sizeof(*c.y));
    error = kernels->narrow(stream, rows * hidden, x, narrow);
    if (error == 0)
        error = kernels->sort(stream, &p);
    if (error == 0)
        error = kernels->ffn(stream, &ffn);
    if (error == 0)
        error = kernels->combine(stream, &c);
    must(device->ops->launched(device, "experts", error));
    y = download(&w, c.y, rows * hidden * sizeof(*y));
    world_end(&w);
    return y;
}
