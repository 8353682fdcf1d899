/* Which ranks are on one machine, and who of them has the tiers. */
#include "config.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <coterie/session.h>

#include "base/error.h"
#include "base/options.h"

enum { PLACE = 128 }; /* bytes of a place's name */

static const char boot_file[] = "/proc/sys/kernel/random/boot_id";
static const char network_file[] = "/proc/self/ns/net";

/* What ranks tell each other: first where they are, then, those that have
 * tiers, how to join. Without a name, there is nothing to. */
typedef struct told {
    char place[PLACE], name[COTERIE_TIERS_NAME];
    int32_t status;
} told_t;

typedef struct meeting {
    coterie_transport_t *transport;
    const coterie_model_t *model;
    coterie_tiers_options_t options;
    told_t *all; /* [ranks] */
    uint32_t ranks, keeper, local; /* the first rank here, and how many are */
} meeting_t;

static coterie_status_t meet(meeting_t *meeting);
static void place_name(char *name);
static coterie_status_t keep(const meeting_t *meeting, char *name,
                             coterie_tiers_t **tiers_p);
static coterie_status_t create_part(const meeting_t *meeting, uint32_t ranks,
                                    bool shared, coterie_tiers_t **tiers_p);
static uint64_t bytes_part(uint64_t bytes, uint32_t some, uint32_t all);
static coterie_status_t join(const meeting_t *meeting,
                             coterie_tiers_t **tiers_p);

coterie_status_t coterie_tiers_create_together(
    coterie_transport_t *transport, const coterie_model_t *model,
    const coterie_tiers_options_t *options, coterie_tiers_t **tiers_p)
{
    meeting_t meeting = {.transport = transport, .model = model};
    coterie_tiers_t *tiers = NULL;
    told_t mine = {.status = COTERIE_OK};
    coterie_status_t status, told;

    if (transport == NULL || model == NULL || options == NULL ||
        tiers_p == NULL)
        return coterie_fail(COTERIE_ERR_INVALID,
                            "coterie_tiers_create_together: an argument is "
                            "NULL");
    meeting.ranks = coterie_transport_rank_count(transport);
    status = coterie_options_read(options, &meeting.options,
                                  sizeof(meeting.options), "tiers");
    if (status != COTERIE_OK)
        return status;
    meeting.all = calloc(meeting.ranks, sizeof(*meeting.all));
    if (meeting.all == NULL)
        return coterie_fail_memory(meeting.ranks * sizeof(*meeting.all),
                                   "what ranks tell");
    status = meet(&meeting);
    if (status != COTERIE_OK)
        goto out;
    if (meeting.keeper == coterie_transport_rank(transport))
        mine.status = status = keep(&meeting, mine.name, &tiers);
    told = coterie_transport_allgather(transport, &mine, sizeof(mine),
                                       meeting.all);
    if (told != COTERIE_OK)
        status = told;
    else if (meeting.keeper != coterie_transport_rank(transport))
        status = join(&meeting, &tiers);
    if (status == COTERIE_OK)
        *tiers_p = tiers;
    else
        coterie_tiers_destroy(tiers);
out:
    free(meeting.all);
    return status;
}

static coterie_status_t meet(meeting_t *meeting)
{
    told_t mine = {.status = COTERIE_OK};
    coterie_status_t status;

    place_name(mine.place);
    status = coterie_transport_allgather(meeting->transport, &mine,
                                         sizeof(mine), meeting->all);
    meeting->keeper = meeting->ranks;
    for (uint32_t i = 0; i < meeting->ranks && status == COTERIE_OK; i++) {
        if (strcmp(meeting->all[i].place, mine.place) != 0)
            continue;
        meeting->local++;
        if (i < meeting->keeper)
            meeting->keeper = i;
    }
    return status;
}

/* Ranks with the same name can reach each other's sockets, and are the same
 * user's. Where the system does not tell, everybody is somewhere else. */
static void place_name(char *name)
{
    char boot[40] = "", network[40] = "";
    FILE *file = fopen(boot_file, "r");
    ssize_t length = readlink(network_file, network, sizeof(network) - 1);

    if (file != NULL) {
        if (fgets(boot, sizeof(boot), file) == NULL)
            boot[0] = '\0';
        fclose(file);
    }
    if (boot[0] == '\0' || length <= 0)
        snprintf(boot, sizeof(boot), "process %ld", (long)getpid());
    snprintf(name, PLACE, "%s %s %ld", boot, network, (long)geteuid());
}

/* Where memory cannot be shared, this process has a part like all the others:
 * no name is what tells them. */
static coterie_status_t keep(const meeting_t *meeting, char *name,
                             coterie_tiers_t **tiers_p)
{
    coterie_status_t status = COTERIE_OK;

    if (meeting->local == 1)
        return create_part(meeting, 1, false, tiers_p);
    status = create_part(meeting, meeting->local, true, tiers_p);
    if (status == COTERIE_OK)
        status = coterie_tiers_share(*tiers_p, name);
    if (status != COTERIE_ERR_UNSUPPORTED)
        return status;
    coterie_tiers_destroy(*tiers_p);
    *tiers_p = NULL;
    fprintf(stderr,
            "coterie: %s; each process has its own part of the budget, and "
            "may read what another one has\n",
            coterie_last_error());
    return create_part(meeting, 1, false, tiers_p);
}

/* So many ranks' part of the budget, which is all ranks'. */
static coterie_status_t create_part(const meeting_t *meeting, uint32_t ranks,
                                    bool shared, coterie_tiers_t **tiers_p)
{
    coterie_tiers_options_t options = meeting->options;
    double part = (double)ranks / meeting->ranks;

    options.size = sizeof(options);
    options.shared = shared;
    options.budget = bytes_part(options.budget, ranks, meeting->ranks);
    options.host_budget =
        bytes_part(options.host_budget, ranks, meeting->ranks);
    options.budget_percent *= part;
    options.host_percent *= part;
    return coterie_tiers_create(meeting->model, &options, tiers_p);
}

/* Rounded down, and without a product that overflows. */
static uint64_t bytes_part(uint64_t bytes, uint32_t some, uint32_t all)
{
    return bytes / all * some + bytes % all * some / all;
}

static coterie_status_t join(const meeting_t *meeting,
                             coterie_tiers_t **tiers_p)
{
    const told_t *keeper = &meeting->all[meeting->keeper];

    if (keeper->status != COTERIE_OK)
        return coterie_fail(COTERIE_ERR_PEER,
                            "rank %u, which reads for this machine, has no "
                            "tiers",
                            meeting->keeper);
    if (keeper->name[0] == '\0')
        return create_part(meeting, 1, false, tiers_p);
    return coterie_tiers_join(meeting->model, keeper->name, tiers_p);
}
