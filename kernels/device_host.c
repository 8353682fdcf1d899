#include "config.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/element.h"
#include "base/error.h"
#include "kernels/device.h"
#include "kernels/device_host.h"

/* The processor as a device: everything is done when the call returns. */
enum { ARENA_PIECE = 2 << 20 };

static int host_narrow(void *stream, size_t count, const float *x,
                       uint16_t *y);
static int host_sort(void *stream, const coterie_gpu_pairs_t *pairs);
static int host_ffn(void *stream, const coterie_gpu_ffn_t *ffn);
static int host_combine(void *stream, const coterie_gpu_combine_t *combine);
static int host_router(void *stream, const coterie_gpu_router_t *router);
static coterie_status_t host_launched(coterie_device_t *d, const char *kernel,
                                      int error);
static void tiles_write(const coterie_gpu_pairs_t *pairs);
static void tile_compute(const coterie_gpu_ffn_t *ffn,
                         const coterie_gpu_tile_t *tile, float *x,
                         void *scratch);

static const coterie_gpu_kernels_t host_kernels = {
    host_narrow,       host_sort,         host_ffn,
    host_combine,      host_router,       coterie_host_send,
    coterie_host_arrive, coterie_host_give_back, coterie_host_finish,
    coterie_host_permute, coterie_host_unpack, coterie_host_activate,
    coterie_host_deliver};

static coterie_status_t host_allocate(coterie_device_t *d, size_t size,
                                      void **p)
{
    void *memory = malloc(size > 0 ? size : 1);

    (void)d;
    if (memory == NULL)
        return coterie_fail_memory(size, "a device's memory");
    *p = memory;
    return COTERIE_OK;
}

static void host_release(coterie_device_t *d, void *p)
{
    (void)d;
    free(p);
}

static coterie_status_t host_pin(coterie_device_t *d, void *p, size_t size)
{
    (void)d, (void)p, (void)size;
    return COTERIE_OK;
}

static void host_unpin(coterie_device_t *d, void *p)
{
    (void)d, (void)p;
}

