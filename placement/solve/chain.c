#include "config.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "placement/solve/chain.h"

static coterie_status_t halves_open(coterie_halves_t *halves, uint32_t first,
                                    uint32_t bits, uint32_t size);
static void halves_sum(const coterie_halves_t *halves, const double *value,
                       double start, double *sum);
static void halves_close(coterie_halves_t *halves);
static coterie_status_t subsets_open(const coterie_chain_t *chain,
                                     coterie_subsets_t *subsets);
static void subsets_close(coterie_subsets_t *subsets);
static void subsets_append(coterie_subsets_t *subsets, uint32_t mask,
                           uint32_t low, uint32_t high);
static coterie_status_t values_open(coterie_chain_t *chain);
static void seam_row(const coterie_chain_t *chain, const double *seam,
                     uint32_t mask, double *row);
static void seam_relax(coterie_chain_t *chain, const double *seam,
                       const coterie_subsets_t *from, const double *value,
                       coterie_subsets_t *to, double *best);
static int over(const coterie_chain_t *chain);
static uint32_t best_from(const coterie_chain_t *chain, const double *seam,
                          uint32_t target, const coterie_subsets_t *from,
                          const double *value);

enum { ASK_EVERY = 64 }; /* subsets to start from */

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
        uint32_t runs = s->run_count, run = 0;
        uint32_t end = runs > 0 ? s->run_start[1] : 0, count = s->count;
        s->count = s->run_count = 0;
        for (uint32_t i = 0; i < count; i++) {
            while (i >= end) /* read before append overwrites it */
                end = s->run_start[++run + 1];
            if (!keep(arg, l, i))
                continue;
            s->within[s->count] = s->within[i];
            subsets_append(s, s->mask[i], s->low[i], s->run_high[run]);
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
            seam_row(chain, chain->pair + (size_t)l * e * e, s->mask[i],
                     chain->row);
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
            seam_relax(chain, chain->seam + (l - 1) * block,
                       &chain->layers[l - 1], chain->layers[l - 1].ahead, s,
                       s->ahead);
        for (uint32_t i = 0; i < s->count; i++)
            s->ahead[i] += coterie_chain_value(chain, l, i);
    }
    for (uint32_t l = last; both_ways; l--) {
        coterie_subsets_t *s = &chain->layers[l];
        for (uint32_t i = 0; i < s->count; i++)
            s->behind[i] = l == last ? 0 : -INFINITY;
        if (l < last)
            seam_relax(chain, chain->seam_back + l * block,
                       &chain->layers[l + 1], chain->layers[l + 1].behind, s,
                       s->behind);
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
    }
    halves->count = end;
    return COTERIE_OK;
}

static void halves_sum(const coterie_halves_t *halves, const double *value,
                       double start, double *sum)
{
    sum[0] = start;
    for (uint32_t i = 1; i < halves->count; i++)
        sum[i] = sum[halves->parent[i]] + value[halves->added[i]];
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
    uint32_t half = chain->expert_count / 2;

    s->mask = malloc(count * sizeof(*s->mask));
    s->low = malloc(count * sizeof(*s->low));
    s->run_start = malloc((count + 1) * sizeof(*s->run_start));
    s->run_high = malloc(count * sizeof(*s->run_high));
    s->within = calloc(count, sizeof(*s->within));
    s->ahead = calloc(count, sizeof(*s->ahead));
    s->behind = calloc(count, sizeof(*s->behind));
    if (!s->mask || !s->low || !s->run_start || !s->run_high || !s->within ||
        !s->ahead || !s->behind)
        return coterie_fail_memory(count * 40, "subsets of experts");
    for (uint32_t h = 0; h < chain->high.count; h++)
        for (uint32_t i = 0; i < chain->low.count; i++) {
            uint32_t mask = chain->high.mask[h] << half | chain->low.mask[i];
            if ((uint32_t)__builtin_popcount(mask) == chain->size)
                subsets_append(s, mask, i, h);
        }
    assert(s->count == count);
    return COTERIE_OK;
}

static void subsets_close(coterie_subsets_t *s)
{
    free(s->mask);
    free(s->low);
    free(s->run_start);
    free(s->run_high);
    free(s->within);
    free(s->ahead);
    free(s->behind);
}

static void subsets_append(coterie_subsets_t *s, uint32_t mask, uint32_t low,
                           uint32_t high)
{
    if (s->run_count == 0 || s->run_high[s->run_count - 1] != high) {
        s->run_high[s->run_count] = high;
        s->run_start[s->run_count++] = s->count;
    }
    s->mask[s->count] = mask;
    s->low[s->count++] = low;
    s->run_start[s->run_count] = s->count;
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
    chain->low_sum = calloc(chain->low.count, sizeof(*chain->low_sum));
    chain->high_sum = calloc(chain->high.count, sizeof(*chain->high_sum));
    if (!chain->layers || !chain->item || !chain->pair || !chain->seam ||
        !chain->seam_back || !chain->row || !chain->low_sum ||
        !chain->high_sum)
        return coterie_fail_memory(cells * sizeof(*chain->seam),
                                   "values of a chain");
    return COTERIE_OK;
}

/* What each expert of the next layer is worth beside this subset. */
static void seam_row(const coterie_chain_t *chain, const double *seam,
                     uint32_t mask, double *row)
{
    uint32_t e = chain->expert_count;

    memset(row, 0, e * sizeof(*row));
    for (; mask != 0; mask &= mask - 1) {
        const double *from = seam + (size_t)__builtin_ctz(mask) * e;
        for (uint32_t f = 0; f < e; f++)
            row[f] += from[f];
    }
}

/* best[t] = max over subsets s of `from` of value[s] + what s and t share: the
 * inner loop of everything exact, so one look-up and one addition a pair. */
static void seam_relax(coterie_chain_t *chain, const double *seam,
                       const coterie_subsets_t *from, const double *value,
                       coterie_subsets_t *to, double *restrict best)
{
    for (uint32_t i = 0; i < from->count; i++) {
        const double *restrict low_sum = chain->low_sum;
        const uint32_t *restrict low = to->low;
        if (i % ASK_EVERY == 0 && over(chain))
            return;
        if (value[i] == -INFINITY)
            continue;
        seam_row(chain, seam, from->mask[i], chain->row);
        halves_sum(&chain->low, chain->row, 0, chain->low_sum);
        halves_sum(&chain->high, chain->row, value[i], chain->high_sum);
        for (uint32_t r = 0; r < to->run_count; r++) {
            double high = chain->high_sum[to->run_high[r]];
            uint32_t end = to->run_start[r + 1];
            for (uint32_t t = to->run_start[r]; t < end; t++) {
                double sum = high + low_sum[low[t]];
                best[t] = sum > best[t] ? sum : best[t];
            }
        }
    }
}

static int over(const coterie_chain_t *chain)
{
    return chain->search != NULL &&
           coterie_search_over(chain->search, chain->solution);
}

static uint32_t best_from(const coterie_chain_t *chain, const double *seam,
                          uint32_t target, const coterie_subsets_t *from,
                          const double *value)
{
    double best = -INFINITY;
    uint32_t best_at = 0;

    seam_row(chain, seam, target, chain->row);
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
