#include "config.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/element.h"
#include "tests/draw.h"
#include "tests/gpu_ranks.h"

static coterie_placement_t *placement_draw(const plan_t *p);
static void experts_draw(ranks_t *r);
static void values_upload(ranks_t *r, const float *values, size_t count,
                          const void *to);
static coterie_layer_call_t call_of(ranks_t *r, uint32_t layer);
static coterie_status_t experts_queue(ranks_t *r,
                                      const coterie_layer_call_t *call);
static bool is_held(const ranks_t *r, uint32_t layer, int32_t expert);

static coterie_status_t test_open_windows(coterie_fabric_t *f, size_t size,
                                          char **window, char **reach)
{
    const test_fabric_t *t = (const test_fabric_t *)f;
    const uint32_t ranks = f->rank_count;
    coterie_status_t status =
        t->local->ops->open_windows(t->local, size, window, reach);

    for (uint32_t i = 0; t->plan->distant && i < ranks * ranks; i++)
        if (i / ranks != i % ranks)
            reach[i] = NULL;
    return status;
}

static coterie_status_t test_swap(coterie_fabric_t *f,
                                  const coterie_fabric_swap_t *s)
{
    for (uint32_t i = 0; i < s->count; i++)
        for (uint32_t to = 0; to < s->count; to++)
            if (i != to && s->active[i] && s->active[to])
                must(f->device->ops->copy(
                    f->device, COTERIE_STREAM_COMPUTE, s->in[to] + i * s->size,
                    s->out[i] + to * s->size, s->size));
    return COTERIE_OK;
}

static coterie_status_t test_meet(coterie_fabric_t *f, uint32_t first,
                                  uint32_t count, uint32_t deadline_ms)
{
    const test_fabric_t *t = (const test_fabric_t *)f;

    return t->plan->apart
               ? COTERIE_OK
               : t->local->ops->meet(t->local, first, count, deadline_ms);
}

static coterie_status_t test_check(coterie_fabric_t *f)
{
    coterie_fabric_t *local = ((const test_fabric_t *)f)->local;

    return local->ops->check(local);
}

static coterie_status_t test_drain(coterie_fabric_t *f, uint32_t deadline_ms)
{
    coterie_fabric_t *local = ((const test_fabric_t *)f)->local;

    return local->ops->drain(local, deadline_ms);
}

static coterie_status_t test_exclude(coterie_fabric_t *f,
                                     const uint8_t *active)
{
    coterie_fabric_t *local = ((const test_fabric_t *)f)->local;

    return local->ops->exclude(local, active);
}

static const coterie_fabric_ops_t test_ops = {
    .name = "test",
    .open_windows = test_open_windows,
    .swap = test_swap,
    .meet = test_meet,
    .check = test_check,
    .drain = test_drain,
    .exclude = test_exclude};

ranks_t *ranks_open(coterie_device_t *device, const plan_t *plan)
{
    ranks_t *r = calloc(1, sizeof(*r));
    const plan_t *p = &r->plan;
    coterie_dispatcher_options_t o = COTERIE_DISPATCHER_OPTIONS_INIT;

    r->plan = *plan;
    r->memory.device = device;
    memset(r->active, 1, sizeof(r->active));
    r->placement = placement_draw(p);
    must(coterie_fabric_open_local(p->ranks, device, &r->fabric.local));
    r->fabric.base = *r->fabric.local;
    r->fabric.base.ops = &test_ops;
    r->fabric.plan = p;
    r->norm = malloc(LAYERS * p->hidden * sizeof(*r->norm));
    for (uint32_t i = 0; i < LAYERS * p->hidden; i++)
        r->norm[i] = 1 + 0.5f * fraction();
    o.fabric = &r->fabric.base;
    o.placement = r->placement;
    o.hidden = p->hidden;
    o.k = p->k;
    o.max_rows = p->max_rows;
    o.capacity = p->capacity;
    o.arrivals = p->arrivals;
    o.wire = p->wire;
    o.element = p->element;
    o.deadline_ms = p->deadline_ms;
    o.norm = r->norm;
    o.norm_epsilon = 1e-5f;
    o.forward = p->mode == COTERIE_MODE_FORWARD;
    o.predicted_k = p->predicted_k;
    must(coterie_dispatcher_create(&o, &r->dispatcher));
    experts_draw(r);
    return r;
}

void ranks_close(ranks_t *r)
{
    world_end(&r->memory);
    coterie_dispatcher_destroy(r->dispatcher);
    coterie_fabric_close(r->fabric.local);
    coterie_placement_destroy(r->placement);
    for (uint32_t rank = 0; rank < r->plan.ranks; rank++)
        rows_free(&r->rows[rank]);
    free(r->panels);
    free(r->experts);
    free(r->norm);
    free(r);
}

