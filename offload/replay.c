/* A cache that holds nothing but names, fed by a trace. The order in which a
 * layer's experts are served is fixed and they are all kept while it lasts, so
 * that a larger cache always holds what a smaller one does (policy.h). */
#include "config.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/options.h"
#include "offload/forecast.h"
#include "offload/player.h"

enum { PROGRESS_TOKENS = 256, SEED_USES = 8 };

typedef struct cache {
    coterie_policy_t *policy;
    uint8_t *resident; /* [item] */
    uint32_t count, slots;
    uint64_t hits;
} cache_t;

/* Everything a trace will need, known beforehand: for Belady's rule. */
typedef struct schedule {
    uint32_t *items;    /* [count], layer by layer */
    uint64_t *next_use; /* [count]: when the item is needed again */
    uint64_t *last;     /* [need]: where the need's items end */
    uint64_t count, needs, counted_from; /* need */
} schedule_t;

typedef struct hot_item {
    uint64_t count;
    uint32_t item;
} hot_item_t;

typedef struct replay {
    const coterie_trace_view_t *view;
    coterie_replay_options_t options;
    coterie_replay_result_t result;
    uint32_t item_count;
    uint64_t *uses; /* [item]: of counted tokens */
    schedule_t schedule;
} replay_t;

static coterie_status_t options_check(const coterie_trace_view_t *view,
                                      coterie_replay_options_t *options);
static coterie_status_t policy_replay(replay_t *replay);
static coterie_status_t preload(replay_t *replay, cache_t *cache,
                                coterie_forecast_t *forecast);
static int is_hotter(const void *a, const void *b);
static void policy_play(replay_t *replay, cache_t *cache,
                        coterie_player_t *player,
                        coterie_forecast_t *forecast);
static int need_counts(const replay_t *replay, const coterie_need_t *need);
static coterie_status_t optimum_replay(replay_t *replay);
static coterie_status_t schedule_make(replay_t *replay);
static coterie_status_t schedule_link(replay_t *replay);
static coterie_status_t cache_make(cache_t *cache,
                                   coterie_policy_kind_t policy,
                                   const replay_t *replay);
static void cache_free(cache_t *cache);
static void cache_serve(cache_t *cache, const uint32_t *items,
                        uint32_t count);
static void room_make(cache_t *cache, const uint32_t *items, uint32_t at,
                      uint32_t count);
static void hot_update(replay_t *replay);

coterie_status_t coterie_cache_replay(const coterie_trace_view_t *trace,
                                      const coterie_replay_options_t *options,
                                      coterie_replay_result_t *result)
{
    replay_t replay = {.view = trace,
                       .result = COTERIE_REPLAY_RESULT_INIT,
                       .item_count = trace->layer_count * trace->expert_count};
    coterie_status_t status =
        coterie_options_read(options, &replay.options, sizeof(replay.options),
                             "coterie_cache_replay");

    if (status == COTERIE_OK)
        status = options_check(trace, &replay.options);
    if (status != COTERIE_OK)
        return status;
    replay.uses = calloc(replay.item_count, sizeof(*replay.uses));
    if (replay.uses == NULL)
        return coterie_fail_memory(replay.item_count * sizeof(uint64_t),
                                   "counting uses");
    status = optimum_replay(&replay);
    if (status == COTERIE_OK)
        status = policy_replay(&replay);
    if (status == COTERIE_OK) {
        hot_update(&replay);
        if (result->size < replay.result.size)
            replay.result.size = result->size; /* an older caller's */
        memcpy(result, &replay.result, replay.result.size);
    }
    free(replay.uses);
    return status;
}

static coterie_status_t options_check(const coterie_trace_view_t *view,
                                      coterie_replay_options_t *options)
{
    uint32_t experts = view->layer_count * view->expert_count;

    if (options->streams == 0)
        options->streams = 1;
    if (options->slots == 0)
        return coterie_fail(COTERIE_ERR_INVALID,
                            "the budget is too small for one expert");
    if (options->slots > experts)
        options->slots = experts;
    if (options->first_counted >= view->token_count)
        return coterie_fail(COTERIE_ERR_INVALID,
                            "no token is left to count: all %llu warm up",
                            (unsigned long long)view->token_count);
    if (options->streams > view->sequence_count)
        options->streams = (uint32_t)view->sequence_count;
    return COTERIE_OK;
}

