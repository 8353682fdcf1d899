/* How ranks with a GPU each find each other, and have NCCL connect them. */
#include "config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/options.h"
#include "runtime/nccl.h"
#include "runtime/rendezvous.h"

enum { DEADLINE_MS = 60000 };

/* What ranks tell each other before NCCL connects them. */
typedef struct card {
    ncclUniqueId id; /* rank 0's counts */
    int32_t status;  /* of filling this in */
    int32_t version;
    uint32_t path;
    unsigned char uuid[COTERIE_NCCL_UUID]; /* of the GPU */
} card_t;

static coterie_status_t options_check(const coterie_nccl_options_t *in,
                                      coterie_nccl_options_t *out);
static coterie_status_t cards_exchange(coterie_nccl_t *n,
                                       const coterie_nccl_options_t *options,
                                       card_t **cards_p);
static void card_fill(const coterie_nccl_t *n, uint32_t path, card_t *card);
static coterie_status_t cards_check(const coterie_nccl_t *n,
                                    const card_t *cards);
static coterie_status_t buffers_open(coterie_nccl_t *n);
static coterie_status_t comm_open(coterie_nccl_t *n, const ncclUniqueId *id);
static coterie_status_t team_find(coterie_nccl_t *n, uint32_t path);

coterie_status_t coterie_fabric_open_nccl_with(
    const coterie_nccl_options_t *in, const coterie_nccl_calls_t *calls,
    coterie_fabric_t **fabric_p)
{
    coterie_nccl_options_t options;
    card_t *cards = NULL;
    coterie_status_t status = options_check(in, &options);
    coterie_nccl_t *n;

    if (status != COTERIE_OK)
        return status;
    n = calloc(1, sizeof(*n));
    if (n == NULL)
        return coterie_fail_memory(sizeof(*n), "a fabric");
    n->calls = calls;
    n->rank = options.rank;
    n->deadline_ms = options.deadline_ms;
    n->base = (coterie_fabric_t){.ops = &coterie_nccl_ops,
                                 .device = options.device,
                                 .rank_count = options.rank_count,
                                 .first = options.rank,
                                 .count = 1};
    status = cards_exchange(n, &options, &cards);
    if (status == COTERIE_OK)
        status = cards_check(n, cards);
    if (status == COTERIE_OK)
        status = buffers_open(n);
    if (status == COTERIE_OK)
        status = comm_open(n, &cards[0].id);
    if (status == COTERIE_OK)
        status = team_find(n, options.path);
    if (status == COTERIE_OK)
        *fabric_p = &n->base;
    else
        n->base.ops->close(&n->base);
    free(cards);
    return status;
}

/* Who this rank is may be the transport's to say, or the launcher's. */
static coterie_status_t options_check(const coterie_nccl_options_t *in,
                                      coterie_nccl_options_t *out)
{
    coterie_launch_t launch;
    coterie_status_t status =
        coterie_options_read(in, out, sizeof(*out), "NCCL's options");

    if (status != COTERIE_OK)
        return status;
    if (out->device == NULL || out->path > COTERIE_NCCL_PATH_SEND)
        return coterie_fail(COTERIE_ERR_INVALID,
                            "NCCL: a device is needed, and a path of 0 or 1");
    if (out->deadline_ms == 0)
        out->deadline_ms = DEADLINE_MS;
    if (out->transport != NULL) {
        out->rank = coterie_transport_rank(out->transport);
        out->rank_count = coterie_transport_rank_count(out->transport);
    } else if (out->rank_count == 0) {
        status = coterie_launch_read(&launch);
        if (status != COTERIE_OK)
            return status;
        out->rank = launch.rank;
        out->rank_count = launch.rank_count;
    }
    if (out->rank >= out->rank_count)
        return coterie_fail(COTERIE_ERR_INVALID, "NCCL: rank %u of %u",
                            out->rank, out->rank_count);
    return COTERIE_OK;
}

static coterie_status_t cards_exchange(coterie_nccl_t *n,
                                       const coterie_nccl_options_t *options,
                                       card_t **cards_p)
{
    const uint32_t count = n->base.rank_count;
    const coterie_rendezvous_t files = {options->file, n->rank, count,
                                        n->deadline_ms, sizeof(card_t)};
    card_t mine, *cards = calloc(count, sizeof(*cards));
    coterie_status_t status;

    if (cards == NULL)
        return coterie_fail_memory(count * sizeof(*cards), "ranks' cards");
    *cards_p = cards;
    card_fill(n, options->path, &mine);
    if (options->transport != NULL)
        status = coterie_transport_allgather(options->transport, &mine,
                                             sizeof(mine), cards);
    else
        status = coterie_rendezvous(&files, &mine, cards);
    return mine.status != COTERIE_OK ? (coterie_status_t)mine.status : status;
}

