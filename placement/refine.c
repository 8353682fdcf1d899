#include "config.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "placement/copies.h"
#include "placement/refine.h"
#include "placement/sample.h"
#include "placement/scores.h"

/* Annealing in epochs. Each has its heat, its toll for loads over the limit
 * and its sample, the later the larger: heat hides what a small sample does
 * not know. Between epochs all tokens are routed, and limits on the sample are
 * drawn in by what it got wrong. Scores are learned afresh as long as there is
 * heat, then stay: whom they make owner decides which replica serves, and so
 * the loads. Layers that are over their limit in the end get epochs of their
 * own. How many moves are judged follows from the time limit by a low guess of
 * the machine's speed, so that the clock seldom has a say. */

enum {
    EPOCHS = 16,
    EPOCHS_LEAST = 4,    /* where to route all tokens takes too long */
    COLD_LAST = 3,       /* epochs in which only gains are taken, of 16 */
    MENDS = 12,          /* epochs for layers over their limit, at most */
    MOVES_EACH = 200,    /* judged for a slot in an epoch, at most */
    TOKENS_FIRST = 2048, /* of the sample; */
    TOKENS_LAST = 16384,
    LEARN_TOKENS = 8192, /* for scores, between epochs */
    LEARN_ROUNDS = 4,
    SAMPLE = 256,          /* moves that say what an average loss is */
    ASK_EVERY = 16         /* moves between looks at the clock */
};

static const double TOKENS_PER_SECOND = 6e6; /* judged, at least */
static const double TIME_SHARE = 0.8,        /* for annealing */
    ROUTE_SHARE = 0.15, /* for all tokens, between epochs */
    LEARN_SHARE = 0.05, /* for scores, before the cold */
    LEARN_PASSES = 3;   /* a round: every rank that a token visits is tried */
static const double TOLL_FIRST = 2,  /* copies between nodes, a choice */
    TOLL_LAST = 6, TOLL_MEND = 50;

typedef struct refining {
    const coterie_refine_t *task;
    coterie_slots_t *slots;
    coterie_copies_t copies;
    uint32_t epochs, cold; /* in all; the first in which only gains count */
    double budget, end; /* of an epoch: tokens to judge; time */
    double heat;     /* at first, a token of the sample */
    uint32_t *layers; /* where moves are made */
    uint32_t layer_count;
    uint64_t *load;  /* [layer, rank], measured */
    uint8_t *owner;  /* [token] */
} refining_t;

typedef struct move {
    coterie_change_t change;
    uint32_t from, to; /* slots */
    int replicates;
} move_t;

static coterie_status_t refining_open(refining_t *r);
static void epochs_plan(refining_t *r);
static void refining_close(refining_t *r);
static coterie_status_t epoch_begin(refining_t *r, uint32_t epoch);
static void slots_measure(refining_t *r);
static uint32_t token_measure(refining_t *r, uint64_t token, uint32_t owner);
static coterie_status_t scores_learn(refining_t *r, int in_haste);
static void limits_draw(refining_t *r);
static uint32_t layers_over(refining_t *r);
static void epoch_run(refining_t *r, uint32_t epoch);
static double epoch_end(const refining_t *r, uint32_t epoch);
static int move_propose(refining_t *r, move_t *move);
static int slots_guided(refining_t *r, uint32_t layer, move_t *move);
static int move_legal(const refining_t *r, move_t *move);
static void move_make(refining_t *r, const move_t *move);
static double loss_measure(refining_t *r);
static double uniform(coterie_search_t *search);

coterie_status_t coterie_refine(const coterie_refine_t *task,
                                coterie_slots_t *slots)
{
    refining_t r = {.task = task, .slots = slots};
    coterie_status_t status = refining_open(&r);

    for (uint32_t e = 0; status == COTERIE_OK && e < r.epochs + MENDS; e++) {
        status = epoch_begin(&r, e);
        if (status != COTERIE_OK || (e >= r.epochs && layers_over(&r) == 0) ||
            coterie_search_over(task->search, task->solution))
            break;
        epoch_run(&r, e);
    }
    refining_close(&r);
    return status;
}

