#include "config.h"

#include <stdlib.h>

#include "base/error.h"
#include "placement/cure.h"
#include "placement/spread.h"

enum { SPARE_MORE = 8 }; /* slots tried beyond those that did not do */

static coterie_status_t layers_cure(const coterie_cure_t *task,
                                    const uint32_t *room,
                                    uint32_t *replicas_p);

coterie_status_t coterie_cure_find(const coterie_cure_t *task,
                                   uint32_t *spare_p, uint32_t *replicas_p)
{
    uint32_t *room = calloc(task->rank_count, sizeof(*room));
    uint32_t spare = 0, replicas = UINT32_MAX;
    coterie_status_t status = COTERIE_OK;

    if (room == NULL)
        return coterie_fail_memory(task->rank_count * sizeof(*room), "slots");
    for (uint32_t more = 1; status == COTERIE_OK && more <= SPARE_MORE &&
                            replicas == UINT32_MAX;
         more++) {
        spare = task->spare + more;
        for (uint32_t r = 0; r < task->rank_count; r++)
            room[r] = task->capacity[r] + spare < task->expert_count
                          ? task->capacity[r] + spare
                          : task->expert_count;
        status = layers_cure(task, room, &replicas);
    }
    if (status == COTERIE_OK) {
        *spare_p = replicas == UINT32_MAX ? 0 : spare;
        *replicas_p = replicas == UINT32_MAX ? 0 : replicas;
    }
    free(room);
    return status;
}

static coterie_status_t layers_cure(const coterie_cure_t *task,
                                    const uint32_t *room, uint32_t *replicas_p)
{
    coterie_search_t search = {.random = 1};
    uint32_t all = 0;
    coterie_status_t status = COTERIE_OK;

    for (uint32_t l = 0; status == COTERIE_OK && l < task->layer_count; l++) {
        coterie_spread_t layer = {
            .expert_count = task->expert_count,
            .rank_count = task->rank_count,
            .load = task->load + (size_t)l * task->expert_count, .room = room,
            .search = &search};
        uint32_t replicas = 0;
        double sum = 0;
        for (uint32_t e = 0; e < task->expert_count; e++)
            sum += layer.load[e];
        status = coterie_spread_least(
            &layer, task->load_cap * sum / task->rank_count, &replicas);
        if (status == COTERIE_OK && replicas == UINT32_MAX) {
            *replicas_p = UINT32_MAX;
            return COTERIE_OK;
        }
        all += replicas;
    }
    if (status == COTERIE_OK)
        *replicas_p = all;
    return status;
}
