#include "config.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/error.h"
#include "base/options.h"
#include "runtime/session.h"

/* What every rank must have alike; compared when a session is created. */
typedef struct terms {
    uint32_t hidden, k, max_rows, mode, group, predicted_k, kv_row_size, wire;
    uint64_t shared;    /* whether there are shared experts */
    uint64_t lifted;    /* whether there is a dispatcher */
    uint64_t placement; /* a hash */
} terms_t;

static coterie_status_t read_options(coterie_session_t *s,
                                     const coterie_session_options_t *options);
static coterie_status_t check_engine(const coterie_session_t *s);
static coterie_status_t check_sizes(const coterie_session_t *s);
static coterie_status_t check_mode(const coterie_session_t *s);
static coterie_status_t find_places(coterie_session_t *s);
static coterie_status_t agree(coterie_session_t *s);
static uint64_t placement_hash(const coterie_placement_t *placement);
static coterie_status_t compare_terms(const coterie_session_t *s,
                                      const terms_t *all);
static coterie_status_t allocate(coterie_session_t *s);
static coterie_status_t allocate_boxes(coterie_session_t *s);
static coterie_status_t begin(coterie_session_t *s, coterie_phase_t phase,
                              coterie_rows_t *rows);
static coterie_status_t begin_decode(coterie_session_t *s,
                                     coterie_rows_t *rows);
static coterie_status_t end(coterie_session_t *s,
                            const coterie_wire_token_t *token);
static bool is_here(const coterie_session_t *s, int32_t sequence);
static coterie_status_t close_step(coterie_session_t *s);
static void count_traffic(coterie_session_t *s);

coterie_status_t coterie_session_create(
    const coterie_session_options_t *options, coterie_session_t **session_p)
{
    coterie_session_t *s = calloc(1, sizeof(*s));
    coterie_status_t status;

    if (s == NULL)
        return coterie_fail_memory(sizeof(*s), "a session");
    status = read_options(s, options);
    if (s->transport == NULL)
        goto out;
    if (status == COTERIE_OK)
        status = find_places(s);
    if (status == COTERIE_OK)
        status = allocate(s);
    if (status == COTERIE_OK)
        status = agree(s);
    else
        coterie_transport_abort(s->transport); /* the others wait for it */
    if (status != COTERIE_OK)
        goto out;
    memcpy(s->counted, s->transport->counts, sizeof(s->counted));
    *session_p = s;
    s = NULL;
out:
    coterie_session_destroy(s);
    return status;
}

coterie_status_t coterie_step_begin(coterie_session_t *session,
                                    coterie_phase_t phase,
                                    coterie_mode_t *mode_p,
                                    coterie_rows_t *rows)
{
    coterie_status_t status = begin(session, phase, rows);

    if (status != COTERIE_OK)
        return coterie_session_fail(session, status);
    session->state = COTERIE_SESSION_STEPPING;
    session->counts[phase].steps++;
    coterie_bank_feed(session, rows);
    if (mode_p != NULL)
        *mode_p = session->mode;
    return COTERIE_OK;
}

coterie_status_t coterie_step_end(coterie_session_t *session, uint32_t count,
                                  const int32_t *sequence,
                                  const int32_t *position,
                                  const int32_t *token)
{
    coterie_status_t status = COTERIE_OK;

    if (session->state != COTERIE_SESSION_STEPPING ||
        session->layer != session->layer_count)
        status = coterie_fail(COTERIE_ERR_INVALID,
                              "rank %u: a step ends after its last exchange; "
                              "%u of %u were made",
                              session->rank, session->layer,
                              session->layer_count);
    for (uint32_t i = 0; i < count && status == COTERIE_OK; i++)
        status = end(session,
                     &(coterie_wire_token_t){sequence[i], position[i],
                                             token[i], session->rank});
    if (status == COTERIE_OK)
        status = close_step(session);
    if (status != COTERIE_OK)
        return coterie_session_fail(session, status);
    session->state = COTERIE_SESSION_READY;
    return COTERIE_OK;
}

void coterie_session_counts(const coterie_session_t *session,
                            coterie_counts_t counts[2],
                            coterie_times_t *times)
{
    memcpy(counts, session->counts, sizeof(session->counts));
    *times = session->times;
}

