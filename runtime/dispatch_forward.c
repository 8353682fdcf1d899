/* Forward: every rank that holds a row and experts of it sends its partial sum
 * straight to each rank that holds the row next; what comes together there, in
 * one order everywhere, is the row of the next layer.
 *
 * The second half works on units, ranks or nodes alike. A rank that holds
 * experts of a row but not the row is late: it gets the row with the same
 * message, computes, and sends its sums afterwards, by fix-ups. */
#include "config.h"

#include <string.h>

#include "base/error.h"
#include "runtime/session.h"

static coterie_status_t plan_row(coterie_session_t *s,
                                 const coterie_rows_t *in, uint32_t i);
static void find_units(coterie_session_t *s, const coterie_rows_t *in,
                       uint32_t i);
static void find_late(coterie_plan_t *plan, coterie_set_t set);
static coterie_set_t next_set(const coterie_session_t *s,
                              const coterie_rows_t *in, uint32_t i);
static coterie_status_t carry(coterie_session_t *s, const coterie_rows_t *in);
static coterie_status_t send_sums(coterie_session_t *s,
                                  const coterie_circle_t *circle,
                                  const coterie_rows_t *in);
static void pack_sum(coterie_session_t *s, coterie_outbox_t *outbox,
                     const coterie_wire_record_t *record,
                     const coterie_units_t *units, float *sum);
static void add_what_travels(const coterie_session_t *s, const void *row,
                             float *sum);
static void pack_late(coterie_session_t *s, const coterie_rows_t *in,
                      uint32_t i);
static coterie_status_t merge(coterie_session_t *s,
                              const coterie_circle_t *circle,
                              const coterie_rows_t *in);
static coterie_status_t take_own(coterie_session_t *s, uint32_t me,
                                 const coterie_rows_t *in, uint32_t i);
static coterie_status_t take_other(coterie_session_t *s, uint32_t member,
                                   const void *row, coterie_held_t **held_p);
static void hold_units(coterie_held_t *held, const coterie_units_t *units,
                       uint32_t carrier, uint32_t late);
static bool same_units(const coterie_held_t *a, const coterie_held_t *b);
static bool place_part(coterie_held_t *held, uint32_t unit, bool late,
                       coterie_wire_part_t part);
static coterie_status_t complete(const coterie_session_t *s,
                                 const coterie_held_t *held, bool late);
static coterie_status_t mend(coterie_session_t *s,
                             const coterie_circle_t *circle);
static coterie_status_t compute_late(coterie_session_t *s, uint32_t member);
static coterie_status_t send_late(coterie_session_t *s, uint32_t from);
static coterie_status_t receive_late(coterie_session_t *s,
                                     const coterie_circle_t *circle);
static coterie_status_t place_late(coterie_session_t *s, uint64_t key,
                                   uint32_t unit, coterie_wire_part_t part);
static void add_up(const coterie_session_t *s, coterie_rows_t *out);

coterie_status_t coterie_exchange_forward(coterie_session_t *s,
                                          const coterie_rows_t *in,
                                          coterie_rows_t *out)
{
    coterie_status_t status = COTERIE_OK;

    coterie_work_begin(&s->work);
    for (uint32_t i = 0; i < in->count && status == COTERIE_OK; i++)
        status = plan_row(s, in, i);
    if (status == COTERIE_OK)
        status = coterie_work_run(s);
    if (status == COTERIE_OK)
        status = carry(s, in);
    if (status == COTERIE_OK)
        status =
            coterie_transport_flush(s->transport, s->options.deadline_ms);
    if (status == COTERIE_OK)
        status = coterie_forward_sums(s, &s->all, in, out);
    return status;
}

coterie_status_t coterie_forward_sums(coterie_session_t *s,
                                      const coterie_circle_t *circle,
                                      const coterie_rows_t *in,
                                      coterie_rows_t *out)
{
    coterie_inbox_t *inbox = &s->inboxes[COTERIE_BOX_SUMS];
    coterie_status_t status = send_sums(s, circle, in);

    /* Nothing is sampled here that others do not sample too: the step's K/V
     * need not wait for the end of the step. */
    if (status == COTERIE_OK && s->layer + 1 == s->layer_count &&
        !s->options.kv_after_last)
        status = coterie_gather_post(s);
    s->held_count = 0;
    if (circle->count > 1)
        s->counts[s->phase].alltoalls++;
    if (status == COTERIE_OK)
        status = coterie_inbox_open(inbox, circle, COTERIE_TRAFFIC_ALLTOALL,
                                    NULL, s->options.deadline_ms);
    if (status == COTERIE_OK)
        status = merge(s, circle, in);
    if (status == COTERIE_OK)
        status = mend(s, circle);
    if (status == COTERIE_OK)
        status = coterie_rows_out(s, out);
    if (status == COTERIE_OK)
        add_up(s, out);
    coterie_inbox_close(inbox);
    coterie_inbox_close(&s->inboxes[COTERIE_BOX_FIXUP]);
    return status;
}

