#include "config.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/error.h"
#include "offload/share.h"
#include "offload/tiers_state.h"

enum {
    WAITING_MOST = 64, /* guests that nobody has answered yet */
    CALL_MOST = 1 << 24, /* bytes */
    WANTED = 1, /* of a guest's items */
    LEASED = 2,
    SERVED = 4,
    SEEN = 8 /* in the list at hand */
};

/* One guest, as its thread sees it. */
typedef struct visit {
    coterie_keeper_t *keeper;
    coterie_tiers_t *tiers;
    int socket;
    pthread_t thread;
    atomic_bool ended;
    bool serves; /* a bank */
    unsigned char *marks; /* [item_count] */
    uint32_t *items;      /* [item_count], for lists of such */
    char *data;           /* the present call's */
    size_t data_size;
    struct visit *next;
} visit_t;

struct coterie_keeper {
    coterie_tiers_t *tiers;
    int socket;
    pthread_t thread;
    atomic_uint guests;
    visit_t *visits; /* the thread's, as long as there is one */
};

typedef bool (*handler_t)(visit_t *visit, const coterie_call_t *call);

static coterie_status_t listen_begin(char *name, int *socket_p);
static void *keeper_main(void *arg);
static bool is_ours(int socket);
static void visits_reap(coterie_keeper_t *keeper, bool all);
static void visit_begin(coterie_keeper_t *keeper, int socket);
static void visit_free(visit_t *visit);
static bool welcome(const visit_t *visit);
static void *visit_main(void *arg);
static bool call_receive(visit_t *visit, coterie_call_t *call);
static void visit_settle(visit_t *visit);
static coterie_items_t marked(visit_t *visit, unsigned mark);
static bool handle_serve(visit_t *visit, const coterie_call_t *call);
static bool handle_speeds(visit_t *visit, const coterie_call_t *call);
static bool handle_route(visit_t *visit, const coterie_call_t *call);
static bool handle_guess(visit_t *visit, const coterie_call_t *call);
static bool handle_watch(visit_t *visit, const coterie_call_t *call);
static bool handle_feed(visit_t *visit, const coterie_call_t *call);
static bool handle_want(visit_t *visit, const coterie_call_t *call);
static bool handle_take(visit_t *visit, const coterie_call_t *call);
static bool handle_release(visit_t *visit, const coterie_call_t *call);
static bool handle_abandon(visit_t *visit, const coterie_call_t *call);
static bool handle_counts(visit_t *visit, const coterie_call_t *call);
static bool handle_timeline(visit_t *visit, const coterie_call_t *call);
static bool handle_hot(visit_t *visit, const coterie_call_t *call);
static bool handle_describe(visit_t *visit, const coterie_call_t *call);
static bool items_read(const visit_t *visit, const coterie_call_t *call,
                       coterie_items_t *items);
static bool items_have(visit_t *visit, coterie_items_t items, unsigned mark,
                       bool wanted);
static void items_mark(visit_t *visit, coterie_items_t items, unsigned mark,
                       bool on);
static bool sight_read(const visit_t *visit, const coterie_call_t *call,
                       coterie_sight_t *rows);
static bool ids_within(const int32_t *ids, size_t count, uint32_t bound);
static bool answer(const visit_t *visit, coterie_answer_t answer,
                   const void *data);

static const handler_t handlers[COTERIE_CALL_COUNT] = {
    [COTERIE_CALL_SERVE] = handle_serve,
    [COTERIE_CALL_SPEEDS] = handle_speeds,
    [COTERIE_CALL_ROUTE] = handle_route,
    [COTERIE_CALL_GUESS] = handle_guess,
    [COTERIE_CALL_WATCH] = handle_watch,
    [COTERIE_CALL_FEED] = handle_feed,
    [COTERIE_CALL_WANT] = handle_want,
    [COTERIE_CALL_TAKE] = handle_take,
    [COTERIE_CALL_RELEASE] = handle_release,
    [COTERIE_CALL_ABANDON] = handle_abandon,
    [COTERIE_CALL_COUNTS] = handle_counts,
    [COTERIE_CALL_TIMELINE] = handle_timeline,
    [COTERIE_CALL_HOT] = handle_hot,
    [COTERIE_CALL_DESCRIBE] = handle_describe};