void coterie_session_destroy(coterie_session_t *session)
{
    coterie_status_t status = COTERIE_OK;

    if (session == NULL)
        return;
    if (session->state == COTERIE_SESSION_STEPPING)
        coterie_session_fail(session, COTERIE_ERR_PEER);
    /* What peers sent must not reach a later session, and what they may still
     * be reading must not be freed: after a timeout it never is. */
    if (session->gather.pending && session->state == COTERIE_SESSION_READY)
        status = coterie_gather_complete(session, false);
    if (session->transport != NULL && status == COTERIE_OK)
        status = coterie_transport_flush(session->transport,
                                         session->options.deadline_ms);
    if (status != COTERIE_OK)
        return;
    for (uint32_t i = 0; i < COTERIE_BOX_COUNT; i++) {
        coterie_inbox_destroy(&session->inboxes[i]);
        coterie_outbox_destroy(&session->outboxes[i]);
    }
    coterie_gather_destroy(session);
    coterie_work_destroy(&session->work);
    coterie_lift_destroy(session->lift);
    free(session->chooser.all_ns);
    free(session->here);
    free(session->plans);
    free(session->held);
    free(session->parts);
    free(session->picked);
    free(session->expected);
    free(session);
}

coterie_status_t coterie_session_fail(coterie_session_t *s,
                                      coterie_status_t status)
{
    if (s->state != COTERIE_SESSION_FAILED) {
        s->state = COTERIE_SESSION_FAILED;
        for (uint32_t i = 0; i < COTERIE_BOX_COUNT; i++)
            coterie_inbox_close(&s->inboxes[i]);
        coterie_transport_abort(s->transport);
        coterie_lift_abort(s->lift);
    }
    return status;
}

void coterie_count_copy(coterie_session_t *s, uint32_t wire, uint64_t *counter,
                        uint32_t peer)
{
    coterie_counts_t *counts = &s->counts[s->phase];

    (*counter)++;
    counts->payload_bytes += coterie_wire_values_size(wire, s->options.hidden);
    if (peer / s->node_ranks != s->rank / s->node_ranks)
        counts->copies_network++;
}

static coterie_status_t read_options(coterie_session_t *s,
                                     const coterie_session_options_t *options)
{
    coterie_session_options_t *own = &s->options;
    coterie_status_t status =
        coterie_options_read(options, own, sizeof(*own), "session");

    if (status != COTERIE_OK)
        return status;
    s->transport = own->transport; /* to tell the others, if it comes to that */
    if (own->transport == NULL || own->placement == NULL ||
        own->engine == NULL)
        return coterie_fail(COTERIE_ERR_INVALID,
                            "session: transport, placement and engine are "
                            "required");
    if (own->deadline_ms == 0)
        own->deadline_ms = 60000;
    s->rank = s->transport->rank;
    s->rank_count = s->transport->rank_count;
    s->wide = coterie_wire_of_sums(own->wire);
    status = coterie_options_read(own->engine, &s->engine, sizeof(s->engine),
                                  "engine");
    if (status == COTERIE_OK)
        status = check_engine(s);
    if (status == COTERIE_OK)
        status = check_sizes(s);
    if (status == COTERIE_OK)
        status = check_mode(s);
    return status;
}

static coterie_status_t check_engine(const coterie_session_t *s)
{
    if (s->engine.norm == NULL)
        return coterie_fail(COTERIE_ERR_INVALID,
                            "session: engine.norm is required");
    if (s->engine.kv_arrived == NULL && s->options.kv_row_size > 0)
        return coterie_fail(COTERIE_ERR_INVALID,
                            "session: K/V rows of %u bytes need "
                            "engine.kv_arrived",
                            s->options.kv_row_size);
    if ((s->engine.experts == NULL) == (s->options.bank == NULL))
        return coterie_fail(COTERIE_ERR_INVALID,
                            "session: give either a bank or engine.experts");
    return COTERIE_OK;
}

static coterie_status_t check_sizes(const coterie_session_t *s)
{
    const coterie_session_options_t *options = &s->options;
    coterie_placement_options_t view;

    coterie_placement_view(options->placement, &view);
    if (view.rank_count != s->rank_count)
        return coterie_fail(COTERIE_ERR_MISMATCH,
                            "session: the placement is for %u ranks; there "
                            "are %u",
                            view.rank_count, s->rank_count);
    if (options->hidden == 0 || options->max_rows == 0 || options->k == 0 ||
        options->k > COTERIE_K_MAX || options->predicted_k > COTERIE_K_MAX)
        return coterie_fail(COTERIE_ERR_INVALID,
                            "session: hidden %u, max_rows %u, k %u, "
                            "predicted_k %u; they must not be 0 (predicted_k "
                            "may), k and predicted_k at most %d",
                            options->hidden, options->max_rows, options->k,
                            options->predicted_k, COTERIE_K_MAX);
    return COTERIE_OK;
}

