#ifndef COTERIE_PLACEMENT_REPLICAS_H
#define COTERIE_PLACEMENT_REPLICAS_H
/* Which experts get a second slot, and where. */
#include <coterie/place.h>

#include "placement/solve/search.h"

typedef struct coterie_replicas {
    const coterie_trace_view_t *view;
    const coterie_placement_t *single; /* without replicas, scored */
    const coterie_problem_t *problem;  /* links and load limits */
    const uint16_t *slot_rank;         /* [slot_count], replicas' included */
    uint32_t slot_count;
    coterie_mode_t mode;
    coterie_search_t *search;
    const coterie_solution_t *solution; /* for progress only */
} coterie_replicas_t;

/* Fills empty slots (-1) of slot_expert [layer, slot], where that saves copies
 * on the trace by the routing rule; the others stay empty. */
coterie_status_t coterie_replicas_choose(const coterie_replicas_t *task,
                                         int16_t *slot_expert);

#endif