static coterie_status_t policy_replay(replay_t *replay)
{
    const coterie_trace_view_t *view = replay->view;
    coterie_policy_kind_t kind = (coterie_policy_kind_t)replay->options.policy;
    coterie_forecast_t *forecast = NULL;
    coterie_player_t *player = NULL;
    cache_t cache = {0};
    uint32_t reach = 1;
    coterie_status_t status = cache_make(&cache, kind, replay);

    if (status == COTERIE_OK && kind == COTERIE_POLICY_COST)
        status = coterie_forecast_create(view->layer_count,
                                         view->expert_count, view->k,
                                         &forecast);
    if (status == COTERIE_OK && forecast != NULL)
        reach = coterie_forecast_reach(forecast);
    if (status == COTERIE_OK)
        status = coterie_player_create(view, replay->options.streams, reach,
                                       &player);
    if (status == COTERIE_OK && replay->options.hot != NULL)
        status = preload(replay, &cache, forecast);
    if (status == COTERIE_OK)
        policy_play(replay, &cache, player, forecast);
    coterie_player_destroy(player);
    coterie_forecast_destroy(forecast);
    cache_free(&cache);
    return status;
}

/* Fills the cache with what was hot, and tells the policy how hot it was. */
static coterie_status_t preload(replay_t *replay, cache_t *cache,
                                coterie_forecast_t *forecast)
{
    const uint64_t *hot = replay->options.hot;
    hot_item_t *order = malloc(replay->item_count * sizeof(*order));
    uint32_t count = 0;

    if (order == NULL)
        return coterie_fail_memory(replay->item_count * sizeof(*order),
                                   "sorting hot counts");
    for (uint32_t item = 0; item < replay->item_count; item++)
        order[item] = (hot_item_t){hot[item], item};
    qsort(order, replay->item_count, sizeof(*order), is_hotter);
    while (count < cache->slots && order[count].count > 0)
        count++;
    if (forecast != NULL)
        coterie_forecast_seed(forecast, hot, cache->policy);
    /* The coldest first, so that lists of use begin with them. */
    for (uint32_t i = count; i-- > 0;) {
        uint64_t uses = SEED_USES * order[i].count / order[0].count;
        for (uint64_t use = 0; use < uses; use++)
            coterie_policy_used(cache->policy, order[i].item);
        cache->resident[order[i].item] = 1;
        coterie_policy_offer(cache->policy, order[i].item);
    }
    cache->count = count;
    replay->result.preloaded = count;
    free(order);
    return COTERIE_OK;
}

static int is_hotter(const void *a, const void *b)
{
    const hot_item_t *x = a, *y = b;

    if (x->count != y->count)
        return x->count > y->count ? -1 : 1;
    return x->item < y->item ? -1 : 1;
}

static void policy_play(replay_t *replay, cache_t *cache,
                        coterie_player_t *player,
                        coterie_forecast_t *forecast)
{
    const coterie_replay_options_t *options = &replay->options;
    coterie_replay_result_t *result = &replay->result;
    coterie_need_t need;

    for (uint64_t i = 0; coterie_player_next(player, &need); i++) {
        int counts = need_counts(replay, &need);
        uint64_t before = cache->hits;
        uint32_t layer;

        for (uint32_t j = 0; j < need.count; j++)
            coterie_policy_used(cache->policy, need.items[j]);
        if (forecast != NULL) {
            coterie_forecast_note(forecast, i, need.histories,
                                  need.history_count);
            layer = (uint32_t)(i % replay->view->layer_count);
            coterie_forecast_expect(forecast, layer,
                                    coterie_forecast_absent(forecast, layer),
                                    cache->policy);
        }
        cache_serve(cache, need.items, need.count);
        for (uint32_t j = 0; j < need.count && counts; j++)
            replay->uses[need.items[j]]++;
        result->uses += counts ? need.count : 0;
        result->hits += counts ? cache->hits - before : 0;
        if (i % replay->view->layer_count != 0)
            continue;
        result->tokens += counts ? need.history_count : 0;
        if (options->progress != NULL &&
            i / replay->view->layer_count % PROGRESS_TOKENS == 0)
            options->progress(options->progress_arg, need.tokens_done,
                              replay->view->token_count);
    }
    result->misses = result->uses - result->hits;
}

/* Of a step: all its tokens, once none of them is a warm-up's. */
static int need_counts(const replay_t *replay, const coterie_need_t *need)
{
    return need->first_token >= replay->options.first_counted;
}

