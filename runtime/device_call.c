#include "config.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "runtime/device_call.h"

enum { PIECE_ALIGN = 256 };

static void pieces_lay_out(coterie_device_call_t *call);
static coterie_status_t buffers_open(coterie_device_call_t *call);
static size_t inner_size(const coterie_device_call_t *call);
static void pairs_write(const coterie_device_call_t *call,
                        const coterie_expert_rows_t *rows);
static uint32_t tile_of(const coterie_device_call_t *call);
static void tiles_write(const coterie_device_call_t *call,
                        const coterie_expert_rows_t *rows,
                        const coterie_call_groups_t *groups);
static uint32_t expert_tiles(const coterie_device_call_t *call,
                             const coterie_expert_rows_t *rows,
                             uint32_t expert, coterie_gpu_tile_t *tiles);
static coterie_status_t grouped_open(coterie_device_call_t *call);
static bool is_ours(const coterie_ffn_shape_t *shape);
static coterie_status_t ffn_grouped(const coterie_device_call_t *call,
                                    uint32_t group,
                                    coterie_grouped_call_t experts);
static void *here(const coterie_device_call_t *call,
                  coterie_call_piece_t piece);
static void *there(const coterie_device_call_t *call,
                   coterie_call_piece_t piece);
static void *stream_of(const coterie_device_call_t *call);

coterie_status_t coterie_device_call_shape(coterie_device_t *device,
                                           const coterie_ffn_shape_t *shape)
{
    if (shape->dtype == COTERIE_DTYPE_F32 || shape->dtype == COTERIE_DTYPE_F16)
        return coterie_fail(COTERIE_ERR_UNSUPPORTED,
                            "bank: a device computes with bf16 and narrower "
                            "weights; `coterie pack --dtype bf16` makes them");
    return is_ours(shape) ? COTERIE_OK : coterie_grouped_check(device, shape);
}

coterie_status_t coterie_device_call_open(coterie_device_call_t *call)
{
    coterie_status_t status;

    pieces_lay_out(call);
    call->tile_first = calloc(call->experts + 1, sizeof(*call->tile_first));
    if (call->tile_first == NULL)
        return coterie_fail_memory(call->experts, "a device's calls");
    status = buffers_open(call);
    if (status == COTERIE_OK && !is_ours(&call->shape))
        status = grouped_open(call);
    return status;
}

void coterie_device_call_close(coterie_device_call_t *call)
{
    coterie_device_t *d = call->device;

    if (d == NULL)
        return;
    coterie_grouped_close(call->grouped);
    d->ops->release(d, call->there);
    d->ops->release(d, call->narrow);
    d->ops->release(d, call->inner);
    d->ops->release(d, call->out);
    d->ops->release(d, call->y);
    d->ops->host_release(d, call->here);
    d->ops->host_release(d, call->y_here);
    free(call->tile_first);
    *call = (coterie_device_call_t){0};
}

coterie_status_t coterie_device_call_check(const coterie_device_call_t *call,
                                           const coterie_expert_rows_t *rows)
{
    if (rows->row_count <= call->max_rows &&
        rows->first[rows->expert_count] - rows->first[0] <=
            rows->row_count * call->k)
        return COTERIE_OK;
    return coterie_fail(COTERIE_ERR_CAPACITY,
                        "%u rows of %u experts; the device has room for %u "
                        "rows of %u experts each",
                        rows->row_count,
                        rows->first[rows->expert_count] - rows->first[0],
                        call->max_rows, call->k);
}

