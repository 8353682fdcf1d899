#include "config.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "placement/solve/gram.h"
#include "placement/solve/parallel.h"

/* Steps of the alternating direction method of multipliers (for such
 * programmes: Wen, Goldfarb and Yin, 2010). Every entry is set to what is best
 * against its windows' pull, which takes no more than clipping; every window
 * to the nearest semidefinite matrix; and the forces between them grow by what
 * is still apart. Tolls on loads follow, a step behind. */

static size_t experts_padded(const coterie_problem_t *problem);
static coterie_status_t desks_open(coterie_gram_t *gram);
static void unit_measure(coterie_gram_t *gram);
static void loads_scale(coterie_gram_t *gram);
static void layer_step(void *arg, uint32_t thread, uint32_t layer);
static void pull_add(const coterie_gram_t *g, uint32_t seam, uint32_t half,
                     uint32_t e, float *row);
static void toll_raise(float *toll, const float *load, const float *row,
                       size_t step, uint32_t count);
static void seam_step(void *arg, uint32_t thread, uint32_t seam);
static void target_outer(const coterie_gram_t *g, uint32_t seam,
                         float *target);
static void target_tolls(coterie_gram_t *g, uint32_t seam,
                         const float *target);
static void target_join(const coterie_gram_t *g, uint32_t seam,
                        float *target);

double coterie_gram_size(const coterie_problem_t *problem)
{
    double experts = experts_padded(problem);

    return 36 * experts * experts * problem->layer_count;
}

coterie_status_t coterie_gram_open(coterie_gram_t *gram)
{
    const coterie_problem_t *p = gram->problem;
    size_t e = gram->experts = experts_padded(p);
    size_t layers = p->layer_count, cells = e * e, windows;

    /* a few windows at a time between looks at the clock */
    gram->parallel = (coterie_parallel_t){
        .thread_count = gram->search->thread_count,
        .some = 4 * gram->search->thread_count, .search = gram->search,
        .solution = gram->solution};
    gram->capacity = e / p->rank_count;
    gram->stiff = 1;
    if (desks_open(gram) != COTERIE_OK)
        return COTERIE_ERR_NO_MEMORY;
    gram->stride = gram->desks[0].eigen.stride;
    windows = (layers - 1) * 2 * e * gram->stride;
    gram->inner = calloc(layers * cells, sizeof(*gram->inner));
    gram->window = calloc(windows, sizeof(*gram->window));
    gram->force = calloc(windows, sizeof(*gram->force));
    gram->load = calloc(4 * layers * e, sizeof(*gram->load));
    gram->rest = calloc(layers, sizeof(*gram->rest));
    gram->kept = calloc(2 * layers, sizeof(*gram->kept));
    if (!gram->inner || !gram->window || !gram->force || !gram->load ||
        !gram->rest || !gram->kept)
        return coterie_fail_memory(windows * 2 * sizeof(float),
                                   "semidefinite windows");
    gram->toll = gram->load + layers * e;
    gram->toll_row = gram->toll + layers * e;
    gram->toll_column = gram->toll_row + layers * e;
    unit_measure(gram);
    if (p->load_max != NULL)
        loads_scale(gram);
    return COTERIE_OK;
}

void coterie_gram_close(coterie_gram_t *gram)
{
    for (uint32_t t = 0; gram->desks && t < gram->parallel.thread_count;
         t++) {
        coterie_eigen_close(&gram->desks[t].eigen);
        free(gram->desks[t].target);
        free(gram->desks[t].square);
    }
    free(gram->desks);
    free(gram->inner);
    free(gram->window);
    free(gram->force);
    free(gram->load);
    free(gram->rest);
    free(gram->kept);
}

double coterie_gram_weight(const coterie_gram_t *gram, uint32_t layer,
                           int next, uint32_t e, uint32_t f)
{
    uint32_t count = gram->problem->expert_count;
    const float *weight = next ? coterie_problem_seam(gram->problem, layer)
                               : coterie_problem_pair(gram->problem, layer);

    if (weight == NULL || e >= count || f >= count)
        return 0;
    return weight[(size_t)e * count + f] / gram->unit;
}

int coterie_gram_step(coterie_gram_t *gram, coterie_gram_rest_t *rest_p)
{
    coterie_gram_rest_t rest = {0, 0};
    uint32_t layers = gram->problem->layer_count;

    if (coterie_parallel(&gram->parallel, layers, layer_step, gram) != 0 ||
        coterie_parallel(&gram->parallel, layers - 1, seam_step, gram) != 0)
        return -1;
    for (uint32_t l = 0; l + 1 < layers; l++) {
        rest.apart += gram->rest[l].apart;
        rest.moved += gram->rest[l].moved;
    }
    *rest_p = rest;
    return 0;
}

