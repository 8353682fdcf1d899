/* K/V and sampled tokens: posted when a step ends (forward: with its last
 * exchange), received when the next one begins, by the ranks that share
 * attention's cache. */
#include "config.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "runtime/session.h"

static coterie_set_t computed_by(const coterie_session_t *s, uint64_t key);
static bool sends_for(const coterie_session_t *s, coterie_set_t set);
static bool member_has(const coterie_session_t *s, coterie_set_t set,
                       uint32_t member);
static coterie_status_t append(coterie_bytes_t *bytes, const void *data,
                               size_t size);
static coterie_status_t reserve(coterie_bytes_t *bytes, size_t size);
static coterie_status_t out_begin(coterie_session_t *s, uint32_t set);
static coterie_status_t deliver_from(coterie_session_t *s, uint32_t member);
static coterie_status_t table_add(coterie_session_t *s,
                                  const coterie_wire_token_t *token);
static bool continues_here(const coterie_session_t *s,
                           const coterie_wire_token_t *token);
static int by_sequence(const void *a, const void *b);

coterie_status_t coterie_gather_create(coterie_session_t *s)
{
    coterie_gather_t *gather = &s->gather;
    coterie_status_t status = COTERIE_OK;

    gather->tokens = calloc(s->options.max_rows, sizeof(*gather->tokens));
    gather->parcels = calloc(s->rank_count, sizeof(*gather->parcels));
    for (uint32_t i = 0; i < 2; i++)
        gather->sets[i] = calloc(s->rank_count, sizeof(coterie_bytes_t));
    if (gather->tokens == NULL || gather->parcels == NULL ||
        gather->sets[0] == NULL || gather->sets[1] == NULL)
        return coterie_fail_memory(s->options.max_rows *
                                       sizeof(*gather->tokens),
                                   "sequences that go on");
    for (uint32_t i = 2; i-- > 0 && status == COTERIE_OK;)
        status = out_begin(s, i);
    return status;
}

void coterie_gather_destroy(coterie_session_t *s)
{
    coterie_gather_t *gather = &s->gather;

    for (uint32_t i = 0; i < 2; i++) {
        for (uint32_t r = 0; gather->sets[i] != NULL && r < s->rank_count; r++)
            free(gather->sets[i][r].data);
        free(gather->sets[i]);
    }
    free(gather->parcels);
    free(gather->tokens);
}

coterie_status_t coterie_kv_put(coterie_session_t *session, uint32_t layer,
                                uint32_t count, const int32_t *sequence,
                                const int32_t *position, const void *kv)
{
    coterie_session_t *s = session;
    size_t size = s->options.kv_row_size;
    coterie_status_t status = COTERIE_OK;

    if (s->state != COTERIE_SESSION_STEPPING || size == 0)
        return coterie_session_fail(
            s, coterie_fail(COTERIE_ERR_INVALID,
                            "rank %u: K/V is put within a step, and needs a "
                            "kv_row_size",
                            s->rank));
    if (s->gather.pending)
        return coterie_session_fail(
            s, coterie_fail(COTERIE_ERR_INVALID,
                            "rank %u: K/V after the last MoE layer needs "
                            "options.kv_after_last",
                            s->rank));
    for (uint32_t i = 0; i < count && status == COTERIE_OK; i++) {
        coterie_wire_kv_t record = {sequence[i], position[i], layer, 0};
        const unsigned char *data = (const unsigned char *)kv + i * size;
        coterie_set_t set =
            computed_by(s, coterie_row_key(sequence[i], position[i]));

        if (!sends_for(s, set))
            continue;
        for (uint32_t m = 0; m < s->group.count && status == COTERIE_OK; m++) {
            if (member_has(s, set, m))
                continue;
            status = append(&s->gather.out[m], &record, sizeof(record));
            if (status == COTERIE_OK)
                status = append(&s->gather.out[m], data, size);
            if (status == COTERIE_OK)
                ((coterie_header_t *)(void *)s->gather.out[m].data)->count++;
            s->counts[s->phase].copies_kv++;
        }
    }
    return status == COTERIE_OK ? status : coterie_session_fail(s, status);
}

coterie_status_t coterie_gather_token(coterie_session_t *s,
                                      const coterie_wire_token_t *token,
                                      bool send)
{
    coterie_status_t status = table_add(s, token);

    for (uint32_t m = 0; send && m < s->group.count && status == COTERIE_OK;
         m++) {
        if (m == s->group.me)
            continue;
        status = append(&s->gather.out[m], token, sizeof(*token));
        if (status == COTERIE_OK)
            ((coterie_header_t *)(void *)s->gather.out[m].data)->extra++;
    }
    return status;
}

coterie_status_t coterie_gather_post(coterie_session_t *s)
{
    coterie_gather_t *gather = &s->gather;
    uint32_t count = 0, other = gather->out == gather->sets[0];
    coterie_status_t status;

    if (s->group.count == 1)
        return COTERIE_OK;
    for (uint32_t m = 0; m < s->group.count; m++)
        if (m != s->group.me)
            gather->parcels[count++] = (coterie_parcel_t){
                coterie_circle_rank(&s->group, m), gather->out[m].used,
                gather->out[m].data};
    s->counts[s->phase].kv_gathers++;
    status = coterie_transport_post(s->transport, COTERIE_TRAFFIC_KV,
                                    gather->parcels, count);
    if (status != COTERIE_OK)
        return status;
    gather->pending = true;
    return out_begin(s, other);
}

