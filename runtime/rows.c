#include "config.h"

#include <string.h>

#include "runtime/session.h"

coterie_wire_rows_t coterie_dispatch_rows(const coterie_session_t *s,
                                          uint32_t flags)
{
    bool raw = (flags & COTERIE_FLAG_RAW) != 0;
    uint32_t wire = raw ? s->wide : s->options.wire;

    return (coterie_wire_rows_t){
        .wire = wire,
        .width = s->options.hidden,
        .count = 1,
        .stride =
            coterie_wire_dispatch_size(wire, s->options.k, s->options.hidden)};
}

void coterie_dispatch_head(const coterie_session_t *s,
                           const coterie_wire_record_t *record,
                           const coterie_rows_t *in, uint32_t i, void *to)
{
    uint32_t k = s->options.k;
    coterie_wire_expert_t *experts = (void *)((unsigned char *)to +
                                              sizeof(*record));

    memcpy(to, record, sizeof(*record));
    for (uint32_t j = 0; j < k; j++) {
        experts[j].id = in->topk_ids[(size_t)i * k + j];
        experts[j].weight = in->topk_weights[(size_t)i * k + j];
    }
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
    arrival->values = experts + s->options.k;
    coterie_route(s->options.placement, s->layer, ids, s->options.k, owner,
                  &arrival->route);
}

void coterie_dispatch_values(const coterie_session_t *s,
                             const coterie_arrival_t *arrival, float *to)
{
    coterie_wire_rows_t rows =
        coterie_dispatch_rows(s, arrival->record.flags);

    coterie_wire_unpack(&rows, arrival->values, to);
}

const void *coterie_dispatch_peek(const coterie_inbox_t *inbox,
                                  uint32_t member)
{
    const coterie_wire_record_t *normed = coterie_inbox_peek(inbox, member);
    const coterie_wire_record_t *raw =
        coterie_inbox_peek_extra(inbox, member);

    if (normed == NULL || raw == NULL)
        return normed != NULL ? normed : raw;
    return coterie_record_key(raw) < coterie_record_key(normed) ? raw : normed;
}

void coterie_dispatch_take(coterie_inbox_t *inbox, uint32_t member)
{
    if (coterie_dispatch_peek(inbox, member) ==
        coterie_inbox_peek(inbox, member))
        coterie_inbox_take(inbox, member);
    else
        coterie_inbox_take_extra(inbox, member);
}

coterie_wire_rows_t coterie_sum_rows(const coterie_session_t *s)
{
    return (coterie_wire_rows_t){
        .wire = s->wide,
        .width = s->options.hidden,
        .count = 1,
        .stride =
            coterie_wire_sum_size(s->wide, s->options.k, s->options.hidden)};
}

void coterie_sum_head(const coterie_session_t *s,
                      const coterie_wire_record_t *record,
                      const coterie_units_t *units, void *to)
{
    uint16_t *ranks = (void *)((unsigned char *)to + sizeof(*record));

    memcpy(to, record, sizeof(*record));
    memset(ranks, 0xff, /* COTERIE_NONE beyond the last */
           coterie_wire_ranks_size(s->options.k));
    memcpy(ranks, units->unit, units->count * sizeof(*ranks));
}

void coterie_sum_pack(const coterie_session_t *s,
                      const coterie_wire_record_t *record,
                      const coterie_units_t *units, const float *sum,
                      void *to)
{
    coterie_wire_rows_t rows = coterie_sum_rows(s);

    coterie_sum_head(s, record, units, to);
    coterie_wire_pack(&rows, sum,
                      (unsigned char *)to +
                          coterie_wire_sum_head(s->options.k));
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

coterie_wire_part_t coterie_sum_part(const coterie_session_t *s,
                                     const void *row)
{
    return (coterie_wire_part_t){(const unsigned char *)row +
                                     coterie_wire_sum_head(s->options.k),
                                 s->wide, 1};
}

coterie_wire_part_t coterie_own_part(const float *sum)
{
    return (coterie_wire_part_t){sum, COTERIE_WIRE_F32, 1};
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

uint64_t coterie_lowest_key(const coterie_inbox_t *inbox, coterie_peek_fn peek,
                            const coterie_rows_t *in, uint32_t own)
{
    uint64_t lowest = COTERIE_NO_KEY;

    if (own < in->count)
        lowest = coterie_row_key(in->sequence[own], in->position[own]);
    for (uint32_t i = 0; i < inbox->circle->count; i++) {
        const coterie_wire_record_t *record = peek(inbox, i);

        if (record != NULL && coterie_record_key(record) < lowest)
            lowest = coterie_record_key(record);
    }
    return lowest;
}
