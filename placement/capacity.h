#ifndef COTERIE_PLACEMENT_CAPACITY_H
#define COTERIE_PLACEMENT_CAPACITY_H
/* How many experts of a layer each rank gets. */
#include <coterie/place.h>

/* Experts once each, as evenly as ranks' slots and memory allow, the lower
 * ranks one more where they do not divide; and with spare slots besides, as far
 * as these fit.
 *
 * @param capacity  [rank]: of experts once each
 * @param room      [rank]: with spare slots
 * @return ERR_INFEASIBLE if experts do not fit, or no spare slot does */
coterie_status_t coterie_capacity_share(const coterie_place_options_t *options,
                                        uint32_t layer_count,
                                        uint32_t expert_count,
                                        uint32_t *capacity, uint32_t *room);

#endif
