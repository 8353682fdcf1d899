#ifndef COTERIE_RUNTIME_SESSION_H
#define COTERIE_RUNTIME_SESSION_H
/* What a session is inside, for the files of this room: session.c keeps the
 * life cycle and the steps, exchange.c checks rows and picks the mode,
 * dispatch_*.c are the modes (dispatch_device.c: those that a device has),
 * boxes.c and rows.c pack messages, work.c has this
 * rank's experts computed, gather.c brings K/V and tokens to the ranks
 * that may need them next, auto.c chooses modes. */
#include <coterie/session.h>
#include <coterie/wire.h>

#include "placement/wire.h"
#include "runtime/bank.h"
#include "runtime/boxes.h"

/* Ranks or nodes that hold a row, by bit; predictions are refused where there
 * are more ranks than bits, so that then a set is always everyone. */
typedef uint32_t coterie_set_t;
#define COTERIE_SET_ALL 0xffffffffu
enum { COTERIE_SET_BITS = 32 };

static inline bool coterie_set_has(coterie_set_t set, uint32_t member)
{
    return set == COTERIE_SET_ALL || (set >> member & 1) != 0;
}

/* Sorts rows everywhere: by sequence, then by position. */
static inline uint64_t coterie_row_key(int32_t sequence, int32_t position)
{
    return (uint64_t)(uint32_t)sequence << 32 | (uint32_t)position;
}

static inline uint64_t coterie_record_key(const coterie_wire_record_t *record)
{
    return coterie_row_key(record->sequence, record->position);
}

/* A row that this rank computes experts of. */
typedef struct coterie_job {
    int32_t sequence, position;
    uint32_t owner;     /* who gets the partial sum */
    coterie_set_t next; /* forward: who gets it */
} coterie_job_t;

#define COTERIE_NO_KEY UINT64_MAX

/* In a record's flags: the hidden state is raw, for the next owner; such rows
 * come after the others of a message. In a sum row they say instead which of
 * its units are late. */
enum { COTERIE_FLAG_RAW = 1 };

/* D of one row: ranks, or nodes, ascending. */
typedef struct coterie_units {
    uint32_t count;
    uint16_t unit[COTERIE_K_MAX];
} coterie_units_t;

/* A dispatch row as it came, and where its experts are. */
typedef struct coterie_arrival {
    coterie_wire_record_t record;
    coterie_route_t route;
    float weights[COTERIE_K_MAX];
    const void *values; /* in the message */
} coterie_arrival_t;

/* The rows of a layer that this rank computes experts of, and which. */
typedef struct coterie_work {
    uint32_t count, done; /* jobs; those before `done` have their sums */
    uint32_t pair_count;
    coterie_job_t *jobs;
    float *x, *sums;                /* [max_rows, hidden] */
    uint32_t *pair_slot, *pair_job; /* in order of arrival */
    float *pair_weight;
    uint32_t *first, *row; /* the same, grouped by slot for the kernel */
    float *weight;
    void *scratch;
} coterie_work_t;

/* What happens to one row that is here when an exchange begins. */
typedef struct coterie_plan {
    coterie_route_t route;
    coterie_units_t units; /* forward: D; the rest is forward's, too */
    uint16_t late;         /* bit i: unit i does not hold the row yet */
    uint16_t carrier;      /* the unit that adds the residual */
    coterie_set_t next;
    float *part; /* what this unit adds, NULL if nothing */
} coterie_plan_t;

/* One row that is here when an exchange ends. */
typedef struct coterie_held {
    int32_t sequence, position;
    coterie_set_t next;   /* who holds it */
    const float *from[2]; /* hidden and normed; in forward, a part has them */
    uint32_t part_count;
    uint32_t late; /* bit i: part i comes by a fix-up */
    uint16_t unit[COTERIE_K_MAX + 1]; /* in order of addition */
    coterie_wire_part_t part[COTERIE_K_MAX + 1]; /* values NULL until there */
} coterie_held_t;

