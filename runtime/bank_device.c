#include "config.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "kernels/device.h"
#include "runtime/session.h"

/* A bank whose experts are in a device's memory. What a call needs goes over in
 * one copy, and its sums come back in another. */
enum { PIECE_ALIGN = 256 };

/* What goes over, piece by piece; the same offsets on both sides. */
typedef enum piece {
    PIECE_TILES,      /* [tiles] */
    PIECE_TILE_COUNT, /* [1] */
    PIECE_PAIR,       /* [max_rows k]: a pair's row, by place */
    PIECE_PLACE,      /* [max_rows, k]: where a row's pairs are; -1 = none */
    PIECE_WEIGHT,     /* [max_rows, k] f32 */
    PIECE_X,          /* [max_rows, hidden] f32; only what is used goes over */
    PIECE_COUNT
} piece_t;

struct coterie_bank_device {
    coterie_device_t *device;
    uint32_t max_rows, k, slot_count;
    size_t offset[PIECE_COUNT + 1];
    unsigned char *here, *there;
    coterie_expert_weights_t *experts; /* there: [layer, slot] */
    unsigned char *arena;              /* there: their records */
    uint16_t *narrow, *inner;          /* there */
    float *out, *y;                    /* there */
    float *y_here;
};

static coterie_status_t shape_check(const coterie_bank_t *bank);
static void pieces_lay_out(coterie_bank_device_t *d, size_t hidden);
static coterie_status_t buffers_open(coterie_bank_device_t *d,
                                     const coterie_ffn_shape_t *shape);
static coterie_status_t experts_move(coterie_bank_device_t *d,
                                     const coterie_bank_t *bank);
static void weights_move(coterie_expert_weights_t *weights,
                         const unsigned char *from, unsigned char *to);
static void *here(const coterie_bank_device_t *d, piece_t piece);
static void *there(const coterie_bank_device_t *d, piece_t piece);
static void call_write(const coterie_bank_device_t *d,
                       const coterie_expert_rows_t *rows);
static uint32_t tiles_write(const coterie_expert_rows_t *rows, uint32_t size,
                            coterie_gpu_tile_t *tiles);
static coterie_status_t call_run(const coterie_bank_device_t *d,
                                 const coterie_bank_t *bank, uint32_t layer,
                                 const coterie_expert_rows_t *rows);

coterie_status_t coterie_bank_move(coterie_bank_t *bank,
                                   coterie_device_t *device,
                                   uint32_t max_rows, uint32_t k)
{
    coterie_bank_device_t *d;
    coterie_status_t status = shape_check(bank);

    if (status != COTERIE_OK)
        return status;
    d = calloc(1, sizeof(*d));
    if (d == NULL)
        return coterie_fail_memory(sizeof(*d), "a bank's device");
    d->device = device;
    d->max_rows = max_rows;
    d->k = k;
    d->slot_count = bank->slot_count;
    pieces_lay_out(d, bank->shape.hidden);
    status = buffers_open(d, &bank->shape);
    if (status == COTERIE_OK)
        status = experts_move(d, bank);
    if (status != COTERIE_OK) {
        coterie_bank_device_destroy(d);
        return status;
    }
    coterie_arena_destroy(&bank->arena);
    bank->arena = (coterie_arena_t){0};
    bank->device = d;
    return COTERIE_OK;
}

coterie_status_t coterie_bank_device_compute(const coterie_bank_t *bank,
                                             uint32_t layer,
                                             const coterie_expert_rows_t *rows,
                                             const float *x, float *sums)
{
    const coterie_bank_device_t *d = bank->device;
    const size_t count = (size_t)rows->row_count * bank->shape.hidden;
    coterie_status_t status;

    if (rows->row_count > d->max_rows ||
        rows->first[rows->expert_count] > rows->row_count * d->k)
        return coterie_fail(COTERIE_ERR_CAPACITY,
                            "rank %u: %u rows of %u experts; its device has "
                            "room for %u rows of %u experts each",
                            bank->rank, rows->row_count,
                            rows->first[rows->expert_count], d->max_rows,
                            d->k);
    if (rows->row_count == 0)
        return COTERIE_OK;
    memcpy(here(d, PIECE_X), x, count * sizeof(*x));
    call_write(d, rows);
    status = call_run(d, bank, layer, rows);
    for (size_t i = 0; status == COTERIE_OK && i < count; i++)
        sums[i] += d->y_here[i];
    return status;
}

void coterie_bank_device_destroy(coterie_bank_device_t *d)
{
    const coterie_device_ops_t *ops;

    if (d == NULL)
        return;
    ops = d->device->ops;
    ops->release(d->device, d->there);
    ops->release(d->device, d->experts);
    ops->release(d->device, d->arena);
    ops->release(d->device, d->narrow);
    ops->release(d->device, d->inner);
    ops->release(d->device, d->out);
    ops->release(d->device, d->y);
    ops->host_release(d->device, d->here);
    ops->host_release(d->device, d->y_here);
    free(d);
}