/* Every expert once, in turns; then replicas where there is none yet. */
static coterie_placement_t *placement_draw(const plan_t *p)
{
    const uint32_t each =
        (p->experts + p->ranks - 1) / p->ranks + p->spare;
    coterie_placement_options_t o = COTERIE_PLACEMENT_OPTIONS_INIT;
    coterie_placement_t *placement = NULL;
    uint16_t *slot_rank = malloc(each * p->ranks * sizeof(*slot_rank));
    int16_t *held = malloc(LAYERS * each * p->ranks * sizeof(*held));
    uint8_t *score = malloc(LAYERS * p->experts * p->ranks);

    for (uint32_t s = 0; s < each * p->ranks; s++)
        slot_rank[s] = (uint16_t)(s / each);
    for (uint32_t l = 0; l < LAYERS; l++)
        for (uint32_t r = 0; r < p->ranks; r++) {
            int16_t *mine = held + (l * p->ranks + r) * each;
            const uint32_t shift = draw(p->experts);
            uint32_t s = 0, e = 0;

            for (; e < p->experts; e++)
                if (e % p->ranks == (r + l) % p->ranks)
                    mine[s++] = (int16_t)e;
            for (e = 0; e < p->experts && s < each; e++) {
                const uint32_t other = (e + shift) % p->experts;
                if (other % p->ranks != (r + l) % p->ranks)
                    mine[s++] = (int16_t)other;
            }
            while (s < each)
                mine[s++] = -1;
        }
    for (uint32_t i = 0; i < LAYERS * p->experts * p->ranks; i++)
        score[i] = (uint8_t)draw(5);
    o.layer_count = LAYERS;
    o.expert_count = p->experts;
    o.rank_count = p->ranks;
    o.node_count = p->nodes;
    o.slot_count = each * p->ranks;
    o.slot_rank = slot_rank;
    o.slot_expert = held;
    o.next_score = score;
    must(coterie_placement_create(&o, &placement));
    free(score);
    free(held);
    free(slot_rank);
    return placement;
}

/* All experts in one piece; layers differ in where they are. */
static void experts_draw(ranks_t *r)
{
    const plan_t *p = &r->plan;
    const size_t size = coterie_panels_size(COTERIE_DTYPE_BF16, FFN, p->hidden);
    const size_t values = (size_t)FFN * p->hidden;
    uint16_t *codes = malloc(values * sizeof(*codes));
    coterie_placement_options_t view;
    unsigned char *there;

    r->shape = (coterie_ffn_shape_t){.hidden = p->hidden,
                                     .ffn = FFN,
                                     .dtype = COTERIE_DTYPE_BF16,
                                     .activation = COTERIE_ACTIVATION_SWIGLU};
    r->experts = calloc(p->experts, sizeof(*r->experts));
    r->panels = malloc(3 * size * p->experts);
    for (uint32_t i = 0; i < 3 * p->experts; i++) {
        for (size_t v = 0; v < values; v++)
            codes[v] =
                coterie_bf16_of(2 * fraction() / sqrtf((float)p->hidden));
        if (i % 3 < 2)
            coterie_panels_pack(COTERIE_DTYPE_BF16, FFN, p->hidden, codes,
                                NULL, r->panels + i * size);
        else
            coterie_panels_pack(COTERIE_DTYPE_BF16, p->hidden, FFN, codes,
                                NULL, r->panels + i * size);
    }
    there = upload(&r->memory, r->panels, 3 * size * p->experts);
    coterie_placement_view(r->placement, &view);
    for (uint32_t e = 0; e < p->experts; e++) {
        const unsigned char *at = r->panels + 3 * e * size;
        r->experts[e] = (coterie_expert_weights_t){
            .gate = at, .up = at + size, .down = at + 2 * size};
    }
    for (uint32_t rank = 0; rank < p->ranks; rank++) {
        const uint32_t slots = view.slot_count / p->ranks;
        coterie_expert_weights_t table[LAYERS * 1100] = {{0}};

        for (uint32_t i = 0; i < LAYERS * slots; i++) {
            const int32_t e = view.slot_expert[i / slots * view.slot_count +
                                               rank * slots + i % slots];
            const unsigned char *at = there + 3 * (e < 0 ? 0 : e) * size;
            table[i] = (coterie_expert_weights_t){
                .gate = at, .up = at + size, .down = at + 2 * size};
        }
        r->there[rank] = upload(&r->memory, table,
                                LAYERS * slots * sizeof(table[0]));
    }
    r->inner = room(&r->memory, coterie_dispatcher_pairs(r->dispatcher) * FFN *
                                    sizeof(*r->inner));
    free(codes);
}

float rounded(float value, uint32_t type)
{
    return type == COTERIE_WIRE_BF16
               ? coterie_bf16_value(coterie_bf16_of(value))
               : value;
}