/* A row between two exchanges of a decode step, ascending by key. */
typedef struct coterie_here {
    int32_t sequence, position;
    coterie_set_t set;
} coterie_here_t;

/* A message that grows; how many layers an engine stores is its own affair,
 * so the first steps find the size. */
typedef struct coterie_bytes {
    unsigned char *data;
    size_t used, capacity;
} coterie_bytes_t;

/* K/V rows and tokens on their way to the next step. */
typedef struct coterie_gather {
    /* Two sets, [rank_count] by member of the group: while one is on its way,
     * the next step fills the other. */
    coterie_bytes_t *sets[2], *out;
    coterie_parcel_t *parcels;
    bool pending;                 /* posted and not yet received */
    coterie_wire_token_t *tokens; /* [max_rows]: sequences that go on */
    uint32_t token_count;
} coterie_gather_t;

enum {
    COTERIE_MODE_COUNT = 4,
    COTERIE_CLASS_COUNT = 33 /* batch sizes, by power of two */
};

/* What auto has learnt about one class of batch size. */
enum { COTERIE_TRIES = 9 }; /* of each mode */

typedef struct coterie_class {
    uint32_t steps; /* since the last trials */
    uint32_t tries[COTERIE_MODE_COUNT];
    uint64_t ns[COTERIE_MODE_COUNT][COTERIE_TRIES]; /* ascending */
} coterie_class_t;

typedef struct coterie_auto {
    coterie_class_t classes[COTERIE_CLASS_COUNT];
    coterie_class_t *trial; /* of which the last step was a try, or NULL */
    coterie_mode_t tried;
    uint64_t start_ns, took_ns;
    uint64_t *all_ns; /* [rank_count] */
} coterie_auto_t;

typedef enum coterie_session_state {
    COTERIE_SESSION_READY,
    COTERIE_SESSION_STEPPING,
    COTERIE_SESSION_FAILED
} coterie_session_state_t;

typedef struct coterie_lift coterie_lift_t;

struct coterie_session {
    coterie_session_options_t options;
    coterie_engine_t engine;
    coterie_transport_t *transport;
    uint32_t rank, rank_count, node_ranks, node_count;
    uint32_t layer_count, expert_count;
    uint32_t slot_first, slot_count; /* this rank's, of each layer */
    /* Everyone; this rank's node; this rank's place in every node; those that
     * share its K/V. */
    coterie_circle_t all, node, across, group;

    coterie_session_state_t state;
    coterie_phase_t phase;
    coterie_mode_t mode; /* of the running step */
    uint32_t layer;      /* the next exchange's, or the running one's */
    uint32_t here_count;
    coterie_here_t *here;
    coterie_plan_t *plans;
    coterie_held_t *held;
    uint32_t held_count;
    float *parts; /* [max_rows, hidden]: sums that go forward, or what came */
    uint32_t *picked; /* [max_rows] scratch: rows for one rank */
    uint32_t wide;    /* coterie_wire_t of raw rows and sums */
    coterie_work_t work;
    coterie_lift_t *lift; /* NULL: rows stay on the host */
    coterie_outbox_t outboxes[COTERIE_BOX_COUNT];
    coterie_inbox_t inboxes[COTERIE_BOX_COUNT];
    bool *expected; /* [rank_count] scratch: whose message will come */
    coterie_gather_t gather;
    coterie_auto_t chooser;

    coterie_counts_t counts[2];
    coterie_traffic_counts_t counted[COTERIE_TRAFFIC_COUNT]; /* already */
    coterie_times_t times;
};

static inline uint32_t coterie_home(const coterie_session_t *s,
                                    int32_t sequence)
{
    return (uint32_t)sequence % s->rank_count;
}

/* Where row i of a [count, hidden] array begins. */
static inline size_t coterie_row(const coterie_session_t *s, uint32_t i)
{
    return (size_t)i * s->options.hidden;
}

/* Ends the session for this rank and wakes the others; returns status. */
coterie_status_t coterie_session_fail(coterie_session_t *s,
                                      coterie_status_t status);