static coterie_status_t refining_open(refining_t *r)
{
    size_t cells = (size_t)r->slots->layer_count * r->slots->rank_count;

    epochs_plan(r);
    r->layer_count = r->slots->layer_count;
    r->layers = calloc(r->layer_count, sizeof(*r->layers));
    r->load = calloc(cells, sizeof(*r->load));
    r->owner = calloc(r->task->view->token_count, sizeof(*r->owner));
    if (!r->layers || !r->load || !r->owner)
        return coterie_fail_memory(cells * sizeof(*r->load), "measured loads");
    for (uint32_t l = 0; l < r->layer_count; l++)
        r->layers[l] = l;
    return COTERIE_OK;
}

static void epochs_plan(refining_t *r)
{
    double seconds = r->task->search->planned;
    double each = coterie_sample_seconds(r->task->view);

    r->epochs = (uint32_t)fmax(EPOCHS_LEAST,
                               fmin(EPOCHS, ROUTE_SHARE * seconds / each));
    r->cold = r->epochs - (r->epochs * COLD_LAST + EPOCHS - 1) / EPOCHS;
    r->budget = TOKENS_PER_SECOND * TIME_SHARE * seconds / r->epochs;
}

static void refining_close(refining_t *r)
{
    coterie_copies_close(&r->copies);
    free(r->layers);
    free(r->load);
    free(r->owner);
}

static coterie_status_t epoch_begin(refining_t *r, uint32_t epoch)
{
    const coterie_refine_t *task = r->task;
    double done = fmin(1, (double)epoch / r->epochs);
    coterie_copies_task_t sample = {
        .view = task->view, .mode = task->mode,
        .rank_count = r->slots->rank_count,
        .node_count = r->slots->node_count,
        .network_cost = task->network_cost,
        .token_count =
            TOKENS_FIRST * pow((double)TOKENS_LAST / TOKENS_FIRST, done),
        .seed = coterie_search_random(task->search), .load = task->load,
        .load_max = task->load_max};
    coterie_status_t status;

    coterie_copies_close(&r->copies);
    status = coterie_copies_open(&r->copies, &sample);
    if (status != COTERIE_OK)
        return status;
    coterie_slots_holders(r->slots, r->copies.holders);
    if (epoch <= r->cold)
        status = scores_learn(r, epoch < r->cold);
    if (status != COTERIE_OK)
        return status;
    memcpy(r->copies.scores, r->slots->next_score,
           (size_t)r->slots->layer_count * r->slots->expert_count *
               r->slots->rank_count);
    slots_measure(r);
    coterie_copies_refresh(&r->copies, r->owner);
    limits_draw(r);
    if (epoch == 0)
        r->heat = task->heat * loss_measure(r);
    r->copies.toll = task->network_cost *
                     (epoch < r->epochs
                          ? TOLL_FIRST * pow(TOLL_LAST / TOLL_FIRST, done)
                          : TOLL_MEND);
    return COTERIE_OK;
}

static coterie_status_t scores_learn(refining_t *r, int in_haste)
{
    const coterie_trace_view_t *view = r->task->view;
    uint32_t most = (uint32_t)coterie_sample_afford(
        view, LEARN_SHARE * r->task->search->planned,
        LEARN_ROUNDS * LEARN_PASSES);
    coterie_scores_task_t task = {
        .view = view, .cover = &r->copies.cover,
        .holders = r->copies.holders,
        .token_count = in_haste ? LEARN_TOKENS : most,
        .rounds = in_haste ? 1 : LEARN_ROUNDS, .search = r->task->search,
        .solution = r->task->solution};

    return coterie_scores_learn(&task, r->slots->next_score);
}

/* Routes all tokens, as coterie_measure does. Where homes do not move, few
 * sequences would have few, and draw all replicas there: they are spread. */