coterie_status_t coterie_device_call_begin(coterie_device_call_t *call,
                                           const coterie_expert_rows_t *rows,
                                           const float *x,
                                           const coterie_call_groups_t *groups)
{
    coterie_device_t *d = call->device;
    const size_t count = (size_t)rows->row_count * call->shape.hidden;
    size_t size = call->offset[COTERIE_CALL_X];
    coterie_status_t status;

    assert(rows->expert_count <= call->experts);
    call->row_count = rows->row_count;
    call->pair_count = rows->first[rows->expert_count] - rows->first[0];
    call->tile = tile_of(call);
    pairs_write(call, rows);
    tiles_write(call, rows, groups);
    if (x != NULL) {
        memcpy(here(call, COTERIE_CALL_X), x, count * sizeof(*x));
        size += count * sizeof(*x);
    }
    status = d->ops->copy(d, COTERIE_STREAM_COMPUTE, call->there, call->here,
                          size);
    if (status == COTERIE_OK && x != NULL)
        status = d->ops->launched(
            d, "narrow",
            d->kernels->narrow(stream_of(call), count,
                               there(call, COTERIE_CALL_X), call->narrow));
    if (status == COTERIE_OK && call->grouped != NULL)
        status = coterie_grouped_rows(
            call->grouped,
            (coterie_gpu_permute_t){.rows = call->row_count,
                                    .k = call->k,
                                    .hidden = call->shape.hidden,
                                    .place = there(call, COTERIE_CALL_PLACE),
                                    .x = call->narrow});
    return status;
}

coterie_expert_weights_t *coterie_device_call_table(
    const coterie_device_call_t *call)
{
    return here(call, COTERIE_CALL_EXPERTS);
}

coterie_status_t coterie_device_call_ffn(
    const coterie_device_call_t *call, uint32_t group,
    const coterie_expert_weights_t *experts,
    const coterie_expert_weights_t *experts_here)
{
    coterie_device_t *d = call->device;
    coterie_gpu_tile_t *tiles = there(call, COTERIE_CALL_TILES);
    uint32_t *counts = there(call, COTERIE_CALL_TILE_COUNTS);
    const coterie_gpu_pairs_t pairs = {
        .rows = call->pair_count,
        .k = 1, /* a pair's row is given as it is */
        .expert_count = call->experts,
        .tile = call->tile,
        .pair = there(call, COTERIE_CALL_PAIR),
        .tiles = tiles + call->tile_first[group],
        .tile_count = counts + group};
    const coterie_gpu_ffn_t ffn = {
        .shape = call->shape,
        .experts = experts != NULL ? experts
                                   : there(call, COTERIE_CALL_EXPERTS),
        .pairs = &pairs,
        .x = call->narrow,
        .inner = call->inner,
        .out = call->out,
        .blocks = d->blocks};
    coterie_status_t status;

    d->ops->range_begin(d, "experts");
    if (call->grouped != NULL)
        status = ffn_grouped(
            call, group,
            (coterie_grouped_call_t){
                .experts = experts_here != NULL
                               ? experts_here
                               : coterie_device_call_table(call),
                .experts_there = ffn.experts,
                .tiles_there = pairs.tiles});
    else
        status = d->ops->launched(d, "experts",
                                  d->kernels->ffn(stream_of(call), &ffn));
    d->ops->range_end(d);
    return status;
}

coterie_status_t coterie_device_call_put(const coterie_device_call_t *call,
                                         uint32_t place, uint32_t count,
                                         const float *outputs)
{
    const size_t hidden = call->shape.hidden;

    return call->device->ops->copy(call->device, COTERIE_STREAM_COMPUTE,
                                   call->out + place * hidden, outputs,
                                   count * hidden * sizeof(*outputs));
}

coterie_status_t coterie_device_call_add(const coterie_device_call_t *call,
                                         bool first)
{
    coterie_device_t *d = call->device;
    const coterie_gpu_combine_t combine = {
        .rows = call->row_count,
        .k = call->k,
        .hidden = call->shape.hidden,
        .place = there(call, COTERIE_CALL_PLACE),
        .weight = there(call, COTERIE_CALL_WEIGHT),
        .out = call->out,
        .base = first ? NULL : call->y,
        .y = call->y};

    return d->ops->launched(d, "combine",
                            d->kernels->combine(stream_of(call), &combine));
}

