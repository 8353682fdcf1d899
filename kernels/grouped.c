#include "config.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "kernels/grouped.h"

enum {
    UNPACKED = 8, /* experts whose matrices are in rows at a time */
    EACH = 9,     /* addresses: of gate, up and down, their x and y */
    CALLS = 4     /* whose addresses are kept before the host waits */
};

struct coterie_grouped {
    coterie_device_t *device;
    coterie_grouped_options_t options;
    uint32_t hidden, ffn; /* of rows, in elements: multiples of 8 */
    uint16_t *matrices;   /* there: [UNPACKED], unless they are plain */
    uint16_t *rows;       /* there: [pairs, hidden]: x, and later y */
    uint16_t *gate, *up;  /* there: [pairs, ffn] */
    const void **here, **there; /* [address_count]: used in turns */
    size_t address_count, address_next;
    uint32_t *counts; /* [experts] */
};

/* The addresses of some products, the same on both sides. */
typedef struct addresses {
    const void **a, **x, **y;
} addresses_t;

static coterie_status_t buffers_open(coterie_grouped_t *g);
static coterie_status_t batch_compute(coterie_grouped_t *g,
                                      const coterie_grouped_call_t *call);
static coterie_status_t matrices_unpack(const coterie_grouped_t *g,
                                        const coterie_grouped_call_t *call);
static coterie_status_t matrix_unpack(const coterie_grouped_t *g,
                                      coterie_gpu_unpack_t unpack);
static coterie_status_t addresses_write(coterie_grouped_t *g,
                                        const coterie_grouped_call_t *call,
                                        size_t *at_p);
static uint32_t each_of(const coterie_grouped_call_t *call);
static void expert_address(const coterie_grouped_t *g,
                           const coterie_grouped_call_t *call, uint32_t i,
                           size_t at);
static coterie_expert_weights_t matrices_of(const coterie_grouped_t *g,
                                            const coterie_grouped_call_t *call,
                                            uint32_t i);
static addresses_t addresses_of(const void **all, uint32_t products);
static coterie_status_t products_queue(const coterie_grouped_t *g,
                                       const coterie_grouped_call_t *call,
                                       size_t at);
static uint32_t whole(uint32_t elements);

coterie_status_t coterie_grouped_check(coterie_device_t *device,
                                       const coterie_ffn_shape_t *shape)
{
    const coterie_products_t none = {.count = 0};

    if (shape->dtype != COTERIE_DTYPE_BF16 || shape->hidden % 4 != 0)
        return coterie_fail(COTERIE_ERR_UNSUPPORTED,
                            "a device needs hidden and ffn to be multiples of "
                            "16, not %u and %u; or, with bf16, hidden one of 4",
                            shape->hidden, shape->ffn);
    return device->ops->products(device, &none);
}

coterie_status_t coterie_grouped_open(coterie_device_t *device,
                                      const coterie_grouped_options_t *options,
                                      coterie_grouped_t **grouped_p)
{
    coterie_grouped_t *g = calloc(1, sizeof(*g));
    coterie_status_t status;

    if (g == NULL)
        return coterie_fail_memory(sizeof(*g), "products of a library");
    g->device = device;
    g->options = *options;
    g->hidden = whole(options->shape.hidden);
    g->ffn = whole(options->shape.ffn);
    g->address_count = (size_t)CALLS * EACH * (options->experts + 1);
    status = buffers_open(g);
    if (status == COTERIE_OK)
        *grouped_p = g;
    else
        coterie_grouped_close(g);
    return status;
}

coterie_status_t coterie_grouped_rows(coterie_grouped_t *g,
                                      coterie_gpu_permute_t permute)
{
    coterie_device_t *d = g->device;

    permute.stride = g->hidden;
    permute.out = g->rows;
    return d->ops->launched(
        d, "permute",
        d->kernels->permute(d->stream[COTERIE_STREAM_COMPUTE], &permute));
}

/* A batch after the other, since all matrices in rows would be all weights once
 * more. */
coterie_status_t coterie_grouped_ffn(coterie_grouped_t *g,
                                     const coterie_grouped_call_t *call)
{
    const uint32_t most = g->options.plain ? g->options.experts : UNPACKED;
    coterie_status_t status = COTERIE_OK;

    for (uint32_t i = 0; status == COTERIE_OK && i < call->tile_count;
         i += most) {
        const uint32_t left = call->tile_count - i;
        coterie_grouped_call_t batch = *call;

        batch.tiles += i;
        batch.tiles_there += i;
        batch.tile_count = left < most ? left : most;
        status = batch_compute(g, &batch);
    }
    return status;
}