static coterie_status_t plan_row(coterie_session_t *s,
                                 const coterie_rows_t *in, uint32_t i)
{
    const size_t at = (size_t)i * s->options.k;
    coterie_plan_t *plan = &s->plans[i];
    coterie_route_t *route = &plan->route;
    coterie_job_t job = {in->sequence[i], in->position[i], s->rank, 0};
    coterie_status_t status;

    find_units(s, in, i);
    plan->next = next_set(s, in, i);
    plan->part = NULL;
    if (!coterie_route_has(route, s->rank))
        return COTERIE_OK;
    plan->part = s->work.sums + coterie_row(s, s->work.count);
    status = coterie_work_add(s, &job, route, in->topk_weights + at,
                              in->normed + coterie_row(s, i));
    return status;
}

bool coterie_forward_carries(coterie_session_t *s, const coterie_rows_t *in,
                             uint32_t i)
{
    find_units(s, in, i);
    return s->plans[i].carrier == s->rank;
}

static void find_units(coterie_session_t *s, const coterie_rows_t *in,
                       uint32_t i)
{
    coterie_plan_t *plan = &s->plans[i];
    coterie_route_t *route = &plan->route;

    coterie_route(s->options.placement, s->layer,
                  in->topk_ids + (size_t)i * s->options.k, s->options.k,
                  COTERIE_NONE, route);
    plan->units.count = route->rank_count;
    memcpy(plan->units.unit, route->rank,
           route->rank_count * sizeof(*route->rank));
    find_late(plan, s->here[i].set);
}

/* The carrier is the lowest rank of D that holds the row; if there is none, the
 * lowest that holds it. */
static void find_late(coterie_plan_t *plan, coterie_set_t set)
{
    plan->late = 0;
    plan->carrier = COTERIE_NONE;
    for (uint32_t i = 0; i < plan->units.count; i++)
        if (!coterie_set_has(set, plan->units.unit[i]))
            plan->late |= (uint16_t)(1u << i);
        else if (plan->carrier == COTERIE_NONE)
            plan->carrier = plan->units.unit[i];
    if (plan->carrier == COTERIE_NONE)
        plan->carrier = (uint16_t)__builtin_ctz(set);
}

static coterie_set_t next_set(const coterie_session_t *s,
                              const coterie_rows_t *in, uint32_t i)
{
    uint32_t k = s->options.predicted_k;
    coterie_set_t set = 0;
    coterie_route_t route;

    if (in->predicted == NULL || k == 0 || s->layer + 1 == s->layer_count)
        return COTERIE_SET_ALL;
    coterie_route(s->options.placement, s->layer + 1,
                  in->predicted + (size_t)i * k, k, COTERIE_NONE, &route);
    for (uint32_t j = 0; j < route.rank_count; j++)
        set |= 1u << route.rank[j];
    return set != 0 ? set : 1u << s->plans[i].carrier;
}

/* Adds up this rank's part of the rows that it carries: runs of them at a time,
 * since shared experts like batches. */
static coterie_status_t carry(coterie_session_t *s, const coterie_rows_t *in)
{
    coterie_status_t status = COTERIE_OK;
    uint32_t i = 0;

    while (i < in->count && status == COTERIE_OK) {
        const float *from[2] = {in->hidden + coterie_row(s, i),
                                in->normed + coterie_row(s, i)};
        uint32_t end = i;

        while (end < in->count && s->plans[end].carrier == s->rank)
            end++;
        if (end == i) {
            i++;
            continue;
        }
        status = coterie_residual(s, end - i, from,
                                  s->parts + coterie_row(s, i));
        for (; i < end; i++) {
            float *part = s->parts + coterie_row(s, i);

            if (s->plans[i].part != NULL) {
                const coterie_wire_part_t own =
                    coterie_own_part(s->plans[i].part);
                coterie_add(s, 1, &own, part);
            }
            s->plans[i].part = part;
        }
    }
    return status;
}

