/* Two-phase and owner: rows go to the ranks that hold their experts, and the
 * partial sums to the row's next owner, which in two-phase is where it was.
 *
 * Every rank merges what comes in by sequence and position, so that a return
 * needs no index: its rows are in the order in which the owner holds them. */
#include "config.h"

#include <string.h>

#include "base/error.h"
#include "runtime/session.h"

static void plan(coterie_session_t *s, const coterie_rows_t *in);
static coterie_status_t add_up(coterie_session_t *s, coterie_rows_t *out);
static uint32_t residual_run(const coterie_session_t *s, uint32_t from);
static void pack_dispatch(coterie_session_t *s, const coterie_circle_t *circle,
                          const coterie_rows_t *in);
static void pack_rows(coterie_session_t *s, const coterie_rows_t *in,
                      uint32_t member, uint32_t flags);
static coterie_status_t merge(coterie_session_t *s,
                              const coterie_circle_t *circle,
                              const coterie_rows_t *in);
static coterie_status_t take_own(coterie_session_t *s,
                                 const coterie_rows_t *in, uint32_t i);
static coterie_status_t take_other(coterie_session_t *s, uint32_t sender,
                                   const void *row);
static coterie_status_t take_raw(coterie_session_t *s,
                                 const coterie_job_t *job,
                                 const coterie_arrival_t *arrival, float *x);
static coterie_status_t hold(coterie_session_t *s, const coterie_job_t *job,
                             const coterie_route_t *route,
                             const float *const from[2]);
static coterie_status_t send_sums(coterie_session_t *s,
                                  const coterie_circle_t *circle,
                                  coterie_traffic_t traffic);
static void pack_sums(coterie_session_t *s, uint32_t member);
static coterie_status_t receive_sums(coterie_session_t *s,
                                     const coterie_circle_t *circle,
                                     coterie_traffic_t traffic);
static coterie_status_t place_sums(coterie_session_t *s,
                                   const coterie_circle_t *circle,
                                   coterie_held_t *held);
static uint32_t next_owner(const coterie_session_t *s,
                           const coterie_route_t *route, uint32_t owner,
                           int32_t sequence);
static bool inside_node(const coterie_session_t *s);
static bool without_return(const coterie_session_t *s);

coterie_status_t coterie_exchange_owner(coterie_session_t *s,
                                        const coterie_rows_t *in,
                                        coterie_rows_t *out)
{
    coterie_status_t status;

    plan(s, in);
    status = coterie_collect_sums(s, &s->all, in);
    if (status == COTERIE_OK)
        status = coterie_rows_out(s, out);
    if (status == COTERIE_OK)
        status = add_up(s, out);
    coterie_collect_close(s);
    return status;
}

coterie_status_t coterie_collect_sums(coterie_session_t *s,
                                      const coterie_circle_t *circle,
                                      const coterie_rows_t *in)
{
    bool node = inside_node(s);
    coterie_traffic_t dispatch =
        node ? COTERIE_TRAFFIC_NODE_ALLTOALL : COTERIE_TRAFFIC_ALLTOALL;
    coterie_traffic_t back =
        node ? COTERIE_TRAFFIC_NODE_RETURN : COTERIE_TRAFFIC_RETURN;
    uint32_t deadline = s->options.deadline_ms;
    coterie_status_t status = coterie_transport_flush(s->transport, deadline);

    if (status != COTERIE_OK)
        return status;
    coterie_work_begin(&s->work);
    pack_dispatch(s, circle, in);
    status = coterie_outbox_post(&s->outboxes[COTERIE_BOX_DISPATCH],
                                 s->transport, dispatch, false);
    if (status == COTERIE_OK)
        status = coterie_inbox_open(&s->inboxes[COTERIE_BOX_DISPATCH], circle,
                                    dispatch, NULL, deadline);
    if (status == COTERIE_OK)
        status = merge(s, circle, in);
    if (status == COTERIE_OK)
        status = coterie_work_run(s);
    if (status == COTERIE_OK)
        status = send_sums(s, circle, back);
    if (status == COTERIE_OK)
        status = receive_sums(s, circle, back);
    coterie_count_exchange(s, circle);
    return status;
}

void coterie_collect_close(coterie_session_t *s)
{
    coterie_inbox_close(&s->inboxes[COTERIE_BOX_DISPATCH]);
    coterie_inbox_close(&s->inboxes[COTERIE_BOX_RETURN]);
}