/* Counts one copy of a hidden vector or partial sum sent to a rank. */
void coterie_count_copy(coterie_session_t *s, uint32_t wire, uint64_t *counter,
                        uint32_t peer);

/* work.c */
coterie_status_t coterie_work_create(coterie_session_t *s);
void coterie_work_destroy(coterie_work_t *work);
void coterie_work_begin(coterie_work_t *work);
/* Adds a row with the experts that a route gives this rank, and its input.
 * @param normed  NULL: the caller writes it to work->x, row work->count - 1
 * @return ERR_CAPACITY beyond max_rows */
coterie_status_t coterie_work_add(coterie_session_t *s,
                                  const coterie_job_t *job,
                                  const coterie_route_t *route,
                                  const float *weights, const float *normed);
/* Has the sums of all jobs since the last run computed, for s->layer. */
coterie_status_t coterie_work_run(coterie_session_t *s);

/* rows.c: rows as they travel, and rows by their place. */
/* The first of the rows here, ascending, that is not below a key. */
uint32_t coterie_find_here(const coterie_session_t *s, uint64_t key);
/* How rows of this flag lie in a dispatch message. */
coterie_wire_rows_t coterie_dispatch_rows(const coterie_session_t *s,
                                          uint32_t flags);
/* All of row i but its values. */
void coterie_dispatch_head(const coterie_session_t *s,
                           const coterie_wire_record_t *record,
                           const coterie_rows_t *in, uint32_t i, void *to);
/* All but its values, too.
 * @param owner  the one that the sender routed with */
void coterie_dispatch_unpack(const coterie_session_t *s, const void *row,
                             uint32_t owner, coterie_arrival_t *arrival);
void coterie_dispatch_values(const coterie_session_t *s,
                             const coterie_arrival_t *arrival, float *to);
/* A member's next dispatch row, raw or not; take() steps over it. */
const void *coterie_dispatch_peek(const coterie_inbox_t *inbox,
                                  uint32_t member);
void coterie_dispatch_take(coterie_inbox_t *inbox, uint32_t member);
/* The same of sums. */
coterie_wire_rows_t coterie_sum_rows(const coterie_session_t *s);
void coterie_sum_head(const coterie_session_t *s,
                      const coterie_wire_record_t *record,
                      const coterie_units_t *units, void *to);
/* One row, with its values. */
void coterie_sum_pack(const coterie_session_t *s,
                      const coterie_wire_record_t *record,
                      const coterie_units_t *units, const float *sum,
                      void *to);
void coterie_sum_units(const coterie_session_t *s, const void *row,
                       coterie_units_t *units);
coterie_wire_part_t coterie_sum_part(const coterie_session_t *s,
                                     const void *row);
/* A part that does not travel. */
coterie_wire_part_t coterie_own_part(const float *sum);
/* Of the next rows that `peek` sees in an inbox, and row `own` of in, or
 * COTERIE_NO_KEY. */
typedef const void *(*coterie_peek_fn)(const coterie_inbox_t *inbox,
                                       uint32_t member);
uint64_t coterie_lowest_key(const coterie_inbox_t *inbox, coterie_peek_fn peek,
                            const coterie_rows_t *in, uint32_t own);

/* exchange.c: what the modes share. */
bool coterie_route_has(const coterie_route_t *route, uint32_t rank);
/* Begins the next held row, without parts.
 * @return ERR_CAPACITY beyond max_rows */
coterie_status_t coterie_held_add(coterie_session_t *s, int32_t sequence,
                                  int32_t position, coterie_held_t **held_p);
/* to = residual and shared experts of rows that lie together. */
coterie_status_t coterie_residual(coterie_session_t *s, uint32_t count,
                                  const float *const from[2], float *to);
/* to += parts, in order. */
void coterie_add(const coterie_session_t *s, uint32_t count,
                 const coterie_wire_part_t *parts, float *to);
/* Names the held rows in out.
 * @return ERR_CAPACITY if they are more than fit */
