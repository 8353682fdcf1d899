#include "config.h"

#include <assert.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "offload/foresight.h"

enum {
    STREAMS = 512, /* sequences that are remembered; others take their place */
    BEGINNING = 0  /* of a step, before its first layer */
};

/* One sequence. */
typedef struct stream {
    coterie_history_t *history;
    int32_t sequence, first_position; /* where the history begins */
    int32_t token, token_position;    /* the latest that it was fed */
    uint32_t hint_count;              /* about its next layer */
    int16_t hint[COTERIE_K_MAX];
} stream_t;

struct coterie_foresight {
    uint32_t layer_count, expert_count, k, ahead, reach;
    coterie_predictor_t **predictors; /* [ahead]: one layer ahead, two.. */
    coterie_forecast_t *forecast;
    stream_t *streams; /* [STREAMS], by sequence */
    uint64_t turn;     /* of the outlook, as the next */
    uint32_t place;    /* BEGINNING, or its layer and one */
    float *absent;     /* [ahead, expert] */
};

static coterie_status_t predictors_create(coterie_foresight_t *foresight);
static coterie_status_t streams_create(coterie_foresight_t *foresight);
static void outlook_begin(coterie_foresight_t *foresight, uint64_t turn,
                          uint32_t place);
static void row_note(coterie_foresight_t *foresight,
                     const coterie_sight_t *rows, uint32_t row);
static stream_t *stream_of(coterie_foresight_t *foresight, int32_t sequence,
                           int32_t position, uint64_t place);
static bool stream_follow(const coterie_foresight_t *foresight,
                          stream_t *stream, uint64_t place);
static void set_learn(coterie_foresight_t *foresight, const stream_t *stream,
                      uint64_t place, const int16_t *ids);
static void set_predict(coterie_foresight_t *foresight, const stream_t *stream,
                        uint32_t distance);
static int32_t token_at(const coterie_foresight_t *foresight,
                        const stream_t *stream, uint64_t place);
static void ids_take(const int32_t *from, uint32_t from_count, int16_t *ids,
                     uint32_t count);

coterie_status_t coterie_foresight_create(uint32_t layer_count,
                                          uint32_t expert_count, uint32_t k,
                                          uint32_t ahead,
                                          coterie_foresight_t **foresight_p)
{
    coterie_foresight_t *foresight = calloc(1, sizeof(*foresight));
    coterie_status_t status;

    if (foresight == NULL)
        return coterie_fail_memory(sizeof(*foresight), "foresight");
    foresight->layer_count = layer_count;
    foresight->expert_count = expert_count;
    foresight->k = k;
    foresight->ahead = ahead;
    status = predictors_create(foresight);
    if (status == COTERIE_OK)
        status = coterie_forecast_create(layer_count, expert_count, k,
                                         &foresight->forecast);
    if (status == COTERIE_OK)
        status = streams_create(foresight);
    if (status == COTERIE_OK)
        *foresight_p = foresight;
    else
        coterie_foresight_destroy(foresight);
    return status;
}

void coterie_foresight_feed(coterie_foresight_t *foresight,
                            const coterie_sight_t *rows, const int32_t *token)
{
    outlook_begin(foresight, rows->turn, BEGINNING);
    for (uint32_t i = 0; i < rows->count; i++) {
        stream_t *stream =
            stream_of(foresight, rows->sequence[i], rows->position[i], 0);

        stream->token = token[i];
        stream->token_position = rows->position[i];
        if (coterie_history_count(stream->history) !=
            (uint64_t)(rows->position[i] - stream->first_position) *
                foresight->layer_count)
            continue; /* what came before is not known, or this is */
        for (uint32_t d = 1; d <= foresight->ahead; d++)
            set_predict(foresight, stream, d);
    }
}

void coterie_foresight_note(coterie_foresight_t *foresight,
                            const coterie_sight_t *rows)
{
    outlook_begin(foresight, rows->turn, rows->layer + 1);
    for (uint32_t i = 0; i < rows->count; i++)
        if (i + 1 == rows->count ||
            rows->sequence[i] != rows->sequence[i + 1])
            row_note(foresight, rows, i);
}

