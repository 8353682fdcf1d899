#ifndef COTERIE_PLACEMENT_METER_H
#define COTERIE_PLACEMENT_METER_H
/* What each rank does in a layer, and how long that takes: a simulation that
 * has a meter tells it as it goes. */
#include <coterie/cost.h>

#include "placement/simulate.h"

coterie_status_t coterie_meter_create(const coterie_simulation_t *sim,
                                      const coterie_topology_t *topology,
                                      coterie_meter_t **meter_p);

/* A layer of a step begins, to be exchanged in this mode, and ends. */
void coterie_meter_begin(coterie_meter_t *meter, uint32_t mode);
void coterie_meter_end(coterie_meter_t *meter);

/* A rank (COTERIE_NONE: every one) runs attention and router of a token. */
void coterie_meter_attend(coterie_meter_t *meter, uint32_t rank);

/* The route's ranks compute its experts. */
void coterie_meter_compute(coterie_meter_t *meter,
                           const coterie_route_t *route);

/* A row from one rank to another, or to all others; `first` begins its
 * message. */
void coterie_meter_send(coterie_meter_t *meter, coterie_row_t row,
                        uint32_t from, uint32_t to, bool first);
void coterie_meter_broadcast(coterie_meter_t *meter, coterie_row_t row,
                             uint32_t from, bool first);

/* After a step of so many tokens: so many K/V rows are gathered behind it. */
void coterie_meter_step(coterie_meter_t *meter, uint32_t phase, size_t tokens,
                        uint64_t kv_rows);

/* Fills what a phase came to, but for the size. */
void coterie_meter_read(const coterie_meter_t *meter, uint32_t phase,
                        coterie_cost_t *cost);

/* Accepts NULL. */
void coterie_meter_destroy(coterie_meter_t *meter);

#endif