coterie_status_t coterie_rows_out(const coterie_session_t *s,
                                  coterie_rows_t *out);
/* Says that ranks disagree about a row. */
coterie_status_t coterie_disagree(const coterie_session_t *s, uint64_t key,
                                  const char *what);

/* The modes: each moves the rows of `in` on to `out` (checked before). */
coterie_status_t coterie_exchange_owner(coterie_session_t *s,
                                        const coterie_rows_t *in,
                                        coterie_rows_t *out);
coterie_status_t coterie_exchange_forward(coterie_session_t *s,
                                          const coterie_rows_t *in,
                                          coterie_rows_t *out);
coterie_status_t coterie_exchange_nodes(coterie_session_t *s,
                                        const coterie_rows_t *in,
                                        coterie_rows_t *out);

/* Inside a circle: sends each planned row to the ranks of its route, has its
 * experts computed and brings the sums to the row's next owner, as parts of
 * s->held, until coterie_collect_close. */
coterie_status_t coterie_collect_sums(coterie_session_t *s,
                                      const coterie_circle_t *circle,
                                      const coterie_rows_t *in);
void coterie_collect_close(coterie_session_t *s);
/* Counts the occasion, once on every rank. */
void coterie_count_exchange(coterie_session_t *s,
                            const coterie_circle_t *circle);

/* dispatch_device.c: the same on a device, where the session has a dispatcher
 * and the running mode can do with it. */
coterie_status_t coterie_lift_create(coterie_session_t *s);
/* Accepts NULL, as abort does, which has other ranks give up. */
void coterie_lift_destroy(coterie_lift_t *lift);
void coterie_lift_abort(const coterie_lift_t *lift);
bool coterie_lift_serves(const coterie_session_t *s);
coterie_status_t coterie_exchange_device(coterie_session_t *s,
                                         const coterie_rows_t *in,
                                         coterie_rows_t *out);

/* Among units: sends the parts of planned rows to the units that hold them
 * next, and adds up what comes here, in `out`. */
coterie_status_t coterie_forward_sums(coterie_session_t *s,
                                      const coterie_circle_t *circle,
                                      const coterie_rows_t *in,
                                      coterie_rows_t *out);

/* Whether this rank adds the residual of row i, as it goes forward from it. */
bool coterie_forward_carries(coterie_session_t *s, const coterie_rows_t *in,
                             uint32_t i);

/* gather.c */
coterie_status_t coterie_gather_create(coterie_session_t *s);
void coterie_gather_destroy(coterie_session_t *s);
coterie_status_t coterie_gather_post(coterie_session_t *s);
/* Receives what was posted in the step before; engine callbacks only if
 * `deliver` (a session that ends only drains). */
coterie_status_t coterie_gather_complete(coterie_session_t *s, bool deliver);
/* Notes a sequence that goes on, and with `send` tells the group. */
coterie_status_t coterie_gather_token(coterie_session_t *s,
                                      const coterie_wire_token_t *token,
                                      bool send);
/* Moves the sequences that continue on this rank to rows; forgets the rest.
 * @return ERR_CAPACITY if they are more than fit; ERR_MISMATCH if two ranks
 *         continue one sequence */
coterie_status_t coterie_gather_rows(coterie_session_t *s,
                                     coterie_rows_t *rows);

/* auto.c */
/* Learns from the last step and chooses the mode of the one that begins. */
coterie_status_t coterie_auto_choose(coterie_session_t *s);
void coterie_auto_step_ends(coterie_session_t *s);

/* bank.c */
/* @return ERR_MISMATCH unless it was made for this rank and these sizes */
coterie_status_t coterie_bank_check(const coterie_bank_t *bank,
                                    const coterie_session_t *s);
/* Tells the bank's tiers, if it has any, what the rows of a layer chose or, at
 * a step's beginning, are fed. */
void coterie_bank_watch(const coterie_session_t *s, const coterie_rows_t *in);
void coterie_bank_feed(const coterie_session_t *s, const coterie_rows_t *rows);

#endif
