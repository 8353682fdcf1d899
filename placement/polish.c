#include "config.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "placement/polish.h"

/* Annealed swaps, from a good start and not very hot. Every token's set of
 * ranks at every layer is kept as one word, and a swap is judged on the tokens
 * that chose either expert. */

enum {
    TOKENS_MAX = 4096, /* of the trace, evenly spread */
    MOVES_EACH = 200,  /* proposals per expert and layer */
    ASK_EVERY = 64     /* proposals between looks at the clock */
};

static const double HEAT = 0.1; /* at first, in average losses */

typedef struct polish {
    const coterie_trace_view_t *view;
    const coterie_problem_t *problem;
    coterie_mode_t mode;
    coterie_search_t *search;
    uint16_t *rank_of;
    uint64_t token_count;
    uint64_t *ranks;     /* [token, layer]: the set, a bit each */
    uint32_t *first;     /* [layer * expert + 1]: its tokens, in `chose` */
    uint32_t *chose;
    uint64_t *rank_load; /* [layer, rank] */
    double share[COTERIE_K_MAX + 1]; /* 1 / n */
} polish_t;

typedef struct exchange {
    uint32_t layer, a, b;
    uint16_t rank_a, rank_b;
} exchange_t;

static coterie_status_t polish_open(polish_t *p);
static void polish_close(polish_t *p);
static void tokens_list(polish_t *p);
static const int16_t *chosen(const polish_t *p, uint64_t token,
                             uint32_t layer);
static uint64_t ranks_of(const polish_t *p, uint64_t token, uint32_t layer,
                         const exchange_t *exchange);
static int exchange_propose(const polish_t *p, exchange_t *exchange);
static int load_allows(const polish_t *p, const exchange_t *exchange);
static double exchange_judge(polish_t *p, const exchange_t *exchange);
static void exchange_make(polish_t *p, const exchange_t *exchange);
static double layer_copies(const polish_t *p, uint64_t token, uint32_t layer,
                           uint64_t ranks);
static double set_copies(const polish_t *p, uint64_t ranks);
static double seam_copies(const polish_t *p, uint64_t from, uint64_t to);
static double average_loss(polish_t *p);

coterie_status_t coterie_polish(const coterie_trace_view_t *view,
                                const coterie_problem_t *problem,
                                coterie_mode_t mode,
                                coterie_search_t *search,
                                const coterie_solution_t *solution,
                                uint16_t *rank_of)
{
    polish_t p = {.view = view, .problem = problem, .mode = mode,
                  .search = search, .rank_of = rank_of};
    uint64_t moves = (uint64_t)problem->layer_count * problem->expert_count *
                     MOVES_EACH;
    double begin = coterie_search_now(), time = coterie_search_left(search);
    double heat, left = 1;
    coterie_status_t status = polish_open(&p);

    heat = status == COTERIE_OK ? HEAT * average_loss(&p) : 0;
    for (uint64_t i = 0; status == COTERIE_OK; i++) {
        exchange_t exchange;
        double loss;
        if (i % ASK_EVERY == 0) {
            left = 1 - fmax((coterie_search_now() - begin) / time,
                            (double)i / moves);
            if (left <= 0 || coterie_search_over(search, solution))
                break;
        }
        if (!exchange_propose(&p, &exchange))
            continue;
        loss = exchange_judge(&p, &exchange);
        if (loss > 0 && (coterie_search_random(search) >> 11) * 0x1p-53 >
                            exp(-loss / (heat * left * left)))
            continue;
        exchange_make(&p, &exchange);
    }
    polish_close(&p);
    return status;
}

