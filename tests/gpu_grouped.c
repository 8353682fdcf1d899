/* Experts by products of a device's own library, and what goes around them. */
#include "config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/grouped.h"
#include "tests/draw.h"
#include "tests/gpu_checks.h"
#include "tests/gpu_layers.h"

static layer_t odd_layer_draw(int trial);
static float *layer_want(const layer_t *l);
static float *layer_group(coterie_device_t *device, const layer_t *l);

/* By whatever library the device has for products, of shapes that our kernels
 * refuse; values are rounded to bf16 once more than by them. */
bool computes_odd_shapes_by_a_library(coterie_device_t *device)
{
    const coterie_products_t none = {.count = 0};
    bool held = true;

    if (device->ops->products(device, &none) != COTERIE_OK) {
        fprintf(stderr, "skipped: %s\n", coterie_last_error());
        return true;
    }
    for (int trial = 0; held && trial < 8; trial++) {
        layer_t l = odd_layer_draw(trial);
        const size_t count = (size_t)l.rows * l.shape.hidden;
        float *got = layer_group(device, &l);
        float *again = layer_group(device, &l);
        float *want = layer_want(&l);

        held = near("odd shapes", got, want, count, 2e-2f) &&
               same("odd shapes again", again, got, count * sizeof(*got));
        if (!held)
            fprintf(stderr, "hidden %u, ffn %u, top-%u of %u\n",
                    l.shape.hidden, l.shape.ffn, l.k, l.experts);
        free(want);
        free(again);
        free(got);
        layer_free(&l);
    }
    return held;
}

bool permutes_rows_to_their_pairs(coterie_device_t *device)
{
    bool held = true;

    for (int trial = 0; held && trial < 20; trial++) {
        world_t w = {.device = device};
        const uint32_t rows = 1 + draw(70), k = 1 + draw(COTERIE_K_MAX);
        const uint32_t hidden = 4 * (1 + draw(600)), experts = 1 + draw(20);
        const uint32_t stride = (hidden + 7) / 8 * 8;
        const size_t pairs = (size_t)rows * k, row_size = hidden * 2;
        const size_t values = (size_t)rows * hidden;
        int32_t *ids = ids_draw(rows * k, experts), *place;
        coterie_gpu_pairs_t p = pairs_make(&w, ids, rows, k, experts, 8);
        uint16_t *x = malloc(values * sizeof(*x)), *out;
        coterie_gpu_permute_t permute = {rows, k, hidden, stride, p.place,
                                         NULL, NULL};

        for (size_t i = 0; i < values; i++)
            x[i] = (uint16_t)draw(1 << 16);
        permute.x = upload(&w, x, values * sizeof(*x));
        permute.out = room(&w, pairs * stride * sizeof(*out));
        must(device->ops->launched(
            device, "sort", device->kernels->sort(device->stream[0], &p)));
        must(device->ops->launched(
            device, "permute",
            device->kernels->permute(device->stream[0], &permute)));
        place = download(&w, p.place, pairs * sizeof(*place));
        out = download(&w, permute.out, pairs * stride * sizeof(*out));
        for (size_t i = 0; held && i < pairs; i++) {
            const uint16_t *row = out + (size_t)place[i] * stride;

            if (place[i] < 0)
                continue;
            held = same("permute", row, x + i / k * hidden, row_size);
            for (uint32_t h = hidden; h < stride; h++)
                held = held && row[h] == 0;
        }
        free(out);
        free(place);
        free(x);
        free(ids);
        world_end(&w);
    }
    return held;
}

/* Of which one or both sizes are no multiples of 16; more experts than have
 * their matrices in rows at a time. */
static layer_t odd_layer_draw(int trial)
{
    layer_t l = {.experts = 1 + draw(EXPERTS_MAX), .rows = 1 + draw(50)};

    l.shape = (coterie_ffn_shape_t){.hidden = 4 * (1 + draw(40)),
                                    .ffn = 1 + draw(100),
                                    .dtype = COTERIE_DTYPE_BF16,
                                    .activation = (uint32_t)trial % 4,
                                    .alpha = 1.702f,
                                    .limit = 0.5f};
    l.k = 1 + draw(4);
    layer_fill(&l);
    return l;
}

