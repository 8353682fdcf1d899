#ifndef COTERIE_OFFLOAD_TIMELINE_H
#define COTERIE_OFFLOAD_TIMELINE_H
/* What happened at which layer, and when: spans of equally many rounds, a round
 * being once through the layers. When all spans are full, pairs of them become
 * one, so that a run of any length fits. */
#include <coterie/tiers.h>

typedef struct coterie_timeline {
    uint32_t layer_count;
    uint32_t span;   /* the present one */
    uint32_t rounds; /* of a span, */
    uint32_t begun;  /* and of the present one so far */
    coterie_layer_counts_t *counts; /* [SPANS, layer_count] */
} coterie_timeline_t;

coterie_status_t coterie_timeline_create(uint32_t layer_count,
                                         coterie_timeline_t *timeline);

/* What happens from now on belongs to another round. */
void coterie_timeline_round(coterie_timeline_t *timeline);

/* Where to count what happens now. */
coterie_layer_counts_t *coterie_timeline_now(coterie_timeline_t *timeline,
                                             uint32_t layer);

/* Each count over all layers and spans. */
coterie_layer_counts_t coterie_timeline_sum(const coterie_timeline_t *timeline);

/* Accepts a zeroed one. */
void coterie_timeline_destroy(coterie_timeline_t *timeline);

#endif