static coterie_status_t host_arena_reserve(coterie_device_t *d,
                                           size_t reserved,
                                           coterie_device_arena_t *arena)
{
    void *data = mmap(NULL, reserved, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    (void)d;
    if (data == MAP_FAILED)
        return coterie_fail_memory(reserved, "a device's arena");
    *arena = (coterie_device_arena_t){.data = data, .reserved = reserved};
    return COTERIE_OK;
}

static coterie_status_t host_arena_grow(coterie_device_t *d,
                                        coterie_device_arena_t *arena,
                                        size_t size)
{
    (void)d;
    if (size > arena->reserved)
        return coterie_fail(COTERIE_ERR_CAPACITY,
                            "host: an arena of %zu bytes cannot grow to %zu",
                            arena->reserved, size);
    while (arena->size < size)
        arena->size += ARENA_PIECE;
    if (arena->size > arena->reserved)
        arena->size = arena->reserved;
    return COTERIE_OK;
}

static void host_arena_release(coterie_device_t *d,
                               coterie_device_arena_t *arena)
{
    (void)d;
    if (arena->data != NULL)
        munmap(arena->data, arena->reserved);
    *arena = (coterie_device_arena_t){0};
}

static coterie_status_t host_copy(coterie_device_t *d,
                                  coterie_stream_t stream, void *to,
                                  const void *from, size_t size)
{
    if (d->stream[stream] != NULL)
        return host_launched(d, "a copy",
                             coterie_host_keep_copy(d->stream[stream], to,
                                                    from, size));
    memmove(to, from, size);
    return COTERIE_OK;
}

static coterie_status_t host_fill(coterie_device_t *d,
                                  coterie_stream_t stream, void *to, int byte,
                                  size_t size)
{
    if (d->stream[stream] != NULL)
        return host_launched(d, "a fill",
                             coterie_host_keep_fill(d->stream[stream], to,
                                                    byte, size));
    memset(to, byte, size);
    return COTERIE_OK;
}

static coterie_status_t host_order(coterie_device_t *d,
                                   coterie_stream_t earlier,
                                   coterie_stream_t later)
{
    (void)d, (void)earlier, (void)later;
    return COTERIE_OK;
}

static coterie_status_t host_wait(coterie_device_t *d,
                                  coterie_stream_t stream)
{
    (void)d, (void)stream;
    return COTERIE_OK;
}

static coterie_status_t host_launched(coterie_device_t *d, const char *kernel,
                                      int error)
{
    (void)d;
    return error == 0 ? COTERIE_OK
                      : coterie_fail_memory((size_t)error, kernel);
}

static void host_range_begin(coterie_device_t *d, const char *name)
{
    (void)d, (void)name;
}

static void host_range_end(coterie_device_t *d)
{
    (void)d;
}

static void host_close(coterie_device_t *d)
{
    free(d);
}

static const coterie_device_ops_t host_ops = {
    .kind = "host",
    .allocate = host_allocate,
    .release = host_release,
    .host_allocate = host_allocate,
    .host_release = host_release,
    .pin = host_pin,
    .unpin = host_unpin,
    .arena_reserve = host_arena_reserve,
    .arena_grow = host_arena_grow,
    .arena_release = host_arena_release,
    .copy = host_copy,
    .fill = host_fill,
    .order = host_order,
    .wait = host_wait,
    .launched = host_launched,
    .capture_begin = coterie_host_capture_begin,
    .capture_end = coterie_host_capture_end,
    .replay = coterie_host_replay,
    .graph_release = coterie_host_graph_release,
    .products = coterie_host_products,
    .range_begin = host_range_begin,
    .range_end = host_range_end,
    .close = host_close};

coterie_status_t coterie_device_open_host(coterie_device_t **device_p)
{
    coterie_device_t *d = calloc(1, sizeof(*d));

    if (d == NULL)
        return coterie_fail_memory(sizeof(*d), "a device");
    d->ops = &host_ops;
    d->kernels = &host_kernels;
    d->blocks = 1;
    *device_p = d;
    return COTERIE_OK;
}

static int host_narrow(void *stream, size_t count, const float *x, uint16_t *y)
{
    (void)stream;
    for (size_t i = 0; i < count; i++)
        y[i] = coterie_bf16_of(x[i]);
    return 0;
}

static int host_sort(void *stream, const coterie_gpu_pairs_t *pairs)
{
    const uint32_t count = pairs->rows * pairs->k;
    uint32_t at = 0;

    (void)stream;
    for (uint32_t pair = 0; pair < count; pair++)
        pairs->place[pair] = -1;
    for (uint32_t e = 0; e < pairs->expert_count; e++) {
        pairs->first[e] = at;
        for (uint32_t pair = 0; pair < count; pair++) {
            if (pairs->ids[pair] != (int32_t)e)
                continue;
            pairs->place[pair] = (int32_t)at;
            pairs->pair[at++] = pair;
        }
    }
    pairs->first[pairs->expert_count] = at;
    tiles_write(pairs);
    return 0;
}

static void tiles_write(const coterie_gpu_pairs_t *pairs)
{
    uint32_t tiles = 0;

    for (uint32_t e = 0; e < pairs->expert_count; e++) {
        const uint32_t end = pairs->first[e + 1];
        const uint32_t step =
            coterie_gpu_tile_step(end - pairs->first[e], pairs->tile);

        for (uint32_t i = pairs->first[e]; i < end; i += step)
            pairs->tiles[tiles++] = (coterie_gpu_tile_t){
                e, i, end - i < step ? end - i : step};
    }
    *pairs->tile_count = tiles;
}

/* Every place is a row of its own to the processor's kernel. */
static int host_ffn(void *stream, const coterie_gpu_ffn_t *ffn)
{
    const coterie_gpu_pairs_t *pairs = ffn->pairs;
    const size_t hidden = ffn->shape.hidden;
    float *x = malloc(pairs->tile * hidden * sizeof(*x));
    void *scratch = malloc(coterie_expert_ffn_scratch(&ffn->shape));
    const int error = x == NULL || scratch == NULL ? (int)hidden : 0;

    (void)stream;
    for (uint32_t i = 0; error == 0 && i < *pairs->tile_count; i++)
        tile_compute(ffn, &pairs->tiles[i], x, scratch);
    free(scratch);
    free(x);
    return error;
}

static void tile_compute(const coterie_gpu_ffn_t *ffn,
                         const coterie_gpu_tile_t *tile, float *x,
                         void *scratch)
{
    const coterie_gpu_pairs_t *pairs = ffn->pairs;
    const size_t hidden = ffn->shape.hidden;
    const uint32_t first[] = {0, tile->count};
    float *out = ffn->out + tile->first * hidden;
    uint32_t row[COTERIE_GPU_TILE_WIDE];
    float weight[COTERIE_GPU_TILE_WIDE];

    for (uint32_t i = 0; i < tile->count; i++) {
        const uint32_t from = pairs->pair[tile->first + i] / pairs->k;
        row[i] = i;
        weight[i] = 1;
        for (size_t h = 0; h < hidden; h++)
            x[i * hidden + h] = coterie_bf16_value(ffn->x[from * hidden + h]);
    }
    memset(out, 0, tile->count * hidden * sizeof(*out));
    coterie_expert_ffn(&ffn->shape, &ffn->experts[tile->expert],
                       &(coterie_expert_rows_t){1, tile->count, first, row,
                                                weight},
                       x, out, scratch);
}

static int host_combine(void *stream, const coterie_gpu_combine_t *c)
{
    (void)stream;
    for (size_t row = 0; row < c->rows; row++)
        for (size_t h = 0; h < c->hidden; h++) {
            const size_t at = row * c->hidden + h;
            float sum = c->base != NULL ? c->base[at] : 0;
            for (size_t j = row * c->k; j < (row + 1) * c->k; j++)
                if (c->place[j] >= 0)
                    sum += c->weight[j] *
                           c->out[(size_t)c->place[j] * c->hidden + h];
            c->y[at] = sum;
        }
    return 0;
}

/* Row by row, so that one which is refused does not stop the others. */
static int host_router(void *stream, const coterie_gpu_router_t *r)
{
    const uint32_t k = r->options.k;

    (void)stream;
    for (size_t row = 0; row < r->rows; row++) {
        int32_t *ids = r->ids + row * k;
        float *weights = r->weights + row * k;

        if (coterie_router_topk(&r->options, 1,
                                r->logits + row * r->options.expert_count, ids,
                                weights) == COTERIE_OK)
            continue;
        for (uint32_t j = 0; j < k; j++) {
            ids[j] = -1;
            weights[j] = 0;
        }
    }
    return 0;
}