void coterie_count_exchange(coterie_session_t *s,
                            const coterie_circle_t *circle)
{
    coterie_counts_t *counts = &s->counts[s->phase];

    if (circle->count == 1)
        return;
    if (inside_node(s)) {
        counts->node_alltoalls += 2;
        return;
    }
    counts->alltoalls++;
    counts->returns += without_return(s) ? 0 : 1;
}

static void plan(coterie_session_t *s, const coterie_rows_t *in)
{
    for (uint32_t i = 0; i < in->count; i++) {
        coterie_route_t *route = &s->plans[i].route;

        coterie_route(s->options.placement, s->layer,
                      in->topk_ids + (size_t)i * s->options.k, s->options.k,
                      s->rank, route);
        route->next_owner =
            (uint16_t)next_owner(s, route, s->rank, in->sequence[i]);
    }
}

/* The residual first, then the ranks' sums in ascending order: the same bits
 * wherever it is done. */
static coterie_status_t add_up(coterie_session_t *s, coterie_rows_t *out)
{
    coterie_status_t status = COTERIE_OK;
    uint32_t count;

    for (uint32_t i = 0; i < s->held_count && status == COTERIE_OK;
         i += count) {
        count = residual_run(s, i);
        status = coterie_residual(s, count, s->held[i].from,
                                  out->hidden + coterie_row(s, i));
    }
    if (status != COTERIE_OK)
        return status;
    for (uint32_t i = 0; i < s->held_count; i++)
        coterie_add(s, s->held[i].part_count, s->held[i].part,
                    out->hidden + coterie_row(s, i));
    return COTERIE_OK;
}

/* How many held rows, from one on, lie together in memory as they do in out:
 * in two-phase, all of them. */
static uint32_t residual_run(const coterie_session_t *s, uint32_t from)
{
    const coterie_held_t *first = &s->held[from];
    uint32_t count = 1;

    while (from + count < s->held_count &&
           first[count].from[0] == first->from[0] + coterie_row(s, count) &&
           first[count].from[1] == first->from[1] + coterie_row(s, count))
        count++;
    return count;
}

static void pack_dispatch(coterie_session_t *s, const coterie_circle_t *circle,
                          const coterie_rows_t *in)
{
    coterie_outbox_open(&s->outboxes[COTERIE_BOX_DISPATCH], circle);
    for (uint32_t m = 0; m < circle->count; m++) {
        if (m == circle->me)
            continue;
        pack_rows(s, in, m, 0);
        if (s->mode == COTERIE_MODE_OWNER)
            pack_rows(s, in, m, COTERIE_FLAG_RAW);
    }
}

/* The next owner needs the row itself, the others the input. */
static void pack_rows(coterie_session_t *s, const coterie_rows_t *in,
                      uint32_t member, uint32_t flags)
{
    coterie_outbox_t *outbox = &s->outboxes[COTERIE_BOX_DISPATCH];
    coterie_wire_rows_t rows = coterie_dispatch_rows(s, flags);
    uint32_t peer = coterie_circle_rank(outbox->circle, member);
    unsigned char *first = NULL;

    rows.row = s->picked;
    rows.count = 0;
    for (uint32_t i = 0; i < in->count; i++) {
        const coterie_route_t *route = &s->plans[i].route;
        coterie_wire_record_t record = {in->sequence[i], in->position[i],
                                        route->next_owner, (uint16_t)flags, 0};
        unsigned char *row;

        if (!coterie_route_has(route, peer) ||
            (peer == route->next_owner) != (flags != 0))
            continue;
        row = flags != 0 ? coterie_outbox_extra(outbox, member, rows.stride)
                         : coterie_outbox_row(outbox, member, rows.stride);
        coterie_dispatch_head(s, &record, in, i, row);
        coterie_count_copy(s, rows.wire, &s->counts[s->phase].copies_dispatch,
                           peer);
        first = first != NULL ? first : row;
        s->picked[rows.count++] = i;
    }
    if (first != NULL)
        coterie_wire_pack(&rows, flags != 0 ? in->hidden : in->normed,
                          first + coterie_wire_dispatch_head(s->options.k));
}