static coterie_status_t optimum_replay(replay_t *replay)
{
    schedule_t *schedule = &replay->schedule;
    cache_t cache = {0};
    uint64_t at = 0;
    coterie_status_t status = schedule_make(replay);

    if (status == COTERIE_OK)
        status = schedule_link(replay);
    if (status == COTERIE_OK)
        status = cache_make(&cache, COTERIE_POLICY_COST, replay);
    for (uint64_t need = 0; need < schedule->needs && status == COTERIE_OK;
         need++) {
        if (need == schedule->counted_from)
            cache.hits = 0;
        for (uint64_t i = at; i < schedule->last[need]; i++)
            coterie_policy_expect(cache.policy, schedule->items[i],
                                  (double)schedule->next_use[i]);
        cache_serve(&cache, schedule->items + at,
                    (uint32_t)(schedule->last[need] - at));
        at = schedule->last[need];
    }
    replay->result.optimal_hits = cache.hits;
    cache_free(&cache);
    free(schedule->last);
    free(schedule->next_use);
    free(schedule->items);
    return status;
}

static coterie_status_t schedule_make(replay_t *replay)
{
    const coterie_trace_view_t *view = replay->view;
    schedule_t *schedule = &replay->schedule;
    uint64_t needs = view->token_count * view->layer_count;
    size_t size = needs * view->k * sizeof(uint32_t);
    coterie_player_t *player = NULL;
    coterie_need_t need;
    coterie_status_t status;

    schedule->items = malloc(size);
    schedule->last = malloc(needs * sizeof(*schedule->last));
    if (schedule->items == NULL || schedule->last == NULL)
        return coterie_fail_memory(size, "what a trace needs");
    status = coterie_player_create(view, replay->options.streams, 1, &player);
    if (status != COTERIE_OK)
        return status;
    while (coterie_player_next(player, &need)) {
        memcpy(schedule->items + schedule->count, need.items,
               need.count * sizeof(*need.items));
        schedule->count += need.count;
        if (!need_counts(replay, &need))
            schedule->counted_from = schedule->needs + 1;
        schedule->last[schedule->needs++] = schedule->count;
    }
    coterie_player_destroy(player);
    return COTERIE_OK;
}

/* Backwards: whoever was met last is the next to need the item. */
static coterie_status_t schedule_link(replay_t *replay)
{
    schedule_t *schedule = &replay->schedule;
    size_t size = schedule->count * sizeof(*schedule->next_use);
    uint64_t *met = malloc(replay->item_count * sizeof(*met));

    schedule->next_use = malloc(size + 1);
    if (met == NULL || schedule->next_use == NULL) {
        free(met);
        return coterie_fail_memory(size, "what a trace needs");
    }
    for (uint32_t item = 0; item < replay->item_count; item++)
        met[item] = UINT64_MAX;
    for (uint64_t i = schedule->count; i-- > 0;) {
        schedule->next_use[i] = met[schedule->items[i]];
        met[schedule->items[i]] = i;
    }
    free(met);
    return COTERIE_OK;
}

static coterie_status_t cache_make(cache_t *cache,
                                   coterie_policy_kind_t policy,
                                   const replay_t *replay)
{
    cache->slots = replay->options.slots;
    cache->resident = calloc(replay->item_count, 1);
    if (cache->resident == NULL)
        return coterie_fail_memory(replay->item_count, "a cache");
    return coterie_policy_create(policy, replay->item_count, &cache->policy);
}

static void cache_free(cache_t *cache)
{
    coterie_policy_destroy(cache->policy);
    free(cache->resident);
}

/* All residents among the items are leased before any is read. */
static void cache_serve(cache_t *cache, const uint32_t *items, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        if (cache->resident[items[i]])
            coterie_policy_withdraw(cache->policy, items[i]);
    for (uint32_t i = 0; i < count; i++) {
        if (cache->resident[items[i]]) {
            cache->hits++;
            continue;
        }
        if (cache->count == cache->slots)
            room_make(cache, items, i, count);
        cache->resident[items[i]] = 1;
        cache->count++;
    }
    for (uint32_t i = 0; i < count; i++)
        if (cache->resident[items[i]])
            coterie_policy_offer(cache->policy, items[i]);
}

/* A cache smaller than one layer's need gives up what it has served, the
 * first of it first, then what it would serve last. */
static void room_make(cache_t *cache, const uint32_t *items, uint32_t at,
                      uint32_t count)
{
    uint32_t victim = coterie_policy_victim(cache->policy);

    if (victim != COTERIE_POLICY_NONE) {
        coterie_policy_withdraw(cache->policy, victim);
    } else {
        uint32_t i = 0;
        while (i < at && !cache->resident[items[i]])
            i++;
        if (i == at)
            for (i = count - 1; !cache->resident[items[i]]; i--)
                assert(i > at);
        victim = items[i];
    }
    cache->resident[victim] = 0;
    cache->count--;
}

static void hot_update(replay_t *replay)
{
    uint64_t *hot = replay->options.hot;

    for (uint32_t item = 0; hot != NULL && item < replay->item_count; item++)
        hot[item] = hot[item] / 2 + replay->uses[item];
}