/* A failure goes on the card: the others must not wait for this rank. */
static void card_fill(const coterie_nccl_t *n, uint32_t path, card_t *card)
{
    ncclResult_t result = ncclSuccess;
    int error = n->calls->uuid(n->base.device->index, card->uuid);

    memset(&card->id, 0, sizeof(card->id));
    card->version = n->calls->version;
    card->path = path;
    card->status = n->base.device->ops->launched(
        n->base.device, "cudaGetDeviceProperties", error);
    if (card->status == COTERIE_OK && n->rank == 0)
        result = n->calls->GetUniqueId(&card->id);
    if (result != ncclSuccess)
        card->status = coterie_nccl_failed(n, NULL, result, "ncclGetUniqueId");
}

static coterie_status_t cards_check(const coterie_nccl_t *n,
                                    const card_t *cards)
{
    const card_t *mine = &cards[n->rank];

    for (uint32_t r = 0; r < n->base.rank_count; r++) {
        const card_t *card = &cards[r];

        if (card->status != COTERIE_OK)
            return coterie_fail(COTERIE_ERR_PEER,
                                "rank %u stops: rank %u's GPU cannot be used",
                                n->rank, r);
        if (card->version != mine->version || card->path != mine->path)
            return coterie_fail(COTERIE_ERR_MISMATCH,
                                "rank %u has NCCL %d and path %u, rank %u %d "
                                "and %u: they must be alike",
                                n->rank, mine->version, mine->path, r,
                                card->version, card->path);
        for (uint32_t s = 0; s < r; s++)
            if (memcmp(card->uuid, cards[s].uuid, sizeof(card->uuid)) == 0)
                return coterie_fail(COTERIE_ERR_MISMATCH,
                                    "ranks %u and %u have one GPU; NCCL needs "
                                    "one for each rank",
                                    s, r);
    }
    return COTERIE_OK;
}

static coterie_status_t buffers_open(coterie_nccl_t *n)
{
    coterie_device_t *d = n->base.device;
    const size_t count = n->base.rank_count,
                 size = 2 * count * COTERIE_NCCL_GREETING;
    void *there = NULL, *here = NULL;
    coterie_status_t status;

    n->parents = calloc(count, sizeof(n->parents[0]));
    n->number = calloc(count, sizeof(*n->number));
    n->reached = calloc(count, sizeof(*n->reached));
    if (n->parents == NULL || n->number == NULL || n->reached == NULL)
        return coterie_fail_memory(count * sizeof(*n->number), "a fabric");
    for (uint32_t r = 0; r < count; r++)
        n->number[r] = (int)r;
    status = d->ops->allocate(d, size, &there);
    n->there = there;
    if (status == COTERIE_OK)
        status = d->ops->host_allocate(d, size, &here);
    n->here = here;
    if (status == COTERIE_OK)
        memset(n->here, 0, size);
    return status;
}

static coterie_status_t comm_open(coterie_nccl_t *n, const ncclUniqueId *id)
{
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    ncclResult_t result;

    config.blocking = 0;
    result = n->calls->CommInitRankConfig(&n->comm, (int)n->base.rank_count,
                                          *id, (int)n->rank, &config);
    return coterie_nccl_settle(n, n->comm, result, "ncclCommInitRankConfig");
}

/* Whether kernels shall write into peers' memory: all ranks or none. */
static coterie_status_t team_find(coterie_nccl_t *n, uint32_t path)
{
    const coterie_nccl_calls_t *calls = n->calls;
    coterie_nccl_team_t team = {0, 0, 1};
    coterie_status_t status;
    uint32_t least;

    if (path == COTERIE_NCCL_PATH_SEND)
        return coterie_nccl_greet(n);
    if (calls->TeamLsa != NULL && calls->CommWindowRegister != NULL)
        team = calls->TeamLsa(n->comm);
    for (uint32_t r = 0; r < n->base.rank_count; r++)
        memcpy(n->here + r * COTERIE_NCCL_GREETING, &team.size,
               sizeof(team.size));
    status = coterie_nccl_greet(n);
    if (status != COTERIE_OK)
        return status;
    least = (uint32_t)team.size;
    for (uint32_t r = 0; r < n->base.rank_count; r++) {
        uint32_t size;

        memcpy(&size,
               n->here + (n->base.rank_count + r) * COTERIE_NCCL_GREETING,
               sizeof(size));
        if (r != n->rank && size < least)
            least = size;
    }
    if (least > 1) {
        n->team = team;
        n->base.ops = &coterie_nccl_device_ops;
    } else if (n->rank == 0 && n->base.rank_count > 1) {
        fprintf(stderr, "coterie: no GPU reaches another's memory, or NCCL "
                        "is not of the version built with: NCCL sends\n");
    }
    return COTERIE_OK;
}
