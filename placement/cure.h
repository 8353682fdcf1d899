#ifndef COTERIE_PLACEMENT_CURE_H
#define COTERIE_PLACEMENT_CURE_H
/* How many replicas would make a load cap possible. */
#include <coterie/status.h>

typedef struct coterie_cure {
    uint32_t layer_count, expert_count, rank_count;
    const uint32_t *capacity; /* [rank]: experts a layer, once each */
    uint32_t spare;           /* slots that did not do */
    const double *load;       /* [layer, expert] */
    double load_cap;
} coterie_cure_t;

/* The fewest spare slots per rank and layer, and with these the fewest
 * replicas in all, with which no rank need have more than the cap, every
 * expert's load being spread evenly over its replicas; 0 and 0 if no number
 * that is tried does it. */
coterie_status_t coterie_cure_find(const coterie_cure_t *task,
                                   uint32_t *spare_p, uint32_t *replicas_p);

#endif
