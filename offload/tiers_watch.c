/* Learning and predicting take a processor some microseconds a row, which a
 * rank shall not wait for: ranks leave what they know in a box, and a thread of
 * the tiers' own goes through it. If it cannot keep up, it misses some rows,
 * and predicts a little worse. */
#include "config.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "offload/tiers_state.h"

enum {
    AHEAD_MOST = 3, /* layers; farther, chances fall faster than reads gain */
    BOX_SIZE = 1 << 18
};

/* In a box, with its arrays behind it, all of int32_t. */
typedef struct message {
    size_t size; /* with the arrays */
    bool feeds;  /* tokens are in the place of the experts */
    coterie_sight_t rows;
} message_t;

typedef struct box {
    unsigned char *data; /* [BOX_SIZE]: messages, one behind another */
    size_t used;
} box_t;

struct coterie_watch {
    coterie_tiers_t *tiers;
    coterie_foresight_t *foresight; /* the thread's alone */
    pthread_t thread;
    pthread_mutex_t mutex; /* guards what follows */
    pthread_cond_t changed;
    bool closing;
    box_t in; /* filled by ranks; the thread empties the other one */
    box_t out;
};

static bool message_put(coterie_watch_t *watch, const message_t *message,
                        const int32_t *const arrays[4],
                        const size_t counts[4]);
static void *watch_main(void *arg);
static bool box_take(coterie_watch_t *watch);
static void box_read(coterie_watch_t *watch);
static void message_read(coterie_watch_t *watch, const message_t *message);
static void expectations_tell(coterie_watch_t *watch, bool fed);
static void layer_expect(coterie_watch_t *watch, uint32_t layer,
                         const float *absent);

coterie_status_t coterie_watch_create(coterie_tiers_t *tiers,
                                      const coterie_model_t *model,
                                      const uint64_t *hot,
                                      coterie_watch_t **watch_p)
{
    coterie_model_config_t config = {.size = sizeof(config)};
    coterie_watch_t *watch = calloc(1, sizeof(*watch));
    uint32_t layers = tiers->layer_count, ahead = AHEAD_MOST;
    coterie_status_t status;

    if (watch == NULL)
        return coterie_fail_memory(sizeof(*watch), "foresight");
    coterie_model_config(model, &config);
    if (ahead >= layers) /* not this layer again: it is about to be refuted */
        ahead = layers > 1 ? layers - 1 : 1;
    watch->tiers = tiers;
    pthread_mutex_init(&watch->mutex, NULL);
    pthread_cond_init(&watch->changed, NULL);
    watch->in.data = malloc(BOX_SIZE);
    watch->out.data = malloc(BOX_SIZE);
    status = watch->in.data == NULL || watch->out.data == NULL
                 ? coterie_fail_memory(2 * BOX_SIZE, "foresight")
                 : coterie_foresight_create(layers, tiers->expert_count,
                                            config.k, ahead,
                                            &watch->foresight);
    if (status == COTERIE_OK && hot != NULL)
        coterie_forecast_seed(coterie_foresight_forecast(watch->foresight),
                              hot, tiers->policy);
    if (status == COTERIE_OK &&
        pthread_create(&watch->thread, NULL, watch_main, watch) == 0) {
        *watch_p = watch;
        return COTERIE_OK;
    }
    if (status == COTERIE_OK)
        status = coterie_fail(COTERIE_ERR_NO_MEMORY,
                              "the system starts no thread to foresee with");
    watch->closing = true; /* and there is no thread to wait for */
    coterie_watch_destroy(watch);
    return status;
}

bool coterie_tiers_watch(coterie_tiers_t *tiers, const coterie_sight_t *rows)
{
    const int32_t *arrays[4] = {rows->sequence, rows->position, rows->experts,
                                rows->hints};
    const size_t counts[4] = {
        rows->count, rows->count, (size_t)rows->count * rows->k,
        rows->hints != NULL ? (size_t)rows->count * rows->hint_count : 0};

    if (tiers->guest != NULL)
        return coterie_guest_sight(tiers->guest, COTERIE_CALL_WATCH, rows);
    return message_put(tiers->watch, &(message_t){0, false, *rows}, arrays,
                       counts);
}

void coterie_tiers_feed(coterie_tiers_t *tiers, const coterie_sight_t *rows,
                        const int32_t *token)
{
    const int32_t *arrays[4] = {rows->sequence, rows->position, token, NULL};
    const size_t counts[4] = {rows->count, rows->count, rows->count, 0};
    coterie_sight_t fed = *rows;

    if (tiers->guest != NULL) {
        fed.k = 1;
        fed.experts = token;
        fed.hints = NULL;
        coterie_guest_sight(tiers->guest, COTERIE_CALL_FEED, &fed);
        return;
    }
    message_put(tiers->watch, &(message_t){0, true, *rows}, arrays, counts);
}

