#include "config.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "placement/solve/chain.h"

static coterie_status_t halves_open(coterie_halves_t *halves, uint32_t first,
                                    uint32_t bits, uint32_t size);
static void halves_close(coterie_halves_t *halves);
static coterie_status_t subsets_open(const coterie_chain_t *chain,
                                     coterie_subsets_t *subsets);
static void subsets_close(coterie_subsets_t *subsets);
static coterie_status_t values_open(coterie_chain_t *chain);
static uint32_t best_from(const coterie_chain_t *chain, const double *seam,
                          uint32_t target, const coterie_subsets_t *from,
                          const double *value);

double coterie_chain_choices(uint32_t count, uint32_t size)
{
    double choices = 1;

    for (uint32_t i = 0; i < size; i++)
        choices = choices * (count - i) / (i + 1);
    return choices;
}

coterie_status_t coterie_chain_open(coterie_chain_t *chain,
                                    uint32_t layer_count,
                                    uint32_t expert_count, uint32_t size)
{
    coterie_status_t status;
    uint32_t half = expert_count / 2;

    assert(expert_count <= 32 && size <= expert_count);
    memset(chain, 0, sizeof(*chain));
    chain->layer_count = layer_count;
    chain->expert_count = expert_count;
    chain->size = size;
    status = halves_open(&chain->low, 0, half, size);
    if (status == COTERIE_OK)
        status = halves_open(&chain->high, half, expert_count - half, size);
    if (status == COTERIE_OK)
        status = values_open(chain);
    for (uint32_t l = 0; status == COTERIE_OK && l < layer_count; l++)
        status = subsets_open(chain, &chain->layers[l]);
    if (status != COTERIE_OK)
        coterie_chain_close(chain);
    return status;
}

void coterie_chain_filter(coterie_chain_t *chain,
                          int (*keep)(const void *arg, uint32_t layer,
                                      uint32_t subset),
                          const void *arg)
{
    for (uint32_t l = 0; l < chain->layer_count; l++) {
        coterie_subsets_t *s = &chain->layers[l];
        uint32_t count = s->count;
        s->count = 0;
        for (uint32_t i = 0; i < count; i++) {
            if (!keep(arg, l, i))
                continue;
            s->mask[s->count] = s->mask[i];
            s->low[s->count] = s->low[i];
            s->high[s->count] = s->high[i];
            s->at[s->count] = s->at[i];
            s->within[s->count++] = s->within[i];
        }
    }
}

void coterie_chain_refresh(coterie_chain_t *chain)
{
    uint32_t e = chain->expert_count;

    for (uint32_t l = 0; l + 1 < chain->layer_count; l++)
        for (uint32_t i = 0; i < e * e; i++)
            chain->seam_back[(size_t)l * e * e + i % e * e + i / e] =
                chain->seam[(size_t)l * e * e + i];
    for (uint32_t l = 0; chain->pair && l < chain->layer_count; l++) {
        coterie_subsets_t *s = &chain->layers[l];
        for (uint32_t i = 0; i < s->count; i++) {
            double twice = 0;
            coterie_chain_row(chain, chain->pair + (size_t)l * e * e,
                              s->mask[i], chain->row);
            for (uint32_t f = 0; f < e; f++)
                twice += s->mask[i] >> f & 1 ? chain->row[f] : 0;
            s->within[i] = twice / 2;
        }
    }
}

double coterie_chain_solve(coterie_chain_t *chain, int both_ways)
{
    size_t block = (size_t)chain->expert_count * chain->expert_count;
    uint32_t last = chain->layer_count - 1;
    double best = -INFINITY;

    for (uint32_t l = 0; l <= last; l++) {
        coterie_subsets_t *s = &chain->layers[l];
        for (uint32_t i = 0; i < s->count; i++)
            s->ahead[i] = l == 0 ? 0 : -INFINITY;
        if (l > 0)
            coterie_chain_relax(chain, chain->seam + (l - 1) * block,
                                &chain->layers[l - 1],
                                chain->layers[l - 1].ahead, s, s->ahead);
        for (uint32_t i = 0; i < s->count; i++)
            s->ahead[i] += coterie_chain_value(chain, l, i);
    }
    for (uint32_t l = last; both_ways; l--) {
        coterie_subsets_t *s = &chain->layers[l];
        for (uint32_t i = 0; i < s->count; i++)
            s->behind[i] = l == last ? 0 : -INFINITY;
        if (l < last)
            coterie_chain_relax(chain, chain->seam_back + l * block,
                                &chain->layers[l + 1],
                                chain->layers[l + 1].behind, s, s->behind);
        for (uint32_t i = 0; i < s->count; i++)
            s->behind[i] += coterie_chain_value(chain, l, i);
        if (l == 0)
            break;
    }
    for (uint32_t i = 0; i < chain->layers[last].count; i++)
        if (chain->layers[last].ahead[i] > best)
            best = chain->layers[last].ahead[i];
    return chain->search != NULL && chain->search->stopped ? INFINITY : best;
}

double coterie_chain_value(const coterie_chain_t *chain, uint32_t layer,
                           uint32_t subset)
{
    const double *item = chain->item + (size_t)layer * chain->expert_count;
    uint32_t mask = chain->layers[layer].mask[subset];
    double value = chain->layers[layer].within[subset];

    for (; mask != 0; mask &= mask - 1)
        value += item[__builtin_ctz(mask)];
    return value;
}