static coterie_status_t shape_check(const coterie_bank_t *bank)
{
    const coterie_ffn_shape_t *shape = &bank->shape;

    if (bank->tiers != NULL)
        return coterie_fail(COTERIE_ERR_UNSUPPORTED,
                            "bank: experts in tiers cannot be moved to a "
                            "device; create it without a budget");
    if (shape->dtype == COTERIE_DTYPE_F32 || shape->dtype == COTERIE_DTYPE_F16)
        return coterie_fail(COTERIE_ERR_UNSUPPORTED,
                            "bank: a device computes with bf16 and narrower "
                            "weights; `coterie pack --dtype bf16` makes them");
    if (shape->hidden % 16 != 0 || shape->ffn % 16 != 0)
        return coterie_fail(COTERIE_ERR_UNSUPPORTED,
                            "bank: a device needs hidden and ffn to be "
                            "multiples of 16, not %u and %u",
                            shape->hidden, shape->ffn);
    return COTERIE_OK;
}

static void pieces_lay_out(coterie_bank_device_t *d, size_t hidden)
{
    const size_t pairs = (size_t)d->max_rows * d->k;
    const size_t size[PIECE_COUNT] = {
        [PIECE_TILES] = pairs * sizeof(coterie_gpu_tile_t),
        [PIECE_TILE_COUNT] = sizeof(uint32_t),
        [PIECE_PAIR] = pairs * sizeof(uint32_t),
        [PIECE_PLACE] = pairs * sizeof(int32_t),
        [PIECE_WEIGHT] = pairs * sizeof(float),
        [PIECE_X] = d->max_rows * hidden * sizeof(float)};

    for (int i = 0; i < PIECE_COUNT; i++)
        d->offset[i + 1] = (d->offset[i] + size[i] + PIECE_ALIGN - 1) /
                           PIECE_ALIGN * PIECE_ALIGN;
}

static coterie_status_t buffers_open(coterie_bank_device_t *d,
                                     const coterie_ffn_shape_t *shape)
{
    const coterie_device_ops_t *ops = d->device->ops;
    const size_t pairs = (size_t)d->max_rows * d->k;
    const size_t rows = (size_t)d->max_rows * shape->hidden;
    const struct {
        size_t size;
        void *to;
    } there[] = {{d->offset[PIECE_COUNT], &d->there},
                 {rows * sizeof(*d->narrow), &d->narrow},
                 {pairs * shape->ffn * sizeof(*d->inner), &d->inner},
                 {pairs * shape->hidden * sizeof(*d->out), &d->out},
                 {rows * sizeof(*d->y), &d->y}};
    void *memory = NULL;
    coterie_status_t status =
        ops->host_allocate(d->device, d->offset[PIECE_COUNT], &memory);

    d->here = memory;
    if (status == COTERIE_OK)
        status = ops->host_allocate(d->device, rows * sizeof(float), &memory);
    if (status == COTERIE_OK)
        d->y_here = memory;
    for (size_t i = 0;
         status == COTERIE_OK && i < sizeof(there) / sizeof(there[0]); i++) {
        status = ops->allocate(d->device, there[i].size, &memory);
        if (status == COTERIE_OK)
            memcpy(there[i].to, &memory, sizeof(memory));
    }
    return status;
}

/* Records go over as they lie; the places in them move along. */
static coterie_status_t experts_move(coterie_bank_device_t *d,
                                     const coterie_bank_t *bank)
{
    const coterie_device_ops_t *ops = d->device->ops;
    const size_t slots = (size_t)bank->slot_count * bank->layer_count;
    const size_t size = slots * bank->format.record_size;
    const size_t table_size = slots * sizeof(*d->experts);
    coterie_expert_weights_t *table = malloc(table_size + 1);
    void *memory = NULL;
    coterie_status_t status = COTERIE_OK;

    if (table == NULL)
        return coterie_fail_memory(table_size, "a bank's device");
    status = ops->allocate(d->device, size, &memory);
    d->arena = memory;
    if (status == COTERIE_OK)
        status = ops->allocate(d->device, table_size, &memory);
    if (status == COTERIE_OK)
        d->experts = memory;
    for (size_t i = 0; status == COTERIE_OK && i < slots; i++) {
        table[i] = bank->experts[i];
        weights_move(&table[i], bank->arena.data, d->arena);
    }
    if (status == COTERIE_OK)
        status = ops->copy(d->device, COTERIE_STREAM_COMPUTE, d->arena,
                           bank->arena.data, size);
    if (status == COTERIE_OK)
        status = ops->copy(d->device, COTERIE_STREAM_COMPUTE, d->experts,
                           table, table_size);
    if (status == COTERIE_OK)
        status = ops->wait(d->device, COTERIE_STREAM_COMPUTE);
    free(table);
    return status;
}