static coterie_status_t check_mode(const coterie_session_t *s)
{
    uint32_t mode = s->options.mode, group = s->options.group;

    if (mode > COTERIE_MODE_FORWARD || group > COTERIE_GROUP_ACROSS ||
        s->options.wire > COTERIE_WIRE_INT8)
        return coterie_fail(COTERIE_ERR_INVALID,
                            "session: there is no mode %u, group %u or wire "
                            "%u",
                            mode, group, s->options.wire);
    if ((mode == COTERIE_MODE_OWNER && group == COTERIE_GROUP_ACROSS) ||
        (mode == COTERIE_MODE_FORWARD && group == COTERIE_GROUP_NODE))
        return coterie_fail(COTERIE_ERR_INVALID,
                            "session: owner moves tokens within a group, "
                            "forward among all ranks or across nodes; mode %u "
                            "cannot use group %u",
                            mode, group);
    if (s->options.predicted_k > 0 && mode == COTERIE_MODE_FORWARD &&
        group == COTERIE_GROUP_ALL && s->rank_count > COTERIE_SET_BITS)
        return coterie_fail(COTERIE_ERR_UNSUPPORTED,
                            "session: predicted ranks are told for at most %d "
                            "ranks, not %u; predicted_k 0 forwards to all",
                            COTERIE_SET_BITS, s->rank_count);
    return COTERIE_OK;
}

/* Where this rank stands: its node, its place in it, its slots, its group. */
static coterie_status_t find_places(coterie_session_t *s)
{
    coterie_placement_options_t view;

    coterie_placement_view(s->options.placement, &view);
    s->layer_count = view.layer_count;
    s->expert_count = view.expert_count;
    s->node_count = view.node_count;
    s->node_ranks = s->rank_count / s->node_count;
    while (s->slot_first < view.slot_count &&
           view.slot_rank[s->slot_first] < s->rank)
        s->slot_first++;
    while (s->slot_first + s->slot_count < view.slot_count &&
           view.slot_rank[s->slot_first + s->slot_count] == s->rank)
        s->slot_count++;
    s->all = (coterie_circle_t){0, 1, s->rank_count, s->rank};
    s->node = (coterie_circle_t){s->rank - s->rank % s->node_ranks, 1,
                                 s->node_ranks, s->rank % s->node_ranks};
    s->across = (coterie_circle_t){s->rank % s->node_ranks, s->node_ranks,
                                   s->node_count, s->rank / s->node_ranks};
    switch (s->options.group) {
    case COTERIE_GROUP_ALL:
        s->group = s->all;
        break;
    case COTERIE_GROUP_NODE:
        s->group = s->node;
        break;
    case COTERIE_GROUP_ACROSS:
        s->group = s->across;
        break;
    default:
        s->group = (coterie_circle_t){s->rank, 1, 1, 0};
    }
    return s->options.bank == NULL ? COTERIE_OK
                                   : coterie_bank_check(s->options.bank, s);
}

static coterie_status_t agree(coterie_session_t *s)
{
    const coterie_session_options_t *options = &s->options;
    const terms_t mine = {.hidden = options->hidden,
                          .k = options->k,
                          .max_rows = options->max_rows,
                          .mode = options->mode,
                          .group = options->group,
                          .predicted_k = options->predicted_k,
                          .kv_row_size = options->kv_row_size,
                          .wire = options->wire,
                          .shared = s->engine.shared != NULL,
                          .lifted = s->lift != NULL,
                          .placement = placement_hash(options->placement)};
    terms_t *all = calloc(s->rank_count, sizeof(*all));
    coterie_status_t status;

    if (all == NULL)
        return coterie_fail_memory(s->rank_count * sizeof(*all), "terms");
    status = coterie_transport_allgather(s->transport, &mine, sizeof(mine),
                                         all);
    if (status == COTERIE_OK)
        status = compare_terms(s, all);
    free(all);
    return status;
}