void coterie_grouped_close(coterie_grouped_t *g)
{
    coterie_device_t *d;

    if (g == NULL)
        return;
    d = g->device;
    d->ops->release(d, g->matrices);
    d->ops->release(d, g->rows);
    d->ops->release(d, g->gate);
    d->ops->release(d, g->up);
    d->ops->release(d, g->there);
    d->ops->host_release(d, g->here);
    free(g->counts);
    free(g);
}

static coterie_status_t buffers_open(coterie_grouped_t *g)
{
    coterie_device_t *d = g->device;
    const coterie_ffn_shape_t *shape = &g->options.shape;
    const size_t pairs = g->options.pairs;
    const size_t expert = 2 * (size_t)shape->ffn * g->hidden +
                          (size_t)shape->hidden * g->ffn;
    const size_t addresses = g->address_count * sizeof(*g->here);
    const struct {
        size_t size;
        void *to;
    } there[] = {{g->options.plain ? 0 : UNPACKED * expert * 2, &g->matrices},
                 {pairs * g->hidden * 2, &g->rows},
                 {pairs * g->ffn * 2, &g->gate},
                 {pairs * g->ffn * 2, &g->up},
                 {addresses, &g->there}};
    void *memory = NULL;
    coterie_status_t status;

    g->counts = calloc(g->options.experts + 1, sizeof(*g->counts));
    if (g->counts == NULL)
        return coterie_fail_memory(g->options.experts,
                                   "products of a library");
    status = d->ops->host_allocate(d, addresses, &memory);
    if (status == COTERIE_OK)
        g->here = memory;
    for (size_t i = 0;
         status == COTERIE_OK && i < sizeof(there) / sizeof(there[0]); i++) {
        if (there[i].size == 0)
            continue;
        status = d->ops->allocate(d, there[i].size, &memory);
        if (status == COTERIE_OK)
            memcpy(there[i].to, &memory, sizeof(memory));
    }
    return status;
}

static coterie_status_t batch_compute(coterie_grouped_t *g,
                                      const coterie_grouped_call_t *call)
{
    size_t at;
    coterie_status_t status = addresses_write(g, call, &at);

    if (status == COTERIE_OK && !g->options.plain)
        status = matrices_unpack(g, call);
    if (status == COTERIE_OK)
        status = products_queue(g, call, at);
    return status;
}

static coterie_status_t matrices_unpack(const coterie_grouped_t *g,
                                        const coterie_grouped_call_t *call)
{
    const coterie_ffn_shape_t *shape = &g->options.shape;
    coterie_status_t status = COTERIE_OK;

    for (uint32_t i = 0; status == COTERIE_OK && i < call->tile_count; i++) {
        const coterie_expert_weights_t *from =
            &call->experts[call->tiles[i].expert];
        const coterie_expert_weights_t to = matrices_of(g, call, i);

        if (from->gate != NULL)
            status = matrix_unpack(
                g, (coterie_gpu_unpack_t){shape->ffn, shape->hidden, g->hidden,
                                          from->gate, (void *)to.gate});
        if (status == COTERIE_OK)
            status = matrix_unpack(
                g, (coterie_gpu_unpack_t){shape->ffn, shape->hidden, g->hidden,
                                          from->up, (void *)to.up});
        if (status == COTERIE_OK)
            status = matrix_unpack(
                g, (coterie_gpu_unpack_t){shape->hidden, shape->ffn, g->ffn,
                                          from->down, (void *)to.down});
    }
    return status;
}

static coterie_status_t matrix_unpack(const coterie_grouped_t *g,
                                      coterie_gpu_unpack_t unpack)
{
    coterie_device_t *d = g->device;

    return d->ops->launched(
        d, "unpack",
        d->kernels->unpack(d->stream[COTERIE_STREAM_COMPUTE], &unpack));
}

/* The first products' a, x and y, then those of the second. They go over in one
 * copy, which may not be done when the call returns. */
