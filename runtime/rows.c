#include "config.h"

#include <string.h>

#include "runtime/session.h"

static size_t hidden_bytes(const coterie_session_t *s);

void coterie_dispatch_pack(const coterie_session_t *s,
                           const coterie_wire_record_t *record,
                           const coterie_rows_t *in, uint32_t i, void *to)
{
    uint32_t k = s->options.k;
    bool raw = (record->flags & COTERIE_FLAG_RAW) != 0;
    const float *hidden = raw ? in->hidden : in->normed;
    coterie_wire_expert_t *experts = (void *)((unsigned char *)to +
                                              sizeof(*record));

    memcpy(to, record, sizeof(*record));
    for (uint32_t j = 0; j < k; j++) {
        experts[j].id = in->topk_ids[(size_t)i * k + j];
        experts[j].weight = in->topk_weights[(size_t)i * k + j];
    }
    memcpy(experts + k, hidden + coterie_row(s, i), hidden_bytes(s));
}

void coterie_dispatch_unpack(const coterie_session_t *s, const void *row,
                             uint32_t owner, coterie_arrival_t *arrival)
{
    const coterie_wire_record_t *record = row;
    const coterie_wire_expert_t *experts = (const void *)(record + 1);
    int32_t ids[COTERIE_K_MAX];

    for (uint32_t j = 0; j < s->options.k; j++) {
        ids[j] = experts[j].id;
        arrival->weights[j] = experts[j].weight;
    }
    arrival->record = *record;
    arrival->hidden = (const float *)(experts + s->options.k);
    coterie_route(s->options.placement, s->layer, ids, s->options.k, owner,
                  &arrival->route);
}

void coterie_sum_pack(const coterie_session_t *s,
                      const coterie_wire_record_t *record,
                      const coterie_units_t *units, const float *sum,
                      void *to)
{
    uint16_t *ranks = (void *)((unsigned char *)to + sizeof(*record));
    size_t size = coterie_wire_ranks_size(s->options.k);

    memcpy(to, record, sizeof(*record));
    memset(ranks, 0xff, size); /* COTERIE_NONE beyond the last */
    memcpy(ranks, units->unit, units->count * sizeof(*ranks));
    memcpy((unsigned char *)ranks + size, sum, hidden_bytes(s));
}

void coterie_sum_units(const coterie_session_t *s, const void *row,
                       coterie_units_t *units)
{
    const uint16_t *ranks = (const void *)((const coterie_wire_record_t *)row +
                                           1);

    units->count = 0;
    while (units->count < s->options.k && ranks[units->count] != COTERIE_NONE) {
        units->unit[units->count] = ranks[units->count];
        units->count++;
    }
}

const float *coterie_sum_values(const coterie_session_t *s, const void *row)
{
    return (const void *)((const unsigned char *)row +
                          sizeof(coterie_wire_record_t) +
                          coterie_wire_ranks_size(s->options.k));
}

uint32_t coterie_find_here(const coterie_session_t *s, uint64_t key)
{
    uint32_t from = 0, to = s->here_count;

    while (from < to) {
        uint32_t middle = from + (to - from) / 2;
        const coterie_here_t *here = &s->here[middle];

        if (coterie_row_key(here->sequence, here->position) < key)
            from = middle + 1;
        else
            to = middle;
    }
    return from;
}

uint64_t coterie_lowest_key(const coterie_inbox_t *inbox,
                            const coterie_rows_t *in, uint32_t own)
{
    uint64_t lowest = COTERIE_NO_KEY;

    if (own < in->count)
        lowest = coterie_row_key(in->sequence[own], in->position[own]);
    for (uint32_t i = 0; i < inbox->circle->count; i++) {
        const coterie_wire_record_t *record = coterie_inbox_peek(inbox, i);

        if (record != NULL && coterie_record_key(record) < lowest)
            lowest = coterie_record_key(record);
    }
    return lowest;
}

static size_t hidden_bytes(const coterie_session_t *s)
{
    return s->options.hidden * sizeof(float);
}