static uint64_t placement_hash(const coterie_placement_t *placement)
{
    coterie_placement_options_t view;
    size_t slots, scores;
    uint64_t hashes[4];

    coterie_placement_view(placement, &view);
    slots = (size_t)view.layer_count * view.slot_count;
    scores = (size_t)view.layer_count * view.expert_count * view.rank_count;
    hashes[0] = XXH3_64bits(view.slot_rank,
                            view.slot_count * sizeof(*view.slot_rank));
    hashes[1] = XXH3_64bits(view.slot_expert,
                            slots * sizeof(*view.slot_expert));
    hashes[2] = XXH3_64bits(view.next_score, scores);
    hashes[3] = view.node_count;
    return XXH3_64bits(hashes, sizeof(hashes));
}

static coterie_status_t compare_terms(const coterie_session_t *s,
                                      const terms_t *all)
{
    const terms_t *mine = &all[s->rank];

    for (uint32_t r = 0; r < s->rank_count; r++)
        if (memcmp(&all[r], mine, sizeof(*mine)) != 0)
            return coterie_fail(
                COTERIE_ERR_MISMATCH,
                "session: rank %u has hidden %u, k %u, max_rows %u, mode %u, "
                "group %u, predicted_k %u, kv_row_size %u, wire %u, rank %u "
                "has %u, %u, %u, %u, %u, %u, %u, %u, or placements, shared "
                "experts or dispatchers differ",
                s->rank, mine->hidden, mine->k, mine->max_rows, mine->mode,
                mine->group, mine->predicted_k, mine->kv_row_size, mine->wire,
                r, all[r].hidden, all[r].k, all[r].max_rows, all[r].mode,
                all[r].group, all[r].predicted_k, all[r].kv_row_size,
                all[r].wire);
    return COTERIE_OK;
}

static coterie_status_t allocate(coterie_session_t *s)
{
    size_t rows = s->options.max_rows;
    coterie_status_t status;

    s->here = calloc(rows, sizeof(*s->here));
    s->plans = calloc(rows, sizeof(*s->plans));
    s->held = calloc(rows, sizeof(*s->held));
    s->parts = calloc(rows * s->options.hidden, sizeof(*s->parts));
    s->picked = calloc(rows, sizeof(*s->picked));
    s->expected = calloc(s->rank_count, sizeof(*s->expected));
    s->chooser.all_ns = calloc(s->rank_count, sizeof(*s->chooser.all_ns));
    if (s->here == NULL || s->plans == NULL || s->held == NULL ||
        s->parts == NULL || s->picked == NULL || s->expected == NULL ||
        s->chooser.all_ns == NULL)
        return coterie_fail_memory(rows * s->options.hidden * sizeof(float),
                                   "rows of a session");
    status = coterie_work_create(s);
    if (status == COTERIE_OK)
        status = coterie_gather_create(s);
    if (status == COTERIE_OK && s->options.dispatcher != NULL)
        status = coterie_lift_create(s);
    if (status == COTERIE_OK)
        status = allocate_boxes(s);
    return status;
}

static coterie_status_t allocate_boxes(coterie_session_t *s)
{
    size_t rows = s->options.max_rows;
    size_t dispatch = coterie_dispatch_rows(s, 0).stride;
    size_t raw = coterie_dispatch_rows(s, COTERIE_FLAG_RAW).stride;
    size_t sum = coterie_sum_rows(s).stride;
    size_t kv = coterie_wire_kv_size(s->options.kv_row_size);
    const size_t row[COTERIE_BOX_COUNT] = {dispatch, sum, sum, sum, kv};
    const size_t extra[COTERIE_BOX_COUNT] = {raw, 0, dispatch, 0,
                                             sizeof(coterie_wire_token_t)};
    coterie_status_t status = COTERIE_OK;

    for (uint32_t i = 0; i < COTERIE_BOX_COUNT && status == COTERIE_OK; i++) {
        size_t bytes = rows * row[i] + rows * extra[i];

        status = coterie_inbox_create(&s->inboxes[i], s->transport, row[i],
                                      extra[i]);
        if (status == COTERIE_OK && i != COTERIE_BOX_KV)
            status = coterie_outbox_create(&s->outboxes[i], s->rank_count,
                                           bytes);
    }
    return status;
}

static coterie_status_t begin(coterie_session_t *s, coterie_phase_t phase,
                              coterie_rows_t *rows)
{
    coterie_status_t status;

    if (s->state != COTERIE_SESSION_READY)
        return coterie_fail(COTERIE_ERR_INVALID,
                            "rank %u: a step begins after the last one ended, "
                            "and not after a failure",
                            s->rank);
    if (phase != COTERIE_PHASE_PREFILL && phase != COTERIE_PHASE_DECODE)
        return coterie_fail(COTERIE_ERR_INVALID, "rank %u: no phase %d",
                            s->rank, (int)phase);
    s->phase = phase;
    s->mode = COTERIE_MODE_TWO_PHASE;
    s->layer = s->here_count = 0;
    status = coterie_gather_complete(s, true);
    if (status == COTERIE_OK && phase == COTERIE_PHASE_DECODE)
        status = begin_decode(s, rows);
    return status;
}

