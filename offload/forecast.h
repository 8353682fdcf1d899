#ifndef COTERIE_OFFLOAD_FORECAST_H
#define COTERIE_OFFLOAD_FORECAST_H
/* When each expert is needed next: what the cost-aware policy goes by. A layer
 * comes round once a token; the chance that an expert is needed at the next
 * turn comes from a predictor, at those after it from how often it was needed
 * of late. One thread at a time. */
#include "offload/policy.h"
#include "offload/predictor.h"

typedef struct coterie_forecast coterie_forecast_t;

coterie_status_t coterie_forecast_create(uint32_t layer_count,
                                         uint32_t expert_count, uint32_t k,
                                         coterie_forecast_t **forecast_p);

/* How many sets a history must keep. */
uint32_t coterie_forecast_reach(const coterie_forecast_t *forecast);

/* Starts from how often each expert was needed in earlier runs,
 * [layer_count, expert_count]. */
void coterie_forecast_seed(coterie_forecast_t *forecast,
                           const uint64_t *count, coterie_policy_t *policy);

/* Learns from the sets that some sequences of a step chose at a layer, once
 * they were pushed to their histories. Who serves a step together may call in
 * turn: calls with the same `turn` are about one step, whose sequences' needs
 * add up. O(experts x k) for each sequence. */
void coterie_forecast_note(coterie_forecast_t *forecast, uint64_t turn,
                           const coterie_history_t *const *histories,
                           uint32_t count);

/* [expert_count]: the chances that nobody needs an expert of a layer when its
 * turn comes next. */
const float *coterie_forecast_absent(const coterie_forecast_t *forecast,
                                     uint32_t layer);

/* Tells the policy when each expert of a layer is expected (item = layer *
 * expert_count + expert). O(experts x log n), n candidates.
 * @param absent  as above, or what is known better by now */
void coterie_forecast_expect(const coterie_forecast_t *forecast,
                             uint32_t layer, const float *absent,
                             coterie_policy_t *policy);

/* Accepts NULL. */
void coterie_forecast_destroy(coterie_forecast_t *forecast);

#endif