static coterie_status_t send_sums(coterie_session_t *s,
                                  const coterie_circle_t *circle,
                                  const coterie_rows_t *in)
{
    coterie_outbox_t *outbox = &s->outboxes[COTERIE_BOX_SUMS];

    coterie_outbox_open(outbox, circle);
    for (uint32_t i = 0; i < in->count; i++) {
        const coterie_plan_t *plan = &s->plans[i];
        coterie_wire_record_t record = {in->sequence[i], in->position[i],
                                        plan->carrier, plan->late, plan->next};

        if (plan->part != NULL)
            pack_sum(s, outbox, &record, &plan->units, plan->part);
    }
    for (uint32_t i = 0; i < in->count; i++)
        if (s->plans[i].late != 0 && s->plans[i].carrier == circle->me)
            pack_late(s, in, i);
    return coterie_outbox_post(outbox, s->transport, COTERIE_TRAFFIC_ALLTOALL,
                               false);
}

/* For those of the outbox's circle that hold the row next: record.parts. */
static void pack_sum(coterie_session_t *s, coterie_outbox_t *outbox,
                     const coterie_wire_record_t *record,
                     const coterie_units_t *units, float *sum)
{
    const coterie_circle_t *circle = outbox->circle;
    size_t size = coterie_sum_rows(s).stride;
    void *first = NULL;

    for (uint32_t m = 0; m < circle->count; m++) {
        void *row;

        if (m == circle->me || !coterie_set_has(record->parts, m))
            continue;
        row = coterie_outbox_row(outbox, m, size);
        if (first != NULL)
            memcpy(row, first, size);
        else
            coterie_sum_pack(s, record, units, sum, first = row);
        coterie_count_copy(s, s->wide, &s->counts[s->phase].copies_forward,
                           coterie_circle_rank(circle, m));
    }
    add_what_travels(s, first, sum);
}

/* All holders of a row need the same bits of it, this one, too: where sums
 * were rounded for the others, it rounds its own. */
static void add_what_travels(const coterie_session_t *s, const void *row,
                             float *sum)
{
    coterie_wire_part_t part;

    if (row == NULL || s->wide == COTERIE_WIRE_F32)
        return;
    part = coterie_sum_part(s, row);
    coterie_wire_sum(s->options.hidden, 1, &part, sum);
}

static void pack_late(coterie_session_t *s, const coterie_rows_t *in,
                      uint32_t i)
{
    coterie_outbox_t *outbox = &s->outboxes[COTERIE_BOX_SUMS];
    coterie_wire_rows_t rows = coterie_dispatch_rows(s, 0);
    const coterie_plan_t *plan = &s->plans[i];
    coterie_wire_record_t record = {in->sequence[i], in->position[i],
                                    plan->carrier, 0, plan->next};

    for (uint32_t j = 0; j < plan->units.count; j++) {
        uint32_t peer = plan->units.unit[j];
        unsigned char *row;

        if ((plan->late >> j & 1) == 0)
            continue;
        row = coterie_outbox_extra(outbox, peer, rows.stride);
        coterie_dispatch_head(s, &record, in, i, row);
        coterie_wire_pack(&rows, in->normed + coterie_row(s, i),
                          row + coterie_wire_dispatch_head(s->options.k));
        coterie_count_copy(s, rows.wire, &s->counts[s->phase].copies_fixup,
                           peer);
    }
}

/* Goes through the rows of `in` and of all messages by sequence and position;
 * a row may come from many at once. */
static coterie_status_t merge(coterie_session_t *s,
                              const coterie_circle_t *circle,
                              const coterie_rows_t *in)
{
    coterie_inbox_t *inbox = &s->inboxes[COTERIE_BOX_SUMS];
    uint32_t own = 0, before;
    uint64_t key;

    while ((key = coterie_lowest_key(inbox, coterie_inbox_peek, in, own)) !=
           COTERIE_NO_KEY) {
        bool known = own < in->count &&
                     coterie_row_key(in->sequence[own], in->position[own]) ==
                         key;
        coterie_held_t *held = NULL;
        coterie_status_t status = COTERIE_OK;

        before = s->held_count;
        if (known)
            status = take_own(s, circle->me, in, own++);
        if (s->held_count > before)
            held = &s->held[before];
        for (uint32_t m = 0; m < circle->count && status == COTERIE_OK; m++) {
            const coterie_wire_record_t *row = coterie_inbox_peek(inbox, m);

            if (row == NULL || coterie_record_key(row) != key)
                continue;
            if (known && held == NULL)
                return coterie_disagree(s, key, "it came where it must not");
            status = take_other(s, m, row, &held);
            coterie_inbox_take(inbox, m);
        }
        if (status == COTERIE_OK && held != NULL)
            status = complete(s, held, false);
        if (status != COTERIE_OK)
            return status;
    }
    return COTERIE_OK;
}