coterie_status_t coterie_keeper_create(coterie_tiers_t *tiers, char *name,
                                       coterie_keeper_t **keeper_p)
{
    coterie_keeper_t *keeper = calloc(1, sizeof(*keeper));
    coterie_status_t status;

    if (keeper == NULL)
        return coterie_fail_memory(sizeof(*keeper), "sharing experts");
    keeper->tiers = tiers;
    status = listen_begin(name, &keeper->socket);
    if (status == COTERIE_OK &&
        pthread_create(&keeper->thread, NULL, keeper_main, keeper) != 0) {
        close(keeper->socket);
        status = coterie_fail(COTERIE_ERR_NO_MEMORY,
                              "the system starts no thread to share with");
    }
    if (status == COTERIE_OK) {
        *keeper_p = keeper;
        return COTERIE_OK;
    }
    free(keeper);
    return status;
}

uint32_t coterie_keeper_guests(coterie_keeper_t *keeper)
{
    return keeper->guests;
}

void coterie_keeper_destroy(coterie_keeper_t *keeper)
{
    if (keeper == NULL)
        return;
    shutdown(keeper->socket, SHUT_RDWR); /* which ends accept */
    pthread_join(keeper->thread, NULL);
    close(keeper->socket);
    for (visit_t *v = keeper->visits; v != NULL; v = v->next)
        shutdown(v->socket, SHUT_RDWR);
    visits_reap(keeper, true);
    free(keeper);
}

/* In the abstract namespace, which is no folder: nothing is ever left there.
 * The system finds a name that nobody has. */
static coterie_status_t listen_begin(char *name, int *socket_p)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    socklen_t size = sizeof(sa_family_t);
    int descriptor = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (descriptor >= 0 &&
        bind(descriptor, (struct sockaddr *)&address, size) == 0 &&
        listen(descriptor, WAITING_MOST) == 0) {
        size = sizeof(address);
        if (getsockname(descriptor, (struct sockaddr *)&address, &size) == 0) {
            size -= (socklen_t)sizeof(sa_family_t) + 1;
            assert(size < COTERIE_TIERS_NAME);
            memcpy(name, address.sun_path + 1, size);
            name[size] = '\0';
            *socket_p = descriptor;
            return COTERIE_OK;
        }
    }
    if (descriptor >= 0)
        close(descriptor);
    return coterie_fail(COTERIE_ERR_UNSUPPORTED,
                        "no socket to share experts by: %s", strerror(errno));
}

static void *keeper_main(void *arg)
{
    coterie_keeper_t *keeper = arg;

    for (;;) {
        int socket = accept4(keeper->socket, NULL, NULL, SOCK_CLOEXEC);

        if (socket < 0 && errno != EINTR && errno != ECONNABORTED)
            return NULL;
        visits_reap(keeper, false);
        if (socket >= 0 && is_ours(socket))
            visit_begin(keeper, socket);
        else if (socket >= 0)
            close(socket);
    }
}

/* Nobody else's process sees a model's weights. */
static bool is_ours(int socket)
{
    struct ucred peer;
    socklen_t size = sizeof(peer);

    return getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 &&
           peer.uid == geteuid();
}

/* Those that ended; at the end, all, when they do. */
static void visits_reap(coterie_keeper_t *keeper, bool all)
{
    visit_t **place = &keeper->visits;

    while (*place != NULL) {
        visit_t *visit = *place;

        if (!all && !visit->ended) {
            place = &visit->next;
            continue;
        }
        *place = visit->next;
        pthread_join(visit->thread, NULL);
        visit_free(visit);
    }
}