coterie_status_t coterie_gather_complete(coterie_session_t *s, bool deliver)
{
    coterie_inbox_t *inbox = &s->inboxes[COTERIE_BOX_KV];
    coterie_status_t status;

    if (!s->gather.pending)
        return COTERIE_OK;
    status = coterie_inbox_open(inbox, &s->group, COTERIE_TRAFFIC_KV, NULL,
                                s->options.deadline_ms);
    for (uint32_t m = 0;
         deliver && m < s->group.count && status == COTERIE_OK; m++)
        if (m != s->group.me)
            status = deliver_from(s, m);
    coterie_inbox_close(inbox);
    s->gather.pending = false;
    return status;
}

coterie_status_t coterie_gather_rows(coterie_session_t *s,
                                     coterie_rows_t *rows)
{
    coterie_gather_t *gather = &s->gather;
    uint32_t count = 0;

    qsort(gather->tokens, gather->token_count, sizeof(*gather->tokens),
          by_sequence);
    for (uint32_t i = 0; i < gather->token_count; i++) {
        const coterie_wire_token_t *token = &gather->tokens[i];

        if (i > 0 && token->sequence == token[-1].sequence)
            return coterie_fail(COTERIE_ERR_MISMATCH,
                                "rank %u: sequence %d goes on twice", s->rank,
                                token->sequence);
        if (!continues_here(s, token))
            continue;
        if (count == rows->capacity)
            return coterie_fail(COTERIE_ERR_CAPACITY,
                                "rank %u: more sequences continue than rows "
                                "has room for, %u",
                                s->rank, rows->capacity);
        rows->sequence[count] = token->sequence;
        rows->position[count] = token->position;
        rows->token[count++] = token->token;
    }
    rows->count = count;
    gather->token_count = 0;
    return COTERIE_OK;
}

/* The ranks that computed a row which is here now, and so its K/V. */
static coterie_set_t computed_by(const coterie_session_t *s, uint64_t key)
{
    uint32_t at;

    if (s->mode != COTERIE_MODE_FORWARD)
        return 0; /* this rank alone */
    at = coterie_find_here(s, key);
    return at < s->here_count ? s->here[at].set : COTERIE_SET_ALL;
}

/* Of the ranks that have a K/V row, the lowest sends it. */
static bool sends_for(const coterie_session_t *s, coterie_set_t set)
{
    for (uint32_t m = 0; m < s->group.me; m++)
        if (member_has(s, set, m))
            return false;
    return true;
}

static bool member_has(const coterie_session_t *s, coterie_set_t set,
                       uint32_t member)
{
    return member == s->group.me || coterie_set_has(set, member);
}

static coterie_status_t append(coterie_bytes_t *bytes, const void *data,
                               size_t size)
{
    coterie_status_t status = reserve(bytes, bytes->used + size);

    if (status != COTERIE_OK)
        return status;
    memcpy(bytes->data + bytes->used, data, size);
    bytes->used += size;
    return COTERIE_OK;
}

static coterie_status_t reserve(coterie_bytes_t *bytes, size_t size)
{
    size_t capacity = bytes->capacity * 2 > size ? bytes->capacity * 2 : size;
    unsigned char *data;

    if (size <= bytes->capacity)
        return COTERIE_OK;
    data = realloc(bytes->data, capacity);
    if (data == NULL)
        return coterie_fail_memory(capacity, "K/V rows to send");
    bytes->data = data;
    bytes->capacity = capacity;
    return COTERIE_OK;
}

/* The set was posted two steps ago; every exchange since then has flushed. */
static coterie_status_t out_begin(coterie_session_t *s, uint32_t set)
{
    coterie_status_t status = COTERIE_OK;
    const coterie_header_t header = {0};

    s->gather.out = s->gather.sets[set];
    for (uint32_t m = 0; m < s->group.count && status == COTERIE_OK; m++) {
        s->gather.out[m].used = 0;
        status = append(&s->gather.out[m], &header, sizeof(header));
    }
    return status;
}

static coterie_status_t deliver_from(coterie_session_t *s, uint32_t member)
{
    coterie_inbox_t *inbox = &s->inboxes[COTERIE_BOX_KV];
    coterie_status_t status = COTERIE_OK;
    const unsigned char *row;

    while (status == COTERIE_OK &&
           (row = coterie_inbox_peek(inbox, member)) != NULL) {
        coterie_wire_kv_t record;

        memcpy(&record, row, sizeof(record)); /* rows may be of odd sizes */
        status = s->engine.kv_arrived(s->engine.engine, record.layer,
                                      record.sequence, record.position,
                                      row + sizeof(record));
        coterie_inbox_take(inbox, member);
    }
    while (status == COTERIE_OK &&
           (row = coterie_inbox_peek_extra(inbox, member)) != NULL) {
        coterie_wire_token_t token;

        memcpy(&token, row, sizeof(token));
        status = table_add(s, &token);
        coterie_inbox_take_extra(inbox, member);
    }
    return status;
}

static coterie_status_t table_add(coterie_session_t *s,
                                  const coterie_wire_token_t *token)
{
    coterie_gather_t *gather = &s->gather;

    if (gather->token_count == s->options.max_rows)
        return coterie_fail(COTERIE_ERR_CAPACITY,
                            "rank %u: more sequences go on than max_rows, %u",
                            s->rank, s->options.max_rows);
    gather->tokens[gather->token_count++] = *token;
    return COTERIE_OK;
}

static bool continues_here(const coterie_session_t *s,
                           const coterie_wire_token_t *token)
{
    switch (s->mode) {
    case COTERIE_MODE_FORWARD:
        return true;
    case COTERIE_MODE_OWNER:
        return token->owner == s->rank;
    default:
        return coterie_home(s, token->sequence) == s->rank;
    }
}

static int by_sequence(const void *a, const void *b)
{
    const coterie_wire_token_t *one = a, *other = b;

    return (one->sequence > other->sequence) -
           (one->sequence < other->sequence);
}
