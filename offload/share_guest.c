#include "config.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/error.h"
#include "offload/share.h"
#include "offload/tiers_state.h"

struct coterie_guest {
    pthread_mutex_t mutex; /* one call at a time */
    int socket;
    bool alone;  /* the keeper is gone */
    bool serves; /* a bank */
    uint32_t items[];
};

static coterie_status_t join(const char *name, int *socket_p);
static coterie_status_t memory_map(coterie_tiers_t *tiers,
                                   const coterie_welcome_t *welcome,
                                   const int *files);
static void tell_items(coterie_guest_t *guest, coterie_call_kind_t kind,
                       coterie_items_t items);
static void tell(coterie_guest_t *guest, coterie_call_t call,
                 const coterie_share_part_t *parts, size_t count);
static coterie_status_t answer_receive(coterie_guest_t *guest,
                                       coterie_answer_t *answer, void *data,
                                       size_t size);
static coterie_status_t keeper_gone(coterie_guest_t *guest);

coterie_status_t coterie_guest_create(const char *name, coterie_tiers_t *tiers)
{
    size_t size = sizeof(coterie_guest_t) +
                  tiers->item_count * sizeof(uint32_t);
    coterie_guest_t *guest = calloc(1, size);
    coterie_welcome_t welcome;
    int files[2];
    coterie_status_t status;

    if (guest == NULL)
        return coterie_fail_memory(size, "sharing experts");
    pthread_mutex_init(&guest->mutex, NULL);
    guest->socket = -1;
    status = join(name, &guest->socket);
    if (status == COTERIE_OK &&
        !coterie_share_receive_files(guest->socket, &welcome, sizeof(welcome),
                                     files))
        status = keeper_gone(guest);
    else if (status == COTERIE_OK)
        status = memory_map(tiers, &welcome, files);
    if (status == COTERIE_OK)
        tiers->guest = guest;
    else
        coterie_guest_destroy(guest);
    return status;
}

void coterie_guest_destroy(coterie_guest_t *guest)
{
    if (guest == NULL)
        return;
    if (guest->socket >= 0)
        close(guest->socket);
    pthread_mutex_destroy(&guest->mutex);
    free(guest);
}

/* A bank waits for what it wants with the socket to itself, so another one
 * could wait for what that bank holds. */
coterie_status_t coterie_guest_serve(coterie_guest_t *guest,
                                     coterie_items_t items)
{
    coterie_answer_t answer;
    coterie_status_t status;

    if (guest->serves)
        return coterie_fail(COTERIE_ERR_UNSUPPORTED,
                            "tiers of another process serve one rank; join "
                            "once more for another");
    pthread_mutex_lock(&guest->mutex);
    tell_items(guest, COTERIE_CALL_SERVE, items);
    status = answer_receive(guest, &answer, NULL, 0);
    guest->serves = status == COTERIE_OK;
    pthread_mutex_unlock(&guest->mutex);
    return status;
}

void coterie_guest_speeds(coterie_guest_t *guest,
                          const coterie_speeds_t *speeds)
{
    const coterie_share_part_t part = {speeds, sizeof(*speeds)};

    pthread_mutex_lock(&guest->mutex);
    tell(guest, (coterie_call_t){.kind = COTERIE_CALL_SPEEDS}, &part, 1);
    pthread_mutex_unlock(&guest->mutex);
}

void coterie_guest_route(coterie_guest_t *guest, coterie_items_t chosen,
                         coterie_items_t refuted)
{
    const coterie_share_part_t parts[2] = {
        {chosen.items, chosen.count * sizeof(*chosen.items)},
        {refuted.items, refuted.count * sizeof(*refuted.items)}};

    pthread_mutex_lock(&guest->mutex);
    tell(guest,
         (coterie_call_t){.kind = COTERIE_CALL_ROUTE, .values = {chosen.count}},
         parts, 2);
    pthread_mutex_unlock(&guest->mutex);
}

void coterie_guest_items(coterie_guest_t *guest, coterie_call_kind_t kind,
                         coterie_items_t items)
{
    pthread_mutex_lock(&guest->mutex);
    tell_items(guest, kind, items);
    pthread_mutex_unlock(&guest->mutex);
}

bool coterie_guest_sight(coterie_guest_t *guest, coterie_call_kind_t kind,
                         const coterie_sight_t *rows)
{
    size_t ints = (size_t)rows->count * sizeof(int32_t);
    const coterie_share_part_t parts[5] = {
        {rows, sizeof(*rows)},
        {rows->sequence, ints},
        {rows->position, ints},
        {rows->experts, ints * rows->k},
        {rows->hints, rows->hints != NULL ? ints * rows->hint_count : 0}};
    bool heard;

    pthread_mutex_lock(&guest->mutex);
    tell(guest, (coterie_call_t){.kind = kind}, parts, 5);
    heard = !guest->alone;
    pthread_mutex_unlock(&guest->mutex);
    return heard;
}

