#include "config.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "offload/history.h"

struct coterie_history {
    uint64_t count;
    uint32_t k, reach;
    int16_t ids[]; /* a ring of `reach` sets */
};

coterie_status_t coterie_history_create(uint32_t k, uint32_t reach,
                                        coterie_history_t **history_p)
{
    size_t ids = (size_t)k * reach;
    coterie_history_t *history;

    assert(k > 0 && reach > 0);
    history = calloc(1, sizeof(*history) + ids * sizeof(history->ids[0]));
    if (history == NULL)
        return coterie_fail_memory(ids * sizeof(history->ids[0]),
                                   "a sequence's latest choices");
    history->k = k;
    history->reach = reach;
    *history_p = history;
    return COTERIE_OK;
}

void coterie_history_push(coterie_history_t *history, const int16_t *ids)
{
    size_t slot = history->count++ % history->reach;

    memcpy(history->ids + slot * history->k, ids,
           history->k * sizeof(history->ids[0]));
}

void coterie_history_restart(coterie_history_t *history)
{
    history->count = 0;
}

uint64_t coterie_history_count(const coterie_history_t *history)
{
    return history->count;
}

const int16_t *coterie_history_at(const coterie_history_t *history,
                                  int64_t place)
{
    int64_t count = (int64_t)history->count;

    if (place < 0 || place >= count || count - place > history->reach)
        return NULL;
    return history->ids + (size_t)place % history->reach * history->k;
}

void coterie_history_destroy(coterie_history_t *history)
{
    free(history);
}
