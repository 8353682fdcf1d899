/* One layer's experts: what every mode checks, shares and leaves behind. */
#include "config.h"

#include <string.h>

#include "base/error.h"
#include "runtime/session.h"

static coterie_status_t exchange_run(coterie_session_t *s,
                                     const coterie_rows_t *in,
                                     coterie_rows_t *out);
static coterie_status_t check_call(const coterie_session_t *s, uint32_t layer,
                                   const coterie_rows_t *in,
                                   const coterie_rows_t *out);
static coterie_status_t check_rows(const coterie_session_t *s,
                                   const coterie_rows_t *in);
static coterie_status_t check_place(const coterie_session_t *s,
                                    const coterie_rows_t *in);
static coterie_status_t check_ids(const coterie_session_t *s, const char *what,
                                  const int32_t *ids, size_t count);
static void leave_here(coterie_session_t *s);

coterie_status_t coterie_exchange(coterie_session_t *session, uint32_t layer,
                                  const coterie_rows_t *in,
                                  coterie_rows_t *out)
{
    uint64_t start = coterie_now_ns(), waited = session->transport->wait_ns;
    coterie_status_t status = check_call(session, layer, in, out);

    if (status == COTERIE_OK)
        coterie_bank_watch(session, in);
    if (status == COTERIE_OK)
        status = exchange_run(session, in, out);
    if (status != COTERIE_OK)
        return coterie_session_fail(session, status);
    if (session->phase == COTERIE_PHASE_PREFILL && layer == 0)
        session->counts[session->phase].tokens += in->count;
    leave_here(session);
    session->layer++;
    session->times.exchange_ns += coterie_now_ns() - start;
    session->times.wait_ns += session->transport->wait_ns - waited;
    return COTERIE_OK;
}

bool coterie_route_has(const coterie_route_t *route, uint32_t rank)
{
    for (uint32_t i = 0; i < route->rank_count; i++)
        if (route->rank[i] == rank)
            return true;
    return false;
}

coterie_status_t coterie_held_add(coterie_session_t *s, int32_t sequence,
                                  int32_t position, coterie_held_t **held_p)
{
    coterie_held_t *held = &s->held[s->held_count];

    if (s->held_count == s->options.max_rows)
        return coterie_fail(COTERIE_ERR_CAPACITY,
                            "rank %u holds more rows than max_rows, %u",
                            s->rank, s->options.max_rows);
    s->held_count++;
    memset(held, 0, sizeof(*held));
    held->sequence = sequence;
    held->position = position;
    held->next = COTERIE_SET_ALL;
    *held_p = held;
    return COTERIE_OK;
}

coterie_status_t coterie_residual(coterie_session_t *s, uint32_t count,
                                  const float *const from[2], float *to)
{
    memcpy(to, from[0], coterie_row(s, count) * sizeof(float));
    if (s->engine.shared == NULL)
        return COTERIE_OK;
    return s->engine.shared(s->engine.engine, s->layer, count, from[1], to);
}

void coterie_add(const coterie_session_t *s, uint32_t count,
                 const coterie_wire_part_t *parts, float *to)
{
    coterie_wire_part_t all[COTERIE_K_MAX + 2] = {coterie_own_part(to)};

    memcpy(all + 1, parts, count * sizeof(*parts));
    coterie_wire_sum(s->options.hidden, count + 1, all, to);
}

coterie_status_t coterie_rows_out(const coterie_session_t *s,
                                  coterie_rows_t *out)
{
    if (s->held_count > out->capacity)
        return coterie_fail(COTERIE_ERR_CAPACITY,
                            "rank %u gets %u rows; out has room for %u",
                            s->rank, s->held_count, out->capacity);
    for (uint32_t i = 0; i < s->held_count; i++) {
        out->sequence[i] = s->held[i].sequence;
        out->position[i] = s->held[i].position;
    }
    out->count = s->held_count;
    return COTERIE_OK;
}

coterie_status_t coterie_disagree(const coterie_session_t *s, uint64_t key,
                                  const char *what)
{
    return coterie_fail(COTERIE_ERR_MISMATCH,
                        "rank %u, layer %u, sequence %u, position %u: %s; the "
                        "ranks computed different bits or rows",
                        s->rank, s->layer, (uint32_t)(key >> 32), (uint32_t)key,
                        what);
}

