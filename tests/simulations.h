#ifndef COTERIE_TESTS_SIMULATIONS_H
#define COTERIE_TESTS_SIMULATIONS_H
/* What the tests of the simulation share. With k = 2 and hidden = 8 a dispatch
 * row is 16 + 2 * 8 + 32 = 64 bytes and a sum row 16 + 8 + 32 = 56; a K/V row
 * of 4 bytes travels as 20. */
#include <coterie/simulate.h>

enum { HIDDEN = 8, DISPATCH = 64, SUM = 56, HEADER = 16, KV = 4, KV_ROW = 20 };

/* Experts in order, spread evenly. */
coterie_placement_t *simulation_placed(uint32_t layers, uint32_t experts,
                                       uint32_t ranks, uint32_t nodes);

coterie_simulate_options_t simulation_options(coterie_mode_t mode,
                                              coterie_group_t group);

/* Expects every count to be equal, and names those that are not. */
void simulation_expect(const coterie_counts_t *has,
                       const coterie_counts_t *wanted);

#endif
