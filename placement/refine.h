#ifndef COTERIE_PLACEMENT_REFINE_H
#define COTERIE_PLACEMENT_REFINE_H
/* From pairs of experts to copies: experts and replicas change places, all
 * together, as long as dispatch sends less. */
#include <coterie/trace.h>

#include "placement/slots.h"
#include "placement/solve/search.h"

typedef struct coterie_refine {
    const coterie_trace_view_t *view;
    coterie_mode_t mode;
    double network_cost;
    const uint64_t *load;     /* [layer, expert] */
    const uint64_t *load_max; /* [layer]: of a rank, once tokens are routed;
                                 NULL: no limit */
    double heat;              /* at first, in average losses */
    coterie_search_t *search;
    const coterie_solution_t *solution; /* for progress only */
} coterie_refine_t;

/* Betters slots, which hold every expert, and learns their next-layer scores.
 * At most COTERIE_COVER_RANKS_MAX ranks. Load limits are pursued, not
 * promised: see coterie_measure. */
coterie_status_t coterie_refine(const coterie_refine_t *task,
                                coterie_slots_t *slots);

#endif
