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
    float *ones;             /* [WAVE_PAIRS] */
    uint32_t *items, *slots, *others; /* [slot_count] */
    /* Of experts that are there at a time, computed by one call: */
    uint32_t *batch, *first;           /* slots; pairs, [slot_count + 1] */
    uint32_t *pairs;                   /* [WAVE_PAIRS] */
    coterie_expert_weights_t *weights; /* [slot_count] */
} wave_t;

static size_t wave_carve(wave_t *w, char *scratch);
static void *carve(char *scratch, size_t *at, size_t size);
static uint32_t wave_end(const wave_t *w);
static coterie_status_t wave_run(wave_t *w);
static uint32_t wave_items(wave_t *w);
static void rest_guess(wave_t *w);
static coterie_status_t batch_take(wave_t *w, coterie_items_t items,
                                   uint32_t *count_p);
static void batch_compute(wave_t *w, uint32_t count);
static void expert_compute(wave_t *w);
static void batch_release(const wave_t *w, uint32_t count);
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
    for (uint32_t i = 0; i < WAVE_PAIRS; i++)
        w.ones[i] = 1;
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
    size_t slots = (bank->slot_count + 1) * sizeof(uint32_t), at = 0;

    w->scratch = carve(scratch, &at,
                       coterie_pool_scratch(bank->pool, &bank->shape));
    w->inputs = carve(scratch, &at, rows);
    w->outputs = carve(scratch, &at, rows);
    w->ones = carve(scratch, &at, WAVE_PAIRS * sizeof(float));
    w->items = carve(scratch, &at, slots);
    w->slots = carve(scratch, &at, slots);
    w->others = carve(scratch, &at, slots);
    w->batch = carve(scratch, &at, slots);
    w->first = carve(scratch, &at, slots);
    w->pairs = carve(scratch, &at, WAVE_PAIRS * sizeof(uint32_t));
    w->weights = carve(scratch, &at,
                       bank->slot_count * sizeof(*w->weights));
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
    for (uint32_t left = items.count, count; left > 0; left -= count) {
        coterie_status_t status = batch_take(w, items, &count);

        if (status != COTERIE_OK) {
            coterie_tiers_abandon(tiers, items);
            return status;
        }
        if (alone)
            expert_compute(w);
        else
            batch_compute(w, count);
        batch_release(w, count);
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

/* Waits for one, and takes what else is there: threads share several experts
 * better than one at a time. What was taken when another's read failed goes
 * back. */
static coterie_status_t batch_take(wave_t *w, coterie_items_t items,
                                   uint32_t *count_p)
{
    coterie_tiers_t *tiers = w->bank->tiers;
    uint32_t count = 0;

    do {
        const void *record;
        uint32_t at;
        coterie_status_t status =
            coterie_tiers_take(tiers, items, &at, &record);

        if (status != COTERIE_OK) {
            batch_release(w, count);
            return status;
        }
        w->weights[count] = coterie_bank_weights(&w->bank->format, record);
        w->batch[count++] = w->slots[at];
    } while (coterie_tiers_more(tiers, items));
    *count_p = count;
    return COTERIE_OK;
}

/* Each pair's output goes to a row of its own. */
static void batch_compute(wave_t *w, uint32_t count)
{
    const uint32_t first = w->rows->first[w->begin];
    const uint32_t all = w->rows->first[w->end] - first;
    const size_t hidden = w->bank->shape.hidden;
    uint32_t pairs = 0;

    for (uint32_t i = 0; i < count; i++) {
        const uint32_t *range = w->rows->first + w->batch[i];

        w->first[i] = pairs;
        for (uint32_t j = range[0]; j < range[1]; j++) {
            w->pairs[pairs++] = j - first;
            memcpy(w->inputs + (j - first) * hidden,
                   w->x + w->rows->row[j] * hidden, hidden * sizeof(float));
            memset(w->outputs + (j - first) * hidden, 0,
                   hidden * sizeof(float));
        }
    }
    w->first[count] = pairs;
    coterie_bank_ffn(
        w->bank,
        (coterie_ffn_call_t){
            NULL, w->weights,
            &(coterie_expert_rows_t){count, all, w->first, w->pairs,
                                     w->ones},
            w->inputs, w->outputs, w->scratch});
}

/* The wave's only one. */
static void expert_compute(wave_t *w)
{
    coterie_expert_rows_t rows = *w->rows;

    rows.expert_count = 1;
    rows.first += w->batch[0];
    coterie_bank_ffn(w->bank,
                     (coterie_ffn_call_t){NULL, w->weights, &rows, w->x,
                                          w->sums, w->scratch});
}

static void batch_release(const wave_t *w, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        coterie_tiers_release(w->bank->tiers, item_of(w, w->batch[i]),
                              pairs_of(w, w->batch[i]));
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