static void weights_move(coterie_expert_weights_t *weights,
                         const unsigned char *from, unsigned char *to)
{
    const void **all[] = {
        &weights->gate,       &weights->up,       &weights->down,
        &weights->gate_scale, &weights->up_scale, &weights->down_scale,
        (const void **)&weights->gate_bias, (const void **)&weights->up_bias,
        (const void **)&weights->down_bias};

    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
        if (*all[i] != NULL)
            *all[i] = to + ((const unsigned char *)*all[i] - from);
}

static void *here(const coterie_bank_device_t *d, piece_t piece)
{
    return d->here + d->offset[piece];
}

static void *there(const coterie_bank_device_t *d, piece_t piece)
{
    return d->there + d->offset[piece];
}

/* Experts ascend, so a row's pairs get their places in the order in which the
 * processor would add them. */
static void call_write(const coterie_bank_device_t *d,
                       const coterie_expert_rows_t *rows)
{
    const uint32_t pairs = rows->first[rows->expert_count];
    int32_t *place = here(d, PIECE_PLACE);
    float *weight = here(d, PIECE_WEIGHT);
    uint32_t *count = here(d, PIECE_TILE_COUNT);

    memcpy(here(d, PIECE_PAIR), rows->row, pairs * sizeof(*rows->row));
    for (size_t i = 0; i < (size_t)rows->row_count * d->k; i++)
        place[i] = -1;
    for (uint32_t i = 0; i < pairs; i++) {
        size_t at = (size_t)rows->row[i] * d->k;

        while (place[at] >= 0)
            at++;
        place[at] = (int32_t)i;
        weight[at] = rows->weight[i];
    }
    *count = tiles_write(rows, coterie_gpu_tile(rows->row_count),
                         here(d, PIECE_TILES));
}

static uint32_t tiles_write(const coterie_expert_rows_t *rows, uint32_t size,
                            coterie_gpu_tile_t *tiles)
{
    uint32_t count = 0;

    for (uint32_t e = 0; e < rows->expert_count; e++)
        for (uint32_t i = rows->first[e]; i < rows->first[e + 1]; i += size) {
            const uint32_t left = rows->first[e + 1] - i;

            tiles[count++] = (coterie_gpu_tile_t){
                e, i, left < size ? left : size};
        }
    return count;
}

static coterie_status_t call_run(const coterie_bank_device_t *d,
                                 const coterie_bank_t *bank, uint32_t layer,
                                 const coterie_expert_rows_t *rows)
{
    const coterie_device_ops_t *ops = d->device->ops;
    const coterie_gpu_kernels_t *kernels = d->device->kernels;
    void *stream = d->device->stream[COTERIE_STREAM_COMPUTE];
    const size_t count = (size_t)rows->row_count * bank->shape.hidden;
    const coterie_gpu_pairs_t pairs = {
        .rows = rows->first[rows->expert_count],
        .k = 1, /* a pair's row is given as it is */
        .expert_count = rows->expert_count,
        .tile = coterie_gpu_tile(rows->row_count),
        .pair = there(d, PIECE_PAIR),
        .tiles = there(d, PIECE_TILES),
        .tile_count = there(d, PIECE_TILE_COUNT)};
    const coterie_gpu_ffn_t ffn = {
        bank->shape, d->experts + (size_t)layer * d->slot_count,
        &pairs,      d->narrow,
        d->inner,    d->out,
        d->device->blocks};
    const coterie_gpu_combine_t combine = {
        rows->row_count,          d->k,   bank->shape.hidden,
        there(d, PIECE_PLACE),    there(d, PIECE_WEIGHT),
        d->out,                   NULL,   d->y};
    coterie_status_t status =
        ops->copy(d->device, COTERIE_STREAM_COMPUTE, d->there, d->here,
                  d->offset[PIECE_X] + count * sizeof(float));
    int error = 0;

    if (status != COTERIE_OK)
        return status;
    error = kernels->narrow(stream, count, there(d, PIECE_X), d->narrow);
    if (error == 0)
        error = kernels->ffn(stream, &ffn);
    if (error == 0)
        error = kernels->combine(stream, &combine);
    status = ops->launched(d->device, "experts", error);
    if (status == COTERIE_OK)
        status = ops->copy(d->device, COTERIE_STREAM_COMPUTE, d->y_here, d->y,
                           count * sizeof(*d->y));
    if (status == COTERIE_OK)
        status = ops->wait(d->device, COTERIE_STREAM_COMPUTE);
    return status;
}