static coterie_status_t take_own(coterie_session_t *s, uint32_t me,
                                 const coterie_rows_t *in, uint32_t i)
{
    const coterie_plan_t *plan = &s->plans[i];
    coterie_held_t *held;
    coterie_status_t status;

    if (!coterie_set_has(plan->next, me))
        return COTERIE_OK;
    status = coterie_held_add(s, in->sequence[i], in->position[i], &held);
    if (status != COTERIE_OK)
        return status;
    held->next = plan->next;
    hold_units(held, &plan->units, plan->carrier, plan->late);
    if (plan->part != NULL)
        place_part(held, me, false, coterie_own_part(plan->part));
    return COTERIE_OK;
}

/* Begins the row if this is the first to tell of it; else both must say the
 * same. */
static coterie_status_t take_other(coterie_session_t *s, uint32_t member,
                                   const void *row, coterie_held_t **held_p)
{
    const coterie_wire_record_t *record = row;
    uint64_t key = coterie_record_key(record);
    coterie_held_t told = {.next = record->parts};
    coterie_units_t units;

    coterie_sum_units(s, row, &units);
    hold_units(&told, &units, record->owner, record->flags);
    if (*held_p == NULL) {
        coterie_status_t status = coterie_held_add(s, record->sequence,
                                                   record->position, held_p);
        if (status != COTERIE_OK)
            return status;
        (*held_p)->next = told.next;
        hold_units(*held_p, &units, record->owner, record->flags);
    } else if (!same_units(&told, *held_p)) {
        return coterie_disagree(s, key, "its experts differ");
    }
    if (!place_part(*held_p, member, false, coterie_sum_part(s, row)))
        return coterie_disagree(s, key, "a sum came that was not due");
    return COTERIE_OK;
}

/* The carrier's part is first, since it begins with the residual. */
static void hold_units(coterie_held_t *held, const coterie_units_t *units,
                       uint32_t carrier, uint32_t late)
{
    held->unit[0] = (uint16_t)carrier;
    held->part_count = 1;
    for (uint32_t i = 0; i < units->count; i++) {
        if (units->unit[i] == carrier)
            continue;
        held->late |= (late >> i & 1) << held->part_count;
        held->unit[held->part_count++] = units->unit[i];
    }
}

static bool same_units(const coterie_held_t *a, const coterie_held_t *b)
{
    return a->part_count == b->part_count && a->late == b->late &&
           a->next == b->next &&
           memcmp(a->unit, b->unit, a->part_count * sizeof(*a->unit)) == 0;
}

/* @return false unless that part was expected, and then */
static bool place_part(coterie_held_t *held, uint32_t unit, bool late,
                       coterie_wire_part_t part)
{
    for (uint32_t i = 0; i < held->part_count; i++) {
        if (held->unit[i] != unit || held->part[i].values != NULL)
            continue;
        held->part[i] = part;
        return (held->late >> i & 1) == late;
    }
    return false;
}

static coterie_status_t complete(const coterie_session_t *s,
                                 const coterie_held_t *held, bool late)
{
    for (uint32_t i = 0; i < held->part_count; i++)
        if (held->part[i].values == NULL &&
            (late || (held->late >> i & 1) == 0))
            return coterie_disagree(
                s, coterie_row_key(held->sequence, held->position),
                "a partial sum did not come");
    return COTERIE_OK;
}

/* Who is late, and for whom, both sides know by now: nobody else waits. */
static coterie_status_t mend(coterie_session_t *s,
                             const coterie_circle_t *circle)
{
    uint32_t from = s->work.count;
    coterie_status_t status = COTERIE_OK;

    for (uint32_t m = 0; m < circle->count && status == COTERIE_OK; m++)
        status = compute_late(s, m);
    if (status == COTERIE_OK)
        status = coterie_work_run(s);
    if (status == COTERIE_OK && s->work.count > from)
        status = send_late(s, from);
    if (status == COTERIE_OK)
        status = receive_late(s, circle);
    for (uint32_t i = 0; i < s->held_count && status == COTERIE_OK; i++)
        status = complete(s, &s->held[i], true);
    return status;
}