void coterie_watch_destroy(coterie_watch_t *watch)
{
    bool started;

    if (watch == NULL)
        return;
    pthread_mutex_lock(&watch->mutex);
    started = !watch->closing;
    watch->closing = true;
    pthread_cond_signal(&watch->changed);
    pthread_mutex_unlock(&watch->mutex);
    if (started)
        pthread_join(watch->thread, NULL);
    coterie_foresight_destroy(watch->foresight);
    pthread_cond_destroy(&watch->changed);
    pthread_mutex_destroy(&watch->mutex);
    free(watch->in.data);
    free(watch->out.data);
    free(watch);
}

static bool message_put(coterie_watch_t *watch, const message_t *message,
                        const int32_t *const arrays[4],
                        const size_t counts[4])
{
    size_t ints = counts[0] + counts[1] + counts[2] + counts[3];
    size_t size = sizeof(*message) + (ints + 1) / 2 * 2 * sizeof(int32_t);
    unsigned char *to;
    bool fits;

    pthread_mutex_lock(&watch->mutex);
    fits = size <= BOX_SIZE - watch->in.used;
    if (fits) {
        to = watch->in.data + watch->in.used;
        watch->in.used += size;
        memcpy(to, message, sizeof(*message));
        ((message_t *)to)->size = size;
        to += sizeof(*message);
        for (int i = 0; i < 4; i++) {
            if (counts[i] > 0)
                memcpy(to, arrays[i], counts[i] * sizeof(int32_t));
            to += counts[i] * sizeof(int32_t);
        }
        pthread_cond_signal(&watch->changed);
    }
    pthread_mutex_unlock(&watch->mutex);
    return fits;
}

static void *watch_main(void *arg)
{
    coterie_watch_t *watch = arg;

    while (box_take(watch))
        box_read(watch);
    return NULL;
}

/* Waits for a box with something in it; false when there will be none. */
static bool box_take(coterie_watch_t *watch)
{
    box_t empty = {watch->out.data, 0};
    bool open;

    pthread_mutex_lock(&watch->mutex);
    while (!watch->closing && watch->in.used == 0)
        pthread_cond_wait(&watch->changed, &watch->mutex);
    open = !watch->closing;
    watch->out = watch->in;
    watch->in = empty;
    pthread_mutex_unlock(&watch->mutex);
    return open;
}

static void box_read(coterie_watch_t *watch)
{
    for (size_t at = 0; at < watch->out.used;) {
        const message_t *message = (message_t *)(watch->out.data + at);

        message_read(watch, message);
        at += message->size;
    }
}

static void message_read(coterie_watch_t *watch, const message_t *message)
{
    coterie_sight_t rows = message->rows;
    const int32_t *at = (const int32_t *)(message + 1);

    rows.sequence = at;
    rows.position = at + rows.count;
    rows.experts = at + 2 * (size_t)rows.count;
    if (rows.hints != NULL)
        rows.hints = rows.experts + (size_t)rows.count * rows.k;
    if (message->feeds)
        coterie_foresight_feed(watch->foresight, &rows, rows.experts);
    else
        coterie_foresight_note(watch->foresight, &rows);
    expectations_tell(watch, message->feeds);
}

/* What is needed in the next layers is known better now than a token ago. */
static void expectations_tell(coterie_watch_t *watch, bool fed)
{
    const coterie_foresight_t *foresight = watch->foresight;
    coterie_tiers_t *tiers = watch->tiers;
    uint32_t layer = coterie_foresight_layer(foresight);

    pthread_mutex_lock(&tiers->mutex);
    if (!fed)
        layer_expect(watch, layer,
                     coterie_forecast_absent(
                         coterie_foresight_forecast(watch->foresight), layer));
    for (uint32_t d = 1; d <= coterie_foresight_ahead(foresight); d++)
        layer_expect(watch, (layer + d) % tiers->layer_count,
                     coterie_foresight_absent(foresight, d));
    coterie_plan_make(tiers, foresight);
    pthread_mutex_unlock(&tiers->mutex);
}

static void layer_expect(coterie_watch_t *watch, uint32_t layer,
                         const float *absent)
{
    coterie_tiers_t *tiers = watch->tiers;
    coterie_item_t *items =
        tiers->items + (size_t)layer * tiers->expert_count;

    coterie_forecast_expect(coterie_foresight_forecast(watch->foresight),
                            layer, absent, tiers->policy);
    if (tiers->fast_policy != NULL)
        coterie_forecast_expect(coterie_foresight_forecast(watch->foresight),
                                layer, absent, tiers->fast_policy);
    for (uint32_t e = 0; e < tiers->expert_count; e++)
        items[e].chance = 1 - absent[e];
}