static coterie_status_t polish_open(polish_t *p)
{
    size_t layers = p->problem->layer_count, k = p->view->k;
    size_t items = layers * p->problem->expert_count;

    p->token_count = p->view->token_count < TOKENS_MAX ? p->view->token_count
                                                       : TOKENS_MAX;
    for (uint32_t n = 1; n <= COTERIE_K_MAX; n++)
        p->share[n] = 1.0 / n;
    p->ranks = calloc(p->token_count * layers, sizeof(*p->ranks));
    p->first = calloc(items + 1, sizeof(*p->first));
    p->chose = calloc(p->token_count * layers * k, sizeof(*p->chose));
    p->rank_load = calloc(layers * p->problem->rank_count,
                          sizeof(*p->rank_load));
    if (!p->ranks || !p->first || !p->chose || !p->rank_load)
        return coterie_fail_memory(p->token_count * layers * (8 + 4 * k),
                                   "polishing a placement");
    tokens_list(p);
    for (size_t i = 0; i < items; i++)
        p->rank_load[i / p->problem->expert_count * p->problem->rank_count +
                     p->rank_of[i]] += p->problem->load[i];
    for (uint64_t t = 0; t < p->token_count; t++)
        for (uint32_t l = 0; l < layers; l++)
            p->ranks[t * layers + l] = ranks_of(p, t, l, NULL);
    return COTERIE_OK;
}

static void polish_close(polish_t *p)
{
    free(p->ranks);
    free(p->first);
    free(p->chose);
    free(p->rank_load);
}

static void tokens_list(polish_t *p)
{
    uint32_t layers = p->problem->layer_count, e = p->problem->expert_count;
    size_t items = (size_t)layers * e;

    for (int filling = 0; filling < 2; filling++) {
        for (uint64_t t = 0; t < p->token_count; t++)
            for (uint32_t i = 0; i < layers * p->view->k; i++) {
                uint32_t l = i / p->view->k;
                int16_t expert = chosen(p, t, l)[i % p->view->k];
                size_t item = (size_t)l * e + expert;
                if (expert < 0)
                    continue;
                if (filling)
                    p->chose[--p->first[item]] = t;
                else
                    p->first[item]++;
            }
        for (size_t i = 0; !filling && i < items; i++)
            p->first[i + 1] += p->first[i];
    }
}

static const int16_t *chosen(const polish_t *p, uint64_t token, uint32_t layer)
{
    uint64_t t = token * p->view->token_count / p->token_count;

    return p->view->experts +
           (t * p->view->layer_count + layer) * p->view->k;
}

/* A token's ranks at a layer, after an exchange if there is one. */
static uint64_t ranks_of(const polish_t *p, uint64_t token, uint32_t layer,
                         const exchange_t *exchange)
{
    const int16_t *set = chosen(p, token, layer);
    const uint16_t *rank_of =
        p->rank_of + (size_t)layer * p->problem->expert_count;
    uint64_t ranks = 0;

    for (uint32_t i = 0; i < p->view->k; i++) {
        uint16_t rank;
        if (set[i] < 0)
            continue;
        rank = rank_of[set[i]];
        if (exchange != NULL && (uint32_t)set[i] == exchange->a)
            rank = exchange->rank_b;
        else if (exchange != NULL && (uint32_t)set[i] == exchange->b)
            rank = exchange->rank_a;
        ranks |= UINT64_C(1) << rank;
    }
    return ranks;
}

static int exchange_propose(const polish_t *p, exchange_t *x)
{
    const uint16_t *rank_of;

    x->layer = coterie_search_below(p->search, p->problem->layer_count);
    x->a = coterie_search_below(p->search, p->problem->expert_count);
    x->b = coterie_search_below(p->search, p->problem->expert_count);
    rank_of = p->rank_of + (size_t)x->layer * p->problem->expert_count;
    x->rank_a = rank_of[x->a];
    x->rank_b = rank_of[x->b];
    return x->rank_a != x->rank_b && load_allows(p, x);
}

static int load_allows(const polish_t *p, const exchange_t *x)
{
    const uint64_t *load =
        p->problem->load + (size_t)x->layer * p->problem->expert_count;
    const uint64_t *rank_load =
        p->rank_load + (size_t)x->layer * p->problem->rank_count;
    uint64_t more = load[x->b] - load[x->a]; /* modulo 2^64, as sums are */

    return p->problem->load_max == NULL ||
           (rank_load[x->rank_a] + more <= p->problem->load_max[x->layer] &&
            rank_load[x->rank_b] - more <= p->problem->load_max[x->layer]);
}