uint32_t coterie_foresight_layer(const coterie_foresight_t *foresight)
{
    return (foresight->place + foresight->layer_count - 1) %
           foresight->layer_count;
}

uint32_t coterie_foresight_ahead(const coterie_foresight_t *foresight)
{
    return foresight->ahead;
}

const float *coterie_foresight_absent(const coterie_foresight_t *foresight,
                                      uint32_t distance)
{
    assert(distance > 0 && distance <= foresight->ahead);
    return foresight->absent +
           (size_t)(distance - 1) * foresight->expert_count;
}

coterie_forecast_t *coterie_foresight_forecast(
    const coterie_foresight_t *foresight)
{
    return foresight->forecast;
}

void coterie_foresight_destroy(coterie_foresight_t *foresight)
{
    if (foresight == NULL)
        return;
    for (uint32_t i = 0; foresight->predictors && i < foresight->ahead; i++)
        coterie_predictor_destroy(foresight->predictors[i]);
    for (uint32_t i = 0; foresight->streams && i < STREAMS; i++)
        coterie_history_destroy(foresight->streams[i].history);
    coterie_forecast_destroy(foresight->forecast);
    free(foresight->predictors);
    free(foresight->streams);
    free(foresight->absent);
    free(foresight);
}

static coterie_status_t predictors_create(coterie_foresight_t *foresight)
{
    size_t chances = (size_t)foresight->ahead * foresight->expert_count;
    coterie_predictor_shape_t shape = {.layer_count = foresight->layer_count,
                                       .expert_count = foresight->expert_count,
                                       .k = foresight->k};
    coterie_status_t status = COTERIE_OK;

    foresight->predictors =
        calloc(foresight->ahead, sizeof(*foresight->predictors));
    foresight->absent = malloc(chances * sizeof(float));
    if (foresight->predictors == NULL || foresight->absent == NULL)
        return coterie_fail_memory(chances * sizeof(float), "foresight");
    for (size_t i = 0; i < chances; i++)
        foresight->absent[i] = 1;
    for (uint32_t i = 0; i < foresight->ahead && status == COTERIE_OK; i++) {
        shape.distance = i + 1;
        status =
            coterie_predictor_create(&shape, &foresight->predictors[i]);
        if (status == COTERIE_OK &&
            coterie_predictor_reach(foresight->predictors[i]) >
                foresight->reach)
            foresight->reach =
                coterie_predictor_reach(foresight->predictors[i]);
    }
    return status;
}

static coterie_status_t streams_create(coterie_foresight_t *foresight)
{
    coterie_status_t status = COTERIE_OK;

    if (coterie_forecast_reach(foresight->forecast) > foresight->reach)
        foresight->reach = coterie_forecast_reach(foresight->forecast);
    foresight->streams = calloc(STREAMS, sizeof(*foresight->streams));
    if (foresight->streams == NULL)
        return coterie_fail_memory(STREAMS * sizeof(*foresight->streams),
                                   "what sequences chose");
    for (uint32_t i = 0; i < STREAMS && status == COTERIE_OK; i++) {
        foresight->streams[i].sequence = -1;
        foresight->streams[i].token_position = -1;
        status = coterie_history_create(foresight->k, foresight->reach,
                                        &foresight->streams[i].history);
    }
    return status;
}

/* What ranks say of one layer of one step adds up. */
static void outlook_begin(coterie_foresight_t *foresight, uint64_t turn,
                          uint32_t place)
{
    size_t chances = (size_t)foresight->ahead * foresight->expert_count;

    if (foresight->turn == turn && foresight->place == place)
        return;
    foresight->turn = turn;
    foresight->place = place;
    for (size_t i = 0; i < chances; i++)
        foresight->absent[i] = 1;
}