coterie_status_t coterie_device_call_finish(const coterie_device_call_t *call,
                                            float *sums)
{
    coterie_device_t *d = call->device;
    const size_t count = (size_t)call->row_count * call->shape.hidden;
    coterie_status_t status;

    d->ops->range_begin(d, "sums");
    status = d->ops->copy(d, COTERIE_STREAM_COMPUTE, call->y_here, call->y,
                          count * sizeof(*call->y));
    if (status == COTERIE_OK)
        status = d->ops->wait(d, COTERIE_STREAM_COMPUTE);
    d->ops->range_end(d);
    for (size_t i = 0; status == COTERIE_OK && i < count; i++)
        sums[i] += call->y_here[i];
    return status;
}

static void pieces_lay_out(coterie_device_call_t *call)
{
    const size_t pairs = (size_t)call->max_rows * call->k;
    const size_t size[COTERIE_CALL_PIECES] = {
        [COTERIE_CALL_EXPERTS] =
            call->table * sizeof(coterie_expert_weights_t),
        [COTERIE_CALL_TILES] = pairs * sizeof(coterie_gpu_tile_t),
        [COTERIE_CALL_TILE_COUNTS] = (call->experts + 1) * sizeof(uint32_t),
        [COTERIE_CALL_PAIR] = pairs * sizeof(uint32_t),
        [COTERIE_CALL_PLACE] = pairs * sizeof(int32_t),
        [COTERIE_CALL_WEIGHT] = pairs * sizeof(float),
        [COTERIE_CALL_X] =
            (size_t)call->max_rows * call->shape.hidden * sizeof(float)};

    for (int i = 0; i < COTERIE_CALL_PIECES; i++)
        call->offset[i + 1] =
            (call->offset[i] + size[i] + PIECE_ALIGN - 1) / PIECE_ALIGN *
            PIECE_ALIGN;
}

static coterie_status_t buffers_open(coterie_device_call_t *call)
{
    coterie_device_t *d = call->device;
    const coterie_ffn_shape_t *shape = &call->shape;
    const size_t pairs = (size_t)call->max_rows * call->k;
    const size_t rows = (size_t)call->max_rows * shape->hidden;
    const struct {
        size_t size;
        void *to;
    } there_too[] = {{call->offset[COTERIE_CALL_PIECES], &call->there},
                     {rows * sizeof(*call->narrow), &call->narrow},
                     {inner_size(call), &call->inner},
                     {pairs * shape->hidden * sizeof(*call->out), &call->out},
                     {rows * sizeof(*call->y), &call->y}};
    const size_t count = sizeof(there_too) / sizeof(there_too[0]);
    void *memory = NULL;
    coterie_status_t status =
        d->ops->host_allocate(d, call->offset[COTERIE_CALL_PIECES], &memory);

    call->here = memory;
    if (status == COTERIE_OK)
        status = d->ops->host_allocate(d, rows * sizeof(float), &memory);
    if (status == COTERIE_OK)
        call->y_here = memory;
    for (size_t i = 0; status == COTERIE_OK && i < count; i++) {
        status = d->ops->allocate(d, there_too[i].size, &memory);
        if (status == COTERIE_OK)
            memcpy(there_too[i].to, &memory, sizeof(memory));
    }
    return status;
}

/* Of the greatest call, whatever its tiles. */
static size_t inner_size(const coterie_device_call_t *call)
{
    const coterie_gpu_pairs_t pairs = {.rows = call->max_rows,
                                       .k = call->k,
                                       .tile = COTERIE_GPU_TILE_WIDE};

    return coterie_gpu_inner(&call->shape, &pairs) * sizeof(*call->inner);
}

/* Experts ascend, so a row's pairs get their places in the order in which the
 * processor would add them. */