/* Copies more. Tokens that chose both experts keep their ranks. */
static double exchange_judge(polish_t *p, const exchange_t *x)
{
    size_t layer_at = (size_t)x->layer * p->problem->expert_count;
    uint32_t layers = p->problem->layer_count;
    double more = 0;

    for (int side = 0; side < 2; side++) {
        size_t item = layer_at + (side ? x->b : x->a);
        for (uint32_t i = p->first[item]; i < p->first[item + 1]; i++) {
            uint64_t t = p->chose[i], now = p->ranks[t * layers + x->layer];
            uint64_t then = ranks_of(p, t, x->layer, x);
            if (then != now)
                more += layer_copies(p, t, x->layer, then) -
                        layer_copies(p, t, x->layer, now);
        }
    }
    return more;
}

static void exchange_make(polish_t *p, const exchange_t *x)
{
    size_t layer_at = (size_t)x->layer * p->problem->expert_count;
    uint32_t layers = p->problem->layer_count;
    uint64_t *rank_load =
        p->rank_load + (size_t)x->layer * p->problem->rank_count;
    uint64_t more = p->problem->load[layer_at + x->b] -
                    p->problem->load[layer_at + x->a];

    rank_load[x->rank_a] += more;
    rank_load[x->rank_b] -= more;
    p->rank_of[layer_at + x->a] = x->rank_b;
    p->rank_of[layer_at + x->b] = x->rank_a;
    for (int side = 0; side < 2; side++) {
        size_t item = layer_at + (side ? x->b : x->a);
        for (uint32_t i = p->first[item]; i < p->first[item + 1]; i++) {
            uint64_t t = p->chose[i];
            p->ranks[t * layers + x->layer] = ranks_of(p, t, x->layer, NULL);
        }
    }
}

/* What a token's ranks at one layer cost there and on both sides. */
static double layer_copies(const polish_t *p, uint64_t token, uint32_t layer,
                           uint64_t ranks)
{
    const uint64_t *at = p->ranks + token * p->problem->layer_count + layer;
    double copies = set_copies(p, ranks);

    if (layer > 0)
        copies += seam_copies(p, at[-1], ranks);
    if (layer + 1 < p->problem->layer_count)
        copies += seam_copies(p, ranks, at[1]);
    return copies;
}

/* Out to every rank but one, and back. Ranks outside the fullest node are
 * reached over the network. */
static double set_copies(const polish_t *p, uint64_t ranks)
{
    uint32_t size = p->problem->rank_count / p->problem->node_count;
    uint64_t node = (UINT64_C(2) << (size - 1)) - 1;
    double count = __builtin_popcountll(ranks), near = 0;

    if (p->mode == COTERIE_MODE_FORWARD)
        return 0; /* all of it lies between layers */
    if (p->problem->node_count == 1)
        return 2 * count;
    for (uint32_t n = 0; n < p->problem->node_count; n++)
        near = fmax(near, __builtin_popcountll(ranks >> (n * size) & node));
    return 2 * (near + p->problem->network_cost * (count - near));
}

/* The owner is missed as often as one of the ranks drawn at random would be:
 * scores choose better, but that gave placements no better. */
static double seam_copies(const polish_t *p, uint64_t from, uint64_t to)
{
    int both = __builtin_popcountll(from & to);
    int count = __builtin_popcountll(from);

    if (p->mode == COTERIE_MODE_TWO_PHASE)
        return 0;
    if (p->mode == COTERIE_MODE_FORWARD)
        return count * __builtin_popcountll(to) - both;
    return 1 - both * p->share[count];
}

static double average_loss(polish_t *p)
{
    double loss = 0;
    uint32_t seen = 1;

    for (uint32_t i = 0; i < ASK_EVERY; i++) {
        exchange_t exchange;
        double more;
        if (!exchange_propose(p, &exchange))
            continue;
        more = exchange_judge(p, &exchange);
        loss += more > 0 ? more : 0;
        seen += more > 0;
    }
    return loss / seen;
}