static void row_note(coterie_foresight_t *foresight,
                     const coterie_sight_t *rows, uint32_t row)
{
    int16_t ids[COTERIE_K_MAX];
    int32_t position = rows->position[row];
    const coterie_history_t *history;
    stream_t *stream =
        stream_of(foresight, rows->sequence[row], position, rows->layer);
    uint64_t place = (uint64_t)(position - stream->first_position) *
                         foresight->layer_count +
                     rows->layer;

    if (!stream_follow(foresight, stream, place))
        return;
    ids_take(rows->experts + (size_t)row * rows->k, rows->k, ids,
             foresight->k);
    coterie_history_push(stream->history, ids);
    set_learn(foresight, stream, place, ids);
    history = stream->history;
    coterie_forecast_note(foresight->forecast, rows->turn, &history, 1);
    stream->hint_count = 0;
    if (rows->hints != NULL && rows->layer + 1 < foresight->layer_count) {
        stream->hint_count = rows->hint_count < COTERIE_K_MAX
                                 ? rows->hint_count
                                 : COTERIE_K_MAX;
        ids_take(rows->hints + (size_t)row * rows->hint_count,
                 rows->hint_count, stream->hint, stream->hint_count);
    }
    for (uint32_t d = 1; d <= foresight->ahead; d++)
        set_predict(foresight, stream, d);
}

/* The sequence's stream, which begins anew at this position if it is another's
 * or far from there. */
static stream_t *stream_of(coterie_foresight_t *foresight, int32_t sequence,
                           int32_t position, uint64_t place)
{
    stream_t *stream = &foresight->streams[(uint32_t)sequence % STREAMS];
    int64_t count = (int64_t)coterie_history_count(stream->history);
    int64_t layers = foresight->layer_count, gap;

    gap = ((int64_t)position - stream->first_position) * layers +
          (int64_t)place - count;
    if (stream->sequence == sequence && gap >= -2 * layers &&
        gap <= (int64_t)foresight->reach)
        return stream;
    coterie_history_restart(stream->history);
    stream->sequence = sequence;
    stream->first_position = position;
    stream->token_position = -1;
    stream->hint_count = 0;
    return stream;
}

/* Layers that were told of elsewhere are unknown here.
 * @return false if this one was told of already */
static bool stream_follow(const coterie_foresight_t *foresight,
                          stream_t *stream, uint64_t place)
{
    int16_t none[COTERIE_K_MAX];

    if (place < coterie_history_count(stream->history))
        return false;
    ids_take(NULL, 0, none, foresight->k);
    while (coterie_history_count(stream->history) < place) {
        coterie_history_push(stream->history, none);
        stream->hint_count = 0;
    }
    return true;
}

static void set_learn(coterie_foresight_t *foresight, const stream_t *stream,
                      uint64_t place, const int16_t *ids)
{
    for (uint32_t d = 1; d <= foresight->ahead; d++) {
        coterie_clue_t clue = COTERIE_CLUE_NONE;

        clue.token = token_at(foresight, stream, place);
        if (d == 1 && stream->hint_count > 0) {
            clue.hint = stream->hint;
            clue.hint_count = stream->hint_count;
        }
        coterie_predictor_review(foresight->predictors[d - 1],
                                 stream->history, &clue);
        coterie_predictor_learn(foresight->predictors[d - 1], ids);
    }
}

static void set_predict(coterie_foresight_t *foresight, const stream_t *stream,
                        uint32_t distance)
{
    coterie_predictor_t *predictor = foresight->predictors[distance - 1];
    float *absent = foresight->absent +
                    (size_t)(distance - 1) * foresight->expert_count;
    coterie_clue_t clue = COTERIE_CLUE_NONE;
    const float *chance;

    clue.token = token_at(foresight, stream,
                          coterie_history_count(stream->history) + distance -
                              1);
    if (distance == 1 && stream->hint_count > 0) {
        clue.hint = stream->hint;
        clue.hint_count = stream->hint_count;
    }
    coterie_predictor_predict(predictor, stream->history, &clue);
    chance = coterie_predictor_chance(predictor, COTERIE_PREDICTION_BLEND);
    for (uint32_t e = 0; e < foresight->expert_count; e++)
        absent[e] *= 1 - chance[e];
}

static int32_t token_at(const coterie_foresight_t *foresight,
                        const stream_t *stream, uint64_t place)
{
    uint64_t position =
        (uint64_t)stream->first_position + place / foresight->layer_count;

    return (uint64_t)stream->token_position == position ? stream->token : -1;
}

static void ids_take(const int32_t *from, uint32_t from_count, int16_t *ids,
                     uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        ids[i] = i < from_count ? (int16_t)from[i] : -1;
}