void rows_begin(ranks_t *r)
{
    const plan_t *p = &r->plan;
    const size_t size = (size_t)p->max_rows * p->hidden * sizeof(float);

    for (uint32_t rank = 0; rank < p->ranks; rank++) {
        rows_t *rows = &r->rows[rank];

        *rows = rows_new(p);
        rows->count = draw(3) == 0 ? 0 : p->rows;
        for (uint32_t i = 0; i < rows->count; i++)
            rows->key[i] = (uint64_t)rank << 32 | i;
        for (size_t i = 0; i < (size_t)rows->count * p->hidden; i++)
            rows->hidden[i] = rounded(fraction(), p->element);
        for (int side = 0; side < 2; side++) {
            coterie_device_rows_t *d = side ? &r->out[rank] : &r->in[rank];

            *d = (coterie_device_rows_t){.size = sizeof(*d),
                                         .capacity = p->max_rows};
            d->count = room(&r->memory, sizeof(*d->count));
            d->key = room(&r->memory, p->max_rows * sizeof(*d->key));
            d->hidden = room(&r->memory, size);
            d->normed = room(&r->memory, size);
            d->topk_ids = room(&r->memory, p->max_rows * p->k * 4);
            d->topk_weights = room(&r->memory, p->max_rows * p->k * 4);
            d->seat = room(&r->memory, p->max_rows * 4);
            d->holders = room(&r->memory, p->max_rows * 4);
            d->predicted =
                room(&r->memory, p->max_rows * (p->predicted_k + 1) * 4);
        }
    }
}

/* In the plan's elements. */
static void values_upload(ranks_t *r, const float *values, size_t count,
                          const void *to)
{
    const coterie_device_ops_t *ops = r->memory.device->ops;
    const bool narrow = r->plan.element == COTERIE_WIRE_BF16;
    uint16_t *codes = malloc(count * sizeof(*codes) + 1);

    for (size_t i = 0; i < count; i++)
        codes[i] = coterie_bf16_of(values[i]);
    must(ops->copy(r->memory.device, COTERIE_STREAM_COMPUTE, (void *)to,
                   narrow ? (const void *)codes : values,
                   count * (narrow ? 2 : 4)));
    must(ops->wait(r->memory.device, COTERIE_STREAM_COMPUTE));
    free(codes);
}

void rows_upload(ranks_t *r)
{
    const coterie_device_ops_t *ops = r->memory.device->ops;

    for (uint32_t rank = 0; rank < r->plan.ranks; rank++) {
        const rows_t *rows = &r->rows[rank];
        const size_t pairs = rows->count * r->plan.k;
        const struct {
            const void *to, *from;
            size_t size;
        } copies[] = {{r->in[rank].count, &rows->count, 4},
                      {r->in[rank].key, rows->key, rows->count * 8},
                      {r->in[rank].topk_ids, rows->ids, pairs * 4},
                      {r->in[rank].topk_weights, rows->weights, pairs * 4},
                      {r->in[rank].seat, rows->seat, rows->count * 4},
                      {r->in[rank].holders, rows->holders, rows->count * 4},
                      {r->in[rank].predicted, rows->predicted,
                       rows->count * r->plan.predicted_k * 4}};

        for (size_t i = 0; i < sizeof(copies) / sizeof(copies[0]); i++)
            must(ops->copy(r->memory.device, COTERIE_STREAM_COMPUTE,
                           (void *)copies[i].to, copies[i].from,
                           copies[i].size));
        values_upload(r, rows->hidden, rows->count * r->plan.hidden,
                      r->in[rank].hidden);
        values_upload(r, rows->normed, rows->count * r->plan.hidden,
                      r->in[rank].normed);
    }
}

static coterie_layer_call_t call_of(ranks_t *r, uint32_t layer)
{
    return (coterie_layer_call_t){.size = sizeof(coterie_layer_call_t),
                                  .layer = layer,
                                  .mode = r->plan.mode,
                                  .count = r->plan.ranks,
                                  .in = r->in,
                                  .out = r->out};
}

coterie_status_t layer_queue(ranks_t *r, uint32_t layer, uint32_t ranks)
{
    coterie_dispatcher_t *d = r->dispatcher;
    coterie_layer_call_t call = call_of(r, layer);
    coterie_status_t status;

    call.count = ranks;
    status = coterie_dispatcher_send(d, &call);
    for (call.late = 0; status == COTERIE_OK; call.late++) {
        status = coterie_dispatcher_arrive(d, &call);
        if (status == COTERIE_OK)
            status = experts_queue(r, &call);
        if (status == COTERIE_OK)
            status = coterie_dispatcher_return(d, &call);
        if (call.late == (r->plan.predicted_k > 0))
            break;
    }
    call.late = 0;
    if (status == COTERIE_OK)
        status = coterie_dispatcher_finish(d, &call);
    return status;
}

