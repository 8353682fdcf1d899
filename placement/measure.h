#ifndef COTERIE_PLACEMENT_MEASURE_H
#define COTERIE_PLACEMENT_MEASURE_H
/* Who serves what, by the routing rule itself. Exported for libcoterie-place
 * only. */
#include <coterie/trace.h>

#include "placement/placement.h"

/* Routes every token of a trace as a run in that mode would, forward's
 * predictions being right.
 *
 * @param load  [layer, rank]: choices that each rank serves */
COTERIE_API void coterie_measure(const coterie_trace_view_t *view,
                                 const coterie_placement_t *placement,
                                 coterie_mode_t mode, uint64_t *load);

/* The same, by slot: uses [layer, slot] are added to. */
void coterie_measure_slots(const coterie_trace_view_t *view,
                           const coterie_placement_t *placement,
                           coterie_mode_t mode, uint64_t *uses);

/* Leaves in view its first share of sequences, or of tokens if there is but
 * one, and in held the rest; all in both if there is but one of either. Tokens
 * keep their numbers: these views are for measuring only.
 *
 * @param start  what seq_start may point to */
void coterie_measure_split(coterie_trace_view_t *view, double share,
                           coterie_trace_view_t *held, uint64_t start[3]);

/* The fullest rank over the mean, in the worst layer; 0 without any load. */
COTERIE_API double coterie_measure_fullest(const uint64_t *load,
                                           uint32_t layer_count,
                                           uint32_t rank_count);

#endif