void coterie_gram_stiffen(coterie_gram_t *gram, double factor)
{
    size_t layers = gram->problem->layer_count, e = gram->experts;
    size_t windows = (layers - 1) * 2 * e * gram->stride;

    gram->stiff *= factor;
    for (size_t i = 0; i < windows; i++)
        gram->force[i] /= factor;
    for (size_t i = 0; i < 3 * layers * e; i++)
        gram->toll[i] /= factor;
}

void coterie_gram_center(const coterie_gram_t *gram, float *matrix)
{
    uint32_t e = gram->experts;

    for (uint32_t i = 0; i < 4 * e; i++) {
        float *row = matrix + (size_t)(i / 2) * gram->stride + i % 2 * e;
        double mean = 0;
        for (uint32_t j = 0; j < e; j++)
            mean += row[j];
        for (uint32_t j = 0; j < e; j++)
            row[j] -= mean / e;
    }
    for (uint32_t i = 0; i < 4 * e; i++) {
        float *column = matrix + (size_t)(i % 2) * e * gram->stride + i / 2;
        double mean = 0;
        for (uint32_t j = 0; j < e; j++)
            mean += column[(size_t)j * gram->stride];
        for (uint32_t j = 0; j < e; j++)
            column[(size_t)j * gram->stride] -= mean / e;
    }
}

static size_t experts_padded(const coterie_problem_t *problem)
{
    return (size_t)problem->rank_count * problem->capacity[0];
}

static coterie_status_t desks_open(coterie_gram_t *gram)
{
    size_t n = 2 * (size_t)gram->experts;

    gram->desks = calloc(gram->parallel.thread_count, sizeof(*gram->desks));
    for (uint32_t t = 0; gram->desks && t < gram->parallel.thread_count;
         t++) {
        coterie_gram_desk_t *desk = &gram->desks[t];
        coterie_status_t status = coterie_eigen_open(&desk->eigen, n);
        size_t window = n * desk->eigen.stride;
        if (status != COTERIE_OK)
            return status;
        /* whole vectors, aligned as the eigenvectors' rows */
        desk->target = aligned_alloc(COTERIE_EIGEN_ALIGN,
                                     2 * window * sizeof(float));
        desk->square = malloc((n * n + 2 * n) * sizeof(double));
        if (desk->target == NULL || desk->square == NULL)
            return coterie_fail_memory(n * n * sizeof(double), "a window");
        memset(desk->target, 0, 2 * window * sizeof(float));
        desk->positive = desk->target + window;
        desk->weight = desk->target;
        desk->work = desk->square + n * n;
    }
    return gram->desks != NULL
               ? COTERIE_OK
               : coterie_fail_memory(sizeof(*gram->desks),
                                     "windows");
}

static void unit_measure(coterie_gram_t *gram)
{
    const coterie_problem_t *p = gram->problem;
    double cells = (double)p->layer_count * p->expert_count * p->expert_count;
    double weight = coterie_problem_seam_weight(p) +
                    coterie_problem_pair_weight(p);

    gram->unit = weight > 0 ? weight / cells : 1;
}

static void loads_scale(coterie_gram_t *gram)
{
    const coterie_problem_t *p = gram->problem;
    uint32_t count = p->expert_count;

    for (uint32_t l = 0; l < p->layer_count; l++)
        for (uint32_t e = 0; e < count && p->load_max[l] > 0; e++)
            gram->load[(size_t)l * gram->experts + e] =
                (double)p->load[(size_t)l * count + e] / p->load_max[l];
}

/* A layer's entries lie in the windows before and after it. */
static void layer_step(void *arg, uint32_t thread, uint32_t layer)
{
    coterie_gram_t *g = arg;
    uint32_t e = g->experts, layers = g->problem->layer_count;
    float windows = (layer > 0) + (layer + 1 < layers);
    float *inner = g->inner + (size_t)layer * e * e;
    const float *load = g->load + (size_t)layer * e;
    float *toll = g->toll + (size_t)layer * e;

    (void)thread;
    memset(inner, 0, (size_t)e * e * sizeof(*inner));
    for (uint32_t i = 0; i < e; i++) {
        float *row = inner + (size_t)i * e;
        if (layer > 0)
            pull_add(g, layer - 1, 1, i, row);
        if (layer + 1 < layers)
            pull_add(g, layer, 0, i, row);
        for (uint32_t j = 0; g->problem->pair != NULL && j < e; j++)
            row[j] += coterie_gram_weight(g, layer, 0, i, j) / (2 * g->stiff);
        for (uint32_t j = 0; j < e; j++) {
            float tolls = (toll[i] * load[j] + toll[j] * load[i]) / 2;
            row[j] = fmaxf(0, (row[j] - tolls) / windows);
        }
        row[i] = 1;
    }
    for (uint32_t i = 0; g->problem->load_max != NULL && i < e; i++)
        toll_raise(&toll[i], load, inner + (size_t)i * e, 1, e);
}