static void visit_begin(coterie_keeper_t *keeper, int socket)
{
    uint32_t items = keeper->tiers->item_count;
    visit_t *visit = calloc(1, sizeof(*visit));

    if (visit == NULL) {
        close(socket); /* which the guest notices */
        return;
    }
    visit->keeper = keeper;
    visit->tiers = keeper->tiers;
    visit->socket = socket;
    visit->marks = calloc(items, sizeof(*visit->marks));
    visit->items = calloc(items, sizeof(*visit->items));
    if (visit->marks == NULL || visit->items == NULL ||
        pthread_create(&visit->thread, NULL, visit_main, visit) != 0) {
        visit_free(visit);
        return;
    }
    visit->next = keeper->visits;
    keeper->visits = visit;
}

static void visit_free(visit_t *visit)
{
    close(visit->socket);
    free(visit->marks);
    free(visit->items);
    free(visit->data);
    free(visit);
}

static void *visit_main(void *arg)
{
    visit_t *visit = arg;
    coterie_call_t call;
    bool goes_on;

    visit->keeper->guests++;
    goes_on = welcome(visit);

    while (goes_on && call_receive(visit, &call))
        goes_on = handlers[call.kind](visit, &call);
    visit_settle(visit);
    visit->keeper->guests--;
    shutdown(visit->socket, SHUT_RDWR);
    visit->ended = true;
    return NULL;
}

static bool welcome(const visit_t *visit)
{
    const coterie_tiers_t *tiers = visit->tiers;
    const int files[2] = {tiers->arena.descriptor, tiers->host.descriptor};
    coterie_welcome_t welcome = {.identity = tiers->identity,
                                 .fast_count = tiers->fast_count,
                                 .slot_count = tiers->slot_count,
                                 .fast_size = tiers->arena.size,
                                 .host_size = tiers->host.size};

    return coterie_share_send_files(visit->socket, &welcome, sizeof(welcome),
                                    files, welcome.host_size > 0 ? 2 : 1);
}

static bool call_receive(visit_t *visit, coterie_call_t *call)
{
    if (!coterie_share_receive(visit->socket, call, sizeof(*call)) ||
        call->kind >= COTERIE_CALL_COUNT || call->size > CALL_MOST)
        return false;
    if (call->size > visit->data_size) {
        free(visit->data);
        visit->data = malloc(call->size);
        visit->data_size = visit->data != NULL ? call->size : 0;
        if (visit->data == NULL)
            return false;
    }
    return coterie_share_receive(visit->socket, visit->data, call->size);
}

/* Whatever the guest had when it went. */
static void visit_settle(visit_t *visit)
{
    coterie_items_t items = marked(visit, WANTED);

    coterie_tiers_abandon(visit->tiers, items);
    items = marked(visit, LEASED);
    for (uint32_t i = 0; i < items.count; i++)
        coterie_tiers_release(visit->tiers, items.items[i], 0);
    if (visit->serves)
        coterie_tiers_leave(visit->tiers, marked(visit, SERVED));
}

static coterie_items_t marked(visit_t *visit, unsigned mark)
{
    coterie_items_t items = {visit->items, 0};

    for (uint32_t i = 0; i < visit->tiers->item_count; i++)
        if (visit->marks[i] & mark)
            items.items[items.count++] = i;
    return items;
}

static bool handle_serve(visit_t *visit, const coterie_call_t *call)
{
    coterie_items_t items;
    coterie_answer_t told = {0};

    if (visit->serves || !items_read(visit, call, &items) ||
        !items_have(visit, items, SERVED, false))
        return false;
    told.status = coterie_tiers_serve(visit->tiers, items);
    if (told.status == COTERIE_OK) {
        items_mark(visit, items, SERVED, true);
        visit->serves = true;
    }
    return answer(visit, told, NULL);
}

static bool handle_speeds(visit_t *visit, const coterie_call_t *call)
{
    coterie_speeds_t speeds;

    if (call->size != sizeof(speeds))
        return false;
    memcpy(&speeds, visit->data, sizeof(speeds));
    coterie_tiers_speeds(visit->tiers, &speeds);
    return true;
}