static coterie_status_t addresses_write(coterie_grouped_t *g,
                                        const coterie_grouped_call_t *call,
                                        size_t *at_p)
{
    coterie_device_t *d = g->device;
    const size_t count = (size_t)EACH * call->tile_count;
    coterie_status_t status = COTERIE_OK;

    if (g->address_next + count > g->address_count) {
        status = d->ops->wait(d, COTERIE_STREAM_COMPUTE);
        g->address_next = 0;
    }
    for (uint32_t i = 0; i < call->tile_count; i++)
        expert_address(g, call, i, g->address_next);
    if (status == COTERIE_OK)
        status = d->ops->copy(d, COTERIE_STREAM_COMPUTE,
                              g->there + g->address_next,
                              g->here + g->address_next,
                              count * sizeof(*g->here));
    *at_p = g->address_next;
    g->address_next += count;
    return status;
}

/* Products of one x: gate and up, or up alone. Experts are alike in that. */
static uint32_t each_of(const coterie_grouped_call_t *call)
{
    return call->experts[call->tiles[0].expert].gate != NULL ? 2 : 1;
}

static void expert_address(const coterie_grouped_t *g,
                           const coterie_grouped_call_t *call, uint32_t i,
                           size_t at)
{
    const coterie_expert_weights_t matrices = matrices_of(g, call, i);
    const size_t place = call->tiles[i].first;
    const uint32_t each = each_of(call);
    const addresses_t one = addresses_of(g->here + at, call->tile_count * each);
    const addresses_t two =
        addresses_of(g->here + at + 3 * (size_t)each * call->tile_count,
                     call->tile_count);

    if (each == 2) {
        one.a[each * i] = matrices.gate;
        one.x[each * i] = g->rows + place * g->hidden;
        one.y[each * i] = g->gate + place * g->ffn;
    }
    one.a[each * i + each - 1] = matrices.up;
    one.x[each * i + each - 1] = g->rows + place * g->hidden;
    one.y[each * i + each - 1] = g->up + place * g->ffn;
    two.a[i] = matrices.down;
    two.x[i] = g->up + place * g->ffn;
    two.y[i] = g->rows + place * g->hidden;
}

static coterie_expert_weights_t matrices_of(const coterie_grouped_t *g,
                                            const coterie_grouped_call_t *call,
                                            uint32_t i)
{
    const coterie_expert_weights_t *expert =
        &call->experts[call->tiles[i].expert];
    const size_t up = (size_t)g->options.shape.ffn * g->hidden;
    const size_t down = (size_t)g->options.shape.hidden * g->ffn;
    const uint16_t *at = g->matrices + i * (2 * up + down);

    if (g->options.plain)
        return *expert;
    return (coterie_expert_weights_t){.gate = expert->gate != NULL ? at : NULL,
                                      .up = at + up,
                                      .down = at + 2 * up};
}

static addresses_t addresses_of(const void **all, uint32_t products)
{
    return (addresses_t){all, all + products, all + 2 * (size_t)products};
}

static coterie_status_t products_queue(const coterie_grouped_t *g,
                                       const coterie_grouped_call_t *call,
                                       size_t at)
{
    coterie_device_t *d = g->device;
    void *stream = d->stream[COTERIE_STREAM_COMPUTE];
    const coterie_ffn_shape_t *shape = &g->options.shape;
    const uint32_t each = each_of(call), count = call->tile_count;
    const addresses_t one = addresses_of(g->there + at, count * each);
    const addresses_t two =
        addresses_of(g->there + at + 3 * (size_t)each * count, count);
    const coterie_products_t first = {
        count,     each,  shape->ffn, g->hidden,           g->ffn,
        g->counts, one.a, one.x,      (void *const *)one.y};
    const coterie_products_t second = {
        count,     1,     shape->hidden, g->ffn,              g->hidden,
        g->counts, two.a, two.x,         (void *const *)two.y};
    const coterie_gpu_between_t between = {
        *shape,  g->ffn, g->hidden, call->experts_there, call->tiles_there,
        count,   each == 2 ? g->gate : NULL,
        g->up,   g->up,  g->rows,   call->out};
    coterie_status_t status;

    for (uint32_t i = 0; i < count; i++)
        g->counts[i] = call->tiles[i].count;
    status = d->ops->products(d, &first);
    if (status == COTERIE_OK)
        status = d->ops->launched(d, "activate",
                                  d->kernels->activate(stream, &between));
    if (status == COTERIE_OK)
        status = d->ops->products(d, &second);
    if (status == COTERIE_OK)
        status = d->ops->launched(d, "deliver",
                                  d->kernels->deliver(stream, &between));
    return status;
}

/* Libraries want rows to begin at multiples of 16 bytes. */
static uint32_t whole(uint32_t elements)
{
    return (elements + 7) / 8 * 8;
}
