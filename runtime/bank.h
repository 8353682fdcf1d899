#ifndef COTERIE_RUNTIME_BANK_H
#define COTERIE_RUNTIME_BANK_H
/* Inside a bank: all of a rank's experts in memory, or in tiers that several
 * ranks share. */
#include <coterie/session.h>

#include "offload/arena.h"
#include "offload/tiers.h"

typedef struct coterie_bank_device coterie_bank_device_t;
typedef struct coterie_bank_cache coterie_bank_cache_t;

struct coterie_bank {
    uint32_t rank, layer_count, expert_count;
    uint32_t slot_count; /* this rank's, of each layer */
    coterie_ffn_shape_t shape;
    coterie_expert_weights_t *experts; /* [layer, slot] */
    coterie_arena_t arena;             /* their records, in huge pages */
    coterie_pool_t *pool;              /* or NULL */

    coterie_bank_device_t *device; /* has the experts; NULL: arena has */

    coterie_tiers_t *tiers; /* NULL: all that follows is unused */
    coterie_expert_format_t format;
    uint32_t *items; /* [layer, slot], or COTERIE_ITEM_NONE */
    coterie_bank_cache_t *cache; /* some are on a device, too; or NULL */
};

size_t coterie_bank_scratch(const coterie_bank_t *bank);

/* Adds every pair's weighted expert output to sums.
 * @return what a failed read says; a bank without tiers never fails */
coterie_status_t coterie_bank_compute(const coterie_bank_t *bank,
                                      uint32_t layer,
                                      const coterie_expert_rows_t *rows,
                                      const float *x, float *sums,
                                      void *scratch);

/* That of experts at hand, by the pool if there is one. */
void coterie_bank_ffn(const coterie_bank_t *bank, coterie_ffn_call_t call);

/* Where an expert's record, in memory, has what the kernels need. */
coterie_expert_weights_t coterie_bank_weights(
    const coterie_expert_format_t *format, const unsigned char *record);

/* Tells its tiers how fast kernels are in each one's memory. */
coterie_status_t coterie_bank_speeds(const coterie_bank_t *bank);
coterie_status_t coterie_bank_speeds_measure(const coterie_bank_t *bank,
                                             coterie_speeds_t *speeds);

/* bank_tiers.c: the same of a bank that has tiers. */
size_t coterie_bank_tiers_scratch(const coterie_bank_t *bank);
coterie_status_t coterie_bank_tiers_compute(const coterie_bank_t *bank,
                                            uint32_t layer,
                                            const coterie_expert_rows_t *rows,
                                            const float *x, float *sums,
                                            void *scratch);

/* Tells the tiers what the router chose, and what it did not.
 * @param chosen, refuted  scratch, [slot_count] each */
void coterie_bank_tiers_route(const coterie_bank_t *bank, uint32_t layer,
                              const coterie_expert_rows_t *rows,
                              uint32_t *chosen, uint32_t *refuted);

/* bank_cache.c: the same of a bank in tiers that has some on a device. */
coterie_status_t coterie_bank_cache_compute(const coterie_bank_t *bank,
                                            uint32_t layer,
                                            const coterie_expert_rows_t *rows,
                                            const float *x, float *sums,
                                            void *scratch);
/* Accepts NULL. */
void coterie_bank_cache_destroy(coterie_bank_cache_t *cache);

/* bank_device.c: the same of a bank that was moved to a device. */
coterie_status_t coterie_bank_device_compute(const coterie_bank_t *bank,
                                             uint32_t layer,
                                             const coterie_expert_rows_t *rows,
                                             const float *x, float *sums);
/* Its experts of a layer: [slots], in the device's memory. */
const coterie_expert_weights_t *coterie_bank_device_experts(
    const coterie_bank_t *bank, uint32_t layer);
/* Accepts NULL. */
void coterie_bank_device_destroy(coterie_bank_device_t *device);

#endif