static void slots_measure(refining_t *r)
{
    const coterie_trace_view_t *view = r->task->view;
    uint32_t ranks = r->slots->rank_count;

    memset(r->load, 0,
           (size_t)view->layer_count * ranks * sizeof(*r->load));
    for (uint64_t s = 0; s < view->sequence_count; s++) {
        uint32_t owner = s % ranks;
        for (uint64_t t = view->seq_start[s]; t < view->seq_start[s + 1]; t++) {
            if (r->task->mode == COTERIE_MODE_TWO_PHASE)
                owner = t % ranks;
            r->owner[t] = (uint8_t)owner;
            owner = token_measure(r, t, owner);
        }
    }
}

/* @return who owns it after the last layer */
static uint32_t token_measure(refining_t *r, uint64_t token, uint32_t owner)
{
    const coterie_copies_t *c = &r->copies;
    const coterie_trace_view_t *view = r->task->view;
    const int16_t *set = view->experts + token * view->layer_count * view->k;

    for (uint32_t l = 0; l < view->layer_count; l++, set += view->k) {
        size_t row = (size_t)l * view->expert_count;
        coterie_covered_t covered;
        coterie_cover_route(&c->cover, c->holders + row, set,
                            c->mode == COTERIE_MODE_FORWARD ? COTERIE_NONE
                                                            : owner,
                            &covered);
        for (uint32_t i = 0; i < view->k; i++)
            if (set[i] >= 0)
                r->load[(size_t)l * c->rank_count + covered.serving[i]]++;
        if (c->mode == COTERIE_MODE_OWNER)
            owner = coterie_cover_next(&c->cover,
                                       c->scores + row * c->rank_count, set,
                                       covered.ranks, owner);
    }
    return owner;
}

/* Below what is asked, by as much as the sample understates any rank. */
static void limits_draw(refining_t *r)
{
    coterie_copies_t *c = &r->copies;
    double share = (double)c->token_count / r->task->view->token_count;

    for (uint32_t l = 0; c->limit != NULL && l < c->layer_count; l++) {
        double under = 0;
        for (size_t i = (size_t)l * c->rank_count;
             i < (l + 1) * (size_t)c->rank_count; i++)
            under = fmax(under, r->load[i] * share - c->load[i]);
        c->limit[l] -= under;
    }
}

/* Leaves in `layers` those in which a rank serves too much. */
static uint32_t layers_over(refining_t *r)
{
    const uint64_t *load_max = r->task->load_max;
    uint32_t ranks = r->slots->rank_count;

    r->layer_count = 0;
    for (uint32_t l = 0; load_max != NULL && l < r->slots->layer_count; l++) {
        uint64_t most = 0;
        for (size_t i = (size_t)l * ranks; i < (l + 1) * (size_t)ranks; i++)
            most = r->load[i] > most ? r->load[i] : most;
        if (most > load_max[l])
            r->layers[r->layer_count++] = l;
    }
    return r->layer_count;
}

static void epoch_run(refining_t *r, uint32_t epoch)
{
    coterie_copies_t *c = &r->copies;
    coterie_search_t *search = r->task->search;
    double left = 1 - (double)epoch / r->cold;
    double heat = left > 0 ? r->heat * left * left * c->token_count : 0;
    double budget = epoch < r->epochs ? r->budget : r->budget / MENDS;
    uint64_t moves = (uint64_t)MOVES_EACH * r->layer_count * r->slots->count;

    r->end = epoch_end(r, epoch);
    for (uint64_t i = 0; i < moves && budget > 0; i++) {
        move_t move;
        double most, more;
        if (i % ASK_EVERY == 0 &&
            (coterie_search_now() > r->end ||
             coterie_search_over(search, r->task->solution))) {
            search->cut = 1;
            break;
        }
        budget -= 1;
        if (!move_propose(r, &move))
            continue;
        most = heat > 0 ? -heat * log(uniform(search)) : 0;
        more = coterie_copies_judge(c, &move.change, most);
        coterie_copies_settle(c, &move.change, more <= most);
        budget -= c->entry_count;
        if (more <= most)
            move_make(r, &move);
    }
}

/* On a machine that is slower than was guessed, all epochs that are left are
 * cut by as much. */
static double epoch_end(const refining_t *r, uint32_t epoch)
{
    uint32_t left = epoch < r->epochs ? r->epochs - epoch : 1;

    return coterie_search_now() +
           TIME_SHARE * coterie_search_left(r->task->search) / left;
}

