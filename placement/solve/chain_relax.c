#include "config.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "placement/solve/chain.h"
#include "placement/solve/machine.h"

/* The inner loop of everything exact: one addition for every two subsets. A
 * subset's sum is that of its halves, so that all subsets which have so many
 * experts in each half make a table; where few are left out, sums of whole
 * tables, without look-ups, are faster than only those that count. */

enum {
    ASK_EVERY = 64, /* subsets to start from */
    FEW = 8,        /* times as many in tables: look-ups are faster */
    LANES = COTERIE_CHAIN_LANES
};

typedef double lanes_t
    __attribute__((vector_size(LANES * sizeof(double)), aligned(8)));
typedef int64_t mask_t
    __attribute__((vector_size(LANES * sizeof(double)), aligned(8)));

/* Of the subsets with so many experts in the low half, and the rest in the
 * high one: a row for each of whichever halves there are fewer of. */
typedef struct table {
    uint32_t lows, highs; /* how many halves; none: there is no such table */
    uint32_t rows, row_lanes;
} table_t;

static table_t table_of(const coterie_chain_t *chain, uint32_t size);
static void halves_sum(const coterie_halves_t *halves, const double *value,
                       double start, double *sum);
static void some_relax(const coterie_chain_t *chain,
                       const coterie_subsets_t *to, double *best);
static void all_relax(const coterie_chain_t *chain);
static void table_relax(const table_t *table, const double *few,
                        const double *many, double *best);
static int over(const coterie_chain_t *chain);

size_t coterie_chain_cells(const coterie_chain_t *chain)
{
    size_t cells = 0;

    for (uint32_t size = 0; size <= chain->size; size++) {
        table_t table = table_of(chain, size);
        cells += (size_t)table.rows * table.row_lanes * LANES;
    }
    return cells;
}

void coterie_chain_subsets(const coterie_chain_t *chain,
                           coterie_subsets_t *subsets)
{
    uint32_t half = chain->expert_count / 2, first = 0;

    for (uint32_t size = 0; size <= chain->size; size++) {
        table_t table = table_of(chain, size);
        uint32_t row = table.row_lanes * LANES;
        for (uint32_t i = 0; i < table.lows * table.highs; i++) {
            uint32_t at = subsets->count++;
            uint32_t low = i % table.lows, high = i / table.lows;
            subsets->at[at] = first + (table.lows > table.highs
                                           ? high * row + low
                                           : low * row + high);
            low += chain->low.start[size];
            high += chain->high.start[chain->size - size];
            subsets->low[at] = low;
            subsets->high[at] = high;
            subsets->mask[at] =
                chain->low.mask[low] | chain->high.mask[high] << half;
        }
        first += table.rows * row;
    }
}

void coterie_chain_row(const coterie_chain_t *chain, const double *seam,
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

void coterie_chain_relax(coterie_chain_t *chain, const double *seam,
                         const coterie_subsets_t *from, const double *value,
                         coterie_subsets_t *to, double *best)
{
    size_t cells = coterie_chain_cells(chain);
    int few = to->count < cells / FEW;

    for (size_t i = 0; i < cells; i++)
        chain->all[i] = -INFINITY;
    for (uint32_t i = 0; i < from->count; i++) {
        if (i % ASK_EVERY == 0 && over(chain))
            return;
        if (value[i] == -INFINITY)
            continue;
        coterie_chain_row(chain, seam, from->mask[i], chain->row);
        halves_sum(&chain->low, chain->row, 0, chain->low_sum);
        halves_sum(&chain->high, chain->row, value[i], chain->high_sum);
        if (few)
            some_relax(chain, to, best);
        else
            all_relax(chain);
    }
    for (uint32_t t = 0; !few && t < to->count; t++)
        best[t] = chain->all[to->at[t]];
}

static table_t table_of(const coterie_chain_t *chain, uint32_t size)
{
    uint32_t rest = chain->size - size, most;
    table_t table = {.lows = 0};

    if (size >= COTERIE_HALF_SIZES || rest >= COTERIE_HALF_SIZES)
        return table;
    table.lows = chain->low.start[size + 1] - chain->low.start[size];
    table.highs = chain->high.start[rest + 1] - chain->high.start[rest];
    if (table.lows == 0 || table.highs == 0)
        return (table_t){.lows = 0};
    most = table.lows > table.highs ? table.lows : table.highs;
    table.rows = table.lows > table.highs ? table.highs : table.lows;
    table.row_lanes = (most + LANES - 1) / LANES;
    return table;
}

static void halves_sum(const coterie_halves_t *halves, const double *value,
                       double start, double *sum)
{
    sum[0] = start;
    for (uint32_t i = 1; i < halves->count; i++)
        sum[i] = sum[halves->parent[i]] + value[halves->added[i]];
}

static void some_relax(const coterie_chain_t *chain,
                       const coterie_subsets_t *to, double *best)
{
    for (uint32_t t = 0; t < to->count; t++) {
        double sum = chain->high_sum[to->high[t]] + chain->low_sum[to->low[t]];
        best[t] = sum > best[t] ? sum : best[t];
    }
}

static void all_relax(const coterie_chain_t *chain)
{
    double *best = chain->all;

    for (uint32_t size = 0; size <= chain->size; size++) {
        table_t table = table_of(chain, size);
        const double *low = chain->low_sum, *high = chain->high_sum;
        if (table.rows == 0)
            continue;
        low += chain->low.start[size];
        high += chain->high.start[chain->size - size];
        if (table.lows > table.highs)
            table_relax(&table, high, low, best);
        else
            table_relax(&table, low, high, best);
        best += (size_t)table.rows * table.row_lanes * LANES;
    }
}

/* Rows are whole lanes: what is beyond them in `many` is summed for nothing. */
EACH_MACHINE
static void table_relax(const table_t *table, const double *few,
                        const double *many, double *best)
{
    lanes_t *row = (lanes_t *)best;

    for (uint32_t i = 0; i < table->rows; i++, row += table->row_lanes)
        for (uint32_t j = 0; j < table->row_lanes; j++) {
            lanes_t sum = few[i] + ((const lanes_t *)many)[j], was = row[j];
            mask_t more = sum > was;
            row[j] = (lanes_t)(((mask_t)sum & more) | ((mask_t)was & ~more));
        }
}

static int over(const coterie_chain_t *chain)
{
    return chain->search != NULL &&
           coterie_search_over(chain->search, chain->solution);
}