static coterie_status_t exchange_run(coterie_session_t *s,
                                     const coterie_rows_t *in,
                                     coterie_rows_t *out)
{
    s->held_count = 0;
    if (coterie_lift_serves(s))
        return coterie_exchange_device(s, in, out);
    if (s->mode != COTERIE_MODE_FORWARD)
        return coterie_exchange_owner(s, in, out);
    if (s->options.group == COTERIE_GROUP_ACROSS)
        return coterie_exchange_nodes(s, in, out);
    return coterie_exchange_forward(s, in, out);
}

static coterie_status_t check_call(const coterie_session_t *s, uint32_t layer,
                                   const coterie_rows_t *in,
                                   const coterie_rows_t *out)
{
    if (s->state != COTERIE_SESSION_STEPPING)
        return coterie_fail(COTERIE_ERR_INVALID,
                            "rank %u: exchange outside of a step", s->rank);
    if (layer != s->layer || layer >= s->layer_count)
        return coterie_fail(COTERIE_ERR_INVALID,
                            "rank %u: exchange of layer %u of %u where %u is "
                            "next",
                            s->rank, layer, s->layer_count, s->layer);
    if (in == NULL || out == NULL || in->size < sizeof(*in) ||
        out->size < sizeof(*out) || out->sequence == NULL ||
        out->position == NULL || out->hidden == NULL)
        return coterie_fail(COTERIE_ERR_INVALID,
                            "rank %u: exchange needs in and out rows, their "
                            "size set and out's arrays given",
                            s->rank);
    return check_rows(s, in);
}

static coterie_status_t check_rows(const coterie_session_t *s,
                                   const coterie_rows_t *in)
{
    coterie_status_t status;

    if (in->count > 0 &&
        (in->sequence == NULL || in->position == NULL || in->hidden == NULL ||
         in->normed == NULL || in->topk_ids == NULL ||
         in->topk_weights == NULL))
        return coterie_fail(COTERIE_ERR_INVALID,
                            "rank %u: an array of in is NULL", s->rank);
    if (in->count > s->options.max_rows)
        return coterie_fail(COTERIE_ERR_CAPACITY,
                            "rank %u: %u rows in a step; max_rows is %u",
                            s->rank, in->count, s->options.max_rows);
    status = check_place(s, in);
    if (status == COTERIE_OK)
        status = check_ids(s, "topk_ids", in->topk_ids,
                           (size_t)in->count * s->options.k);
    if (status == COTERIE_OK && s->mode == COTERIE_MODE_FORWARD &&
        in->predicted != NULL)
        status = check_ids(s, "predicted", in->predicted,
                           (size_t)in->count * s->options.predicted_k);
    return status;
}

/* The engine says where prefill begins; from then on, the session does. */
static coterie_status_t check_place(const coterie_session_t *s,
                                    const coterie_rows_t *in)
{
    bool begins = s->phase == COTERIE_PHASE_PREFILL && s->layer == 0;

    if (!begins && in->count != s->here_count)
        return coterie_fail(COTERIE_ERR_INVALID,
                            "rank %u, layer %u: %u rows in; %u are here",
                            s->rank, s->layer, in->count, s->here_count);
    for (uint32_t i = 0; i < in->count; i++) {
        int32_t sequence = in->sequence[i], position = in->position[i];

        if (sequence < 0 || position < 0 ||
            (begins && coterie_home(s, sequence) != s->rank))
            return coterie_fail(COTERIE_ERR_INVALID,
                                "rank %u: row %u, sequence %d, position %d: "
                                "prefill is at sequence modulo %u ranks",
                                s->rank, i, sequence, position, s->rank_count);
        if (!begins && (s->here[i].sequence != sequence ||
                        s->here[i].position != position))
            return coterie_fail(COTERIE_ERR_INVALID,
                                "rank %u: row %u is sequence %d, position %d; "
                                "the session gave sequence %d, position %d",
                                s->rank, i, sequence, position,
                                s->here[i].sequence, s->here[i].position);
    }
    return COTERIE_OK;
}

static coterie_status_t check_ids(const coterie_session_t *s, const char *what,
                                  const int32_t *ids, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (ids[i] < -1 || ids[i] >= (int32_t)s->expert_count)
            return coterie_fail(COTERIE_ERR_INVALID,
                                "rank %u, layer %u: %s[%zu] is %d; the model "
                                "has experts 0 to %u, -1 means none",
                                s->rank, s->layer, what, i, ids[i],
                                s->expert_count - 1);
    return COTERIE_OK;
}

static void leave_here(coterie_session_t *s)
{
    s->here_count = s->held_count;
    for (uint32_t i = 0; i < s->held_count; i++)
        s->here[i] = (coterie_here_t){s->held[i].sequence,
                                      s->held[i].position, s->held[i].next};
}