/* What a window would have row e of a layer's entries be. */
static void pull_add(const coterie_gram_t *g, uint32_t seam, uint32_t half,
                     uint32_t e, float *row)
{
    const float *window = coterie_gram_row(g, g->window, seam, half, half, e);
    const float *force = coterie_gram_row(g, g->force, seam, half, half, e);
    float even = 1.0f / g->problem->rank_count;

    for (uint32_t f = 0; f < g->experts; f++)
        row[f] += even + window[f] - force[f];
}

/* By as much as would bring a row within its limit, were nothing clipped. */
static void toll_raise(float *toll, const float *load, const float *row,
                       size_t step, uint32_t count)
{
    float over = -1, square = 0;

    for (uint32_t f = 0; f < count; f++) {
        over += load[f] * row[f * step];
        square += load[f] * load[f];
    }
    if (square > 0)
        *toll = fmaxf(0, *toll + over / square);
}

static void seam_step(void *arg, uint32_t thread, uint32_t seam)
{
    coterie_gram_t *g = arg;
    coterie_gram_desk_t *desk = &g->desks[thread];
    size_t cells = 2 * (size_t)g->experts * g->stride;
    float *window = g->window + seam * cells, *force = g->force + seam * cells;
    coterie_gram_rest_t rest = {0, 0};

    target_outer(g, seam, desk->target);
    if (g->problem->load_max != NULL)
        target_tolls(g, seam, desk->target);
    target_join(g, seam, desk->target);
    for (size_t i = 0; i < cells; i++)
        desk->eigen.matrix[i] = force[i] + desk->target[i];
    coterie_gram_center(g, desk->eigen.matrix);
    coterie_eigen_positive(&desk->eigen, desk->positive);
    for (size_t i = 0; i < cells; i++) {
        float apart = desk->target[i] - desk->positive[i];
        float moved = desk->positive[i] - window[i];
        rest.apart += apart * apart;
        rest.moved += moved * moved;
        force[i] += apart;
        window[i] = desk->positive[i];
    }
    g->rest[seam] = rest;
}

/* Entries between two layers: in one window only. */
static void target_outer(const coterie_gram_t *g, uint32_t seam,
                         float *target)
{
    uint32_t e = g->experts;
    const float *load = g->load + (size_t)seam * e, *next = load + e;
    const float *toll_row = g->toll_row + (size_t)seam * e;
    const float *toll_column = g->toll_column + (size_t)seam * e;
    float even = 1.0f / g->problem->rank_count;

    for (uint32_t i = 0; i < e; i++) {
        const float *window = coterie_gram_row(g, g->window, seam, 0, 1, i);
        const float *force = coterie_gram_row(g, g->force, seam, 0, 1, i);
        float *row = target + (size_t)i * g->stride + e;
        for (uint32_t j = 0; j < e; j++) {
            float tolls = toll_row[i] * next[j] + toll_column[j] * load[i];
            float gain = coterie_gram_weight(g, seam, 1, i, j) / g->stiff;
            row[j] = fmaxf(0, even + window[j] - force[j] +
                                  (gain - tolls) / 2);
        }
    }
}

static void target_tolls(coterie_gram_t *g, uint32_t seam,
                         const float *target)
{
    uint32_t e = g->experts;
    const float *load = g->load + (size_t)seam * e;

    for (uint32_t i = 0; i < e; i++) {
        toll_raise(&g->toll_row[(size_t)seam * e + i], load + e,
                   target + (size_t)i * g->stride + e, 1, e);
        toll_raise(&g->toll_column[(size_t)seam * e + i], load,
                   target + e + i, g->stride, e);
    }
}

/* Completes the target by both layers' entries, and takes the mean off. */
static void target_join(const coterie_gram_t *g, uint32_t seam, float *target)
{
    uint32_t e = g->experts;
    const float *inner = g->inner + (size_t)seam * e * e;
    float even = 1.0f / g->problem->rank_count;

    for (uint32_t i = 0; i < e; i++) {
        float *up = target + (size_t)i * g->stride;
        float *down = target + (size_t)(e + i) * g->stride;
        for (uint32_t j = 0; j < e; j++) {
            up[j] = inner[(size_t)i * e + j] - even;
            down[e + j] = inner[((size_t)e + i) * e + j] - even;
            up[e + j] -= even;
            target[(size_t)(e + j) * g->stride + i] = up[e + j];
        }
    }
}