static coterie_status_t merge(coterie_session_t *s,
                              const coterie_circle_t *circle,
                              const coterie_rows_t *in)
{
    coterie_inbox_t *inbox = &s->inboxes[COTERIE_BOX_DISPATCH];
    coterie_status_t status = COTERIE_OK;
    uint32_t own = 0;
    uint64_t key;

    while (status == COTERIE_OK &&
           (key = coterie_lowest_key(inbox, coterie_dispatch_peek, in, own)) !=
               COTERIE_NO_KEY) {
        if (own < in->count &&
            coterie_row_key(in->sequence[own], in->position[own]) == key)
            status = take_own(s, in, own++);
        for (uint32_t i = 0; i < circle->count && status == COTERIE_OK; i++) {
            const coterie_wire_record_t *record =
                coterie_dispatch_peek(inbox, i);

            if (record == NULL || coterie_record_key(record) != key)
                continue;
            status = take_other(s, coterie_circle_rank(circle, i), record);
            coterie_dispatch_take(inbox, i);
        }
    }
    return status;
}

static coterie_status_t take_own(coterie_session_t *s,
                                 const coterie_rows_t *in, uint32_t i)
{
    const coterie_route_t *route = &s->plans[i].route;
    const float *const from[2] = {in->hidden + coterie_row(s, i),
                                  in->normed + coterie_row(s, i)};
    coterie_job_t job = {in->sequence[i], in->position[i], route->next_owner,
                         0};
    coterie_status_t status = COTERIE_OK;

    if (coterie_route_has(route, s->rank))
        status = coterie_work_add(s, &job, route,
                                  in->topk_weights + (size_t)i * s->options.k,
                                  from[1]);
    if (status == COTERIE_OK && job.owner == s->rank)
        status = hold(s, &job, route, from);
    return status;
}

/* Finds out, as the sender did, where the row's experts are and who owns it. */
static coterie_status_t take_other(coterie_session_t *s, uint32_t sender,
                                   const void *row)
{
    coterie_arrival_t arrival;
    const coterie_wire_record_t *record = &arrival.record;
    coterie_status_t status;
    coterie_job_t job;
    bool raw;
    float *x;

    coterie_dispatch_unpack(s, row, inside_node(s) ? COTERIE_NONE : sender,
                            &arrival);
    job = (coterie_job_t){record->sequence, record->position, record->owner,
                          0};
    raw = (record->flags & COTERIE_FLAG_RAW) != 0;
    if (next_owner(s, &arrival.route, sender, job.sequence) != job.owner ||
        !coterie_route_has(&arrival.route, s->rank) ||
        raw != (job.owner == s->rank))
        return coterie_disagree(s, coterie_record_key(record),
                                "its experts are elsewhere here");
    status = coterie_work_add(s, &job, &arrival.route, arrival.weights, NULL);
    if (status != COTERIE_OK)
        return status;
    x = s->work.x + coterie_row(s, s->work.count - 1);
    if (raw)
        return take_raw(s, &job, &arrival, x);
    coterie_dispatch_values(s, &arrival, x);
    return COTERIE_OK;
}

static coterie_status_t take_raw(coterie_session_t *s,
                                 const coterie_job_t *job,
                                 const coterie_arrival_t *arrival, float *x)
{
    float *hidden = s->parts + coterie_row(s, s->held_count);
    const float *const from[2] = {hidden, x};
    coterie_status_t status = hold(s, job, &arrival->route, from);

    if (status != COTERIE_OK)
        return status;
    coterie_dispatch_values(s, arrival, hidden);
    return s->engine.norm(s->engine.engine, s->layer, 1, hidden, x);
}

/* Keeps a row that this rank owns from now on. If this rank serves it, that is
 * the last job. */
static coterie_status_t take_raw(coterie_session_t *s,
                                 const coterie_job_t *job,
                                 const coterie_arrival_t *arrival, float *x);
static coterie_status_t hold(coterie_session_t *s, const coterie_job_t *job,
                             const coterie_route_t *route,
                             const float *const from[2])
{
    coterie_held_t *held;
    coterie_status_t status =
        coterie_held_add(s, job->sequence, job->position, &held);

    if (status != COTERIE_OK)
        return status;
    held->from[0] = from[0];
    held->from[1] = from[1];
    held->part_count = route->rank_count;
    for (uint32_t i = 0; i < route->rank_count; i++) {
        held->unit[i] = route->rank[i];
        if (route->rank[i] == s->rank)
            held->part[i] = coterie_own_part(
                s->work.sums + coterie_row(s, s->work.count - 1));
    }
    return COTERIE_OK;
}