static coterie_status_t begin_decode(coterie_session_t *s,
                                     coterie_rows_t *rows)
{
    coterie_counts_t *counts = &s->counts[COTERIE_PHASE_DECODE];
    coterie_status_t status;

    if (rows == NULL || rows->size < sizeof(*rows) || rows->sequence == NULL ||
        rows->position == NULL || rows->token == NULL)
        return coterie_fail(COTERIE_ERR_INVALID,
                            "rank %u: decode needs rows with sequence, "
                            "position and token, their size set",
                            s->rank);
    status = coterie_auto_choose(s);
    if (status != COTERIE_OK)
        return status;
    for (uint32_t i = 0; i < s->gather.token_count; i++)
        if (coterie_home(s, s->gather.tokens[i].sequence) == s->rank)
            counts->tokens++;
    s->times.steps_by_mode[s->mode]++;
    status = coterie_gather_rows(s, rows);
    if (status != COTERIE_OK)
        return status;
    for (uint32_t i = 0; i < rows->count; i++)
        s->here[i] = (coterie_here_t){rows->sequence[i], rows->position[i],
                                      COTERIE_SET_ALL};
    s->here_count = rows->count;
    return COTERIE_OK;
}

static coterie_status_t end(coterie_session_t *s,
                            const coterie_wire_token_t *token)
{
    coterie_wire_token_t next = *token;

    if (!is_here(s, token->sequence) || token->position < 0)
        return coterie_fail(COTERIE_ERR_INVALID,
                            "rank %u: sequence %d, position %d goes on, but is "
                            "not here",
                            s->rank, token->sequence, token->position);
    if (s->mode != COTERIE_MODE_OWNER)
        next.owner = coterie_home(s, token->sequence);
    return coterie_gather_token(s, &next, s->mode != COTERIE_MODE_FORWARD);
}

/* Rows of prefill may come in any order; in decode they ascend. */
static bool is_here(const coterie_session_t *s, int32_t sequence)
{
    uint32_t at;

    if (sequence < 0 || s->phase == COTERIE_PHASE_PREFILL)
        return sequence >= 0 && coterie_home(s, sequence) == s->rank;
    at = coterie_find_here(s, coterie_row_key(sequence, 0));
    return at < s->here_count && s->here[at].sequence == sequence;
}

static coterie_status_t close_step(coterie_session_t *s)
{
    coterie_status_t status = COTERIE_OK;

    if (!s->gather.pending)
        status = coterie_gather_post(s);
    if (status != COTERIE_OK)
        return status;
    coterie_auto_step_ends(s);
    count_traffic(s);
    return COTERIE_OK;
}

/* Adds what the transport counted in this step; control is not dispatch. */
static void count_traffic(coterie_session_t *s)
{
    static const coterie_traffic_t dispatch[] = {
        COTERIE_TRAFFIC_ALLTOALL, COTERIE_TRAFFIC_RETURN,
        COTERIE_TRAFFIC_NODE_ALLTOALL, COTERIE_TRAFFIC_NODE_RETURN,
        COTERIE_TRAFFIC_FIXUP};
    const coterie_traffic_counts_t *now = s->transport->counts;
    const coterie_traffic_counts_t *then = s->counted;
    coterie_counts_t *counts = &s->counts[s->phase];

    for (size_t i = 0; i < sizeof(dispatch) / sizeof(dispatch[0]); i++) {
        coterie_traffic_t t = dispatch[i];

        counts->wire_bytes += now[t].bytes - then[t].bytes;
        counts->messages += now[t].messages - then[t].messages;
        counts->empty_messages += now[t].empty - then[t].empty;
    }
    counts->fixup_sends += now[COTERIE_TRAFFIC_FIXUP].messages -
                           then[COTERIE_TRAFFIC_FIXUP].messages;
    counts->kv_bytes +=
        now[COTERIE_TRAFFIC_KV].bytes - then[COTERIE_TRAFFIC_KV].bytes;
    memcpy(s->counted, now, sizeof(s->counted));
}