/* What the processor makes of all rows, with x rounded as devices have it. */
static float *layer_want(const layer_t *l)
{
    const size_t pairs = (size_t)l->rows * l->k, hidden = l->shape.hidden;
    coterie_ffn_shape_t shape = l->shape;
    uint32_t first[EXPERTS_MAX + 1] = {0}, *row = malloc(pairs * 4 + 4);
    float *weight = malloc(pairs * 4 + 4), *y = malloc(l->rows * hidden * 4);
    void *scratch;

    shape.compute = COTERIE_COMPUTE_BF16;
    scratch = malloc(coterie_expert_ffn_scratch(&shape));
    for (uint32_t e = 0; e < l->experts; e++) {
        first[e + 1] = first[e];
        for (size_t i = 0; i < pairs; i++)
            if (l->ids[i] == (int32_t)e) {
                row[first[e + 1]] = (uint32_t)(i / l->k);
                weight[first[e + 1]++] = l->weight[i];
            }
    }
    memcpy(y, l->x, l->rows * hidden * sizeof(*y));
    coterie_expert_ffn(
        &shape, l->weights,
        &(coterie_expert_rows_t){l->experts, l->rows, first, row, weight},
        l->x, y, scratch);
    free(scratch);
    free(weight);
    free(row);
    return y;
}

/* The same by products of the device's library. */
static float *layer_group(coterie_device_t *device, const layer_t *l)
{
    world_t w = {.device = device};
    const size_t hidden = l->shape.hidden, pairs = (size_t)l->rows * l->k;
    const size_t values = l->rows * hidden;
    const float *x = upload(&w, l->x, values * 4);
    uint16_t *narrow = room(&w, values * sizeof(*narrow));
    coterie_gpu_pairs_t p =
        pairs_make(&w, l->ids, l->rows, l->k, l->experts, 8);
    const coterie_grouped_options_t options = {
        l->shape, (uint32_t)pairs, l->experts, false};
    coterie_grouped_t *grouped = NULL;
    coterie_grouped_call_t call = {.experts_there = weights_upload(&w, l)};
    coterie_gpu_tile_t tiles[EXPERTS_MAX] = {{0}};
    coterie_gpu_combine_t c = {.rows = l->rows,
                               .k = l->k,
                               .hidden = l->shape.hidden,
                               .place = p.place,
                               .weight = upload(&w, l->weight, pairs * 4),
                               .base = x};
    void *stream = device->stream[COTERIE_STREAM_COMPUTE];
    uint32_t *first;
    float *y;

    must(coterie_grouped_open(device, &options, &grouped));
    must(device->ops->launched(
        device, "sort",
        device->kernels->narrow(stream, values, x, narrow) +
            device->kernels->sort(stream, &p)));
    first = download(&w, p.first, (l->experts + 1) * sizeof(*first));
    for (uint32_t e = 0; e < l->experts; e++)
        if (first[e + 1] > first[e])
            tiles[call.tile_count++] =
                (coterie_gpu_tile_t){e, first[e], first[e + 1] - first[e]};
    call.tiles = tiles;
    call.tiles_there = upload(&w, tiles, sizeof(tiles));
    call.experts = download(&w, call.experts_there,
                            l->experts * sizeof(*call.experts));
    c.out = call.out = room(&w, pairs * hidden * sizeof(float));
    c.y = room(&w, values * sizeof(float));
    must(coterie_grouped_rows(
        grouped, (coterie_gpu_permute_t){.rows = l->rows,
                                         .k = l->k,
                                         .hidden = l->shape.hidden,
                                         .place = p.place,
                                         .x = narrow}));
    must(coterie_grouped_ffn(grouped, &call));
    must(device->ops->launched(device, "combine",
                               device->kernels->combine(stream, &c)));
    y = download(&w, c.y, values * sizeof(*y));
    free((void *)call.experts);
    free(first);
    coterie_grouped_close(grouped);
    world_end(&w);
    return y;
}