static bool handle_route(visit_t *visit, const coterie_call_t *call)
{
    coterie_items_t items, chosen, refuted;

    if (!items_read(visit, call, &items) || call->values[0] > items.count)
        return false;
    chosen = (coterie_items_t){items.items, call->values[0]};
    refuted = (coterie_items_t){items.items + chosen.count,
                                items.count - chosen.count};
    coterie_tiers_route(visit->tiers, chosen, refuted);
    return true;
}

static bool handle_guess(visit_t *visit, const coterie_call_t *call)
{
    coterie_items_t items;

    if (!items_read(visit, call, &items))
        return false;
    coterie_tiers_guess(visit->tiers, items);
    return true;
}

static bool handle_watch(visit_t *visit, const coterie_call_t *call)
{
    coterie_sight_t rows;

    if (!sight_read(visit, call, &rows) ||
        !ids_within(rows.experts, (size_t)rows.count * rows.k,
                    visit->tiers->expert_count))
        return false;
    coterie_tiers_watch(visit->tiers, &rows);
    return true;
}

static bool handle_feed(visit_t *visit, const coterie_call_t *call)
{
    coterie_sight_t rows;

    if (!sight_read(visit, call, &rows) || rows.k != 1)
        return false;
    coterie_tiers_feed(visit->tiers, &rows, rows.experts);
    return true;
}

static bool handle_want(visit_t *visit, const coterie_call_t *call)
{
    coterie_items_t items;

    if (!items_read(visit, call, &items) ||
        !items_have(visit, items, WANTED | LEASED, false))
        return false;
    items_mark(visit, items, WANTED, true);
    coterie_tiers_want(visit->tiers, items);
    return true;
}

static bool handle_take(visit_t *visit, const coterie_call_t *call)
{
    coterie_items_t items;
    coterie_answer_t told = {0};
    const void *record;
    uint32_t item;

    if (!items_read(visit, call, &items) || items.count == 0 ||
        !items_have(visit, items, WANTED, true))
        return false;
    memcpy(visit->items, items.items, items.count * sizeof(*items.items));
    told.status = coterie_tiers_take(
        visit->tiers, (coterie_items_t){visit->items, items.count},
        &told.values[0], &record);
    if (told.status == COTERIE_OK) {
        item = items.items[told.values[0]];
        told.values[1] = visit->tiers->items[item].slot;
        visit->marks[item] = (visit->marks[item] & SERVED) | LEASED;
    }
    return answer(visit, told, NULL);
}

static bool handle_release(visit_t *visit, const coterie_call_t *call)
{
    uint32_t item = call->values[0];

    if (item >= visit->tiers->item_count || !(visit->marks[item] & LEASED))
        return false;
    visit->marks[item] &= SERVED;
    coterie_tiers_release(visit->tiers, item, call->values[1]);
    return true;
}

static bool handle_abandon(visit_t *visit, const coterie_call_t *call)
{
    coterie_items_t items;

    if (!items_read(visit, call, &items) ||
        !items_have(visit, items, WANTED, true))
        return false;
    items_mark(visit, items, WANTED, false);
    coterie_tiers_abandon(visit->tiers, items);
    return true;
}

static bool handle_counts(visit_t *visit, const coterie_call_t *call)
{
    coterie_tiers_counts_t counts;

    (void)call;
    coterie_tiers_counts(visit->tiers, &counts);
    return answer(visit, (coterie_answer_t){.size = sizeof(counts)}, &counts);
}

static bool handle_timeline(visit_t *visit, const coterie_call_t *call)
{
    coterie_answer_t told = {.size = COTERIE_TIMELINE_SPANS *
                                     (uint64_t)visit->tiers->layer_count *
                                     sizeof(coterie_layer_counts_t)};
    coterie_layer_counts_t *counts = malloc(told.size);
    bool heard;

    (void)call;
    if (counts == NULL)
        return false;
    coterie_tiers_timeline(visit->tiers, counts, &told.values[0]);
    heard = answer(visit, told, counts);
    free(counts);
    return heard;
}

