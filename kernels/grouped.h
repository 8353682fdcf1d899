#ifndef COTERIE_KERNELS_GROUPED_H
#define COTERIE_KERNELS_GROUPED_H
/* Experts' FFN by products of the device's own library, which on a GPU is
 * cuBLAS: for shapes of bf16 that our kernels do not take, and as what they are
 * compared with. The library wants each expert's count of rows on the host, so
 * this is no part of the step path. Values between products, and outputs, are
 * rounded to bf16. */
#include "kernels/device.h"

typedef struct coterie_grouped coterie_grouped_t;

typedef struct coterie_grouped_options {
    coterie_ffn_shape_t shape;
    uint32_t pairs;   /* of a call at most */
    uint32_t experts; /* likewise */
    bool plain; /* matrices are row-major, of rows of whole 16 bytes, and not
                 * in panels */
} coterie_grouped_options_t;

/* Whether a device can compute such experts so.
 * @return ERR_UNSUPPORTED and a line that says why not */
coterie_status_t coterie_grouped_check(coterie_device_t *device,
                                       const coterie_ffn_shape_t *shape);

coterie_status_t coterie_grouped_open(coterie_device_t *device,
                                      const coterie_grouped_options_t *options,
                                      coterie_grouped_t **grouped_p);
/* Accepts NULL. Nothing is queued any more. */
void coterie_grouped_close(coterie_grouped_t *grouped);

/* Queues that the pairs' rows are put side by side, for the calls that follow;
 * of the permute, what is not known here: stride and out are set. */
coterie_status_t coterie_grouped_rows(coterie_grouped_t *grouped,
                                      coterie_gpu_permute_t permute);

/* Some experts and where their pairs are, one tile each, however many; both on
 * the host and on the device. */
typedef struct coterie_grouped_call {
    const coterie_expert_weights_t *experts, *experts_there;
    const coterie_gpu_tile_t *tiles, *tiles_there;
    uint32_t tile_count;
    float *out; /* [pairs, hidden], there */
} coterie_grouped_call_t;

coterie_status_t coterie_grouped_ffn(coterie_grouped_t *grouped,
                                     const coterie_grouped_call_t *call);

#endif