static coterie_status_t compute_late(coterie_session_t *s, uint32_t member)
{
    coterie_inbox_t *inbox = &s->inboxes[COTERIE_BOX_SUMS];
    coterie_status_t status = COTERIE_OK;
    const void *row;

    while (status == COTERIE_OK &&
           (row = coterie_inbox_peek_extra(inbox, member)) != NULL) {
        coterie_arrival_t arrival;
        coterie_job_t job;

        coterie_dispatch_unpack(s, row, COTERIE_NONE, &arrival);
        job = (coterie_job_t){arrival.record.sequence,
                              arrival.record.position, member,
                              arrival.record.parts};
        if (!coterie_route_has(&arrival.route, s->rank))
            return coterie_disagree(s, coterie_record_key(&arrival.record),
                                    "its experts are elsewhere here");
        status = coterie_work_add(s, &job, &arrival.route, arrival.weights,
                                  NULL);
        if (status == COTERIE_OK)
            coterie_dispatch_values(
                s, &arrival, s->work.x + coterie_row(s, s->work.count - 1));
        coterie_inbox_take_extra(inbox, member);
    }
    return status;
}

static coterie_status_t send_late(coterie_session_t *s, uint32_t from)
{
    coterie_outbox_t *outbox = &s->outboxes[COTERIE_BOX_FIXUP];
    const coterie_units_t none = {0};
    coterie_status_t status = COTERIE_OK;

    coterie_outbox_open(outbox, &s->all);
    for (uint32_t i = from; i < s->work.count && status == COTERIE_OK; i++) {
        const coterie_job_t *job = &s->work.jobs[i];
        float *sum = s->work.sums + coterie_row(s, i);
        coterie_wire_record_t record = {job->sequence, job->position,
                                        (uint16_t)job->owner, 0, job->next};

        pack_sum(s, outbox, &record, &none, sum);
        if (coterie_set_has(job->next, s->rank))
            status = place_late(s,
                                coterie_row_key(job->sequence, job->position),
                                s->rank, coterie_own_part(sum));
    }
    if (status != COTERIE_OK)
        return status;
    return coterie_outbox_post(outbox, s->transport, COTERIE_TRAFFIC_FIXUP,
                               true);
}

static coterie_status_t receive_late(coterie_session_t *s,
                                     const coterie_circle_t *circle)
{
    coterie_inbox_t *inbox = &s->inboxes[COTERIE_BOX_FIXUP];
    coterie_status_t status;

    memset(s->expected, 0, circle->count * sizeof(*s->expected));
    for (uint32_t i = 0; i < s->held_count; i++)
        for (uint32_t j = 0; j < s->held[i].part_count; j++)
            if (s->held[i].part[j].values == NULL)
                s->expected[s->held[i].unit[j]] = true;
    status = coterie_inbox_open(inbox, circle, COTERIE_TRAFFIC_FIXUP,
                                s->expected, s->options.deadline_ms);
    for (uint32_t m = 0; m < circle->count && status == COTERIE_OK; m++) {
        const coterie_wire_record_t *row;

        while (status == COTERIE_OK &&
               (row = coterie_inbox_peek(inbox, m)) != NULL) {
            status = place_late(s, coterie_record_key(row), m,
                                coterie_sum_part(s, row));
            coterie_inbox_take(inbox, m);
        }
    }
    return status;
}

static coterie_status_t place_late(coterie_session_t *s, uint64_t key,
                                   uint32_t unit, coterie_wire_part_t part)
{
    uint32_t from = 0, to = s->held_count;

    while (from < to) {
        uint32_t middle = from + (to - from) / 2;

        if (coterie_row_key(s->held[middle].sequence,
                            s->held[middle].position) < key)
            from = middle + 1;
        else
            to = middle;
    }
    if (from == s->held_count ||
        coterie_row_key(s->held[from].sequence, s->held[from].position) !=
            key ||
        !place_part(&s->held[from], unit, true, part))
        return coterie_disagree(s, key, "a late sum came that was not due");
    return COTERIE_OK;
}

static void add_up(const coterie_session_t *s, coterie_rows_t *out)
{
    for (uint32_t i = 0; i < s->held_count; i++) {
        const coterie_held_t *held = &s->held[i];
        float *to = out->hidden + coterie_row(s, i);

        coterie_wire_sum(s->options.hidden, held->part_count, held->part, to);
    }
}