/* Half of all moves bring an expert to a rank that its token visits anyhow, or
 * that owns it next. */
static int move_propose(refining_t *r, move_t *move)
{
    coterie_search_t *search = r->task->search;
    const coterie_slots_t *slots = r->slots;
    uint32_t layer = r->layers[coterie_search_below(search, r->layer_count)];

    move->change.layer = layer;
    if (coterie_search_random(search) & 1) {
        if (!slots_guided(r, layer, move))
            return 0;
    } else {
        move->from = coterie_search_below(search, slots->count);
        move->to = coterie_search_below(search, slots->count);
    }
    return move_legal(r, move);
}

static int slots_guided(refining_t *r, uint32_t layer, move_t *move)
{
    const coterie_copies_t *c = &r->copies;
    const coterie_slots_t *slots = r->slots;
    coterie_search_t *search = r->task->search;
    uint32_t token = coterie_search_below(search, c->token_count);
    size_t at = (size_t)layer * c->token_count + token;
    uint32_t i = coterie_search_below(search, c->k);
    uint32_t j = coterie_search_below(search, c->k + 1), from, to;

    if (c->sets[at * c->k + i] < 0 || (j < c->k && c->sets[at * c->k + j] < 0))
        return 0;
    from = c->serving[at * c->k + i];
    to = j < c->k ? c->serving[at * c->k + j] : c->owner[at + c->token_count];
    if (from == to || to >= slots->rank_count)
        return 0;
    move->from = slots->first[from];
    while (slots->expert[(size_t)layer * slots->count + move->from] !=
           c->sets[at * c->k + i])
        move->from++;
    move->to = slots->first[to] +
               coterie_search_below(search,
                                    slots->first[to + 1] - slots->first[to]);
    return 1;
}

/* What may leave a slot because it has another is replaced, at even odds;
 * else the two slots swap. No rank holds an expert twice. */
static int move_legal(const refining_t *r, move_t *move)
{
    const coterie_slots_t *slots = r->slots;
    const int16_t *expert =
        slots->expert + (size_t)move->change.layer * slots->count;
    const uint64_t *holders = r->copies.holders +
                              (size_t)move->change.layer * slots->expert_count;
    uint64_t from = UINT64_C(1) << slots->rank[move->from];
    uint64_t to = UINT64_C(1) << slots->rank[move->to], a, b;

    move->change.expert[0] = expert[move->from];
    move->change.expert[1] = expert[move->to];
    if (from == to || expert[move->from] < 0 ||
        ((a = holders[expert[move->from]]) & to) != 0)
        return 0;
    b = expert[move->to] < 0 ? 0 : holders[expert[move->to]];
    move->replicates = (expert[move->to] < 0 || (b & (b - 1)) != 0) &&
                       (coterie_search_random(r->task->search) & 1);
    if (!move->replicates && (b & from) != 0)
        return 0;
    move->change.holders[0] = (move->replicates ? a : a & ~from) | to;
    move->change.holders[1] = move->replicates ? b & ~to : (b & ~to) | from;
    return 1;
}

static void move_make(refining_t *r, const move_t *move)
{
    int16_t *expert = r->slots->expert +
                      (size_t)move->change.layer * r->slots->count;
    int16_t replaced = expert[move->to];

    expert[move->to] = expert[move->from];
    if (!move->replicates)
        expert[move->from] = replaced;
}

/* Of a move that loses, a token. */
static double loss_measure(refining_t *r)
{
    double loss = 0;
    uint32_t seen = 0;

    for (uint32_t i = 0; i < SAMPLE; i++) {
        move_t move;
        double more;
        if (!move_propose(r, &move))
            continue;
        more = coterie_copies_judge(&r->copies, &move.change, INFINITY);
        coterie_copies_settle(&r->copies, &move.change, 0);
        loss += fmax(0, more);
        seen += more > 0;
    }
    return seen > 0 ? loss / seen / r->copies.token_count : 0;
}

static double uniform(coterie_search_t *search)
{
    return ((coterie_search_random(search) >> 11) + 0.5) * 0x1p-53;
}