static coterie_status_t experts_queue(ranks_t *r,
                                      const coterie_layer_call_t *call)
{
    coterie_device_t *device = r->memory.device;
    coterie_status_t status = COTERIE_OK;

    for (uint32_t i = 0; status == COTERIE_OK && i < call->count; i++) {
        coterie_device_work_t work;
        coterie_gpu_ffn_t ffn;

        coterie_dispatcher_work(r->dispatcher, i, r->plan.mode, &work);
        ffn = (coterie_gpu_ffn_t){r->shape,
                                  r->there[i] + call->layer * work.slots,
                                  &r->dispatcher->driven[i].pairs,
                                  work.x,
                                  r->inner,
                                  work.out,
                                  device->blocks};
        status = device->ops->launched(
            device, "experts",
            device->kernels->ffn(device->stream[COTERIE_STREAM_COMPUTE],
                                 &ffn));
    }
    return status;
}

rows_t rows_new(const plan_t *p)
{
    const size_t rows = (size_t)p->rows * p->ranks;

    return (rows_t){0, calloc(rows, sizeof(uint64_t)),
                    calloc(rows * p->hidden, sizeof(float)),
                    calloc(rows * p->hidden, sizeof(float)),
                    calloc(rows * p->k, sizeof(float)),
                    calloc(rows * p->k, sizeof(int32_t)),
                    calloc(rows * (p->predicted_k + 1), sizeof(int32_t)),
                    calloc(rows, sizeof(uint32_t)),
                    calloc(rows, sizeof(uint32_t))};
}

void rows_free(rows_t *rows)
{
    free(rows->key);
    free(rows->hidden);
    free(rows->normed);
    free(rows->weights);
    free(rows->ids);
    free(rows->predicted);
    free(rows->seat);
    free(rows->holders);
}

rows_t rows_download(ranks_t *r, uint32_t rank)
{
    const plan_t *p = &r->plan;
    const bool narrow = p->element == COTERIE_WIRE_BF16;
    rows_t rows = rows_new(p);
    uint32_t *count = download(&r->memory, r->out[rank].count, 4);
    uint32_t *seat, *holders;
    size_t values;
    uint64_t *key;
    void *hidden;

    rows.count = *count < p->max_rows ? *count : p->max_rows;
    values = (size_t)rows.count * p->hidden;
    key = download(&r->memory, r->out[rank].key, rows.count * 8);
    seat = download(&r->memory, r->out[rank].seat, rows.count * 4);
    holders = download(&r->memory, r->out[rank].holders, rows.count * 4);
    hidden = download(&r->memory, r->out[rank].hidden,
                      values * (narrow ? 2 : 4));
    memcpy(rows.key, key, rows.count * 8);
    memcpy(rows.seat, seat, rows.count * 4);
    memcpy(rows.holders, holders, rows.count * 4);
    free(holders);
    free(seat);
    for (size_t i = 0; i < values; i++)
        rows.hidden[i] = narrow ? coterie_bf16_value(((uint16_t *)hidden)[i])
                                : ((float *)hidden)[i];
    free(hidden);
    free(key);
    free(count);
    return rows;
}

static bool is_held(const ranks_t *r, uint32_t layer, int32_t expert)
{
    coterie_placement_options_t view;
    bool held = false;

    coterie_placement_view(r->placement, &view);
    for (uint32_t s = 0; s < view.slot_count; s++)
        held |= view.slot_expert[layer * view.slot_count + s] == expert &&
                r->active[view.slot_rank[s]];
    return held;
}

uint32_t row_expect(const ranks_t *r, uint32_t layer, const rows_t *from,
                    uint32_t i, rows_t *to)
{
    const plan_t *p = &r->plan;
    void *scratch = malloc(coterie_expert_ffn_scratch(&r->shape));
    float *x = malloc(p->hidden * sizeof(*x));
    float *y = to->hidden + (size_t)to->count * p->hidden;
    const uint32_t first[] = {0, 1}, row[] = {0};
    uint32_t dropped = 0;

    for (uint32_t h = 0; h < p->hidden; h++)
        x[h] = rounded(from->normed[i * p->hidden + h], COTERIE_WIRE_BF16);
    memcpy(y, from->hidden + (size_t)i * p->hidden, p->hidden * sizeof(*y));
    for (uint32_t j = 0; j < p->k; j++) {
        const int32_t id = from->ids[i * p->k + j];
        if (id >= 0 && !is_held(r, layer, id)) {
            dropped++;
            continue;
        }
        if (id >= 0)
            coterie_expert_ffn(&r->shape, &r->experts[id],
                               &(coterie_expert_rows_t){
                                   1, 1, first, row,
                                   from->weights + i * p->k + j},
                               x, y, scratch);
    }
    to->key[to->count++] = from->key[i];
    free(x);
    free(scratch);
    return dropped;
}
