#include "config.h"

#include <assert.h>
#include <string.h>

#include "kernels/cpu/cpu.h"
#include "runtime/bank.h"

enum {
    WAVE_PAIRS = 256, /* whose outputs are kept until all are there */
    LINE = 64
};

/* Experts of one layer that are computed in whatever order they arrive. A
 * row's sum has one order only, so that its bits depend on no order of reads:
 * outputs are kept, and added when the wave is complete. An expert with more
 * pairs than are kept is a wave of its own, and adds to the sums itself. */
typedef struct wave {
    const coterie_bank_t *bank;
    uint32_t layer;
    const coterie_expert_rows_t *rows;
    const float *x;
    float *sums;
    uint32_t begin, end; /* slots */
    void *scratch;       /* the kernel's */
    float *inputs, *outputs; /* [WAVE_PAIRS, hidden] */
    uint32_t *ordinals;      /* [WAVE_PAIRS]: 0, 1, 2.. */
    float *ones;             /* [WAVE_PAIRS] */
    uint32_t *items, *slots, *others; /* [slot_count] */
} wave_t;

static size_t wave_carve(wave_t *w, char *scratch);
static void *carve(char *scratch, size_t *at, size_t size);
static uint32_t wave_end(const wave_t *w);
static coterie_status_t wave_run(wave_t *w);
static uint32_t wave_items(wave_t *w);
static void rest_guess(wave_t *w);
static void expert_compute(wave_t *w, uint32_t slot,
                           const unsigned char *record, bool alone);
static void wave_add(const wave_t *w);
static uint32_t pairs_of(const wave_t *w, uint32_t slot);
static uint32_t item_of(const wave_t *w, uint32_t slot);

size_t coterie_bank_tiers_scratch(const coterie_bank_t *bank)
{
    wave_t w = {.bank = bank};

    return wave_carve(&w, NULL);
}

coterie_status_t coterie_bank_tiers_compute(const coterie_bank_t *bank,
                                            uint32_t layer,
                                            const coterie_expert_rows_t *rows,
                                            const float *x, float *sums,
                                            void *scratch)
{
    wave_t w = {.bank = bank,
                .layer = layer,
                .rows = rows,
                .x = x,
                .sums = sums};
    coterie_status_t status = COTERIE_OK;

    wave_carve(&w, scratch);
    for (uint32_t i = 0; i < WAVE_PAIRS; i++) {
        w.ordinals[i] = i;
        w.ones[i] = 1;
    }
    coterie_bank_tiers_route(bank, layer, rows, w.items, w.others);
    while (w.begin < bank->slot_count && status == COTERIE_OK) {
        w.end = wave_end(&w);
        status = wave_run(&w);
        w.begin = w.end;
    }
    return status;
}

void coterie_bank_tiers_route(const coterie_bank_t *bank, uint32_t layer,
                              const coterie_expert_rows_t *rows,
                              uint32_t *chosen, uint32_t *refuted)
{
    const uint32_t *items = bank->items + (size_t)layer * bank->slot_count;
    coterie_items_t yes = {chosen, 0}, no = {refuted, 0};

    for (uint32_t slot = 0; slot < bank->slot_count; slot++) {
        if (rows->first[slot + 1] > rows->first[slot])
            yes.items[yes.count++] = items[slot];
        else if (items[slot] != COTERIE_ITEM_NONE)
            no.items[no.count++] = items[slot];
    }
    coterie_tiers_route(bank->tiers, yes, no);
}

/* Returns the size of it all; without a scratch, just that. */
static size_t wave_carve(wave_t *w, char *scratch)
{
    const coterie_bank_t *bank = w->bank;
    size_t rows = WAVE_PAIRS * (size_t)bank->shape.hidden * sizeof(float);
    size_t slots = bank->slot_count * sizeof(uint32_t), at = 0;

    w->scratch = carve(scratch, &at,
                       coterie_pool_scratch(bank->pool, &bank->shape));
    w->inputs = carve(scratch, &at, rows);
    w->outputs = carve(scratch, &at, rows);
    w->ordinals = carve(scratch, &at, WAVE_PAIRS * sizeof(uint32_t));
    w->ones = carve(scratch, &at, WAVE_PAIRS * sizeof(float));
    w->items = carve(scratch, &at, slots);
    w->slots = carve(scratch, &at, slots);
    w->others = carve(scratch, &at, slots);
    return at;
}

