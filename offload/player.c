#include "config.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "offload/player.h"

typedef struct stream {
    uint64_t token, end;
    coterie_history_t *history;
} stream_t;

struct coterie_player {
    const coterie_trace_view_t *view;
    stream_t *streams; /* active ones first, in the order of their sequences */
    uint32_t stream_count, active;
    uint32_t layer;    /* the next to play */
    uint64_t sequence; /* the next to begin */
    uint64_t tokens_done;
    const coterie_history_t **histories; /* [active] */
    uint32_t *items;                     /* [stream_count * k] */
    uint8_t *needed;                     /* [expert] */
};

static void step_begin(coterie_player_t *player);
static void step_end(coterie_player_t *player);
static uint32_t set_push(coterie_player_t *player, const stream_t *stream,
                         uint32_t count);

coterie_status_t coterie_player_create(const coterie_trace_view_t *view,
                                       uint32_t streams, uint32_t reach,
                                       coterie_player_t **player_p)
{
    coterie_player_t *player = calloc(1, sizeof(*player));
    size_t items = (size_t)streams * view->k * sizeof(uint32_t);
    coterie_status_t status = COTERIE_OK;

    assert(streams > 0);
    if (player == NULL)
        return coterie_fail_memory(sizeof(*player), "playing a trace");
    player->view = view;
    player->stream_count = streams;
    player->streams = calloc(streams, sizeof(stream_t));
    player->histories = calloc(streams, sizeof(*player->histories));
    player->items = malloc(items);
    player->needed = calloc(view->expert_count, 1);
    if (player->streams == NULL || player->histories == NULL ||
        player->items == NULL || player->needed == NULL)
        status = coterie_fail_memory(items, "playing a trace");
    for (uint32_t i = 0; i < streams && status == COTERIE_OK; i++)
        status = coterie_history_create(view->k, reach,
                                        &player->streams[i].history);
    if (status != COTERIE_OK) {
        coterie_player_destroy(player);
        return status;
    }
    *player_p = player;
    return COTERIE_OK;
}

int coterie_player_next(coterie_player_t *player, coterie_need_t *need)
{
    uint32_t count = 0;

    if (player->layer == 0)
        step_begin(player);
    if (player->active == 0)
        return 0;
    for (uint32_t i = 0; i < player->active; i++)
        count = set_push(player, &player->streams[i], count);
    for (uint32_t i = 0; i < count; i++)
        player->needed[player->items[i] % player->view->expert_count] = 0;
    *need = (coterie_need_t){.items = player->items,
                             .count = count,
                             .first_token = player->streams[0].token,
                             .histories = player->histories,
                             .history_count = player->active,
                             .tokens_done = player->tokens_done};
    if (++player->layer == player->view->layer_count)
        step_end(player);
    return 1;
}

void coterie_player_destroy(coterie_player_t *player)
{
    if (player == NULL)
        return;
    for (uint32_t i = 0; i < player->stream_count && player->streams; i++)
        coterie_history_destroy(player->streams[i].history);
    free(player->needed);
    free(player->items);
    free(player->histories);
    free(player->streams);
    free(player);
}

/* Streams that are free take the next sequences; empty ones are passed over. */
static void step_begin(coterie_player_t *player)
{
    const coterie_trace_view_t *view = player->view;

    while (player->active < player->stream_count &&
           player->sequence < view->sequence_count) {
        stream_t *stream = &player->streams[player->active];
        stream->token = view->seq_start[player->sequence++];
        stream->end = view->seq_start[player->sequence];
        coterie_history_restart(stream->history);
        player->active += stream->token < stream->end;
    }
    for (uint32_t i = 0; i < player->active; i++)
        player->histories[i] = player->streams[i].history;
}

/* Keeps the streams that go on, in order; the others' histories lie behind. */
static void step_end(coterie_player_t *player)
{
    uint32_t kept = 0;

    player->layer = 0;
    player->tokens_done += player->active;
    for (uint32_t i = 0; i < player->active; i++) {
        stream_t stream = player->streams[i];
        if (++stream.token == stream.end) {
            player->streams[i] = stream;
            continue;
        }
        player->streams[i] = player->streams[kept];
        player->streams[kept++] = stream;
    }
    player->active = kept;
}

static uint32_t set_push(coterie_player_t *player, const stream_t *stream,
                         uint32_t count)
{
    const coterie_trace_view_t *view = player->view;
    const int16_t *ids =
        view->experts +
        (stream->token * view->layer_count + player->layer) * view->k;

    coterie_history_push(stream->history, ids);
    for (uint32_t i = 0; i < view->k; i++)
        if (ids[i] >= 0 && !player->needed[ids[i]]) {
            player->needed[ids[i]] = 1;
            player->items[count++] =
                player->layer * view->expert_count + (uint32_t)ids[i];
        }
    return count;
}