void coterie_chain_through(const coterie_chain_t *chain, uint32_t layer,
                           uint32_t subset, uint32_t *masks)
{
    size_t block = (size_t)chain->expert_count * chain->expert_count;

    masks[layer] = chain->layers[layer].mask[subset];
    for (uint32_t l = layer; l-- > 0;) {
        const coterie_subsets_t *s = &chain->layers[l];
        masks[l] = s->mask[best_from(chain, chain->seam_back + l * block,
                                     masks[l + 1], s, s->ahead)];
    }
    for (uint32_t l = layer + 1; l < chain->layer_count; l++) {
        const coterie_subsets_t *s = &chain->layers[l];
        masks[l] = s->mask[best_from(chain, chain->seam + (l - 1) * block,
                                     masks[l - 1], s, s->behind)];
    }
}

void coterie_chain_close(coterie_chain_t *chain)
{
    for (uint32_t l = 0; chain->layers && l < chain->layer_count; l++)
        subsets_close(&chain->layers[l]);
    free(chain->layers);
    halves_close(&chain->low);
    halves_close(&chain->high);
    free(chain->item);
    free(chain->pair);
    free(chain->seam);
    free(chain->seam_back);
    free(chain->row);
    free(chain->low_sum);
    free(chain->high_sum);
    free(chain->all);
    memset(chain, 0, sizeof(*chain));
}

/* Subsets of at most `size` of `bits` experts from `first` on: those of i
 * experts come before those of i + 1. */
static coterie_status_t halves_open(coterie_halves_t *halves, uint32_t first,
                                    uint32_t bits, uint32_t size)
{
    double total = 0;
    uint32_t begin = 0, end = 1;

    for (uint32_t i = 0; i <= size && i <= bits; i++)
        total += coterie_chain_choices(bits, i);
    halves->mask = calloc(total, sizeof(*halves->mask));
    halves->parent = calloc(total, sizeof(*halves->parent));
    halves->added = calloc(total, sizeof(*halves->added));
    if (!halves->mask || !halves->parent || !halves->added)
        return coterie_fail_memory(total * sizeof(*halves->mask),
                                   "subsets of experts");
    for (uint32_t i = 0; i < size && i < bits; i++) {
        uint32_t next = end;
        for (uint32_t p = begin; p < end; p++)
            /* only above the highest bit, so that each comes once */
            for (uint32_t b = 0; b < bits; b++)
                if (halves->mask[p] >> b == 0) {
                    halves->mask[next] = halves->mask[p] | 1u << b;
                    halves->parent[next] = p;
                    halves->added[next++] = first + b;
                }
        begin = end;
        end = next;
        halves->start[i + 1] = begin;
    }
    for (uint32_t i = size < bits ? size : bits; i < COTERIE_HALF_SIZES; i++)
        halves->start[i + 1] = end;
    halves->count = end;
    return COTERIE_OK;
}

static void halves_close(coterie_halves_t *halves)
{
    free(halves->mask);
    free(halves->parent);
    free(halves->added);
}

static coterie_status_t subsets_open(const coterie_chain_t *chain,
                                     coterie_subsets_t *s)
{
    size_t count = coterie_chain_choices(chain->expert_count, chain->size);

    s->mask = malloc(count * sizeof(*s->mask));
    s->low = malloc(count * sizeof(*s->low));
    s->high = malloc(count * sizeof(*s->high));
    s->at = malloc(count * sizeof(*s->at));
    s->within = calloc(count, sizeof(*s->within));
    s->ahead = calloc(count, sizeof(*s->ahead));
    s->behind = calloc(count, sizeof(*s->behind));
    if (!s->mask || !s->low || !s->high || !s->at || !s->within || !s->ahead ||
        !s->behind)
        return coterie_fail_memory(count * 40, "subsets of experts");
    coterie_chain_subsets(chain, s);
    assert(s->count == count);
    return COTERIE_OK;
}

static void subsets_close(coterie_subsets_t *s)
{
    free(s->mask);
    free(s->low);
    free(s->high);
    free(s->at);
    free(s->within);
    free(s->ahead);
    free(s->behind);
}

static coterie_status_t values_open(coterie_chain_t *chain)
{
    size_t e = chain->expert_count, cells = chain->layer_count * e * e;

    chain->layers = calloc(chain->layer_count, sizeof(*chain->layers));
    chain->item = calloc(chain->layer_count * e, sizeof(*chain->item));
    chain->pair = calloc(cells, sizeof(*chain->pair));
    chain->seam = calloc(cells, sizeof(*chain->seam));
    chain->seam_back = calloc(cells, sizeof(*chain->seam_back));
    chain->row = calloc(e, sizeof(*chain->row));
    chain->low_sum = calloc(chain->low.count + COTERIE_CHAIN_LANES,
                            sizeof(*chain->low_sum));
    chain->high_sum = calloc(chain->high.count + COTERIE_CHAIN_LANES,
                             sizeof(*chain->high_sum));
    /* whole lanes, each in one line of the cache */
    chain->all =
        aligned_alloc(COTERIE_CHAIN_LANES * sizeof(*chain->all),
                      coterie_chain_cells(chain) * sizeof(*chain->all));
    if (!chain->layers || !chain->item || !chain->pair || !chain->seam ||
        !chain->seam_back || !chain->row || !chain->low_sum ||
        !chain->high_sum || !chain->all)
        return coterie_fail_memory(cells * sizeof(*chain->seam),
                                   "values of a chain");
    return COTERIE_OK;
}

static uint32_t best_from(const coterie_chain_t *chain, const double *seam,
                          uint32_t target, const coterie_subsets_t *from,
                          const double *value)
{
    double best = -INFINITY;
    uint32_t best_at = 0;

    coterie_chain_row(chain, seam, target, chain->row);
    for (uint32_t i = 0; i < from->count; i++) {
        double sum = value[i];
        for (uint32_t mask = from->mask[i]; mask != 0; mask &= mask - 1)
            sum += chain->row[__builtin_ctz(mask)];
        if (sum > best) {
            best = sum;
            best_at = i;
        }
    }
    return best_at;
}