static coterie_status_t send_sums(coterie_session_t *s,
                                  const coterie_circle_t *circle,
                                  coterie_traffic_t traffic)
{
    coterie_outbox_t *outbox = &s->outboxes[COTERIE_BOX_RETURN];

    coterie_outbox_open(outbox, circle);
    for (uint32_t m = 0; m < circle->count; m++)
        if (m != circle->me)
            pack_sums(s, m);
    return coterie_outbox_post(outbox, s->transport, traffic, true);
}

static void pack_sums(coterie_session_t *s, uint32_t member)
{
    coterie_outbox_t *outbox = &s->outboxes[COTERIE_BOX_RETURN];
    coterie_wire_rows_t rows = coterie_sum_rows(s);
    uint32_t peer = coterie_circle_rank(outbox->circle, member);
    unsigned char *first = NULL;
    const coterie_units_t none = {0};

    rows.row = s->picked;
    rows.count = 0;
    for (uint32_t i = 0; i < s->work.count; i++) {
        const coterie_job_t *job = &s->work.jobs[i];
        coterie_wire_record_t record = {job->sequence, job->position,
                                        (uint16_t)job->owner, 0, 0};
        unsigned char *row;

        if (job->owner != peer)
            continue;
        row = coterie_outbox_row(outbox, member, rows.stride);
        coterie_sum_head(s, &record, &none, row);
        coterie_count_copy(s, rows.wire, &s->counts[s->phase].copies_return,
                           peer);
        first = first != NULL ? first : row;
        s->picked[rows.count++] = i;
    }
    if (first != NULL)
        coterie_wire_pack(&rows, s->work.sums,
                          first + coterie_wire_sum_head(s->options.k));
}

static coterie_status_t receive_sums(coterie_session_t *s,
                                     const coterie_circle_t *circle,
                                     coterie_traffic_t traffic)
{
    coterie_status_t status;

    memset(s->expected, 0, circle->count * sizeof(*s->expected));
    for (uint32_t i = 0; i < s->held_count; i++)
        for (uint32_t j = 0; j < s->held[i].part_count; j++)
            s->expected[s->held[i].unit[j] - circle->first] = true;
    s->expected[circle->me] = false;
    status = coterie_inbox_open(&s->inboxes[COTERIE_BOX_RETURN], circle,
                                traffic, s->expected, s->options.deadline_ms);
    for (uint32_t i = 0; i < s->held_count && status == COTERIE_OK; i++)
        status = place_sums(s, circle, &s->held[i]);
    return status;
}

static coterie_status_t place_sums(coterie_session_t *s,
                                   const coterie_circle_t *circle,
                                   coterie_held_t *held)
{
    coterie_inbox_t *inbox = &s->inboxes[COTERIE_BOX_RETURN];
    uint64_t key = coterie_row_key(held->sequence, held->position);

    for (uint32_t j = 0; j < held->part_count; j++) {
        uint32_t member = held->unit[j] - circle->first;
        const coterie_wire_record_t *record;

        if (held->part[j].values != NULL)
            continue;
        record = coterie_inbox_peek(inbox, member);
        if (record == NULL || coterie_record_key(record) != key)
            return coterie_disagree(s, key, "a partial sum did not come back");
        held->part[j] = coterie_sum_part(s, record);
        coterie_inbox_take(inbox, member);
    }
    return COTERIE_OK;
}

/* Where the row goes on: only where its K/V is known, and only in decode. */
static uint32_t next_owner(const coterie_session_t *s,
                           const coterie_route_t *route, uint32_t owner,
                           int32_t sequence)
{
    uint32_t home = coterie_home(s, sequence), next = route->next_owner;

    if (s->mode != COTERIE_MODE_OWNER)
        return owner;
    if (s->options.group == COTERIE_GROUP_NODE &&
        next / s->node_ranks != home / s->node_ranks)
        return owner;
    return next;
}

/* Forward between nodes uses this exchange within each of them. */
static bool inside_node(const coterie_session_t *s)
{
    return s->mode == COTERIE_MODE_FORWARD;
}

/* A row's only expert always becomes its owner where any rank may. */
static bool without_return(const coterie_session_t *s)
{
    return s->mode == COTERIE_MODE_OWNER && s->options.k == 1 &&
           s->options.group == COTERIE_GROUP_ALL;
}