static bool handle_hot(visit_t *visit, const coterie_call_t *call)
{
    coterie_answer_t told = {.size = visit->tiers->item_count *
                                     sizeof(uint64_t)};
    uint64_t *counts = malloc(told.size);
    bool heard;

    (void)call;
    if (counts == NULL)
        return false;
    coterie_tiers_hot(visit->tiers, counts);
    heard = answer(visit, told, counts);
    free(counts);
    return heard;
}

static bool handle_describe(visit_t *visit, const coterie_call_t *call)
{
    char text[COTERIE_SHARE_TEXT] = "";

    (void)call;
    coterie_tiers_describe(visit->tiers, text, sizeof(text));
    return answer(visit, (coterie_answer_t){.size = sizeof(text)}, text);
}

/* A guest is the same program, but what it says is taken for what it is. */
static bool items_read(const visit_t *visit, const coterie_call_t *call,
                       coterie_items_t *items)
{
    size_t count = call->size / sizeof(uint32_t);

    *items = (coterie_items_t){(uint32_t *)visit->data, (uint32_t)count};
    if (call->size % sizeof(uint32_t) != 0 ||
        count > visit->tiers->item_count)
        return false;
    for (uint32_t i = 0; i < count; i++)
        if (items->items[i] >= visit->tiers->item_count)
            return false;
    return true;
}

/* Whether all have one of these marks, or none has. None comes twice. */
static bool items_have(visit_t *visit, coterie_items_t items, unsigned mark,
                       bool wanted)
{
    uint32_t good = 0;

    while (good < items.count) {
        unsigned char *marks = &visit->marks[items.items[good]];

        if (((*marks & mark) != 0) != wanted || (*marks & SEEN) != 0)
            break;
        *marks |= SEEN;
        good++;
    }
    items_mark(visit, (coterie_items_t){items.items, good}, SEEN, false);
    return good == items.count;
}

static void items_mark(visit_t *visit, coterie_items_t items, unsigned mark,
                       bool on)
{
    for (uint32_t i = 0; i < items.count; i++) {
        visit->marks[items.items[i]] &= (unsigned char)~mark;
        if (on)
            visit->marks[items.items[i]] |= (unsigned char)mark;
    }
}

static bool sight_read(const visit_t *visit, const coterie_call_t *call,
                       coterie_sight_t *rows)
{
    const char *arrays = visit->data + sizeof(*rows);
    uint64_t hints;

    if (call->size < sizeof(*rows))
        return false;
    memcpy(rows, visit->data, sizeof(*rows));
    hints = rows->hints != NULL ? rows->hint_count : 0;
    if (rows->layer >= visit->tiers->layer_count || rows->k > CALL_MOST ||
        hints > CALL_MOST || rows->count > CALL_MOST / 8 ||
        call->size != sizeof(*rows) + rows->count * (2 + rows->k + hints) *
                                          sizeof(int32_t))
        return false;
    rows->sequence = (const int32_t *)arrays;
    rows->position = rows->sequence + rows->count;
    rows->experts = rows->position + rows->count;
    if (rows->hints != NULL)
        rows->hints = rows->experts + (size_t)rows->count * rows->k;
    return rows->hints == NULL ||
           ids_within(rows->hints, rows->count * hints,
                      visit->tiers->expert_count);
}

/* Or none: -1. */
static bool ids_within(const int32_t *ids, size_t count, uint32_t bound)
{
    for (size_t i = 0; i < count; i++)
        if (ids[i] < -1 || ids[i] >= (int64_t)bound)
            return false;
    return true;
}

static bool answer(const visit_t *visit, coterie_answer_t answer,
                   const void *data)
{
    coterie_share_part_t parts[2] = {{&answer, sizeof(answer)},
                                     {data, answer.size}};

    if (answer.status != COTERIE_OK) {
        parts[1].data = coterie_last_error();
        parts[1].size = answer.size = strlen(coterie_last_error()) + 1;
    }
    return coterie_share_send(visit->socket, parts, 2);
}