coterie_status_t coterie_guest_take(coterie_guest_t *guest,
                                    coterie_items_t items, uint32_t *at_p,
                                    uint32_t *slot_p)
{
    coterie_answer_t answer;
    coterie_status_t status;
    uint32_t at = 0;

    pthread_mutex_lock(&guest->mutex);
    tell_items(guest, COTERIE_CALL_TAKE, items);
    status = answer_receive(guest, &answer, NULL, 0);
    pthread_mutex_unlock(&guest->mutex);
    if (status != COTERIE_OK)
        return status;
    while (items.items[at] == COTERIE_ITEM_NONE || answer.values[0]-- > 0)
        at++;
    items.items[at] = COTERIE_ITEM_NONE;
    *at_p = at;
    *slot_p = answer.values[1];
    return COTERIE_OK;
}

void coterie_guest_release(coterie_guest_t *guest, uint32_t item,
                           uint32_t rows)
{
    pthread_mutex_lock(&guest->mutex);
    tell(guest,
         (coterie_call_t){.kind = COTERIE_CALL_RELEASE, .values = {item, rows}},
         NULL, 0);
    pthread_mutex_unlock(&guest->mutex);
}

uint32_t coterie_guest_ask(coterie_guest_t *guest, coterie_call_kind_t kind,
                           void *data, size_t size)
{
    coterie_answer_t answer = {0};
    coterie_status_t status;

    pthread_mutex_lock(&guest->mutex);
    tell(guest, (coterie_call_t){.kind = kind}, NULL, 0);
    status = answer_receive(guest, &answer, data, size);
    pthread_mutex_unlock(&guest->mutex);
    if (status != COTERIE_OK)
        memset(data, 0, size);
    return status == COTERIE_OK ? answer.values[0] : 0;
}

static coterie_status_t join(const char *name, int *socket_p)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    size_t size = strlen(name);
    int descriptor;

    if (size == 0 || size >= sizeof(address.sun_path) - 1)
        return coterie_fail(COTERIE_ERR_INVALID,
                            "\"%s\": no name of another process's tiers",
                            name);
    memcpy(address.sun_path + 1, name, size);
    size += sizeof(sa_family_t) + 1;
    descriptor = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (descriptor < 0 || connect(descriptor, (struct sockaddr *)&address,
                                  (socklen_t)size) != 0) {
        coterie_status_t status = coterie_fail(
            COTERIE_ERR_PEER, "the process that has the experts (%s): %s",
            name, strerror(errno));

        if (descriptor >= 0)
            close(descriptor);
        return status;
    }
    *socket_p = descriptor;
    return COTERIE_OK;
}

static coterie_status_t memory_map(coterie_tiers_t *tiers,
                                   const coterie_welcome_t *welcome,
                                   const int *files)
{
    bool fits = welcome->identity == tiers->identity && files[0] >= 0 &&
                (files[1] >= 0) == (welcome->host_size > 0);
    coterie_status_t status;

    if (!fits) {
        for (int i = 0; i < 2; i++)
            if (files[i] >= 0)
                close(files[i]);
        return coterie_fail(COTERIE_ERR_MISMATCH,
                            "the process that has the experts has another "
                            "store, or another version of Coterie");
    }
    tiers->fast_count = welcome->fast_count;
    tiers->slot_count = welcome->slot_count;
    status = coterie_arena_map(files[0], welcome->fast_size, &tiers->arena);
    if (files[1] >= 0 && status == COTERIE_OK)
        status =
            coterie_arena_map(files[1], welcome->host_size, &tiers->host);
    else if (files[1] >= 0)
        close(files[1]);
    return status;
}

/* Of all items, those that are left. */
static void tell_items(coterie_guest_t *guest, coterie_call_kind_t kind,
                       coterie_items_t items)
{
    coterie_share_part_t part = {guest->items, 0};

    for (uint32_t i = 0; i < items.count; i++)
        if (items.items[i] != COTERIE_ITEM_NONE)
            guest->items[part.size++] = items.items[i];
    part.size *= sizeof(*guest->items);
    tell(guest, (coterie_call_t){.kind = kind}, &part, 1);
}

/* If it does not get through, whoever waits for an answer will notice. */
static void tell(coterie_guest_t *guest, coterie_call_t call,
                 const coterie_share_part_t *parts, size_t count)
{
    coterie_share_part_t all[6] = {{&call, sizeof(call)}};

    for (size_t i = 0; i < count; i++) {
        all[i + 1] = parts[i];
        call.size += parts[i].size;
    }
    if (!guest->alone && !coterie_share_send(guest->socket, all, count + 1))
        guest->alone = true;
}

/* Of an answer with size bytes, or a failure. */
static coterie_status_t answer_receive(coterie_guest_t *guest,
                                       coterie_answer_t *answer, void *data,
                                       size_t size)
{
    char text[1024];

    if (guest->alone ||
        !coterie_share_receive(guest->socket, answer, sizeof(*answer)))
        return keeper_gone(guest);
    if (answer->status == COTERIE_OK)
        return answer->size == size &&
                       coterie_share_receive(guest->socket, data, size)
                   ? COTERIE_OK
                   : keeper_gone(guest);
    if (answer->size == 0 || answer->size > sizeof(text) ||
        !coterie_share_receive(guest->socket, text, answer->size))
        return keeper_gone(guest);
    text[answer->size - 1] = '\0';
    return coterie_fail((coterie_status_t)answer->status, "%s", text);
}

static coterie_status_t keeper_gone(coterie_guest_t *guest)
{
    guest->alone = true;
    return coterie_fail(COTERIE_ERR_PEER,
                        "the process that has the experts ended, or let this "
                        "one go");
}