static void *carve(char *scratch, size_t *at, size_t size)
{
    void *data = scratch == NULL ? NULL : scratch + *at;

    *at += (size + LINE - 1) / LINE * LINE;
    return data;
}

static uint32_t wave_end(const wave_t *w)
{
    uint32_t first = w->rows->first[w->begin], end = w->begin + 1;

    while (end < w->bank->slot_count &&
           w->rows->first[end + 1] - first <= WAVE_PAIRS)
        end++;
    return end;
}

static coterie_status_t wave_run(wave_t *w)
{
    coterie_tiers_t *tiers = w->bank->tiers;
    coterie_items_t items = {w->items, wave_items(w)};
    bool alone = items.count == 1;

    if (items.count == 0)
        return COTERIE_OK;
    coterie_tiers_want(tiers, items);
    rest_guess(w);
    for (uint32_t left = items.count; left > 0; left--) {
        const void *record;
        uint32_t at;
        coterie_status_t status =
            coterie_tiers_take(tiers, items, &at, &record);

        if (status != COTERIE_OK) {
            coterie_tiers_abandon(tiers, items);
            return status;
        }
        expert_compute(w, w->slots[at], record, alone);
        coterie_tiers_release(tiers, item_of(w, w->slots[at]),
                              pairs_of(w, w->slots[at]));
    }
    if (!alone)
        wave_add(w);
    return COTERIE_OK;
}

static uint32_t wave_items(wave_t *w)
{
    uint32_t count = 0;

    for (uint32_t slot = w->begin; slot < w->end; slot++) {
        if (pairs_of(w, slot) == 0)
            continue;
        assert(item_of(w, slot) != COTERIE_ITEM_NONE);
        w->items[count] = item_of(w, slot);
        w->slots[count++] = slot;
    }
    return count;
}

/* The waves to come are certain, but must not take slots from this one. */
static void rest_guess(wave_t *w)
{
    coterie_items_t rest = {w->others, 0};

    for (uint32_t slot = w->end; slot < w->bank->slot_count; slot++)
        if (pairs_of(w, slot) > 0)
            rest.items[rest.count++] = item_of(w, slot);
    coterie_tiers_guess(w->bank->tiers, rest);
}

static void expert_compute(wave_t *w, uint32_t slot,
                           const unsigned char *record, bool alone)
{
    const uint32_t *first = w->rows->first + slot;
    const uint32_t pairs = pairs_of(w, slot), none[2] = {0, pairs};
    const size_t hidden = w->bank->shape.hidden;
    const coterie_expert_weights_t expert =
        coterie_bank_weights(&w->bank->format, record);
    coterie_expert_rows_t rows = *w->rows;
    float *outputs = w->outputs + (*first - w->rows->first[w->begin]) * hidden;

    rows.expert_count = 1;
    rows.first = first;
    if (alone) {
        coterie_bank_ffn(w->bank,
                         (coterie_ffn_call_t){NULL, &expert, &rows, w->x,
                                              w->sums, w->scratch});
        return;
    }
    for (uint32_t i = 0; i < pairs; i++)
        memcpy(w->inputs + i * hidden,
               w->x + w->rows->row[*first + i] * hidden,
               hidden * sizeof(float));
    memset(outputs, 0, pairs * hidden * sizeof(float));
    rows = (coterie_expert_rows_t){1, pairs, none, w->ordinals, w->ones};
    coterie_bank_ffn(w->bank,
                     (coterie_ffn_call_t){NULL, &expert, &rows, w->inputs,
                                          outputs, w->scratch});
}

/* As the kernel would have: by ascending expert, with its own fused step. */
static void wave_add(const wave_t *w)
{
    const coterie_cpu_ops_t *ops = coterie_cpu_ops();
    const uint32_t first = w->rows->first[w->begin];
    const uint32_t hidden = w->bank->shape.hidden;

    for (uint32_t i = first; i < w->rows->first[w->end]; i++)
        ops->add_scaled(hidden, w->rows->weight[i],
                        w->outputs + (size_t)(i - first) * hidden,
                        w->sums + (size_t)w->rows->row[i] * hidden);
}

static uint32_t pairs_of(const wave_t *w, uint32_t slot)
{
    return w->rows->first[slot + 1] - w->rows->first[slot];
}

static uint32_t item_of(const wave_t *w, uint32_t slot)
{
    return w->bank->items[(size_t)w->layer * w->bank->slot_count + slot];
}
