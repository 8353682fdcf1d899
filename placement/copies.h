#ifndef COTERIE_PLACEMENT_COPIES_H
#define COTERIE_PLACEMENT_COPIES_H
/* What dispatch sends for a sample of tokens, token by token as the runtime
 * routes them, kept up to date while experts and replicas change places. Pairs
 * of experts cannot say it: two on one rank spare one copy and three spare
 * two, and which replica serves depends on who owns the token. */
#include <coterie/trace.h>

#include "placement/cover.h"

typedef struct coterie_copies_task {
    const coterie_trace_view_t *view;
    coterie_mode_t mode;
    uint32_t rank_count, node_count;
    double network_cost;
    uint32_t token_count;   /* of the sample, at most */
    uint64_t seed;          /* of its order */
    const uint64_t *load;   /* [layer, expert], of the whole view */
    const uint64_t *load_max; /* [layer], the same; NULL: no limit */
} coterie_copies_task_t;

/* One position of the sample, as it would be. */
typedef struct coterie_copies_entry {
    coterie_covered_t covered;
    uint32_t layer, token;
    uint8_t next;
} coterie_copies_entry_t;

typedef struct coterie_copies {
    coterie_cover_t cover;
    coterie_mode_t mode;
    uint32_t layer_count, expert_count, rank_count, k, token_count;
    uint64_t *origin; /* [token]: in the view */
    int16_t *sets;    /* [layer, token, k] */
    uint32_t *first;  /* [layer * expert + 1]: its tokens, in `chose` */
    uint32_t *chose;
    double *weight;   /* [layer, expert]: load of one choice of the sample */
    double *limit;    /* [layer]: load of a rank; NULL: none */

    uint64_t *holders; /* [layer, expert]; whoever writes it refreshes */
    uint8_t *scores;   /* [layer, expert, rank]; the same */
    double toll;       /* for load over the limit, in copies a choice */

    uint64_t *ranks;   /* [layer, token] */
    uint8_t *owner;    /* [layer + 1, token]; COTERIE_COPIES_NOBODY */
    uint8_t *serving;  /* [layer, token, k] */
    double *load;      /* [layer, rank] */

    coterie_copies_entry_t *entries; /* what a change makes of the sample */
    size_t entry_count;
    double *more;      /* [layer, rank]: load, with the change */
    uint32_t *touched; /* layers in `more` */
    uint32_t touched_count;
    uint8_t *is_touched; /* [layer] */
} coterie_copies_t;

enum { COTERIE_COPIES_NOBODY = 0xff };

/* Two experts of a layer, or one, change their holders. */
typedef struct coterie_change {
    uint32_t layer;
    int32_t expert[2];   /* the second may be -1 */
    uint64_t holders[2]; /* what they become; what they were, once judged */
} coterie_change_t;

/* Holders and scores are zero to begin with. */
coterie_status_t coterie_copies_open(coterie_copies_t *c,
                                     const coterie_copies_task_t *task);
void coterie_copies_close(coterie_copies_t *c);

/* Routes the whole sample by holders and scores.
 *
 * @param owner  [token of the view]: who has it at the first layer
 * @return the cost of all, without toll */
double coterie_copies_refresh(coterie_copies_t *c, const uint8_t *owner);

/* What a change would cost, toll included; every judgement must be settled
 * before the next. Stops at INFINITY once that is very likely above
 * `most`. */
double coterie_copies_judge(coterie_copies_t *c, coterie_change_t *change,
                            double most);
void coterie_copies_settle(coterie_copies_t *c, const coterie_change_t *change,
                           int keep);

/* Load over the limits, in choices of the sample. */
double coterie_copies_excess(const coterie_copies_t *c);

#endif