static void pairs_write(const coterie_device_call_t *call,
                        const coterie_expert_rows_t *rows)
{
    const uint32_t first = rows->first[0];
    int32_t *place = here(call, COTERIE_CALL_PLACE);
    float *weight = here(call, COTERIE_CALL_WEIGHT);

    memcpy(here(call, COTERIE_CALL_PAIR), rows->row + first,
           call->pair_count * sizeof(*rows->row));
    for (size_t i = 0; i < (size_t)rows->row_count * call->k; i++)
        place[i] = -1;
    for (uint32_t i = 0; i < call->pair_count; i++) {
        size_t at = (size_t)rows->row[first + i] * call->k;

        while (place[at] >= 0)
            at++;
        place[at] = (int32_t)i;
        weight[at] = rows->weight[first + i];
    }
}

/* A library takes all pairs of an expert at once. */
static uint32_t tile_of(const coterie_device_call_t *call)
{
    const uint32_t each =
        call->row_count > 0 ? call->pair_count / call->row_count : 0;

    if (call->grouped != NULL)
        return call->pair_count > 0 ? call->pair_count : 1;
    return coterie_device_tile(call->device, &call->shape, call->row_count,
                               each, call->experts);
}

static void tiles_write(const coterie_device_call_t *call,
                        const coterie_expert_rows_t *rows,
                        const coterie_call_groups_t *groups)
{
    coterie_gpu_tile_t *tiles = here(call, COTERIE_CALL_TILES);
    uint32_t *counts = here(call, COTERIE_CALL_TILE_COUNTS), at = 0;

    for (uint32_t g = 0; g < groups->count; g++) {
        call->tile_first[g] = at;
        for (uint32_t i = groups->first[g]; i < groups->first[g + 1]; i++)
            at += expert_tiles(call, rows, groups->expert[i], tiles + at);
        counts[g] = at - call->tile_first[g];
    }
}

/* @return how many */
static uint32_t expert_tiles(const coterie_device_call_t *call,
                             const coterie_expert_rows_t *rows,
                             uint32_t expert, coterie_gpu_tile_t *tiles)
{
    const uint32_t end = rows->first[expert + 1];
    const uint32_t step =
        coterie_gpu_tile_step(end - rows->first[expert], call->tile);
    uint32_t count = 0;

    for (uint32_t i = rows->first[expert]; i < end; i += step)
        tiles[count++] = (coterie_gpu_tile_t){
            expert, i - rows->first[0], end - i < step ? end - i : step};
    return count;
}

static coterie_status_t grouped_open(coterie_device_call_t *call)
{
    const coterie_grouped_options_t options = {
        .shape = call->shape,
        .pairs = call->max_rows * call->k,
        .experts = call->experts};

    return coterie_grouped_open(call->device, &options, &call->grouped);
}

/* Whether our kernels compute it. */
static bool is_ours(const coterie_ffn_shape_t *shape)
{
    return shape->hidden % 16 == 0 && shape->ffn % 16 == 0;
}

static coterie_status_t ffn_grouped(const coterie_device_call_t *call,
                                    uint32_t group,
                                    coterie_grouped_call_t experts)
{
    const coterie_gpu_tile_t *tiles = here(call, COTERIE_CALL_TILES);
    const uint32_t *counts = here(call, COTERIE_CALL_TILE_COUNTS);

    experts.tiles = tiles + call->tile_first[group];
    experts.tile_count = counts[group];
    experts.out = call->out;
    return coterie_grouped_ffn(call->grouped, &experts);
}

static void *here(const coterie_device_call_t *call,
                  coterie_call_piece_t piece)
{
    return call->here + call->offset[piece];
}

static void *there(const coterie_device_call_t *call,
                   coterie_call_piece_t piece)
{
    return call->there + call->offset[piece];
}

static void *stream_of(const coterie_device_call_t *call)
{
    return call->device->stream[COTERIE_STREAM_COMPUTE];
}
