#ifndef COTERIE_PLACEMENT_MEASURE_H
#define COTERIE_PLACEMENT_MEASURE_H
/* Who serves what, by the routing rule itself. */
#include <coterie/trace.h>

#include "placement/placement.h"

/* Routes every token of a trace as a run in that mode would, forward's
 * predictions being right.
 *
 * @param load  [layer, rank]: choices that each rank serves */
void coterie_measure(const coterie_trace_view_t *view,
                     const coterie_placement_t *placement,
                     coterie_mode_t mode, uint64_t *load);

/* The fullest rank over the mean, in the worst layer; 0 without any load. */
double coterie_measure_fullest(const uint64_t *load, uint32_t layer_count,
                               uint32_t rank_count);

#endif
